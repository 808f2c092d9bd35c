"""CAA-Net (Ren et al., 2020): an atrous CNN with attention that is conditioned on the recording device."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tinyasc.errors import InputError
from tinyasc.models.atrous_cnn import LAYERS, AtrousCNN, trunk_widths

STRATEGIES = ("teacher_forcing", "multi_task")


class DeviceCNN(nn.Module):
    """The paper's CNN-d: two 5x5 convolutions with batch norm, ReLU and 2x2 max pooling, global maximum, linear.

    Shape: (batch, in_channels, F, T) -> logits of the devices (batch, n_devices). Needs 4 bands and 4 frames.
    """

    def __init__(self, in_channels: int, base_channels: int, n_devices: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in trunk_widths(base_channels)[:2]:
            convolution = nn.Conv2d(in_channels, width, 5, padding=2, bias=False)
            layers += [convolution, nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2)]
            in_channels = width
        self.layers = nn.Sequential(*layers)
        self.linear = nn.Linear(in_channels, n_devices)

    def forward(self, x: Tensor) -> Tensor:
        """Which device recorded it."""
        return self.linear(self.layers(x).amax(dim=(2, 3)))


class CAANet(AtrousCNN):
    """The atrous CNN's trunk and head, with the device's one-hot vector in one of its convolutions.

    The vector goes through a 1x1 convolution with bias, and what comes out is added to the output of convolution
    `layer`, before its batch norm (section III-B, equation 1). The paper repeats the vector over the map first, to the
    same effect; 4,523,799 parameters at layer 4 with 10 classes and 3 devices.

    Strategy "teacher_forcing" is given the true device; a device that training never heard is a vector of zeros,
    which leaves the bias. "multi_task" predicts it by a network of its own, whose likeliest device, without gradient,
    is the condition; a device that training never heard is taken for the one that it sounds most like. The paper's
    other two strategies need no such network: a device by itself is `data.devices`, all together the family atrous_cnn.

    Args:
        n_classes: K.
        n_mels: as in `AtrousCNN`.
        n_frames: as in `AtrousCNN`.
        n_devices: of the training clips, at least 2.
        strategy: "teacher_forcing" or "multi_task".
        layer: the convolution that is conditioned, 1 to 4.
        trunk: as in `AtrousCNN`.
        head: as in `AtrousCNN`.
        base_channels: 64 in the paper; of both networks.
        in_channels: of the features.

    Shape: (batch, in_channels, frequency, time) -> (batch, n_classes).

    Raises:
        InputError: as `AtrousCNN`; fewer than two devices, an unknown strategy, or no such layer.
    """

    family = "caa_net"

    def __init__(
        self,
        *,
        n_classes: int,
        n_mels: int,
        n_frames: int | None = None,
        n_devices: int = 0,
        strategy: str = "multi_task",
        layer: int = 4,
        trunk: str = "atrous",
        head: str = "attention",
        base_channels: int = 64,
        in_channels: int = 1,
    ) -> None:
        if strategy not in STRATEGIES:
            raise InputError(
                f"caa_net: strategy {strategy!r} is unknown; choose one of: {', '.join(STRATEGIES)} (for a single "
                "device or all together take the family atrous_cnn)"
            )
        if type(layer) is not int or not 1 <= layer <= LAYERS:
            raise InputError(f"caa_net: layer must be one of the convolutions 1 to {LAYERS}, got {layer!r}")
        if n_devices < 2:
            raise InputError(
                f"caa_net: is conditioned on the recording device, but its training clips name {n_devices} of them, "
                "not at least 2; take a data set of several devices, or the family atrous_cnn"
            )
        super().__init__(
            n_classes=n_classes,
            n_mels=n_mels,
            n_frames=n_frames,
            trunk=trunk,
            head=head,
            base_channels=base_channels,
            in_channels=in_channels,
        )
        self.layer, self.n_devices = layer, n_devices
        self.reads_device = strategy == "teacher_forcing"
        self.condition = nn.Conv2d(n_devices, trunk_widths(base_channels)[layer - 1], 1)
        self.device_cnn = None if self.reads_device else DeviceCNN(in_channels, base_channels, n_devices)

    def features(self, x: Tensor, device: Tensor | None = None) -> Tensor:
        """The map that the head pools, under the condition: the device that is told, else predicted or none."""
        return self._conditioned(x, self._device(x, None)[0] if device is None else device)

    def tasks(self, x: Tensor, device: Tensor | None = None) -> dict[str, Tensor]:
        """Logits: "scene" (batch, K), and with strategy multi_task "device" (batch, n_devices).

        Args:
            x: features.
            device: (batch, n_devices) one-hot of the true device, or a mixture; zeros for an unknown one, which None
                means for all. Not read with strategy multi_task, which is trained on its own predictions.
        """
        device, predicted = self._device(x, device)
        scene = {"scene": self.head(self._conditioned(x, device))}
        return scene if predicted is None else scene | {"device": predicted}

    def forward(self, x: Tensor, device: Tensor | None = None) -> Tensor:
        """Logits of the scene, from log-mel maps; a device that is told stands in place of the predicted one."""
        return self.head(self.features(x, device))

    def _device(self, x: Tensor, device: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """What conditions the scene, (batch, n_devices), and logits of the device where they are predicted."""
        if self.device_cnn is None:
            return torch.zeros(len(x), self.n_devices, device=x.device) if device is None else device, None
        predicted = self.device_cnn(x)
        return F.one_hot(predicted.argmax(dim=1), self.n_devices), predicted

    def _conditioned(self, x: Tensor, device: Tensor) -> Tensor:
        condition = self.condition(device.to(x.dtype)[:, :, None, None])
        return self.regions(self.trunk(x, condition, self.layer))
