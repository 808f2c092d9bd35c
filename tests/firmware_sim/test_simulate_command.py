"""`tinyasc simulate` and `tinyasc boards`, as they are typed."""

import json

import numpy as np
import pytest
import soundfile
import soxr
from click.testing import CliRunner
from emulated import build_once, need_qemu
from small_nets import float_graph, integer_graph

from tinyasc.cli import simulate as command
from tinyasc.cli.main import cli
from tinyasc.frontend import FrontEnd, features
from tinyasc.frontend_device import board_features, int16_samples, plan_for
from tinyasc_export.bundle import Bundle
from tinyasc_export.drift import quantize_input
from tinyasc_export.graphfile import save_graph
from tinyasc_export.reference import run_all
from tinyasc_firmware_sim import load_board, net, shipped_boards, stream

RATE = 8000
FRONT_END = FrontEnd(
    sample_rate=RATE, clip_samples=4096, n_fft=512, win_length=512, hop_length=256, n_mels=12, fmax=4000
).with_normalization(np.full(12, 0.05), np.full(12, 2.0))


@pytest.fixture(autouse=True)
def once(monkeypatch):
    build_once(monkeypatch)


@pytest.fixture(scope="module")
def graph():
    return integer_graph(frames=FRONT_END.n_frames())


@pytest.fixture(scope="module")
def model(graph, tmp_path_factory):
    file = tmp_path_factory.mktemp("run") / "graph-int8.npz"
    labels = tuple("abcde")
    file.write_bytes(save_graph(graph, Bundle(labels, FRONT_END.to_dict(), {"precision": "int8"})))
    return file


def invoke(*args):
    result = CliRunner().invoke(cli, [str(a) for a in args])
    print(result.output, result.stderr)
    return result


def test_a_clip_on_a_board(model, graph, tmp_path, monkeypatch):
    """A clip of another rate and longer than a window: its first window, from samples to scores."""
    clip = tmp_path / "clip.wav"
    loud = np.random.default_rng(0).uniform(-0.5, 0.5, 2 * 2 * FRONT_END.clip_samples).astype(np.float32)
    soundfile.write(clip, loud, 2 * RATE, subtype="FLOAT")
    seen = []
    original = stream.run
    monkeypatch.setattr(stream, "run", lambda image, **o: seen.append((o["files"], r := original(image, **o))) or r)
    result = invoke("simulate", model, clip, "--board", "stm32l4r5", "--json", "--tta", "1000")
    assert result.exit_code == 0
    assert "1 window(s) of 1 clip(s); 2 later window(s) left out" in result.stderr
    said = json.loads(result.stdout)
    # The program was given the clip's samples as infer hears them, and handed over their features and logits.
    samples = int16_samples(soxr.resample(loud, 2 * RATE, RATE, quality="HQ")[: FRONT_END.clip_samples])
    ((files, run),) = seen
    assert files["samples"] == samples.tobytes()
    x = board_features(samples, plan_for(FRONT_END, graph), "device")[None, :, :, None]
    assert run.files["features"] == x.tobytes()
    logits = run_all(graph, x)[graph.output].tobytes()
    assert run.files["scores"] == run.files[f"output{len(graph.ops) - 1}"] == logits
    assert said["equals_reference"] and said["board"] == "nucleo-l4r5zi" and said["counted"]["instructions"] > 0
    estimated, front_end = said["estimated"], said["front_end"]
    assert estimated["band"] == 0.3 and estimated["real_time"] == "yes"
    assert estimated["clip_seconds"] == 4096 / RATE
    assert estimated["seconds"] == pytest.approx(estimated["cycles"] / 120e6, rel=1e-5)
    assert len(said["operators"]) == len(graph.ops) and all(op["equal"] for op in said["operators"])
    assert sum(op["instructions"] for op in said["operators"]) == said["counted"]["instructions"]
    assert front_end["features_equal"] and front_end["scores_equal"] and front_end["arithmetic"] == "device"
    cycles = sum(front_end["estimated"].values()) + estimated["cycles"]
    assert estimated["duty"] == pytest.approx(cycles / 120e6 / (4096 / RATE), rel=1e-5)
    assert estimated["tta"] == {"copies": 1000, "duty": 1000 * estimated["duty"], "real_time": "no"}


def test_a_clip_with_the_front_end_on_this_machine(model, graph, tmp_path, monkeypatch):
    clip = tmp_path / "clip.wav"
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, 2 * FRONT_END.clip_samples).astype(np.float32)
    soundfile.write(clip, samples, RATE, subtype="FLOAT")
    seen = []
    original = net.run
    monkeypatch.setattr(net, "run", lambda image, **o: seen.append(o["files"]["input"]) or original(image, **o))
    options = ("--board", "raspberry-pi-pico", "--front-end", "none", "--all-windows")
    result = invoke("simulate", model, clip, *options)
    assert result.exit_code == 0 and "3 window(s) of 1 clip(s); the features were computed" in result.stderr
    assert seen == [
        quantize_input(graph, features(samples[at : at + 4096], FRONT_END).transpose(1, 2, 0)[None]).tobytes()
        for at in (0, 2048, 4096)
    ]
    assert "real time: the net alone, one answer per clip" in result.stdout


