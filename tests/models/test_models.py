"""Models against what was published of them, and their parts against arithmetic written out in numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from weights import arrays, parameters, randomize

from tinyasc.compress.torchinfo_count import unfused_count
from tinyasc.errors import CaptureError, InputError
from tinyasc.models import FAMILIES, build
from tinyasc.models.amfm_blocks import CBAM, MFM, AMFMBlock, MFMLinear
from tinyasc.models.attention import AttentionPooling, CoordinateAttention
from tinyasc.models.cp_mobile import GlobalResponseNorm, InvertedResidual
from tinyasc.models.sepconv_ca import SepConvBlock
from tinyasc_export.capture import capture
from tinyasc_export.graph import Graph


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


def test_without_attention_it_is_sp4asc():
    """Its 62,922 parameters and the second norms; 442.6 MMAC for 10 s of 431 frames. The blocks keep their places."""
    with torch.device("meta"):
        model = build("sepconv_ca", n_classes=10, n_mels=256, attention=False)
    assert parameters(model) == 62_922 + 896
    assert not any(isinstance(m, CoordinateAttention) for m in model.modules())
    assert [i for i, m in enumerate(model.blocks) if isinstance(m, SepConvBlock)] == [0, 3, 6, 9]
    assert unfused_count(model, (1, 1, 256, 431)) == pytest.approx(442.6e6, abs=0.05e6)
    plain, full = (build("sepconv_ca", n_classes=5, n_mels=32, base_channels=8, attention=a) for a in (False, True))
    plain.load_state_dict(full.state_dict(), strict=False)
    x = torch.randn(2, 1, 32, 32)
    for part in full.modules():
        if isinstance(part, CoordinateAttention):
            part.forward = lambda y: y
    torch.testing.assert_close(plain.eval()(x), full.eval()(x))


@pytest.mark.parametrize(("channels", "published"), [(16, 440), (32, 856), (64, 1_688), (128, 3_352)])
def test_coordinate_attention_has_the_published_parameters(channels, published):
    assert parameters(CoordinateAttention(channels)) == published


@pytest.mark.parametrize(("channels", "published"), [(16, 149), (32, 262), (48, 439), (64, 680)])
def test_cbam_has_the_published_parameters(channels, published):
    assert parameters(CBAM(channels)) == published


def test_an_amfm_block_has_the_parameters_of_its_description():
    """Of the paper's AMFM 32 -> 48: MFM 1x1, batch norm, MFM 3x3, CBAM."""
    assert parameters(AMFMBlock(32, 48)) == (32 * 64 + 64) + 64 + (9 * 32 * 96 + 96) + 439


@pytest.mark.parametrize(
    ("options", "published"),
    [
        ({"channels_multiplier": 1.7, "expansion_rate": 1.9}, 55_464),
        ({"channels_multiplier": 2.3, "expansion_rate": 3}, 126_952),
        ({"channels_multiplier": 1.8, "expansion_rate": 2.1, "grn": False, "strides": 2024}, 61_148),
        ({"channels_multiplier": 1.8, "expansion_rate": 2.1, "grn": False, "strides": 2023}, 61_148),
    ],
)
def test_cp_mobile_has_the_published_parameters(options, published):
    assert parameters(build("cp_mobile", n_classes=10, n_mels=256, base_channels=32, **options)) == published


