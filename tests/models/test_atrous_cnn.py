"""The attention atrous CNN: every trunk and head of its Table 1, against sums and maxima written out."""

from __future__ import annotations

import copy
import itertools
import re

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from weights import arrays, parameters, randomize

from tinyasc.errors import InputError
from tinyasc.models import build
from tinyasc.models.pooling import RegionMax

# Table 1, line by line.
TABLE = [
    *(("baseline", head) for head in ("flatten", "max", "average", "attention")),
    *(("no_pooling", head) for head in ("max", "average", "roi", "attention", "roi_attention")),
    *(("atrous", head) for head in ("max", "average", "roi", "attention", "roi_attention")),
]
ATTENTION = [pair for pair in TABLE if "attention" in pair[1]]
REDUCED = {("baseline", "attention"), ("no_pooling", "roi_attention"), ("atrous", "roi_attention")}


def make(trunk, head, *, n_mels=64, n_frames=320, **options):
    options = {"n_classes": 10, "base_channels": 2} | options
    return build("atrous_cnn", n_mels=n_mels, n_frames=n_frames, trunk=trunk, head=head, **options).eval()


@pytest.mark.parametrize("base", [16, 64])
@pytest.mark.parametrize(("trunk", "head"), TABLE)
def test_parameters_are_those_of_the_description(trunk, head, base):
    """Four 5x5 convolutions without bias, 64/128/256/512 at base 64, each with a batch norm; then K classes."""
    widths = [1, base, 2 * base, 4 * base, 8 * base]
    wanted = sum(25 * a * b + 2 * b for a, b in itertools.pairwise(widths))
    # 64 x 320 are 4 x 20 after four pools, and of regions of 16 x 16.
    inputs = {"flatten": 8 * base * 4 * 20, "roi": 8 * base * 4 * 20}.get(head, 8 * base)
    wanted += (inputs * 10 + 10) * (2 if "attention" in head else 1)
    with torch.device("meta"):
        model = make(trunk, head, base_channels=base)
    assert parameters(model) == wanted
    if base == 64:
        # The same sums done by hand: 4,302,400 + 1,920, then 5,130, twice 5,130 or 409,610.
        by_hand = {"max": 4_309_450, "average": 4_309_450, "flatten": 4_713_930, "roi": 4_713_930}
        assert wanted == by_hand.get(head, 4_314_580)


@pytest.mark.parametrize(("trunk", "gmacs"), [("baseline", 3.18), ("no_pooling", 88.3), ("atrous", 88.3)])
def test_multiplications_of_ten_seconds(trunk, gmacs):
    """25 per pair of channels and position of the map, which every pool cuts to a quarter; two 1x1 to ten classes."""
    positions = [64 * 320 // (4**i if trunk == "baseline" else 1) for i in range(5)]
    wanted = sum(25 * a * b * n for a, b, n in zip((1, 64, 128, 256), (64, 128, 256, 512), positions, strict=False))
    wanted += 2 * 512 * 10 * positions[-1]
    assert wanted == pytest.approx(gmacs * 1e9, rel=1e-3)
    counter = FlopCounterMode(display=False)
    with torch.device("meta"), counter:
        make(trunk, "attention", base_channels=64)(torch.zeros(1, 1, 64, 320))
    assert counter.get_total_flops() == 2 * wanted


@pytest.mark.parametrize(("trunk", "head"), TABLE)
def test_every_pair_answers_and_learns_on_maps_of_any_size(trunk, head):
    for size in ((40, 33), (16, 16), (64, 20)):
        model = make(trunk, head, n_mels=size[0], n_frames=size[1], n_classes=7).train()
        logits = model(torch.randn(3, 1, *size))
        assert logits.shape == (3, 7)
        assert logits.isfinite().all()
        logits.square().sum().backward()
        assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("trunk", ["baseline", "no_pooling", "atrous"])
def test_pairs_that_the_table_does_not_have_are_refused(trunk):
    heads = {head for _, head in TABLE}
    for head in sorted(heads - {h for t, h in TABLE if t == trunk}):
        with pytest.raises(InputError, match=f"head {head} does not go with trunk {trunk}; choose one of: ") as caught:
            make(trunk, head)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"trunk": "atrus", "head": "max"}, "'atrus' is unknown; choose one of: baseline, no_pooling, atrous"),
        ({"trunk": "atrous", "head": "mean"}, "flatten, max, average, attention, roi, roi_attention"),
        ({"trunk": "atrous", "head": "roi", "n_frames": None}, "head roi needs n_frames"),
        ({"trunk": "baseline", "head": "flatten", "n_frames": 15}, "nothing is left to flatten of 64 mels x 15 frames"),
        ({"trunk": "baseline", "head": ["max"]}, "head ['max'] is unknown"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, says):
    with pytest.raises(InputError, match=re.escape(says)):
        make(**options)


@pytest.mark.parametrize(("trunk", "expected"), [("atrous", (37, 50)), ("no_pooling", (37, 50)), ("baseline", (2, 3))])
def test_the_baseline_halves_the_map_four_times_and_the_others_keep_it(trunk, expected):
    assert make(trunk, "max").trunk(torch.zeros(1, 1, 37, 50)).shape[2:] == expected


