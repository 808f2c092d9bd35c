"""From samples to class probabilities: front end, runtime, softmax, windows and test-time augmentation."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tinyasc.errors import InputError, ModelFileError
from tinyasc.frontend import FrontEnd, features, fit_length
from tinyasc.infer.backends.base import TFLITE_IDENTIFIER, Backend, check_model_path, unreadable
from tinyasc.infer.tta import copies
from tinyasc_export.bundle import Bundle


@dataclass(frozen=True, eq=False)
class Prediction:
    """The answer for one clip.

    Args:
        labels: class names.
        probabilities: (K,) float64, in the order of the labels, of sum 1.
        copies: test-time copies that were averaged; 1 is the plain clip.
        windows: how often the model ran.
    """

    labels: tuple[str, ...]
    probabilities: np.ndarray
    copies: int
    windows: int

    def top(self, k: int = 1) -> list[tuple[str, float]]:
        """The k likeliest classes with their probabilities; equal ones in the order of the labels."""
        order = np.argsort(-self.probabilities, kind="stable")[:k]
        return [(self.labels[i], float(self.probabilities[i])) for i in order]


class Model:
    """A model file that is ready to answer.

    Args:
        backend: the file in its runtime.
        where: the file's name, for error lines.

    Attributes:
        labels: class names.
        front_end: how samples become its features.
        card: how it was made, as the file says.
        temperature: the logits are divided by it before the softmax; the card's `temperature`, or 1.
        log_weights: (K,) logarithms of factors on the probabilities; the card's `decision_weights`, or 0 each.

    Raises:
        ModelFileError: the file's parts do not fit each other.
    """

    def __init__(self, backend: Backend, where: str = "model") -> None:
        self.backend, self.where = backend, where
        self.labels, self.card = backend.bundle.labels, backend.bundle.card
        self.front_end = FrontEnd.from_dict(backend.bundle.front_end, where)
        wants, gives = backend.input_shape, self.front_end.shape
        if wants != gives:
            raise ModelFileError(
                f"{where}: the model takes {_x(wants)} (channels x mels x frames), its own front end gives "
                f"{_x(gives)}; export the model again"
            )
        if len(self.labels) != backend.n_classes:
            raise ModelFileError(
                f"{where}: the model gives {backend.n_classes} logits, its card names "
                f"{len(self.labels)} labels; export the model again"
            )
        temperature = self.card.get("temperature", 1)
        if not _positive(temperature):
            raise ModelFileError(f"{where}: its card's temperature must be a positive number, got {temperature!r:.60}")
        self.temperature = float(temperature)
        self.log_weights = self._log_weights()

    def predict(
        self,
        samples: np.ndarray,
        rate: int | None = None,
        *,
        tta: int | None = None,
        seed: int = 0,
        device: str = "",
    ) -> Prediction:
        """Classifies one clip.

        A short clip is padded with zeros at its end, as in training. A long one is cut into windows of
        `clip_samples` that overlap by half, the last one flush with the end; their softmax outputs are
        averaged.

        Args:
            samples: (samples,), or (2, samples) where the front end is stereo; floating point, full scale 1.
            rate: Hz; None says that it is the front end's. Others are resampled.
            tta: copies to average (`tinyasc.infer.tta`), each with equal weight; None or 1 is the plain clip.
            seed: of the copies.
            device: name of the recording device, for models that are conditioned on it; "" is an unknown one.

        Raises:
            InputError: no samples, other channels, integers, NaN or infinity, a rate or a count below 1.
            ModelFileError: the model answers with NaN or infinity.
        """
        n = 1 if tta is None else tta
        if n < 1 or seed < 0:
            raise InputError(f"tta must be at least 1 and seed not negative, got {n} and {seed}")
        samples = self._checked(np.asarray(samples), rate)
        total, runs = np.zeros(len(self.labels)), 0
        for copy in copies(samples, self.front_end, n, seed):
            parts = windows(copy, self.front_end.clip_samples)
            answers = [self.classify(features(part, self.front_end), device) for part in parts]
            total += np.mean(answers, axis=0)
            runs += len(answers)
        return Prediction(self.labels, total / n, n, runs)

    def __call__(
        self,
        samples: np.ndarray,
        rate: int | None = None,
        *,
        tta: int | None = None,
        seed: int = 0,
        device: str = "",
    ) -> Prediction:
        """Classifies one clip: `predict` by a shorter name. Several threads may call one model at once."""
        return self.predict(samples, rate, tta=tta, seed=seed, device=device)

    def classify(self, mel: np.ndarray, device: str = "") -> np.ndarray:
        """Probabilities, (K,) float64, of one input of normalised features (channels, n_mels, frames).

        Raises:
            ModelFileError: the model answers with NaN or infinity.
        """
        logits = self.logits(mel, device)
        if not np.isfinite(logits).all():
            raise ModelFileError(f"{self.where}: the model answers with NaN or infinity; its weights are damaged")
        return self.probabilities(logits)

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Probabilities, (..., K) float64, of logits (..., K): softmax, times the decision weights, of sum 1 again."""
        return softmax(logits + self.temperature * self.log_weights, self.temperature)

    def _log_weights(self) -> np.ndarray:
        stated = self.card.get("decision_weights", {})
        for label, weight in stated.items() if isinstance(stated, dict) else [(None, stated)]:
            if label not in self.labels or not _positive(weight):
                raise ModelFileError(
                    f"{self.where}: its card's decision_weights must be positive numbers by label, got {stated!r:.60}"
                )
        return log_weights(stated, self.labels)

    def logits(self, mel: np.ndarray, device: str) -> np.ndarray:
        """Logits, (K,) float32, of one input. No model file reads the device: students are not told it."""
        del device
        return self.backend.logits(mel)

    def _checked(self, samples: np.ndarray, rate: int | None) -> np.ndarray:
        stereo = self.front_end.stereo
        wanted = "left and right as floats, (2, samples)" if stereo else "one channel of floats, (samples,)"
        if samples.shape[:-1] != ((2,) if stereo else ()) or not np.issubdtype(samples.dtype, np.floating):
            raise InputError(f"predict wants {wanted}, got {samples.dtype} {samples.shape}")
        if samples.size == 0:
            raise InputError("the clip holds no samples")
        if not np.isfinite(samples).all():
            raise InputError("the clip holds NaN or infinite samples")
        if rate is not None and rate < 1:
            raise InputError(f"the rate must be at least 1 Hz, got {rate}")
        if rate is None or rate == self.front_end.sample_rate:
            return samples
        import soxr  # most callers come with the right rate already

        return soxr.resample(samples.T, rate, self.front_end.sample_rate).T


