"""`tinyasc evaluate` over folds, over several runs, one against another, and through microphones."""

import dataclasses
import json
import shutil
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml
from click.testing import CliRunner
from tones import write_esc

from tinyasc.cli.candidates import candidates
from tinyasc.cli.main import cli
from tinyasc.cli.measuring import check_microphones, check_unheard
from tinyasc.data import Clip, load_table
from tinyasc.data.devices import load_device_list
from tinyasc.data.scenes import write_scenes
from tinyasc.errors import InputError
from tinyasc.evaluate.clips import clip_names
from tinyasc.evaluate.predictions import load
from tinyasc.training.recipe_parts import Data

TEACHER = {
    "name": "tones",
    "data": {"name": "esc10", "root": "esc"},
    "front_end": {"sample_rate": 16000, "clip_seconds": 0.5, "n_fft": 512, "hop_length": 256, "n_mels": 32},
    "model": {"family": "atrous_cnn", "trunk": "baseline", "head": "average", "base_channels": 4},
    "training": {"epochs": 2, "batch_size": 16, "lr": 0.01},
}
STUDENT = {
    "name": "alone",
    "model": {"family": "sepconv_ca", "base_channels": 8},
    "training": {"epochs": 1},
    "distill": {},
}
MICROPHONES = {"name": "two", "train": ["dull.wav"], "bank": ["other.wav"], "test": ["bright.wav", "thin.wav"]}


def invoke(*args, code=0):
    result = CliRunner().invoke(cli, ["evaluate", *(str(a) for a in args)])
    print(result.output)
    assert result.exit_code == code, result.exception
    return result.stderr.splitlines()[-1] if code else result.stdout


