"""Teachers of one student: what must agree between them, what the student takes, what they hear and answer."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tinyasc.compress import teachers as module
from tinyasc.compress.live import live_teachers, shared_rate
from tinyasc.compress.teachers import (
    complete,
    front_ends_differ,
    in_order,
    load_teachers,
    teacher_logits,
    with_what_they_heard,
)
from tinyasc.data import Clip, Split
from tinyasc.errors import InputError
from tinyasc.frontend import FrontEnd
from tinyasc.models import build
from tinyasc.training.features import Part, Prepared
from tinyasc.training.heard import Heard
from tinyasc.training.recipe import check_recipe
from tinyasc.training.run import Run

LABELS = ("bus", "park", "tram")
PART = {"sample_rate": 8000, "clip_seconds": 1.0, "n_fft": 512, "hop_length": 200, "n_mels": 16}
HEARD = Heard(("t1", "t2"), ("v1",), train_devices=("a",))


def saved(folder, seed=0, labels=LABELS, heard=HEARD, front_end=None, options=None, **parts):
    """A finished run with random weights, not trained."""
    front_end = front_end or {}
    values = {
        "name": folder.name,
        "data": {"name": "demo", "root": f"/{seed}"},
        "front_end": PART | front_end,
        "model": {"family": "atrous_cnn", "head": "average", "base_channels": 4} | (options or {}),
    }
    recipe = check_recipe(values | parts, "")
    assert recipe.front_end is not None
    record = recipe.front_end.record()
    torch.manual_seed(seed)
    net = build(recipe.family, n_classes=len(labels), n_mels=record.n_mels, in_channels=record.channels,
                n_frames=record.n_frames(), **recipe.model_options)  # fmt: skip
    scores = {"val_accuracy": 1.0, "val_log_loss": 0.1}
    run = Run(folder)
    run.save(net.state_dict(), recipe=recipe, labels=labels, front_end=record, validation=scores, synthetic=True,
             heard=heard)  # fmt: skip
    return run


def student(**parts):
    return check_recipe({"name": "s", "model": {"family": "cp_mobile"}, "distill": {}} | parts, "")


def prepared(front_end, clips=6, devices=()):
    rng = np.random.default_rng(0)
    part = Part(rng.standard_normal((clips, *front_end.shape)).astype(np.float32), np.arange(clips) % 3)
    every = tuple(Clip(Path(f"{i}.wav"), "bus", "a", f"place{i}", 1) for i in range(clips))
    return Prepared(part, part, LABELS, front_end, Split(every, every, ()), True, "1" * 32, devices=devices)


# What must agree -----------------------------------------------------------------------------------------------------


def test_teachers_that_differ_in_all_that_may_differ(tmp_path):
    """Weights, families, front ends, where the data lies, and groups that one learns."""
    groups = {"one": ("bus",), "rest": ("park", "tram")}
    a = saved(tmp_path / "a", 0)
    net = {"family": "split_resnet", "base_channels": 4}
    data = {"name": "demo", "root": "/there", "groups": groups}
    b = saved(tmp_path / "b", 1, front_end={"n_mels": 32, "deltas": 1}, model=net, data=data)
    both = load_teachers([a, b])
    assert [t.path.name for t in both] == ["a", "b"] and front_ends_differ(both) and not front_ends_differ(both[:1])
    assert [t.path for t in in_order(both)] == [t.path for t in in_order(both[::-1])]
    taken = complete(student(), both, None)
    assert taken.data is not None and taken.data.root == "/0" and taken.data.groups == groups
    assert taken.front_end == both[0].recipe.front_end
    swapped = complete(student(), both[::-1], None)
    assert swapped.front_end == both[1].recipe.front_end
    # With its own front end, the order changes nothing that is trained.
    own = {"front_end": PART}
    one, two = (complete(student(**own), order, None).fingerprint() for order in (both, both[::-1]))
    assert one == two


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"labels": ("bus", "park")}, "knows 2 labels .* and --teacher .*a 3 labels"),
        ({"labels": ("bus", "park", "ship")}, "teachers of one student know the same"),
        ({"data": {"name": "demo", "test_fold": 2}}, "b: its data part has test_fold 2, and .*a test_fold 1"),
        ({"data": {"name": "demo", "validation_fold": 3}}, "validation_fold 3"),
        ({"data": {"name": "esc10"}}, "has name esc10"),
        ({"data": {"name": "demo", "devices": ["a"]}}, "has devices"),
        ({"heard": Heard(("t1",), ("t2", "v1"))}, "b: was trained on other clips than --teacher .*a"),
    ],
)  # fmt: skip
def test_teachers_of_other_labels_or_clips(tmp_path, other, words):
    runs = [saved(tmp_path / "a", 0), saved(tmp_path / "b", 1, **other)]
    with pytest.raises(InputError, match=words):
        load_teachers(runs)


def test_the_same_model_twice(tmp_path):
    runs = [saved(tmp_path / "a", 0), saved(tmp_path / "b", 0)]
    for pair in (runs, [runs[0], runs[0]]):
        with pytest.raises(InputError, match=r"the same model as --teacher .*a; name it once"):
            load_teachers(pair)


def test_a_student_of_other_clips(tmp_path):
    (teacher,) = load_teachers([saved(tmp_path / "a")])
    with pytest.raises(InputError, match="s: its data part is not the teacher's: test_fold 2"):
        complete(student(data={"name": "demo", "test_fold": 2}), [teacher], None)


def test_decision_weights_come_from_those_that_have_any_and_agree(tmp_path):
    weights = [{}, {"bus": 2.0}, {"bus": 3.0}]
    runs = [saved(tmp_path / str(i), i, decision_weights=w) for i, w in enumerate(weights)]
    plain, two, three = load_teachers(runs)
    for order in ([plain, two], [two, plain]):
        assert complete(student(), order, None).decision_weights == {"bus": 2.0}
    with pytest.raises(InputError, match="decision_weights differ"):
        complete(student(), [two, three], None)
    assert complete(student(decision_weights={"tram": 4}), [two, three], None).decision_weights == {"tram": 4.0}


def test_all_that_any_teacher_heard_is_heard(tmp_path):
    runs = [
        saved(tmp_path / "a", 0, heard=replace(HEARD, train_devices=("a", "x"))),
        saved(tmp_path / "b", 1, heard=Heard(("t1", "t2", "t9"), ("v1",), cut=HEARD.digest)),
    ]
    front_end = FrontEnd(sample_rate=8000, clip_samples=8000, n_fft=512, win_length=512, hop_length=200, n_mels=16)
    data = with_what_they_heard(prepared(front_end), load_teachers(runs))
    assert set(data.heard.train) == {"t1", "t2", "t9"} and {"a", "x"} <= set(data.heard.train_devices)
    with pytest.raises(InputError, match="the teacher knows 3 labels"):
        with_what_they_heard(replace(prepared(front_end), labels=("x", "y", "z")), load_teachers(runs))


# Answers on clean clips ----------------------------------------------------------------------------------------------


@pytest.fixture
def pair(tmp_path):
    return load_teachers([saved(tmp_path / "a", 0), saved(tmp_path / "b", 1)])


@pytest.fixture
def asked(monkeypatch):
    """The teachers that were asked."""
    names, real = [], module.logits

    def watched(teacher, *rest):
        names.append(teacher.path.name)
        return real(teacher, *rest)

    monkeypatch.setattr(module, "logits", watched)
    return names


def test_answers_are_joined_and_kept(pair, asked, tmp_path):
    r, data = complete(student(), pair, None), prepared(pair[0].front_end)
    x = torch.from_numpy(data.train.features)
    with torch.inference_mode():
        z = np.stack([teacher.module(x).numpy() for teacher in pair])
    run = Run(tmp_path / "run")
    np.testing.assert_allclose(teacher_logits(run, pair, r, data), z.mean(axis=0), atol=1e-5)
    assert asked == ["a", "b"]
    both = r.model_copy(
        update={"distill": r.distill.model_copy(update={"ensemble": "probabilities", "temperature": 2.0})}
    )
    e = np.exp(z / 2)
    p = (e / e.sum(axis=-1, keepdims=True)).mean(axis=0)
    got = np.exp(teacher_logits(run, pair, both, data) / 2)
    np.testing.assert_allclose(got / got.sum(axis=-1, keepdims=True), p, rtol=1e-4)
    assert asked == ["a", "b"], "kept, whichever way they are joined"


def test_kept_answers_are_for_these_weights_clips_and_front_end(pair, asked, tmp_path):
    r, data = complete(student(), pair, None), prepared(pair[0].front_end)
    run, one = Run(tmp_path / "run"), pair[:1]
    first = teacher_logits(run, one, r, data)
    changed = replace(data, train=replace(data.train, features=data.train.features + 1), identity="2" * 32)
    assert not np.allclose(teacher_logits(run, one, r, changed), first) and asked == ["a"] * 2
    assert np.array_equal(teacher_logits(run, one, r, data), first) and asked == ["a"] * 3
    # Trained on in the same folder: other weights, of the same shape.
    saved(tmp_path / "a", 7)
    newer = load_teachers([Run(tmp_path / "a")])
    assert not np.allclose(teacher_logits(run, newer, r, data), first) and asked == ["a"] * 4
    final = r.model_copy(update={"training": r.training.model_copy(update={"final": True, "select": "last"})})
    assert len(teacher_logits(run, newer, final, data)) == 12


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped", "text", "another"])
def test_damaged_answers_are_computed_again(pair, asked, tmp_path, damage):
    r, data, run = complete(student(), pair, None), prepared(pair[0].front_end), Run(tmp_path / "run")
    expected = teacher_logits(run, pair[:1], r, data)
    (file,) = (run.path / "teachers").iterdir()
    whole = file.read_bytes()
    at = whole.index(np.load(file)["logits"].tobytes()) + 5
    if damage == "another":
        np.save(file.with_suffix(".npy"), expected)
        file.with_suffix(".npy").replace(file)
    else:
        changed = {"cut": whole[:-40], "empty": b"", "text": b"no answers",
                   "flipped": whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]}  # fmt: skip
        file.write_bytes(changed[damage])
    assert np.array_equal(teacher_logits(run, pair[:1], r, data), expected)
    assert asked == ["a", "a"] and file.read_bytes() == whole


# Teachers that answer batches ----------------------------------------------------------------------------------------


def live(**augment):
    return student(distill={"teacher_on": "augmented"}, augment=augment)


def test_equal_front_ends_read_the_same_features(pair):
    data = prepared(pair[0].front_end)
    assert shared_rate(live(roll=True, mixstyle_p=0.4, freq_mask=3), data, pair) is None
    made = live_teachers(live(roll=True), data, pair, None)
    assert made.hears == [None, None] and not made.whole and not made.training
    assert not any(parameter.requires_grad for parameter in made.parameters())


def test_other_front_ends_share_the_highest_rate(tmp_path, pair):
    teachers = load_teachers(
        [Run(tmp_path / "a"), saved(tmp_path / "c", 2, front_end={"sample_rate": 16000}),
         saved(tmp_path / "d", 3, front_end={"sample_rate": 4000, "n_fft": 256})]
    )  # fmt: skip
    data = prepared(teachers[0].front_end)
    assert shared_rate(live(wave_gain_db=3, mixup_alpha=0.3), data, teachers) == 16000
    assert live_teachers(live(), data, teachers, 16000).hears == [None, 0, 1]


@pytest.mark.parametrize(
    ("front_end", "augment", "words"),
    [
        ({"n_mels": 32}, {"roll": True}, "augment.roll changes the student's features alone.*wave_roll_seconds"),
        ({"n_mels": 32}, {"roll_sigma": 3}, "augment.roll_sigma"),
        ({"n_mels": 32}, {"gain_db": 3}, "augment.gain_db.*wave_gain_db"),
        ({"n_mels": 32}, {"crop_frames": 20}, "augment.crop_frames.*wave_crop"),
        ({"n_mels": 32}, {"mixstyle_p": 0.4}, "augment.mixstyle_p"),
        ({"n_mels": 32}, {"filter_db": 12}, "augment.filter_db"),
        ({"n_mels": 32}, {"time_mask": 4}, "augment.time_mask"),
        ({"n_mels": 32}, {"freq_mask": 4}, "augment.freq_mask"),
        ({"stereo": True}, {}, "one channel"),
        ({"clip_seconds": 2.0}, {}, "hears clips of 2 s and the student of 1 s"),
    ],
)
def test_what_two_front_ends_cannot_hear_alike(tmp_path, front_end, augment, words):
    options = {"family": "split_resnet", "base_channels": 4}
    runs = [saved(tmp_path / "a"), saved(tmp_path / "b", 1, front_end=front_end, model=options)]
    teachers = load_teachers(runs)
    with pytest.raises(InputError, match=f"distill.teacher_on: augmented: .*{words}"):
        shared_rate(live(**augment), prepared(teachers[0].front_end), teachers)


def test_teachers_that_take_whole_clips_alone_make_crops_come_last(tmp_path):
    flat = saved(tmp_path / "flat", 1, options={"head": "flatten"})
    pooled, flat = load_teachers([saved(tmp_path / "pooled", 0), flat])
    data = prepared(flat.front_end)
    assert not live_teachers(live(crop_frames=20), data, [pooled], None).whole
    assert live_teachers(live(crop_frames=20), data, [pooled, flat], None).whole
    assert not live_teachers(live(), data, [flat], None).whole
    layer = next(name for name, part in flat.module.named_modules() if isinstance(part, torch.nn.Conv2d))
    distill = {"teacher_on": "augmented", "features": "attention", "feature_layers": [["x", layer]]}
    r = student(distill=distill, augment={"crop_frames": 20})
    with pytest.raises(InputError, match="cannot take the 20 frames"):
        live_teachers(r, data, [flat], None)
    live_teachers(r, data, [pooled], None)
    with pytest.raises(InputError, match="those of one teacher, and 2 are named"):
        live_teachers(r, data, [pooled, flat], None)
    near = distill | {"feature_layers": [["x", layer + "x"]]}
    with pytest.raises(InputError, match=f"the teacher has no layer '{layer}x'; did you mean '{layer}'"):
        live_teachers(student(distill=near), data, [pooled], None)
