"""Which runtime answers for which model file."""

from __future__ import annotations

from pathlib import Path

from tinyasc.errors import InputError
from tinyasc.infer.backends.base import Backend, file_kind, unreadable
from tinyasc_export.bundle import Bundle

AUTO = "auto"
FOLDER = "a folder of C"
# In `auto`'s order; each takes its own kind of file first, and `auto` goes no further than that.
TAKES = {"litert": (".tflite",), "onnx": (".onnx",), "reference": (".npz", ".tflite"), "c": (FOLDER,)}
BACKENDS = (AUTO, *TAKES)


def open_backend(path: Path, name: str = AUTO, *, exact: bool = False, described: Bundle | None = None) -> Backend:
    """A model file in its runtime.

    `auto` goes by the file alone: LiteRT for .tflite, else onnxruntime for .onnx, else the numpy reference for .npz,
    else the C compiler of this machine for a folder of C.
    Where that runtime is not installed it fails and says so; it never turns to a slower one in silence.

    Args:
        path: the file, or a folder that `tinyasc export --to c` wrote; what it is is told by its content, then by its
            suffix.
        name: one of `BACKENDS`.
        exact: integer .tflite models on LiteRT's reference kernels.
        described: what stands for the bundle of a .tflite or .onnx file that has none.

    Raises:
        InputError: no such backend, or one that does not take this kind of file.
        ModelFileError: missing, damaged, of another kind, or without a card.
        TinyascError: its runtime or C compiler is not installed.
    """
    if name not in BACKENDS:
        raise InputError(f"backend {name!r} is not there; take one of {', '.join(BACKENDS)}")
    kind = _kind(path)
    if name == AUTO:
        name = next(backend for backend, kinds in TAKES.items() if kind == kinds[0])
    if kind not in TAKES[name]:
        raise InputError(
            f"{path}: is {kind if kind == FOLDER else f'a {kind} file'}, and backend {name} takes "
            f"{' and '.join(TAKES[name])}; name such a one with --model, or leave the backend to auto"
        )
    # A runtime is imported when it is asked for: the others may not even be installed.
    if name == "litert":
        from tinyasc.infer.backends.litert_backend import LiteRtBackend

        return LiteRtBackend(path, exact=exact, described=described)
    if name == "onnx":
        from tinyasc.infer.backends.onnx_backend import OnnxBackend

        return OnnxBackend(path, described=described)
    if name == "c":
        from tinyasc.infer.backends.c_backend import CBackend

        return CBackend(path)
    from tinyasc.infer.backends.reference_backend import ReferenceBackend

    return ReferenceBackend(path)


def _kind(path: Path) -> str:
    """What kind of file it is, as the suffix that such a file has; or that it is a folder."""
    try:
        if path.is_dir():
            return FOLDER
        with path.open("rb") as file:
            head = file.read(8)
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from None
    return file_kind(path, head)