def load(
    path: Path | str,
    *,
    exact: bool = False,
    front_end: FrontEnd | None = None,
    labels: Sequence[str] | None = None,
    outputs: str = "logits",
) -> Model:
    """Reads a .tflite or .onnx file that `tinyasc compress` wrote, or another one whose front end and labels are named.

    Args:
        path: the file; what it is is told by its content, then by its suffix.
        exact: run integer .tflite models on reference kernels: a microcontroller's answers, about 15 times slower.
        front_end: how samples become the input of a file without a card.
        labels: names of its outputs, in their order.
        outputs: "logits", or "probabilities" where a model without a card ends in a softmax of its own.

    Raises:
        ModelFileError: missing, damaged, of another kind, without a card and not described either, described and
            with a card, or of another input than the front end gives.
        InputError: one of front end and labels without the other, or labels that are no names.
        TinyascError: its runtime is not installed.
    """
    path = Path(path)
    check_model_path(path)
    described = _described(front_end, labels, outputs)
    try:
        with path.open("rb") as file:
            head = file.read(8)
    except OSError as error:
        raise unreadable(path, error) from None
    # A runtime is imported when its kind of file comes: the other one may not even be installed.
    if head[4:8] == TFLITE_IDENTIFIER:
        from tinyasc.infer.backends.litert_backend import LiteRtBackend

        return _model(LiteRtBackend(path, exact=exact, described=described), path, described)
    if path.suffix == ".onnx":
        from tinyasc.infer.backends.onnx_backend import OnnxBackend

        return _model(OnnxBackend(path, described=described), path, described)
    raise ModelFileError(f"{path}: neither a .tflite nor an .onnx model; name a file that `tinyasc compress` wrote")


def _positive(value: object) -> bool:
    """Whether a value of a card is a number above zero that a float holds."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value) and value > 0
    except OverflowError:  # an integer of more than 308 digits
        return False


def _described(front_end: FrontEnd | None, labels: Sequence[str] | None, outputs: str) -> Bundle | None:
    if front_end is None and labels is None and outputs == "logits":
        return None
    if front_end is None or labels is None:
        raise InputError("a model file without a card needs both, its front end and its labels: name them together")
    from tinyasc.infer.foreign import describe  # most files have a card

    return describe(front_end, labels, outputs)


def _model(backend: Backend, path: Path, described: Bundle | None) -> Model:
    if described is None:
        return Model(backend, str(path))
    if backend.bundle is not described:
        raise ModelFileError(
            f"{path}: says itself what its front end and labels are; leave out those that were named beside it"
        )
    from tinyasc.infer.foreign import ForeignBackend

    return Model(ForeignBackend(backend, str(path)), str(path))


def _x(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Softmax over the last axis of logits / temperature, in float64."""
    below = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    with np.errstate(over="ignore"):  # a tiny temperature: the rest is infinitely less likely
        powers = np.exp(below / temperature)
    return powers / powers.sum(axis=-1, keepdims=True)


def log_weights(weights: Mapping[str, float], labels: Sequence[str]) -> np.ndarray:
    """(K,) float64: what to add to logits so that the probabilities of the classes named are multiplied by weights."""
    return np.log([float(weights.get(label, 1)) for label in labels])


def windows(samples: np.ndarray, clip_samples: int) -> Iterator[np.ndarray]:
    """Cuts a (..., samples) clip into windows that overlap by half, the last one flush with its end."""
    last = samples.shape[-1] - clip_samples
    if last <= 0:
        yield fit_length(samples, clip_samples)
        return
    hop = max(1, clip_samples // 2)
    for start in [*range(0, last, hop), last]:
        yield samples[..., start : start + clip_samples]
