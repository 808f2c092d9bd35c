"""The named roundings against exact integer arithmetic in Python's unbounded ints."""

import math
from fractions import Fraction

import numpy as np
import pytest
from graphs import INT16_KINDS, KINDS, nets, quantize_features, small_student
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyasc_export import reference, rounding
from tinyasc_export.errors import GraphError
from tinyasc_export.quantize import calibrate, quantize_int8, quantize_int16x8

INT32 = st.integers(-(1 << 31), (1 << 31) - 1)
MULTIPLIER = st.integers(1 << 30, (1 << 31) - 1)


@settings(max_examples=500)
@given(INT32, MULTIPLIER, st.integers(-31, 30))
def test_single_is_one_rounding_of_the_exact_product(x, multiplier, shift):
    exact = Fraction(x * multiplier, 1 << (31 - shift))
    assert int(rounding.scale_once(np.int64(x), multiplier, shift)) == math.floor(exact + Fraction(1, 2))


@settings(max_examples=500)
@given(INT32, MULTIPLIER, st.integers(33, 62))
def test_single_needs_only_the_high_half(x, multiplier, total):
    """What a Cortex-M does with SMMUL, ADD and ASR."""
    high = (x * multiplier) >> 32
    assert int(rounding.scale_once(np.int64(x), multiplier, 31 - total)) == (high + (1 << (total - 33))) >> (total - 32)


@settings(max_examples=800)
@given(st.data(), MULTIPLIER, st.integers(-31, 12))
def test_the_roundings_differ_by_at_most_one(data, multiplier, shift):
    most = (1 << (31 - max(shift, 0))) - 1  # what a left shift leaves inside 32 bits
    # Values near a half of the result's unit, where roundings part, as well as any.
    unit = 2.0 ** (31 - shift) / multiplier
    near = st.integers(-1000, 1000).map(lambda n: max(-most, min(most, round((n + 0.5) * unit))))
    x = data.draw(st.integers(-most, most) | near)
    once, twice = (int(f(np.int64(x), multiplier, shift)) for f in (rounding.scale_once, rounding.scale))
    assert abs(once - twice) <= 1


def test_the_roundings_do_differ():
    x = np.arange(-10000, 10000)
    assert np.any(rounding.scale_once(x, 3 << 29, -6) != rounding.scale(x, 3 << 29, -6))


@settings(max_examples=500)
@given(st.integers(-(1 << 47), (1 << 47) - 1), MULTIPLIER, st.integers(-31, 7))
def test_wide_is_one_rounding_with_sixteen_bits(x, multiplier, shift):
    reduced = min((multiplier + (1 << 15)) >> 16, 0x7FFF)
    exact = Fraction(x * reduced, 1 << (15 - shift))
    assert int(rounding.scale_wide(np.int64(x), multiplier, shift)) == math.floor(exact + Fraction(1, 2))


# Requantisations on the way to one output value: both inputs and the sum of an addition, one elsewhere.
MOST_STEPS = {"add": 3}


@pytest.mark.parametrize(
    ("kind", "quantize"),
    [(kind, quantize_int8) for kind in KINDS if kind not in ("hardswish", "gate")]
    + [(kind, quantize_int16x8) for kind in INT16_KINDS if kind != "gate"],
)
def test_single_stays_within_one_unit_per_requantisation(kind, quantize):
    @settings(max_examples=15, deadline=None, database=None)
    @given(nets(most=1, kinds=(kind,)))
    def check(net):
        x = net.features(2)
        graph = quantize(net.graph, calibrate(net.graph, x))
        once, twice = (reference.run_all(graph, quantize_features(graph, x), rounding=r) for r in ("single", "tflite"))
        for op in graph.ops:
            steps = np.abs(once[op.output].astype(int) - twice[op.output].astype(int)).max()
            assert steps <= MOST_STEPS.get(op.kind, 1), f"{op.kind} by {steps}\n{graph}"
            if steps:
                break  # what follows reads other inputs

    check()


@pytest.mark.parametrize("quantize", [quantize_int8, quantize_int16x8])
def test_a_student_in_single(quantize):
    net = small_student(gate="relu")
    x = net.features(16)
    graph = quantize(net.graph, calibrate(net.graph, x))
    q = quantize_features(graph, x)
    once, twice = (reference.run(graph, q, rounding=r).astype(int) for r in ("single", "tflite"))
    assert 0 < np.abs(once - twice).max() <= 4


def test_other_roundings_are_refused():
    net = small_student()
    graph = quantize_int8(net.graph, calibrate(net.graph, net.features()))
    with pytest.raises(GraphError, match="'tflite', 'single'"):
        reference.run(graph, quantize_features(graph, net.features()), rounding="double")
