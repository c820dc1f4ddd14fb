"""Masks of Pascal VOC: a palette PNG for each image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cvlib._files import read_text
from cvlib.data.datasets.base import check_classes
from cvlib.data.datasets.segmentation import SegmentationDataset
from cvlib.data.files.folders import name_some, shown
from cvlib.data.files.mask_images import Colour, voc_palette
from cvlib.data.formats.voc_lists import list_images, read_split, require_home
from cvlib.data.labels.findings import Finding

VOC_CLASSES = (
    "background aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse "
    "motorbike person pottedplant sheep sofa train tvmonitor"
).split()

FOLDERS = ("SegmentationClass", "JPEGImages")


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
    """Reads masks in the layout of Pascal VOC.

    Args:
        root: Folder with ``SegmentationClass`` and ``JPEGImages``, or one that holds it as
            ``VOC2012``.
        split: Name of a list in ``ImageSets/Segmentation``. ``None``: all masks.
        classes: Names of the numbers 0, 1, ... By default the lines of ``classes.txt``, the
            labels of ``labelmap.txt`` (as CVAT writes it), or VOC's background and 20 classes.
        palette: Colours of the classes, for masks of colours instead of numbers. By default those
            of ``labelmap.txt``, and VOC's for VOC's classes.
        void: The number in the masks that belongs to no class.
        transform: See `SegmentationDataset`.
        cache: See `SegmentationDataset`.

    Returns:
        The set; its findings say which classes were taken from where.

    Raises:
        BadLabelsError: Two images or masks that differ only in their ending.
        FileNotFoundError: A folder or the list is missing.
        ValueError: Images without a mask or masks without an image, in the split.
    """
    home = require_home(root, "read_voc_segmentation", FOLDERS)
    findings: list[Finding] = []
    names, colours = _choose_classes(home, classes, findings)
    images = list_images(home / "JPEGImages", findings)
    masks = list_images(home / "SegmentationClass", findings)
    if split is None:
        chosen = list(masks)
        _tell_unlabelled(home, images, masks, findings)
    else:
        chosen = read_split(home, "Segmentation", split, {*images, *masks}, findings)
    _check_pairs(home, chosen, images, masks)
    return SegmentationDataset(
        [home / "JPEGImages" / images[stem] for stem in chosen],
        [home / "SegmentationClass" / masks[stem] for stem in chosen],
        names,
        void=void,
        palette=palette if palette is not None else colours,
        transform=transform,
        cache=cache,
        findings=findings,
    )


def _choose_classes(
    home: Path, classes: Sequence[str] | None, findings: list[Finding]
) -> tuple[list[str], list[Colour] | None]:
    listed, mapped = home / "classes.txt", home / "labelmap.txt"
    colours: list[Colour] | None
    if classes is not None:
        names, source = check_classes("read_voc_segmentation", classes), ""
        colours = _read_label_map(mapped)[1] if mapped.is_file() else None
    elif listed.is_file():
        lines = read_text(listed, "read_voc_segmentation", "a list of classes").splitlines()
        names = [line.strip() for line in lines if line.strip()]
        source, colours = "classes.txt", None
    elif mapped.is_file():
        (names, colours), source = _read_label_map(mapped), "labelmap.txt"
    else:
        names, source, colours = list(VOC_CLASSES), "VOC's own names", None
    if names == VOC_CLASSES:  # of other sets with numbers the colours may be any
        colours = voc_palette(len(names))
    names = check_classes("read_voc_segmentation", names)
    if source:
        findings.append(
            Finding("info", "classes", f"{len(names)} classes from {source}", file=shown(home))
        )
    return names, colours


def _read_label_map(path: Path) -> tuple[list[str], list[Colour]]:
    """Lines ``name:red,green,blue:...``; comments begin with ``#``."""
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
                f"{line[:80]!r} in {shown(path)}, line {number}"
            )
        names.append(name.strip())
        colours.append((int(values[0]), int(values[1]), int(values[2])))
    return names, colours


def _tell_unlabelled(
    home: Path, images: dict[str, str], masks: dict[str, str], findings: list[Finding]
) -> None:
    without = [name for stem, name in images.items() if stem not in masks]
    if without:
        findings.append(
            Finding(
                "warning",
                "missing-labels",
                f"expected a mask for every image, got none for {name_some(without)}: these "
                "images are left out",
                image=shown(home / "JPEGImages" / without[0]),
                fix="draw the masks, or list the images that have one in ImageSets/Segmentation",
                count=len(without),
            )
        )


def _check_pairs(
    home: Path,
    chosen: Sequence[str],
    images: dict[str, str],
    masks: dict[str, str],
) -> None:
    for names, folder, kind in (
        (images, "JPEGImages", "an image"),
        (masks, FOLDERS[0], "a mask"),
    ):
        missing = [stem for stem in chosen if stem not in names]
        if missing:
            raise ValueError(
                f"read_voc_segmentation: expected {kind} in {shown(home / folder)} for each of "
                f"{len(chosen)} names, got none for {len(missing)}: {name_some(missing)}; restore "
                "them, or take the names out of the list"
            )
