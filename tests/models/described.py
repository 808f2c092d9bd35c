"""Layers in torch.nn.functional, whose weights are read from a net by name: what whole nets are written out of."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from weights import randomize


def settled(module: nn.Module, seed: int = 0) -> nn.Module:
    """Random weights in float64 that keep maps near the size of their input, so that no gate or clamp is at its end."""
    module = randomize(module.double(), seed)
    with torch.no_grad():
        for value in module.parameters():
            if value.ndim > 1:
                value.div_((value.numel() / len(value)) ** 0.5)
    return module


def maps(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Layers:
    """The layers of a net in evaluation mode, by their names in its state_dict."""

    def __init__(self, net: nn.Module) -> None:
        self.w = {name: value.detach() for name, value in net.state_dict().items()}

    def conv(self, name: str, x: Tensor, **options) -> Tensor:
        return F.conv2d(x, self.w[f"{name}.weight"], self.w.get(f"{name}.bias"), **options)

    def depthwise(self, name: str, x: Tensor, **options) -> Tensor:
        assert f"{name}.bias" not in self.w
        return self.conv(name, x, groups=x.shape[1], **options)

    def linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.w[f"{name}.weight"], self.w[f"{name}.bias"])

    def norm(self, name: str, x: Tensor) -> Tensor:
        parts = (self.w[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, *parts, eps=1e-5)

    def conv_norm_relu(self, conv: str, norm: str, x: Tensor, **options) -> Tensor:
        return F.relu(self.norm(norm, self.conv(conv, x, **options)))

    def mfm(self, name: str, x: Tensor, **options) -> Tensor:
        """The larger half of a convolution's, or of a linear layer's, outputs."""
        y = self.conv(f"{name}.layer", x, **options) if x.ndim == 4 else self.linear(f"{name}.layer", x)
        half = y.shape[1] // 2
        return torch.maximum(y[:, :half], y[:, half:])

    def cbam(self, name: str, x: Tensor) -> Tensor:
        def mlp(v: Tensor) -> Tensor:
            return self.conv(f"{name}.excite", F.relu(self.conv(f"{name}.squeeze", v)))

        y = x * torch.sigmoid(mlp(F.adaptive_avg_pool2d(x, 1)) + mlp(F.adaptive_max_pool2d(x, 1)))
        pooled = torch.cat([y.amax(dim=1, keepdim=True), y.mean(dim=1, keepdim=True)], dim=1)
        return y * torch.sigmoid(self.norm(f"{name}.norm", self.conv(f"{name}.spatial", pooled, padding=3)))

    def amfm(self, name: str, x: Tensor) -> Tensor:
        """MFM 1x1, batch norm, MFM 3x3, and the larger of that map and its CBAM."""
        x = self.norm(f"{name}.norm", self.mfm(f"{name}.pointwise", x))
        x = self.mfm(f"{name}.mfm", x, padding=1)
        return torch.maximum(x, self.cbam(f"{name}.attention", x))

    def coordinate_attention(self, name: str, x: Tensor, activation) -> Tensor:
        """Both gates of Hou et al.; the axes need not be joined, since all layers between are 1x1."""

        def gate(pooled: Tensor, axis: str) -> Tensor:
            hidden = activation(self.norm(f"{name}.norm", self.conv(f"{name}.squeeze", pooled)))
            return torch.sigmoid(self.conv(f"{name}.{axis}_gate", hidden))

        return x * gate(x.mean(dim=3, keepdim=True), "frequency") * gate(x.mean(dim=2, keepdim=True), "time")


def res_norm(x: Tensor) -> Tensor:
    """A tenth of x, and x with each frequency row normalised over channels and frames."""
    rows = x.transpose(1, 2)
    return 0.1 * x + F.layer_norm(rows, rows.shape[2:], eps=1e-5).transpose(1, 2)
