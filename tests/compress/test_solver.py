import math
import re

import pytest
import torch
from counted_graphs import cached_graphs  # noqa: F401
from graphs import int8_bytes

from tinyasc.compress import solver
from tinyasc.compress.limits import Limit, Limits
from tinyasc.errors import InputError
from tinyasc.frontend import FrontEnd
from tinyasc.models import FAMILIES, build
from tinyasc.training.recipe import Recipe, load_recipe
from tinyasc.training.recipe_parts import FrontEndPart
from tinyasc_export.capture import capture
from tinyasc_export.count import count
from tinyasc_export.lower import lower
from tinyasc_export.quantize import calibrate, quantize_int8

FRONT_END = FrontEnd(sample_rate=16000, clip_samples=16000, n_fft=1024, win_length=1024, hop_length=512, n_mels=32)
CLASSES = 10
WIDTH_STEP = 4  # of sepconv_ca
LABELS = tuple("abcdefghij")
STUDENTS = [family for family in FAMILIES if FAMILIES[family].capturable]


def student(**model):
    return Recipe(name="s", model={"family": "sepconv_ca", "base_channels": 24} | model)


def complete(recipe, front_end=FRONT_END):
    """With this front end as its own."""
    names = ("sample_rate", "n_fft", "hop_length", "n_mels")
    seconds = front_end.clip_samples / front_end.sample_rate
    part = FrontEndPart(clip_seconds=seconds, **{name: getattr(front_end, name) for name in names})
    assert part.record() == front_end
    return recipe.model_copy(update={"front_end": part})


def solve(recipe, front_end, number):
    """The plan of one recipe under a budget alone."""
    limits = Limits((Limit("budget", f"{number}", number, f"--budget {number}"),))
    return solver.solve([complete(recipe, front_end)], LABELS, limits).chosen.plan


def bytes_and_macs(plan):
    return plan.option, plan.width, plan.parameter_bytes, plan.macs


def int8_count(width, family="sepconv_ca"):
    """The bytes of the graph that is really quantised, counted on it."""
    torch.manual_seed(0)
    options = {FAMILIES[family].width.option: width}
    module = build(family, n_classes=CLASSES, n_mels=FRONT_END.n_mels, **options).eval()
    graph, _, _ = lower(capture(module, (1, 1, FRONT_END.n_mels, FRONT_END.n_frames())))
    x = torch.randn(2, FRONT_END.n_mels, FRONT_END.n_frames(), 1).numpy()
    return count(quantize_int8(graph, calibrate(graph, x)))


@pytest.mark.usefixtures("cached_graphs")
@pytest.mark.parametrize("family", STUDENTS)
def test_every_family_is_solved(family):
    """The plan's bytes are those of the quantised graph; one byte less gives the next narrower; all builds hold."""
    option, step = FAMILIES[family].width.option, FAMILIES[family].width.step
    counts = int8_count(3 * step, family)
    recipe = Recipe(name="s", model={"family": family, option: 4 * step})
    plan = solve(recipe, FRONT_END, counts.parameter_bytes)
    assert bytes_and_macs(plan) == (option, 3 * step, counts.parameter_bytes, counts.macs)
    assert (plan.parameters, plan.quantization_bytes) == (counts.parameters, counts.quantization_bytes)
    assert type(plan.width) is type(step)
    narrower = solve(recipe, FRONT_END, counts.parameter_bytes - 1)
    assert narrower.width == 2 * step and narrower.parameter_bytes < counts.parameter_bytes
    for width in (0.5 * step, 2.5 * step, -step, "1", True, float("nan"), float("inf")):
        with pytest.raises(InputError, match=f"{option} must be a multiple of {step}"):
            solve(Recipe(name="s", model={"family": family, option: width}), FRONT_END, 10**6)


@pytest.mark.parametrize("family", STUDENTS)
def test_the_shipped_student_holds_128_kilobytes_and_30_mmac_per_second(family):
    """At 64 bands, 1 s of 32 kHz and a hop of 1024, without a narrower width than the recipe's."""
    front_end = FrontEnd(sample_rate=32000, clip_samples=32000, n_fft=2048, win_length=2048, hop_length=1024, n_mels=64)
    recipe = load_recipe(f"students/{family}")
    plan = solve(recipe, front_end, 131072)
    assert plan.width == recipe.model_options[FAMILIES[family].width.option]
    assert plan.macs <= 30_000_000


@pytest.fixture(scope="module")
def sizes():
    return {width: int8_count(width) for width in range(WIDTH_STEP, 25, WIDTH_STEP)}


@pytest.mark.usefixtures("cached_graphs")
def test_the_plan_is_what_the_quantised_graph_counts(sizes):
    for width, counts in sizes.items():
        plan = solve(student(base_channels=width), FRONT_END, 2**20)
        assert bytes_and_macs(plan) == ("base_channels", width, counts.parameter_bytes, counts.macs)


