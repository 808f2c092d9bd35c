import json
import os
import signal
import subprocess
import sys
import threading
import time
import types

import numpy as np
import pytest
import soundfile
import tiny_models as tiny
from click.testing import CliRunner

from tinyasc.cli.listen import clock
from tinyasc.cli.main import cli
from tinyasc.infer.runner import load
from tinyasc_export.tflite import to_tflite

COMMAND = [sys.executable, "-m", "tinyasc.cli.main", "listen"]
POSIX = pytest.mark.skipif(os.name != "posix", reason="pipes and signals of POSIX")
HEAVY = ("torch", "librosa", "scipy", "matplotlib", "rich", "sounddevice", "soxr")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "m.tflite").write_bytes(tiny.tflite())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def pcm(samples) -> bytes:
    return np.round(np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()


def three_tones(seconds=2):
    return np.concatenate([tiny.tone(label, seconds * tiny.RATE) for label in tiny.LABELS])


def listen(*args, data=b""):
    result = CliRunner().invoke(cli, ["listen", *map(str, args), "--model", "m.tflite"], input=data)
    print(result.output)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


def records(text):
    return [json.loads(line) for line in text.splitlines()]


def test_people_get_a_line_per_change_and_the_counts(folder):
    result = listen("-", "--hop", "0.1", "--smooth", 1, data=pcm(three_tones()))
    assert result.exit_code == 0
    rows = [line.split() for line in result.stdout.splitlines()]
    names = [row[1] for row in rows if row[1] != "unknown"]
    assert names == list(tiny.LABELS) and rows[0][0] == "0:00:00" and rows[0][3] == "%"
    assert result.stderr.splitlines() == [
        "note: reading PCM of 8000 Hz, 1 channel, s16le",
        "heard 0:00:06, 56 windows; skipped 0, dropped 0.0 s (end of input)",
    ]


def test_unknown_names_the_nearest(folder):
    result = listen("-", "--threshold", 1, data=pcm(tiny.tone("high", 8000)))
    (line,) = result.stdout.splitlines()
    assert line.split()[1] == "unknown" and line.endswith("(nearest: high)")


def test_labels_cannot_command_a_terminal(folder):
    labels = ("\x1b[2Jlow", "mid\ndle", "\x9bhigh")
    (folder / "m.tflite").write_bytes(to_tflite(tiny.graph(), tiny.bundle(labels=labels)))
    for threshold in (0, 1):  # as what is heard, and as what is nearest to it
        result = listen("-", "--hop", "0.1", "--smooth", 1, "--threshold", threshold, data=pcm(three_tones()))
        assert result.exit_code == 0 and "\\x1b[2Jlow" in result.stdout
        assert result.stdout.replace("\n", "").isprintable()
        assert all(line.strip().startswith("0:00:0") for line in result.stdout.splitlines())


def test_exact_kernels_of_a_model_in_floats_are_refused(folder):
    result = listen("-", "--exact", data=pcm(three_tones()))
    assert result.exit_code == 2 and result.stdout == ""
    assert result.stderr == "error: m.tflite: --exact is for .tflite models of integers, and this one takes floats\n"


def test_json_has_every_window_with_the_probabilities_of_infer(folder):
    samples = three_tones(1)
    result = listen("-", "--json", "--hop", "0.256", "--smooth", 1, data=pcm(samples))
    start, *windows, end = records(result.stdout)
    assert start["event"] == "start" and start["model"] == "m.tflite"
    assert (start["window_seconds"], start["hop_seconds"]) == (0.512, 0.256)
    assert {w["event"] for w in windows} == {"window"} and windows[0]["utc"].endswith("Z")
    heard = np.frombuffer(pcm(samples), "<i2").astype(np.float32) / 32768
    model = load("m.tflite")
    for window in windows:
        stop = round(window["seconds"] * tiny.RATE)
        expected = model.predict(heard[stop - 4096 : stop])
        assert window["probabilities"] == dict(zip(tiny.LABELS, expected.probabilities.tolist(), strict=True))
        assert (window["best"], window["confidence"]) == expected.top(1)[0]
    assert end["event"] == "end" and end["reason"] == "end of input"
    assert (end["seconds"], end["windows"], end["dropped_seconds"]) == (3.0, len(windows), 0.0)


def test_a_wav_stream_is_read_by_its_header(folder):
    samples = np.stack([three_tones(1)] * 2, axis=1)
    soundfile.write("s.wav", samples, tiny.RATE, "PCM_24")
    wav = (folder / "s.wav").read_bytes()
    result = listen("-", "--json", data=wav)
    assert "note: reading a WAV stream of 8000 Hz, 2 channels, s24le" in result.stderr
    assert records(result.stdout)[-1]["seconds"] == 3.0
    result = listen("-", "--rate", 16000, data=wav)
    assert result.exit_code == 2 and "--rate says 16000; leave it out" in result.stderr.splitlines()[-1]


def test_float_pcm_of_another_rate_with_nan_is_counted(folder):
    samples = np.repeat(three_tones(1), 2)
    samples[20000] = np.nan
    result = listen(
        "-", "--json", "--rate", 16000, "--format", "f32le", "--hop", "0.1", data=samples.astype("<f4").tobytes()
    )
    assert result.exit_code == 0
    end = records(result.stdout)[-1]
    assert (end["not_finite"], end["breaks"], end["dropped_seconds"], end["seconds"]) == (1, 1, 0.1, 3.0)
    assert "1 samples were NaN or infinite; 0.1 s of sound dropped" in result.stderr


def test_silence_is_said_once(folder):
    data = pcm(np.concatenate([np.zeros(8000), tiny.tone("low", 8000)]))
    result = listen("-", "--hop", "0.1", data=data)
    assert result.exit_code == 0 and result.stderr.count("all zeros; is the microphone muted?") == 1


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "standard input held no sound"),
        (b"x", "standard input held no sound"),
        (b"fLaC" + bytes(100), "standard input is FLAC, not PCM"),
        (b"RIFF1234WAVEjunk", "ended inside its WAV header"),
    ],
)
def test_input_without_sound_is_one_error(folder, data, says):
    result = listen("-", data=data)
    assert result.exit_code == 2 and result.stdout == ""
    assert [line for line in result.stderr.splitlines() if line.startswith("error: ")] == [
        result.stderr.splitlines()[-1]
    ]
    assert says in result.stderr and "Traceback" not in result.stderr
    ended = records(listen("-", "--json", data=data).stdout)[-1]
    assert ended["event"] == "end" and ended["windows"] == 0


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["clip.wav"], "for files there is `tinyasc infer`"),
        (["-", "--device", "1"], "--device is for the microphone"),
        (["--channels", "2"], "--channels is for standard input"),
        (["--format", "u8"], "--format is for standard input"),
        (["--no-drop"], "--no-drop is for standard input"),
        (["-", "--hop", "0"], "--hop"),
        (["-", "--hop", "1e-9"], "at least one sample"),
        (["-", "--hop", "nan"], "at least one sample"),
        (["-", "--threshold", "2"], "--threshold"),
        (["-", "--smooth", "0"], "--smooth"),
        (["-", "--rate", "0"], "--rate"),
        (["-", "--format", "s8"], "--format"),
    ],
)
def test_what_would_do_nothing_or_is_out_of_range_is_refused(folder, args, says):
    result = listen(*args, data=pcm(three_tones(1)))
    assert result.exit_code == 2 and result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ") and says in line


