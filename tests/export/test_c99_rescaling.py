"""How C brings a sum to another scale, held against the reference's arithmetic at the ends of every range."""

from __future__ import annotations

from importlib import resources

import numpy as np
import pytest
from c_program import build, run, sanitizers

from tinyasc_export import c99, rounding

HELPERS = ("tflite", "tflite_any", "single", "single_any", "wide")
MAIN = """#include <stdio.h>
{includes}
int main(void)
{{
    int64_t in[4];
    while (fread(in, sizeof in, 1, stdin) == 1) {{
        int32_t y = 0;
        switch (in[0]) {{
{cases}
        default: return 1;
        }}
        if (fwrite(&y, sizeof y, 1, stdout) != 1) return 1;
    }}
    return 0;
}}
"""


@pytest.fixture(scope="module")
def rescaled(tmp_path_factory):
    """A function (helper, x, multiplier, shift) -> what C answers, a program per helper."""
    if not sanitizers():
        pytest.skip("no compiler here links the address and undefined-behaviour sanitisers")
    programs = {}
    for i, name in enumerate(HELPERS):
        kernels = resources.files(c99) / "kernels"
        header = f"tinyasc_requantize_{name}.h"
        x = "in[1]" if name == "wide" else "(int32_t)in[1]"
        case = f"        case {i}: y = tinyasc_requantize_{name}({x}, (int32_t)in[2], (int32_t)in[3]); break;"
        files = {
            header: (kernels / header.removeprefix("tinyasc_")).read_text(),
            "main.c": MAIN.format(includes=f'#include "{header}"', cases=case),
        }
        programs[name] = build(files, tmp_path_factory.mktemp(name), list(sanitizers()))

    def answer(name: str, x: np.ndarray, multiplier: np.ndarray, shift: np.ndarray) -> np.ndarray:
        rows = np.stack([np.full(x.shape, HELPERS.index(name)), x, multiplier, shift], axis=1).astype(np.int64)
        return np.frombuffer(run(programs[name], rows.tobytes()), np.int32)

    return answer


def triples(rng: np.random.Generator, most_shift: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sums of every size, at halves and at the ends, with multipliers of 31 bits; no intermediate leaves 32 bits."""
    n = 30_000
    shift = rng.integers(-31, most_shift + 1, n)
    multiplier = np.concatenate(
        [rng.integers(1 << 30, 1 << 31, n - 200), np.full(100, 1 << 30), np.full(100, 2**31 - 1)]
    )
    room = 2**31 - 1 >> np.maximum(shift, 0)
    x = rng.integers(-room, room + 1) >> rng.integers(0, 31, n)
    x[:4000] = np.where(rng.random(4000) < 0.5, room[:4000], -room[:4000])
    # Multiples of half a step, where the roundings part.
    multiplier[4000:9000] = 1 << 30
    x[4000:9000] = np.clip(
        rng.integers(-9, 10, 5000) << np.clip(-shift[4000:9000], 0, 27), -room[4000:9000], room[4000:9000]
    )
    return x, multiplier, shift


@pytest.mark.parametrize(
    ("name", "most_shift"), [("tflite", -1), ("tflite_any", 20), ("single", -2), ("single_any", 0)]
)
def test_sums_of_32_bits(rescaled, name, most_shift):
    x, multiplier, shift = triples(np.random.default_rng(1), most_shift)
    expected = rounding.ROUNDINGS[name.removesuffix("_any")](x, multiplier, shift)
    np.testing.assert_array_equal(rescaled(name, x, multiplier, shift), expected)


def test_single_rounding_by_factors_above_one(rescaled):
    rng = np.random.default_rng(2)
    shift = rng.integers(1, 21, 20_000)
    x, multiplier = rng.integers(-(2**31), 2**31, 20_000) >> (shift + 1), rng.integers(1 << 30, 1 << 31, 20_000)
    expected = rounding.scale_once(x, multiplier, shift)
    np.testing.assert_array_equal(rescaled("single_any", x, multiplier, shift), expected)


def test_sums_of_64_bits(rescaled):
    rng = np.random.default_rng(3)
    shift = rng.integers(-31, 8, 30_000)
    multiplier = rng.integers(1 << 30, 1 << 31, 30_000)
    # The largest sum whose result fits 32 bits, and no more than 47.
    room = np.minimum(2**46, 2.0 ** (30 - shift)).astype(np.int64)
    x = rng.integers(-room, room + 1) >> rng.integers(0, 46, 30_000)
    x[:3000] = room[:3000]
    actual = rescaled("wide", x, rounding.reduced_multiplier(multiplier), 15 - shift)
    np.testing.assert_array_equal(actual, rounding.scale_wide(x, multiplier, shift))
