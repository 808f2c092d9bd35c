"""Folders of C as `tinyasc export --to c` writes them, of the tiny models."""

from pathlib import Path

import tiny_models as tiny

from tinyasc.frontend import FrontEnd
from tinyasc.frontend_device import plan_for
from tinyasc.infer.c_library import COMPILERS
from tinyasc_export.bundle import Bundle
from tinyasc_export.c99 import complete, to_c, with_front_end
from tinyasc_export.graph import Graph


def files(
    graph: Graph, bundle: Bundle, *, name: str = "scenes", arithmetic: str = "device", window_hop: int | None = None
) -> dict[str, str]:
    """Text by file name."""
    source = to_c(graph, bundle, name=name)
    if arithmetic != "none":
        plan = plan_for(FrontEnd.from_dict(bundle.front_end), graph)
        source = with_front_end(source, graph, plan, arithmetic=arithmetic, window_hop=window_hop)
    return complete(source, graph, bundle, rounding="tflite", arithmetic=arithmetic).files


def write(folder: Path, graph: Graph | None = None, bundle: Bundle | None = None, **how) -> Path:
    """Writes a folder of C; by default the tiny int8 model's."""
    folder.mkdir(parents=True)
    for name, text in files(graph or tiny.int8_graph(), bundle or tiny.bundle(), **how).items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def without_compilers(monkeypatch) -> None:
    """As on a machine without cc, gcc and clang; what other programs there are stays."""
    import shutil

    which = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name, *rest, **more: None if name in COMPILERS else which(name, *rest))
