"""The files that are damaged, and the case of every number: `model_case(7)` is the same file on every machine."""

from __future__ import annotations

import io
import random
import sys
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import soundfile

sys.path[:0] = [str(Path(__file__).parents[1] / folder) for folder in ("infer", "export", "fuzz")]

import mutate  # noqa: E402
import tiny_models as tiny  # noqa: E402
from graphs import small_student  # noqa: E402

from tinyasc.frontend import FrontEnd  # noqa: E402
from tinyasc_export.bundle import METADATA_KEY, Bundle  # noqa: E402
from tinyasc_export.graphfile import save_graph  # noqa: E402
from tinyasc_export.onnx import to_onnx  # noqa: E402
from tinyasc_export.quantize import calibrate, quantize_int8, quantize_int16x8  # noqa: E402
from tinyasc_export.tflite import to_tflite  # noqa: E402

FRONT_END = FrontEnd(
    sample_rate=8000, clip_samples=512 + 19 * 256, n_fft=512, win_length=512, hop_length=256, n_mels=32,
    band_scale=(0.02,) * 32, band_offset=(1.0,) * 32,
)  # fmt: skip
BUNDLE = Bundle(tuple("abcdefghij"), FRONT_END.to_dict(), {"temperature": 1.5, "precision": "int8"})
# name -> (soundfile's format, its subtype, rate, channels)
SOUNDS = {
    "u8.wav": ("WAV", "PCM_U8", 8000, 1),
    "s16.wav": ("WAV", "PCM_16", 8000, 2),
    "s24.wav": ("WAVEX", "PCM_24", 11025, 3),
    "f32.wav": ("WAV", "FLOAT", 16000, 1),
    "f64.wav": ("WAV", "DOUBLE", 8000, 1),
    "ulaw.wav": ("WAV", "ULAW", 8000, 1),
    "ima.wav": ("WAV", "IMA_ADPCM", 8000, 1),
    "ms.wav": ("WAV", "MS_ADPCM", 8000, 2),
    "gsm.wav": ("WAV", "GSM610", 8000, 1),
    "rf64.wav": ("RF64", "PCM_16", 8000, 1),
    "s16.aiff": ("AIFF", "PCM_16", 8000, 1),
    "s16.au": ("AU", "PCM_16", 8000, 1),
    "s16.caf": ("CAF", "PCM_16", 8000, 1),
    "s16.w64": ("W64", "PCM_16", 8000, 1),
    "s16.flac": ("FLAC", "PCM_16", 16000, 2),
    "s24.flac": ("FLAC", "PCM_24", 8000, 1),
    "vorbis.ogg": ("OGG", "VORBIS", 8000, 1),
    "opus.ogg": ("OGG", "OPUS", 8000, 1),
    "flac.ogg": ("OGG", "FLAC", 8000, 1) if "FLAC" in soundfile.available_subtypes("OGG") else None,
    "mono.mp3": ("MP3", "MPEG_LAYER_III", 8000, 1),
    "stereo.mp3": ("MP3", "MPEG_LAYER_III", 16000, 2),
}


@cache
def sounds() -> list[tuple[str, bytes]]:
    """Name and content of one short file of each kind."""
    files = []
    for name, kind in SOUNDS.items():
        if kind is None:
            continue
        form, subtype, rate, channels = kind
        content = io.BytesIO()
        sound = np.stack([tiny.tone("middle", 2400, rate) * gain for gain in np.linspace(1, 0.3, channels)], axis=1)
        soundfile.write(content, sound, rate, format=form, subtype=subtype)
        files.append((name, content.getvalue()))
    return files


def sound_case(number: int) -> tuple[str, bytes]:
    """The damaged sound file of this number, and what it was."""
    rng = random.Random(number)
    name, content = rng.choice(sounds())
    return name, mutate.damage(content, rng)


@cache
def models() -> dict[str, bytes]:
    """One file of each kind that `infer` reads."""
    net, narrow = small_student(), small_student(gate="relu")
    clips = net.features(3)
    int8 = quantize_int8(net.graph, calibrate(net.graph, clips))
    int16 = quantize_int16x8(narrow.graph, calibrate(narrow.graph, clips))
    return {
        "int8.tflite": to_tflite(int8, BUNDLE),
        "int16.tflite": to_tflite(int16, BUNDLE),
        "fp32.tflite": to_tflite(net.graph, BUNDLE),
        "fp16.tflite": to_tflite(net.graph, BUNDLE, weights="float16"),
        "tiny.tflite": tiny.tflite_int8(temperature=2.0),
        "fp32.onnx": to_onnx(net.graph, BUNDLE),
        "int8.onnx": to_onnx(int8, BUNDLE),
        "int8.npz": save_graph(int8, BUNDLE),
    }


def model_case(number: int) -> tuple[str, bytes]:
    """The damaged model file of this number, and how it was damaged."""
    rng = random.Random(number)
    tflite = [name for name in models() if name.endswith(".tflite")]
    name = rng.choice([*tflite, *tflite, *models()])
    content = models()[name]
    ways = {
        ".tflite": ("damage", "offsets", "rebuilt", "rebuilt", "rebuilt", "card"),
        ".onnx": ("damage", "damage", "card"),
    }
    way = rng.choice(ways.get(Path(name).suffix, ("damage",)))
    content = _carded(name, content, rng) if way == "card" else getattr(mutate, way)(content, rng)
    # As it is a seal stops almost all of them; the rest is for what stands behind it.
    sealing = rng.choice(("kept", "again", "again", "none", "none"))
    if sealing != "kept":
        content = (mutate.sealed_again if sealing == "again" else mutate.unsealed)(content)
    return f"{name} {way} seal {sealing}", content


def _carded(name: str, content: bytes, rng: random.Random) -> bytes:
    def change(text: str) -> str:
        return mutate.wrong_card(text, rng) if rng.random() < 0.9 else text[: rng.randrange(len(text))]

    if name.endswith(".tflite"):
        return mutate.with_text(content, change)
    model = onnx.load_from_string(content)
    for entry in model.metadata_props:
        if entry.key == METADATA_KEY:
            entry.value = change(entry.value)
    return model.SerializeToString()
