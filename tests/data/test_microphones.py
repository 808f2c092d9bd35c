"""A data set through microphones: copies, list, and what is trained on."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tinyasc.data import load_table
from tinyasc.data.devices import DeviceList, through
from tinyasc.data.microphones import write_devices
from tinyasc.data.table import Clip, ClipTable
from tinyasc.errors import InputError
from tinyasc.files import locked

LIST = DeviceList("two", train=("a.wav", "b.wav"), bank=("e.wav",), test=("c.wav", "d.wav"))
RATE = 8000


@pytest.fixture
def sounds(tmp_path: Path, rng: np.random.Generator) -> tuple[ClipTable, Path]:
    for name in "abcde":
        response = rng.standard_normal(40) * np.exp(-np.arange(40) / 5)
        soundfile.write(tmp_path / f"{name}.wav", response / np.abs(response).max(), RATE, subtype="FLOAT")
    clips = []
    for i in range(12):
        path = tmp_path / f"clip{i}.wav"
        soundfile.write(path, 0.2 * rng.standard_normal(800), RATE, subtype="FLOAT")
        clips.append(Clip(path, "dog" if i % 2 else "rain", "", f"place{i}", 1 + i % 3))
    return ClipTable("x", ("dog", "rain"), tuple(clips), validation_by="fold"), tmp_path


def test_each_clip_is_there_clean_and_through_two_microphones(sounds, tmp_path):
    table, root = sounds
    out = tmp_path / "out"
    write_devices(table, LIST, root, out, sample_rate=RATE)
    rows = list(csv.DictReader((out / "clips.csv").open()))
    assert len(rows) == 36
    used = [row["device"] for row in rows]
    # Dealt in turn: every microphone as often as the others of its list.
    assert {name: used.count(name) for name in ("clean", *"abcd")} == {"clean": 12, "a": 6, "b": 6, "c": 6, "d": 6}
    response = {name: soundfile.read(root / f"{name}.wav")[0] for name in "abcd"}
    for row in rows:
        source = next(c for c in table.clips if c.path.stem == Path(row["filename"]).stem.split("-")[0])
        samples = soundfile.read(source.path, dtype="float32")[0]
        expected = samples if row["device"] == "clean" else through(samples, response[row["device"]])
        got = soundfile.read(out / row["filename"], dtype="float32")[0]
        np.testing.assert_allclose(got, expected / max(1, np.abs(expected).max()), atol=2**-22)
        assert (row["label"], row["fold"]) == (source.scene, str(source.fold))


def test_unseen_microphones_are_in_the_test_set_alone(sounds, tmp_path):
    table, root = sounds
    split = load_table("csv", str(write_devices(table, LIST, root, tmp_path / "o", sample_rate=RATE))).split(
        test_fold=2
    )
    assert {c.device for c in (*split.train, *split.validation)} == {"clean", "a", "b"}
    assert set(split.unseen_devices) == {"c", "d"}
    assert (len(split.train), len(split.validation), len(split.test)) == (8, 8, 12)
    places = [{c.location for c in part} for _, part in split]
    assert not (places[0] & places[1] or places[0] & places[2] or places[1] & places[2])


def test_a_killed_command_goes_on(sounds, tmp_path):
    table, root = sounds
    out = tmp_path / "out"
    seen = []
    with pytest.raises(KeyboardInterrupt):
        write_devices(table, LIST, root, out, sample_rate=RATE, progress=lambda done, _: stop(done, seen))
    assert not (out / "clips.csv").exists()
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*.flac")}
    assert len(before) == 15
    write_devices(table, LIST, root, out, sample_rate=RATE)
    assert len(list(out.rglob("*.flac"))) == 36
    assert all(p.stat().st_mtime_ns == t for p, t in before.items())
    bank = (out / "bank.txt").read_text().split()
    assert [Path(line).name for line in bank] == ["e.wav"]


def stop(done: int, seen: list[int]) -> None:
    seen.append(done)
    if done == 5:
        raise KeyboardInterrupt


def test_two_clips_of_one_name(sounds, tmp_path):
    table, root = sounds
    again = ClipTable("x", table.labels, (*table.clips, table.clips[0]), validation_by="fold")
    with pytest.raises(InputError, match="two clips are named 1/clip0; rename one"):
        write_devices(again, LIST, root, tmp_path / "out", sample_rate=RATE)


@pytest.mark.parametrize("validation", [False, True])
def test_one_official_split_stays_as_it_is(sounds, tmp_path, validation):
    table, root = sounds
    fold = [0, 0, 0, 0, 0, 0, 2, 2, 1, 1, 1, 1] if validation else [0] * 8 + [1] * 4
    clips = tuple(dataclasses.replace(c, fold=f) for c, f in zip(table.clips, fold, strict=True))
    by = "fold" if validation else "location"
    own = ClipTable("x", table.labels, clips, validation_by=by)
    written = load_table("csv", write_devices(own, LIST, root, tmp_path / "out", sample_rate=RATE))
    assert written.validation_by == by and written.folds == own.folds
    before, after = own.split(), written.split()
    for (part, of), (_, found) in zip(before, after, strict=True):
        assert {clip.location for clip in found} == {clip.location for clip in of}, part
        assert len(found) == len(of) * (3 if part == "test" else 2)
    assert {c.device for c in (*after.train, *after.validation)} == {"clean", "a", "b"}
    used = [c.device for c in after.test]
    assert used.count("clean") == 4 and used.count("c") == used.count("d") == 2
    assert after.unseen_devices == ("c", "d")


def test_clips_kept_for_testing_stay_so(sounds, tmp_path):
    table, root = sounds
    clips = tuple(dataclasses.replace(c, test_only=i < 4) for i, c in enumerate(table.clips))
    own = ClipTable("x", table.labels, clips, validation_by="fold")
    found = load_table("csv", write_devices(own, LIST, root, tmp_path / "out", sample_rate=RATE)).clips
    assert sum(c.test_only for c in found) == 4 * 3 + 8


def test_clips_without_labels(sounds, tmp_path):
    table, root = sounds
    bare = ClipTable("unlabelled", (), tuple(dataclasses.replace(c, scene="") for c in table.clips))
    with pytest.raises(InputError, match="unlabelled: its clips have no labels"):
        write_devices(bare, LIST, root, tmp_path / "out", sample_rate=RATE)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("devices", "words"),
    [
        ("a", "already recorded through a, a microphone of two; give them as they were"),
        ("e", "already recorded through e, a microphone of two; give them as they were"),
        ("zd", "already recorded through d, a microphone of two; give them as they were"),
        ("xy", r"its clips are of several devices \(x, y\), which the copies would not tell apart; list the clips of"),
        (["", "x"], r"its clips are of several devices \(unnamed, x\), which"),
    ],
)
def test_clips_of_several_devices_or_of_a_microphone(sounds, tmp_path, devices, words):
    table, root = sounds
    clips = tuple(dataclasses.replace(c, device=devices[i % len(devices)]) for i, c in enumerate(table.clips))
    with pytest.raises(InputError, match=words):
        write_devices(dataclasses.replace(table, clips=clips), LIST, root, tmp_path / "out", sample_rate=RATE)
    assert not (tmp_path / "out").exists()


def test_clips_of_one_device(sounds, tmp_path):
    table, root = sounds
    one = dataclasses.replace(table, clips=tuple(dataclasses.replace(c, device="x") for c in table.clips))
    write_devices(one, LIST, root, tmp_path / "out", sample_rate=RATE)
    assert len(list((tmp_path / "out").rglob("*.flac"))) == 36


def test_loud_copies_are_made_quieter_and_not_cut_off(sounds, tmp_path):
    table, root = sounds
    loud = table.clips[0].path
    samples = soundfile.read(loud)[0]
    soundfile.write(loud, samples * 2.5 / np.abs(samples).max(), RATE, subtype="FLOAT")
    write_devices(table, LIST, root, tmp_path / "out", sample_rate=RATE)
    got = soundfile.read(tmp_path / "out/1/clip0-clean.flac")[0]
    # As a whole: 2.5 becomes 1, and every other sample keeps its proportion.
    np.testing.assert_allclose(got, samples / np.abs(samples).max(), atol=2**-22)


def test_what_a_killed_command_left_is_cleared(sounds, tmp_path):
    table, root = sounds
    out = tmp_path / "out"
    write_devices(table, LIST, root, out, sample_rate=RATE)
    left, own = out / "1/.clip0-a.flac.x1_y2z3a", out / "1/.notes.markdown"
    for file in (left, own):
        file.write_bytes(b"half")
    write_devices(table, LIST, root, out, sample_rate=RATE)
    assert not left.exists() and own.exists() and len(list(out.rglob("*.flac"))) == 36


def test_a_second_process_is_sent_away_and_loses_nothing(sounds, tmp_path):
    table, root = sounds
    out = tmp_path / "out"
    write_devices(table, LIST, root, out, sample_rate=RATE)
    unfinished = out / "1/.clip0-a.flac.x1_y2z3a"
    unfinished.touch()
    with locked(out), pytest.raises(InputError, match="out: another process works in this folder; wait for it or end"):
        write_devices(table, LIST, root, out, sample_rate=RATE)
    assert unfinished.exists()


def test_copies_of_something_else_are_not_kept(sounds, tmp_path, rng):
    table, root = sounds
    out = tmp_path / "out"
    write_devices(table, LIST, root, out, sample_rate=RATE)
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}

    def refused(words, clips=table, devices=LIST, rate=RATE):
        with pytest.raises(InputError, match=words + r".*; name another folder with --out$") as caught:
            write_devices(clips, devices, root, out, sample_rate=rate)
        assert "\n" not in str(caught.value)
        assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before

    refused("holds copies made at 8000 Hz, not 16000", rate=16000)
    refused("other microphones than two's", devices=dataclasses.replace(LIST, test=("c.wav",)))
    refused(r"other audio files \(3/clip11 ", clips=dataclasses.replace(table, clips=table.clips[:11]))
    path = table.clips[2].path
    state = path.stat()
    soundfile.write(path, 0.1 * rng.standard_normal(800), RATE, subtype="FLOAT")
    refused(r"other audio files \(3/clip2 ")
    # As long as before, and of other values.
    response = soundfile.read(root / "a.wav")[0]
    soundfile.write(root / "a.wav", response[::-1], RATE, subtype="FLOAT")
    refused("other microphones")
    assert state.st_size == path.stat().st_size
    (out / "through.json").write_text("{")
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    refused(r"through\.json: damaged")
    (out / "through.json").unlink()
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    refused(r"holds .* and no through\.json")


def test_copies_of_equal_lists_are_kept_wherever_the_data_lie(sounds, tmp_path):
    table, root = sounds
    write_devices(table, LIST, root, tmp_path / "out", sample_rate=RATE)
    assert str(root) not in (tmp_path / "out/through.json").read_text()
    renamed = dataclasses.replace(LIST, name="again", bank=("d.wav",))
    write_devices(table, renamed, root, tmp_path / "out", sample_rate=RATE)
