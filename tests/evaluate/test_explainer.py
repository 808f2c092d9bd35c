"""Maps against arithmetic in numpy, and against what the models themselves compute."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from tinyasc.errors import InputError, ModelFileError
from tinyasc.evaluate.explain import METHODS, STEPS, Explainer
from tinyasc.evaluate.explain_maps import grad_cam, last_map, stretch
from tinyasc.frontend import FrontEnd, features, log_mel
from tinyasc.models import build
from tinyasc.models.amfm_blocks import AMFMBlock
from tinyasc.models.attention import AttentionPooling, CoordinateAttention

BANDS = 32
FRONT_END = FrontEnd(
    sample_rate=8000, clip_samples=8000, n_fft=512, win_length=512, hop_length=200, n_mels=BANDS
).with_normalization(np.linspace(0.05, 0.1, BANDS), np.linspace(1, 2, BANDS))
FRAMES = FRONT_END.n_frames()
LABELS = ("airport", "bus", "park")
DEVICES = ("a", "b", "s1")
OPTIONS = {
    "atrous_cnn": {"base_channels": 2, "trunk": "atrous"},
    "amfm": {"channels_multiplier": 0.25, "hidden": 8},
    "cp_mobile": {"base_channels": 8},
    "sepconv_ca": {"base_channels": 4},
}


def model(family, **options):
    torch.manual_seed(1)
    module = build(family, n_classes=len(LABELS), n_mels=BANDS, **OPTIONS[family] | options)
    for part in module.modules():
        if isinstance(part, AttentionPooling):  # which starts at 0
            nn.init.normal_(part.attention.weight, std=0.3)
    return module.eval()


@pytest.fixture
def samples(rng):
    t = np.arange(8000) / 8000
    return (0.3 * np.sin(2 * np.pi * 700 * t) * (t < 0.5) + 0.01 * rng.standard_normal(8000)).astype(np.float32)


def x_of(samples):
    return torch.from_numpy(features(samples, FRONT_END))[None]


def in_torch(maps, size):
    """torch's own nearest neighbour, of (..., F, T)."""
    flat = torch.as_tensor(maps).reshape(1, -1, *maps.shape[-2:])
    return nn.functional.interpolate(flat, size, mode="nearest").reshape(*maps.shape[:-2], *size).detach().numpy()


@pytest.mark.parametrize(
    ("shape", "size"), [((4, 3), (64, 49)), ((8, 10), (8, 10)), ((1, 5), (7, 13)), ((9, 9), (4, 5))]
)
def test_stretching_is_nearest_neighbour(rng, shape, size):
    values = rng.standard_normal(shape)
    np.testing.assert_array_equal(stretch(values, *size), in_torch(values, size))


class Tiny(nn.Module):
    """A convolution, the mean over positions, a linear layer."""

    def __init__(self, channels=4):
        super().__init__()
        torch.manual_seed(2)
        self.conv = nn.Conv2d(1, channels, 3, padding=1)
        self.linear = nn.Linear(channels, 3, bias=False)

    def forward(self, x):
        return self.linear(self.conv(x).mean(dim=(2, 3)))


def test_grad_cam_is_the_class_activation_map_where_a_linear_layer_follows_the_mean(rng):
    net = Tiny()
    x = torch.from_numpy(rng.standard_normal((1, 1, 5, 7)).astype(np.float32))
    found = grad_cam(net, x, [2, 0], "conv")
    maps = net.conv(x)[0].detach().numpy().astype(np.float64)
    weight = net.linear.weight.detach().numpy().astype(np.float64)
    plain = np.einsum("kc,cft->kft", weight, maps) / (5 * 7)
    np.testing.assert_allclose(found, np.maximum(plain[[2, 0]], 0), rtol=1e-4, atol=1e-7)
    assert (found > 0).any() and (found == 0).any()
    # Without the ReLU they sum to the logits.
    np.testing.assert_allclose(plain.sum(axis=(1, 2)), net(x)[0].detach().numpy(), rtol=1e-4)


