"""What lies in a folder of C beside the code: bundle.json, which says what the net is, and an example program.

bundle.json is a model file's bundle (`tinyasc_export.bundle`) with one more key, `c`: how the net is called, what its
integers mean, and which files were written, so that the next export into the folder knows its own. With it `tinyasc
infer` compiles the folder for the host and answers for audio files.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinyasc_export.bundle import Bundle
from tinyasc_export.c99.writer import CSource, template
from tinyasc_export.errors import ModelFileError
from tinyasc_export.graph import Graph, Tensor

BUNDLE = "bundle.json"
NO_FRONT_END = "none"
DTYPES = ("int8", "int16")
_IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_FILE = re.compile(r"[A-Za-z][A-Za-z0-9_]*(\.[A-Za-z]+)?")
_C_FILE = re.compile(r"[A-Za-z][A-Za-z0-9_]*\.c")


@dataclass(frozen=True)
class Values:
    """What a net's input or output holds: integers q of real value scale * (q - zero_point).

    Args:
        shape: with the batch of one.
        dtype: "int8" or "int16".
        scale: a float32 number.
        zero_point: an integer of the dtype.
    """

    shape: tuple[int, ...]
    dtype: str
    scale: float
    zero_point: int


@dataclass(frozen=True)
class Called:
    """How the net in a folder is called: the key `c` of its bundle.json.

    Args:
        name: the prefix of its C names.
        rounding: "tflite" or "single".
        arithmetic: of the front end beside it, "device" or "fixed"; "none" for the net alone.
        sources: the C files that make the library.
        input: [1][frequency][time][channel].
        output: [1][class].
    """

    name: str
    rounding: str
    arithmetic: str
    sources: tuple[str, ...]
    input: Values
    output: Values


def complete(
    source: CSource, graph: Graph, bundle: Bundle, *, rounding: str, arithmetic: str = NO_FRONT_END
) -> CSource:
    """The same C with bundle.json and, where a front end is in it, an example program and its rule in the Makefile.

    Args:
        source: from `to_c` with that bundle, or from `with_front_end`.
        graph: that it was written from.
        bundle: labels, front end and card.
        rounding: that it was written in.
        arithmetic: of the front end in it; "none" for the net alone.
    """
    ends = (_values(graph.tensors[name]) for name in (graph.input, graph.output))
    called = Called(source.name, rounding, arithmetic, tuple(source.sources), *ends)
    files = dict(source.files)
    if arithmetic != NO_FRONT_END:
        words = {
            "name": source.name,
            "upper": source.name.upper(),
            "sample_rate": str(bundle.front_end["sample_rate"]),
            "scale": str(np.float32(called.output.scale)),
            "minus_zero_point": f"{-called.output.zero_point:+d}",
        }
        files[source.example] = template("example.c", **words)
        files["Makefile"] += template("example.mk", **words)
        files["README.md"] += template("example.md", **words)
    said = dataclasses.asdict(called) | {"written": {name: _blake2b(text) for name, text in files.items()}}
    content = json.loads(bundle.to_json()) | {"c": said}
    files[BUNDLE] = json.dumps(content, sort_keys=True, allow_nan=False) + "\n"
    return dataclasses.replace(source, files=files)


def written_files(text: bytes) -> dict[str, str]:
    """What an export wrote beside this bundle.json: BLAKE2b, 32 hexadecimal characters, by file name.

    Nothing where the file does not say so, as one that is damaged or of an earlier version. Names lead to no other
    folder.
    """
    try:
        said = json.loads(text)["c"]["written"]
        return {_text(name, _FILE): str(content) for name, content in said.items()}
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return {}


def _blake2b(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8"), digest_size=16).hexdigest()


def read_bundle_json(text: bytes, where: str) -> tuple[Bundle, Called]:
    """What the bundle.json of a folder of C says.

    Raises:
        ModelFileError: it is none, or damaged.
    """
    bundle = Bundle.from_json(text, where)
    said = json.loads(text).get("c")
    try:
        return bundle, Called(
            _text(said["name"], _IDENTIFIER),
            str(said["rounding"]),
            str(said["arithmetic"]),
            tuple(_text(name, _C_FILE) for name in said["sources"]),
            _read_values(said["input"]),
            _read_values(said["output"]),
        )
    except (KeyError, TypeError, ValueError, OverflowError):
        raise ModelFileError(
            f"{where}: does not say how its net in C is called, or is damaged; write the folder again with "
            "`tinyasc export --to c`"
        ) from None


def _values(t: Tensor) -> Values:
    assert t.scale is not None and t.zero_point is not None
    return Values(t.shape, t.dtype, float(t.scale.flat[0]), int(t.zero_point.flat[0]))


def _read_values(said: Any) -> Values:
    shape, dtype, scale, zero_point = (said[key] for key in ("shape", "dtype", "scale", "zero_point"))
    if dtype not in DTYPES:
        raise ValueError
    limits = np.iinfo(dtype)
    whole = all(type(n) is int for n in (*shape, zero_point)) and type(scale) in (int, float)
    # What float32 holds, which is how every file stores a scale.
    usable = whole and min(shape) > 0 and 1e-37 < scale < 1e37 and limits.min <= zero_point <= limits.max
    if not usable:
        raise ValueError
    return Values(tuple(shape), dtype, float(scale), zero_point)


def _text(value: Any, pattern: re.Pattern[str]) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise ValueError
    return value
