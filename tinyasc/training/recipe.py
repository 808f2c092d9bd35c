"""Recipes: what is trained, on what, and how; read from YAML, checked, unknown keys refused with the nearest name."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
import yaml
from pydantic import Field, PositiveFloat

from tinyasc.errors import InputError
from tinyasc.training.recipe_parts import (
    Augment,
    Data,
    Distill,
    FrontEndPart,
    Narrow,
    Qat,
    RecipePart,
    Tasks,
    Training,
)


class Recipe(RecipePart):
    """One recipe.

    In a student's recipe `front_end: null` and `data: null` take the teacher's. In a teacher's, `student` names the
    recipe that `tinyasc compress` takes by default. `published` is one line of what the model's authors report, for
    `tinyasc train --list`. `calibration` is how int8 activation ranges are found on training
    clips (`tinyasc_export.calibration`).

    `decision_weights`, {unknown: 5.0}, multiply the probabilities of classes, whose sum is made 1 again, wherever the
    trained model answers: in `evaluate`, and in `infer` by the card of its files. Training and its validation metrics
    are without them. A student's recipe without any takes the teacher's.

    `about`, {licence: ..., attribution: ..., estimate: ...}, are lines that model files say in their card, as they
    stand, beside what was measured: what a reader of the file should know and tinyasc cannot.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]+$")
    published: str | None = Field(None, pattern=r"^\S[^\n]*$", max_length=120)
    data: Data | None = None
    front_end: FrontEndPart | None = None
    model: dict[str, Any]
    training: Training = Field(default_factory=lambda: Training.model_validate({}))
    augment: Augment = Field(default_factory=lambda: Augment.model_validate({}))
    tasks: Tasks = Field(default_factory=lambda: Tasks.model_validate({}))
    distill: Distill | None = None
    narrow: Narrow | None = None
    qat: Qat | None = None
    calibration: Literal["minmax", "percentile", "mse"] = "mse"
    student: str = "students/sepconv_ca"
    decision_weights: dict[str, PositiveFloat] = Field(default_factory=dict)
    about: dict[str, Annotated[str, Field(max_length=2000)]] = Field(default_factory=dict)

    @property
    def family(self) -> str:
        """The model family's name."""
        return str(self.model["family"])

    @property
    def model_options(self) -> dict[str, Any]:
        """The family's own options."""
        return {k: v for k, v in self.model.items() if k != "family"}

    def card(self) -> dict[str, Any]:
        """What a model's card says of `decision_weights` and `about`; nothing where there are none."""
        weights = {"decision_weights": self.decision_weights} if self.decision_weights else {}
        return weights | ({"about": self.about} if self.about else {})

    @pydantic.field_validator("model")
    @classmethod
    def _has_family(cls, model: dict[str, Any]) -> dict[str, Any]:
        if not isinstance(model.get("family"), str):
            raise ValueError("needs a `family`, for example `family: sepconv_ca`")
        if fixed := {"n_classes", "n_mels", "in_channels", "n_frames", "parents", "n_devices"} & set(model):
            raise ValueError(f"{min(fixed)} follows from the data and the front end; take it out")
        return model

    @pydantic.model_validator(mode="after")
    def _loss_fits(self) -> Recipe:
        if self.distill is not None and self.distill.kd_lambda == 1 and self.training.focal_gamma:
            raise ValueError(
                "distill.kd_lambda 1 leaves no loss on the labels, so training.focal_gamma does nothing; "
                "take it out or lower kd_lambda"
            )
        return self

    def fingerprint(self) -> str:
        """Eight characters that change when what is trained does: not with the data's folder, nor its quantisation.

        Values at their defaults are left out, so a key that a later version adds leaves the older recipes' as they are.
        """
        exclude = {"data": {"root"}, "published": True, "qat": True, "calibration": True, "about": True}
        text = json.dumps(self.model_dump(mode="json", exclude=exclude, exclude_defaults=True), sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=4).hexdigest()

    def to_yaml(self) -> str:
        """The resolved recipe, every default filled in."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def load_recipe(
    path: str | Path, overrides: Sequence[str] = (), *, fast: bool = False, data: str | None = None
) -> Recipe:
    """Reads a recipe from a file, or from those shipped with tinyasc.

    A recipe may hold `fast`, a mapping from "part.key" to values for a quick training on two cores.

    Args:
        path: a YAML file, or a shipped recipe's name: "students/sepconv_ca" or "configs/students/sepconv_ca.yaml".
        overrides: "part.key=value", the value read as YAML: "training.lr=1e-3".
        fast: take the recipe's fast values, and add "-fast" to its name; overrides still win.
        data: a data set in place of the recipe's, whose folds, groups and devices are then left out; overrides still
            win.

    Raises:
        InputError: no such file, not YAML, an unknown key (the nearest name is given), a value out of range, no fast
            values.
    """
    where, values = _mapping(path)
    quick = values.pop("fast", None)
    if fast:
        if not isinstance(quick, dict) or not quick:
            raise InputError(f"{where}: has no `fast` values; leave --fast out, or shorten it with --set")
        for key, value in quick.items():
            _override(values, f"{key}={json.dumps(value)}")
        values["name"] = f"{values.get('name')}-fast"
    own = values.get("data")
    if data is not None and isinstance(own, dict) and own.get("name", Data.model_fields["name"].default) != data:
        values["data"] = {"name": data}
    for override in overrides:
        _override(values, override)
    return check_recipe(values, where)


def has_fast(path: str | Path) -> bool:
    """Whether a recipe has a quick variant. Raises InputError where it cannot be read."""
    return bool(_mapping(path)[1].get("fast"))


def check_recipe(values: dict[str, Any], where: str) -> Recipe:
    """Checks a recipe that was read. Raises InputError with the first fault."""
    try:
        return Recipe.model_validate(values)
    except pydantic.ValidationError as error:
        fault = error.errors()[0]
        key = ".".join(map(str, fault["loc"]))
        if fault["type"] == "extra_forbidden":
            near = difflib.get_close_matches(str(fault["loc"][-1]), _names(fault["loc"][:-1]), n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known here: {', '.join(_names(fault['loc'][:-1]))}"
            raise InputError(f"{where}: unknown key {key!r}{hint}") from None
        # A fault between the keys of a part has the whole part as its input.
        whole = fault["type"] == "missing" or (fault["type"] == "value_error" and isinstance(fault["input"], dict))
        got = "" if whole else f" (got {fault['input']!r})"
        place = f"{where}: {key}" if key else where
        raise InputError(f"{place}: {fault['msg'].removeprefix('Value error, ')}{got}") from None


def shipped_recipes() -> list[str]:
    """Names of the recipes that come with tinyasc."""
    root = configs_folder()
    return sorted(
        p.relative_to(root).with_suffix("").as_posix()
        for kind in ("teachers", "students")
        for p in (root / kind).glob("*.yaml")
    )


def configs_folder() -> Path:
    """Where the shipped recipes and budgets lie."""
    # An installed wheel holds them inside the package, a checkout beside it.
    inside = Path(str(resources.files("tinyasc"))) / "configs"
    return inside if inside.is_dir() else inside.parent.parent / "configs"


def _mapping(path: str | Path) -> tuple[str, dict[str, Any]]:
    """What a recipe's file is called in error lines, and what it holds, unchecked."""
    where, text = _read(path)
    try:
        values = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: the date 2020-13-45
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        raise InputError(
            f"{where}: not YAML{'' if line is None else f' at line {line + 1}'}; mend it and run again"
        ) from None
    if not isinstance(values, dict):
        raise InputError(f"{where}: a recipe is a YAML mapping with `name`, `model`, `training` and so on")
    return where, values


