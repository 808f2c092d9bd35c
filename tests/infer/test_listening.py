import dataclasses
import os
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import tiny_models as tiny

from tinyasc.errors import InputError
from tinyasc.infer.backends.litert_backend import LiteRtBackend
from tinyasc.infer.listening import Listener, run
from tinyasc.infer.pcm import PcmLayout
from tinyasc.infer.runner import Model
from tinyasc.infer.sources import Block, BlockQueue, PipeSource
from tinyasc_export.bundle import Bundle

WINDOW = tiny.FRONT_END.clip_samples / tiny.RATE  # 0.512 s


@pytest.fixture(scope="module")
def model():
    return Model(LiteRtBackend(tiny.tflite()))


class Collected:
    """A report that keeps everything."""

    def __init__(self):
        self.answers, self.counts = [], None

    def answer(self, answer, counts):
        self.answers.append(answer)

    def counted(self, counts):
        self.counts = dataclasses.replace(counts)


class Ready:
    """A source that has it all and waits."""

    def __init__(self, samples, rate=tiny.RATE, size=800):
        samples = np.atleast_2d(samples.T).T
        self.blocks = [Block(samples[i : i + size], rate) for i in range(0, len(samples), size)]

    def get(self, timeout):
        return self.blocks.pop(0) if self.blocks else None

    def waiting_seconds(self):
        return 0.0


def heard(model, source, **settings):
    listener, report = Listener(model, **settings), Collected()
    assert run(source, listener, report)
    return report.answers, listener.counts


def three_tones(seconds=2.0):
    return np.concatenate([tiny.tone(label, round(seconds * tiny.RATE)) for label in tiny.LABELS])


@pytest.mark.parametrize("size", [1, 77, 800, 100000])
def test_every_window_answers_as_infer_does_on_the_same_samples(model, size):
    samples = three_tones(0.4)
    answers, counts = heard(model, Ready(samples, size=size), hop_seconds=0.1, smooth=1)
    ends = [*range(4096, len(samples) + 1, 800), len(samples)]
    assert [round(answer.seconds * tiny.RATE) for answer in answers] == ends
    for end, answer in zip(ends, answers, strict=True):
        expected = model.predict(samples[end - 4096 : end]).probabilities
        np.testing.assert_array_equal(answer.window, expected)
        np.testing.assert_array_equal(answer.probabilities, expected)
    assert (counts.windows, counts.skipped, counts.breaks) == (len(ends), 0, 0)
    assert counts.seconds == len(samples) / tiny.RATE


def test_with_a_hop_of_half_a_window_the_mean_is_infers_answer_to_the_file(model):
    """The same windows, the last one flush with the end: an oracle for all of them at once."""
    samples = three_tones(0.7)
    answers, _ = heard(model, Ready(samples), hop_seconds=WINDOW / 2, smooth=10**6)
    expected = model.predict(samples)
    assert len(answers) == expected.windows
    np.testing.assert_array_equal(answers[-1].probabilities, expected.probabilities)


def test_other_rates_and_channels_are_close_to_infer(model, rng):
    times = np.arange(3 * 22050) / 22050
    samples = np.stack([np.sin(2 * np.pi * 900 * times), rng.normal(0, 0.01, len(times))], axis=1).astype(np.float32)
    answers, counts = heard(model, Ready(samples, 22050, size=2205), hop_seconds=WINDOW / 2, smooth=10**6)
    expected = model.predict(samples.mean(axis=1), 22050)
    assert len(answers) == expected.windows and counts.seconds == 3
    np.testing.assert_allclose(answers[-1].probabilities, expected.probabilities, atol=1e-4)


def test_left_and_right_stay_apart_for_a_stereo_model(rng):
    class Channels:
        """Not a network: its logits are the mean levels of both sides."""

        front_end = tiny.other_front_end(stereo=True, band_scale=(), band_offset=())
        bundle = Bundle(("left", "right"), front_end.to_dict(), {})
        input_shape, n_classes = front_end.shape, 2

        def logits(self, features):
            return features.mean(axis=(1, 2))

    model = Model(Channels())
    samples = rng.normal(0, 1, (6000, 2)).astype(np.float32) * [1e-3, 0.3]
    answers, _ = heard(model, Ready(samples.astype(np.float32)))
    assert {answer.label for answer in answers} == {"right"}
    with pytest.raises(InputError, match="hears left and right, and the sound has 1 channel"):
        heard(model, Ready(samples[:, 0]))


