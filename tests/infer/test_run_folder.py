"""A run folder in place of a model file: the file that is meant, or which there are."""

import json
import subprocess
import sys

import c_folders
import pytest
import soundfile
import tiny_models as tiny
from click.testing import CliRunner

from tinyasc.cli.main import cli
from tinyasc.compress.deploy import OVER_BUDGET
from tinyasc.compress.stored import DTYPES, GRAPH_FILE
from tinyasc.errors import InputError
from tinyasc.infer import run_folder
from tinyasc.infer.run_folder import model_in
from tinyasc_export.graphfile import save_graph


@pytest.fixture
def run(tmp_path):
    """As `compress --also` and three exports leave it."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "report.json").write_text(json.dumps({"precision": "int8"}))
    (folder / "recipe.yaml").write_text("")
    for name in ("model-int8.tflite", "model-fp32.tflite"):
        (folder / name).write_bytes(tiny.tflite())
    for name in ("model-int8.onnx", "model-fp32.onnx"):
        (folder / name).write_bytes(b"")
    (folder / "graph-int8.npz").write_bytes(save_graph(tiny.int8_graph(), tiny.bundle()))
    c_folders.write(folder / "model-int8-c", arithmetic="none")
    return folder


@pytest.mark.parametrize(
    ("backend", "name"),
    [
        ("auto", "model-int8.tflite"),
        ("litert", "model-int8.tflite"),
        ("onnx", "model-int8.onnx"),
        ("reference", "graph-int8.npz"),
        ("c", "model-int8-c"),
    ],
)
def test_the_file_of_the_precision_that_the_run_was_made_for(run, backend, name):
    assert model_in(run, backend) == run / name
    (run / "report.json").write_text(json.dumps({"precision": "fp32"}))
    if backend in ("auto", "litert", "onnx"):
        assert model_in(run, backend) == run / name.replace("int8", "fp32")
    else:
        with pytest.raises(InputError, match=r"is a folder without .*fp32.*name one of: .*model-int8.tflite"):
            model_in(run, backend)


def test_other_paths_come_back_as_they_are(run, tmp_path):
    (tmp_path / "empty").mkdir()
    for path in (run / "model-fp32.tflite", run / "model-int8-c", tmp_path / "gone", tmp_path / "empty"):
        assert model_in(path) == path


def test_a_folder_of_one_model_means_it_unless_it_is_over_budget(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "scenes.tflite").write_bytes(b"")
    assert model_in(tmp_path) == tmp_path / "scenes.tflite"
    (tmp_path / "other.onnx").write_bytes(b"")
    with pytest.raises(InputError, match=r"without model-int8.tflite.* name one of: other.onnx, scenes.tflite$"):
        model_in(tmp_path)
    for name in ("other.onnx", "scenes.tflite"):
        (tmp_path / name).unlink()
    (tmp_path / OVER_BUDGET.format("int8")).write_bytes(b"")
    with pytest.raises(InputError, match=r"name one of: model-int8-over-budget.tflite$"):
        model_in(tmp_path)
    (tmp_path / "graph-int8.npz").write_bytes(b"")  # of the same net
    for backend in ("auto", "reference"):
        with pytest.raises(
            InputError, match=r"without model-int8.tflite.* graph-int8.npz, model-int8-over-budget.tflite"
        ):
            model_in(tmp_path, backend)


def test_a_training_run_says_what_makes_a_model(tmp_path):
    (tmp_path / "recipe.yaml").write_text("")
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match="holds no deployed model yet; `tinyasc compress` writes one"):
        model_in(tmp_path)


def test_the_names_are_those_that_compress_writes():
    assert set(run_folder.MAIN_PRECISIONS) == set(DTYPES) and run_folder.OVER_BUDGET in OVER_BUDGET
    assert run_folder.NAMES["reference"] == GRAPH_FILE


def invoke(*words):
    return CliRunner().invoke(cli, [str(word) for word in words])


def test_infer_listen_and_show_take_a_run(run, tmp_path):
    soundfile.write(tmp_path / "clip.wav", tiny.tone("low"), tiny.RATE)
    for backend in ("auto", "reference"):
        named = invoke("infer", "--backend", backend, "--model", run, "--json", tmp_path / "clip.wav")
        assert named.exit_code == 0, named.output
        file = model_in(run, backend)
        assert json.loads(named.stdout)["label"] == "low" and f"model: {file} (of the run)" in named.stderr
    shown = invoke("show", "--json", run)
    assert json.loads(shown.stdout)["path"] == str(run / "model-int8.tflite")
    sound = (tmp_path / "clip.wav").read_bytes()
    heard = CliRunner().invoke(cli, ["listen", "-", "--no-drop", "--json", "--model", str(run)], input=sound)
    assert heard.exit_code == 0, heard.output
    assert json.loads(heard.stdout.splitlines()[0])["model"] == str(run / "model-int8.tflite")
    (run / "report.json").write_text(json.dumps({"precision": "int16x8"}))
    for words in (("infer", "--model", run, tmp_path / "clip.wav"), ("show", run), ("listen", "-", "--model", run)):
        refused = invoke(*words)
        assert refused.exit_code == 2 and "name one of: graph-int8.npz" in refused.stderr


def test_no_torch_is_loaded(run):
    code = (
        "import sys; from tinyasc.cli.main import main; sys.argv[1:] = ['show', sys.argv[1]]\n"
        "try: main()\nexcept SystemExit: pass\nprint([m for m in ('torch', 'rich', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, run], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
