"""`tinyasc simulate --chart`: what is drawn, and what is refused."""

import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest

pytest.importorskip("matplotlib", reason="matplotlib is not installed")
pytest.importorskip("capstone", reason="capstone is not installed: pip install 'tinyasc[firmware]'")

from click.testing import CliRunner

from tinyasc.cli import simulate
from tinyasc.cli.chart import check_chart, draw_chart, write_chart
from tinyasc.cli.main import cli
from tinyasc.errors import InputError
from tinyasc_firmware_sim import load_board
from tinyasc_firmware_sim.front_end import FrontEndReport
from tinyasc_firmware_sim.image import Sizes
from tinyasc_firmware_sim.net import NetReport, Operator


@pytest.fixture
def report():
    """Two operators, 3 ms and 1 ms at 120 MHz."""
    ops = (
        Operator(0, "conv2d", "stem", 1000, 250_000, 360_000.0, True),
        Operator(1, "mean", "", 0, 90_000, 120_000.0, True),
    )
    sizes = Sizes(code=1000, constants=500, data=0, bss=100, arena=2000, stack=4096, harness=0)
    return NetReport(load_board("stm32l4r5"), "tflite", "zig", "unicorn", ops, sizes, 200, 480_000.0, 0.3, "model",
                     1, (), 0.1)  # fmt: skip


def test_bars_are_instructions_and_points_milliseconds(report):
    figure = draw_chart(report, "graph-int8.npz")
    below, above = figure.axes
    assert [bar.get_width() for bar in below.patches] == [250_000, 90_000]
    assert [label.get_text() for label in below.get_yticklabels()] == ["stem conv2d", "mean"]
    (points, _, (whiskers,)) = above.containers[0]
    assert points.get_xdata() == pytest.approx([3, 1])
    assert [list(s[:, 0]) for s in whiskers.get_segments()] == [pytest.approx([2.1, 3.9]), pytest.approx([0.7, 1.3])]
    assert "counted" in below.get_xlabel() and "estimated +-30%" in above.get_xlabel()
    assert below.yaxis_inverted()  # the first operator on top


def test_the_front_end_is_on_top_and_small_operators_share_a_bar(report):
    ops = [Operator(i, "mean", f"m{i}", 0, n, 2.0 * n, True) for i, n in enumerate((900_000, 100, 50_000, 200, 300))]
    front_end = FrontEndReport("device", 10, 400_000, 600_000.0, 4, 5.0, 1, 2, True, True)
    figure = draw_chart(replace(report, operators=tuple(ops), front_end=front_end), "m")
    below, above = figure.axes
    names = [label.get_text() for label in below.get_yticklabels()]
    assert names == ["front end (device)", "m0 mean", "m2 mean", "3 others"]
    assert [bar.get_width() for bar in below.patches] == [400_000, 900_000, 50_000, 600]
    assert above.containers[0][0].get_xdata() == pytest.approx([5, 15, 5 / 6, 0.01])
    assert "1.4 M instructions counted, 21 ms estimated" in figure.get_suptitle()


def test_a_png_is_written(report, tmp_path):
    file = write_chart(report, "graph-int8.npz", tmp_path / "c.png")
    assert file.read_bytes().startswith(b"\x89PNG") and list(tmp_path.iterdir()) == [file]


def test_the_command_draws(report, tmp_path, monkeypatch):
    stored = SimpleNamespace(path=tmp_path / "graph-int8.npz", precision="int8", clip_seconds=1.0, graph=None)
    monkeypatch.setattr(simulate, "open_stored", lambda *_: stored)
    monkeypatch.setattr(simulate, "read_sound", lambda *_, **__: SimpleNamespace(windows=(), left_out=0))
    monkeypatch.setattr(simulate, "simulate_path", lambda *_, **__: report)
    picture = tmp_path / "c.png"
    result = CliRunner().invoke(cli, ["simulate", str(tmp_path), "--board", "stm32l4r5", "--chart", str(picture)])
    assert result.exit_code == 0, result.output
    assert picture.is_file() and f"chart: {picture}" in result.stderr


def test_what_is_refused(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"name a \.png file"):
        check_chart(tmp_path / "c.pdf")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="no folder that can be written to"):
        check_chart(tmp_path / "file/c.png")
    result = CliRunner().invoke(cli, ["simulate", str(tmp_path), "--board", "all", "--chart", "c.png"])
    assert result.exit_code == 2 and "one board" in result.stderr
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InputError, match="needs matplotlib"):
        check_chart(tmp_path / "c.png")
