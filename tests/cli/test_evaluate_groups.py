"""`tinyasc evaluate` with groups of scenes: their accuracy, a head's, and a group model fused in."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from tones import write_esc

from tinyasc.audio import read_audio
from tinyasc.cli.candidates import candidates
from tinyasc.cli.main import cli
from tinyasc.data.esc import ESC10
from tinyasc.errors import InputError
from tinyasc.evaluate.predictions import load
from tinyasc.training.backend import group_model, torch_model
from tinyasc.training.recipe_parts import Data
from tinyasc.training.run import Run

GROUPS = {"low": list(ESC10[:4]), "high": list(ESC10[4:])}
RECIPE = {
    "name": "tones",
    "data": {"name": "esc10", "root": "esc", "groups": GROUPS},
    "front_end": {"sample_rate": 16000, "clip_seconds": 0.5, "n_fft": 512, "hop_length": 256, "n_mels": 32},
    "model": {"family": "amfm_net", "channels_multiplier": 0.125, "hidden": 16, "dropout": 0.0},
    "training": {"epochs": 2, "batch_size": 16, "lr": 0.01},
    "tasks": {"scene_weight": 5},
}
PLAIN = {"family": "atrous_cnn", "trunk": "baseline", "head": "average", "base_channels": 4}


def invoke(*args, code=0):
    result = CliRunner().invoke(cli, [str(a) for a in args])
    print(result.output)
    assert result.exit_code == code, result.exception
    return result.stderr.splitlines()[-1] if code else result.stdout


def records(*args):
    return [json.loads(line) for line in invoke("evaluate", "--json", *args).splitlines()]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Runs: scenes with a head for groups; groups alone; scenes alone; groups of which one scene is elsewhere."""
    folder = tmp_path_factory.mktemp("groups")
    write_esc(folder / "esc")
    other = {"low": list(ESC10[:5]), "high": list(ESC10[5:])}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, data, model in (
            ("scenes", {}, RECIPE["model"]),
            ("groups", {"target": "group"}, RECIPE["model"]),
            ("plain", {"groups": {}}, PLAIN),
            ("others", {"target": "group", "groups": other}, PLAIN),
        ):
            values = RECIPE | {"name": name, "data": RECIPE["data"] | data, "model": model}
            (folder / f"{name}.yaml").write_text(yaml.safe_dump(values))
            invoke("train", f"{name}.yaml", "--run", name)
    return folder


@pytest.fixture
def folder(place, monkeypatch):
    monkeypatch.chdir(place)
    return place


def parents(names):
    order = sorted(GROUPS)
    return np.array([order.index(next(g for g in order if name in GROUPS[g])) for name in names])


def test_scenes_are_also_scored_as_groups(folder, tmp_path):
    (record,) = records("scenes", "--out", tmp_path / "out")
    kept = load(tmp_path / "out/scenes/predictions.npz")
    of = parents(kept.names)
    sums = np.stack([kept.probabilities[:, of == g].sum(axis=1) for g in (0, 1)], axis=1)
    found = record["groups"]
    assert found["scenes"] == {name: GROUPS[name] for name in ("high", "low")}
    assert found["summed"]["accuracy"] == pytest.approx((sums.argmax(axis=1) == of[kept.labels]).mean())
    assert found["head"]["log_loss"] != found["summed"]["log_loss"]
    printed = " ".join(invoke("evaluate", "scenes").split())
    assert "high, low" in printed and f"{100 * found['head']['accuracy']:.2f} %" in printed
    assert "groups" not in records("plain")[0]


def test_decision_weights_of_scenes_leave_the_head_of_groups_alone(folder):
    trained = Run(Path("scenes")).load()
    recipe = trained.recipe.model_copy(update={"decision_weights": {ESC10[0]: 9.0}})
    weighted = dataclasses.replace(trained, recipe=recipe)
    clip = min(Path("esc").rglob("*.wav"))
    samples = read_audio(clip, 16000)
    answers = [
        [make(t).predict(samples).probabilities for make in (torch_model, group_model)] for t in (trained, weighted)
    ]
    assert answers[1][0][0] > answers[0][0][0]
    np.testing.assert_array_equal(answers[1][1], answers[0][1])


