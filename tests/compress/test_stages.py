"""What is said of stages, which count as kept, and what their file holds."""

from __future__ import annotations

import json

import pytest

from tinyasc.compress.stages import FILE, Stages
from tinyasc.files import write_atomic


def test_a_stage_is_kept_when_its_result_is_not_written_again(tmp_path, capsys):
    result = tmp_path / "result"
    for expected in (False, True):
        stages = Stages()
        with stages.stage("plan"):
            pass
        stages.keep_in(tmp_path)
        with stages.stage("distil", result):
            if not result.exists():
                write_atomic(result, "weights")
        said = capsys.readouterr().err.splitlines()
        assert said[0].startswith("plan: ") and said[0].endswith(" s")
        assert (said[1] == "distil: kept") is expected
    # Written again with the same content: not kept.
    with stages.stage("distil", result):
        write_atomic(result, "weights")
    lines = [json.loads(line) for line in (tmp_path / FILE).read_text().splitlines()]
    assert [(line["stage"], line["kept"]) for line in lines] == [
        ("plan", False), ("distil", False), ("plan", False), ("distil", True), ("distil", False),
    ]  # fmt: skip
    assert all(line["seconds"] >= 0 for line in lines)


def test_a_stage_that_fails_is_not_noted(tmp_path, capsys):
    stages = Stages()
    stages.keep_in(tmp_path)
    with pytest.raises(ZeroDivisionError), stages.stage("write"):
        1 / 0  # noqa: B018
    assert capsys.readouterr().err == "" and not (tmp_path / FILE).exists()


def test_half_a_line_of_a_killed_run_is_dropped(tmp_path):
    (tmp_path / FILE).write_text('{"stage": "plan", "seconds": 1.0, "kept": false}\n{"stage": "dis')
    stages = Stages()
    stages.keep_in(tmp_path)
    with stages.stage("verify"):
        pass
    assert [json.loads(line)["stage"] for line in (tmp_path / FILE).read_text().splitlines()] == ["plan", "verify"]