def test_the_front_end_in_tables(model, tmp_path):
    clip = tmp_path / "short.wav"
    soundfile.write(clip, np.random.default_rng(0).uniform(-0.5, 0.5, 500), RATE, subtype="PCM_16")
    result = invoke("simulate", model, clip, "--board", "stm32l4r5", "--tta", "4")
    assert result.exit_code == 0 and "input: 1 window(s) of 1 clip(s)\n" in result.stderr
    for words in (
        "Front end on the board, device",
        "equal to the numpy specification",
        "equal to numpy's",
        "instructions per frame, counted",
        "instructions per window of 15 frames, counted",
        "RAM: its state and the window's frames",
        "real time: front end and net, one answer per clip",
        "real time: front end and net, 4 copies per clip",
    ):
        assert words in result.stdout


def test_the_tables(model):
    result = invoke("simulate", model, "--board", "raspberry-pi-pico")
    assert result.exit_code == 0 and "input: random features" in result.stderr
    for words in (
        "equal to the numpy reference",
        "est. +-50%",
        "instructions of the net, counted",
        "RAM: arena",
        "real time",
    ):
        assert words in result.stdout
    assert "DIFFER" not in result.stdout


def test_a_bit_that_differs_is_an_error(model, monkeypatch):
    monkeypatch.setattr(net, "unequal_operators", lambda *_: {3})
    result = invoke("simulate", model, "--board", "raspberry-pi-pico")
    assert result.exit_code == 1 and "DIFFERS" in result.stdout
    assert "bits differ from numpy's on raspberry-pi-pico" in result.stderr


def test_a_fault_on_one_of_all_boards_is_an_error(model, monkeypatch):
    """Boards that cannot carry a model are an answer; one on which it goes wrong is not passed over."""
    boards = [load_board(name) for name in ("esp32-s3-devkitc-1", "nucleo-l4r5zi")]
    monkeypatch.setattr(command, "shipped_boards", lambda: boards)
    healthy = invoke("simulate", model, "--board", "all")
    assert healthy.exit_code == 0 and "not esp32-s3-devkitc-1" in healthy.stdout
    result = invoke("simulate", model, "--board", "all", "--stack", "256", "--timeout", "0.1")
    assert result.exit_code == 1 and "not nucleo-l4r5zi: " in result.stdout
    assert result.stderr.endswith("did not run to its end on nucleo-l4r5zi, which could carry it\n")


def test_a_net_in_floating_point_is_refused(tmp_path):
    file = tmp_path / "graph-fp32.npz"
    file.write_bytes(save_graph(float_graph(), Bundle(tuple("abcde"), FRONT_END.to_dict(), {"precision": "fp32"})))
    result = invoke("simulate", file, "--board", "stm32l4r5")
    assert result.exit_code == 2 and "error: boards run integer graphs, the model's input is float32" in result.stderr


@pytest.mark.firmware
def test_every_board(model):
    need_qemu("mps3-an547")
    result = invoke("simulate", model, "--board", "all", "--json")
    said = {row["board"]: row for row in json.loads(result.stdout)}
    assert result.exit_code == 0 and set(said) == {b.key for b in shipped_boards()}
    assert {key for key, row in said.items() if "error" in row} == {"esp32-s3-devkitc-1"}
    assert all(row.get("equals_reference", True) for row in said.values())


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--board", "stm32l4"), "several bear such a chip"),
        (("--board", "zx81"), "is unknown"),
        (("--board", "esp32-s3-devkitc-1"), "no compiler and emulator"),
        (("--board", "stm32l4r5", "--front-end", "fixed"), "needs sound"),
        (("missing.wav", "--board", "stm32l4r5"), "missing.wav"),
    ],
)
def test_bad_arguments_are_one_line(model, args, words):
    result = invoke("simulate", model, *args)
    assert result.exit_code == 2 and words in result.stderr
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1


def test_a_model_that_is_not_there(tmp_path):
    result = invoke("simulate", tmp_path / "none", "--board", "stm32l4r5")
    assert result.exit_code == 2 and "no such run folder" in result.stderr


def test_a_folder_of_c_is_told_from_a_run(tmp_path):
    (tmp_path / "bundle.json").write_text("{}")
    result = invoke("simulate", tmp_path, "--board", "stm32l4r5")
    assert result.exit_code == 2 and "is a folder of C; name the run that it was written from" in result.stderr


def test_boards():
    result = invoke("boards")
    assert result.exit_code == 0
    assert all(board.key in result.stdout for board in shipped_boards())
    rows = {row["key"]: row for row in json.loads(invoke("boards", "--json").stdout)}
    assert "unicorn" in rows["nucleo-l4r5zi"]["emulated"] and "nothing" in rows["esp32-s3-devkitc-1"]["emulated"]
    assert all(row["source"] for row in rows.values())
