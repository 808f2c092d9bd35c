"""Every limit on its own narrows the student, impossible ones name what is reachable, and several families compete."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from counted_graphs import cached_graphs  # noqa: F401

from tinyasc.compress import solver
from tinyasc.compress.costs import STACK_BYTES, predict
from tinyasc.compress.frontier import frontier_table, write_frontier
from tinyasc.compress.limits import Limit, Limits, parse_limits
from tinyasc.compress.pipeline import searchable_at_int16x8
from tinyasc.errors import InputError
from tinyasc.training.recipe import Recipe, load_recipe
from tinyasc.training.recipe_parts import FrontEndPart
from tinyasc_export.bundle import Bundle
from tinyasc_export.memory import plan as plan_memory
from tinyasc_export.quantize import calibrate, quantize_int8, quantize_int16x8
from tinyasc_export.tflite import to_tflite

pytestmark = pytest.mark.usefixtures("cached_graphs")
LABELS = tuple("abcdefghij")
PART = FrontEndPart(sample_rate=16000, clip_seconds=1.5, n_fft=1024, hop_length=512, n_mels=64)
RELU = {"family": "sepconv_ca", "base_channels": 24, "attention_activation": "relu"}


def student(n_mels=32, **model):
    return Recipe(name="s", model=RELU | model, front_end=PART.model_copy(update={"n_mels": n_mels}))


def solve(limits, *recipes, bits="8", change=False):
    return solver.solve(recipes or [student()], LABELS, limits, bits, change)


def one(name, number):
    return Limits((Limit(name, str(number), number, f"--{name} {number}"),))


def value(plan, name):
    return {"budget": plan.parameter_bytes, "flash": plan.file_bytes, "ram": plan.ram_bytes,
            "macs": plan.macs_per_second}[name]  # fmt: skip


@pytest.fixture(scope="module")
def widths():
    """What every width costs, each built and counted by itself."""
    with pytest.MonkeyPatch.context():
        found = {}
        for width in (4, 8, 12, 16, 20, 24):
            graph = solver.float_graph(student(), width, len(LABELS))
            assert student().front_end is not None
            found[width] = predict(graph, student().front_end.record(), LABELS, "int8")  # pyright: ignore
        return found


@pytest.mark.parametrize("name", ["budget", "flash", "ram", "macs"])
def test_each_limit_alone_binds(widths, name):
    """Exactly what a width costs gives that width, one less the next narrower."""
    known = {"budget": "parameter_bytes", "flash": "file_bytes", "ram": "ram_bytes"}
    for width, costs in widths.items():
        number = costs.macs_per_second() if name == "macs" else getattr(costs, known[name])
        chosen = solve(one(name, number)).chosen
        assert chosen.plan.width == width and value(chosen.plan, name) == number
        assert chosen.recipe.model["base_channels"] == width
        if width > 4:
            assert solve(one(name, number - 1)).chosen.plan.width == width - 4


@pytest.mark.parametrize("name", ["budget", "flash", "ram", "macs"])
def test_an_impossible_limit_names_the_smallest_that_is_reachable(name):
    with pytest.raises(InputError, match="cannot be met: the narrowest student") as caught:
        solve(one(name, 10))
    (named,) = map(int, re.findall(r"needs (\d+) ", str(caught.value)))
    assert solve(one(name, named)).chosen.plan.width == 4
    with pytest.raises(InputError):
        solve(one(name, named - 1))


def test_limits_that_are_impossible_together_name_every_one_that_breaks():
    limits = parse_limits(budget="1KB", ram="10KB")
    with pytest.raises(InputError) as caught:
        solve(limits)
    found = re.search(
        r"needs (\d+) bytes of parameters \(limit 1024, --budget 1KB\) and (\d+) bytes of RAM", str(caught.value)
    )
    assert found, caught.value
    assert solve(parse_limits(budget=found[1], ram=found[2])).chosen.plan.width == 4


def test_the_tightest_of_several_decides(widths):
    wide, narrow = widths[20], widths[12]
    limits = Limits((*one("ram", wide.ram_bytes).limits, *one("macs", narrow.macs_per_second()).limits))
    solution = solve(limits)
    assert solution.chosen.plan.width == 12
    assert any("macs:" in note and "NOT MET" in note for note in solution.notes)
    # Twice the copies cost twice the MACs.
    assert solve(replace(limits, copies=2)).chosen.plan.width < 12


def test_nothing_binds_and_nothing_is_noted():
    solution = solve(Limits())
    assert solution.chosen.plan.width == 24 and solution.chosen.plan.share == 1 and solution.notes == ()
    assert "whole width" in solution.why


def test_a_rule_binds(widths):
    rule = parse_limits(rule="dcase2022-t1").rule
    assert rule is not None
    tight = rule.model_copy(update={"memory": rule.memory.model_copy(update={"limit": widths[16].parameters})})
    assert solve(Limits(rule=tight)).chosen.plan.width == 16
    less = rule.memory.model_copy(update={"limit": widths[16].parameters - 1})
    assert solve(Limits(rule=rule.model_copy(update={"memory": less}))).chosen.plan.width == 12
    slow = rule.model_copy(update={"macs_per_second": widths[8].macs_per_second()})
    assert solve(Limits(rule=slow)).chosen.plan.width == 8


def test_a_board_binds():
    """Arena, front end and stack are linked into the largest piece of RAM."""
    recipe = student(n_mels=64, base_channels=64)
    plan = solve(parse_limits(board="nucleo-l476rg"), recipe).chosen.plan
    assert plan.ram_bytes <= 96 * 1024
    wider = solver.float_graph(recipe, plan.width + 4, len(LABELS))
    over = predict(wider, PART.record(), LABELS, "int8")
    assert 96 * 1024 < over.ram_bytes <= 128 * 1024 and over.arena_bytes <= 96 * 1024


def test_a_limit_on_ram_that_tflite_micro_would_break_is_said():
    solution = solve(parse_limits(board="nucleo-l476rg"), student(n_mels=64, base_channels=64))
    plan = solution.chosen.plan
    micro = plan.ram_bytes - plan.arena_bytes + plan.arena_unshared_bytes
    assert micro > 96 * 1024
    (note,) = (note for note in solution.notes if "TensorFlow Lite Micro" in note)
    assert note.startswith("ram holds with the arena as planned;") and f"needs {micro:,} of 98,304 bytes" in note
    same = student(n_mels=64, base_channels=plan.width)
    assert not any("Micro" in note for note in solve(one("ram", micro), same).notes)


def test_the_arena_is_no_larger_for_sharing():
    """CP-Mobile's additions over an operand would tie its maps together and cost more than they save."""
    part = FrontEndPart(sample_rate=32000, clip_seconds=5.0, n_fft=2048, hop_length=2048, n_mels=64)
    recipe = load_recipe("students/cp_mobile").model_copy(update={"front_end": part})
    plan = solve(Limits(), recipe).chosen.plan
    assert plan.arena_bytes == plan.arena_unshared_bytes


