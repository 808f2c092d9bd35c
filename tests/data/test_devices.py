import numpy as np
import pytest
import scipy.signal
import soundfile
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyasc.data.devices import load_device_list, read_responses, through
from tinyasc.errors import InputError
from tinyasc.training.recipe import configs_folder

SHIPPED = configs_folder() / "devices/micirp.yaml"


def level(x):
    return np.sqrt(np.mean(np.square(x, dtype=np.float64)))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 700), st.integers(1, 400), st.integers(0, 2**32))
def test_equal_to_direct_convolution_but_for_level(n, taps, seed):
    rng = np.random.default_rng(seed)
    clip, response = rng.standard_normal(n), rng.standard_normal(taps)
    expected = np.convolve(clip, response)[:n]
    expected *= level(clip) / level(expected)
    got = through(clip, response)
    assert got.dtype == np.float32 and got.shape == (n,)
    np.testing.assert_allclose(got, expected, rtol=0, atol=2e-6 * np.abs(expected).max())


def test_equal_to_scipys_direct_convolution_on_a_long_response(rng):
    clip, response = rng.standard_normal(8000).astype(np.float32), rng.standard_normal(9000)
    expected = scipy.signal.convolve(clip.astype(float), response, method="direct")[:8000]
    expected *= level(clip) / level(expected)
    np.testing.assert_allclose(through(clip, response), expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_a_unit_response_changes_nothing_and_a_gain_is_undone(rng):
    clip = rng.standard_normal(1000).astype(np.float32)
    for gain in (1.0, -1.0, 1e-4, 250.0):
        np.testing.assert_allclose(through(clip, np.array([gain])), np.sign(gain) * clip, atol=1e-6)


def test_a_delay_shifts_and_keeps_the_length():
    clip = np.sin(np.arange(500) / 9)
    delayed = np.concatenate([np.zeros(7), clip[:-7]])
    np.testing.assert_allclose(through(clip, np.eye(1, 8, 7)[0]), delayed * level(clip) / level(delayed), atol=1e-6)


def test_a_low_pass_microphone_takes_the_highs_and_keeps_the_level():
    t = np.arange(16000) / 16000
    clip = np.sin(2 * np.pi * 200 * t) + np.sin(2 * np.pi * 6000 * t)
    heard = through(clip, scipy.signal.firwin(129, 1000, fs=16000))
    spectrum = np.abs(np.fft.rfft(heard[1000:]))
    frequency = np.fft.rfftfreq(15000, 1 / 16000)
    at = [spectrum[np.abs(frequency - f) < 20].max() for f in (200, 6000)]
    assert 20 * np.log10(at[0] / at[1]) > 50
    assert level(heard) == pytest.approx(level(clip), rel=1e-6)


def test_both_sides_of_stereo_are_heard_with_one_gain(rng):
    clip, response = np.stack([rng.standard_normal(700), 0.1 * rng.standard_normal(700)]), rng.standard_normal(90)
    expected = np.stack([np.convolve(side, response)[:700] for side in clip])
    expected *= level(clip) / level(expected)
    got = through(clip, response)
    assert got.dtype == np.float32 and got.shape == (2, 700)
    np.testing.assert_allclose(got, expected, rtol=0, atol=2e-6 * np.abs(expected).max())
    # One silent side stays so, and takes no level from the other.
    lone = through(np.stack([clip[0], np.zeros(700)]), response)
    assert not lone[1].any() and level(lone[0]) == pytest.approx(level(clip[0]), rel=1e-6)


def test_silence_stays_silence(rng):
    response = rng.standard_normal(300)
    assert not through(np.zeros(400), response).any()
    # All that the clip has comes out after its end.
    late = np.zeros(301)
    late[-1] = 1.0
    assert not through(np.eye(1, 300, 10)[0], late).any()


@pytest.mark.parametrize(
    ("clip", "response", "text"),
    [
        (np.zeros(0), np.ones(3), "clip must be of shape"),
        (np.zeros((2, 0)), np.ones(3), "clip must be of shape"),
        (np.zeros((3, 5)), np.ones(3), r"clip must be of shape .* got \(3, 5\)"),
        (np.zeros((5, 2)), np.ones(3), "clip must be of shape"),
        (np.zeros((1, 2, 5)), np.ones(3), "clip must be of shape"),
        (np.zeros(5), np.ones(0), "impulse response must be of shape"),
        (np.zeros(5), np.ones((3, 1)), "impulse response must be of shape"),
        (np.array([0, np.nan]), np.ones(3), "clip holds NaN"),
        (np.zeros(5), np.array([np.inf]), "impulse response holds NaN"),
    ],
)
def test_bad_input(clip, response, text):
    with pytest.raises(InputError, match=text):
        through(clip, response)


# --- lists ---

GOOD = {"name": "x", "train": ["a.wav"], "bank": ["b.wav"], "test": ["c.wav"]}


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"tests": ["d.wav"]}, "unknown key 'tests'; did you mean 'test'"),
        ({"train": []}, "train must be a list of audio files, and not empty"),
        ({"bank": "b.wav"}, "bank must be a list"),
        ({"test": [1]}, "test must be a list"),
        ({"test": None}, "test must be a list"),
        ({"name": 3}, "lacks the key 'name'"),
        ({"test": ["a.wav"]}, r"a is listed twice \(train, test\)"),
        ({"test": ["other/a.flac"]}, r"a is listed twice \(train, test\)"),
        ({"test": ["far/clean.wav"]}, "test names far/clean.wav, and clips without a microphone are called so"),
        ({"bank": ["b.wav", "b.wav"]}, r"b is listed twice \(bank, bank\)"),
    ],
)
def test_bad_lists(tmp_path, changes, text):
    file = tmp_path / "list.yaml"
    file.write_text(yaml.safe_dump(GOOD | changes))
    with pytest.raises(InputError, match=text):
        load_device_list(file)


