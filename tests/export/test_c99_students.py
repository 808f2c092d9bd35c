"""Every student family in C: int8 and int16x8, both roundings, bit for bit the numpy reference."""

from __future__ import annotations

import numpy as np
import pytest
from c_program import Trial, check, sanitizers
from graphs import quantize_features
from students import AT_INT16, INT8_ALONE, OPTIONS, Exported, narrow, s4

from tinyasc_export.c99 import to_c
from tinyasc_export.quantize import calibrate, quantize_int16x8


@pytest.mark.timeout(900)
def test_every_student(tmp_path):
    """Clips, and integers over the whole range, in one program."""
    if not sanitizers():
        pytest.skip("no compiler here links the address and undefined-behaviour sanitisers")
    rng = np.random.default_rng(4)
    trials = []
    for family, full in OPTIONS.values():
        options = narrow(family, full)
        student = Exported(family, options)
        noise = rng.integers(-128, 128, student.integers[:1].shape).astype(np.int8)
        clips = np.concatenate([student.integers[:2], noise])
        trials += [Trial(student.int8, rounding, clips) for rounding in ("tflite", "single")]
        if family in INT8_ALONE:
            continue
        if set(AT_INT16.get(family, {})) - set(options):
            student = Exported(family, options | AT_INT16[family])
        features = student.features.astype(np.float32)
        graph = quantize_int16x8(student.graph, calibrate(student.graph, features))
        noise = rng.integers(-32768, 32768, features[:1].shape).astype(np.int16)
        clips = np.concatenate([quantize_features(graph, features[:2]), noise])
        trials += [Trial(graph, rounding, clips) for rounding in ("tflite", "single")]
    check(trials, tmp_path, list(sanitizers()), "-O1")


def test_s4_at_64_x_44_fits_its_marks():
    """The arena of the plan with the kernels' scratch memory in it, and constants that are hardly more than weights."""
    _, graph, _ = s4()
    source = to_c(graph)
    assert source.arena_bytes <= 190 * 1024
    assert source.constant_bytes <= 92_000
