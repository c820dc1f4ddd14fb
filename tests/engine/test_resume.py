"""Interrupted, killed and resumed runs end as undisturbed ones."""

import contextlib
import dataclasses
import errno
import json
import os
import random
import signal
import time

import pytest
from children import start_child
from short_runs import CONFIG, SIZE, Hooked, assert_same_run, run

from cvlib.engine import evaluate, fit, unreadable
from cvlib.engine.checkpoint import load_checkpoint
from cvlib.models import TinySSD

DEADLINE = 60
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("at", [1, 10])
def test_ctrl_c_saves_and_resume_ends_the_same(undisturbed, tmp_path, train, val, at, capfd):
    lines = []
    interrupted = Hooked(train, at, lambda: signal.raise_signal(signal.SIGINT))
    result = run(tmp_path, interrupted, val, log=lines.append)
    if not result.finished:
        assert "interrupted" in lines[-1] and "--resume continues from" in lines[-1]
        assert (tmp_path / "last.pt").exists()
        result = run(tmp_path, train, val, resume=True)
    assert result.finished
    assert "Ctrl-C again stops at once" in capfd.readouterr().err
    assert_same_run(tmp_path, undisturbed[0])


def test_interrupted_at_every_epoch_and_step(undisturbed, tmp_path, train, val):
    resume, count = False, 0
    while True:
        hooked = Hooked(train, 2, lambda: signal.raise_signal(signal.SIGINT))
        result = run(tmp_path, hooked, val, resume=resume)
        resume, count = True, count + 1
        if result.finished:
            break
    assert count == 9
    assert_same_run(tmp_path, undisturbed[0])


def test_the_signal_handler_is_put_back(tmp_path, train, val):
    before = signal.getsignal(signal.SIGINT)
    hooked = Hooked(train, 2, lambda: signal.raise_signal(signal.SIGINT))
    run(tmp_path, hooked, val)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_ctrl_c_stops_at_once(tmp_path, train, val, capfd):
    def twice():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Hooked(train, 2, twice), val)
    assert signal.getsignal(signal.SIGINT) is before
    assert capfd.readouterr().err.count("finishing the step") == 1


CHILD = """
import time, torch
from pathlib import Path
from cvlib import SyntheticBananas, TinySSD, TrainConfig, fit
torch.set_num_threads(1)

class Slow(list):
    seen = 0
    def __getitem__(self, index):
        Slow.seen += 1
        if Slow.seen == ready_at:
            Path(ready).touch()
        time.sleep(0.01)
        return super().__getitem__(index)

train, val = (SyntheticBananas(n, image_size=64, seed=s) for n, s in ((10, 0), (4, 1)))
train, val = Slow(train[i] for i in range(10)), [val[i] for i in range(4)]
torch.manual_seed(0)
model = TinySSD(("banana",), (64, 64))
resume = (Path(out) / "last.pt").exists()
fit(model, train, val, TrainConfig(**config), out, resume=resume, log=lambda line: None)
"""


def start_training(out, ready_at):
    """Train in a new process; return when image ``ready_at`` is asked for."""
    return start_child(CHILD, out, DEADLINE, ready_at=ready_at, config=CONFIG.as_dict())


def test_a_process_that_gets_ctrl_c_saves_and_resume_ends_the_same(
    undisturbed, tmp_path, train, val
):
    out = tmp_path / "run"
    process = start_training(out, ready_at=13)  # in the middle of the second epoch
    os.kill(process.pid, signal.SIGINT)
    process.join(DEADLINE)
    assert process.exitcode == 0, "an interrupted run ends in order"
    assert load_checkpoint(out / "last.pt")["progress"]["step"] in range(4, 7)
    assert run(out, train, val, resume=True).finished
    assert_same_run(out, undisturbed[0])


def test_a_killed_process_can_be_resumed(undisturbed, tmp_path, train, val):
    out = tmp_path / "run"
    chance = random.Random(time.time_ns())
    for ready_at in (1, 11):  # killed at some moment of the first, then of a later epoch
        process = start_training(out, ready_at)
        time.sleep(chance.uniform(0, 0.4))
        process.kill()
        process.join(DEADLINE)
    for leftover in out.glob(".*.tmp"):  # SIGKILL leaves temporary files
        leftover.unlink()
    run(out, train, val, resume=(out / "last.pt").exists())
    assert_same_run(out, undisturbed[0])


