"""`tinyasc profile` and `tinyasc export` on a small student and a small teacher that were never trained."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner

from tinyasc.cli.main import cli
from tinyasc.compress.deploy import deploy, publish, write_files, write_graphs
from tinyasc.compress.export import c_name
from tinyasc.compress.limits import parse_limits
from tinyasc.compress.rules import shipped_rules
from tinyasc.frontend import FrontEnd
from tinyasc.infer.about import read_about
from tinyasc.infer.runner import load
from tinyasc.models import build
from tinyasc.training.features import Part
from tinyasc.training.fit import logits
from tinyasc.training.heard import Heard
from tinyasc.training.recipe import Recipe
from tinyasc.training.run import Run, Trained
from tinyasc_export.graphfile import load_graph
from tinyasc_export.onnx_check import check_onnx
from tinyasc_export.seal import check_seal
from tinyasc_export.tflite import read_bundle, to_tflite
from tinyasc_export.tflite_check import check_tflite

FRONT_END = FrontEnd(
    sample_rate=8000, clip_samples=4096, n_fft=512, win_length=512, hop_length=128, n_mels=16, fmax=4000
).with_normalization(np.full(16, 0.05), np.full(16, 2.0))
LABELS = ("bus", "park")


def trained(folder: Path, **model) -> Trained:
    torch.manual_seed(0)
    recipe = Recipe.model_validate({"name": "x", "model": model, "data": {"name": "tau2020", "root": str(folder)}})
    module = build(recipe.family, n_classes=2, n_mels=16, **recipe.model_options).eval()
    run = Run(folder)
    scores = {"val_accuracy": 0.5, "val_log_loss": 0.7}
    state = module.state_dict()
    run.save(state, recipe=recipe, labels=LABELS, front_end=FRONT_END, validation=scores, synthetic=True, heard=Heard())
    return run.load()


def compressed(folder: Path, **options) -> Path:
    model = trained(folder, family="sepconv_ca", base_channels=8, **options)
    rng = np.random.default_rng(0)
    features = rng.standard_normal((12, *FRONT_END.shape)).astype(np.float32)
    deployed = deploy(model, features)
    write_graphs(deployed, model, {"seed": 0}, folder)
    part = Part(features, rng.integers(0, 2, 12))
    new, expected = folder / "unverified", logits(model, features)
    publish(write_files(deployed, model, part, {"seed": 0}, new, parse_limits(), expected=expected), folder)
    return folder


@pytest.fixture(scope="module")
def student(tmp_path_factory) -> Path:
    return compressed(tmp_path_factory.mktemp("student"))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("teacher")
    trained(folder, family="atrous_cnn", trunk="baseline", head="attention", base_channels=4)
    return folder


def invoke(*args, code: int = 0):
    result = CliRunner().invoke(cli, [str(a) for a in args])
    print(result.output)
    assert result.exit_code == code, result.exception
    if code:
        (line,) = result.stderr.splitlines()
        assert line.startswith("error: ")
    return result


@pytest.mark.parametrize("command", ["profile", "export"])
def test_help_has_an_example(command):
    assert f"tinyasc {command} " in invoke(command, "--help").output.partition("Example")[2]


def test_profile_prints_everything(student):
    output = invoke("profile", student).output
    for text in ("depthwise_conv2d", "blocks.0.frequency", "planned arena", "quantisation metadata", "Totals"):
        assert text in output
    assert all(rule.name in output for rule in shipped_rules())


def test_profile_json_adds_up(student):
    result = json.loads(invoke("profile", student, "--json").stdout)
    totals = result["totals"]
    for name in ("macs", "parameters", "parameter_bytes"):
        assert sum(row[name] for row in result["operators"]) == totals[name]
        assert sum(row[name] for row in result["modules"]) == totals[name]
    assert totals["file_bytes"] == (student / "model-int8.tflite").stat().st_size
    assert totals["macs_per_second"] == pytest.approx(totals["macs"] / 0.512)
    assert totals["tool_macs"] > totals["macs"]
    assert result["rules"][0]["tool_macs_per_second"] == pytest.approx(totals["tool_macs"] / 0.512)
    assert totals["arena_pools_apart_bytes"] >= totals["arena_bytes"]
    assert totals["arena_bytes"] >= totals["arena_lower_bound"] == max(r["live_bytes"] for r in result["operators"])
    assert {r["rule"]: r["met"] for r in result["rules"]} == {r.name: True for r in shipped_rules()}


def test_profile_of_a_file_says_its_own_precision(student):
    for precision, met in (("int8", True), ("fp32", False)):
        result = json.loads(invoke("profile", student / f"model-{precision}.tflite", "--json").stdout)
        assert result["precision"] == precision
        assert {r["rule"]: r["met"] for r in result["rules"]}["dcase2022-t1"] is met
    result = json.loads(invoke("profile", student, "--precision", "fp32", "--json").stdout)
    assert result["precision"] == "fp32"


def test_profile_reads_a_file_of_before_files_had_a_seal(student, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(student, run)
    file = run / "model-int8.tflite"
    graph, _ = load_graph((run / "graph-int8.npz").read_bytes(), "g")
    older = to_tflite(graph, read_bundle(file.read_bytes(), "m"), sealed=False)
    assert check_seal(file.read_bytes(), "m") and check_seal(older, "m") is None
    file.write_bytes(older)
    assert json.loads(invoke("profile", file, "--json").output)
    file.write_bytes(older[:-1] + b"\1")
    invoke("profile", file, code=2)


def test_profile_at_16_bits_of_a_run_that_trained_none(student, tmp_path):
    """The graph is that of `export`, quantised from the float graph and its ranges."""
    run = compressed(tmp_path, attention_activation="relu")
    alone = json.loads(invoke("profile", run, "--precision", "int16x8", "--json").stdout)
    assert alone["precision"] == "int16x8" and alone["totals"]["file_bytes"] is None
    invoke("export", run, "--precision", "int16x8")
    file = run / "model-int16x8.tflite"
    assert load(file).card["quantization"]["qat_epochs"] == 0
    for args in ((file,), (run, "--precision", "int16x8")):
        result = json.loads(invoke("profile", *args, "--json").stdout)
        assert result["totals"] == alone["totals"] | {"file_bytes": file.stat().st_size}
    assert "hardswish" in invoke("profile", student, "--precision", "int16x8", code=2).stderr
    file.write_bytes((student / "model-int8.tflite").read_bytes())
    assert "was not written from" in invoke("profile", file, code=2).stderr


@pytest.mark.parametrize(("precision", "width"), [("int8", 1), ("int16x8", 1), ("fp32", 4)])
def test_parameters_are_as_wide_as_weights(tmp_path, precision, width):
    run = compressed(tmp_path, attention_activation="relu")
    totals = json.loads(invoke("profile", run, "--precision", precision, "--json").stdout)["totals"]
    assert totals["parameters_x_width"] == width * totals["parameters"]


def test_profile_with_drift(student, tau_root, tmp_path, monkeypatch):
    monkeypatch.setenv("TINYASC_CACHE", str(tmp_path / "cache"))
    output = json.loads(invoke("profile", student, "--drift", "--root", tau_root, "--clips", 3, "--json").stdout)
    ratios = [row["sqnr_db"] for row in output["drift"]]
    assert ratios == sorted(ratios) and len(ratios) == len(output["operators"]) + 1
    assert "SQNR" in invoke("profile", student, "--drift", "--root", tau_root, "--clips", 2).output
    line = invoke("profile", student / "model-fp32.tflite", "--drift", "--root", tau_root, code=2).stderr
    assert "does not drift" in line


def test_profile_refuses_what_it_cannot_read(student, teacher, tmp_path):
    assert "no such run" in invoke("profile", tmp_path / "nothing", code=2).stderr
    assert "tinyasc compress" in invoke("profile", teacher, code=2).stderr
    shutil.copy(student / "model-int8.tflite", tmp_path / "alone.tflite")
    assert "graph-int8.npz" in invoke("profile", tmp_path / "alone.tflite", code=2).stderr
    shutil.copy(student / "graph-fp32.npz", tmp_path / "graph-int8.npz")
    assert "holds a graph of another precision" in invoke("profile", tmp_path / "alone.tflite", code=2).stderr
    (tmp_path / "graph-int8.npz").write_bytes(b"PK")
    assert "not a graph file" in invoke("profile", tmp_path / "alone.tflite", code=2).stderr
    (tmp_path / "x.tflite").write_bytes(b"RIFF0000")
    assert "not a TFLite model" in invoke("profile", tmp_path / "x.tflite", code=2).stderr
    monkey = invoke("profile", student, "--drift", "--data", "esc10", code=2).stderr
    assert "--root" in monkey


@pytest.mark.parametrize("to, precision", [("onnx", "fp32"), ("onnx", "fp16"), ("onnx", "int8"), ("tflite", "fp32")])
def test_exported_files_answer_as_the_student(student, tmp_path, to, precision):
    file = tmp_path / f"m.{to}"
    assert "written: " in invoke("export", student, "--to", to, "--precision", precision, "-o", file).output
    model = load(file, exact=True)
    assert model.labels == LABELS and model.card["precision"] == precision and model.card["seed"] == 0
    features = np.random.default_rng(0).standard_normal((12, *FRONT_END.shape)).astype(np.float32)
    run = Run(student).load()
    expected = logits(run, features)
    scale = np.array(model.front_end.band_scale) / 0.05
    offset = np.array(model.front_end.band_offset) - 2.0 * scale
    answers = [model.backend.logits((f * scale[:, None] + offset[:, None]).astype(np.float32)) for f in features]
    tolerance = {"fp32": 1e-4, "fp16": 5e-3, "int8": 0.1}[precision]
    assert np.abs(answers - expected).max() <= tolerance * np.abs(expected).max()


def test_export_of_int8_tflite_is_what_profile_reads(student, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(student, folder)
    (folder / "model-int8.tflite").unlink()
    invoke("export", folder)
    assert json.loads(invoke("profile", folder / "model-int8.tflite", "--json").stdout)["precision"] == "int8"


def test_export_does_not_overwrite_another_file(student, tmp_path):
    file = tmp_path / "m.onnx"
    file.write_bytes(b"mine")
    assert "--force" in invoke("export", student, "--to", "onnx", "-o", file, code=2).stderr
    assert file.read_bytes() == b"mine"
    invoke("export", student, "--to", "onnx", "-o", file, "--force")
    before = file.read_bytes()
    invoke("export", student, "--to", "onnx", "-o", file)  # the same bytes again
    assert file.read_bytes() == before


def test_c_is_a_folder_whose_name_its_functions_have(student, tmp_path):
    folder = tmp_path / "firmware" / "two-scenes"
    assert "constants" in invoke("export", student, "--to", "c", "-o", folder).output
    header, readme = (folder / "two_scenes.h").read_text(), (folder / "README.md").read_text()
    assert "void two_scenes_invoke(" in header and "rounding: tflite" in header
    assert all(label in readme for label in LABELS) and f"hop_length = {FRONT_END.hop_length}" in readme
    before = {path: path.read_bytes() for path in folder.iterdir()}
    invoke("export", student, "--to", "c", "-o", folder)  # the same bytes again
    assert "--force" in invoke("export", student, "--to", "c", "--rounding", "single", "-o", folder, code=2).stderr
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    (folder / "mine.txt").write_text("mine")
    said = invoke("export", student, "--to", "c", "--rounding", "single", "-o", folder, "--force").stderr
    old = {path.name for path in before if "_tflite" in path.name}
    assert old and all(name in said for name in old) and not list(folder.glob("*_tflite*"))
    assert "rounding: single" in (folder / "two_scenes.h").read_text() and (folder / "mine.txt").read_text() == "mine"
    assert not [path for path in folder.parent.iterdir() if path != folder], "temporary folders are left"


@pytest.mark.parametrize(
    ("folder", "name"),
    [("two-scenes", "two_scenes"), ("2 scenes", "net_2_scenes"), ("Straße", "Stra_e"), ("---", "net_"),
     ("string", "net_string"), ("Time-c", "net_Time"), ("times", "times"), ("tinyasc-scenes", "net_tinyasc_scenes")],
)  # fmt: skip
def test_the_names_of_c_are_those_of_nothing_else(folder, name):
    """A header string.h in the path of headers would be taken for C's own; tinyasc_... are kernels."""
    assert c_name(Path(folder)) == name


