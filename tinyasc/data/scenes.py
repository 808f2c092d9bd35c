"""Procedural scenes: a synthetic data set in the exact layout of TAU Urban Acoustic Scenes 2020 Mobile.

Nothing here was recorded. Each scene is a few named sources: noise or harmonic tones, steady or sounding as
a track of events. The scenes come in pairs that share their bands and pitches and differ in how the sound
moves in time (`SCENES`), so mel band means say little and a model has to look at the spectrogram's shapes.
Devices colour the sound, locations bring a background of their own, and the test part has locations and
devices that training has not.
"""

from __future__ import annotations

import csv
import json
import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import soundfile

from tinyasc.errors import InputError, TinyascError

VERSION = 1  # raise it whenever the same parameters would give other bytes
MARKER = "dataset.json"
MIN_CLIPS_PER_SCENE, MAX_CLIPS_PER_SCENE = 12, 10_000
MIN_SECONDS, MAX_SECONDS = 0.5, 60.0
MIN_SAMPLE_RATE, MAX_SAMPLE_RATE = 16000, 192000  # below, the birds' partials would fold over

CITIES = ("lisbon", "prague", "helsinki", "vienna", "lyon", "milan")
TRAIN_LOCATIONS, TEST_LOCATIONS = 2, 1  # per scene and city
TRAIN_DEVICES = ("a", "b", "c", "s1", "s2", "s3")
UNSEEN_DEVICES = ("s4", "s5", "s6")
DEVICES = TRAIN_DEVICES + UNSEEN_DEVICES

# How hard the set is: the spread of the sources' levels, and how far a stray source is turned down.
LEVEL_SPREAD_DB = 2.5
STRAY_DB = (-18.0, -6.0)


@dataclass(frozen=True)
class Source:
    """One sound source of a scene.

    Args:
        db: level against the other sources of the scene.
        hz: centre of the noise band, or pitch of the lowest harmonic.
        octaves: width of the noise band (standard deviation of a bell over log frequency).
        harmonics: 0 for noise, else the partials of a tone.
        glide: octaves that a tone rises (falls if negative) during each event.
        rate: events per second; 0 sounds all the time.
        jitter: 0 places the events on a beat, 1 anywhere.
        attack: rise time of an event in seconds.
        decay: fall time of an event in seconds.
    """

    db: float
    hz: float
    octaves: float = 0.6
    harmonics: int = 0
    glide: float = 0.0
    rate: float = 0.0
    jitter: float = 0.6
    attack: float = 0.01
    decay: float = 0.1


# Each pair shares what the long-term spectrum shows and differs in the one thing that its comment names.
SCENES: dict[str, tuple[Source, ...]] = {
    # Halls, full of voices: announcements that swell and stop, against plucked music that starts and fades.
    "airport": (Source(0, 500, 1.3), Source(4, 520, harmonics=4, rate=3, attack=0.22, decay=0.02)),
    "shopping_mall": (Source(0, 540, 1.3), Source(4, 520, harmonics=4, rate=3, attack=0.02, decay=0.22)),
    # On wheels: an engine that throbs slowly, against wheels that rattle fast.
    "bus": (Source(0, 160, 0.9), Source(4, 420, 1.0, rate=3.2, jitter=0.1, attack=0.12, decay=0.12)),
    "tram": (Source(0, 170, 0.9), Source(4, 420, 1.0, rate=8.0, jitter=0.1, attack=0.05, decay=0.05)),
    # Underground: the motor's whine climbs as the train leaves, and drops as trains arrive at the station.
    "metro": (Source(0, 250, 1.1), Source(3, 700, harmonics=3, glide=0.8, rate=2, decay=0.4)),
    "metro_station": (Source(0, 265, 1.1), Source(3, 700, harmonics=3, glide=-0.8, rate=2, decay=0.4)),
    # Open air: birds whose calls bend upwards, against calls and squeaks that hold their pitch.
    "park": (Source(0, 900, 1.6), Source(3, 2400, harmonics=2, glide=0.5, rate=4, attack=0.04, decay=0.12)),
    "public_square": (Source(0, 850, 1.6), Source(3, 2400, harmonics=2, rate=4, attack=0.04, decay=0.12)),
    # Streets: steps on a beat, against cars that pass whenever they please.
    "street_pedestrian": (Source(0, 330, 1.4), Source(5, 1200, 0.9, rate=3, jitter=0.0, decay=0.15)),
    "street_traffic": (Source(0, 310, 1.4), Source(5, 1200, 0.9, rate=3, attack=0.15, decay=0.01)),
}


