import io
import os
import sys

import pytest

from tinyasc.errors import InputError
from tinyasc.infer.clips import audio_files, find_clips, read_list


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_a_file_is_itself_whether_there_or_not(tmp_path):
    assert audio_files(tmp_path / "x.wav") == [tmp_path / "x.wav"]


def test_names_that_the_system_will_not_look_at_are_left_to_be_read(tmp_path):
    """A name of 300 letters, as a line of a file that is no list: one bad clip, and not the end of the rest."""
    named = [tmp_path / ("a" * 300), tmp_path / "b\0c", tmp_path / "d.wav"]
    told = []
    assert find_clips(named, told.append) == named and not told


def test_folders_stand_where_they_were_named_and_clips_once(tmp_path):
    touch(tmp_path, "f/b.wav", "f/a/z.FLAC", "f/.hidden.wav", "f/notes.txt", "empty/notes.txt")
    told = []
    named = [tmp_path / "f/b.wav", tmp_path / "f", tmp_path / "empty", tmp_path / "f/b.wav", tmp_path / "gone.wav"]
    found = find_clips(named, told.append)
    assert [p.relative_to(tmp_path).as_posix() for p in found] == ["f/b.wav", "f/a/z.FLAC", "gone.wav"]
    assert told == [f"{tmp_path / 'empty'}: this folder holds no wav, flac, ogg or mp3 file"]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read every folder")
def test_a_folder_that_cannot_be_searched_is_said_and_the_others_are(tmp_path):
    touch(tmp_path, "f/a.wav", "f/shut/b.wav")
    (tmp_path / "f/shut").chmod(0)
    told = []
    try:
        assert find_clips([tmp_path / "f"], told.append) == [tmp_path / "f/a.wav"]
        with pytest.raises(InputError, match="cannot search this folder"):
            audio_files(tmp_path / "f")
    finally:
        (tmp_path / "f/shut").chmod(0o755)
    assert len(told) == 1 and "shut: cannot search this folder: Permission denied" in told[0]


def test_folders_that_the_system_cannot_list_are_said(tmp_path, monkeypatch):
    """As above, for root too: the walk itself reports the folder."""
    touch(tmp_path, "f/a.wav", "f/shut/b.wav")
    real = os.scandir

    def scandir(path):
        if str(path).endswith("shut"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    told = []
    assert find_clips([tmp_path / "f"], told.append) == [tmp_path / "f/a.wav"]
    assert len(told) == 1 and "shut: cannot search this folder: Permission denied; give the right" in told[0]
    with pytest.raises(InputError, match="cannot search"):
        audio_files(tmp_path / "f")


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (b"a.wav\nb c.wav\n", ["a.wav", "b c.wav"]),
        (b"a.wav\r\n\r\n\nb.wav", ["a.wav", "b.wav"]),
        (b"\xef\xbb\xbfa.wav\n", ["a.wav"]),
        (b"a\nb.wav\0c.wav\0", ["a\nb.wav", "c.wav"]),
        (b" a.wav \n#b.wav\n@c.wav", [" a.wav ", "#b.wav", "@c.wav"]),
        (b"\xff.wav\n", ["\udcff.wav"]),
    ],
)
def test_lists_hold_a_path_a_line_or_divided_by_nul(tmp_path, content, names):
    (tmp_path / "list").write_bytes(content)
    assert [str(path) for path in read_list(tmp_path / "list")] == names


def test_a_list_may_come_through_standard_input(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a.wav\n")))
    assert [str(path) for path in read_list(tmp_path.relative_to(tmp_path) / "-")] == ["a.wav"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty", b"\n \n", "names no clip"),
        ("gone", None, "cannot read this list: No such file"),
        ("nul\0name", None, "cannot read this list"),
        ("clip.WAV", b"RIFF", "is an audio file; give it without --list"),
        ("utf16", "a.wav\r\n.".encode("utf-16"), "is UTF-16.*save it as UTF-8"),
        ("utf16be", b"\xfe\xff" + "a.wav".encode("utf-16-be"), "is UTF-16.*save it as UTF-8"),
    ],
)
def test_lists_that_name_nothing_are_refused(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_list(tmp_path / name)
