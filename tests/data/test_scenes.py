"""The synthetic scenes: the real set's layout, an honest split, the same bytes, and nothing overwritten."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tinyasc.data import scenes
from tinyasc.data.scenes import DEVICES, SCENES, UNSEEN_DEVICES, write_scenes
from tinyasc.errors import InputError, TinyascError
from tinyasc.frontend import FrontEnd, log_mel

SMALL = {"clips_per_scene": 12, "seconds": 0.5}

# First lines of the lists that come with TAU Urban Acoustic Scenes 2020 Mobile, development set.
HEADERS = {
    "meta.csv": "filename\tscene_label\tidentifier\tsource_label\n",
    "evaluation_setup/fold1_train.csv": "filename\tscene_label\n",
    "evaluation_setup/fold1_evaluate.csv": "filename\tscene_label\n",
    "evaluation_setup/fold1_test.csv": "filename\n",
}
TAU_LABELS = [
    "airport",
    "bus",
    "metro",
    "metro_station",
    "park",
    "public_square",
    "shopping_mall",
    "street_pedestrian",
    "street_traffic",
    "tram",
]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("scenes") / "demo", **SMALL)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def meta_of(root: Path, part: str) -> list[dict[str, str]]:
    names = {row["filename"] for row in rows(root / f"evaluation_setup/fold1_{part}.csv")}
    return [row for row in rows(root / "meta.csv") if row["filename"] in names]


@pytest.mark.parametrize("name", HEADERS)
def test_lists_have_the_real_header(root: Path, name: str) -> None:
    raw = (root / name).read_bytes().decode()
    assert raw.startswith(HEADERS[name])
    assert "\r" not in raw
    columns = HEADERS[name].count("\t")
    assert all(line.count("\t") == columns for line in raw.splitlines())


def test_names_agree_with_the_columns(root: Path) -> None:
    meta = rows(root / "meta.csv")
    assert meta[0]["filename"] == "audio/airport-lisbon-1000-40000-a.wav"
    for row in meta:
        scene, city, location, segment, device = row["filename"].removeprefix("audio/").removesuffix(".wav").split("-")
        assert (scene, f"{city}-{location}", device) == (
            row["scene_label"],
            row["identifier"],
            row["source_label"],
        )
        assert segment.isdigit()


def test_every_file_is_listed_once(root: Path) -> None:
    on_disk = {f"audio/{path.name}" for path in (root / "audio").iterdir()}
    meta = [row["filename"] for row in rows(root / "meta.csv")]
    train, test, evaluate = (
        [row["filename"] for row in rows(root / f"evaluation_setup/fold1_{part}.csv")]
        for part in ("train", "test", "evaluate")
    )
    assert len(meta) == len(set(meta))
    assert set(meta) == on_disk == set(train) | set(test)
    assert not set(train) & set(test)
    assert test == evaluate


def test_no_location_is_in_both_parts(root: Path) -> None:
    train, test = meta_of(root, "train"), meta_of(root, "evaluate")
    assert not {row["identifier"] for row in train} & {row["identifier"] for row in test}
    for scene in SCENES:  # several, so that validation can be cut by location too
        here = [row["identifier"] for row in train if row["scene_label"] == scene]
        assert len(set(here)) >= 6
        assert len({identifier.split("-")[0] for identifier in here}) >= 3


def test_devices_follow_the_real_split(root: Path) -> None:
    train, test = meta_of(root, "train"), meta_of(root, "evaluate")
    for scene in TAU_LABELS:
        seen = Counter(row["source_label"] for row in train if row["scene_label"] == scene)
        assert set(seen) == set(DEVICES) - set(UNSEEN_DEVICES)
        assert seen["a"] > sum(seen.values()) / 2
        counts = Counter(row["source_label"] for row in test if row["scene_label"] == scene)
        assert set(counts) == set(DEVICES)
        assert len(set(counts.values())) == 1
    assert {row["scene_label"] for row in train} == {row["scene_label"] for row in test} == set(TAU_LABELS)


def test_clips_are_neither_silent_nor_clipped(root: Path) -> None:
    for path in (root / "audio").iterdir():
        info = soundfile.info(path)
        assert (info.samplerate, info.frames, info.channels, info.subtype) == (16000, 8000, 1, "PCM_16")
        samples, _ = soundfile.read(path)
        assert np.abs(samples).max() < 0.999, path.name
        assert np.sqrt(np.mean(samples**2)) > 0.005, path.name


def test_same_seed_same_bytes(root: Path, tmp_path: Path) -> None:
    again = write_scenes(tmp_path / "deep" / "again", **SMALL)
    assert contents(again) == contents(root)
    assert [path.name for path in again.parent.iterdir()] == ["again"], "the temporary folder stayed behind"


def test_another_seed_gives_other_sounds_under_the_same_names(root: Path, tmp_path: Path) -> None:
    first, other = contents(root), contents(write_scenes(tmp_path / "other", seed=1, **SMALL))
    assert first.keys() == other.keys()
    assert not any(first[name] == other[name] for name in first if name.endswith(".wav"))


def test_pairs_of_scenes_share_their_pitch_and_rhythm_budget() -> None:
    # What makes the set hard is that a pair's event source differs in one thing; the table must keep to it.
    for one, two in zip(list(SCENES)[::2], list(SCENES)[1::2], strict=True):
        a, b = SCENES[one][-1], SCENES[two][-1]
        assert (a.db, a.hz, a.octaves, a.harmonics) == (b.db, b.hz, b.octaves, b.harmonics), (one, two)


def test_second_call_writes_nothing(root: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    calls: list[int] = []
    assert write_scenes(root, progress=lambda done, total: calls.append(done), **SMALL) == root
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before
    assert not calls


def test_marker_says_synthetic(root: Path) -> None:
    marker = json.loads((root / "dataset.json").read_text())
    assert marker["synthetic"] is True
    assert "ynthetic" in marker["note"]
    assert (marker["seed"], marker["clips_per_scene"], marker["seconds"]) == (0, 12, 0.5)


@pytest.mark.parametrize("change", [{"seed": 1}, {"clips_per_scene": 13}, {"seconds": 1.0}, {"sample_rate": 32000}])
def test_other_parameters_are_refused(root: Path, change: dict[str, float]) -> None:
    before = contents(root)
    with pytest.raises(InputError, match=f"{next(iter(change))} .*delete that folder or name another") as caught:
        write_scenes(root, **{**SMALL, **change})
    assert "\n" not in str(caught.value)
    assert contents(root) == before


def test_other_version_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scenes, "VERSION", scenes.VERSION + 1)
    with pytest.raises(InputError, match="version"):
        write_scenes(root, **SMALL)


@pytest.mark.parametrize("name", ["thesis.txt", "dataset.json"])
def test_foreign_folder_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(InputError, match="not synthetic scenes") as caught:
        write_scenes(tmp_path, **SMALL)
    assert str(tmp_path) in str(caught.value)
    assert contents(tmp_path) == {name: b"mine"}


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "notes"
    file.write_text("mine")
    for path in (file, file / "below"):
        with pytest.raises(InputError, match="name another folder"):
            write_scenes(path, **SMALL)
    assert file.read_text() == "mine"


def test_current_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="name a folder inside it"):
        write_scenes(Path("."), **SMALL)


def test_empty_folder_is_taken(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    write_scenes(tmp_path / "x", progress=lambda done, total: seen.append((done, total)), **SMALL)
    (tmp_path / "empty").mkdir()
    write_scenes(tmp_path / "empty", **SMALL)
    assert contents(tmp_path / "empty") == contents(tmp_path / "x")
    assert seen == [(i + 1, 210) for i in range(210)]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_interrupted_write_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    def fail(done: int, total: int) -> None:
        if done == 3:
            raise error

    with pytest.raises((KeyboardInterrupt, TinyascError)):
        write_scenes(tmp_path / "demo", progress=fail, **SMALL)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "bad",
    [
        {"seed": -1},
        {"clips_per_scene": 11},
        {"seconds": 0.0},
        {"seconds": float("nan")},
        {"sample_rate": 8000},
    ],
)
def test_bad_parameters_are_refused(tmp_path: Path, bad: dict[str, float]) -> None:
    with pytest.raises(InputError, match=f"{next(iter(bad))} must"):
        write_scenes(tmp_path / "demo", **{**SMALL, **bad})
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_band_means_alone_do_not_solve_it(tmp_path: Path) -> None:
    """Learnable but not trivial: log-mel band means + logistic regression stay under 80 %."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    root = write_scenes(tmp_path / "demo")
    front_end = FrontEnd(sample_rate=16000, clip_samples=32000, n_fft=1024, win_length=1024, hop_length=512, n_mels=64)

    def means(part: str) -> tuple[np.ndarray, list[str]]:
        listed = rows(root / f"evaluation_setup/fold1_{part}.csv")
        mels = [log_mel(soundfile.read(root / row["filename"])[0], front_end) for row in listed]
        return np.concatenate(mels).mean(axis=2), [row["scene_label"] for row in listed]

    train, test = means("train"), means("evaluate")
    assert (len(train[1]), len(test[1])) == (900, 360)
    for strength in (0.01, 0.1, 1.0, 10.0):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=5000)).fit(*train)
        assert 0.4 < model.score(*test) < 0.8, f"C={strength}"
