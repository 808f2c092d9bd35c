"""A trained torch model behind the runner's interface, so that teachers are measured as model files are."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tinyasc.infer.runner import Model
from tinyasc.training.fit import logits
from tinyasc.training.run import Trained
from tinyasc.training.tasks import task_logits
from tinyasc_export.bundle import Bundle


class TorchBackend:
    """Attributes and `logits` as in `tinyasc.infer.backends.base.Backend`."""

    def __init__(self, trained: Trained) -> None:
        self.trained = trained
        self.bundle = Bundle(trained.labels, trained.front_end.to_dict(), trained.recipe.card())
        self.input_shape = trained.front_end.shape
        self.n_classes = len(trained.labels)
        self.taken: dict[str, Any] = {"dtype": np.float32, "quantization": (0.0, 0)}

    def logits(self, features: np.ndarray, device: str = "") -> np.ndarray:
        """(channels, n_mels, frames) float32 features, recorded by a device, to (K,) float32 logits."""
        return logits(self.trained, features[None], [device])[0]


class _TorchModel(Model):
    backend: TorchBackend

    def logits(self, mel: np.ndarray, device: str) -> np.ndarray:
        return self.backend.logits(mel, device)


def torch_model(trained: Trained) -> Model:
    """The trained model as `infer`'s Model; one that is conditioned on the recording device is told it."""
    return _TorchModel(TorchBackend(trained), str(trained.path))


class _GroupHead(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        return task_logits(self.module, x, None)["group"]


def group_model(trained: Trained) -> Model | None:
    """What a model learnt of its scenes' groups, as a Model of the groups; None where it has no head for them."""
    with torch.inference_mode():
        tasks = task_logits(trained.module, torch.zeros(1, *trained.front_end.shape), None)
    if "group" not in tasks:
        return None
    assert trained.recipe.data is not None, "groups are named in a recipe's data"
    labels = tuple(sorted(trained.recipe.data.groups))
    recipe = trained.recipe.model_copy(update={"decision_weights": {}})  # they are those of scenes
    head = _GroupHead(trained.module).eval()
    return torch_model(dataclasses.replace(trained, module=head, labels=labels, recipe=recipe))
