"""Images with masks of objects, as Penn-Fudan has them: the value of a pixel is an object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm.auto import tqdm

from cvlib.data.datasets.base import check_classes
from cvlib.data.files.folders import (
    describe_folder,
    is_image,
    list_files,
    name_some,
    shown,
)
from cvlib.data.files.images import read_image_size
from cvlib.data.files.mask_images import read_numbers
from cvlib.data.labels.findings import Finding
from cvlib.data.labels.table import LabelTable, TableBuilder
from cvlib.ops.masks import masks_to_boxes
from cvlib.ops.rle import masks_to_rle

_IMAGES, _MASKS = "PNGImages", "PedMasks"
# Numbers of objects; more are no numbers of objects but of pixels, colours or depth.
_MOST_OBJECTS = 10_000


@dataclass
class _Object:
    number: int
    box: list[float]
    area: float
    mask: dict[str, Any]


def read_masks(
    root: str | Path,
    *,
    classes: Sequence[str] | None = None,
    images: str = _IMAGES,
    masks: str = _MASKS,
    suffix: str = "_mask",
) -> LabelTable:
    """Reads images and masks in which every object has its own number, 0 being none.

    Args:
        root: Folder with both folders.
        classes: The name of the one class that all objects have; ``("person",)`` for Penn-Fudan's
            own folders, else ``("object",)``.
        images: Name of the folder of images.
        masks: Name of the folder of masks, in a format without loss; of palette images the
            indices count.
        suffix: What the name of a mask has beyond that of its image; masks of the very same name
            are found as well.

    Returns:
        Boxes and masks, in the order of the images; ``rows`` are the numbers of the objects.

    Raises:
        FileNotFoundError: A folder is missing.
        ValueError: There are no images, or more than one class.

    Note:
        Every mask is decoded once, to find the boxes.

    References:
        https://www.cis.upenn.edu/~jshi/ped_html/
    """
    root = Path(root).expanduser()
    names = list(classes) if classes is not None else [_default_class(images, masks)]
    if len(check_classes("read_masks", names)) != 1:
        raise ValueError(
            f"read_masks: expected one class, since masks do not tell any, got {name_some(names)}"
        )
    for folder in (root / images, root / masks):
        if not folder.is_dir():
            raise FileNotFoundError(
                f"read_masks: expected root a folder with {images}/ and {masks}/, got "
                f"{describe_folder(root)}"
            )
    files = list_files(root / images, is_image)
    if not files:
        raise ValueError(f"read_masks: expected images in {shown(root / images)}, got none")
    builder = TableBuilder("Masks of objects", root, names, row_word="object number")
    pairs = _pair(files, list_files(root / masks, is_image), suffix)
    for image, mask in tqdm(pairs.items(), "reading masks", disable=None, leave=False, delay=1):
        _add(builder, f"{images}/{image}", root / masks / mask if mask else None)
    _tell_orphans(builder, root / masks, pairs)
    return builder.build()


def find_masks(path: Path) -> str | None:
    """What was found of Penn-Fudan's folders, in words."""
    both = (path / _IMAGES).is_dir() and (path / _MASKS).is_dir()
    return f"{_IMAGES} and {_MASKS}" if both else None


def _default_class(images: str, masks: str) -> str:
    return "person" if (images, masks) == (_IMAGES, _MASKS) else "object"


def _pair(images: list[str], masks: list[str], suffix: str) -> dict[str, str | None]:
    stems = {Path(mask).stem: mask for mask in masks}
    own = {image: Path(image).stem for image in images}
    return {image: stems.get(stem + suffix) or stems.get(stem) for image, stem in own.items()}


def _tell_orphans(builder: TableBuilder, folder: Path, pairs: dict[str, str | None]) -> None:
    used = set(pairs.values())
    builder.findings.extend(
        Finding(
            "warning",
            "labels-without-image",
            "expected an image for every mask, got none",
            file=shown(folder / mask),
            fix="restore the image, or remove the mask",
        )
        for mask in list_files(folder, is_image)
        if mask not in used
    )


def _add(builder: TableBuilder, image: str, mask: Path | None) -> None:
    """Adds an image with its objects, or says why not."""
    path = builder.root / image
    try:
        if mask is None:
            raise ValueError("expected a mask for every image, got none")
        size, numbers = read_image_size(path), read_numbers(mask)
        if numbers.shape != size:
            raise ValueError(
                f"expected a mask of the size of its image, {size} (height, width), got "
                f"{numbers.shape}"
            )
        objects = _split(numbers)
    except (OSError, ValueError) as error:
        code = "missing-labels" if mask is None else "unreadable-labels"
        builder.findings.append(
            Finding(
                "error",
                code,
                str(error),
                file=shown(mask) if mask else "",
                image=shown(path),
                fix="restore the mask, or remove the image",
            )
        )
        return
    builder.add_image(image, size=size, label_file=mask or "")
    for thing in objects:
        builder.add_object(thing.box, 0, thing.number, area=thing.area, mask=thing.mask)


def _split(numbers: NDArray[np.int64]) -> list[_Object]:
    found, counts = np.unique(numbers, return_counts=True)
    if len(found) > _MOST_OBJECTS or found[0] < 0:
        raise ValueError(
            f"expected the numbers of at most {_MOST_OBJECTS:,} objects from 1 on, and 0 for none, "
            f"got {len(found):,} numbers from {found[0]} to {found[-1]}"
        )
    objects = []
    for number, count in zip(found.tolist(), counts.tolist(), strict=True):
        if number:
            mask = torch.from_numpy(numbers == number)[None]
            box = masks_to_boxes(mask)[0].tolist()
            objects.append(_Object(number, box, float(count), masks_to_rle(mask)[0]))
    return objects
