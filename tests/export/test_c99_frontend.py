"""Front ends in C give the bits of their numpy specification: any record, any signal, any chunking, every compiler."""

from __future__ import annotations

import re
import subprocess

import numpy as np
import pytest
from c_program import compilers, sanitizers
from front_ends import FLAGS, SMALL, FrontEnds, both, plans, signals
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tinyasc.frontend import FrontEnd
from tinyasc.frontend_device import board_features, plan
from tinyasc_export.c99.frontend import front_end_to_c
from tinyasc_export.errors import InputError
from tinyasc_export.frontend_plan import FrontEndPlan

# Log-mel as students take it, FFTs of odd and even log2, a window shorter than the FFT, gaps between windows.
RECORDS = [
    FrontEnd(clip_samples=8192, hop_length=2048),
    FrontEnd(sample_rate=16000, clip_samples=4000, n_fft=1024, win_length=640, hop_length=321, n_mels=40),
    FrontEnd(
        sample_rate=8000, clip_samples=2000, n_fft=256, win_length=256, hop_length=300, n_mels=16, mel_scale="htk"
    ),
]


def quantized(front_end: FrontEnd, dtype: str = "int8") -> FrontEndPlan:
    return plan(front_end, step=0.6 if dtype == "int8" else 0.6 / 256, zero_point=-3, dtype=dtype)


def check(wanted: list[tuple[FrontEndPlan, str]], folder, compiler: list[str], *flags: str, some: int = 0) -> None:
    """Feeds every signal, or `some`, in random pushes and compares each integer with the specification's."""
    rng = np.random.default_rng(0)
    fed, expected, said = [], [], []
    for i, (p, arithmetic) in enumerate(wanted):
        whole = signals(p.n_fft + p.hop_length + int(rng.integers(p.hop_length)), rng)
        for name in rng.choice(list(whole), some, replace=False) if some else whole:
            samples = whole[name]
            cuts = np.sort(rng.integers(0, len(samples) + 1, int(rng.integers(0, 9))))
            fed.append((i, samples, np.diff([0, *cuts, len(samples)]).tolist()))
            expected.append(board_features(samples, p, arithmetic))
            said.append(f"{arithmetic} {name} {p}")
    for actual, wished, what in zip(
        FrontEnds(wanted, folder, compiler, *flags).features(fed), expected, said, strict=True
    ):
        np.testing.assert_array_equal(actual, wished, err_msg=what)


def drawn_plans(count: int, *, derandomize: bool) -> list[FrontEndPlan]:
    """Random front ends, drawn first so that all of them are compiled at once; those that integers take too first."""
    drawn: list[FrontEndPlan] = []

    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        derandomize=derandomize,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(plans())
    def draw(p):
        drawn.append(p)

    draw()
    return drawn


def takes_both(p: FrontEndPlan) -> bool:
    try:
        return len([front_end_to_c(p, arithmetic=a) for _, a in both([p])]) > 0
    except InputError as error:
        assert "leaves 32 bits" in str(error)
        return False


@pytest.fixture
def sanitized() -> list[str]:
    if not sanitizers():
        pytest.skip("no compiler here links the address and undefined-behaviour sanitisers")
    return list(sanitizers())


def test_a_sample_of_random_front_ends(tmp_path, sanitized):
    drawn = drawn_plans(16, derandomize=True)
    taken = [p for p in drawn if takes_both(p)]
    assert len(taken) > 0.8 * len(drawn)
    wanted = both(taken)
    assert {a for _, a in wanted} == {"device", "fixed"} and {p.dtype for p, _ in wanted} == {"int8", "int16"}
    check(wanted, tmp_path, sanitized, "-O1", some=4)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_many_random_front_ends(tmp_path, sanitized):
    check(both([p for p in drawn_plans(100, derandomize=False) if takes_both(p)]), tmp_path, sanitized, "-O1")