@pytest.mark.parametrize(
    ("options", "fused"),
    [
        ({"base_channels": 16, "channels_multiplier": 1.5, "expansion_rate": 1.7}, 12_310),
        ({"base_channels": 32, "channels_multiplier": 1.7, "expansion_rate": 1.9}, 54_182),
    ],
)
def test_cp_mobile_has_the_published_parameters_with_folded_norms(options, fused):
    """A folded batch norm leaves one bias of its two parameters per channel."""
    model = build("cp_mobile", n_classes=10, n_mels=256, **options)
    biases = sum(m.num_features for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    assert parameters(model) - biases == fused


@pytest.mark.parametrize(("strides", "expected"), [(2023, (16, 8)), (2024, (32, 8))])
def test_cp_mobile_strides(strides, expected):
    model = build("cp_mobile", n_classes=10, n_mels=256, base_channels=8, strides=strides).eval()
    shapes = [tuple(model.blocks[: i + 1](model.stem(torch.zeros(1, 1, 256, 64))).shape[2:]) for i in range(6)]
    assert shapes[0] == (64, 16) and shapes[-1] == expected
    assert shapes[1] == ((32, 8) if strides == 2023 else (64, 16))
    assert shapes[2] == ((32, 8) if strides == 2023 else (64, 8))


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


def test_mfm_by_hand():
    """One input channel, two pairs of weights: at 2 the halves are 2 * 1 + 1 and 2 * -1 + 4."""
    mfm, linear = MFM(1, 2), MFMLinear(1, 2)
    with torch.no_grad():
        for layer in (mfm.layer, linear.layer):
            layer.weight.copy_(torch.tensor([1.0, 0.5, -1.0, 3.0]).reshape(layer.weight.shape))
            layer.bias.copy_(torch.tensor([1.0, 0.0, 4.0, -1.0]))
    x = torch.tensor([2.0, -1.0, 0.0])
    np.testing.assert_allclose(mfm(x.reshape(1, 1, 1, 3)).detach().reshape(2, 3), [[3, 5, 4], [5, -0.5, 0]])
    np.testing.assert_allclose(linear(x.reshape(3, 1)).detach(), [[3, 5], [5, -0.5], [4, 0]])


def test_cbam_is_its_description():
    """Woo et al., section 3, on a map of 32 channels, 4 bands and 5 frames: the MLP runs on both pooled vectors."""
    module = randomize(CBAM(32).double(), 7)
    w = arrays(module)
    x = np.random.default_rng(8).standard_normal((32, 4, 5))

    def mlp(v: np.ndarray) -> np.ndarray:
        hidden = np.maximum(w["squeeze.weight"][:, :, 0, 0] @ v + w["squeeze.bias"], 0)
        assert hidden.shape == (2,)
        return w["excite.weight"][:, :, 0, 0] @ hidden + w["excite.bias"]

    gate = 1 / (1 + np.exp(-mlp(x.mean(axis=(1, 2))) - mlp(x.max(axis=(1, 2)))))
    y = x * gate[:, None, None]
    pooled = np.pad(np.stack([y.max(axis=0), y.mean(axis=0)]), ((0, 0), (3, 3), (3, 3)))
    taps = w["spatial.weight"][0]
    spatial = np.array([[(taps * pooled[:, i : i + 7, j : j + 7]).sum() for j in range(5)] for i in range(4)])
    mean, var, gain, shift = (w[f"norm.{part}"][0] for part in ("running_mean", "running_var", "weight", "bias"))
    spatial = (spatial - mean) / np.sqrt(var + 1e-5) * gain + shift
    actual = module(torch.from_numpy(x)[None])[0].detach().numpy()
    np.testing.assert_allclose(actual, y / (1 + np.exp(-spatial)), rtol=1e-9, atol=1e-12)


def test_an_amfm_block_takes_the_larger_of_a_map_and_its_attention():
    block = randomize(AMFMBlock(3, 4).double(), 9)
    x = torch.randn(2, 3, 5, 6, dtype=torch.float64)
    features = block.mfm(block.norm(block.pointwise(x)))
    np.testing.assert_array_equal(
        block(x).detach(), np.maximum(features.detach().numpy(), block.attention(features).detach().numpy())
    )


def test_grn_by_hand():
    """Norms 5 and 0 and 10 of three channels, mean 5: so n is 1, 0 and 2."""
    grn = GlobalResponseNorm().double()
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0], [-6.0, 8.0]], dtype=torch.float64).reshape(1, 3, 1, 2)
    np.testing.assert_array_equal(grn(x).detach(), x)  # gamma and beta start at 0
    with torch.no_grad():
        grn.gamma.fill_(0.5)
        grn.beta.fill_(0.25)
    wanted = [[3 * 1.5 + 0.25, 4 * 1.5 + 0.25], [0.25, 0.25], [-6 * 2 + 0.25, 8 * 2 + 0.25]]
    np.testing.assert_allclose(grn(x).detach().reshape(3, 2), wanted, rtol=1e-6)