def _read(path: str | Path) -> tuple[str, str]:
    file = Path(path)
    if not file.is_file():
        shipped = configs_folder() / f"{str(path).removeprefix('configs/').removesuffix('.yaml')}.yaml"
        if not shipped.is_file():
            raise InputError(f"{path}: no such recipe; a file, or one of: {', '.join(shipped_recipes())}")
        file = shipped
    try:
        return str(path), file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a recipe ({type(error).__name__})") from None


def _override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise InputError(f"--set {override}: write it as part.key=value, for example training.epochs=20")
    *parts, last = key.split(".")
    for part in parts:
        if values.get(part) is None:
            values[part] = {}
        values = values[part]
        if not isinstance(values, dict):
            raise InputError(f"--set {override}: {part!r} has no keys of its own")
    try:
        values[last] = _scalar(yaml.safe_load(text))
    except (yaml.YAMLError, ValueError, RecursionError):
        raise InputError(f"--set {override}: the value is not YAML") from None


def _scalar(value: Any) -> Any:
    # YAML 1.1 reads 1e-3 as a string.
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _names(location: Sequence[Any]) -> list[str]:
    part: Any = Recipe
    for key in location:
        annotation = part.model_fields[str(key)].annotation
        part = next(
            (
                a
                for a in (annotation, *getattr(annotation, "__args__", ()))
                if isinstance(a, type) and issubclass(a, RecipePart)
            ),
            part,
        )
    return list(part.model_fields)
