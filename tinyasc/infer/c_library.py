"""Compiles a folder of C for this machine, once: the library is kept by the hash of what it was made from."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from string import Template

from tinyasc.errors import TinyascError
from tinyasc.infer.c_folder import CFolder
from tinyasc_export.bounded_call import COMPILER_SECONDS, bounded_call

COMPILERS = ("cc", "gcc", "clang")
# As the folder's own Makefile builds it; equal bits need a*b+c to stay two operations.
FLAGS = ("-std=c99", "-ffp-contract=off", "-O2", "-shared", "-fPIC", "-fvisibility=hidden")
# Zig's clang traps what it takes for undefined unless told not to look.
ZIG_FLAGS = ("-fno-sanitize=undefined",)
# The library's whole surface, under names that do not depend on the net's.
ENTRY = Template("""#include "$name.h"

#define TINYASC_ENTRY __attribute__((visibility("default")))

TINYASC_ENTRY int32_t tinyasc_input_bytes(void);
TINYASC_ENTRY int32_t tinyasc_output_bytes(void);
TINYASC_ENTRY void tinyasc_invoke(const void *input, void *output);

int32_t tinyasc_input_bytes(void)
{
    return (int32_t)sizeof(${name}_value) * ${upper}_INPUT_SIZE;
}

int32_t tinyasc_output_bytes(void)
{
    return (int32_t)sizeof(${name}_value) * ${upper}_OUTPUT_SIZE;
}

void tinyasc_invoke(const void *input, void *output)
{
    ${name}_invoke(input, output);
}
""")
# Folders in which a library is made. One that is older than what a compiler may take was left by a killed process.
BUILD_PREFIX = ".build-"
STALE_SECONDS = 4 * COMPILER_SECONDS
ENTRY_FILE = "tinyasc_entry.c"  # no net's name begins so


def library_of(folder: CFolder) -> Path:
    """The shared library of a folder of C: from the cache, or compiled into it. Nothing is written into the folder.

    Raises:
        TinyascError: no C compiler is installed, it refuses the code or does not end, or the cache cannot be written.
    """
    compiler = find_compiler()
    name = folder.called.name
    entry = ENTRY.substitute(name=name, upper=name.upper()).encode("ascii")
    said = "\0".join((*compiler, *FLAGS, sys.platform, platform.machine(), folder.code_blake2b))
    key = hashlib.blake2b(said.encode("utf-8", "surrogateescape") + entry, digest_size=16).hexdigest()
    try:
        cache = cache_folder()
        library = cache / f"{key}.so"
        if _ours(library):
            return library
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        _remove_stale(cache)
        with tempfile.TemporaryDirectory(dir=cache, prefix=BUILD_PREFIX) as scratch:
            built = _compile(folder, entry, compiler, Path(scratch))
            os.replace(built, library)  # whole or not at all, whoever else compiles the same
    except OSError as error:
        raise TinyascError(
            f"{folder.path}: the library that its C compiles to cannot be kept ({error.strerror}: {error.filename}); "
            "name a folder for it in TINYASC_CACHE"
        ) from None
    return library


def find_compiler() -> list[str]:
    """The C compiler of this machine as the words of a command: cc, gcc or clang, else the wheel `ziglang`.

    Raises:
        TinyascError: there is none.
    """
    for name in COMPILERS:
        if found := shutil.which(name):
            return [found]
    if find_spec("ziglang") is not None:
        return [sys.executable, "-m", "ziglang", "cc", *ZIG_FLAGS]
    raise TinyascError(
        "no C compiler is installed, which --backend c takes (cc, gcc or clang); install one of the system's, or with: "
        "pip install ziglang"
    )


def cache_folder() -> Path:
    """Where libraries are kept: in $TINYASC_CACHE, else in the user's cache folder.

    Raises:
        OSError: the user has no home.
    """
    if named := os.environ.get("TINYASC_CACHE"):
        return Path(named) / "c"
    if named := os.environ.get("XDG_CACHE_HOME"):
        return Path(named) / "tinyasc" / "c"
    try:
        return Path.home() / ".cache" / "tinyasc" / "c"
    except RuntimeError:
        raise FileNotFoundError(2, "no home folder", "~") from None


def _ours(library: Path) -> bool:
    """Whether a library is there that nobody else put there: it will be run."""
    try:
        status = library.stat()
    except FileNotFoundError:
        return False
    return status.st_uid == os.geteuid()


def _remove_stale(cache: Path) -> None:
    """Removes what killed processes left; what others remove meanwhile, or forbid, does not matter."""
    before = time.time() - STALE_SECONDS
    for left in cache.glob(f"{BUILD_PREFIX}*"):
        try:
            if left.lstat().st_mtime < before:
                shutil.rmtree(left, ignore_errors=True)
        except OSError:
            continue


def _compile(folder: CFolder, entry: bytes, compiler: list[str], scratch: Path) -> Path:
    for name, content in {**folder.files, ENTRY_FILE: entry}.items():
        (scratch / name).write_bytes(content)
    library = "net.so"
    command = [*compiler, *FLAGS, *folder.called.sources, ENTRY_FILE, "-o", library]
    plain = os.environ | {"NO_COLOR": "1", "LC_ALL": "C"}
    what = f"{folder.path}: compiling its C with {Path(compiler[0]).name}"
    done = bounded_call(command, seconds=COMPILER_SECONDS, what=what, cwd=scratch, env=plain)
    if done.returncode:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["it does not say why"]
        line = next((line for line in lines if "error" in line.lower()), lines[-1]).strip()
        raise TinyascError(f"{folder.path}: {Path(compiler[0]).name} cannot compile its C: {line[:200]}")
    return scratch / library
