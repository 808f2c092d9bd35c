from __future__ import annotations

import gzip
import json
import re
from collections import Counter
from pathlib import Path

import pytest

from tinyasc.data import DATASETS, Clip, ClipTable, load_table, split_table
from tinyasc.data.tau import read_lists
from tinyasc.data.tau_years import MOBILE_DEVICES as DEVICES
from tinyasc.data.tau_years import SCENES, TAU_YEARS
from tinyasc.errors import InputError


@pytest.fixture(scope="module")
def real(shared_audio) -> ClipTable:
    lists = shared_audio / "dcase_meta/tau2020_mobile"
    names = (lists / name for name in ("meta.csv", "fold1_train.csv", "fold1_evaluate.csv"))
    return read_lists(*names, root=Path("/tau"), year=TAU_YEARS["tau2020"])


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


def test_validation_is_cut_by_location(real):
    split = split_table(real)
    assert len(split.train) + len(split.validation) == 13962 and len(split.test) == 2968
    sets = [{clip.location for clip in clips} for _, clips in split]
    assert len(set.union(*sets)) == sum(map(len, sets)) == 365 + 146
    for scene in SCENES:
        places = {part: {clip.location for clip in clips if clip.scene == scene} for part, clips in split}
        share = len(places["validation"]) / len(places["validation"] | places["train"])
        assert 0.15 <= share <= 0.20, scene


def test_the_official_counts_of_2022(tau2022):
    table = tau2022
    assert Counter(clip.fold for clip in table.clips) == {0: 139620, 1: 29680}
    assert len({clip.path for clip in table.clips}) == 169300 and {clip.segment for clip in table.clips} == {None}
    assert table.labels == SCENES and table.notes == ()
    split = split_table(table)
    assert split.unseen_devices == ("s4", "s5", "s6")
    assert not {c.location for c in split.train} & {c.location for c in split.validation}


@pytest.fixture(scope="module")
def tau2022_lists(shared_audio, tmp_path_factory):
    lists, folder = shared_audio / "dcase_meta/tau2022_mobile", tmp_path_factory.mktemp("tau2022")
    for name in ("meta.csv", "fold1_train.csv"):
        (folder / name).write_bytes(gzip.decompress((lists / f"{name}.gz").read_bytes()))
    return folder / "meta.csv", folder / "fold1_train.csv", lists / "fold1_evaluate.csv"


@pytest.fixture(scope="module")
def tau2022(tau2022_lists):
    return read_lists(*tau2022_lists, root=Path("/tau"), year=TAU_YEARS["tau2022"])


@pytest.mark.parametrize(("percent", "n"), [(5, 6980), (10, 13960), (25, 34900), (50, 69800)])
def test_the_official_counts_of_the_label_fractions(shared_audio, tau2022_lists, percent, n):
    splits = shared_audio / "dcase_meta/dcase2024_splits"
    if not splits.is_dir():
        pytest.skip(f"the label fractions are absent: {splits} is not there")
    meta, train, _ = tau2022_lists
    year = TAU_YEARS[f"tau2024_{percent}"]
    table = read_lists(meta, splits / f"split{percent}.csv", splits / "test.csv", root=Path("/tau"), year=year)
    assert Counter(clip.fold for clip in table.clips) == {0: n, 1: 29680} == {0: year.n_train, 1: year.n_test}
    assert table.notes == ()
    # A fraction is a part of the official training list.
    names = {clip.path.name for clip in table.clips if clip.fold == 0}
    assert names <= {line.split("\t")[0].removeprefix("audio/") for line in train.read_text().splitlines()[1:]}


def test_the_lists_of_2020_give_the_clips_of_2022(shared_audio, tau2022):
    lists = shared_audio / "dcase_meta/tau2020_mobile"
    names = (lists / name for name in ("meta.csv", "fold1_train.csv", "fold1_evaluate.csv"))
    ours = read_lists(*names, root=Path("/tau"), year=TAU_YEARS["tau2022"])
    assert len(ours.clips) == 169300 and len({clip.path for clip in ours.clips}) == 16930

    def name(clip: Clip) -> str:
        assert clip.segment and clip.segment[1] - clip.segment[0] == 1
        return re.sub(r"(-\w+\.wav)$", rf"-{clip.segment[0]:.0f}\1", clip.path.name)

    found = {(name(c), c.scene, c.device, c.location, c.fold) for c in ours.clips}
    assert found == {(c.path.name, c.scene, c.device, c.location, c.fold) for c in tau2022.clips}


