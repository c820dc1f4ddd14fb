"""Pascal VOC masks: a palette PNG per image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cvlib._files import read_text
from cvlib.data.datasets.base import check_classes
from cvlib.data.datasets.segmentation import SegmentationDataset
from cvlib.data.files.folders import escape, name_some
from cvlib.data.files.mask_images import Colour, voc_palette
from cvlib.data.formats.voc_folders import (
    find_parent,
    list_images,
    list_splits,
    read_split,
    require_parent,
)
from cvlib.data.labels.findings import Finding

VOC_CLASSES = (
    "background aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse "
    "motorbike person pottedplant sheep sofa train tvmonitor"
).split()

_MASKS, _IMAGES = "SegmentationClass", "JPEGImages"


def read_voc_segmentation(
    root: str | Path,
    split: str | None = None,
    *,
    classes: Sequence[str] | None = None,
    palette: Sequence[Colour] | None = None,
    void: int = 255,
    transform: Callable[..., Any] | None = None,
    cache: bool = False,
) -> SegmentationDataset:
    """Read masks in the layout of Pascal VOC.

    Args:
        root: Folder with ``SegmentationClass`` and ``JPEGImages``, or a parent folder that has
            them in ``VOC2012``.
        split: Name of a list in ``ImageSets/Segmentation``. Default: all masks.
        classes: Names of the mask values 0, 1, ... Default: the lines of ``classes.txt``, the
            labels in ``labelmap.txt`` (as written by CVAT), or VOC's background and 20 classes.
        palette: Colours of the classes, for masks of colours instead of class indices. Default:
            the colours in ``labelmap.txt``, and VOC's palette for VOC's classes.
        void: Mask value of pixels without a class.
        transform: See `SegmentationDataset`.
        cache: See `SegmentationDataset`.

    Returns:
        The dataset; its findings include the source of the classes.

    Raises:
        BadLabelsError: Two images or masks differ only in their suffix.
        FileNotFoundError: A folder or the list does not exist.
        ValueError: Images of the split have no mask, or masks no image.
    """
    root = require_parent(root, "read_voc_segmentation", (_MASKS, _IMAGES))
    findings: list[Finding] = []
    names, colours = _choose_classes(root, classes, findings)
    images = list_images(root / _IMAGES, findings)
    masks = list_images(root / _MASKS, findings)
    if split is None:
        stems = list(masks)
        _warn_of_unlabelled(root, images, masks, findings)
    else:
        stems = read_split(root, "Segmentation", split, {*images, *masks}, findings)
    _check_pairs(root, stems, images, masks)
    return SegmentationDataset(
        [root / _IMAGES / images[stem] for stem in stems],
        [root / _MASKS / masks[stem] for stem in stems],
        names,
        void=void,
        palette=palette if palette is not None else colours,
        transform=transform,
        cache=cache,
        findings=findings,
    )


def recognise_voc_segmentation(path: Path) -> str | None:
    """Return the folders of masks and images at a path, or None."""
    return f"{_MASKS} and {_IMAGES}" if find_parent(path, (_MASKS, _IMAGES)) else None


def list_voc_segmentation_splits(path: Path) -> list[str]:
    """List the names of the split lists."""
    root = find_parent(path, (_MASKS, _IMAGES))
    return list_splits(root, "Segmentation") if root else []


def _choose_classes(
    root: Path, classes: Sequence[str] | None, findings: list[Finding]
) -> tuple[list[str], list[Colour] | None]:
    names_file, colours_file = root / "classes.txt", root / "labelmap.txt"
    colours: list[Colour] | None = None
    source = ""
    if classes is not None:
        names = check_classes("read_voc_segmentation", classes)
        if colours_file.is_file():
            colours = _read_label_map(colours_file)[1]
    elif names_file.is_file():
        lines = read_text(names_file, "read_voc_segmentation", "a list of classes").splitlines()
        names = [line.strip() for line in lines if line.strip()]
        source = "classes.txt"
    elif colours_file.is_file():
        (names, colours), source = _read_label_map(colours_file), "labelmap.txt"
    else:
        names, source = list(VOC_CLASSES), "the names of VOC"
    if names == VOC_CLASSES:  # masks of other classes may have any palette
        colours = voc_palette(len(names))
    names = check_classes("read_voc_segmentation", names)
    if source:
        findings.append(
            Finding("info", "classes", f"{len(names)} classes from {source}", file=escape(root))
        )
    return names, colours


def _read_label_map(path: Path) -> tuple[list[str], list[Colour]]:
    """Read the names and colours in lines ``name:red,green,blue:...``; ``#`` starts a comment."""
    names, colours = [], []
    lines = read_text(path, "read_voc_segmentation", "a list of classes").splitlines()
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, rest = line.partition(":")
        values = rest.partition(":")[0].split(",")
        if len(values) != 3 or not all(v.strip().isdecimal() and int(v) < 256 for v in values):
            raise ValueError(
                "read_voc_segmentation: expected lines such as road:128,64,128::, got "
                f"{line[:80]!r} in {escape(path)}, line {number}"
            )
        names.append(name.strip())
        colours.append((int(values[0]), int(values[1]), int(values[2])))
    return names, colours


def _warn_of_unlabelled(
    root: Path, images: dict[str, str], masks: dict[str, str], findings: list[Finding]
) -> None:
    unlabelled = [name for stem, name in images.items() if stem not in masks]
    if unlabelled:
        findings.append(
            Finding(
                "warning",
                "missing-labels",
                f"expected a mask for every image, got none for {name_some(unlabelled)}: these "
                "images are left out",
                image=escape(root / _IMAGES / unlabelled[0]),
                fix="draw the masks, or list the images that have one in ImageSets/Segmentation",
                count=len(unlabelled),
            )
        )


def _check_pairs(
    root: Path, stems: Sequence[str], images: dict[str, str], masks: dict[str, str]
) -> None:
    for names, folder, kind in ((images, _IMAGES, "an image"), (masks, _MASKS, "a mask")):
        missing = [stem for stem in stems if stem not in names]
        if missing:
            raise ValueError(
                f"read_voc_segmentation: expected {kind} in {escape(root / folder)} for each of "
                f"{len(stems)} names, got none for {len(missing)}: {name_some(missing)}; restore "
                "them, or remove the names from the list"
            )
