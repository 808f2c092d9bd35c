"""1-second clips read from 10-second recordings: the same clips, and the same features to the last bit."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tinyasc.data import extract, load_table, split_table
from tinyasc.data.cache import load_features
from tinyasc.errors import InputError
from tinyasc.frontend import FrontEnd

RATE = 2000
# Another rate than the files', so that cutting before or after resampling would show.
FRONT_END = FrontEnd(sample_rate=3000, clip_samples=3000, n_fft=256, win_length=256, hop_length=128, n_mels=16)
HEADER = ("filename", "scene_label", "identifier", "source_label")


@pytest.fixture
def recordings(tmp_path) -> Path:
    """Eight training and four test recordings of 10 s, in the layout of 2020."""
    root, rng = tmp_path / "tau", np.random.default_rng(1)
    (root / "audio").mkdir(parents=True)
    (root / "evaluation_setup").mkdir()
    rows: dict[str, list[str]] = {"meta": ["\t".join(HEADER)], "train": ["\t".join(HEADER[:2])], "evaluate": []}
    rows["evaluate"] += rows["train"]
    for number, (scene, place, device) in enumerate(
        (scene, place, device) for scene in ("bus", "park") for place in range(3) for device in ("a", "s1")
    ):
        name = f"audio/{scene}-lyon-{place}-{number}-{device}.wav"
        rows["meta"].append(f"{name}\t{scene}\t{scene}-lyon-{place}\t{device}")
        rows["train" if place < 2 else "evaluate"].append(f"{name}\t{scene}")
        soundfile.write(root / name, 0.1 * rng.standard_normal(10 * RATE), RATE, "PCM_24")
    (root / "meta.csv").write_text("\n".join(rows["meta"]))
    for part in ("train", "evaluate"):
        (root / f"evaluation_setup/fold1_{part}.csv").write_text("\n".join(rows[part]))
    return root


def cut_lists(root: Path) -> None:
    """Rewrites the lists as 2022 does: ten rows for each."""
    for path in (root / "meta.csv", *(root / "evaluation_setup").glob("*.csv")):
        header, *rows = path.read_text().splitlines()
        cut = [re.sub(r"-(\w+)\.wav", rf"-{i}-\1.wav", row, count=1) for row in rows for i in range(10)]
        path.write_text("\n".join([header, *cut]))


def cut_audio(root: Path) -> None:
    for path in (root / "audio").glob("*.wav"):
        samples, rate = soundfile.read(path, dtype="int32")
        stem, _, device = path.stem.rpartition("-")
        for i in range(10):
            part = samples[i * rate : (i + 1) * rate]
            soundfile.write(path.with_name(f"{stem}-{i}-{device}.wav"), part, rate, "PCM_24")
        path.unlink()


def test_segments_of_recordings_equal_segments_in_files(recordings, tmp_path):
    of_2020 = load_table("tau2022", recordings)
    cut_lists(recordings)
    mixed = load_table("tau2022", recordings)
    assert mixed.clips == of_2020.clips and mixed.notes == of_2020.notes
    assert "the 1-second clips are read from the 10-second recordings" in mixed.notes
    assert len(mixed.clips) == 120 and mixed.clips[13].segment == (3.0, 4.0)
    from_recordings = load_features(mixed.clips, FRONT_END, tmp_path / "a")

    cut_audio(recordings)
    files = load_table("tau2022", recordings)
    assert len({clip.path for clip in files.clips}) == 120 and {clip.segment for clip in files.clips} == {None}
    for one, other in zip(mixed.clips, files.clips, strict=True):
        assert (one.scene, one.device, one.location) == (other.scene, other.device, other.location)
        assert one.fold == other.fold
    np.testing.assert_array_equal(from_recordings, load_features(files.clips, FRONT_END, tmp_path / "b"))
    # Ten different seconds, not ten times the same.
    assert len({row.tobytes() for row in from_recordings}) == 120


@pytest.mark.parametrize("workers", [1, 2])
def test_a_recording_is_decoded_once_for_its_segments(recordings, tmp_path, monkeypatch, workers):
    decoded = []

    def count(path, rate, segments, **options):
        decoded.append(path)
        return read_segments(path, rate, segments, **options)

    read_segments = extract.read_segments
    monkeypatch.setattr(extract, "read_segments", count)
    clips = load_table("tau2022", recordings).clips
    load_features(clips, FRONT_END, tmp_path / "cache", workers=workers)
    # Worker processes do not know the counter.
    assert len(decoded) == len(set(decoded)) == (12 if workers == 1 else 0)
    load_features(clips, FRONT_END, tmp_path / "cache", workers=1)
    assert len(decoded) == (12 if workers == 1 else 0)


def test_a_part_of_the_segments_is_kept_for_the_whole(recordings, tmp_path):
    clips = load_table("tau2022", recordings).clips
    some = load_features(clips[5:17], FRONT_END, tmp_path / "cache")
    every = load_features(clips, FRONT_END, tmp_path / "cache")
    np.testing.assert_array_equal(every[5:17], some)
    np.testing.assert_array_equal(every, load_features(clips, FRONT_END, tmp_path / "other"))


def test_missing_recordings_are_named_as_such(recordings):
    for path in (recordings / "audio").glob("bus*"):
        path.unlink()
    with pytest.raises(InputError, match=r"6 of 12 audio files are missing: \S*bus-lyon-0-0-a\.wav, "):
        load_table("tau2022", recordings)


def test_no_location_lies_in_two_sets(recordings):
    split = split_table(load_table("tau2022", recordings))
    places = [{clip.location for clip in clips} for _, clips in split]
    assert len(set.union(*places)) == sum(map(len, places)) == 6


@pytest.mark.parametrize("folder", ["split_setup", "evaluation_setup", "."])
def test_a_label_fraction_lies_in_any_of_three_folders(recordings, folder):
    (recordings / folder).mkdir(exist_ok=True)
    names = [f"audio/bus-lyon-{place}-{2 * place}-{i}-a.wav\tbus" for place in (0, 1) for i in (2, 7)]
    (recordings / folder / "split5.csv").write_text("\n".join(["filename\tscene_label", *names]))
    table = load_table("tau2024_5", recordings)
    train = [clip for clip in table.clips if clip.fold == 0]
    assert [clip.segment for clip in train] == [(2.0, 3.0), (7.0, 8.0)] * 2
    assert [clip.path.name for clip in train][::2] == ["bus-lyon-0-0-a.wav", "bus-lyon-1-2-a.wav"]


def test_all_labels_are_the_official_training_list(recordings):
    assert load_table("tau2024_100", recordings).clips == load_table("tau2022", recordings).clips


def test_a_fraction_that_is_missing(recordings):
    with pytest.raises(InputError, match=r"split_setup/split25\.csv: no such file"):
        load_table("tau2025", recordings)


def test_a_recording_that_is_too_short(recordings, tmp_path):
    clips = load_table("tau2022", recordings).clips
    path = clips[0].path
    samples, rate = soundfile.read(path)
    soundfile.write(path, samples[: 9 * rate + 17], rate)
    with pytest.raises(InputError, match=r"seconds 9 to 10 are no part of it, it holds 9\.0\d\d s; mend"):
        load_features(clips, FRONT_END, tmp_path / "cache")


def test_a_name_that_is_no_segment(recordings):
    cut_lists(recordings)
    for path, row in (
        ("meta.csv", "audio/x.wav\tbus\tlyon-9\ta"),
        ("evaluation_setup/fold1_train.csv", "audio/x.wav\tbus"),
    ):
        with open(recordings / path, "a") as stream:
            stream.write(f"\n{row}\n")
    with pytest.raises(InputError, match=r"fold1_train\.csv: row 82 names audio/x\.wav, not scene-city-"):
        load_table("tau2022", recordings)


def test_every_part_of_a_file_has_a_key_of_its_own():
    parts = [None, (0, 1), (0, 2), (0.5, 1), (1, 2), (0, 0.5)]
    keys = [extract.row_key("content", part) for part in parts]
    assert len(set(keys)) == len(parts)
    assert extract.row_key("content", (0.0, 1.0)) == keys[1] != extract.row_key("other", (0, 1))
