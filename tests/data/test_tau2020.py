from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from tinyasc.data import ClipTable, load_table, split_table
from tinyasc.data.tau2020 import DEVICES, SCENES, read_lists
from tinyasc.errors import InputError


@pytest.fixture(scope="module")
def real(shared_audio) -> ClipTable:
    lists = shared_audio / "dcase_meta/tau2020_mobile"
    return read_lists(lists / "meta.csv", lists / "fold1_train.csv", lists / "fold1_evaluate.csv", root=Path("/tau"))


def test_the_official_counts(real):
    assert Counter(clip.fold for clip in real.clips) == {0: 13962, 1: 2968}
    assert real.labels == SCENES and len(SCENES) == 10
    assert not real.synthetic
    train = Counter(clip.device for clip in real.clips if clip.fold == 0)
    assert train == {"a": 10215, "b": 749, "c": 748, "s1": 750, "s2": 750, "s3": 750}
    assert {clip.device for clip in real.clips if clip.fold == 1} == set(DEVICES)


def test_the_first_clip(real):
    clip = real.clips[0]
    assert clip.path == Path("/tau/audio/airport-lisbon-1000-40000-a.wav")
    assert (clip.scene, clip.device, clip.location, clip.fold) == ("airport", "a", "lisbon-1000", 0)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_validation_is_cut_by_location(real, seed):
    split = split_table(real, seed=seed)
    assert len(split.train) + len(split.validation) == 13962 and len(split.test) == 2968
    sets = [{clip.location for clip in clips} for _, clips in split]
    assert len(set.union(*sets)) == sum(map(len, sets)) == 365 + 146
    for scene in SCENES:
        places = {part: {clip.location for clip in clips if clip.scene == scene} for part, clips in split}
        share = len(places["validation"]) / len(places["validation"] | places["train"])
        assert 0.15 <= share <= 0.20, scene


def test_a_small_set_in_the_same_layout(tau_root):
    table = load_table("tau2020", tau_root)
    assert Counter(clip.fold for clip in table.clips) == {0: 16, 1: 8}
    assert table.labels == SCENES
    assert all(clip.path.is_absolute() and clip.path.is_file() for clip in table.clips)
    split = split_table(table)
    assert (len(split.train), len(split.validation), len(split.test)) == (12, 4, 8)


def test_the_demo_takes_the_labels_of_its_list(tau_root):
    assert load_table("demo", tau_root).labels == ("bus", "park")
    assert not load_table("demo", tau_root).synthetic


@pytest.mark.parametrize("value", [True, False])
def test_the_marker_says_synthetic(tau_root, value):
    (tau_root / "dataset.json").write_text(json.dumps({"synthetic": value}))
    assert load_table("demo", tau_root).synthetic is value


def test_a_damaged_marker(tau_root):
    (tau_root / "dataset.json").write_text("{")
    with pytest.raises(InputError, match=r"dataset\.json: cannot be read"):
        load_table("demo", tau_root)


def test_a_relative_root_gives_absolute_paths(tau_root, monkeypatch):
    monkeypatch.chdir(tau_root.parent)
    assert load_table("tau2020", tau_root.name).clips[0].path.is_absolute()


@pytest.mark.parametrize(
    "missing", ["meta.csv", "evaluation_setup/fold1_train.csv", "evaluation_setup/fold1_evaluate.csv"]
)
def test_a_missing_list(tau_root, missing):
    (tau_root / missing).unlink()
    with pytest.raises(InputError, match=f"{Path(missing).name}: no such file"):
        load_table("tau2020", tau_root)


def test_missing_audio(tau_root):
    for name in ("bus-lyon-0-a", "bus-lyon-1-a", "park-lyon-0-a", "park-lyon-1-b"):
        (tau_root / f"audio/{name}.wav").unlink()
    with pytest.raises(InputError, match=r"4 of 24 audio files are missing: .*bus-lyon-0-a.*, \.\.\.;") as caught:
        load_table("tau2020", tau_root)
    assert "park-lyon-1-b" not in str(caught.value) and "\n" not in str(caught.value)


def test_missing_audio_folder(tau_root):
    (tau_root / "audio").rename(tau_root / "elsewhere")
    with pytest.raises(InputError, match=r"no folder .*audio; download"):
        load_table("tau2020", tau_root)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("audio/x.wav\tbuss\tlyon-9\ta", r"row 26 has the unknown label 'buss'; did you mean 'bus'\?"),
        ("audio/x.wav\tbus\tlyon-9\ts9", r"row 26 has the unknown device 's9'; did you mean"),
        ("audio/x.wav\tbus\tlyon-9", "row 26 has no source_label"),
        ("audio/x.wav,bus,lyon-9,a", "row 26 has no scene_label"),
        ("audio/x.wav\tbus\t \ta", "row 26 has no identifier"),
        ("audio/bus-lyon-0-a.wav\tbus\tlyon-9\ta", "row 26 lists audio/bus-lyon-0-a.wav a second time"),
    ],
)
def test_a_row_that_cannot_be_used(tau_root, row, words):
    with open(tau_root / "meta.csv", "a", newline="") as stream:
        stream.write(row + "\r\n")
    with pytest.raises(InputError, match=r"meta\.csv: " + words):
        load_table("tau2020", tau_root)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("audio/bus-lyon-0-a.wav\tbus", "row 10 lists audio/bus-lyon-0-a.wav a second time"),
        ("audio/bus-lyon-5-a.wav\tpark", "row 10 .*a second time"),
        ("audio/unheard.wav\tbus", r"row 10 lists audio/unheard\.wav, which .*meta\.csv does not"),
        ("audio/extra.wav\tpark", r"row 10 calls audio/extra\.wav 'park', .*meta\.csv calls it 'bus'"),
        ("../../etc/passwd\tbus", r"row 10 names the file '\.\./\.\./etc/passwd' outside"),
    ],
)
def test_a_row_of_the_set_up_that_cannot_be_used(tau_root, row, words):
    with open(tau_root / "meta.csv", "a", newline="") as stream:
        stream.write("audio/extra.wav\tbus\tlyon-9\ta\r\n../../etc/passwd\tbus\tlyon-9\ta\r\n")
    with open(tau_root / "evaluation_setup/fold1_evaluate.csv", "a") as stream:
        stream.write(row + "\n")
    with pytest.raises(InputError, match=r"fold1_evaluate\.csv: " + words):
        load_table("tau2020", tau_root)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "row 1 lacks the column 'filename'"),
        (b"filename,scene_label,identifier,source_label\n", r"lacks the column 'filename' \(tab separated\)"),
        (b"filename\tscene_label\tidentifier\tsource_label\n", "holds no rows"),
        (b"\xff\xfe\x00\x01", "cannot be read as a list"),
    ],
)
def test_a_file_that_is_no_list(tau_root, content, words):
    (tau_root / "meta.csv").write_bytes(content)
    with pytest.raises(InputError, match=words):
        load_table("tau2020", tau_root)


def test_a_byte_order_mark_and_blank_lines_are_fine(tau_root):
    path = tau_root / "meta.csv"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes() + b"\r\n\r\n")
    assert len(load_table("tau2020", tau_root).clips) == 24


def test_a_place_in_both_parts_is_refused(tau_root):
    path = tau_root / "meta.csv"
    path.write_text(path.read_text().replace("bus-lyon-5\t", "bus-lyon-0\t"))
    with pytest.raises(InputError, match="location 'bus-lyon-0' is in the"):
        split_table(load_table("tau2020", tau_root))
