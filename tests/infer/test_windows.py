import numpy as np
import pytest
import tiny_models as tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyasc.errors import InputError
from tinyasc.infer.backends.litert_backend import LiteRtBackend
from tinyasc.infer.runner import Model
from tinyasc.infer.windows import AGGREGATES, aggregate, hop_samples, starts, windows

CLIP = tiny.FRONT_END.clip_samples


@pytest.fixture(scope="module")
def model():
    return Model(LiteRtBackend(tiny.tflite()))


@pytest.mark.parametrize(("seconds", "samples"), [(None, CLIP // 2), (0.1, 800), (1e-9, 1), (10, 80000)])
def test_a_hop_is_given_in_seconds(seconds, samples):
    assert hop_samples(seconds, tiny.FRONT_END) == samples


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf")])
def test_an_impossible_hop_is_refused(seconds, model):
    with pytest.raises(InputError, match="above 0 seconds"):
        model.predict(tiny.tone("low"), window_hop=seconds)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 300), st.integers(1, 100), st.integers(1, 150))
def test_windows_cover_the_clip_to_its_end(n, clip, hop):
    cut = list(windows(np.arange(1, n + 1), clip, hop))
    assert all(len(w) == clip for w in cut) and len(cut) == len(list(starts(n, clip, hop)))
    if n <= clip:
        assert len(cut) == 1 and cut[0].tolist() == [*range(1, n + 1), *[0] * (clip - n)]
        return
    first = [int(w[0]) - 1 for w in cut]
    assert first[0] == 0 and first[-1] == n - clip and first[:-1] == list(range(0, n - clip, hop))
    if hop <= clip:
        assert set(np.concatenate(cut)) == set(range(1, n + 1))


@pytest.mark.parametrize("how", AGGREGATES)
def test_answers_of_windows_by_hand(how):
    answers = np.array([[0.6, 0.4, 0.0], [0.1, 0.2, 0.7], [0.5, 0.1, 0.4]])
    want = {"mean": [0.4, 0.7 / 3, 1.1 / 3], "max": [0.6 / 1.7, 0.4 / 1.7, 0.7 / 1.7], "vote": [2 / 3, 0, 1 / 3]}
    got, n = aggregate(iter(answers), how)
    np.testing.assert_allclose(got, want[how], rtol=1e-12)
    assert n == 3


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 40), st.integers(2, 9), st.integers(0, 1000), st.sampled_from(AGGREGATES))
def test_answers_of_windows_are_probabilities(n, k, seed, how):
    """So the reason why copies may stop early holds for every aggregation."""
    answers = np.random.default_rng(seed).dirichlet(np.full(k, 0.3), n)
    got, _ = aggregate(answers, how)
    assert (got >= 0).all() and (got <= 1 + 1e-12).all() and got.sum() == pytest.approx(1)
    if how == "mean":
        np.testing.assert_array_equal(got, np.mean(answers, axis=0), "the bits that evaluations published")


def test_windows_at_a_hop_joined_by_every_aggregation(model):
    """A short high tone in a long low clip: the mean hears low, the largest window hears high too."""
    long = np.concatenate([tiny.tone("low", 6 * CLIP), tiny.tone("high", CLIP)])
    answers = np.array([tiny.expected(w) for w in windows(long, CLIP, 4000)])
    votes = np.eye(3)[answers.argmax(axis=1)].mean(axis=0)
    peak = answers.max(axis=0) / answers.max(axis=0).sum()
    for how, want in (("mean", answers.mean(axis=0)), ("max", peak), ("vote", votes)):
        prediction = model.predict(long, window_hop=0.5, aggregate=how)
        np.testing.assert_allclose(prediction.probabilities, want, atol=1e-5)
        assert (prediction.windows, prediction.aggregate) == (len(answers), how)


def test_an_unknown_aggregation_is_refused(model):
    with pytest.raises(InputError, match="one of mean, max, vote, not by 'median'"):
        model.predict(tiny.tone("low"), aggregate="median")


@pytest.mark.parametrize("how", AGGREGATES)
@pytest.mark.parametrize("tta", [2, 30, "s4-30", "s2-3crop"])
@pytest.mark.parametrize("length", [CLIP // 2, CLIP, 3 * CLIP])
@pytest.mark.parametrize("card", [{}, {"temperature": 0.05, "decision_weights": {"high": 20, "low": 0.1}}])
def test_stopping_early_never_changes_the_likeliest_class(how, tta, length, card):
    model = Model(LiteRtBackend(tiny.tflite(**card)))
    clip = np.resize(np.concatenate([tiny.tone("low"), tiny.tone("high")]), length)
    options = {"tta": tta, "seed": 1, "aggregate": how}
    whole, early = (model.predict(clip, **options, stop_early=stop) for stop in (False, True))
    assert early.top()[0][0] == whole.top()[0][0]
    assert early.copies <= whole.copies == whole.planned == early.planned


def test_stopping_early_hears_half_of_a_clear_clip_and_all_of_a_doubtful_one(model):
    cool = Model(LiteRtBackend(tiny.tflite(temperature=0.001)))
    prediction = cool.predict(tiny.tone("low"), tta=30, stop_early=True)
    assert (prediction.copies, prediction.planned, prediction.windows) == (16, 30, 16)
    assert cool.predict(tiny.tone("low"), tta=30).copies == 30
    both = tiny.tone("low") + tiny.tone("high")
    assert Model(LiteRtBackend(tiny.tflite(temperature=100))).predict(both, tta=9, stop_early=True).copies == 9


def test_the_cost_is_the_cards_count_times_the_runs(model):
    counted = Model(LiteRtBackend(tiny.tflite(counts={"macs": 36})))
    assert counted.macs == 36
    assert counted.predict(np.resize(tiny.tone("low"), 3 * CLIP), tta=4).macs == 36 * (5 + 3)
    assert model.predict(tiny.tone("low")).macs is None


@pytest.mark.parametrize("counts", [None, 5, [], {}, {"macs": "many"}, {"macs": True}, {"macs": -1}, {"macs": 1.5}])
def test_a_card_without_a_usable_count_has_no_cost(counts):
    assert Model(LiteRtBackend(tiny.tflite(counts=counts))).macs is None
