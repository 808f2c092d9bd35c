"""A compiler for boards that hangs ends in one line."""

import time

import pytest

from tinyasc_export.errors import TinyascError
from tinyasc_firmware_sim import load_board, toolchain


def test_a_compiler_that_hangs_is_ended(tmp_path, monkeypatch):
    """GCC's name, so that the test needs no compiler."""
    board = load_board("nucleo-l4r5zi")
    core, _ = toolchain.core_of(board)
    program = tmp_path / toolchain.gcc_program(core)
    program.write_text("#!/bin/sh\nsleep 600\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(toolchain, "COMPILER_SECONDS", 0.3)
    (tmp_path / "main.c").write_text("int main(void) { return 0; }\n")
    began = time.monotonic()
    with pytest.raises(TinyascError, match=r"^building the image for .* with gcc was not done after 0.3 s") as caught:
        toolchain.build([tmp_path / "main.c"], board, compiler="gcc")
    assert time.monotonic() - began < 20 and "\n" not in str(caught.value)
    monkeypatch.setattr(toolchain, "_has_zig", lambda: False)
    program.rename(tmp_path / "cc")
    with pytest.raises(TinyascError, match=r"^compiling main.c for this machine was not done after 0.3 s"):
        toolchain.host_library(tmp_path / "main.c", tmp_path)
