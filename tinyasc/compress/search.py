"""A search among the students that hold all limits, by short trainings that any number of processes share.

A trial is one student. It belongs to whoever holds the lock of its folder, and the kernel ends a lock with its process:
a trial that runs in the storage and whose folder nobody holds was killed, and the next worker goes on with it.
"""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.trial import FrozenTrial, TrialState

from tinyasc.compress.plan import Candidate, Plan, Result, Span
from tinyasc.compress.proxy import Watch, shortened
from tinyasc.errors import InputError
from tinyasc.files import InUseError
from tinyasc.training.classifier import DivergedError
from tinyasc.training.recipe import Recipe
from tinyasc.training.run import Run, Trained

# Trials that are trained whole before any is compared with their median.
TRIALS_BEFORE_PRUNING = 4
# Trials that are drawn at random before the sampler learns from them.
TRIALS_BEFORE_LEARNING = 5
# Students drawn again before the first that was not tried is taken.
DRAWS = 10
SECONDS_BETWEEN_LOOKS = 0.5
# Marks a trial whose student was taken for training.
STUDENT = "student"

Train = Callable[..., Trained]


@dataclass(frozen=True)
class Settings:
    """Of one search.

    Args:
        trials: students to train in all, by all workers together.
        epochs: of each.
        metric: of `proxy.METRICS`, on validation clips.
        seed: of the choice of students.
    """

    trials: int
    epochs: int
    metric: str
    seed: int

    @property
    def direction(self) -> Literal["minimize", "maximize"]:
        """Of the metric."""
        return "minimize" if self.metric.endswith("loss") else "maximize"


