"""Measures what docs/scale.md works with: bytes and speed of shards, memory of labels.

python tools/bench_shards.py --data tiny-coco --split train
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from cvlib.data import DetectionDataset, ShardDataset, load_dataset, write_shards
from cvlib.data.labels.table import LabelTable, PackedList


@dataclass(frozen=True)
class Arguments:
    """Measures shards of a data set on one core."""

    data: Path
    """Folder of the data set."""
    split: str | None = None
    """Part of it."""
    images: int = 32
    """Of which the shards are made."""
    seconds: float = 0.5
    """Of one measurement; the best of three counts."""


def main() -> None:
    """Runs the script."""
    import cv2

    arguments = tyro.cli(Arguments, description=__doc__)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    dataset = load_dataset(arguments.data, arguments.split)
    part = dataset.subset(range(min(len(dataset), arguments.images)))
    count = len(part)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        write_shards(part, folder)
        print(f"written: {count / (time.perf_counter() - start):,.0f} images/s")
        shards = ShardDataset(folder)
        whole = sum(path.stat().st_size for path in Path(folder).glob("*.tar"))
        own = sum(len(shards.read_image(i)) for i in range(count))
        pixels = np.mean([shards[i][0][0].numel() for i in range(count)])
        print(f"an image: {pixels:,.0f} pixels, {own / count:,.0f} bytes, "
              f"{whole / count:,.0f} bytes of a shard")  # fmt: skip
        for name, read in (
            ("decoded from files", part.__getitem__),
            ("decoded from shards", shards.__getitem__),
            ("read from shards", shards.read_image),
        ):
            print(f"{name}: {_rate(read, count, arguments.seconds):,.0f} images/s on one core")
    if isinstance(dataset, DetectionDataset):
        print(_describe(dataset.table))


def _rate(read: Callable[[int], object], count: int, seconds: float) -> float:
    best = 0.0
    for _ in range(3):
        done, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            read(done % count)
            done += 1
        best = max(best, done / (time.perf_counter() - start))
    return best


def _describe(table: LabelTable) -> str:
    """Bytes of a table: everything with an entry for each image, each object, each mask."""
    kept = (table.images, table.image_ids, table.sizes, table.starts)
    images = sum(_size(column) for column in kept)
    columns = (table.boxes, table.labels, table.rows, table.iscrowd, table.difficult, table.areas)
    things = max(1, table.num_objects)
    masks = 0 if table.masks is None else _size(table.masks)
    return (
        f"labels in memory: {images / table.num_images:.0f} bytes for an image, "
        f"{sum(c.nbytes for c in columns) / things:.0f} for an object, "
        f"{masks / things:.0f} for a mask; "
        f"{table.num_objects / table.num_images:.1f} objects on an image"
    )


def _size(column: Any) -> int:
    if isinstance(column, PackedList):
        return column._bytes.nbytes + column._starts.nbytes
    return column.nbytes


if __name__ == "__main__":
    main()