def test_the_ram_is_arena_front_end_and_stack():
    plan = solve(Limits()).chosen.plan
    assert plan.ram_bytes == plan.arena_bytes + plan.front_end_bytes + STACK_BYTES
    assert plan.arena_bytes >= plan.arena_pools_in_place_bytes


# --- bits ---


def test_16_bits_plan_and_limit_16_bits(widths):
    plan = solve(Limits(), bits="16").chosen.plan
    assert plan.precision == "int16x8" and plan.arena_bytes == 2 * widths[24].arena_bytes
    assert plan.parameters == widths[24].parameters and plan.parameter_bytes > widths[24].parameter_bytes
    narrower = solve(one("ram", widths[24].ram_bytes), bits="16").chosen.plan
    assert narrower.width < 24 and narrower.precision == "int16x8"


def test_16_bits_of_an_operator_that_has_none_are_refused():
    with pytest.raises(InputError, match="hardswish has no int16 kernel"):
        solve(Limits(), student(attention_activation="hardswish"), bits="16")


def test_auto_takes_16_bits_where_all_limits_hold(widths):
    assert solve(Limits(), bits="auto").chosen.plan.precision == "int16x8"
    tight = solve(one("ram", widths[24].ram_bytes), bits="auto")
    # Width before bits.
    assert (tight.chosen.plan.width, tight.chosen.plan.precision) == (24, "int8")
    assert any("int16x8 breaks a limit: ram" in note for note in tight.notes)
    swish = solve(Limits(), student(attention_activation="hardswish"), bits="auto")
    assert swish.chosen.plan.precision == "int8" and any("hardswish" in note for note in swish.notes)
    fixed = solve(parse_limits(rule="dcase2022-t1", bits="auto"), bits="auto")
    assert fixed.chosen.plan.precision == "int8" and any("fixes it" in note for note in fixed.notes)


