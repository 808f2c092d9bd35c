"""The short training that stands in for a whole one while students are compared."""

from __future__ import annotations

import warnings
from pathlib import Path

import lightning as L
import optuna
from lightning.pytorch.callbacks import Callback

from tinyasc.training.journal import lines
from tinyasc.training.recipe import Recipe
from tinyasc.training.recipe_parts import Training

# Of the recipe's epochs, where --search-epochs does not say.
SHARE_OF_EPOCHS = 0.1
LEAST_EPOCHS = 3
METRICS = ("val_log_loss", "val_accuracy")


def proxy_epochs(recipe: Recipe) -> int:
    """A tenth of the recipe's epochs, at least three, at most all."""
    return min(recipe.training.epochs, max(LEAST_EPOCHS, round(SHARE_OF_EPOCHS * recipe.training.epochs)))


def shortened(recipe: Recipe, epochs: int) -> Recipe:
    """The recipe over fewer epochs, or more: what its schedule says in epochs or steps shrinks with them."""
    values = recipe.training.model_dump()
    factor = epochs / recipe.training.epochs
    for key in ("warmup_epochs", "flat_until_epoch", "decay_epochs"):
        if values[key] is not None:
            values[key] *= factor
    values["restart_epochs"] = tuple(factor * at for at in values["restart_epochs"])
    if values["step_iterations"] is not None:
        values["step_iterations"] = max(1, round(factor * values["step_iterations"]))
    training = Training.model_validate(values | {"epochs": epochs})
    default = Recipe.model_fields["calibration"].default
    return recipe.model_copy(update={"training": training, "qat": None, "calibration": default})


class Watch(Callback):
    """Tells a trial what every finished epoch measured, and ends it between two epochs where the pruner says so.

    Args:
        trial: of the study.
        metrics: the run's lines (see `tinyasc.training.journal`).
        metric: a key of theirs.
        prunable: whether it may be ended.
    """

    def __init__(self, trial: optuna.Trial, metrics: Path, metric: str, *, prunable: bool) -> None:
        self.trial, self.metrics, self.metric, self.prunable = trial, metrics, metric, prunable

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Reads the lines rather than the last epoch's metrics alone: a killed worker may not have told its last."""
        del pl_module
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that an epoch was told before
            for line in lines(self.metrics):
                if line["epoch"] < trainer.current_epoch:
                    self.trial.report(line[self.metric], line["epoch"])
        if self.prunable and trainer.current_epoch and self.trial.should_prune():
            raise optuna.TrialPruned
