"""Narrowing as a whole: what is refused before training, steps that resume, what is kept and how it loads."""

import dataclasses
import json

import numpy as np
import pytest
from graphs import int8_bytes
from tiny_training import DATA, FRONT_END, TEACHER, Stop, StopAfter, recipe

from tinyasc.compress import narrow as module
from tinyasc.compress.lessons import Lessons
from tinyasc.compress.limits import parse_limits
from tinyasc.compress.narrow import (
    Side,
    deployed_graph,
    is_better,
    narrow,
    plan_narrowing,
    stretched,
    tuning,
)
from tinyasc.compress.solver import solve
from tinyasc.errors import InputError
from tinyasc.models.widths import layer_widths
from tinyasc.training import fit as fit_module
from tinyasc.training.recipe import check_recipe
from tinyasc.training.recipe_parts import FrontEndPart, Narrow, Training
from tinyasc.training.run import Run
from tinyasc_export.count import macs

LESSONS = Lessons(DATA, TEACHER, None)
LIMITS = parse_limits(budget="4500B", ram="none")
PART = FrontEndPart(sample_rate=8000, clip_seconds=1.0, n_fft=512, hop_length=400, n_mels=16)
QUICK = {"steps": 2, "epochs": 1, "final_epochs": 2, "seeds": 2, "from_width": 16}


def student(**parts):
    quick = {"training": {"epochs": 2, "batch_size": 8, "lr": 0.01}, "narrow": QUICK, "distill": {}}
    return recipe(**(quick | parts))


def chosen(asked, limits=LIMITS, front_end=PART):
    """The dense student that the solver takes, of a recipe with a front end as compress completes it."""
    return solve([asked.model_copy(update={"front_end": front_end})], DATA.labels, limits).chosen


def planned(asked, limits=LIMITS):
    plan = plan_narrowing(chosen(asked, limits), DATA.labels, limits)
    return plan, plan.wide


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    run = Run(tmp_path_factory.mktemp("narrow"))
    plan, asked = planned(student())
    return run, plan, asked, narrow(plan, asked, run, LESSONS, LIMITS)


def test_the_folder_holds_every_training_and_each_goes_on_from_the_one_before(finished):
    run, plan, _, done = finished
    inside = sorted(str(p.parent.relative_to(run.path)) for p in run.path.rglob("narrow/**/model.json"))
    seeds = [f"narrow/pruned-seed{s}/{part}" for s in (0, 1) for part in ("step-1", "step-2", "wide")]
    assert inside == ["narrow/dense-seed0", "narrow/dense-seed1", *seeds]
    sizes = []
    for part in ("wide", "step-1", "step-2"):
        trained = Run(run.path / "narrow/pruned-seed0" / part).load()
        sizes.append(int8_bytes(deployed_graph(trained.module, FRONT_END.shape)))
        assert trained.recipe.training.epochs == {"wide": 2, "step-1": 1, "step-2": 2}[part]
        widths = [w[1] for w in layer_widths(trained.module).values() if len(w) == 3]
        assert all(w % 4 == 0 for w in widths)
    assert sizes[0] > sizes[1] > sizes[2] and sizes[0] > LIMITS.budget.bytes >= sizes[2]
    assert done.pruned.parameter_bytes[0] == sizes[2]
    dense = Run(run.path / "narrow/dense-seed1").load()
    assert dense.recipe.training.epochs == done.epochs == 5 and dense.recipe.training.seed == 1
    assert dense.recipe.model["base_channels"] == plan.dense.plan.width == 8
    assert done.dense.parameter_bytes == (plan.dense.plan.parameter_bytes,) * 2


def test_what_was_kept_is_the_better_on_validation_clips_and_the_runs_own_model(finished):
    run, _, _, done = finished
    scores = {
        kind: [json.loads((run.path / "narrow" / p / "model.json").read_text())["validation"]["val_log_loss"]
               for p in paths]
        for kind, paths in {
            "pruned": ["pruned-seed0/step-2", "pruned-seed1/step-2"], "dense": ["dense-seed0", "dense-seed1"],
        }.items()
    }  # fmt: skip
    assert list(done.pruned.scores) == scores["pruned"] and list(done.dense.scores) == scores["dense"]
    better = np.mean(scores["pruned"]) < np.mean(scores["dense"])
    assert done.kept == ("pruned" if better else "dense")
    assert done.pruned.sd == pytest.approx(np.std(scores["pruned"], ddof=1))
    source = {"pruned": "pruned-seed0/step-2", "dense": "dense-seed0"}[done.kept]
    weights = (run.path / "narrow" / source / "model.safetensors").read_bytes()
    assert (run.path / "model.safetensors").read_bytes() == weights
    report = done.report()
    assert report["kept"] == done.kept and report["pruned"]["mean"] == pytest.approx(np.mean(scores["pruned"]))
    assert report == json.loads(json.dumps(report)) | {kind: report[kind] for kind in ("pruned", "dense")}, (
        "plain values"
    )


