import numpy as np
import pytest
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyasc.errors import InputError
from tinyasc.infer.streaming import Resampler, Windows


def cut(samples, sizes):
    """The samples in pieces of the sizes, taken in turn."""
    at = turn = 0
    while at < len(samples):
        size = sizes[turn % len(sizes)]
        yield samples[at : at + size]
        at, turn = at + size, turn + 1


@settings(max_examples=200, deadline=None)
@given(
    total=st.integers(0, 200),
    length=st.integers(1, 30),
    hop=st.integers(1, 50),
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=5),
    sides=st.integers(1, 2),
    start=st.integers(0, 1000),
)
def test_windows_are_slices_of_the_recording_for_any_chunking(total, length, hop, sizes, sides, start):
    samples = np.arange(total * sides, dtype=np.float32).reshape(total, sides) + 1
    windows = Windows(sides, length, hop)
    windows.restart(start)
    found = []
    for piece in cut(samples, sizes):
        for _ in windows.push(piece):
            found.append((windows.position, windows.window()))
    ends = list(range(length, total + 1, hop))
    assert [end - start for end, _ in found] == ends
    for end, (_, window) in zip(ends, found, strict=True):
        np.testing.assert_array_equal(window, samples[end - length : end].T)
    assert windows.position == start + total and windows.held == min(total, length)
    np.testing.assert_array_equal(windows.window(), samples[max(0, total - length) :].T)


def test_a_window_is_a_copy():
    windows = Windows(1, 3, 3)
    list(windows.push(np.ones((3, 1), np.float32)))
    windows.window()[:] = 7
    assert windows.window().tolist() == [[1, 1, 1]]


@pytest.mark.parametrize("sides", [1, 2])
@pytest.mark.parametrize(("from_rate", "to_rate"), [(48000, 32000), (44100, 32000), (8000, 32000)])
def test_pieces_are_resampled_without_a_seam(from_rate, to_rate, sides, rng):
    samples = rng.normal(0, 0.1, (20000, sides)).astype(np.float32)
    stream = Resampler(from_rate, to_rate, sides)
    parts = [stream.push(piece) for piece in cut(samples, [4800, 1, 333])]
    parts.append(stream.push(samples[:0], last=True))
    got = np.concatenate(parts)
    expected = soxr.resample(samples, from_rate, to_rate, quality="HQ")
    assert abs(len(got) - len(expected)) <= 1
    n = min(len(got), len(expected))
    # The same filter; soxr computes it in blocks that lie elsewhere, which rounds otherwise: 24 bits are 6e-8.
    np.testing.assert_allclose(got[:n], expected[:n], atol=1e-6)


def test_the_same_rate_passes_as_it_is(rng):
    samples = rng.normal(0, 1, (100, 1)).astype(np.float32)
    assert Resampler(8000, 8000, 1).push(samples) is samples


def test_rates_that_soxr_refuses_are_one_line():
    with pytest.raises(InputError, match="cannot be resampled from 768000 to 0 Hz"):
        Resampler(768000, 0, 1)
