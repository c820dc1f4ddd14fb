"""What makes dozens of short runs quick: nobody looks at their curves or cuts their power."""

import os

import pytest

from cvlib.engine import report


@pytest.fixture(autouse=True)
def quick_files(monkeypatch):
    """Curves are drawn in the tests of reports, files are forced to the disk by whole tools."""
    monkeypatch.setattr(report, "plot_history", lambda path, history: path.write_bytes(b"curves"))
    monkeypatch.setattr(os, "fsync", lambda file: None)
