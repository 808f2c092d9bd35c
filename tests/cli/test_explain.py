"""`tinyasc explain` on untrained runs: which run, which method, which files, and what is refused."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import soundfile
import torch
from click.testing import CliRunner
from matplotlib.image import imread
from torch import nn

from tinyasc.cli.main import cli
from tinyasc.frontend import FrontEnd, features, log_mel
from tinyasc.models import build
from tinyasc.training.heard import Heard
from tinyasc.training.recipe import check_recipe
from tinyasc.training.run import Run

RATE, LABELS = 8000, ("airport", "bus", "park")
FRONT_END = FrontEnd(
    sample_rate=RATE, clip_samples=RATE, n_fft=256, win_length=256, hop_length=200, n_mels=16
).with_normalization(np.full(16, 0.05), np.full(16, 2.0))
SCORES = {"val_accuracy": 0.5, "val_log_loss": 1.0}


def write_run(path, family, **options):
    """A run with random weights, as `tinyasc train` leaves it."""
    torch.manual_seed(0)
    module = build(family, n_classes=3, n_mels=16, **options)
    for name, value in module.named_parameters():
        if name == "head.attention.weight":
            nn.init.normal_(value)
    recipe = check_recipe({"name": "tiny", "data": {"name": "demo"}, "model": {"family": family, **options}}, "")
    Run(Path(path)).save(
        module.state_dict(),
        recipe=recipe,
        labels=LABELS,
        front_end=FRONT_END,
        validation=SCORES,
        synthetic=True,
        heard=Heard(),
    )
    return module.eval()


@pytest.fixture
def folder(tmp_path, monkeypatch, rng):
    monkeypatch.chdir(tmp_path)
    for name, seconds in (("clip.wav", 1.0), ("long.wav", 2.5), ("more/clip.wav", 0.4)):
        Path(name).parent.mkdir(exist_ok=True)
        soundfile.write(name, 0.1 * rng.standard_normal(int(seconds * RATE)), RATE)
    return tmp_path


def invoke(*args, code=0):
    result = CliRunner().invoke(cli, ["explain", *map(str, args)])
    print(result.output)
    assert result.exit_code == code
    return result


def test_the_newest_run_is_explained_and_named(folder):
    write_run("runs/old", "sepconv_ca", base_channels=4)
    module = write_run("runs/new", "atrous_cnn", base_channels=2)
    os.utime("runs/old/model.json", (1, 1))
    # A compression's student is not taken by itself.
    write_run("runs/student", "cp_mobile", base_channels=4)
    Path("runs/student/plan.json").write_text("{}")
    result = invoke("clip.wav")
    assert "run: runs/new (newest in ./runs)" in result.stderr
    samples = soundfile.read("clip.wav", dtype="float32")[0]
    x = torch.from_numpy(features(samples, FRONT_END))[None]
    probabilities = module(x).softmax(dim=1)[0].detach().numpy()
    best = int(probabilities.argmax())
    head, *files = result.stdout.splitlines()
    assert head.startswith(f"clip.wav  {LABELS[best]} {100 * probabilities[best]:.1f} %, ") and head.count("%") == 3
    assert files == [f"  written: runs/new/explained/clip-attention.{suffix}" for suffix in ("png", "npz")]
    assert imread("runs/new/explained/clip-attention.png").shape[1] > 500
    with np.load("runs/new/explained/clip-attention.npz") as kept:
        own = module.head.attention_map(module.trunk(x))[0].detach()
        stretched = nn.functional.interpolate(own[None], FRONT_END.shape[1:], mode="nearest")
        np.testing.assert_array_equal(kept["maps"], stretched.numpy())
        np.testing.assert_array_equal(kept["mel"], log_mel(samples, FRONT_END))
        np.testing.assert_array_equal(kept["features"], x[0].numpy())
        assert (kept["run"], kept["clip"], kept["method"]) == ("runs/new", "clip.wav", "attention")
    # The float student is, when it is named.
    assert "runs/student/explained/clip-gradcam.png" in invoke("clip.wav", "--run", "runs/student").stdout


@pytest.mark.parametrize(
    ("family", "options", "method"),
    [
        ("atrous_cnn", {"base_channels": 2}, "attention"),
        ("atrous_cnn", {"base_channels": 2, "head": "average"}, "gradcam"),
        ("amfm", {"channels_multiplier": 0.125, "hidden": 4}, "amfm"),
        ("sepconv_ca", {"base_channels": 4}, "gradcam"),
        ("cp_mobile", {"base_channels": 4}, "gradcam"),
    ],
)
def test_the_method_is_what_the_model_has(folder, family, options, method):
    write_run("run", family, **options)
    assert f"written: out/clip-{method}.png" in invoke("clip.wav", "--run", "run", "--out", "out").stdout
    with np.load(f"out/clip-{method}.npz") as kept:
        assert kept["method"] == method
        assert kept["maps"].shape == (len(kept["rows"]), len(kept["columns"]), 16, FRONT_END.n_frames())


def test_classes_and_layer_are_as_asked(folder):
    write_run("run", "atrous_cnn", base_channels=2)
    invoke("clip.wav", "--run", "run", "--class", "park", "--class", "bus", "--out", "a")
    with np.load("a/clip-attention.npz") as kept:
        assert kept["columns"].tolist() == ["park", "bus"]
    invoke("clip.wav", "--run", "run", "--layer", "trunk.2", "--class", "park", "--out", "a")
    with np.load("a/clip-gradcam.npz") as kept:
        assert (kept["layer"], kept["columns"].tolist()) == ("trunk.2", ["park"])
        assert kept["maps"].min() >= 0 and kept["map_sizes"].tolist() == [[[16, FRONT_END.n_frames()]]]


def test_of_a_long_clip_one_input_is_explained_and_said(folder):
    write_run("run", "cp_mobile", base_channels=4)
    assert "long.wav: seconds 0.00 to 1.00 of 2.50; --at S takes others" in invoke("long.wav", "--run", "run").stderr
    assert "seconds 1.50 to 2.50 of 2.50" in invoke("long.wav", "--run", "run", "--at", "1.5", "--out", "o").stderr
    samples = soundfile.read("long.wav", dtype="float32")[0]
    with np.load("o/long-gradcam.npz") as kept:
        np.testing.assert_array_equal(kept["mel"], log_mel(samples[12000:20000], FRONT_END))
        assert kept["frame_seconds"][0] == pytest.approx(1.5 + 128 / RATE)
    says = invoke("clip.wav", "--run", "run", "--at", "1.5", code=2).stderr.splitlines()[-1]
    assert says == "error: clip.wav: is 1.00 s long, so it cannot begin at --at 1.5"


def test_clips_of_one_name_get_files_of_their_own(folder):
    write_run("run", "cp_mobile", base_channels=4)
    result = invoke("clip.wav", "more", "--run", "run")
    assert result.stdout.count("written:") == 4
    files = {file.name for file in Path("run/explained").iterdir()}
    assert files == {f"clip{n}-gradcam.{suffix}" for n in ("", "-2") for suffix in ("png", "npz")}


def test_a_clip_that_cannot_be_read_does_not_stop_the_others(folder):
    write_run("run", "cp_mobile", base_channels=4)
    result = invoke("gone.wav", "clip.wav", "--run", "run", code=2)
    assert "error: gone.wav: no such file" in result.stderr and "clip-gradcam.png" in result.stdout


def test_nor_does_one_in_a_folder(folder):
    write_run("run", "cp_mobile", base_channels=4)
    Path("more/broken.wav").write_text("no audio")
    result = invoke("more", "--run", "run", code=2)
    assert "error: more/broken.wav: no audio file" in result.stderr and "clip-gradcam.png" in result.stdout


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--at", "nan"), "--at nan: is no second of a clip"),
        (("--at", "inf"), "--at inf: is no second of a clip"),
        (("--out", "clip.wav/pictures"), "clip.wav is no folder that can be written to; name another"),
        (("--class", "parc"), "--class parc: this model does not know it; did you mean 'park'? known: park, "),
        (("--device", "a"), "--device a: this model's answer does not depend on what it is told"),
        (("--layer", "block.1"), "--layer: the model has no layer 'block.1'; did you mean 'blocks.1'?"),
        (("--layer", "head"), "--layer head: puts out (1, 3), no map"),
        (("--method", "amfm"), "--method amfm: this model has no AMFMBlock; leave it out, or take gradcam"),
        (("--run", "nowhere"), "nowhere: no such run"),
        (("--run", "more"), "more: no finished training here"),
        (("--run", "run/model-int8.tflite"), "the float run that a model file was made from: --run run"),
        (("--run", "more/model.onnx"), "only runs can be looked into; name the folder"),
    ],
)
def test_what_cannot_be_explained_is_one_line(folder, args, says):
    write_run("run", "sepconv_ca", base_channels=4)
    for file in ("run/model-int8.tflite", "more/model.onnx"):
        Path(file).write_bytes(b"")
    asked = args if "--run" in args else ("--run", "run", *args)
    assert says in invoke("clip.wav", *asked, code=2).stderr.splitlines()[-1]
    assert not list(Path("run").glob("explained/*"))


def test_damaged_weights_are_named_with_their_run(folder):
    write_run("run", "cp_mobile", base_channels=4)
    weights = safetensors.torch.load_file("run/model.safetensors")
    safetensors.torch.save_file({name: value * torch.nan for name, value in weights.items()}, "run/model.safetensors")
    says = invoke("clip.wav", "--run", "run", code=2).stderr.splitlines()[-1]
    assert says == "error: run: the model answers with NaN or infinity; its weights are damaged"


def test_a_damaged_record_is_one_line(folder):
    write_run("run", "cp_mobile", base_channels=4)
    record = json.loads(Path("run/model.json").read_text())
    Path("run/model.json").write_text(json.dumps(record | {"devices": 3}))
    says = invoke("clip.wav", "--run", "run", code=2).stderr.splitlines()[-1]
    assert says.startswith("error: run/model.json: damaged (its devices are no list)")


def test_without_a_run_it_is_said_how_to_get_one(folder):
    assert "run `tinyasc train` first, or name one with --run" in invoke("clip.wav", code=2).stderr