def test_c_brings_its_front_end(student, tmp_path):
    folder = tmp_path / "scenes"
    assert "front end and frames" in invoke("export", student, "--to", "c", "-o", folder).output
    frames = FRONT_END.n_frames()
    stream = (folder / "scenes_stream.h").read_text()
    assert f"SCENES_FRAMES = {frames}," in stream and f"SCENES_WINDOW_HOP = {max(1, frames // 2)}," in stream
    assert "-ffp-contract=off" in (folder / "Makefile").read_text()
    options = ("--front-end", "fixed", "--window-hop", "3", "-o", tmp_path / "integers")
    invoke("export", student, "--to", "c", *options)
    files = {path.name: path.read_text() for path in (tmp_path / "integers").iterdir()}
    assert "INTEGERS_WINDOW_HOP = 3," in files["integers_stream.h"] and "tinyasc_frontend_fixed_s8.c" in files
    assert not [n for n, text in files.items() if n.endswith((".c", ".h")) and re.search(r"\b(float|double)\b", text)]
    alone = invoke("export", student, "--to", "c", "--front-end", "none", "-o", tmp_path / "alone").output
    assert "front end" not in alone and not list((tmp_path / "alone").glob("*frontend*"))
    wrong = ("--front-end", "none", "--window-hop", "2")
    assert "--window-hop needs" in invoke("export", student, "--to", "c", *wrong, code=2).stderr
    for option in (("--front-end", "device"), ("--window-hop", "2")):
        assert f"{option[0]} is for --to c" in invoke("export", student, *option, code=2).stderr


