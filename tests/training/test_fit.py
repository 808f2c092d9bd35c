"""Training on random features: what the loss is, and that a kill changes nothing."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from tiny_training import BANDS, CLASSES, DATA, FRAMES, FRONT_END, TEACHER, Stop, journal, plain, recipe, weights

from tinyasc.cli.main import cli
from tinyasc.data.scenes import write_scenes
from tinyasc.errors import InputError
from tinyasc.frontend import FrontEnd
from tinyasc.training import fit as fit_module
from tinyasc.training.classifier import Classifier
from tinyasc.training.features import BatchesByEpoch, Part, Prepared, loader
from tinyasc.training.fit import fit, logits
from tinyasc.training.recipe import Recipe
from tinyasc.training.run import Run, newest_teacher


@pytest.mark.parametrize(
    "family", [{"family": "sepconv_ca", "dropout": 0}, {"family": "atrous_cnn", "head": "attention"}]
)
def test_the_loss_falls_and_the_classes_are_learnt(tmp_path, family):
    r = recipe(model=family, training={"epochs": 20}, augment={"mixup_alpha": 0, "time_mask": 0})
    trained = fit(r, Run(tmp_path), DATA)
    lines = journal(Run(tmp_path))
    assert [line["epoch"] for line in lines] == list(range(20))
    assert lines[-1]["train_loss"] < 0.5 * lines[0]["train_loss"]
    assert trained.validation["val_accuracy"] >= 0.75
    assert not trained.module.training and trained.labels == DATA.labels and trained.front_end == FRONT_END


@pytest.mark.parametrize("select", ["best", "last"])
def test_the_record_is_of_the_weights_that_were_kept(tmp_path, select):
    for seed in range(10):
        r = recipe(training={"select": select, "lr": 0.1, "epochs": 6, "seed": seed})
        run = Run(tmp_path / str(seed))
        trained = fit(r, run, DATA)
        lines = journal(run)
        best = int(np.argmin([line["val_log_loss"] for line in lines]))
        if best != 5:
            break
    else:
        pytest.fail("no seed whose best epoch is not its last")
    expected = best if select == "best" else 5
    assert trained.validation["epoch"] == expected
    answers = logits(trained, DATA.validation.features)
    p = torch.from_numpy(answers).softmax(dim=1).numpy()
    measured = float(-np.log(p[np.arange(12), DATA.validation.labels]).mean())
    assert measured == pytest.approx(lines[expected]["val_log_loss"], rel=1e-5)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path, unbroken):
    fit(recipe(), Run(tmp_path / "again"), DATA)
    assert weights(Run(tmp_path / "again")) == weights(unbroken(recipe()))
    fit(recipe(training={"seed": 1}), Run(tmp_path / "other"), DATA)
    assert weights(Run(tmp_path / "other")) != weights(unbroken(recipe()))


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_distillation_loss_is_its_formula(share):
    t, batch = 2.5, 5
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(0, 2, (batch, CLASSES)), rng.normal(0, 2, (batch, CLASSES))
    labels = np.array([0, 1, 2, 1, 0])
    r = recipe(
        distill={"temperature": t, "kd_lambda": share}, augment={k: 0 for k in ("gain_db", "mixup_alpha")} | NO_AUGMENT
    )
    module = Classifier(torch.nn.Identity(), r, n_classes=CLASSES, band_scale=torch.ones(BANDS), steps_per_epoch=1)
    x = torch.zeros(batch, 1, BANDS, FRAMES)
    made = {"features": x, "label": torch.from_numpy(labels), "teacher": torch.from_numpy(teacher)}
    _, target, soft, _ = module.augmented(made, torch.Generator())
    got = float(module.scene_loss(torch.from_numpy(student), target.double(), soft))

    def log_softmax(z):
        return z - np.log(np.exp(z).sum(axis=1, keepdims=True))

    hard = -log_softmax(student)[np.arange(batch), labels].mean()
    p, q = log_softmax(teacher / t), log_softmax(student / t)
    kl = (np.exp(p) * (p - q)).sum(axis=1).mean()  # summed over classes, averaged over the batch
    assert got == pytest.approx((1 - share) * hard + share * t * t * kl, rel=1e-6)


NO_AUGMENT = {"roll": False, "time_mask": 0, "freq_mask": 0}


def test_the_loss_without_a_teacher_is_cross_entropy():
    module = Classifier(torch.nn.Identity(), recipe(), n_classes=2, band_scale=torch.ones(BANDS), steps_per_epoch=1)
    got = module.scene_loss(torch.tensor([[1.0, 3.0]]), torch.tensor([[0.25, 0.75]]), None)
    log_p = torch.tensor([1.0, 3.0]).log_softmax(dim=0)
    assert float(got) == pytest.approx(float(-0.25 * log_p[0] - 0.75 * log_p[1]))


def test_mixup_mixes_features_targets_and_teacher_alike():
    r = recipe(augment=NO_AUGMENT | {"gain_db": 0, "mixup_alpha": 1.0}, distill={"temperature": 1.0})
    module = Classifier(torch.nn.Identity(), r, n_classes=CLASSES, band_scale=torch.ones(BANDS), steps_per_epoch=1)
    labels = torch.arange(12) % CLASSES
    # The features hold the one-hot label; so does the teacher, nearly.
    x = torch.nn.functional.one_hot(labels, CLASSES).float()[:, None, :, None].expand(12, 1, CLASSES, 4)
    made = {"features": x, "label": labels, "teacher": 50 * torch.nn.functional.one_hot(labels, CLASSES).float()}
    mixed, target, teacher, _ = module.augmented(made, torch.Generator().manual_seed(0))
    assert teacher is not None
    assert torch.allclose(mixed[:, 0, :, 0], target) and torch.allclose(teacher, target)
    assert torch.allclose(target.sum(dim=1), torch.ones(12)) and (target.max(dim=1).values < 0.999).any()
    assert (target[torch.arange(12), labels] >= 0.5).all()


def test_the_schedule_warms_up_and_falls_to_a_hundredth():
    r = recipe(training={"epochs": 10, "warmup_epochs": 2, "lr": 1.0})
    module = Classifier(torch.nn.Linear(1, 1), r, n_classes=2, band_scale=torch.ones(1), steps_per_epoch=5)
    parts = module.configure_optimizers()
    rates = []
    for _ in range(51):
        rates.append(parts["lr_scheduler"]["scheduler"].get_last_lr()[0])
        parts["optimizer"].step()
        parts["lr_scheduler"]["scheduler"].step()
    assert rates[:10] == pytest.approx([(i + 1) / 11 for i in range(10)])
    assert rates[10] == pytest.approx(1.0) and rates[30] == pytest.approx(0.505) and rates[50] == pytest.approx(0.01)


def test_every_epoch_sees_every_clip_once_in_an_order_of_its_own():
    batches = BatchesByEpoch(23, 8, seed=0)
    orders = []
    for epoch in range(3):
        batches.set_epoch(epoch)
        seen = list(batches)
        assert len(seen) == len(batches) == 3 and {len(b) for b in seen} == {7, 8}
        orders.append([i for b in seen for i in b])
        assert sorted(orders[-1]) == list(range(23))
    assert orders[0] != orders[1] != orders[2]
    batches.set_epoch(1)
    assert [i for b in batches for i in b] == orders[1]


def test_teacher_logits_follow_their_clips():
    part = Part(
        np.arange(10, dtype=np.float32)[:, None, None, None] * np.ones((10, 1, 2, 2), np.float32), np.arange(10)
    )
    teacher = np.arange(10, dtype=np.float32)[:, None]
    for batch in loader(part, 4, seed=0, teacher=teacher):
        assert torch.equal(batch["features"][:, 0, 0, 0], batch["teacher"][:, 0])
        assert torch.equal(batch["label"].float(), batch["teacher"][:, 0])


# A kill: after epochs 0 and 2 of 4; in the middle of one; before and after the journal's line, which is before the
# checkpoint; when all is trained and nothing saved.
@pytest.mark.parametrize("select", ["best", "last"])
@pytest.mark.parametrize(
    ("epoch", "at", "first"),
    [
        (1, "on_train_epoch_start", False),
        (3, "on_train_epoch_start", False),
        (2, "on_train_batch_end", False),
        (2, "on_validation_epoch_end", False),
        (0, "on_train_epoch_end", True),
        (2, "on_train_epoch_end", True),
        (3, "on_train_epoch_end", False),
        (4, "on_train_end", False),
    ],
)
def test_a_stopped_training_resumes_to_the_same_bytes(tmp_path, stopping, unbroken, select, epoch, at, first):
    r, run = recipe(training={"select": select}), Run(tmp_path / "run")
    with stopping(epoch=epoch, at=at, first=first), pytest.raises(Stop):
        fit(r, run, DATA)
    assert not run.finished
    torch.manual_seed(12345)  # the new process's generator stands elsewhere
    trained = fit(r, run, DATA)
    whole = unbroken(r)
    assert weights(run) == weights(whole)
    assert plain(journal(run)) == plain(journal(whole))
    assert trained.validation["epoch"] == whole.load().validation["epoch"]


@pytest.mark.parametrize(
    ("epoch", "at", "trained"),
    [(3, "on_train_epoch_start", {3}), (1, "on_validation_epoch_end", {1, 2, 3}), (4, "on_train_end", set())],
)
def test_only_the_epochs_that_are_missing_are_trained_again(tmp_path, stopping, monkeypatch, epoch, at, trained):
    with stopping(epoch=epoch, at=at), pytest.raises(Stop):
        fit(recipe(), Run(tmp_path), DATA)
    seen, step = set(), Classifier.training_step

    def training_step(self, batch, batch_idx):
        seen.add(self.current_epoch)
        return step(self, batch, batch_idx)

    monkeypatch.setattr(Classifier, "training_step", training_step)
    fit(recipe(), Run(tmp_path), DATA)
    assert seen == trained


def test_a_stopped_distillation_resumes_to_the_same_bytes(tmp_path, stopping, unbroken):
    r, run = recipe(distill={"temperature": 2.0}), Run(tmp_path / "run")
    with stopping(epoch=2), pytest.raises(Stop):
        fit(r, run, DATA, teacher=TEACHER)
    fit(r, run, DATA, teacher=TEACHER)
    assert weights(run) == weights(unbroken(r, TEACHER))
    assert weights(run) != weights(unbroken(recipe()))


def test_stopped_again_and_again(tmp_path, stopping, unbroken):
    run = Run(tmp_path / "run")
    for epoch in (1, 1, 2, 3):
        with stopping(epoch=epoch), pytest.raises(Stop):
            fit(recipe(), run, DATA)
    fit(recipe(), run, DATA)
    assert weights(run) == weights(unbroken(recipe()))
    assert [line["epoch"] for line in journal(run)] == [0, 1, 2, 3]


@pytest.fixture
def best_epoch(monkeypatch):
    """Gives validation losses by hand, so that the best epoch lies before or after a stop."""

    def patch(best):
        epochs = iter(range(1000))

        def evaluate(*_):
            epoch = next(epochs)
            return {
                "accuracy": 0.5,
                "class_average_accuracy": 0.5,
                "log_loss": 0.1 if epoch == best else 1.0 + 0.1 * epoch,
                "clips": 12.0,
            }

        monkeypatch.setattr("tinyasc.training.classifier.metrics.evaluate", evaluate)

    return patch


@pytest.mark.parametrize("best", [0, 1, 2, 3])
def test_a_run_folder_that_was_moved_keeps_its_best_epoch(tmp_path, stopping, best_epoch, best):
    best_epoch(best)
    with stopping(epoch=2), pytest.raises(Stop):
        fit(recipe(), Run(tmp_path / "here"), DATA)
    shutil.move(tmp_path / "here", tmp_path / "there")
    assert fit(recipe(), Run(tmp_path / "there"), DATA).validation["epoch"] == best
    assert not (tmp_path / "here").exists()


@pytest.fixture
def stopped(tmp_path, stopping):
    """A run that was stopped after two epochs of four."""
    run = Run(tmp_path / "run")
    with stopping(epoch=2), pytest.raises(Stop):
        fit(recipe(), run, DATA)
    return run


@pytest.mark.parametrize("damage", ["empty", "cut", "noise", "text", "other"])
def test_a_damaged_checkpoint_is_one_clear_line(stopped, damage):
    last = stopped.checkpoints / "last.ckpt"
    whole = last.read_bytes()
    if damage == "other":
        torch.save({"state_dict": {}}, last)
    else:
        noise = bytes(range(256)) * 20
        last.write_bytes({"empty": b"", "cut": whole[: len(whole) // 2], "noise": noise, "text": b"hello"}[damage])
    before = (stopped.path / "metrics.jsonl").read_text()
    with pytest.raises(InputError, match="cannot resume from it") as caught:
        fit(recipe(), stopped, DATA)
    assert "last.ckpt" in str(caught.value) and "\n" not in str(caught.value)
    assert (stopped.path / "metrics.jsonl").read_text() == before
    # What the line advises works.
    last.unlink()
    assert fit(recipe(), stopped, DATA).validation["epoch"] >= 0


def test_a_checkpoint_cannot_run_code(stopped):
    planted = stopped.path / "planted"

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(planted),)

    torch.save({"state_dict": {}, "x": Evil()}, stopped.checkpoints / "last.ckpt")
    with pytest.raises(InputError, match="cannot resume"):
        fit(recipe(), stopped, DATA)
    assert not planted.exists()


@pytest.mark.parametrize("tail", ['{"epoch": 2, "val_acc', "\n", "{}\n", "7\n", '{"epoch": 2, "val_log_loss": 9}\n'])
def test_whatever_a_kill_left_at_the_journals_end_is_dropped(stopped, unbroken, tail):
    with open(stopped.path / "metrics.jsonl", "a") as file:
        file.write(tail)
    fit(recipe(), stopped, DATA)
    assert plain(journal(stopped)) == plain(journal(unbroken(recipe())))


def test_a_journal_that_lost_the_best_epoch_is_one_clear_line(tmp_path, stopping, best_epoch):
    best_epoch(0)
    run = Run(tmp_path / "run")
    with stopping(epoch=2), pytest.raises(Stop):
        fit(recipe(), run, DATA)
    (run.path / "metrics.jsonl").unlink()
    with pytest.raises(InputError, match=r"metrics\.jsonl: its line of epoch 0 is lost"):
        fit(recipe(), run, DATA)


def test_a_student_without_a_teacher_is_refused(tmp_path):
    with pytest.raises(InputError, match="compress --student"):
        fit(recipe(distill={}), Run(tmp_path), DATA)


def test_another_recipe_in_the_same_folder_is_refused(stopped, unbroken):
    other = recipe(training={"lr": 0.02})
    before = sorted((p, p.stat().st_mtime_ns) for p in stopped.path.rglob("*"))
    with pytest.raises(InputError, match="another recipe"):
        fit(other, stopped, DATA)
    assert sorted((p, p.stat().st_mtime_ns) for p in stopped.path.rglob("*")) == before
    with pytest.raises(InputError, match="another recipe"):
        fit(other, unbroken(recipe()), DATA)


def test_data_that_moved_is_the_same_recipe(stopped, unbroken):
    fit(recipe(data={"root": "/elsewhere"}), stopped, DATA)
    assert weights(stopped) == weights(unbroken(recipe()))


def test_a_finished_run_returns_at_once(unbroken, monkeypatch):
    run = unbroken(recipe())

    def fail(*_, **__):
        raise AssertionError("trained again")

    monkeypatch.setattr(fit_module.L, "Trainer", fail)
    before = weights(run)
    trained = fit(recipe(), run, DATA)
    assert weights(run) == before and trained.validation["epoch"] >= 0


def test_a_second_process_in_the_run_folder_is_refused(tmp_path):
    run = Run(tmp_path / "run")
    code = "import sys, time; from pathlib import Path; from tinyasc.training.run import Run\n"
    code += "with Run(Path(sys.argv[1])).locked(): print('locked', flush=True); time.sleep(60)"
    other = subprocess.Popen([sys.executable, "-c", code, str(run.path)], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None and other.stdout.readline() == "locked\n"
        with pytest.raises(InputError, match="another process"), run.locked():
            pass
    finally:
        other.kill()
        other.wait()
    with run.locked():  # a lock dies with its process
        pass
    with run.locked():
        pass


def copy(run, tmp_path):
    return Run(Path(shutil.copytree(run.path, tmp_path / "copy")))


@pytest.mark.parametrize("damage", ["empty", "cut", "noise", "missing", "other"])
def test_damaged_weights_are_one_clear_line(unbroken, tmp_path, damage):
    run = copy(unbroken(recipe()), tmp_path)
    file = run.path / "model.safetensors"
    whole = file.read_bytes()
    if damage == "missing":
        file.unlink()
    elif damage == "other":
        other = fit(recipe(model={"base_channels": 16}, training={"epochs": 1}), Run(tmp_path / "other"), DATA)
        shutil.copy(other.path / "model.safetensors", file)
    else:
        file.write_bytes({"empty": b"", "cut": whole[: len(whole) // 2], "noise": bytes(range(256)) * 9}[damage])
    with pytest.raises(InputError, match=r"model\.safetensors: its weights cannot be loaded") as caught:
        run.load()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "5", "null", "{}", "\x00\xff", '{"labels": 3, "front_end": {}, "recipe": {}, "validation": {}}'],
)
def test_a_damaged_record_is_one_clear_line(unbroken, tmp_path, text):
    run = copy(unbroken(recipe()), tmp_path)
    (run.path / "model.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=r"model\.json: damaged") as caught:
        run.load()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("part", ["front_end", "recipe"])
def test_a_record_with_odd_parts_is_one_clear_line(unbroken, tmp_path, part):
    run = copy(unbroken(recipe()), tmp_path)
    record = json.loads((run.path / "model.json").read_text())
    record[part]["odd"] = 1
    (run.path / "model.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match=r"model\.json.*odd"):
        run.load()


def test_an_unfinished_run_says_how_to_finish_it(stopped):
    with pytest.raises(InputError, match="it resumes"):
        stopped.load()


def test_the_newest_teacher(unbroken, tmp_path):
    with pytest.raises(InputError, match="run `tinyasc train` first"):
        newest_teacher(tmp_path)
    for age, name in ((30, "old"), (20, "new"), (10, "student")):
        shutil.copytree(unbroken(recipe()).path, tmp_path / "runs" / name)
        os.utime(tmp_path / "runs" / name / "model.json", (time.time() - age,) * 2)
    (tmp_path / "runs/student/plan.json").write_text("{}")
    (tmp_path / "runs/unfinished").mkdir()
    assert newest_teacher(tmp_path).path == tmp_path / "runs/new"


def test_training_that_diverges_says_so(tmp_path):
    broken = Prepared(
        Part(np.full_like(DATA.train.features, np.nan), DATA.train.labels),
        DATA.validation, DATA.labels, FRONT_END, DATA.split, True, DATA.identity,
    )  # fmt: skip
    with pytest.raises(InputError, match=r"training diverged in epoch 0.*lower training.lr"):
        fit(recipe(), Run(tmp_path), broken)


def test_features_too_small_for_the_model_are_one_clear_line(tmp_path):
    small = FrontEnd(sample_rate=8000, clip_samples=1024, n_fft=512, win_length=512, hop_length=256, n_mels=BANDS)
    small = small.with_normalization(np.ones(BANDS), np.zeros(BANDS))
    part = Part(DATA.train.features[..., : small.n_frames()], DATA.train.labels)
    with pytest.raises(InputError, match="16 mels x 3 frames"):
        fit(recipe(), Run(tmp_path), Prepared(part, part, DATA.labels, small, DATA.split, True, DATA.identity))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"augment": {"mask_layers": ["block"]}}, "augment.mask_layers: the model has no layer 'block'"),
        ({"augment": {"crop_frames": FRAMES + 1}}, f"cannot crop {FRAMES + 1} frames out of {FRAMES}"),
        ({"model": {"base_channel": 8}}, "unexpected keyword argument 'base_channel'"),
    ],
)
def test_a_recipe_that_cannot_be_trained_leaves_the_folder_to_the_mended_one(tmp_path, unbroken, wrong, says):
    run = Run(tmp_path)
    with run.locked(), pytest.raises(InputError, match=says):
        fit(recipe(**wrong), run, DATA)
    assert not [p.name for p in tmp_path.iterdir() if not p.name.startswith(".")]
    with run.locked():
        fit(recipe(), run, DATA)
    assert weights(run) == weights(unbroken(recipe()))


def test_no_checkpoint_is_ever_half_written(tmp_path, monkeypatch):
    """The disk is full while last.ckpt is replaced: the old one is still whole."""
    run, real, calls = Run(tmp_path / "run"), os.replace, []

    def replace(source, target):
        if Path(target).name == "last.ckpt":
            calls.append(target)
            if len(calls) == 2:
                raise OSError(28, "No space left on device", str(target))
        return real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(OSError, match="No space"):
        fit(recipe(), run, DATA)
    assert torch.load(run.checkpoints / "last.ckpt", weights_only=True)["epoch"] == 0
    assert not [p for p in run.path.rglob(".*") if p.name != ".lock"], "a temporary file is left"


TINY = {
    "name": "tiny",
    "data": {"name": "demo", "root": "scenes"},
    "front_end": {"sample_rate": 16000, "clip_seconds": 0.5, "n_fft": 512, "hop_length": 320, "n_mels": 16},
    "model": {"family": "sepconv_ca", "base_channels": 8},
    "training": {"epochs": 12, "batch_size": 8, "lr": 0.002},  # long enough to be caught at it
    "augment": {"roll": True, "freq_mask": 3, "mixup_alpha": 0.2},
}


@pytest.fixture(scope="module")
def folder_of_scenes(tmp_path_factory):
    """A folder with tiny scenes and a tiny recipe, its features cached by one unbroken training."""
    folder = tmp_path_factory.mktemp("folder_of_scenes")
    write_scenes(folder / "scenes", clips_per_scene=12, seconds=0.5)
    (folder / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        train("unbroken")
    return folder


def train(run, code=0):
    """`tinyasc train` in this process; its standard error."""
    result = CliRunner().invoke(cli, ["train", "tiny.yaml", "--run", run])
    print(result.output)
    assert result.exit_code == code
    return result.stderr


@contextmanager
def training(folder, run, *, lines):
    """A training process, once its journal has some lines."""
    command = [sys.executable, "-m", "tinyasc.cli.main", "train", "tiny.yaml", "--run", run]
    process = subprocess.Popen(
        command,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background jobs ignore Ctrl-C, and so would their children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    file = folder / run / "metrics.jsonl"
    deadline = time.monotonic() + 120
    try:
        while not (file.is_file() and file.read_text().count("\n") >= lines):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.005)
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_killed_process_resumes_to_the_same_bytes(folder_of_scenes, monkeypatch):
    monkeypatch.chdir(folder_of_scenes)
    with training(folder_of_scenes, "killed", lines=2) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
    killed, unbroken = Run(folder_of_scenes / "killed"), Run(folder_of_scenes / "unbroken")
    assert process.returncode == -signal.SIGKILL
    assert not killed.finished and 2 <= len(journal(killed)) < 12
    train("killed")
    assert weights(killed) == weights(unbroken)
    assert plain(journal(killed)) == plain(journal(unbroken))
    assert [line["epoch"] for line in journal(killed)] == list(range(12))


def test_ctrl_c_says_so_and_the_run_resumes(folder_of_scenes, monkeypatch):
    monkeypatch.chdir(folder_of_scenes)
    with training(folder_of_scenes, "interrupted", lines=1) as process:
        # Held still for a moment, in which a second process is turned away.
        process.send_signal(signal.SIGSTOP)
        refused = train("interrupted", code=2)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGCONT)
        _, errors = process.communicate()
    assert refused.splitlines()[-1] == ("error: interrupted: another process works in this run; wait for it or end it")
    assert process.returncode == 130, errors
    assert errors.splitlines()[-1] == "error: interrupted" and "Traceback" not in errors
    train("interrupted")
    assert weights(Run(folder_of_scenes / "interrupted")) == weights(Run(folder_of_scenes / "unbroken"))


def test_a_recipe_is_kept_in_the_run(unbroken):
    kept = yaml.safe_load((unbroken(recipe()).path / "recipe.yaml").read_text())
    assert Recipe.model_validate(kept) == recipe()
