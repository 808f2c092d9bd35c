"""Every kind of data set goes through the recipe's data part to features, as training takes them."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import soundfile

from tinyasc.data.cache import load_features
from tinyasc.frontend import FrontEnd, normalize
from tinyasc.training import features
from tinyasc.training.features import cache_folder, open_data, prepare
from tinyasc.training.recipe_parts import Data

FRONT_END = FrontEnd(sample_rate=8000, clip_samples=800, n_fft=256, win_length=256, hop_length=128, n_mels=16)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TINYASC_CACHE", str(tmp_path / "cache"))


def check(data: Data, n_train: int, n_validation: int, n_labels: int) -> None:
    found = prepare(data, FRONT_END)
    assert len(found.train.labels) == n_train and len(found.validation.labels) == n_validation
    assert len(found.labels) == n_labels
    assert found.train.features.shape[0] == n_train and found.train.features.shape[-2:] == (16, FRONT_END.n_frames())
    # Normalised by its own mean and deviation.
    assert abs(found.train.features.mean()) < 0.01 and np.isfinite(found.train.features).all()
    again = prepare(data, FRONT_END)
    assert again.identity == found.identity
    np.testing.assert_array_equal(again.train.features, found.train.features)


def test_tau(tau_root):
    check(Data(name="tau2021", root=str(tau_root)), 12, 4, 10)


def test_the_normalisation_does_not_depend_on_how_many_clips_are_taken_at_once(tau_root, monkeypatch):
    data = Data(name="tau2021", root=str(tau_root))
    _, split = open_data(data)
    mel = np.array(load_features([*split.train, *split.validation], FRONT_END, cache_folder()))
    # One pass over all clips, by numpy, to the last bit.
    mean, deviation = (f(mel[:12], axis=(0, 3), dtype=np.float64) for f in (np.mean, np.std))
    front_end = FRONT_END.with_normalization(1 / deviation, -mean / deviation)
    whole = prepare(data, FRONT_END)
    assert whole.front_end.band_scale == front_end.band_scale
    assert whole.front_end.band_offset == pytest.approx(front_end.band_offset, rel=1e-15)
    np.testing.assert_array_equal(whole.train.features, normalize(mel[:12], whole.front_end))
    np.testing.assert_array_equal(whole.validation.features, normalize(mel[12:], whole.front_end))
    monkeypatch.setattr(features, "CLIPS_AT_ONCE", 5)
    parts = prepare(data, FRONT_END)
    assert parts.identity == whole.identity
    assert parts.front_end.band_scale == pytest.approx(whole.front_end.band_scale, rel=1e-12)
    np.testing.assert_allclose(parts.train.features, whole.train.features, rtol=1e-6, atol=1e-6)
    # What was normalised in place is not what the cache holds.
    np.testing.assert_array_equal(load_features([*split.train, *split.validation], FRONT_END, cache_folder()), mel)


def test_folders_and_csv(tau_root, tmp_path):
    root, rows = tmp_path / "sorted", ["filename,label,start,end"]
    for path in sorted((tau_root / "audio").iterdir()):
        scene = path.name.split("-")[0]
        (root / scene).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, root / scene / path.name)
        rows += [f"sorted/{scene}/{path.name},{scene},{start},{start + 0.05}" for start in (0, 0.05)]
    # 12 clips of either class in five folds: 3, 3, 2, 2 and 2.
    check(Data(name="folders", root=str(root)), 12, 6, 2)
    (tmp_path / "clips.csv").write_text("\n".join(rows))
    check(Data(name="csv", root=str(tmp_path / "clips.csv")), 24, 12, 2)


def test_segments(tau_root, tmp_path):
    """Ten-second recordings as tau2022 takes them: ten clips each."""
    root = tmp_path / "long"
    (root / "audio").mkdir(parents=True)
    (root / "evaluation_setup").mkdir()
    rng = np.random.default_rng(0)
    meta, train, test = (["\t".join(names)] for names in (COLUMNS, COLUMNS[:2], COLUMNS[:2]))
    for scene in ("bus", "park"):
        for place in range(4):
            name = f"audio/{scene}-lyon-{place}-{place}-a.wav"
            soundfile.write(root / name, 0.1 * rng.standard_normal(80000), 8000)
            meta.append(f"{name}\t{scene}\t{scene}-lyon-{place}\ta")
            (train if place < 3 else test).append(f"{name}\t{scene}")
    (root / "meta.csv").write_text("\n".join(meta))
    (root / "evaluation_setup/fold1_train.csv").write_text("\n".join(train))
    (root / "evaluation_setup/fold1_evaluate.csv").write_text("\n".join(test))
    check(Data(name="tau2022", root=str(root)), 40, 20, 10)


COLUMNS = ("filename", "scene_label", "identifier", "source_label")
