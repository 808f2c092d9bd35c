"""Which model `tinyasc infer` takes when none is named."""

from __future__ import annotations

from pathlib import Path

from tinyasc.errors import InputError

RUNS = "runs"
COMPRESSED = "model-int8.tflite"
WIDE = "model-int16x8.tflite"  # what `compress --bits 16` writes in its place
OVER = "model-int8-over-budget.tflite"  # beside which the other stands for --also, and no limit was held against it
BUNDLED = Path(__file__).parent / "bundled" / "esc10-int8.tflite"


def default_model(folder: Path) -> tuple[Path, str]:
    """The newest compressed model under `folder`/runs, else the one that comes with tinyasc; and which it is, in words.

    Raises:
        InputError: there is neither, in a checkout without the file.
    """
    try:
        return newest_model(folder), "newest in ./runs"
    except InputError:
        if not BUNDLED.is_file():
            raise
        return BUNDLED, "comes with tinyasc and knows the ten sounds of ESC-10; name another with --model"


def newest_model(folder: Path) -> Path:
    """The compressed model that was written last under `folder`/runs.

    Args:
        folder: where the commands are run, usually the current folder.

    Raises:
        InputError: there is none; the line says how to get one.
    """
    found = []
    paths = list((folder / RUNS).glob(f"*/{COMPRESSED}"))
    other = {path.parent for name in (COMPRESSED, OVER) for path in (folder / RUNS).glob(f"*/{name}")}
    paths += [path for path in (folder / RUNS).glob(f"*/{WIDE}") if path.parent not in other]
    for path in paths:
        try:
            found.append((path.stat().st_mtime_ns, path))
        except OSError:  # a link to nowhere, or a run that was removed in between
            continue
    if not found:
        raise InputError(
            f"no model was named and there is no {folder / RUNS}/*/{COMPRESSED}; "
            "make one with `tinyasc compress --budget 128KB`, or name one"
        )
    return max(found)[1]
