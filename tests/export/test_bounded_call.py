"""Programs that do not end are ended, with all that they started."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tinyasc_export.bounded_call import bounded_call
from tinyasc_export.errors import TinyascError

# Starts a child that ignores its end politely asked for, says its number, and waits for it.
DRIVER = """#!/bin/sh
sh -c 'trap "" TERM; exec sleep 600' &
echo $! > "$1"
wait
"""


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and nobody waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.fixture
def driver(tmp_path):
    if not Path("/proc/self/stat").is_file():
        pytest.skip("no /proc here to see processes in")
    path = tmp_path / "driver"
    path.write_text(DRIVER)
    path.chmod(0o755)
    return path


def ended_soon(pid: int) -> bool:
    deadline = time.monotonic() + 5
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not alive(pid)


def test_when_the_time_is_up_the_whole_group_is_ended(driver, tmp_path):
    began = time.monotonic()
    with pytest.raises(TinyascError, match=r"^x.c: the compiler was not done after 0.5 s and was ended; .*busy\?$"):
        bounded_call([str(driver), str(tmp_path / "pid")], seconds=0.5, what="x.c: the compiler")
    assert time.monotonic() - began < 10
    assert ended_soon(int((tmp_path / "pid").read_text()))


def test_an_interrupt_ends_it_too(driver, tmp_path):
    # A shell that starts its jobs in the background has them ignore interrupts; so would this one, after its parent.
    code = (
        "import signal, sys; from tinyasc_export.bounded_call import bounded_call\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "bounded_call(sys.argv[1:], seconds=600, what='x')"
    )
    process = subprocess.Popen([sys.executable, "-c", code, driver, tmp_path / "pid"], stderr=subprocess.DEVNULL)
    while not (tmp_path / "pid").is_file() or not (tmp_path / "pid").read_text():
        time.sleep(0.02)
        assert process.poll() is None
    process.send_signal(2)
    assert process.wait(10) != 0 and ended_soon(int((tmp_path / "pid").read_text()))


def test_what_it_says_and_its_code():
    code = "import os, sys; print(os.getcwd(), os.environ['A'], sys.stdin.read()); sys.stderr.write('no'); sys.exit(3)"
    done = bounded_call([sys.executable, "-c", code], seconds=60, what="x", cwd=Path("/"), env=os.environ | {"A": "b"})
    assert (done.returncode, done.stdout.split(), done.stderr) == (3, [b"/", b"b"], b"no")
    with pytest.raises(FileNotFoundError):
        bounded_call(["/no/such/program"], seconds=1, what="x")
