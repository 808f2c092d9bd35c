"""Pictures of what each transform of a recipe does to a clip's log-mel, through the code that training runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tinyasc.audio import read_segments
from tinyasc.data import Clip
from tinyasc.errors import InputError
from tinyasc.files import write_atomic
from tinyasc.frontend import FrontEnd, fit_length, log_mel, normalize
from tinyasc.training.augmentation import AugmentedFeatures, gain_scale, needs_waveforms, refuse_stereo
from tinyasc.training.recipe_parts import Augment

# What switches a transform on, and the keys that belong to it.
KEYS: dict[str, tuple[str, ...]] = {
    "time_scale": (),
    "time_stretch": (),
    "wave_crop": ("wave_crop_padding",),
    "wave_roll_seconds": (),
    "dir_prob": ("dirs",),
    "noise_prob": ("noise_snr_db", "noise_color"),
    "between_class": (),
    "wave_gain_db": (),
    "roll": (),
    "roll_sigma": (),
    "crop_frames": (),
    "gain_db": (),
    "filter_db": (),
    "mixstyle_p": ("mixstyle_alpha",),
    "mixup_alpha": (),
    "time_mask": ("time_stripes", "mask_mode"),
    "freq_mask": ("freq_stripes", "mask_mode"),
}
MIXING = ("between_class", "mixstyle_p", "mixup_alpha")
PARTNERS = 7


@dataclass(frozen=True)
class Picture:
    """A title and the first channel's mel values (bands, frames), in dB where the front end takes the logarithm."""

    title: str
    mel: np.ndarray


