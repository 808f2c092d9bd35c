"""The quick variants of recipes."""

from __future__ import annotations

import pytest
import yaml
from click.testing import CliRunner

from tinyasc.cli.main import cli
from tinyasc.errors import InputError
from tinyasc.training.recipe import load_recipe, shipped_recipes

DEMO = {"teachers/demo", "students/demo"}


@pytest.mark.parametrize("name", sorted(set(shipped_recipes()) - DEMO))
def test_every_shipped_recipe_has_a_quick_variant(name):
    whole, fast = load_recipe(name), load_recipe(name, fast=True)
    assert fast.name == f"{whole.name}-fast"
    assert fast.training.epochs < whole.training.epochs
    assert fast.fingerprint() != whole.fingerprint()


def test_overrides_win_over_fast_values():
    assert load_recipe("students/sepconv_ca", ["training.epochs=7"], fast=True).training.epochs == 7


def test_a_recipe_without_one(tmp_path):
    with pytest.raises(InputError, match="teachers/demo: has no `fast` values; leave --fast out"):
        load_recipe("teachers/demo", fast=True)
    bad = tmp_path / "bad.yaml"
    bad.write_text(yaml.safe_dump({"name": "x", "model": {"family": "amfm"}, "fast": {"training.epoch": 3}}))
    with pytest.raises(InputError, match=r"unknown key 'training\.epoch'; did you mean 'epochs'"):
        load_recipe(bad, fast=True)
    load_recipe(bad)


def test_fast_needs_a_recipe_to_evaluate():
    result = CliRunner().invoke(cli, ["evaluate", "--fast", "runs/x"])
    assert result.exit_code == 2 and "--fast: goes with --folds RECIPE" in result.output
