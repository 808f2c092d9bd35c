"""Damaged sounds and models, by their numbers, against `tinyasc infer`.

Each must be answered or be refused in one line with exit code 2: no crash, no traceback, no hang, no line of native
code, no blow-up of memory. `python tests/fuzz/batches.py model 0 5000` runs as many as one likes.
"""

import pytest
from batches import run_cases

SHORT = {"model": 150, "sound": 250}
LONG = {"model": 5000, "sound": 20000}


@pytest.mark.parametrize("what", SHORT)
def test_damaged_files_are_answered_or_refused(tmp_path, what):
    problems, codes = run_cases(what, 0, SHORT[what], tmp_path)
    assert problems == []
    assert codes.total() == SHORT[what]
    # Both happen: a damage that is always refused, or never, would test one half alone.
    assert min(sum(n for name, n in codes.items() if name.endswith(end)) for end in (" 0", " 2")) >= 5


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("what", LONG)
def test_many_damaged_files_are_answered_or_refused(tmp_path, what):
    """About four minutes of processor time together."""
    problems, codes = run_cases(what, 0, LONG[what], tmp_path)
    assert problems == []
    assert codes.total() == LONG[what]


def test_the_watch_sees_what_no_file_may_do(tmp_path):
    problems = [
        record
        for first, count, seconds in ((0, 2, 60), (2, 1, 3), (3, 4, 60))
        for record in run_cases("harm", first, count, tmp_path, seconds=seconds, mb=100)[0]
    ]
    told = {record["case"]: record["problem"] for record in problems}
    assert sorted(told) == [1, 2, 3, 4, 5, 6]
    assert told[1].startswith("the process ended with -11")
    assert "Timeout (0:00:03)!" in told[2] and "_hang" in told[2]
    assert told[3].startswith("took ") and told[3].endswith(" MB more")
    assert (
        "IndexError" in told[4]
        and told[5] == "native code wrote b'note: native'"
        and told[6].startswith("said 'a line")
    )
