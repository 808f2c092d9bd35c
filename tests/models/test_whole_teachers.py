"""Teachers from features to logits, as their papers describe them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from described import Layers, maps, settled
from torch import Tensor

from tinyasc.models import build

PAIRS = [
    *(("baseline", head) for head in ("flatten", "max", "average", "attention")),
    *(("no_pooling", head) for head in ("max", "average", "attention", "roi", "roi_attention")),
    *(("atrous", head) for head in ("max", "average", "attention", "roi", "roi_attention")),
]
SIZE = (33, 50)


def atrous(n: Layers, x: Tensor, trunk: str, head: str, condition: Tensor | None = None, layer: int = 0) -> Tensor:
    """Four 5x5 convolutions, batch norms, ReLUs and, in the baseline, pools; the head of Table 1 behind them."""
    step = 4 if trunk == "baseline" else 3
    for i in range(4):
        dilation = (1, 2, 4, 8)[i] if trunk == "atrous" else 1
        x = n.conv(f"trunk.{step * i}", x, padding=2 * dilation, dilation=dilation)
        if condition is not None and i + 1 == layer:
            x = x + condition
        x = F.relu(n.norm(f"trunk.{step * i + 1}", x))
        if trunk == "baseline":
            x = F.max_pool2d(x, 2)
    assert x.shape[2:] == ((2, 3) if trunk == "baseline" else SIZE)
    if head.startswith("roi"):
        x = F.max_pool2d(x, 16, ceil_mode=True)
    if head.endswith("attention"):
        a = torch.sigmoid(n.conv("head.attention", x)).clamp(0.1, 0.9)
        share = a / a.sum(dim=(2, 3), keepdim=True)
        return (share * F.log_softmax(n.conv("head.classes", x), dim=1)).sum(dim=(2, 3))
    pooled = {"max": x.amax(dim=(2, 3)), "average": x.mean(dim=(2, 3))}.get(head, x.flatten(1))
    return n.linear("head.linear", pooled)


def assert_same(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("trunk", "head"), [(None, None), *PAIRS])
def test_atrous_cnn(trunk, head):
    """All pairs of trunk and head, and the default one."""
    options = {"trunk": trunk, "head": head} if trunk else {}
    net = settled(build("atrous_cnn", n_classes=3, n_mels=SIZE[0], n_frames=SIZE[1], base_channels=2, **options))
    x = maps(2, 1, *SIZE)
    assert_same(net(x), atrous(Layers(net), x, trunk or "baseline", head or "attention"))


@pytest.mark.parametrize(
    ("options", "trunk", "head", "layer"),
    [
        ({}, "atrous", "attention", 4),
        *(({"layer": layer}, "atrous", "attention", layer) for layer in (1, 2, 3)),
        *(({"trunk": t, "head": h, "layer": 2}, t, h, 2) for t, h in (("baseline", "flatten"), ("no_pooling", "roi"))),
    ],
)
@pytest.mark.parametrize("strategy", [None, "teacher_forcing", "multi_task"])
def test_caa_net(strategy, options, trunk, head, layer):
    """The device, told or by default predicted, through a 1x1 convolution onto one of the convolutions' outputs."""
    facts = {"n_classes": 3, "n_mels": SIZE[0], "n_frames": SIZE[1], "n_devices": 3, "base_channels": 2}
    options = options | ({"strategy": strategy} if strategy else {})
    net = settled(build("caa_net", **facts, **options))
    n = Layers(net)
    x = maps(6, 1, *SIZE)
    told = F.one_hot(torch.tensor([0, 1, 2, 0, 2, 2]), 3).double()
    if strategy == "teacher_forcing":
        device, answers = told, net.tasks(x, told)
        assert list(answers) == ["scene"]
    else:
        with torch.no_grad():
            net.device_cnn.linear.bias -= net.device_cnn(x).mean(dim=0)  # else all clips may sound alike
        y = x
        for i in (0, 4):
            y = n.conv_norm_relu(f"device_cnn.layers.{i}", f"device_cnn.layers.{i + 1}", y, padding=2)
            y = F.max_pool2d(y, 2)
        logits = n.linear("device_cnn.linear", y.amax(dim=(2, 3)))
        device, answers = F.one_hot(logits.argmax(dim=1), 3).double(), net.tasks(x, told)
        assert len(logits.argmax(dim=1).unique()) > 1
        assert_same(answers["device"], logits)
        assert_same(net(x), answers["scene"])
    condition = n.conv("condition", device[:, :, None, None])
    assert_same(answers["scene"], atrous(n, x, trunk, head, condition, layer))


@pytest.mark.parametrize(
    ("options", "tasks"),
    [
        ({"parents": None}, {"scene": "scene"}),
        ({"scheme": "none"}, {"scene": "scene"}),
        ({}, {"scene": "scene", "group": "group"}),  # extended
        ({"scheme": "conventional"}, {"scene": "scene", "group": "scene"}),
        ({"scheme": "sequential_groups_first"}, {"scene": "scene", "group": "group"}),
        ({"scheme": "sequential_scenes_first"}, {"scene": "scene", "group": "group"}),
    ],
)
def test_amfm_net(options, tasks):
    """Widths 4, 8, 8, 4, 4 of 37 x 21: 33 x 33 after the first layer, 3 x 3 after four pools that round up, 2 x 2."""
    facts = {"n_classes": 4, "n_mels": 37, "n_frames": 21, "parents": (0, 1, 1, 0), "channels_multiplier": 0.125}
    net = settled(build("amfm_net", hidden=5, **facts | options))
    n = Layers(net)
    features = maps(2, 1, 37, 21)

    def pool(x: Tensor) -> Tensor:
        return F.max_pool2d(x, 2, ceil_mode=True)

    x = pool(n.mfm("trunk.0", features, padding=(1, 7)))
    x = n.norm("trunk.4", pool(n.amfm("trunk.2", x)))
    x = pool(n.amfm("trunk.5", x))
    x = pool(n.norm("trunk.8", n.amfm("trunk.7", x)))
    assert x.shape == (2, 4, 3, 3)
    later = {"sequential_groups_first": "scene", "sequential_scenes_first": "group"}.get(options.get("scheme"))
    answers = net.tasks(features)
    assert set(answers) == set(tasks)
    for task, head in tasks.items():
        name = f"heads.{head}"
        y = n.norm("between.1", n.amfm("between.0", x)) if task == later else x
        y = pool(n.norm(f"{name}.hidden.1", n.amfm(f"{name}.hidden.0", y)))
        assert y.shape == (2, 4, 2, 2)
        y = n.mfm(f"{name}.hidden.5", y.flatten(1))
        assert_same(answers[task], n.linear(f"{name}.outputs.{task}", y))
    assert_same(net(features), answers["scene"])
