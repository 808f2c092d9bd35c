"""Test-time augmentation: copies of one clip whose mean answer is steadier than that of the clip alone.

A copy is drawn as a plain record (`Copy`): which samples it takes, how loud, and what is masked in its features. It is
made when it is heard, so that none but the one at work is held, and a long file can give its copies while it is read.
Rolls, crops and gains act on samples, so that their features are as exact as those of the clip.
"""

from __future__ import annotations

from dataclasses import dataclass
from operator import index

import numpy as np

from tinyasc.errors import InputError
from tinyasc.frontend import FrontEnd

CROP_SHARE = 0.8
SHIFT_FRAMES = 10.0  # Xin et al., DCASE 2022, section 3.2: eta ~ N(0, 10), read as a standard deviation in frames
GAIN_DB = 6.0  # what this project's recipes train with
MASK_SHARE = 1 / 8  # widest stripe, of the bands or the frames; our choice
MAX_COPIES = 1000  # each of a long file is held as one window of it: 640 MB of 5 s at 32 kHz
BANDS, FRAMES = 1, 2  # axes of features (channels, bands, frames)

FIXED = ("start", "middle", "end")
PLACES = ("roll", "shift", "crop", *FIXED)
CHANGES = (*PLACES, "gain", "zero-mask", "mean-mask")


@dataclass(frozen=True)
class Cut:
    """Samples base + (phase + 0, 1, ... length - 1) modulo period of a clip."""

    base: int
    phase: int
    period: int
    length: int

    def index(self) -> np.ndarray:
        """Positions of the samples, (length,) int64."""
        return self.base + (self.phase + np.arange(self.length)) % self.period


@dataclass(frozen=True)
class Stripe:
    """Bands or frames [start, start + width) that become 0, or the mean of the clip's features, channel by channel."""

    axis: int
    start: int
    width: int
    mean: bool


@dataclass(frozen=True)
class Copy:
    """How one copy is made of a clip.

    Args:
        cut: which samples it takes; None for all, as they are.
        gain_db: by how much it is louder.
        stripes: what is masked in its features.
    """

    cut: Cut | None = None
    gain_db: float = 0.0
    stripes: tuple[Stripe, ...] = ()

    def sound(self, samples: np.ndarray) -> np.ndarray:
        """The copy's samples of a clip (..., samples): the same type, (..., the cut's length)."""
        return self.amplify(samples if self.cut is None else samples[..., self.cut.index()])

    def amplify(self, samples: np.ndarray) -> np.ndarray:
        """Samples (..., samples) at the copy's gain."""
        return samples * samples.dtype.type(10 ** (self.gain_db / 20)) if self.gain_db else samples

    def mask(self, mel: np.ndarray) -> np.ndarray:
        """Normalised features (channels, bands, frames) with the copy's stripes."""
        if not self.stripes:
            return mel
        masked, level = mel.copy(), mel.mean(axis=(BANDS, FRAMES), keepdims=True)
        for stripe in self.stripes:
            inside = [slice(None)] * mel.ndim
            inside[stripe.axis] = slice(stripe.start, stripe.start + stripe.width)
            masked[tuple(inside)] = level if stripe.mean else 0
        return masked


