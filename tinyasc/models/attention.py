"""Attention blocks and attention pooling."""

from __future__ import annotations

import torch
from torch import Tensor, nn

ACTIVATIONS: dict[str, type[nn.Module]] = {"hardswish": nn.Hardswish, "relu": nn.ReLU}


class CoordinateAttention(nn.Module):
    """Coordinate attention: gates a map along frequency and along time (Hou et al., CVPR 2021, section 3.2).

    Args:
        channels: of the map.
        reduction: the hidden width is max(8, channels // reduction).
        activation: "hardswish", or "relu" where the target has no 16-bit hard-swish kernel.

    Shape: (batch, channels, frequency, time) -> the same.
    """

    def __init__(self, channels: int, *, reduction: int = 32, activation: str = "hardswish") -> None:
        super().__init__()
        hidden = max(8, channels // reduction)
        self.squeeze = nn.Conv2d(channels, hidden, 1)
        self.norm = nn.BatchNorm2d(hidden)
        self.activation = ACTIVATIONS[activation]()
        self.frequency_gate = nn.Conv2d(hidden, channels, 1)
        self.time_gate = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Multiplies both gates onto x."""
        along_frequency = x.mean(dim=3, keepdim=True)
        along_time = x.mean(dim=2, keepdim=True).transpose(2, 3)
        joined = torch.cat([along_frequency, along_time], dim=2)
        hidden = self.activation(self.norm(self.squeeze(joined)))
        frequency, time = hidden.split([along_frequency.shape[2], along_time.shape[2]], dim=2)
        gate_f = self.frequency_gate(frequency).sigmoid()
        gate_t = self.time_gate(time.transpose(2, 3)).sigmoid()
        return x * gate_f * gate_t


class AttentionPooling(nn.Module):
    """Attention head over time and frequency (Ren et al., ICASSP 2019, section 2.3).

    For each class, attention A = sigmoid(conv(x)) limited to [0.1, 0.9] and normalised to sum 1 over the map
    weights the log-softmax over classes of a second convolution. The attention weights start at 0, so that training
    starts from average pooling.

    Shape: (batch, channels, frequency, time) -> (batch, n_classes), whose softmax is the class probability.
    """

    def __init__(self, channels: int, n_classes: int) -> None:
        super().__init__()
        self.attention = nn.Conv2d(channels, n_classes, 1)
        self.classes = nn.Conv2d(channels, n_classes, 1)
        nn.init.zeros_(self.attention.weight)
        nn.init.zeros_(self.attention.bias)  # pyright: ignore[reportArgumentType]

    def attention_map(self, x: Tensor) -> Tensor:
        """A before normalising: (batch, n_classes, frequency, time), each in [0.1, 0.9]."""
        return self.attention(x).sigmoid().clamp(0.1, 0.9)

    def forward(self, x: Tensor) -> Tensor:
        """Pools the map into logits."""
        weights = self.attention_map(x)
        weights = weights / weights.sum(dim=(2, 3), keepdim=True)
        return (weights * self.classes(x).log_softmax(dim=1)).sum(dim=(2, 3))
