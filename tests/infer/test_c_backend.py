"""A folder of C as a model: the reference's answers to the bit, a library compiled once, and what is refused."""

import json
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import c_folders
import numpy as np
import pytest
import tiny_models as tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyasc.errors import InputError, ModelFileError, TinyascError
from tinyasc.frontend import features
from tinyasc.infer import c_library
from tinyasc.infer.about import read_about
from tinyasc.infer.backends.c_backend import CBackend
from tinyasc.infer.runner import load
from tinyasc_export import reference
from tinyasc_export.c99.folder import read_bundle_json
from tinyasc_export.graphfile import save_graph
from tinyasc_export.quantize import calibrate, quantize_int16x8

MELS = [features(tiny.tone(label), tiny.FRONT_END) for label in tiny.LABELS]


def int16x8_graph():
    return quantize_int16x8(tiny.graph(), calibrate(tiny.graph(), np.stack(MELS).transpose(0, 2, 3, 1)))


def library_or_skip():
    try:
        c_library.find_compiler()
    except TinyascError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """One cache for the module: a library is compiled once."""
    library_or_skip()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TINYASC_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def folder(cache, tmp_path_factory) -> Path:
    return c_folders.write(tmp_path_factory.mktemp("c") / "scenes")


@pytest.mark.parametrize("make", [tiny.int8_graph, int16x8_graph])
@pytest.mark.parametrize("arithmetic", ["reference", "device", "fixed"])
def test_answers_are_the_reference_s_to_the_bit(cache, tmp_path, make, arithmetic):
    """Either backend under either arithmetic; the folder's own front end does not matter to it."""
    folder = c_folders.write(tmp_path / "net", make(), arithmetic="none")
    (tmp_path / "graph-int8.npz").write_bytes(save_graph(make(), tiny.bundle()))
    ours, theirs = (load(path, arithmetic=arithmetic) for path in (folder, tmp_path / "graph-int8.npz"))
    rng = np.random.default_rng(0)
    assert ours.backend.taken == theirs.backend.taken
    for _ in range(4):
        samples = (rng.dirichlet(np.ones(3)) @ [tiny.tone(x, 4096) for x in tiny.LABELS]).astype(np.float32)
        mel = ours.features(samples)
        assert np.array_equal(mel, theirs.features(samples))
        assert np.array_equal(ours.logits(mel, ""), theirs.logits(mel, ""))
        for tta in (None, "3:shift+mean-mask,gain+zero-mask"):
            p, q = (model.predict(samples, tta=tta).probabilities for model in (ours, theirs))
            assert np.array_equal(p, q)
    for label in tiny.LABELS:
        assert ours.predict(tiny.tone(label)).top()[0][0] == label


def test_integers_are_rounded_from_features_as_the_graph_says(folder):
    """Against the reference's own call on integers, without the backend's rescaling."""
    backend, graph = CBackend(folder), tiny.int8_graph()
    scale, zero_point = backend.taken["quantization"]
    for q in np.random.default_rng(1).integers(-128, 128, (10, 1, 12, 15, 1)).astype(np.int8):
        mel = ((q.astype(np.float64) - zero_point) * scale).astype(np.float32)[0].transpose(2, 0, 1)
        y = graph.tensors[graph.output]
        expected = (reference.run(graph, q)[0] - float(y.zero_point[0])) * y.scale[0]
        assert np.array_equal(backend.logits(mel), expected.astype(np.float32))


def test_threads_and_models_share_one_arena_in_turns(folder):
    models = [load(folder) for _ in range(2)]
    expected = [models[0].backend.logits(mel).tolist() for mel in MELS]
    start = threading.Barrier(4)

    def ask(i):
        start.wait()
        return [models[i % 2].backend.logits(MELS[(i + j) % 3]).tolist() == expected[(i + j) % 3] for j in range(200)]

    with ThreadPoolExecutor(4) as threads:
        assert all(map(all, threads.map(ask, range(4))))