@dataclass(frozen=True)
class Tta:
    """Which copies are made of a clip.

    Args:
        copies: how many, 1 to `MAX_COPIES`.
        turns: the changes of a copy, by turns; each a mix of at most one of `PLACES`, "gain" and one kind of mask.
        plain_first: copy 0 is the clip as it is, of whatever length; the turns begin with copy 1.
        name: of the preset, or "".

    Every other copy of a clip that is longer than the model's input is one window of it:

    * "roll": a circular shift in time by anything. Of a longer clip a window from anywhere, which may wrap from the
      end to the beginning.
    * "shift": a circular shift by N(0, 10) frames (S4); of a longer clip as "roll".
    * "crop": of a longer clip a random window, which never wraps. Of any other a random part of 80 % to less than
      100 %, which then repeats from its own start until it is as long as the clip was. Zeros would be the simpler
      filling, but they are -100 dB in every band: a model that was trained on whole clips never heard such a pause,
      and its means would follow it. Clips that are shorter than the input are still padded with zeros by the runner,
      after this, exactly as in training.
    * "start", "middle", "end": windows at these places of a longer clip; any other as it is.
    * "gain": U(-6, 6) dB, of a random window where a longer clip gets no place.
    * "zero-mask", "mean-mask": one stripe of U{0..1/8} of the bands and one of the frames become 0 in the model's
      input (about each band's level in training, since features are normalised per band), or the mean of the clip's
      own features; of a random window likewise.

    Copy i depends on (seed, i) alone: more copies begin with the same ones.

    Raises:
        InputError: no copies or too many, an unknown change, or changes that do not go together.
    """

    copies: int
    turns: tuple[tuple[str, ...], ...] = (("roll",), ("crop",))
    plain_first: bool = True
    name: str = ""

    def __post_init__(self) -> None:
        if self.copies < 1:
            raise InputError(f"tta must be at least 1 copy, got {self.copies}")
        if self.copies > MAX_COPIES:
            raise InputError(f"tta must be at most {MAX_COPIES} copies, got {self.copies}")
        if not self.turns:
            raise InputError(f"tta: name at least one change of the copies; there are {', '.join(CHANGES)}")
        for turn in self.turns:
            for change in turn:
                if change not in CHANGES:
                    raise InputError(f"tta: no change is named {change!r}; there are {', '.join(CHANGES)}")
            places, masks = ([c for c in turn if c in kind] for kind in (PLACES, ("zero-mask", "mean-mask")))
            if not turn or len(set(turn)) < len(turn) or len(places) > 1 or len(masks) > 1:
                raise InputError(f"tta: {'+'.join(turn)!r} must be one place, one mask and gain, each at most once")

    def draw(self, n_samples: int, front_end: FrontEnd, seed: int) -> list[Copy]:
        """The copies of a clip, in order.

        Args:
            n_samples: of the clip, at the front end's rate, at least 1.
            front_end: gives the length of the model's input, and the shape of its features.
            seed: not negative.

        Returns:
            `copies` of them; one where all would be the clip as it is (fixed places of a clip that is not longer than
            the input).

        Raises:
            InputError: a negative seed.
        """
        if seed < 0:
            raise InputError(f"tta: the seed must not be negative, got {seed}")
        fixed = all(change in FIXED for turn in self.turns for change in turn)
        if fixed and n_samples <= front_end.clip_samples:
            return [Copy()]
        first = int(self.plain_first)
        changed = range(first, self.copies)
        turns = [self.turns[(i - first) % len(self.turns)] for i in changed]
        return [Copy()] * first + [
            _drawn(turn, n_samples, front_end, np.random.default_rng((seed, i)))
            for i, turn in zip(changed, turns, strict=True)
        ]


# Shim et al., 2022, as released: 3 crops (start, 2.5 s, end) of 10 s for an input of 5 s, mean of their softmax.
# Xin et al., DCASE 2022, section 3.3: "we average the softmax predictions from 30 different augmentations", which the
# report does not name. Here their two of section 3 that a single clip can have: time shifting, and SpecAugment++ on the
# input. Its mixture masks take another sample of the batch; a clip alone has none, so its own mean stands for it.
PRESETS = {
    "s2-3crop": Tta(3, (("start",), ("middle",), ("end",)), plain_first=False, name="s2-3crop"),
    "s4-30": Tta(30, (("shift", "mean-mask"),), plain_first=False, name="s4-30"),
}


