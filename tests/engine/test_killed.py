"""SIGKILL at any moment, also inside of a write: every resumed run ends bit-identical."""

import itertools
import random
import time

import pytest
import torch
from children import start_child
from short_runs import run, table

from cvlib.engine import TrainConfig
from cvlib.engine.checkpoint import load_checkpoint
from cvlib.engine.report import TIMES

# All that checkpoints store: averages, accumulation, early stopping, workers, saves in epochs.
CONFIG = TrainConfig(
    epochs=4,
    batch_size=2,
    accumulate=2,
    ema=0.9,
    clip_norm=5.0,
    patience=3,
    keep_every=2,
    save_minutes=0,
    precision="float32",
    device="cpu",
)
DEADLINE = 120
pytestmark = pytest.mark.usefixtures("one_thread")

CHILD = """
import os, signal, torch
from pathlib import Path
from cvlib import SyntheticBananas, TinySSD, TrainConfig, fit
torch.set_num_threads(1)
train, val = (SyntheticBananas(n, image_size=64, seed=s) for n, s in ((10, 0), (2, 1)))
train, val = [train[i] for i in range(10)], [val[i] for i in range(2)]
fsync, writes = os.fsync, 0

def die_while_writing(file):
    global writes
    writes += 1
    if writes == fatal_write:
        os.ftruncate(file, os.fstat(file).st_size // 2)
        os.kill(os.getpid(), signal.SIGKILL)
    fsync(file)

os.fsync = die_while_writing
torch.manual_seed(0)
model = TinySSD(("banana",), (64, 64))
resume = (Path(out) / "last.pt").exists()
Path(ready).touch()
fit(model, train, val, TrainConfig(**config), out, resume=resume, log=lambda line: None)
"""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, train, val, one_thread):
    out = tmp_path_factory.mktemp("undisturbed")
    start = time.perf_counter()
    assert run(out, train, val[:2], CONFIG).finished
    return out, time.perf_counter() - start


def start_training(out, fatal_write=0, workers=0):
    """Train in a new process; return when it is about to begin."""
    config = {**CONFIG.as_dict(), "workers": workers}
    return start_child(CHILD, out, DEADLINE, config=config, fatal_write=fatal_write)


def finish(out, workers=0):
    process = start_training(out, workers=workers)
    process.join(DEADLINE)
    assert process.exitcode == 0
    for leftover in out.glob(".*.tmp"):  # SIGKILL leaves temporary files
        leftover.unlink()


def without_times(state):
    """Remove the entries that differ between equal runs."""
    progress = {k: v for k, v in state["progress"].items() if k not in ("elapsed", "seconds")}
    history = [{k: v for k, v in row.items() if k not in TIMES} for row in progress["history"]]
    config = {k: v for k, v in state["config"].items() if k != "workers"}
    return {**state, "config": config, "progress": {**progress, "waiting": 0, "history": history}}


def assert_equal(value, expected, at=""):
    assert type(value) is type(expected), at
    if isinstance(value, dict):
        assert list(value) == list(expected), at
        for name in value:
            if name not in TIMES:
                assert_equal(value[name], expected[name], f"{at}/{name}")
    elif isinstance(value, list | tuple):
        for i, (a, b) in enumerate(itertools.zip_longest(value, expected)):
            assert_equal(a, b, f"{at}/{i}")
    elif isinstance(value, torch.Tensor):
        assert torch.equal(value, expected), at
    else:
        assert value == expected, at


def assert_same_run(out, other):
    """Compare weights, averages, optimisers, metrics and files."""
    assert {path.name for path in out.iterdir()} == {path.name for path in other.iterdir()}
    for name in ("last.pt", "best.pt", "best.safetensors", "epoch-0002.pt"):
        saved, expected = (without_workers(load_checkpoint(path / name)) for path in (out, other))
        if name == "last.pt":
            saved, expected = without_times(saved), without_times(expected)
        assert_equal(saved, expected, name)
    assert table(out) == table(other)


def without_workers(state):
    return {**state, "config": {**state["config"], "workers": 0}}


@pytest.mark.parametrize("fatal_write", [3, 6, 11])
def test_killed_inside_of_a_write(undisturbed, tmp_path, fatal_write):
    out = tmp_path / "run"
    process = start_training(out, fatal_write)
    process.join(DEADLINE)
    assert process.exitcode == -9, "it was killed while it wrote"
    assert list(out.glob(".*.tmp")), "half a file is left"
    finish(out)
    assert_same_run(out, undisturbed[0])


def kill_at_random_moments(undisturbed, out, moments, seed):
    """Kill a run repeatedly, then let it end; return how often it was killed."""
    expected, seconds = undisturbed
    chance, killed = random.Random(seed), 0
    for _ in range(moments):
        workers = chance.choice([0, 0, 1])
        process = start_training(out, workers=workers)
        # The first third: a resumed run must come further, or it would never end.
        process.join(chance.uniform(0, seconds / 3))
        killed += process.is_alive()
        process.kill()
        process.join(DEADLINE)
    finish(out)
    assert_same_run(out, expected)
    return killed


def test_killed_at_three_random_moments(undisturbed, tmp_path):
    assert kill_at_random_moments(undisturbed, tmp_path / "run", 3, time.time_ns())


@pytest.mark.slow
@pytest.mark.parametrize("number", range(20))
def test_killed_at_twenty_random_moments(undisturbed, tmp_path, number):
    """Twenty runs, each killed at other moments."""
    kill_at_random_moments(undisturbed, tmp_path / "run", 4, time.time_ns() + number)