def test_grad_cam_weighs_channels_by_mean_gradients(rng):
    """A net whose gradient differs from position to position: logit k = sum of w_k * map ** 2."""

    class Square(Tiny):
        def forward(self, x):
            return self.linear((self.conv(x) ** 2).sum(dim=(2, 3)))

    net = Square()
    x = torch.from_numpy(rng.standard_normal((1, 1, 4, 6)).astype(np.float32))
    maps = net.conv(x)[0].detach().numpy().astype(np.float64)
    weight = net.linear.weight.detach().numpy().astype(np.float64)
    alpha = weight * (2 * maps).mean(axis=(1, 2))
    expected = np.maximum(np.einsum("kc,cft->kft", alpha, maps), 0)
    np.testing.assert_allclose(grad_cam(net, x, [0, 1, 2], "conv"), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("family", "options", "layer"),
    [
        ("atrous_cnn", {"head": "average"}, "trunk.11"),  # the last ReLU
        ("atrous_cnn", {"trunk": "baseline", "head": "average"}, "trunk.14"),  # before the last pooling
        ("atrous_cnn", {}, "trunk.11"),  # not the head's maps of classes
        ("cp_mobile", {}, "blocks.5.relu"),
        ("sepconv_ca", {}, "blocks.10"),
        ("amfm", {}, "trunk.10"),
    ],
)
def test_the_layer_of_grad_cam_is_the_last_map_before_the_pooling(samples, family, options, layer):
    assert last_map(model(family, **options), x_of(samples)) == layer


def test_a_branch_that_the_answer_does_not_depend_on_is_not_the_last_map(samples):
    class Branches(Tiny):
        def __init__(self):
            super().__init__()
            self.other = nn.Conv2d(1, 5, 3)

        def forward(self, x):
            answer = super().forward(x)
            self.kept = self.other(x)
            return answer

    assert last_map(Branches(), x_of(samples)) == "conv"
    with pytest.raises(InputError, match="--layer other: this model's answer does not depend on it"):
        grad_cam(Branches(), x_of(samples), [0], "other")
    with pytest.raises(InputError, match="no layer of this model puts out a map"):
        last_map(nn.Sequential(nn.Flatten(), nn.Linear(BANDS * FRAMES, 3)), x_of(samples))


@pytest.mark.parametrize("trunk", ["atrous", "baseline"])
def test_attention_is_the_models_own(samples, trunk):
    module = model("atrous_cnn", trunk=trunk)
    found = Explainer(module, FRONT_END, LABELS).explain(samples)
    own = module.head.attention_map(module.trunk(x_of(samples)))[0]
    assert (found.method, found.layer, found.rows, found.columns) == ("attention", "head", ("",), LABELS)
    np.testing.assert_array_equal(found.maps[0], in_torch(own, (BANDS, FRAMES)))
    assert found.map_sizes.tolist() == [[list(own.shape[1:])] * 3]
    assert found.maps.min() >= np.float32(0.1) and found.maps.max() <= np.float32(0.9) and found.maps.std() > 0.001


def test_what_the_model_is_given_is_kept(samples):
    module = model("atrous_cnn")
    found = Explainer(module, FRONT_END, LABELS).explain(samples)
    np.testing.assert_array_equal(found.mel, log_mel(samples, FRONT_END))
    np.testing.assert_array_equal(found.features, features(samples, FRONT_END))
    expected = module(x_of(samples)).softmax(dim=1).detach().numpy()
    np.testing.assert_allclose(found.probabilities, expected, rtol=1e-5)
    assert found.probabilities.sum() == pytest.approx(1)
    (best, share), *_ = found.top(0, 3)
    assert (best, share) == (LABELS[expected.argmax()], pytest.approx(expected.max()))
    # Short and long clips are what training makes of them.
    short = Explainer(module, FRONT_END, LABELS).explain(samples[:5000])
    np.testing.assert_array_equal(short.mel, log_mel(np.pad(samples[:5000], (0, 3000)), FRONT_END))


def test_decision_weights_are_in_the_answer(samples):
    module = model("atrous_cnn")
    plain, heavy = (
        Explainer(module, FRONT_END, LABELS, decision_weights=w).explain(samples) for w in (None, {LABELS[1]: 5.0})
    )
    expected = plain.probabilities * [1, 5, 1]
    np.testing.assert_allclose(heavy.probabilities, expected / expected.sum(), rtol=1e-9)
    np.testing.assert_array_equal(heavy.maps, plain.maps)


