"""Makes short runs fast: no curves are drawn and nothing is synced to disk."""

import os

import pytest
import torch

from cvlib.engine import report


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
