"""What is not installed is skipped and said; in a run in which everything was to be there it is a failure."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ON_M55 = "tests/firmware_sim/test_counting.py::test_steps_are_counted_apart[mps3-an547]"


def of_pytest(test, *options, **environment):
    """Exit code and output of a run of its own."""
    command = [sys.executable, "-m", "pytest", "-p", "no:xdist", "-p", "no:cacheprovider", "-m", "firmware", test]
    done = subprocess.run(
        [*command, *options], cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=120
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(("options", "code", "words"), [((), 0, "1 skipped"), (("--no-skips",), 1, "1 failed")])
def test_without_qemu(tmp_path, options, code, words):
    """A PATH without any program."""
    returned, said = of_pytest(ON_M55, *options, PATH=str(tmp_path))
    assert returned == code and words in said and "qemu-system-arm is not installed" in said, said


@pytest.mark.parametrize(("options", "code", "words"), [((), 5, "1 skipped"), (("--no-skips",), 2, "1 error")])
def test_without_unicorn(tmp_path, options, code, words):
    """A package that whole files of tests need is hidden behind one that cannot be imported."""
    (tmp_path / "unicorn.py").write_text("raise ModuleNotFoundError('hidden')\n")
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    returned, said = of_pytest("tests/firmware_sim/test_runs.py", *options, PYTHONPATH=path)
    assert returned == code and words in said and "unicorn is not installed" in said, said
