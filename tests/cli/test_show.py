import json
import shutil
import subprocess
import sys

import pytest
import soundfile
import tiny_models as tiny
from click.testing import CliRunner

from tinyasc.cli.main import cli
from tinyasc_export.bundle import Bundle
from tinyasc_export.graphfile import save_graph
from tinyasc_export.onnx import to_onnx
from tinyasc_export.tflite import to_tflite

CARD = {
    "tinyasc": "0.1.0",
    "precision": "int8",
    "recipe": "my-student",
    "seed": 12345,
    "model": {"family": "cp_mobile", "strides": 2023},
    "counts": {"parameters": 1234, "parameter_bytes": 5678, "quantization_bytes": 90, "macs": 1000000},
    "arena": {"planned": 4096},
    "budget": {"text": "128KB", "bytes": 131072, "parameter_bytes_int8": 5678},
    "limits": [
        {"name": "budget", "text": "128KB", "number": 131072, "origin": "--budget 128KB"},
        {"name": "ram", "text": "768KB", "number": 786432, "origin": "default"},
    ],
    "validation": {"accuracy": 0.8125, "class_average_accuracy": 0.8, "log_loss": 0.51234, "clips": 80.0},
    "data": {
        "name": "esc10",
        "synthetic": False,
        "test_fold": 1,
        "train_clips": 240,
        "validation_clips": 80,
        "trained_on_validation_clips": False,
        "split_blake2b": "5" * 32,
        "devices_heard": [""],
    },
    "about": {"licence": "CC BY-NC 3.0", "attribution": "by their authors"},
    "temperature": 1.25,
    "temperature_fit": {"about": "int8 logits of 80 validation clips"},
    "quantization": {"how": "per-channel weights", "qat_epochs": 10},
    "teachers": [{"recipe": "big", "model": {"family": "atrous_cnn"}, "weights_blake2b": "7" * 32}],
    "distill": {"kd_lambda": 0.9, "temperature": 2.0},
    "runtimes": {"numpy": "2.4.6"},
    "weights_blake2b": "9" * 32,
    "integrity": {"sha256": "a" * 64},
}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def show(*args):
    result = CliRunner().invoke(cli, ["show", *map(str, args)])
    print(result.output)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


def fields(text):
    """Name -> text, with the lines of a field joined."""
    found, name = {}, None
    for line in text.splitlines()[1:]:
        if line[2] != " ":
            name = line[2:14].strip()
            found[name] = line[14:]
        else:
            found[name] += " " + line.strip()
    return found


