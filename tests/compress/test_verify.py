"""Written files that do not answer as they must are found, in every runtime; one that is absent is said so."""

from __future__ import annotations

import subprocess
from dataclasses import replace

import numpy as np
import pytest
from tiny_training import DATA, recipe

from tinyasc.compress import deploy as deploy_module
from tinyasc.compress import micro
from tinyasc.compress import verify as verify_module
from tinyasc.compress.deploy import deploy, publish, write_files
from tinyasc.compress.limits import parse_limits
from tinyasc.compress.verify import DisagreementError, verify
from tinyasc.errors import TinyascError
from tinyasc.training.fit import fit, logits
from tinyasc.training.run import Run
from tinyasc_export.quantize import quantize_int16x8
from tinyasc_export.seal import MARKER, UNSEALED, seal
from tinyasc_export.tflite import to_tflite, unlike_graph

needs_micro = pytest.mark.skipif(micro.absent() is not None, reason="no tflite-micro wheel here")


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    # Long enough for logits of size, on which a wrong weight tells.
    r = recipe(model={"attention_activation": "relu"}, training={"epochs": 6, "lr": 0.02})
    trained = fit(r, Run(tmp_path_factory.mktemp("run")), DATA)
    deployed = deploy(trained, DATA.train.features)
    wide = replace(deployed, int16x8_graph=quantize_int16x8(deployed.float_graph, deployed.ranges))
    return trained, wide, logits(trained, DATA.validation.features)


def write(student, folder):
    trained, deployed, expected = student
    return write_files(deployed, trained, DATA.validation, {}, folder, parse_limits(), expected=expected, float16=True)


def verified(student, folder):
    _, deployed, expected = student
    return verify(write(student, folder), deployed, DATA.validation, expected)


@needs_micro
def test_what_agrees_is_said_with_its_size(student, tmp_path):
    files = {f.path.name: f for f in verified(student, tmp_path / "u")}
    assert set(files) == {
        "model-fp32.tflite", "model-fp32.onnx", "model-fp16.tflite", "model-int8.tflite", "model-int16x8.tflite",
    }  # fmt: skip
    for f in files.values():
        for entry in f.verified["runtimes"].values():
            assert entry["largest_difference"] <= entry["allowed"] and entry["clips"] == len(DATA.validation.labels)
            assert entry["accuracy"] == pytest.approx(f.validation["accuracy"], abs=0.1)
    for name in ("model-int8.tflite", "model-int16x8.tflite"):
        found = files[name].verified
        assert found["runtimes"][micro.NAME]["largest_difference"] == 0
        assert list(found["runtimes"]) == [micro.NAME, "LiteRT, reference kernels"]
        arena = found["arena"]
        # Activations alone are planned; TensorFlow Lite Micro's head holds them too.
        assert 0 < arena["planned"] <= arena["planned_pools_apart"] <= arena[micro.NAME]["head"]
        assert arena[micro.NAME]["total"] == arena[micro.NAME]["head"] + arena[micro.NAME]["tail"]
    assert list(files["model-fp32.onnx"].verified["runtimes"]) == ["onnxruntime"]
    moved = publish(list(files.values()), tmp_path)
    assert not (tmp_path / "u").exists() and all(f.path.is_file() and f.path.parent == tmp_path for f in moved)


def resealed(data: bytes) -> bytes:
    """A changed file with a hash that is right again, so that only its answers give it away."""
    at = data.index(MARKER)
    return seal(data[:at] + UNSEALED.encode() + data[at + len(UNSEALED) :])


def spoil(data: bytes, graph, *, most: bool) -> bytes:
    """The file with all bytes of the largest constant inverted, or with one bit of its last value flipped."""
    part = max((t.data for t in graph.constants()), key=lambda a: a.nbytes).tobytes()
    assert data.count(part) == 1
    wrong = bytes(b ^ 0x7F for b in part) if most else part[:-1] + bytes([part[-1] ^ 1])
    wrong_file = data.replace(part, wrong)
    return resealed(wrong_file) if MARKER in wrong_file else wrong_file


def spoiling(precision, **options):
    def write(graph, bundle=None):
        data, about = to_tflite(graph, bundle), {} if bundle is None else bundle.card
        return spoil(data, graph, **options) if about.get("precision") == precision else data

    return write


@pytest.mark.parametrize(
    ("precision", "words"),
    [
        ("int8", r"model-int8.tflite: \S.* differs from the numpy reference by [1-9]\S* units"),
        ("int16x8", r"model-int16x8.tflite: \S.* differs from the numpy reference by [1-9]\S* units"),
        ("fp32", r"model-fp32.tflite: LiteRT differs from torch by \S+ of the logits' range, allowed is 0.001"),
        ("fp16", r"model-fp16.tflite: LiteRT differs from the numpy reference by"),
    ],
)
def test_a_writer_that_spoils_weights(student, tmp_path, monkeypatch, precision, words):
    monkeypatch.setattr(deploy_module, "to_tflite", spoiling(precision, most=True))
    with pytest.raises(DisagreementError, match=words) as caught:
        verified(student, tmp_path)
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)
    assert (tmp_path / f"model-{precision}.tflite").is_file()


@pytest.mark.parametrize("precision", ["int8", "int16x8", "fp32", "fp16"])
def test_a_writer_that_spoils_one_bit(student, tmp_path, monkeypatch, precision):
    """Whether the answers show it or not."""
    monkeypatch.setattr(deploy_module, "to_tflite", spoiling(precision, most=False))
    words = rf"model-{precision}.tflite: (1 of its tensors differ from what was to be written|.* differs from)"
    with pytest.raises(DisagreementError, match=words):
        verified(student, tmp_path)


