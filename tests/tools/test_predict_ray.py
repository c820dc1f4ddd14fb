"""Bulk prediction: rows equal those of `predict`, parts are complete, damage is recorded."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cvlib.data import SyntheticBananas, write_shards
from cvlib.engine.checkpoint import save_checkpoint
from cvlib.engine.run_folder import describe_model
from cvlib.models import TinySSD
from cvlib.predict import predict

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import predict_ray  # noqa: E402

THRESHOLD = 0.001  # the model is not trained


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Five images, one of them damaged, undamaged copies in shards, and a model."""
    folder = tmp_path_factory.mktemp("ray")
    (folder / "photos").mkdir()
    bananas = SyntheticBananas(5, image_size=64)
    for i in range(5):
        pixels = bananas[i][0].permute(1, 2, 0).numpy()
        Image.fromarray(np.ascontiguousarray(pixels)).save(folder / "photos" / f"{i}.png")
    (folder / "photos" / "2.png").write_bytes(b"no image")
    write_shards(bananas, folder / "shards", per_shard=2, log=lambda line: None)
    torch.manual_seed(0)
    model = TinySSD(("banana",), (64, 64))
    state = {**describe_model(model), "model": model.state_dict()}
    save_checkpoint(folder / "best.pt", state)
    return folder


def options(folder, out, **changes):
    given = {"model": folder / "best.pt", "source": folder / "photos", "out": out}
    return predict_ray.Arguments(
        **given | {"part_size": 2, "batch_size": 2, "score_threshold": THRESHOLD} | changes
    )


def work(arguments):
    """Process all parts one after another in this process."""
    threads = torch.get_num_threads()
    try:
        worker = predict_ray.Worker(arguments)
        parts = predict_ray.plan_parts(arguments, len(worker.source))
        return [worker({name: [value] for name, value in part.items()}) for part in parts]
    finally:
        torch.set_num_threads(threads)


def read(out):
    lines = [p.read_text().splitlines() for p in sorted(out.glob("part-*"))]
    return [json.loads(line) for part in lines for line in part]


def check(rows, folder):
    """Compare rows with `predict`, image by image."""
    from cvlib.engine import load

    damaged = []
    results = {
        frame.path.name: one
        for frame, one in predict(
            load(folder / "best.pt"),
            folder / "photos",
            score_threshold=THRESHOLD,
            on_damaged=lambda path, error: damaged.append(path.name),
        )
    }
    assert [row["image"] for row in rows] == [f"{i}.png" for i in range(5)]
    assert [row["image"] for row in rows if row["error"]] == damaged == ["2.png"]
    assert sum(len(one) for one in results.values()) > 0
    for row in rows:
        if row["error"] is None:
            one = results[row["image"]]
            boxes = torch.tensor(row["boxes"]).reshape(-1, 4)
            torch.testing.assert_close(boxes, one.boxes, rtol=1e-4, atol=1e-3)
            torch.testing.assert_close(torch.tensor(row["scores"]), one.scores)
            assert set(row["classes"]) <= {"banana"}


def test_rows_are_those_of_predict(folder, tmp_path):
    done = work(options(folder, tmp_path / "out"))
    assert [one["images"] for one in done] == [[2], [2], [1]]
    assert [one["damaged"] for one in done] == [[0], [1], [0]]
    check(read(tmp_path / "out"), folder)


def test_parts_that_are_there_are_not_done_again(folder, tmp_path):
    arguments = options(folder, tmp_path / "out")
    work(arguments)
    kept = tmp_path / "out" / "part-00000001.jsonl"
    gone = tmp_path / "out" / "part-00000000.jsonl"
    before, kept_at = gone.read_bytes(), kept.stat().st_mtime_ns
    gone.unlink()
    assert [one["part"] for one in work(arguments)] == [[0]]
    assert gone.read_bytes() == before and kept.stat().st_mtime_ns == kept_at
    assert work(arguments) == []


def test_shards_and_lists_are_sources_too(folder, tmp_path):
    work(options(folder, tmp_path / "shards", source=folder / "shards"))
    (folder / "list.txt").write_text("photos/3.png\n\nphotos/0.png\n")
    work(options(folder, tmp_path / "list", source=folder / "list.txt"))
    shards, listed = read(tmp_path / "shards"), read(tmp_path / "list")
    assert len(shards) == 5 and ".tar:" in shards[0]["image"]
    for one, other in ((3, 0), (0, 1)):
        pair = [torch.tensor(row["boxes"]) for row in (shards[one], listed[other])]
        torch.testing.assert_close(*pair, rtol=1e-4, atol=1e-3)


def test_parquet_has_the_same_rows(folder, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    work(options(folder, tmp_path / "p", format="parquet"))
    work(options(folder, tmp_path / "j"))
    paths = sorted((tmp_path / "p").glob("*.parquet"))
    rows = [row for path in paths for row in parquet.read_table(path).to_pylist()]
    expected = read(tmp_path / "j")
    assert [row["image"] for row in rows] == [row["image"] for row in expected]
    assert [len(row["boxes"]) for row in rows] == [len(row["boxes"]) for row in expected]


def test_parts_of_something_else_are_refused(folder, tmp_path):
    work(options(folder, tmp_path / "out"))
    with pytest.raises(
        ValueError, match=r"predict_ray: expected the settings .* another part_size"
    ):
        work(options(folder, tmp_path / "out", part_size=3))


def test_messages(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="predict_ray: expected `source` with images"):
        predict_ray.Source(tmp_path / "empty")
    with pytest.raises(ValueError, match="expected `part_size` >= 1, got 0"):
        options(folder, tmp_path, part_size=0)


@pytest.mark.slow
def test_two_workers_on_ray(folder, tmp_path):
    pytest.importorskip("ray")
    command = [sys.executable, ROOT / "tools" / "predict_ray.py", "--workers", "2"]
    for name, value in (("model", "best.pt"), ("source", "photos")):
        command += [f"--{name}", folder / value]
    command += ["--out", tmp_path / "out", "--part-size", "1", "--score-threshold", str(THRESHOLD)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "5 images done, 1 of them unreadable" in done.stdout
    check(read(tmp_path / "out"), folder)
    repeated = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert "5 images, 0 parts to do" in repeated.stdout
