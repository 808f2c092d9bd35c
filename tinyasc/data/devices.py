"""Recording devices made from measured microphones: a clip as it would sound through another one.

The shipped list `configs/devices/micirp.yaml` deals the microphones out to three disjoint lists, so that a model is
trained through some, augmented with others, and tested through microphones that nothing has heard before.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from tinyasc.audio import read_audio
from tinyasc.data.lists import clip_path, nearest
from tinyasc.errors import InputError

CLEAN = "clean"  # the device of a clip as it is


@dataclass(frozen=True)
class DeviceList:
    """Impulse responses as file names relative to one folder.

    Args:
        name: of the collection.
        train: microphones that the training clips are recorded through.
        bank: microphones for impulse-response augmentation.
        test: microphones that are kept for testing alone.
    """

    name: str
    train: tuple[str, ...]
    bank: tuple[str, ...]
    test: tuple[str, ...]

    def stems(self, *parts: str) -> list[str]:
        """Names of the microphones of some lists: their files without folder and suffix."""
        return [Path(file).stem for part in parts for file in getattr(self, part)]


def load_device_list(path: Path) -> DeviceList:
    """Reads a list of microphones.

    Args:
        path: YAML with `name`, `train`, `bank` and `test`.

    Raises:
        InputError: no such file, not YAML, an unknown or missing key, an empty list, a name (file without folder and
            suffix) in two lists, or one called "clean", as clips without a microphone are.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such list of devices; the shipped one is devices/micirp") from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"{path}: cannot be read as YAML ({type(error).__name__}); mend it and run again") from None
    keys = [field.name for field in dataclasses.fields(DeviceList)]
    if not isinstance(values, dict):
        raise InputError(f"{path}: a list of devices is a YAML mapping with {', '.join(keys)}")
    if strange := [key for key in values if key not in keys]:
        raise InputError(f"{path}: unknown key {strange[0]!r}; {nearest(str(strange[0]), keys)}")
    if not isinstance(values.get("name"), str):
        raise InputError(f"{path}: lacks the key 'name'")
    home: dict[str, str] = {}
    for key in keys[1:]:
        files = values.get(key)
        if not isinstance(files, list) or not files or not all(isinstance(file, str) for file in files):
            raise InputError(f"{path}: {key} must be a list of audio files, and not empty")
        for file in files:
            # Scores and copies know a microphone by this name alone.
            name = Path(file).stem
            if name == CLEAN:
                raise InputError(f"{path}: {key} names {file}, and clips without a microphone are called so; rename it")
            if name in home:
                raise InputError(f"{path}: {name} is listed twice ({home[name]}, {key}); one list may have it")
            home[name] = key
    return DeviceList(values["name"], *(tuple(values[key]) for key in keys[1:]))


def read_responses(files: tuple[str, ...], root: Path, sample_rate: int) -> dict[str, np.ndarray]:
    """Impulse responses at one rate.

    Args:
        files: relative to `root`.
        root: their folder.
        sample_rate: Hz; others are resampled.

    Returns:
        File name without folder and suffix -> (samples,) float32.

    Raises:
        InputError: a missing or unreadable file, a name that leads out of `root`, silence, or two of one name.
    """
    found: dict[str, np.ndarray] = {}
    for file in files:
        path = clip_path(root, file, "the list of devices")
        if not path.is_file():
            raise InputError(f"{path}: no such impulse response; name the folder that holds {file} with --device-root")
        response = read_audio(path, sample_rate)
        if not response.any():
            raise InputError(f"{path}: an impulse response of silence; take it off the list")
        if path.stem in found:
            raise InputError(f"the list of devices names {path.stem!r} twice, in two folders; rename one")
        found[path.stem] = response
    return found


def through(samples: np.ndarray, response: np.ndarray) -> np.ndarray:
    """A clip as a microphone hears it: linear convolution, length and level (RMS) kept.

    The first len(samples) samples of the full convolution are kept, so a response that begins with its direct sound
    delays nothing. Both sides of a stereo clip go through the same microphone and keep their balance: the level is that
    of both together. It is computed with the FFT in float64.

    Args:
        samples: (samples,) or, in stereo, (2, samples) floating point.
        response: (taps,) at the same rate.

    Returns:
        float32 of the samples' shape. Silence stays silence.

    Raises:
        InputError: an empty clip or response, another number of channels, values that are not finite.
    """
    for name, values, dimensions, wanted in (
        ("clip", samples, (1, 2), "(samples,) or (2, samples)"),
        ("impulse response", response, (1,), "(taps,)"),
    ):
        if values.ndim not in dimensions or values.size == 0 or (values.ndim == 2 and len(values) != 2):
            raise InputError(f"the {name} must be of shape {wanted}, got {values.shape}")
        if not np.isfinite(values).all():
            raise InputError(f"the {name} holds NaN or infinity")
    n = samples.shape[-1]
    length = n + len(response) - 1
    size = 1 << (length - 1).bit_length()
    spectrum = np.fft.rfft(samples.astype(np.float64), size) * np.fft.rfft(response.astype(np.float64), size)
    heard = np.fft.irfft(spectrum, size)[..., :n]
    level, new = _rms(samples), _rms(heard)
    # Rounding alone leaves about 1e-16 of a silent clip's neighbourhood; nothing may be made louder out of that.
    audible = new > 1e-12 * max(1.0, level)
    return (heard * (level / new)).astype(np.float32) if audible else np.zeros(samples.shape, np.float32)


def _rms(samples: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))
