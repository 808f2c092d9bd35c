"""The parts of a recipe, with their defaults and what goes together in them."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field, PositiveFloat

from tinyasc.frontend import FrontEnd


class RecipePart(pydantic.BaseModel):
    """Frozen, without unknown keys."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Data(RecipePart):
    """Which clips: a data set's name, where it lies, and which folds are held out.

    `test_fold: null` tests none of them: with `training.final` every clip is trained on, for the model that is
    delivered once cross-validation has said what its recipe is worth. `leave_out` are names of audio files, without
    folder and suffix, that are not used at all, for example for their licence.
    `groups` are coarse classes, {indoor: [airport, ...], ...}, every scene in one of them: for models that learn them
    beside the scenes, and with `target: group` as the labels themselves. `devices` leaves only clips of these recording
    devices in training and validation.
    """

    name: str = "demo"
    root: str | None = None
    test_fold: int | None = 1
    validation_fold: int | None = None
    groups: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    target: Literal["scene", "group"] = "scene"
    devices: tuple[str, ...] = ()
    leave_out: tuple[str, ...] = ()

    @pydantic.model_validator(mode="after")
    def _target_fits(self) -> Data:
        if self.target == "group" and not self.groups:
            raise ValueError("target: group needs groups, for example groups: {indoor: [airport], outdoor: [park]}")
        return self


class FrontEndPart(RecipePart):
    """The front end, with the clip's length in seconds; see `tinyasc.frontend.FrontEnd`."""

    sample_rate: int = Field(32000, gt=0)
    clip_seconds: float = Field(5.0, gt=0)
    n_fft: int = Field(2048, gt=0)
    win_length: int | None = None
    hop_length: int = Field(1024, gt=0)
    window: Literal["hann", "hamming"] = "hann"
    center: bool = False
    n_mels: int = Field(64, gt=0)
    fmin: float = Field(0.0, ge=0)
    fmax: float | None = None
    mel_scale: Literal["slaney", "htk"] = "slaney"
    pre_emphasis: float = Field(0.0, ge=0, lt=1)
    stereo: bool = False
    log: bool = True
    deltas: int = Field(0, ge=0, le=2)

    def record(self) -> FrontEnd:
        """The frozen record."""
        values = self.model_dump(exclude={"clip_seconds", "win_length"})
        samples = round(self.clip_seconds * self.sample_rate)
        return FrontEnd(**values, clip_samples=samples, win_length=self.win_length or self.n_fft)


