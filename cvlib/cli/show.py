"""cvlib show: a data set as people and models see it."""

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
from cvlib.cli._inputs import name_split, open_model
from cvlib.cli.running import UsageError, check_new, parse
from cvlib.data import load_dataset
from cvlib.data.datasets.detection import BadLabels
from cvlib.data.load import AnyDataset, find_splits
from cvlib.predict.writers.images import write_png
from cvlib.visualize import show_anchors, show_targets, show_transforms
from cvlib.visualize.samples import draw_sample
from cvlib.visualize.sheets import Tile, make_sheet

DESCRIPTION = """Draws a data set.

    cvlib show bananas/                                images with their labels
    cvlib show bananas/ --what transforms --recipe ssd one image as training sees it
    cvlib show bananas/ --what anchors                 the anchors of a model
    cvlib show bananas/ --what targets                 which anchor is matched to what
"""
_SIDE = 400
# Recipes that `--what transforms` shows where none is named.
_RECIPES = {"detection": "ssd", "segmentation": "segmentation", "classification": "classification"}


@dataclass(frozen=True)
class Arguments:
    """Draws a data set."""

    data: Annotated[Path, tyro.conf.Positional]
    """Folder or file of the data set."""
    what: Literal["data", "transforms", "anchors", "targets"] = "data"
    """data: images with labels; transforms: one image as a recipe changes it; anchors: those
    of --model; targets: which anchors are matched to which object."""
    split: str = "train"
    """Part of the set; a set that is not divided is taken whole."""
    model: str = "tiny_ssd"
    """Name of a model, or a run folder, for anchors and targets."""
    recipe: str | None = None
    """How training changes images. Unset: the usual one for the set's task."""
    count: int = 16
    """How many images, or changes of one."""
    index: int | None = None
    """The image to show. Unset: several, spread evenly, or the first one with objects."""
    image_size: tuple[int, int] = (256, 256)
    """Height and width that a recipe ends at."""
    seed: int = 0
    """Of random changes."""
    out: Path = Path("show.png")
    """The image to write."""
    bad_labels: BadLabels = "raise"
    """Labels that cannot be right: "raise" refuses and lists them, "drop" leaves them out."""
    overwrite: bool = False
    """Replace --out where it is there."""

    def __post_init__(self) -> None:
        if self.count < 1:
            raise UsageError(f"expected --count >= 1, got {self.count}")


def main(arguments: Sequence[str]) -> int:
    """Runs the command."""
    options = parse(Arguments, "cvlib show", DESCRIPTION, arguments)
    check_new(options.out, overwrite=options.overwrite)
    split = name_split(find_splits(options.data), options.split, options.data)
    dataset = load_dataset(options.data, split, bad_labels=options.bad_labels)
    write_png(options.out, draw(dataset, options))
    print(f"see {options.out}")
    return GOOD


def draw(dataset: AnyDataset, options: Arguments) -> Image.Image:
    """Draws what is asked for."""
    if options.what == "data":
        return _show_data(dataset, options)
    index = _first_with_objects(dataset) if options.index is None else options.index
    if options.what == "transforms":
        return show_transforms(
            dataset,
            index,
            options.recipe or _RECIPES[dataset.task],
            image_size=options.image_size,
            count=options.count,
            seed=options.seed,
        )
    model: Any = open_model(options.model, dataset.classes)
    image, target = dataset[index]
    if options.what == "anchors":
        return show_anchors(model, image.as_subclass(Tensor))
    if dataset.task != "detection":
        raise ValueError(f"expected a detection set for targets, got one for {dataset.task}")
    return show_targets(model, image.as_subclass(Tensor), target, classes=dataset.classes)


def _show_data(dataset: AnyDataset, options: Arguments) -> Image.Image:
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
