"""A trained torch model behind the runner's interface, so that teachers are measured as model files are."""

from __future__ import annotations

import numpy as np

from tinyasc.infer.runner import Model
from tinyasc.training.fit import logits
from tinyasc.training.run import Trained
from tinyasc_export.bundle import Bundle


class TorchBackend:
    """Attributes and `logits` as in `tinyasc.infer.backends.base.Backend`."""

    def __init__(self, trained: Trained) -> None:
        self.trained = trained
        self.bundle = Bundle(trained.labels, trained.front_end.to_dict())
        self.input_shape = trained.front_end.shape
        self.n_classes = len(trained.labels)

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