@pytest.mark.parametrize(("text", "words"), [("", "mapping"), ("[a]", "mapping"), ("a: [", "cannot be read as YAML")])
def test_files_that_are_no_lists(tmp_path, text, words):
    (tmp_path / "list.yaml").write_text(text)
    with pytest.raises(InputError, match=words):
        load_device_list(tmp_path / "list.yaml")
    with pytest.raises(InputError, match="no such list"):
        load_device_list(tmp_path / "other.yaml")


def test_responses_come_at_the_clips_rate(tmp_path, rng):
    soundfile.write(tmp_path / "one.wav", 0.1 * rng.standard_normal(4410), 44100)
    found = read_responses(("one.wav",), tmp_path, 16000)
    assert list(found) == ["one"] and len(found["one"]) == 1600


def test_responses_that_cannot_be_used(tmp_path):
    soundfile.write(tmp_path / "one.wav", np.zeros(100), 16000)
    with pytest.raises(InputError, match="response of silence"):
        read_responses(("one.wav",), tmp_path, 16000)
    with pytest.raises(InputError, match="no such impulse response"):
        read_responses(("two.wav",), tmp_path, 16000)
    with pytest.raises(InputError, match="outside the data set"):
        read_responses(("../one.wav",), tmp_path, 16000)
    (tmp_path / "more").mkdir()
    for name in ("one.wav", "more/one.wav"):
        soundfile.write(tmp_path / name, np.ones(100) / 2, 16000)
    with pytest.raises(InputError, match="'one' twice"):
        read_responses(("one.wav", "more/one.wav"), tmp_path, 16000)


# Which maker made what, for the rule; in the order of their names.
MAKERS = [
    "AKG",
    "Altec",
    "American",
    "Amperite",
    "Astatic",
    "B&O",
    "BBC",
    "Beyer",
    "Coles",
    "Doremi",
    "EV",
    "FilmIndustries",
    "Foster",
    "Gaumont",
    "GEC",
    "Melodium",
    "Oktava",
    "RCA",
    "Reslo",
    "Shure",
    "Sony",
    "STC",
    "Toshiba",
]


def test_the_shipped_list_follows_its_rule():
    found = load_device_list(SHIPPED)
    assert sorted(MAKERS, key=str.casefold) == MAKERS
    home = {maker: ("train", "bank", "test")[i % 3] for i, maker in enumerate(MAKERS)}
    for part in ("train", "bank", "test"):
        for file in getattr(found, part):
            name = file.removeprefix("wav/").removeprefix("IR_")
            (maker,) = [maker for maker in MAKERS if name.startswith(maker)]
            assert home[maker] == part, file


def test_the_shipped_list_is_the_collection(shared_audio):
    root = shared_audio / "dirs_micirp"
    found = load_device_list(SHIPPED)
    files = [*found.train, *found.bank, *found.test]
    assert sorted(files) == sorted(f"wav/{path.name}" for path in (root / "wav").glob("*.wav")) and len(files) == 50
    for name, response in read_responses(found.test, root, 32000).items():
        # The direct sound comes at once, so a view is delayed by nothing that matters.
        assert np.abs(response).argmax() < 0.003 * 32000, name


def test_the_list_of_three_devices_keeps_the_shipped_bank_and_test():
    whole, three = load_device_list(SHIPPED), load_device_list(SHIPPED.with_name("micirp_three.yaml"))
    assert (three.bank, three.test) == (whole.bank, whole.test)
    assert three.train == (whole.train[0], next(f for f in whole.train if "Amperite" in f))
