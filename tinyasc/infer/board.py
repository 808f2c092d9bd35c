"""Features as a board computes them, for a model on this machine (`tinyasc.frontend_device`)."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinyasc.errors import InputError
from tinyasc.frontend import FrontEnd
from tinyasc.frontend_device import board_features, int16_samples, plan
from tinyasc.infer.backends.litert_backend import dequantize


class BoardFrontEnd:
    """From samples to the integers that a model takes, in a board's arithmetic and with its bits.

    Args:
        front_end: of the model.
        taken: type, scale and zero point of the model's input, as `Backend.taken`.
        arithmetic: "device" or "fixed".
        where: the model's name, for the error line.

    Raises:
        InputError: a model whose input is no integer, or a front end that this arithmetic cannot compute.
    """

    def __init__(self, front_end: FrontEnd, taken: dict[str, Any], arithmetic: str, where: str) -> None:
        dtype = np.dtype(taken["dtype"]).name
        if dtype not in ("int8", "int16"):
            raise InputError(
                f"{where}: the {arithmetic} arithmetic gives integers, and this model takes {dtype}; take an int8 or "
                "int16x8 model, or the reference arithmetic"
            )
        self._taken, self._arithmetic = taken, arithmetic
        scale, zero_point = taken["quantization"]
        try:
            self._plan = plan(front_end, step=scale, zero_point=zero_point, dtype=dtype)
            self(np.zeros(front_end.clip_samples, np.float32))  # tables that cannot be are refused now, not per clip
        except InputError as error:
            raise InputError(f"{where}: {error}; or take the reference arithmetic") from None

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        """Features of one window, (1, n_mels, frames) float32: the values of those integers, which they become again.

        Args:
            samples: (n,) of full scale 1; rounded to int16 and saturated there, as a converter gives them.
        """
        return dequantize(board_features(int16_samples(samples), self._plan, self._arithmetic), self._taken)[None]
