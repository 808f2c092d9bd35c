"""What several tests need: real audio, and small data sets written on the spot."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--no-skips",
        action="store_true",
        help="a test or file that is skipped fails: for runs in which all that tests need was installed",
    )


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport, config: pytest.Config) -> None:
    # An expected failure is reported as skipped too, and is none.
    if report.skipped and not hasattr(report, "wasxfail") and config.getoption("--no-skips"):
        why = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome, report.longrepr = "failed", f"{why} (--no-skips)"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item):
    report = yield
    _refuse_skip(report, item.config)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector):
    report = yield
    _refuse_skip(report, collector.config)
    return report


SHARED_AUDIO = Path(__file__).resolve().parents[1] / "../shared/audio"


@pytest.fixture(scope="session")
def shared_audio() -> Path:
    """The folder with ESC-10, impulse responses and the real TAU lists; never part of the repository."""
    if not (SHARED_AUDIO / "README.md").is_file():
        pytest.skip(f"real audio is absent: {SHARED_AUDIO} is not there")
    return SHARED_AUDIO.resolve()


@pytest.fixture(scope="session")
def esc10_root() -> Path:
    """The folder with ESC-10: what the environment variable TINYASC_ESC10 names, or that of the shared audio."""
    root = Path(os.environ.get("TINYASC_ESC10") or SHARED_AUDIO / "esc10")
    if not any((root / meta).is_file() for meta in ("meta.csv", "meta/esc50.csv")):
        pytest.skip(f"ESC-10 is absent: no meta.csv in {root}; name its folder in TINYASC_ESC10")
    return root.resolve()


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def write_tau(root: Path, *, scenes=("bus", "park"), locations=4, rate=8000, seconds=0.1, audio=True) -> Path:
    """Writes a data set in TAU's layout: per scene `locations` to train on, 2 to test on, 2 clips each."""
    rng = np.random.default_rng(1)
    (root / "audio").mkdir(parents=True)
    (root / "evaluation_setup").mkdir()
    meta, train, test = (["\t".join(header)] for header in (TAU_COLUMNS, TAU_COLUMNS[:2], TAU_COLUMNS[:2]))
    for scene in scenes:
        for place in range(locations + 2):
            for device in ("a", "b"):
                name = f"audio/{scene}-lyon-{place}-{device}.wav"
                meta.append(f"{name}\t{scene}\t{scene}-lyon-{place}\t{device}")
                (train if place < locations else test).append(f"{name}\t{scene}")
                if audio:
                    soundfile.write(root / name, 0.1 * rng.standard_normal(int(seconds * rate)), rate)
    # The newline at the end and DOS line ends are what the real lists come with.
    (root / "meta.csv").write_bytes("\r\n".join([*meta, ""]).encode())
    (root / "evaluation_setup/fold1_train.csv").write_text("\n".join([*train, ""]))
    (root / "evaluation_setup/fold1_evaluate.csv").write_text("\n".join([*test, ""]))
    return root


TAU_COLUMNS = ("filename", "scene_label", "identifier", "source_label")


@pytest.fixture(name="write_tau")
def _write_tau():
    """The function, for data sets of other sizes."""
    return write_tau


@pytest.fixture
def tau_root(tmp_path: Path) -> Path:
    """A small data set in TAU's layout with audio: 2 scenes, 16 training and 8 test clips of 0.1 s."""
    return write_tau(tmp_path / "tau")
