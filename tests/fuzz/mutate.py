"""Seeded damage: what a bad disk, a bad copy and a bad mind do to a file. Every case follows from its number."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from flatbuffers import Builder

from tinyasc_export.bundle import METADATA_KEY
from tinyasc_export.seal import DIGITS, MARKER, UNSEALED, seal

WORDS = (
    0,
    1,
    2,
    3,
    4,
    7,
    8,
    16,
    127,
    128,
    255,
    256,
    32767,
    65535,
    65536,
    2**24,
    2**31 - 1,
    2**31,
    2**32 - 8,
    2**32 - 1,
)
ODD_NUMBERS = (0, 1, -1, 2, 3, 7, 64, 127, -128, 255, 4096, 65536, 10**6, 2**20, 2**31 - 1, -(2**31))
ODD_FLOATS = (0.0, -1.0, 1e-38, 1e-45, 1e-20, 1e-7, 1e7, 1e20, 3e38, float("nan"), float("inf"), -float("inf"))
ODD_VALUES: tuple[Any, ...] = (
    *(None, True, False, "", "x", "\x00", "hann" * 99, [], [1], [[1]], {}, {"a": 1}, -1, 0, 1, 2, 0.5, 1e-300, 1e300),
    *(7, 64, 1000, 65536, 10**6, 2**31, 2**40, 2**64, 10**30, -(2**40), 10**400, "1e5", [0.0] * 12, [1e300] * 12),
)


def damage(data: bytes, rng: random.Random) -> bytes:
    """One to eight changes of bytes, anywhere or near the beginning."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        if not out:
            break
        reach = rng.choice((64, 256, len(out), len(out)))
        at = rng.randrange(min(reach, len(out)))
        match rng.randrange(9):
            case 0:
                out[at] ^= 1 << rng.randrange(8)
            case 1:
                out[at] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))
            case 2 | 3:
                at -= at % 4
                out[at : at + 4] = struct.pack(
                    rng.choice("<>") + "I", rng.choice((*WORDS, rng.randrange(2 * len(out))))
                )
            case 4:
                del out[at:]
            case 5:
                del out[at : at + rng.choice((1, 2, 3, 4, 17, 400))]
            case 6:
                out[at:at] = bytes(rng.choice((0, 255, 65)) for _ in range(rng.choice((1, 2, 4, 64, 5000))))
            case 7:
                end = at + rng.choice((4, 8, 64, 1024))
                out[at:at] = out[at:end]
            case 8:
                other = rng.randrange(len(out))
                size = rng.choice((2, 4, 8, 32))
                out[at : at + size] = out[other : other + size]
    return bytes(out)