class Training(RecipePart):
    """Optimisation; by default AdamW, and a cosine down to a hundredth of the learning rate.

    Optimiser: `adamw`, `adam` or `sgd`, the last with `momentum` and `nesterov`. `weight_decay` is decoupled with
    adamw; with adam and sgd it adds weight_decay * w to the gradient of w (the L2 penalty weight_decay / 2 * |w|^2).
    `weight_decay_on` says which parameters decay: `all`; `weights`, no biases, norms or other vectors; `convs`,
    convolution kernels alone.

    Schedule: a linear warm-up of `warmup_epochs`, times
    `cosine`: down to min_lr_ratio * lr at the end (Loshchilov & Hutter, ICLR 2017);
    `restarts`: the same, begun anew after each of `restart_epochs`;
    `step`: times `step_factor` every `step_iterations` batches, or at shares `step_at` ([0.3, 0.6, 0.9]) of the whole;
    `linear`: 1 until `flat_until_epoch`, down to min_lr_ratio over `decay_epochs` (by default at once, until the end).

    `norm_affine: false` keeps batch norms at scale 1 and offset 0; `freeze_norm` keeps their statistics, scale and
    offset as they start. `start_from`, a finished run's folder, gives the weights to start with, where name and shape
    agree. `ema_decay` averages the weights, with min(ema_decay, (1 + step) / (10 + step)); the average
    is what is validated and kept. `select: best` keeps the epoch with the best `monitor`. `final` trains on the
    training and validation clips together, so that no epoch can be selected and there are no validation metrics.

    `focal_gamma` above 0 takes focal loss in place of the scene's cross-entropy (`tinyasc.training.losses`).
    """

    epochs: int = Field(100, gt=0)
    batch_size: int = Field(32, gt=1)
    lr: float = Field(1e-3, gt=0)
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    momentum: float = Field(0.0, ge=0, lt=1)
    nesterov: bool = False
    weight_decay: float = Field(1e-5, ge=0)
    weight_decay_on: Literal["all", "weights", "convs"] = "all"
    schedule: Literal["cosine", "restarts", "step", "linear"] = "cosine"
    warmup_epochs: float = Field(0, ge=0)
    min_lr_ratio: float = Field(0.01, ge=0, le=1)
    restart_epochs: tuple[PositiveFloat, ...] = ()
    step_iterations: int | None = Field(None, gt=0)
    step_at: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = ()
    step_factor: float = Field(0.1, gt=0, lt=1)
    flat_until_epoch: float | None = Field(None, ge=0)
    decay_epochs: float | None = Field(None, gt=0)
    precision: Literal["32", "bf16-mixed", "16-mixed"] = "32"
    focal_gamma: float = Field(0.0, ge=0)
    clip_grad_norm: float | None = Field(None, gt=0)
    ema_decay: float = Field(0.0, ge=0, lt=1)
    norm_affine: bool = True
    freeze_norm: bool = False
    start_from: str | None = None
    select: Literal["best", "last"] = "best"
    monitor: Literal["val_log_loss", "val_accuracy", "val_class_average_accuracy"] = "val_log_loss"
    final: bool = False
    seed: int = Field(0, ge=0, le=1_000_000)  # torch's seeds, made from it, have 64 bits

    @pydantic.field_validator("precision", mode="before")
    @classmethod
    def _as_text(cls, value: Any) -> Any:
        return "32" if value == 32 else value  # YAML reads a number

    @pydantic.model_validator(mode="after")
    def _keys_fit(self) -> Training:
        for switch, value, keys in (
            ("optimizer", ("sgd",), ("momentum", "nesterov")),
            ("schedule", ("cosine", "restarts", "linear"), ("min_lr_ratio",)),
            ("schedule", ("restarts",), ("restart_epochs",)),
            ("schedule", ("step",), ("step_iterations", "step_at", "step_factor")),
            ("schedule", ("linear",), ("flat_until_epoch", "decay_epochs")),
            ("select", ("best",), ("monitor",)),
        ):
            for key in keys:
                changed = getattr(self, key) != type(self).model_fields[key].default
                if changed and getattr(self, switch) not in value:
                    raise ValueError(
                        f"{key} has no meaning with {switch}: {getattr(self, switch)}; it belongs to {switch}: "
                        f"{' or '.join(value)}"
                    )
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs a momentum, for example momentum: 0.9")
        if self.final and self.select != "last":
            raise ValueError("final trains on the validation clips too, so no epoch can be selected: set select: last")
        self._epochs_fit()
        return self

    def _epochs_fit(self) -> None:
        if self.schedule == "step" and (self.step_iterations is None) == (not self.step_at):
            raise ValueError("schedule: step needs one of step_iterations (200) and step_at ([0.3, 0.6, 0.9])")
        if self.schedule == "restarts" and not self.restart_epochs:
            raise ValueError("schedule: restarts needs restart_epochs, for example [2, 6, 14]")
        edges = (self.warmup_epochs, *self.restart_epochs, self.epochs)
        if self.schedule == "restarts" and any(a >= b for a, b in pairwise(edges)):
            raise ValueError(
                f"restart_epochs must rise, from warmup_epochs up and below the {self.epochs} epochs in all, "
                f"got {list(self.restart_epochs)}"
            )
        if any(a >= b for a, b in pairwise(self.step_at)):
            raise ValueError(f"step_at must rise, got {list(self.step_at)}")
        if self.warmup_epochs > self.epochs:
            raise ValueError(
                f"warmup_epochs {self.warmup_epochs:g} is more than the {self.epochs} epochs in all, so that the "
                "learning rate never reaches lr; shorten it"
            )
        if self.flat_until_epoch is not None and self.flat_until_epoch < self.warmup_epochs:
            raise ValueError(f"flat_until_epoch {self.flat_until_epoch:g} lies before the end of warmup_epochs")
        if self.flat_until_epoch is not None and self.flat_until_epoch >= self.epochs:
            raise ValueError(
                f"flat_until_epoch {self.flat_until_epoch:g} is not below the {self.epochs} epochs in all, so that the "
                "learning rate never falls; shorten it"
            )


