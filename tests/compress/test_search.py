"""A search's trials: which students, in which order, shared by workers, taken up after a kill. Nothing is trained."""

from dataclasses import replace

import optuna
import pytest
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st
from optuna.trial import TrialState

from tinyasc.compress.limits import Check
from tinyasc.compress.plan import Candidate, Plan, Searched, Span
from tinyasc.compress.proxy import proxy_epochs, shortened
from tinyasc.compress.search import Search, Settings
from tinyasc.compress.study import KernelLock, open_study, shown_storage
from tinyasc.errors import InputError
from tinyasc.training.classifier import DivergedError
from tinyasc.training.recipe import check_recipe


class Killed(BaseException):
    pass


def recipe(family="sepconv_ca", n_mels=32, width=24):
    values = {"name": "s", "model": {"family": family, "base_channels": width}, "front_end": {"n_mels": n_mels}}
    return check_recipe(values | {"training": {"epochs": 40}}, "")


def span(family="sepconv_ca", n_mels=32, least=3, widest=6, broken=()):
    def count(steps):
        width = 4 * steps
        plan = Plan(family, "base_channels", width, {}, n_mels, "int8", 1.0, *[100 * width] * 11)
        check = Check("budget", "bytes", 1, 1, steps not in broken, "--budget")
        return Candidate(plan, recipe(family, n_mels, width), (check,))

    return Span(recipe(family, n_mels), {}, "int8", 4, least, widest, count)


SPANS = (span(), span(n_mels=40, widest=5), span("amfm", least=2, widest=4))


class Trained:
    def __init__(self, value):
        self.validation = {"val_log_loss": value, "val_accuracy": 1 - value}


def loss(candidate):
    """Lowest at amfm, 12 channels."""
    model = candidate.model
    return abs(model["base_channels"] - 12) / 100 + (0.2 if model["family"] == "sepconv_ca" else 0.1)


def a_search(folder, trials, *, spans=SPANS, storage=None, name="p", metric="val_log_loss", seed=0):
    options = Settings(trials, 5, metric, seed)
    study = open_study(storage or str(folder / "journal.log"), name, options.direction)
    return Search(study, spans, spans[0].count(spans[0].widest).plan, options, folder / "search")


def train(recipe, run, *, callbacks, title):
    assert callbacks and title == run.path.name.replace("-", " ")
    return Trained(loss(recipe))


def sequence(search):
    return [(r.candidate.plan.family, r.candidate.plan.n_mels, r.candidate.plan.width) for r in search.results()]


@pytest.fixture(params=["journal", "sqlite"])
def storage(request, tmp_path):
    return str(tmp_path / "journal.log") if request.param == "journal" else f"sqlite:///{tmp_path}/search.db"


def test_the_plan_is_first_and_every_student_is_tried_once(tmp_path):
    """More trials than students end with all of them: a search of a space is a census, then."""
    search = a_search(tmp_path, 50)
    search.run(train)
    found = sequence(search)
    assert found[0] == ("sepconv_ca", 32, 24)
    every = {(s.family, s.recipe.front_end.n_mels, 4 * w) for s in SPANS for w in range(s.least, s.widest + 1)}
    assert len(found) == sum(map(len, SPANS)) == len(every) and set(found) == every
    best = Searched("", tmp_path, "val_log_loss", 5, tuple(search.results())).ranked()
    assert best[0].candidate.plan.family == "amfm" and best[0].candidate.plan.width == 12
    assert best[0].value == pytest.approx(0.1) and best[0].accuracy == pytest.approx(0.9)


@profile(max_examples=5, deadline=None)
@given(seed=st.integers(0, 1000), trials=st.integers(1, 8))
def test_n_is_the_total_and_a_seed_gives_one_sequence(tmp_path_factory, seed, trials):
    once, again = (a_search(tmp_path_factory.mktemp("s"), trials, seed=seed) for _ in range(2))
    once.run(train)
    again.run(train)
    assert len(sequence(once)) == trials and sequence(once) == sequence(again)
    smaller = a_search(once.folder.parent, max(1, trials - 2), seed=seed)
    smaller.run(lambda *_, **__: pytest.fail("nothing is left to train"))
    assert sequence(smaller) == sequence(once)


