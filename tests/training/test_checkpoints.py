"""What is said of a checkpoint that cannot be read."""

import pytest

from tinyasc.training.checkpoints import first_line


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (KeyError(174812789), "KeyError 174812789"),
        (EOFError(), "EOFError"),
        (RuntimeError("the file is cut\nat byte 3"), "the file is cut"),
    ],
)
def test_an_error_in_one_line_with_words(error, line):
    assert first_line(error) == line
