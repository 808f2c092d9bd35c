"""compress --search: the run folder, the study and the trainings of a search, and the plan that comes out of it."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from lightning.pytorch.callbacks import Callback

from tinyasc.compress.lessons import Clips, Lessons
from tinyasc.compress.pipeline import SEARCH, Planned, check_plan, write_plan
from tinyasc.compress.plan import Searched, Solution
from tinyasc.compress.search import Search, Settings, exclusive
from tinyasc.compress.study import open_study, shown_storage, storage_faults
from tinyasc.compress.teachers import weights_hash
from tinyasc.errors import InputError
from tinyasc.files import InUseError
from tinyasc.training.features import Prepared
from tinyasc.training.fit import check_trainable
from tinyasc.training.recipe import Recipe, load_recipe
from tinyasc.training.run import RUNS, Run, Trained

JOURNAL = "journal.log"
# Seconds that a worker waits for one that has just begun in the same run folder.
PATIENCE = 10.0


def check_search(solution: Solution) -> None:
    """Refuses what cannot be searched.

    Raises:
        InputError: students that are trained on the validation clips, or that are to be narrowed.
    """
    if any(span.recipe.narrow is not None for span in solution.spans):
        raise InputError(
            "--search compares students of any width and --narrow prunes one into the limits; leave one of them out"
        )
    if any(span.recipe.training.final for span in solution.spans):
        raise InputError(
            "--search compares students on validation clips, and training.final trains on them; search without it, "
            "then train the student that it names with --set training.final=true"
        )


def run_search(
    planned: Planned,
    settings: Settings,
    storage: str | None = None,
    folder: Path | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Planned:
    """Takes part in a search until it has as many trials as were asked for; the best student becomes the plan.

    Args:
        planned: of `make_plan` with `search`.
        settings: of the search.
        storage: a file or URL where workers meet; by default search/journal.log in the run folder.
        folder: the run's folder; by default runs/NAME-LIMITS-search-FINGERPRINT.
        say: called with lines for the user.

    Raises:
        InputError: a storage that cannot be opened, other data than the teacher's, a run folder that holds something
            else or another student of an earlier search.
        TinyascError: the storage was lost on the way.
    """
    check_search(planned.solution)
    classes = _Classes(planned.teachers)
    chosen = planned.solution.chosen
    data = classes.clips(chosen.recipe).data
    check_trainable(chosen.recipe, data)
    identity = _identity(planned, settings, data)
    run = Run(folder or Path(RUNS) / f"{chosen.recipe.name}-{planned.limits.label}-search-{identity[:8]}")
    _begin(run, planned, identity)
    where = storage or str(run.path / SEARCH / JOURNAL)

    def train(recipe: Recipe, trial: Run, *, callbacks: Sequence[Callback], title: str) -> Trained:
        return classes.lessons(recipe, run).fit(recipe, trial, title=title, callbacks=callbacks)

    with exclusive(run.path / SEARCH):
        study = open_study(where, f"tinyasc-{identity}", settings.direction)
        classes.lessons(chosen.recipe, run)  # once, while the other workers wait for them
    search = Search(study, planned.solution.spans, chosen.plan, settings, run.path / SEARCH, say)
    with storage_faults(where):
        search.run(train)
        results = tuple(search.results())
    searched = Searched(identity, run.path, settings.metric, settings.epochs, results)
    if not searched.ranked():
        raise InputError("every student of the search diverged; lower training.lr")
    best = searched.ranked()[0]
    counted = {id(c): c for c in (*planned.solution.tried, *(r.candidate for r in results))}
    why = f"{best.candidate.plan.words()}: {settings.metric} {best.value:.4f}, the best of {len(results)} students"
    solution = replace(planned.solution, chosen=best.candidate, tried=tuple(counted.values()), why=why)
    _check_earlier(run, best.candidate.recipe, best.candidate.plan.words(), shown_storage(where))
    return replace(planned, solution=solution, searched=searched)


class _Classes:
    """The lessons of the trials: clips by front end and augmentation, those of the last recipe kept."""

    def __init__(self, teachers: Sequence[Trained]) -> None:
        self.teachers = teachers
        self._last: tuple[str, Clips] | None = None

    def clips(self, recipe: Recipe) -> Clips:
        """Of one recipe; data may be large, so that no others are kept."""
        key = repr((recipe.data, recipe.front_end, recipe.augment, recipe.distill))
        if self._last is None or self._last[0] != key:
            self._last = None
            self._last = key, Clips.of(recipe, self.teachers)
        return self._last[1]

    def lessons(self, recipe: Recipe, run: Run) -> Lessons:
        """Of one trial; the teachers' answers are kept in the run folder of the whole search."""
        return self.clips(recipe).lessons(recipe, run, self.teachers)


def _identity(planned: Planned, settings: Settings, data: Prepared) -> str:
    """Of the problem: equal for all workers that may share trials, however many of them were asked for."""
    spans = [
        f"{s.family} {s.label} {s.precision} {s.least} {s.widest} {s.recipe.fingerprint()}"
        for s in planned.solution.spans
    ]
    parts = [
        *spans,
        planned.solution.chosen.recipe.fingerprint(),
        planned.limits.identity,
        *map(weights_hash, planned.teachers),
        data.identity,
        f"{settings.metric} {settings.epochs} {settings.seed}",
    ]
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=16).hexdigest()


def _begin(run: Run, planned: Planned, identity: str) -> None:
    """Makes the run folder, or checks that it is of this search; workers that start together do so one by one."""
    deadline = time.monotonic() + PATIENCE
    while not (run.path / "plan.json").is_file():
        try:
            with run.locked():
                if not (run.path / "plan.json").is_file():
                    write_plan(run, planned, identity)
        except InUseError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
    check_plan(run, identity)


def _check_earlier(run: Run, recipe: Recipe, words: str, storage: str) -> None:
    """A search that went on may choose another student than the one whose training fills the folder."""
    file = run.path / "recipe.yaml"
    plain = recipe.model_copy(update={"qat": None, "calibration": Recipe.model_fields["calibration"].default})
    if file.is_file() and load_recipe(file).fingerprint() != plain.fingerprint():
        raise InputError(
            f"{run.path}: holds the student that the search chose when it had fewer trials; it now chooses {words}: "
            f"run the same command with --run NEW --storage {storage}, which trains that one alone"
        )
