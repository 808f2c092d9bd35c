"""First convolutions of time stride: no frame is passed over, and the papers' nets stay as they are."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tinyasc.errors import InputError
from tinyasc.models import build
from tinyasc.models.first import first_convolution, halved

FACTS = {"n_classes": 3, "n_mels": 36, "n_frames": 151}
NETS = {
    "pooled_cnn": {"base_channels": 2},
    "atrous_cnn": {"base_channels": 2, "head": "average"},
    "amfm_net": {"channels_multiplier": 0.125, "hidden": 4, "block": "mfm"},
    "split_resnet": {"base_channels": 2},
}
OWN = {"split_resnet": [1, 2]}  # the strides that the papers have, where they are not 1


@given(st.sampled_from([1, 3, 5, 7]), st.integers(1, 9), st.integers(1, 200))
def test_every_frame_lies_in_two_windows_or_in_a_kernel_of_the_familys_own(size, stride, frames):
    kernel, steps = first_convolution("x", (3, size), [1, stride])
    assert steps == (1, stride) and kernel[0] == 3 and kernel[1] % 2
    assert kernel[1] == (size if stride <= 2 else max(size, 2 * stride + 1))
    # Output t is centred on input t * stride: one for every begun stride, and none that hears padding alone.
    out = (frames + 2 * halved(kernel)[1] - kernel[1]) // stride + 1
    assert out == -(-frames // stride)


@pytest.mark.parametrize("family", NETS)
def test_every_frame_is_heard(family):
    torch.manual_seed(0)
    stride = [2, 8] if family == "split_resnet" else [1, 4]
    net = build(family, **FACTS, **NETS[family], first_stride=stride).eval()
    first = next(part for part in net.modules() if isinstance(part, torch.nn.Conv2d))
    assert list(first.stride) == stride
    x = torch.randn(1, 1, 36, 151, requires_grad=True)
    first(x).square().sum().backward()
    assert x.grad is not None and (x.grad.abs().sum(dim=(0, 1, 2)) > 0).all()
    assert net(torch.randn(2, 1, 36, 151)).shape == (2, 3)


@pytest.mark.parametrize("family", NETS)
def test_by_default_the_papers_net(family):
    torch.manual_seed(1)
    plain = build(family, **FACTS, **NETS[family]).eval()
    torch.manual_seed(1)
    named = build(family, **FACTS, **NETS[family], first_stride=OWN.get(family, [1, 1])).eval()
    x = torch.randn(2, 1, 36, 151)
    assert torch.equal(plain(x), named(x))


@pytest.mark.parametrize(
    "stride", [[1], [1, 0], [1, 2.0], [1, 65], [10**30, 1], 4, "14", [True, 4], {"a": 1, "b": 2}, None]
)
def test_other_strides_are_refused(stride):
    with pytest.raises(InputError, match="pooled_cnn: first_stride must be two whole numbers"):
        build("pooled_cnn", **FACTS, first_stride=stride)


def test_a_head_that_flattens_has_the_papers_stride():
    with pytest.raises(InputError, match="head flatten flattens maps of first_stride"):
        build("atrous_cnn", **FACTS, head="flatten", first_stride=[1, 4])
