"""Torch modules for the tests of capture and what follows it: random nets, and weights and statistics that matter."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F


def randomize(module: nn.Module, seed: int = 0) -> nn.Module:
    """Random batch-norm statistics and gains, in evaluation mode: nothing that folding could lose is zero or one."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(like: Tensor, low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(like.shape, generator=generator, dtype=like.dtype)

    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.running_mean is not None:
                part.running_mean.copy_(uniform(part.running_mean, -1, 1))
                part.running_var.copy_(uniform(part.running_var, 0.3, 3))
                if part.affine:
                    part.weight.copy_(uniform(part.weight, -1.5, 1.5))
                    part.bias.copy_(uniform(part.bias, -1, 1))
    return module.eval()


def in_torch(module: nn.Module, x: np.ndarray) -> np.ndarray:
    """A module's answers on (N, H, W, C), clip by clip, as the graph is declared."""
    with torch.no_grad():
        # Copies, since modules may work in place.
        clips = [torch.from_numpy(clip[None].copy()).permute(0, 3, 1, 2).contiguous() for clip in x]
        return np.concatenate([module(clip).numpy() for clip in clips])


class Applied(nn.Module):
    """A function as a module."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Around(nn.Module):
    """x + inside(x) or x * inside(x)."""

    def __init__(self, inside: nn.Module, kind: str) -> None:
        super().__init__()
        self.inside, self.kind = inside, kind

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inside(x) if self.kind == "add" else self.inside(x) * x


class Constant(nn.Module):
    """A parameter added or multiplied, of any shape that broadcasts."""

    def __init__(self, shape: tuple[int, ...], kind: str) -> None:
        super().__init__()
        self.value, self.kind = nn.Parameter(torch.randn(shape)), kind

    def forward(self, x: Tensor) -> Tensor:
        return x + self.value if self.kind == "add" else self.value * x


class Split(nn.Module):
    """Cut along a dimension, the first part rectified, joined again in another order."""

    def __init__(self, sizes: list[int], dim: int) -> None:
        super().__init__()
        self.sizes, self.dim = sizes, dim

    def forward(self, x: Tensor) -> Tensor:
        first, *rest = x.split(self.sizes, dim=self.dim)
        return torch.cat([*rest, first.relu()], dim=self.dim)


class Gates(nn.Module):
    """Coordinate attention's moves: means along both axes, one transposed, joined, cut, transposed back."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = x.mean(3, keepdim=True), x.mean(2, keepdim=True).transpose(2, 3)
        rows, columns = self.conv(torch.cat([rows, columns], 2)).sigmoid().split([x.shape[2], x.shape[3]], 2)
        return x * rows * columns.permute(0, 1, 3, 2)


STEPS = (
    "conv",
    "depthwise",
    "norm",
    "band_norm",
    "activation",
    "max_pool",
    "average_pool",
    "keep",
    "split",
    "residual",
    "gates",
    "constant",
    "slice",
)


