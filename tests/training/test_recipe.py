import re
from pathlib import Path

import pytest
import yaml

from tinyasc.errors import InputError
from tinyasc.models import FAMILIES
from tinyasc.training.recipe import Recipe, check_recipe, load_recipe, shipped_recipes
from tinyasc.training.recipe_parts import Training

MINIMAL = {"name": "x", "model": {"family": "sepconv_ca"}}


def written(tmp_path, values):
    file = tmp_path / "r.yaml"
    file.write_text(values if isinstance(values, str) else yaml.safe_dump(values))
    return file


def refused(*args):
    with pytest.raises(InputError) as caught:
        load_recipe(*args)
    line = str(caught.value)
    assert "\n" not in line
    return line


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_recipes_load(name):
    recipe = load_recipe(name)
    assert recipe == load_recipe(f"configs/{name}.yaml")
    assert recipe.family in FAMILIES
    student = name.startswith("students/")
    assert (recipe.data is None) == student
    # A student without one takes its teacher's; that of ESC-10 has its own, since its first stride is for that alone.
    assert (recipe.front_end is None) == (student and not name.startswith("students/esc10_"))
    assert load_recipe(recipe.student).distill is not None
    if recipe.front_end is not None:
        assert recipe.front_end.record().n_frames() >= 16


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_recipes_say_what_was_published(name):
    assert load_recipe(name).published, "one line of what the model's authors report, with its data set"


def test_the_demo_is_shipped():
    assert {"teachers/demo", "students/demo", "teachers/esc10", "students/sepconv_ca"} <= set(shipped_recipes())


def test_another_data_set_has_the_folds_and_groups_that_are_set_and_not_the_recipes(tmp_path):
    groups = {"in": ["bus"], "out": ["park"]}
    file = written(tmp_path, MINIMAL | {"data": {"name": "tau2020", "test_fold": 4, "groups": groups}})
    asked = ("data.target=group", "data.groups={a: [dog], b: [cat]}", "data.devices=[x]")
    data = load_recipe(file, asked, data="esc10").data
    assert data.model_dump() == {
        "name": "esc10", "root": None, "test_fold": 1, "validation_fold": None,
        "groups": {"a": ("dog",), "b": ("cat",)}, "target": "group", "devices": ("x",), "leave_out": (),
    }  # fmt: skip
    assert load_recipe(file, data="tau2020") == load_recipe(file)
    # A student's recipe takes its teacher's.
    assert load_recipe(written(tmp_path, MINIMAL), data="esc10").data is None


def test_a_missing_recipe_lists_the_shipped_ones():
    assert "teachers/esc10" in refused("teachers/esc11")


@pytest.mark.parametrize(
    ("part", "typo", "meant"),
    [
        (None, "modle", "model"),
        (None, "trainning", "training"),
        ("training", "epoch", "epochs"),
        ("augment", "mixup_alfa", "mixup_alpha"),
        ("distill", "temprature", "temperature"),
        ("front_end", "hop_lenght", "hop_length"),
        ("data", "rot", "root"),
    ],
)
def test_an_unknown_key_names_the_nearest(tmp_path, part, typo, meant):
    values = MINIMAL | ({typo: 1} if part is None else {part: {typo: 1}})
    line = refused(written(tmp_path, values))
    assert f"did you mean {meant!r}?" in line
    assert repr(typo if part is None else f"{part}.{typo}") in line


def test_an_unknown_key_near_nothing_lists_all(tmp_path):
    line = refused(written(tmp_path, MINIMAL | {"distill": {"zzzzzz": 1}}))
    assert "temperature, kd_lambda" in line


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("training.epochs", 0),
        ("training.epochs", 1.5),
        ("training.epochs", "many"),
        ("training.batch_size", 1),
        ("training.lr", 0),
        ("training.lr", -1),
        ("training.lr", float("nan")),
        ("training.lr", float("inf")),
        ("training.weight_decay", -1e-9),
        ("training.seed", -1),
        ("training.seed", 10**12),
        ("training.select", "first"),
        ("training", [1]),
        ("augment.roll", "perhaps"),
        ("augment.time_mask", -1),
        ("augment.time_mask", None),
        ("distill.kd_lambda", 1.01),
        ("distill.kd_lambda", -0.01),
        ("distill.temperature", 0),
        ("front_end.window", "kaiser"),
        ("front_end.n_mels", 0),
        ("front_end.sample_rate", "fast"),
        ("data.test_fold", "one"),
        ("model", "sepconv_ca"),
        ("model", {"base_channels": 8}),
        ("model.family", 3),
        ("published", "two\nlines"),
        ("published", ""),
        ("published", 76.3),
        ("name", "../x"),
        ("name", ""),
        ("name", None),
    ],
)
def test_wrong_types_and_ranges_are_refused_with_their_key(tmp_path, key, value):
    part, _, last = key.partition(".")
    values = MINIMAL | ({part: value} if not last else {part: dict(MINIMAL.get(part, {})) | {last: value}})
    line = refused(written(tmp_path, values))
    assert part in line and (last in line), line