@pytest.mark.parametrize(("name", "level"), [("gcc", "-O0"), ("gcc", "-O3"), ("clang", "-O2"), ("zig", "-O2")])
def test_every_compiler_gives_the_same_bits_without_a_warning(name, level, tmp_path):
    if name not in compilers():
        pytest.skip(f"{name} is not here")
    check(both([*map(quantized, RECORDS), quantized(SMALL, "int16")]), tmp_path, compilers()[name], level, some=7)


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> FrontEnds:
    if not compilers():
        pytest.skip("no C compiler is here")
    compiler = next(iter(compilers().values()))
    return FrontEnds(both([quantized(SMALL)]), tmp_path_factory.mktemp("small"), compiler, "-O2")


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 1),
    st.lists(st.integers(0, 700), min_size=1, max_size=20),
    st.integers(0, 2**32 - 1),
    st.sampled_from([1, 300, 40000]),
)
def test_any_chunking_gives_the_whole_clips_features(small, which, sizes, seed, loudness):
    samples = np.clip(loudness * np.random.default_rng(seed).standard_normal(sum(sizes)), -32768, 32767).astype(
        np.int16
    )
    p, arithmetic = small.wanted[which]
    (streamed,) = small.features([(which, samples, sizes)])
    if len(samples) < p.n_fft:
        assert streamed.shape[1] == 0
    else:
        np.testing.assert_array_equal(streamed, board_features(samples, p, arithmetic))


def test_init_forgets_the_samples_before(small):
    rng = np.random.default_rng(2)
    for which, (p, arithmetic) in enumerate(small.wanted):
        clips = [rng.integers(-9000, 9000, n).astype(np.int16) for n in (p.n_fft + 77, p.n_fft + 500)]
        for got, clip in zip(small.features([(which, c, [len(c)]) for c in clips]), clips, strict=True):
            np.testing.assert_array_equal(got, board_features(clip, p, arithmetic))


def test_the_sizes_that_are_stated_are_those_of_the_arrays():
    for arithmetic, of_tables in (("device", 4), ("fixed", 2)):
        p = quantized(FrontEnd())
        written = front_end_to_c(p, arithmetic=arithmetic, name="m")
        assert written.state_bytes == 2 * 2048 + 4 * 2048 + 12
        bins = int(p.begin[-1] - p.begin[0])
        per_bin = of_tables * (1025 + 513 + bins)
        assert 0 < written.constant_bytes - per_bin < 2000
        text = written.files["m_frontend.c"]
        assert f"ring[{p.n_fft}]" in text and f"work[{p.n_fft}]" in text


def test_the_folder_takes_stdint_and_nothing_else():
    for arithmetic in ("device", "fixed"):
        written = front_end_to_c(quantized(SMALL), arithmetic=arithmetic, name="m")
        for text in written.files.values():
            included = {line.split()[1] for line in text.splitlines() if line.startswith("#include")}
            assert included <= {"<stdint.h>"} | {f'"{name}"' for name in written.files}
            assert "double" not in text and "int64_t" not in text.replace("uint64_t", "")


@pytest.mark.parametrize(
    ("arithmetic", "target"),
    [
        ("fixed", ["thumb-freestanding-eabi", "-mcpu=cortex_m0plus"]),
        ("device", ["thumb-freestanding-eabihf", "-mcpu=cortex_m4+vfp4d16sp"]),
    ],
)
def test_no_library_is_called_on_the_processors_it_is_meant_for(arithmetic, target, tmp_path):
    """Not even the compiler's own: no 64-bit product, no division, no float in software."""
    if "zig" not in compilers():
        pytest.skip("the cross compiler, ziglang, is not here")
    written = front_end_to_c(quantized(FrontEnd()), arithmetic=arithmetic, name="m")
    for name, text in written.files.items():
        (tmp_path / name).write_text(text)
    command = [*compilers()["zig"], "-target", *target, "-std=c99", "-ffreestanding", *FLAGS, "-O2", "-S"]
    for name in sorted(n for n in written.files if n.endswith(".c")):
        done = subprocess.run([*command, name, "-o", "out.s"], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assembly = (tmp_path / "out.s").read_text()
        called = set(re.findall(r"^\s+blx?\s+([A-Za-z_]\w*)", assembly, re.M))
        assert "bx\tlr" in assembly or "pop" in assembly
        assert called <= {n.removesuffix(".c") for n in written.files} | {
            "tinyasc_frontend_samples_init",
            "tinyasc_frontend_samples_take",
        }


def test_an_unknown_arithmetic_is_refused():
    with pytest.raises(InputError, match="device, fixed"):
        front_end_to_c(quantized(SMALL), arithmetic="reference")
