"""What one student costs on a device: of a graph that is written, or predicted for one that is not yet trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from tinyasc.frontend import FrontEnd
from tinyasc_export.bundle import Bundle
from tinyasc_export.count import count
from tinyasc_export.graph import Graph
from tinyasc_export.lower import cast
from tinyasc_export.memory import plan, unshared_bytes
from tinyasc_export.quantize import quantize_int8, quantize_int16x8
from tinyasc_export.tflite import to_tflite
from tinyasc_firmware_sim.work import Work, work

# How much of the stack is used is known once there is a C image. Until then a common main stack is set aside: 4 KB is
# Mbed OS's; ESP-IDF's main task has 3.5 KB, the Pico SDK's core 2 KB.
STACK_BYTES = 4096
# Room in a predicted file for its card, which is written after training; cards of today take some 1.5 KB.
CARD_BYTES = 4096


@dataclass(frozen=True)
class Costs:
    """The bytes and multiply-accumulates of one deployed graph with its front end.

    Args:
        precision: "fp32", "int8" or "int16x8".
        parameters: values of all constants.
        parameter_bytes: those at their stored width.
        quantization_bytes: scales and zero points.
        file_bytes: of the .tflite file.
        macs: of one inference.
        arena_bytes: all activations as planned, pools beside their input.
        arena_pools_in_place_bytes: the same for kernels that let pools write over their input.
        arena_unshared_bytes: the same where nothing shares its place, as in TensorFlow Lite Micro, whose own state and
            scratch buffers come on top.
        front_end_bytes: see `front_end_state`.
        work: what the C kernels have to do, per operator.
        graph: what was counted.
        front_end: what feeds it.
    """

    precision: str
    parameters: int
    parameter_bytes: int
    quantization_bytes: int
    file_bytes: int
    macs: int
    arena_bytes: int
    arena_pools_in_place_bytes: int
    arena_unshared_bytes: int
    front_end_bytes: int
    work: tuple[tuple[Work, ...], ...] = field(repr=False, compare=False)
    graph: Graph = field(repr=False, compare=False)
    front_end: FrontEnd = field(repr=False, compare=False)

    @property
    def ram_bytes(self) -> int:
        """Arena, front-end state, and what is set aside for the stack."""
        return self.arena_bytes + self.front_end_bytes + STACK_BYTES

    @property
    def clip_seconds(self) -> float:
        """Seconds of sound per inference."""
        return self.front_end.clip_samples / self.front_end.sample_rate

    def macs_per_second(self, copies: int = 1) -> int:
        """Multiply-accumulates per second of sound, rounded up; `copies` inferences per clip."""
        return -(-self.macs * copies * self.front_end.sample_rate // self.front_end.clip_samples)


def measure(graph: Graph, front_end: FrontEnd, file_bytes: int) -> Costs:
    """The costs of a graph as it is.

    Args:
        graph: float or quantised.
        front_end: that feeds it.
        file_bytes: of the file that was written from it.
    """
    counts = count(graph, file_bytes)
    width = np.dtype(graph.tensors[graph.input].dtype).itemsize
    return Costs(
        {1: "int8", 2: "int16x8", 4: "fp32"}[width],
        counts.parameters,
        counts.parameter_bytes,
        counts.quantization_bytes,
        file_bytes,
        counts.macs,
        # The conservative one: kernels of runtimes in use do not write pools over their input.
        plan(graph, pools_in_place=False).peak,
        plan(graph).peak,
        unshared_bytes(graph),
        front_end_state(front_end, width),
        work(graph),
        graph,
        front_end,
    )


def front_end_state(front_end: FrontEnd, feature_width: int) -> int:
    """Bytes of RAM that the front end keeps while it listens, in float32 working arithmetic.

    * samples: int16, one window and the hop that arrives while it is worked on: 2 (n_fft + hop) per side of sound;
    * FFT: a real transform in place, n_fft / 2 + 1 complex bins of float32: 4 (n_fft + 2), one side after the other;
    * mel rows: float32, the new frame and four before it per order of deltas: 4 n_mels (1 + 4 deltas) per side;
    * features: channels x n_mels x frames at the width of the graph's input. They are kept from one inference to the
      next, and the arena's copy of them is overwritten, so they count beside it;
    * pre-emphasis: one float32 sample per side.

    Window, twiddle factors and mel weights are constants: they lie in flash. None of this is measured yet.

    Args:
        front_end: the record.
        feature_width: bytes of one feature: 1 at int8, 2 at int16x8.
    """
    sides = front_end.sides
    samples = 2 * sides * (front_end.n_fft + front_end.hop_length)
    spectrum = 4 * (front_end.n_fft + 2)
    rows = 4 * sides * front_end.n_mels * (1 + 4 * front_end.deltas)
    channels, n_mels, n_frames = front_end.shape
    kept = feature_width * channels * n_mels * n_frames
    return samples + spectrum + rows + kept + (4 * sides if front_end.pre_emphasis else 0)


def predict(graph: Graph, front_end: FrontEnd, labels: Sequence[str], precision: str) -> Costs:
    """What an untrained student will cost at a precision: it is quantised with ranges that stand in for measured ones.

    Bytes, MACs and arena follow from shapes and types, so they are exact; zeros count as parameters, though a trained
    student may have some. The file's bytes are an upper estimate: its card is not known yet.

    Args:
        graph: lowered, float, with values as if trained (`solver.as_if_trained`).
        front_end: that feeds it.
        labels: that its file will hold.
        precision: "int8" or "int16x8".

    Raises:
        InputError: an operator that int16x8 lacks.
    """
    # No two vectors alike, which a file would store once. A square root's input has to start at zero.
    low = 0.0 if any(op.kind == "rsqrt" for op in graph.ops) else 1.0
    activations = [name for name, t in graph.tensors.items() if not t.constant]
    ranges = {name: (-low * (i + 1) / (len(activations) + 1), 1 + i / 997) for i, name in enumerate(activations)}
    quantize = quantize_int8 if precision == "int8" else quantize_int16x8
    integers = quantize(cast(graph, "float32"), ranges)
    # Taps that are zero for good are skipped in C, so they are told before zeros go.
    to_do = work(integers)
    for t in integers.constants():
        assert t.data is not None
        t.data = np.where(t.data == 0, np.ones_like(t.data), t.data)
    # As long as values that lowering folds into the normalisation are written.
    values = front_end.channels * front_end.n_mels
    normalized = front_end.with_normalization(
        np.full(values, -1 / 3e3).reshape(-1, front_end.n_mels), np.full(values, -200 / 3).reshape(-1, front_end.n_mels)
    )
    bundle = Bundle(tuple(labels), normalized.to_dict(), {"card": "-" * CARD_BYTES})
    return replace(measure(integers, front_end, len(to_tflite(integers, bundle))), work=to_do)
