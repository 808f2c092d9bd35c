"""The split-frequency ResNet: its published size, and its parts against convolutions written out in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from weights import arrays, parameters, randomize

from tinyasc.errors import InputError
from tinyasc.models import build
from tinyasc.models.split_resnet import PreActivationBlock
from tinyasc_export import reference
from tinyasc_export.capture import capture
from tinyasc_export.lower import lower


def on_meta(**options) -> nn.Module:
    with torch.device("meta"):
        return build("split_resnet", n_classes=10, n_mels=128, **options)


def macs(module: nn.Module, shape: tuple[int, ...]) -> float:
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        module.eval()(torch.zeros(*shape, device="meta"))
    return counter.get_total_flops() / 2


def normed(x: np.ndarray, w: dict[str, np.ndarray], name: str) -> np.ndarray:
    """Batch norm of (C, F, T); with a scale and an offset where there are any."""
    mean, variance = (w[f"{name}.{part}"][:, None, None] for part in ("running_mean", "running_var"))
    y = (x - mean) / np.sqrt(variance + 1e-5)
    if f"{name}.weight" in w:
        y = y * w[f"{name}.weight"][:, None, None] + w[f"{name}.bias"][:, None, None]
    return y


def convolved(x: np.ndarray, weight: np.ndarray, stride: int = 1) -> np.ndarray:
    """3x3 or 1x1 without bias, zeros around; strided in time."""
    k = weight.shape[2]
    padded = np.pad(x, ((0, 0), (k // 2, k // 2), (k // 2, k // 2)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (k, k), axis=(1, 2))[:, :, ::stride]
    return np.einsum("oikl,iftkl->oft", weight, windows)


def pooled(x: np.ndarray, stride: int) -> np.ndarray:
    """Mean of the values under a 3x3 window, padding left out."""
    _, f, t = x.shape
    cells = [
        [x[:, max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2].mean(axis=(1, 2)) for j in range(0, t, stride)]
        for i in range(f)
    ]
    return np.array(cells).transpose(2, 0, 1)


def block(x: np.ndarray, w: dict[str, np.ndarray], name: str, stride: int) -> np.ndarray:
    y = convolved(np.maximum(normed(x, w, f"{name}layers.0"), 0), w[f"{name}layers.2.weight"], stride)
    y = convolved(np.maximum(normed(y, w, f"{name}layers.3"), 0), w[f"{name}layers.5.weight"])
    shortcut = x if stride == 1 else pooled(x, stride)
    return y + np.concatenate([shortcut, np.zeros((len(y) - len(x), *y.shape[1:]))])


@pytest.mark.parametrize(
    ("in_channels", "frames", "published", "giga"), [(6, 461, 3_247_416, 8.8), (3, 423, 3_246_108, 8.1)]
)
def test_published_counts(in_channels, frames, published, giga):
    """Stereo at 48 kHz and mono at 44.1 kHz, 10 s of each, with deltas and delta-deltas."""
    model = on_meta(in_channels=in_channels)
    assert parameters(model) == published
    assert macs(model, (1, in_channels, 128, frames)) == pytest.approx(giga * 1e9, rel=0.02)


def test_only_the_first_norm_of_each_path_is_learned():
    model = on_meta(in_channels=6)
    learned = [name for name, part in model.named_modules() if isinstance(part, nn.BatchNorm2d) and part.affine]
    assert learned == ["paths.0.0", "paths.1.0"]
    convs = [part for part in model.paths[0].modules() if isinstance(part, nn.Conv2d)]
    assert len(convs) == 17 and {c.kernel_size for c in convs} == {(3, 3)}
    assert [c.stride for c in convs if c.stride != (1, 1)] == [(1, 2)] * 4
    assert all(c.bias is None for c in model.modules() if isinstance(c, nn.Conv2d))


def test_one_path_has_the_macs_of_two_and_about_half_of_their_parameters():
    one, two = on_meta(in_channels=3, split=False), on_meta(in_channels=3)
    shape = (1, 3, 128, 400)
    assert macs(one, shape) == macs(two, shape)
    head = 192 * 768 + 768 * 10
    assert parameters(one) - head == (parameters(two) - head) / 2
    alike = on_meta(in_channels=6, split=False, base_channels=34)
    assert parameters(alike) == pytest.approx(3_247_416, rel=0.06)


@pytest.mark.parametrize("frames", [6, 7])
@pytest.mark.parametrize(("before", "after", "stride"), [(2, 2, 1), (2, 4, 2)])
def test_a_block_is_its_description(before, after, stride, frames):
    module = randomize(PreActivationBlock(before, after, stride=stride).double(), 1)
    x = np.random.default_rng(2).standard_normal((before, 5, frames))
    actual = module(torch.from_numpy(x)[None])[0].detach()
    np.testing.assert_allclose(actual, block(x, arrays(module), "", stride), rtol=1e-9, atol=1e-9)


def test_the_shortcut_by_hand():
    """Without its convolutions a strided block is means of 4, 6 or 9 values, and zeros in the new channels."""
    module = PreActivationBlock(1, 3, stride=2).eval()
    nn.init.zeros_(module.layers[-1].weight)
    x = torch.arange(15.0).reshape(1, 1, 3, 5)
    wanted = [[3.0, 4.5, 6.0], [5.5, 7.0, 8.5], [8.0, 9.5, 11.0]]
    np.testing.assert_allclose(module(x)[0, 0].detach(), wanted, rtol=1e-6)
    assert not module(x)[0, 1:].any()


@pytest.mark.parametrize("split", [True, False])
def test_the_whole_net_is_its_description(split):
    """7 bands, of which the lower 3 are the first path's; 19 frames, 10 after the first convolution, then 5, 3, 2."""
    model = build("split_resnet", n_classes=2, n_mels=7, in_channels=2, base_channels=1, split=split)
    model = randomize(model.double(), 3)
    w = arrays(model)
    x = np.random.default_rng(4).standard_normal((2, 7, 19))
    maps = []
    for path, part in enumerate((x[:, :3], x[:, 3:]) if split else (x,)):
        y = convolved(normed(part, w, f"paths.{path}.0"), w[f"paths.{path}.1.weight"], 2)
        for i in range(8):
            y = block(y, w, f"paths.{path}.{2 + i}.", 2 if i in (2, 4, 6) else 1)
        assert y.shape == (8, part.shape[1], 2)
        maps.append(y)
    y = convolved(np.maximum(normed(np.concatenate(maps, axis=1), w, "head.0"), 0), w["head.2.weight"])
    y = normed(convolved(normed(y, w, "head.3"), w["head.4.weight"]), w, "head.5")
    actual = model(torch.from_numpy(x)[None])[0].detach()
    np.testing.assert_allclose(actual, y.mean(axis=(1, 2)), rtol=1e-8)


