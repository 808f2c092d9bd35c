"""Random changes of training batches, as tensor operations on (batch, 1, bands, frames) features.

Every transform takes a generator and draws from nothing else, so that a batch is a function of its seed.
"""

from tinyasc.augment.spectrogram import gain, mask_frequency, mask_time, mixup_weights, roll_time

__all__ = ["gain", "mask_frequency", "mask_time", "mixup_weights", "roll_time"]
