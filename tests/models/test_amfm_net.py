"""The AMFM system against its published counts, and its schemes and joint prediction against arithmetic by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from weights import parameters

from tinyasc.errors import InputError
from tinyasc.models.amfm_blocks import BLOCKS, CBAM, build_block
from tinyasc.models.amfm_net import SCHEMES, AMFMNet, joint_logits

PARENTS = (0, 2, 2, 0, 1, 1, 0, 1, 1, 2)
SMALL = {"n_classes": 10, "n_mels": 32, "n_frames": 20, "channels_multiplier": 0.125, "hidden": 6, "dropout": 0.0}
TRAINED = {scheme: {"scene", "group"} for scheme in SCHEMES} | {"none": {"scene"}}


def published(**options) -> AMFMNet:
    """The net at 256 mels x 251 frames, without memory for its weights."""
    with torch.device("meta"):
        return AMFMNet(**{"n_classes": 10, "n_mels": 256, "n_frames": 251, "parents": PARENTS} | options)


def small(**options) -> AMFMNet:
    torch.manual_seed(0)
    return AMFMNet(**SMALL | {"parents": PARENTS} | options)


def mfm(kernel: int, a: int, b: int) -> int:
    return kernel * a * 2 * b + 2 * b


def amfm(a: int, b: int, cbam: int) -> int:
    return mfm(1, a, a) + 2 * a + mfm(9, a, b) + cbam


TRUNK = mfm(21, 1, 32) + amfm(32, 48, 439) + 2 * 48 + amfm(48, 64, 680) + amfm(64, 32, 262) + 2 * 32
HIDDEN = amfm(32, 16, 149) + 2 * 16 + 1152 * 200 + 200


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 624_192),
        ({"scheme": "extended"}, 624_192),
        ({"scheme": "none"}, 381_684),
        ({"parents": None}, 381_684),
        # Chosen by us: the paper has 1.5M for the first, 0.7M for the others.
        ({"scheme": "conventional"}, 381_684 + 3 * 101),
        ({"scheme": "sequential_groups_first"}, 661_879),
        ({"scheme": "sequential_scenes_first"}, 661_879),
    ],
)
def test_parameters_of_the_schemes(options, expected):
    assert parameters(published(**options)) == expected


def test_the_published_parameters_are_those_of_the_description():
    assert TRUNK + HIDDEN + 10 * 101 == 381_684
    assert TRUNK + 2 * HIDDEN + 13 * 101 == 624_192
    one_more = amfm(32, 48, 439) + 2 * 48
    wider_head = amfm(48, 16, 149) - amfm(32, 16, 149)
    assert 624_192 + one_more + wider_head == 661_879


def test_maps_have_the_published_sizes():
    net = published()
    x = net.trunk(torch.zeros(2, 1, 256, 251, device="meta"))
    assert x.shape == (2, 32, 16, 17)
    assert net.heads["scene"].hidden[:4](x).shape == (2, 16 * 8 * 9)


@pytest.mark.parametrize(("call", "published_gmac"), [("forward", 0.89), ("tasks", 0.89)])
def test_multiply_accumulates_of_five_seconds(call, published_gmac):
    net, counter = published().eval(), FlopCounterMode(display=False)
    with counter:
        getattr(net, call)(torch.zeros(1, 1, 256, 251, device="meta"))
    assert counter.get_total_flops() / 2e9 == pytest.approx(published_gmac, rel=0.01)


def unit(kind: str, kernel: int, a: int, b: int) -> int:
    return mfm(kernel, a, b) if "mfm" in kind else kernel * a * b + b


@pytest.mark.parametrize("kind", BLOCKS)
def test_parameters_of_the_seven_blocks(kind):
    """A plain CNN has a convolution to n channels where an MFM has one to 2n and their maximum."""
    ours = unit(kind, 1, 32, 32) + 2 * 32 + unit(kind, 9, 32, 48) + (439 if "cbam" in kind or kind == "amfm" else 0)
    assert parameters(build_block(kind, 32, 48)) == ours
    plain = kind.removeprefix("leaky_")
    whole = {"relu": 190_854, "relu_cbam": 192_384, "mfm": 380_154, "mfm_cbam": 381_684, "amfm": 381_684}
    assert parameters(published(block=kind, scheme="none")) == whole[plain]
    cbams = 0 if kind in ("relu", "leaky_relu", "mfm") else 439 + 680 + 262 + 149
    blocks = sum(unit(kind, 1, a, a) + 2 * a + unit(kind, 9, a, b) for a, b in ((32, 48), (48, 64), (64, 32), (32, 16)))
    others = unit(kind, 21, 1, 32) + 2 * (48 + 32 + 16) + unit(kind, 1, 1152, 100) + 1010
    assert whole[plain] == blocks + cbams + others


def test_the_blocks_differ_as_the_table_says():
    """With the same weights: AMFM is the larger of MFM and MFM with CBAM; leaky units pass a hundredth."""
    torch.manual_seed(1)
    made = {kind: build_block(kind, 3, 4).eval() for kind in BLOCKS}
    x = torch.randn(2, 3, 6, 5)
    for family in (("mfm", "mfm_cbam", "amfm"), ("relu", "relu_cbam", "leaky_relu", "leaky_relu_cbam")):
        values = list(made[family[1]].state_dict().values())
        for kind in family:
            own = made[kind].state_dict()
            made[kind].load_state_dict(dict(zip(own, values, strict=False)))
    y = {kind: block(x).detach().numpy() for kind, block in made.items()}
    np.testing.assert_array_equal(y["amfm"], np.maximum(y["mfm"], y["mfm_cbam"]))
    assert (y["mfm_cbam"] != y["mfm"]).all()
    gate = next(m for m in made["relu_cbam"].modules() if isinstance(m, CBAM))
    np.testing.assert_array_equal(y["relu_cbam"], gate(torch.from_numpy(y["relu"])).detach())
    assert y["relu"].min() == 0
    first, norm, second = made["leaky_relu"][:3]
    hidden = first[0](x)
    hidden = second[0](norm(torch.where(hidden > 0, hidden, 0.01 * hidden)))
    np.testing.assert_allclose(y["leaky_relu"], torch.where(hidden > 0, hidden, 0.01 * hidden).detach(), rtol=1e-6)


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_answers_of_the_schemes(scheme, block):
    net = small(scheme=scheme, block=block).eval()
    x = torch.randn(3, 1, 32, 20)
    found = net.tasks(x)
    assert {task: tuple(v.shape) for task, v in found.items()} == {
        task: (3, 10 if task == "scene" else 3) for task in TRAINED[scheme]
    }
    torch.testing.assert_close(net(x), found["scene"])


def touched(net: AMFMNet, loss: torch.Tensor) -> set[str]:
    net.zero_grad()
    loss.backward()
    return {name for name, p in net.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("scheme", sorted(set(SCHEMES) - {"none"}))
def test_each_loss_reaches_its_own_layers_and_the_shared_ones(scheme):
    net = small(scheme=scheme)
    x = torch.randn(4, 1, 32, 20)
    own = {task: touched(net, net.tasks(x)[task].square().sum()) for task in ("scene", "group")}
    names = {name for name, _ in net.named_parameters()}
    assert own["scene"] | own["group"] == names
    shared = own["scene"] & own["group"]
    trunk = {name for name in names if name.startswith("trunk.")}
    if scheme == "conventional":
        assert names - shared == {f"heads.scene.outputs.{task}.{part}" for task in own for part in ("weight", "bias")}
    else:
        assert shared == trunk
    between = {name for name in names if name.startswith("between.")}
    later = {"sequential_groups_first": "scene", "sequential_scenes_first": "group"}.get(scheme)
    assert bool(between) == bool(later)
    for task in own:
        private = own[task] - shared
        assert (between <= private) == (task == later or not between)
    (kernel,) = net.shared_parameters()
    name = next(name for name, p in net.named_parameters() if p is kernel)
    assert name == {"conventional": "heads.scene.hidden.5.layer.weight"}.get(scheme, "trunk.7.mfm.layer.weight")
    assert name in shared


def test_conventional_shares_what_dropout_leaves():
    """Were the hidden layer computed once per task, each would see other units dropped."""
    net = small(scheme="conventional", dropout=0.5).train()
    with torch.no_grad():
        for part in ("weight", "bias"):
            outputs = net.heads["scene"].outputs
            getattr(outputs["scene"], part)[:3].copy_(getattr(outputs["group"], part))
    found = net.tasks(torch.randn(4, 1, 32, 20))
    torch.testing.assert_close(found["scene"][:, :3], found["group"])


def test_scenes_need_no_weights_of_the_groups_head():
    """Dropped after training, the head of the groups leaves the scheme `none` with the same answers."""
    whole, bare = small(scheme="extended").eval(), small(scheme="none").eval()
    with torch.no_grad():
        for p in whole.parameters():
            p.add_(0.1 * torch.randn_like(p))
    missing, unused = bare.load_state_dict(whole.state_dict(), strict=False)
    assert not missing and all(name.startswith("heads.group.") for name in unused)
    x = torch.randn(2, 1, 32, 20)
    torch.testing.assert_close(bare(x), whole(x))


def test_joint_prediction_by_hand():
    """Scenes 0.5, 0.3, 0.2 in groups of 0.2, 0.8, 0.8: 0.10, 0.24, 0.16, together 0.5."""
    scene = torch.tensor([[0.5, 0.3, 0.2]]).log() + 3.0
    group = torch.tensor([[0.2, 0.8]]).log() - 1.0
    found = joint_logits(scene, group, torch.tensor([0, 1, 1])).softmax(dim=1)
    np.testing.assert_allclose(found, [[0.2, 0.48, 0.32]], rtol=1e-6)


@pytest.mark.parametrize("scheme", sorted(set(SCHEMES) - {"none"}))
def test_joint_prediction_joins_both_heads_and_changes_neither(scheme):
    plain, joint = small(scheme=scheme).eval(), small(scheme=scheme, joint_prediction=True).eval()
    x = torch.randn(3, 1, 32, 20)
    found = joint.tasks(x)
    for task, logits in plain.tasks(x).items():
        torch.testing.assert_close(found[task], logits)
    p, q = (found[task].softmax(dim=1).detach().numpy() for task in ("scene", "group"))
    product = p * q[:, PARENTS]
    np.testing.assert_allclose(
        joint(x).softmax(dim=1).detach(), product / product.sum(axis=1, keepdims=True), rtol=1e-5
    )


@pytest.mark.parametrize("multiplier", [0.125, 0.5, 1.0])
@pytest.mark.parametrize("size", [(64, 78), (33, 17), (8, 5), (40, 251)])
def test_any_map_size_that_it_is_built_for(size, multiplier):
    net = small(n_mels=size[0], n_frames=size[1], channels_multiplier=multiplier).eval()
    assert net(torch.randn(2, 1, *size)).shape == (2, 10)
    with pytest.raises(RuntimeError):
        net(torch.randn(2, 1, size[0], size[1] + 64))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"scheme": "extnded"}, r"'extnded'.*none, conventional, extended"),
        ({"scheme": "conventional", "parents": None}, r"conventional needs groups.*data\.groups"),
        ({"scheme": "none", "joint_prediction": True}, "needs a head for groups"),
        ({"parents": (), "joint_prediction": True}, "needs a head for groups"),
        ({"block": "swish"}, "relu, relu_cbam, leaky_relu"),
    ],
)
def test_what_cannot_be_built(options, says):
    with pytest.raises(InputError, match=says):
        small(**options)
