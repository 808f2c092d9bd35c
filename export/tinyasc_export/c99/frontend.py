"""Writes a front end as C99: int16 samples in, the net's integers out, one frame at a time.

    NAME_frontend.h/.c                       tables, one window of state, two functions
    tinyasc_frontend_samples.c/.h            the last window of a stream
    tinyasc_frontend_device_s8.c/.h          the arithmetic (or fixed, or s16)

The bits are those of `tinyasc_export.frontend_device` or `frontend_fixed`, however the samples are cut into pushes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources

import numpy as np

from tinyasc_export import frontend_device, frontend_fixed
from tinyasc_export.c99.constants import Array, Constants, initializer
from tinyasc_export.c99.kernels import VALUE_TYPES, Kernel
from tinyasc_export.c99.writer import template
from tinyasc_export.errors import InputError
from tinyasc_export.frontend_plan import FrontEndPlan

ARITHMETICS = ("device", "fixed")
# Two words and a pointer beside the ring.
STREAM_BYTES = 12
# What the function that asks the compiled code says, by arithmetic.
EXACTNESS = {
    "device": "Whether the compiler kept to the order of float operations that gives the specification's bits: 1 or 0.",
    "fixed": "Returns 1: integers leave a compiler no choice.",
}


@dataclass(frozen=True)
class CFrontEnd:
    """A front end in C.

    Args:
        files: text by file name.
        state_bytes: of static RAM: the last window, the FFT's working memory and the stream's place.
        constant_bytes: of all tables.
    """

    files: dict[str, str]
    state_bytes: int
    constant_bytes: int


def front_end_to_c(plan: FrontEndPlan, *, arithmetic: str, name: str = "model") -> CFrontEnd:
    """The C source of a front end.

    Args:
        plan: with the scale and the zero point of the net that it feeds.
        arithmetic: "device" (float32; build with -ffp-contract=off) or "fixed" (integers).
        name: a C identifier, the prefix of its public names, which is the net's.

    Raises:
        InputError: another arithmetic, or a plan that it cannot take.
    """
    if arithmetic not in ARITHMETICS:
        raise InputError(f"the front end's arithmetic in C is one of {', '.join(ARITHMETICS)}, got {arithmetic!r}")
    values = "s8" if plan.dtype == "int8" else "s16"
    kernel = Kernel(f"frontend_{arithmetic}", values, "")
    constants = Constants(f"{name}_frontend")
    arguments = (_device if arithmetic == "device" else _fixed)(plan, constants)
    # int16 samples and four bytes of working memory for each; band and stream are the same for every plan.
    state_bytes = 6 * plan.n_fft + STREAM_BYTES
    words = {
        "name": name,
        "upper": name.upper(),
        "value": VALUE_TYPES[values],
        "arithmetic": arithmetic,
        "kernel": kernel.symbol,
        "tables": constants.definitions(),
        "exactness": EXACTNESS[arithmetic],
        "is_exact": f"{kernel.symbol}_is_exact()" if arithmetic == "device" else "1",
        "arguments": "".join(f"    .{key} = {initializer(item)},\n" for key, item in arguments.items()),
        "work_type": "float" if arithmetic == "device" else "int32_t",
        "n_fft": str(plan.n_fft),
        "n_mels": str(plan.n_mels),
        "hop_length": str(plan.hop_length),
        "sample_rate": str(plan.sample_rate),
        "state_bytes": str(state_bytes),
    }
    files = {f"{name}_frontend.{end}": template(f"frontend.{end}", **words) for end in "hc"}
    files |= kernel.files()
    files |= {f"tinyasc_frontend_samples.{end}": _kernel(f"frontend_samples.{end}") for end in "hc"}
    return CFrontEnd(files, state_bytes, constants.nbytes)


def _device(plan: FrontEndPlan, constants: Constants) -> Mapping[str, object]:
    t = frontend_device.tables(plan)

    def table(values: np.ndarray) -> Array:
        return constants.add(values, "float32")

    return {
        "n_fft": plan.n_fft,
        "n_mels": plan.n_mels,
        "window": table(t.window),
        "cosine": table(t.cosine),
        "begin": constants.add(plan.begin, "int16"),
        "ratio": table(t.ratio),
        "height": table(t.height),
        "factor": table(t.factor),
        "addend": table(t.addend),
        "log2": table(np.asarray(frontend_device.LOG2, np.float32)),
        "amin": t.amin if plan.log else np.float32(0),
    }


def _fixed(plan: FrontEndPlan, constants: Constants) -> Mapping[str, object]:
    t = frontend_fixed.tables(plan)
    return {
        "n_fft": plan.n_fft,
        "n_mels": plan.n_mels,
        "fraction": t.fraction,
        "shift": t.shift,
        "window": constants.add(t.window, "uint16"),
        "cosine": constants.add(t.cosine, "uint16"),
        "begin": constants.add(plan.begin, "int16"),
        "ratio": constants.add(t.ratio, "uint16"),
        "floor": constants.add(t.floor, "int32"),
        "factor": constants.add(t.factor, "int16"),
        "addend": constants.add(t.addend, "int32"),
        "log2": constants.add(frontend_fixed.LOG2, "int32"),
    }


def _kernel(file: str) -> str:
    return (resources.files("tinyasc_export.c99") / "kernels" / file).read_text(encoding="utf-8")
