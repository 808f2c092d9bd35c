import math

import numpy as np
import pytest

from tinyasc.compress import rules
from tinyasc.compress.rules import judge, load_rule, shipped_rules
from tinyasc.errors import InputError
from tinyasc_export.graph import Graph, Tensor

LIMITS = {
    "dcase2020-t1b": (500 * 1024, None),
    "dcase2021-t1a": (131_072, None),
    "dcase2022-t1": (128_000, 30_000_000),
    "dcase2023-t1": (128_000, 30_000_000),
    "dcase2024-t1": (128_000, 30_000_000),
    "dcase2025-t1": (128_000, 30_000_000),
}


def net(parameters: int, dtype: str, zeros: int = 0, macs: int | None = None) -> Graph:
    """A 1x1 convolution from one channel with so many parameters, on a map that costs so many MACs."""
    frames = 1 if macs is None else macs // parameters
    g = Graph({"x": Tensor("x", (1, 1, frames, 1), "int8")}, [], "x", "")
    data = np.ones((parameters, 1, 1, 1), dtype)
    data[:zeros] = 0
    attrs = {"stride": (1, 1), "padding": (0, 0, 0, 0), "dilation": (1, 1), "activation": "none"}
    g.output = g.add_op("conv2d", ["x", g.add_constant("w", data)], attrs)
    return g


def verdicts(graph: Graph, seconds: float | None = 1.0) -> dict[str, bool | None]:
    return {r.name: judge(graph, r, seconds).met for r in shipped_rules()}


def test_every_preset_is_there():
    assert {r.name: (r.memory.limit, r.macs_per_second) for r in shipped_rules()} == LIMITS


def test_the_memory_limits_from_both_sides():
    years = list(LIMITS)
    assert list(verdicts(net(128_000, "int8")).values()) == [True] * 6
    assert verdicts(net(128_001, "int8")) == dict(zip(years, [True, True, False, False, False, False], strict=True))
    # 64,000 parameters in 16 bit; 2022 fixes int8.
    assert verdicts(net(64_000, "int16")) == dict(zip(years, [True, True, False, True, True, True], strict=True))
    assert not any([verdicts(net(64_001, "int16"))[y] for y in years[2:]])
    # 128,000 float parameters are 500 KB; zeros are free in 2020 and 2021 alone.
    assert verdicts(net(128_000, "float32"))[years[0]] and not verdicts(net(128_001, "float32"))[years[0]]
    sparse = verdicts(net(200_000, "int8", zeros=200_000 - 131_072))
    assert sparse == dict(zip(years, [True, True, False, False, False, False], strict=True))


def test_macs_are_held_per_second_of_sound():
    graph = net(1000, "int8", macs=30_000_000)
    assert verdicts(graph, 1.0)["dcase2023-t1"] and not verdicts(graph, 0.99)["dcase2023-t1"]
    verdict = judge(graph, load_rule("dcase2022-t1"), 2.0)
    assert verdict.met and verdict.macs_per_second == 15_000_000 and verdict.memory == 1000
    assert math.isclose(judge(graph, load_rule("dcase2022-t1"), 0.5).macs_per_second or 0, 60e6)


def test_an_unknown_clip_length_is_no_pass():
    verdict = judge(net(10, "int8"), load_rule("dcase2024-t1"), None)
    assert verdict.met is None and "unknown" in verdict.reasons[0]
    assert judge(net(10, "int8"), load_rule("dcase2021-t1a"), None).met is True
    assert judge(net(128_001, "int8"), load_rule("dcase2024-t1"), None).met is False


def test_a_broken_rule_says_by_how_much():
    verdict = judge(net(128_001, "int8", macs=128_001 * 300), load_rule("dcase2022-t1"), 1.0)
    assert verdict.reasons == ("128,001 parameters of 128,000", "38,400,300 MACs per second of 30,000,000")


def test_an_unknown_rule_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match="dcase2022-t1"):
        load_rule("dcase2019")
    with pytest.raises(InputError, match="unknown"):
        load_rule("../students/demo")


def test_a_damaged_rule_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "budgets").mkdir()
    (tmp_path / "budgets/mine.yaml").write_text("name: mine\nmemory: {counts: grams, limit: 1}\n")
    monkeypatch.setattr(rules, "configs_folder", lambda: tmp_path)
    with pytest.raises(InputError, match="no valid rule"):
        load_rule("mine")
