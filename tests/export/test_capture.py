"""Captured graphs against the torch modules that they came from."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from modules import Applied, in_torch, modules, randomize
from torch import nn
from torch.nn import functional as F

from tinyasc.models import build
from tinyasc_export import reference
from tinyasc_export.capture import capture
from tinyasc_export.errors import CaptureError


def assert_same(module: nn.Module, shape: tuple[int, ...], clips: int = 2, rtol: float = 1e-9) -> None:
    """The graph of a module answers as the module does, on a batch, to `rtol` of the largest answer."""
    values = [v.dtype for v in (*module.parameters(), *module.buffers())]
    dtype = np.float64 if torch.float64 in values else np.float32
    rtol = rtol if dtype == np.float64 else max(rtol, 1e-4)
    n, c, h, w = shape
    x = np.random.default_rng(1).standard_normal((clips * n, h, w, c)).astype(dtype)
    expected = in_torch(module, x)
    graph = capture(module, shape)
    actual = reference.run(graph, x)
    assert actual.shape == expected.shape and actual.dtype == dtype
    np.testing.assert_allclose(
        actual, expected, rtol=rtol, atol=rtol * max(1.0, float(np.abs(expected).max())), err_msg=str(graph)
    )


@settings(max_examples=40, deadline=None)
@given(modules())
def test_random_modules(case):
    assert_same(*case)


STUDENTS = [
    ({}, (64, 44)),
    ({"base_channels": 12}, (32, 31)),
    ({"base_channels": 20}, (40, 44)),
    ({"base_channels": 4}, (17, 53)),
    ({"base_channels": 8, "attention_activation": "relu"}, (33, 16)),
    ({"base_channels": 16}, (256, 43)),
]


@pytest.mark.parametrize(("options", "size"), STUDENTS)
def test_the_student_in_float64(options, size):
    torch.manual_seed(3)
    model = build("sepconv_ca", n_classes=10, n_mels=size[0], **options).double()
    assert_same(randomize(model, 4), (1, 1, *size))


def test_the_student_in_float32():
    torch.manual_seed(5)
    model = build("sepconv_ca", n_classes=10, n_mels=64, base_channels=16)
    assert_same(randomize(model, 6), (1, 1, 64, 44), rtol=1e-4)


def test_operators_know_their_module():
    graph = capture(build("sepconv_ca", n_classes=10, n_mels=32, base_channels=4), (1, 1, 32, 32))
    came_from = {op.module for op in graph.ops}
    assert {"input_norm", "blocks.3.pointwise", "blocks.10.time_gate", "head.4"} <= came_from


def test_the_module_is_left_as_it_was():
    model = randomize(build("sepconv_ca", n_classes=10, n_mels=32, base_channels=4)).train()
    model.blocks[0].frequency_norm.eval()  # a frozen batch norm inside a module that trains
    model.head[1].weight.requires_grad_(False)
    state = copy.deepcopy(model.state_dict())
    modes = [part.training for part in model.modules()]
    graph = capture(model, (1, 1, 32, 32))
    assert [part.training for part in model.modules()] == modes
    assert [p.requires_grad for p in model.parameters()].count(False) == 1
    assert all(p.grad is None for p in model.parameters())
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name
    before = reference.run(graph, np.ones((1, 32, 32, 1), np.float32))
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1)
    np.testing.assert_array_equal(reference.run(graph, np.ones((1, 32, 32, 1), np.float32)), before)


def test_modes_come_back_after_a_refusal():
    model = nn.Sequential(nn.Conv2d(1, 2, 1), Applied(lambda x: x.softmax(1))).train()
    with pytest.raises(CaptureError):
        capture(model, (1, 1, 4, 4))
    assert model.training and model[0].training


class Named(nn.Module):
    """A module whose part `odd` does what the graph cannot hold."""

    def __init__(self, odd: nn.Module) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 1)
        self.odd = odd

    def forward(self, x):
        x = self.odd(self.conv(x))
        return x.mean((2, 3)) if x.ndim == 4 else x


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(4, 3, batch_first=True)

    def forward(self, x):
        return self.gru(x.mean(2).transpose(1, 2))[0].mean(1)


class Token(nn.Module):
    def __init__(self, join) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.ones(1, 4, 6, 8))
        self.join = join

    def forward(self, x):
        return self.join(x, self.token)


REFUSED = {
    "gru": (Recurrent(), "odd.gru", "operator aten.zeros"),
    "softmax": (nn.Softmax(1), "odd", "aten.softmax"),
    "division": (Applied(lambda x: x / x.mean(1, keepdim=True)), "odd", "aten.div"),
    "subtraction": (Applied(lambda x: 1 - x), "odd", "aten.rsub"),
    "scaled sum": (Applied(lambda x: torch.add(x, x, alpha=2)), "odd", "aten.add"),
    "group convolution": (nn.Conv2d(4, 4, 1, groups=2), "odd", "2 groups"),
    "depth multiplier": (nn.Conv2d(4, 8, 1, groups=4), "odd", "4 groups"),
    "transposed convolution": (nn.ConvTranspose2d(4, 4, 2), "odd", "aten.conv_transpose2d"),
    "reflected padding": (nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), "odd", "aten.pad"),
    "padded average": (nn.AvgPool2d(2, padding=1), "odd", "average pool with padding"),
    "average with a divisor": (nn.AvgPool2d(2, divisor_override=3), "odd", "its own divisor"),
    "average beyond the edge": (nn.AvgPool2d(3, ceil_mode=True), "odd", "ceil_mode"),
    "padded maximum": (nn.MaxPool2d(2, padding=1), "odd", "max pool with padding"),
    "dilated maximum": (nn.MaxPool2d(2, dilation=2), "odd", "dilation"),
    "adaptive pool": (nn.AdaptiveAvgPool2d((2, 1)), "odd", "only to one value"),
    "transpose of a map": (
        nn.Sequential(Applied(lambda x: x.transpose(2, 3)), nn.Conv2d(4, 4, 1)),
        "odd.1",
        "move data",
    ),
    "channels into bands": (
        nn.Sequential(Applied(lambda x: x.transpose(1, 2)), nn.Conv2d(6, 4, 1)),
        "odd.1",
        "move data",
    ),
    "sum with a transpose": (Applied(lambda x: x[..., :6] + x[..., :6].transpose(2, 3)), "odd", "move data"),
    "flatten of a map": (nn.Sequential(nn.Flatten(), nn.Linear(192, 3)), "odd.0", "move data"),
    "view": (Applied(lambda x: x.view(1, 2, 2, 48)), "odd", "only to (1, features)"),
    "linear on a map": (nn.Linear(8, 3), "odd", "flatten to (1, features) first"),
    "maximum over channels": (Applied(lambda x: x.amax(1)), "odd", "only over height and width"),
    "maximum with places": (Applied(lambda x: x.max(3).values), "odd", "aten.max"),
    "mean of everything": (Applied(lambda x: x.mean().reshape(1, 1)), "odd", "over all dimensions"),
    "mean over the batch": (Applied(lambda x: x.mean((0, 2), keepdim=True)), "odd", "takes in the batch"),
    "squeeze of everything": (Applied(lambda x: x.mean((2, 3)).squeeze()), "odd", "batch included"),
    "five dimensions": (Applied(lambda x: x.unsqueeze(1).mean((2, 3))), "odd", "beyond 4 dimensions"),
    "step": (Applied(lambda x: x[..., ::2]), "odd", "step 2"),
    "nothing": (Applied(lambda x: torch.cat([x, x[..., 3:3]], 3)), "odd", "holds nothing"),
    "joined vectors of three dimensions": (
        Applied(lambda x: torch.cat([x.mean((2, 3)).unsqueeze(-1)] * 2, -1).mean(-1)),
        "odd",
        "(1, 4, 1)",
    ),
    "joined parameter": (Token(lambda x, token: torch.cat([x, token], 1)), "odd", "aten.cat works on a parameter"),
    "changed parameter": (Token(lambda x, token: x * token.sigmoid()), "odd", "aten.sigmoid works on a parameter"),
    "computed weights": (
        Applied(lambda x: F.conv2d(x, x.mean((2, 3), keepdim=True))),
        "odd",
        "computed from the input",
    ),
    "norm without statistics": (nn.BatchNorm2d(4, track_running_stats=False), "odd", "aten.batch_norm"),
    "instance norm": (nn.InstanceNorm2d(4), "odd", "aten.instance_norm"),
    "layer norm": (nn.LayerNorm(8), "odd", "aten.layer_norm"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_graph_lacks_is_refused_by_name_and_place(case):
    odd, path, says = REFUSED[case]
    with pytest.raises(CaptureError) as caught:
        capture(Named(odd), (1, 1, 6, 8))
    assert says in str(caught.value)
    assert f"module {path}:" in str(caught.value)
    assert "\n" not in str(caught.value)


def changed_in_place(x, before: bool):
    y = x * 2
    view = y.transpose(1, 2) if before else y
    F.relu(view, inplace=True)
    return y.mean((2, 3)) if before else view.mean((2, 3))


def test_a_change_in_place_that_another_view_sees_is_never_captured_wrongly():
    """torch sees the change through `y`; a graph of values would not."""
    with pytest.raises(CaptureError, match="in place"):
        capture(Applied(lambda x: changed_in_place(x, True)), (1, 3, 4, 5))
    assert_same(Applied(lambda x: changed_in_place(x, False)).double(), (1, 3, 4, 5))


def test_a_change_in_place_of_a_flat_vector_is_fine():
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.ReLU(inplace=True), nn.Linear(3, 2)).double()
    assert_same(head.eval(), (1, 3, 4, 5))


class Twice(nn.Module):
    def forward(self, x):
        y = x.mean((2, 3))
        return y, y


class Broken(nn.Module):
    def forward(self, x):
        raise AssertionError


@pytest.mark.parametrize(
    ("module", "shape", "says"),
    [
        (Applied(lambda x: x), (1, 1, 4, 4), "returns logits of shape"),
        (Applied(lambda x: x.mean(3)), (1, 2, 4, 4), "returns logits of shape"),
        (Twice(), (1, 1, 4, 4), "returns 2 values"),
        (Broken(), (1, 1, 4, 4), "Broken: torch.export cannot trace it: AssertionError"),
        (nn.Conv2d(1, 2, 9), (1, 1, 4, 4), "Conv2d: torch.export cannot trace it"),
        (nn.Conv2d(3, 2, 1), (1, 1, 4, 4), "Conv2d: torch.export cannot trace it"),
        (nn.Conv2d(1, 2, 1).half(), (1, 1, 4, 4), "float16"),
        (nn.Conv2d(1, 2, 1), (2, 1, 4, 4), "(2, 1, 4, 4)"),
        (nn.Conv2d(1, 2, 1), (1, 4, 4), "(1, 4, 4)"),
    ],
)
def test_modules_that_are_no_student_are_refused(module, shape, says):
    with pytest.raises(CaptureError) as caught:
        capture(module, shape)
    assert says in str(caught.value)


def test_buffers_and_constants_are_captured():
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("gain", torch.linspace(1, 2, 3, dtype=torch.float64)[:, None, None], persistent=False)
            self.linear = nn.Linear(3, 2).double()

        def forward(self, x):
            return self.linear((x * self.gain).amax(dim=(2, 3)))

    assert_same(Scaled().eval(), (1, 3, 4, 5))


def test_a_module_called_twice_is_captured_twice():
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 2, 3, padding=1).double()

        def forward(self, x):
            return self.conv(self.conv(x).relu()).mean((2, 3))

    assert_same(Shared().eval(), (1, 2, 5, 4))
