"""A model small enough to work out by hand: it hears whether a tone is low, middle or high.

mean over time -> reshape -> fully connected: the logit of a class is the level of its third of the mel bands.
"""

import dataclasses

import numpy as np

from tinyasc.frontend import FrontEnd, features
from tinyasc_export.bundle import Bundle
from tinyasc_export.graph import Graph, Tensor
from tinyasc_export.onnx import to_onnx
from tinyasc_export.quantize import calibrate, quantize_int8
from tinyasc_export.tflite import to_tflite

RATE = 8000
LABELS = ("low", "middle", "high")
TONES = {"low": 200.0, "middle": 900.0, "high": 2800.0}
FRONT_END = FrontEnd(
    sample_rate=RATE,
    clip_samples=4096,
    n_fft=512,
    win_length=512,
    hop_length=256,
    n_mels=12,
    band_scale=(0.02,) * 12,
    band_offset=(1.0,) * 12,
)
WEIGHT = np.kron(np.eye(3), np.ones((1, 4))).astype(np.float32)  # (3, 12)


def tone(label: str, samples: int = 4096, rate: int = RATE) -> np.ndarray:
    """A sine in the band of a label over a little noise, (samples,) float32."""
    noise = np.random.default_rng(1).normal(0, 0.001, samples)
    return (0.5 * np.sin(2 * np.pi * TONES[label] * np.arange(samples) / rate) + noise).astype(np.float32)


def graph(weight: np.ndarray = WEIGHT, front_end: FrontEnd = FRONT_END) -> Graph:
    """The float graph, NHWC."""
    shape = (1, front_end.n_mels, front_end.n_frames(), 1)
    g = Graph({"features": Tensor("features", shape)}, [], "features", "")
    mean = g.add_op("mean", ["features"], {"axes": (2,)})
    flat = g.add_op("reshape", [mean], {"shape": (1, front_end.n_mels)})
    names = [flat, g.add_constant("w", weight), g.add_constant("b", np.zeros(len(weight), np.float32))]
    g.output = g.add_op("fully_connected", names, {"activation": "none"})
    return g


def bundle(labels=LABELS, front_end: FrontEnd = FRONT_END, **card) -> Bundle:
    return Bundle(tuple(labels), front_end.to_dict(), card)


def int8_graph() -> Graph:
    clips = np.stack([features(tone(label), FRONT_END) for label in LABELS]).transpose(0, 2, 3, 1)
    return quantize_int8(graph(), calibrate(graph(), clips))


def tflite(**card) -> bytes:
    return to_tflite(graph(), bundle(**card))


def tflite_int8(**card) -> bytes:
    return to_tflite(int8_graph(), bundle(**card))


def onnx(**card) -> bytes:
    return to_onnx(graph(), bundle(**card))


def other_front_end(**changes) -> FrontEnd:
    return dataclasses.replace(FRONT_END, **changes)


def expected(samples: np.ndarray) -> np.ndarray:
    """The answer for one clip of `clip_samples`, from the definition: (3,) float64."""
    logits = WEIGHT.astype(np.float64) @ features(samples, FRONT_END)[0].astype(np.float64).mean(axis=1)
    powers = np.exp(logits)
    return powers / powers.sum()
