"""Where in time and frequency a model looks: its own attention, or Grad-CAM, as arrays on the features' axes."""

from __future__ import annotations

import inspect
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from tinyasc.data.lists import nearest
from tinyasc.errors import InputError, ModelFileError
from tinyasc.evaluate.explain_maps import amfm_maps, answer, attention_map, gate_maps, grad_cam, last_map, stretch
from tinyasc.files import write_atomic
from tinyasc.frontend import FrontEnd, band_frequencies, fit_length, frame_times, log_mel, normalize
from tinyasc.infer.runner import log_weights, softmax
from tinyasc.models.amfm_blocks import AMFMBlock
from tinyasc.models.attention import AttentionPooling, CoordinateAttention

# What each method shows; the words stand in pictures and files.
METHODS = {
    "attention": "attention A of each class before normalising (Ren et al., 2019, section 3.3)",
    "amfm": "mean over channels of absolute values at attentive max feature maps (Shim et al., 2022, figure 2)",
    "gates": "mean over channels of the coordinate attention's two gates, multiplied (Hou et al., 2021)",
    "gradcam": "Grad-CAM (Selvaraju et al., 2017, section 3)",
}
BLOCKS: dict[str, type[nn.Module]] = {
    "attention": AttentionPooling,
    "amfm": AMFMBlock,
    "gates": CoordinateAttention,
}
STEPS = ("before CBAM", "after CBAM", "after maximum")
MOST_CLASSES = 12
CLASSES_BY_DEVICE = 3
NO_DEVICE = "no device"


@dataclass(frozen=True, eq=False)
class Explanation:
    """What one input of a model is explained with.

    Args:
        method: a key of `METHODS`.
        layer: whose map is shown; for several, the first one.
        rows: recording devices, "" where the model is told of none; with method amfm the blocks.
        columns: classes; with amfm `STEPS`, with gates the blocks.
        maps: (rows, columns, n_mels, frames) float32, stretched to the features' size by nearest neighbour.
        map_sizes: (rows, columns, 2), bands and frames of the model's own maps.
        features: (channels, n_mels, frames) float32, what the model was given.
        mel: the same before per-band normalisation, in dB where the front end takes the logarithm.
        labels: class names.
        probabilities: (answers, K) float64, in the order of the labels; an answer for every device, or the only one.
        start: seconds before the input in its clip.
    """

    method: str
    layer: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    maps: np.ndarray
    map_sizes: np.ndarray
    features: np.ndarray
    mel: np.ndarray
    labels: tuple[str, ...]
    probabilities: np.ndarray
    start: float = 0.0

    def top(self, answer: int, k: int) -> list[tuple[str, float]]:
        """The k likeliest classes of one answer, with their probabilities."""
        order = np.argsort(-self.probabilities[answer], kind="stable")[:k]
        return [(self.labels[i], float(self.probabilities[answer, i])) for i in order]

    def save(self, file: Path, front_end: FrontEnd, about: dict[str, str]) -> None:
        """Writes all arrays as .npz, with `band_hz` (n_mels,), `frame_seconds` (frames,) and the texts of `about`."""
        arrays = {
            **about,
            "method": self.method,
            "shows": METHODS[self.method],
            "layer": self.layer,
            "rows": self.rows,
            "columns": self.columns,
            "maps": self.maps,
            "map_sizes": self.map_sizes,
            "features": self.features,
            "mel": self.mel,
            "band_hz": band_frequencies(front_end),
            "frame_seconds": self.start + frame_times(front_end),
            "labels": self.labels,
            "probabilities": self.probabilities,
        }
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **{name: np.asarray(value) for name, value in arrays.items()})  # pyright: ignore[reportArgumentType]
        write_atomic(file, buffer.getvalue())