def examples(front_end: FrontEnd, dirs: str | None) -> list[Augment]:
    """Every transform by itself at a usual strength, as far as the front end can take it.

    Impulse responses only where `dirs` names some; in stereo no transforms of waveforms, without `log` no gain in dB.
    """
    frames, bands = front_end.n_frames(), front_end.n_mels
    stripes = {"time_mask": max(1, frames // 5), "freq_mask": max(1, bands // 4)}
    values: list[dict[str, Any]] = [
        {"time_scale": 1.25},
        {"time_stretch": 1.25},
        {"wave_crop": True, "wave_crop_padding": 0.5},
        {"wave_roll_seconds": 0.1},
        *([{"dir_prob": 1.0, "dirs": dirs}] if dirs else []),
        *({"noise_prob": 1.0, "noise_snr_db": (10.0, 10.0), "noise_color": color} for color in ("white", "pink")),
        {"between_class": True},
        {"wave_gain_db": 6.0},
        {"roll": True},
        {"roll_sigma": 10.0},
        {"crop_frames": max(1, 4 * frames // 5)},
        *([{"gain_db": 6.0}, {"filter_db": 12.0}] if front_end.log else []),
        {"mixstyle_p": 1.0, "mixstyle_alpha": 0.4},
        {"mixup_alpha": 0.3},
        *({key: width, "mask_mode": mode} for mode in ("zero", "cut", "mixture") for key, width in stripes.items()),
    ]
    singles = [Augment.model_validate(v) for v in values]
    return [single for single in singles if not (front_end.stereo and needs_waveforms(single))]


def transforms_of(settings: Augment) -> list[Augment]:
    """Each transform of a recipe by itself, in the order of training; those with a probability happen for sure.

    `mask_layers` has no picture: it acts inside the model.
    """
    singles = []
    for switch, more in KEYS.items():
        value = getattr(settings, switch)
        if value == type(settings).model_fields[switch].default:
            continue
        sure = 1.0 if switch in ("dir_prob", "noise_prob", "mixstyle_p") else value
        singles.append(Augment.model_validate({switch: sure} | {key: getattr(settings, key) for key in more}))
    return singles


def title_of(single: Augment) -> str:
    """What is on, and how much: "time_mask 20, mask_mode mixture"."""
    told = single.model_dump(exclude_defaults=True)
    return ", ".join(f"{key} {Path(value).name if key == 'dirs' else _text(value)}" for key, value in told.items())


def load_batch(clips: Sequence[Clip], front_end: FrontEnd) -> tuple[torch.Tensor, torch.Tensor]:
    """Waveforms (clips, longest), in stereo (clips, 2, longest), with zeros at the end, and their lengths.

    Raises:
        InputError: as `read_segments`.
    """
    rate, stereo = front_end.sample_rate, front_end.stereo
    samples = [read_segments(clip.path, rate, [clip.segment], stereo=stereo)[0] for clip in clips]
    lengths = [s.shape[-1] for s in samples]
    return torch.from_numpy(np.stack([fit_length(s, max(lengths)) for s in samples])), torch.tensor(lengths)


def one_of_each_scene(clips: Sequence[Clip]) -> list[Clip]:
    """The first clip, and the first of each other scene, up to `PARTNERS`."""
    first: dict[str, Clip] = {}
    for clip in clips:
        first.setdefault(clip.scene, clip)
    return list(first.values())[: PARTNERS + 1]


def pictures(clips: Sequence[Clip], front_end: FrontEnd, singles: Sequence[Augment], *, seed: int) -> list[Picture]:
    """The first clip as it is, then after each transform; the others are what it is mixed with.

    Args:
        clips: each of another class; their labels do not matter. With one alone, what mixes clips is left out.
        front_end: its normalisation is replaced by one over these clips, which is taken out again before drawing.
        singles: of `examples` or `transforms_of`.
        seed: of the transforms.

    Raises:
        InputError: as `read_audio` and the transforms, or transforms of waveforms in stereo.
    """
    if any(map(needs_waveforms, singles)):
        refuse_stereo(front_end)
    plain = front_end.without_normalization()
    waveform, lengths = load_batch(clips, plain)
    maps = np.stack([log_mel(fit_length(x.numpy(), plain.clip_samples), plain) for x in waveform])
    # As `prepare` does it.
    scale = 1 / np.maximum(maps.std(axis=(0, 3), dtype=np.float64), 1e-3 if plain.log else plain.amin)
    offset = -maps.mean(axis=(0, 3), dtype=np.float64) * scale
    front_end = plain.with_normalization(scale, offset)
    batch = {
        "features": torch.from_numpy(normalize(maps, front_end)),
        "waveform": waveform,
        "length": lengths,
        "label": torch.arange(len(clips)),
    }
    drawn = [Picture(f"{clips[0].path.name}, as it is", maps[0, 0])]
    for single in singles:
        if len(clips) == 1 and needs_partner(single):
            continue
        step = AugmentedFeatures(single, band_scale=gain_scale(front_end), front_end=front_end)
        with torch.no_grad():
            x, mixes = step(batch, torch.Generator().manual_seed(seed))
        mixed = "".join(f"\n{mix.weight[0]:.2f} of it, the rest {clips[mix.partner[0]].path.name}" for mix in mixes)
        drawn.append(Picture(title_of(single) + mixed, (x[0, 0].numpy() - offset[0, :, None]) / scale[0, :, None]))
    return drawn


def needs_partner(single: Augment) -> bool:
    """Whether a transform mixes clips."""
    return single.mask_mode != "zero" or any(
        getattr(single, key) != type(single).model_fields[key].default for key in MIXING
    )


def draw(drawn: Sequence[Picture], front_end: FrontEnd, file: Path) -> None:
    """Writes the pictures to a PNG, SVG or PDF file, all on the first one's colour scale.

    Raises:
        InputError: a file name of another kind.
        ModuleNotFoundError: matplotlib is not installed.
    """
    import io

    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    kind = file.suffix.lower().removeprefix(".")
    if kind not in ("png", "svg", "pdf"):
        raise InputError(f"{file}: pictures are written as .png, .svg or .pdf; name such a file with --out")
    columns = min(4, len(drawn))
    rows = -(-len(drawn) // columns)
    figure = Figure(figsize=(4.2 * columns, 2.7 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    top = float(drawn[0].mel.max())
    low = max(float(np.percentile(drawn[0].mel, 1)), top - 100) if front_end.log else 0.0
    seconds_per_frame = front_end.hop_length / front_end.sample_rate
    image = None
    for panel, picture in zip(panels, drawn, strict=False):
        bands, frames = picture.mel.shape
        image = panel.imshow(
            picture.mel,
            origin="lower",
            aspect="auto",
            interpolation="nearest",
            cmap="magma",
            vmin=low,
            vmax=max(top, low + 1) if front_end.log else top,
            extent=(0, frames * seconds_per_frame, 0, bands),
        )
        panel.set_title(picture.title, fontsize=9, wrap=True)
        # One scale of time, so that a crop is seen to be shorter.
        panel.set_xlim(0, drawn[0].mel.shape[1] * seconds_per_frame)
        panel.tick_params(labelsize=7)
    for panel in panels[len(drawn) :]:
        panel.axis("off")
    figure.supxlabel("seconds", fontsize=9)
    figure.supylabel("mel band", fontsize=9)
    assert image is not None
    unit = "dB" if front_end.log else "power"
    figure.colorbar(image, ax=list(panels), label=unit, shrink=min(1.0, 2 / rows), aspect=30)
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=100)
    write_atomic(file, buffer.getvalue())


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "on"
    if isinstance(value, (tuple, list)):
        return "..".join(_text(v) for v in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