def test_answers_are_means_of_the_newest_windows(model):
    samples = three_tones(0.5)
    alone, _ = heard(model, Ready(samples), hop_seconds=0.05, smooth=1)
    smoothed, _ = heard(model, Ready(samples), hop_seconds=0.05, smooth=4)
    for i, answer in enumerate(smoothed):
        newest = [each.window for each in alone[max(0, i - 3) : i + 1]]
        np.testing.assert_allclose(answer.probabilities, np.mean(newest, axis=0), rtol=1e-12)
        assert answer.confidence == answer.probabilities.max()


def test_labels_change_with_the_scene_and_below_the_threshold_it_is_unknown(model):
    samples = three_tones()
    answers, _ = heard(model, Ready(samples), hop_seconds=0.1, smooth=1, threshold=0)
    assert [answer.label for answer in answers if answer.changed] == list(tiny.LABELS)
    assert all(answer.label == answer.best for answer in answers)
    between, _ = heard(model, Ready(samples), hop_seconds=0.1, smooth=3, threshold=0.6)
    for answer in between:
        assert answer.label == (answer.best if answer.confidence >= 0.6 else "unknown")
    changes = [answer.label for answer in between if answer.changed]
    assert changes == ["low", "unknown", "middle", "unknown", "high"]
    always, _ = heard(model, Ready(samples), threshold=1)
    assert {answer.label for answer in always} == {"unknown"} and len([a for a in always if a.changed]) == 1


@pytest.mark.parametrize("n", [1, 700, 4095, 4096])
def test_a_recording_shorter_than_a_window_is_padded_as_in_infer(model, n):
    samples = tiny.tone("middle", n)
    (answer,), counts = heard(model, Ready(samples))
    np.testing.assert_array_equal(answer.window, model.predict(samples).probabilities)
    assert counts.windows == 1


def test_no_sound_no_answer(model):
    answers, counts = heard(model, Ready(np.zeros(0, np.float32)))
    assert answers == [] and counts.seconds == 0


def test_silence_is_answered_and_marked(model):
    samples = np.concatenate([np.zeros(6000, np.float32), tiny.tone("low", 6000)])
    answers, _ = heard(model, Ready(samples), hop_seconds=0.1, smooth=1)
    silent = [answer.silent for answer in answers]
    assert silent[:3] == [True] * 3 and not any(silent[4:])
    np.testing.assert_array_equal(answers[0].window, model.predict(np.zeros(4096, np.float32)).probabilities)


def test_no_window_spans_a_loss_and_the_clock_goes_on(model):
    low, high = tiny.tone("low", 8000), tiny.tone("high", 8000)
    source = Ready(np.concatenate([low, high]))
    source.blocks[10] = dataclasses.replace(source.blocks[10], lost=4000)
    answers, counts = heard(model, source, hop_seconds=0.1, smooth=3, threshold=0)
    assert [answer.label for answer in answers if answer.changed] == ["low", "high"]
    tones = {"low": low, "high": high}
    for answer in answers:
        start = round(answer.seconds * tiny.RATE) - 4096 - (12000 if answer.label == "high" else 0)
        alone = tones[answer.label][start : start + 4096]
        np.testing.assert_array_equal(answer.window, model.predict(alone).probabilities)
    second = next(answer for answer in answers if answer.label == "high")
    assert second.seconds == (8000 + 4000 + 4096) / tiny.RATE
    np.testing.assert_array_equal(second.probabilities, model.predict(high[:4096]).probabilities)
    assert (counts.breaks, counts.dropped_seconds, counts.seconds) == (1, 0.5, 2.5)


def test_a_loss_of_unknown_length_is_a_break_too(model):
    source = Ready(three_tones(1.0))
    source.blocks[15] = dataclasses.replace(source.blocks[15], lost=0)
    answers, counts = heard(model, source, hop_seconds=0.1)
    assert (counts.breaks, counts.dropped_seconds, counts.seconds) == (1, 0, 3)
    ends = [round(answer.seconds, 3) for answer in answers]
    assert not [end for end in ends if 1.5 < end < 1.5 + WINDOW] and 1.5 + WINDOW in ends


