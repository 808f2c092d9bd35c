"""Maps of time and frequency from inside a model, at the size that they have there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tinyasc.errors import InputError
from tinyasc.models.amfm_blocks import AMFMBlock
from tinyasc.models.attention import AttentionPooling, CoordinateAttention


def attention_map(module: nn.Module, x: Tensor, device: Tensor | None = None) -> Tensor:
    """A of each class, (batch, K, F, T), as the head's `AttentionPooling` has it before normalising."""
    pooling = next(part for part in module.modules() if isinstance(part, AttentionPooling))
    pooled: list[Tensor] = []
    with torch.no_grad(), hooked([pooling], lambda part, inputs, output: pooled.append(inputs[0])):
        answer(module, x, device)
        return pooling.attention_map(pooled[-1])


def amfm_maps(module: nn.Module, x: Tensor) -> dict[str, list[np.ndarray]]:
    """The three maps of every `AMFMBlock`, by its path, in the order of `STEPS`; (F, T) each.

    Means over channels of absolute values; the paper does not print how it makes one picture of them.
    """
    blocks = {name: part for name, part in module.named_modules() if isinstance(part, AMFMBlock)}
    gates: list[nn.Module] = [block.attention for block in blocks.values()]
    seen: dict[int, tuple[Tensor, ...]] = {}

    def keep(part: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen[id(part)] = (inputs[0], output)

    with torch.no_grad(), hooked([*gates, *blocks.values()], keep):
        answer(module, x)
    found = {}
    for name, block in blocks.items():
        if id(block) in seen:  # a task's own head may not be run for the scene
            steps = (*seen[id(block.attention)], seen[id(block)][1])
            found[name] = [step[0].abs().mean(dim=0).numpy() for step in steps]
    return found


def gate_maps(module: nn.Module, x: Tensor) -> dict[str, np.ndarray]:
    """What every `CoordinateAttention` multiplies onto its map, by its path: the mean over channels, (F, T)."""
    blocks = {name: part for name, part in module.named_modules() if isinstance(part, CoordinateAttention)}
    gates = [gate for block in blocks.values() for gate in (block.frequency_gate, block.time_gate)]
    seen: dict[int, Tensor] = {}

    def keep(part: nn.Module, inputs: Any, output: Tensor) -> None:
        del inputs
        seen[id(part)] = output[0].sigmoid()

    with torch.no_grad(), hooked(gates, keep):
        answer(module, x)
    # (channels, F, 1) times (channels, 1, T).
    products = {name: seen[id(block.frequency_gate)] * seen[id(block.time_gate)] for name, block in blocks.items()}
    return {name: product.mean(dim=0).numpy() for name, product in products.items()}


def grad_cam(
    module: nn.Module, x: Tensor, classes: Sequence[int], layer: str, device: Tensor | None = None
) -> np.ndarray:
    """Grad-CAM of one input at one layer (Selvaraju et al., ICCV 2017, equations 1 and 2).

    The map of a class is the ReLU of the sum over channels of the layer's map, each channel weighted by the mean over
    positions of the gradient of the class's logit. Without the ReLU its sum is the logit, where nothing
    follows but a mean over positions and a linear layer without bias.

    Args:
        module: the model.
        x: (1, channels, n_mels, frames).
        classes: indices.
        layer: as in `module.named_modules()`.
        device: what the model is told of it.

    Returns:
        (classes, F, T) float32.

    Raises:
        InputError: the layer puts out no map, or one that the answer does not depend on.
    """
    outputs: list[Any] = []
    with torch.enable_grad(), hooked([module.get_submodule(layer)], lambda part, inputs, out: outputs.append(out)):
        logits = answer(module, x.clone().requires_grad_(), device)
    end = "name another layer"
    if not outputs:
        raise InputError(f"--layer {layer}: is not run for this model's answer; {end}")
    output = outputs[-1]
    if not isinstance(output, Tensor) or output.ndim != 4:
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise InputError(f"--layer {layer}: puts out {shape}, no map (batch, channels, bands, frames); {end}")
    maps = []
    for k in classes:
        (gradient,) = torch.autograd.grad(logits[0, k], output, retain_graph=True, allow_unused=True)
        if gradient is None:
            raise InputError(f"--layer {layer}: this model's answer does not depend on it; {end}")
        weights = gradient.mean(dim=(2, 3), keepdim=True)
        maps.append((weights * output).sum(dim=1).relu()[0].detach().numpy())
    return np.stack(maps)


def last_map(module: nn.Module, x: Tensor, device: Tensor | None = None) -> str:
    """The layer that Grad-CAM takes: the last to put out a map that the answer depends on.

    A map has four axes, and more than one position along frequency and along time. What a layer without parameters
    makes smaller is pooled, and not taken, so that the map is as fine as it can be. Nor are maps with as many channels
    as classes, which stand behind the features, unless there are no others.

    Raises:
        InputError: there is none.
    """
    maps: dict[str, Tensor] = {}
    others: list[Tensor] = []
    names = {part: name for name, part in module.named_modules() if name}

    def keep(part: nn.Module, inputs: Any, output: Any) -> None:
        if not isinstance(output, Tensor) or output.ndim != 4 or min(output.shape[2:]) < 2:
            return
        given = inputs[0].shape[2:].numel() if inputs and isinstance(inputs[0], Tensor) else 0
        if output.shape[2:].numel() < given and next(part.parameters(), None) is None:
            others.append(output)
        # Else a `Sequential` that ends in pooling, or an identity.
        elif not any(output is other for other in others):
            others.append(output)
            maps[names[part]] = output

    with torch.enable_grad(), hooked(list(names), keep):
        logits = answer(module, x.clone().requires_grad_(), device)
    gradients = torch.autograd.grad(logits[0].sum(), list(maps.values()), allow_unused=True) if maps else ()
    heeded = [name for name, gradient in zip(maps, gradients, strict=True) if gradient is not None]
    if not heeded:
        raise InputError("no layer of this model puts out a map of time and frequency; name one with --layer")
    features = [name for name in heeded if maps[name].shape[1] != logits.shape[1]]
    return (features or heeded)[-1]


def stretch(values: np.ndarray, bands: int, frames: int) -> np.ndarray:
    """An (F, T) map in (bands, frames) by nearest neighbour: out[i, j] = values[i * F // bands, j * T // frames]."""
    rows = np.arange(bands) * values.shape[0] // bands
    return values[rows[:, None], np.arange(frames) * values.shape[1] // frames]


def answer(module: nn.Module, x: Tensor, device: Tensor | None = None) -> Tensor:
    """Logits (batch, K); a model is told the device where there is something to tell."""
    return module(x) if device is None else module(x, device)


@contextmanager
def hooked(parts: Sequence[nn.Module], hook: Callable[[nn.Module, Any, Any], None]) -> Iterator[None]:
    """Calls the hook after every forward pass of the parts while the `with` lasts."""
    handles = [part.register_forward_hook(hook) for part in parts]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
