"""Models against what was published of them, and their parts against arithmetic written out in numpy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from tinyasc.errors import CaptureError, InputError
from tinyasc.models import FAMILIES, build
from tinyasc.models.atrous_cnn import HEADS, TRUNKS
from tinyasc.models.attention import AttentionPooling, CoordinateAttention
from tinyasc.models.sepconv_ca import SepConvBlock
from tinyasc_export.capture import capture
from tinyasc_export.graph import Graph


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def randomize(module: nn.Module, seed: int = 0) -> nn.Module:
    """Random weights, and batch norms with statistics that matter; in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in (*module.parameters(), *module.buffers()):
            if value.is_floating_point():
                value.copy_(torch.randn(value.shape, generator=generator, dtype=value.dtype))
        for part in module.modules():
            if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.running_var is not None:
                part.running_var.abs_().add_(0.1)
    return module.eval()


def arrays(module: nn.Module) -> dict[str, np.ndarray]:
    return {name: value.detach().numpy() for name, value in module.state_dict().items()}


@pytest.mark.parametrize(("n_mels", "published"), [(256, 75_562), (128, 75_306), (64, 75_178)])
def test_sepconv_ca_has_the_published_parameters(n_mels, published):
    assert parameters(build("sepconv_ca", n_classes=10, n_mels=n_mels)) == published


def test_sepconv_ca_parts_have_the_published_parameters():
    model = build("sepconv_ca", n_classes=10, n_mels=256)
    attention = sum(parameters(m) for m in model.modules() if isinstance(m, CoordinateAttention))
    second_norms = sum(parameters(m.time_norm) for m in model.modules() if isinstance(m, SepConvBlock))
    assert attention == 1_688 + 3 * 3_352
    assert second_norms == 896
    assert parameters(model) - attention - second_norms == 62_922  # SP4ASC's trunk


@pytest.mark.parametrize(("channels", "published"), [(16, 440), (32, 856), (64, 1_688), (128, 3_352)])
def test_coordinate_attention_has_the_published_parameters(channels, published):
    assert parameters(CoordinateAttention(channels)) == published


@pytest.mark.parametrize("base", [16, 64])
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("trunk", TRUNKS)
def test_atrous_cnn_parameters_are_those_of_its_description(trunk, head, base):
    """Four 5x5 convolutions without bias, 64/128/256/512 at base 64, each with a batch norm; then K classes."""
    widths = [1, base, 2 * base, 4 * base, 8 * base]
    wanted = sum(25 * a * b + 2 * b for a, b in itertools.pairwise(widths))
    wanted += (8 * base * 10 + 10) * (2 if head == "attention" else 1)
    model = build("atrous_cnn", n_classes=10, n_mels=64, trunk=trunk, head=head, base_channels=base)
    assert parameters(model) == wanted
    if base == 64 and head == "max":
        assert wanted == 4_309_450  # the same sum done by hand: 4,302,400 + 1,920 + 5,130


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("trunk", TRUNKS)
def test_atrous_cnn_runs_on_any_map(trunk, head):
    model = build("atrous_cnn", n_classes=7, n_mels=40, trunk=trunk, head=head, base_channels=2).eval()
    for size in ((40, 33), (16, 16), (64, 20)):
        logits = model(torch.randn(3, 1, *size))
        assert logits.shape == (3, 7)
        assert logits.isfinite().all()


@pytest.mark.parametrize(("trunk", "expected"), [("atrous", (37, 50)), ("baseline", (2, 3))])
def test_atrous_trunk_keeps_the_map_and_baseline_halves_it_four_times(trunk, expected):
    model = build("atrous_cnn", n_classes=10, n_mels=64, trunk=trunk, base_channels=2).eval()
    assert model.trunk(torch.zeros(1, 1, 37, 50)).shape[2:] == expected


