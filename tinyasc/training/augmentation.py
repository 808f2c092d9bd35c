"""The transforms of `tinyasc.augment` in the order and strength that a recipe's `augment` part names."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn

from tinyasc import augment
from tinyasc.augment import Mix
from tinyasc.augment.impulse_response import bank_files
from tinyasc.errors import InputError
from tinyasc.frontend import FrontEnd
from tinyasc.training.rates import LogMelFrom
from tinyasc.training.recipe_parts import Augment


def needs_waveforms(settings: Augment) -> bool:
    """Whether any transform of the recipe acts on waveforms."""
    s = settings
    on = (s.wave_crop, s.wave_roll_seconds, s.dir_prob, s.noise_prob, s.between_class, s.wave_gain_db)
    return s.time_scale > 1 or s.time_stretch > 1 or any(map(bool, on))


def heard_responses(settings: Augment) -> list[str]:
    """The impulse responses that a training hears, as file names without folder and suffix.

    Raises:
        InputError: they are no longer there.
    """
    return [file.stem for file in bank_files(settings.dirs or "")] if settings.dir_prob else []


def refuse_stereo(front_end: FrontEnd) -> None:
    """Transforms of waveforms take one channel.

    Raises:
        InputError: a stereo front end.
    """
    if front_end.stereo:
        raise InputError(
            "augment: transforms of waveforms take one channel and front_end.stereo is on; leave one of the two out "
            "(transforms of features take both)"
        )


def gain_scale(front_end: FrontEnd) -> Tensor:
    """What a gain of 1 dB adds to normalised features: (channels, bands); to deltas nothing."""
    scale = torch.ones(front_end.channels, front_end.n_mels)
    if front_end.band_scale:
        scale = torch.tensor(front_end.band_scale).reshape(scale.shape)
    scale[front_end.sides :] = 0
    return scale


class WaveformAugment(nn.Module):
    """The waveform transforms of a recipe.

    Args:
        settings: the recipe's `augment` part.
        front_end: whose length of a clip comes out.
        sample_rate: of the waveforms, Hz; None is the front end's.

    Raises:
        InputError: impulse responses that cannot be read.
    """

    bank: Tensor | None

    def __init__(self, settings: Augment, front_end: FrontEnd, sample_rate: int | None = None) -> None:
        super().__init__()
        self.settings, self.sample_rate = settings, sample_rate or front_end.sample_rate
        self.clip_samples = round(front_end.clip_samples * self.sample_rate / front_end.sample_rate)
        bank = augment.load_bank(settings.dirs or "", self.sample_rate) if settings.dir_prob else None
        self.register_buffer("bank", bank, persistent=False)

    def forward(
        self,
        x: Tensor,
        lengths: Tensor,
        labels: Tensor,
        generator: Generator,
        *,
        dir_allowed: Tensor | None = None,
    ) -> tuple[Tensor, Mix | None]:
        """Changes a batch.

        Args:
            x: (batch, samples), zeros after each clip's length.
            lengths: (batch,) samples that are sound.
            labels: (batch,) class indices: between-class mixing takes clips of different ones.
            generator: the only source of randomness.
            dir_allowed: (batch,) bool: clips that may be given an impulse response; None is all.

        Returns:
            Waveforms of one clip's length, (batch, samples), and what to mix the targets by, if they were mixed.
        """
        s, clip_samples, rate = self.settings, self.clip_samples, self.sample_rate
        if s.time_scale > 1:
            x, lengths = augment.time_scale(x, lengths, generator, max_scale=s.time_scale)
        if s.time_stretch > 1:
            x, lengths = augment.time_stretch(x, lengths, generator, max_stretch=s.time_stretch)
        if s.wave_crop:
            x = augment.crop_samples(x, lengths, generator, samples=clip_samples, padding=s.wave_crop_padding)
        else:
            # As validation and test clips are cut.
            x = x[:, :clip_samples]
            x = nn.functional.pad(x, (0, clip_samples - x.shape[1]))
        if s.wave_roll_seconds:
            x = augment.roll_samples(x, generator, max_samples=round(s.wave_roll_seconds * rate))
        if self.bank is not None:
            x = augment.impulse_response(x, generator, bank=self.bank, prob=s.dir_prob, allowed=dir_allowed)
        if s.noise_prob:
            x = augment.add_noise(x, generator, snr_db=s.noise_snr_db, color=s.noise_color, prob=s.noise_prob)
        mix = None
        if s.between_class:
            x, mix = augment.between_class(x, labels, generator, sample_rate=rate)
        if s.wave_gain_db:
            x = augment.gain_samples(x, generator, max_db=s.wave_gain_db)
        return x, mix


class Views(NamedTuple):
    """One augmented batch, as several models may take it.

    `features` (batch, channels, bands, frames); `whole`, the same before `crop_frames` where that comes last;
    `samples`, augmented waveforms (batch, samples), where there are any; `mixes`, to apply to the targets in turn;
    `feature_mix`, the last of them, where it is of features.
    """

    features: Tensor
    whole: Tensor
    samples: Tensor | None
    mixes: list[Mix]
    feature_mix: Mix | None


class AugmentedFeatures(nn.Module):
    """A batch as the loader gives it, to features and what to mix targets by: all that a recipe's `augment` says.

    Args:
        settings: the recipe's `augment` part.
        front_end: with its normalisation; None where no waveform is augmented.
        band_scale: (channels, bands) of what a gain of 1 dB adds to the features, see `gain_scale`.
        wave_rate: Hz of the batches' waveforms where other models read them too; None is the front end's rate, and
            waveforms only where a transform acts on them.
        crop_last: `crop_frames` after all other transforms, for models that take whole clips alone.
    """

    band_scale: Tensor

    def __init__(
        self,
        settings: Augment,
        *,
        band_scale: Tensor,
        front_end: FrontEnd | None = None,
        wave_rate: int | None = None,
        crop_last: bool = False,
    ) -> None:
        super().__init__()
        self.settings, self.cropped = settings, settings.crop_frames if crop_last else 0
        if crop_last:
            self.settings = settings.model_copy(update={"crop_frames": 0})
        self.register_buffer("band_scale", band_scale, persistent=False)
        self.waveforms = self.front_end = None
        if wave_rate is not None or needs_waveforms(settings):
            assert front_end is not None, "waveforms become features by a front end"
            self.waveforms = WaveformAugment(settings, front_end, wave_rate)
            self.front_end = LogMelFrom(front_end, self.waveforms.sample_rate)

    def forward(self, batch: dict[str, Tensor], generator: Generator) -> tuple[Tensor, list[Mix]]:
        """Augmented features (batch, channels, bands, frames), and the mixes to apply to the targets in turn.

        Args:
            batch: "features" (batch, channels, bands, frames), or "waveform", "length" and "label" as
                `tinyasc.training.waveforms` gives them.
            generator: the only source of randomness.
        """
        views = self.views(batch, generator)
        return views.features, views.mixes

    def views(self, batch: dict[str, Tensor], generator: Generator) -> Views:
        """The same, with all that other models need to see the same batch."""
        mixes: list[Mix] = []
        samples = None
        if self.waveforms is None or self.front_end is None:
            x = batch["features"]
        else:
            # Mixed precision is for the model: features of bfloat16 would not be those of validation.
            with torch.no_grad(), torch.autocast(batch["waveform"].device.type, enabled=False):
                samples, mix = self.waveforms(
                    batch["waveform"], batch["length"], batch["label"], generator, dir_allowed=batch.get("dir_allowed")
                )
                x = self.front_end(samples)
            mixes += [mix] if mix is not None else []
        x, mix = augment_features(x, self.settings, generator, band_scale=self.band_scale)
        cropped = augment.crop_time(x, generator, frames=self.cropped) if self.cropped else x
        return Views(cropped, x, samples, mixes + ([mix] if mix is not None else []), mix)


def augment_features(
    x: Tensor, settings: Augment, generator: Generator, *, band_scale: Tensor
) -> tuple[Tensor, Mix | None]:
    """The feature transforms of a recipe.

    Args:
        x: (batch, channels, bands, frames), normalised.
        settings: the recipe's `augment` part.
        generator: the only source of randomness.
        band_scale: (channels, bands) of what a gain of 1 dB adds to the features, see `gain_scale`.

    Returns:
        Features, of `crop_frames` frames if that is set; and what to mix the targets by, if they were mixed.
    """
    s, mix = settings, None
    if s.roll or s.roll_sigma:
        x = augment.roll_time(x, generator, sigma=s.roll_sigma or None)
    if s.crop_frames:
        x = augment.crop_time(x, generator, frames=s.crop_frames)
    if s.gain_db:
        x = augment.gain(x, generator, max_db=s.gain_db, band_scale=band_scale)
    if s.filter_db:
        x = augment.filter_bands(x, generator, max_db=s.filter_db, band_scale=band_scale)
    if s.mixstyle_p:
        x = augment.freq_mixstyle(x, generator, p=s.mixstyle_p, alpha=s.mixstyle_alpha)
    if s.mixup_alpha:
        mix = augment.mixup(len(x), generator, alpha=s.mixup_alpha)
        x = mix(x)
    if s.time_mask:
        x = augment.mask_time(x, generator, width=s.time_mask, stripes=s.time_stripes, mode=s.mask_mode)
    if s.freq_mask:
        x = augment.mask_frequency(x, generator, width=s.freq_mask, stripes=s.freq_stripes, mode=s.mask_mode)
    return x, mix


def masks_inside(
    module: nn.Module, settings: Augment, generator: Generator, *, bands: int, frames: int
) -> AbstractContextManager[None]:
    """The masks of `mask_layers` for one forward pass, scaled from an input of (bands, frames) to each map's size.

    Raises:
        InputError: as `tinyasc.augment.hidden_masks`.
    """
    s = settings
    if not s.mask_layers or not (s.time_mask or s.freq_mask):
        return nullcontext()
    return augment.hidden_masks(
        module,
        s.mask_layers,
        generator,
        time_share=min(1.0, s.time_mask / frames),
        freq_share=min(1.0, s.freq_mask / bands),
        time_stripes=s.time_stripes,
        freq_stripes=s.freq_stripes,
        mode=s.mask_mode,
    )