@pytest.mark.parametrize(
    ("training", "told"),
    [
        ({"momentum": 0.9}, "momentum has no meaning with optimizer: adamw; it belongs to optimizer: sgd"),
        ({"optimizer": "adam", "nesterov": True}, "nesterov has no meaning with optimizer: adam"),
        ({"optimizer": "sgd", "nesterov": True}, "nesterov needs a momentum"),
        ({"optimizer": "rmsprop"}, "training.optimizer"),
        ({"restart_epochs": [2, 6]}, "restart_epochs has no meaning with schedule: cosine"),
        ({"schedule": "restarts"}, "needs restart_epochs"),
        ({"schedule": "restarts", "restart_epochs": [6, 2]}, "restart_epochs must rise"),
        ({"schedule": "restarts", "restart_epochs": [2, 100]}, "below the 100 epochs"),
        ({"schedule": "restarts", "restart_epochs": [2], "warmup_epochs": 3}, "from warmup_epochs up"),
        ({"schedule": "restarts", "restart_epochs": [0]}, "training.restart_epochs.0"),
        ({"schedule": "step"}, "needs one of step_iterations"),
        ({"schedule": "step", "step_iterations": 200, "step_at": [0.5]}, "needs one of step_iterations"),
        ({"schedule": "step", "step_at": [0.6, 0.3]}, "step_at must rise"),
        ({"schedule": "step", "step_at": [1.5]}, "training.step_at.0"),
        (
            {"schedule": "step", "step_at": [0.5], "min_lr_ratio": 0.1},
            "min_lr_ratio has no meaning with schedule: step",
        ),
        ({"decay_epochs": 3}, "decay_epochs has no meaning with schedule: cosine; it belongs to schedule: linear"),
        ({"schedule": "linear", "warmup_epochs": 5, "flat_until_epoch": 2}, "before the end of warmup_epochs"),
        ({"epochs": 3, "warmup_epochs": 9}, "warmup_epochs 9 is more than the 3 epochs in all"),
        (
            {"schedule": "linear", "epochs": 10, "flat_until_epoch": 10},
            "flat_until_epoch 10 is not below the 10 epochs in all",
        ),
        ({"monitor": "val_accuracy", "select": "last"}, "monitor has no meaning with select: last"),
        ({"monitor": "accuracy"}, "training.monitor"),
        ({"final": True}, "set select: last"),
        ({"ema_decay": 1.0}, "training.ema_decay"),
        ({"clip_grad_norm": 0}, "training.clip_grad_norm"),
        ({"precision": 16}, "training.precision"),
        ({"optimiser": "sgd"}, "did you mean 'optimizer'?"),
    ],
)
def test_training_keys_that_do_not_fit_are_refused(tmp_path, training, told):
    line = refused(written(tmp_path, MINIMAL | {"training": training}))
    assert told in line and "training" in line and "{" not in line


def test_training_options_from_the_command_line():
    text = (
        "optimizer=sgd momentum=0.9 nesterov=true schedule=restarts restart_epochs=[2,6] precision=32 min_lr_ratio=1e-4"
    )
    training = load_recipe("teachers/demo", [f"training.{one}" for one in text.split()]).training
    assert (training.optimizer, training.momentum, training.nesterov) == ("sgd", 0.9, True)
    assert training.restart_epochs == (2, 6) and training.precision == "32" and training.min_lr_ratio == 1e-4


def test_the_recipes_in_the_documentation_are_valid():
    page = (Path(__file__).parents[2] / "docs/how-to/training-recipes.md").read_text()
    blocks = re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL)
    assert len(blocks) == 8
    for block in blocks:
        values = yaml.safe_load(block)
        check_recipe(MINIMAL | values, "page")


@pytest.mark.parametrize("missing", ["name", "model"])
def test_a_missing_key_is_named(tmp_path, missing):
    line = refused(written(tmp_path, {k: v for k, v in MINIMAL.items() if k != missing}))
    assert f"{missing}: Field required" in line


@pytest.mark.parametrize("text", ["", "- 1\n", "5", "just words", "null"])
def test_what_is_no_mapping_is_refused(tmp_path, text):
    assert "YAML mapping" in refused(written(tmp_path, text))


@pytest.mark.parametrize("text", ["a: [1", "a: b: c", "\ta: 1", "name: 2020-13-45", "[" * 3000, "a: \x01"])
def test_what_is_no_yaml_is_refused(tmp_path, text):
    assert "not YAML" in refused(written(tmp_path, text))


def test_the_line_of_a_yaml_fault_is_named(tmp_path):
    assert "at line 2" in refused(written(tmp_path, "name: x\nmodel: {a: b: c}\n"))


def test_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "r.yaml").write_bytes(b"\xff\xfe\x00\x9f")
    assert "cannot be read as a recipe" in refused(tmp_path / "r.yaml")


@pytest.mark.parametrize("key", ["n_classes", "n_mels", "in_channels"])
def test_what_follows_from_the_data_is_no_model_option(key):
    assert f"{key} follows from the data" in refused("teachers/demo", [f"model.{key}=3"])


def test_a_folder_is_no_recipe(tmp_path):
    assert "no such recipe" in refused(tmp_path)


