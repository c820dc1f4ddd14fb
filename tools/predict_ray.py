"""Looks for objects in millions of images with Ray Data: on two cores, or on a cluster.

    python tools/predict_ray.py --model runs/ssd/best.pt --source photos/ --out found/
    python tools/predict_ray.py --model runs/ssd/best.pt --source shards/ --out found/ --workers 8
    python tools/predict_ray.py --model best.pt --source list.txt --out found/ --address auto

The source is a folder of images, a folder of shards (`write_shards`), or a text file with one
path in each line. It is cut into parts, always the same for the same source; each worker has one
model and writes its parts as JSON lines or Parquet, each file whole or not at all. Started again,
parts that are there are not done again. An image that cannot be read has a row with its error.
Folders must be visible under the same path on all machines.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from torch import Tensor

from cvlib._files import list_images, read_text, save_json, write_atomically
from cvlib.data import ShardDataset
from cvlib.data.files.images import read_image
from cvlib.data.shards.archive import INDEX, is_index
from cvlib.engine import load


@dataclass(frozen=True)
class Arguments:
    """Looks for objects in millions of images."""

    model: Path
    """Checkpoint of a detector."""
    source: Path
    """Folder of images, folder of shards, or text file with a path in each line."""
    out: Path
    """Folder for the parts."""
    part_size: int = 10_000
    """Images in one part."""
    batch_size: int = 32
    """Images in one forward pass."""
    score_threshold: float = 0.5
    """Least score of an object."""
    format: Literal["jsonl", "parquet"] = "jsonl"
    """Of the parts."""
    workers: int = 2
    """Processes, each with a model of its own."""
    gpus: float = 0
    """GPUs of each worker; 0: the CPU."""
    cores: float = 1
    """CPU cores of each worker."""
    address: str | None = None
    """Of a running Ray cluster, such as auto; unset: this machine alone."""

    def __post_init__(self) -> None:
        for name in ("part_size", "batch_size", "workers"):
            if getattr(self, name) < 1:
                raise ValueError(f"expected {name} >= 1, got {getattr(self, name)}")


class Source:
    """Images by number, from files or from shards.

    Args:
        path: As of the command line.

    Raises:
        FileNotFoundError: Nothing there, or no images.
    """

    def __init__(self, path: Path) -> None:
        self.shards: ShardDataset | None = None
        self.names: list[str] = []
        self.root = path
        if is_index(path / INDEX):
            self.shards = ShardDataset(path)
        elif path.is_dir():
            self.names = list_images(path)
        else:
            lines = read_text(path, "predict_ray", "a list of paths").splitlines()
            self.names = [line.strip() for line in lines if line.strip()]
            self.root = path.parent
        if not len(self):
            raise FileNotFoundError(f"predict_ray: expected images, got {path} without any")

    def __len__(self) -> int:
        return len(self.names) if self.shards is None else len(self.shards)

    def name(self, number: int) -> str:
        """What a row calls the image."""
        return self.names[number] if self.shards is None else self.shards.name(number)

    def read(self, number: int) -> Tensor:
        """The pixels, uint8 (3, H, W).

        Raises:
            ValueError: The image is damaged.
            OSError: It cannot be read.
        """
        if self.shards is None:
            return read_image(self.root / self.names[number])
        return read_image(self.shards.read_image(number))


def plan_parts(arguments: Arguments, count: int) -> list[dict[str, int]]:
    """The parts that are still to be done.

    Writes ``plan.json``, which says what the parts are of.

    Raises:
        ValueError: The folder holds parts of another source, model or settings.
    """
    weights = hashlib.sha256(arguments.model.read_bytes()).hexdigest()
    plan = {
        "source": str(arguments.source.absolute()),
        "images": count,
        "part_size": arguments.part_size,
        "score_threshold": arguments.score_threshold,
        "format": arguments.format,
        "model_sha256": weights,
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / "plan.json"
    if path.exists():
        before = json.loads(read_text(path, "predict_ray", "a JSON file"))
        changed = [name for name, value in plan.items() if before.get(name) != value]
        if changed:
            raise ValueError(
                f"predict_ray: expected the plan of the parts in {arguments.out}, got another "
                f"{', '.join(changed)}; choose another folder"
            )
    else:
        save_json(path, plan)
    size = arguments.part_size
    parts = [
        {"part": number, "first": number * size, "last": min(count, (number + 1) * size)}
        for number in range(math.ceil(count / size))
    ]
    return [part for part in parts if not part_path(arguments, part["part"]).exists()]


def part_path(arguments: Arguments, part: int) -> Path:
    """The file of a part."""
    return arguments.out / f"part-{part:08d}.{arguments.format}"


class Worker:
    """One model and its part of the work; Ray makes one in each process."""

    def __init__(self, arguments: Arguments) -> None:
        self.arguments = arguments
        torch.set_num_threads(max(1, int(arguments.cores)))
        self.source = Source(arguments.source)
        self.model = load(arguments.model, "cuda" if arguments.gpus else "cpu")
        if self.model.task != "detection":
            raise ValueError(f"predict_ray: expected a detector, got one for {self.model.task}")

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[int]]:
        """Does some parts; gives their numbers, images and damaged images."""
        done: dict[str, list[int]] = {"part": [], "images": [], "damaged": []}
        for number, first, last in zip(batch["part"], batch["first"], batch["last"], strict=True):
            rows = list(self.look(int(first), int(last)))
            path = part_path(self.arguments, int(number))
            write_atomically(path, encode(rows, self.arguments.format))
            done["part"].append(int(number))
            done["images"].append(len(rows))
            done["damaged"].append(sum(row["error"] is not None for row in rows))
        return done

    def look(self, first: int, last: int) -> Iterator[dict[str, Any]]:
        """Rows of the images ``first`` to ``last - 1``, in their order."""
        size = self.arguments.batch_size
        for start in range(first, last, size):
            yield from self._look(range(start, min(last, start + size)))

    def _look(self, numbers: range) -> list[dict[str, Any]]:
        images, rows = [], []
        for number in numbers:
            row: dict[str, Any] = {"index": number, "image": self.source.name(number)}
            try:
                images.append(self.source.read(number))
                rows.append(row | {"error": None})
            except (OSError, ValueError) as error:
                rows.append(row | EMPTY | {"error": str(error)})
        found = iter(self.model.predict(images, score_threshold=self.arguments.score_threshold))
        sizes = iter(images)
        for row in rows:
            if row["error"] is None:
                one, image = next(found), next(sizes)
                row["height"], row["width"] = image.shape[1:]
                row["boxes"], row["scores"] = one.boxes.tolist(), one.scores.tolist()
                row["classes"] = [one.classes[label] for label in one.labels.tolist()]
        return rows


EMPTY: dict[str, Any] = {"height": None, "width": None, "boxes": [], "scores": [], "classes": []}


def encode(rows: list[dict[str, Any]], format: str) -> bytes:
    """The content of a part."""
    if format == "jsonl":
        return "".join(json.dumps(row) + "\n" for row in rows).encode()
    import pyarrow as pa
    import pyarrow.parquet as pq

    boxes = pa.list_(pa.list_(pa.float32()))
    columns = {"index": pa.int64(), "image": pa.string(), "height": pa.int32()} | {
        "width": pa.int32(), "boxes": boxes, "scores": pa.list_(pa.float32()),
        "classes": pa.list_(pa.string()), "error": pa.string(),
    }  # fmt: skip
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=pa.schema(list(columns.items()))), buffer)
    return buffer.getvalue()


def run_on_ray(arguments: Arguments, parts: list[dict[str, int]]) -> tuple[int, int]:
    """Does the parts on Ray; gives the numbers of images and of damaged ones."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # Ray would report home
    # Ray takes away the GPUs of workers that ask for none; a future version will not.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    cores = None if arguments.address else math.ceil(arguments.workers * arguments.cores)
    ray.init(
        address=arguments.address,
        num_cpus=cores,
        include_dashboard=False if arguments.address is None else None,
        log_to_driver=False,
    )
    try:
        ray.data.DataContext.get_current().enable_progress_bars = sys.stderr.isatty()
        # One block for each part: a slow one keeps no other waiting.
        done = ray.data.from_items(parts, override_num_blocks=len(parts)).map_batches(
            Worker,
            fn_constructor_args=(arguments,),
            batch_size=1,
            concurrency=min(arguments.workers, len(parts)),
            num_cpus=arguments.cores,
            num_gpus=arguments.gpus,
        )
        rows = done.take_all()
    finally:
        ray.shutdown()
    return sum(row["images"] for row in rows), sum(row["damaged"] for row in rows)


def main() -> None:
    """Runs the script."""
    arguments = tyro.cli(Arguments, description=__doc__)
    count = len(Source(arguments.source))
    parts = plan_parts(arguments, count)
    print(f"{count:,} images, {len(parts)} parts to do")
    images, damaged = run_on_ray(arguments, parts) if parts else (0, 0)
    print(f"{images:,} images done, {damaged} of them cannot be read; parts in {arguments.out}")


if __name__ == "__main__":
    try:
        main()
    except (ValueError, TypeError, OSError) as error:
        sys.exit(f"predict_ray: {error}")
