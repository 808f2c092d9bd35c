"""Random changes of training batches, one idea per file.

On features (batch, channels, bands, frames): gain, filter_bands, roll_time, crop_time, freq_mixstyle, mixup, mask_time,
mask_frequency, and hidden_masks for a model's hidden maps. On waveforms (batch, samples): time_scale, time_stretch,
crop_samples, roll_samples, impulse_response, add_noise, between_class, gain_samples.

Every transform takes a generator and draws from nothing else, so that a batch is a function of its seed; none changes
its input. `tinyasc.training.augmentation` chains them as a recipe says.
"""

from tinyasc.augment.between_class import between_class
from tinyasc.augment.crop import crop_samples, crop_time
from tinyasc.augment.filter import filter_bands
from tinyasc.augment.gain import gain, gain_samples
from tinyasc.augment.hidden import hidden_masks
from tinyasc.augment.impulse_response import impulse_response, load_bank
from tinyasc.augment.mask import mask_frequency, mask_time
from tinyasc.augment.mixstyle import freq_mixstyle
from tinyasc.augment.mixup import Mix, mixup
from tinyasc.augment.noise import add_noise
from tinyasc.augment.roll import roll_samples, roll_time
from tinyasc.augment.time_scale import time_scale
from tinyasc.augment.time_stretch import time_stretch

__all__ = [
    "Mix",
    "add_noise",
    "between_class",
    "crop_samples",
    "crop_time",
    "filter_bands",
    "freq_mixstyle",
    "gain",
    "gain_samples",
    "hidden_masks",
    "impulse_response",
    "load_bank",
    "mask_frequency",
    "mask_time",
    "mixup",
    "roll_samples",
    "roll_time",
    "time_scale",
    "time_stretch",
]
