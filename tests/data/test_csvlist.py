from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tinyasc.data import load_table, split_table
from tinyasc.data.cache import load_features
from tinyasc.errors import InputError
from tinyasc.frontend import FrontEnd, features


def write(folder: Path, *rows: str, name: str = "clips.csv", audio: bool = True) -> Path:
    (folder / name).write_text("\n".join(rows))
    if audio:
        column = rows[0].replace("\t", ",").split(",").index("filename")
        for row in rows[1:]:
            file = folder / row.replace("\t", ",").split(",")[column]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
    return folder / name


def rows(n: int = 10, more: str = "") -> list[str]:
    return [f"{label}/{i}.wav,{label}{more}" for label in ("dog", "rain") for i in range(n)]


@pytest.mark.parametrize("by_file", [True, False])
def test_filename_and_label_alone(tmp_path, by_file):
    path = write(tmp_path, "filename,label", *rows())
    table = load_table("csv", path if by_file else tmp_path)
    assert table.labels == ("dog", "rain") and table.folds == (1, 2, 3, 4, 5) and table.validation_by == "fold"
    assert "no official ones" in table.notes[0]
    split = split_table(table, 3)
    assert (len(split.train), len(split.validation), len(split.test)) == (12, 4, 4)
    assert table.clips[0].path == tmp_path / "dog/0.wav"


def test_tabs_other_columns_and_any_order(tmp_path):
    lines = [f"x\t{label}\t{label}{i}.wav\t{'ab'[i % 2]}" for label in ("dog", "rain") for i in range(6)]
    table = load_table("csv", write(tmp_path, "comment\tlabel\tfilename\tdevice", *lines))
    assert Counter(clip.device for clip in table.clips) == {"a": 6, "b": 6}


def test_folds_of_ones_own(tmp_path):
    lines = [f"{label}{i}.wav,{label},{1 + i % 4}" for label in ("dog", "rain") for i in range(8)]
    table = load_table("csv", write(tmp_path, "filename,label,fold", *lines))
    assert table.folds == (1, 2, 3, 4) and table.notes == ()
    split = split_table(table, 4)
    assert {clip.fold for clip in split.test} == {4} and {clip.fold for clip in split.validation} == {1}


def test_two_folds_validate_by_group(tmp_path):
    lines = [f"{label}{i}.wav,{label},{1 + i % 2},{label}{i}" for label in ("dog", "rain") for i in range(8)]
    table = load_table("csv", write(tmp_path, "filename,label,fold,group", *lines))
    split = split_table(table)
    assert {clip.fold for clip in split.test} == {1} and {clip.fold for clip in split.validation} == {2}


@pytest.mark.parametrize("validation", [True, False])
def test_a_split(tmp_path, validation):
    parts = ["train", "train", "train", "validation" if validation else "train", "test"]
    lines = [f"{label}{i}.wav,{label},{part}" for label in ("dog", "rain") for i, part in enumerate(parts)]
    table = load_table("csv", write(tmp_path, "filename,label,split", *lines))
    split = split_table(table)
    assert {clip.path.stem for clip in split.test} == {"dog4", "rain4"}
    assert len(split.train) == 6 and len(split.validation) == 2
    if validation:
        assert {clip.path.stem for clip in split.validation} == {"dog3", "rain3"}


def test_groups_stay_together(tmp_path):
    lines = [f"{label}{i}.wav,{label},g{i // 3}" for label in ("dog", "rain") for i in range(15)]
    table = load_table("csv", write(tmp_path, "filename,label,group", *lines))
    assert len({(clip.location, clip.fold) for clip in table.clips}) == 5


def test_parts_of_files(tmp_path):
    rng = np.random.default_rng(0)
    lines = []
    for label in ("dog", "rain"):
        for i in range(3):
            soundfile.write(tmp_path / f"{label}{i}.wav", 0.1 * rng.standard_normal(4000), 8000)
            lines += [f"{label}{i}.wav,{label},0,0.25", f"{label}{i}.wav,{label},0.25,0.5", f"{label}{i}.wav,{label},,"]
    table = load_table("csv", write(tmp_path, "filename,label,start,end", *lines, audio=False))
    assert len(table.clips) == 18 and len({(clip.path, clip.fold) for clip in table.clips}) == 6
    front_end = FrontEnd(sample_rate=8000, clip_samples=2000, n_fft=256, win_length=256, hop_length=128, n_mels=8)
    found = load_features(table.clips, front_end, tmp_path / "cache")
    samples = soundfile.read(tmp_path / "dog0.wav", dtype="float32")[0]
    for row, part in zip(found[:3], (samples[:2000], samples[2000:], samples[:2000]), strict=True):
        np.testing.assert_array_equal(row, features(part, front_end))


