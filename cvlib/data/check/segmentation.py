"""Check of a segmentation dataset: images and their masks of class numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from cvlib.data.check.duplicates import find_duplicate_images
from cvlib.data.check.images import (
    ImageFacts,
    find_image_faults,
    find_missing_images,
    list_missing,
    scan,
)
from cvlib.data.check.report import SplitReport
from cvlib.data.check.statistics import Histogram, find_unused_classes
from cvlib.data.datasets.segmentation import SegmentationDataset
from cvlib.data.files.folders import name_some
from cvlib.data.files.mask_images import read_numbers
from cvlib.data.labels.findings import Finding

_WORKERS = 2
# Unknown numbers listed in a message.
_MOST_NUMBERS = 8
# Names of void pixels; as a class, a model would learn to predict it.
_VOID_NAMES = ("void", "ignore", "ignored", "unlabeled", "unlabelled", "unknown", "border")


@dataclass(frozen=True)
class _Mask:
    """Pixels of each class number and size of a mask, or why it cannot be read."""

    counts: Mapping[int, int]
    size: tuple[int, int] = (-1, -1)
    problem: str = ""


def check_segmentation(data: SegmentationDataset, *, fast: bool, progress: bool) -> SplitReport:
    """Check images and masks.

    Args:
        data: Dataset to check.
        fast: Check only whether the files exist and their sizes agree.
        progress: Whether to show progress bars.
    """
    images, masks = [Path(path) for path in data.images], [Path(path) for path in data.masks]
    folder = str(images[0].parent) if images else "no images"
    missing, missing_masks = list_missing(images), list_missing(masks)
    facts = scan(images, decode=not fast, progress=progress, skip=missing)
    findings = [
        *data.findings,
        *find_missing_images(images, missing, [str(mask) for mask in masks]),
        *_find_missing_masks(images, masks, missing_masks),
        *find_image_faults(images, facts),
        *_find_void_classes(data.classes, folder),
    ]
    present = [index for index in range(len(masks)) if index not in missing_masks]
    contents = _read_masks(data, present, fast, progress)
    findings += _find_size_conflicts(images, masks, facts, contents)
    summary: dict[str, Any] = {
        "task": "segmentation",
        "images": len(images),
        "classes": list(data.classes),
    }
    counts = _count_classes(contents.values(), data.classes)
    histograms: tuple[Histogram, ...] = ()
    if not fast:
        findings += _find_bad_masks(data, images, masks, contents)
        findings += find_duplicate_images(images, facts)
        findings += find_unused_classes(counts, "pixel", folder)
        summary["pixels_per_class"] = counts
        histograms = (Histogram("pixels per class", tuple(counts), tuple(counts.values())),)
    return SplitReport(
        source=folder,
        paths=images,
        facts=facts,
        classes=data.classes,
        counts=counts,
        findings=findings,
        summary=summary,
        histograms=histograms,
    )


def _find_missing_masks(
    images: Sequence[Path], masks: Sequence[Path], missing: Mapping[int, str]
) -> list[Finding]:
    return [
        Finding(
            "error",
            "missing-mask",
            "expected a mask, got no such file" + (f" ({hint})" if hint else ""),
            file=str(masks[index]),
            image=str(images[index]),
            fix="draw it, or leave the image out",
        )
        for index, hint in missing.items()
    ]


def _find_void_classes(classes: Sequence[str], folder: str) -> list[Finding]:
    wrong = [name for name in classes if name.strip().lower() in _VOID_NAMES]
    if not wrong:
        return []
    return [
        Finding(
            "warning",
            "void-as-class",
            f"expected class names, got {name_some(map(repr, wrong))}, which is not a class",
            file=folder,
            fix="leave it out of the classes and pass its number as void",
        )
    ]


def _read_masks(
    data: SegmentationDataset, indices: Sequence[int], fast: bool, progress: bool
) -> dict[int, _Mask]:
    bar = tqdm(
        total=len(indices),
        desc="reading masks",
        unit="mask",
        disable=None if progress else True,
        leave=False,
        delay=1,
    )

    def read(index: int) -> _Mask:
        bar.update()
        try:
            if fast:
                return _Mask({}, data.mask_size(index))
            # Only the dataset knows what colours mean; numbers are counted as stored.
            is_coloured = data.palette is not None
            pixels = data.mask(index) if is_coloured else read_numbers(Path(data.masks[index]))
        except (OSError, ValueError) as error:
            return _Mask({}, problem=str(error).split(", got ", 1)[-1])
        return _Mask(_count_numbers(pixels), (int(pixels.shape[0]), int(pixels.shape[1])))

    with bar, ThreadPoolExecutor(_WORKERS) as pool:
        return dict(zip(indices, pool.map(read, indices), strict=True))


def _count_numbers(pixels: NDArray[Any]) -> dict[int, int]:
    if pixels.dtype == np.uint8:
        counts = np.bincount(pixels.ravel(), minlength=256)
        return {int(value): int(counts[value]) for value in np.flatnonzero(counts)}
    values, numbers = np.unique(pixels, return_counts=True)
    return dict(zip(values.tolist(), numbers.tolist(), strict=True))


def _count_classes(masks: Iterable[_Mask], classes: Sequence[str]) -> dict[str, int]:
    masks = list(masks)
    return {
        name: sum(mask.counts.get(number, 0) for mask in masks)
        for number, name in enumerate(classes)
    }


def _find_size_conflicts(
    images: Sequence[Path],
    masks: Sequence[Path],
    facts: Mapping[int, ImageFacts],
    contents: Mapping[int, _Mask],
) -> list[Finding]:
    findings = []
    for index, mask in contents.items():
        image = facts.get(index)
        if mask.problem or image is None or image.problem or mask.size == image.upright_size:
            continue
        is_unturned = mask.size == image.size
        height, width = image.upright_size
        findings.append(
            Finding(
                "error",
                "labels-not-turned" if is_unturned else "mask-size",
                f"expected a mask of the image's size, {width} x {height}"
                + (" after its EXIF orientation" if is_unturned else "")
                + f", got {mask.size[1]} x {mask.size[0]}",
                file=str(masks[index]),
                image=str(images[index]),
                fix="draw the mask on the upright image"
                if is_unturned
                else "scale the mask with nearest neighbours, or find the right one",
            )
        )
    return findings


def _find_bad_masks(
    data: SegmentationDataset,
    images: Sequence[Path],
    masks: Sequence[Path],
    contents: Mapping[int, _Mask],
) -> list[Finding]:
    void = 255 if data.palette is not None else data.void
    findings = []
    for index, mask in contents.items():
        image, file = str(images[index]), str(masks[index])
        unknown = [n for n in mask.counts if n != void and not 0 <= n < len(data.classes)]
        if mask.problem:
            findings.append(
                Finding(
                    "error",
                    "unreadable-mask",
                    f"expected a mask of class numbers, got {mask.problem}",
                    file=file,
                    image=image,
                    fix="save class numbers as a palette or grey PNG",
                )
            )
        elif unknown:
            numbers = [f"{n} ({mask.counts[n]} pixels)" for n in unknown[:_MOST_NUMBERS]]
            findings.append(
                Finding(
                    "error",
                    "unknown-class",
                    f"expected classes 0..{len(data.classes) - 1} or {void} for void, got "
                    f"{', '.join(numbers)}",
                    file=file,
                    image=image,
                    fix="name every class, or set the number of void",
                )
            )
        elif set(mask.counts) == {void}:
            findings.append(
                Finding(
                    "warning",
                    "all-void",
                    "expected pixels of a class, got only void",
                    file=file,
                    image=image,
                    fix="draw the mask, or leave the image out: a model learns nothing from it",
                )
            )
    return findings
