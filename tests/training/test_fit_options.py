"""Training with every option of the recipe: what it does to the weights, and that a kill changes nothing."""

import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from tiny_training import BANDS, CLASSES, DATA, FRAMES, FRONT_END, TEACHER, Stop, journal, plain, recipe, weights

from tinyasc.errors import InputError
from tinyasc.training.classifier import Classifier
from tinyasc.training.features import Part
from tinyasc.training.fit import fit, logits, train_module
from tinyasc.training.run import Run

OPTIONS = {
    "sgd with restarts": {
        "optimizer": "sgd", "momentum": 0.9, "nesterov": True, "lr": 0.05, "weight_decay": 5e-4,
        "weight_decay_on": "convs", "schedule": "restarts", "warmup_epochs": 0, "restart_epochs": [1, 3],
    },
    "averaged weights": {"ema_decay": 0.8, "clip_grad_norm": 0.5, "monitor": "val_accuracy"},
    "adam in steps": {
        "optimizer": "adam", "schedule": "step", "step_iterations": 5, "step_factor": 0.5, "norm_affine": False,
    },
    "linear, bfloat16": {
        "schedule": "linear", "flat_until_epoch": 2, "precision": "bf16-mixed", "weight_decay_on": "weights",
    },
    "frozen norms": {"freeze_norm": True, "schedule": "step", "step_at": [0.5], "select": "last"},
    "final": {"final": True, "select": "last", "ema_decay": 0.5},
}  # fmt: skip


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize(("epoch", "at"), [(2, "on_train_batch_end"), (2, "on_train_epoch_end")])
def test_a_stopped_training_resumes_to_the_same_bytes(tmp_path, stopping, unbroken, name, epoch, at):
    r, run = recipe(training=OPTIONS[name]), Run(tmp_path / "run")
    with stopping(epoch=epoch, at=at), pytest.raises(Stop):
        fit(r, run, DATA)
    assert not run.finished
    torch.manual_seed(12345)
    fit(r, run, DATA)
    assert weights(run) == weights(unbroken(r))
    assert plain(journal(run)) == plain(journal(unbroken(r)))


def test_every_option_makes_other_weights(unbroken):
    runs = [weights(unbroken(recipe(training=values))) for values in [{}, *OPTIONS.values()]]
    assert len(set(runs)) == len(runs)


class Recorder(Callback):
    """The module's parameters and statistics after every optimiser step."""

    def __init__(self):
        self.states = []

    def on_fit_start(self, trainer, pl_module):
        self.record(pl_module)

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.record(pl_module)

    def record(self, pl_module):
        self.states.append({k: v.detach().clone().numpy() for k, v in pl_module.module.state_dict().items()})


def small_module():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 5, stride=4), torch.nn.BatchNorm2d(4), torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(), torch.nn.Linear(4, CLASSES),
    )  # fmt: skip


def trained(tmp_path, **training):
    """The kept weights of a small module, and what it was after every step."""
    recorder = Recorder()
    kept, _ = train_module(small_module(), recipe(training=training), Run(tmp_path), DATA, callbacks=[recorder])
    return {k: v.numpy() for k, v in kept.items()}, recorder.states


def test_kept_are_the_averaged_weights(tmp_path):
    kept, states = trained(tmp_path, ema_decay=0.7, select="last")
    assert len(states) == 1 + 4 * 3
    for name in ("0.weight", "1.running_var", "4.bias"):
        expected = states[0][name].astype(float)
        for step, state in enumerate(states[1:]):
            decay = min(0.7, (1 + step) / (10 + step))
            expected = decay * expected + (1 - decay) * state[name]
        assert kept[name] == pytest.approx(expected, abs=1e-6)
        assert not np.allclose(kept[name], states[-1][name], atol=1e-6)


def test_the_averaged_weights_are_validated(tmp_path):
    result = fit(recipe(training={"ema_decay": 0.7, "select": "last"}), Run(tmp_path), DATA)
    p = torch.from_numpy(logits(result, DATA.validation.features)).softmax(dim=1).numpy()
    measured = float(-np.log(p[np.arange(12), DATA.validation.labels]).mean())
    assert measured == pytest.approx(journal(Run(tmp_path))[-1]["val_log_loss"], rel=1e-5)


def test_no_step_is_longer_than_the_clipped_gradient(tmp_path):
    plain_sgd = {"optimizer": "sgd", "lr": 1.0, "weight_decay": 0, "warmup_epochs": 0, "schedule": "step"}
    _, states = trained(tmp_path, **plain_sgd, step_at=[0.9], clip_grad_norm=0.01, select="last")
    names = [n for n in states[0] if n.endswith(("weight", "bias"))]
    lengths = [np.sqrt(sum(((b[n] - a[n]) ** 2).sum() for n in names)) for a, b in pairwise(states)]
    # All gradients here are longer than 0.01; the last epochs step a tenth as far.
    assert lengths[:9] == pytest.approx([0.01] * 9, rel=1e-3)


def test_frozen_norms_keep_what_they_started_with(unbroken):
    state = unbroken(recipe(training=OPTIONS["frozen norms"])).load().module.state_dict()
    for name, value in state.items():
        if name.endswith(("running_mean", "num_batches_tracked")):
            assert not value.any(), name
        if name.endswith("running_var"):
            assert (value == 1).all(), name
    learnt = unbroken(recipe()).load().module.state_dict()
    assert any(v.any() for k, v in learnt.items() if k.endswith("running_mean"))


