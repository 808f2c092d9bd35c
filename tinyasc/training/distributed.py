"""Several processes that torchrun started: who is who, and what only the first may do.

Outside of torchrun there is one process, and everything here does nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist


def rank() -> int:
    """This process's number, from 0; the first alone writes and prints."""
    return int(os.environ["RANK"]) if "TORCHELASTIC_RUN_ID" in os.environ else 0


def world_size() -> int:
    """Processes in all."""
    return int(os.environ["WORLD_SIZE"]) if "TORCHELASTIC_RUN_ID" in os.environ else 1


def processes_here() -> int:
    """Processes on this machine."""
    return int(os.environ["LOCAL_WORLD_SIZE"]) if "TORCHELASTIC_RUN_ID" in os.environ else 1


@contextmanager
def connected() -> Iterator[None]:
    """Connects torchrun's processes for a `with`; Lightning finds them connected.

    A process that fails leaves at once, and torchrun ends the others; closing in an orderly way would wait for them.
    """
    if world_size() == 1:
        yield
        return
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    # The others wait at a barrier while the first extracts features, which may take hours; by default they would give
    # up after 10 (NCCL) or 30 minutes (gloo). A process that dies is noticed by torchrun, without any timeout.
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=timedelta(days=1))
    yield
    dist.barrier()
    dist.destroy_process_group()


def barrier() -> None:
    """Waits for all processes."""
    if world_size() > 1:
        dist.barrier()


@contextmanager
def first_here_first() -> Iterator[None]:
    """A `with` that the first process of each machine runs before the others, so that they find its files."""
    first = world_size() == 1 or int(os.environ["LOCAL_RANK"]) == 0
    if not first:
        barrier()
    yield
    if first:
        barrier()


def gathered(value: Any) -> list[Any]:
    """Every process's value, in the order of their ranks; numpy arrays and plain values."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values
