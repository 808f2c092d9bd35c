"""CAA-Net: its published sizes, and where the device enters."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from weights import arrays, parameters, randomize

from tinyasc.errors import InputError
from tinyasc.models import build
from tinyasc.models.atrous_cnn import PAIRS

TRUNK_AND_HEAD = 4_314_580  # of the atrous CNN with attention, see test_atrous_cnn.py
DEVICES = torch.eye(3, dtype=torch.float64)


def make(strategy="teacher_forcing", **options):
    options = {"n_classes": 4, "n_mels": 16, "n_frames": 20, "n_devices": 3, "base_channels": 2} | options
    return randomize(build("caa_net", strategy=strategy, **options).double())


@pytest.mark.parametrize(("layer", "published"), [(1, 4_522_007), (2, 4_522_263), (3, 4_522_775), (4, 4_523_799)])
def test_parameters_are_the_published_ones(layer, published):
    with torch.device("meta"):
        models = {
            strategy: build(
                "caa_net", n_classes=10, n_mels=64, n_frames=320, n_devices=3, layer=layer, strategy=strategy
            )
            for strategy in ("multi_task", "teacher_forcing")
        }
    assert parameters(models["multi_task"]) == published
    # CNN-d: convolutions 1,600 and 204,800, batch norms 128 and 256, linear 387.
    assert parameters(models["teacher_forcing"]) == published - 207_171
    # 3 devices and a bias to each channel of the conditioned convolution.
    assert parameters(models["teacher_forcing"]) == TRUNK_AND_HEAD + 4 * (64, 128, 256, 512)[layer - 1]


def test_multiplications_are_the_published_ones():
    """89.4 G per 10 s at 64 x 320."""
    counter = FlopCounterMode(display=False)
    with torch.device("meta"), counter:
        build("caa_net", n_classes=10, n_mels=64, n_devices=3)(torch.zeros(1, 1, 64, 320))
    assert counter.get_total_flops() / 2 == pytest.approx(89.4e9, rel=1e-3)


@pytest.mark.parametrize("trunk", PAIRS)
@pytest.mark.parametrize("layer", [1, 2, 3, 4])
def test_the_condition_is_added_to_one_convolution_before_its_batch_norm(trunk, layer):
    model = make(layer=layer, trunk=trunk)
    put_out, normalised = [], []
    for part in model.trunk:
        if isinstance(part, nn.Conv2d):
            part.register_forward_hook(lambda _, inputs, output: put_out.append(output))
        if isinstance(part, nn.BatchNorm2d):
            part.register_forward_pre_hook(lambda _, inputs: normalised.append(inputs[0]))
    model(torch.randn(3, 1, 16, 20, dtype=torch.float64), DEVICES[[2, 0, 1]])
    w = arrays(model.condition)
    for i, (before, after) in enumerate(zip(put_out, normalised, strict=True), 1):
        added = (after - before).detach().numpy()
        if i != layer:
            assert not added.any()
            continue
        for clip, device in enumerate((2, 0, 1)):
            per_channel = w["weight"][:, device, 0, 0] + w["bias"]
            np.testing.assert_allclose(added[clip], np.broadcast_to(per_channel[:, None, None], added[clip].shape))


def test_the_condition_is_the_papers_1x1_convolution_of_the_repeated_vector():
    model = make(layer=1)
    x, device = torch.randn(3, 1, 16, 20, dtype=torch.float64), DEVICES[[1, 1, 0]]
    repeated = device[:, :, None, None].expand(3, 3, 16, 20)
    y = model.trunk[0](x) + F.conv2d(repeated, model.condition.weight, model.condition.bias)
    for part in list(model.trunk)[1:]:
        y = part(y)
    torch.testing.assert_close(model(x, device), model.head(y))


def test_an_unknown_device_leaves_the_bias_and_a_mixed_clip_gets_the_mixture():
    model = make()
    added = []
    model.condition.register_forward_hook(lambda _, inputs, output: added.append(output[:, :, 0, 0].detach().numpy()))
    x = torch.randn(2, 1, 16, 20, dtype=torch.float64)
    zeros = torch.zeros(2, 3, dtype=torch.float64)
    torch.testing.assert_close(model(x), model(x, zeros))
    model(x, torch.tensor([[0.25, 0.75, 0], [0, 0, 1]]))
    w = arrays(model.condition)
    columns = w["weight"][:, :, 0, 0].T
    np.testing.assert_array_equal(added[1], np.stack([w["bias"]] * 2))
    np.testing.assert_allclose(added[2][0], 0.25 * columns[0] + 0.75 * columns[1] + w["bias"])
    assert not np.allclose(model(x).detach(), model(x, DEVICES[:2]).detach())


def test_teacher_forcing_reads_the_device_and_has_one_task():
    model = make()
    x = torch.randn(3, 1, 16, 20, dtype=torch.float64)
    assert model.reads_device
    assert list(model.tasks(x, DEVICES)) == ["scene"]
    torch.testing.assert_close(model.tasks(x, DEVICES)["scene"], model(x, DEVICES))


def test_multi_task_is_conditioned_on_the_device_that_it_predicts():
    model, forced = make("multi_task"), make()
    assert not model.reads_device
    forced.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("device_cnn")})
    x = torch.randn(16, 1, 16, 20, dtype=torch.float64)
    with torch.no_grad():
        model.device_cnn.linear.bias -= model.device_cnn(x).mean(dim=0)
    answers = model.tasks(x, DEVICES[[0] * 16])
    assert list(answers) == ["scene", "device"]
    predicted = answers["device"].argmax(dim=1)
    assert len(predicted.unique()) > 1  # else a constant condition would pass too
    for scene in (answers["scene"], model(x)):
        torch.testing.assert_close(scene, forced(x, DEVICES[predicted]))
    told = DEVICES[[2] * 16]
    torch.testing.assert_close(model(x, told), forced(x, told))  # to explain what another device would change


def test_no_gradient_goes_from_the_scene_to_the_device_or_back():
    model = make("multi_task").train()
    own = {name for name, _ in model.named_parameters() if name.startswith("device_cnn")}
    for task, expected in (("device", own), ("scene", {name for name, _ in model.named_parameters()} - own)):
        model.zero_grad()
        model.tasks(torch.randn(4, 1, 16, 20, dtype=torch.float64))[task].square().sum().backward()
        assert {name for name, p in model.named_parameters() if p.grad is not None} == expected


def test_the_device_network_is_its_description():
    """Convolution, batch norm, ReLU and 2x2 maximum, twice; the largest of the map; linear."""
    model = make("multi_task").device_cnn
    x = torch.randn(2, 1, 9, 13, dtype=torch.float64)
    w = {name: value.detach() for name, value in model.state_dict().items()}
    y = x
    for i in (0, 4):
        y = F.conv2d(y, w[f"layers.{i}.weight"], padding=2)
        mean, var, gain, shift = (
            w[f"layers.{i + 1}.{name}"][:, None, None] for name in ("running_mean", "running_var", "weight", "bias")
        )
        y = ((y - mean) / torch.sqrt(var + 1e-5) * gain + shift).clamp(min=0)
        rows, columns = y.shape[2] // 2, y.shape[3] // 2
        y = y[:, :, : 2 * rows, : 2 * columns].reshape(2, -1, rows, 2, columns, 2).amax(dim=(3, 5))
    torch.testing.assert_close(model(x), y.amax(dim=(2, 3)) @ w["linear.weight"].T + w["linear.bias"])


@pytest.mark.parametrize(("head", "size"), [("attention", (16, 20)), ("roi_attention", (1, 2))])
def test_the_attention_map_is_that_of_the_device(head, size):
    model = make(head=head)
    x = torch.randn(1, 1, 16, 20, dtype=torch.float64).expand(3, 1, 16, 20)
    with torch.no_grad():
        model.head.attention.weight /= 100 * model.features(x, DEVICES).mean()  # else all of it is at its limits
        model.head.attention.bias.zero_()
    attention = model.head.attention_map(model.features(x, DEVICES))
    assert attention.shape == (3, 4, *size)
    for i, j in itertools.combinations(range(3), 2):
        assert not torch.equal(attention[i], attention[j])
    weights = attention / attention.sum(dim=(2, 3), keepdim=True)
    classes = model.head.classes(model.features(x, DEVICES)).log_softmax(dim=1)
    torch.testing.assert_close(model(x, DEVICES), (weights * classes).sum(dim=(2, 3)))


@pytest.mark.parametrize(("trunk", "head"), [(trunk, head) for trunk in PAIRS for head in PAIRS[trunk]])
@pytest.mark.parametrize("strategy", ["teacher_forcing", "multi_task"])
def test_every_pair_of_trunk_and_head_can_be_conditioned(strategy, trunk, head):
    model = make(strategy, trunk=trunk, head=head).train()
    x = torch.randn(3, 1, 16, 20, dtype=torch.float64)
    answers = model.tasks(x, DEVICES)
    sum(logits.square().sum() for logits in answers.values()).backward()
    assert answers["scene"].shape == (3, 4)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"n_devices": 0}, "training clips name 0 of them"),
        ({"n_devices": 1}, "training clips name 1 of them"),
        ({"strategy": "joint"}, "choose one of: teacher_forcing, multi_task .*atrous_cnn"),
        ({"layer": 0}, "convolutions 1 to 4, got 0"),
        ({"layer": 5}, "convolutions 1 to 4, got 5"),
        ({"layer": 2.0}, r"convolutions 1 to 4, got 2\.0"),
        ({"layer": "4"}, "convolutions 1 to 4, got '4'"),
        ({"trunk": "baseline", "head": "roi"}, "caa_net: head roi does not go with trunk baseline"),
        ({"head": "mean"}, "caa_net: head 'mean' is unknown"),
        ({"head": "roi", "n_frames": None}, "caa_net: head roi needs n_frames"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, says):
    with pytest.raises(InputError, match=says) as caught:
        make(**options)
    assert "\n" not in str(caught.value)
