"""`infer` reads the model and the clips: no network, nothing written, nothing executed out of a model file.

Python's audit events (PEP 578) of a second call in one process are looked at; the first one has done all imports.
"""

import json
import subprocess
import sys

import pytest
import soundfile
import tiny_models as tiny

from tinyasc_export.onnx import to_onnx
from tinyasc_export.tflite import to_tflite

# Read as code by no one: as a label, in the card.
CODE = "__import__('os').system('touch executed')"
WATCH = """
import json, os, sys
from tinyasc.cli.main import cli
seen, watching = [], False
def hook(event, args):
    if watching:
        seen.append([event, [str(a) for a in args[:3]]])
sys.addaudithook(hook)
def call():
    try:
        cli(["infer", "--json", "--tta", "2", "--model", sys.argv[1], "clip.wav", "stereo.flac", "gone.wav"])
    except SystemExit as end:
        assert end.code == 2, end.code
call()
watching = True
call()
found = list(seen)
open("control", "w").close()
exec("1")
__import__("colorsys")
print(json.dumps([found, seen[len(found):]]))
"""
WRITES = 0o1 | 0o2 | 0o100 | 0o1000 | 0o2000  # O_WRONLY, O_RDWR, O_CREAT, O_TRUNC, O_APPEND on Linux
FORBIDDEN = (
    *("socket", "subprocess", "pty", "ftplib", "http", "smtplib", "urllib", "webbrowser", "ctypes", "mmap"),
    *("pickle", "marshal", "exec", "compile", "code", "import", "builtins", "tempfile", "shutil", "sqlite3"),
    *("os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "os.startfile", "os.remove", "os.rename"),
    *("os.mkdir", "os.rmdir", "os.truncate", "os.chmod", "os.chown", "os.link", "os.symlink", "os.kill", "os.putenv"),
)


def breaks(event, args):
    """Whether an event is one that `infer` may not raise."""
    if event == "open":
        # A number is a descriptor that is open already: what standard error was.
        return args[0] != "/dev/null" and not args[0].isdigit() and bool(int(args[2]) & WRITES)
    return event.startswith(FORBIDDEN)


@pytest.mark.skipif(sys.platform != "linux", reason="flags of open() as on Linux")
@pytest.mark.parametrize("kind", ["tflite", "onnx"])
def test_infer_only_reads(tmp_path, kind):
    bundle = tiny.bundle(labels=(CODE, "b", "c"), name=CODE, decision_weights={CODE: 2.0})
    write = to_tflite if kind == "tflite" else to_onnx
    (tmp_path / f"m.{kind}").write_bytes(write(tiny.graph(), bundle))
    soundfile.write(tmp_path / "clip.wav", tiny.tone("low"), tiny.RATE)
    soundfile.write(tmp_path / "stereo.flac", tiny.tone("low", 9000)[:, None].repeat(2, axis=1), 16000)
    before = sorted(path.name for path in tmp_path.iterdir())
    done = subprocess.run(
        [sys.executable, "-c", WATCH, f"m.{kind}"], capture_output=True, text=True, cwd=tmp_path, timeout=120
    )
    assert done.returncode == 0, done.stderr
    found, control = json.loads(done.stdout.splitlines()[-1])
    assert [(event, args) for event, args in found if breaks(event, args)] == []
    opened = {args[0] for event, args in found if event == "open"}
    assert {f"m.{kind}", "clip.wav", "stereo.flac"} <= opened  # the hook saw the call
    assert {event for event, args in control if breaks(event, args)} >= {"open", "exec", "import"}
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*before, "control"])
    assert CODE in json.loads(done.stdout.splitlines()[0])["probabilities"]