def test_tensors_are_held_against_the_graph(student):
    graph = student[1].int8_graph
    data = to_tflite(graph)
    assert unlike_graph(data, graph) == []
    largest = max(graph.constants(), key=lambda t: t.data.nbytes)
    assert unlike_graph(spoil(data, graph, most=False), graph) == [largest.name]
    for change in ({"scale": largest.scale * 1.01}, {"zero_point": largest.zero_point + 1}):
        other = replace(graph, tensors=graph.tensors | {largest.name: replace(largest, **change)})
        assert unlike_graph(data, other) == [largest.name]


@pytest.mark.parametrize("part", ["scale", "zero_point"])
def test_a_writer_that_spoils_how_logits_are_read(student, tmp_path, monkeypatch, part):
    """TensorFlow Lite Micro's integers are right then; the real values that LiteRT gives are not."""

    def spoiling(graph, bundle=None):
        if bundle is None or bundle.card.get("precision") != "int8":
            return to_tflite(graph, bundle)
        last = graph.tensors[graph.output]
        changed = {"scale": last.scale * 1.5} if part == "scale" else {"zero_point": last.zero_point - 9}
        tensors = graph.tensors | {graph.output: replace(last, **changed)}
        return to_tflite(replace(graph, tensors=tensors), bundle)

    monkeypatch.setattr(deploy_module, "to_tflite", spoiling)
    with pytest.raises(DisagreementError, match=r"model-int8.tflite: .* differs from .* by"):
        verified(student, tmp_path)


def test_a_file_that_changes_after_it_was_measured(student, tmp_path):
    _, deployed, expected = student
    files = write(student, tmp_path)
    (int8,) = (f for f in files if f.precision == "int8")
    int8.path.write_bytes(spoil(int8.path.read_bytes(), deployed.int8_graph, most=True))
    with pytest.raises(DisagreementError, match=r"model-int8.tflite: .* differs from the numpy reference by"):
        verify(files, deployed, DATA.validation, expected)
    int8.path.write_bytes(b"TFL3")
    with pytest.raises(DisagreementError, match=r"model-int8.tflite: cannot be verified, and is left there"):
        verify(files, deployed, DATA.validation, expected)


def test_a_file_that_was_measured_as_another(student, tmp_path):
    _, deployed, expected = student
    files = [replace(f, answers=f.answers + np.float32(0.5)) for f in write(student, tmp_path)]
    with pytest.raises(DisagreementError, match=r"model-fp32.tflite: its logits are up to 0.5 from those that were"):
        verify(files, deployed, DATA.validation, expected)


def test_answers_that_are_no_numbers_do_not_agree(student, tmp_path):
    _, deployed, expected = student
    files = write(student, tmp_path)
    with pytest.raises(DisagreementError, match=r"model-fp32.tflite: LiteRT differs from torch by nan"):
        verify(files, deployed, DATA.validation, np.full_like(expected, np.nan))


@pytest.mark.parametrize(
    ("system", "machine", "words"),
    [
        ("Linux", "x86_64", "not installed"),
        ("Linux", "aarch64", "not available on this platform"),
        ("Darwin", "x86_64", "not available on this platform"),
    ],
)
def test_an_absent_runtime_is_said_and_never_passed(student, tmp_path, monkeypatch, system, machine, words):
    monkeypatch.setattr(micro.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(micro.platform, "system", lambda: system)
    monkeypatch.setattr(micro.platform, "machine", lambda: machine)
    (int8,) = (f for f in verified(student, tmp_path) if f.precision == "int8")
    assert int8.verified["runtimes"][micro.NAME] == words == int8.verified["arena"][micro.NAME]
    # LiteRT is then held against the reference.
    assert int8.verified["runtimes"]["LiteRT, reference kernels"]["against"] == "the numpy reference"


@needs_micro
def test_many_clips_are_sampled_evenly(student, tmp_path, monkeypatch):
    monkeypatch.setattr(verify_module, "REFERENCE_CLIPS", 3)
    monkeypatch.setattr(verify_module, "MICRO_CLIPS", 5)
    (int8,) = (f for f in verified(student, tmp_path) if f.precision == "int8")
    found = int8.verified["runtimes"]
    assert found[micro.NAME]["clips_compared"] == 3 and found[micro.NAME]["clips"] in (5, 6)
    assert found["LiteRT, reference kernels"]["clips"] == len(DATA.validation.labels)
    assert found["LiteRT, reference kernels"]["clips_compared"] == found[micro.NAME]["clips"]


@needs_micro
def test_the_other_process(student):
    graph = student[1].int8_graph
    x = np.zeros((2, *graph.tensors[graph.input].shape[1:]), np.int8)
    ran = micro.run_micro(to_tflite(graph), x)
    assert ran.outputs.shape == (2, 3) and ran.outputs.dtype == np.int8
    with pytest.raises(TinyascError, match="TensorFlow Lite Micro ended with code"):
        micro.run_micro(to_tflite(graph)[:4000], x)


def test_another_process_that_hangs_or_says_nothing(student, monkeypatch):
    def hang(*_, timeout, **__):
        raise subprocess.TimeoutExpired("micro", timeout)

    x = np.zeros((1, 2, 2, 1), np.int8)
    monkeypatch.setattr(micro.subprocess, "run", hang)
    with pytest.raises(TinyascError, match="did not end within"):
        micro.run_micro(b"", x)
    silent = subprocess.CompletedProcess([], -11, b"", b"")
    monkeypatch.setattr(micro.subprocess, "run", lambda *_, **__: silent)
    with pytest.raises(TinyascError, match="ended with code -11: no message"):
        micro.run_micro(b"", x)
