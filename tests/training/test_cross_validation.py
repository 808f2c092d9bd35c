"""Cross-validation on five folds of generated tones: what is trained, what is tested, and what a second run repeats."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tones import write_esc

from tinyasc.data import Clip, ClipTable, load_table
from tinyasc.data.devices import DeviceList
from tinyasc.data.microphones import write_devices
from tinyasc.errors import InputError
from tinyasc.evaluate import predictions
from tinyasc.training import cross_validation
from tinyasc.training.cross_validation import RECORD, check_folds, claim, cross_validate, fold_fingerprint
from tinyasc.training.recipe import check_recipe

RECIPE = {
    "name": "tiny",
    "data": {"name": "esc10"},
    "front_end": {"sample_rate": 16000, "clip_seconds": 0.5, "n_fft": 512, "hop_length": 256, "n_mels": 32},
    "model": {"family": "atrous_cnn", "trunk": "baseline", "head": "average", "base_channels": 4},
    "training": {"epochs": 2, "batch_size": 16, "lr": 0.01},
}


def recipe(root, **changes):
    values = RECIPE | changes
    data = {**values["data"], "root": str(root)} if values.get("data") else None
    return check_recipe(values | {"data": data}, "test")


@pytest.fixture(scope="module")
def esc(tmp_path_factory):
    return write_esc(tmp_path_factory.mktemp("cv") / "esc")


@pytest.fixture(scope="module")
def crossed(esc, tmp_path_factory):
    """A cross-validation of one seed, its folder, and the order in which folds were done."""
    folder = tmp_path_factory.mktemp("runs") / "cv"
    order = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TINYASC_CACHE", str(folder.parent / "cache"))
        found = cross_validate(recipe(esc), folder, seeds=[0], done=lambda p: order.append(int(p.folds[0])))
    return found, folder, order


@pytest.fixture(autouse=True)
def cache(monkeypatch, crossed):
    monkeypatch.setenv("TINYASC_CACHE", str(crossed[1].parent / "cache"))


def times(folder):
    return {str(p): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}


def test_every_clip_is_tested_once_by_a_model_that_never_heard_it(esc, crossed):
    found, folder, order = crossed
    assert order == [1, 2, 3, 4, 5]
    table = load_table("esc10", esc)
    assert sorted(found.clips) == sorted(clip.path.name for clip in table.clips) and len(set(found.clips)) == 100
    home = {clip.path.name: clip.fold for clip in table.clips}
    assert [home[name] for name in found.clips] == found.folds.tolist()
    for fold in range(1, 6):
        record = json.loads((folder / f"fold{fold}-seed0/model.json").read_text())
        data = cross_validation.Recipe.model_validate(record["recipe"]).data
        assert data is not None and data.test_fold == fold and data.validation_fold is None
        split = table.split(test_fold=fold)
        # Validation is another whole fold, which neither trains nor tests.
        assert {clip.fold for clip in split.validation} == {fold % 5 + 1}
        assert len({clip.fold for clip in split.train} | {fold, fold % 5 + 1}) == 5
        assert len({clip.fold for clip in split.train}) == 3


@pytest.mark.parametrize("final", [False, True])
def test_devices_of_the_validation_fold_count_as_seen_where_it_is_trained_on(tmp_path, rng, final):
    # Device x is in folds 1 and 2, z in all three. Fold 1 is validated on 2, fold 2 on 3.
    rows = ["filename,label,device,fold"]
    for i, (device, fold) in enumerate(["x1", "x2", "z1", "z2", "z3"] * 2):
        soundfile.write(tmp_path / f"{i}.wav", 0.1 * rng.standard_normal(8000), 16000)
        rows.append(f"{i}.wav,{'ab'[i // 5]},{device},{fold}")
    (tmp_path / "clips.csv").write_text("\n".join(rows))
    training = {"epochs": 1, "batch_size": 16, "final": final, "select": "last"}
    r = recipe(tmp_path / "clips.csv", data={"name": "csv"}, training=training)
    found = cross_validate(r, tmp_path / "cv", seeds=[0])
    seen = dict(zip(zip(found.devices.tolist(), found.folds.tolist(), strict=True), found.seen.tolist(), strict=True))
    assert seen == {("x", 1): int(final), ("x", 2): 1, ("z", 1): 1, ("z", 2): 1, ("z", 3): 1}


@pytest.mark.parametrize("augmented", [False, True])
def test_microphones_kept_for_testing_count_as_unseen_unless_augmentation_heard_them(tmp_path, rng, augmented):
    for name in "abcd":
        soundfile.write(tmp_path / f"{name}.wav", rng.standard_normal(20) / 10, 16000)
    clips = []
    for i in range(12):
        path = tmp_path / f"clip{i}.wav"
        soundfile.write(path, 0.1 * rng.standard_normal(8000), 16000)
        clips.append(Clip(path, "xy"[i % 2], "", f"place{i}", 1 + i // 2 % 3))
    table = ClipTable("t", ("x", "y"), tuple(clips), validation_by="fold")
    devices = DeviceList("m", train=("a.wav",), bank=("d.wav",), test=("b.wav", "c.wav"))
    file = write_devices(table, devices, tmp_path, tmp_path / "out", sample_rate=16000)
    (tmp_path / "bank.txt").write_text("b.wav\n")
    augment = {"dir_prob": 0.5, "dirs": str(tmp_path / "bank.txt")} if augmented else {}
    r = recipe(file, data={"name": "csv"}, training={"epochs": 1, "batch_size": 16}, augment=augment)
    found = cross_validate(r, tmp_path / "cv", seeds=[0])
    assert len(found) == 36
    seen = {(str(device), int(flag)) for device, flag in zip(found.devices, found.seen, strict=True)}
    assert seen == {("clean", 1), ("a", 1), ("b", int(augmented)), ("c", 0)}


def test_a_run_that_heard_a_later_fold_starts_none(esc, crossed, tmp_path):
    training = RECIPE["training"] | {"start_from": str(crossed[1] / "fold1-seed0")}
    with pytest.raises(InputError, match=r"fold1-seed0, .* was trained on clips that are test clips"):
        cross_validate(recipe(esc, training=training), tmp_path / "cv", seeds=[0])
    assert not (tmp_path / "cv").exists()


def test_labels_and_answers_belong_together(esc, crossed):
    found = crossed[0]
    scene = {clip.path.name: clip.scene for clip in load_table("esc10", esc).clips}
    assert [found.names[i] for i in found.labels] == [scene[name] for name in found.clips]
    # Tones of ten pitches are easy, even for two epochs: far above the 10 % of answers that went to other clips.
    assert (found.probabilities.argmax(axis=1) == found.labels).mean() > 0.25


def test_again_nothing_is_trained_and_nothing_is_measured(esc, crossed, monkeypatch):
    found, folder, _ = crossed
    before = times(folder)

    def no(*_, **__):
        raise AssertionError("measured again")

    monkeypatch.setattr(cross_validation, "measure", no)
    again = cross_validate(recipe(esc), folder, seeds=[0])
    np.testing.assert_array_equal(again.probabilities, found.probabilities)
    assert times(folder) == before


def test_folds_are_trained_from_waveforms_where_the_recipe_augments_them(esc, tmp_path):
    augmented = recipe(esc, augment={"wave_gain_db": 6.0}, training=RECIPE["training"] | {"epochs": 1})
    found = cross_validate(augmented, tmp_path / "cv", seeds=[0])
    plain = cross_validate(recipe(esc, training=augmented.training.model_dump()), tmp_path / "plain", seeds=[0])
    assert len(found) == 100 and not np.array_equal(found.probabilities, plain.probabilities)


def test_another_seed_is_added_and_a_lost_fold_comes_back_the_same(esc, crossed, tmp_path):
    found, folder, _ = crossed
    copy = tmp_path / "cv"
    shutil.copytree(folder, copy)
    shutil.rmtree(copy / "fold3-seed0")
    before = times(copy)
    both = cross_validate(recipe(esc), copy, seeds=[0, 1])
    assert sorted(p.name for p in copy.glob("fold*-*")) == sorted(
        f"fold{f}-seed{s}" for f in range(1, 6) for s in (0, 1)
    )
    assert times(copy).items() >= before.items()
    first, second = (both.where(both.seeds == s) for s in (0, 1))
    np.testing.assert_array_equal(first.probabilities, found.probabilities)
    assert first.clips.tolist() == second.clips.tolist() and (first.probabilities != second.probabilities).any()


def test_answers_of_other_weights_or_copies_are_made_again(esc, crossed, tmp_path, monkeypatch):
    found, folder, _ = crossed
    copy = tmp_path / "cv"
    shutil.copytree(folder, copy)
    file = copy / "fold1-seed0" / cross_validation.TEST
    kept = predictions.load(file)
    dataclasses.replace(kept, about=kept.about | {"weights": "others"}).save_npz(file)
    again = cross_validate(recipe(esc), copy, seeds=[0])
    np.testing.assert_array_equal(again.probabilities, found.probabilities)
    copies = cross_validate(recipe(esc), copy, seeds=[0], tta=3)
    assert (copies.probabilities != found.probabilities).any()


def test_answers_are_made_again_by_other_weights(esc, crossed, tmp_path):
    found, folder, _ = crossed
    shutil.copytree(folder, tmp_path / "cv")
    for name in ("model.safetensors", "model.json"):
        shutil.copy(folder / "fold2-seed0" / name, tmp_path / "cv/fold1-seed0" / name)
    run, table = cross_validation.Run(tmp_path / "cv/fold1-seed0"), load_table("esc10", esc)
    again = cross_validation._one(recipe(esc), table, run, 1, 0, 1, 0)
    first = found.where(found.folds == 1)
    assert again.clips.tolist() == first.clips.tolist() and (again.probabilities != first.probabilities).any()


def test_answers_on_test_clips_that_changed_are_made_again(esc, crossed, tmp_path):
    # Fold 1 is tested by its own run alone, and its audio is in the training of the others: kept as it was for them.
    found, folder, _ = crossed
    shutil.copytree(esc, tmp_path / "esc")
    shutil.copytree(folder, tmp_path / "cv")
    run, table = cross_validation.Run(tmp_path / "cv/fold1-seed0"), load_table("esc10", tmp_path / "esc")
    clip = next(clip for clip in table.clips if clip.fold == 1)

    def measured():
        return cross_validation._one(recipe(tmp_path / "esc"), table, run, 1, 0, 1, 0)

    first = found.where(found.folds == 1)
    before = (run.path / cross_validation.TEST).stat().st_mtime_ns
    np.testing.assert_array_equal(measured().probabilities, first.probabilities)
    assert (run.path / cross_validation.TEST).stat().st_mtime_ns == before
    soundfile.write(clip.path, soundfile.read(clip.path)[0][::-1] * 0.5, 16000)
    again = measured()
    changed = (again.probabilities != first.probabilities).any(axis=1)
    assert again.clips[changed].tolist() == [clip.path.name]


def test_a_student_alone(esc, tmp_path):
    student = {
        "model": {"family": "sepconv_ca", "base_channels": 8},
        "training": {"epochs": 1, "batch_size": 16},
        "distill": None,
    }
    found = cross_validate(recipe(esc, **student), tmp_path / "cv", seeds=[4])
    assert len(found) == 100 and set(found.seeds) == {4}


def test_what_cannot_be_crossed(esc, tmp_path):
    folder = tmp_path / "cv"
    with pytest.raises(InputError, match="--set distill=null"):
        cross_validate(recipe(esc, distill={}), folder, seeds=[0])
    with pytest.raises(InputError, match="--like RECIPE"):
        cross_validate(recipe(esc, front_end=None), folder, seeds=[0])
    assert not folder.exists()


def test_one_official_split_has_no_folds(tmp_path, tau_root):
    with pytest.raises(InputError, match="one split and no folds") as caught:
        cross_validate(recipe(tau_root, data={"name": "tau2020"}), tmp_path / "cv", seeds=[0])
    assert "\n" not in str(caught.value) and not (tmp_path / "cv").exists()


def test_a_fold_that_cannot_be_tested_is_said_before_any_is_trained(tmp_path):
    # Class c is in folds 3 and 4 alone; fold 3 is validated on 4, which leaves none to train on.
    rows = ["filename,label,fold"]
    rows += [f"{name}{fold}.wav,{name},{fold}" for name in "abc" for fold in range(3 if name == "c" else 1, 5)]
    for row in rows[1:]:
        (tmp_path / row.split(",")[0]).touch()
    (tmp_path / "clips.csv").write_text("\n".join(rows))
    with pytest.raises(InputError, match="test fold 3 has the class 'c' and the training set has not"):
        cross_validate(recipe(tmp_path / "clips.csv", data={"name": "csv"}), tmp_path / "cv", seeds=[0])
    assert not (tmp_path / "cv").exists()


def table_of(folds, by):
    clips = tuple(Clip(Path(f"{i}.wav"), "a", "", str(i), fold) for i, fold in enumerate(folds))
    return ClipTable("t", ("a",), clips, validation_by=by)


@pytest.mark.parametrize(
    ("folds", "by", "words"),
    [
        ([1, 1], "fold", "one split and no folds"),
        ([0, 1], "location", "one split and no folds"),
        ([0, 0], "location", "one split and no folds"),
        ([0, 1, 2], "fold", "one split and no folds"),
        ([1, 2], "fold", "two folds leave none to train on"),
        ([1, 2], "location", None),
        ([1, 2, 3], "fold", None),
    ],
)
def test_folds_that_will_do(folds, by, words):
    if words is None:
        check_folds(table_of(folds, by))
        return
    with pytest.raises(InputError, match=words):
        check_folds(table_of(folds, by))


def test_a_folder_belongs_to_one_recipe(esc, tmp_path):
    first = recipe(esc)
    claim(tmp_path / "cv", first)
    claim(tmp_path / "cv", recipe(esc, training=RECIPE["training"] | {"seed": 3}))
    claim(tmp_path / "cv", recipe("elsewhere", data={"name": "esc10", "test_fold": 4, "validation_fold": 1}))
    with pytest.raises(InputError, match="another recipe"):
        claim(tmp_path / "cv", recipe(esc, training=RECIPE["training"] | {"epochs": 3}))
    (tmp_path / "cv" / RECORD).write_text("{")
    with pytest.raises(InputError, match="damaged"):
        claim(tmp_path / "cv", first)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"holds notes\.txt and no folds"):
        claim(tmp_path / "mine", first)


def test_another_recipes_folder_is_refused_before_any_fold_is_trained(esc, tmp_path):
    claim(tmp_path / "cv", recipe(esc, training=RECIPE["training"] | {"epochs": 3}))
    with pytest.raises(InputError, match="holds the folds of another recipe"):
        cross_validate(recipe(esc), tmp_path / "cv", seeds=[0])
    assert [path.name for path in (tmp_path / "cv").iterdir()] == [RECORD]


def test_fingerprints_follow_what_is_trained(esc):
    first = fold_fingerprint(recipe(esc))
    assert fold_fingerprint(recipe("elsewhere", training=RECIPE["training"] | {"seed": 3})) == first
    assert fold_fingerprint(recipe(esc, augment={"roll": True})) != first
