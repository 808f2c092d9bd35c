"""Every kind of data set goes through the recipe's data part to features, as training takes them."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import soundfile

from tinyasc.frontend import FrontEnd
from tinyasc.training.features import prepare
from tinyasc.training.recipe import Data

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
