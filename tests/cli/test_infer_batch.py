"""`tinyasc infer` over many clips: lists, --out, --workers, kills, progress."""

import csv
import io
import json
import shutil
import signal
import subprocess
import sys
import time

import pytest
import soundfile
import tiny_models as tiny
from click.testing import CliRunner

from tinyasc.cli.main import cli
from tinyasc.cli.progress import Progress

MODEL = ("--model", "m.tflite")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A model and a folder of nine clips of which one is no sound."""
    (tmp_path / "m.tflite").write_bytes(tiny.tflite_int8())
    (tmp_path / "clips").mkdir()
    for i in range(9):
        soundfile.write(tmp_path / f"clips/{i}.wav", tiny.tone(tiny.LABELS[i % 3]), tiny.RATE, "FLOAT")
    (tmp_path / "clips/4.wav").write_text("no sound")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def infer(*args, stdin=None):
    result = CliRunner().invoke(cli, ["infer", *MODEL, *map(str, args)], input=stdin)
    print(result.output)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


def table(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_a_table_has_a_row_for_every_clip_and_says_which_cannot_be_read(folder):
    result = infer("clips", "--out", "scenes.csv")
    assert result.exit_code == 2
    assert result.stdout == "written: scenes.csv (9 clips, 1 of them errors)\n"
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: clips/4.wav: ")
    rows = table("scenes.csv")
    assert [row["filename"] for row in rows] == [f"clips/{i}.wav" for i in range(9)]
    labels = [tiny.LABELS[i % 3] if i != 4 else "" for i in range(9)]
    assert [row["scene_label"] for row in rows] == labels
    assert [bool(row["error"]) for row in rows] == [i == 4 for i in range(9)]


def test_the_same_command_again_answers_nothing_twice(folder):
    shutil.move("clips/8.wav", "8.wav")
    infer("clips", "--out", "scenes.jsonl")
    shutil.move("8.wav", "clips/8.wav")
    before = (folder / "scenes.jsonl").read_text()
    result = infer("clips", "--out", "scenes.jsonl")
    assert result.stdout == "written: scenes.jsonl (9 clips, 8 of them from before, 1 of them errors)\n"
    assert result.stderr == "" and result.exit_code == 2, "the row of the error is there, and is not tried again"
    after = (folder / "scenes.jsonl").read_text()
    assert after.startswith(before) and len(after.splitlines()) == 9
    assert [json.loads(line)["path"] for line in after.splitlines()] == [f"clips/{i}.wav" for i in range(9)]


def test_two_processes_write_what_one_does(folder):
    infer("clips", "--out", "one.csv", "--tta", 3)
    assert infer("clips", "--out", "two.csv", "--tta", 3, "--workers", 2).exit_code == 2
    assert (folder / "two.csv").read_bytes() == (folder / "one.csv").read_bytes()
    printed = infer("clips", "--json", "--workers", 2)
    assert [json.loads(line)["path"] for line in printed.stdout.splitlines()] == [
        f"clips/{i}.wav" for i in range(9) if i != 4
    ]


def test_a_killed_run_goes_on_to_the_bytes_of_an_undisturbed_one(folder):
    for i in range(9, 300):
        shutil.copy("clips/0.wav", f"clips/{i}.wav")
    slow = ("clips", "--tta", "20", "--out")
    infer(*slow, "whole.csv")
    command = [sys.executable, "-m", "tinyasc.cli.main", "infer", *MODEL, *slow, "cut.csv"]
    cut = folder / "cut.csv"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while not cut.exists() or cut.stat().st_size < 2000:
            assert process.poll() is None
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    written = cut.read_bytes()
    assert 2000 <= len(written) < (folder / "whole.csv").stat().st_size
    infer(*slow, "cut.csv")
    assert cut.read_bytes() == (folder / "whole.csv").read_bytes()


def test_other_options_are_refused_with_what_and_how_to_mend(folder):
    infer("clips", "--out", "a.csv")
    before = (folder / "a.csv").read_bytes()
    result = infer("clips", "--out", "a.csv", "--tta", 5)
    assert result.exit_code == 2 and result.stdout == ""
    was = "aggregate=mean backend=auto exact=False seed=0 stop_early=True tta=1 window_hop=None"
    now = was.replace("tta=1", "tta=5")
    assert f"was answered with {was}, now it is {now}; give the same options" in result.stderr
    (folder / "m.tflite").write_bytes(tiny.tflite())
    result = infer("clips", "--out", "a.csv")
    assert result.exit_code == 2 and "is of another model file" in result.stderr
    assert (folder / "a.csv").read_bytes() == before


def test_lists_name_clips_and_folders_after_those_of_the_command_line(folder):
    (folder / "list.txt").write_text("clips/2.wav\r\n\nclips\n")
    result = infer("clips/7.wav", "--list", "list.txt", "--json")
    paths = [json.loads(line)["path"] for line in result.stdout.splitlines()]
    assert paths == [f"clips/{i}.wav" for i in (7, 2, 0, 1, 3, 5, 6, 8)]
    result = infer("--list", "-", "--json", stdin="clips/1.wav\n")
    assert json.loads(result.stdout)["path"] == "clips/1.wav"


def test_a_name_that_is_too_long_does_not_end_the_rest(folder):
    result = infer("a" * 300, "clips/1.wav", "--json")
    assert result.exit_code == 2
    assert json.loads(result.stdout)["path"] == "clips/1.wav"
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: aaa") and "File name too long" in line


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("clips", "--out", "a.txt"), "must end in .csv or .jsonl"),
        (("clips", "--out", "a.csv", "--json"), "--json says how answers are printed"),
        (("clips", "--out", "a.csv", "--top", 3), "--top says how answers are printed"),
        (("clips", "--json", "--top", 3), "--top is for text"),
        (("",), "Invalid value for 'CLIP...': the name is empty"),
        (("clips", "--out", ""), "Invalid value for '--out': the name is empty"),
        (("clips", "--workers", 0), "--workers"),
        (("--list", "gone.txt"), "cannot read this list"),
        (("--list", "clips/0.wav"), "is an audio file"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(folder, args, message):
    result = infer(*args)
    assert result.exit_code == 2 and result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ") and message in line
    assert not (folder / "a.csv").exists()


def test_a_bad_model_leaves_no_table(folder):
    (folder / "m.tflite").write_bytes(b"no model")
    assert infer("clips", "--out", "new/a.csv").exit_code == 2
    assert not (folder / "new").exists()


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_is_one_line_on_a_terminal_and_is_taken_off(monkeypatch):
    now = iter([0.0, 0.1, 10.0, 20.0])
    monkeypatch.setattr("time.monotonic", lambda: next(now))
    screen = Terminal()
    progress = Progress(400, screen)
    progress.step()
    assert screen.getvalue() == "", "too soon"
    progress.step(error=True)
    progress.step()
    progress.clear()
    progress.clear()
    first, second, blank, end = screen.getvalue().split("\r")[1:]
    assert first == "2 of 400 clips, 0.2 a second, 33 min to go, 1 cannot be answered"
    assert second.rstrip() == "3 of 400 clips, 0.1 a second, 44 min to go, 1 cannot be answered"
    assert blank.strip() == "" and len(blank) == len(second.rstrip()) and end == ""


def test_progress_is_a_line_now_and_then_elsewhere(monkeypatch):
    now = iter([0.0, 10.0, 31.0, 40.0, 62.0])
    monkeypatch.setattr("time.monotonic", lambda: next(now))
    log = io.StringIO()
    progress = Progress(20000, log)
    for _ in range(4):
        progress.step()
    progress.clear()
    assert log.getvalue() == (
        "2 of 20,000 clips, 0.1 a second, 86.1 h to go\n4 of 20,000 clips, 0.1 a second, 86.1 h to go\n"
    )
