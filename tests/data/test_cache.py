from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tinyasc.audio import read_audio, read_segments
from tinyasc.data import Clip, cache, extract, load_table
from tinyasc.data.cache import load_features, sample_rates
from tinyasc.data.extract import front_end_key
from tinyasc.errors import InputError, TinyascError
from tinyasc.frontend import FrontEnd, features, fit_length

FRONT_END = FrontEnd(sample_rate=8000, clip_samples=1000, n_fft=256, win_length=256, hop_length=128, n_mels=16)
SHAPE = (1, 16, FRONT_END.n_frames())


@pytest.fixture
def clips(tau_root) -> tuple[Clip, ...]:
    return load_table("tau2020", tau_root).clips


@pytest.fixture
def no_decoding(monkeypatch):
    """Turns on, when called, a refusal to decode any audio."""

    def refuse(path, _rate, _segments, **_options):
        raise AssertionError(f"{path} was decoded")

    return lambda: monkeypatch.setattr(extract, "read_segments", refuse)


def store_of(folder: Path, front_end: FrontEnd = FRONT_END) -> Path:
    return folder / front_end_key(front_end)


def n_rows(folder: Path) -> int:
    return (store_of(folder) / "keys").stat().st_size // 20


@pytest.mark.parametrize("workers", [None, 1, 2, 5])
def test_equals_the_front_end(clips, tmp_path, workers):
    found = load_features(clips, FRONT_END, tmp_path / "cache", workers=workers)
    assert found.shape == (24, *SHAPE) and found.dtype == np.float32
    for clip, row in zip(clips, found, strict=True):
        np.testing.assert_array_equal(row, features(fit_length(read_audio(clip.path, 8000), 1000), FRONT_END))


def test_a_large_set_is_mapped_and_not_read(clips, tmp_path):
    first = load_features(clips, FRONT_END, tmp_path / "cache", workers=2)
    assert isinstance(first, np.memmap) and isinstance(
        load_features(clips[3:9], FRONT_END, tmp_path / "cache"), np.memmap
    )
    # In another order they are copied.
    back = load_features(clips[::-1], FRONT_END, tmp_path / "cache")
    assert not isinstance(back, np.memmap)
    np.testing.assert_array_equal(back, first[::-1])


def test_writing_to_the_array_changes_no_file(clips, tmp_path):
    first = load_features(clips, FRONT_END, tmp_path / "cache")
    kept, rows = first.copy(), store_of(tmp_path / "cache") / "rows"
    before = rows.read_bytes()
    first[:] = 0
    assert isinstance(first, np.memmap)
    first.flush()
    assert rows.read_bytes() == before
    np.testing.assert_array_equal(load_features(clips, FRONT_END, tmp_path / "cache"), kept)


@pytest.mark.parametrize(
    "changes", [{"stereo": True}, {"deltas": 2}, {"stereo": True, "deltas": 1, "log": False}], ids=str
)
def test_several_channels(clips, tmp_path, rng, changes):
    front_end, stereo = dataclasses.replace(FRONT_END, clip_samples=2000, **changes), "stereo" in changes
    for clip in clips:
        soundfile.write(clip.path, 0.1 * rng.standard_normal((2500, 2)), 8000)
    found = load_features(clips, front_end, tmp_path / "cache")
    assert found.shape == (24, *front_end.shape) and front_end.channels > 1
    for clip, row in zip(clips, found, strict=True):
        samples = fit_length(read_audio(clip.path, 8000, stereo=stereo), 2000)
        np.testing.assert_array_equal(row, features(samples, front_end))


def test_a_mono_file_is_named_where_stereo_is_wanted(clips, tmp_path):
    front_end = dataclasses.replace(FRONT_END, stereo=True)
    with pytest.raises(InputError, match=r"24 of 24 audio files .*: \S+\.wav: stereo is wanted and its channels are 1"):
        load_features(clips, front_end, tmp_path / "cache")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_second_run_reads_no_audio(clips, tmp_path, no_decoding, monkeypatch, workers):
    first = load_features(clips, FRONT_END, tmp_path / "cache", workers=workers)
    no_decoding()
    # Not even to hash it.
    monkeypatch.setattr(extract, "file_state", lambda path: pytest.fail(f"{path} was read"))
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


def test_changed_content_is_computed_again(clips, tmp_path):
    first = load_features(clips, FRONT_END, tmp_path / "cache").copy()
    size = clips[3].path.stat().st_size
    soundfile.write(clips[3].path, 0.5 * np.sin(np.arange(800)), 8000)
    assert clips[3].path.stat().st_size == size
    second = load_features(clips, FRONT_END, tmp_path / "cache")
    assert [i for i in range(24) if not np.array_equal(first[i], second[i])] == [3]
    samples = fit_length(read_audio(clips[3].path, 8000), 1000)
    np.testing.assert_array_equal(second[3], features(samples, FRONT_END))