def test_the_library_is_compiled_once_and_again_when_the_code_changes(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("TINYASC_CACHE", str(tmp_path / "cache"))
    mine = tmp_path / "mine"
    shutil.copytree(folder, mine)
    before = {file: file.read_bytes() for file in mine.iterdir()}
    ran = []
    call = c_library.bounded_call
    monkeypatch.setattr(
        c_library, "bounded_call", lambda command, **how: (ran.append(command), call(command, **how))[1]
    )
    first = load(mine).backend.logits(MELS[0])
    assert np.array_equal(load(mine).backend.logits(MELS[0]), first) and len(ran) == 1
    assert {file: file.read_bytes() for file in mine.iterdir()} == before
    assert [file.suffix for file in (tmp_path / "cache" / "c").iterdir()] == [".so"]
    # A kernel of one's own stands in the place of ours; here one that answers otherwise.
    kernel = next(file for file in mine.iterdir() if file.name.startswith("tinyasc_mean_") and file.suffix == ".c")
    text = kernel.read_text()
    kernel.write_text(text + "/* mine */\n")
    assert np.array_equal(load(mine).backend.logits(MELS[0]), first) and len(ran) == 2


def test_without_a_compiler_zig_s_is_taken_and_without_both_one_line_says_so(folder, tmp_path, monkeypatch):
    c_folders.without_compilers(monkeypatch)
    monkeypatch.setattr(c_library, "find_spec", lambda name: None)
    with pytest.raises(TinyascError, match=r"no C compiler is installed.*pip install ziglang") as caught:
        load(folder)
    assert "\n" not in str(caught.value)
    monkeypatch.undo()
    if find_spec("ziglang") is None:
        pytest.skip("the wheel ziglang is not here")
    expected = load(folder).backend.logits(MELS[1])
    c_folders.without_compilers(monkeypatch)
    monkeypatch.setenv("TINYASC_CACHE", str(tmp_path / "other"))
    assert "ziglang" in c_library.find_compiler()
    assert np.array_equal(load(folder).backend.logits(MELS[1]), expected)


def test_code_that_does_not_compile_is_one_line(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "mine")
    (tmp_path / "mine" / "scenes.c").write_text("int main(void) { return sizes; }\n")
    with pytest.raises(TinyascError, match=r"mine: \w+ cannot compile its C: .*error.*sizes") as caught:
        load(tmp_path / "mine")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_listed_is_one_line(folder, tmp_path):
    """As where somebody's own kernel calls a file of its own, and bundle.json does not know it."""
    mine = tmp_path / "mine"
    shutil.copytree(folder, mine)
    content = json.loads((mine / "bundle.json").read_text())
    content["c"]["sources"] = [name for name in content["c"]["sources"] if not name.startswith("tinyasc_mean_")]
    (mine / "bundle.json").write_text(json.dumps(content))
    with pytest.raises(TinyascError, match="undefined symbol: tinyasc_mean_") as caught:
        load(mine)
    assert "\n" not in str(caught.value)


def test_a_cache_that_cannot_be_written_is_one_line(folder, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TINYASC_CACHE", str(tmp_path / "file"))
    with pytest.raises(TinyascError, match=r"cannot be kept .*TINYASC_CACHE"):
        load(folder)


def test_the_cache_is_the_user_s(monkeypatch):
    monkeypatch.delenv("TINYASC_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert c_library.cache_folder() == Path("/x/tinyasc/c")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/ann")
    assert c_library.cache_folder() == Path("/home/ann/.cache/tinyasc/c")


def changed(folder: Path, to: Path, change) -> Path:
    """A copy whose bundle.json is changed in place."""
    shutil.copytree(folder, to)
    content = json.loads((to / "bundle.json").read_text())
    change(content)
    (to / "bundle.json").write_text(json.dumps(content))
    return to


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda b: b.pop("c"), "does not say how its net in C is called"),
        (lambda b: b["c"].update(name="x; y"), "or is damaged"),
        (lambda b: b["c"].update(sources=["../scenes.c"]), "or is damaged"),
        (lambda b: b["c"]["input"].update(scale=0), "or is damaged"),
        (lambda b: b["c"]["input"].update(scale=1e300), "or is damaged"),
        (lambda b: b["c"]["input"].update(zero_point=128), "or is damaged"),
        (lambda b: b["c"]["input"].update(dtype="float32"), "or is damaged"),
        (lambda b: b["c"]["input"].update(shape=[]), "or is damaged"),
        (lambda b: b["c"]["input"].update(shape=[12, 15]), "its input is"),
        (lambda b: b["c"]["output"].update(shape=[1, 4]), "an output of 3 bytes, its bundle.json one of 4"),
        (lambda b: b["c"]["input"].update(dtype="int16", zero_point=0), "an input of 180 bytes, its bundle.json one"),
        (lambda b: b["c"]["sources"].append("gone.c"), "gone.c: cannot read this model file"),
        (lambda b: b.update(labels=["a"]), "3 logits, its card names 1 labels"),
        (lambda b: b.update(front_end={}), "front-end field"),
    ],
)
def test_a_bundle_that_does_not_fit_is_refused(folder, tmp_path, change, says):
    with pytest.raises(ModelFileError, match=says) as caught:
        load(changed(folder, tmp_path / "mine", change))
    assert "\n" not in str(caught.value)


