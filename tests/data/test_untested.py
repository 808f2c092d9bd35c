"""Training on every clip (`data.test_fold: null`) and leaving some out (`data.leave_out`)."""

import pytest
from click.testing import CliRunner

from tinyasc.cli.main import cli
from tinyasc.data import split_table
from tinyasc.data.scenes import write_scenes
from tinyasc.data.table import Clip, ClipTable, without
from tinyasc.errors import InputError


@pytest.fixture
def table(tmp_path):
    clips = tuple(
        Clip(tmp_path / f"{scene}-{fold}-{n}.wav", scene, "", f"{scene}-{fold}-{n}", fold)
        for scene in ("a", "b")
        for fold in (1, 2, 3)
        for n in range(2)
    )
    return ClipTable("x", ("a", "b"), clips, validation_by="fold")


def test_without_a_test_fold_every_clip_is_trained_or_validated_on(table):
    split = split_table(table, test_fold=None)
    assert split.test == () and {c.fold for c in split.validation} == {1} and {c.fold for c in split.train} == {2, 3}
    assert sorted(map(str, (c.path for c in split.trained_on(True)))) == sorted(str(c.path) for c in table.clips)
    assert {c.fold for c in split_table(table, test_fold=None, validation_fold=3).validation} == {3}
    with pytest.raises(InputError, match="while testing on none"):
        split_table(table, test_fold=None, validation_fold=4)


def test_an_empty_test_fold_is_refused_where_one_was_asked_for(table):
    with pytest.raises(InputError, match="no test fold 9"):
        split_table(table, test_fold=9)


def test_clips_are_left_out_by_the_names_of_their_files(table):
    left = without(table, ["a-1-0", "b-3-1"])
    assert {c.path.stem for c in table.clips} - {c.path.stem for c in left.clips} == {"a-1-0", "b-3-1"}
    assert len(left.clips) == len(table.clips) - 2
    for name in ("a-1", "a-1-0.wav", "A-1-0"):
        with pytest.raises(InputError, match="no audio file is called so"):
            without(table, [name])


def test_a_name_that_several_folders_have_is_refused(table, tmp_path):
    twin = ClipTable("x", ("a", "b"), (*table.clips, Clip(tmp_path / "more" / "a-1-0.flac", "a", "", "m", 1)))
    with pytest.raises(InputError, match=r"a-1-0.wav and .*a-1-0.flac are called so"):
        without(twin, ["a-1-0"])


def test_what_heard_every_clip_has_no_test(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_scenes(tmp_path / "scenes", clips_per_scene=12, seconds=0.5)
    small = [
        "front_end={sample_rate: 16000, clip_seconds: 0.5, n_fft: 512, hop_length: 320, n_mels: 32}",
        "model={family: atrous_cnn, head: average, base_channels: 4}",
        "training={epochs: 1, batch_size: 16, final: true, select: last}",
        "data={name: demo, test_fold: null, leave_out: [LEFT]}",
    ]
    left = next((tmp_path / "scenes").rglob("*.wav"), None) or next((tmp_path / "scenes").rglob("*.flac"))
    sets = [f"--set={s.replace('LEFT', left.stem)}" for s in small]
    done = CliRunner().invoke(cli, ["train", "--root", "scenes", "--run", "all", *sets])
    assert done.exit_code == 0, done.output
    heard = (tmp_path / "all" / "heard.json").read_text()
    assert left.stem not in heard
    scenes = [p.stem for p in (tmp_path / "scenes").rglob(f"*{left.suffix}") if p != left]
    assert all(name in heard for name in scenes)
    refused = CliRunner().invoke(cli, ["evaluate", "all"])
    assert refused.exit_code == 2 and "was trained on every fold of demo" in refused.stderr
