"""Paths of models that lead to no file."""

import os

import pytest
import tiny_models as tiny

from tinyasc.errors import ModelFileError
from tinyasc.infer.backends.base import MAX_MODEL_BYTES
from tinyasc.infer.backends.litert_backend import LiteRtBackend
from tinyasc.infer.runner import load

pytestmark = pytest.mark.skipif(os.name != "posix", reason="POSIX names of files")


def special(folder):
    """name -> what is said of it."""
    os.mkfifo(folder / "pipe.tflite")
    (folder / "run").mkdir()
    (folder / "loop.tflite").symlink_to("loop.tflite")
    with open(folder / "disk.tflite", "wb") as file:
        file.write(tiny.tflite())
        file.truncate(MAX_MODEL_BYTES + 1)
    return {
        folder / "pipe.tflite": "not a regular file",
        folder / "run": "a folder",
        folder / "loop.tflite": "cannot read this model file",
        folder / "disk.tflite": "1073741825 bytes",
        folder / "gone.tflite": "No such file",
        "/dev/zero": "not a regular file",
        "nul\0name": "cannot read this model file",
    }


@pytest.mark.timeout(30)
@pytest.mark.parametrize("read", [load, LiteRtBackend])
def test_what_is_no_file_is_refused_at_once(tmp_path, read):
    for path, says in special(tmp_path).items():
        with pytest.raises(ModelFileError, match="cannot read this model file") as caught:
            read(path)
        assert says in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may read everything")
def test_no_permission(tmp_path):
    (tmp_path / "m.tflite").write_bytes(tiny.tflite())
    os.chmod(tmp_path / "m.tflite", 0)
    with pytest.raises(ModelFileError, match="Permission denied"):
        load(tmp_path / "m.tflite")
