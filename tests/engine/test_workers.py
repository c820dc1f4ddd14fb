"""Processes that load images: how many, and what Ctrl-C does to them."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest
from torch.utils.data import Subset

from cvlib.data import SyntheticBananas
from cvlib.engine import TrainConfig, fit
from cvlib.engine.batches import choose_workers
from cvlib.engine.checkpoint import load_checkpoint
from cvlib.models import TinySSD

DRAWN = SyntheticBananas(100, image_size=64)


@pytest.fixture
def cores(monkeypatch):
    """A machine with this many cores, on which processes are forked."""

    def set_number(count):
        monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(count)))

    # Without the argument the call would settle the method for the whole process.
    monkeypatch.setattr(multiprocessing, "get_start_method", lambda *, allow_none: "fork")
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    return set_number


@pytest.mark.parametrize(
    "count, processes, expected",
    [(1, 1, 0), (2, 1, 1), (2, 2, 0), (4, 1, 2), (16, 1, 8), (16, 4, 2), (64, 1, 8)],
)
def test_half_of_the_cores_load(cores, monkeypatch, count, processes, expected):
    cores(count)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    assert choose_workers(None, DRAWN) == expected
    assert choose_workers(3, DRAWN) == 3, "an explicit number is kept"


def test_some_datasets_are_loaded_without_workers(cores, monkeypatch):
    cores(16)
    assert choose_workers(None, DRAWN, Subset(DRAWN, range(5))) == 8
    assert choose_workers(None, Subset(DRAWN, range(99))) == 0, "few"
    assert choose_workers(None, DRAWN, list(range(100))) == 0, "may hold an open file"
    monkeypatch.setattr(multiprocessing, "get_start_method", lambda allow_none: "spawn")
    assert choose_workers(None, DRAWN) == 0, "each would import torch again"


def test_a_run_logs_the_number_of_workers(cores, tmp_path):
    cores(2)
    lines, seen = [], []
    settings = {"epochs": 1, "batch_size": 50, "precision": "float32", "device": "cpu"}

    def watch(event, run):
        seen.append(run.workers)

    def train(out, **options):
        model = TinySSD(("banana",), (64, 64))
        config = TrainConfig(**settings, **options)
        val = Subset(DRAWN, range(2))
        fit(model, DRAWN, val, config, out, log=lines.append, callbacks=[watch])

    train(tmp_path / "one")
    assert set(seen) == {1}
    assert lines[0] == "workers: 1 processes load images (change with --workers)"
    assert json.loads((tmp_path / "one" / "config.json").read_text())["workers"] is None
    train(tmp_path / "none", workers=0)
    assert seen[-1] == 0
    assert not any("workers" in line for line in lines[1:])


SCRIPT = """
import sys, torch
from cvlib import SyntheticBananas, TinySSD, TrainConfig, fit
drawn = SyntheticBananas(400, image_size=64)
config = TrainConfig(epochs=50, batch_size=2, workers=2, precision="float32", device="cpu")
result = fit(TinySSD(("banana",), (64, 64)), drawn, drawn, config, sys.argv[1],
             callbacks=[lambda event, run: print(event, flush=True)])
print("finished" if result.finished else "in order")
"""


def test_ctrl_c_in_a_terminal_reaches_the_workers_too_and_the_run_is_saved(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    for line in process.stdout:
        if line == "step\n":
            break
    time.sleep(0.2)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert out.endswith("in order\n")
    assert err.count("finishing the step, then saving") == 1, "each worker said so, too"
    assert load_checkpoint(tmp_path / "last.pt")["progress"]["step"] < 200
