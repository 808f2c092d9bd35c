"""`tinyasc compress --search`: the search, what it leaves, what it refuses; two workers and a killed one."""

import json
import shutil
import signal
import subprocess
import sys
import time

import pytest
import yaml
from test_train_compress import FILES, STUDENT, TEACHER, blake, tinyasc, tree

from tinyasc.data.scenes import write_scenes

OPTIONS = ("--budget", "8KB", "--search", "3", "--search-epochs", "2", "--run", "run")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A trained teacher, one epoch, and a student's recipe."""
    folder = tmp_path_factory.mktemp("search")
    write_scenes(folder / "scenes", clips_per_scene=12, seconds=0.5)
    quick = {"epochs": 1, "batch_size": 16}
    model = {"family": "sepconv_ca", "base_channels": 16}
    (folder / "teacher.yaml").write_text(yaml.safe_dump(TEACHER | {"training": quick}))
    (folder / "student.yaml").write_text(yaml.safe_dump(STUDENT | {"model": model, "training": quick | {"lr": 0.01}}))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        tinyasc("train", "teacher.yaml")
    return folder


@pytest.fixture
def folder(place, tmp_path, monkeypatch):
    copy = tmp_path / "place"
    shutil.copytree(place, copy, ignore=shutil.ignore_patterns("clip.wav"))
    monkeypatch.chdir(copy)
    return copy


def trials(run):
    return json.loads((run / "frontier.json").read_text())["trials"]


def test_a_search_and_what_it_leaves(folder):
    before = tree(folder)
    dry = tinyasc("compress", *OPTIONS, "--dry-run").stdout
    assert tree(folder) == before
    assert "search: sepconv_ca at 32 mels, int8: 2 widths, 8 to 12" in dry
    assert "search: 2 students hold the limits; 2 of them for 2 epochs, by val_log_loss: " in dry
    done = tinyasc("compress", *OPTIONS)
    run = folder / "run"
    found = trials(run)
    assert found[0]["number"] == 0 and len(found) == 2  # all there are
    assert {t["candidate"]["width"] for t in found} == {8, 12} and found[0]["candidate"]["width"] == 12
    best = min(found, key=lambda t: t["value"])
    plan = json.loads((run / "plan.json").read_text())
    assert plan["plan"] == best["candidate"]
    assert plan["search"] == {"metric": "val_log_loss", "epochs": 2, "trials": 2}
    for trial in found:
        kept = json.loads((run / f"search/trial-{trial['number']}/model.json").read_text())
        assert kept["validation"]["val_log_loss"] == trial["value"]
        assert kept["validation"]["val_accuracy"] == trial["accuracy"]
        assert kept["recipe"]["training"]["epochs"] == 2
    points = {s["width"]: s for s in json.loads((run / "frontier.json").read_text())["students"]}
    assert all(points[t["candidate"]["width"]]["accuracy"] == t["accuracy"] for t in found)
    assert points[best["candidate"]["width"]]["chosen"]
    assert json.loads((run / "model.json").read_text())["recipe"]["training"]["epochs"] == 1
    assert "one seed: small differences may be chance" in done.stdout and "next, " in done.stdout
    assert all((run / name).is_file() for name in (*FILES, "frontier.png", "report.json", "search/journal.log"))
    # Fewer than there are: at once, the same.
    files = tree(run)
    again = tinyasc("compress", *OPTIONS, "--search", "1")
    assert "trial" not in again.stderr and tree(run) == files
    # The folder is this search's alone.
    line = tinyasc("compress", "--budget", "8KB", "--run", "run", code=2).line
    assert "holds another compression" in line


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--search", "2", "--set", "training.final=true", "--set", "training.select=last"), "on validation clips"),
        (("--storage", "x.log"), "--storage x.log: has no meaning without --search N"),
        (("--search-epochs", "2"), "no meaning without --search"),
        (("--search-metric", "val_accuracy"), "no meaning without --search"),
    ],
)
def test_what_is_refused_before_anything_is_written(folder, options, words):
    before = tree(folder)
    assert words in tinyasc("compress", *options, code=2).line
    assert tree(folder) == before


def test_a_storage_that_cannot_be_opened(folder):
    line = tinyasc("compress", *OPTIONS, "--storage", "nosuch://there", code=2).line
    assert line.startswith("--storage nosuch://there: cannot be opened (")


def worker(folder, *options):
    command = [sys.executable, "-m", "tinyasc.cli.main", "compress", *OPTIONS, "--set", "training.epochs=3", *options]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_two_workers_share_the_trials_and_one_trains_the_winner(folder):
    (folder / "student.yaml").write_text(yaml.safe_dump(STUDENT))
    more = ("--budget", "64KB", "--run", "two")  # 4 widths hold it, 3 are asked for
    answers = [(p.communicate(timeout=250), p.returncode) for p in [worker(folder, *more), worker(folder, *more)]]
    assert [code for _, code in answers] == [0, 0], answers
    found = trials(folder / "two")
    assert len(found) == 3 and len({t["candidate"]["width"] for t in found}) == 3
    best = [next(line for line in out.splitlines() if line.startswith("best: ")) for (out, _), _ in answers]
    assert best[0] == best[1]
    ended = [out.splitlines()[-1] for (out, _), _ in answers]
    assert any(line.startswith("written: two") for line in ended)
    assert all(
        line.startswith(("written: two", "the search is done; the best student is trained by")) for line in ended
    )
    # The winner's files are those of the same student, trained without a search.
    winner = json.loads((folder / "two/plan.json").read_text())["plan"]["width"]
    width = ("--set", f"model.base_channels={winner:g}", "--set", "training.epochs=3", "--budget", "64KB")
    tinyasc("compress", *width, "--run", "alone")
    assert blake(folder / "two/model.safetensors") == blake(folder / "alone/model.safetensors")


@pytest.mark.slow
def test_a_killed_search_ends_as_one_that_was_not(folder):
    killed = worker(folder, "--run", "killed", "--search-epochs", "6")
    file, deadline = folder / "killed/search/trial-0/metrics.jsonl", time.monotonic() + 200
    while not (file.is_file() and file.read_text().count("\n") >= 2):
        assert killed.poll() is None and time.monotonic() < deadline, killed.communicate()
        time.sleep(0.005)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert not (folder / "killed/search/trial-0/model.json").exists()
    options = ("--set", "training.epochs=3", "--search-epochs", "6")
    again = tinyasc("compress", *OPTIONS, *options, "--run", "killed")
    assert "trial 0 was left unfinished; it goes on here" in again.stderr
    tinyasc("compress", *OPTIONS, *options, "--run", "whole")
    assert trials(folder / "killed") == trials(folder / "whole")
    for name in (*FILES, "model.safetensors", "report.json", "frontier.json"):
        assert blake(folder / "killed" / name) == blake(folder / "whole" / name), name
