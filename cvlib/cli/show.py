"""cvlib show: drawings of a dataset, its augmentations, anchors and training targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from PIL import Image
from torch import Tensor

from cvlib.cli import GOOD
from cvlib.cli.datasets import choose_split
from cvlib.cli.errors import UsageError
from cvlib.cli.models import open_model
from cvlib.cli.options import parse
from cvlib.cli.outputs import prepare_file
from cvlib.data import load_dataset
from cvlib.data.datasets.detection import BadLabels
from cvlib.data.load import AnyDataset, find_splits
from cvlib.engine.batches import AUTO_RECIPES
from cvlib.predict.writers.images import write_png
from cvlib.visualize import show_anchors, show_targets, show_transforms
from cvlib.visualize.samples import draw_sample
from cvlib.visualize.sheets import Tile, make_sheet

DESCRIPTION = """Draw a dataset.

    cvlib show bananas/                                images with their labels
    cvlib show bananas/ --what transforms --recipe ssd one image, augmented for training
    cvlib show bananas/ --what anchors                 anchors of a model
    cvlib show bananas/ --what targets                 anchors matched to objects
"""
# Longest side of a drawn image in pixels.
_SIDE = 400


@dataclass(frozen=True)
class Arguments:
    """Options of ``cvlib show``."""

    data: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    """Folder or label file of the dataset."""
    what: Literal["data", "transforms", "anchors", "targets"] = "data"
    """data: images with labels; transforms: one image with the augmentations of a recipe; anchors:
    anchors of --model; targets: anchors matched to the objects of an image."""
    split: str = "train"
    """Split to draw; ignored for datasets without splits."""
    model: str = "tiny_ssd"
    """Model for anchors and targets: a name such as tiny_ssd, package.module:Class, or a run
    folder."""
    recipe: str | None = None
    """Training recipe for transforms. Unset: the default for the task of the dataset."""
    count: int = 16
    """Number of images, or of augmentations of one image."""
    index: int | None = None
    """Index of the image. Unset: several, spread evenly, or the first one with objects."""
    image_size: tuple[int, int] = (256, 256)
    """Height and width of augmented images."""
    seed: int = 0
    """Random seed of the augmentations."""
    out: Path = Path("show.png")
    """Output file."""
    bad_labels: BadLabels = "raise"
    """Handling of invalid labels: raise lists them and stops, drop ignores them."""
    overwrite: bool = False
    """Replace an existing output file."""

    def __post_init__(self) -> None:
        if self.count < 1:
            raise UsageError(f"expected --count >= 1, got {self.count}")


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    options = parse(Arguments, "cvlib show", DESCRIPTION, arguments)
    prepare_file(options.out, overwrite=options.overwrite)
    split = choose_split(find_splits(options.data), options.split, options.data)
    dataset = load_dataset(options.data, split, bad_labels=options.bad_labels)
    write_png(options.out, draw(dataset, options))
    print(f"see {options.out}")
    return GOOD


def draw(dataset: AnyDataset, options: Arguments) -> Image.Image:
    """Draw the dataset as selected by ``--what``."""
    if options.what == "data":
        return _draw_samples(dataset, options)
    index = _first_with_objects(dataset) if options.index is None else options.index
    if options.what == "transforms":
        return show_transforms(
            dataset,
            index,
            options.recipe or AUTO_RECIPES[dataset.task],
            image_size=options.image_size,
            count=options.count,
            seed=options.seed,
        )
    model: Any = open_model(options.model, dataset.classes)
    if not hasattr(model, "anchors"):
        raise ValueError(f"--model: expected a model with anchors, got {options.model}")
    image, target = dataset[index]
    if options.what == "anchors":
        return show_anchors(model, image.as_subclass(Tensor))
    if "boxes" not in target:
        raise ValueError(f"expected a dataset with boxes for targets, got one for {dataset.task}")
    return show_targets(model, image.as_subclass(Tensor), target, classes=dataset.classes)


def _draw_samples(dataset: AnyDataset, options: Arguments) -> Image.Image:
    spread = np.linspace(0, len(dataset) - 1, min(options.count, len(dataset))).round()
    indices = spread.astype(int).tolist() if options.index is None else [options.index]
    tiles = []
    for index in indices:
        try:
            image, target = dataset[index]
        except (OSError, ValueError) as error:
            print(f"skipped: {error}")
            continue
        tile = draw_sample(image.as_subclass(Tensor), target, dataset.classes)
        canvas = tile.image.copy()
        canvas.thumbnail((_SIDE, _SIDE))
        tiles.append(Tile(canvas, f"{index}: {tile.caption}"))
    if not tiles:
        raise ValueError("expected at least one readable image, got none")
    return make_sheet(tiles, f"{len(tiles)} of {len(dataset)} images")


def _first_with_objects(dataset: AnyDataset) -> int:
    table = getattr(dataset, "table", None)
    if table is None:
        return 0
    counts = np.diff(table.starts)
    return int(np.flatnonzero(counts)[0]) if counts.any() else 0
