"""The model that comes with tinyasc: small, sealed, saying where it comes from, right about clips it never heard."""

import csv
import json
from collections import defaultdict

import pytest
from click.testing import CliRunner

from tinyasc.cli.main import cli
from tinyasc.infer.find import BUNDLED
from tinyasc.infer.runner import load

SOUNDS = {
    "chainsaw", "clock_tick", "crackling_fire", "crying_baby", "dog", "helicopter", "rain", "rooster", "sea_waves",
    "sneezing",
}  # fmt: skip
# Left out of its training for their licence; ESC-10's own label of both is rooster.
NEVER_HEARD = ("1-40730-A-1", "2-96460-A-1")


@pytest.fixture(scope="module")
def model():
    return load(BUNDLED)


def test_it_is_small_and_int8_within_its_budget(model):
    assert BUNDLED.stat().st_size < 150_000
    assert set(model.labels) == SOUNDS
    assert model.card["precision"] == "int8" and model.card["counts"]["parameter_bytes"] <= 131_072


def test_its_card_says_estimate_licence_and_authors(model):
    about = model.card["about"]
    assert {"estimate", "licence", "attribution", "use"} <= set(about)
    assert "five official folds, 1 seed" in about["estimate"] and "13 measured microphones" in about["estimate"]
    assert "no clip of ESC-10 tests it" in about["estimate"]
    assert "CC BY 3.0" in about["licence"] and "Piczak" in about["attribution"]
    authors = BUNDLED.with_name("ATTRIBUTION.md").read_text(encoding="utf-8")
    assert "Piczak" in authors and "creativecommons.org/licenses/by/3.0" in authors
    data = model.card["data"]
    assert data["test_fold"] is None and set(data["leave_out"]) == set(NEVER_HEARD)


def test_every_author_who_asks_for_it_is_named(esc10_root):
    with (esc10_root / "meta.csv").open(encoding="utf-8", newline="") as file:
        clips = list(csv.DictReader(file))
    if "clip_license" not in clips[0]:
        pytest.skip(f"{esc10_root}/meta.csv does not say the licences of the clips")
    expected = defaultdict(set)
    for clip in clips:
        if clip["clip_license"] == "CC-BY":
            expected[clip["author"]].add(clip["fs_group"])
    rows = [
        line.strip("| ").split(" | ") for line in BUNDLED.with_name("ATTRIBUTION.md").read_text("utf-8").splitlines()
    ]
    named = {row[0]: set(row[1].split(", ")) for row in rows if len(row) == 2 and row[1][0].isdigit()}
    assert named == expected
    left_out = {clip["filename"] for clip in clips if clip["clip_license"] not in ("CC-BY", "CC0")}
    assert {name.split("/")[-1].split(".")[0] for name in left_out} == set(NEVER_HEARD)


def test_show_prints_what_its_card_says(model):
    shown = CliRunner().invoke(cli, ["show", str(BUNDLED)])
    assert shown.exit_code == 0, shown.output
    words = " ".join(shown.stdout.split())
    for line in model.card["about"].values():
        assert " ".join(line.split())[:60] in words


def test_its_bytes_are_the_seal_s(model, tmp_path):
    """One flipped bit of a weight is seen."""
    data = bytearray(BUNDLED.read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "flipped.tflite").write_bytes(data)
    result = CliRunner().invoke(cli, ["infer", "--model", str(tmp_path / "flipped.tflite"), "clip.wav"])
    assert result.exit_code == 2 and "flipped.tflite: damaged" in result.stderr and "hash" in result.stderr


def test_clips_that_it_never_heard(shared_audio, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # no runs here, so that it is the one that is taken
    clips = [str(next(shared_audio.rglob(f"{name}.*"))) for name in NEVER_HEARD]
    result = CliRunner().invoke(cli, ["infer", "--json", *clips])
    assert result.exit_code == 0, result.output
    assert "comes with tinyasc" in result.stderr
    assert [json.loads(line)["label"] for line in result.stdout.splitlines()] == ["rooster", "rooster"]
