"""Captured graphs against the torch modules that they came from."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
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
    rtol = rtol if dtype == np.float64 else max(rtol, 1e-5)  # a module without parameters counts as float32
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
    ("sepconv_ca", {}, (64, 44)),
    ("sepconv_ca", {"base_channels": 12}, (32, 31)),
    ("sepconv_ca", {"base_channels": 20}, (40, 44)),
    ("sepconv_ca", {"base_channels": 4}, (17, 53)),
    ("sepconv_ca", {"base_channels": 8, "attention_activation": "relu"}, (33, 16)),
    ("sepconv_ca", {"base_channels": 8, "attention": False}, (33, 16)),
    ("sepconv_ca", {"base_channels": 16}, (256, 43)),
    ("amfm", {}, (64, 30)),
    ("amfm", {"channels_multiplier": 0.25, "hidden": 7}, (33, 19)),
    ("pooled_cnn", {}, (64, 30)),
    ("pooled_cnn", {"base_channels": 3, "kernel": 5}, (33, 21)),
    ("pooled_cnn", {"base_channels": 3, "first_stride": [1, 4]}, (33, 83)),
    ("cp_mobile", {}, (64, 30)),
    ("cp_mobile", {"base_channels": 8, "strides": 2024}, (33, 21)),
    ("cp_mobile", {"base_channels": 16, "strides": 2024, "grn": False}, (128, 65)),
]


@pytest.mark.parametrize(("family", "options", "size"), STUDENTS)
def test_the_students_in_float64(family, options, size):
    torch.manual_seed(3)
    model = build(family, n_classes=10, n_mels=size[0], **options).double()
    assert_same(randomize(model, 4), (1, 1, *size))


@pytest.mark.parametrize(
    ("family", "options"), [("sepconv_ca", {"base_channels": 16}), ("amfm", {}), ("cp_mobile", {})]
)
def test_the_students_in_float32(family, options):
    torch.manual_seed(5)
    model = build(family, n_classes=10, n_mels=64, **options)
    assert_same(randomize(model, 6), (1, 1, 64, 44), rtol=1e-4)


def plain_cnn(*tail: nn.Module) -> nn.Module:
    """What a user brings: convolutions, batch norms, ReLUs, max pools, a flatten and linear layers."""
    torch.manual_seed(7)
    layers: list[nn.Module] = []
    for before, after in ((1, 4), (4, 6), (6, 5)):
        convolution = nn.Conv2d(before, after, 3, padding=1)
        layers += [convolution, nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2)]
    return randomize(nn.Sequential(*layers, nn.Flatten(), *tail).double(), 8)


FLAT = 5 * 4 * 3  # channels, rows and columns left of a 32 x 24 map
TAILS = {
    "linear": [nn.Linear(FLAT, 10)],
    "two linears": [nn.Dropout(0.5), nn.Linear(FLAT, 16, bias=False), nn.ReLU(inplace=True), nn.Linear(16, 3)],
    "norm": [nn.BatchNorm1d(FLAT), nn.Linear(FLAT, 10)],
    "norm without gain": [nn.Hardswish(), nn.BatchNorm1d(FLAT, affine=False), nn.Sigmoid(), nn.Linear(FLAT, 2)],
    "view": [Applied(lambda x: x.relu()), nn.Linear(FLAT, 4)],
}


@pytest.mark.parametrize("tail", TAILS)
def test_a_flattened_map_finds_its_order_in_the_linear_layer(tail):
    assert_same(plain_cnn(*TAILS[tail]), (1, 1, 32, 24))


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 2, 1, 3), (0, 3, 2, 1), (0, 2, 3, 1), (0, 1, 3, 2)])
def test_a_permuted_map_flattens_too(order):
    head = Applied(lambda x: x.permute(*order).reshape(1, -1))
    assert_same(nn.Sequential(head, nn.Linear(60, 4)).double().eval(), (1, 3, 4, 5))


class PerFeature(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(60, 2)

    def forward(self, x):
        return self.linear(x.view(x.shape[0], -1).sigmoid())


def test_a_view_flattens_too():
    assert_same(PerFeature().double().eval(), (1, 3, 4, 5))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.maximum(x, x.mean(3, keepdim=True)).mean((2, 3)),
        lambda x: torch.max(x[:, :2], x[:, 1:]).amax((2, 3)),
        lambda x: torch.maximum(*x.mean((2, 3))[:, :2].chunk(2, dim=1)),
        lambda x: (x * x.amax(1, keepdim=True)).mean((2, 3)),
        lambda x: x.amax((1, 3)),
        lambda x: x.amax(1).amax(1),
        lambda x: x.transpose(1, 2).amax(2, keepdim=True).mean((2, 3)),
        lambda x: (x.square() + 1).rsqrt().mean((2, 3)),
        lambda x: (x**2 + 1).rsqrt().amax((2, 3)),
    ],
)
def test_maxima_squares_and_roots(function):
    assert_same(Applied(function).eval(), (1, 3, 4, 5), rtol=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 3), st.integers(1, 3), st.integers(0, 1))
def test_an_average_pool_counts_its_padding(h, w, kernel, stride, padding):
    padding = min(padding, kernel // 2)
    if min(h, w) + 2 * padding >= kernel:
        pool = nn.AvgPool2d(kernel, stride, padding)
        assert_same(nn.Sequential(pool, Applied(lambda x: x.amax((2, 3)))).double(), (1, 2, h, w), rtol=1e-6)


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
    "average that leaves padding out": (
        nn.AvgPool2d(2, padding=1, count_include_pad=False),
        "odd",
        "count_include_pad",
    ),
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
    "flattened map that is cut": (
        nn.Sequential(nn.Flatten(), Applied(lambda x: x[:, 5:]), nn.Linear(187, 3)),
        "odd.1",
        "a flattened map goes into aten.slice",
    ),
    "flattened map that is joined": (Applied(lambda x: torch.cat([x.flatten(1)] * 2, 1)), "odd", "into aten.cat"),
    "view": (Applied(lambda x: x.view(1, 2, 2, 48)), "odd", "only to (1, features)"),
    "linear on a map": (nn.Linear(8, 3), "odd", "flatten to (1, features) first"),
    "maximum with a parameter": (Token(torch.maximum), "odd", "maximum with a constant"),
    "cube": (Applied(lambda x: x**3), "odd", "a power of 3"),
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
        (nn.Flatten(), (1, 2, 4, 4), "returns a flattened map"),
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
