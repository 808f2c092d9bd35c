"""What `compress --board` writes runs on that board, and `--latency` counts what was written. Synthetic scenes."""

import json

import pytest
import yaml
from test_train_compress import STUDENT, TEACHER, tinyasc

from tinyasc.compress import solver
from tinyasc.compress.costs import STACK_BYTES, predict
from tinyasc.compress.limits import parse_limits
from tinyasc.data.scenes import write_scenes
from tinyasc.frontend_device import plan_for
from tinyasc.training.recipe import load_recipe
from tinyasc.training.recipe_parts import FrontEndPart
from tinyasc_export.c99 import to_c, with_front_end
from tinyasc_firmware_sim import load_board
from tinyasc_firmware_sim.net import build_source
from tinyasc_firmware_sim.toolchain import TooLargeError

pytest.importorskip("ziglang", reason="zig is not installed: pip install 'tinyasc[firmware]'")
pytest.importorskip("unicorn", reason="unicorn is not installed: pip install 'tinyasc[firmware]'")
pytestmark = [pytest.mark.firmware, pytest.mark.timeout(1800)]
QUICK = {"epochs": 1, "batch_size": 16}
ARDUINO = "arduino-nano-33-ble-sense"
LABELS = tuple("abcdefghij")
FRAMES = FrontEndPart(sample_rate=16000, clip_seconds=2.0, n_fft=512, hop_length=264, n_mels=64)


def teacher(folder, monkeypatch, seconds, **parts):
    monkeypatch.chdir(folder)
    write_scenes(folder / "scenes", clips_per_scene=12, seconds=seconds)
    (folder / "teacher.yaml").write_text(yaml.safe_dump(TEACHER | {"training": QUICK} | parts))
    (folder / "student.yaml").write_text(yaml.safe_dump(STUDENT | {"training": QUICK}))
    tinyasc("train", "teacher.yaml")


def test_the_default_result_for_a_board_links_and_runs_there(tmp_path, monkeypatch):
    """The demo's front end and the family's shipped recipe, hardly trained: what fits does not depend on accuracy."""
    front_end = {"sample_rate": 16000, "clip_seconds": 2.0, "n_fft": 1024, "hop_length": 640, "n_mels": 64}
    teacher(tmp_path, monkeypatch, 2.0, front_end=front_end, student="students/sepconv_ca")
    options = [f"training.{key}={value}" for key, value in (QUICK | {"warmup_epochs": 0}).items()]
    tinyasc("compress", "--board", ARDUINO, "--run", "run",
            *(word for option in options for word in ("--set", option)))  # fmt: skip
    plan = json.loads((tmp_path / "run/plan.json").read_text())["plan"]
    said = json.loads(tinyasc("simulate", "run", "clip.wav", "--board", ARDUINO, "--json").stdout)
    counted = said["counted"]
    assert said["equals_reference"] and said["board"] == ARDUINO
    assert counted["arena_bytes"] <= plan["arena_bytes"]
    # The recipe's 64 channels or as many as the RAM takes, and not a toy.
    assert plan["family"] == "sepconv_ca" and 32 <= plan["width"] <= 64
    # What was set aside for the stack is more than it went.
    assert counted["ram_bytes"] <= plan["ram_bytes"] <= 262144 and counted["stack_bytes"] < 4096
    assert counted["flash_bytes"] <= 982528
    print(json.dumps({"plan": plan, "counted": counted, "estimated": said["estimated"]}, indent=1))


def test_a_limit_on_latency_is_counted_after_writing(tmp_path, monkeypatch):
    teacher(tmp_path, monkeypatch, 0.5)
    result = tinyasc("compress", "--latency", "100ms", "--board", "stm32l4r5", "--run", "run")
    report = json.loads((tmp_path / "run/report.json").read_text())
    (check,) = (c for c in report["checks"] if c["name"] == "latency")
    assert check["met"] and check["limit"] == 100 and "from counted instructions" in check["what"]
    main = next(f for f in report["files"] if f["precision"] == "int8")
    on_board = main["on_board"]
    assert on_board["board"] == "nucleo-l4r5zi" and on_board["estimated"]["band"] == 0.3
    assert check["value"] == -(-on_board["estimated"]["seconds"] * 1000 // 1)
    assert f"{on_board['counted']['instructions']:,} instructions counted" in result.stdout
    assert "ms of one answer, estimated +-30% from counted instructions" in result.stdout
    # `simulate` counts the same net, whatever it hears.
    said = json.loads(tinyasc("simulate", "run", "--board", "stm32l4r5", "--json").stdout)
    assert said["counted"]["instructions"] == on_board["counted"]["instructions"]
    # The plan's estimate, from the table alone.
    shown = tinyasc("compress", "--latency", "100ms", "--board", "stm32l4r5", "--dry-run").stdout
    assert "from a table of kernel costs (--latency 100ms --board nucleo-l4r5zi): met" in shown


def test_what_a_board_of_two_pieces_holds_links_there():
    """96 KB and 32 KB: the frames of a short hop and the arena are one piece's, so the sum of both is no limit."""
    recipe = load_recipe("students/tf_sepnet").model_copy(update={"front_end": FRAMES})
    plan = solver.solve([recipe], LABELS, parse_limits(board="nucleo-l476rg"), "8", False).chosen.plan
    board = load_board("nucleo-l476rg")
    for width, links in ((plan.width, True), (plan.width + 16, False)):
        costs = predict(solver.float_graph(recipe, width, len(LABELS)), FRAMES.record(), LABELS, "int8")
        net = to_c(costs.graph, name="net")
        source = with_front_end(net, costs.graph, plan_for(costs.front_end, costs.graph), arithmetic="device")
        written = [file for file in source.sources if file != "net_stream.c"]
        runtime = ["stream.c", "stream_main.c"]
        options = {"compiler": None, "emulator": None, "stack_bytes": STACK_BYTES}
        if links:
            assert build_source(source, costs.graph, board, written, runtime, **options).sizes.ram <= board.block_bytes
        else:
            assert costs.arena_bytes <= board.block_bytes < costs.ram_bytes <= board.ram_bytes
            with pytest.raises(TooLargeError, match="RAM overflows"):
                build_source(source, costs.graph, board, written, runtime, **options)
