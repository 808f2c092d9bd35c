"""Teachers that answer the very batches that a student is trained on, and how the answers of several become one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tinyasc.frontend import FrontEnd
from tinyasc.training.augmentation import Views
from tinyasc.training.rates import LogMelFrom
from tinyasc.training.recipe_parts import Distill
from tinyasc.training.tasks import reads_device, scene_logits


def join_logits(logits: Tensor, settings: Distill) -> Tensor:
    """Logits whose softmax at T is what an ensemble answers.

    Args:
        logits: (teachers, batch, K).
        settings: `ensemble`, the mean of logits or of probabilities at `temperature`.

    Returns:
        (batch, K).
    """
    if settings.ensemble == "logits":
        return logits.mean(dim=0)
    # The logarithm of the sum of probabilities; their number only adds a constant, which softmax does not see.
    return settings.temperature * (logits / settings.temperature).log_softmax(dim=-1).logsumexp(dim=0)


@dataclass(frozen=True)
class LiveTeacher:
    """A model that answers batches.

    Args:
        module: features -> logits (batch, K).
        front_end: what it hears by, with its normalisation; None where it reads the student's features.
        devices: names of the devices that it was trained on, for models that are conditioned on them.
    """

    module: nn.Module
    front_end: FrontEnd | None = None
    devices: tuple[str, ...] = ()


class LiveTeachers(nn.Module):
    """Frozen teachers of the batches of one student.

    Args:
        teachers: in the order in which their answers are summed.
        devices: names of the recording devices that the student's batches number.
        sample_rate: of the batches' waveforms, Hz, where a teacher has a front end of its own.
        whole: a teacher that reads the student's features takes whole clips alone, so crops come last.
    """

    def __init__(
        self,
        teachers: Sequence[LiveTeacher],
        *,
        devices: tuple[str, ...] = (),
        sample_rate: int | None = None,
        whole: bool = False,
    ) -> None:
        super().__init__()
        self.sample_rate, self.whole = sample_rate, whole
        self.models = nn.ModuleList(teacher.module for teacher in teachers)
        # Teachers of one front end hear once.
        own = list(dict.fromkeys(teacher.front_end for teacher in teachers if teacher.front_end is not None))
        assert not own or sample_rate is not None, "another front end reads waveforms"
        self.log_mels = nn.ModuleList(LogMelFrom(front_end, sample_rate or 0) for front_end in own)
        self.hears = [None if t.front_end is None else own.index(t.front_end) for t in teachers]
        for i, teacher in enumerate(teachers):
            told = torch.tensor([[float(a == b) for b in teacher.devices] for a in devices])
            self.register_buffer(f"told_{i}", told.reshape(len(devices), len(teacher.devices)), persistent=False)
        self.eval().requires_grad_(False)
        # As the student's: convolutions on a CPU answer up to twice as fast.
        self.models.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def forward(self, views: Views, device: Tensor | None, settings: Distill) -> Tensor:
        """The joined logits (batch, K) of an augmented batch.

        Args:
            views: the batch.
            device: (batch, devices), the student's devices one-hot and mixed as the clips are, or None.
            settings: how the answers are joined.
        """
        with torch.inference_mode():
            heard = [self._features(views, log_mel) for log_mel in self.log_mels]
            answers = []
            for i, (model, place) in enumerate(zip(self.models, self.hears, strict=True)):
                x = views.whole if place is None else heard[place]
                told = device @ getattr(self, f"told_{i}") if device is not None and reads_device(model) else None
                answers.append(scene_logits(model, x, told).float())
            joined = join_logits(torch.stack(answers), settings)
        # A copy outside: the loss keeps it for its gradient, which tensors of inference mode are not for.
        return joined.clone()

    def _features(self, views: Views, log_mel: nn.Module) -> Tensor:
        assert views.samples is not None, "another front end reads waveforms"
        x = log_mel(views.samples)
        return x if views.feature_mix is None else views.feature_mix(x)
