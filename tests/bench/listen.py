"""What `tinyasc listen` takes of a core and of memory, on synthetic sound.

    python tests/bench/listen.py MODEL [--hop 1] [--rate HZ] [--channels N] [--seconds 3600] [--real-time 60]

Prints two runs of the command in a process of its own, fed through a pipe: `--seconds` of sound in accelerated time
(--no-drop), with its resident memory after 5 minutes of sound and at the end, and `--real-time` seconds at the pace of
a microphone. CPU seconds are the process's own, user and system; start-up (imports, model) is told apart.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

EARLY_SECONDS = 300
BLOCK_SECONDS = 0.1
TICKS = os.sysconf("SC_CLK_TCK")


def sound(seconds: float, rate: int, channels: int) -> Iterator[bytes]:
    """Synthetic s16le PCM in blocks of 0.1 s: noise under a tone that climbs, each minute louder or quieter."""
    rng = np.random.default_rng(0)
    frames = round(BLOCK_SECONDS * rate)
    noise = rng.normal(0, 1, (600, frames))
    for i in range(round(seconds / BLOCK_SECONDS)):
        level = 10 ** -(0.5 + i // 600 % 5 / 2)
        tone = np.sin(2 * np.pi * (200 + i % 600) * np.arange(frames) / rate)
        block = level * (noise[i % 600] + tone)
        yield np.repeat(np.clip(32767 * block, -32768, 32767).astype("<i2"), channels).tobytes()


def cpu_seconds(pid: int) -> float:
    """User and system time of a running process (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def resident_kib(pid: int) -> int:
    """Resident memory of a running process (Linux)."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024


def listen(
    model: str, *, seconds: float, hop: float, rate: int, channels: int, real_time: bool, options: tuple[str, ...] = ()
) -> dict[str, Any]:
    """One run of the command: its last line, CPU seconds and memory.

    Raises:
        RuntimeError: it did not end with exit code 0.
    """
    pcm = ("--rate", str(rate), "--channels", str(channels), "--hop", str(hop))
    waits = () if real_time else ("--no-drop",)
    command = [sys.executable, "-m", "tinyasc.cli.main", "listen", "-", "--model", model, "--json", *pcm, *waits]
    began = time.perf_counter()
    process = subprocess.Popen(
        [*command, *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdin and process.stdout
    json.loads(process.stdout.readline())
    start_up = cpu_seconds(process.pid)
    read = threading.Event()
    feeder = threading.Thread(target=_feed, args=(process.stdin, seconds, rate, channels, real_time, read))
    feeder.start()
    result: dict[str, Any] = {"start_up_cpu": start_up}
    length = round(seconds / BLOCK_SECONDS) * round(BLOCK_SECONDS * rate) / rate  # of whole blocks
    milliseconds, last = [], {}
    for line in process.stdout:
        last = json.loads(line)
        if last["event"] == "end":
            break
        milliseconds.append(last["milliseconds"])
        if last["seconds"] <= EARLY_SECONDS:
            result["early"] = (last["seconds"], resident_kib(process.pid))
        if "late" not in result and last["seconds"] + 2 * hop > length:
            # The pipe is still open, so the process lives: measured before it may end.
            result["late"] = (last["seconds"], resident_kib(process.pid))
            result["cpu"] = cpu_seconds(process.pid) - start_up
            read.set()
    read.set()
    feeder.join()
    if process.wait() != 0:
        raise RuntimeError(f"{' '.join(command)}: exit code {process.returncode}")
    return result | {"end": last, "milliseconds": milliseconds, "wall": time.perf_counter() - began}


def _feed(pipe: IO[bytes], seconds: float, rate: int, channels: int, real_time: bool, read: threading.Event) -> None:
    began = time.perf_counter()
    for i, block in enumerate(sound(seconds, rate, channels)):
        if real_time:
            time.sleep(max(0.0, began + (i + 1) * BLOCK_SECONDS - time.perf_counter()))
        pipe.write(block)
        pipe.flush()
    read.wait(60)
    pipe.close()


def say(title: str, run: dict[str, Any]) -> None:
    """Prints one run."""
    end = run["end"]
    print(
        f"{title}: {end['seconds']:.0f} s of sound in {run['wall']:.1f} s, {end['windows']} windows, skipped "
        f"{end['skipped']}, dropped {end['dropped_seconds']:.1f} s"
    )
    share = run["cpu"] / end["seconds"]
    print(
        f"  CPU {run['cpu']:.2f} s, {100 * share:.2f} % of a core at real time (start-up {run['start_up_cpu']:.2f} s "
        f"beside); features and model {np.median(run['milliseconds']):.2f} ms per window (median)"
    )
    (early, before), (late, after) = run["early"], run["late"]
    print(f"  resident memory {before} KiB at {early:.0f} s, {after} KiB at {late:.0f} s")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--hop", type=float, default=1.0)
    parser.add_argument("--rate", type=int, default=32000)
    parser.add_argument("--channels", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--real-time", type=float, default=60)
    args = parser.parse_args()
    pcm = {"hop": args.hop, "rate": args.rate, "channels": args.channels}
    say("accelerated", listen(args.model, seconds=args.seconds, real_time=False, **pcm))
    say("real time", listen(args.model, seconds=args.real_time, real_time=True, **pcm))


if __name__ == "__main__":
    main()
