"""The evaluation benchmark compares metrics and writes its measurements; not its speed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "bench_eval.py"


@pytest.mark.parametrize("kind", ["boxes", "masks"])
def test_it_writes_what_it_measured(kind, tmp_path):
    done = subprocess.run(
        [sys.executable, TOOL, "--images", "6", "--kind", kind, "--classes", "3", "--turns", "1"],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(TOOL.parents[1]), "OMP_NUM_THREADS": "1"},
    )
    assert "times as fast" in done.stdout
    row = json.loads((tmp_path / "runs" / "bench" / "bench_eval.json").read_text())
    assert row["kind"] == kind and row["images"] == 6
    assert row["largest_difference"] < 1e-9 and row["ratio"] > 0