def test_bfloat16_computes_in_bfloat16_and_keeps_float32(tmp_path, monkeypatch):
    seen, loss = set(), Classifier.loss

    def watched(self, answers, target, teacher, device):
        seen.add(answers["scene"].dtype)
        return loss(self, answers, target, teacher, device)

    monkeypatch.setattr(Classifier, "loss", watched)
    result = fit(recipe(training={"precision": "bf16-mixed", "epochs": 1}), Run(tmp_path), DATA)
    assert seen == {torch.bfloat16}
    assert {v.dtype for v in result.module.state_dict().values()} == {torch.float32, torch.int64}


@pytest.mark.skipif(torch.accelerator.is_available(), reason="only without a GPU")
def test_float16_without_a_gpu_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"16-mixed needs a GPU.*bf16-mixed or 32"):
        fit(recipe(training={"precision": "16-mixed"}), Run(tmp_path), DATA)


@pytest.mark.parametrize(
    ("monitor", "key", "pick"),
    [
        ("val_accuracy", "accuracy", np.argmax),
        ("val_class_average_accuracy", "class_average_accuracy", np.argmax),
        ("val_log_loss", "log_loss", np.argmin),
    ],
)
def test_the_best_epoch_is_that_of_the_monitored_metric(tmp_path, monkeypatch, monitor, key, pick):
    values = iter(
        {"accuracy": a, "class_average_accuracy": b, "log_loss": c}
        for a, b, c in [(0.3, 0.2, 1.0), (0.9, 0.2, 0.9), (0.9, 0.8, 0.8), (0.1, 0.8, 0.2)]
    )
    monkeypatch.setattr("tinyasc.training.classifier.metrics.evaluate", lambda *_: next(values))
    result = fit(recipe(training={"monitor": monitor}), Run(tmp_path), DATA)
    line = [entry[f"val_{key}"] for entry in journal(Run(tmp_path))]
    assert result.validation["epoch"] == int(pick(line))  # of equals the first
    assert result.validation["epoch"] == {"accuracy": 1, "class_average_accuracy": 2, "log_loss": 3}[key]


def test_a_final_run_learns_from_every_clip_and_reports_no_validation(tmp_path, monkeypatch):
    seen, augmented = [], Classifier.augmented

    def watched(self, batch, generator):
        seen.extend(batch["features"][:, 0].double().sum(dim=(1, 2)).tolist())
        return augmented(self, batch, generator)

    monkeypatch.setattr(Classifier, "augmented", watched)
    monkeypatch.setattr(Classifier, "validation_step", None)  # would fail
    run = Run(tmp_path)
    result = fit(recipe(training={"final": True, "select": "last", "epochs": 2}), run, DATA)
    every = np.concatenate([DATA.train.features, DATA.validation.features]).sum(axis=(1, 2, 3), dtype=float)
    assert sorted(seen[:36]) == pytest.approx(sorted(every)) and len(seen) == 2 * 36
    assert sorted(seen[36:]) == pytest.approx(sorted(every))
    record = json.loads((run.path / "model.json").read_text())
    assert record["trained_on"] == ["train", "validation"]
    assert result.validation == record["validation"] and set(result.validation) >= {"epoch", "train_loss"}
    assert not [key for line in journal(run) for key in line if key.startswith("val_")]
    assert not (run.checkpoints / "best.ckpt").exists()
    assert run.load().recipe.training.final


def test_other_runs_say_that_validation_clips_were_held_out(unbroken):
    assert unbroken(recipe()).record()["trained_on"] == ["train"]


def test_a_final_distillation_takes_the_teachers_answers_to_both_sets(tmp_path):
    both = np.concatenate([TEACHER, 4 * np.eye(CLASSES, dtype=np.float32)[DATA.validation.labels]])
    r = recipe(training={"final": True, "select": "last", "epochs": 1}, distill={"temperature": 2.0})
    assert fit(r, Run(tmp_path / "a"), DATA, teacher=both).validation["epoch"] == 0
    with pytest.raises(InputError, match=r"24 clips.*36"):
        fit(r, Run(tmp_path / "b"), DATA, teacher=TEACHER)


def test_a_final_training_that_diverges_says_so(tmp_path):
    broken = DATA.__class__(
        Part(np.full((24, 1, BANDS, FRAMES), np.nan, np.float32), DATA.train.labels),
        DATA.validation, DATA.labels, FRONT_END, DATA.split, True, DATA.identity,
    )  # fmt: skip
    with pytest.raises(InputError, match="training diverged in epoch 0: the loss is NaN"):
        fit(recipe(training={"final": True, "select": "last"}), Run(tmp_path), broken)


def test_the_journal_says_how_long_batches_were_waited_for(unbroken):
    for line in journal(unbroken(recipe())):
        assert 0 < line["waited"] < line["seconds"]


@pytest.mark.skipif(torch.cuda.is_initialized(), reason="CUDA takes seeds at once when it is in use")
def test_seeds_do_not_pile_up_where_there_is_no_gpu(tmp_path):
    fit(recipe(training={"epochs": 1}), Run(tmp_path / "a"), DATA)
    before = len(torch.cuda._queued_calls)
    fit(recipe(training={"epochs": 6}), Run(tmp_path / "b"), DATA)
    # One for the module's start, none for any of the 18 batches.
    assert len(torch.cuda._queued_calls) - before <= 1