def test_atrous_trunk_sees_thirty_frames_either_way():
    """Dilations 1, 2, 4, 8 of 5 taps reach 2 * 15 = 30 bins to either side, no further and no less."""
    trunk = build("atrous_cnn", n_classes=10, n_mels=64, trunk="atrous", base_channels=1).trunk.double().eval()
    for part in trunk:
        if isinstance(part, nn.Conv2d):
            nn.init.ones_(part.weight)
    x = torch.zeros(1, 1, 81, 81, dtype=torch.float64)
    x[0, 0, 40, 40] = 1
    touched = trunk(x)[0, 0] > 0
    assert touched[10:71, 10:71].all()
    assert touched.sum() == 61 * 61


@pytest.mark.parametrize("size", [(64, 44), (40, 31), (17, 16), (256, 44)])
@pytest.mark.parametrize("activation", ["hardswish", "relu"])
def test_sepconv_ca_runs(size, activation):
    model = build("sepconv_ca", n_classes=10, n_mels=size[0], base_channels=4, attention_activation=activation)
    assert model(torch.randn(2, 1, *size)).shape == (2, 10)
    types = {type(m) for m in model.modules()}
    assert (nn.Hardswish in types) == (activation == "hardswish")


def test_sepconv_ca_normalises_each_band_by_itself():
    model = build("sepconv_ca", n_classes=10, n_mels=16, base_channels=4).train()
    x = torch.randn(4, 1, 16, 16) * torch.arange(1, 17)[:, None] + 5 * torch.arange(16)[:, None]
    seen = []
    model.blocks.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model(x)
    np.testing.assert_allclose(seen[0].mean(dim=(0, 1, 3)).detach(), np.zeros(16), atol=1e-4)
    np.testing.assert_allclose(seen[0].var(dim=(0, 1, 3), unbiased=False).detach(), np.ones(16), atol=1e-3)


