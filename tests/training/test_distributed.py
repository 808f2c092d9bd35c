"""Training in two processes under torchrun, over gloo on the loopback interface."""

import json
import os
import socket
import subprocess
import sys
from collections import Counter
from datetime import timedelta

import numpy as np
import pytest
import safetensors.numpy
import torch
import yaml
from click.testing import CliRunner
from tiny_training import DATA

from tinyasc.cli.main import cli
from tinyasc.compress import pipeline
from tinyasc.compress.limits import parse_limits
from tinyasc.errors import InputError
from tinyasc.training import distributed
from tinyasc.training.features import BatchesByEpoch, Part, loader
from tinyasc.training.recipe import load_recipe
from tinyasc.training.run import Run

RECIPE = {
    "name": "shared",
    "front_end": {"sample_rate": 8000, "clip_seconds": 0.1, "n_fft": 256, "hop_length": 25, "n_mels": 16},
    "model": {"family": "sepconv_ca", "base_channels": 8, "dropout": 0},
    # Batches of 5 and 6 clips: the shares are not equal. Batch statistics would be of the shares, so they are frozen.
    "training": {
        "epochs": 3, "batch_size": 6, "lr": 0.05, "optimizer": "sgd", "momentum": 0.9, "warmup_epochs": 1,
        "freeze_norm": True, "ema_decay": 0.5,
    },
}  # fmt: skip


def torchrun(folder, *args):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # After `--` torchrun leaves our options alone.
    command = ["--nproc-per-node", "2", "--master-addr", "127.0.0.1", "--master-port", str(port), "-m", "--"]
    loopback = {"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *command, "tinyasc.cli.main", *args],
        cwd=folder,
        env=os.environ | loopback | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )


def test_processes_wait_for_the_first_for_hours(monkeypatch):
    told = {}
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(distributed.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(distributed.dist, "init_process_group", lambda backend, **options: told.update(options))
    monkeypatch.setattr(distributed.dist, "barrier", lambda: None)
    monkeypatch.setattr(distributed.dist, "destroy_process_group", lambda: None)
    with distributed.connected():
        pass
    # Features of 139,620 clips take longer than the half hour after which gloo gives up.
    assert told["timeout"] >= timedelta(hours=12)


def test_two_processes_train_what_one_trains(tmp_path, tau_root, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = {"data": {"name": "tau2020", "root": str(tau_root)}}
    (tmp_path / "shared.yaml").write_text(yaml.safe_dump(RECIPE | data))
    one = CliRunner().invoke(cli, ["train", "shared.yaml", "--run", "one"])
    assert one.exit_code == 0, one.output
    two = torchrun(tmp_path, "train", "shared.yaml", "--run", "two")
    assert two.returncode == 0, two.stderr
    # One process speaks and writes.
    assert two.stdout.count("trained: two") == 1 and "trained" not in two.stderr
    names = [sorted(str(p.relative_to(tmp_path / run)) for p in (tmp_path / run).rglob("*")) for run in ("one", "two")]
    assert names[0] == names[1]
    runs = [tmp_path / "one", tmp_path / "two"]
    a, b = (safetensors.numpy.load_file(run / "model.safetensors") for run in runs)
    assert a.keys() == b.keys()
    assert max(np.abs(a[k].astype(float) - b[k]).max() for k in a) < 1e-5
    journals = [[json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in runs]
    assert [line["epoch"] for line in journals[1]] == [0, 1, 2]
    for first, second in zip(*journals, strict=True):
        for key in ("train_loss", "val_log_loss", "val_accuracy"):
            assert second[key] == pytest.approx(first[key], abs=1e-5), key
    # The losses move, so the weights did.
    assert journals[0][0]["train_loss"] != pytest.approx(journals[0][2]["train_loss"], abs=1e-4)


@pytest.fixture
def as_process(monkeypatch):
    """Sets what torchrun tells a process."""

    def become(rank, world_size):
        values = {"RANK": rank, "WORLD_SIZE": world_size, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": world_size}
        for name, value in values.items():
            monkeypatch.setenv(name, str(value))
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "test")

    return become


@pytest.mark.parametrize("world_size", [2, 3])
def test_shares_make_up_the_batch_and_their_weighted_means_its_mean(as_process, world_size):
    part = Part(
        np.arange(23, dtype=np.float32)[:, None, None, None] * np.ones((23, 1, 2, 2), np.float32), np.arange(23)
    )
    whole = [batch["label"] for batch in loader(part, 8, seed=3)]
    shares = []
    for rank in range(world_size):
        as_process(rank, world_size)
        shares.append(list(loader(part, 8, seed=3)))
    for number, batch in enumerate(whole):
        parts = [share[number] for share in shares]
        assert Counter(torch.cat([p["label"] for p in parts]).tolist()) == Counter(batch.tolist())
        means = [p["weight"] * p["label"].float().mean() for p in parts]
        assert float(sum(means)) / world_size == pytest.approx(float(batch.float().mean()))
        assert all(torch.equal(p["features"][:, 0, 0, 0].long(), p["label"]) for p in parts)


def test_batches_that_do_not_go_round_are_refused():
    assert len(BatchesByEpoch(9, 4, 0, processes=3)) == 3
    with pytest.raises(InputError, match="do not give each of 4 processes a clip"):
        BatchesByEpoch(9, 4, 0, processes=4)


def test_one_process_has_no_weights():
    assert "weight" not in next(iter(loader(DATA.train, 8, seed=0)))


def test_compress_refuses_several_processes(as_process, tmp_path):
    as_process(0, 2)
    with pytest.raises(InputError, match="compress runs in one process"):
        pipeline.make_plan([], [load_recipe("students/demo")], parse_limits())


def test_only_the_first_process_holds_the_lock(as_process, tmp_path):
    as_process(0, 2)
    with Run(tmp_path / "run").locked():
        as_process(1, 2)
        with Run(tmp_path / "run").locked():
            pass
        as_process(0, 2)
        with pytest.raises(InputError, match="another process"), Run(tmp_path / "run").locked():
            pass