def records(*args):
    return [json.loads(line) for line in invoke("--json", *args).splitlines()]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder in which two seeds were crossed over five folds."""
    folder = tmp_path_factory.mktemp("place")
    write_esc(folder / "esc")
    (folder / "teacher.yaml").write_text(yaml.safe_dump(TEACHER))
    (folder / "student.yaml").write_text(yaml.safe_dump(STUDENT))
    (folder / "mics").mkdir()
    for name, response in (("dull", np.hanning(64)), ("bright", [1, -0.9]), ("thin", [0.5, 0, -0.4]), ("other", [1])):
        soundfile.write(folder / f"mics/{name}.wav", np.array(response, float) / 40, 16000, "FLOAT")
    (folder / "mics.yaml").write_text(yaml.safe_dump(MICROPHONES))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        printed = invoke("--folds", "teacher.yaml", "--root", "esc", "--seeds", "2", "--run", "cv")
    return folder, printed


@pytest.fixture
def folder(place, monkeypatch):
    monkeypatch.chdir(place[0])
    return place[0]


def test_folds_leave_answers_scores_and_plots(place, folder):
    printed = place[1]
    assert "out of fold, all" in printed and "written: cv" in printed and "±" in printed
    assert {p.name for p in Path("cv").iterdir()} == {
        *(f"fold{f}-seed{s}" for f in range(1, 6) for s in (0, 1)), "folds.json", "predictions.npz", "predictions.csv",
        "evaluation.json", "confusion.png", "reliability.png", "classes.png",
    }  # fmt: skip
    (model,) = json.loads(Path("cv/evaluation.json").read_text())["models"]
    kept = load(Path("cv/predictions.npz"))
    assert len(kept) == 200 and model["clips"] == 200
    hits = kept.probabilities.argmax(axis=1) == kept.labels
    assert model["accuracy"] == pytest.approx(hits.mean())
    by_seed = [hits[kept.seeds == s].mean() for s in (0, 1)]
    assert model["over_seeds"]["accuracy"]["mean"] == pytest.approx(np.mean(by_seed))
    assert model["over_seeds"]["accuracy"]["standard_deviation"] == pytest.approx(np.std(by_seed, ddof=1))
    for fold in range(1, 6):
        assert model["per_fold"][str(fold)]["accuracy"] == pytest.approx(hits[kept.folds == fold].mean())
    assert model["recipe"]["name"] == "tones" and model["data"] == "esc10"
    assert len(Path("cv/predictions.csv").read_text().splitlines()) == 201


def test_folds_again_give_the_same_files(folder):
    before = {p: p.read_bytes() for p in Path("cv").iterdir() if p.is_file() and p.suffix != ".png"}
    weights = {p: p.stat().st_mtime_ns for p in Path("cv").glob("*/model.safetensors")}
    invoke("--folds", "teacher.yaml", "--root", "esc", "--seeds", "2", "--run", "cv")
    assert {p: p.read_bytes() for p in before} == before and len(weights) == 10
    assert {p: p.stat().st_mtime_ns for p in weights} == weights


def test_the_runs_of_the_folds_score_as_the_cross_validation_did(folder):
    found = records(*sorted(Path("cv").glob("fold*-seed*")))
    *alone, together = found
    assert len(alone) == 10 and {r["test_fold"] for r in alone} == {1, 2, 3, 4, 5}
    (kept,) = records("cv")
    assert together["seeds"] == [0, 1] and together["folds"] == [1, 2, 3, 4, 5]
    for key in ("accuracy", "log_loss", "confusion_matrix", "per_fold", "over_seeds"):
        assert together[key] == kept[key], key
    assert "out of fold, all" in invoke("cv")


def test_seeds_of_one_fold_are_scored_together(folder):
    printed = invoke("cv/fold1-seed0", "cv/fold1-seed1")
    assert "Together" in printed and "fold1-seed0 and 1 more" in printed
    first, second, together = records("cv/fold1-seed0", "cv/fold1-seed1")
    assert together["over_seeds"]["accuracy"]["mean"] == pytest.approx((first["accuracy"] + second["accuracy"]) / 2)


def test_what_does_not_belong_together_is_not_scored_together(folder):
    result = CliRunner().invoke(cli, ["evaluate", "--json", "cv/fold1-seed0", "cv/fold2-seed0", "cv/fold1-seed1"])
    assert "not every seed has every fold" in result.stderr and len(result.stdout.splitlines()) == 3
    # The same run twice is one run.
    assert len(records("cv/fold1-seed0", "cv/fold1-seed0")) == 1


def test_one_run_against_another(folder):
    printed = invoke("cv/fold1-seed0", "--against", "cv/fold1-seed1")
    assert "Against fold1-seed1: paired bootstrap on 20 clips" in printed
    one, compared = records("cv/fold1-seed0", "--against", "cv/fold1-seed1")
    (other,) = records("cv/fold1-seed1")
    assert compared["model"] == "fold1-seed0" and compared["against"] == "fold1-seed1"
    for key in ("accuracy", "log_loss"):
        found = compared[key]
        assert found["difference"] == pytest.approx(one[key] - other[key])
        assert found["low"] <= found["difference"] <= found["high"] and 0 < found["p"] <= 1
    assert records("cv", "--against", "cv")[1]["accuracy"]["p"] == 1.0


def test_runs_of_other_folds_cannot_be_paired(folder):
    line = invoke("cv/fold1-seed0", "--against", "cv/fold2-seed0", code=2)
    assert "not measured on the same clips" in line
    assert "two test folds" not in line


def test_out_keeps_everything(folder, tmp_path):
    out = tmp_path / "out"
    invoke("cv/fold1-seed0", "cv/fold1-seed1", "--against", "cv/fold1-seed1", "--out", out)
    report = json.loads((out / "evaluation.json").read_text())
    assert [m["model"] for m in report["models"]] == ["fold1-seed0", "fold1-seed1", "fold1-seed0 and 1 more"]
    assert len(report["comparisons"]) == 1
    assert {p.name for p in out.iterdir()} == {
        "evaluation.json", "fold1-seed0", "fold1-seed1", "fold1-seed0-and-1-more",
    }  # fmt: skip
    # Kept answers can be scored and compared without the model.
    (again,) = records(out / "fold1-seed0")
    assert again["accuracy"] == report["models"][0]["accuracy"]
    assert again["intervals"] == report["models"][0]["intervals"]
    assert records(out / "fold1-seed0", "--against", out / "fold1-seed1")[1]["clips"] == 20


def test_kept_answers_are_not_shown_under_other_settings(folder, tmp_path):
    run, answers = "cv/fold1-seed0", tmp_path / "out/fold1-seed0"
    invoke(run, "--tta", "2", "--out", tmp_path / "out")
    assert load(answers / "predictions.npz").about == {"data": "esc10", "split": "test", "tta": 2, "seed": 0}
    assert "mean of 2 test-time copies" in invoke(answers, "--tta", "2")
    (kept,), (fresh,) = records(answers, "--tta", "2"), records(run, "--tta", "2")
    assert kept["log_loss"] == fresh["log_loss"] and (kept["tta"], kept["data"]) == (2, "esc10")
    for options, words in (
        ([], "measured with --tta 2; give the same, or name their run"),
        (["--tta", "2", "--seed", "1"], "measured with --seed 0"),
        (["--tta", "2", "--split", "validation"], "measured with --split test"),
        (["--tta", "2", "--data", "esc50"], "measured with --data esc10"),
        (["--tta", "2", "--root", "esc"], "leave --root out"),
        (["--tta", "2", "--test-fold", "1"], "--test-fold cannot change"),
        (["--tta", "2", "--devices", "mics.yaml", "--device-root", "mics"], "--devices cannot change"),
    ):
        assert words in invoke(answers, *options, code=2)
    assert "measured with --tta 2" in invoke(run, "--against", answers, code=2)
    # The folder of the data is named for the run beside them.
    compared = records(run, "--tta", "2", "--root", "esc", "--against", answers)[1]
    assert compared["log_loss"]["difference"] == 0
    file = answers / "predictions.npz"
    load(file).with_about({}).save_npz(file)
    assert "do not say how they were measured" in invoke(answers, code=2)


def test_a_cross_validation_is_measured_again_for_other_settings(folder, tmp_path):
    shutil.copytree("cv", tmp_path / "cv")
    invoke("--folds", "teacher.yaml", "--root", "esc", "--seeds", "2", "--run", tmp_path / "cv", "--tta", "2")
    assert "never heard it, mean of 2 test-time copies" in " ".join(invoke(tmp_path / "cv", "--tta", "2").split())
    (kept,) = records(tmp_path / "cv", "--tta", "2")
    (plain,) = records("cv")
    assert kept["log_loss"] != plain["log_loss"]
    for options in ([], ["--root", str(Path("esc").absolute())]):
        *runs, together = records(tmp_path / "cv", *options)
        assert len(runs) == 10 and together["log_loss"] == plain["log_loss"]


def test_fewer_seeds_than_a_folder_holds_are_not_kept_as_its_answers(folder, tmp_path):
    shutil.copytree("cv", tmp_path / "cv")
    options = ("--root", "esc", "--run", tmp_path / "cv")
    (one,) = records("--folds", "teacher.yaml", *options)
    assert one["clips"] == 100
    # The folder holds ten runs, so these are shown; with both seeds the answers are kept again.
    *runs, together = records(tmp_path / "cv")
    assert len(runs) == 10 and together["seeds"] == [0, 1]
    (both,) = records("--folds", "teacher.yaml", *options, "--seeds", "2")
    assert records(tmp_path / "cv")[0]["log_loss"] == both["log_loss"] == together["log_loss"]
    shutil.copy(tmp_path / "cv/fold2-seed1/model.safetensors", tmp_path / "cv/fold2-seed0")
    assert len(records(tmp_path / "cv")) == 11


def test_answers_to_clips_that_have_changed_are_not_shown_as_new(folder, tmp_path):
    copies = csv_of(load_table("esc10", "esc"), tmp_path / "copies")
    options = ("--data", "csv", "--root", copies, "--set", "training.epochs=1", "--run", tmp_path / "cv")
    (kept,) = records("--folds", "teacher.yaml", *options)
    assert records(tmp_path / "cv")[0]["confusion_matrix"] == kept["confusion_matrix"]
    lines = (copies / "clips.csv").read_text().splitlines()
    name, _, *rest = lines[1].split(",")
    lines[1] = ",".join([name, lines[-1].split(",")[1], *rest])
    (copies / "clips.csv").write_text("\n".join(lines))
    *runs, together = records(tmp_path / "cv")
    assert len(runs) == 5 and together["confusion_matrix"] != kept["confusion_matrix"]
    # Without the clips, the answers are what is left.
    copies.rename(tmp_path / "gone")
    assert len(records(tmp_path / "cv")) == 1


def test_through_microphones(folder, tmp_path):
    options = ("--devices", "mics.yaml", "--device-root", "mics")
    printed = invoke("cv/fold1-seed0", *options)
    assert "Through the microphones of two: 1 of its training list (seen), 2 of its test list (unseen)" in printed
    out = tmp_path / "out"
    (record,) = records("cv/fold1-seed0", *options, "--out", out)
    assert (out / "fold1-seed0/microphones.png").is_file()
    kept = load(out / "fold1-seed0/views.npz")
    assert len(kept) == 80 and set(kept.devices) == {"clean", "dull", "bright", "thin"}
    views = record["device_views"]
    assert views["seen"]["devices"] == ["dull"] and views["unseen"]["devices"] == ["bright", "thin"]
    assert views["clean"]["accuracy"] == record["accuracy"] and views["clean"]["clips"] == 20
    assert views["unseen"]["clips"] == 40 and views["unseen"]["intervals"]["groups"] == 20
    mean = np.mean([views["per_device"][name]["accuracy"] for name in ("bright", "thin")])
    assert views["unseen"]["accuracy"] == pytest.approx(mean)
    assert views["unseen"]["log_loss"] != views["clean"]["log_loss"]


def test_microphones_that_training_heard_are_not_called_unseen(folder, tmp_path):
    options = ("--devices", "mics.yaml", "--device-root", "mics")
    (tmp_path / "bank.txt").write_text(f"{Path('mics/other.wav').absolute()}\n{Path('mics/thin.wav').absolute()}\n")
    heard = TEACHER | {"augment": {"dir_prob": 0.5, "dirs": str(tmp_path / "bank.txt")}}
    (tmp_path / "heard.yaml").write_text(yaml.safe_dump(heard))
    arguments = ["--set", "training.epochs=1", "--run", str(tmp_path / "run")]
    trained = CliRunner().invoke(cli, ["train", str(tmp_path / "heard.yaml"), "--root", "esc", *arguments])
    assert trained.exit_code == 0, trained.output
    line = invoke(tmp_path / "run", *options, code=2)
    assert "heard the microphone thin (in clips or by augment.dirs), which the list two keeps for testing" in line
    # Also where its file is all that is left; without --devices nothing is asked.
    exported = ["export", str(tmp_path / "run"), "--to", "onnx", "--precision", "fp32"]
    found = CliRunner().invoke(cli, exported)
    assert found.exit_code == 0, found.output
    (tmp_path / "bank.txt").unlink()
    file = ("--data", "esc10", "--root", "esc", tmp_path / "run/model-fp32.onnx")
    assert "the microphone thin" in invoke(*file, *options, code=2)
    assert "the microphone thin" in invoke(tmp_path / "run", *options, code=2)
    assert len(records(tmp_path / "run")) == len(records(*file)) == 1
    # A student heard what its teacher did, and its files say so wherever they lie.
    compressed = ["compress", "--budget", "16KB", "--teacher", str(tmp_path / "run"), "--student", "student.yaml"]
    found = CliRunner().invoke(cli, [*compressed, "--run", str(tmp_path / "small")])
    assert found.exit_code == 0, found.output
    shutil.copy(tmp_path / "small/model-int8.tflite", tmp_path / "alone.tflite")
    for name in ("small/model-fp32.tflite", "alone.tflite"):
        line = invoke("--data", "esc10", "--root", "esc", tmp_path / name, *options, code=2)
        assert "the microphone thin" in line


def test_clips_that_microphones_recorded_are_not_sent_through_them_again(folder):
    (model,) = candidates(Path("cv/fold1-seed0"), named=False)
    clips = [Clip(Path("a.wav"), "dog", device, "p", 1) for device in ("", "bright")]
    devices = load_device_list(Path("mics.yaml"))
    check_microphones(model, devices, clips[:1])
    with pytest.raises(InputError, match="already recorded through bright, a microphone of two; leave --devices out"):
        check_microphones(model, devices, clips)


def test_a_cross_validation_through_microphones(folder):
    found = records("cv", "--devices", "mics.yaml", "--device-root", "mics")
    assert len(found) == 11
    assert found[-1]["device_views"]["clean"]["clips"] == 200
    assert found[-1]["device_views"]["unseen"]["clips"] == 400


def test_a_student_alone(folder):
    line = invoke("--folds", "student.yaml", "--root", "esc", code=2)
    assert "--like RECIPE" in line
    line = invoke("--folds", "student.yaml", "--like", "teacher.yaml", "--root", "esc", code=2)
    assert "--set distill=null" in line
    options = ("--like", "teacher.yaml", "--root", "esc", "--set", "distill=null")
    (found,) = records("--folds", "student.yaml", *options, "--run", "student")
    assert found["clips"] == 100 and found["recipe"]["front_end"]["n_mels"] == 32
    _, compared = records("student", "--against", "cv")
    assert compared["clips"] == 100 and compared["by"] == "location"


def test_another_recipe_in_the_folder(folder):
    line = invoke("--folds", "teacher.yaml", "--root", "esc", "--set", "training.epochs=3", "--run", "cv", code=2)
    assert "folds of another recipe" in line


def test_data_with_one_official_split(folder, tmp_path):
    write_scenes(tmp_path / "scenes", clips_per_scene=12, seconds=0.5)
    before = sorted(Path().iterdir())
    line = invoke("--folds", "teacher.yaml", "--data", "demo", "--root", tmp_path / "scenes", code=2)
    assert "one split and no folds" in line and "tinyasc evaluate RUN" in line
    assert sorted(Path().iterdir()) == before


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["cv/fold1-seed0", "--set", "training.epochs=1"], "--folds RECIPE alone"),
        (["cv/fold1-seed0", "--run", "x"], "--folds RECIPE alone"),
        (["cv/fold1-seed0", "--like", "x"], "--folds RECIPE alone"),
        (["cv/fold1-seed0", "--seeds", "2"], "--folds RECIPE"),
        (["cv/fold1-seed0", "--folds", "teacher.yaml"], "takes no runs"),
        (["--folds", "teacher.yaml", "--split", "validation"], "takes no runs"),
        (["--folds", "teacher.yaml", "--test-fold", "1"], "takes no runs"),
        (["--folds", "nobody.yaml"], "no such recipe"),
        (["cv/fold1-seed0", "--devices", "mics.yaml"], "go together"),
        (["cv/fold1-seed0", "--device-root", "mics"], "go together"),
        (["cv/fold1-seed0", "--devices", "nobody.yaml", "--device-root", "mics"], "no such list"),
        (["cv/fold1-seed0", "--devices", "mics.yaml", "--device-root", "esc"], "no such impulse response"),
        (["cv/fold1-seed0", "--against", "nowhere"], "no such run"),
        (["--folds", "teacher.yaml", "--root", "esc", "--run", "new", "--against", "nowhere"], "--against nowhere: no"),
        (["nowhere", "--out", "mics.yaml/out"], "mics.yaml is no folder that can be written to"),
        pytest.param(
            ["nowhere", "--out", "/proc/x/y"],
            "/proc is no folder that can be written to",
            marks=pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc"),
        ),
        (["cv/fold1-seed0", "--test-fold", "2"], "fold 2 is no test for it"),
        (["cv", "--split", "validation", "--test-fold", "1"], "is no test for it"),
    ],
)
def test_what_is_refused(folder, args, words):
    before = sorted(p for p in Path().rglob("*") if p.name != ".lock")
    assert words in invoke(*args, code=2)
    assert sorted(p for p in Path().rglob("*") if p.name != ".lock") == before


def test_a_cross_validation_that_was_stopped(folder, tmp_path):
    for name in ("folds.json", "fold1-seed0/recipe.yaml", "fold1-seed0/data.blake2b"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(Path("cv", name).read_bytes())
    assert "not every fold is trained" in invoke(tmp_path, code=2)


def test_folds_beside_a_run_of_another_kind_are_compared_together(folder):
    runs = ("cv/fold1-seed0", "cv/fold1-seed1")
    compared = [r for r in records(*runs, "--against", "cv/fold1-seed1") if "against" in r]
    assert [r["model"] for r in compared] == ["fold1-seed0 and 1 more"]


def test_damaged_answers(folder, tmp_path):
    (tmp_path / "predictions.npz").write_bytes(b"PK cut")
    assert "damaged, or no predictions" in invoke(tmp_path, code=2)


@pytest.fixture
def dealt(folder, tmp_path, rng):
    """A run whose folds were dealt by the names of files, and what measures it."""
    root = tmp_path / "sounds"
    for label in ("dog", "rain"):
        (root / label).mkdir(parents=True)
        for i in range(6):
            soundfile.write(root / label / f"{i}.wav", 0.1 * rng.standard_normal(8000), 16000)
    options = ["--data", "folders", "--root", str(root), "--set", "training.epochs=1", "--run", str(tmp_path / "run")]
    trained = CliRunner().invoke(cli, ["train", "teacher.yaml", *options])
    assert trained.exit_code == 0, trained.output
    exported = CliRunner().invoke(cli, ["export", str(tmp_path / "run"), "--to", "onnx", "--precision", "fp32"])
    assert exported.exit_code == 0, exported.output
    return root, tmp_path / "run"


def add_clips(root):
    """More files, which move others to other folds."""
    for i in range(6):
        for label in ("dog", "rain"):
            shutil.copy(root / label / f"{i}.wav", root / label / f"more{i}.wav")


def test_no_clip_of_training_is_tested_after_folds_moved(dealt):
    root, run = dealt
    file = run / "model-fp32.onnx"
    assert len(records(run)) == len(records(file)) == len(records(run, "--split", "validation")) == 1
    heard = json.loads((run / "heard.json").read_text())
    table = load_table("folders", root)
    split = table.split()
    assert heard["train"] == sorted(clip_names(table, split.train))
    assert heard["validation_locations"] == sorted(clip.location for clip in split.validation)
    add_clips(root)
    table = load_table("folders", root)
    moved = {*clip_names(table, table.split().test)} & {*heard["train"], *heard["validation"]}
    assert moved
    for target in (run, file):
        line = invoke(target, code=2)
        assert f"{len(moved)} of " in line and "were in its training; the lists or files may have changed" in line
    # A copy elsewhere may be other recordings: said, not refused.
    shutil.copytree(root, root.parent / "copy")
    found = CliRunner().invoke(cli, ["evaluate", str(run), "--root", str(root.parent / "copy")])
    assert found.exit_code == 0 and "the scores are too good" in found.stderr


def test_validation_clips_are_held_against_the_training_clips_alone(dealt):
    root, run = dealt
    (model,) = candidates(run, named=False)
    table = load_table("folders", root)
    split, data = table.split(), Data(name="folders", root=str(root))
    check_unheard(model, data, table, split, "validation")
    swapped = dataclasses.replace(split, test=split.validation, validation=split.train)
    for part in ("test", "validation"):
        with pytest.raises(InputError, match="were in its training"):
            check_unheard(model, data, table, swapped, part)
    # Another recording of a place that was heard.
    again = dataclasses.replace(split.test[0], location=split.train[0].location)
    with pytest.raises(InputError, match="1 of 1 test clips"):
        check_unheard(model, data, table, dataclasses.replace(split, test=(again,)), "test")
    # The same files are the same clips, whatever their set is called and whether its folder or its list is named.
    (root / "clips.csv").touch()
    for changes in ({"name": "csv"}, {"name": "csv", "root": str(root / "clips.csv")}):
        with pytest.raises(InputError, match="were in its training"):
            check_unheard(model, data.model_copy(update=changes), table, swapped, "test")


def csv_of(table, folder, device=lambda i, clip: ""):
    """The clips of a table under other names, as a list with their folds, places and the devices that are asked for."""
    folder.mkdir()
    rows = ["filename,label,device,fold,group"]
    for i, clip in enumerate(table.clips):
        shutil.copy(clip.path, folder / f"copy{i}.wav")
        rows.append(f"copy{i}.wav,{clip.scene},{device(i, clip)},{clip.fold},{clip.location}")
    (folder / "clips.csv").write_text("\n".join(rows) + "\n")
    return folder


def evaluated(*args):
    result = CliRunner().invoke(cli, ["evaluate", "--json", *(str(a) for a in args)])
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()], result.stderr


def train(*args):
    result = CliRunner().invoke(cli, ["train", "teacher.yaml", "--set", "training.epochs=1", *(str(a) for a in args)])
    assert result.exit_code == 0, result.output


def test_training_clips_under_another_name_are_told(folder, tmp_path):
    # The run of fold 3 heard fold 1, which is what the list tests by default; its own fold it never heard.
    copies = csv_of(load_table("esc10", "esc"), tmp_path / "copies")
    (record,), said = evaluated("cv/fold3-seed0", "--data", "csv", "--root", copies)
    assert record["clips"] == 20
    assert "20 of 20 test clips (copy0.wav, ...)" in said and "the scores are too good" in said
    _, said = evaluated("cv/fold3-seed0", "--data", "csv", "--root", copies, "--test-fold", "3")
    assert "too good" not in said
    # Beside a run of another data set, each is told of what it heard.
    train("--data", "csv", "--root", copies, "--run", tmp_path / "b")
    _, said = evaluated("cv/fold3-seed0", tmp_path / "b")
    assert "b: 20 of 20 test clips" in said and "fold3-seed0: " not in said


def test_a_root_named_as_its_file_is_the_same_root(folder, tmp_path):
    table = load_table("esc10", "esc")
    copies = csv_of(table, tmp_path / "copies")
    train("--data", "csv", "--root", copies / "clips.csv", "--run", tmp_path / "b")
    lines = (copies / "clips.csv").read_text().splitlines()
    swap = {"1": "3", "3": "1"}
    rows = [line.split(",") for line in lines[1:]]
    (copies / "clips.csv").write_text(
        "\n".join([lines[0], *(",".join([*row[:3], swap.get(row[3], row[3]), row[4]]) for row in rows)])
    )
    for root in (copies, copies / "clips.csv"):
        assert "were in its training" in invoke(tmp_path / "b", "--root", root, code=2)


def test_devices_are_seen_where_the_run_heard_them_not_where_the_set_trains_on_them(folder, tmp_path):
    table = load_table("esc10", "esc")
    train("--data", "csv", "--root", csv_of(table, tmp_path / "of A", lambda i, clip: "A"), "--run", tmp_path / "a")
    devices = csv_of(table, tmp_path / "devices", lambda i, clip: "ABC"[i % 3])
    seen = {"A": True, "B": False, "C": False}

    def shown(target, *options):
        ((record,), _) = evaluated(target, *options)
        return {name: scores["seen"] for name, scores in record["per_device"].items()}

    assert shown(tmp_path / "a", "--root", devices) == seen
    # The file alone says it as well.
    exported = ["export", str(tmp_path / "a"), "--to", "onnx", "--precision", "fp32", "-o", str(tmp_path / "a.onnx")]
    assert CliRunner().invoke(cli, exported).exit_code == 0
    assert shown(tmp_path / "a.onnx", "--data", "csv", "--root", devices) == seen
    # Of clips whose devices nobody named nothing is known, and nothing of a run of before.
    assert shown("cv/fold1-seed0", "--data", "csv", "--root", devices) == dict.fromkeys("ABC")
    heard = json.loads((tmp_path / "a/heard.json").read_text())
    (tmp_path / "a/heard.json").write_text(json.dumps({k: v for k, v in heard.items() if "devices" not in k}))
    assert shown(tmp_path / "a", "--root", devices) == dict.fromkeys("ABC")


@pytest.mark.parametrize("final", [False, True])
def test_devices_of_validation_are_seen_by_a_run_that_was_trained_on_them(folder, tmp_path, final):
    # V is in the folds of test and validation alone.
    table = load_table("esc10", "esc")
    devices = csv_of(table, tmp_path / "devices", lambda i, clip: "V" if clip.fold in (1, 2) and i % 2 else "A")
    options = ["--set", f"training.final={str(final).lower()}", "--set", "training.select=last"]
    train("--data", "csv", "--root", devices, *options, "--run", tmp_path / "run")
    exported = ["export", str(tmp_path / "run"), "--to", "onnx", "--precision", "fp32"]
    assert CliRunner().invoke(cli, exported).exit_code == 0
    table = load_table("csv", devices)
    for target in (tmp_path / "run", tmp_path / "run/model-fp32.onnx"):
        ((record,), _) = evaluated(target, "--data", "csv", "--root", devices)
        assert {name: scores["seen"] for name, scores in record["per_device"].items()} == {"A": True, "V": final}
        # Under another name its validation clips are training clips too.
        (model,) = candidates(target, named=False)
        asked = (model, Data(name="esc10", root=str(devices)), table, table.split(), "validation")
        with pytest.raises(InputError, match="20 of 20 validation clips") if final else nullcontext():
            check_unheard(*asked)


def test_microphones_heard_by_augmentation_are_seen(folder, tmp_path):
    through = ["data", "through", "esc10", "--root", "esc", "--devices", "mics.yaml", "--device-root", "mics"]
    made = CliRunner().invoke(cli, [*through, "--rate", "16000", "--out", str(tmp_path / "set")])
    assert made.exit_code == 0, made.output
    (tmp_path / "bank.txt").write_text(f"{Path('mics/thin.wav').absolute()}\n")
    augment = ["--set", "augment.dir_prob=0.5", "--set", f"augment.dirs={tmp_path / 'bank.txt'}"]
    train("--data", "csv", "--root", tmp_path / "set", *augment, "--run", tmp_path / "run")
    seen = {"clean": True, "dull": True, "thin": True, "bright": False}
    ((record,), _) = evaluated(tmp_path / "run")
    assert {name: scores["seen"] for name, scores in record["per_device"].items()} == seen


def test_a_file_in_another_models_run_is_not_held_against_that_runs_clips(folder, tmp_path):
    shutil.copytree("cv/fold1-seed0", tmp_path / "home")
    exported = ["export", "cv/fold3-seed0", "--to", "onnx", "--precision", "fp32", "-o", str(tmp_path / "home/a.onnx")]
    assert CliRunner().invoke(cli, exported).exit_code == 0
    # Fold 3 is new to the file, and was in the training of the run it lies in.
    _, said = evaluated(tmp_path / "home/a.onnx", "--data", "esc10", "--root", "esc")
    assert "new to it" not in said
    (found,) = candidates(tmp_path / "home/a.onnx", named=False)
    assert found.heard is None


def test_a_file_alone_says_where_the_split_differs(dealt):
    root, run = dealt
    alone = shutil.copy(run / "model-fp32.onnx", root.parent / "alone.onnx")
    arguments = ["evaluate", str(alone), "--data", "folders", "--root", str(root)]
    found = CliRunner().invoke(cli, arguments)
    assert found.exit_code == 0 and "new to it" not in found.stderr
    add_clips(root)
    found = CliRunner().invoke(cli, arguments)
    assert found.exit_code == 0
    assert "was trained on other clips of folders than the present lists name" in found.stderr
    # A run of before.
    (run / "heard.json").unlink()
    found = CliRunner().invoke(cli, ["evaluate", str(run)])
    assert found.exit_code == 0 and "does not say which clips it was trained on" in found.stderr
    (run / "heard.json").write_text("{")
    assert "heard.json: damaged" in invoke(run, code=2)


def test_two_runs_of_one_seed_and_fold_are_not_scored_together(folder, tmp_path):
    shutil.copytree("cv/fold1-seed0", tmp_path / "again")
    result = CliRunner().invoke(cli, ["evaluate", "--json", "cv/fold1-seed0", str(tmp_path / "again")])
    assert "since two of them have one seed and fold" in result.stderr and len(result.stdout.splitlines()) == 2


def test_validation_clips_that_were_trained_on_are_no_validation(folder):
    (model,) = candidates(Path("cv/fold1-seed0"), named=False)
    base = Data(name="esc10", root="esc")
    assert model.data(base, None, "validation").test_fold == 1
    final = dataclasses.replace(model, trained_on=model.trained_on | {"trained_on_validation_clips": True})
    with pytest.raises(InputError, match="leave --split validation out"):
        final.data(base, None, "validation")
    assert final.data(base, None, "test").test_fold == 1
