"""Batches: one process and several give the same answers in the same order, whatever happens to a process."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import soundfile
import tiny_models as tiny

from tinyasc.errors import ModelFileError, TinyascError
from tinyasc.infer import batch
from tinyasc.infer.batch import Job, answer, answers


@pytest.fixture
def clips(tmp_path):
    """A model and twelve clips; the third is no sound, the fifth is not there."""
    (tmp_path / "m.tflite").write_bytes(tiny.tflite_int8())
    paths = [tmp_path / f"{i:02}.wav" for i in range(12)]
    for i, path in enumerate(paths):
        soundfile.write(path, tiny.tone(tiny.LABELS[i % 3]), tiny.RATE, "FLOAT")
    paths[2].write_text("no sound")
    paths[4].unlink()
    return paths


def job(clips, **predicting):
    return Job(clips[0].parent / "m.tflite", {"exact": False}, predicting)


def told(found):
    return [(a.path, a.error, None if a.prediction is None else a.prediction.probabilities.tolist()) for a in found]


def crash_on_07(model, path, predicting):
    """Stands for native code that crashes on a file."""
    if path.name == "07.wav":
        os.kill(os.getpid(), signal.SIGKILL)
    return answer(model, path, predicting)


def wait_on_03(model, path, predicting):
    """The fourth clip takes long, so that later ones are ready before it."""
    if path.name == "03.wav":
        time.sleep(1)
    return answer(model, path, predicting)


def test_a_clip_that_cannot_be_read_is_an_answer(clips):
    the_job = job(clips, tta=2, seed=3)
    found = list(answers(the_job, the_job.load(), clips))
    assert [a.path for a in found] == clips
    assert [a.path.name for a in found if a.error] == ["02.wav", "04.wav"]
    assert all(a.error.startswith(f"{a.path}: ") and a.prediction is None for a in found if a.error)
    whole = [a.prediction for a in found if a.prediction is not None]
    assert [p.top(1)[0][0] for p in whole[:3]] == ["low", "middle", "low"] and whole[0].copies == 2
    assert all(a.milliseconds > 0 for a in found)


def test_two_processes_answer_as_one_in_the_same_order(clips):
    the_job = job(clips, tta=2, seed=3)
    model = the_job.load()
    alone = told(answers(the_job, model, clips))
    assert told(answers(the_job, model, clips, workers=2, ask=wait_on_03)) == alone


def test_a_clip_that_ends_its_process_is_an_answer_and_the_rest_are_answered(clips):
    the_job = job(clips)
    model = the_job.load()
    expected = told(answers(the_job, model, clips))
    found = told(answers(the_job, model, clips, workers=2, ask=crash_on_07))
    (odd,) = [i for i in range(12) if found[i] != expected[i]]
    assert odd == 7 and found[7][2] is None and "07.wav: the process that read it ended" in found[7][1]


def test_a_model_that_is_gone_when_processes_start_is_said(clips, capfd):
    the_job = job(clips)
    model = the_job.load()
    the_job.model.unlink()
    with pytest.raises(ModelFileError, match="cannot read this model file"):
        list(answers(the_job, model, clips, workers=2))
    assert "Traceback" not in capfd.readouterr().err


def test_processes_that_end_as_they_start_are_said(clips):
    the_job = job(clips)
    model = the_job.load()
    with pytest.raises(TinyascError, match="try --workers 1"):
        list(answers(Dying(the_job.model), model, clips, workers=2))


class Dying(Job):
    """Loads nothing: its process ends."""

    def load(self):
        os._exit(1)


def stay_at_03(model, path, predicting):
    """The fourth clip takes longer than anybody waits."""
    if path.name == "03.wav":
        time.sleep(600)
    return answer(model, path, predicting)


def test_who_stops_early_does_not_wait_for_clips_under_way(clips):
    the_job = job(clips)
    found = answers(the_job, the_job.load(), clips, workers=2, ask=stay_at_03)
    assert [next(found).path.name for _ in range(3)] == ["00.wav", "01.wav", "02.wav"]
    start = time.monotonic()
    found.close()
    assert time.monotonic() - start < 60


def test_no_process_is_started_for_one_clip(clips, monkeypatch):
    monkeypatch.setattr(batch, "_until_one_ends", None)
    the_job = job(clips)
    assert len(list(answers(the_job, the_job.load(), clips[:1], workers=8))) == 1
    assert list(answers(the_job, the_job.load(), [], workers=8)) == []


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds processes in /proc")
def test_processes_end_with_a_parent_that_is_killed(clips):
    code = (
        "import sys; sys.path[:0] = sys.argv[2:]\nimport test_batch as t\nfrom pathlib import Path\n"
        "if __name__ == '__main__':\n"
        "  clips = sorted(Path(sys.argv[1]).glob('*.wav')) * 500\n  job = t.job(clips)\n"
        "  for a in t.answers(job, job.load(), clips, workers=2):\n    print(a.path, flush=True)\n"
    )
    script = clips[0].parent / "run.py"
    script.write_text(code)
    here = str(Path(__file__).parent)
    with subprocess.Popen([sys.executable, script, clips[0].parent, here], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None and parent.stdout.readline()
        children = descendants(parent.pid)
        assert len(children) >= 2
        parent.kill()
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() and not is_zombie(pid) for pid in children):
        assert time.monotonic() < deadline, "worker processes outlive their parent"
        time.sleep(0.05)


def descendants(pid):
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split()]


def is_zombie(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
