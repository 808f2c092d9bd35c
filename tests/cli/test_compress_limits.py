"""`tinyasc compress` under limits: plan, dry run, frontier, what is written and what is refused."""

import json
import shutil

import pytest
import yaml
from ai_edge_litert import schema_py_generated as schema
from test_train_compress import STUDENT, TEACHER, tinyasc, tree

from tinyasc.compress import pipeline
from tinyasc.compress.limits import Limits
from tinyasc.data.scenes import write_scenes
from tinyasc_export.tflite import read_bundle

RELU = {"family": "sepconv_ca", "base_channels": 16, "attention_activation": "relu"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A trained teacher, one epoch, and a student's recipe."""
    folder = tmp_path_factory.mktemp("limits")
    write_scenes(folder / "scenes", clips_per_scene=12, seconds=0.5)
    quick = {"epochs": 1, "batch_size": 16}
    (folder / "teacher.yaml").write_text(yaml.safe_dump(TEACHER | {"training": quick}))
    (folder / "student.yaml").write_text(yaml.safe_dump(STUDENT | {"model": RELU, "training": quick}))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        tinyasc("train", "teacher.yaml")
    return folder


@pytest.fixture
def folder(place, tmp_path, monkeypatch):
    copy = tmp_path / "place"
    shutil.copytree(place, copy, ignore=shutil.ignore_patterns("clip.wav"))
    monkeypatch.chdir(copy)
    return copy


def recount(file):
    """Bytes of constants that have a scale, by TFLite's own schema."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(file.read_bytes()))
    total = 0
    for tensor in model.subgraphs[0].tensors:
        content = model.buffers[tensor.buffer].data
        if content is not None and tensor.quantization is not None and tensor.quantization.scale is not None:
            total += len(content)
    return total


def test_a_dry_run_says_everything_and_writes_nothing(folder):
    before = tree(folder)
    result = tinyasc("compress", "--budget", "8KB", "--macs", "2M", "--tta", "2", "--dry-run")
    assert tree(folder) == before
    shown = result.stdout
    assert "plan: sepconv_ca (base_channels 12) at 32 mels, int8" in shown
    assert "note: not the recipe's whole size, by budget: " in shown
    assert "(default; --ram none lifts it): met" in shown and "(--macs 2M --tta 2): met" in shown
    assert "time (estimate): " in shown and " s per epoch x 1 epochs" in shown
    assert "the teachers' answers, validation, quantisation and checks not included" in shown
    assert "arena " in shown and "set aside for the stack" in shown and "nucleo-u575zi-q" in shown
    assert shown.splitlines()[-1] == "dry run: nothing was trained or written"


def test_16_bits_within_a_ram_limit_and_their_frontier(folder):
    result = tinyasc(
        "compress", "--bits", "16", "--ram", "40KB", "--flash", "60KB", "--budget", "none",
        "--frontier", "f.png", "--run", "run",
    )  # fmt: skip
    run = folder / "run"
    product = run / "model-int16x8.tflite"
    assert product.is_file() and not (run / "model-int8.tflite").exists()
    report = json.loads((run / "report.json").read_text())
    plan = json.loads((run / "plan.json").read_text())
    assert report["precision"] == plan["plan"]["precision"] == "int16x8" and report["budget"] is None
    checks = {c["name"]: c for c in report["checks"]}
    assert set(checks) == {"flash", "ram"} and all(c["met"] for c in checks.values())
    assert checks["flash"]["value"] == product.stat().st_size <= plan["plan"]["file_bytes"]
    assert checks["ram"]["value"] == plan["plan"]["ram_bytes"] <= 40 * 1024
    entry = next(f for f in report["files"] if f["precision"] == "int16x8")
    assert recount(product) == entry["parameter_bytes"] == plan["plan"]["parameter_bytes"]
    bundle = read_bundle(product.read_bytes(), "product")
    assert bundle is not None and [x["name"] for x in bundle.card["limits"]] == ["flash", "ram"]
    assert f"ram: {checks['ram']['value']:,} of 40,960 bytes of RAM (--ram 40KB): met" in result.stdout
    assert "Students that were counted" in result.stdout and "chosen" in result.stdout
    for name in ("f.png", "f.json", "run/frontier.png", "run/frontier.json"):
        assert (folder / name).stat().st_size > 500
    assert (folder / "f.json").read_bytes() == (run / "frontier.json").read_bytes()
    # What comes after takes this file, and not the int8 graph that nothing was measured in.
    assert "int16x8" in tinyasc("profile", "run").stdout
    tinyasc("export", "run", "--to", "onnx")
    assert (run / "model-int16x8.onnx").is_file() and not (run / "model-int8.onnx").exists()
    lines = tinyasc("evaluate", "run", "--json", "--split", "validation").stdout.splitlines()
    assert [json.loads(line)["model"] for line in lines] == ["teacher", "model-fp32.tflite", "model-int16x8.tflite"]


def test_a_written_file_over_a_limit_is_kept_labelled_and_fails(folder, monkeypatch):
    """As if the counter had been wrong: the file is judged by what lies on the disk."""
    solve = pipeline.solve
    monkeypatch.setattr(pipeline, "solve", lambda students, labels, _, *more: solve(students, labels, Limits(), *more))
    line = tinyasc("compress", "--flash", "20KB", "--macs", "1k", "--run", "over", code=1).line
    file = folder / "over/model-int8-over-budget.tflite"
    assert file.is_file() and not (folder / "over/model-int8.tflite").exists()
    size = file.stat().st_size
    assert f"{size} bytes of the file, over the limit of 20480 (--flash 20KB)" in line
    assert "MACs per second, over the limit of 1000 (--macs 1k)" in line and "kept under that name" in line
    checks = json.loads((folder / "over/report.json").read_text())["checks"]
    assert {c["name"]: c["met"] for c in checks} == {"flash": False, "ram": True, "macs": False}
    assert "model-int8-over-budget.tflite" in tinyasc("evaluate", "over", "--split", "validation").stdout


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--ram", "1KB"), "cannot be met: the narrowest student, sepconv_ca (base_channels 4)"),
        (("--flash", "1KB"), "bytes of the file (limit 1024, --flash 1KB); give at least that"),
        (("--macs", "10"), "MACs per second (limit 10, --macs 10); give at least that"),
        (("--macs", "30X"), "--macs '30X'"),
        (("--ram", "much"), "--ram 'much'"),
        (("--board", "nucleo"), "board 'nucleo' is unknown"),
        (("--rule", "dcase2022"), "rule 'dcase2022' is unknown"),
        (("--rule", "dcase2022-t1", "--bits", "16"), "fixes int8, --bits 16"),
        (("--tta", "0"), "--tta 0"),
        (("--family", "atrous_cnn"), "--family atrous_cnn: no student family; choose one of: amfm, bc_resnet"),
        (("--family", "auto", "--student", "student.yaml"), "leave --student out"),
        (("--family", "amfm", "--student", "student.yaml"), "--student student.yaml is of another"),
        (("--frontier", "picture.pdf"), "name a .png file"),
        (("--bits", "16", "--set", "model.attention_activation=hardswish"), "hardswish has no int16 kernel"),
        (("--run", "free", "--set", "augment.crop_frames=9999"), "cannot crop 9999 frames"),
        (("--search", "1", "--run", "free", "--set", "decision_weights={none: 2.0}"), "is none of the data's labels"),
    ],
)
def test_what_is_refused_before_anything_is_written(folder, options, words):
    before = tree(folder)
    assert words in tinyasc("compress", *options, code=2).line
    assert tree(folder) == before


def test_bits_are_8_16_or_auto(folder):
    from click.testing import CliRunner

    from tinyasc.cli.main import cli

    result = CliRunner().invoke(cli, ["compress", "--bits", "4"])
    assert result.exit_code == 2 and "'8', '16', 'auto'" in result.output


def test_a_family_by_its_shipped_recipe(folder):
    options = ("--dry-run", "--set", "model.base_channels=8", "--set", "training.batch_size=8")
    result = tinyasc("compress", "--family", "cp-mobile", *options)
    assert "student: students/cp_mobile (--family cp_mobile)" in result.stderr
    assert "plan: cp_mobile (base_channels 8) at 32 mels, int8" in result.stdout
    own = tinyasc("compress", "--family", "sepconv-ca", *options)
    assert "student: student.yaml (default for this teacher)" in own.stderr


def test_the_help_names_boards_and_rules():
    shown = tinyasc("compress", "--help").stdout
    assert "arduino-nano-33-ble-sense" in "".join(shown.split()) and "dcase2024-t1" in shown
