"""Draws the pictures of docs/gallery.

    python tools/make_gallery.py --run runs/ssd

Without --run, the pictures that need a trained model are left as they are.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from PIL import Image
from torch import Tensor

from cvlib.data import SyntheticBananas, collate
from cvlib.data.augment import augment_batch
from cvlib.engine import load
from cvlib.metrics import GroundTruth
from cvlib.predict import detect
from cvlib.visualize import draw_comparison, draw_truth

# Pictures that no training run has seen.
GALLERY_SEED = 2_000_000
COLUMNS, ROWS = 4, 2
MARGIN = 4


@dataclass(frozen=True)
class Arguments:
    """Draws the pictures of docs/gallery."""

    run: Path | None = None
    """Run folder of tools/train_ssd.py on drawn bananas."""
    out: Path = Path("docs/gallery")
    """Where the pictures go."""


def tile(pictures: list[Image.Image]) -> Image.Image:
    """Puts pictures of one size into a grid."""
    width, height = pictures[0].size
    size = (COLUMNS * (width + MARGIN) + MARGIN, ROWS * (height + MARGIN) + MARGIN)
    grid = Image.new("RGB", size, "#202020")
    for i, picture in enumerate(pictures):
        x, y = i % COLUMNS * (width + MARGIN), i // COLUMNS * (height + MARGIN)
        grid.paste(picture, (x + MARGIN, y + MARGIN))
    return grid


def save(picture: Image.Image, path: Path) -> None:
    """Writes a small PNG: two thirds of the size, 128 colours."""
    small = picture.resize((picture.width * 2 // 3, picture.height * 2 // 3))
    small.quantize(128).save(path, optimize=True)


def truths_of(boxes: Tensor, labels: Tensor, size: tuple[int, int]) -> list[GroundTruth]:
    """Padded ground truths, one for each picture."""
    return [GroundTruth(b[k >= 0], k[k >= 0], size) for b, k in zip(boxes, labels, strict=True)]


def main() -> None:
    """Runs the script."""
    arguments = tyro.cli(Arguments, description=__doc__)
    arguments.out.mkdir(parents=True, exist_ok=True)
    dataset = SyntheticBananas(COLUMNS * ROWS, seed=GALLERY_SEED)
    images, targets = collate([dataset[i] for i in range(len(dataset))])
    boxes, labels = targets["boxes"], targets["labels"]
    size = (images.shape[2], images.shape[3])
    truths = truths_of(boxes, labels, size)
    pairs = zip(images, truths, strict=True)
    save(tile([draw_truth(*pair) for pair in pairs]), arguments.out / "synthetic.png")
    generator = torch.Generator().manual_seed(0)
    changed, new_boxes, new_labels = augment_batch(images, boxes, labels, generator)
    pairs = zip(changed, truths_of(new_boxes, new_labels, size), strict=True)
    save(tile([draw_truth(*pair) for pair in pairs]), arguments.out / "augmentation.png")
    if arguments.run is not None:
        found = detect(load(arguments.run), list(images))
        save(draw_comparison(list(images), truths, found), arguments.out / "predictions.png")
        shutil.copy(arguments.run / "curves.png", arguments.out / "curves.png")
    print(f"wrote {', '.join(sorted(p.name for p in arguments.out.glob('*.png')))}")


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"make_gallery: {error}")