# --- what is written, by the schema and not by our counter ---


def recount(data):
    """Bytes of constants that have a scale, read from the file."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data))
    (graph,) = model.subgraphs
    sizes = []
    for tensor in graph.tensors:
        content = model.buffers[tensor.buffer].data
        if (
            content is not None
            and len(content)
            and tensor.quantization is not None
            and tensor.quantization.scale is not None
        ):
            sizes.append(len(content))
    return sum(sizes)


@pytest.mark.parametrize("precision", ["int8", "int16x8"])
@pytest.mark.parametrize("width", [8, 20])
def test_the_plan_is_what_a_really_quantised_file_holds(precision, width):
    recipe = student(base_channels=width)
    assert recipe.front_end is not None
    front_end = recipe.front_end.record()
    plan = solve(Limits(), recipe, bits="16" if precision == "int16x8" else "8").chosen.plan
    graph = solver.float_graph(recipe, width, len(LABELS))
    x = np.random.default_rng(3).standard_normal((2, 32, front_end.n_frames(), 1)).astype(np.float32)
    quantize = quantize_int8 if precision == "int8" else quantize_int16x8
    written = quantize(graph, calibrate(graph, x))
    card = {"card": "x" * 1500}
    scaled = front_end.with_normalization(np.full(32, 1 / 7), np.full(32, -1 / 3))
    data = to_tflite(written, Bundle(LABELS, scaled.to_dict(), card))
    assert plan.precision == precision
    assert plan.parameter_bytes == recount(data)
    assert plan.arena_bytes == plan_memory(written, pools_in_place=False).peak
    assert len(data) <= plan.file_bytes <= len(data) + 6000


# --- several families ---


@pytest.fixture(scope="module")
def zoo():
    names = ("amfm", "bc_resnet", "cp_mobile", "sepconv_ca", "tf_sepnet")
    return [load_recipe(f"students/{name}").model_copy(update={"front_end": PART}) for name in names]


def test_without_limits_the_family_with_most_parameters_is_taken(zoo):
    solution = solve(Limits(), *zoo, change=True)
    plans = [c.plan for c in solution.tried]
    assert {p.family for p in plans} == {r.family for r in zoo} and all(p.share == 1 for p in plans)
    assert solution.chosen.plan.parameter_bytes == max(p.parameter_bytes for p in plans)


def test_a_family_that_keeps_its_whole_size_wins_over_one_that_does_not(zoo):
    amfm, cp_mobile = zoo[0], zoo[2]
    whole = solve(Limits(), cp_mobile).chosen.plan
    solution = solve(one("ram", whole.ram_bytes), amfm, cp_mobile, change=True)
    assert solution.chosen.plan == whole
    assert "more than any other family" in solution.why


def test_a_front_end_is_made_smaller_only_where_less_than_half_the_width_is_left():
    recipe = student(n_mels=64, base_channels=32)
    half = solve(Limits(), student(n_mels=64, base_channels=16)).chosen.plan
    kept = solve(one("ram", half.ram_bytes), recipe, change=True).chosen.plan
    assert (kept.n_mels, kept.width) == (64, 16)
    smaller = solve(one("ram", half.ram_bytes - 1), recipe, change=True)
    assert smaller.chosen.plan.n_mels == 40 and smaller.chosen.plan.width >= 16
    assert smaller.chosen.recipe.front_end is not None and smaller.chosen.recipe.front_end.n_mels == 40
    # Where it may not be changed, the width alone gives way.
    fixed = solve(one("ram", half.ram_bytes - 1), recipe).chosen.plan
    assert (fixed.n_mels, fixed.width) == (64, 12)


def test_the_smallest_front_end_is_narrowed_as_far_as_it_takes():
    recipe = student(n_mels=64, base_channels=32)
    least = solve(Limits(), student(n_mels=32, base_channels=4)).chosen.plan
    plan = solve(one("ram", least.ram_bytes), recipe, change=True).chosen.plan
    assert (plan.n_mels, plan.width) == (32, 4)
    with pytest.raises(InputError, match=f"needs {least.ram_bytes} bytes of RAM"):
        solve(one("ram", least.ram_bytes - 1), recipe, change=True)


def test_the_reachable_figure_of_several_families_is_the_smallest_of_all(zoo):
    zoo = [recipe.model_copy(update={"front_end": PART.model_copy(update={"n_mels": 32})}) for recipe in zoo]
    with pytest.raises(InputError) as caught:
        solve(one("ram", 100), zoo[2], zoo[3])
    (named,) = map(int, re.findall(r"needs (\d+) bytes of RAM", str(caught.value)))
    assert solve(one("ram", named), zoo[2], zoo[3]).chosen.plan.ram_bytes == named
    for recipe in (zoo[2], zoo[3]):
        with pytest.raises(InputError):
            solve(one("ram", named - 1), recipe)


def test_a_family_that_cannot_be_counted_is_left_out_with_its_reason(zoo):
    broken = student(base_channels=8).model_copy(update={"model": {"family": "sepconv_ca", "chanels": 3}})
    solution = solve(Limits(), broken, zoo[2])
    assert solution.chosen.plan.family == "cp_mobile"
    assert any(note.startswith("sepconv_ca is left out: ") and "chanels" in note for note in solution.notes)
    with pytest.raises(InputError, match="no family can be a student here"):
        solve(Limits(), broken, broken)


# --- frontier ---


def test_the_frontier_counts_four_widths_and_marks_the_choice(tmp_path):
    limits = parse_limits(budget="12KB", macs="5M")
    solution = solver.solve([student()], LABELS, limits, "8", False, True)
    points = frontier_table(solution)
    assert {p.width for p in points} >= {24, 20, 12, 8}
    assert [p for p in points if p.chosen] == [p for p in points if p.width == solution.chosen.plan.width]
    for p in points:
        assert p.met is (p.parameter_bytes <= 12 * 1024 and p.macs_per_second <= 5_000_000)
    picture, table = write_frontier(points, limits, tmp_path / "f.png")
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    read = json.loads(table.read_text())
    assert [s["width"] for s in read["students"]] == [p.width for p in points]
    assert {line["name"]: line["limit"] for line in read["limits"]} == {
        "budget": 12288, "ram": 768 * 1024, "macs": 5_000_000,
    }  # fmt: skip


def test_the_frontier_is_what_no_other_student_beats():
    solution = solver.solve([student()], LABELS, Limits(), "8", False, True)
    # Without accuracies more parameters are better, and each costs more: all are on it.
    assert all(p.best for p in frontier_table(solution))
    # With them a wide one that is no better than a narrow one is not.
    by_width = sorted(range(len(solution.tried)), key=lambda i: solution.tried[i].plan.width)
    scores = [0.0] * len(by_width)
    for rank, i in enumerate(by_width):
        scores[i] = 0.5 if rank < 2 else 0.5 + 0.1 * rank
    scores[by_width[-1]] = scores[by_width[-2]]
    best = {p.width for p in frontier_table(solution, scores) if p.best}
    ordered = [solution.tried[i].plan.width for i in by_width]
    assert best == {ordered[0], *ordered[2:-1]}
    unknown = [None, *scores[1:]]
    assert not any(p.best for p in frontier_table(solution, unknown) if p.accuracy is None)


def test_a_search_leaves_out_what_could_not_be_written_at_int16x8_too():
    model = {"family": "bc_resnet", "base_channels": 8}
    recipes = [student(), Recipe(name="b", model=model, front_end=PART)]
    found = solver.solve(recipes, LABELS, parse_limits(budget="1MB"), search=True)
    assert {span.family for span in found.spans} == {"sepconv_ca", "bc_resnet"}
    left = searchable_at_int16x8(found, len(LABELS))
    assert left.spans == tuple(span for span in found.spans if span.family == "sepconv_ca")
    assert left.chosen is found.chosen and left.notes[:-1] == found.notes
    assert "bc_resnet is not searched, since int16x8 cannot run it: module blocks.2: rsqrt" in left.notes[-1]
