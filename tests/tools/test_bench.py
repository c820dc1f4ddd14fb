"""The benchmark and gallery scripts run and write what they promise; speed is not tested."""

import json
import os
import subprocess
import sys
from pathlib import Path

TOOLS = Path(__file__).parents[2] / "tools"


def run(script: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, TOOLS / script, *arguments],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    return done.stdout


def test_bench_ops_writes_table_json_and_chart(tmp_path):
    out = tmp_path / "bench"
    table = run("bench_ops.py", "--only", "nms 100 random", "--threads", "1", "--out", str(out))
    assert "| `nms` | 100 random | cpu, 1 threads |" in table
    (row,) = json.loads((out / "bench_ops.json").read_text())["rows"]
    assert row["own_ms"] > 0 and row["peer_ms"] > 0 and row["ratio"] > 0
    assert (out / "bench_ops.md").read_text().count("\n") == 3
    assert (out / "bench_ops.png").stat().st_size > 1000


def test_gallery_draws_what_needs_no_model(tmp_path):
    run("make_gallery.py", "--out", str(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {"augmentation.png", "synthetic.png"}
