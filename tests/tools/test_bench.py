"""The benchmark and gallery scripts run and write their results; speed is not tested."""

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from cvlib.data.transforms import RECIPES

TOOLS = Path(__file__).parents[2] / "tools"


def run(script: str, *arguments: str, folder: Path | None = None) -> str:
    done = subprocess.run(
        [sys.executable, TOOLS / script, *arguments],
        capture_output=True,
        text=True,
        check=True,
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(TOOLS.parent)},
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


def test_bench_check_prints_its_measurements():
    out = run("bench_check.py", "--images", "20", "--objects", "1000", "--repeats", "1")
    assert re.search(r"label rules: 1,000 objects in \d", out)
    assert re.search(r"labels and headers: 20 images in .* [\d,]+ images/s", out)
    assert re.search(r"every pixel: 20 images in .* [\d,]+ images/s", out)


@pytest.mark.parametrize("kind", ["boxes", "masks"])
def test_bench_eval_writes_its_measurements(kind, tmp_path):
    small = ("--images", "6", "--kind", kind, "--classes", "3", "--turns", "1")
    assert "times as fast" in run("bench_eval.py", *small, folder=tmp_path)
    row = json.loads((tmp_path / "runs" / "bench" / "bench_eval.json").read_text())
    assert row["kind"] == kind and row["images"] == 6
    assert row["largest_difference"] < 1e-9 and row["ratio"] > 0


def test_gallery_draws_everything_that_needs_no_model(tmp_path):
    run("make_gallery.py", "--out", str(tmp_path))
    recipes = {f"{task}_{name}.jpg" for task, names in RECIPES.items() for name in names}
    others = {"anchors.jpg", "batch.jpg", "synthetic.png", "targets.jpg"}
    assert {path.name for path in tmp_path.iterdir()} == recipes | others
    assert all(5_000 < path.stat().st_size < 160_000 for path in tmp_path.iterdir())


# torchvision deprecates the bare decoder from 0.29 on.
needs_torchvision_decoder = pytest.mark.filterwarnings(
    "ignore:The image decoding:DeprecationWarning"
)


@pytest.fixture
def bench_data(monkeypatch, capsys, thread_counts):
    """Run the script in this process, which saves an import."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["bench_data.py", *map(str, arguments)])
        runpy.run_path(str(TOOLS / "bench_data.py"), run_name="__main__")
        return capsys.readouterr().out

    return call


@needs_torchvision_decoder
@pytest.mark.parametrize("task", RECIPES)
def test_bench_data_measures_every_recipe(tmp_path, task, bench_data):
    few = ("--images", 3, "--turns", 1, "--batch-size", 2, "--image-size", 64, 80)
    table = bench_data("--task", task, "--out", tmp_path, *few)
    rows = json.loads((tmp_path / "bench_data.json").read_text())["rows"]
    assert [row["name"] for row in rows] == ["bare decoder", *RECIPES[task]]
    assert rows[0]["share"] == 1 and all(row["images_per_second"] > 0 for row in rows)
    assert table.count("\n") == 2 + len(rows)


@needs_torchvision_decoder
def test_bench_data_takes_a_folder_and_workers(tmp_path, bench_data):
    for i in range(4):
        Image.new("RGB", (60 + i, 50)).save(tmp_path / f"{i}.jpg")
    out = tmp_path / "out"
    few = ("--only", "none", "--turns", 1, "--workers", 1)
    table = bench_data("--data", tmp_path, "--out", out, *few)
    rows = json.loads((out / "bench_data.json").read_text())["rows"]
    assert [row["name"] for row in rows] == ["bare decoder", "none"]
    assert rows[1]["with_workers"] > 0 and "| workers |" in table


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            ("--task", "guessing"),
            "bench_data: expected --task to be one of detection, segmentation, cl",
        ),
        (
            ("--only", "nonsense"),
            "bench_data: expected --only to be part of a recipe's name, got non",
        ),
        (("--data", "no/such/folder"), "bench_data: expected JPEG images in no/such/folder, got"),
    ],
)
def test_bench_data_explains_wrong_options(tmp_path, arguments, message, bench_data):
    with pytest.raises(SystemExit, match=message):
        bench_data(*arguments, "--out", tmp_path)
