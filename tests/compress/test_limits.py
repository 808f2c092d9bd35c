"""Limits as they are typed, which of them wins, and what is held against them."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyasc.compress.costs import STACK_BYTES, front_end_state, measure
from tinyasc.compress.limits import Limit, Limits, parse_limits, parse_macs
from tinyasc.errors import InputError
from tinyasc.frontend import FrontEnd
from tinyasc_export.graph import Graph, Tensor

KB = 1024
NO = {"budget": "none", "ram": "none"}


def numbers(**typed):
    return {limit.name: limit.number for limit in parse_limits(**typed).limits}


def test_the_defaults_say_that_they_are():
    limits = parse_limits()
    assert {x.name: x.number for x in limits.limits} == {"budget": 128 * KB, "ram": 768 * KB}
    assert [x.origin for x in limits.limits] == [
        "default; --budget none lifts it",
        "default; --ram none lifts it",
    ]
    assert limits.label == "128KB" and limits.budget is not None and limits.budget.bytes == 128 * KB


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (NO, {}),
        ({"budget": "none"}, {"ram": 768 * KB}),
        ({"ram": " None "}, {"budget": 128 * KB}),
        ({"flash": "200kB"}, {"flash": 200_000, "ram": 768 * KB}),
        ({"flash": "200kB", "budget": "100KB"}, {"budget": 100 * KB, "flash": 200_000, "ram": 768 * KB}),
        ({"ram": "64KiB"}, {"budget": 128 * KB, "ram": 64 * KB}),
        ({"macs": "30M", **NO}, {"macs": 30_000_000}),
        ({"rule": "dcase2022-t1"}, {"ram": 768 * KB}),
        ({"board": "raspberry-pi-pico"}, {"flash": 2048 * KB, "ram": 264 * KB}),
        ({"board": "raspberry-pi-pico", "ram": "none"}, {"flash": 2048 * KB, "ram": 264 * KB}),
        ({"board": "nucleo-l476rg"}, {"flash": 1024 * KB, "ram": 96 * KB}),
    ],
)
def test_mixes(typed, expected):
    assert numbers(**typed) == expected


@pytest.mark.parametrize(("ram", "wins"), [("300KB", 264 * KB), ("264KB", 264 * KB), ("100KB", 100 * KB)])
def test_the_tighter_of_a_board_and_a_limit_wins(ram, wins):
    (limit,) = [x for x in parse_limits(board="raspberry-pi-pico", ram=ram).limits if x.name == "ram"]
    assert limit.number == wins
    assert limit.origin == (f"--ram {ram}" if wins < 264 * KB else limit.origin)
    assert ("board" in limit.origin) is (ram == "300KB") or ram == "264KB"


@pytest.mark.parametrize(
    ("text", "number"),
    [("30M", 30_000_000), ("30MMAC", 30_000_000), ("30000000", 30_000_000), ("30 MMACs", 30_000_000),
     ("0.03G", 30_000_000), ("1.5k", 1500), ("7", 7), ("12MAC", 12), (".5M", 500_000)],
)  # fmt: skip
def test_macs(text, number):
    assert parse_macs(text) == number


@pytest.mark.parametrize("text", ["", "M", "-3M", "0", "1.5", "30X", "30KB", "nan", "1e6", "9" * 30, "30MM", "٣M"])
def test_nonsense_macs(text):
    with pytest.raises(InputError, match="--macs"):
        parse_macs(text)


@given(st.integers(1, 10**9), st.sampled_from([("", 1), ("k", 10**3), ("M", 10**6)]))
def test_macs_are_exact(n, unit):
    assert parse_macs(f"{n}{unit[0]}") == n * unit[1]
    assert parse_macs(f"{n}{unit[0]}MAC") == n * unit[1]


@pytest.mark.parametrize("option", ["budget", "flash", "ram"])
@pytest.mark.parametrize("text", ["", "KB", "-1KB", "0", "1e3", "nan", "128 XB", "0.3B", "nothing"])
def test_nonsense_sizes_name_their_option(option, text):
    with pytest.raises(InputError) as caught:
        parse_limits(**{option: text})
    assert str(caught.value).startswith("budget " if option == "budget" else f"--{option} ")


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ({"rule": "dcase2022-t1", "bits": "16"}, "fixes int8, --bits 16 asks for int16x8"),
        ({"rule": "dcase1999"}, "rule 'dcase1999' is unknown"),
        ({"board": "nano"}, "board 'nano' is unknown"),
        ({"copies": 0}, "--tta 0"),
        ({"copies": -2}, "--tta -2"),
    ],
)
def test_what_cannot_be(typed, words):
    with pytest.raises(InputError) as caught:
        parse_limits(**typed)
    assert words in str(caught.value)


@pytest.mark.parametrize("bits", ["8", "auto"])
def test_a_rule_of_int8_goes_with_other_bits(bits):
    assert parse_limits(rule="dcase2022-t1", bits=bits).rule is not None


def test_labels_name_what_was_typed_and_identities_the_numbers():
    assert parse_limits(budget="64 kB", macs="30M").label == "64kB-macs30M"
    assert parse_limits(board="nucleo-l476rg").label == "nucleo-l476rg"
    assert parse_limits(rule="dcase2024-t1", ram="10KB").label == "ram10KB-dcase2024-t1"
    assert parse_limits(**NO).label == "unlimited"
    assert parse_limits(budget="16KB").identity == parse_limits(budget="16384").identity
    assert parse_limits(copies=2).identity == parse_limits().identity  # nothing is held against their MACs
    seen = [parse_limits(**t).identity for t in ({}, {"ram": "1KB"}, {"macs": "1"}, {"macs": "1", "copies": 2}, NO)]
    seen.append(parse_limits(rule="dcase2024-t1").identity)
    assert len(set(seen)) == len(seen)


FRONT_END = FrontEnd(sample_rate=16000, clip_samples=24000, n_fft=512, win_length=512, hop_length=256, n_mels=8)


def costs(front_end=FRONT_END, values=100, frames=1000):
    """A 1x1 convolution to `values` channels over a map of `frames`: values x frames MACs."""
    import numpy as np

    g = Graph({"x": Tensor("x", (1, 1, frames, 1), "int8")}, [], "x", "")
    attrs = {"stride": (1, 1), "padding": (0, 0, 0, 0), "dilation": (1, 1), "activation": "none"}
    g.output = g.add_op("conv2d", ["x", g.add_constant("w", np.ones((values, 1, 1, 1), np.int8))], attrs)
    return measure(g, front_end, 5000)


def verdicts(limits, c):
    return {check.name: (check.limit, check.value, check.met) for check in limits.checks(c)}


def test_each_limit_is_held_against_its_own_number_from_both_sides():
    c = costs()
    rate = -(-100 * 1000 * 2 // 3)  # 1.5 s of sound
    ram = c.arena_bytes + c.front_end_bytes + STACK_BYTES
    assert c.arena_bytes >= 101_000
    values = {"budget": 100, "flash": 5000, "ram": ram, "macs": rate}
    for name, value in values.items():
        for limit, met in ((value, True), (value - 1, False), (value + 1, True)):
            limits = Limits((Limit(name, "x", limit, "--x"),))
            assert verdicts(limits, c) == {name: (limit, value, met)}
            assert limits.met(c) is met
    both = Limits((Limit("budget", "x", 100, ""), Limit("flash", "x", 4999, "")))
    assert not both.met(c) and [check.met for check in both.checks(c)] == [True, False]


def test_macs_are_rounded_up_and_multiplied_by_the_copies():
    c = costs(values=7, frames=11)
    for copies in (1, 2, 30):
        (check,) = Limits((Limit("macs", "x", 10**9, ""),), copies=copies).checks(c)
        exact = Fraction(77 * copies * 16000, 24000)
        assert exact <= check.value < exact + 1


def test_a_rule_counts_as_it_counts():
    c = costs(values=128_001, frames=2)
    limits = parse_limits(rule="dcase2022-t1", ram="none")
    assert verdicts(limits, c) == {
        "rule memory": (128_000, 128_001, False),
        "rule macs": (30_000_000, -(-128_001 * 2 * 2 // 3), True),
    }
    # 2021: zeros are free, and no limit on MACs.
    c.graph.constants()[0].data[:1000] = 0  # pyright: ignore[reportOptionalSubscript]
    assert verdicts(parse_limits(rule="dcase2021-t1a", ram="none"), c) == {"rule memory": (131_072, 127_001, True)}


def test_a_rule_that_fixes_int8_is_broken_by_16_bits():
    from dataclasses import replace

    wide = replace(costs(), precision="int16x8")
    assert verdicts(parse_limits(rule="dcase2022-t1", ram="none"), wide)["rule memory"][2] is False
    assert verdicts(parse_limits(rule="dcase2024-t1", ram="none"), wide)["rule memory"][2] is True


@pytest.mark.parametrize(
    ("changes", "more"),
    [
        ({}, 0),
        ({"pre_emphasis": 0.97}, 4),
        # Two sides: twice the samples, the rows and the features; one transform after the other.
        ({"stereo": True}, 2 * (512 + 256) + 4 * 8 + 8 * 92),
        # Four more rows, and three maps of 88 frames each for the 92.
        ({"deltas": 2}, 4 * 8 * 8 + 3 * 8 * 84 - 8 * 92),
    ],
)
def test_the_front_end_state(changes, more):
    """By hand: 768 int16 samples, 514 float32 of spectrum, 8 float32 of mels, 8 x 92 int8 features."""
    from dataclasses import replace

    assert FRONT_END.n_frames() == 92
    base = 2 * 768 + 4 * 514 + 4 * 8 + 8 * 92
    assert front_end_state(FRONT_END, 1) == base
    assert front_end_state(FRONT_END, 2) == base + 8 * 92
    assert front_end_state(replace(FRONT_END, **changes), 1) == base + more