@pytest.mark.parametrize("frames", [1, 2, 33, 200])
def test_clips_of_any_length(frames):
    model = build("split_resnet", n_classes=3, n_mels=9, base_channels=1).eval()
    assert model(torch.randn(2, 1, 9, frames)).isfinite().all()


def test_one_band_cannot_be_split():
    with pytest.raises(InputError, match="at least 2"):
        build("split_resnet", n_classes=2, n_mels=1)
    build("split_resnet", n_classes=2, n_mels=1, split=False, base_channels=1)


def test_lowering_folds_the_two_convolutions_of_the_head_into_one():
    """192 -> 768 -> 10 and their norms are one product of 192 x 10."""
    head = randomize(build("split_resnet", n_classes=10, n_mels=4).head.double(), 5)

    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = head

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(x).mean(dim=(2, 3))

    x = np.random.default_rng(6).standard_normal((2, 4, 3, 192))
    graph, _, _ = lower(capture(Pooled(), (1, 192, 4, 3)))
    dense = [graph.tensors[op.inputs[1]].shape for op in graph.ops if op.kind in ("conv2d", "fully_connected")]
    assert dense == [(10, 1, 1, 192)]
    expected = Pooled()(torch.from_numpy(x).permute(0, 3, 1, 2)).detach()
    np.testing.assert_allclose(reference.run(graph, x), expected, rtol=1e-9, atol=1e-9)
