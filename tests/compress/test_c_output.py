"""A folder of C that is written over: its own old files go, everybody else's stay."""

import json

import pytest

from tinyasc.compress import c_output
from tinyasc.compress.c_output import write_c
from tinyasc.files import file_hash
from tinyasc_export.bundle import Bundle
from tinyasc_export.c99 import complete, to_c
from tinyasc_export.c99.folder import BUNDLE, written_files
from tinyasc_export.graph import Graph, Tensor
from tinyasc_export.quantize import quantize_int8

POOLS = {"tinyasc_max_pool_s8.c", "tinyasc_max_pool_s8.h"}


def source(kind: str):
    """A net of one pool, whose kernel is named after it."""
    graph = Graph(input="x", tensors={"x": Tensor("x", (1, 4, 4, 2))})
    graph.output = graph.add_op(kind, ["x"], {"kernel": (2, 2), "stride": (1, 1), "padding": (0, 0, 0, 0)})
    graph = quantize_int8(graph, {name: (-1.0, 1.0) for name in graph.tensors})
    bundle = Bundle(("a",), {}, {})
    return complete(to_c(graph, bundle, name="net"), graph, bundle, rounding="tflite")


def names(folder) -> set[str]:
    return {file.name for file in folder.iterdir()}


def test_kernels_that_the_new_net_lacks_are_removed(tmp_path):
    folder, first, second = tmp_path / "net", source("max_pool"), source("average_pool")
    assert write_c(folder, first) == c_output.WrittenC((), ()) and names(folder) == set(first.files) > POOLS
    for name in ("mine.txt", "mine.c", "net.o"):
        (folder / name).write_text("mine")
    written = write_c(folder, second)
    assert set(written.removed) == POOLS == set(first.files) - set(second.files) and written.left == ("mine.c",)
    assert names(folder) == {*second.files, "mine.txt", "mine.c", "net.o"}
    assert all((folder / name).read_text() == text for name, text in second.files.items())


def test_what_was_changed_or_is_a_link_stays(tmp_path):
    folder = tmp_path / "net"
    write_c(folder, source("max_pool"))
    (folder / "tinyasc_max_pool_s8.c").write_text("/* my own kernel */\n")
    header = folder / "tinyasc_max_pool_s8.h"
    header.rename(tmp_path / "elsewhere.h")
    header.symlink_to(tmp_path / "elsewhere.h")
    assert write_c(folder, source("average_pool")) == c_output.WrittenC((), tuple(sorted(POOLS)))
    assert (folder / "tinyasc_max_pool_s8.c").read_text() == "/* my own kernel */\n" and header.is_symlink()


def test_a_manifest_names_no_file_of_another_folder(tmp_path):
    folder = tmp_path / "net"
    write_c(folder, source("max_pool"))
    (tmp_path / "victim.c").write_text("mine")
    bad = file_hash(tmp_path / "victim.c")
    content = json.loads((folder / BUNDLE).read_text())
    for name in ("../victim.c", str(tmp_path / "victim.c"), "..", ".", "", "a/b.c", "a\nb.c"):
        content["c"]["written"] = {name: bad}
        (folder / BUNDLE).write_text(json.dumps(content))
        assert written_files((folder / BUNDLE).read_bytes()) == {}
        write_c(folder, source("max_pool"))
    assert (tmp_path / "victim.c").read_text() == "mine"


@pytest.mark.parametrize("before", [None, b"", b"{}", b"[]", b'{"c": []}', b'{"c": {"written": ["net.c"]}}', b"\xff"])
def test_without_a_manifest_nothing_is_removed(tmp_path, before):
    """As in folders of earlier versions."""
    folder = tmp_path / "net"
    write_c(folder, source("max_pool"))
    (folder / BUNDLE).unlink()
    if before is not None:
        (folder / BUNDLE).write_bytes(before)
    assert write_c(folder, source("average_pool")) == c_output.WrittenC((), tuple(sorted(POOLS)))
    assert names(folder) > POOLS


@pytest.mark.parametrize("writes", [1, 2])
def test_after_a_kill_the_next_call_still_knows_what_goes(tmp_path, monkeypatch, writes):
    folder, second = tmp_path / "net", source("average_pool")
    write_c(folder, source("max_pool"))
    write, calls = c_output.write_folder_atomic, []

    def killed(*given):
        calls.append(given)
        if len(calls) == writes:
            raise KeyboardInterrupt
        write(*given)

    with monkeypatch.context() as patch:
        patch.setattr(c_output, "write_folder_atomic", killed)
        with pytest.raises(KeyboardInterrupt):
            write_c(folder, second)
    write_c(folder, second)
    assert names(folder) == set(second.files)
