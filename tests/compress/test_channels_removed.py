"""Removing channels: the same answers as silencing them, nothing lost on the way through files and runtimes."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from modules import in_torch
from narrowable import CLASSES, NETS, SHAPE, features, net, sets_of, silenced
from runtimes import run_litert, run_onnx, run_tflm
from students import settle
from torch import nn

from tinyasc.compress.channels import NARROWABLE, channel_sets, remove
from tinyasc.compress.importance import less_important, unit_scores
from tinyasc.errors import InputError
from tinyasc.models import FAMILIES, build
from tinyasc.models.widths import layer_widths, narrow_layers
from tinyasc_export import reference
from tinyasc_export.capture import capture
from tinyasc_export.lower import cast, lower
from tinyasc_export.onnx import to_onnx
from tinyasc_export.quantize import calibrate, quantize_int8
from tinyasc_export.tflite import to_tflite

X = features()


@pytest.fixture(scope="module", params=NETS)
def wide(request):
    module = net(request.param)
    return request.param, module, sets_of(request.param, module)


def halved(name, module, sets):
    """Half of every set gone, the lighter half."""
    left = deepcopy(module)
    remove(left, less_important(sets, unit_scores(module, sets, "magnitude"), 0.5, round_to=4, scope="layers"))
    return left


def test_the_tests_know_every_family_that_is_narrowed():
    assert {family for family, _ in NETS.values()} == set(NARROWABLE)


@settings(max_examples=6, deadline=None)
@given(random=st.randoms(use_true_random=False))
def test_removed_channels_answer_as_silenced_ones(wide, random):
    _, module, sets = wide
    gone = []
    for group in sets:
        gone += random.sample(group.units, random.randint(0, max(0, len(group.units) - 2)))
    narrow = deepcopy(module)
    remove(narrow, gone)
    with torch.no_grad():
        expected, actual = silenced(module, gone)(X), narrow(X)
        scale = max(1.0, float(expected.abs().max()))
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9 * scale)
        if len(gone) > 3:
            assert float((actual - module(X)).abs().max()) > 1e-6 * scale, "they took part"


def test_each_channel_is_in_one_set_and_inputs_and_answers_in_none(wide):
    name, module, sets = wide
    places = [place for group in sets for unit in group.units for place in unit]
    assert len(places) == len(set(places))
    layers = dict(module.named_modules())
    outputs = {(n, c) for n, side, c in places if side == "out"}
    weighted = [n for n, layer in layers.items() if isinstance(layer, nn.Conv2d | nn.Linear)]
    answers = {"sepconv_ca": {"head.4"}, "amfm": {"head.3"}, "cp_mobile": {"head.0"}, "bc_resnet": {"classifier"}}
    answers |= {"pooled_cnn": {"linear"}}
    left = {n for n in weighted if (n, 0) not in outputs}
    # CBAM's spatial gate makes one map of two, whatever the width.
    assert left == answers[NETS[name][0]] | {n for n in weighted if n.endswith(".spatial")}
    for n in set(weighted) - left:
        assert {c for layer, c in outputs if layer == n} == set(range(layers[n].weight.shape[0])), n
    assert "input_norm" not in {n for n, *_ in places}
    assert len({group.name for group in sets}) == len(sets)


def test_halves_of_max_feature_maps_go_together_and_their_blocks_get_narrower():
    module = net("amfm")
    sets = sets_of("amfm", module)
    for group in sets:
        for unit in group.units:
            for layer in {n for n, side, _ in unit if side == "out" and n.endswith(".layer")}:
                first, second = sorted(c for n, side, c in unit if (n, side) == (layer, "out"))
                assert second == first + module.get_submodule(layer).weight.shape[0] // 2
    before, after = layer_widths(module), layer_widths(halved("amfm", module, sets))
    assert before["trunk.5.mfm.layer"] == [20, 48, 1] and after["trunk.5.mfm.layer"] == [12, 24, 1]
    assert after["trunk.5.attention.excite"][1] == after["trunk.5.attention.squeeze"][0] == 12
    assert after["trunk.5.attention.spatial"] == before["trunk.5.attention.spatial"] == [2, 1, 1]


def test_narrowed_layers_are_rebuilt_from_their_widths(wide):
    name, module, sets = wide
    narrow = halved(name, module, sets)
    family, options = NETS[name]
    again = build(family, n_classes=CLASSES, n_mels=SHAPE[1], **options)
    narrow_layers(again, layer_widths(narrow))
    again.load_state_dict(narrow.state_dict())
    with torch.no_grad():
        assert torch.equal(again.double().eval()(X), narrow(X))
    fresh = build(family, n_classes=CLASSES, n_mels=SHAPE[1], **options)
    narrow_layers(fresh, {})
    assert layer_widths(fresh) == layer_widths(module)


@pytest.mark.parametrize(
    ("widths", "words"),
    [
        ({"blocks.0": [1, 2]}, "no layer"),
        ({"nothing": [1, 2]}, "no layer"),
        ({"head.1": [24]}, "has"),
        ({"head.1": [24, 25]}, "has"),
        ({"head.1": [0, 24]}, "has"),
        ({"head.1": [24, 1.5]}, "has"),
        ({"head.1": [24, True]}, "has"),
        ({"head.1": "24"}, "has"),
        ({"blocks.0.frequency": [8, 8, 3]}, "3 groups"),
    ],
)
def test_widths_that_a_model_cannot_have_are_refused(widths, words):
    with pytest.raises(InputError, match=words):
        narrow_layers(net("sepconv_ca"), widths)


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - set(NARROWABLE)))
def test_families_whose_channels_cannot_be_followed_are_refused_by_name(family):
    with pytest.raises(InputError, match=f"family {family} cannot be removed"):
        channel_sets(nn.Conv2d(1, 2, 3), SHAPE, family)


def test_narrowed_nets_are_exact_in_every_runtime(wide):
    """Lowered in double as torch; float files in three runtimes; int8 as TensorFlow Lite Micro, to the bit."""
    name, module, sets = wide
    narrow = halved(name, module, sets)
    clips = features(6).permute(0, 2, 3, 1).numpy()
    settle(narrow, clips)
    expected = in_torch(narrow, clips)
    exact, scale, offset = lower(capture(narrow, (1, *SHAPE)))
    x = clips * scale[:, None, None] + offset[:, None, None]
    size = max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(reference.run(exact, x), expected, rtol=1e-9, atol=1e-9 * size)
    graph = cast(exact, "float32")
    x = x.astype(np.float32)
    for run, data in ((run_litert, to_tflite(graph)), (run_tflm, to_tflite(graph)), (run_onnx, to_onnx(graph))):
        np.testing.assert_allclose(run(data, x[:1]), expected[:1], rtol=1e-4, atol=1e-4 * size)
    int8 = quantize_int8(graph, calibrate(graph, x))
    t = int8.tensors[int8.input]
    q = np.clip(np.rint(x / t.scale) + t.zero_point, -128, 127).astype(np.int8)
    q = np.concatenate([q, np.random.default_rng(0).integers(-128, 128, q[:2].shape).astype(np.int8)])
    data, answers = to_tflite(int8), reference.run(int8, q)
    assert len(np.unique(answers)) > 4
    for i in range(len(q)):
        micro = run_tflm(data, q[i : i + 1])
        np.testing.assert_array_equal(answers[i : i + 1], micro)
        lite = run_litert(data, q[i : i + 1], reference_kernels=True)
        assert np.abs(lite.astype(int) - micro).max() <= 2
