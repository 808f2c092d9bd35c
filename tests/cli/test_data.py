"""`tinyasc data`: list and check."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml
from click.testing import CliRunner

from tinyasc.cli.main import cli
from tinyasc.data import DATASETS
from tinyasc.evaluate import predictions


def run(*arguments: object, code: int = 0):
    result = CliRunner().invoke(cli, ["data", *map(str, arguments)])
    print(result.output, result.exception)
    assert result.exit_code == code
    return result


def test_list_names_every_data_set_and_what_was_not_compared():
    output = run("list").output
    assert len(output.splitlines()) == len(DATASETS)
    lines = {line.split()[0]: line for line in output.splitlines()}
    assert "139,620 train, 29,680 test" in lines["tau2022"] and "not compared" not in lines["tau2022"]
    for name in ("tau2018a", "tau2018b", "tau2019a", "tau2019b", "tau2019c"):
        assert "not compared with its files" in lines[name]
    records = [json.loads(line) for line in run("list", "--json").output.splitlines()]
    assert {record["name"] for record in records} == set(DATASETS)
    assert next(record for record in records if record["name"] == "tau2020")["train"] == 13962


def test_check_counts(tau_root):
    output = run("check", "tau2020", "--root", tau_root).output
    assert "tau2020: 24 clips, 10 labels" in output
    assert "train          12 clips, 6 locations, devices: a 6, b 6" in output
    assert "sample rates: 8000 Hz (24 files)" in output and "channels: 1 channel(s) (24 files)" in output
    assert "note: 16 training clips where the official set has 13,962" in output
    assert "mixed" not in output
    found = json.loads(run("check", "tau2020", "--root", tau_root, "--json").stdout)
    assert found["sets"]["test"] == {
        "clips": 8,
        "locations": 4,
        "scenes": {"bus": 4, "park": 4},
        "devices": {"a": 4, "b": 4},
    }
    assert found["audio"]["missing"] == {"count": 0, "first": []}


def test_check_names_devices_that_training_lacks(tau_root):
    for path in (tau_root / "meta.csv",):
        path.write_text(path.read_text().replace("bus-lyon-5\tb", "bus-lyon-5\ts6"))
    assert "devices that only the test clips have: s6" in run("check", "tau2020", "--root", tau_root).output


def test_check_tells_mixed_rates_and_channels_in_a_line_each(tau_root):
    for name, rate in (("bus-lyon-0-a", 16000), ("bus-lyon-0-b", 16000)):
        soundfile.write(tau_root / f"audio/{name}.wav", np.full((800, 2), 0.1), rate)
    lines = run("check", "tau2020", "--root", tau_root).output.splitlines()
    assert (
        "  sample rates: mixed: 8000 Hz (22 files), 16000 Hz (2 files); every file is resampled to the front end's rate"
        in lines
    )
    assert "  channels: mixed: 1 channel(s) (22 files), 2 channel(s) (2 files)" in lines


@pytest.mark.parametrize("as_json", [False, True])
def test_check_counts_what_is_missing_or_unreadable(tau_root, as_json):
    names = ("bus-lyon-0-a", "bus-lyon-1-a", "park-lyon-0-a", "park-lyon-1-b")
    for name in names:
        (tau_root / f"audio/{name}.wav").unlink()
    (tau_root / "audio/bus-lyon-2-a.wav").write_text("no sound")
    result = run("check", "tau2020", "--root", tau_root, *(["--json"] if as_json else []), code=2)
    message = result.stderr
    assert "4 of 24 audio files missing: " in message and "1 of 24 audio files unreadable: " in message
    assert "bus-lyon-0-a.wav" in message and "park-lyon-1-b" not in message and message.count("\n") == 1
    assert "unpack every part of the audio" in message
    if as_json:
        found = json.loads(result.stdout)
        assert found["audio"]["missing"]["count"] == 4 and len(found["audio"]["missing"]["first"]) == 3
        assert found["sets"]["train"]["clips"] + found["sets"]["validation"]["clips"] == 16
    else:
        assert "24 clips" in result.stdout


def test_lists_only_looks_at_no_audio(tau_root):
    for path in (tau_root / "audio").iterdir():
        path.unlink()
    output = run("check", "tau2020", "--root", tau_root, "--lists-only").output
    assert "24 clips" in output and "sample rates" not in output


def test_check_of_segments_that_are_not_there(tmp_path):
    rows = [f"{label}{i}.wav,{label},0,{0.5 if i else 2}" for label in ("a", "b") for i in range(3)]
    for row in rows:
        soundfile.write(tmp_path / row.split(",")[0], np.zeros(8000), 8000)
    (tmp_path / "clips.csv").write_text("\n".join(["filename,label,start,end", *rows]))
    result = run("check", "csv", "--root", tmp_path / "clips.csv", code=2)
    assert "2 of 6 audio files too short: " in result.stderr
    assert "holds 1.000 s, a part of it ends at 2 s" in result.stderr


def test_check_of_clips_without_labels(tau_root):
    output = run("check", "unlabelled", "--root", tau_root).output
    assert "unlabelled: 24 clips, 0 labels" in output and "every audio file in the folder" in output


def test_check_without_a_root():
    assert "name its folder with --root" in run("check", "tau2022", code=2).stderr


def test_check_of_the_demo(tmp_path, monkeypatch, tau_root):
    monkeypatch.chdir(tmp_path)
    (tau_root / "dataset.json").write_text('{"synthetic": true}')
    assert "demo (synthetic): 24 clips" in run("check", "demo", "--root", tau_root).output


def test_check_of_real_audio(shared_audio):
    found = json.loads(run("check", "esc10", "--root", Path(shared_audio) / "esc10", "--json").stdout)
    assert found["audio"]["sample_rates"] == {"32000": 400} and found["sets"]["test"]["clips"] == 80


@pytest.mark.parametrize(
    ("rate", "words"),
    [
        (3, "3 is not in the range 1000<=x<=655350"),
        (700000, "700000 is not in the range 1000<=x<=655350"),
        (100001, "--rate 100001: above 65,535 Hz FLAC states rates in steps of 10 Hz; choose another"),
        (100010, None),
    ],
)
def test_rates_that_flac_can_hold(tmp_path, rate, words):
    rows = ["filename,label"] + [f"{label}{i}.wav,{label}" for label in "ab" for i in range(3)]
    for row in rows[1:]:
        soundfile.write(tmp_path / row.split(",")[0], np.full(80, 0.1), 8000)
    (tmp_path / "clips.csv").write_text("\n".join(rows))
    for name in "xyz":
        soundfile.write(tmp_path / f"{name}.wav", np.array([0.5, 0.25]), 8000)
    (tmp_path / "mics.yaml").write_text("{name: m, train: [x.wav], bank: [y.wav], test: [z.wav]}")
    options = ["--root", tmp_path / "clips.csv", "--devices", tmp_path / "mics.yaml", "--device-root", tmp_path]
    output = run("through", "csv", *options, "--rate", rate, "--out", tmp_path / "out", code=2 if words else 0).output
    if words:
        assert words in output and not (tmp_path / "out").exists()
    else:
        assert soundfile.info(next((tmp_path / "out").rglob("*.flac"))).samplerate == rate


def test_a_list_of_clips_is_trained_on_and_measured(tau_root, tmp_path, monkeypatch):
    """The root of `csv` is a file, for every command; two parts of one recording are two clips."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TINYASC_CACHE", str(tmp_path / "cache"))
    rows = ["filename,label,fold,start,end"]
    for i, path in enumerate(sorted((tau_root / "audio").iterdir())):
        name = path.relative_to(tmp_path)
        rows += [f"{name},{path.name.split('-')[0]},{i % 3 + 1},{start},{start + 0.05}" for start in (0.0, 0.05)]
    Path("clips.csv").write_text("\n".join(rows))
    recipe = {
        "name": "t",
        "front_end": {"sample_rate": 8000, "clip_seconds": 0.05, "n_fft": 64, "hop_length": 16, "n_mels": 16},
        "model": {"family": "sepconv_ca", "base_channels": 8},
        "training": {"epochs": 1},
    }
    Path("r.yaml").write_text(yaml.safe_dump(recipe))
    data = ("--data", "csv", "--root", "clips.csv")
    train = ["train", "r.yaml", *data, "--run", "run"]
    for command in (
        train,
        ["evaluate", "run", "--root", "clips.csv", "--out", "out"],
        ["data", "show", "--recipe", "r.yaml", "--set", "augment.roll=true", *data],
    ):
        result = CliRunner().invoke(cli, command)
        assert result.exit_code == 0, result.output
        assert "sample rates" not in result.output
    # One of the 16 files of training and validation at another rate.
    path = sorted((tau_root / "audio").iterdir())[1]
    soundfile.write(path, np.full(1600, 0.1), 16000)
    for name in ("mixed", "mixed"):
        result = CliRunner().invoke(cli, [*train[:-1], name])
        assert result.exit_code == 0, result.output
        line = "sample rates: mixed: 8000 Hz (15 files), 16000 Hz (1 files); every file is resampled to 8000 Hz"
        assert line in result.stderr.splitlines()
    clips = predictions.load(Path("out/run/predictions.npz")).clips.tolist()
    assert len(clips) == len(set(clips)) == 16
    assert all(name.endswith(("#t=0.0,0.05", "#t=0.05,0.1")) for name in clips)