class Explainer:
    """A model and the question that clips are explained with; every part of the question is checked here.

    Args:
        module: (batch, channels, n_mels, frames) -> logits (batch, K), in evaluation mode. One that is conditioned on
            the recording device takes `device`, (batch, D) one-hot, and has `reads_device`; where it predicts the
            device, as `tasks(x)["device"]`, the one that it is given stands in place of that.
        front_end: of its features.
        labels: class names.
        known_devices: the names of the D devices.
        method: a key of `METHODS`; by default what the model has: attention, amfm, else gradcam.
        classes: to show; by default all for attention (the 12 likeliest where there are more, the 3 likeliest for
            several devices), and the likeliest for Grad-CAM.
        devices: to tell the model, one row each; by default one row, in which it is told none, or predicts it.
        layer: of Grad-CAM; by default see `last_map`.
        decision_weights: factors on the probabilities of classes, whose sum is made 1 again; the maps know nothing of
            them.

    Raises:
        InputError: a method, class, device or layer that the model does not have.
    """

    def __init__(
        self,
        module: nn.Module,
        front_end: FrontEnd,
        labels: Sequence[str],
        *,
        known_devices: Sequence[str] = (),
        method: str | None = None,
        classes: Sequence[str] = (),
        devices: Sequence[str] = (),
        layer: str | None = None,
        decision_weights: Mapping[str, float] | None = None,
    ) -> None:
        self.log_weights = log_weights(decision_weights or {}, labels)
        self.module, self.front_end, self.labels = module, front_end, tuple(labels)
        self.known_devices, self.layer = tuple(known_devices), layer
        self.devices = tuple(dict.fromkeys(devices))
        self.classes = tuple(dict.fromkeys(classes))
        self.method = method or self._default_method()
        if self.method in BLOCKS and not self._has(self.method):
            name = BLOCKS[self.method].__name__
            raise InputError(f"--method {self.method}: this model has no {name}; leave it out, or take gradcam")
        if layer is not None:
            if self.method != "gradcam":
                raise InputError(f"--layer {layer}: goes with method gradcam, not with {self.method}; leave one out")
            known = [name for name, _ in module.named_modules() if name]
            if layer not in known:
                raise InputError(f"--layer: the model has no layer {layer!r}; {nearest(layer, known)}")
        for name in self.classes:
            if self.method in ("amfm", "gates"):
                raise InputError(
                    f"--class {name}: maps of method {self.method} are those of no class; leave it out, or take "
                    "--method gradcam"
                )
            if name not in self.labels:
                raise InputError(f"--class {name}: this model does not know it; {nearest(name, self.labels)}")
        for name in self.devices:
            if not self._heeds_device():
                raise InputError(
                    f"--device {name}: this model's answer does not depend on what it is told of the recording device; "
                    "leave it out"
                )
            if name not in self.known_devices:
                raise InputError(f"--device {name}: training had none; {nearest(name, self.known_devices)}")

    def explain(self, samples: np.ndarray, *, start: float = 0.0) -> Explanation:
        """Explains the answer to one input.

        Args:
            samples: (samples,), or (2, samples) in stereo, at the front end's rate; cut at their end, or padded there
                with zeros, to the model's input.
            start: seconds before them in their clip.

        Raises:
            InputError: as `log_mel`; a layer without a map, or whose map the answer does not depend on.
            ModelFileError: the model answers with NaN or infinity.
        """
        mel = log_mel(fit_length(samples, self.front_end.clip_samples), self.front_end)
        features = normalize(mel, self.front_end)
        x = torch.from_numpy(features)[None]
        rows, told = self._rows(x)
        with torch.no_grad():
            answers = torch.cat([answer(self.module, x, device) for device in told]).double().numpy()
        if not np.isfinite(answers).all():
            raise ModelFileError("the model answers with NaN or infinity; its weights are damaged")
        probabilities = softmax(answers + self.log_weights)
        layer, rows, columns, grid = self._maps(x, rows, told, probabilities)
        return Explanation(
            self.method,
            layer,
            rows,
            columns,
            np.array([[stretch(m, *mel.shape[1:]) for m in row] for row in grid], np.float32),
            np.array([[m.shape for m in row] for row in grid]),
            features,
            mel,
            self.labels,
            probabilities,
            start,
        )

    def _maps(
        self, x: Tensor, rows: tuple[str, ...], told: Sequence[Tensor | None], probabilities: np.ndarray
    ) -> tuple[str, tuple[str, ...], tuple[str, ...], Sequence[Sequence[np.ndarray] | np.ndarray]]:
        """The layer, the rows, the columns, and the model's own maps."""
        if self.method == "amfm":
            steps = amfm_maps(self.module, x)
            return next(iter(steps)), tuple(steps), STEPS, [*steps.values()]
        if self.method == "gates":
            gates = gate_maps(self.module, x)
            return next(iter(gates)), rows, tuple(gates), [[*gates.values()]]
        columns = self._classes(probabilities)
        index = [self.labels.index(name) for name in columns]
        if self.method == "attention":
            layer = next(name for name, part in self.module.named_modules() if isinstance(part, AttentionPooling))
            maps = [attention_map(self.module, x, device)[0, index].numpy() for device in told]
        else:
            layer = self.layer or last_map(self.module, x, told[0])
            maps = [grad_cam(self.module, x, index, layer, device) for device in told]
        return layer, rows, columns, maps

    def _has(self, method: str) -> bool:
        return any(isinstance(part, BLOCKS[method]) for part in self.module.modules())

    def _default_method(self) -> str:
        if self.layer is not None:
            return "gradcam"
        return next((method for method in ("attention", "amfm") if self._has(method)), "gradcam")

    def _heeds_device(self) -> bool:
        """Whether noise is answered otherwise when another device is named."""
        if len(self.known_devices) < 2 or "device" not in inspect.signature(self.module.forward).parameters:
            return False
        x = torch.randn(1, *self.front_end.shape, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            first, second = (answer(self.module, x, row[None]) for row in torch.eye(len(self.known_devices))[:2])
        return not torch.equal(first, second)

    def _classes(self, probabilities: np.ndarray) -> tuple[str, ...]:
        """The classes to show, those that were not asked for in the order of the labels."""
        if self.classes:
            return self.classes
        count = 1 if self.method == "gradcam" else CLASSES_BY_DEVICE if len(probabilities) > 1 else MOST_CLASSES
        likeliest = np.argsort(-probabilities.mean(axis=0), kind="stable")[:count]
        return tuple(self.labels[i] for i in sorted(likeliest))

    def _rows(self, x: Tensor) -> tuple[tuple[str, ...], list[Tensor | None]]:
        """The rows' names, and what the model is told of the device in each."""
        if self.devices:
            one_hot = torch.eye(len(self.known_devices))
            told = [one_hot[[self.known_devices.index(name)]] for name in self.devices]
            return tuple(f"device {name}" for name in self.devices), [*told]
        if getattr(self.module, "reads_device", False):
            return (NO_DEVICE,), [None]
        if hasattr(self.module, "tasks"):
            with torch.no_grad():
                tasks: dict[str, Tensor] = self.module.tasks(x)  # pyright: ignore[reportCallIssue]
            if "device" in tasks:
                return (f"device {self.known_devices[int(tasks['device'].argmax())]}, as predicted",), [None]
        return ("",), [None]
