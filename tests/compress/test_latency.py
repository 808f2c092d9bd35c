"""`--latency` on a board: how it is read, that it binds, what is reachable, and what is counted after writing."""

import re
from types import SimpleNamespace

import pytest
from counted_graphs import cached_graphs  # noqa: F401
from hypothesis import given
from hypothesis import strategies as st

from tinyasc.compress import on_board, solver
from tinyasc.compress.costs import front_end_state, predict
from tinyasc.compress.limits import Limits, parse_latency, parse_limits
from tinyasc.compress.on_board import count_on_board
from tinyasc.errors import InputError, TinyascError
from tinyasc.frontend_device import plan
from tinyasc.training.recipe import Recipe
from tinyasc.training.recipe_parts import FrontEndPart
from tinyasc_export.c99 import to_c
from tinyasc_export.c99.stream import with_front_end
from tinyasc_export.memory import ALIGNMENT
from tinyasc_export.quantize import calibrate, quantize_int8
from tinyasc_firmware_sim.boards import load_board
from tinyasc_firmware_sim.latency import estimate_latency

pytestmark = pytest.mark.usefixtures("cached_graphs")
LABELS = tuple("abcdefghij")
PART = FrontEndPart(sample_rate=16000, clip_seconds=1.5, n_fft=1024, hop_length=512, n_mels=32)
STUDENT = Recipe(
    name="s",
    model={"family": "sepconv_ca", "base_channels": 24, "attention_activation": "relu"},
    front_end=PART,
)
BOARD = "stm32l4r5"


def limits(text, board=BOARD, **more):
    return parse_limits(latency=text, board=board, budget="none", **more)


def solve(held, bits="8"):
    return solver.solve([STUDENT], LABELS, held, bits)


def latency_of(width, precision="int8"):
    graph = solver.float_graph(STUDENT, width, len(LABELS))
    costs = predict(graph, PART.record(), LABELS, precision)
    return estimate_latency(costs.work, precision, load_board(BOARD))


@pytest.mark.parametrize(
    ("text", "ms"), [("200ms", 200), (" 0.2 s ", 200), ("1s", 1000), (".5s", 500), ("2.0ms", 2), ("86400s", 86400000)]
)
def test_times_are_read(text, ms):
    assert parse_latency(text) == ms


@given(st.integers(1, 86_400_000))
def test_a_number_of_milliseconds_is_read_back(ms):
    assert parse_latency(f"{ms}ms") == ms == parse_latency(f"{ms / 1000:.3f}s")


@pytest.mark.parametrize("text", ["200", "ms", "0ms", "-1ms", "1.5ms", "200us", "1e3ms", "86401s", "nan ms", "", "٣ms"])
def test_what_is_no_time(text):
    with pytest.raises(InputError, match="--latency"):
        parse_latency(text)


@pytest.mark.parametrize(
    ("board", "words"),
    [
        (None, "--latency 200ms: on which board"),
        ("esp32-s3-devkitc-1", "no compiler and emulator"),
        ("zx81", "is unknown"),
    ],
)
def test_a_latency_needs_a_board_that_is_known(board, words):
    with pytest.raises(InputError, match=words):
        limits("200ms", board)


def test_it_binds_at_exactly_what_a_width_takes():
    widths = {w: latency_of(w).milliseconds() for w in (8, 12, 16, 24)}
    assert sorted(widths.values()) == list(widths.values()) and widths[8] < widths[12]
    assert solve(limits(f"{widths[24]}ms")).chosen.plan.width == 24
    assert solve(limits(f"{widths[12]}ms")).chosen.plan.width == 12
    assert solve(limits(f"{widths[12] - 1}ms")).chosen.plan.width == 8
    # Two answers take twice the time of one.
    twice = latency_of(12).milliseconds(2)
    assert 2 * widths[12] - 1 <= twice <= 2 * widths[12]
    assert solve(limits(f"{twice}ms", copies=2)).chosen.plan.width == 12


def test_the_check_says_that_it_is_estimated_with_its_band():
    chosen = solve(limits("10s")).chosen
    (check,) = (c for c in chosen.checks if c.name == "latency")
    assert check.met and check.value == latency_of(24).milliseconds()
    assert check.words().startswith(f"latency: {check.value:,} of 10,000 ms of one answer, estimated +-43% from a ")
    assert "(--latency 10s --board nucleo-l4r5zi)" in check.words()


def test_an_impossible_latency_names_the_smallest_that_is_reachable():
    with pytest.raises(InputError, match="cannot be met: the narrowest student") as caught:
        solve(limits("1ms"))
    (named,) = map(int, re.findall(r"needs (\d+) ms of one answer, estimated", str(caught.value)))
    assert solve(limits(f"{named}ms")).chosen.plan.width == 4
    with pytest.raises(InputError):
        solve(limits(f"{named - 1}ms"))