@pytest.mark.parametrize(
    ("header", "row", "words"),
    [
        ("filename,label", "x.wav,dgo", r"row 22 is the only one with the label 'dgo'; did you mean 'dog'\?"),
        ("filename,label", "x.wav", "row 22 has no label"),
        ("filename,label", ",dog", "row 22 has no filename"),
        ("filename,label", "dog/0.wav,dog", "row 22 lists dog/0.wav a second time"),
        ("filename,label", "/etc/passwd,dog", "row 22 names the file '/etc/passwd' outside"),
        ("filename,label", "a/../../x.wav,dog", "row 22 names the file .* outside"),
        ("filename,label,fold", "x.wav,dog,1.5", "row 22 has the fold '1.5'"),
        ("filename,label,fold", "x.wav,dog,0", "row 22 has the fold '0'"),
        ("filename,label,fold", "x.wav,dog,", "row 22 has the fold ''"),
        ("filename,label,split", "x.wav,dog,", "row 22 has the split ''"),
        ("filename,label,start,end", "x.wav,dog,1,1", "row 22 has start 1 and end 1; a part runs"),
        ("filename,label,start,end", "x.wav,dog,-1,1", "row 22 has start -1 and end 1"),
        ("filename,label,start,end", "x.wav,dog,0,inf", "row 22 has start 0 and end inf"),
        ("filename,label,start,end", "x.wav,dog,nan,1", "row 22 has start nan"),
        ("filename,label,start,end", "x.wav,dog,1,", "row 22 has start '1' and end ''; give both"),
        ("filename,label,start,end", "x.wav,dog,one,2", "row 22 has start 'one'"),
        ("filename,label,label", "x.wav,dog,dog", "row 1 names the column 'label' twice"),
        ("file,label", "x.wav,dog", r"row 1 lacks the column 'filename' \(comma separated\); name it there"),
        ("filename;label", "x.wav;dog", r"row 1 lacks the column 'filename' \(comma separated\); put commas between"),
        ("filename,label", "x.wav,clock, tick", "row 22 has 3 values for 2 columns; write a value that holds a comma"),
        ("filename,label", '"x.wav,dog', r"row 22 cannot be read \(unexpected end of data\); close or remove its"),
        ("filename,label", 'x.wav,"dog" house', r"row 22 cannot be read \('.' expected after '.'\); close"),
    ],
)
def test_a_row_that_cannot_be_used(tmp_path, header, row, words):
    with pytest.raises(InputError, match=r"clips\.csv: " + words) as caught:
        more = {"fold": ",1", "split": ",train"}.get(header.split(",")[-1], "")
        load_table("csv", write(tmp_path, header, *rows(more=more), row, audio=False))
    assert "\n" not in str(caught.value)


def test_two_stray_quotes_take_no_rows_with_them(tmp_path):
    lines = rows()
    lines[3], lines[8] = 'dog/3.wav,"dog', 'dog/8.wav,dog"'
    with pytest.raises(InputError, match=r"row 5 has a quote that ends in another row; close or remove its double"):
        load_table("csv", write(tmp_path, "filename,label", *lines, audio=False), audio=False)


