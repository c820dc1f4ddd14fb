"""Measure size and speed of shards and the memory of labels, for docs/scale.md.

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
    """Measure shards of a dataset on one core."""

    data: Path
    """Folder of the dataset."""
    split: str | None = None
    """Split of the dataset."""
    images: int = 32
    """Number of images to write into shards."""
    seconds: float = 0.5
    """Seconds per measurement; the best of three counts."""


def main() -> None:
    """Run the measurements."""
    import cv2

    arguments = tyro.cli(Arguments, description=__doc__)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    dataset = load_dataset(arguments.data, arguments.split)
    subset = dataset.subset(range(min(len(dataset), arguments.images)))
    count = len(subset)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        write_shards(subset, folder)
        print(f"written: {count / (time.perf_counter() - start):,.0f} images/s")
        shards = ShardDataset(folder)
        shard_bytes = sum(path.stat().st_size for path in Path(folder).glob("*.tar"))
        image_bytes = sum(len(shards.read_image(i)) for i in range(count))
        pixels = np.mean([shards[i][0][0].numel() for i in range(count)])
        print(
            f"per image: {pixels:,.0f} pixels, {image_bytes / count:,.0f} bytes, "
            f"{shard_bytes / count:,.0f} bytes of a shard"
        )
        for name, read in (
            ("decoded from files", subset.__getitem__),
            ("decoded from shards", shards.__getitem__),
            ("read from shards", shards.read_image),
        ):
            print(
                f"{name}: {_measure_rate(read, count, arguments.seconds):,.0f} images/s on one core"
            )
    if isinstance(dataset, DetectionDataset):
        print(_describe_memory(dataset.table))


def _measure_rate(read: Callable[[int], object], count: int, seconds: float) -> float:
    best = 0.0
    for _ in range(3):
        done, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            read(done % count)
            done += 1
        best = max(best, done / (time.perf_counter() - start))
    return best


def _describe_memory(table: LabelTable) -> str:
    """Describe the bytes of a table per image, per object and per mask."""
    image_columns = (table.images, table.image_ids, table.sizes, table.starts)
    images = sum(_size(column) for column in image_columns)
    object_columns = (
        table.boxes,
        table.labels,
        table.rows,
        table.iscrowd,
        table.difficult,
        table.areas,
    )
    objects = max(1, table.num_objects)
    masks = 0 if table.masks is None else _size(table.masks)
    return (
        f"labels in memory: {images / table.num_images:.0f} bytes per image, "
        f"{sum(column.nbytes for column in object_columns) / objects:.0f} per object, "
        f"{masks / objects:.0f} per mask; "
        f"{table.num_objects / table.num_images:.1f} objects per image"
    )


def _size(column: Any) -> int:
    if isinstance(column, PackedList):
        return column._bytes.nbytes + column._starts.nbytes
    return column.nbytes


if __name__ == "__main__":
    main()