def test_a_bad_model_is_one_line(folder):
    (folder / "m.tflite").write_bytes(b"\0\1garbage")
    result = listen("-", data=pcm(three_tones(1)))
    (line,) = result.stderr.splitlines()
    assert result.exit_code == 2 and line.startswith("error: m.tflite: ")


def test_without_sounddevice_the_microphone_says_how_to_get_it(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    for args in ((), ("--devices",)):
        result = listen(*args)
        assert result.exit_code == 1 and "pip install 'tinyasc[listen]'" in result.stderr


def test_the_microphone_listens_until_it_is_unplugged(folder, monkeypatch):
    """A stand-in for sounddevice whose device records at 16 kHz alone, sends three seconds, and ends."""
    module = types.ModuleType("sounddevice")

    class Stream:
        def __init__(self, samplerate, blocksize, callback, finished_callback, channels, **rest):
            assert (samplerate, blocksize, channels) == (16000, 1600, 1)
            self.send, self.ended = callback, finished_callback

        def start(self):
            sound = np.repeat(three_tones(1), 2)[:, None]
            for i in range(0, len(sound), 1600):
                # Slower than a listener that keeps up, quicker than real time.
                time.sleep(0.005)
                self.send(sound[i : i + 1600], 1600, None, types.SimpleNamespace(input_overflow=i == 16000))
            self.ended()

        def close(self, ignore_errors):
            module.closed = True

    def check_input_settings(samplerate, **rest):
        if samplerate != 16000:
            raise module.PortAudioError("Invalid sample rate")

    module.PortAudioError = type("PortAudioError", (Exception,), {})
    module.query_devices = lambda device=None, kind=None: {"name": "USB mic", "default_samplerate": 16000.0}
    module.check_input_settings, module.InputStream = check_input_settings, Stream
    monkeypatch.setitem(sys.modules, "sounddevice", module)
    result = listen("--json")
    assert result.exit_code == 1 and module.closed
    assert "note: listening to USB mic at 16000 Hz" in result.stderr
    assert result.stderr.splitlines()[-1] == "error: USB mic: the device stopped recording; is it unplugged?"
    end = records(result.stdout)[-1]
    assert end["reason"] == "failed" and end["breaks"] == 1 and end["seconds"] == 3.0 and end["windows"] > 0


def started(*args, **kwargs):
    return subprocess.Popen(
        [*COMMAND, "-", "--model", "m.tflite", *args],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **kwargs,
    )


@POSIX
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("sound", [True, False])
def test_a_signal_ends_it_in_order(folder, number, sound):
    """Also while a silent pipe gives nothing at all."""
    process = started("--json")
    assert process.stdin and process.stdout and process.stderr
    lines = [json.loads(process.stdout.readline())]
    if sound:
        process.stdin.write(pcm(tiny.tone("low", 8000)))
        process.stdin.flush()
        lines.append(json.loads(process.stdout.readline()))
        assert lines[-1]["label"] == "low"
    began = time.monotonic()
    process.send_signal(number)
    rest, errors = process.stdout.read(), process.stderr.read()
    assert process.wait(10) == 0 and time.monotonic() - began < 3
    lines += records(rest.decode())
    assert lines[-1]["event"] == "end" and lines[-1]["reason"] == number.name
    assert lines[-1]["windows"] == sum(line["event"] == "window" for line in lines)
    assert b"Traceback" not in errors and b"error" not in errors
    process.stdin.close()


@POSIX
def test_answers_come_while_the_sound_goes_on(folder):
    """Bytes in odd pieces, an answer as soon as a window is full: nothing waits for the end."""
    process = started("--json")
    assert process.stdin and process.stdout
    data = pcm(tiny.tone("middle", 4800))
    json.loads(process.stdout.readline())
    for piece in (data[i : i + 1001] for i in range(0, len(data), 1001)):
        process.stdin.write(piece)
        process.stdin.flush()
    first = json.loads(process.stdout.readline())
    assert (first["seconds"], first["label"]) == (0.512, "middle")
    out, errors = process.communicate(data)
    assert process.returncode == 0, errors
    *_, last, end = records(out.decode())
    assert (last["seconds"], end["seconds"], end["reason"]) == (1.2, 1.2, "end of input")


@POSIX
def test_a_file_waits_and_with_no_drop_so_does_a_pipe(folder):
    """Ten minutes of synthetic sound at once: every window is answered and nothing is dropped."""
    data = pcm(np.resize(three_tones(), 600 * tiny.RATE))
    (folder / "long.raw").write_bytes(data)
    command = [*COMMAND, "-", "--model", "m.tflite", "--json"]
    with open("long.raw", "rb") as file:
        of_file = subprocess.run(command, stdin=file, capture_output=True, check=True)
    of_pipe = subprocess.run([*command, "--no-drop"], input=data, capture_output=True, check=True)
    for done in (of_file, of_pipe):
        end = records(done.stdout.decode())[-1]
        assert (end["seconds"], end["skipped"], end["dropped_seconds"], end["breaks"]) == (600.0, 0, 0.0, 0)
        assert end["windows"] == 1 + (600 * tiny.RATE - 4096) // 4096 + 1

    def answers(done):
        return [(r["seconds"], r["probabilities"]) for r in records(done.stdout.decode()) if r["event"] == "window"]

    assert answers(of_file) == answers(of_pipe)


@POSIX
def test_a_pipe_that_is_quicker_than_real_time_drops_and_says_what_to_add(folder):
    # Twenty minutes of sound in one go: not even this model answers that in the time in which it is written.
    data = pcm(np.resize(three_tones(), 1200 * tiny.RATE))
    done = subprocess.run(
        [*COMMAND, "-", "--model", "m.tflite", "--json", "--hop", "0.02"], input=data, capture_output=True, check=True
    )
    end = records(done.stdout.decode())[-1]
    assert end["seconds"] == pytest.approx(1200) and end["dropped_seconds"] > 60
    # What is left at the end is the queue's ten seconds.
    assert records(done.stdout.decode())[-2]["seconds"] == pytest.approx(1200, abs=0.5)
    assert b"fell behind" in done.stderr and b"add --no-drop" in done.stderr
    assert len(done.stderr.splitlines()) <= 4


@POSIX
def test_a_closed_pipe_of_answers_is_quiet(folder):
    process = started("--json", "--no-drop", "--hop", "0.01")
    assert process.stdin and process.stdout and process.stderr
    stdin = process.stdin

    def feed():
        try:
            for _ in range(1000):
                stdin.write(pcm(three_tones(1)))
        except BrokenPipeError:
            pass

    feeder = threading.Thread(target=feed)
    feeder.start()
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(20) == 1
    feeder.join(20)
    assert process.stderr.read().splitlines() == [b"note: reading PCM of 8000 Hz, 1 channel, s16le"]
    process.stderr.close()


@POSIX
def test_a_terminal_and_a_closed_input_are_refused(folder):
    import pty

    master, slave = pty.openpty()
    done = subprocess.run([*COMMAND, "-", "--model", "m.tflite"], stdin=slave, capture_output=True, text=True)
    os.close(master)
    os.close(slave)
    assert done.returncode == 2 and "standard input is a terminal" in done.stderr
    script = 'exec "$@" <&-'
    done = subprocess.run(
        ["sh", "-c", script, "sh", *COMMAND, "-", "--model", "m.tflite"], capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stderr == "error: standard input is closed; pipe PCM into it\n"


def test_listen_loads_the_edge_half_and_neither_sounddevice_nor_soxr_without_need(folder):
    code = (
        "import sys\nfrom tinyasc.cli.main import cli\n"
        "try:\n  cli(['listen', '-', '--model', 'm.tflite'])\n"
        "except SystemExit as e:\n  assert not e.code\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], input=pcm(three_tones(1)), capture_output=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == b"[]"


def test_clocks():
    assert [clock(s) for s in (0, 59.9, 61, 3600, 360000)] == ["0:00:00", "0:00:59", "0:01:01", "1:00:00", "100:00:00"]
