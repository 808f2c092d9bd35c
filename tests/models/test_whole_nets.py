"""Students from features to logits, as their reports describe them; and what all families are by default."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from described import Layers, maps, res_norm, settled
from torch import Tensor, nn
from weights import parameters

from tinyasc.compress.costs import predict
from tinyasc.frontend import FrontEnd
from tinyasc.models import build
from tinyasc_export.capture import capture
from tinyasc_export.lower import lower


@pytest.mark.parametrize(
    ("options", "strides", "grn"),
    [
        ({}, {2: (2, 2), 4: (2, 1)}, True),
        ({"grn": False}, {2: (2, 2), 4: (2, 1)}, False),
        ({"strides": 2024, "grn": False}, {3: (1, 2), 4: (2, 1)}, False),
    ],
)
def test_cp_mobile(options, strides, grn):
    """Widths 8, 8, 8, 16, 16, 24 from a map of 40 x 33, 10 x 9 after the stem and 3 x 5 or less at the end."""
    net = settled(build("cp_mobile", n_classes=3, n_mels=40, base_channels=8, **options))
    n = Layers(net)
    x = features = maps(2, 1, 40, 33)
    for i in (0, 3):
        x = n.conv_norm_relu(f"stem.{i}", f"stem.{i + 1}", x, stride=2, padding=1)
    assert x.shape == (2, 8, 10, 9)
    for block in range(1, 7):
        name, stride = f"blocks.{block - 1}", strides.get(block, 1)
        y = n.conv_norm_relu(f"{name}.layers.0", f"{name}.layers.1", x)
        y = F.relu(n.norm(f"{name}.layers.4", n.depthwise(f"{name}.layers.3", y, stride=stride, padding=1)))
        y = n.norm(f"{name}.layers.7", n.conv(f"{name}.layers.6", y))
        if y.shape[1] == x.shape[1]:
            y = y + (x if stride == 1 else F.avg_pool2d(x, 3, stride, padding=1))
        if grn:
            length = torch.linalg.vector_norm(y, dim=(2, 3), keepdim=True)
            share = length / length.mean(dim=1, keepdim=True)
            y = y + n.w[f"{name}.grn.gamma"] * y * share + n.w[f"{name}.grn.beta"]
        x = F.relu(y)
    assert x.shape[1] == 24
    expected = n.norm("head.1", n.conv("head.0", x)).mean(dim=(2, 3))
    # GRN adds a small number where the reports divide by a mean that may be 0.
    torch.testing.assert_close(net(features), expected, rtol=1e-4 if grn else 1e-9, atol=1e-5 if grn else 1e-9)


@pytest.mark.parametrize(
    ("options", "activation"),
    [({}, F.hardswish), ({"attention_activation": "relu"}, F.relu), ({"attention": False}, None)],
)
def test_sepconv_ca(options, activation):
    """Four blocks leave 2 x 3 of 33 x 51."""
    net = settled(build("sepconv_ca", n_classes=3, n_mels=33, base_channels=4, **options))
    n = Layers(net)
    features = maps(2, 1, 33, 51)
    x = n.norm("input_norm", features[:, 0])[:, None]
    for i in (0, 3, 6, 9):
        name = f"blocks.{i}"
        x = n.conv(f"{name}.pointwise", x)
        along_frequency = n.depthwise(f"{name}.frequency", x, dilation=2, padding=(2, 0))
        along_time = n.depthwise(f"{name}.time", x, dilation=2, padding=(0, 2))
        x = F.relu(n.norm(f"{name}.frequency_norm", along_frequency) + n.norm(f"{name}.time_norm", along_time))
        if activation:
            x = n.coordinate_attention(f"blocks.{i + 1}", x, activation)
        x = F.avg_pool2d(x, 2)
    assert x.shape == (2, 8, 2, 3)
    x = x.mean(dim=2)
    x = F.relu(n.linear("head.1", x.mean(dim=2) + x.amax(dim=2)))
    torch.testing.assert_close(net(features), n.linear("head.4", x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("sub_bands", [1, 2])
def test_bc_resnet(sub_bands):
    """c = 4: widths 8, then 4, 6, 8, 10; of 16 x 30 the stem leaves 8 x 15, two pools 2 x 3."""
    net = settled(build("bc_resnet", n_classes=3, n_mels=16, base_channels=4, sub_bands=sub_bands))
    n = Layers(net)
    features = maps(2, 1, 16, 30)
    x = n.conv("stem", features, stride=2, padding=2)
    assert x.shape == (2, 8, 8, 15)

    def block(name: str, x: Tensor, width: int) -> Tensor:
        f2, first = x, 0
        if x.shape[1] != width:
            f2, first = n.conv_norm_relu(f"{name}.frequency.0", f"{name}.frequency.1", x), 3
        f2 = n.depthwise(f"{name}.frequency.{first}", f2, padding=(1, 0))
        bands = f2.tensor_split(sub_bands, dim=2)
        f2 = torch.cat([n.norm(f"{name}.frequency.{first + 1}.norms.{i}", b) for i, b in enumerate(bands)], dim=2)
        f1 = n.depthwise(f"{name}.time.0", f2.mean(dim=2, keepdim=True), padding=(0, 1))
        f1 = n.conv(f"{name}.time.3", F.silu(n.norm(f"{name}.time.1", f1)))
        return F.relu(f1 + f2 + (x if x.shape[1] == width else 0))

    layers = (4, 4, "N", "pool", 6, 6, "N", "pool", 8, 8, "N", 10, 10, 10, "N")
    for layer, width in enumerate(layers):
        if width == "N":
            x = res_norm(x)
        elif width == "pool":
            x = F.max_pool2d(x, 2)
        else:
            x = block(f"blocks.{layer}", x, width)
    assert x.shape == (2, 10, 2, 3)
    expected = n.conv("classifier", x).mean(dim=(2, 3))
    torch.testing.assert_close(net(features), expected, rtol=1e-9, atol=1e-9)


def test_tf_sepnet():
    """c = 16: widths 8, 32, then 16, 24, 32, 40; of 64 x 70 the stem leaves 16 x 18, three pools 2 x 2.

    The stem's second convolution is written as the four that stand for it, the shuffle as runs of an eighth of the
    channels from either half in turn: see test_tf_sepnet.py for why both are the published ones.
    """
    net = settled(build("tf_sepnet", n_classes=3, n_mels=64, base_channels=16))
    n = Layers(net)
    features = maps(2, 1, 64, 70)
    x = n.conv_norm_relu("stem.0", "stem.1", features, stride=2, padding=1)
    filters = [
        n.norm(f"stem.3.filters.{k}.1", n.depthwise(f"stem.3.filters.{k}.0", x, stride=2, padding=1)) for k in range(4)
    ]
    x = F.relu(torch.cat(filters, dim=1))
    assert x.shape == (2, 32, 16, 18)

    def path(name: str, x: Tensor, axis: int) -> Tensor:
        padding = (1, 0) if axis == 2 else (0, 1)
        y = F.relu(n.norm(f"{name}.depthwise.1", n.depthwise(f"{name}.depthwise.0", x, padding=padding)))
        return x + n.conv_norm_relu(f"{name}.pointwise.0", f"{name}.pointwise.1", y.mean(dim=axis, keepdim=True))

    layers = ("N", 16, 16, "N", "pool", 24, 24, "N", "pool", 32, 32, "N", "pool", 40, 40, 40, "N")
    for layer, width in enumerate(layers):
        name = f"blocks.{layer}"
        if width == "N":
            x = res_norm(x)
        elif width == "pool":
            x = F.max_pool2d(x, 2)
        else:
            if x.shape[1] == width:
                x = x.unflatten(1, (2, 4, width // 8)).transpose(1, 2).flatten(1, 3)
            else:
                x = n.conv_norm_relu(f"{name}.mix.0", f"{name}.mix.1", x)
            halves = x[:, : width // 2], x[:, width // 2 :]
            x = torch.cat([path(f"{name}.frequency", halves[0], 2), path(f"{name}.time", halves[1], 3)], dim=1)
    assert x.shape == (2, 40, 2, 2)
    expected = n.conv("classifier", x).mean(dim=(2, 3))
    torch.testing.assert_close(net(features), expected, rtol=1e-9, atol=1e-9)


def test_amfm_student():
    """The trunk of the paper with pools that round down; of 35 x 50 they leave 2 x 3."""
    net = settled(build("amfm", n_classes=3, n_mels=35, channels_multiplier=0.25, hidden=5))
    n = Layers(net)
    features = maps(2, 1, 35, 50)
    x = F.max_pool2d(n.mfm("trunk.0", features, padding=(3, 1)), 2)
    x = n.norm("trunk.4", F.max_pool2d(n.amfm("trunk.2", x), 2))
    x = F.max_pool2d(n.amfm("trunk.5", x), 2)
    x = n.norm("trunk.9", F.max_pool2d(n.amfm("trunk.7", x), 2))
    x = n.amfm("trunk.10", x)
    assert x.shape == (2, 4, 2, 3)
    x = x.mean(dim=2)
    x = n.norm("head.0", x.mean(dim=2) + x.amax(dim=2))
    torch.testing.assert_close(net(features), n.linear("head.3", n.mfm("head.2", x)), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("family", "channels", "n_mels", "count", "rates"),
    [
        ("amfm", 1, 64, 123_977, [0.5]),
        ("amfm_net", 1, 256, 624_192, [0.5, 0.5]),  # a head for each task
        ("atrous_cnn", 1, 64, 4_314_580, []),
        ("bc_resnet", 1, 256, 314_650, [0.1] * 9),
        ("caa_net", 1, 64, 4_523_799, []),
        ("cp_mobile", 1, 256, 55_464, []),
        ("pooled_cnn", 1, 64, 107_130, [0.0]),
        ("sepconv_ca", 1, 256, 75_562, [0.1, 0.1]),
        ("split_resnet", 3, 128, 3_246_108, []),
        ("tf_sepnet", 1, 256, 126_858, [0.1] * 18),  # two paths in each of nine blocks
    ],
)
def test_sizes_and_dropouts_by_default(family, channels, n_mels, count, rates):
    """As published, those of `amfm` as we chose them; for ten scenes in three groups from three devices."""
    facts = {"n_classes": 10, "n_frames": 251, "parents": (0, 2, 2, 0, 1, 1, 0, 1, 1, 2), "n_devices": 3}
    with torch.device("meta"):
        net = build(family, n_mels=n_mels, in_channels=channels, **facts)
    assert parameters(net) == count
    assert [part.p for part in net.modules() if isinstance(part, nn.modules.dropout._DropoutNd)] == rates


def test_the_amfm_student_holds_its_budget():
    """128 KB at int8, biases of 4 bytes among them."""
    net = settled(build("amfm", n_classes=10, n_mels=64))
    graph, _, _ = lower(capture(net.float(), (1, 1, 64, 44)))
    front_end = FrontEnd(sample_rate=44100, clip_samples=47080, n_fft=2048, win_length=2048, hop_length=1024, n_mels=64)
    assert predict(graph, front_end, tuple("0123456789"), "int8").parameter_bytes == 126_548 <= 128 * 1024
