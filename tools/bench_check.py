"""Benchmark the label doctor: images per second for labels and headers, and with every pixel read.

python tools/bench_check.py                    # a synthetic dataset
python tools/bench_check.py my/data            # your own dataset
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from cvlib.data.check import check_dataset
from cvlib.data.formats.in_memory import read_lists
from cvlib.data.labels.rules import find_bad_labels

OBJECTS = 5
SIZE = (480, 640)


def write_dataset(folder: Path, count: int) -> None:
    """Write a COCO dataset of JPEGs, 64 of them distinct, whose sizes only their headers hold."""
    rng = np.random.default_rng(0)
    height, width = SIZE
    (folder / "images").mkdir()
    contents = []
    for number in range(min(64, count)):
        coarse = rng.integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8)
        path = folder / f"images/{number:06}.jpg"
        Image.fromarray(coarse).resize((width, height)).save(path, quality=90)
        contents.append(path.read_bytes())
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    for number in range(count):
        name = f"{number:06}.jpg"
        # Trailing bytes after the end of the JPEG make each file unique.
        data = contents[number % len(contents)] + f"{number}".encode()
        (folder / "images" / name).write_bytes(data)
        images.append({"id": number, "file_name": name})
        corners = rng.random((OBJECTS, 2)) * (width / 2, height / 2)
        sides = 20 + rng.random((OBJECTS, 2)) * (width / 3, height / 3)
        for box in np.concatenate([corners, sides], axis=1).round(1).tolist():
            annotation = {"id": len(annotations), "image_id": number, "category_id": 1}
            annotations.append({**annotation, "bbox": box})
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "object"}],
    }
    (folder / "instances.json").write_text(json.dumps(content))


def measure(path: Path, repeats: int) -> None:
    """Print the best of ``repeats`` runs of each form, with a warm cache."""
    print(path)
    for name, fast in (("labels and headers", True), ("every pixel", False)):
        best, count = float("inf"), 0
        for _ in range(repeats):
            start = time.perf_counter()
            summary = check_dataset(path, fast=fast, progress=False).summary
            best = min(best, time.perf_counter() - start)
            splits = [summary, *summary.get("others", {}).values()]
            count = sum(split["images"] for split in splits)
        print(f"  {name}: {count:,} images in {best:.2f} s, {count / best:,.0f} images/s")


def measure_rules(objects: int, repeats: int) -> None:
    """Print the time that the label rules take on a table in memory."""
    rng = np.random.default_rng(0)
    corners = rng.random((objects, 2)) * 300
    boxes = np.concatenate([corners, corners + 20 + rng.random((objects, 2)) * 150], axis=1)
    images = objects // 10
    labels = rng.integers(0, 20, (images, 10))
    names = [f"{number}.jpg" for number in range(images)]
    classes = [str(number) for number in range(20)]
    table = read_lists(
        names, list(boxes[: images * 10].reshape(images, 10, 4)), list(labels), classes
    )
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        find_bad_labels(table)
        best = min(best, time.perf_counter() - start)
    print(f"label rules: {table.num_objects:,} objects in {best:.2f} s")


def main() -> None:
    """Run the benchmark, on a synthetic dataset by default."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("data", nargs="?", type=Path, help="dataset; synthetic by default")
    parser.add_argument("--images", type=int, default=2000, help="size of the synthetic dataset")
    parser.add_argument(
        "--objects", type=int, default=1_000_000, help="objects for the label rules"
    )
    parser.add_argument("--repeats", type=int, default=3, help="runs, of which the best counts")
    arguments = parser.parse_args()
    measure_rules(arguments.objects, arguments.repeats)
    if arguments.data is not None:
        measure(arguments.data, arguments.repeats)
        return
    with tempfile.TemporaryDirectory() as folder:
        write_dataset(Path(folder), arguments.images)
        measure(Path(folder), arguments.repeats)


if __name__ == "__main__":
    main()