def test_amfm_maps_are_before_and_after_attention_and_after_the_maximum(samples):
    module = model("amfm")
    found = Explainer(module, FRONT_END, LABELS).explain(samples)
    assert (found.method, found.columns) == ("amfm", STEPS)
    assert found.rows == ("trunk.2", "trunk.5", "trunk.7", "trunk.10")
    assert found.maps.shape == (4, 3, BANDS, FRAMES)
    x = x_of(samples)
    with torch.no_grad():
        for name, part in module.trunk.named_children():
            if isinstance(part, AMFMBlock):
                before = part.mfm(part.norm(part.pointwise(x)))
                steps = [before, part.attention(before), torch.maximum(before, part.attention(before))]
                row = found.rows.index(f"trunk.{name}")
                for column, step in enumerate(steps):
                    expected = in_torch(step[0].abs().mean(dim=0), (BANDS, FRAMES))
                    np.testing.assert_allclose(found.maps[row, column], expected, rtol=1e-5)
                    assert found.map_sizes[row, column].tolist() == list(step.shape[2:])
            x = part(x)
    before, after, joined = found.maps.swapaxes(0, 1)
    # Both gates lie below 1, and the maximum takes the smaller value where values are negative.
    assert (after < before).all() and (joined <= before).all() and (joined >= after - 1e-6).all()


def test_gates_are_what_coordinate_attention_multiplies_with(samples):
    module = model("sepconv_ca")
    found = Explainer(module, FRONT_END, LABELS, method="gates").explain(samples)
    assert found.columns == ("blocks.1", "blocks.4", "blocks.7", "blocks.10")
    x = module.input_norm(x_of(samples).transpose(1, 2)).transpose(1, 2)
    for i, part in enumerate(module.blocks):
        if isinstance(part, CoordinateAttention):
            # What is multiplied shows where no channel of the map is 0.
            given, own = x[0], (part(x)[0] / x[0]).detach()
            everywhere = (given > 1e-4).all(dim=0).numpy()
            shown = found.maps[0, found.columns.index(f"blocks.{i}")]
            size = found.map_sizes[0, found.columns.index(f"blocks.{i}")].tolist()
            assert size == list(given.shape[1:])
            expected = in_torch(own.mean(dim=0), (BANDS, FRAMES))
            known = in_torch(torch.from_numpy(everywhere).float(), (BANDS, FRAMES)) == 1
            np.testing.assert_allclose(shown[known], expected[known], rtol=1e-3)
            if i == 1:
                assert known.sum() > 20
        x = part(x)
    assert found.maps.min() > 0 and found.maps.max() < 1


class Told(nn.Module):
    """A model that is told the device, or predicts it where it is not."""

    def __init__(self, *, predicts=False):
        super().__init__()
        torch.manual_seed(3)
        self.conv = nn.Conv2d(1, 6, 3, padding=1)
        self.condition = nn.Conv2d(len(DEVICES), 6, 1)
        self.head = AttentionPooling(6, len(LABELS))
        nn.init.normal_(self.head.attention.weight)
        self.reads_device = not predicts

    def tasks(self, x, device=None):
        found = {"scene": self(x, device)}
        return found if self.reads_device else found | {"device": torch.tensor([[0.0, 5.0, 1.0]]).expand(len(x), -1)}

    def conditioned(self, x, device=None):
        if device is None:
            device = torch.zeros(len(x), len(DEVICES)) if self.reads_device else torch.eye(3)[[1]]
        return self.conv(x) + self.condition(device[:, :, None, None])

    def forward(self, x, device=None):
        return self.head(self.conditioned(x, device))


@pytest.mark.parametrize("method", ["attention", "gradcam"])
@pytest.mark.parametrize("predicts", [False, True])
def test_every_device_has_a_row_of_its_own(samples, method, predicts):
    module = Told(predicts=predicts)
    ask = {"known_devices": DEVICES, "method": method, "classes": ["park", "bus"]}
    found = Explainer(module, FRONT_END, LABELS, devices=["s1", "b"], **ask).explain(samples)
    assert (found.rows, found.columns) == (("device s1", "device b"), ("park", "bus"))
    assert found.probabilities.shape == (2, 3) and found.maps.shape == (2, 2, BANDS, FRAMES)
    for row, index in enumerate((2, 1)):
        device = torch.eye(3)[[index]]
        answer = module(x_of(samples), device).softmax(dim=1).detach().numpy()[0]
        np.testing.assert_allclose(found.probabilities[row], answer, rtol=1e-5)
        if method == "attention":
            own = module.head.attention_map(module.conditioned(x_of(samples), device))[0, [2, 1]]
            np.testing.assert_array_equal(found.maps[row], own.detach().numpy())
    alone = Explainer(module, FRONT_END, LABELS, **ask).explain(samples)
    assert alone.rows == (("device b, as predicted",) if predicts else ("no device",))
    assert np.array_equal(alone.maps[0], found.maps[1]) == predicts