def test_grn_is_its_description():
    grn = randomize(GlobalResponseNorm().double(), 10)
    gamma, beta = grn.gamma.item(), grn.beta.item()
    x = np.random.default_rng(11).standard_normal((6, 7, 5))
    norm = np.sqrt((x**2).sum(axis=(1, 2)))
    expected = x + gamma * x * (norm / norm.mean())[:, None, None] + beta
    np.testing.assert_allclose(grn(torch.from_numpy(x)[None])[0].detach(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("grn", [True, False])
def test_inverted_residual_shortcuts(grn):
    """A shortcut where channels stay, pooled with counted zeros where strided; none where they change."""
    x = torch.randn(1, 8, 6, 5)
    for channels, stride in ((8, (1, 1)), (8, (2, 1)), (16, (1, 1))):
        block = InvertedResidual(8, channels, expansion_rate=2, stride=stride, grn=grn)
        nn.init.zeros_(block.eval().layers[-1].weight)  # the last norm: only the shortcut is left
        y = block(x)
        if channels != 8:
            assert not y.any()
        elif stride == (1, 1):
            torch.testing.assert_close(y, x.relu())
        else:
            corner = x[:, :, :2, :2].sum(dim=(2, 3)) / 9
            torch.testing.assert_close(y[:, :, 0, 0], corner.relu())


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


# What a family may ask for beside its options.
FACTS: dict[str, Any] = {"n_classes": 6, "n_mels": 32, "n_frames": 32, "parents": (0, 0, 1, 1, 2, 2), "n_devices": 3}


@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_family_declares_is_true(family):
    """A new family is enrolled here by its entry in the registry."""
    width = FAMILIES[family].width
    widest = build(family, **FACTS)
    assert parameters(build(family, **FACTS, **{width.option: width.default})) == parameters(widest)
    model = build(family, **FACTS, **{width.option: width.step})
    assert parameters(model) < parameters(widest)
    assert model(torch.randn(2, 1, 32, 32)).shape == (2, 6)
    if FAMILIES[family].capturable:
        graph = capture(model, (1, 1, 32, 32))
        assert isinstance(graph, Graph)
        assert graph.tensors[graph.output].shape == (1, 6)
    else:
        with pytest.raises(CaptureError, match=r"^module .+: "):
            capture(model, (1, 1, 32, 32))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_of_a_family_learns(family):
    width = FAMILIES[family].width
    model = build(family, **FACTS, **{width.option: width.step}).train()
    x = torch.randn(4, 1, 32, 32)
    answers = model.tasks(x).values() if hasattr(model, "tasks") else [model(x)]
    sum(logits.square().sum() for logits in answers).backward()
    # What a batch norm follows needs no bias: its gradient is zero up to rounding, yet there.
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


def test_an_unknown_family_is_refused():
    with pytest.raises(InputError, match=rf"'sepconv'.*one of: {', '.join(sorted(FAMILIES))}"):
        build("sepconv", n_classes=10, n_mels=64)


@pytest.mark.parametrize(
    ("family", "options", "says"),
    [
        ("sepconv_ca", {"width": 64}, "'width'"),
        ("sepconv_ca", {"attention_activation": "swish"}, "hardswish, relu"),
        ("sepconv_ca", {"attention": "no"}, "true or false"),
        ("sepconv_ca", {"attention": False, "attention_activation": "relu"}, "no meaning without attention"),
        ("sepconv_ca", {"base_channels": "64"}, "sepconv_ca"),
        ("sepconv_ca", {"base_channels": -4}, "sepconv_ca"),
        ("sepconv_ca", {"dropout": 2}, "dropout"),
        ("atrous_cnn", {"base_channels": 2.5}, "atrous_cnn"),
        ("cp_mobile", {"strides": 2022}, "2023, 2024"),
        ("cp_mobile", {"base_channels": 6}, "multiple of 4"),
        ("cp_mobile", {"base_channels": 0}, "from 1 up"),
        ("cp_mobile", {"expansion_rate": "2"}, "cp_mobile"),
        ("pooled_cnn", {"kernel": 4}, "3 or 5"),
        ("split_resnet", {"split": "low"}, "true or false"),
        ("split_resnet", {"base_channels": 0}, "from 1 up"),
        ("bc_resnet", {"base_channels": 9}, "must be even"),
        ("bc_resnet", {"sub_bands": 0}, "from 1 up"),
        ("bc_resnet", {"sub_bands": 2.0}, "from 1 up"),
        ("bc_resnet", {"sub_bands": 3}, "multiple of 24, got 64"),
        ("tf_sepnet", {"base_channels": 24}, "multiple of 16"),
        ("amfm", {"channels_multiplier": 0}, "above 0"),
        ("amfm", {"channels_multiplier": None}, "amfm"),
        ("amfm", {"hidden": -3}, "amfm"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused(family, options, says):
    with pytest.raises(InputError, match=says):
        build(family, n_classes=10, n_mels=64, **options)