@pytest.mark.parametrize("kept", ["pruned", "dense"])
def test_either_loads_as_any_run(finished, tmp_path, monkeypatch, kept):
    run, plan, asked, _ = finished
    copied = Run(tmp_path)
    (tmp_path / "narrow").symlink_to(run.path / "narrow")
    monkeypatch.setattr(module, "is_better", lambda *_: kept == "pruned")
    done = narrow(plan, asked, copied, LESSONS, LIMITS)
    trained = copied.load()
    side = {"pruned": done.pruned, "dense": done.dense}[kept]
    graph = deployed_graph(trained.module, FRONT_END.shape)
    assert done.kept == kept and int8_bytes(graph) == done.plan.parameter_bytes == side.parameter_bytes[0]
    assert macs(graph) == done.plan.macs and trained.recipe.model["base_channels"] == done.plan.width == side.width
    assert ("widths" in copied.record()) == (kept == "pruned")
    assert kept in done.card()["kept"] and ("settings" in done.card()) == (kept == "pruned")
    if kept == "pruned":
        record = json.loads((tmp_path / "model.json").read_text())
        record["widths"]["head.1"] = [1000, 1]
        (tmp_path / "model.json").write_text(json.dumps(record))
        with pytest.raises(InputError, match=r"model\.json: damaged \(widths .*'head\.1'"):
            copied.load()
        (tmp_path / "model.json").write_text(json.dumps(record | {"widths": []}))
        with pytest.raises(InputError, match="its widths are no mapping"):
            copied.load()


@pytest.mark.parametrize("importance", ["magnitude", pytest.param("taylor", marks=pytest.mark.slow)])
def test_a_killed_step_resumes_to_the_same_bytes(tmp_path, monkeypatch, importance):
    asked = student(narrow=QUICK | {"steps": 1, "seeds": 1, "importance": importance, "final_epochs": 3})
    plan, asked = planned(asked)
    whole, killed = Run(tmp_path / "whole"), Run(tmp_path / "killed")
    narrow(plan, asked, whole, LESSONS, LIMITS)
    real = fit_module.L.Trainer

    def trainer(*, callbacks, **options):
        stop = [StopAfter(1)] if options["max_epochs"] == 3 else []
        return real(callbacks=[*callbacks, *stop], **options)

    with monkeypatch.context() as patch:
        patch.setattr(fit_module.L, "Trainer", trainer)
        with pytest.raises(Stop):
            narrow(plan, asked, killed, LESSONS, LIMITS)
    assert not (killed.path / "model.json").exists()
    assert (killed.path / "narrow/pruned-seed0/step-1/checkpoints/last.ckpt").is_file()
    narrow(plan, asked, killed, LESSONS, LIMITS)
    names = ["model.safetensors", "model.json"]
    files = [p.relative_to(whole.path) for name in names for p in whole.path.rglob(name)]
    assert len(files) == 8
    for file in files:
        if file.name == "model.safetensors":
            assert (whole.path / file).read_bytes() == (killed.path / file).read_bytes(), file
        else:
            first, second = (json.loads((r.path / file).read_text()) for r in (whole, killed))
            for record in (first, second):
                record["validation"] = {k: v for k, v in record["validation"].items() if "val" in k}
            assert first == second


def test_any_limit_on_the_graph_can_be_what_has_to_be_held(tmp_path):
    """MACs in place of bytes."""
    asked = student(narrow=QUICK | {"seeds": 1, "steps": 1, "epochs": 1, "final_epochs": 1, "scope": "global"})
    most = chosen(student(model={"base_channels": 8})).plan.macs
    per_second = chosen(student(model={"base_channels": 8})).plan.macs_per_second
    light = parse_limits(budget="none", ram="none", macs=str(per_second))
    plan, asked = planned(asked, light)
    done = narrow(plan, asked, Run(tmp_path), LESSONS, light)
    assert 0.7 * most < done.pruned.macs[0] <= most


SIDE = Side("pruned", 16, (0.5, 0.7), (100, 100), (1, 1))


