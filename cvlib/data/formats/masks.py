"""Instance masks as in Penn-Fudan: the value of a pixel is the number of its object."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm.auto import tqdm

from cvlib.data.datasets.base import check_classes
from cvlib.data.files.folders import describe_folder, escape, is_image, list_files, name_some
from cvlib.data.files.images import read_image_size
from cvlib.data.files.mask_images import read_numbers
from cvlib.data.labels.findings import Finding
from cvlib.data.labels.table import LabelTable, TableBuilder
from cvlib.ops.masks import masks_to_boxes
from cvlib.ops.rle import masks_to_rle

_IMAGES, _MASKS = "PNGImages", "PedMasks"
# With more distinct values, pixels hold colours or depth instead of object numbers.
_MAX_OBJECTS = 10_000


def read_masks(
    root: str | Path,
    *,
    classes: Sequence[str] | None = None,
    images: str = _IMAGES,
    masks: str = _MASKS,
    suffix: str = "_mask",
) -> LabelTable:
    """Read images and masks in which every object has its own number and 0 is background.

    Args:
        root: Folder of both folders.
        classes: Name of the only class. Default: ``("person",)`` for the folders of Penn-Fudan,
            otherwise ``("object",)``.
        images: Name of the folder of images.
        masks: Name of the folder of masks, in a lossless format. For palette images, the palette
            index is the number.
        suffix: Suffix of the mask's file name; masks named like their image are accepted as well.

    Returns:
        Boxes and masks in the order of the images; ``rows`` are object numbers.

    Raises:
        FileNotFoundError: A folder does not exist.
        ValueError: There are no images, or more than one class.

    Note:
        Every mask is decoded once to compute the boxes.

    References:
        https://www.cis.upenn.edu/~jshi/ped_html/
    """
    root = Path(root).expanduser()
    default_class = "person" if (images, masks) == (_IMAGES, _MASKS) else "object"
    names = [default_class] if classes is None else check_classes("read_masks", classes)
    if len(names) != 1:
        raise ValueError(
            "read_masks: expected one class, since instance masks have no classes, got "
            f"{name_some(names)}"
        )
    for folder in (root / images, root / masks):
        if not folder.is_dir():
            raise FileNotFoundError(
                f"read_masks: expected `root` to be a folder with {images}/ and {masks}/, got "
                f"{describe_folder(root)}"
            )
    image_files = list_files(root / images, is_image)
    if not image_files:
        raise ValueError(f"read_masks: expected images in {escape(root / images)}, got none")
    mask_files = list_files(root / masks, is_image)
    builder = TableBuilder("Instance masks", root, names, row_word="object number")
    pairs = _pair(image_files, mask_files, suffix)
    for image, mask in tqdm(pairs.items(), "reading masks", disable=None, leave=False, delay=1):
        _add_image(builder, f"{images}/{image}", root / masks / mask if mask else None)
    unused = set(mask_files) - set(pairs.values())
    builder.findings += [_mask_without_image(root / masks / m) for m in mask_files if m in unused]
    return builder.build()


def read_usual_masks(
    path: Path, split: str | None, *, classes: Sequence[str] | None = None
) -> LabelTable:
    """Read masks from the folders of Penn-Fudan, or from ``images`` and ``masks``."""
    if recognise_masks(path) or not (path / "images").is_dir():
        return read_masks(path, classes=classes)
    return read_masks(path, classes=classes, images="images", masks="masks")


def recognise_masks(path: Path) -> str | None:
    """Return the folders of Penn-Fudan at a path, or None."""
    has_both = (path / _IMAGES).is_dir() and (path / _MASKS).is_dir()
    return f"{_IMAGES} and {_MASKS}" if has_both else None


def _pair(images: list[str], masks: list[str], suffix: str) -> dict[str, str | None]:
    """Return the mask of each image, or None."""
    masks_by_stem = {Path(mask).stem: mask for mask in masks}
    stems = {image: Path(image).stem for image in images}
    return {
        image: masks_by_stem.get(stem + suffix) or masks_by_stem.get(stem)
        for image, stem in stems.items()
    }


def _mask_without_image(path: Path) -> Finding:
    return Finding(
        "warning",
        "labels-without-image",
        "expected an image for every mask, got none",
        file=escape(path),
        fix="restore the image, or remove the mask",
    )


def _add_image(builder: TableBuilder, image: str, mask_path: Path | None) -> None:
    """Add an image with its objects, or a finding if it cannot be read."""
    path = builder.root / image
    try:
        if mask_path is None:
            raise ValueError("expected a mask for every image, got none")
        size, pixels = read_image_size(path), read_numbers(mask_path)
        if pixels.shape != size:
            raise ValueError(
                f"expected a mask of the size of its image, {size} (height, width), got "
                f"{pixels.shape}"
            )
        areas = _count_pixels(pixels)
    except (OSError, ValueError) as error:
        builder.findings.append(
            Finding(
                "error",
                "missing-labels" if mask_path is None else "unreadable-labels",
                str(error),
                file=escape(mask_path) if mask_path else "",
                image=escape(path),
                fix="restore the mask, or remove the image",
            )
        )
        return
    builder.add_image(image, size=size, label_file=mask_path or "")
    for number, area in areas.items():
        mask = torch.from_numpy(pixels == number)[None]
        box = masks_to_boxes(mask)[0].tolist()
        builder.add_object(box, 0, number, area=float(area), mask=masks_to_rle(mask)[0])


def _count_pixels(pixels: NDArray[np.int64]) -> dict[int, int]:
    """Return the area of each object, keyed by its number."""
    numbers, counts = np.unique(pixels, return_counts=True)
    if len(numbers) > _MAX_OBJECTS or numbers[0] < 0:
        raise ValueError(
            f"expected at most {_MAX_OBJECTS:,} objects, numbered from 1, and 0 as background, "
            f"got {len(numbers):,} numbers from {numbers[0]} to {numbers[-1]}"
        )
    return {n: c for n, c in zip(numbers.tolist(), counts.tolist(), strict=True) if n}
