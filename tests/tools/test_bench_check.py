"""The benchmark of the label doctor runs and prints its measurements."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path


def test_bench_check_prints_its_measurements() -> None:
    tool = Path(__file__).parents[2] / "tools/bench_check.py"
    small = ["--images", "20", "--objects", "1000", "--repeats", "1"]
    done = subprocess.run(
        [sys.executable, str(tool), *small], capture_output=True, text=True, check=True
    )
    assert re.search(r"label rules: 1,000 objects in \d", done.stdout)
    assert re.search(r"labels and headers: 20 images in .* [\d,]+ images/s", done.stdout)
    assert re.search(r"every pixel: 20 images in .* [\d,]+ images/s", done.stdout)