@pytest.mark.parametrize("separator", [",", "\t"])
def test_values_in_quotes_and_columns_without_a_name(tmp_path, separator):
    """As spreadsheets and R write lists: quoted, with empty cells to the right and blank rows."""
    lines = [separator.join(['"filename"', '"label"'])]
    for i in range(3):
        lines += [separator.join([f'"a{i}.wav"', '"clock, tick"', " ", ""]), "", f'b{i}.wav{separator}"a ""b"""']
    (tmp_path / "clips.csv").write_text("\n".join(lines))
    table = load_table("csv", tmp_path, audio=False)
    assert table.labels == ('a "b"', "clock, tick") and len(table.clips) == 6


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_a_list_in_another_encoding(tmp_path, encoding):
    (tmp_path / "clips.csv").write_text("\n".join(["filename,label", *rows(), "café.wav,dog"]), encoding=encoding)
    with pytest.raises(InputError, match=r"clips\.csv: cannot be read as a list, it is no text in UTF-8; save it as"):
        load_table("csv", tmp_path, audio=False)


def test_a_split_typo_gets_the_nearest(tmp_path):
    lines = [*rows(more=",train"), "x.wav,dog,tset"]
    with pytest.raises(InputError, match=r"row 22 has the split 'tset'; did you mean 'test'\?"):
        load_table("csv", write(tmp_path, "filename,label,split", *lines, audio=False))


def test_a_clip_with_a_fold_is_for_testing_alone_or_not(tmp_path):
    with pytest.raises(InputError, match="row 2 has a fold and the split 'train'; with folds, split is test or empty"):
        load_table("csv", write(tmp_path, "filename,label,fold,split", *rows(more=",1,train"), audio=False))
    lines = [
        f"{label}{i}{use}.wav,{label},{1 + i % 3},{use}" for label in "ab" for i in range(6) for use in ("", "test")
    ]
    table = load_table("csv", write(tmp_path, "filename,label,fold,split", *lines, audio=False), audio=False)
    split = table.split(test_fold=2)
    assert len(split.train) == len(split.validation) == 4 and len(split.test) == 8
    assert not any(clip.test_only for clip in (*split.train, *split.validation))
    assert sum(clip.test_only for clip in split.test) == 4


def test_one_label_alone(tmp_path):
    with pytest.raises(InputError, match="'dog' alone"):
        load_table("csv", write(tmp_path, "filename,label", *rows()[:10], audio=False))


def test_which_file(tmp_path):
    with pytest.raises(InputError, match=r"holds 0 \.csv files \(none\); name one"):
        load_table("csv", tmp_path)
    write(tmp_path, "filename,label", *rows(), name="a.csv", audio=False)
    write(tmp_path, "filename,label", *rows(), name="b.csv", audio=False)
    with pytest.raises(InputError, match=r"holds 2 \.csv files \(a\.csv, b\.csv\)"):
        load_table("csv", tmp_path)


def test_missing_audio(tmp_path):
    path = write(tmp_path, "filename,label", *rows())
    for i in range(4):
        (tmp_path / f"dog/{i}.wav").unlink()
    with pytest.raises(InputError, match=r"4 of 20 audio files are missing: .*dog/0\.wav.*, \.\.\.; unpack"):
        load_table("csv", path)


def test_one_file_in_two_folds_is_refused(tmp_path):
    lines = [
        f"{label}{i}.wav,{label},{1 + i},{part},{part + 1}" for label in ("a", "b") for i in range(3) for part in (0, 1)
    ]
    lines[1] = "a0.wav,a,2,1,2"
    table = load_table("csv", write(tmp_path, "filename,label,fold,start,end", *lines))
    with pytest.raises(InputError, match=r"'a0\.wav' is in the"):
        split_table(table)


@pytest.mark.parametrize("validated", [False, True])
def test_a_class_of_the_test_set_that_training_lacks_is_refused(tmp_path, validated):
    lines = [f"{label}{i}.wav,{label},train" for label in ("dog", "rain") for i in range(4)]
    lines += ["dog4.wav,dog,test", "wind1.wav,wind,test", "wind2.wav,wind,test"]
    # Nothing is learnt from validation clips.
    lines += ["dog5.wav,dog,validation", "wind3.wav,wind,validation"] if validated else []
    table = load_table("csv", write(tmp_path, "filename,label,split", *lines))
    with pytest.raises(InputError, match="test fold 1 has the class 'wind' and the training set has not"):
        split_table(table)
    if validated:
        return
    lines[-1] = "wind2.wav,wind,train"
    lines.append("wind3.wav,wind,train")
    assert len(split_table(load_table("csv", write(tmp_path, "filename,label,split", *lines))).test) == 2
