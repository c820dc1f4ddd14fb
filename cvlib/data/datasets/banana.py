"""The banana detection dataset of *Dive into Deep Learning*, and others in its layout."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cvlib.data.datasets.base import check_classes
from cvlib.data.datasets.detection import DetectionDataset
from cvlib.data.files.folders import name_some, natural_order
from cvlib.data.formats.banana import (
    SPLITS,
    Box,
    find_split,
    list_images,
    number_images,
    read_labels,
)
from cvlib.data.labels.table import LabelTable, TableBuilder


class BananaDataset(DetectionDataset):
    """Images of ``bananas_{split}/images`` with the boxes of ``bananas_{split}/label.csv``.

    ``label.csv`` has the columns ``img_name,label,xmin,ymin,xmax,ymax``: corners in pixels, one
    row per object, any number of rows per image. All rows are checked when the dataset is opened,
    and each invalid one is reported with its line. Images are decoded on access.

    Samples are in the order in which images first appear in ``label.csv``, followed by images
    without a row, which have no objects, in the order of their names.

    Args:
        root: Folder with ``bananas_train`` and ``bananas_val``, its parent, or one of the two.
        split: ``"train"`` or ``"val"``.
        classes: Class names; label ``i`` in the file is ``classes[i]``.
        transform: Called as ``transform(image, target)``, for instance from
            ``torchvision.transforms.v2``; returns the pair of the sample.
        cache: Keep decoded images in memory after their first use (197 MB for the official
            1000); workers share them.

    Raises:
        FileNotFoundError: ``root`` lacks the split, or the split lacks ``label.csv``.
        TypeError: ``classes`` is a single string.
        ValueError: ``split`` is unknown, there are no images, or ``label.csv`` is invalid; up to
            20 mistakes are listed.

    Warns:
        UserWarning: Some images have no row in ``label.csv``.

    Note:
        Checking 1000 images takes about 0.1 s. ``image_id`` is the number in the file name if
        these are unique numbers, otherwise the index.

    References:
        https://d2l.ai/chapter_computer-vision/object-detection-dataset.html
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        *,
        classes: Sequence[str] = ("banana",),
        transform: Callable[..., Any] | None = None,
        cache: bool = False,
    ) -> None:
        if split not in SPLITS:
            raise ValueError(
                f"BananaDataset: expected `split` to be 'train' or 'val', got {split!r}"
            )
        classes = check_classes("BananaDataset", classes)
        folder = find_split(Path(root).expanduser(), split)
        names = list_images(folder / "images")
        rows = read_labels(folder / "label.csv", folder / "images", names, len(classes))
        unlabelled = sorted(names - rows.keys(), key=natural_order)
        _warn_about_unlabelled(unlabelled, folder)
        table = _build_table(folder / "images", rows, [*rows, *unlabelled], classes)
        super().__init__(table, transform=transform, cache=cache)


def _warn_about_unlabelled(names: list[str], folder: Path) -> None:
    if not names:
        return
    warnings.warn(
        f"BananaDataset: expected a row in {folder / 'label.csv'} for every image, got none for "
        f"{len(names)} ({name_some(names)}); they count as images without objects",
        UserWarning,
        stacklevel=3,
    )


def _build_table(
    images: Path, rows: dict[str, list[Box]], names: list[str], classes: Sequence[str]
) -> LabelTable:
    builder = TableBuilder("banana layout", images, list(classes), "line")
    for name, number in zip(names, number_images(names), strict=True):
        builder.add_image(name, image_id=number, label_file=images.parent / "label.csv")
        for box in rows.get(name, ()):
            builder.add_object(box.corners, box.label, box.line)
    return builder.build()