def test_a_block_with_nan_is_dropped_and_counted(model):
    source = Ready(three_tones(1.0))
    bad = source.blocks[12].samples.copy()
    bad[3], bad[5], bad[700] = np.nan, np.inf, -np.inf
    source.blocks[12] = dataclasses.replace(source.blocks[12], samples=bad)
    answers, counts = heard(model, source, hop_seconds=0.1)
    assert (counts.not_finite, counts.breaks, counts.dropped_seconds, counts.seconds) == (3, 1, 0.1, 3)
    assert all(np.isfinite(answer.probabilities).all() for answer in answers)
    assert not [a for a in answers if 1.2 < a.seconds < 1.3 + WINDOW - 1e-9]


def test_a_lone_rest_after_a_break_is_not_answered(model):
    source = Ready(tiny.tone("low", 4000))
    source.blocks[1] = dataclasses.replace(source.blocks[1], lost=1)
    answers, counts = heard(model, source)
    assert answers == [] and counts.breaks == 1


class LiveSource(BlockQueue):
    """A live source on a clock that the slow model turns: while it computes, sound comes in and nobody waits."""

    def __init__(self, samples, seconds):
        super().__init__(seconds, live=True)
        self.coming = Ready(samples).blocks
        self.now, self.sent = 0.0, 0.0

    def pass_time(self, seconds):
        self.now += seconds
        while self.coming and self.sent + 0.1 <= self.now + 1e-9:
            self.sent += 0.1
            self.put(self.coming.pop(0))
        if not self.coming:
            self.close()

    def get(self, timeout):
        try:
            return super().get(0)
        except TimeoutError:
            self.pass_time(0.1)
            return super().get(0)


def live(model, monkeypatch, *, takes, hop, capacity=10.0, seconds=60.0):
    """Answers of a model that takes `takes` seconds per window, how late each was, and the counts."""
    source = LiveSource(np.resize(three_tones(), round(seconds * tiny.RATE)), capacity)
    late = []

    def predict(samples):
        source.pass_time(takes)
        return Model.predict(model, samples)

    class Late(Collected):
        def answer(self, answer, counts):
            super().answer(answer, counts)
            if source.now <= seconds:  # later the clock goes on and no sound comes
                late.append(source.now - answer.seconds)

    slow = Model(model.backend)
    monkeypatch.setattr(slow, "predict", predict)
    listener, report = Listener(slow, hop_seconds=hop), Late()
    assert run(source, listener, report)
    return report.answers, late, listener.counts


def test_a_model_that_keeps_up_skips_nothing(model, monkeypatch):
    answers, late, counts = live(model, monkeypatch, takes=0.09, hop=0.1)
    assert counts.skipped == counts.breaks == 0 and counts.dropped_seconds == 0
    assert len(answers) == 1 + int((60 - WINDOW) / 0.1) + 1 and max(late) < 0.3


@pytest.mark.parametrize("takes", [0.11, 0.25, 0.9, 3.0])
def test_a_slow_model_skips_windows_and_is_never_later_than_its_own_time_and_two_hops(model, monkeypatch, takes):
    _, late, counts = live(model, monkeypatch, takes=takes, hop=0.1)
    assert counts.skipped > 0 and counts.dropped_seconds == 0 and counts.breaks == 0
    # Every window of the grid was either answered or counted; the one flush with the end is no part of it.
    grid = 1 + int((60 - WINDOW) / 0.1)
    assert counts.windows + counts.skipped in (grid, grid + 1)
    # An answer begins less than a hop behind, is on the grid of the blocks (0.1 s), and takes its time.
    assert max(late) <= takes + 2 * 0.1 + 1e-6
    assert counts.windows >= 60 / (takes + 0.2)