class Killed(BaseException):
    """Ends a run without any cleaning up, as SIGKILL does."""


def train_and_die(writes, monkeypatch, out, train, val, config):
    """Train until this many files have been written, and die before the next one."""
    replace, left = os.replace, iter(range(writes))

    def replace_or_die(source, target):
        if next(left, None) is None:
            raise Killed
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace_or_die)
        with contextlib.suppress(Killed):
            run(out, train, val, config)


@pytest.mark.parametrize("writes", range(17))
@pytest.mark.parametrize("improves", [True, False])
def test_killed_between_any_two_writes(tmp_path, train, val, monkeypatch, writes, improves):
    config = dataclasses.replace(CONFIG, epochs=2, batch_size=2, recipe="none")
    undisturbed, out = tmp_path / "undisturbed", tmp_path / "out"

    def evaluate_with_planned_ap(model, dataset, **options):
        evaluation = evaluate(model, dataset, **options)
        weights = sum(v.double().sum().item() for v in model.state_dict().values())
        aps.setdefault(weights, 0.5 + (0.1 if improves else -0.1) * len(aps))
        boxes = dataclasses.replace(evaluation.boxes, ap=aps[weights])
        return dataclasses.replace(evaluation, boxes=boxes)

    aps = {}
    monkeypatch.setattr(unreadable, "evaluate", evaluate_with_planned_ap)
    run(undisturbed, train[:2], val[:1], config)
    train_and_die(writes, monkeypatch, out, train[:2], val[:1], config)
    run(out, train[:2], val[:1], config, resume=(out / "last.pt").exists())
    assert_same_run(out, undisturbed)
    rows = json.loads((out / "metrics.json").read_text())
    assert [row["ap"] for row in rows] == list(aps.values())


def test_resuming_a_finished_run_changes_nothing(undisturbed, tmp_path, train, val):
    config = dataclasses.replace(CONFIG, epochs=2)
    first = run(tmp_path, train, val, config)
    files = {path.name: path.read_bytes() for path in tmp_path.glob("*.pt")}
    again = run(tmp_path, train, val, config, resume=True)
    assert again.finished
    assert again.history == first.history
    assert again.best == first.best
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.pt")} == files


def test_nothing_to_resume(tmp_path, train, val):
    with pytest.raises(FileNotFoundError, match=r"last\.pt"):
        run(tmp_path, train, val, resume=True)


@pytest.mark.parametrize(
    "change",
    [{"epochs": 4}, {"batch_size": 5}, {"seed": 1}, {"recipe": "none"}, {"learning_rate": 1e-4}],
)
def test_another_configuration_is_refused(undisturbed, train, val, change):
    before = (undisturbed[0] / "last.pt").read_bytes()
    ((name, value),) = change.items()
    old = getattr(CONFIG, name)
    with pytest.raises(ValueError, match=f"{name} was {old}, is {value}"):
        run(undisturbed[0], train, val, dataclasses.replace(CONFIG, **change), resume=True)
    assert (undisturbed[0] / "last.pt").read_bytes() == before


def test_other_classes_are_refused(undisturbed, train, val):
    model = TinySSD(("apple",), SIZE)
    with pytest.raises(ValueError, match=r"expected classes \['banana'\].*got \['apple'\]"):
        fit(model, train, val, CONFIG, undisturbed[0], resume=True, log=lambda line: None)


def test_a_damaged_checkpoint_is_named(undisturbed, tmp_path, train, val):
    data = (undisturbed[0] / "last.pt").read_bytes()
    (tmp_path / "last.pt").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"last\.pt, which is damaged"):
        run(tmp_path, train, val, resume=True)


def test_a_full_disk_spares_the_checkpoint(undisturbed, tmp_path, train, val, monkeypatch):
    replace, files = os.replace, {}

    def fail_after_the_first_checkpoint(source, target):
        if (tmp_path / "last.pt").exists():
            files.update({p.name: p.read_bytes() for p in tmp_path.iterdir() if p.suffix != ".tmp"})
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail_after_the_first_checkpoint)
        with pytest.raises(OSError, match=r"could not write .*No space left"):
            run(tmp_path, train, val)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files
    assert len(load_checkpoint(tmp_path / "last.pt")["progress"]["history"]) == 1
    run(tmp_path, train, val, resume=True)
    assert_same_run(tmp_path, undisturbed[0])