def test_a_run_of_groups_is_measured_on_groups(folder):
    scenes, groups = records("scenes", "groups")
    assert scenes["labels"] == list(ESC10) and groups["labels"] == ["high", "low"]
    assert "groups" in scenes and "groups" not in groups


def test_each_run_is_measured_with_its_own_devices_and_classes(folder):
    """Else the devices that one run heard would count as seen for another."""
    (grouped,) = candidates(Path("groups"), named=False)
    told = dataclasses.replace(grouped, trained_on=grouped.trained_on | {"devices": ("a",)})
    base = Data(name="esc10", devices=("b",))
    assert grouped.data(base, None, "test").devices == ()
    assert told.data(base, None, "test").devices == ("a",)
    assert told.data(base, None, "test").target == "group"
    assert told.data(Data(name="esc50", devices=("b",)), None, "test").devices == ("b",)
    # A file's card comes from anywhere; lists are what JSON makes of tuples.
    card = dataclasses.replace(grouped, trained_on=told.trained_on | {"devices": ["a"]})
    assert card.data(base, None, "test").devices == ("a",)
    odd = dataclasses.replace(grouped, trained_on=told.trained_on | {"groups": 3})
    with pytest.raises(InputError, match="what it says of its data cannot be read; export it again"):
        odd.data(base, None, "test")


@pytest.mark.parametrize("run", ["scenes", "plain"])
def test_a_group_model_is_fused_in(folder, tmp_path, run):
    alone, joint = records(run, "--fuse", "groups", "--out", tmp_path / "out")
    (partner,) = records("groups", "--out", tmp_path / "partner")
    p, g = load(tmp_path / f"out/{run}/predictions.npz"), load(tmp_path / "partner/groups/predictions.npz")
    product = p.probabilities * g.probabilities[:, parents(p.names)]
    product /= product.sum(axis=1, keepdims=True)
    kept = load(tmp_path / f"out/{run}-x-groups/predictions.npz")
    np.testing.assert_allclose(kept.probabilities, product, rtol=1e-9)
    assert joint["model"] == f"{run} x groups" and joint["fused_with"] == "groups"
    assert joint["accuracy"] == pytest.approx((product.argmax(axis=1) == p.labels).mean())
    assert joint["groups"]["head"]["accuracy"] == partner["accuracy"]
    for cost in ("parameters", "parameter_bytes", "macs"):
        assert joint[cost] == alone[cost] + partner[cost]
    # What is measured anew is the same as what was kept, and both may stand against another run.
    compared = records(run, "--fuse", "groups", "--against", run)[2:]
    assert [c["model"] for c in compared] == [run, f"{run} x groups"]
    assert compared[1]["accuracy"]["difference"] == pytest.approx(joint["accuracy"] - alone["accuracy"])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--fuse", "plain"], "was not trained on groups of scenes; name a run of data.target: group"),
        (["--fuse", "nowhere"], "no finished training here"),
        (["--fuse", "others"], "has other groups than scenes; train both with the same data.groups"),
        (["--fuse", "groups", "--test-fold", "2"], "was trained with test fold 1"),
        (["--fuse", "groups", "--devices", "devices/micirp", "--device-root", "."], "leave --devices out"),
        (["--fuse", "groups", "--folds", "scenes.yaml"], "none of --split, --test-fold, --fuse"),
    ],
)
def test_what_cannot_be_fused(folder, options, says):
    targets = [] if "--folds" in options else ["scenes"]
    assert says in invoke("evaluate", *targets, *options, code=2)
    assert Path("scenes/model.json").is_file()