@dataclass(frozen=True)
class _Clip:
    """One row of meta.csv, and its place in the split."""

    scene: str
    city: str
    location: int
    segment: int
    device: str
    train: bool

    @property
    def filename(self) -> str:
        return f"audio/{self.scene}-{self.city}-{self.location}-{self.segment}-{self.device}.wav"


def write_scenes(
    root: Path | str,
    *,
    seed: int = 0,
    clips_per_scene: int = 90,
    seconds: float = 2.0,
    sample_rate: int = 16000,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Writes the synthetic data set, once.

    The files appear under `root` all at once, when the last is written. A second call with the same
    parameters returns at once. Equal parameters give equal bytes.

    Args:
        root: folder to make; it may exist if it is empty.
        seed: 0 or more; another seed gives other sounds and locations under the same names; devices stay.
        clips_per_scene: training clips per scene, 12 to 10,000. About two thirds come from device a, as in
            the real set; the test part adds about two fifths, the nine devices in equal parts.
        seconds: length of every clip, 0.5 to 60.
        sample_rate: Hz, 16000 to 192000.
        progress: called with (clips written, clips in all) after each clip.

    Returns:
        `root`. It holds `audio/*.wav` (one channel, 16 bit), `meta.csv`, `fold1_{train,test,evaluate}.csv` in
        `evaluation_setup/` (tab separated, with header) and the marker `dataset.json`: all is synthetic.

    Raises:
        InputError: a parameter out of range, or `root` is taken, is the current folder or cannot be.
        TinyascError: the disk refuses, for instance because it is full; `root` is then as it was.
    """
    root = Path(root)
    _check(seed, clips_per_scene, seconds, sample_rate)
    marker = {
        "name": "tinyasc procedural scenes",
        "synthetic": True,
        "note": "Synthetic: computed, nothing was recorded. Layout of TAU Urban Acoustic Scenes 2020 Mobile.",
        "version": VERSION,
        "seed": seed,
        "clips_per_scene": clips_per_scene,
        "seconds": float(seconds),
        "sample_rate": sample_rate,
    }
    if _is_written(root, marker):
        return root
    if root.resolve() == Path.cwd():  # the rename would pull it from under the caller
        raise InputError(f"{root}: is the current folder; name a folder inside it for the synthetic scenes")
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{root}: cannot be made ({error}); name another folder for the synthetic scenes") from None
    clips = list(_plan(clips_per_scene))
    try:
        # Beside root, so that the rename stays on one disk; of its own, so that two processes cannot meet.
        with tempfile.TemporaryDirectory(dir=root.parent, prefix=f".{root.name}-") as work:
            built = Path(work) / "scenes"
            (built / "audio").mkdir(parents=True)
            for done, clip in enumerate(clips, start=1):
                samples = _render(clip, seed, round(seconds * sample_rate), sample_rate)
                soundfile.write(built / clip.filename, samples, sample_rate, subtype="PCM_16")
                if progress is not None:
                    progress(done, len(clips))
            _write_lists(built, clips)
            (built / MARKER).write_text(json.dumps(marker, indent=2) + "\n", encoding="utf-8")
            # Another process may have finished first; what it wrote is the same.
            if not _is_written(root, marker):
                if root.exists():
                    root.rmdir()  # empty, as _is_written found; not every system renames onto a folder
                built.rename(root)
    except (OSError, soundfile.SoundFileError) as error:
        raise TinyascError(
            f"{root}: cannot write the synthetic scenes ({error}); free some space or name another folder"
        ) from error
    return root


def _check(seed: int, clips_per_scene: int, seconds: float, sample_rate: int) -> None:
    for name, value, low, high in (
        ("seed", seed, 0, 2**63),
        ("clips_per_scene", clips_per_scene, MIN_CLIPS_PER_SCENE, MAX_CLIPS_PER_SCENE),
        ("seconds", seconds, MIN_SECONDS, MAX_SECONDS),
        ("sample_rate", sample_rate, MIN_SAMPLE_RATE, MAX_SAMPLE_RATE),
    ):
        if not low <= value <= high:
            raise InputError(f"synthetic scenes: {name} must lie in {low}..{high}, got {value}")


def _is_written(root: Path, marker: dict[str, object]) -> bool:
    """True if root holds this very data set, False if it is free.

    Raises:
        InputError: root holds anything else.
    """
    if not root.exists():
        return False
    if not root.is_dir():
        raise InputError(f"{root}: is a file, not a folder; name another folder for the synthetic scenes")
    if not any(root.iterdir()):
        return False
    try:
        found = json.loads((root / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict) or found.get("name") != marker["name"]:
        raise InputError(f"{root}: holds files that are not synthetic scenes; name an empty or a new folder")
    for key, wanted in marker.items():
        if found.get(key) != wanted:
            raise InputError(
                f"{root}: holds synthetic scenes with {key} {found.get(key)}, not {wanted}; "
                "delete that folder or name another one"
            )
    return True


def _plan(clips_per_scene: int) -> Iterator[_Clip]:
    """The clips of both parts. Location and segment numbers are never used twice, as in the real set."""
    rare = max(1, clips_per_scene // 18)
    train = ["a"] * (clips_per_scene - rare * (len(TRAIN_DEVICES) - 1))
    train += [device for device in TRAIN_DEVICES[1:] for _ in range(rare)]
    test = [device for device in DEVICES for _ in range(max(1, clips_per_scene // 22))]
    location, segment = 1000, 40000
    for scene in SCENES:
        for devices, per_city, is_train in ((train, TRAIN_LOCATIONS, True), (test, TEST_LOCATIONS, False)):
            places = [(city, location + i) for i, city in enumerate(CITIES * per_city)]
            location += len(places)
            for i, device in enumerate(devices):
                yield _Clip(scene, *places[i % len(places)], segment, device, is_train)
                segment += 1


def _write_lists(root: Path, clips: list[_Clip]) -> None:
    """meta.csv and the fold's three lists, with the real set's columns."""
    train = [[clip.filename, clip.scene] for clip in clips if clip.train]
    evaluate = [[clip.filename, clip.scene] for clip in clips if not clip.train]
    meta = [[clip.filename, clip.scene, f"{clip.city}-{clip.location}", clip.device] for clip in clips]
    fold = root / "evaluation_setup"
    fold.mkdir()
    for path, header, rows in (
        (root / "meta.csv", ["filename", "scene_label", "identifier", "source_label"], meta),
        (fold / "fold1_train.csv", ["filename", "scene_label"], train),
        (fold / "fold1_evaluate.csv", ["filename", "scene_label"], evaluate),
        (fold / "fold1_test.csv", ["filename"], [row[:1] for row in evaluate]),
    ):
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, delimiter="\t", lineterminator="\n").writerows([header, *rows])


def _rng(*key: object) -> np.random.Generator:
    """A generator that depends on the key alone, not on the order of the clips or Python's hash seed."""
    return np.random.default_rng(zlib.crc32(repr(key).encode()))


def _render(clip: _Clip, seed: int, n: int, sample_rate: int) -> np.ndarray:
    """One clip, shape (n,), float64, peak below 1."""
    rng = _rng("clip", seed, clip.filename)
    octave = np.log2(np.maximum(np.fft.rfftfreq(n, 1 / sample_rate), 20.0))
    mix = np.zeros(n)
    # A little of another scene drifts in, as it does in towns: no single sound settles the answer.
    other = SCENES[tuple(SCENES)[rng.integers(len(SCENES))]][-1]
    stray = replace(other, db=other.db + rng.uniform(*STRAY_DB))
    for source in (*SCENES[clip.scene], stray):
        pitch = source.hz * 2 ** rng.normal(0, 0.12)
        envelope, since = _events(source, n, sample_rate, rng)
        if source.harmonics:
            sound = _tone(source, pitch, since, sample_rate, rng)
        else:
            sound = _noise(rng, np.exp(-0.5 * ((octave - np.log2(pitch)) / source.octaves) ** 2), n)
        mix += _level(sound * envelope, source.db + rng.normal(0, LEVEL_SPREAD_DB))
    place = _rng("location", seed, clip.city, clip.location)
    hum = _noise(rng, np.exp(-0.5 * ((octave - place.uniform(6.5, 12.0)) / place.uniform(0.8, 2.0)) ** 2), n)
    mix += _level(hum, place.uniform(-14, -2))
    mix += _level(rng.standard_normal(n), -30.0)  # the recorder's own noise keeps empty bands off the log's floor
    response = _curve(place, octave, 1.5) + _device_db(clip.device, octave)
    mix = np.fft.irfft(np.fft.rfft(mix) * 10 ** (response / 20), n)
    mix = _level(mix, rng.uniform(-34, -22))
    return mix * min(1.0, 0.95 / np.abs(mix).max())


def _events(source: Source, n: int, sample_rate: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Amplitude (n,) of a source, and how far (n,) each sample is into its event, 0 to 1."""
    if source.rate == 0:
        return np.ones(n), np.zeros(n)
    # The first event starts before the clip, so that a clip may begin in the middle of one.
    beats = np.arange(-1, n / sample_rate * source.rate + 1) + rng.uniform()
    onsets = np.sort(beats + source.jitter * rng.uniform(-0.5, 0.5, len(beats))) / source.rate
    time = np.arange(n) / sample_rate
    index = np.maximum(np.searchsorted(onsets, time, side="right") - 1, 0)
    since = np.maximum(time - onsets[index], 0.0)
    loudness = 10 ** (rng.normal(0, 2.0, len(onsets)) / 20)
    rise = np.minimum(since / source.attack, 1.0)
    fall = np.exp(-3 * np.maximum(since - source.attack, 0.0) / source.decay)
    return loudness[index] * rise * fall, np.minimum(since / (source.attack + source.decay), 1.0)


def _tone(source: Source, pitch: float, since: np.ndarray, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """Harmonics whose pitch glides around `pitch` along `since`. Shape as `since`."""
    hz = pitch * 2 ** (source.glide * (since - 0.5))
    phase = 2 * np.pi * np.cumsum(hz) / sample_rate
    return np.sum([np.sin(k * phase + rng.uniform(0, 6.28)) / k for k in range(1, source.harmonics + 1)], axis=0)


def _noise(rng: np.random.Generator, magnitude: np.ndarray, n: int) -> np.ndarray:
    """Gaussian noise of shape (n,) with the given spectrum (n // 2 + 1,)."""
    return np.fft.irfft(np.fft.rfft(rng.standard_normal(n)) * magnitude, n)


def _level(sound: np.ndarray, db: float) -> np.ndarray:
    """The sound with the given RMS in dB (full scale 0)."""
    return sound * (10 ** (db / 20) / max(float(np.sqrt(np.mean(sound**2))), 1e-9))


def _curve(rng: np.random.Generator, octave: np.ndarray, db: float) -> np.ndarray:
    """A smooth random response in dB over log frequency, standard deviation about `db`."""
    waves = [np.cos(2 * np.pi * (octave * rng.uniform(0.05, 0.35) + rng.uniform())) for _ in range(4)]
    return db / np.sqrt(2) * np.sum([rng.normal() * wave for wave in waves], axis=0)


def _device_db(device: str, octave: np.ndarray) -> np.ndarray:
    """A device's frequency response in dB: the same for every seed, as hardware is."""
    if device == "a":  # the reference recorder
        return np.zeros_like(octave)
    return _curve(_rng("device", device), octave, 3.0)
