"""The front end as a board computes it: from the record to the plan that C and its numpy specifications share.

The record of a model file says `reference`: float64, for training. A board takes `device` (float32, for cores with a
floating-point unit) or `fixed` (integers), both of int16 samples and both ending in the integers of the model's input.
`board_features` gives them here, with a board's bits.
"""

from __future__ import annotations

import numpy as np

from tinyasc.errors import InputError
from tinyasc.frontend import FrontEnd, band_edges, window
from tinyasc_export import frontend_device, frontend_fixed
from tinyasc_export.frontend_plan import FrontEndPlan, mirrored
from tinyasc_export.graph import Graph

BOARD_ARITHMETICS = ("device", "fixed")
FULL_SCALE = 32768


def plan(front_end: FrontEnd, *, step: float, zero_point: int, dtype: str) -> FrontEndPlan:
    """What C needs to know of a front end.

    Args:
        front_end: the record.
        step: scale of the model's integer input.
        zero_point: of the model's input.
        dtype: of the model's input, "int8" or "int16".

    Raises:
        InputError: a front end that C cannot take; it names the field.
    """
    unsupported = (
        (front_end.stereo, "stereo=true", "one channel"),
        (front_end.deltas > 0, f"deltas={front_end.deltas}", "deltas=0"),
        (front_end.center, "center=true", "center=false, as a stream has no sound before its first window"),
        (front_end.pre_emphasis > 0, f"pre_emphasis={front_end.pre_emphasis}", "pre_emphasis=0"),
    )
    for holds, field, instead in unsupported:
        if holds:
            raise InputError(f"the front end in C cannot do {field}; train with {instead}")
    whole = window(front_end)
    half = whole[: front_end.n_fft // 2 + 1]
    if front_end.n_fft % 2 or not np.allclose(mirrored(half), whole, rtol=0, atol=1e-12):
        raise InputError(
            f"the front end in C needs a window that mirrors itself: {front_end.window} of win_length="
            f"{front_end.win_length} in n_fft={front_end.n_fft} does not; train with win_length="
            f"{front_end.n_fft}"
        )
    edges = band_edges(front_end)
    bins = np.arange(front_end.n_fft // 2 + 1) * front_end.sample_rate / front_end.n_fft
    # The last bin is half the sample rate: no triangle reaches beyond it, and at it the last one is zero.
    begin = np.minimum(np.searchsorted(bins, edges), front_end.n_fft // 2)
    segment = np.repeat(np.arange(len(edges) - 1), np.diff(begin))
    inside = bins[begin[0] : begin[-1]]
    widths = np.diff(edges)
    shape = (front_end.n_mels,)
    return FrontEndPlan(
        sample_rate=front_end.sample_rate,
        n_fft=front_end.n_fft,
        hop_length=front_end.hop_length,
        n_frames=front_end.n_frames(),
        window=half,
        begin=begin,
        ratio=(inside - edges[segment]) / widths[segment],
        height=2 / (edges[2:] - edges[:-2]) if front_end.mel_scale == "slaney" else np.ones(shape),
        log=front_end.log,
        amin=front_end.amin,
        scale=np.asarray(front_end.band_scale or np.ones(shape), np.float64),
        offset=np.asarray(front_end.band_offset or np.zeros(shape), np.float64),
        step=float(step),
        zero_point=int(zero_point),
        dtype=dtype,
    )


def plan_for(front_end: FrontEnd, graph: Graph) -> FrontEndPlan:
    """`plan` for the input of an integer graph.

    Raises:
        InputError: a front end that C cannot take, or a graph in floating point.
    """
    t = graph.tensors[graph.input]
    if t.scale is None or t.zero_point is None:
        raise InputError(f"a board's front end feeds integers, the model's input is {t.dtype}; take int8 or int16x8")
    return plan(front_end, step=float(t.scale.flat[0]), zero_point=int(t.zero_point.flat[0]), dtype=t.dtype)


def int16_samples(samples: np.ndarray) -> np.ndarray:
    """Samples of full scale 1 as a converter gives them: int16, rounded to the nearest, saturated."""
    scaled = np.rint(np.asarray(samples, np.float64) * FULL_SCALE)
    return np.clip(scaled, -FULL_SCALE, FULL_SCALE - 1).astype(np.int16)


def board_features(samples: np.ndarray, of: FrontEndPlan, arithmetic: str) -> np.ndarray:
    """The integers that a board's front end gives a model: (n_mels, frames) of the plan's dtype.

    Args:
        samples: (n,) int16, at least one window.
        of: from `plan`.
        arithmetic: "device" or "fixed".

    Raises:
        InputError: another arithmetic, or a plan that it cannot take.
    """
    if arithmetic not in BOARD_ARITHMETICS:
        raise InputError(f"a board's front end is one of {BOARD_ARITHMETICS}, got {arithmetic!r}")
    if arithmetic == "device":
        return frontend_device.features(samples, frontend_device.tables(of))
    return frontend_fixed.features(samples, frontend_fixed.tables(of))
