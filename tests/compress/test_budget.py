from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyasc.compress.budget import UNITS, parse_budget
from tinyasc.errors import InputError


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("128KB", 131072),
        ("128kB", 128000),
        ("131072", 131072),
        ("131072B", 131072),
        ("0.125MB", 131072),
        (".125MB", 131072),
        ("128KiB", 131072),
        ("0.125MiB", 131072),
        ("128 KB", 131072),
        ("  128KB\n", 131072),
        ("128.KB", 131072),
        ("1", 1),
        ("1.0", 1),
        ("0.5KB", 512),
        ("0128KB", 131072),
        # Not whole in floating point: 1.001 * 1000 = 1000.9999999999999.
        ("1.001kB", 1001),
        ("2.01kB", 2010),
        ("1048576MB", 2**40),
    ],
)
def test_sizes(text, size):
    budget = parse_budget(text)
    assert budget.bytes == size and type(budget.bytes) is int
    assert budget.text == text.strip()


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "KB", "-1KB", "+1KB", "0", "0KB", "0.0MB", "1e3", "1e3KB", "nan", "inf", "128 XB", "128kb", "128mb",
        "128Kb", "128 K B", "128K", "128GB", "0.3B", "0.3", "0.1KB", "1.0005kB", "1,5KB", "1.2.3KB", "0x10", "128KB!",
        "12 8KB", "1_000", "²KB", "１２８KB", "128ＫＢ", "٣KB", ".", ".KB", "1048577MB", "9" * 19, "9" * 400,
        "9" * 5000, "0." + "0" * 400 + "1KB", "--", "128KB\x00",
    ],
)  # fmt: skip
def test_nonsense(text):
    with pytest.raises(InputError) as caught:
        parse_budget(text)
    assert "\n" not in str(caught.value)
    assert repr(text) in str(caught.value)


@given(st.integers(1, 10**9), st.sampled_from(sorted(UNITS)), st.integers(0, 3))
def test_whole_sizes_are_exact_however_they_are_written(size, unit, decimals):
    value = Fraction(size, 10**decimals)
    whole = value * UNITS[unit]
    text = f"{size // 10**decimals}.{size % 10**decimals:0{decimals}d}{unit}" if decimals else f"{size}{unit}"
    if whole.denominator == 1 and 1 <= whole <= 2**40:
        assert parse_budget(text).bytes == whole
    else:
        with pytest.raises(InputError):
            parse_budget(text)
