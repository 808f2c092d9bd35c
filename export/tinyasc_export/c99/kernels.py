"""The C kernels: which files of `kernels/` a net needs, and their text for a type of values and a rounding.

A template is plain C but for a few words in capitals: VALUE_T and ACC_T (types of activations and sums), VALUE_MIN and
VALUE_MAX, TYPE (the end of the kernel's name), RANGE and REQUANTIZE (which helpers it takes), SPARE_BITS, TAPS, and
EACH, whose line is repeated once per tap. The name of a kernel says all that its code depends on, so kernels of several
models in one program are the same function or have different names.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources

# Templates whose result is rescaled; the others move or compare values.
RESCALING = ("conv_1x1", "conv_2d", "depthwise", "mean", "add", "mul", "relu")
WEIGHTED = ("conv_1x1", "conv_2d", "depthwise")
LIMITS = {"s8": (-128, 127), "s16": (-32768, 32767)}
VALUE_TYPES = {"s8": "int8_t", "s16": "int16_t"}
# Bits that an addition has to spare in 32 (`reference_int8`).
SPARE_BITS = {"s8": 20, "s16": 15}
# Largest shift of `rounding.quantize_multiplier` that the shorter rescaling takes.
SMALL_SHIFT = {"tflite": -1, "single": -2}


@dataclass(frozen=True)
class Kernel:
    """One kernel function, its arguments' struct and its files.

    Args:
        template: name of its files in `kernels/`.
        values: "s8" or "s16", the type of activations.
        rounding: "tflite" or "single"; without meaning for kernels that rescale nothing.
        wide: whether the sums of an int16x8 layer take 64 bits.
        any_shift: whether it rescales by factors that are not small (`SMALL_SHIFT`), which takes more instructions.
        taps: number of taps that a depthwise kernel is written for.
    """

    template: str
    values: str
    rounding: str
    wide: bool = False
    taps: int = 0
    any_shift: bool = False

    @property
    def sums(self) -> str:
        """C type of the accumulators."""
        return "int64_t" if self.wide else "int32_t"

    @property
    def requantize(self) -> str:
        """Name of the helper that rescales; empty for a kernel that does not."""
        if self.template not in RESCALING:
            return ""
        if self.values == "s16" and self.template in WEIGHTED:
            return "requantize_wide"
        return f"requantize_{self.rounding}" + ("_any" if self.any_shift else "")

    @property
    def type(self) -> str:
        """The end of the kernel's name: values, and whatever else its code depends on."""
        if self.template in WEIGHTED and self.values == "s16":
            return "s16_wide" if self.wide else "s16"
        return self.requantize.replace("requantize", self.values) if self.requantize else self.values

    @property
    def symbol(self) -> str:
        """The function's name, which is also its files'."""
        taps = f"_{self.taps}" if self.taps else ""
        return f"tinyasc_{self.template}{taps}_{self.type}"

    def files(self) -> dict[str, str]:
        """Text by file name: the kernel's source and header, and those of whatever it calls."""
        words = {
            "VALUE_T": VALUE_TYPES[self.values],
            "ACC_T": self.sums,
            "VALUE_MIN": str(LIMITS[self.values][0]),
            "VALUE_MAX": str(LIMITS[self.values][1]),
            "_TYPE_H": f"_{self.type.upper()}_H",
            "TYPE": self.type,
            "RANGE": self.values,
            "REQUANTIZE": self.requantize,
            "SPARE_BITS": str(SPARE_BITS[self.values]),
            "TAPS": str(self.taps),
        }
        files = {f"{self.symbol}.{end}": _fill(_read(f"{self.template}.{end}"), words, self.taps) for end in "ch"}
        if self.template == "conv_2d":
            files |= replace(self, template="conv_1x1").files()
        if self.requantize:
            files[f"tinyasc_{self.requantize}.h"] = _read(f"{self.requantize}.h")
            clamp = {"_TYPE_H": f"_{self.values.upper()}_H", "TYPE": self.values}
            files[f"tinyasc_clamp_{self.values}.h"] = _fill(_read("clamp.h"), words | clamp, 0)
        return files


@cache
def _read(name: str) -> str:
    return (resources.files("tinyasc_export.c99") / "kernels" / name).read_text(encoding="utf-8")


def _fill(text: str, words: dict[str, str], taps: int) -> str:
    lines = []
    for line in text.splitlines():
        lines += [line.replace("EACH", str(i)) for i in range(taps)] if "EACH" in line else [line]
    pattern = "|".join(sorted(words, key=len, reverse=True))
    return re.sub(pattern, lambda word: words[word.group()], "\n".join(lines)) + "\n"