def test_moved_or_touched_files_are_hashed_but_not_decoded(clips, tmp_path, tau_root, no_decoding):
    first = load_features(clips, FRONT_END, tmp_path / "cache")
    no_decoding()
    os.utime(clips[0].path, ns=(0, 0))
    np.testing.assert_array_equal(load_features(clips, FRONT_END, tmp_path / "cache"), first)
    tau_root.rename(tmp_path / "moved")
    moved = load_table("tau2020", tmp_path / "moved").clips
    np.testing.assert_array_equal(load_features(moved, FRONT_END, tmp_path / "cache"), first)


def test_files_of_one_size_and_time_that_swap_names(clips, tmp_path):
    one, two = clips[0].path, clips[2].path
    for path in (one, two):
        os.utime(path, ns=(10**18, 10**18))
    assert one.stat().st_size == two.stat().st_size
    first = load_features(clips, FRONT_END, tmp_path / "cache").copy()
    assert not np.array_equal(first[0], first[2])
    one.rename(tmp_path / "x")
    two.rename(one)
    (tmp_path / "x").rename(two)
    assert one.stat().st_mtime_ns == two.stat().st_mtime_ns == 10**18
    second = load_features(clips, FRONT_END, tmp_path / "cache")
    np.testing.assert_array_equal(second[[2, 0]], first[[0, 2]])


def test_a_file_that_was_written_over_with_its_old_time_put_back(clips, tmp_path):
    # As some copying tools do: size, time and inode are equal, and only the inode's own time has moved on.
    path = clips[0].path
    first, before = load_features(clips, FRONT_END, tmp_path / "cache").copy(), path.stat()
    soundfile.write(path, soundfile.read(path)[0][::-1] * 0.5, 8000)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    now = path.stat()
    assert (now.st_size, now.st_mtime_ns, now.st_ino) == (before.st_size, before.st_mtime_ns, before.st_ino)
    second = load_features(clips, FRONT_END, tmp_path / "cache")
    assert [i for i in range(24) if not np.array_equal(first[i], second[i])] == [0]


def test_rates_are_noted_while_files_are_read(clips, tmp_path, no_decoding, monkeypatch):
    soundfile.write(clips[3].path, np.full(1600, 0.1), 16000)
    load_features(clips, FRONT_END, tmp_path / "cache")
    no_decoding()
    monkeypatch.setattr(extract, "read_info", lambda path: pytest.fail(f"{path} was opened"))
    load_features(clips, FRONT_END, tmp_path / "cache")
    assert sample_rates(clips, tmp_path / "cache") == {8000: 23, 16000: 1}
    assert sample_rates([*clips[:3], clips[0]], tmp_path / "cache") == {8000: 3}


def test_the_index_of_an_older_version_knows_no_rates_and_costs_no_hashing(clips, tmp_path, monkeypatch):
    first = load_features(clips, FRONT_END, tmp_path / "cache")
    index = tmp_path / "cache/index.json"
    older = {path: [mark, content] for path, (mark, content, _) in json.loads(index.read_bytes())["files"].items()}
    index.write_text(json.dumps({"files": older}))
    monkeypatch.setattr(extract, "file_state", lambda path: pytest.fail(f"{path} was read"))
    np.testing.assert_array_equal(load_features(clips, FRONT_END, tmp_path / "cache"), first)
    assert not sample_rates(clips, tmp_path / "cache")


def test_equal_files_share_one_row(tmp_path):
    for name in "ab":
        soundfile.write(tmp_path / f"{name}.wav", np.zeros(800), 8000)
    twins = [Clip(tmp_path / f"{name}.wav", "s", "", name, 1) for name in "ab"]
    assert load_features(twins, FRONT_END, tmp_path / "cache").shape == (2, *SHAPE)
    assert n_rows(tmp_path / "cache") == 1


def flip_a_bit(data: bytes) -> bytes:
    at = len(data) // 2
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize("file", ["rows", "keys"])
@pytest.mark.parametrize(
    "damage",
    [lambda data: b"", lambda data: data[:3], lambda data: data[:100], lambda data: data[:-1], flip_a_bit],
    ids=["empty", "3 bytes", "100 bytes", "one byte short", "one bit"],
)
def test_damage_is_mended(clips, tmp_path, file, damage):
    first = load_features(clips, FRONT_END, tmp_path / "cache").copy()
    victim = store_of(tmp_path / "cache") / file
    victim.write_bytes(damage(victim.read_bytes()))
    np.testing.assert_array_equal(load_features(clips, FRONT_END, tmp_path / "cache"), first)
    np.testing.assert_array_equal(load_features(clips, FRONT_END, tmp_path / "cache"), first)