@pytest.mark.parametrize("at", range(4))
def test_killed_in_a_trial_and_run_again_as_if_never_killed(tmp_path, at):
    storage = str(tmp_path / "journal.log")
    whole = a_search(tmp_path / "whole", 6, storage=storage, name="whole")
    (tmp_path / "whole").mkdir()
    whole.run(train)
    seen = []

    def killed(recipe, run, **more):
        seen.append(run.path)
        if len(seen) == at + 1:
            (run.path / "recipe.yaml").touch()
            raise Killed
        return train(recipe, run, **more)

    with pytest.raises(Killed):
        a_search(tmp_path, 6, storage=storage).run(killed)
    (again := a_search(tmp_path, 6, storage=storage)).run(killed)
    assert seen[at] == seen[at + 1]  # the same trial goes on, in its own folder
    assert len(seen) == 7 and sequence(again) == sequence(whole)
    assert not [t for t in again.study.trials if t.state == TrialState.RUNNING]


@pytest.mark.parametrize("method", ["enqueue_trial", "ask", "tell"])
def test_killed_while_it_claims(tmp_path, method, monkeypatch):
    (whole := a_search(tmp_path / "w", 6, storage=str(tmp_path / "w.log"))).run(train)
    real = getattr(optuna.Study, method)

    def then_killed(*args, **options):
        real(*args, **options)
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(optuna.Study, method, then_killed)
        a_search(tmp_path, 6).run(train)
    (again := a_search(tmp_path, 6)).run(train)
    assert sequence(again) == sequence(whole)


def test_a_worker_waits_for_a_live_trial_and_takes_what_is_left(tmp_path, monkeypatch):
    """The first worker's trial is held while the second works, which ends only once the first has ended."""
    second, said = a_search(tmp_path, 3), []
    second.say = said.append
    first = a_search(tmp_path, 3)

    def outer(recipe, run, **more):
        if run.path.name == "trial-0":
            with pytest.raises(StopIteration):
                second.run(train)
            assert sequence(second) and len(sequence(second)) == 2
        return train(recipe, run, **more)

    def stop(_):
        raise StopIteration

    monkeypatch.setattr("tinyasc.compress.search.time.sleep", stop)
    first.run(outer)
    assert said == ["search: waiting for 1 of other workers' trials"]
    assert len(sequence(first)) == 3 and len(set(sequence(first))) == 3


def test_a_trial_of_another_run_folder_is_not_taken_up(tmp_path):
    def killed(*_, **__):
        raise Killed

    with pytest.raises(Killed):
        a_search(tmp_path, 3).run(killed)
    other = a_search(tmp_path, 3)
    other.folder = tmp_path / "elsewhere"
    with pytest.raises(InputError, match="workers share the run folder too"):
        other.run(train)


def test_another_problem_in_the_same_storage_does_not_mix(tmp_path, storage):
    (one := a_search(tmp_path / "a", 3, storage=storage, name="one")).run(train)
    before = sequence(one)
    (two := a_search(tmp_path / "b", 2, storage=storage, name="two", spans=SPANS[2:])).run(train)
    assert len(sequence(two)) == 2 and {family for family, *_ in sequence(two)} == {"amfm"}
    assert sequence(a_search(tmp_path / "a", 3, storage=storage, name="one")) == before


def test_students_that_break_a_limit_are_never_trained(tmp_path):
    spans = (span(), span(n_mels=40, broken=(3, 4)))
    search = a_search(tmp_path, 50, spans=spans)
    search.run(train)
    assert len(sequence(search)) == 6 and not {("sepconv_ca", 40, 12), ("sepconv_ca", 40, 16)} & {*sequence(search)}


