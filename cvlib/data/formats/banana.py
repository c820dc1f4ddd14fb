"""The layout of the book's bananas: ``bananas_{split}/label.csv`` beside ``images/``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from cvlib._files import PICTURE_SUFFIXES
from cvlib.data.findings import Finding
from cvlib.data.formats._folders import name_some, natural_order
from cvlib.data.formats.csv import read_csv
from cvlib.data.table import LabelTable, PackedList

SPLITS = ("train", "val")


def read_bananas(root: Path, split: str, classes: Sequence[str]) -> LabelTable:
    """Reads a split; what is wrong becomes findings, as in other layouts.

    Args:
        root: Folder of both splits, or one of them.
        split: ``"train"`` or ``"val"``.
        classes: Names; label i in the file is ``classes[i]``.

    Returns:
        The labels. Pictures that the file does not name come last, without objects.
    """
    folder = find_split(root, split)
    path, images = folder / "label.csv", folder / "images"
    table = read_csv(path, images, classes=classes)
    unlabelled = sorted(list_pictures(images) - set(table.pictures), key=natural_order)
    names = [*table.pictures, *unlabelled]
    warning = Finding(
        "warning",
        "unlabelled-picture",
        f"expected a row for every picture, got none for {len(unlabelled)} "
        f"({name_some(unlabelled)}); they count as pictures without objects",
        file=str(path),
        fix="label them, or remove them",
    )
    return replace(
        table,
        layout="banana layout",
        pictures=PackedList(names),
        image_ids=np.array(number_pictures(names), dtype=np.int64),
        sizes=np.pad(table.sizes, ((0, len(unlabelled)), (0, 0)), constant_values=-1),
        starts=np.pad(table.starts, (0, len(unlabelled)), "edge"),
        findings=(*table.findings, *([warning] if unlabelled else [])),
    )


def find_split(root: Path, split: str) -> Path:
    """Finds ``bananas_{split}`` in a folder, in one of its folders, or beside it.

    Raises:
        FileNotFoundError: It is not there, or several are.
    """
    name = f"bananas_{split}"
    if root.is_file():
        raise FileNotFoundError(
            f"BananaDataset: expected root a folder with {name}/, got the file {root}; unpack it "
            "with cvlib.data.extract_zip"
        )
    if not root.is_dir():
        raise FileNotFoundError(
            f"BananaDataset: expected root a folder with {name}/, got {root}, which does not "
            "exist; cvlib.data.fetch_bananas() downloads the set"
        )
    if (root / name).is_dir():
        return root / name
    if root.resolve().name in {f"bananas_{other}" for other in SPLITS}:
        sibling = root.resolve().parent / name
        if sibling.is_dir():
            return sibling
    inner = [path / name for path in sorted(root.iterdir()) if (path / name).is_dir()]
    if len(inner) == 1:
        return inner[0]
    found = ", ".join(sorted(path.name for path in root.iterdir())[:10]) or "nothing"
    detail = f" (and {len(inner)} folders that hold {name}/: pass one)" if inner else ""
    raise FileNotFoundError(
        f"BananaDataset: expected root a folder with {name}/, got {root} with {found}{detail}"
    )


def list_pictures(images: Path) -> set[str]:
    """Names of the pictures in a folder.

    Raises:
        FileNotFoundError: No such folder.
        ValueError: No picture in it.
    """
    if not images.is_dir():
        found = ", ".join(sorted(path.name for path in images.parent.iterdir())[:10]) or "nothing"
        raise FileNotFoundError(
            f"BananaDataset: expected a folder images/ in {images.parent}, got {found}"
        )
    files = {path.name for path in images.iterdir() if path.suffix.lower() in PICTURE_SUFFIXES}
    if not files:
        raise ValueError(
            f"BananaDataset: expected pictures ({', '.join(PICTURE_SUFFIXES)}) in {images}, got "
            f"none among {sum(1 for _ in images.iterdir())} files"
        )
    return files


def number_pictures(names: Sequence[str]) -> list[int]:
    """The numbers in the names where all are different numbers, else 0, 1, and so on."""
    stems = [Path(name).stem for name in names]
    if all(re.fullmatch(r"[0-9]{1,18}", stem) for stem in stems):
        numbers = [int(stem) for stem in stems]
        if len(set(numbers)) == len(numbers):
            return numbers
    return list(range(len(names)))
