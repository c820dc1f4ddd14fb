"""Draw the images of docs/gallery.

    python tools/make_gallery.py --run runs/ssd

Without --run, images that need a trained model are not redrawn.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors

from cvlib.data import SyntheticBananas, collate
from cvlib.data.transforms import RECIPES
from cvlib.engine import load
from cvlib.geometry.view import VOID
from cvlib.models import TinySSD
from cvlib.structures import GroundTruth
from cvlib.visualize import (
    draw_truth,
    show_anchors,
    show_batch,
    show_targets,
    show_transforms,
)
from cvlib.visualize.results import draw_comparison

# Differs from the seeds of all training runs.
GALLERY_SEED = 2_000_000
COLUMNS, ROWS = 4, 2
MARGIN = 4
IMAGE_SIZE = (192, 192)
# Number of samples in a batch, and their sides in pixels.
SAMPLES, SAMPLE_SIZE = 8, 360
# Keeps the repository small.
MAX_FILE_BYTES = 150_000


@dataclass(frozen=True)
class Arguments:
    """Draw the images of docs/gallery."""

    run: Path | None = None
    """Run folder of tools/train_ssd.py on synthetic bananas."""
    out: Path = Path("docs/gallery")
    """Folder for the images."""


class Bananas(Dataset[Any]):
    """Synthetic bananas as samples of any task; in class masks a strip on the right is void."""

    def __init__(self, task: str) -> None:
        self.drawn = SyntheticBananas(
            2 * SAMPLES, image_size=SAMPLE_SIZE, seed=GALLERY_SEED, masks=True
        )
        self.task = task
        self.classes: tuple[str, ...] = (
            ("background", "banana") if task == "segmentation" else ("banana",)
        )

    def __len__(self) -> int:
        return len(self.drawn)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        image, target = self.drawn[index]
        if self.task == "classification":
            return image, {"label": torch.tensor(0), "image_id": index}
        if self.task == "detection":
            return image, target
        masks = target["masks"].as_subclass(Tensor)
        mask = (masks.sum(0) > 0).to(torch.uint8)
        mask[:, -SAMPLE_SIZE // 40 :] = VOID
        return image, {"mask": tv_tensors.Mask(mask), "image_id": index}


def tile(images: list[Image.Image]) -> Image.Image:
    """Arrange images of one size in a grid."""
    width, height = images[0].size
    size = (COLUMNS * (width + MARGIN) + MARGIN, ROWS * (height + MARGIN) + MARGIN)
    grid = Image.new("RGB", size, "#202020")
    for i, image in enumerate(images):
        x, y = i % COLUMNS * (width + MARGIN), i // COLUMNS * (height + MARGIN)
        grid.paste(image, (x + MARGIN, y + MARGIN))
    return grid


def save(image: Image.Image, path: Path) -> None:
    """Write a small PNG: two thirds of the size, 128 colours."""
    small = image.resize((image.width * 2 // 3, image.height * 2 // 3))
    small.quantize(128).save(path, optimize=True)


def save_jpeg(image: Image.Image, path: Path) -> None:
    """Write a JPEG in the best quality whose file is small enough."""
    for quality in range(88, 30, -6):
        image.save(path, quality=quality, optimize=True)
        if path.stat().st_size <= MAX_FILE_BYTES:
            return


def unpad(boxes: Tensor, labels: Tensor, size: tuple[int, int]) -> list[GroundTruth]:
    """Return the ground truth of each image without padding."""
    return [GroundTruth(b[k >= 0], k[k >= 0], size) for b, k in zip(boxes, labels, strict=True)]


def draw_recipes(out: Path) -> None:
    """Draw one sample transformed by every recipe of every task."""
    for task, recipes in RECIPES.items():
        bananas = Bananas(task)
        index = max(range(len(bananas)), key=lambda i: len(bananas.drawn[i][1]["labels"]))
        for recipe in recipes:
            sheet = show_transforms(bananas, index, recipe, image_size=IMAGE_SIZE)
            save_jpeg(sheet, out / f"{task}_{recipe}.jpg")


def draw_samples(out: Path) -> None:
    """Draw a batch, the anchors of TinySSD and their targets."""
    bananas = Bananas("detection")
    samples = [bananas[i] for i in range(SAMPLES)]
    save_jpeg(show_batch(*collate(samples), bananas.classes), out / "batch.jpg")
    model = TinySSD(bananas.classes)
    image, target = max(samples, key=lambda sample: len(sample[1]["labels"]))
    save_jpeg(show_anchors(model, image), out / "anchors.jpg")
    save_jpeg(show_targets(model, image, target, classes=bananas.classes), out / "targets.jpg")


def main() -> None:
    """Run the script."""
    arguments = tyro.cli(Arguments, description=__doc__)
    arguments.out.mkdir(parents=True, exist_ok=True)
    dataset = SyntheticBananas(COLUMNS * ROWS, seed=GALLERY_SEED)
    images, targets = collate([dataset[i] for i in range(len(dataset))])
    boxes, labels = targets["boxes"], targets["labels"]
    size = (images.shape[2], images.shape[3])
    truths = unpad(boxes, labels, size)
    pairs = zip(images, truths, strict=True)
    save(tile([draw_truth(*pair) for pair in pairs]), arguments.out / "synthetic.png")
    draw_recipes(arguments.out)
    draw_samples(arguments.out)
    if arguments.run is not None:
        detections: Any = load(arguments.run).predict(list(images))
        save(draw_comparison(list(images), truths, detections), arguments.out / "predictions.png")
        shutil.copy(arguments.run / "curves.png", arguments.out / "curves.png")
    written = (p.name for p in arguments.out.iterdir() if p.suffix in (".png", ".jpg"))
    print(f"wrote {', '.join(sorted(written))}")


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"make_gallery: {error}")