@pytest.mark.parametrize(("trunk", "reach"), [("atrous", 30), ("no_pooling", 8)])
def test_how_far_a_trunk_sees(trunk, reach):
    """Dilations 1, 2, 4, 8 of 5 taps reach 2 * 15 bins either way, four of 1 reach 2 * 4: no further, no less."""
    trunk = make(trunk, "max", base_channels=1).trunk.double()
    for part in trunk:
        if isinstance(part, nn.Conv2d):
            nn.init.ones_(part.weight)
    x = torch.zeros(1, 1, 81, 81, dtype=torch.float64)
    x[0, 0, 40, 40] = 1
    touched = trunk(x)[0, 0] > 0
    assert touched[40 - reach : 41 + reach, 40 - reach : 41 + reach].all()
    assert touched.sum() == (2 * reach + 1) ** 2


@pytest.mark.parametrize("size", [(64, 320), (37, 50), (16, 16), (17, 1), (5, 15)])
def test_regions_are_the_maxima_of_sub_areas_of_16_by_16(size):
    x = np.random.default_rng(0).standard_normal((2, 3, *size))
    rows, columns = range(0, size[0], 16), range(0, size[1], 16)
    expected = [[x[:, :, i : i + 16, j : j + 16].max(axis=(2, 3)) for j in columns] for i in rows]
    actual = RegionMax()(torch.from_numpy(x)).numpy()
    np.testing.assert_array_equal(actual.transpose(2, 3, 0, 1), expected)


def test_regions_have_the_size_that_the_baselines_pools_leave():
    """The paper's reason for 16 x 16."""
    x = torch.zeros(1, 1, 64, 320)
    assert RegionMax()(x).shape == make("baseline", "max").trunk(x)[:, :1].shape == (1, 1, 4, 20)


@pytest.mark.parametrize(("trunk", "head"), [("baseline", "flatten"), ("atrous", "roi"), ("no_pooling", "roi")])
def test_flattening_heads_weigh_every_value_of_the_map(trunk, head):
    model = randomize(make(trunk, head, n_mels=32, n_frames=48, n_classes=5).double(), 1)
    x = torch.randn(2, 1, 32, 48, dtype=torch.float64)
    maps = model.trunk(x).detach().numpy()
    if head == "roi":
        maps = maps.reshape(2, 16, 2, 16, 3, 16).max(axis=(3, 5))
    w = arrays(model.head)
    expected = np.einsum("bcft,kcft->bk", maps, w["linear.weight"].reshape(5, 16, 2, 3)) + w["linear.bias"]
    np.testing.assert_allclose(model(x).detach(), expected, rtol=1e-9)


def test_global_max_and_average_heads():
    x = torch.randn(2, 1, 32, 32)
    for head, pool in (("max", torch.amax), ("average", torch.mean)):
        model = make("baseline", head)
        torch.testing.assert_close(model(x), model.head.linear(pool(model.trunk(x), dim=(2, 3))))


@pytest.mark.parametrize(("trunk", "head"), ATTENTION)
def test_the_answer_is_the_classes_weighed_by_the_attention_map(trunk, head):
    """Equations 1 and 2, from the map that is shown."""
    model = randomize(make(trunk, head, n_mels=32, n_frames=48, n_classes=4).double(), 2)
    x = torch.randn(3, 1, 32, 48, dtype=torch.float64)
    attention = model.head.attention_map(model.features(x))
    assert attention.shape == (3, 4, *((32, 48) if (trunk, head) not in REDUCED else (2, 3)))
    assert attention.min() >= 0.1 and attention.max() <= 0.9 and attention.std() > 0.01
    weights = attention / attention.sum(dim=(2, 3), keepdim=True)
    maps = model.trunk(x)
    if head == "roi_attention":
        maps = maps.reshape(3, 16, 2, 16, 3, 16).amax(dim=(3, 5))
    classes = model.head.classes(maps).log_softmax(dim=1)
    torch.testing.assert_close(model(x), (weights * classes).sum(dim=(2, 3)))


@pytest.mark.parametrize(("trunk", "head"), [("baseline", "flatten"), ("atrous", "roi"), ("atrous", "roi_attention")])
def test_weights_go_through_a_file_and_a_copy_before_the_first_answer(trunk, head):
    first, second = (randomize(make(trunk, head, n_mels=32, n_frames=40), seed) for seed in (1, 2))
    x = torch.randn(2, 1, 32, 40)
    second.load_state_dict(safetensors.torch.load(safetensors.torch.save(first.state_dict())))
    torch.testing.assert_close(second(x), first(x))
    torch.testing.assert_close(copy.deepcopy(make(trunk, head, n_mels=32, n_frames=40))(x).shape, first(x).shape)


@pytest.mark.parametrize(("trunk", "head"), [("baseline", "flatten"), ("atrous", "roi")])
def test_a_map_of_another_size_is_refused_by_heads_that_flatten(trunk, head):
    with pytest.raises(InputError, match=r"maps of one size, here 2 x 3, got 2 x 2; leave out augment\.crop_frames"):
        make(trunk, head, n_mels=32, n_frames=48)(torch.zeros(1, 1, 32, 32))
