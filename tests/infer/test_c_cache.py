"""The cache of compiled folders: compilers that hang, and what killed processes left in it."""

import os
import subprocess
import sys
import time

import c_folders
import pytest
from click.testing import CliRunner

from tinyasc.cli.main import cli
from tinyasc.errors import TinyascError
from tinyasc.infer import c_library
from tinyasc.infer.c_folder import read_c_folder


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TINYASC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "c"


@pytest.fixture
def folder(tmp_path):
    return c_folders.write(tmp_path / "scenes", arithmetic="none")


def a_compiler(tmp_path, monkeypatch, script: str):
    """`cc` is a script."""
    (tmp_path / "bin").mkdir(exist_ok=True)
    (tmp_path / "bin" / "cc").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "bin" / "cc").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")


def test_a_compiler_that_hangs_is_one_line(folder, cache, tmp_path, monkeypatch):
    a_compiler(tmp_path, monkeypatch, "sleep 600")
    monkeypatch.setattr(c_library, "COMPILER_SECONDS", 0.3)
    began = time.monotonic()
    result = CliRunner().invoke(cli, ["infer", "--model", str(folder), str(tmp_path / "clip.wav")])
    assert result.exit_code == 1 and time.monotonic() - began < 20
    assert result.stderr.splitlines()[-1].endswith(
        "scenes: compiling its C with cc was not done after 0.3 s and was ended; is this machine busy?"
    )
    assert list(cache.iterdir()) == []


def test_what_killed_processes_left_is_removed_at_the_next_build(folder, cache, tmp_path, monkeypatch):
    a_compiler(tmp_path, monkeypatch, "exec touch net.so")
    now = time.time()
    for name, age in ((".build-old", c_library.STALE_SECONDS + 60), (".build-new", 60), ("mine", 10**7)):
        (cache / name).mkdir(parents=True)
        (cache / name / "net.c").write_text("")
        os.utime(cache / name, (now - age, now - age))
    (cache / ".build-link").symlink_to(cache / "mine")  # what it leads to is nobody's to remove
    os.utime(cache / ".build-link", (0, 0), follow_symlinks=False)
    library = c_library.library_of(read_c_folder(folder))
    assert {file.name for file in cache.iterdir()} == {".build-new", ".build-link", "mine", library.name}
    assert (cache / "mine" / "net.c").is_file()
    assert c_library.STALE_SECONDS > c_library.COMPILER_SECONDS


def test_a_killed_build_leaves_no_library_and_the_next_one_makes_it(folder, cache, tmp_path, monkeypatch):
    a_compiler(tmp_path, monkeypatch, "touch net.so\nexec sleep 5")
    code = (
        "import sys; from pathlib import Path; from tinyasc.infer import c_library, c_folder\n"
        "c_library.library_of(c_folder.read_c_folder(Path(sys.argv[1])))"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(folder)])
    while not list(cache.glob(".build-*/net.so")):
        time.sleep(0.02)
        assert process.poll() is None
    process.kill()
    process.wait()
    assert not list(cache.glob("*.so")) and len(list(cache.iterdir())) == 1
    left = next(cache.iterdir())
    os.utime(left, (0, 0))
    a_compiler(tmp_path, monkeypatch, "exec touch net.so")
    library = c_library.library_of(read_c_folder(folder))
    assert [file.name for file in cache.iterdir()] == [library.name]


def test_processes_that_clear_up_and_build_at_once_end_with_one_library(folder, cache, tmp_path, monkeypatch):
    a_compiler(tmp_path, monkeypatch, "sleep 0.2\nexec touch net.so")
    for i in range(30):
        (cache / f".build-{i}").mkdir(parents=True)
        os.utime(cache / f".build-{i}", (0, 0))
    code = (
        "import sys; from pathlib import Path; from tinyasc.infer import c_library, c_folder\n"
        "print(c_library.library_of(c_folder.read_c_folder(Path(sys.argv[1]))))"
    )
    command = [sys.executable, "-c", code, str(folder)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = {process.communicate(timeout=60)[0].strip() for process in processes}
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert said == {str(next(cache.iterdir()))} and len(list(cache.iterdir())) == 1


def test_a_compiler_that_refuses_leaves_nothing(folder, cache, tmp_path, monkeypatch):
    a_compiler(tmp_path, monkeypatch, "echo 'net.c:1: error: no' >&2; exit 1")
    with pytest.raises(TinyascError, match=r"cc cannot compile its C: net.c:1: error: no"):
        c_library.library_of(read_c_folder(folder))
    assert list(cache.iterdir()) == []
