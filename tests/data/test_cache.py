from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tinyasc.audio import read_audio
from tinyasc.data import Clip, cache, load_table
from tinyasc.data.cache import FeatureCache, front_end_key, load_features
from tinyasc.errors import InputError, TinyascError
from tinyasc.frontend import FrontEnd, fit_length, log_mel

FRONT_END = FrontEnd(sample_rate=8000, clip_samples=1000, n_fft=256, win_length=256, hop_length=128, n_mels=16)


@pytest.fixture
def clips(tau_root) -> tuple[Clip, ...]:
    return load_table("tau2020", tau_root).clips


@pytest.fixture
def no_decoding(monkeypatch):
    """Turns on, when called, a refusal to decode any audio."""

    def refuse(path, _rate, **_options):
        raise AssertionError(f"{path} was decoded")

    return lambda: monkeypatch.setattr(cache, "read_audio", refuse)


def entries(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/*.npy"))


@pytest.mark.parametrize("workers", [None, 1, 2, 5])
def test_equals_the_front_end(clips, tmp_path, workers):
    mel = load_features(clips, FRONT_END, tmp_path / "cache", workers=workers)
    assert mel.shape == (24, 1, 16, FRONT_END.n_frames()) and mel.dtype == np.float32
    for clip, features in zip(clips, mel, strict=True):
        samples = fit_length(read_audio(clip.path, 8000), 1000)
        np.testing.assert_array_equal(features, log_mel(samples, FRONT_END))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_second_run_reads_no_audio(clips, tmp_path, no_decoding, monkeypatch, workers):
    first = load_features(clips, FRONT_END, tmp_path / "cache", workers=workers)
    no_decoding()
    # Not even to hash it.
    monkeypatch.setattr(cache, "_state", lambda path: pytest.fail(f"{path} was read"))
    np.testing.assert_array_equal(load_features(clips, FRONT_END, tmp_path / "cache"), first)


def test_normalization_is_not_in_the_key(clips, tmp_path, no_decoding):
    first = load_features(clips, FRONT_END, tmp_path / "cache")
    no_decoding()
    normal = FRONT_END.with_normalization(np.full(16, 2.0), np.ones(16))
    np.testing.assert_array_equal(load_features(clips, normal, tmp_path / "cache"), first)


def test_two_front_ends_differ(clips, tmp_path):
    other = FrontEnd(**{**FRONT_END.to_dict(), "band_scale": (), "band_offset": (), "fmax": 3000.0})
    assert front_end_key(other) != front_end_key(FRONT_END)
    first = load_features(clips, FRONT_END, tmp_path / "cache")
    second = load_features(clips, other, tmp_path / "cache")
    assert np.abs(first - second).max() > 1
    np.testing.assert_array_equal(load_features(clips, FRONT_END, tmp_path / "cache"), first)
    assert len(entries(tmp_path / "cache")) == 48


def test_changed_content_is_computed_again(clips, tmp_path):
    first = load_features(clips, FRONT_END, tmp_path / "cache")
    size = clips[3].path.stat().st_size
    soundfile.write(clips[3].path, 0.5 * np.sin(np.arange(800)), 8000)
    assert clips[3].path.stat().st_size == size
    second = load_features(clips, FRONT_END, tmp_path / "cache")
    changed = [i for i in range(24) if not np.array_equal(first[i], second[i])]
    assert changed == [3]
    np.testing.assert_array_equal(second[3], log_mel(fit_length(read_audio(clips[3].path, 8000), 1000), FRONT_END))


def test_moved_or_touched_files_are_hashed_but_not_decoded(clips, tmp_path, tau_root, no_decoding):
    first = load_features(clips, FRONT_END, tmp_path / "cache")
    no_decoding()
    os.utime(clips[0].path, ns=(0, 0))
    np.testing.assert_array_equal(load_features(clips, FRONT_END, tmp_path / "cache"), first)
    tau_root.rename(tmp_path / "moved")
    moved = load_table("tau2020", tmp_path / "moved").clips
    np.testing.assert_array_equal(load_features(moved, FRONT_END, tmp_path / "cache"), first)


def test_equal_files_share_one_entry(tmp_path):
    for name in "ab":
        soundfile.write(tmp_path / f"{name}.wav", np.zeros(800), 8000)
    twins = [Clip(tmp_path / f"{name}.wav", "s", "", name, 1) for name in "ab"]
    load_features(twins, FRONT_END, tmp_path / "cache")
    assert len(entries(tmp_path / "cache")) == 1


def flip_a_bit(data: bytes) -> bytes:
    at = len(data) // 2
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:3],
        lambda data: data[:100],
        lambda data: data[:-1],
        flip_a_bit,
        lambda data: b"x" * 99,
    ],
    ids=["empty", "3 bytes", "100 bytes", "one byte short", "one bit", "other bytes"],
)
def test_a_damaged_entry_is_computed_again(clips, tmp_path, damage):
    first = load_features(clips, FRONT_END, tmp_path / "cache")
    victim = entries(tmp_path / "cache")[5]
    whole = victim.read_bytes()
    victim.write_bytes(damage(whole))
    np.testing.assert_array_equal(load_features(clips, FRONT_END, tmp_path / "cache"), first)
    assert victim.read_bytes() == whole


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b'{"version": 1, "files": {"a": 3}}', b'{"version": 0}'])
def test_a_lost_or_damaged_index_costs_no_decoding(clips, tmp_path, no_decoding, content):
    first = load_features(clips, FRONT_END, tmp_path / "cache")
    index = tmp_path / "cache/index.json"
    index.unlink() if content is None else index.write_bytes(content)
    no_decoding()
    np.testing.assert_array_equal(load_features(clips, FRONT_END, tmp_path / "cache"), first)
    assert len(json.loads(index.read_bytes())["files"]) == 24


def test_an_entry_is_an_npy_file(clips, tmp_path):
    load_features(clips, FRONT_END, tmp_path / "cache")
    mel = np.load(entries(tmp_path / "cache")[0], mmap_mode="r", allow_pickle=False)
    assert mel.shape == FRONT_END.shape


def test_a_run_that_stops_half_way_is_taken_up(clips, tmp_path, monkeypatch):
    decoded = []

    def count(path, rate, **options):
        decoded.append(path)
        if len(decoded) == 10:
            raise KeyboardInterrupt
        return read_audio(path, rate, **options)

    monkeypatch.setattr(cache, "read_audio", count)
    with pytest.raises(KeyboardInterrupt):
        load_features(clips, FRONT_END, tmp_path / "cache", workers=1)
    assert len(entries(tmp_path / "cache")) == 9
    load_features(clips, FRONT_END, tmp_path / "cache", workers=1)
    assert len(decoded) == 10 + 15


def test_two_processes_at_once(clips, tau_root, tmp_path):
    code = (
        "from tinyasc.data import load_table; from tinyasc.data.cache import load_features; "
        "from tinyasc.frontend import FrontEnd; "
        f"fe = FrontEnd.from_dict({FRONT_END.to_dict()!r}); "
        f"clips = load_table('tau2020', {str(tau_root)!r}).clips; "
        f"print(load_features(clips, fe, {str(tmp_path / 'cache')!r}).sum())"
    )
    runs = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) for _ in range(3)]
    outputs = {run.communicate(timeout=60)[0] for run in runs}
    assert all(run.returncode == 0 for run in runs) and len(outputs) == 1
    assert len(entries(tmp_path / "cache")) == 24
    assert not list((tmp_path / "cache/tmp").iterdir())


def test_leftovers_of_a_killed_run_are_removed(tmp_path):
    folder = tmp_path / "cache/tmp"
    folder.mkdir(parents=True)
    for name, age in (("old", 7200), ("new", 0)):
        (folder / name).touch()
        now = (folder / name).stat().st_mtime
        os.utime(folder / name, (now - age, now - age))
    FeatureCache(tmp_path / "cache")
    assert [path.name for path in folder.iterdir()] == ["new"]


@pytest.mark.parametrize("workers", [1, 2])
def test_progress(clips, tmp_path, workers):
    calls = []
    for _ in range(2):
        load_features(clips, FRONT_END, tmp_path / "cache", lambda *call: calls.append(call), workers=workers)
    assert calls == 2 * [(i, 24) for i in range(1, 25)]


def test_no_clips(tmp_path):
    assert load_features([], FRONT_END, tmp_path / "cache").shape == (0, *FRONT_END.shape)


def test_one_bad_file_gives_its_line(clips, tmp_path):
    clips[4].path.write_text("no sound")
    with pytest.raises(InputError) as caught:
        load_features(clips, FRONT_END, tmp_path / "cache")
    assert str(caught.value).startswith(f"{clips[4].path}: no audio file")
    # The others are there already.
    assert len(entries(tmp_path / "cache")) == 23


@pytest.mark.parametrize("workers", [1, 2])
def test_several_bad_files_are_counted(clips, tmp_path, workers):
    for i in (1, 5, 6, 9, 20):
        clips[i].path.write_bytes(b"")
    clips[6].path.unlink()
    with pytest.raises(InputError) as caught:
        load_features(clips, FRONT_END, tmp_path / "cache", workers=workers)
    message = str(caught.value)
    assert message.startswith("5 of 24 audio files cannot be used: ") and message.endswith("; and 2 more")
    assert all(str(clips[i].path) in message for i in (1, 5, 6))
    assert "\n" not in message and str(clips[9].path) not in message


def test_a_file_that_changes_while_it_is_read(clips, tmp_path, monkeypatch):
    def read_and_touch(path, rate, **options):
        samples = read_audio(path, rate, **options)
        os.utime(path, ns=(1, 1))
        return samples

    monkeypatch.setattr(cache, "read_audio", read_and_touch)
    with pytest.raises(InputError, match="changed while it was read"):
        load_features(clips[:1], FRONT_END, tmp_path / "cache")
    assert not entries(tmp_path / "cache")


def test_a_full_disk(clips, tmp_path, monkeypatch):
    def full(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(TinyascError, match=r"No space left on device.*free some space") as caught:
        load_features(clips, FRONT_END, tmp_path / "cache", workers=2)
    assert caught.value.exit_code == 1
    assert not list((tmp_path / "cache/tmp").iterdir())


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "cache").touch()
    with pytest.raises(TinyascError, match="cannot hold the feature cache"):
        FeatureCache(tmp_path / "cache")


def test_real_clips(shared_audio, tmp_path, no_decoding):
    clips = load_table("esc10", shared_audio / "esc10").clips[:20]
    front_end = FrontEnd()
    first = load_features(clips, front_end, tmp_path / "cache")
    assert first.shape == (20, 1, 64, 155) and np.isfinite(first).all()
    no_decoding()
    np.testing.assert_array_equal(load_features(clips, front_end, tmp_path / "cache"), first)
