"""Benchmark transforms and batches against decoding alone.

    python tools/bench_data.py
    python tools/bench_data.py --data images/ --only ssd --workers 2

Contestants take turns in one process on one thread: the bare decoder (torchvision's, on JPEG files
in memory) and, for each recipe, reading, decoding, transform and batch as in training. Freed memory
is kept for all of them, as in `cvlib train`; otherwise page faults of the system would dominate at
random. Speeds are medians over the turns, shares are medians of the ratios within each turn. With
--workers, a DataLoader then loads the batches of each recipe.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import torch
import tyro
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.io import decode_jpeg
from torchvision.transforms import v2
from tqdm.auto import tqdm

from cvlib.data import SyntheticBananas, collate
from cvlib.data.files.images import read_image
from cvlib.data.transforms import RECIPES, TransformedDataset, make_transform
from cvlib.engine.memory import keep_freed_memory
from cvlib.visualize.drawing import to_pil

HEIGHT, WIDTH, QUALITY = 480, 640, 90


@dataclass(frozen=True)
class Arguments:
    """Benchmark transforms and batches against decoding alone."""

    data: Path | None = None
    """Folder of JPEG images, each with one invented object. By default synthetic bananas, 640 x 480
    pixels, in a temporary folder."""
    only: str = ""
    """Measure only recipes whose name contains this text."""
    task: str = "detection"
    """Task whose recipes are measured."""
    image_size: tuple[int, int] = (300, 300)
    """Height and width of the transformed images."""
    images: int = 64
    """Images per turn."""
    batch_size: int = 16
    """Images per batch."""
    turns: int = 7
    """Turns of each contestant, after one that is not counted."""
    workers: int = 0
    """Processes of the DataLoader; 0 skips this measurement."""
    out: Path = Path("runs/bench")
    """Folder for bench_data.json."""


class Images(Dataset[Any]):
    """JPEG files with boxes, class masks or labels."""

    classes = ("object",)

    def __init__(self, files: list[Path], targets: list[dict[str, Any]], task: str) -> None:
        self.files, self.targets, self.task = files, targets, task

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        return tv_tensors.Image(read_image(self.files[index])), dict(self.targets[index])


def draw_images(folder: Path, count: int) -> tuple[list[Path], list[Any]]:
    """Write synthetic bananas as JPEG files of 640 x 480 pixels; return files and boxes."""
    drawn = SyntheticBananas(count, image_size=WIDTH)
    crop = v2.Compose([v2.CenterCrop((HEIGHT, WIDTH)), v2.SanitizeBoundingBoxes()])
    files, boxes = [], []
    for i in tqdm(range(count), desc="drawing", unit="image", leave=False, disable=None):
        image, target = drawn[i]
        image, kept = crop(image, {name: target[name] for name in ("boxes", "labels")})
        files.append(folder / f"{i:05}.jpg")
        to_pil(image).save(files[-1], quality=QUALITY)
        boxes.append(kept["boxes"])
    return files, boxes


def find_images(folder: Path, count: int) -> tuple[list[Path], list[Any]]:
    """Return JPEG files of a folder and, for each, one box in the middle."""
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg"))[:count]
    if not files:
        raise FileNotFoundError(f"bench_data: expected JPEG images in {folder}, got none")
    boxes = []
    for file in files:
        with Image.open(file) as image:
            width, height = image.size
        middle = torch.tensor([[width / 4, height / 4, width * 3 / 4, height * 3 / 4]])
        boxes.append(tv_tensors.BoundingBoxes(middle, format="XYXY", canvas_size=(height, width)))
    return files, boxes


def make_target(boxes: Any, image_id: int, task: str) -> dict[str, Any]:
    """Build a target of the task from boxes."""
    if task == "classification":
        return {"label": torch.tensor(0), "image_id": image_id}
    height, width = boxes.canvas_size
    if task == "segmentation":
        mask = torch.zeros(height, width, dtype=torch.uint8)
        return {"mask": tv_tensors.Mask(mask), "image_id": image_id}
    plain = boxes.as_subclass(torch.Tensor)
    return {
        "boxes": boxes,
        "labels": torch.zeros(len(boxes), dtype=torch.int64),
        "image_id": image_id,
        "area": (plain[:, 2] - plain[:, 0]) * (plain[:, 3] - plain[:, 1]),
        "iscrowd": torch.zeros(len(boxes), dtype=torch.int64),
    }


def load_epoch(dataset: TransformedDataset, epoch: int, batch_size: int) -> None:
    """Load all batches of an epoch in this process."""
    for start in range(0, len(dataset), batch_size):
        stop = min(start + batch_size, len(dataset))
        collate(dataset.__getitems__([(epoch, index) for index in range(start, stop)]))


def measure(contestants: dict[str, Callable[[int], None]], turns: int) -> dict[str, list[float]]:
    """Return the seconds of each contestant and turn, without the first turn."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in tqdm(range(turns + 1), unit="turn", disable=None):
        for name, run in contestants.items():
            start = time.perf_counter()
            run(turn)
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def measure_workers(dataset: TransformedDataset, arguments: Arguments) -> float:
    """Return the images per second of a DataLoader after its first batch."""
    size = len(dataset)
    items = [(epoch, index) for epoch in range(arguments.turns + 1) for index in range(size)]
    loader = DataLoader(
        dataset,
        min(arguments.batch_size, size),
        sampler=items,
        collate_fn=collate,
        num_workers=arguments.workers,
    )
    batches = iter(loader)
    next(batches)
    start = time.perf_counter()
    count = sum(len(images) for images, _ in batches)
    return count / (time.perf_counter() - start)


