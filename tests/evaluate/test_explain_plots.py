import dataclasses

import numpy as np
import pytest
from matplotlib.image import imread

from tinyasc.evaluate.explain import STEPS, Explanation
from tinyasc.evaluate.explain_plots import hz_ticks, picture
from tinyasc.evaluate.plots import write_figure
from tinyasc.frontend import FrontEnd, band_frequencies, frame_times

FRONT_END = FrontEnd(sample_rate=16000, clip_samples=16000, n_fft=512, win_length=512, hop_length=400, n_mels=40)
LABELS = tuple(f"scene_{i}" for i in range(12))


def explanation(method, rows, columns, front_end=FRONT_END, **changes):
    rng = np.random.default_rng(0)
    shape = (front_end.n_mels, front_end.n_frames())
    answers = len(rows) if method in ("attention", "gradcam") else 1
    probabilities = rng.dirichlet(np.ones(len(LABELS)), answers)
    mel = rng.normal(-40, 10, (front_end.channels, *shape)).astype(np.float32)
    return Explanation(
        method,
        "trunk",
        tuple(rows),
        tuple(columns),
        (rng.random((len(rows), len(columns), *shape)) * np.arange(1, len(rows) + 1)[:, None, None, None]).astype("f4"),
        np.full((len(rows), len(columns), 2), 7),
        mel,
        mel,
        LABELS,
        probabilities,
        **changes,
    )


def panels(figure):
    """Panels with a picture of a map or of sound, and colour bars."""
    return [axes for axes in figure.axes if axes.images], [axes for axes in figure.axes if not axes.images]


@pytest.mark.parametrize(
    ("method", "rows", "columns", "bars"),
    [
        ("attention", [""], LABELS[:10], 1),
        ("attention", [""], LABELS, 1),
        ("attention", ["device a", "device b"], LABELS[:3], 1),
        ("gradcam", [""], LABELS[:1], 1),
        ("gates", [""], ["blocks.1", "blocks.4"], 1),
        ("amfm", ["trunk.2", "trunk.5"], STEPS, 2),
    ],
)
@pytest.mark.parametrize("stereo", [False, True])
def test_a_panel_for_every_map_and_every_side_of_the_sound(tmp_path, method, rows, columns, bars, stereo):
    front_end = dataclasses.replace(FRONT_END, stereo=stereo)
    e = explanation(method, rows, columns, front_end)
    figure = picture(e, front_end, clip="x.wav", model="runs/m")
    pictures, scales = panels(figure)
    assert len(pictures) == front_end.sides + len(rows) * len(columns)
    assert len(scales) == 1 + bars
    shown = [axes.images[0].get_array() for axes in pictures]
    for side in range(front_end.sides):
        np.testing.assert_array_equal(shown[side], e.mel[side])
    maps = shown[front_end.sides :]
    for i, drawn in enumerate(maps):
        np.testing.assert_array_equal(drawn, e.maps[i // len(columns), i % len(columns)])
    # One scale for what is compared.
    limits = {axes.images[0].get_clim() for axes in pictures[front_end.sides :]}
    assert len(limits) == bars
    assert max(high for _, high in limits) == pytest.approx(e.maps.max())
    assert {axes.images[0].get_cmap().name for axes in pictures} == {"magma", "viridis"}
    file = write_figure(figure, tmp_path / "x.png", dpi=50)
    drawn = imread(file)
    assert min(drawn.shape[:2]) > 150 and drawn[..., :3].std() > 0.05


def test_the_axes_are_in_seconds_and_hz():
    e = explanation("attention", [""], LABELS[:2], start=3.0)
    figure = picture(e, FRONT_END, clip="x.wav", model="runs/m")
    sound, *maps = panels(figure)[0]
    left, right, bottom, top = sound.images[0].get_extent()
    half = 400 / 16000 / 2
    assert (left, right) == pytest.approx((3 + 256 / 16000 - half, 3 + frame_times(FRONT_END)[-1] + half))
    assert (bottom, top) == (-0.5, 39.5)
    assert all(axes.images[0].get_extent() == sound.images[0].get_extent() for axes in maps)
    assert sound.get_xlim() == maps[1].get_xlim() == pytest.approx((left, right))
    centres = band_frequencies(FRONT_END)
    for axes in (sound, maps[0]):
        for place, label in zip(axes.get_yticks(), axes.get_yticklabels(), strict=True):
            hz = float(label.get_text().replace("k", "000"))
            assert np.interp(place, np.arange(40), centres) == pytest.approx(hz)


def test_frequencies_on_the_axis_lie_apart_and_within_the_bands():
    for n_mels, rate in ((8, 8000), (64, 32000), (256, 44100)):
        bands = band_frequencies(FrontEnd(sample_rate=rate, n_mels=n_mels, n_fft=4096, win_length=2048))
        places, names = hz_ticks(bands)
        assert len(names) >= 3 and places == sorted(places, reverse=True)
        assert (-np.diff(places) >= n_mels / 7).all() and 0 <= places[-1] <= places[0] <= n_mels - 1


def test_titles_say_method_answer_and_size_of_the_maps():
    e = explanation("gradcam", [""], LABELS[:2])
    e.maps[0, 1] = 0
    best, share = e.top(0, 1)[0]
    figure = picture(e, FRONT_END, clip="x.wav", model="runs/m")
    text = figure.get_suptitle()
    assert text.startswith(f"x.wav: {best.replace('_', ' ')} {100 * share:.1f} %")
    assert "Grad-CAM" in text and "at trunk" in text and "7 x 7" in text and "runs/m" in text
    first, second = (axes.get_title(loc="left") for axes in panels(figure)[0][1:])
    assert first == f"scene 0 {100 * e.probabilities[0, 0]:.1f} %" and second.endswith("nowhere above 0")


def test_the_likeliest_class_of_every_row_is_bold():
    e = explanation("attention", ["device a", "device b"], LABELS)
    drawn = panels(picture(e, FRONT_END, clip="x.wav", model="m"))[0][1:]
    bold = [axes._left_title.get_weight() == "bold" for axes in drawn]
    assert np.flatnonzero(bold).tolist() == [i * 12 + int(p.argmax()) for i, p in enumerate(e.probabilities)]


def test_constant_maps_and_silence_are_drawn(tmp_path):
    e = explanation("attention", [""], LABELS[:2])
    e.maps[:], e.mel[:] = 0.5, -100
    assert write_figure(picture(e, FRONT_END, clip="x.wav", model="m"), tmp_path / "x.png").stat().st_size > 1000