def _step(draw: st.DrawFn, kind: str, shape: tuple[int, ...]) -> nn.Module:
    _, c, h, w = shape
    pair = st.tuples(st.integers(1, 3), st.integers(1, 3))
    if kind in ("conv", "depthwise"):
        kernel = draw(pair)
        padding = draw(st.sampled_from(("same", "valid", "numbers")))
        stride = (1, 1) if padding == "same" else draw(pair)
        dilation = draw(pair)
        reach = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        # As much padding as the window needs to fit, and at times more.
        least = [max(0, -(-(r + 1 - n) // 2)) for r, n in zip(reach, (h, w), strict=True)]
        numbers = (least[0] + draw(st.integers(0, 2)), least[1] + draw(st.integers(0, 2)))
        if padding == "numbers" or (padding == "valid" and any(least)):
            padding = numbers
        out, groups = (draw(st.integers(1, 4)), 1) if kind == "conv" else (c, c)
        bias = draw(st.booleans())
        return nn.Conv2d(c, out, kernel, stride, padding, dilation, groups, bias)
    if kind == "norm":
        return nn.BatchNorm2d(c, affine=draw(st.booleans()))
    if kind == "band_norm":
        norm = nn.BatchNorm2d(h)
        return nn.Sequential(
            Applied(lambda x: x.transpose(1, 2)), norm, Applied(lambda x: x.permute(0, 2, 1, 3).contiguous())
        )
    if kind == "activation":
        inplace = draw(st.booleans())
        return draw(st.sampled_from((nn.ReLU(inplace), nn.Hardswish(inplace), nn.Sigmoid(), nn.Dropout(0.5))))
    if kind in ("max_pool", "average_pool"):
        kernel = (draw(st.integers(1, min(3, h))), draw(st.integers(1, min(3, w))))
        stride = draw(st.none() | pair)
        return nn.MaxPool2d(kernel, stride) if kind == "max_pool" else nn.AvgPool2d(kernel, stride)
    if kind == "keep":
        dims = draw(st.sampled_from(((2,), (3,), (2, 3), (-1,))))
        return Applied(
            draw(st.sampled_from((lambda x: x.mean(dims, keepdim=True), lambda x: x.amax(dims, keepdim=True))))
        )
    if kind == "split":
        dim = draw(st.integers(1, 3))
        first = draw(st.integers(1, shape[dim]))
        return Split(
            [first, shape[dim] - first] if first < shape[dim] else [first], draw(st.sampled_from((dim, dim - 4)))
        )
    if kind == "residual":
        return Around(nn.Conv2d(c, c, 3, padding=1), draw(st.sampled_from(("add", "mul"))))
    if kind == "gates":
        return Gates(c)
    if kind == "constant":
        where = draw(st.sampled_from(((), (w,), (1,), (h, 1), (c, 1, 1), (1, 1, h, w))))
        scalar = draw(st.booleans())
        return Applied(lambda x: 0.5 * x + 1) if scalar else Constant(where, draw(st.sampled_from(("add", "mul"))))
    begin = draw(st.integers(0, h - 1))
    return Applied(lambda x: x[:, :, begin:, : w - w // 2])


HEADS = {
    "mean": lambda x: x.mean((2, 3)),
    "mean_amax": lambda x: x.mean(2).amax(2),
    "amax_mean": lambda x: x.amax(3).mean(-1),
    "sum": lambda x: x.mean(dim=2).amax(dim=2) + x.mean(dim=2).mean(dim=2),
    "adaptive": lambda x: torch.flatten(F.adaptive_avg_pool2d(x, 1), 1),
    "squeeze": lambda x: x.mean((2, 3), keepdim=True).squeeze(3).squeeze(-1),
    "unsqueeze": lambda x: x.amax((2, 3)).unsqueeze(1).unsqueeze(-1).squeeze((1, 3)),
    "view": lambda x: x.amax((2, 3), keepdim=True).contiguous().view(1, -1),
    "reshape": lambda x: x.mean((1, 3)).transpose(0, 1).unsqueeze(0).reshape(1, x.shape[2]),
}


@st.composite
def modules(draw: st.DrawFn) -> tuple[nn.Module, tuple[int, int, int, int]]:
    """A random net in float64 with the shape that it takes: up to four steps, a head, up to two linear layers."""
    torch.manual_seed(draw(st.integers(0, 2**16)))
    shape = (1, draw(st.integers(1, 3)), draw(st.integers(1, 9)), draw(st.integers(1, 9)))
    parts: list[nn.Module] = []
    x = torch.zeros(shape)
    for _ in range(draw(st.integers(0, 4))):
        parts.append(_step(draw, draw(st.sampled_from(STEPS)), tuple(x.shape)).eval())
        x = parts[-1](x)
    parts.append(Applied(HEADS[draw(st.sampled_from(tuple(HEADS)))]))
    features = parts[-1](x).shape[1]
    if draw(st.booleans()):
        parts.append(nn.BatchNorm1d(features))
    for _ in range(draw(st.integers(0, 2))):
        out = draw(st.integers(1, 4))
        parts += [nn.Linear(features, out, bias=draw(st.booleans())), nn.ReLU()]
        features = out
    return randomize(nn.Sequential(*parts).double(), draw(st.integers(0, 99))), shape
