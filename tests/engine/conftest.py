"""Fixtures of short runs: no curves are drawn, and nothing is synced to disk."""

import os
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from short_runs import SIZE, run

from cvlib.data import SyntheticBananas
from cvlib.engine import report
from cvlib.models import TinySSD


@pytest.fixture(autouse=True)
def quick_files(monkeypatch):
    """Curves are drawn in the tests of reports, files are forced to the disk by whole tools."""
    monkeypatch.setattr(report, "plot_history", lambda path, history: path.write_bytes(b"curves"))
    monkeypatch.setattr(os, "fsync", lambda file: None)


@pytest.fixture(scope="module")
def one_thread():
    """Bit for bit holds for equal numbers of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def train():
    dataset = SyntheticBananas(10, image_size=64)  # the last batch of four is not full
    return [dataset[i] for i in range(10)]


@pytest.fixture(scope="module")
def val():
    dataset = SyntheticBananas(4, image_size=64, seed=1)
    return [dataset[i] for i in range(4)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, train, val, one_thread):
    """Folder, result and log lines of a run that nothing interrupts."""
    out = tmp_path_factory.mktemp("undisturbed")
    lines = []
    result = run(out, train, val, log=lines.append)
    return out, result, lines


@pytest.fixture(scope="module")
def bananas():
    dataset = SyntheticBananas(7, image_size=64)
    return [dataset[i] for i in range(7)]


@pytest.fixture
def model():
    return TinySSD(("banana",), SIZE)
