import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import tiny_models as tiny
from click.testing import CliRunner

from tinyasc.cli.answer_text import bar
from tinyasc.cli.main import cli
from tinyasc.infer import find
from tinyasc_export.tflite import to_tflite

HEAVY = (
    "torch",
    "librosa",
    "scipy",
    "matplotlib",
    "rich",
    "pydantic",
    "lightning",
    "onnx",
    "pandas",
    "sklearn",
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with a compressed model and a clip of each tone."""
    run = tmp_path / "runs" / "first"
    run.mkdir(parents=True)
    (run / "model-int8.tflite").write_bytes(tiny.tflite_int8())
    (run / "model-fp32.tflite").write_bytes(tiny.tflite())
    (run / "model-fp32.onnx").write_bytes(tiny.onnx())
    for label in tiny.LABELS:
        soundfile.write(tmp_path / f"{label}.wav", tiny.tone(label), tiny.RATE, "FLOAT")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def infer(*args):
    result = CliRunner().invoke(cli, ["infer", *map(str, args)])
    print(result.output)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


def records(result):
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_a_clip_alone_is_answered_by_the_newest_model(folder):
    result = infer("middle.wav")
    assert result.exit_code == 0
    assert result.stderr == f"model: {Path('runs/first/model-int8.tflite')} (newest in ./runs)\n"
    name, first, *rest = result.stdout.splitlines()
    assert name == "middle.wav" and len(rest) == 2
    label, percent, sign, blocks = first.split()
    assert label == "middle" and sign == "%" and set(blocks) <= set("▏▎▍▌▋▊▉█")
    assert float(percent) == pytest.approx(100 * tiny.expected(tiny.tone("middle"))[1], abs=2)


def test_json_is_one_object_per_clip(folder):
    result = infer("--json", "--model", "runs/first/model-fp32.tflite", "low.wav", "high.wav")
    assert result.exit_code == 0 and result.stderr == ""
    low, high = records(result)
    assert set(low) == {
        "path",
        "model",
        "label",
        "probabilities",
        "tta",
        "tta_planned",
        "windows",
        "macs",
        "milliseconds",
    }
    assert (low["path"], low["label"], high["label"]) == ("low.wav", "low", "high")
    assert (low["model"], low["tta"], low["windows"]) == ("runs/first/model-fp32.tflite", 1, 1)
    assert list(low["probabilities"]) == list(tiny.LABELS) and low["milliseconds"] > 0
    np.testing.assert_allclose(list(low["probabilities"].values()), tiny.expected(tiny.tone("low")), atol=1e-5)


def test_all_files_of_a_run_answer_alike(folder):
    answers = [
        list(
            records(infer("--json", "--tta", 4, "--model", f"runs/first/{name}", "low.wav"))[0][
                "probabilities"
            ].values()
        )
        for name in ("model-fp32.tflite", "model-fp32.onnx", "model-int8.tflite")
    ]
    np.testing.assert_allclose(answers[0], answers[1], atol=1e-5)
    np.testing.assert_allclose(answers[0], answers[2], atol=0.02)


def test_tta_says_its_copies_and_time_and_repeats_with_its_seed(folder):
    first, again, other = (infer("--tta", 5, "--all-copies", "--seed", s, "low.wav").stdout for s in (1, 1, 2))
    head = first.splitlines()[0]
    assert head.startswith("low.wav  (5 copies, mean of 5 windows, ") and head.endswith(" ms)")
    assert first.splitlines()[1:] == again.splitlines()[1:]
    assert other.splitlines()[1].split()[0] == "low"
    probabilities = [
        records(infer("--json", "--tta", 5, "--seed", s, "low.wav"))[0]["probabilities"] for s in (1, 1, 2)
    ]
    assert probabilities[0] == probabilities[1] != probabilities[2]


def test_top_limits_the_classes(folder):
    assert len(infer("--top", 1, "low.wav").stdout.splitlines()) == 2
    assert len(infer("--top", 99, "low.wav").stdout.splitlines()) == 4


def test_other_rates_stereo_and_long_clips_are_handled(folder):
    stereo = np.stack([tiny.tone("high", 20000, 16000)] * 2, axis=1)
    soundfile.write("stereo.flac", stereo, 16000)
    (record,) = records(infer("--json", "stereo.flac"))
    assert record["label"] == "high" and record["windows"] == 4


def test_folders_are_searched_and_sorted(folder):
    inside = folder / "clips" / "deeper"
    inside.mkdir(parents=True)
    shutil.copy("low.wav", inside / "b.WAV")
    shutil.copy("low.wav", folder / "clips" / "a.wav")
    (folder / "clips" / "notes.txt").write_text("x")
    (folder / "clips" / "._a.wav").write_text("x")
    soundfile.write(folder / "clips" / "z.ogg", tiny.tone("high"), tiny.RATE)
    result = infer("--json", "clips", "middle.wav")
    assert result.exit_code == 0
    paths = [Path(record["path"]).as_posix() for record in records(result)]
    assert paths == ["clips/a.wav", "clips/deeper/b.WAV", "clips/z.ogg", "middle.wav"]


def bad_clips(folder):
    """name -> a file that cannot be answered."""
    whole = (folder / "low.wav").read_bytes()
    nan = tiny.tone("low")
    nan[5] = np.nan
    (folder / "text.wav").write_text("this is no sound\n")
    (folder / "cut.wav").write_bytes(whole[: len(whole) // 2])
    (folder / "void.wav").write_bytes(b"")
    soundfile.write(folder / "nan.wav", nan, tiny.RATE, "FLOAT")
    soundfile.write(folder / "nothing.wav", nan[:0], tiny.RATE)
    (folder / "empty").mkdir()
    return ["missing.wav", "text.wav", "cut.wav", "void.wav", "nan.wav", "nothing.wav", "empty"]


def test_a_bad_clip_is_reported_and_the_others_answered(folder):
    bad = bad_clips(folder)
    for name in bad:
        result = infer("--json", "--model", "runs/first/model-int8.tflite", "low.wav", name, "high.wav")
        assert result.exit_code == 2, name
        (line,) = result.stderr.splitlines()
        assert line.startswith(f"error: {name}: ") and "Traceback" not in result.output
        assert [record["label"] for record in records(result)] == ["low", "high"]
    result = infer("--model", "runs/first/model-int8.tflite", *bad)
    assert result.exit_code == 2 and len(result.stderr.splitlines()) == len(bad) and result.stdout == ""


def model_files():
    whole = tiny.tflite_int8()
    return {
        "garbage.tflite": b"\x00\x01garbage" * 300,
        "cut.tflite": whole[: len(whole) // 2],
        "cut-late.tflite": whole[:-3],
        "void.tflite": b"",
        "cardless.tflite": to_tflite(tiny.graph()),
        "labels.tflite": to_tflite(tiny.graph(), tiny.bundle(labels="abcd")),
        "front-end.tflite": to_tflite(
            tiny.graph(),
            tiny.bundle(front_end=tiny.other_front_end(n_mels=13, band_scale=(), band_offset=())),
        ),
        "garbage.onnx": b"\x08\x07garbage" * 300,
        "cut.onnx": tiny.onnx()[:-40],
        "text.onnx": b"hello",
        "model.pt": b"PK\x03\x04" + bytes(100),
    }


@pytest.mark.parametrize("name", [*model_files(), "missing.tflite", "runs"])
def test_a_bad_model_file_is_one_line(folder, name):
    if content := model_files().get(name):
        (folder / name).write_bytes(content)
    elif name == "void.tflite":
        (folder / name).touch()
    result = infer("--model", name, "low.wav")
    assert result.exit_code == 2 and result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"error: {name}: ") and "Traceback" not in line


def test_without_a_model_it_says_how_to_make_one(folder, monkeypatch):
    shutil.rmtree("runs")
    monkeypatch.setattr(find, "BUNDLED", folder / "none.tflite")
    result = infer("low.wav")
    assert result.exit_code == 2 and len(result.stderr.splitlines()) == 1
    assert "tinyasc compress --budget 128KB" in result.stderr and "or name one" in result.stderr


@pytest.mark.parametrize("args", [("--tta", 0), ("--tta", "many"), ("--top", -1), ("--top", 0), ("--seed", -1), ()])
def test_nonsense_values_are_refused(folder, args):
    result = infer(*args, *(["low.wav"] if args else []))
    assert result.exit_code == 2 and result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ") and "tinyasc infer --help" in line


def test_help_has_examples_and_every_option_is_explained():
    result = infer("--help")
    assert result.exit_code == 0 and "\n    tinyasc infer clip.wav\n" in result.output
    command = cli.get_command(None, "infer")
    assert all(p.help for p in command.params if p.param_type_name == "option")


def test_bars_are_full_at_one_and_empty_at_zero(monkeypatch):
    blocks = [bar(share, 4) for share in (0.0, 0.001, 1 / 32, 0.5, 0.53125, 1.0)]
    monkeypatch.setattr(sys, "stdout", open(os.devnull, "w", encoding="ascii"))  # noqa: SIM115
    plain = [bar(share, 4) for share in (0.0, 0.5, 1.0)]
    monkeypatch.undo()
    assert plain == ["", "##", "####"]
    assert blocks == ["", "", "▏", "██", "██▏", "████"]


def test_a_name_that_the_terminal_cannot_show_is_escaped(folder):
    shutil.copy("low.wav", "→.wav")
    done = subprocess.run(
        [sys.executable, "-m", "tinyasc.cli.main", "infer", "→.wav"],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "latin-1"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(b"\\u2192.wav") and b"#" in done.stdout


@pytest.mark.skipif(os.name != "posix", reason="names of files hold no such characters elsewhere")
def test_names_that_a_terminal_would_obey_are_escaped_and_stay_on_one_line(folder):
    shutil.copy("low.wav", "a\nb\x1b[31m.wav")
    (folder / "no\nsound\x1b[31m.wav").write_text("x")
    (folder / "empty\n").mkdir()
    result = infer("--top", 1, "a\nb\x1b[31m.wav", "no\nsound\x1b[31m.wav", "gone\r\n.wav", "empty\n")
    assert result.exit_code == 2
    assert result.stdout.splitlines()[0] == r"a\nb\x1b[31m.wav" and len(result.stdout.splitlines()) == 2
    said = [line.split(": ")[1] for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert sorted(said) == sorted([r"no\nsound\x1b[31m.wav", r"gone\r\n.wav", r"empty\n"])
    assert len(result.stderr.splitlines()) == 4  # and which model it is
    result = infer("--model", "no\x1b[31m.tflite", "low.wav")
    (line,) = result.stderr.splitlines()
    assert result.exit_code == 2 and line.startswith(r"error: no\x1b[31m.tflite: ")


@pytest.mark.skipif(os.name != "posix", reason="needs a shell")
@pytest.mark.parametrize(
    ("closed", "args", "code", "says"),
    [
        ("<&-", "--list -", 2, "error: --list -: standard input is closed; pipe paths into it"),
        (">&-", "low.wav", 1, "error: standard output is closed; send it to a file, a pipe or /dev/null"),
        ("2>&-", "low.wav high.wav missing.wav", 2, ""),
    ],
    ids=["input", "output", "error"],
)
def test_closed_standard_streams_are_no_crash(folder, closed, args, code, says):
    command = f"{sys.executable} -m tinyasc.cli.main infer --model runs/first/model-int8.tflite {args} {closed}"
    done = subprocess.run(command, shell=True, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert (done.returncode, done.stderr.strip()) == (code, says)
    assert done.stdout.count(".wav") == (2 if closed == "2>&-" else 0)


@pytest.mark.parametrize(
    "args",
    [["--tta", "3", "low.wav"], ["--workers", "2", "--out", "a.csv", "low.wav", "high.wav"]],
    ids=["1", "2"],
)
def test_infer_loads_the_edge_half_only(folder, args):
    code = (
        "import sys, tinyasc.cli.infer\nfrom tinyasc.cli.main import cli\n"
        f"try:\n  cli(['infer', *{args!r}])\n"
        "except SystemExit as e:\n  assert not e.code\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
    assert done.stderr == f"model: {Path('runs/first/model-int8.tflite')} (newest in ./runs)\n", "native notes leak"


@pytest.mark.parametrize("name", ["infer", "listen", "show", "main"])
def test_the_commands_of_the_edge_half_import_nothing_heavy(name):
    if importlib.util.find_spec(f"tinyasc.cli.{name}") is None:
        pytest.skip(f"there is no tinyasc.cli.{name}")
    code = f"import sys, tinyasc.cli.{name}\nprint([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.skipif(os.name != "posix", reason="needs a shell with head")
def test_a_closed_pipe_is_quiet(folder):
    command = f"{sys.executable} -m tinyasc.cli.main infer --json {'low.wav ' * 200} | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr.startswith("model: ") and len(done.stderr.splitlines()) == 1


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_one_line(folder):
    command = [
        sys.executable,
        "-m",
        "tinyasc.cli.main",
        "infer",
        "--model",
        "runs/first/model-fp32.tflite",
        "low.wav",
    ]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 1 and line.startswith("error: No space left on device; free some space")
