from __future__ import annotations

import functools
import math
import operator
import os
import time

import pytest

from tinyasc.data.workers import Workers, available_cores
from tinyasc.errors import InputError, TinyascError


@pytest.mark.parametrize("count", [1, 3])
def test_answers_come_in_the_order_of_the_questions(count):
    with Workers(math.factorial, count) as pool:
        assert list(pool.answers(iter(range(40)))) == [math.factorial(i) for i in range(40)]
        # The pool serves again.
        assert list(pool.answers([5])) == [120]


def test_they_are_other_processes_and_end_with_the_block():
    with Workers(eval, 2) as pool:
        pids = set(pool.answers(["__import__('os').getpid()"] * 20))
        assert os.getpid() not in pids and 1 <= len(pids) <= 2
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_what_the_function_raises_is_raised_here():
    with Workers(math.sqrt, 2) as pool, pytest.raises(ValueError, match=r"math domain|nonnegative"):
        list(pool.answers([4.0, -1.0, 9.0]))


def test_what_the_function_prints_does_not_disturb(capfd):
    with Workers(print, 1) as pool:
        assert list(pool.answers(["a word"] * 3)) == [None] * 3
    assert capfd.readouterr().err.count("a word") == 3


def test_a_worker_that_dies_is_told():
    with Workers(os._exit, 2) as pool, pytest.raises(TinyascError, match=r"worker process ended.*run the same command"):
        list(pool.answers([3]))


def test_leaving_early_does_not_wait():
    start = time.monotonic()
    with Workers(time.sleep, 1) as pool:
        answers = pool.answers([0, 600, 600])
        with pytest.raises(InputError):
            raise_after_first(answers)
    assert time.monotonic() - start < 60


def raise_after_first(answers):
    next(answers)
    raise InputError("stop")


def test_ahead_of_the_reader_by_a_few_questions_alone():
    asked = []

    def questions():
        for i in range(1000):
            asked.append(i)
            yield i

    with Workers(functools.partial(operator.add, 1), 2) as pool:
        answers = pool.answers(questions())
        assert next(answers) == 1
        assert len(asked) <= 6


def test_available_cores():
    assert 1 <= available_cores() <= (os.cpu_count() or 1)


def test_ctrl_c_reaches_no_worker():
    with Workers(eval, 1) as pool:
        (group,) = pool.answers(["__import__('os').getpgrp()"])
        assert group != os.getpgrp()