class Augment(RecipePart):
    """Random changes of training batches, all off by default; see `tinyasc.augment`.

    On features, in this order: `roll` along time, uniformly, or by N(0, `roll_sigma`) frames; `crop_frames`; `gain_db`;
    `filter_db`, gains along frequency as other microphones and rooms have them; Freq-MixStyle with `mixstyle_p` and
    `mixstyle_alpha`; mixup with `mixup_alpha`; masks of up to `time_mask` frames and `freq_mask` bands, `time_stripes`
    and `freq_stripes` of them, which become `mask_mode`: zero, cut (another clip's) or mixture (the mean with another
    clip); the same, scaled, on the outputs of the submodules `mask_layers`.

    On waveforms, before these: `time_scale` 1.25 makes clips 1.25^U(-1, 1) times as long with the pitch that follows,
    `time_stretch` at the same pitch; `wave_crop` takes a random window of the front end's clip_seconds, with zeros of
    `wave_crop_padding` windows on both sides; `wave_roll_seconds`; impulse responses of the folder or list `dirs`, or
    64 `synthetic` ones (drawn, not measured), with `dir_prob`, on clips of `dir_devices` only where given; noise of
    `noise_color` at `noise_snr_db` with `noise_prob`; `between_class` mixing; `wave_gain_db`. Any of them makes
    training hold waveforms and compute features per batch.
    """

    roll: bool = False
    roll_sigma: float = Field(0.0, ge=0)
    crop_frames: int = Field(0, ge=0)
    gain_db: float = Field(0.0, ge=0)
    filter_db: float = Field(0.0, ge=0)
    mixstyle_p: float = Field(0.0, ge=0, le=1)
    mixstyle_alpha: float = Field(0.3, gt=0)
    mixup_alpha: float = Field(0.0, ge=0)
    time_mask: int = Field(0, ge=0)
    time_stripes: int = Field(1, ge=1)
    freq_mask: int = Field(0, ge=0)
    freq_stripes: int = Field(1, ge=1)
    mask_mode: Literal["zero", "cut", "mixture"] = "zero"
    mask_layers: tuple[str, ...] = ()
    time_scale: float = Field(1.0, ge=1, le=2)
    time_stretch: float = Field(1.0, ge=1, le=2)
    wave_crop: bool = False
    wave_crop_padding: float = Field(0.0, ge=0, lt=1)
    wave_roll_seconds: float = Field(0.0, ge=0)
    dir_prob: float = Field(0.0, ge=0, le=1)
    dirs: str | None = None
    dir_devices: tuple[str, ...] = ()
    noise_prob: float = Field(0.0, ge=0, le=1)
    noise_snr_db: tuple[float, float] = (10.0, 40.0)
    noise_color: Literal["white", "pink"] = "white"
    between_class: bool = False
    wave_gain_db: float = Field(0.0, ge=0, le=60)

    @pydantic.model_validator(mode="after")
    def _keys_agree(self) -> Augment:
        if self.roll and self.roll_sigma:
            raise ValueError("roll is uniform and roll_sigma normal; choose one of them")
        if self.dir_prob and not self.dirs:
            raise ValueError("dir_prob needs `dirs`, a folder or list of impulse responses, or synthetic")
        if self.mask_layers and not (self.time_mask or self.freq_mask):
            raise ValueError("mask_layers has no meaning without a width, time_mask or freq_mask above 0")
        for switch, example, keys in (
            ("wave_crop", "true", ("wave_crop_padding",)),
            ("dir_prob", "0.5", ("dirs", "dir_devices")),
            ("noise_prob", "0.5", ("noise_snr_db", "noise_color")),
            ("mixstyle_p", "0.5", ("mixstyle_alpha",)),
        ):
            for key in keys:
                # Not those that were given: a run's record, which is read again, gives them all.
                if getattr(self, key) != type(self).model_fields[key].default and not getattr(self, switch):
                    raise ValueError(f"{key} has no meaning without {switch}, for example {switch}: {example}")
        if self.noise_snr_db[0] > self.noise_snr_db[1]:
            raise ValueError("noise_snr_db must be [lowest, highest]")
        return self


class Tasks(RecipePart):
    """Weights of the losses of models that learn more than the scene; a single task's loss has none.

    They are not scaled to a sum: 1:5 makes a loss, and with SGD steps, up to six times as large as one task's.

    The device's weight falls to `device_weight_after`, for good, once validation clips' devices are told apart with
    `device_accuracy`; with `training.final`, which validates none, it never does. `balance: gradnorm` moves all weights
    by `gradnorm_alpha` and `gradnorm_lr` in place of these.
    """

    scene_weight: float = Field(1.0, gt=0)
    group_weight: float = Field(1.0, ge=0)
    device_weight: float = Field(1.0, ge=0)
    device_weight_after: float = Field(1e-4, ge=0)
    device_accuracy: float = Field(0.98, gt=0, le=1)
    balance: Literal["fixed", "gradnorm"] = "fixed"
    gradnorm_alpha: float = Field(1.5, ge=0)
    gradnorm_lr: float = Field(0.025, gt=0)

    @pydantic.model_validator(mode="after")
    def _balance_fits(self) -> Tasks:
        for key, value in self.model_dump(exclude={"balance"}).items():
            if value != type(self).model_fields[key].default and (self.balance == "gradnorm") != ("gradnorm" in key):
                raise ValueError(f"{key} has no meaning with balance: {self.balance}; take it out")
        return self