@pytest.mark.parametrize(
    "tag", ["!!python/object/apply:os.mkdir [{}]", "!!python/object/new:pathlib.Path [{}]", "!!python/name:os.system"]
)
def test_a_tag_that_makes_objects_is_refused_and_not_executed(tmp_path, tag):
    planted = tmp_path / "planted"
    file = written(tmp_path, "name: x\nmodel: " + tag.format(planted))
    assert "line 2" in refused(file)
    assert not planted.exists()
    refused(written(tmp_path, MINIMAL), [f"training={tag.format(planted)}"])
    assert not planted.exists()


def test_overrides():
    recipe = load_recipe(
        "teachers/demo",
        [
            "training.lr=1e-3",
            "training.epochs=7",
            "training.select=last",
            "model.base_channels=8",
            "distill.temperature=3",  # the recipe has no such part
            "data.root=/a=b",
            "augment.roll=false",
            "front_end.fmax=null",
        ],
    )
    assert recipe.training.lr == 1e-3 and isinstance(recipe.training.lr, float)
    assert recipe.training.epochs == 7 and recipe.training.select == "last"
    assert recipe.model == {"family": "atrous_cnn", "trunk": "baseline", "head": "average", "base_channels": 8}
    assert recipe.distill is not None and recipe.distill.temperature == 3 and recipe.distill.kd_lambda == 0.9
    assert recipe.data is not None and recipe.data.root == "/a=b"
    assert recipe.augment.roll is False
    assert recipe.training.batch_size == load_recipe("teachers/demo").training.batch_size


def test_a_scientific_number_in_the_model_part_is_a_float():
    assert load_recipe("students/demo", ["model.dropout=1e-1"]).model["dropout"] == 0.1


def test_the_last_of_two_overrides_wins():
    assert load_recipe("teachers/demo", ["training.epochs=3", "training.epochs=4"]).training.epochs == 4


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("training.epochs", "write it as part.key=value"),
        ("=3", "write it as part.key=value"),
        ("", "write it as part.key=value"),
        ("name.first=x", "'name' has no keys of its own"),
        ("trainig.epochs=3", "did you mean 'training'?"),
        ("training.epoch=3", "did you mean 'epochs'?"),
        ("training.epochs=", "training.epochs"),
        ("training.epochs=[1", "not YAML"),
        ("training.epochs=2020-13-45", "not YAML"),
        ("training.epochs=many", "training.epochs"),
        ("training..lr=1", "training."),
        ("training.lr.x=1", "'lr' has no keys of its own"),
    ],
)
def test_bad_overrides(override, text):
    assert text in refused("teachers/demo", [override])


def test_the_fingerprint_follows_every_value_but_the_data_root():
    base = load_recipe("teachers/demo")
    assert re.fullmatch("[0-9a-f]{8}", base.fingerprint())
    assert load_recipe("teachers/demo", ["data.root=/elsewhere"]).fingerprint() == base.fingerprint()
    assert load_recipe("teachers/demo", ["published=other"]).fingerprint() == base.fingerprint()
    # A default that is spelt out is no change.
    assert load_recipe("teachers/demo", ["training.seed=0"]).fingerprint() == base.fingerprint()
    changed = (
        "training.lr=0.003",
        "training.seed=1",
        "augment.gain_db=5",
        "front_end.n_mels=40",
        "model.base_channels=8",
        "data.test_fold=2",
        "data.name=esc10",
        "distill.kd_lambda=0.8",
        "student=students/other",
        "name=other",
    )
    prints = {load_recipe("teachers/demo", [one]).fingerprint() for one in changed}
    assert len(prints) == len(changed) and base.fingerprint() not in prints
    assert load_recipe("students/demo").fingerprint()  # without a data part


def test_a_key_that_a_later_version_adds_leaves_fingerprints_as_they_are():
    class LaterTraining(Training):
        sharpness: float = 0.9

    class Later(Recipe):
        training: LaterTraining = LaterTraining.model_validate({})
        more: bool = False

    values = load_recipe("teachers/demo").model_dump()
    later = Later.model_validate(values)
    assert later.fingerprint() == Recipe.model_validate(values).fingerprint()
    for change in ({"more": True}, {"training": values["training"] | {"sharpness": 0.8}}):
        assert Later.model_validate(values | change).fingerprint() != later.fingerprint()


@pytest.mark.parametrize("name", shipped_recipes())
def test_the_resolved_yaml_round_trips(tmp_path, name):
    recipe = load_recipe(name, ["data.root=/räume", "training.lr=1e-7"])
    again = load_recipe(written(tmp_path, recipe.to_yaml()))
    assert again == recipe and again.fingerprint() == recipe.fingerprint()
    assert set(yaml.safe_load(recipe.to_yaml())) == set(Recipe.model_fields)


def test_a_checked_recipe_names_where_it_came_from():
    with pytest.raises(InputError, match=r"^model\.json: "):
        check_recipe({}, "model.json")


def test_a_recipe_cannot_be_changed():
    recipe = load_recipe("teachers/demo")
    with pytest.raises(ValueError, match="frozen"):
        recipe.name = "other"
