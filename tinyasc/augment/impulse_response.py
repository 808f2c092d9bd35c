"""Device impulse responses: a clip as another microphone would have recorded it."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor

from tinyasc.audio import read_audio
from tinyasc.augment.draws import chosen
from tinyasc.augment.synthetic_microphones import synthetic_microphones
from tinyasc.errors import InputError

SYNTHETIC = "synthetic"  # a folder of that name is ./synthetic


def impulse_response(
    x: Tensor, generator: Generator, *, bank: Tensor, prob: float, allowed: Tensor | None = None
) -> Tensor:
    """Convolves each waveform, with probability `prob`, with a response drawn from the bank; its level (RMS) stays.

    Source: Morocutti et al., "Device-robust acoustic scene classification via impulse response augmentation", EUSIPCO
    2023; there on clips of the main device alone.

    Args:
        x: (batch, samples).
        generator: the only source of randomness.
        bank: (responses, taps), see `load_bank`.
        prob: `dir_prob`.
        allowed: (batch,) bool: clips that may be changed, for example those of the main device; None is all.
    """
    use = chosen(len(x), prob, generator)
    choice = torch.randint(len(bank), (len(x),), generator=generator)
    if allowed is not None:
        use &= allowed.cpu()
    rows = use.nonzero().flatten()
    if not len(rows):
        return x
    y = x.clone()
    dry = x[rows.to(x.device)]
    wet = convolve(dry, bank[choice[rows].to(bank.device)].to(x.device, x.dtype))
    level, new = (s.square().mean(dim=1, keepdim=True).sqrt() for s in (dry, wet))
    y[rows.to(x.device)] = wet / new.clamp_min(torch.finfo(x.dtype).tiny) * level
    return y


def convolve(x: Tensor, response: Tensor) -> Tensor:
    """Each waveform (batch, samples) with its own response (batch, taps), causal, cut to the waveform's length."""
    full = x.shape[1] + response.shape[1] - 1
    n = 1 << (full - 1).bit_length()
    return torch.fft.irfft(torch.fft.rfft(x, n) * torch.fft.rfft(response, n), n)[:, : x.shape[1]]


def load_bank(source: str | Path, sample_rate: int) -> Tensor:
    """Reads impulse responses, resampled to a rate.

    Args:
        source: a folder, whose .wav and .flac files are taken at any depth in the order of their names; or a list: a
            .csv with a column `filename`, else a text file with one path per line; paths are relative to the list.
            Or "synthetic": `tinyasc.augment.synthetic_microphones`.
        sample_rate: Hz.

    Returns:
        (responses, taps) float32, each of unit energy, zeros at the end of the shorter ones.

    Raises:
        InputError: nothing there, no responses, or a response that cannot be read or is silent.
    """
    if source == SYNTHETIC:
        return torch.from_numpy(synthetic_microphones(sample_rate))
    responses = []
    for path in bank_files(source):
        samples = read_audio(path, sample_rate)
        energy = float(np.sqrt(np.sum(np.square(samples, dtype=np.float64))))
        if energy == 0:
            raise InputError(f"{path}: an impulse response of silence; take it out of {source}")
        responses.append(torch.from_numpy(samples / np.float32(energy)))
    return torch.nn.utils.rnn.pad_sequence(responses, batch_first=True)


def bank_files(source: str | Path) -> list[Path]:
    """The files of a folder or list of impulse responses, as `load_bank` reads them; none of "synthetic".

    Raises:
        InputError: nothing there, or a list that cannot be read.
    """
    if source == SYNTHETIC:
        return []
    source = Path(source).expanduser()
    if source.is_dir():
        files = sorted(p for p in source.rglob("*") if p.suffix.lower() in (".wav", ".flac") and p.is_file())
        if not files:
            raise InputError(f"{source}: holds no .wav or .flac file; name a folder of impulse responses")
        return files
    try:
        text = source.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{source}: no such folder or list of impulse responses; check augment.dirs") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{source}: cannot be read as a list of impulse responses ({type(error).__name__}); name a folder, a .csv "
            "with a column `filename`, or a text file with one path per line"
        ) from None
    if source.suffix.lower() == ".csv":
        rows = csv.DictReader(text.splitlines())
        if "filename" not in (rows.fieldnames or ()):
            raise InputError(
                f"{source}: has no column `filename`; its columns are {', '.join(rows.fieldnames or ['-'])}"
            )
        names = [row["filename"] or "" for row in rows]
    else:
        names = [line.strip() for line in text.splitlines()]
    names = [name for name in names if name]
    if not names:
        raise InputError(f"{source}: lists no impulse response")
    return [source.parent / name for name in names]
