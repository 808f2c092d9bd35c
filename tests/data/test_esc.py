from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tinyasc.data import load_table, split_table
from tinyasc.data.esc import CATEGORIES, ESC10
from tinyasc.errors import InputError

HEADER = "filename,fold,target,category,esc10,src_file,take"


def write_esc50(root: Path, *extra: str) -> Path:
    """Writes the official layout: one empty audio file per class and fold."""
    (root / "audio").mkdir(parents=True)
    (root / "meta").mkdir()
    rows = [HEADER]
    for fold in range(1, 6):
        for target, category in enumerate(CATEGORIES):
            name = f"{fold}-{1000 * fold + target}-A-{target}.wav"
            rows.append(f"{name},{fold},{target},{category},{category in ESC10},{1000 * fold + target},A")
            (root / "audio" / name).touch()
    (root / "meta/esc50.csv").write_text("\n".join([*rows, *extra, ""]))
    return root


def test_the_real_esc10(shared_audio):
    table = load_table("esc10", shared_audio / "esc10")
    assert len(table.clips) == 400
    assert table.labels == tuple(sorted(ESC10))
    assert Counter(clip.scene for clip in table.clips) == dict.fromkeys(ESC10, 40)
    assert Counter(clip.fold for clip in table.clips) == dict.fromkeys(range(1, 6), 80)
    assert {clip.device for clip in table.clips} == {""}
    assert all(clip.path.is_file() and clip.path.is_absolute() for clip in table.clips)


@pytest.mark.parametrize("test_fold", range(1, 6))
def test_the_real_folds_are_disjoint(shared_audio, test_fold):
    split = split_table(load_table("esc10", shared_audio / "esc10"), test_fold)
    assert (len(split.train), len(split.validation), len(split.test)) == (240, 80, 80)
    sets = [{clip.location for clip in clips} for _, clips in split]
    assert len(set.union(*sets)) == sum(map(len, sets))


def test_esc10_alone_is_not_esc50(shared_audio):
    with pytest.raises(InputError, match="ESC-10 alone"):
        load_table("esc50", shared_audio / "esc10")


def test_the_official_layout(tmp_path):
    root = write_esc50(tmp_path / "ESC-50")
    table = load_table("esc50", root)
    assert len(table.clips) == 250 and len(table.labels) == 50 and table.labels == tuple(sorted(CATEGORIES))
    clip = table.clips[0]
    assert clip.path == root / "audio/1-1000-A-0.wav"
    assert (clip.scene, clip.device, clip.location, clip.fold) == ("dog", "", "1000", 1)
    assert {clip.fold for clip in split_table(table, 5).validation} == {1}


def test_the_subset_of_the_official_layout(tmp_path):
    table = load_table("esc10", write_esc50(tmp_path / "ESC-50"))
    assert len(table.clips) == 50 and table.labels == tuple(sorted(ESC10))
    assert {clip.scene for clip in table.clips} == set(ESC10)


def test_the_subset_does_not_need_the_other_files(tmp_path):
    root = write_esc50(tmp_path / "ESC-50")
    (root / "audio/1-1002-A-2.wav").unlink()
    assert len(load_table("esc10", root).clips) == 50
    with pytest.raises(InputError, match=r"1 of 250 audio files are missing: .*1-1002-A-2.wav;"):
        load_table("esc50", root)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("9-1-A-0.wav,1,0,dgo,True,1,A", r"row 252 has the unknown label 'dgo'; did you mean 'dog'\?"),
        ("9-1-A-0.wav,1,1,dog,True,1,A", "row 252 gives 'dog' the target '1', not 0"),
        ("9-1-A-0.wav,1,0,dog,False,1,A", "row 252 says esc10='False' of 'dog'"),
        ("9-1-A-0.wav,1,0,dog,yes,1,A", "row 252 says esc10='yes'"),
        ("9-1-A-0.wav,0,0,dog,True,1,A", "row 252 has the fold '0'"),
        ("9-1-A-0.wav,one,0,dog,True,1,A", "row 252 has the fold 'one'"),
        ("9-1-A-0.wav,1,0,dog,True", "row 252 has no src_file"),
        ("1-1000-A-0.wav,1,0,dog,True,1,A", "row 252 lists 1-1000-A-0.wav a second time"),
        ("/etc/passwd,1,0,dog,True,1,A", "row 252 names the file '/etc/passwd' outside"),
    ],
)
def test_a_row_that_cannot_be_used(tmp_path, row, words):
    with pytest.raises(InputError, match=r"esc50\.csv: " + words):
        load_table("esc50", write_esc50(tmp_path / "ESC-50", row))


def test_a_recording_in_two_folds_is_refused(tmp_path):
    root = write_esc50(tmp_path / "ESC-50", "3-1000-B-0.wav,3,0,dog,True,1000,B")
    (root / "audio/3-1000-B-0.wav").touch()
    with pytest.raises(InputError, match="location '1000' is in the train and the test set"):
        split_table(load_table("esc50", root))


def test_neither_layout(tmp_path):
    with pytest.raises(InputError, match=r"neither .*esc50\.csv nor .*meta\.csv is there; give the folder"):
        load_table("esc50", tmp_path)


def test_a_class_without_clips(tmp_path):
    (tmp_path / "x.ogg").touch()
    (tmp_path / "meta.csv").write_text("filename,fold,label,fs_group\nx.ogg,1,dog,7\n")
    with pytest.raises(InputError, match="no clips of 'chainsaw'"):
        load_table("esc10", tmp_path)


def test_the_meta_csv_of_another_data_set(tau_root):
    with pytest.raises(InputError, match=r"meta\.csv: row 1 lacks the column 'filename' \(comma separated\)"):
        load_table("esc10", tau_root)
