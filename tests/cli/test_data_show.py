import numpy as np
import pytest
import soundfile
import yaml
from click.testing import CliRunner
from matplotlib.image import imread

from tinyasc.cli.main import cli
from tinyasc.data import Clip
from tinyasc.data.scenes import write_scenes
from tinyasc.frontend import FrontEnd, fit_length, log_mel
from tinyasc.training import pictures
from tinyasc.training.recipe_parts import Augment

RATE = 8000
FRONT_END = {"sample_rate": RATE, "clip_seconds": 1.0, "n_fft": 256, "hop_length": 128, "n_mels": 16}


@pytest.fixture
def clips(tmp_path, monkeypatch, rng):
    monkeypatch.chdir(tmp_path)
    t = np.arange(RATE) / RATE
    for name, hz in (("low", 300), ("high", 2000)):
        soundfile.write(f"{name}.wav", 0.3 * np.sin(2 * np.pi * hz * t) + 0.01 * rng.standard_normal(RATE), RATE)
    return tmp_path


def invoke(*args, code=0):
    result = CliRunner().invoke(cli, ["data", "show", *map(str, args)])
    print(result.output)
    assert result.exit_code == code
    return result


def write_recipe(folder, **augment):
    values = {"name": "r", "front_end": FRONT_END, "model": {"family": "sepconv_ca"}, "augment": augment}
    (folder / "r.yaml").write_text(yaml.safe_dump(values))
    return "r.yaml"


def test_every_transform_is_drawn_of_two_clips(clips):
    (clips / "mics").mkdir()
    soundfile.write(clips / "mics/m.wav", [1.0, 0.5], RATE)
    result = invoke("low.wav", "high.wav", "--dirs", "mics", "--out", "out/all.png")
    count = len(pictures.examples(FrontEnd(), "mics"))
    assert f"written: out/all.png, low.wav and {count} transforms of it" in result.stdout
    assert "left out" not in result.output
    image = imread(clips / "out/all.png")
    assert image.shape[1] > 1000 and image[..., :3].std() > 0.1


def test_synthetic_impulse_responses_need_no_file(clips):
    said = invoke("low.wav", "high.wav", "--dirs", "synthetic").output
    assert f"{len(pictures.examples(FrontEnd(), 'synthetic'))} transforms of it" in said and "left out" not in said
    name = write_recipe(clips, dir_prob=0.5, dirs="synthetic")
    assert "1 transforms" in invoke("low.wav", "--recipe", name).stdout


def test_every_switch_of_a_recipe_has_a_picture():
    shown = {key for one in pictures.examples(FrontEnd(), "mics") for key in one.model_dump(exclude_defaults=True)}
    companions = {key for keys in pictures.KEYS.values() for key in keys}
    assert set(pictures.KEYS) <= shown
    # A key that is added to the recipe has to be drawn or listed here.
    assert set(Augment.model_fields) == set(pictures.KEYS) | companions | {"mask_layers", "dir_devices"}


def test_a_recipe_shows_its_own_transforms_and_says_what_is_left_out(clips):
    name = write_recipe(clips, gain_db=3, mixup_alpha=0.3, time_mask=9, mask_layers=["x"])
    result = invoke("low.wav", "--recipe", name)
    assert "written: pictures.png, low.wav and 2 transforms of it" in result.stdout
    assert "give a second CLIP" in result.stderr and "mask_layers, which act inside" in result.stderr
    assert "3 transforms" in invoke("low.wav", "high.wav", "--recipe", name).stdout
    assert "2 transforms" in invoke("low.wav", "high.wav", "--recipe", name, "--set", "augment.gain_db=0").stdout
    for kind in ("svg", "pdf"):
        invoke("low.wav", "--recipe", name, "--out", f"p.{kind}")
        assert (clips / f"p.{kind}").stat().st_size > 1000


def test_pictures_are_in_decibels_and_begin_with_the_clip(clips):
    front_end = FrontEnd(sample_rate=RATE, clip_samples=RATE, n_fft=256, win_length=256, hop_length=128, n_mels=16)
    paths = [clips / "low.wav", clips / "high.wav"]
    shown = [Clip(path, "", "", "", 0) for path in paths]
    before, louder, mixed = pictures.pictures(shown, front_end, [Augment(gain_db=6), Augment(mixup_alpha=0.5)], seed=1)
    low, high = (log_mel(fit_length(soundfile.read(p, dtype="float32")[0], RATE), front_end)[0] for p in paths)
    np.testing.assert_array_equal(before.mel, low)
    change = louder.mel - low
    assert 0.01 < abs(change.mean()) <= 6 and change.std() < 1e-3
    share = float(((mixed.mel - high) * (low - high)).sum() / ((low - high) ** 2).sum())
    np.testing.assert_allclose(mixed.mel, share * low + (1 - share) * high, atol=1e-2)
    assert "mixup_alpha 0.5" in mixed.title
    assert 0.5 <= share <= 1


def test_the_data_sets_clips_are_taken_by_default(clips, tau_root):
    result = invoke("--data", "tau2020", "--root", tau_root, "--recipe", write_recipe(clips, mixup_alpha=0.3))
    assert "bus-lyon" in result.stdout and "1 transforms" in result.stdout


def test_a_data_set_that_is_named_without_its_folder_gives_what_a_clip_is_mixed_with(clips):
    write_scenes(clips / "demo-scenes", clips_per_scene=12, seconds=0.5)
    name = write_recipe(clips, mixup_alpha=0.3)
    assert "give a second CLIP" in invoke("low.wav", "--recipe", name).stderr
    result = invoke("low.wav", "--data", "demo", "--recipe", name)
    assert "low.wav and 1 transforms of it" in result.stdout and "left out" not in result.stderr


def test_stereo_and_power_are_drawn_without_what_they_cannot_take(clips, rng):
    for name in ("left", "right"):
        soundfile.write(clips / f"{name}.wav", 0.1 * rng.standard_normal((RATE, 2)), RATE)
    recipe = yaml.safe_load((clips / write_recipe(clips, roll=True, time_mask=9)).read_text())
    recipe["front_end"] |= {"stereo": True, "deltas": 1, "log": False}
    (clips / "r.yaml").write_text(yaml.safe_dump(recipe))
    assert "2 transforms" in invoke("left.wav", "right.wav", "--recipe", "r.yaml").stdout
    line = invoke("left.wav", "--recipe", "r.yaml", "--set", "augment.wave_gain_db=3", code=2).stderr.splitlines()[-1]
    assert "take one channel and front_end.stereo is on" in line
    shown = {key for one in pictures.examples(FrontEnd(stereo=True, log=False), None) for key in one.model_fields_set}
    assert {"roll", "mixup_alpha"} <= shown and not {"gain_db", "filter_db", "wave_gain_db", "time_scale"} & shown


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("gone.wav",), "gone.wav: no such file"),
        (("low.wav", "--out", "x.txt"), "x.txt: pictures are written as .png, .svg or .pdf"),
        (("low.wav", "--dirs", "nowhere"), "nowhere: no such folder or list of impulse responses"),
        (("low.wav", "--root", "."), "--root .: the folder of which data set? name it with --data"),
        (("low.wav", "--data", "tau2020"), "data set tau2020: where is it? name its folder with --root"),
        (("low.wav", "--set", "augment.roll=true"), "name one with --recipe"),
    ],
)
def test_what_cannot_be_drawn_is_one_line(clips, args, says):
    assert says in invoke(*args, code=2).stderr.splitlines()[-1]
    assert not (clips / "x.txt").exists()
