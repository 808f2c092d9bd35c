import io

import pytest
import torch
from torch import nn

from tinyasc.augment import hidden_masks
from tinyasc.errors import InputError
from tinyasc.models import build
from tinyasc_export.capture import capture

HALF = {"time_share": 0.5, "freq_share": 0.5}


class Probe(nn.Module):
    """Keeps what its second layer is given."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 3, 1)
        self.second = nn.Identity()
        self.pool = nn.Flatten()
        self.second.register_forward_pre_hook(lambda layer, inputs: setattr(self, "seen", inputs[0].detach()))

    def forward(self, x):
        return self.pool(self.second(self.first(x)))


def batch(n=16):
    return torch.randn(n, 1, 10, 12, generator=torch.Generator().manual_seed(3))


def hidden(net, mode, **options):
    x = batch()
    with hidden_masks(net, ["first"], torch.Generator().manual_seed(1), mode=mode, **(HALF | options)):
        net(x)
    return net.seen


def test_a_named_layers_output_is_masked_with_the_mean_of_two_clips_at_that_layer():
    net = Probe()
    net(batch())
    clean, inside = net.seen, hidden(net, "zero") == 0
    # Stripes on both axes, all channels alike, each up to half as wide as the map.
    assert torch.equal(inside.all(dim=1), inside.any(dim=1))
    whole = inside.all(dim=1)
    assert 5 >= int(whole.all(dim=2).sum(dim=1).max()) >= 3 and 6 >= int(whole.all(dim=1).sum(dim=1).max()) >= 3
    for time in (True, False):
        only = {"freq_share" if time else "time_share": 0.0}
        zero, mixed = hidden(net, "zero", **only), hidden(net, "mixture", **only)
        inside = zero == 0
        assert inside.any() and torch.equal(mixed[~inside], clean[~inside])
        for i in range(16):
            if inside[i].any():
                means = [((clean[i] + clean[j]) / 2)[inside[i]] for j in range(16) if j != i]
                assert sum(torch.allclose(mixed[i][inside[i]], m, atol=1e-6) for m in means) == 1


def test_nothing_happens_in_evaluation_mode():
    net = Probe().eval()
    net(batch())
    assert torch.equal(net.seen, hidden(net, "zero"))


def test_the_masks_follow_from_the_generator_and_gradients_pass():
    net = Probe()
    assert torch.equal(hidden(net, "mixture"), hidden(net, "mixture"))
    with hidden_masks(net, ["first"], torch.Generator(), **HALF):
        out = net(batch())
    out.sum().backward()
    assert net.first.weight.grad is not None and torch.isfinite(net.first.weight.grad).all()


def test_no_trace_is_left_in_the_state_dict_nor_in_a_capture():
    torch.manual_seed(0)
    net = build("sepconv_ca", n_classes=3, n_mels=32, base_channels=8)
    layer = next(name for name, m in net.named_modules() if isinstance(m, nn.Conv2d))

    def traces():
        buffer = io.BytesIO()
        torch.save(net.state_dict(), buffer)
        hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules())
        graph = capture(net.eval(), (1, 1, 32, 40))
        net.train()
        return buffer.getvalue(), hooks, [type(op).__name__ for op in graph.ops], repr(graph.ops)

    before = traces()
    # Statistics of batch norms would move in a forward pass; only the hooks are of interest.
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.momentum = 0.0
    x = torch.randn(4, 1, 32, 40)
    with hidden_masks(net, [layer], torch.Generator(), **HALF):
        masked = net(x)
        assert sum(len(m._forward_hooks) for m in net.modules()) == 1
    assert not torch.equal(masked, net(x))
    net.load_state_dict({k: v if "num_batches" not in k else 0 * v for k, v in net.state_dict().items()})
    after = traces()
    assert before == after


def test_hooks_go_when_the_forward_pass_fails():
    net = Probe()
    with pytest.raises(RuntimeError), hidden_masks(net, ["first"], torch.Generator(), **HALF):
        net(torch.zeros(1, 2, 3, 4))
    assert not net.first._forward_hooks


@pytest.mark.parametrize(
    ("name", "says"),
    [("frist", "no layer 'frist'; did you mean 'first'"), ("", "no layer ''"), ("q", "there are first")],
)
def test_an_unknown_layer_is_named_with_the_nearest(name, says):
    with pytest.raises(InputError, match=says), hidden_masks(Probe(), [name], torch.Generator(), **HALF):
        pass


def test_a_layer_that_puts_out_no_map_is_refused():
    net = Probe()
    with (
        pytest.raises(InputError, match=r"'pool' puts out \(2, 360\), no map"),
        hidden_masks(net, ["pool"], torch.Generator(), **HALF),
    ):
        net(batch(2))