def test_c_is_written_beside_the_run_and_from_integers_alone(student, teacher, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(student, folder)
    assert "model-int8-c" in invoke("export", folder, "--to", "c").output
    assert (folder / "model-int8-c" / "model_int8.c").is_file()
    said, file = read_about(folder / "model-int8-c").bundle, load(folder / "model-int8.tflite")
    assert said and said.labels == LABELS and said.front_end == file.front_end.to_dict()
    assert said.card["precision"] == "int8" and said.card["counts"]["macs"] == file.macs
    assert "bus" in invoke("show", folder / "model-int8-c").output
    assert "--precision int8" in invoke("export", folder, "--to", "c", "--precision", "fp32", code=2).stderr
    assert "hardswish" in invoke("export", folder, "--to", "c", "--precision", "int16x8", code=2).stderr
    assert "tinyasc compress" in invoke("export", teacher, "--to", "c", code=2).stderr
    assert "--rounding" in invoke("export", folder, "--rounding", "single", code=2).stderr
    assert "is a file" in invoke("export", folder, "--to", "c", "-o", folder / "model-int8.tflite", code=2).stderr
    assert "is a folder" in invoke("export", folder, "-o", folder / "model-int8-c", code=2).stderr


def test_a_teacher_goes_through_torch_and_says_so(teacher, tmp_path):
    invoke("export", teacher, "--to", "onnx", "--precision", "fp32")
    file = teacher / "model-fp32.onnx"
    model = load(file)
    assert "torch.onnx.export" in model.card["exporter"]
    assert "torch.onnx.export" in onnx.load(file).doc_string
    features = np.random.default_rng(0).standard_normal((4, *FRONT_END.shape)).astype(np.float32)
    expected = logits(Run(teacher).load(), features)
    answers = np.stack([model.backend.logits(f) for f in features])
    np.testing.assert_allclose(answers, expected, atol=1e-4 * np.abs(expected).max())
    for options in (["--to", "tflite", "--precision", "fp32"], ["--to", "onnx", "--precision", "int8"]):
        assert "is a teacher" in invoke("export", teacher, *options, code=2).stderr


def test_every_exported_file_is_sealed_and_passes_the_checks(student, teacher, tmp_path):
    """A teacher's file comes from torch's own exporter, with operators of its choice."""
    for name, run, precisions in (("s", student, ("fp32", "fp16", "int8")), ("t", teacher, ("fp32",))):
        for to in ("onnx", "tflite") if run is student else ("onnx",):
            for precision in precisions:
                out = tmp_path / f"{name}-{precision}.{to}"
                invoke("export", run, "--to", to, "--precision", precision, "-o", out)
                assert check_seal(out.read_bytes(), "m")
                (check_onnx if to == "onnx" else check_tflite)(out.read_bytes(), "m")


def test_a_student_that_was_not_compressed_has_no_integers(tmp_path):
    trained(tmp_path, family="sepconv_ca", base_channels=4)
    assert "tinyasc compress" in invoke("export", tmp_path, code=2).stderr
    invoke("export", tmp_path, "--precision", "fp32")
    assert load(tmp_path / "model-fp32.tflite").labels == LABELS


def test_export_refuses_what_is_not_there(tmp_path):
    assert "no such run" in invoke("export", tmp_path / "x", code=2).stderr
    assert "no finished training" in invoke("export", tmp_path, code=2).stderr


def test_damaged_ranges_are_one_line(student, tmp_path):
    from tinyasc.compress.stored import read_ranges
    from tinyasc.errors import InputError

    assert all(low <= high for low, high in read_ranges(student).values())
    for text in ("[", "[1]", '{"a": 3}', '{"a": ["x", 1]}'):
        (tmp_path / "ranges.json").write_text(text)
        with pytest.raises(InputError, match="damaged"):
            read_ranges(tmp_path)
    with pytest.raises(InputError, match="tinyasc compress"):
        read_ranges(tmp_path / "none")