@pytest.mark.parametrize(
    ("other", "monitor", "better"),
    [
        ((0.6, 0.7), "val_log_loss", True),
        ((0.6, 0.7), "val_accuracy", False),
        ((0.4, 0.7), "val_log_loss", False),
        ((0.4, 0.7), "val_accuracy", True),
        ((0.7, 0.5), "val_log_loss", False),
        ((0.7, 0.5), "val_class_average_accuracy", False),
    ],
)
def test_the_better_mean_wins_and_ties_go_to_dense(other, monitor, better):
    assert is_better(SIDE, dataclasses.replace(SIDE, kind="dense", scores=other), monitor) is better


def test_a_single_seed_has_no_deviation():
    assert dataclasses.replace(SIDE, scores=(0.5,)).sd is None
    assert SIDE.mean == pytest.approx(0.6) and SIDE.sd == pytest.approx(np.sqrt(0.02))


# Planning ------------------------------------------------------------------------------------------------------------


def test_the_dense_student_is_the_solvers_and_the_wide_one_twice_as_wide_by_default():
    asked = student(narrow={k: v for k, v in QUICK.items() if k != "from_width"})
    plan, _ = planned(asked)
    assert dataclasses.replace(plan.dense.plan, share=1.0) == chosen(asked).plan
    assert plan.from_width == 16 and type(plan.from_width) is int


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"training": {"final": True, "select": "last"}}, "training.final trains on"),
        ({"training": {"start_from": "runs/x"}}, "take training.start_from out"),
        ({"narrow": {"from_width": 8}}, "holds the limits as it is; raise narrow.from_width"),
        ({"narrow": {"from_width": 10}}, "base_channels must be a multiple of 4, got 10"),
        (
            {"narrow": {"from_width": 32, "importance": "bn_scale", "round_to": 16}},
            "when every set of channels that bn_scale scores has 16 left: budget: .* NOT MET",
        ),
        ({"model": {"family": "caa_net"}}, "cannot be a student"),
        ({"model": {"family": "nothing"}}, "is unknown"),
    ],
)
def test_what_cannot_be_narrowed_is_refused_before_training(parts, words):
    with pytest.raises(InputError, match=words):
        plan_narrowing(chosen(student(**parts)), DATA.labels, LIMITS)


def test_tf_sepnet_is_refused_by_name():
    asked = student(model={"family": "tf_sepnet", "base_channels": 16})
    big = FrontEndPart(sample_rate=8000, clip_seconds=1.0, n_fft=512, hop_length=200, n_mels=32)
    limits = parse_limits(budget="50000B")
    with pytest.raises(InputError, match="model family tf_sepnet cannot be removed"):
        plan_narrowing(chosen(asked, limits, big), DATA.labels, limits)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"importance": "random"}, "narrow.importance"),
        ({"steps": 0}, "narrow.steps"),
        ({"round_to": 3}, "narrow.round_to"),
        ({"sedes": 3}, "did you mean 'seeds'"),
        ({"from_width": -1}, "narrow.from_width"),
    ],
)
def test_a_recipe_with_a_wrong_narrow_part(values, words):
    with pytest.raises(InputError, match=words):
        check_recipe({"name": "x", "model": {"family": "amfm"}, "narrow": values}, "x")


def test_a_narrow_part_changes_the_fingerprint_and_its_absence_does_not():
    plain = recipe()
    assert "narrow" not in plain.model_dump(exclude_defaults=True)
    assert student().fingerprint() != student(narrow=None).fingerprint()


# The trainings -------------------------------------------------------------------------------------------------------


def test_a_longer_training_keeps_its_shape():
    linear = Training(epochs=10, schedule="linear", warmup_epochs=2, flat_until_epoch=4, decay_epochs=5)
    long = stretched(linear, 30)
    assert (long.epochs, long.flat_until_epoch, long.decay_epochs, long.warmup_epochs) == (30, 12, 15, 2)
    assert stretched(Training(epochs=10, schedule="restarts", restart_epochs=(2, 5)), 20).restart_epochs == (4, 10)
    assert stretched(Training(epochs=10, schedule="step", step_iterations=7), 15).step_iterations == 10
    assert stretched(Training(epochs=10), 10) == Training(epochs=10)


def test_fine_tuning_takes_the_students_optimiser_and_one_cosine():
    training = Training(
        epochs=9, optimizer="sgd", momentum=0.9, nesterov=True, lr=0.2, schedule="step", step_at=(0.5,), seed=3,
        warmup_epochs=2, batch_size=7, select="last",
    )  # fmt: skip
    tuned = tuning(training, Narrow(), 4)
    assert tuned == Training(
        epochs=4, optimizer="sgd", momentum=0.9, nesterov=True, lr=0.1, seed=3, batch_size=7, select="last"
    )
    assert tuning(training, Narrow(lr=0.01), 4).lr == 0.01
