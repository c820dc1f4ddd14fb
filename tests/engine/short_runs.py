"""Short runs of TinySSD on synthetic bananas, and how they are compared."""

import csv

import torch

from cvlib.engine import TrainConfig, fit
from cvlib.engine.checkpoint import load_checkpoint
from cvlib.engine.report import TIMES
from cvlib.models import TinySSD

SIZE = (64, 64)
CONFIG = TrainConfig(epochs=3, batch_size=4, precision="float32", device="cpu")


def new_model(seed=0, **options):
    torch.manual_seed(seed)
    return TinySSD(("banana",), SIZE, **options)


def run(out, train, val, config=CONFIG, *, loss="multibox", resume=False, **options):
    # A resumed run must not depend on the weights that it starts with.
    model = new_model(99 if resume is True else 0, loss=loss)
    return fit(model, train, val, config, out, resume=resume, **{"log": ignore, **options})


def ignore(line):
    """Log nothing."""


def stop_after_saving(event, run):
    """Callback that interrupts a run as soon as it has a checkpoint."""
    if event == "saved":
        raise KeyboardInterrupt


class Hooked(list):
    """A dataset that does something when the n-th image is asked for."""

    def __init__(self, samples, at, action):
        super().__init__(samples)
        self.left, self.action = at, action

    def __getitem__(self, index):
        self.left -= 1
        if self.left == 0:
            self.action()
        return super().__getitem__(index)


def weights(path):
    return load_checkpoint(path)["model"]


def assert_same_weights(path, other, **tolerance):
    """Compare bit for bit unless a tolerance is given."""
    torch.testing.assert_close(
        weights(path), weights(other), **(tolerance or {"rtol": 0, "atol": 0})
    )


def table(out):
    with open(out / "metrics.csv", newline="") as file:
        return [
            {name: value for name, value in row.items() if name not in TIMES}
            for row in csv.DictReader(file)
        ]


def assert_same_run(out, other):
    assert_same_weights(out / "last.pt", other / "last.pt")
    assert_same_weights(out / "best.pt", other / "best.pt")
    assert table(out) == table(other), "metrics differ"
    assert {path.name for path in out.iterdir()} == {path.name for path in other.iterdir()}
