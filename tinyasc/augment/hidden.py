"""SpecAugment++ on hidden maps: masks at the outputs of named submodules, for the length of one forward pass."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Generator, Tensor, nn

from tinyasc.augment.mask import MaskMode, mask_frequency, mask_time
from tinyasc.errors import InputError


def check_layers(module: nn.Module, layers: Sequence[str], what: str = "augment.mask_layers: the model") -> None:
    """Raises InputError, with the nearest name, for a layer that `module.named_modules()` does not have.

    `what` begins the error line: the recipe's key, and which model.
    """
    known = dict(module.named_modules())
    for name in layers:
        if not name or name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(filter(None, known))}"
            raise InputError(f"{what} has no layer {name!r}; {hint}")


@contextmanager
def hidden_masks(
    module: nn.Module,
    layers: Sequence[str],
    generator: Generator,
    *,
    time_share: float,
    freq_share: float,
    time_stripes: int = 1,
    freq_stripes: int = 1,
    mode: MaskMode = "mixture",
) -> Iterator[None]:
    """Masks the outputs of submodules while the `with` lasts and the module is in training mode.

    The hooks are taken away again at the end, so that neither the state dict nor a capture ever sees them.

    Source: Wang et al., "SpecAugment++", 2021 (arXiv:2103.16858), section 2. A hidden map is smaller than the input, so
    the widest stripe is given here as a share of its size (our choice; the paper gives a width).

    Args:
        module: the model.
        layers: names as in `module.named_modules()`; their outputs are (batch, channels, bands, frames).
        generator: the only source of randomness.
        time_share: widest stripe as a share of the map's frames, 0..1.
        freq_share: widest stripe as a share of the map's bands, 0..1.
        time_stripes: stripes along time.
        freq_stripes: stripes along frequency.
        mode: as in `mask_time`.

    Raises:
        InputError: a name that the module does not have, or a layer whose output is no such map.

    Example:
        >>> with hidden_masks(model, ["blocks.0"], generator, time_share=0.1, freq_share=0.1):  # doctest: +SKIP
        ...     logits = model(x)
    """
    check_layers(module, layers)
    known = dict(module.named_modules())

    def hook(name: str) -> Callable[[nn.Module, Any, Any], Tensor]:
        def masked(layer: nn.Module, inputs: Any, output: Any) -> Tensor:
            del layer, inputs
            if not isinstance(output, Tensor) or output.ndim != 4:
                shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
                raise InputError(
                    f"augment.mask_layers: {name!r} puts out {shape}, no map of (batch, channels, bands, frames); "
                    "name a layer before the pooling"
                )
            time_width, freq_width = round(time_share * output.shape[3]), round(freq_share * output.shape[2])
            if time_width:
                output = mask_time(output, generator, width=time_width, stripes=time_stripes, mode=mode)
            if freq_width:
                output = mask_frequency(output, generator, width=freq_width, stripes=freq_stripes, mode=mode)
            return output

        return masked

    handles = [known[name].register_forward_hook(hook(name)) for name in layers] if module.training else []
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