def test_bytes_grow_with_the_width(sizes):
    totals = [sizes[w].parameter_bytes for w in sorted(sizes)]
    assert totals == sorted(set(totals))


@pytest.mark.usefixtures("cached_graphs")
@pytest.mark.parametrize("width", range(WIDTH_STEP, 25, WIDTH_STEP))
def test_the_widest_that_fits_is_found(sizes, width):
    exactly = sizes[width].parameter_bytes
    assert solve(student(), FRONT_END, exactly).width == width
    if width > WIDTH_STEP:
        # One byte less, and the neighbour below is the widest.
        assert solve(student(), FRONT_END, exactly - 1).width == width - WIDTH_STEP


def test_the_recipe_is_the_upper_limit():
    assert solve(student(base_channels=8), FRONT_END, 2**20).width == 8


@pytest.mark.usefixtures("cached_graphs")
def test_an_impossible_budget_names_the_smallest_that_can_be_met(sizes):
    smallest = sizes[WIDTH_STEP].parameter_bytes
    with pytest.raises(InputError, match=rf"\b{smallest} bytes") as caught:
        solve(student(), FRONT_END, 1024)
    named = int(re.search(r"needs (\d+) bytes", str(caught.value))[1])  # pyright: ignore[reportOptionalSubscript]
    assert solve(student(), FRONT_END, named).width == WIDTH_STEP
    with pytest.raises(InputError):
        solve(student(), FRONT_END, named - 1)


def test_few_widths_are_built(monkeypatch):
    widths = []

    def counting(*args, **options):
        widths.append(options["base_channels"])
        return build(*args, **options)

    monkeypatch.setattr(solver, "build", counting)
    solve(student(base_channels=64), FRONT_END, 10240)
    assert len(widths) == len(set(widths)) <= 2 + math.ceil(math.log2(16))


def test_a_teacher_family_is_no_student():
    with pytest.raises(InputError, match="atrous_cnn cannot be a student"):
        solve(Recipe(name="t", model={"family": "atrous_cnn"}), FRONT_END, 131072)


def test_an_unknown_family_is_named():
    with pytest.raises(InputError, match="'nope' is unknown"):
        solve(Recipe(name="t", model={"family": "nope"}), FRONT_END, 131072)


@pytest.mark.parametrize("width", [0, -4, 2, 6, 10.0, "8", None, True])
def test_bad_widths(width):
    with pytest.raises(InputError, match="multiple of 4"):
        solve(student(base_channels=width), FRONT_END, 131072)


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
        solve(student(**model), FRONT_END, 131072)


def test_features_too_small_for_the_model_are_refused():
    small = FrontEnd(sample_rate=16000, clip_samples=4096, n_fft=1024, win_length=1024, hop_length=640, n_mels=8)
    with pytest.raises(InputError, match="8 mels x 5 frames"):
        solve(student(), small, 131072)


def test_gains_that_begin_at_zero_count_as_those_that_will_be_trained(monkeypatch):
    """Channels that an untrained student does not use yet are in the plan."""
    recipe, budget = student(), 20_000
    expected = solve(recipe, FRONT_END, budget)

    def silent(*args, **options):
        module = build(*args, **options)
        for part in module.modules():
            if isinstance(part, torch.nn.BatchNorm2d):
                torch.nn.init.zeros_(part.weight)
        return module

    module = silent("sepconv_ca", n_classes=CLASSES, n_mels=FRONT_END.n_mels, base_channels=expected.width).eval()
    untrained, _, _ = lower(capture(module, (1, 1, FRONT_END.n_mels, FRONT_END.n_frames())))
    assert int8_bytes(untrained) < 0.6 * expected.parameter_bytes
    monkeypatch.setattr(solver, "build", silent)
    assert solve(recipe, FRONT_END, budget) == expected


def test_biases_that_begin_at_zero_count_as_those_that_will_be_trained(monkeypatch):
    """A product over channels before a padded convolution becomes one with it only while its bias is zero."""

    def chain(*_, bias=0.0, **__):
        module = torch.nn.Sequential(
            torch.nn.Conv2d(1, 4, 3),
            torch.nn.Conv2d(4, 32, 1),
            torch.nn.Conv2d(32, 4, 3, padding=1),
            torch.nn.AdaptiveAvgPool2d(1),
            torch.nn.Flatten(),
            torch.nn.Linear(4, CLASSES),
        )
        torch.nn.init.constant_(module[1].bias, bias)  # pyright: ignore[reportArgumentType]
        return module.eval()

    def size(module):
        return int8_bytes(lower(capture(module, (1, 1, FRONT_END.n_mels, FRONT_END.n_frames())))[0])

    assert size(chain()) < size(chain(bias=0.1))
    monkeypatch.setattr(solver, "build", chain)
    plan = solve(student(), FRONT_END, 2**20)
    assert plan.parameter_bytes == size(chain(bias=0.1))
