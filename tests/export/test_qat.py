"""The trainable module against the integer graph that it stands for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from modules import randomize

from tinyasc.models import build
from tinyasc_export.calibration import least_squares_ranges
from tinyasc_export.capture import capture
from tinyasc_export.errors import GraphError, InputError
from tinyasc_export.lower import cast, lower
from tinyasc_export.qat import to_module
from tinyasc_export.quantize import calibrate, quantize_int8, quantize_int16x8
from tinyasc_export.reference import run

STUDENTS = [
    pytest.param("sepconv_ca", {"base_channels": 8}, id="sepconv_ca"),
    pytest.param("amfm", {"channels_multiplier": 0.25}, id="amfm"),
    pytest.param("pooled_cnn", {"base_channels": 4}, id="pooled_cnn"),
    pytest.param("cp_mobile", {"base_channels": 8, "grn": False}, id="cp_mobile"),
    pytest.param("cp_mobile", {"base_channels": 8, "grn": True}, id="cp_mobile-grn"),
]


def student(family: str, options: dict, clips: int = 8):
    """A lowered float graph with random batch norms, and clips for it (clips, H, W, C)."""
    torch.manual_seed(0)
    module = build(family, n_classes=10, n_mels=40, **options).double()
    randomize(module)
    graph, _, _ = lower(capture(module, (1, 1, 40, 33)))
    return cast(graph, "float32"), np.random.default_rng(1).normal(size=(clips, 40, 33, 1)).astype(np.float32)


def in_torch(features: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(features).permute(0, 3, 1, 2)


def integer_answers(graph, features: np.ndarray) -> tuple[np.ndarray, float]:
    """Real values and step of the logits of an integer graph."""
    given, got = graph.tensors[graph.input], graph.tensors[graph.output]
    limits = np.iinfo(given.dtype)
    q = np.clip(np.rint(features / given.scale[0]) + given.zero_point[0], limits.min, limits.max).astype(given.dtype)
    answers = np.concatenate([run(graph, q[i : i + 1]) for i in range(len(q))])
    return (answers.astype(float) - got.zero_point[0]) * got.scale[0], float(got.scale[0])


@pytest.mark.parametrize(("family", "options"), STUDENTS)
def test_answers_as_the_int8_graph(family, options):
    graph, features = student(family, options)
    ranges = calibrate(graph, features)
    expected, step = integer_answers(quantize_int8(graph, ranges), features)
    actual = to_module(graph, ranges)(in_torch(features)).detach().numpy()
    signal = np.sqrt(np.mean(expected**2))
    # Torch sums in floating point: a rounding that falls the other way moves a logit by a step or a few.
    assert np.abs(actual - expected).max() <= 4 * step
    assert np.sqrt(np.mean((actual - expected) ** 2)) < 0.05 * signal


def test_answers_as_the_int16x8_graph():
    graph, features = student("sepconv_ca", {"base_channels": 8, "attention_activation": "relu"})
    ranges = calibrate(graph, features)
    expected, _ = integer_answers(quantize_int16x8(graph, ranges), features)
    actual = to_module(graph, ranges, activation_bits=16)(in_torch(features)).detach().numpy()
    np.testing.assert_allclose(actual, expected, atol=2e-3 * np.abs(expected).max())


def test_rounds_at_all():
    graph, features = student("sepconv_ca", {"base_channels": 8})
    module = to_module(graph, calibrate(graph, features))
    plain = run(graph, features)
    assert np.abs(module(in_torch(features)).detach().numpy() - plain).max() > 0


def test_gradients_reach_every_weight():
    graph, features = student("sepconv_ca", {"base_channels": 8})
    module = to_module(graph, calibrate(graph, features))
    torch.nn.functional.cross_entropy(module(in_torch(features)), torch.arange(8)).backward()
    for name, value in module.values.items():
        assert value.grad is not None and value.grad.abs().sum() > 0, name


@pytest.mark.parametrize(("family", "options"), STUDENTS)
def test_gradients_are_finite_on_silence_too(family, options):
    graph, features = student(family, options)
    module = to_module(graph, calibrate(graph, features))
    features[0] = 0.0
    torch.nn.functional.cross_entropy(module(in_torch(features)), torch.arange(8)).backward()
    assert all(torch.isfinite(v.grad).all() for v in module.values.values())


def test_training_moves_the_integer_graph():
    graph, features = student("sepconv_ca", {"base_channels": 8})
    module = to_module(graph, calibrate(graph, features))
    labels = torch.arange(8)
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)

    def integer_loss() -> float:
        trained = module.trained_graph()
        answers, _ = integer_answers(quantize_int8(trained, calibrate(trained, features)), features)
        return float(torch.nn.functional.cross_entropy(torch.from_numpy(answers), labels))

    before = integer_loss()
    for _ in range(40):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(module(in_torch(features)), labels).backward()
        optimizer.step()
    assert integer_loss() < 0.95 * before
    assert graph.tensors[graph.ops[0].inputs[1]].data is not None  # the graph that was given is as it was
    assert np.array_equal(graph.tensors[graph.ops[0].inputs[1]].data, module.graph.tensors[graph.ops[0].inputs[1]].data)


def test_a_loaded_state_answers_the_same():
    graph, features = student("sepconv_ca", {"base_channels": 8})
    ranges = calibrate(graph, features)
    first = to_module(graph, least_squares_ranges(graph, features, ranges))
    with torch.no_grad():
        for value in first.values.values():
            value.mul_(1.1)
    second = to_module(graph, ranges)
    second.load_state_dict(first.state_dict())
    x = in_torch(features)
    first.set_ranges(first.ranges())
    assert torch.equal(first(x), second(x))
    assert second.ranges() == first.ranges()


def test_refusals():
    graph, features = student("sepconv_ca", {"base_channels": 8})
    ranges = calibrate(graph, features)
    with pytest.raises(GraphError, match="activation_bits"):
        to_module(graph, ranges, activation_bits=4)
    with pytest.raises(InputError, match="attention_activation: relu"):
        to_module(graph, ranges, activation_bits=16)
