"""From samples to class probabilities: front end, runtime, softmax, windows and test-time augmentation."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tinyasc.errors import InputError, ModelFileError
from tinyasc.frontend import FrontEnd, features
from tinyasc.infer.backends.base import ARITHMETICS, Backend, check_model_path
from tinyasc.infer.backends.choose import AUTO, open_backend
from tinyasc.infer.tta import Copy, Tta, decided, parse_tta
from tinyasc.infer.windows import AGGREGATES, aggregate, hop_samples, windows
from tinyasc_export.bundle import Bundle

MAX_RATE = 2**31 - 1  # Hz, libsndfile's own; far beyond it soxr never ends


@dataclass(frozen=True, eq=False)
class Prediction:
    """The answer for one clip.

    Args:
        labels: class names.
        probabilities: (K,) float64, in the order of the labels, of sum 1.
        copies: test-time copies that were averaged; 1 is the plain clip.
        windows: how often the model ran.
        planned: copies that were asked for; more than `copies` where the rest could not change the likeliest class.
        macs: multiply-accumulates of all runs together, front end left out; None where the card does not count them.
        aggregate: how the windows of a copy became one answer.
    """

    labels: tuple[str, ...]
    probabilities: np.ndarray
    copies: int
    windows: int
    planned: int = 1
    macs: int | None = None
    aggregate: str = "mean"

    def top(self, k: int = 1) -> list[tuple[str, float]]:
        """The k likeliest classes with their probabilities; equal ones in the order of the labels."""
        order = np.argsort(-self.probabilities, kind="stable")[:k]
        return [(self.labels[i], float(self.probabilities[i])) for i in order]


@dataclass(frozen=True)
class Plan:
    """How a clip is heard.

    Args:
        tta: its copies.
        seed: of the copies.
        stop_early: end with the copy after which no other can change the likeliest class.
        hop: samples from one window to the next.
        aggregate: how windows become one answer.

    Raises:
        InputError: an unknown aggregation.
    """

    tta: Tta
    seed: int
    stop_early: bool
    hop: int
    aggregate: str

    def __post_init__(self) -> None:
        if self.aggregate not in AGGREGATES:
            raise InputError(f"windows are joined by one of {', '.join(AGGREGATES)}, not by {self.aggregate!r}")


class Model:
    """A model file that is ready to answer.

    Args:
        backend: the file in its runtime.
        where: the file's name, for error lines.
        arithmetic: one of `ARITHMETICS`: what computes features. "device" and "fixed" give the integers that the front
            ends in C give a model, to the bit, of samples rounded to int16.

    Attributes:
        labels: class names.
        front_end: how samples become its features.
        card: how it was made, as the file says.
        temperature: the logits are divided by it before the softmax; the card's `temperature`, or 1.
        log_weights: (K,) logarithms of factors on the probabilities; the card's `decision_weights`, or 0 each.
        macs: multiply-accumulates of one run, as the card counts them; None where it does not.

    Raises:
        ModelFileError: the file's parts do not fit each other.
        InputError: an unknown arithmetic, or one that this model or its front end cannot have.
    """

    def __init__(self, backend: Backend, where: str = "model", *, arithmetic: str = ARITHMETICS[0]) -> None:
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
        with np.errstate(over="ignore"):  # becomes infinite, and is refused
            usable = np.isfinite(self.temperature * self.log_weights).all()
        if not usable:
            raise ModelFileError(f"{where}: its card's temperature and decision_weights are too large together")
        counts = self.card.get("counts")
        macs = counts.get("macs") if isinstance(counts, dict) else None
        self.macs = macs if isinstance(macs, int) and not isinstance(macs, bool) and macs > 0 else None
        self._board: Callable[[np.ndarray], np.ndarray] | None = None
        if arithmetic not in ARITHMETICS:
            raise InputError(f"arithmetic {arithmetic!r} is not there; take one of {', '.join(ARITHMETICS)}")
        if arithmetic != ARITHMETICS[0]:
            from tinyasc.infer.board import BoardFrontEnd  # a second front end, which few ask for

            self._board = BoardFrontEnd(self.front_end, backend.taken, arithmetic, where)

    def predict(
        self,
        samples: np.ndarray,
        rate: int | None = None,
        *,
        tta: int | str | Tta | None = None,
        seed: int = 0,
        device: str = "",
        stop_early: bool = False,
        window_hop: float | None = None,
        aggregate: str = "mean",
    ) -> Prediction:
        """Classifies one clip.

        A short clip is padded with zeros at its end, as in training. A long one is cut into windows of
        `clip_samples`, the last one flush with the end; their softmax outputs become one answer.

        Args:
            samples: (samples,), or (2, samples) where the front end is stereo; floating point, full scale 1.
            rate: Hz; None says that it is the front end's. Others are resampled.
            tta: copies to average, each with equal weight: a number (the clip, then rolls and crops of it in turn), a
                text that `tinyasc.infer.tta.parse_tta` takes, such as the name of a preset, or a
                `tinyasc.infer.tta.Tta`; None or 1 is the plain clip.
            seed: of the copies.
            device: name of the recording device, for models that are conditioned on it; "" is an unknown one.
            stop_early: hear no further copies once they cannot change the likeliest class. The probabilities are then
                the mean of those heard.
            window_hop: seconds from one window to the next; None is half a window.
            aggregate: of windows: one of `tinyasc.infer.windows.AGGREGATES`.

        Raises:
            InputError: no samples, other channels, integers, NaN or infinity, a rate or a count out of range, an
                unknown preset or aggregation.
            ModelFileError: the model answers with NaN or infinity.
        """
        plan = Plan(parse_tta(tta), seed, stop_early, hop_samples(window_hop, self.front_end), aggregate)
        samples = self._checked(np.asarray(samples), rate)
        clip_samples = self.front_end.clip_samples

        def heard(copy: Copy) -> Iterator[np.ndarray]:
            return windows(copy.sound(samples), clip_samples, plan.hop)

        return self.answer(plan, samples.shape[-1], heard, device)

    def __call__(
        self,
        samples: np.ndarray,
        rate: int | None = None,
        *,
        tta: int | str | Tta | None = None,
        seed: int = 0,
        device: str = "",
        stop_early: bool = False,
        window_hop: float | None = None,
        aggregate: str = "mean",
    ) -> Prediction:
        """Classifies one clip: `predict` by a shorter name. Several threads may call one model at once."""
        how = {"stop_early": stop_early, "window_hop": window_hop, "aggregate": aggregate}
        return self.predict(samples, rate, tta=tta, seed=seed, device=device, **how)

    def answer(
        self, plan: Plan, n_samples: int, heard: Callable[[Copy], Iterable[np.ndarray]], device: str = ""
    ) -> Prediction:
        """The mean answer over the copies of a clip.

        Args:
            plan: which copies and windows.
            n_samples: of the clip, at the front end's rate.
            heard: the windows of a copy, (..., clip_samples) each, taken one at a time.
            device: as in `predict`.
        """
        copies = plan.tta.draw(n_samples, self.front_end, plan.seed)
        total, used, runs = np.zeros(len(self.labels)), 0, 0
        for copy in copies:
            mels = (copy.mask(self.features(part)) for part in heard(copy))
            probabilities, n = aggregate((self.classify(mel, device) for mel in mels), plan.aggregate)
            total, used, runs = total + probabilities, used + 1, runs + n
            if plan.stop_early and decided(total, len(copies) - used):
                break
        macs = None if self.macs is None else runs * self.macs
        return Prediction(self.labels, total / used, used, runs, len(copies), macs, plan.aggregate)

    def features(self, samples: np.ndarray) -> np.ndarray:
        """Normalised features, (channels, n_mels, frames) float32, of one window of samples (..., clip_samples)."""
        return features(samples, self.front_end) if self._board is None else self._board(samples)

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
        if (
            samples.shape[:-1] != ((2,) if stereo else ())
            or not samples.ndim
            or not np.issubdtype(samples.dtype, np.floating)
        ):
            raise InputError(f"predict wants {wanted}, got {samples.dtype} {samples.shape}")
        if samples.size == 0:
            raise InputError("the clip holds no samples")
        if not np.isfinite(samples).all():
            raise InputError("the clip holds NaN or infinite samples")
        if rate is not None and not 1 <= rate <= MAX_RATE:
            raise InputError(f"the rate must be at least 1 Hz and at most {MAX_RATE}, got {rate}")
        if samples.dtype not in (np.float32, np.float64):  # half or extended precision, which soxr does not take
            samples = samples.astype(np.float32)
        if rate is None or rate == self.front_end.sample_rate:
            return samples
        import soxr  # most callers come with the right rate already

        resampled = soxr.resample(samples.T, rate, self.front_end.sample_rate).T
        if resampled.size == 0:
            raise InputError(
                f"the clip is too short: {samples.shape[-1]} samples at {rate:g} Hz are not one at "
                f"{self.front_end.sample_rate} Hz"
            )
        return resampled


def load(
    path: Path | str,
    *,
    exact: bool = False,
    backend: str = AUTO,
    arithmetic: str = ARITHMETICS[0],
    front_end: FrontEnd | None = None,
    labels: Sequence[str] | None = None,
    outputs: str = "logits",
) -> Model:
    """Reads a .tflite or .onnx file or a .npz graph that `tinyasc compress` wrote, or a folder of `export --to c`.

    Another .tflite or .onnx file can be read where its front end and labels are named.

    Args:
        path: the file, told by its content, then by its suffix; or the folder, whose C is compiled and run.
        exact: run integer .tflite models on reference kernels: a microcontroller's answers, about 15 times slower.
        backend: "litert" (.tflite), "onnx" (.onnx), "reference" (.npz, or a .tflite file beside its graph: numpy, exact
            and slow), "c" (a folder of C, compiled for this machine), or "auto": LiteRT for .tflite, onnxruntime for
            .onnx, the reference for .npz, C for a folder.
        arithmetic: "reference", the record that travels in the file; "device" or "fixed", what a board makes of int16
            samples, to the bit, for models of integers.
        front_end: how samples become the input of a file without a card.
        labels: names of its outputs, in their order.
        outputs: "logits", or "probabilities" where a model without a card ends in a softmax of its own.

    Raises:
        ModelFileError: missing, damaged, of another kind, without a card and not described either, described and
            with a card, or of another input than the front end gives.
        InputError: no such backend, or one that does not take this kind of file; an arithmetic that this model cannot
            have; one of front end and labels without the other, or labels that are no names.
        TinyascError: its runtime or C compiler is not installed, or the C does not compile.
    """
    path = Path(path)
    if not os.path.isdir(path):  # unlike `Path.is_dir`, False for what the system will not look at
        check_model_path(path)
    described = _described(front_end, labels, outputs)
    return _model(open_backend(path, backend, exact=exact, described=described), path, described, arithmetic)


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
        raise InputError(
            "a model file without a card needs both its front end and its labels: name them together (--front-end and "
            "--labels)"
        )
    from tinyasc.infer.foreign import describe  # most files have a card

    return describe(front_end, labels, outputs)


def _model(backend: Backend, path: Path, described: Bundle | None, arithmetic: str) -> Model:
    if described is None:
        return Model(backend, str(path), arithmetic=arithmetic)
    if backend.bundle is not described:
        raise ModelFileError(
            f"{path}: says itself what its front end and labels are; leave out those that were named beside it"
        )
    from tinyasc.infer.foreign import ForeignBackend

    return Model(ForeignBackend(backend, str(path)), str(path), arithmetic=arithmetic)


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