def test_sepconv_block_is_its_description():
    """Two depthwise convolutions with dilation 2, one along each axis, each normalised, summed, rectified."""
    block = randomize(SepConvBlock(2, 3).double(), 1)
    w = arrays(block)
    x = np.random.default_rng(2).standard_normal((2, 5, 6))
    mixed = np.einsum("oi,ihw->ohw", w["pointwise.weight"][:, :, 0, 0], x)
    padded = np.pad(mixed, ((0, 0), (2, 2), (2, 2)))
    branches = np.zeros_like(mixed)
    for name in ("frequency", "time"):
        taps = w[f"{name}.weight"].reshape(3, 3)
        out = np.zeros_like(mixed)
        for k in range(3):
            shifted = padded[:, 2 * k : 2 * k + 5, 2:8] if name == "frequency" else padded[:, 2:7, 2 * k : 2 * k + 6]
            out += taps[:, k, None, None] * shifted
        mean, var, gain, shift = (
            w[f"{name}_norm.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
        )
        branches += (out - mean) / np.sqrt(var + 1e-5) * gain + shift
    actual = block(torch.from_numpy(x)[None])[0].detach().numpy()
    np.testing.assert_allclose(actual, np.maximum(branches, 0), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("activation", ["hardswish", "relu"])
def test_coordinate_attention_is_its_description(activation):
    """Hou et al., section 3.2, on a map of 3 channels, 4 bands and 5 frames."""
    module = randomize(CoordinateAttention(3, activation=activation).double(), 3)
    w = arrays(module)
    x = np.random.default_rng(4).standard_normal((3, 4, 5))

    def pointwise(name: str, values: np.ndarray) -> np.ndarray:  # (in, length) to (out, length)
        return w[f"{name}.weight"][:, :, 0, 0] @ values + w[f"{name}.bias"][:, None]

    def gate(pooled: np.ndarray, name: str) -> np.ndarray:
        hidden = pointwise("squeeze", pooled)
        mean, var, gain, shift = (
            w[f"norm.{part}"][:, None] for part in ("running_mean", "running_var", "weight", "bias")
        )
        hidden = (hidden - mean) / np.sqrt(var + 1e-5) * gain + shift
        relu = np.maximum(hidden, 0)
        hidden = relu if activation == "relu" else hidden * np.minimum(np.maximum(hidden + 3, 0), 6) / 6
        return 1 / (1 + np.exp(-pointwise(name, hidden)))

    along_frequency = gate(x.mean(axis=2), "frequency_gate")
    along_time = gate(x.mean(axis=1), "time_gate")
    expected = x * along_frequency[:, :, None] * along_time[:, None, :]
    actual = module(torch.from_numpy(x)[None])[0].detach().numpy()
    np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-12)


def test_attention_pooling_is_its_description():
    """Ren et al., section 2.3, with the limits of the released code, on 3 channels and 2 classes."""
    module = randomize(AttentionPooling(3, 2).double(), 5)
    with torch.no_grad():
        module.attention.weight.mul_(3)  # so that both limits are reached
    w = arrays(module)
    x = np.random.default_rng(6).standard_normal((3, 4, 5))

    def pointwise(name: str) -> np.ndarray:
        return np.einsum("oi,ihw->ohw", w[f"{name}.weight"][:, :, 0, 0], x) + w[f"{name}.bias"][:, None, None]

    attention = 1 / (1 + np.exp(-pointwise("attention")))
    assert attention.min() < 0.1 and attention.max() > 0.9
    attention = np.clip(attention, 0.1, 0.9)
    scores = np.exp(pointwise("classes"))
    log_probability = np.log(scores / scores.sum(axis=0))
    expected = (attention / attention.sum(axis=(1, 2), keepdims=True) * log_probability).sum(axis=(1, 2))
    batch = torch.from_numpy(x)[None]
    np.testing.assert_allclose(module(batch)[0].detach(), expected, rtol=1e-9)
    np.testing.assert_allclose(module.attention_map(batch)[0].detach(), attention, rtol=1e-9)


def test_fresh_attention_pooling_is_the_average():
    module = AttentionPooling(3, 4)
    x = torch.randn(2, 3, 5, 6)
    torch.testing.assert_close(module(x), module.classes(x).log_softmax(dim=1).mean(dim=(2, 3)))


def test_global_max_and_average_heads():
    x = torch.randn(2, 1, 32, 32)
    for head, pool in (("max", torch.amax), ("average", torch.mean)):
        model = build("atrous_cnn", n_classes=5, n_mels=32, head=head, base_channels=2).eval()
        torch.testing.assert_close(model(x), model.head.linear(pool(model.trunk(x), dim=(2, 3))))


@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_family_declares_is_true(family):
    """A new family is enrolled here by its entry in the registry."""
    narrow = {"base_channels": 4}
    model = build(family, n_classes=6, n_mels=32, **narrow)
    assert model(torch.randn(2, 1, 32, 32)).shape == (2, 6)
    if FAMILIES[family].capturable:
        graph = capture(model, (1, 1, 32, 32))
        assert isinstance(graph, Graph)
        assert graph.tensors[graph.output].shape == (1, 6)
    else:
        with pytest.raises(CaptureError, match="operator aten"):
            capture(model, (1, 1, 32, 32))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_of_a_family_learns(family):
    model = build(family, n_classes=6, n_mels=32, base_channels=4).train()
    model(torch.randn(4, 1, 32, 32)).square().sum().backward()
    # What a batch norm follows needs no bias: its gradient is zero up to rounding, yet there.
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


def test_an_unknown_family_is_refused():
    with pytest.raises(InputError, match=r"'sepconv'.*atrous_cnn, sepconv_ca"):
        build("sepconv", n_classes=10, n_mels=64)


@pytest.mark.parametrize(
    ("family", "options", "says"),
    [
        ("sepconv_ca", {"width": 64}, "'width'"),
        ("sepconv_ca", {"attention_activation": "swish"}, "hardswish, relu"),
        ("sepconv_ca", {"base_channels": "64"}, "sepconv_ca"),
        ("sepconv_ca", {"base_channels": -4}, "sepconv_ca"),
        ("sepconv_ca", {"dropout": 2}, "dropout"),
        ("atrous_cnn", {"base_channels": 2.5}, "atrous_cnn"),
        ("atrous_cnn", {"trunk": "atrus"}, "baseline, atrous"),
        ("atrous_cnn", {"head": "roi"}, "max, average, attention"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused(family, options, says):
    with pytest.raises(InputError, match=says):
        build(family, n_classes=10, n_mels=64, **options)