def test_one_damaged_row_is_decoded_alone(clips, tmp_path, monkeypatch):
    load_features(clips, FRONT_END, tmp_path / "cache")
    rows = store_of(tmp_path / "cache") / "rows"
    whole = rows.read_bytes()
    rows.write_bytes(flip_a_bit(whole))
    decoded = []

    def count(path, rate, segments, **options):
        decoded.append(path)
        return read_segments(path, rate, segments, **options)

    monkeypatch.setattr(extract, "read_segments", count)
    load_features(clips, FRONT_END, tmp_path / "cache")
    assert decoded == [clips[12].path] and rows.read_bytes() == whole


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b'{"files": {"a": 3}}', b'{"version": 0}'])
def test_a_lost_or_damaged_index_costs_no_decoding(clips, tmp_path, no_decoding, content):
    first = load_features(clips, FRONT_END, tmp_path / "cache")
    index = tmp_path / "cache/index.json"
    index.unlink() if content is None else index.write_bytes(content)
    no_decoding()
    np.testing.assert_array_equal(load_features(clips, FRONT_END, tmp_path / "cache"), first)
    assert len(json.loads(index.read_bytes())["files"]) == 24


@pytest.mark.parametrize("content", [None, b"", b"[]", b'{"shape": 3}'])
def test_a_lost_description_is_written_again(clips, tmp_path, no_decoding, content):
    first = load_features(clips, FRONT_END, tmp_path / "cache")
    file = store_of(tmp_path / "cache") / "shape.json"
    before = file.read_bytes()
    file.unlink() if content is None else file.write_bytes(content)
    no_decoding()
    np.testing.assert_array_equal(load_features(clips, FRONT_END, tmp_path / "cache"), first)
    assert file.read_bytes() == before


def test_a_run_that_stops_half_way_is_taken_up(clips, tmp_path, monkeypatch):
    decoded = []

    def count(path, rate, segments, **options):
        decoded.append(path)
        if len(decoded) == 10:
            raise KeyboardInterrupt
        return read_segments(path, rate, segments, **options)

    monkeypatch.setattr(extract, "read_segments", count)
    with pytest.raises(KeyboardInterrupt):
        load_features(clips, FRONT_END, tmp_path / "cache", workers=1)
    assert n_rows(tmp_path / "cache") == 9
    found = load_features(clips, FRONT_END, tmp_path / "cache", workers=1)
    assert len(decoded) == 10 + 15 and isinstance(found, np.memmap)


def code(root: Path, folder: Path, workers: int) -> str:
    """A program that fills a cache and prints a sum."""
    return (
        "from tinyasc.data import load_table; from tinyasc.data.cache import load_features; "
        "from tinyasc.frontend import FrontEnd; "
        f"fe = FrontEnd.from_dict({FRONT_END.to_dict()!r}); "
        f"clips = load_table('demo', {str(root)!r}).clips; "
        f"print(load_features(clips, fe, {str(folder)!r}, workers={workers}).sum())"
    )


def test_processes_at_once(clips, tau_root, tmp_path):
    program = [sys.executable, "-c", code(tau_root, tmp_path / "cache", 1)]
    runs = [subprocess.Popen(program, stdout=subprocess.PIPE) for _ in range(3)]
    outputs = {run.communicate(timeout=120)[0] for run in runs}
    assert all(run.returncode == 0 for run in runs) and len(outputs) == 1
    assert n_rows(tmp_path / "cache") == 24