def main() -> None:
    """Run the benchmark."""
    arguments = tyro.cli(Arguments, description=__doc__)
    if arguments.task not in RECIPES:
        raise ValueError(
            f"bench_data: expected --task to be one of {', '.join(RECIPES)}, got {arguments.task}"
        )
    if not any(arguments.only in name for name in RECIPES[arguments.task]):
        raise ValueError(
            f"bench_data: expected --only to be part of a recipe's name, got {arguments.only}"
        )
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.data is None:
            files, boxes = draw_images(Path(folder), arguments.images)
        else:
            files, boxes = find_images(arguments.data, arguments.images)
        targets = [make_target(b, i, arguments.task) for i, b in enumerate(boxes)]
        report = compare(Images(files, targets, arguments.task), arguments)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "bench_data.json").write_text(json.dumps(report, indent=2) + "\n")


def compare(images: Images, arguments: Arguments) -> dict[str, Any]:
    """Measure and print the decoder and all recipes."""
    encoded = [
        torch.frombuffer(bytearray(file.read_bytes()), dtype=torch.uint8) for file in images.files
    ]

    def decode(turn: int) -> None:
        for data in encoded:
            decode_jpeg(data)

    datasets = {
        name: TransformedDataset(
            images, make_transform(name, arguments.task, arguments.image_size, train=True)
        )
        for name in RECIPES[arguments.task]
        if arguments.only in name
    }
    contestants: dict[str, Callable[[int], None]] = {"bare decoder": decode}
    for name, dataset in datasets.items():
        contestants[name] = lambda turn, d=dataset: load_epoch(d, turn, arguments.batch_size)  # type: ignore[misc]
    seconds = measure(contestants, arguments.turns)
    rows = []
    has_workers = arguments.workers > 0
    print("| contestant | images/s | share of the bare decoder |" + " workers |" * has_workers)
    print("|---|---|---|" + "---|" * has_workers)
    for name, times in seconds.items():
        speed = len(images) / statistics.median(times)
        share = statistics.median(
            bare / own for bare, own in zip(seconds["bare decoder"], times, strict=True)
        )
        row: dict[str, Any] = {"name": name, "images_per_second": speed, "share": share}
        line = f"| {name} | {speed:.0f} | {share:.0%} |"
        if has_workers and name in datasets:
            row["with_workers"] = measure_workers(datasets[name], arguments)
            line += f" {row['with_workers']:.0f} |"
        rows.append(row)
        print(line)
    settings = {name: str(value) for name, value in asdict(arguments).items()}
    return {"settings": settings, "rows": rows, "torch": torch.__version__}


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(str(error))