class Search:
    """One worker's part in a search.

    Args:
        study: of the problem; see `study.open_study`.
        spans: students to choose among.
        plan: the solver's choice, which is tried first, and never ended early.
        settings: see `Settings`.
        folder: search folder of the run, on a disk that all workers share.
        say: called with a line for the user.
    """

    def __init__(
        self,
        study: optuna.Study,
        spans: Sequence[Span],
        plan: Plan,
        settings: Settings,
        folder: Path,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.study, self.spans, self.plan, self.settings = study, spans, plan, settings
        self.folder, self.say = folder, say
        self.study.pruner = optuna.pruners.MedianPruner(TRIALS_BEFORE_PRUNING, n_warmup_steps=settings.epochs // 3)

    def run(self, train: Train) -> None:
        """Trains students until the study holds as many as were asked for, or all there are.

        Args:
            train: called with a recipe, its run, `callbacks` and `title`; it trains, or resumes.

        Raises:
            InputError: a trial that another worker left in another run folder.
        """
        waiting = False
        while True:
            with ExitStack() as stack:
                with exclusive(self.folder):
                    claimed = self._claim(stack)
                if claimed is None:
                    return
                if isinstance(claimed, optuna.Trial):
                    self._train(claimed, train)
                    waiting = False
                    continue
            if not waiting:
                self.say(f"search: waiting for {claimed} of other workers' trials")
            waiting = True
            time.sleep(SECONDS_BETWEEN_LOOKS)

    def results(self) -> list[Result]:
        """Of every student that was trained, in the order of trials."""
        found = []
        for trial in self._trials():
            if STUDENT in trial.user_attrs and trial.state in (TrialState.COMPLETE, TrialState.PRUNED):
                kept, told = trial.user_attrs, trial.intermediate_values
                whole = trial.state == TrialState.COMPLETE
                state = "complete" if whole else ("diverged" if "diverged" in kept else "ended early")
                value = trial.value if whole else None
                epochs = self.settings.epochs if whole else len(told)
                candidate = self._candidate(trial.params)
                found.append(Result(trial.number, candidate, state, value, kept.get("accuracy"), epochs))
        return found

    def _trials(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    def _claim(self, stack: ExitStack) -> optuna.Trial | int | None:
        """A trial to train, whose folder's lock is put on the stack; how many to wait for; None when all is done."""
        if not self._trials():
            self.study.enqueue_trial(self._params(self.plan))
        trials, live, begun = self._trials(), 0, None
        for trial in trials:
            if trial.state != TrialState.RUNNING:
                continue
            opened = optuna.Trial(self.study, trial._trial_id)
            if STUDENT not in trial.user_attrs:
                begun = opened  # killed in this very method
                continue
            run = self._run(trial.number)
            if not run.path.is_dir():
                raise InputError(
                    f"{run.path}: is not there, but the storage says that it is being trained; workers share the run "
                    "folder too: name it with --run, or another --storage"
                )
            try:
                stack.enter_context(run.locked())
            except InUseError:
                live += 1
                continue
            if self._trials()[trial.number].state != TrialState.RUNNING:
                stack.pop_all().close()  # it ended between the two looks
                return self._claim(stack)
            self.say(f"search: trial {trial.number} was left unfinished; it goes on here")
            return opened
        taken = {self._key(t.params) for t in trials if STUDENT in t.user_attrs or "infeasible" in t.user_attrs}
        done = sum(STUDENT in t.user_attrs and t.state != TrialState.RUNNING for t in trials)
        if done >= self.settings.trials:
            return None
        if done + live < self.settings.trials:
            picked = self._pick(begun, taken)
            if picked is not None:
                run = self._run(picked.number)
                stack.enter_context(run.locked())
                # Its folder is there before: see above.
                picked.set_user_attr(STUDENT, self._candidate(picked.params).plan.words())
                return picked
        return live or None

    def _pick(self, trial: optuna.Trial | None, taken: set[str]) -> optuna.Trial | None:
        """A trial of a student that was not taken; None when there is no other."""
        draws = 0
        while (left := self._left(taken)) is not None:
            if trial is None:
                if draws >= DRAWS:
                    self.study.enqueue_trial(left)
                trial = self._ask()
            draws += 1
            candidate, key = self._suggest(trial), self._key(trial.params)
            if key in taken:
                # A failed trial, unlike one that is pruned, says nothing of its student to the sampler.
                self.study.tell(trial, state=TrialState.FAIL)
            elif not candidate.met:
                trial.set_user_attr("infeasible", True)
                self.study.tell(trial, state=TrialState.PRUNED)
                taken.add(key)
            else:
                return trial
            trial = None
        if trial is not None:
            self.study.tell(trial, state=TrialState.FAIL)
        return None

    def _ask(self) -> optuna.Trial:
        # A seed of its own for every trial: a sampler that was killed and made anew draws what it would have drawn.
        seed = (self.settings.seed * 1_000_003 + len(self._trials())) % 2**32
        self.study.sampler = optuna.samplers.TPESampler(n_startup_trials=TRIALS_BEFORE_LEARNING, seed=seed)
        return self.study.ask()

    def _suggest(self, trial: optuna.Trial) -> Candidate:
        families = list(dict.fromkeys(span.family for span in self.spans))
        family = trial.suggest_categorical("family", families)
        labels = [span.label for span in self.spans if span.family == family]
        label = trial.suggest_categorical(f"{family}: front end", labels)
        span = self._span(family, label)
        trial.suggest_int(f"{family}, {label}: width", span.least, span.widest)
        return self._candidate(trial.params)

    def _span(self, family: Any, label: Any) -> Span:
        return next(span for span in self.spans if (span.family, span.label) == (family, label))

    def _candidate(self, params: dict[str, Any]) -> Candidate:
        family = params["family"]
        label = params[f"{family}: front end"]
        return self._span(family, label).count(params[f"{family}, {label}: width"])

    def _params(self, plan: Plan) -> dict[str, Any]:
        span = next(s for s in self.spans if s.count(s.widest).plan == plan)
        return _params(span, span.widest)

    def _left(self, taken: set[str]) -> dict[str, Any] | None:
        """The first student that was not taken, the widest of each span first."""
        for span in self.spans:
            for steps in range(span.widest, span.least - 1, -1):
                params = _params(span, steps)
                if self._key(params) not in taken:
                    return params
        return None

    @staticmethod
    def _key(params: dict[str, Any]) -> str:
        return json.dumps(params, sort_keys=True)

    def _run(self, number: int) -> Run:
        return Run(self.folder / f"trial-{number}")

    def _train(self, trial: optuna.Trial, train: Train) -> None:
        run, settings = self._run(trial.number), self.settings
        recipe: Recipe = shortened(self._candidate(trial.params).recipe, settings.epochs)
        watch = Watch(trial, run.path / "metrics.jsonl", settings.metric, prunable=trial.number > 0)
        try:
            trained = train(recipe, run, callbacks=[watch], title=f"trial {trial.number}")
        except optuna.TrialPruned:
            self.study.tell(trial, state=TrialState.PRUNED)
            return
        except DivergedError:
            trial.set_user_attr("diverged", True)
            self.study.tell(trial, state=TrialState.PRUNED)
            return
        trial.set_user_attr("accuracy", trained.validation["val_accuracy"])
        self.study.tell(trial, trained.validation[settings.metric])


def _params(span: Span, steps: int) -> dict[str, Any]:
    family, label = span.family, span.label
    return {"family": family, f"{family}: front end": label, f"{family}, {label}: width": steps}


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Lets one process after the other through; quick work alone belongs inside, since the others wait."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
