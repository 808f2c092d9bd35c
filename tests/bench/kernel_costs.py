"""Makes the tables of kernel costs: what each C kernel takes per unit of its work on each emulated core.

    PYTHONPATH=.:export:firmware_sim python tests/bench/kernel_costs.py [CORE ...]

Writes firmware_sim/tinyasc_firmware_sim/kernel_costs/*.yaml. One net with every kernel in many shapes is built for a
board of the core and run there; instructions are counted, cycles are those of the core's model before the board's
factor. Costs per unit are those, none negative, that give every operator's count back with the least relative error.
The shapes are random and no student's, so that students can hold the tables (tests/firmware_sim/test_kernel_costs.py).
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import yaml
from scipy.optimize import nnls

from tinyasc_export.graph import Graph, Tensor
from tinyasc_export.lower import cast
from tinyasc_export.quantize import calibrate, quantize_int8, quantize_int16x8
from tinyasc_firmware_sim.boards import Board, load_board
from tinyasc_firmware_sim.cores import core_of
from tinyasc_firmware_sim.cycles import COSTS
from tinyasc_firmware_sim.latency import file_name, kernel_name
from tinyasc_firmware_sim.net import NetReport, random_input, simulate
from tinyasc_firmware_sim.work import work

FOLDER = Path(__file__).resolve().parents[2] / "firmware_sim/tinyasc_firmware_sim/kernel_costs"
COMMAND = "PYTHONPATH=.:export:firmware_sim python tests/bench/kernel_costs.py"
# One per core; the board's factor is taken out again.
BOARDS = (
    "nucleo-l4r5zi",
    "raspberry-pi-pico",
    "nucleo-f207zg",
    "stm32f746g-disco",
    "nucleo-u575zi-q",
    "mps3-an547",
    "esp32-c3-devkitm-1",
)
# Of instructions against counted ones; the tests hold three families of students to it.
TABLE_BAND = 0.1


class Shapes:
    """A float net that grows by one operator in many shapes."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)
        self.graph = Graph(input="x", tensors={"x": Tensor("x", (1, 12, 10, 2))})

    def weights(self, *shape: int) -> np.ndarray:
        return (self.rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)

    def conv(self, x: str, out: int, kernel=(1, 1), stride=(1, 1), dilation=(1, 1)) -> str:
        attrs = self.window(kernel, stride, dilation)
        w = self.weights(out, *kernel, self.graph.tensors[x].shape[3])
        return self.op("conv2d", [x, self.constant(w), self.constant(self.weights(out))], attrs)

    def depthwise(self, x: str, kernel=(3, 3), stride=(1, 1), dilation=(1, 1), cross=False) -> str:
        channels = self.graph.tensors[x].shape[3]
        w = self.weights(channels, *kernel).transpose(1, 2, 0)[None].copy()
        if cross:
            i, j = np.indices(kernel)
            w[:, (i != kernel[0] // 2) & (j != kernel[1] // 2)] = 0
        attrs = self.window(kernel, stride, dilation)
        return self.op("depthwise_conv2d", [x, self.constant(w), self.constant(self.weights(channels))], attrs)

    def window(self, kernel, stride, dilation) -> dict:
        (kh, kw), (dh, dw) = kernel, dilation
        padding = (kh // 2 * dh, kh // 2 * dh, kw // 2 * dw, kw // 2 * dw)
        return {"stride": stride, "padding": padding, "dilation": dilation, "activation": "none"}

    def constant(self, values: np.ndarray) -> str:
        return self.graph.add_constant("c", values)

    def op(self, kind: str, inputs: list[str], attrs: dict | None = None) -> str:
        self.graph.output = self.graph.add_op(kind, inputs, attrs or {})
        return self.graph.output


def every_kernel(precision: str) -> Graph:
    """One net with every kernel of a precision, quantised."""
    net = Shapes()
    none = {"activation": "none"}
    y = "x"
    for out, kernel, stride, dilation in (
        (8, (3, 3), (1, 1), (1, 1)),
        (12, (3, 3), (1, 1), (2, 1)),
        (6, (5, 3), (1, 1), (1, 1)),
        (24, (1, 3), (1, 1), (1, 1)),
        (10, (3, 1), (1, 1), (1, 1)),
        (32, (3, 3), (1, 1), (1, 1)),
        (17, (3, 3), (1, 1), (1, 1)),
        (24, (2, 2), (1, 1), (1, 1)),
        (48, (3, 3), (1, 1), (1, 1)),
        (20, (1, 1), (1, 1), (1, 1)),
    ):
        y = net.conv(y, out, kernel, stride, dilation)
    for stride in ((2, 2), (2, 1), (1, 2)):
        net.conv(y, 16, (3, 3), stride)
        net.conv(y, 10, (1, 1), stride)
    for channels in (16, 48, 31, 64, 17, 40, 96, 20):
        y = net.conv(y, channels)
    for channels in (20, 33, 64, 12, 96, 40):
        y = net.conv(y, channels)
        y = net.depthwise(y)
        y = net.depthwise(y, (5, 5), cross=channels % 8 == 0)
        y = net.depthwise(y, (1, 5))
        y = net.depthwise(y, (3, 3), dilation=(1, 2))
        gate = net.op("sigmoid", [net.op("mean", [y], {"axes": (1, 2)})])
        y = net.op("mul", [y, gate], none)
        y = net.op("mul", [y, net.op("sigmoid", [net.op("mean", [y], {"axes": (1,)})])], none)
        y = net.op("mul", [y, net.op("sigmoid", [net.op("mean", [y], {"axes": (2,)})])], none)
        y = net.op("mul", [y, net.op("sigmoid", [net.op("mean", [y], {"axes": (3,)})])], none)
        shifted = net.depthwise(y, (3, 1))
        y = net.op("maximum", [y, shifted])
        y = net.op("add", [y, net.depthwise(y, (1, 3))], none)
        y = net.op("add", [y, net.op("mean", [y], {"axes": (2,)})], none)
        y = net.op("relu", [net.depthwise(y, (1, 1))])
        if precision == "int8":
            y = net.op("hardswish", [net.depthwise(y, (1, 1))])
        shape = net.graph.tensors[y].shape
        half = (*shape[:3], shape[3] // 2)
        left = net.op("slice", [y], {"begin": (0, 0, 0, 0), "size": half})
        right = net.op("slice", [y], {"begin": (0, 0, 0, shape[3] // 2), "size": half})
        y = net.op("concat", [net.op("maximum", [left, right]), y], {"axis": 3})
        net.op("max_pool", [y], pool := {"kernel": (3, 3), "stride": (2, 2), "padding": (1, 1, 1, 1)})
        net.op("average_pool", [y], pool)
        for kernel in ((2, 2), (1, 2), (4, 4)):
            for kind in ("max_pool", "average_pool"):
                net.op(kind, [y], {"kernel": kernel, "stride": kernel, "padding": (0, 0, 0, 0)})
        net.op("max_pool", [y], {"kernel": shape[1:3], "stride": (1, 1), "padding": (0, 0, 0, 0)})
        net.op("pad", [y], {"padding": (1, 1, 1, 1)})
        net.op("pad", [y], {"padding": (0, 1, 0, 3)})
    flat = net.op("reshape", [net.op("mean", [y], {"axes": (1, 2)})], {"shape": (1, net.graph.tensors[y].shape[3])})
    for out in (32, 10):
        w = net.weights(out, net.graph.tensors[flat].shape[1])
        flat = net.op("fully_connected", [flat, net.constant(w), net.constant(net.weights(out))], none)
    net.graph.validate()
    graph = cast(net.graph, "float32")
    x = np.random.default_rng(1).standard_normal((8, *graph.tensors["x"].shape[1:])).astype(np.float32)
    quantize = quantize_int8 if precision == "int8" else quantize_int16x8
    return quantize(graph, calibrate(graph, x))


def fitted(graph: Graph, report: NetReport, factor: float, precision: str) -> dict[str, dict[str, dict[str, float]]]:
    """Costs by kernel and unit that give the operators' counts back."""
    works = work(graph)
    names = sorted({(kernel_name(c.kernel, precision), unit) for part in works for c in part for unit in c.units})
    matrix = np.zeros((len(works), len(names)))
    for row, part in enumerate(works):
        for call in part:
            for unit, n in call.units.items():
                matrix[row, names.index((kernel_name(call.kernel, precision), unit))] += n
    used = matrix.any(axis=1)
    costs: dict[str, dict[str, dict[str, float]]] = {}
    for what, values in (
        ("instructions", [op.instructions for op in report.operators]),
        ("cycles", [op.cycles / factor for op in report.operators]),
    ):
        counted = np.array(values)[used]
        found, _ = nnls(matrix[used] / counted[:, None], np.ones(len(counted)))
        error = matrix[used] @ found / counted - 1
        print(f"  {what}: operators off by {np.abs(error).mean():.1%} in the mean, {np.abs(error).max():.1%} at most")
        for (kernel, unit), cost in zip(names, found, strict=True):
            costs.setdefault(kernel, {}).setdefault(unit, {})[what] = round(float(cost), 3)
    return costs


def make(board: Board) -> Path:
    """Counts on one board and writes its core's table."""
    core, processor = core_of(board)
    costs = {}
    for precision in ("int8", "int16x8"):
        graph = every_kernel(precision)
        print(f"{core.name}, {precision}, {len(graph.ops)} operators", flush=True)
        report = simulate(graph, board, [random_input(graph)])
        assert not report.unequal
        costs[precision] = fitted(graph, report, processor.wait_state_factor, precision)
    table = {
        "core": core.name,
        "made_by": COMMAND,
        "compiler": report.compiler,
        "emulator": report.emulator,
        "cycle_band": COSTS[core.name].band,
        "table_band": TABLE_BAND,
        "costs": costs,
    }
    file = FOLDER / file_name(core.name)
    file.write_text(yaml.safe_dump(table, sort_keys=False), encoding="utf-8")
    return file


def main() -> None:
    wanted = sys.argv[1:]
    for name in BOARDS:
        board = load_board(name)
        if not wanted or board.core in wanted:
            print(make(board).name)


if __name__ == "__main__":
    main()