def test_the_official_counts_of_2020b(shared_audio, tmp_path):
    """Its meta.csv is written from the file names, since the published one is not at hand."""
    lists = shared_audio / "dcase_meta/tau2020_3class"
    kinds = {"airport": "indoor", "shopping_mall": "indoor", "metro_station": "indoor"}
    kinds |= dict.fromkeys(("park", "public_square", "street_pedestrian", "street_traffic"), "outdoor")
    kinds |= dict.fromkeys(("bus", "metro", "tram"), "transportation")
    rows = ["\t".join(("filename", "scene_label", "identifier", "source_label"))]
    for name in ("fold1_train.csv", "fold1_test.csv"):
        for line in (lists / name).read_text().splitlines()[1:]:
            file = line.split("\t")[0]
            scene, city, place, _, rest = file.removeprefix("audio/").split("-")
            rows.append(f"{file}\t{kinds[scene]}\t{city}-{place}\t{rest.removesuffix('.wav')}")
    (tmp_path / "meta.csv").write_text("\n".join(rows))
    # The labels of the training list are the published ones: they have to agree with the names.
    table = read_lists(
        tmp_path / "meta.csv",
        lists / "fold1_train.csv",
        lists / "fold1_test.csv",
        root=Path("/tau"),
        year=TAU_YEARS["tau2020b"],
    )
    assert Counter(clip.fold for clip in table.clips) == {0: 9185, 1: 4185}
    assert table.labels == ("indoor", "outdoor", "transportation") and {clip.device for clip in table.clips} == {"a"}
    split_table(table)


YEARS = [name for name, year in TAU_YEARS.items() if not year.segments]


@pytest.mark.parametrize("name", YEARS)
def test_every_year_reads_its_own_layout(tmp_path, write_tau, name):
    year = TAU_YEARS[name]
    assert year.scenes
    root = write_tau(tmp_path / "tau", scenes=year.scenes, locations=3)
    if name.startswith("tau2018"):
        # Lists without a header, ending in .txt.
        for part in ("train", "evaluate"):
            lines = (root / f"evaluation_setup/fold1_{part}.csv").read_text().splitlines()[1:]
            (root / f"evaluation_setup/fold1_{part}.txt").write_text("\n".join(lines))
            (root / f"evaluation_setup/fold1_{part}.csv").unlink()
    assert year.devices
    if "b" not in year.devices:
        with pytest.raises(InputError, match=r"row 3 has the unknown device 'b'; known: a$"):
            load_table(name, root)
        meta = (root / "meta.csv").read_text()
        (root / "meta.csv").write_text(meta.replace("\tb\n", "\ta\n"))
    table = load_table(name, root)
    n = len(year.scenes)
    assert Counter(clip.fold for clip in table.clips) == {0: 6 * n, 1: 4 * n}
    assert table.labels == tuple(sorted(year.scenes))
    assert f"{6 * n:,} training clips where the official set has {year.n_train:,}" in table.notes
    assert (year.unchecked in table.notes) == bool(year.unchecked)
    split_table(table)


@pytest.mark.parametrize("name", ["tau2018a", "tau2018b", "tau2019a", "tau2019b", "tau2019c", "tau2020b"])
def test_layouts_that_were_never_compared_say_so(name):
    assert "compared" in DATASETS[name].unchecked


@pytest.mark.parametrize(
    ("name", "train", "test"),
    [
        ("tau2018a", 6122, 2518),
        ("tau2018b", 6122 + 540 + 540, 2518 + 180 + 180),
        ("tau2019a", 9185, 4185),
        ("tau2019b", 9185 + 540 + 540, 4185 + 540 + 540),
        ("tau2019c", 9185 + 1105, 4185 + 345),
        ("tau2021", 13962, 2968),
        ("tau2025", 34900, 29680),
    ],
)
def test_the_published_counts(name, train, test):
    assert DATASETS[name].official == (train, test)


def test_the_unknown_class(tmp_path, write_tau):
    assert set(TAU_YEARS["tau2019c"].scenes or ()) == {*SCENES, "unknown"}
    root = write_tau(tmp_path / "tau", scenes=("bus", "unknown"))
    with pytest.raises(InputError, match="unknown label 'unknown'"):
        load_table("tau2019b", root)


def test_the_test_list_of_2018_without_labels(tmp_path, write_tau):
    root = write_tau(tmp_path / "tau")
    setup = root / "evaluation_setup"
    train = (setup / "fold1_train.csv").read_text().splitlines()[1:]
    (setup / "fold1_train.txt").write_text("\n".join(train))
    test = (setup / "fold1_evaluate.csv").read_text().splitlines()[1:]
    (setup / "fold1_test.txt").write_text("\n".join(line.split("\t")[0] for line in test))
    table = load_table("tau2018b", root)
    assert Counter(clip.fold for clip in table.clips) == {0: 16, 1: 8}


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