def test_a_model_slower_than_the_queue_drops_sound_counts_it_and_stays_near_the_present(model, monkeypatch):
    answers, late, counts = live(model, monkeypatch, takes=4.0, hop=0.5, capacity=2.0)
    assert counts.dropped_seconds > 0 and counts.breaks > 0
    assert counts.seconds == pytest.approx(60)
    assert max(late) <= 4.0 + 0.5 + 0.1 + 1e-6 and counts.windows >= 10
    # What is answered after a loss is still one stretch of the recording.
    samples = np.resize(three_tones(), 60 * tiny.RATE)
    for answer in answers:
        end = round(answer.seconds * tiny.RATE)
        np.testing.assert_array_equal(answer.window, model.predict(samples[end - 4096 : end]).probabilities)


@pytest.mark.skipif(os.name != "posix", reason="a pipe of the system")
def test_a_slow_model_behind_a_real_pipe_at_real_time_is_done_when_the_sound_is(model, monkeypatch):
    """Threads, a pipe and a clock as they are: a model that takes 60 ms per window, which is due every 20 ms."""
    slow = Model(model.backend)

    def predict(samples):
        time.sleep(0.06)
        return Model.predict(model, samples)

    monkeypatch.setattr(slow, "predict", predict)
    reading, writing = os.pipe()
    layout = PcmLayout(tiny.RATE, 1, "f32le")
    source = PipeSource(lambda n: os.read(reading, n), layout, live=True)
    sent = []

    def feed():
        data, start = np.resize(three_tones(1), 3 * tiny.RATE).astype("<f4"), time.monotonic()
        for i in range(0, len(data), 160):
            time.sleep(max(0.0, start + (i + 160) / tiny.RATE - time.monotonic()))
            os.write(writing, data[i : i + 160].tobytes())
        sent.append(time.monotonic())
        os.close(writing)

    feeder = threading.Thread(target=feed)
    feeder.start()
    listener, report = Listener(slow, hop_seconds=0.02), Collected()
    assert run(source, listener, report)
    ended = time.monotonic()
    feeder.join()
    os.close(reading)
    counts = listener.counts
    # 125 windows were due; to answer them all would have taken 7.5 s.
    assert counts.windows + counts.skipped == pytest.approx(125, abs=2) and counts.skipped > 50
    assert counts.windows >= 10 and counts.breaks == 0 and counts.seconds == 3
    assert ended - sent[0] < 1.5


def test_stopping_ends_between_two_answers(model):
    report = Collected()
    assert not run(Ready(three_tones()), Listener(model), report, lambda: len(report.answers) == 2)
    assert len(report.answers) == 2


@pytest.mark.parametrize(
    "settings",
    [
        {"hop_seconds": 0},
        {"hop_seconds": 1e-9},
        {"hop_seconds": float("nan")},
        {"hop_seconds": float("inf")},
        {"smooth": 0},
        {"threshold": -0.1},
        {"threshold": 1.1},
        {"threshold": float("nan")},
    ],
)
def test_settings_out_of_range_are_refused(model, settings):
    with pytest.raises(InputError, match="listening needs"):
        Listener(model, **settings)


def test_the_default_hop_is_a_second_and_never_longer_than_a_window(model):
    assert Listener(model).hop_seconds == WINDOW

    class Long:
        front_end = tiny.other_front_end(clip_samples=40960)
        labels = tiny.LABELS

    assert Listener(Long()).hop_seconds == 1


def resident() -> int:
    """What this process holds in memory, KiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 1024


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("rate", [tiny.RATE, 11025])
def test_memory_is_flat_over_twenty_minutes_of_synthetic_sound(model, rate, rng):
    noise = rng.normal(0, 0.1, (rate // 10, 1)).astype(np.float32)
    sizes = []

    class Endless:
        left = 12000  # blocks of a tenth of a second

        def get(self, timeout):
            self.left -= 1
            if self.left in (11400, 0):
                sizes.append(resident())
            return Block(noise * (1 + self.left % 7), rate) if self.left > 0 else None

        def waiting_seconds(self):
            return 0.0

    class Nothing(Collected):
        def answer(self, answer, counts):
            pass

    listener, start = Listener(model, hop_seconds=0.5), time.process_time()
    assert run(Endless(), listener, Nothing())
    assert listener.counts.seconds == pytest.approx(1200, abs=1) and listener.counts.windows > 2390
    early, late = sizes
    assert late - early <= 1024, f"{late - early} KiB more at 20 minutes than at one"
    assert time.process_time() - start < 1200 / 4, "a quarter of one core, at a hop of 0.5 s"