class Distill(RecipePart):
    """Loss = (1 - kd_lambda) * cross-entropy + kd_lambda * T^2 * KL(teacher || student).

    `reduction: batchmean` sums KL over classes and averages it over the batch; `mean` averages over both, so that with
    K classes KL weighs 1/K of that.

    Several teachers answer as one: with `ensemble: logits` by the mean of their logits, with `probabilities` by the
    mean of their probabilities at T.

    `teacher_on: clean` takes the teachers' answers on clean clips, computed once; what mixes clips mixes them too. With
    `augmented` the teachers answer the very batch that the student is trained on (Beyer et al., CVPR 2022), which takes
    a pass through each of them for every batch. Its models may then also agree inside: `features: attention` adds
    `feature_weight` times the attention transfer loss between the maps of `feature_layers`, [[student's submodule,
    teacher's], ...] (`tinyasc.training.attention_transfer`), of one teacher.
    """

    temperature: float = Field(2.0, gt=0)
    kd_lambda: Annotated[float, Field(ge=0, le=1)] = 0.9
    reduction: Literal["batchmean", "mean"] = "batchmean"
    ensemble: Literal["logits", "probabilities"] = "logits"
    teacher_on: Literal["clean", "augmented"] = "clean"
    features: Literal["attention"] | None = None
    feature_layers: tuple[tuple[str, str], ...] = ()
    feature_weight: Annotated[float, Field(gt=0)] = 1.0

    @pydantic.model_validator(mode="after")
    def _features_fit(self) -> Distill:
        if self.features is None:
            for key in ("feature_layers", "feature_weight"):
                if getattr(self, key) != type(self).model_fields[key].default:
                    raise ValueError(f"{key} has no meaning without features: attention")
            return self
        if not self.feature_layers:
            raise ValueError("features: attention needs feature_layers, [[student's submodule, teacher's], ...]")
        if self.teacher_on != "augmented":
            raise ValueError("features: attention compares maps of the same batch, so it needs teacher_on: augmented")
        return self


class Narrow(RecipePart):
    """A student that is trained wider than its budget and pruned into it, beside dense students of that size.

    `from_width` is what the family's width option (`base_channels`, `channels_multiplier`) begins with; by default
    twice the width of the dense student that holds the budget. Channels are ranked by `importance`
    (`tinyasc.compress.importance`): in every set of channels for itself (`scope: layers`), or in all together
    (`global`). `steps` prunings, the last one down to the budget; after each the student is fine-tuned for `epochs`,
    after the last for `final_epochs`, by one cosine from `lr`, by default half of training.lr. The dense students train
    for all these epochs.

    `round_to`: pruned widths are multiples of it. Kernels take 8-bit channels four at a time, a 32-bit word of them;
    those with vectors 8 or 16.
    """

    importance: Literal["magnitude", "taylor", "bn_scale"] = "magnitude"
    from_width: float | None = Field(None, gt=0)
    scope: Literal["layers", "global"] = "layers"
    steps: int = Field(3, gt=0)
    epochs: int = Field(5, gt=0)
    final_epochs: int = Field(20, gt=0)
    lr: float | None = Field(None, gt=0)
    round_to: Literal[4, 8, 16] = 4
    seeds: int = Field(3, gt=0)

    @pydantic.field_validator("from_width", mode="after")
    @classmethod
    def _whole(cls, value: float | None) -> float | None:
        return int(value) if value is not None and value == int(value) else value


class Qat(RecipePart):
    """Quantisation-aware training of the trained student, towards its own float32 answers, with AdamW at a small rate.

    The loss is T^2 * KL(float32 || quantised) on augmented clips. Activation ranges are measured before every epoch
    but the last `freeze_epochs`.
    """

    precision: Literal["int8", "int16x8"] = "int8"
    epochs: int = Field(10, gt=0)
    lr: float = Field(1e-4, gt=0, le=1)  # AdamW moves every weight by about that much per batch
    freeze_epochs: int = Field(2, ge=0)
    temperature: float = Field(2.0, gt=0)

    def folder(self, calibration: str) -> str:
        """The name of the folder of one such training, which measures ranges by the method `calibration`."""
        how = f"{self.precision}-{calibration}"
        return f"qat-{how}-{self.epochs}-{self.lr:g}-{self.freeze_epochs}-{self.temperature:g}"
