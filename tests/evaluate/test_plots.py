import numpy as np
import pytest
from answers import some
from matplotlib.image import imread

from tinyasc.evaluate import plots, summary
from tinyasc.evaluate.predictions import join


def report(classes=3, clips=60):
    names = tuple(f"scene_{i:02d}" for i in range(classes))
    return summary.evaluate(join([some(clips, seed=s, names=names) for s in (0, 1)]), draws=50)


def test_the_files_are_pictures(tmp_path):
    files = plots.write_plots(report(), tmp_path / "out", title="model on data")
    assert [f.name for f in files] == ["confusion.png", "reliability.png", "classes.png", "devices.png"]
    for file in files:
        picture = imread(file)
        assert min(picture.shape[:2]) > 200 and picture[..., :3].std() > 0.01


@pytest.mark.parametrize("classes", [2, 10, 50])
def test_all_classes_are_named_and_counted(classes):
    scores = report(classes, clips=4 * classes)
    figure = plots.confusion(np.array(scores["confusion_matrix"]), scores["labels"], "t")
    (axes,) = figure.axes
    words = [label.get_text() for label in axes.get_yticklabels()]
    assert words == [f"scene {i:02d}" for i in range(classes)]
    counts = sum(int(text.get_text()) for text in axes.texts)
    assert counts == (scores["clips"] if classes <= 30 else 0)
    bars = plots.classes(scores["per_class"], "t").axes[0]
    assert len(bars.containers[0]) == classes
    widths = [bar.get_width() for bar in bars.containers[0]]
    assert widths == pytest.approx([100 * s["accuracy"] for s in scores["per_class"].values()])


def test_bars_of_devices_keep_their_room_beside_a_long_legend():
    scores = {
        f"A long name of a microphone {i}": {"accuracy": 0.5, "clips": 80.0, "seen": seen}
        for i, seen in enumerate([None] + [True] * 18 + [False] * 13)
    }
    figure = plots.devices(scores, "t")
    figure.draw_without_rendering()
    (axes,) = figure.axes
    assert axes.get_position().width > 0.5
    assert [len(c) for c in axes.containers] == [1, 18, 13]
    legend = axes.get_legend()
    assert legend is not None
    assert legend.get_window_extent().x1 < figure.bbox.x1


def test_the_reliability_bars_are_the_bins():
    scores = report()
    upper, lower = plots.reliability(scores["calibration"], "t").axes
    filled = [b for b in scores["calibration"]["bins"] if b["clips"]]
    assert [bar.get_height() for bar in upper.containers[0]] == pytest.approx([b["accuracy"] for b in filled])
    assert [bar.get_height() for bar in lower.containers[0]] == [b["clips"] for b in filled]


def test_a_class_that_was_never_answered_has_no_precision_mark():
    per_class = {
        "a": {"clips": 4, "accuracy": 1.0, "precision": 0.5, "log_loss": 0.1},
        "b": {"clips": 4, "accuracy": 0.0, "precision": None, "log_loss": 2.0},
        "c": {"clips": 0, "accuracy": None, "precision": 0.0, "log_loss": None},
    }
    (axes,) = plots.classes(per_class, "t").axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a (4)", "b (4)"]
    assert len(axes.lines[0].get_xdata()) == 1