def offsets(data: bytes, rng: random.Random) -> bytes:
    """Flatbuffer tricks: offsets that lead back, to themselves, to each other's tables, or just beyond the end."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = 4 * rng.randrange(len(out) // 4)
        (old,) = struct.unpack_from("<I", out, at)
        target = 4 * rng.randrange(len(out) // 4)
        new = rng.choice(
            (target - at, -at, 0, old + 4, old - 4, old + 1, len(out) - at, len(out) - at - 4, 2**32 - 4, target)
        )
        struct.pack_into("<I", out, at, new % 2**32)
    return bytes(out)


def rebuilt(data: bytes, rng: random.Random) -> bytes:
    """A well-formed .tflite file whose parts do not fit: shapes, indices, operators, options, scales, values."""
    model: Any = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data))
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        if model.subgraphs:
            _change(model, rng)
    builder = Builder(1 << 14)
    try:
        builder.Finish(model.Pack(builder), b"TFL3")
    except Exception:  # the builder refuses some of it itself
        return data
    return bytes(builder.Output())


def _change(model: Any, rng: random.Random) -> None:
    graph = model.subgraphs[0]
    tensor, op = rng.choice(graph.tensors), rng.choice(graph.operators)
    match rng.randrange(16):
        case 0 | 1:
            _number_in(tensor, "shape", rng)
        case 2:
            tensor.type = rng.randrange(19)
        case 3:
            tensor.buffer = rng.choice((0, rng.randrange(len(model.buffers)), len(model.buffers), 2**32 - 1))
        case 4 | 5 if tensor.quantization is not None:
            q = tensor.quantization
            if rng.random() < 0.5:
                q.scale = np.array([rng.choice(ODD_FLOATS)] * rng.choice((1, len(q.scale), 5)), np.float32)
            else:
                q.zeroPoint = np.array([rng.choice(ODD_NUMBERS)] * rng.choice((0, 1, len(q.zeroPoint), 5)), np.int64)
            if rng.random() < 0.3:
                q.quantizedDimension = rng.choice(ODD_NUMBERS)
        case 6 | 7:
            _number_in(op, rng.choice(("inputs", "outputs")), rng, among=len(graph.tensors))
        case 8:
            op.opcodeIndex = rng.choice((rng.randrange(len(model.operatorCodes)), len(model.operatorCodes), 2**31))
        case 9:
            code = rng.choice(model.operatorCodes)
            code.builtinCode = rng.randrange(210)
            code.deprecatedBuiltinCode = min(code.builtinCode, 127)
            code.version = rng.choice((1, 2, 3, 4, 99))
        case 10 | 11 if op.builtinOptions is not None:
            name = rng.choice([*vars(op.builtinOptions), ""])
            if isinstance(getattr(op.builtinOptions, name, None), int):
                setattr(op.builtinOptions, name, rng.choice((*ODD_NUMBERS[:9], 1000)))
        case 12:
            buffer = rng.choice(model.buffers)
            if buffer.data is not None and len(buffer.data):
                values = np.array(buffer.data)
                word = rng.choice(ODD_NUMBERS) if rng.random() < 0.7 else rng.getrandbits(31)
                at = 4 * rng.randrange(max(1, len(values) // 4))
                values[at : at + 4] = np.frombuffer(struct.pack("<i", word), np.uint8)[: len(values[at : at + 4])]
                buffer.data = values[: rng.choice((len(values), len(values), len(values), len(values) // 2))]
        case 13:
            key = rng.choice(("inputs", "outputs"))
            _number_in(graph, key, rng, among=len(graph.tensors))
        case 14:
            one, other = rng.sample(range(len(graph.operators)), 2) if len(graph.operators) > 1 else (0, 0)
            graph.operators[one], graph.operators[other] = graph.operators[other], graph.operators[one]
        case 15:
            match rng.randrange(4):
                case 0:
                    tensor.isVariable = True
                case 1:
                    model.subgraphs = model.subgraphs * rng.choice((0, 2))
                case 2:
                    op.builtinOptionsType, op.builtinOptions = rng.randrange(30), op.builtinOptions
                case 3:
                    tensor.shapeSignature = np.array([rng.choice(ODD_NUMBERS)] * rng.choice((1, 4)), np.int32)


def _number_in(part: Any, key: str, rng: random.Random, among: int | None = None) -> None:
    values = [] if getattr(part, key) is None else list(getattr(part, key))
    choices = ODD_NUMBERS if among is None or rng.random() < 0.3 else (-1, among, *range(among))
    match rng.randrange(5):
        case 0:
            values.append(rng.choice(choices))
        case 1 if values:
            values.pop()
        case _ if values:
            values[rng.randrange(len(values))] = rng.choice(choices)
    setattr(part, key, np.array(values, np.int32))


def wrong_card(text: str, rng: random.Random) -> str:
    """A bundle with one to three values of another kind or size, or with a part gone."""
    content = json.loads(text)
    for _ in range(rng.choice((1, 1, 2, 3))):
        part = rng.choice((content, content["front_end"], content["front_end"], content["front_end"], content["card"]))
        if part is content["card"]:
            key = rng.choice(("temperature", "decision_weights", "measured", "precision"))
        else:
            key = rng.choice([k for k in sorted(part) if k not in ("front_end", "card")] or ["x"])
        if rng.random() < 0.1:
            part.pop(key, None)
        else:
            part[key] = rng.choice(ODD_VALUES)
    return json.dumps(content)


def with_text(data: bytes, change: Callable[[str], str]) -> bytes:
    """A .tflite file whose bundle is changed."""
    model: Any = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data))
    (entry,) = [entry for entry in model.metadata if entry.name in (METADATA_KEY, METADATA_KEY.encode())]
    text = bytes(model.buffers[entry.buffer].data).decode("ascii")
    model.buffers[entry.buffer].data = np.frombuffer(change(text).encode("utf-8", "surrogatepass"), np.uint8)
    builder = Builder(1 << 14)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def sealed_again(data: bytes) -> bytes:
    """The damaged file with a right hash, where its seal's marker survived."""
    at = data.find(MARKER)
    if at < 0 or at + len(MARKER) + DIGITS > len(data):
        return data
    return seal(data[:at] + UNSEALED.encode("ascii") + data[at + len(MARKER) + DIGITS :])


def unsealed(data: bytes) -> bytes:
    """The file without its seal's marker, as an earlier version wrote it."""
    return data.replace(MARKER, b"x" * len(MARKER))
