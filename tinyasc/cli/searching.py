"""What `compress --search` says: what would be searched, and what was found."""

from __future__ import annotations

import click

from tinyasc.cli.table import print_frontier
from tinyasc.compress.estimate import Estimate
from tinyasc.compress.frontier import frontier_table
from tinyasc.compress.pipeline import Planned
from tinyasc.compress.plan import Result
from tinyasc.compress.proxy import METRICS, proxy_epochs
from tinyasc.compress.search import Settings
from tinyasc.compress.searching import check_search
from tinyasc.errors import InputError

SHOWN = 3


def search_settings(
    planned: Planned, trials: int | None, epochs: int | None, metric: str | None, storage: str | None
) -> Settings | None:
    """The search that the options ask for; None without --search.

    Raises:
        InputError: options of a search without one, or `training.final`.
    """
    if trials is None:
        for option, value in (("--search-epochs", epochs), ("--search-metric", metric), ("--storage", storage)):
            if value is not None:
                raise InputError(f"{option} {value}: has no meaning without --search N")
        return None
    check_search(planned.solution)
    recipe = planned.solution.chosen.recipe
    return Settings(trials, epochs or proxy_epochs(recipe), metric or METRICS[0], recipe.training.seed)


def print_search_plan(planned: Planned, settings: Settings, time: Estimate) -> None:
    """Of a dry run: how many students hold the limits, and how long a search takes."""
    spans = planned.solution.spans
    number = sum(map(len, spans))
    for span in spans:
        click.echo(
            f"search: {span.family} at {span.label}, {span.precision}: {len(span)} widths, "
            f"{span.least * span.step:g} to {span.widest * span.step:g}"
        )
    trials = min(settings.trials, number)
    seconds = time.seconds_per_epoch
    cost = "not known" if seconds is None else f"{seconds * settings.epochs * trials / 60:.1f} min"
    click.echo(
        f"search: {number} students hold the limits; {trials} of them for {settings.epochs} epochs, by "
        f"{settings.metric}: {cost} (estimate) of training in one process, at the plan's size; workers share them"
    )


def print_search(planned: Planned) -> None:
    """The table of all students, and how far the best ones are from each other."""
    searched = planned.searched
    assert searched is not None, "a search was run"
    print_frontier(frontier_table(planned.solution, searched.accuracies(planned.solution)))
    whole = searched.ranked()
    states = [r.state for r in searched.results]
    others = [f"{states.count(state)} {state}" for state in ("ended early", "diverged") if state in states]
    click.echo(f"search: {', '.join([f'{len(states)} students trained for {searched.epochs} epochs', *others])}")
    click.echo(f"best: {_words(whole[0], searched.metric)}")
    for result in whole[1:SHOWN]:
        gap = abs((result.value or 0) - (whole[0].value or 0))
        click.echo(f"next, {gap:.4f} behind: {_words(result, searched.metric)}")
    first = next((r for r in whole if r.number == 0), None)
    if first is not None and first not in whole[:SHOWN]:
        click.echo(f"the plan without a search: {_words(first, searched.metric)}")
    click.echo("each was trained once, with one seed: small differences may be chance")


def _words(result: Result, metric: str) -> str:
    accuracy = 100 * (result.accuracy or 0)
    return f"{result.candidate.plan.words()}, {metric} {result.value:.4f}, accuracy {accuracy:.1f} %"