def test_16_bits_have_costs_of_their_own():
    assert latency_of(12, "int16x8").instructions != latency_of(12).instructions
    assert solve(limits("10s"), bits="16").chosen.met


def test_identities_and_labels():
    one = limits("200ms")
    assert one.identity == limits("0.2s").identity
    others = (limits("100ms"), limits("200ms", "nucleo-l476rg"), limits("200ms", copies=2), parse_limits(board=BOARD))
    assert len({one.identity, *(x.identity for x in others)}) == 5
    assert one.label == "latency200ms-nucleo-l4r5zi"


# --- after writing ---


@pytest.fixture(scope="module")
def small():
    """A quantised student of four channels."""
    import numpy as np

    from tinyasc_export.lower import cast

    graph = cast(solver.float_graph(STUDENT, 4, len(LABELS)), "float32")
    x = np.random.default_rng(0).standard_normal((4, *graph.tensors[graph.input].shape[1:])).astype(np.float32)
    return quantize_int8(graph, calibrate(graph, x))


def test_the_written_net_is_counted(small):
    pytest.importorskip("ziglang", reason="zig is not installed")
    pytest.importorskip("unicorn", reason="unicorn is not installed")
    ran = count_on_board(small, limits("200ms"))
    assert ran is not None and ran.latency is not None and ran.latency.counted and ran.checks == ()
    assert f"{ran.latency.instructions:,} instructions counted on an emulated Cortex-M4F" in ran.about
    said = ran.report()
    assert said["counted"]["instructions"] == ran.latency.instructions and said["estimated"]["band"] == 0.3
    # The table's estimate of the same net: both within what they state of each other.
    assert abs(latency_of(4).instructions / ran.latency.instructions - 1) < 0.1
    costs = predict(solver.float_graph(STUDENT, 4, len(LABELS)), PART.record(), LABELS, "int8")
    (check,) = (c for c in limits("200ms").checks(costs, ran.latency) if c.name == "latency")
    assert "from counted instructions" in check.what and check.value == ran.latency.milliseconds()


def test_nothing_is_counted_without_a_limit_on_latency(small):
    assert count_on_board(small, Limits()) is None and count_on_board(small, parse_limits(board=BOARD)) is None


def test_missing_tools_are_said(small, monkeypatch):
    from tinyasc_firmware_sim import net

    def no_compiler(*args, **options):
        raise InputError("no C compiler is installed")

    monkeypatch.setattr(net, "simulate", no_compiler)
    ran = count_on_board(small, limits("200ms"))
    assert ran is not None and ran.latency is None and ran.checks == ()
    assert ran.about.startswith("not counted") and "no C compiler" in ran.about
    monkeypatch.setitem(__import__("sys").modules, "tinyasc_firmware_sim.net", None)
    ran = count_on_board(small, limits("200ms"))
    assert ran is not None and "not counted" in ran.about and "pip install 'tinyasc[firmware]'" in ran.about


def test_an_image_that_does_not_fit_breaks_a_limit(small, monkeypatch):
    from tinyasc_firmware_sim import net
    from tinyasc_firmware_sim.toolchain import TooLargeError

    def too_large(graph, board, inputs):
        raise TooLargeError(board, "RAM", 512)

    monkeypatch.setattr(net, "simulate", too_large)
    ran = count_on_board(small, limits("200ms"))
    assert ran is not None and ran.latency is None
    (check,) = ran.checks
    assert not check.met and check.value == check.limit + 512 and check.limit == load_board(BOARD).block_bytes
    assert "bytes of RAM that the image in C takes" in check.words() and "NOT MET" in check.words()


def test_a_net_that_answers_otherwise_is_an_error(small, monkeypatch):
    from tinyasc_firmware_sim import net

    monkeypatch.setattr(net, "simulate", lambda *_: SimpleNamespace(unequal=(3,)))
    with pytest.raises(TinyascError, match="operators 3 of the net in C differ"):
        on_board.count_on_board(small, limits("200ms"))


# --- RAM in C ---


def test_the_arena_in_c_is_the_planned_one_and_scratch(small):
    costs = predict(solver.float_graph(STUDENT, 4, len(LABELS)), PART.record(), LABELS, "int8")
    # The first layer's window has 9 values; two patches of it are gathered. A row of padding is 4 values.
    scratch = 2 * 9 + ALIGNMENT
    assert costs.arena_pools_in_place_bytes <= to_c(small).arena_bytes <= costs.arena_bytes + scratch


@pytest.mark.parametrize("arithmetic", ["device", "fixed"])
def test_the_front_end_in_c_keeps_no_more_than_is_planned(small, arithmetic):
    x = small.tensors[small.input]
    made = plan(PART.record(), step=float(x.scale[0]), zero_point=int(x.zero_point[0]), dtype=x.dtype)
    source = with_front_end(to_c(small), small, made, arithmetic=arithmetic)
    assert 0 < source.state_bytes <= front_end_state(PART.record(), 1)