TEXT = c_folders.files(tiny.int8_graph(), tiny.bundle())["bundle.json"].encode()


@settings(max_examples=300, deadline=None)
@given(at=st.integers(0, len(TEXT)), new=st.binary(max_size=3), gone=st.integers(0, 3))
def test_any_damage_to_bundle_json_is_one_line_or_none(at, new, gone):
    """Whatever reads well is plain values of the types that are stated."""
    try:
        _, called = read_bundle_json(TEXT[:at] + new + TEXT[at + gone :], "bundle.json")
    except ModelFileError as error:
        assert "\n" not in str(error)
    else:
        assert called.name.isidentifier() and called.input.dtype in ("int8", "int16")


def test_what_is_no_folder_of_c_is_refused(folder, tmp_path):
    (tmp_path / "run").mkdir()
    with pytest.raises(ModelFileError, match=r"it is a folder, and has no bundle.json.*tinyasc export --to c"):
        load(tmp_path / "run")
    (tmp_path / "m.tflite").write_bytes(tiny.tflite())
    with pytest.raises(InputError, match=r"is a .tflite file, and backend c takes a folder of C"):
        load(tmp_path / "m.tflite", backend="c")
    with pytest.raises(InputError, match=r"is a folder of C, and backend litert takes .tflite;"):
        load(folder, backend="litert")
    with pytest.raises(ModelFileError, match="says itself what its front end and labels are"):
        load(folder, front_end=tiny.FRONT_END, labels=tiny.LABELS)


def test_a_folder_says_what_it_is_without_a_compiler(folder, monkeypatch):
    c_folders.without_compilers(monkeypatch)
    about = read_about(folder)
    assert (about.kind, about.bundle) == ("C", tiny.bundle()) and about.size > 10_000


def test_c_loads_nothing_heavy_and_other_models_nothing_of_it(folder, tmp_path):
    (tmp_path / "m.tflite").write_bytes(tiny.tflite())
    parts = ("tinyasc.infer.c_folder", "tinyasc.infer.c_library", "tinyasc.infer.board", "tinyasc.frontend_device")
    heavy = ("torch", "rich", "scipy", "matplotlib", "librosa", "ai_edge_litert", "onnxruntime")
    for path, arithmetic, without, with_ in (
        (tmp_path / "m.tflite", "reference", (*parts, "tinyasc_export.c99"), ()),
        (folder, "device", heavy, parts),
    ):
        code = (
            "import sys; from tinyasc.infer.runner import load\n"
            f"load({str(path)!r}, arithmetic={arithmetic!r})\n"
            f"print([m for m in {without!r} if m in sys.modules], [m for m in {with_!r} if m in sys.modules])"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.stdout == f"[] {[*with_]}\n", done.stderr