def parse_tta(text: str | int | Tta | None) -> Tta:
    """A number of copies, with or without their changes, the name of a preset, or what is one already.

    Args:
        text: such as 8, "8", "s4-30", or "8:shift+mean-mask,gain": what the copies are by turns, divided by commas,
            changes of one copy joined by "+" (by default "roll,crop"). None is 1, the plain clip.

    Raises:
        InputError: neither a number of copies nor a preset, or changes of unknown names.
    """
    if isinstance(text, Tta):
        return text
    if not isinstance(text, str):
        return Tta(1 if text is None else index(text))
    if text in PRESETS:
        return PRESETS[text]
    number, colon, changes = text.partition(":")
    try:
        copies = int(number)
    except ValueError:
        raise InputError(
            f"tta: {text!r} is neither a number of copies (8, 8:shift,crop) nor one of {', '.join(PRESETS)}"
        ) from None
    if not colon:
        return Tta(copies)
    return Tta(copies, tuple(tuple(part.strip() for part in turn.split("+")) for turn in changes.split(",")))


def roll(n_samples: int, clip_samples: int, random: np.random.Generator) -> Cut:
    """The clip from a random sample on, wrapping round its end, at most `clip_samples` long."""
    start = int(random.integers(1, max(n_samples, 2)))
    return Cut(0, start, n_samples, min(n_samples, clip_samples))


def crop(n_samples: int, clip_samples: int, random: np.random.Generator) -> Cut:
    """A random window of a long clip; of any other a random part, repeated up to the clip's length."""
    if n_samples > clip_samples:
        return Cut(int(random.integers(0, n_samples - clip_samples + 1)), 0, clip_samples, clip_samples)
    least = int(np.ceil(CROP_SHARE * n_samples))
    length = int(random.integers(least, max(n_samples, least + 1)))
    return Cut(int(random.integers(0, n_samples - length + 1)), 0, length, n_samples)


def decided(total: np.ndarray, remaining: int) -> bool:
    """Whether no further copies can change which class leads.

    A copy adds a vector of probabilities, each in 0..1, whatever temperature, decision weights and aggregation of
    windows made of them. So `remaining` copies add at most `remaining` to any class and take nothing from the leader: a
    lead of more than that stays. What float64 may lose in the sums of n copies is far below 1e-9 n, which is added.

    Args:
        total: (K,) sums of the copies' probabilities so far.
        remaining: copies that are still to come.
    """
    if len(total) == 1:
        return True
    second, first = np.partition(total, -2)[-2:]
    return bool(first - second > remaining + 1e-9 * (remaining + total.sum()))


def _drawn(turn: tuple[str, ...], n_samples: int, front_end: FrontEnd, random: np.random.Generator) -> Copy:
    clip_samples = front_end.clip_samples
    place = next((change for change in turn if change in PLACES), None)
    cut = _placed(place, n_samples, front_end, random)
    if cut is None and n_samples > clip_samples:
        cut = crop(n_samples, clip_samples, random)
    gain_db = float(random.uniform(-GAIN_DB, GAIN_DB)) if "gain" in turn else 0.0
    stripes = []
    for axis in (BANDS, FRAMES) if {"zero-mask", "mean-mask"} & set(turn) else ():
        size = front_end.shape[axis]
        width = int(random.integers(0, int(MASK_SHARE * size) + 1))
        stripes.append(Stripe(axis, int(random.integers(0, size - width + 1)), width, "mean-mask" in turn))
    return Copy(cut, gain_db, tuple(stripes))


def _placed(place: str | None, n_samples: int, front_end: FrontEnd, random: np.random.Generator) -> Cut | None:
    clip_samples, spare = front_end.clip_samples, n_samples - front_end.clip_samples
    if place == "roll" or (place == "shift" and spare > 0):
        return roll(n_samples, clip_samples, random)
    if place == "shift":
        frames = int(np.rint(random.normal(0, SHIFT_FRAMES)))
        return Cut(0, -frames * front_end.hop_length % n_samples, n_samples, n_samples)
    if place == "crop":
        return crop(n_samples, clip_samples, random)
    if place is None or spare <= 0:
        return None
    return Cut({"start": 0, "middle": spare // 2, "end": spare}[place], 0, clip_samples, clip_samples)
