"""What `compress` says of its plan before it trains, and which students it chooses among."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from tinyasc.compress.channels import NARROWABLE
from tinyasc.compress.costs import STACK_BYTES
from tinyasc.compress.estimate import Estimate
from tinyasc.compress.pipeline import Planned
from tinyasc.compress.plan import Plan
from tinyasc.errors import InputError
from tinyasc.files import check_writable
from tinyasc.models import FAMILIES
from tinyasc.training.recipe import Recipe, load_recipe, shipped_recipes
from tinyasc.training.run import Trained
from tinyasc_firmware_sim.boards import shipped_boards

STUDENTS = "students/"


def student_recipes(
    teacher: Trained, student: str | None, family: str | None, overrides: Sequence[str], *, fast: bool
) -> list[Recipe]:
    """The recipes that a student is chosen from: one, or with `auto` one of every family (that can be pruned).

    Without a family, or with that of the named recipe, the recipe is `student` or what the teacher names; another
    family's is the one that is shipped.

    Raises:
        InputError: an unknown family, or --student together with `auto`.
    """
    if family is not None:
        family = family.replace("-", "_").lower()
    shipped = {name.removeprefix(STUDENTS) for name in shipped_recipes() if name.startswith(STUDENTS)}
    families = [name for name in sorted(shipped) if name in FAMILIES and FAMILIES[name].capturable]
    if family == "auto":
        if student is not None:
            raise InputError("--family auto takes every family's shipped recipe; leave --student out")
        recipes = [load_recipe(STUDENTS + name, overrides, fast=fast) for name in families]
        recipes = [recipe for recipe in recipes if recipe.narrow is None or recipe.family in NARROWABLE]
        click.echo(f"students: {', '.join(recipe.family for recipe in recipes)} (--family auto)", err=True)
        return recipes
    if family is not None and family not in families:
        raise InputError(f"--family {family}: no student family; choose one of: {', '.join(families)}, auto")
    name = student or teacher.recipe.student
    # The overrides are for the recipe that is taken, and may not fit another's.
    if family is not None and load_recipe(name).family != family:
        if student is not None:
            raise InputError(f"--family {family}: --student {student} is of another; leave one of them out")
        name = STUDENTS + family
        click.echo(f"student: {name} (--family {family})", err=True)
    elif student is None:
        click.echo(f"student: {name} (default for this teacher)", err=True)
    return [load_recipe(name, overrides, fast=fast)]


def check_picture(file: Path) -> None:
    """Refuses a picture that could not be written at the end.

    Raises:
        InputError: not a .png, or a folder that cannot be written to.
    """
    if file.suffix.lower() != ".png":
        raise InputError(f"--frontier {file}: name a .png file")
    check_writable(file.parent, "--frontier")


def announce_plan(planned: Planned) -> None:
    """One line for the plan and one for each thing to know of it, to standard error."""
    click.echo(f"plan: {planned.solution.why}", err=True)
    for note in planned.solution.notes:
        click.echo(f"note: {note}", err=True)


def print_plan(planned: Planned, time: Estimate) -> None:
    """The plan in full: why, predicted costs, every limit's verdict, boards, time."""
    chosen, recipe = planned.solution.chosen, planned.solution.chosen.recipe
    plan = chosen.plan
    assert recipe.front_end is not None and recipe.data is not None, "a complete recipe has both"
    front_end = recipe.front_end.record()
    click.echo(f"plan: {planned.solution.why}")
    for note in planned.solution.notes:
        click.echo(f"note: {note}")
    click.echo(
        f"front end: {front_end.n_mels} mels x {front_end.n_frames()} frames of {recipe.front_end.clip_seconds:g} s at "
        f"{front_end.sample_rate} Hz; {_teachers(planned)}; data: {recipe.data.name}"
    )
    click.echo(
        f"predicted at {plan.precision}: {plan.parameter_bytes:,} bytes of parameters ({plan.parameters:,} of them), "
        f"{plan.quantization_bytes:,} bytes of scales and zero points, file at most {plan.file_bytes:,} bytes"
    )
    click.echo(
        f"RAM: arena {plan.arena_bytes:,} ({plan.arena_pools_in_place_bytes:,} where kernels write pools in place, "
        f"{plan.arena_unshared_bytes:,} where nothing shares its place, as in TensorFlow Lite Micro) + "
        f"front end {plan.front_end_bytes:,} + {STACK_BYTES:,} set aside for the stack, which is not known before C is "
        f"built = {plan.ram_bytes:,} bytes"
    )
    copies = planned.limits.copies
    times = f", {copies} test-time copies {plan.macs_per_second * copies / 1e6:.2f}" if copies > 1 else ""
    click.echo(f"MACs: {plan.macs / 1e6:.2f} M per clip, {plan.macs_per_second / 1e6:.2f} M per second of sound{times}")
    for check in chosen.checks:
        click.echo(check.words())
    click.echo(
        f"boards whose RAM and flash hold it as planned, their runtime's code and state left out: {_boards(plan)}"
    )
    click.echo(_time(time))
    click.echo("dry run: nothing was trained or written")


def _teachers(planned: Planned) -> str:
    names = [teacher.recipe.name for teacher in planned.teachers]
    return f"teacher{'s' if len(names) > 1 else ''}: {', '.join(names)}"


def _boards(plan: Plan) -> str:
    fitting = [
        board.key
        for board in shipped_boards()
        if plan.ram_bytes <= board.block_bytes and plan.file_bytes <= board.flash_bytes
    ]
    return ", ".join(fitting) or "none of those shipped"


def _time(time: Estimate) -> str:
    if time.seconds is None or time.seconds_per_epoch is None:
        return (
            f"time (estimate): {time.seconds_per_batch:.2f} s per batch; the teacher's run does not say how many clips "
            f"there are, so that of {time.epochs} epochs is not known"
        )
    whole = f"{time.seconds / 60:.0f} min" if time.seconds >= 120 else f"{time.seconds:.0f} s"
    return (
        f"time (estimate): {time.seconds_per_epoch:.1f} s per epoch x {time.epochs} epochs = {whole} of distillation "
        "on this machine; augmentation, the teachers' answers, validation, quantisation and checks not included"
    )