WRITERS = {
    "m.tflite": lambda bundle: to_tflite(tiny.int8_graph(), bundle),
    "m.onnx": lambda bundle: to_onnx(tiny.graph(), bundle),
    "m.npz": lambda bundle: save_graph(tiny.graph(), bundle),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_kind_of_file_says_all_of_its_card(folder, name):
    (folder / name).write_bytes(WRITERS[name](Bundle(tiny.LABELS, tiny.FRONT_END.to_dict(), CARD)))
    result = show(name)
    assert result.exit_code == 0 and result.stderr == "" and result.stdout.splitlines()[0] == name
    found = fields(result.stdout)
    hashes = found.pop("hashes")
    assert found == {
        "file": f"{ {'m.tflite': 'TFLite', 'm.onnx': 'ONNX', 'm.npz': 'graph'}[name] }, int8, "
        f"{(folder / name).stat().st_size:,} bytes",
        "classes": "3: low, middle, high",
        "front end": "8,000 Hz mono, 0.512 s (4,096 samples); 12 log-mel bands of 0 to 4,000 Hz (slaney); FFT 512, "
        "hann window 512, hop 256; normalised per band; reference arithmetic",
        "input": "1 x 12 x 15 (channels x mels x frames)",
        "counts": "1,234 parameters, 5,678 bytes of constants, 90 bytes of scales and zero points, 1,000,000 MACs per "
        "input, 4,096 bytes of arena, planned",
        "budget": "128KB: 5,678 of 131,072 bytes of constants; ram 768KB (default)",
        "accuracy": "81.2 % (mean over classes 80.0 %) of 80 validation clips",
        "log loss": "0.512 on the same clips",
        "temperature": "1.25 (int8 logits of 80 validation clips)",
        "data": "esc10, test fold 1, 240 training clips, 80 validation clips",
        "licence": "CC BY-NC 3.0",
        "attribution": "by their authors",
        "made": "tinyasc 0.1.0; recipe my-student; seed 12345; cp_mobile strides=2023; per-channel weights; 10 epochs "
        "of quantisation-aware training; with numpy 2.4.6",
        "taught by": "big (atrous_cnn); kd_lambda 0.9; temperature 2.0",
        "also": f'integrity {{"sha256": "{"a" * 64}"}}',
    }
    for value in ("5" * 32, "7" * 32, "9" * 32, "a" * 64):
        assert value in hashes
    told = json.loads(show("--json", name).stdout)
    assert told["card"] == CARD and told["labels"] == list(tiny.LABELS)
    assert told["front_end"] == tiny.FRONT_END.to_dict() and f"file BLAKE2b {told['blake2b']}" in hashes


def test_the_hash_is_that_of_the_report(folder):
    from tinyasc.files import file_hash

    (folder / "m.tflite").write_bytes(tiny.tflite_int8())
    told = json.loads(show("--json", "m.tflite").stdout)
    assert told["blake2b"] == file_hash(folder / "m.tflite") and told["bytes"] == len(tiny.tflite_int8())


def test_what_the_card_does_not_say_is_named(folder):
    (folder / "m.tflite").write_bytes(tiny.tflite_int8())
    found = fields(show("m.tflite").stdout)
    silent = {name for name, text in found.items() if text.startswith("not stated")}
    assert silent == {"counts", "budget", "accuracy", "log loss", "temperature", "data", "licence", "made", "taught by"}


def test_scores_on_clips_that_were_trained_on_are_said_to_be_no_scores(folder):
    card = {**CARD, "data": {**CARD["data"], "trained_on_validation_clips": True, "synthetic": True, "test_fold": None}}
    (folder / "m.tflite").write_bytes(to_tflite(tiny.graph(), Bundle(tiny.LABELS, tiny.FRONT_END.to_dict(), card)))
    found = fields(show("m.tflite").stdout)
    assert found["accuracy"].endswith("these were trained on, so it says nothing of clips that were not")
    assert "synthetic: computed, not recorded" in found["data"] and "no test clips held out" in found["data"]


@pytest.mark.parametrize("name", ["m.tflite", "m.onnx"])
def test_a_file_without_a_card_says_what_is_missing(folder, name):
    (folder / name).write_bytes(WRITERS[name](None))
    result = show(name)
    assert result.exit_code == 0
    assert fields(result.stdout)["card"].startswith("none: classes, front end, budget, scores, data, licence")
    assert json.loads(show("--json", name).stdout)["card"] is None
    result = show("--front-end", name)
    assert result.exit_code == 2 and "without a tinyasc card" in result.stderr


def test_the_front_end_it_prints_is_the_file_that_infer_takes(folder):
    (folder / "carded.tflite").write_bytes(tiny.tflite())
    (folder / "cardless.tflite").write_bytes(to_tflite(tiny.graph()))
    soundfile.write("clip.wav", tiny.tone("high"), tiny.RATE, "FLOAT")
    (folder / "front-end.json").write_text(show("--front-end", "carded.tflite").stdout)
    described = ["--front-end", "front-end.json", "--labels", "low,middle,high"]
    for args in (["--model", "carded.tflite"], ["--model", "cardless.tflite", *described]):
        result = CliRunner().invoke(cli, ["infer", "--json", *args, "clip.wav"])
        assert result.exit_code == 0, result.output
        record = json.loads(result.stdout)
        assert record["label"] == "high"
        assert list(record["probabilities"].values()) == pytest.approx(list(tiny.expected(tiny.tone("high"))), abs=1e-5)
    result = CliRunner().invoke(cli, ["infer", "--model", "carded.tflite", *described, "clip.wav"])
    assert result.exit_code == 2 and "says itself what its front end and labels are" in result.stderr
    for lacking in (described[:2], described[2:], ["--outputs", "probabilities"]):
        result = CliRunner().invoke(cli, ["infer", "--model", "cardless.tflite", *lacking, "clip.wav"])
        assert result.exit_code == 2 and "name them together (--front-end and --labels)" in result.stderr


STRANGE = [None, True, -1, 0.5, "text", "\x1b[2J\r\n\u202e\ud800", [], [1, [2]], [{}], {}, {"x": {"y": [None]}}]


@pytest.mark.parametrize("value", STRANGE, ids=range(len(STRANGE)))
def test_cards_of_other_shapes_are_printed_and_nothing_in_them_is_obeyed(folder, value):
    cards = [dict.fromkeys(CARD, value), {"odd\x1b[31m": value, "about": {"licence": value, "\x07": "x"}}]
    cards += [{key: dict.fromkeys(CARD[key], value)} for key in CARD if isinstance(CARD[key], dict)]
    cards += [{"limits": [value]}, {"teachers": [value]}, {"data": {"devices_heard": [value, "b"]}}]
    for card in cards:
        bundle = Bundle(("a\x1b[2Jb", "high", "x"), tiny.FRONT_END.to_dict(), card)
        (folder / "m.tflite").write_bytes(to_tflite(tiny.graph(), bundle))
        result = show("m.tflite")
        assert result.exit_code == 0, result.output
        assert result.stdout.replace("\n", "").isprintable()
        assert "a\\x1b[2Jb" in result.stdout


def test_bad_files_are_one_line(folder):
    (folder / "cut.tflite").write_bytes(tiny.tflite()[:999])
    (folder / "cut.onnx").write_bytes(tiny.onnx()[:-40])
    (folder / "text.tflite").write_text("no model at all")
    (folder / "zip.npz").write_bytes(b"PK\x03\x04" + bytes(99))
    front_end = {**tiny.FRONT_END.to_dict(), "n_mels": -1}
    (folder / "bad.tflite").write_bytes(to_tflite(tiny.graph(), Bundle(tiny.LABELS, front_end, {})))
    for name, data in (("flipped.tflite", tiny.tflite(seed=12345)), ("flipped.onnx", tiny.onnx(seed=12345))):
        assert b"12345" in data
        (folder / name).write_bytes(data.replace(b"12345", b"12346"))
    for name in (
        "flipped.tflite",
        "flipped.onnx",
        "cut.tflite",
        "cut.onnx",
        "text.tflite",
        "zip.npz",
        "bad.tflite",
        "gone.tflite",
        ".",
        "n" * 300,
    ):
        result = show(name)
        assert result.exit_code == 2 and result.stdout == ""
        (line,) = result.stderr.splitlines()
        assert line.startswith(f"error: {name}: ")
    result = show("--json", "--front-end", "cut.tflite")
    assert result.exit_code == 2 and "give one of them" in result.stderr


def test_it_takes_the_newest_compression_and_says_so(folder):
    run = folder / "runs" / "first"
    run.mkdir(parents=True)
    (run / "model-int8.tflite").write_bytes(tiny.tflite_int8())
    result = show()
    assert result.exit_code == 0 and result.stderr == "model: runs/first/model-int8.tflite (newest in ./runs)\n"
    shutil.rmtree("runs")
    shown = show()
    assert shown.exit_code == 0 and "comes with tinyasc" in shown.stderr and "esc10" in shown.stdout


@pytest.mark.parametrize("name", WRITERS)
def test_no_runtime_is_loaded(folder, name):
    (folder / name).write_bytes(WRITERS[name](tiny.bundle()))
    heavy = (
        "ai_edge_litert",
        "tflite_runtime",
        "onnxruntime",
        "onnx",
        "torch",
        "scipy",
        "rich",
        "matplotlib",
        "librosa",
    )
    code = (
        f"import sys\nfrom tinyasc.cli.main import cli\ntry:\n  cli(['show', {name!r}])\nexcept SystemExit as e:\n"
        f"  assert not e.code\nprint([m for m in {heavy!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
