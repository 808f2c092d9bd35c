"""The table of shipped recipes."""

import pytest

from tinyasc.models import build
from tinyasc.training.catalogue import CLASSES, catalogue, parameters
from tinyasc.training.recipe import check_recipe, load_recipe, shipped_recipes

PLAIN = {"name": "x", "data": {"name": "tau2018b"}, "model": {"family": "cp_mobile", "base_channels": 8}}


def test_every_recipe_has_its_entry():
    found = {entry.name: entry for entry in catalogue()}
    assert list(found) == shipped_recipes()
    for name, entry in found.items():
        recipe = load_recipe(name)
        assert (entry.family, entry.published) == (recipe.family, recipe.published)
        assert entry.fast == (name not in ("teachers/demo", "students/demo"))


@pytest.mark.parametrize(
    ("front_end", "channels"), [({}, 1), ({"deltas": 2}, 3), ({"deltas": 2, "stereo": True, "n_mels": 40}, 6)]
)
def test_parameters_are_those_of_the_front_end(front_end, channels):
    recipe = check_recipe(PLAIN | {"front_end": front_end}, "test")
    wanted = build(
        "cp_mobile",
        n_classes=CLASSES,
        n_mels=front_end.get("n_mels", 64),
        in_channels=channels,
        base_channels=8,
    )
    assert parameters(recipe) == sum(p.numel() for p in wanted.parameters())


def test_the_published_counts_of_teachers():
    """Those whose size hangs on more than the front end: devices of the data, groups of its scenes."""
    found = {entry.name: entry.parameters for entry in catalogue()}
    assert found["teachers/amfm_net"] == 624_192
    assert found["teachers/caa_net"] == 4_523_799
    assert found["teachers/split_resnet"] == 3_247_416


def test_large_models_take_no_memory():
    """40 billion parameters."""
    recipe = check_recipe(PLAIN | {"model": {"family": "atrous_cnn", "base_channels": 6400}}, "test")
    assert parameters(recipe) > 4e10
