"""`tinyasc listen` in a process of its own over an hour of synthetic sound, and at the pace of a microphone."""

import sys
from pathlib import Path

import pytest
import tiny_models as tiny

# Appended, since its modules share names with helpers of the tests.
sys.path.append(str(Path(__file__).parents[1] / "bench"))

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")]
CORE_SHARE = 0.25


@pytest.fixture
def model(tmp_path):
    (tmp_path / "m.tflite").write_bytes(tiny.tflite_int8())
    return str(tmp_path / "m.tflite")


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("rate", "channels"), [(tiny.RATE, 1), (11025, 2)])
def test_an_hour_in_accelerated_time_has_flat_memory(model, rate, channels):
    from listen import listen

    run = listen(model, seconds=3600, hop=0.5, rate=rate, channels=channels, real_time=False)
    end, (early, before), (late, after) = run["end"], run["early"], run["late"]
    # Blocks of a tenth of a second, in whole frames.
    heard = 36000 * round(rate / 10) / rate
    assert end["seconds"] == pytest.approx(heard) and end["windows"] in range(7190, 7203)
    assert end["skipped"] == end["breaks"] == end["dropped_seconds"] == 0
    assert 290 < early <= 300 and late > 3590
    assert after - before <= 2048, f"{before} KiB at 5 minutes, {after} KiB at 60"
    assert run["cpu"] / end["seconds"] < CORE_SHARE


def test_at_the_pace_of_a_microphone_it_keeps_up_and_most_of_the_core_is_free(model):
    from listen import listen

    run = listen(model, seconds=20, hop=0.5, rate=44100, channels=2, real_time=True)
    end = run["end"]
    # A machine that is busy with other tests may hold it up for half a second, which skips a window; never for ten.
    assert end["breaks"] == end["dropped_seconds"] == 0 and end["skipped"] <= 4
    assert end["windows"] + end["skipped"] >= 39
    assert run["cpu"] / 20 < CORE_SHARE