def test_the_default_classes(samples):
    many = tuple(f"c{i:02d}" for i in range(20))
    module = build("atrous_cnn", n_classes=20, n_mels=BANDS, base_channels=2).eval()
    found = Explainer(module, FRONT_END, many).explain(samples)
    likeliest = np.argsort(-found.probabilities[0])[:12]
    assert found.columns == tuple(many[i] for i in sorted(likeliest))
    by_device = Explainer(Told(), FRONT_END, LABELS, known_devices=DEVICES, devices=["a", "b"]).explain(samples)
    assert set(by_device.columns) == set(LABELS)
    (cam,) = Explainer(model("cp_mobile"), FRONT_END, LABELS).explain(samples).columns
    assert cam == Explainer(model("cp_mobile"), FRONT_END, LABELS).explain(samples).top(0, 1)[0][0]


@pytest.mark.parametrize("family", OPTIONS)
@pytest.mark.parametrize("variant", [{}, {"stereo": True, "deltas": 1}, {"log": False}])
def test_every_family_is_explained_in_every_front_end(samples, tmp_path, family, variant):
    front_end = dataclasses.replace(FRONT_END.without_normalization(), **variant)
    module = model(family, in_channels=front_end.channels)
    found = Explainer(module, front_end, LABELS).explain(
        np.stack([samples, -samples[::-1]]) if front_end.stereo else samples
    )
    assert found.maps.shape[2:] == found.mel.shape[1:] == (BANDS, front_end.n_frames())
    assert np.isfinite(found.maps).all() and found.maps.dtype == np.float32
    found.save(tmp_path / "x.npz", front_end, {"clip": "x.wav"})
    with np.load(tmp_path / "x.npz") as kept:
        assert str(kept["method"]) == found.method and str(kept["shows"]) == METHODS[found.method]
        assert kept["clip"] == "x.wav" and kept["labels"].tolist() == list(LABELS)
        assert kept["columns"].tolist() == list(found.columns) and kept["rows"].tolist() == list(found.rows)
        np.testing.assert_array_equal(kept["maps"], found.maps)
        assert kept["band_hz"].shape == (BANDS,) and kept["frame_seconds"].shape == (front_end.n_frames(),)


@pytest.mark.parametrize(
    ("family", "ask", "says"),
    [
        ("atrous_cnn", {"classes": ["prak"]}, "--class prak: this model does not know it; did you mean 'park'?"),
        ("atrous_cnn", {"devices": ["a"]}, "--device a: this model's answer does not depend"),
        ("atrous_cnn", {"method": "amfm"}, "--method amfm: this model has no AMFMBlock"),
        ("cp_mobile", {"method": "attention"}, "--method attention: this model has no AttentionPooling"),
        ("cp_mobile", {"layer": "blocks.55"}, "--layer: the model has no layer 'blocks.55'; did you mean 'blocks.5'?"),
        ("atrous_cnn", {"layer": "trunk", "method": "attention"}, "--layer trunk: goes with method gradcam"),
        ("amfm", {"classes": ["bus"]}, "--class bus: maps of method amfm are those of no class"),
        (None, {"devices": ["c"]}, "--device c: training had none; known: a, b, s1"),
    ],
)
def test_questions_that_a_model_has_no_answer_to(family, ask, says):
    module = Told() if family is None else model(family)
    with pytest.raises(InputError) as caught:
        Explainer(module, FRONT_END, LABELS, known_devices=DEVICES, **ask)
    assert says in str(caught.value)


def test_layers_without_a_map_are_refused(samples):
    with pytest.raises(InputError, match=r"--layer head: puts out \(1, 3\), no map"):
        Explainer(model("sepconv_ca"), FRONT_END, LABELS, layer="head").explain(samples)
    module = model("cp_mobile")
    module.unused = nn.Conv2d(1, 1, 1)
    with pytest.raises(InputError, match="--layer unused: is not run"):
        Explainer(module, FRONT_END, LABELS, layer="unused").explain(samples)


def test_damaged_weights_are_said(samples):
    module = model("cp_mobile")
    nn.init.constant_(module.head[0].weight, float("nan"))
    with pytest.raises(ModelFileError, match="NaN"):
        Explainer(module, FRONT_END, LABELS).explain(samples)
