from __future__ import annotations

import pytest

from tinyasc.data import load_table, split_table
from tinyasc.errors import InputError


@pytest.fixture
def evaluation(tmp_path):
    root = tmp_path / "evaluation"
    (root / "audio").mkdir(parents=True)
    (root / "evaluation_setup").mkdir()
    for i in range(12):
        (root / f"audio/{i}.wav").touch()
    return root


@pytest.mark.parametrize("name", ["fold1_test.csv", "fold1_evaluation.csv", "test.txt"])
def test_an_evaluation_set(evaluation, name):
    """In the order of its list, of which the folder's other files are no part."""
    names = [f"audio/{i}.wav" for i in (3, 11, 0)]
    header = [] if name.endswith(".txt") else ["filename"]
    (evaluation / "evaluation_setup" / name).write_text("\r\n".join([*header, *names, ""]))
    table = load_table("unlabelled", evaluation)
    assert [str(clip.path.relative_to(evaluation)) for clip in table.clips] == names
    assert table.labels == () and {(clip.scene, clip.device) for clip in table.clips} == {("", "")}
    assert name in table.notes[0]
    with pytest.raises(InputError, match="no labels"):
        split_table(table)


def test_the_real_evaluation_list(shared_audio, tmp_path):
    (tmp_path / "evaluation_setup").mkdir()
    source = shared_audio / "dcase_meta/tau2020_3class/fold1_evaluation.csv"
    (tmp_path / "evaluation_setup/fold1_test.csv").write_bytes(source.read_bytes())
    assert len(load_table("unlabelled", tmp_path, audio=False).clips) == 8640
    with pytest.raises(InputError, match=r"no folder .*audio; download"):
        load_table("unlabelled", tmp_path)


def test_any_folder(evaluation):
    (evaluation / "more").mkdir()
    for name in ("b.FLAC", "a.ogg", ".c.wav", "d.txt"):
        (evaluation / "more" / name).touch()
    names = [str(clip.path.relative_to(evaluation)) for clip in load_table("unlabelled", evaluation).clips]
    assert names == [*sorted(f"audio/{i}.wav" for i in range(12)), "more/a.ogg", "more/b.FLAC"]


def test_rows_that_cannot_be_used(evaluation):
    path = evaluation / "evaluation_setup/fold1_test.csv"
    path.write_text("filename\naudio/1.wav\naudio/1.wav\n")
    with pytest.raises(InputError, match=r"fold1_test\.csv: row 3 lists audio/1\.wav a second time"):
        load_table("unlabelled", evaluation)
    path.write_text("filename\n../x.wav\n")
    with pytest.raises(InputError, match=r"row 2 names the file '\.\./x\.wav' outside"):
        load_table("unlabelled", evaluation)
    path.write_text("filename\naudio/99.wav\n")
    with pytest.raises(InputError, match=r"1 of 1 audio files are missing: .*99\.wav"):
        load_table("unlabelled", evaluation)


def test_an_empty_folder(tmp_path):
    with pytest.raises(InputError, match="no audio file"):
        load_table("unlabelled", tmp_path)
