"""Trainings that are stopped at a given moment, and those that are not."""

from contextlib import contextmanager

import pytest
from tiny_training import DATA, StopAfter

from tinyasc.training import fit as fit_module
from tinyasc.training.fit import fit
from tinyasc.training.run import Run


@pytest.fixture
def stopping():
    """Makes the trainings inside a `with` end when an epoch has been reached."""
    real = fit_module.L.Trainer

    @contextmanager
    def stop(*, epoch, at="on_train_epoch_start", first=False):
        def trainer(*, callbacks, **options):
            callback = StopAfter(epoch, at)
            return real(callbacks=[callback, *callbacks] if first else [*callbacks, callback], **options)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(fit_module.L, "Trainer", trainer)
            yield

    return stop


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """Finished runs of a recipe, with and without a teacher."""
    runs = {}

    def get(r, teacher=None):
        key = r.fingerprint(), teacher is not None
        if key not in runs:
            runs[key] = Run(tmp_path_factory.mktemp("unbroken") / "run")
            fit(r, runs[key], DATA, teacher=teacher)
        return runs[key]

    return get