def workers_of(parent: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == parent:
                found.append(int(entry.name))
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc to see worker processes in")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_run_is_taken_up_and_leaves_no_workers(write_tau, tmp_path, monkeypatch, how):
    root = write_tau(tmp_path / "many", scenes=("bus", "park", "tram"), locations=60, seconds=1)
    folder = tmp_path / "cache"
    # Its own group, as a shell gives it: a signal that is sent to pytest's would end pytest.
    program = [sys.executable, "-c", "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "]
    program[2] += code(root, folder, 2)
    run = subprocess.Popen(program, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True)
    keys = store_of(folder) / "keys"
    until = time.monotonic() + 60
    while not (keys.exists() and keys.stat().st_size >= 400) and time.monotonic() < until:
        time.sleep(0.005)
    children = workers_of(run.pid)
    run.send_signal(how)
    assert run.wait(timeout=60) != 0
    stored = n_rows(folder)
    total = len(load_table("demo", root).clips)
    assert len(children) == 2 and 20 <= stored < total
    while any(map(alive, children)) and time.monotonic() < until:
        time.sleep(0.02)
    assert not any(map(alive, children))

    decoded = []

    def count(path, rate, segments, **options):
        decoded.append(path)
        return read_segments(path, rate, segments, **options)

    monkeypatch.setattr(extract, "read_segments", count)
    clips = load_table("demo", root).clips
    found = load_features(clips, FRONT_END, folder, workers=1)
    assert len(decoded) == total - stored and n_rows(folder) == total and isinstance(found, np.memmap)
    np.testing.assert_array_equal(found, load_features(clips, FRONT_END, tmp_path / "other"))


def test_a_second_process_waits_and_says_so(clips, tmp_path, capfd):
    store = extract.open_store(store_of(tmp_path / "cache"), FRONT_END)
    program = code(clips[0].path.parent.parent, tmp_path / "cache", 1)
    with store.writing():
        run = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
        assert run.stderr is not None
        assert b"another process fills this feature cache; waiting for it" in run.stderr.readline()
        assert run.poll() is None
    assert run.wait(timeout=60) == 0
    run.stderr.close()
    assert n_rows(tmp_path / "cache") == 24


@pytest.mark.parametrize("workers", [1, 2])
def test_progress(clips, tmp_path, workers):
    calls = []
    load_features(clips, FRONT_END, tmp_path / "cache", lambda *call: calls.append(call), workers=workers)
    assert calls == [(i, 24) for i in range(1, 25)]
    calls.clear()
    load_features(clips, FRONT_END, tmp_path / "cache", lambda *call: calls.append(call), workers=workers)
    assert calls == [(24, 24)]


def test_no_clips(tmp_path):
    assert load_features([], FRONT_END, tmp_path / "cache").shape == (0, *SHAPE)


def test_an_index_that_another_process_wrote_without_ours(clips, tmp_path, monkeypatch):
    """Its lock is the front end's, so two front ends may each write the index without the other's files."""
    real = cache.write_atomic

    def overwritten(path, content):
        real(path, '{"files": {}}')

    monkeypatch.setattr(cache, "write_atomic", overwritten)
    monkeypatch.setattr(cache, "_SAVE_INDEX_EVERY_S", 0.0)
    first = load_features(clips, FRONT_END, tmp_path / "cache")
    np.testing.assert_array_equal(first, load_features(clips, FRONT_END, tmp_path / "cache"))


def test_a_front_end_that_refuses_a_file_names_it(clips, tmp_path, monkeypatch):
    load_features(clips[:1], FRONT_END, tmp_path / "cache")

    def refuse(_samples, _front_end):
        raise InputError("wants stereo")

    monkeypatch.setattr(extract, "features", refuse)
    with pytest.raises(InputError) as caught:
        load_features(clips[:2], FRONT_END, tmp_path / "cache")
    assert str(caught.value) == f"{clips[1].path}: wants stereo"


def test_one_bad_file_gives_its_line(clips, tmp_path):
    clips[4].path.write_text("no sound")
    with pytest.raises(InputError) as caught:
        load_features(clips, FRONT_END, tmp_path / "cache")
    assert str(caught.value).startswith(f"{clips[4].path}: no audio file")
    # The others are there already.
    assert n_rows(tmp_path / "cache") == 23


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
    def read_and_touch(path, rate, segments, **options):
        parts = read_segments(path, rate, segments, **options)
        os.utime(path, ns=(1, 1))
        return parts

    monkeypatch.setattr(extract, "read_segments", read_and_touch)
    with pytest.raises(InputError, match="changed while it was read"):
        load_features(clips[:1], FRONT_END, tmp_path / "cache")
    assert n_rows(tmp_path / "cache") == 0


def test_a_fault_in_the_front_end_is_no_fault_of_the_cache(clips, tmp_path, monkeypatch):
    def faulty(_samples, _front_end):
        raise ValueError("a fault")

    load_features(clips[:1], FRONT_END, tmp_path / "cache")
    monkeypatch.setattr(extract, "features", faulty)
    with pytest.raises(ValueError, match="a fault"):
        load_features(clips, FRONT_END, tmp_path / "cache")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full to write to")
def test_a_full_disk(clips, tmp_path):
    load_features(clips[:4], FRONT_END, tmp_path / "cache")
    rows = store_of(tmp_path / "cache") / "rows"
    rows.unlink()
    rows.symlink_to("/dev/full")
    with pytest.raises(TinyascError, match=r"No space left on device.*free some space") as caught:
        load_features(clips, FRONT_END, tmp_path / "cache", workers=1)
    assert caught.value.exit_code == 1


def test_a_folder_that_cannot_be_made(clips, tmp_path):
    (tmp_path / "cache").touch()
    with pytest.raises(TinyascError, match="cannot hold the feature cache"):
        load_features(clips, FRONT_END, tmp_path / "cache")


def test_real_clips(shared_audio, tmp_path, no_decoding):
    clips = load_table("esc10", shared_audio / "esc10").clips[:20]
    front_end = FrontEnd()
    first = load_features(clips, front_end, tmp_path / "cache")
    assert first.shape == (20, 1, 64, 155) and np.isfinite(first).all()
    no_decoding()
    np.testing.assert_array_equal(load_features(clips, front_end, tmp_path / "cache"), first)