def test_a_bad_one_is_ended_early_the_plan_never_and_a_diverged_one_counts(tmp_path):
    """Each trial tells a worse loss than the one before: the fifth is worse than the median of four."""
    told = []

    def worse(recipe, run, *, callbacks, title):
        (watch,) = callbacks
        told.append(run.path.name)
        if len(told) == 2:
            raise DivergedError("the loss is NaN")
        for epoch in range(5):
            watch.trial.report(len(told), epoch)
            if watch.prunable and watch.trial.should_prune():
                raise optuna.TrialPruned
        return Trained(float(len(told)))

    search = a_search(tmp_path, 8)
    search.run(worse)
    states = [r.state for r in search.results()]
    assert states[:2] == ["complete", "diverged"] and "ended early" in states and len(states) == 8
    ended = next(r for r in search.results() if r.state == "ended early")
    assert ended.epochs < 5 and ended.value is None and ended.accuracy is None
    assert search.results()[0].number == 0


def test_the_best_by_accuracy_and_ties_go_to_the_first(tmp_path):
    search = a_search(tmp_path, 4, metric="val_accuracy")
    search.run(lambda recipe, run, **_: Trained(0.5))
    searched = Searched("", tmp_path, "val_accuracy", 5, tuple(search.results()))
    assert [r.number for r in searched.ranked()] == sorted(r.number for r in search.results())
    better = replace(searched.results[2], value=0.75)
    assert replace(searched, results=(*searched.results, better)).ranked()[0] == better


@pytest.mark.parametrize(
    "text",
    [
        "{tmp}",
        "{tmp}/file/journal.log",
        "{tmp}/text.log",
        "sqlite:///{tmp}/no/such/folder.db",
        "nosuch://host/base",
        "://",
        "postgresql://me:secret@127.0.0.1:1/base",
    ],
)
def test_a_storage_that_cannot_be_opened_is_one_line(tmp_path, text):
    (tmp_path / "file").touch()
    (tmp_path / "text.log").write_text("no journal\nat all\n")
    with pytest.raises(InputError) as caught:
        open_study(text.format(tmp=tmp_path), "p", "minimize")
    line = str(caught.value)
    assert line.startswith("--storage") and "\n" not in line and "secret" not in line
    assert (tmp_path / "text.log").read_text() == "no journal\nat all\n"


def test_a_password_is_not_shown():
    assert shown_storage("postgresql://me:secret@host/base") == "postgresql://me:***@host/base"


def test_half_a_line_is_taken_away_and_the_journal_goes_on(tmp_path):
    a_search(tmp_path, 2).run(train)
    file = tmp_path / "journal.log"
    whole = file.read_bytes()
    file.write_bytes(whole + b'{"op_code":4,"wor')
    lock = KernelLock(file)
    lock.acquire()
    lock.release()
    assert file.read_bytes() == whole
    file.write_bytes(whole + b'{"op_code":4,"wor')
    (again := a_search(tmp_path, 4)).run(train)
    assert len(sequence(again)) == 4


@pytest.mark.parametrize(
    "schedule",
    [
        {"warmup_epochs": 5},
        {"schedule": "restarts", "warmup_epochs": 1, "restart_epochs": (4, 12, 30)},
        {"schedule": "step", "step_iterations": 200},
        {"schedule": "step", "step_at": (0.3, 0.6)},
        {"schedule": "linear", "warmup_epochs": 4, "flat_until_epoch": 10, "decay_epochs": 20},
    ],
)
@pytest.mark.parametrize("epochs", [1, 3, 80])
def test_a_short_training_has_the_same_schedule_in_small(schedule, epochs):
    whole = check_recipe(
        {"name": "s", "model": {"family": "amfm"}, "qat": {}, "training": {"epochs": 40} | schedule}, ""
    )
    short = shortened(whole, epochs)
    factor = epochs / 40
    assert short.training.epochs == epochs and short.qat is None and short.model == whole.model
    assert short.training.warmup_epochs == pytest.approx(factor * whole.training.warmup_epochs)
    assert short.training.restart_epochs == pytest.approx(tuple(factor * x for x in whole.training.restart_epochs))
    assert short.training.step_at == whole.training.step_at and short.training.lr == whole.training.lr


@pytest.mark.parametrize(("whole", "short"), [(1, 1), (2, 2), (8, 3), (40, 4), (150, 15)])
def test_epochs_of_a_short_training(whole, short):
    values = {"name": "s", "model": {"family": "amfm"}, "training": {"epochs": whole}}
    assert proxy_epochs(check_recipe(values, "")) == short
