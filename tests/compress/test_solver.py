import math
import re

import pytest
import torch

from tinyasc.compress import solver
from tinyasc.compress.budget import Budget
from tinyasc.compress.solver import WIDTH_STEP, solve
from tinyasc.errors import InputError
from tinyasc.frontend import FrontEnd
from tinyasc.models import build
from tinyasc.training.recipe import Recipe
from tinyasc_export.capture import capture
from tinyasc_export.count import count
from tinyasc_export.lower import lower
from tinyasc_export.quantize import calibrate, quantize_int8

FRONT_END = FrontEnd(sample_rate=16000, clip_samples=16000, n_fft=1024, win_length=1024, hop_length=640, n_mels=32)
CLASSES = 10


def student(**model):
    return Recipe(name="s", model={"family": "sepconv_ca", "base_channels": 24} | model)


def int8_count(width):
    """The bytes of the graph that is really quantised, counted on it."""
    torch.manual_seed(0)
    module = build("sepconv_ca", n_classes=CLASSES, n_mels=FRONT_END.n_mels, base_channels=width).eval()
    graph, _, _ = lower(capture(module, (1, 1, FRONT_END.n_mels, FRONT_END.n_frames())))
    x = torch.randn(2, FRONT_END.n_mels, FRONT_END.n_frames(), 1).numpy()
    return count(quantize_int8(graph, calibrate(graph, x)))


@pytest.fixture(scope="module")
def sizes():
    return {width: int8_count(width) for width in range(WIDTH_STEP, 25, WIDTH_STEP)}


def test_the_plan_is_what_the_quantised_graph_counts(sizes):
    for width, counts in sizes.items():
        plan = solve(student(base_channels=width), FRONT_END, CLASSES, Budget("1MB", 2**20))
        assert plan == solver.Plan(width, counts.parameter_bytes, counts.macs)


def test_bytes_grow_with_the_width(sizes):
    totals = [sizes[w].parameter_bytes for w in sorted(sizes)]
    assert totals == sorted(set(totals))


@pytest.mark.parametrize("width", range(WIDTH_STEP, 25, WIDTH_STEP))
def test_the_widest_that_fits_is_found(sizes, width):
    exactly = sizes[width].parameter_bytes
    assert solve(student(), FRONT_END, CLASSES, Budget("x", exactly)).base_channels == width
    if width > WIDTH_STEP:
        # One byte less, and the neighbour below is the widest.
        assert solve(student(), FRONT_END, CLASSES, Budget("x", exactly - 1)).base_channels == width - WIDTH_STEP


def test_the_recipe_is_the_upper_limit():
    assert solve(student(base_channels=8), FRONT_END, CLASSES, Budget("1MB", 2**20)).base_channels == 8


def test_an_impossible_budget_names_the_smallest_that_can_be_met(sizes):
    smallest = sizes[WIDTH_STEP].parameter_bytes
    with pytest.raises(InputError, match=rf"\b{smallest} bytes") as caught:
        solve(student(), FRONT_END, CLASSES, Budget("1KB", 1024))
    named = int(re.search(r"needs (\d+) bytes", str(caught.value))[1])  # pyright: ignore[reportOptionalSubscript]
    assert solve(student(), FRONT_END, CLASSES, Budget("x", named)).base_channels == WIDTH_STEP
    with pytest.raises(InputError):
        solve(student(), FRONT_END, CLASSES, Budget("x", named - 1))


def test_few_widths_are_built(monkeypatch):
    widths = []

    def counting(*args, **options):
        widths.append(options["base_channels"])
        return build(*args, **options)

    monkeypatch.setattr(solver, "build", counting)
    solve(student(base_channels=64), FRONT_END, CLASSES, Budget("10KB", 10240))
    assert len(widths) == len(set(widths)) <= 2 + math.ceil(math.log2(16))


def test_a_teacher_family_is_no_student():
    with pytest.raises(InputError, match="atrous_cnn cannot be a student"):
        solve(Recipe(name="t", model={"family": "atrous_cnn"}), FRONT_END, CLASSES, Budget("128KB", 131072))


def test_an_unknown_family_is_named():
    with pytest.raises(InputError, match="'nope' is unknown"):
        solve(Recipe(name="t", model={"family": "nope"}), FRONT_END, CLASSES, Budget("128KB", 131072))


@pytest.mark.parametrize("width", [0, -4, 2, 6, 10.0, "8", None, True])
def test_bad_widths(width):
    with pytest.raises(InputError, match="multiple of 4"):
        solve(student(base_channels=width), FRONT_END, CLASSES, Budget("128KB", 131072))


@pytest.mark.parametrize(
    ("model", "text"),
    [
        ({"attention_activation": "gelu"}, "gelu"),
        ({"chanels": 3}, "chanels"),
        ({"dropout": 7}, "dropout"),
    ],
)
def test_bad_options(model, text):
    with pytest.raises(InputError, match=text):
        solve(student(**model), FRONT_END, CLASSES, Budget("128KB", 131072))


def test_features_too_small_for_the_model_are_refused():
    small = FrontEnd(sample_rate=16000, clip_samples=4096, n_fft=1024, win_length=1024, hop_length=640, n_mels=8)
    with pytest.raises(InputError, match="8 mels x 5 frames"):
        solve(student(), small, CLASSES, Budget("128KB", 131072))
