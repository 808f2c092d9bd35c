"""Front ends in C as one program, records to draw and signals to feed them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from c_program import build, run
from hypothesis import strategies as st

from tinyasc.errors import InputError
from tinyasc.frontend import FrontEnd
from tinyasc.frontend_device import BOARD_ARITHMETICS, plan
from tinyasc_export.c99.frontend import front_end_to_c
from tinyasc_export.frontend_plan import FrontEndPlan

# No multiplication is fused with an addition: `device` asks for it.
FLAGS = ("-ffp-contract=off",)
SMALL = FrontEnd(sample_rate=16000, clip_samples=4000, n_fft=512, win_length=512, hop_length=200, n_mels=20)


@st.composite
def plans(draw) -> FrontEndPlan:
    """Any front end that C takes, with normalisation and input scales as calibration gives them and beyond."""
    n_fft = 2 ** draw(st.integers(4, 11))
    win_length = draw(st.sampled_from([n_fft, n_fft // 2 + 2 * draw(st.integers(0, n_fft // 4))]))
    rate = draw(st.sampled_from([8000, 16000, 32000, 44100]))
    record = {
        "sample_rate": rate,
        "n_fft": n_fft,
        "win_length": win_length,
        "hop_length": draw(st.integers(max(1, n_fft // 8), 2 * n_fft)),
        "window": "hann" if win_length < n_fft else draw(st.sampled_from(["hann", "hamming"])),
        "mel_scale": draw(st.sampled_from(["slaney", "htk"])),
        "fmin": draw(st.sampled_from([0.0, 0.01 * rate, 0.1 * rate])),
        "fmax": draw(st.sampled_from([None, 0.4 * rate, 0.5 * rate])),
        "log": draw(st.booleans()),
        "amin": draw(st.sampled_from([1e-10, 1e-5, 1.0])),
        "clip_samples": 3 * n_fft,
    }
    for n_mels in (64, 40, 20, 8, 3, 1):
        try:
            front_end = FrontEnd(**record, n_mels=n_mels)
        except InputError:
            continue
        break
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    if draw(st.booleans()):
        front_end = front_end.with_normalization(rng.uniform(0.02, 0.06, n_mels), rng.uniform(0, 3, n_mels))
    dtype = draw(st.sampled_from(["int8", "int16"]))
    step = 10.0 ** draw(st.floats(-3, 1)) * (1 if dtype == "int8" else 1 / 256)
    return plan(front_end, step=step, zero_point=draw(st.integers(-128, 127)) if dtype == "int8" else 0, dtype=dtype)


def signals(n: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Samples (n,) int16 from silence to clipping, by name."""
    noise = rng.standard_normal(n)
    impulses = np.zeros(n)
    impulses[:: max(3, n // 5)] = 32767
    whole = {
        "silence": np.zeros(n),
        "least": np.full(n, -32768),
        "most": np.full(n, 32767),
        "impulses": impulses,
        "last bit": rng.integers(-1, 1, n),
        "alternating": np.where(np.arange(n) % 2, 32767, -32768),
        "square": np.where(np.sin(0.05 * np.arange(n)) < 0, -32768, 32767),
        "signs": np.where(noise < 0, -32768, 32767),
        "tone": 30000 * np.sin(0.3 * np.arange(n)),
        "quiet": 3 * noise,
        "noise": 3000 * noise,
        "clipped": 30000 * noise,
        "brown": 300 * np.cumsum(noise),
        "onset": np.where(np.arange(n) < n // 2, 0, 8000 * noise),
    }
    return {name: np.clip(np.rint(x), -32768, 32767).astype(np.int16) for name, x in whole.items()}


class FrontEnds:
    """Several front ends in one program.

    Args:
        wanted: a plan and an arithmetic each.
        folder: for the program.
        compiler: how it is called.
        flags: beside the strict ones.
    """

    def __init__(self, wanted: list[tuple[FrontEndPlan, str]], folder: Path, compiler: list[str], *flags: str) -> None:
        self.wanted = wanted
        files: dict[str, str] = {}
        for i, (p, arithmetic) in enumerate(wanted):
            for name, text in front_end_to_c(p, arithmetic=arithmetic, name=f"fe{i}").files.items():
                assert files.setdefault(name, text) == text, f"two texts of {name}"
        self.program = build(files | {"main.c": _main(wanted)}, folder, compiler, *FLAGS, *flags)

    def features(self, pushes: list[tuple[int, np.ndarray, list[int]]]) -> list[np.ndarray]:
        """What the front ends give: (n_mels, frames) each, for triples of an index, samples and sizes of pushes."""
        fed, sizes = b"", []
        for which, samples, cuts in pushes:
            assert sum(cuts) == len(samples)
            p = self.wanted[which][0]
            sizes.append((p, max(0, 1 + (len(samples) - p.n_fft) // p.hop_length)))
            fed += np.array([which, len(cuts), *cuts], np.int32).tobytes() + samples.tobytes()
        answer, at, out = run(self.program, fed), 0, []
        for p, frames in sizes:
            end = at + frames * p.n_mels * np.dtype(p.dtype).itemsize
            out.append(np.frombuffer(answer[at:end], p.dtype).reshape(frames, p.n_mels).T)
            at = end
        assert at == len(answer)
        return out


def both(wanted: list[FrontEndPlan]) -> list[tuple[FrontEndPlan, str]]:
    """Each plan in each arithmetic that takes it."""
    return [(p, a) for p in wanted for a in BOARD_ARITHMETICS if p.log or a == "device"]


def _main(wanted: list[tuple[FrontEndPlan, str]]) -> str:
    names = [f"fe{i}" for i in range(len(wanted))]
    includes = "".join(f'#include "{n}_frontend.h"\n' for n in names)
    functions = ""
    for n, (p, _) in zip(names, wanted, strict=True):
        value = f"{p.dtype}_t"
        functions += f"""
static int feed_{n}(const int16_t *samples, int32_t n)
{{
    {value} frame[{n.upper()}_BANDS];
    while ({n}_frontend_push(&samples, &n, frame)) {{
        if (fwrite(frame, sizeof frame, 1, stdout) != 1) return 1;
    }}
    return n != 0;
}}
"""
    cases = "".join(
        f"        case {i}: if (!push) {n}_frontend_init(); failed = feed_{n}(samples, size); break;\n"
        for i, n in enumerate(names)
    )
    # Each push has its own memory, so that a sanitiser sees a read beyond it.
    return f"""#include <stdio.h>
#include <stdlib.h>
{includes}{functions}
int main(void)
{{
    int32_t head[2];
    while (fread(head, sizeof head, 1, stdin) == 1) {{
        int32_t *sizes = malloc(sizeof *sizes * (size_t)(head[1] + 1));
        int32_t push;
        if (!sizes || fread(sizes, sizeof *sizes, (size_t)head[1], stdin) != (size_t)head[1]) return 2;
        for (push = 0; push < head[1]; push++) {{
            const int32_t size = sizes[push];
            int16_t *samples = malloc(size ? sizeof *samples * (size_t)size : 1);
            int failed = 1;
            if (!samples || fread(samples, sizeof *samples, (size_t)size, stdin) != (size_t)size) return 3;
            switch (head[0]) {{
{cases}            default: break;
            }}
            free(samples);
            if (failed) return 4;
        }}
        free(sizes);
    }}
    return 0;
}}
"""
