"""Detect objects in millions of images with Ray Data, on one machine or a cluster.

    python tools/predict_ray.py --model runs/ssd/best.pt --source photos/ --out found/
    python tools/predict_ray.py --model runs/ssd/best.pt --source shards/ --out found/ --workers 8
    python tools/predict_ray.py --model best.pt --source list.txt --out found/ --address auto

The source is a folder of images, a folder of shards (`write_shards`), or a text file with one path
per line. It is divided into parts, which depend on nothing but the source and --part-size. Each
worker has one model and writes its parts as JSON lines or Parquet, each file atomically. A second
start skips the parts that are done. An image that cannot be read has a row with its error. Folders
must have the same path on all machines.
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
    """Detect objects in millions of images."""

    model: Path
    """Checkpoint of a detector."""
    source: Path
    """Folder of images, folder of shards, or text file with one path per line."""
    out: Path
    """Folder for the parts."""
    part_size: int = 10_000
    """Images per part."""
    batch_size: int = 32
    """Images per forward pass."""
    score_threshold: float = 0.5
    """Lowest score of an object, in [0, 1]."""
    format: Literal["jsonl", "parquet"] = "jsonl"
    """File format of the parts."""
    workers: int = 2
    """Processes, each with its own model."""
    gpus: float = 0
    """GPUs per worker; 0 uses the CPU."""
    cores: float = 1
    """CPU cores per worker."""
    address: str | None = None
    """Address of a running Ray cluster, such as auto. By default only this machine."""

    def __post_init__(self) -> None:
        for name in ("part_size", "batch_size", "workers"):
            if getattr(self, name) < 1:
                raise ValueError(f"expected `{name}` >= 1, got {getattr(self, name)}")


class Source:
    """Images by number, from files or from shards.

    Args:
        path: Folder of images, folder of shards, or text file with one path per line.

    Raises:
        FileNotFoundError: `path` does not exist or holds no images.
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
            raise FileNotFoundError(
                f"predict_ray: expected `source` with images, got none in {path}"
            )

    def __len__(self) -> int:
        return len(self.names) if self.shards is None else len(self.shards)

    def name(self, number: int) -> str:
        """Return the name of an image in the results."""
        return self.names[number] if self.shards is None else self.shards.name(number)

    def read(self, number: int) -> Tensor:
        """Return the pixels of an image, uint8 (3, H, W).

        Raises:
            ValueError: The image is damaged.
            OSError: The image cannot be read.
        """
        if self.shards is None:
            return read_image(self.root / self.names[number])
        return read_image(self.shards.read_image(number))


def plan_parts(arguments: Arguments, count: int) -> list[dict[str, int]]:
    """Return the parts that remain to be done, and write ``plan.json``.

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
                f"predict_ray: expected the settings of the parts in {arguments.out}, got another "
                f"{', '.join(changed)}; choose another folder with --out"
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
    """Return the path of a part."""
    return arguments.out / f"part-{part:08d}.{arguments.format}"


class Worker:
    """A model and its share of the work. Ray creates one per process."""

    def __init__(self, arguments: Arguments) -> None:
        self.arguments = arguments
        torch.set_num_threads(max(1, int(arguments.cores)))
        self.source = Source(arguments.source)
        self.model = load(arguments.model, "cuda" if arguments.gpus else "cpu")
        if self.model.task != "detection":
            raise ValueError(
                f"predict_ray: expected `model` to be a detector, got task {self.model.task}"
            )

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[int]]:
        """Write some parts; return their numbers, images and damaged images."""
        done: dict[str, list[int]] = {"part": [], "images": [], "damaged": []}
        for number, first, last in zip(batch["part"], batch["first"], batch["last"], strict=True):
            rows = list(self.iter_rows(int(first), int(last)))
            path = part_path(self.arguments, int(number))
            write_atomically(path, encode(rows, self.arguments.format))
            done["part"].append(int(number))
            done["images"].append(len(rows))
            done["damaged"].append(sum(row["error"] is not None for row in rows))
        return done

    def iter_rows(self, first: int, last: int) -> Iterator[dict[str, Any]]:
        """Yield the rows of the images ``first`` to ``last - 1``, in order."""
        size = self.arguments.batch_size
        for start in range(first, last, size):
            yield from self._detect_batch(range(start, min(last, start + size)))

    def _detect_batch(self, numbers: range) -> list[dict[str, Any]]:
        images, rows = [], []
        for number in numbers:
            row: dict[str, Any] = {"index": number, "image": self.source.name(number)}
            try:
                images.append(self.source.read(number))
                rows.append(row | {"error": None})
            except (OSError, ValueError) as error:
                rows.append(row | EMPTY | {"error": str(error)})
        results: Any = self.model.predict(images, score_threshold=self.arguments.score_threshold)
        readable = [row for row in rows if row["error"] is None]
        for row, image, result in zip(readable, images, results, strict=True):
            row["height"], row["width"] = image.shape[1:]
            row["boxes"], row["scores"] = result.boxes.tolist(), result.scores.tolist()
            row["classes"] = [result.classes[label] for label in result.labels.tolist()]
        return rows


EMPTY: dict[str, Any] = {"height": None, "width": None, "boxes": [], "scores": [], "classes": []}


def encode(rows: list[dict[str, Any]], format: str) -> bytes:
    """Return the content of a part."""
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
    """Process the parts on Ray; return the numbers of images and of damaged images."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # no usage reports to Ray
    # Otherwise Ray hides the GPUs from workers that request none; future versions will not.
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
        # One block per part, so that a slow part does not delay others.
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
    """Run the script."""
    arguments = tyro.cli(Arguments, description=__doc__)
    count = len(Source(arguments.source))
    parts = plan_parts(arguments, count)
    print(f"{count:,} images, {len(parts)} parts to do")
    images, damaged = run_on_ray(arguments, parts) if parts else (0, 0)
    print(f"{images:,} images done, {damaged} of them unreadable; parts in {arguments.out}")


if __name__ == "__main__":
    try:
        main()
    except (ValueError, TypeError, OSError) as error:
        sys.exit(f"predict_ray: {error}")
