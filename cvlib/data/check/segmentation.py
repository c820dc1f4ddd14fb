"""The check of a segmentation set: images and their masks of class numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from cvlib.data.check import images as rules
from cvlib.data.check.duplicates import tell_twice
from cvlib.data.check.images import Checked, Facts, cut, list_missing, scan
from cvlib.data.check.statistics import Histogram, name_some
from cvlib.data.datasets.segmentation import SegmentationDataset
from cvlib.data.files.mask_images import read_numbers
from cvlib.data.labels.findings import Finding, Severity

_WORKERS = 2
_SHOWN_NUMBERS = 8
# Names of what is no class; a model would learn to find it.
_VOID_NAMES = ("void", "ignore", "ignored", "unlabeled", "unlabelled", "unknown", "border")


@dataclass(frozen=True)
class _Mask:
    """What a mask holds: pixels of each number, its size, or why it cannot be read."""

    counts: Mapping[int, int]
    size: tuple[int, int] = (-1, -1)
    problem: str = ""


class _Fault(NamedTuple):
    severity: Severity
    code: str
    message: str
    fix: str

    def about(self, image: Path, mask: Path) -> Finding:
        return Finding(
            self.severity,
            self.code,
            self.message,
            file=str(mask),
            image=str(image),
            fix=self.fix,
        )


def check_segmentation(data: SegmentationDataset, *, fast: bool, progress: bool) -> Checked:
    """Looks over images and masks.

    Args:
        data: The set.
        fast: Look only whether the files are there and how large they are.
        progress: Show bars.
    """
    images, masks = [Path(p) for p in data.images], [Path(p) for p in data.masks]
    place = _common_folder(images)
    missing, missing_masks = list_missing(images), list_missing(masks)
    facts = scan(images, decode=not fast, progress=progress, skip=missing)
    findings = [
        *data.findings,
        *rules.tell_missing(images, missing, [str(mask) for mask in masks]),
        *_tell_missing_masks(images, masks, missing_masks),
        *rules.tell_unreadable(images, facts),
        *rules.tell_placeholders(images, facts),
        *_about_names(data.classes, place),
    ]
    read = _read_masks(
        data, [i for i in range(len(masks)) if i not in missing_masks], fast, progress
    )
    findings += cut(_tell_sizes(images, masks, facts, read))
    counts = _sum(read, data)
    if not fast:
        findings += cut(_tell_masks(data, images, masks, read))
        findings += tell_twice(images, facts)
        findings += _about_classes(counts, place)
    summary = {
        "task": "segmentation",
        "images": len(images),
        "classes": list(data.classes),
        **({} if fast else {"pixels_per_class": counts}),
    }
    bars = Histogram("pixels of a class", tuple(counts), tuple(counts.values()))
    return Checked(
        source=place,
        paths=images,
        facts=facts,
        classes=data.classes,
        counts=counts,
        findings=findings,
        summary=summary,
        histograms=() if fast else (bars,),
    )


def _common_folder(paths: Sequence[Path]) -> str:
    return str(paths[0].parent) if paths else "no images"


def _tell_missing_masks(
    images: Sequence[Path], masks: Sequence[Path], missing: Mapping[int, str]
) -> list[Finding]:
    return cut(
        [
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
    )


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
            # Of colours only the set knows what they mean; numbers are counted as they are.
            coloured = data.palette is not None
            pixels = data.mask(index) if coloured else read_numbers(Path(data.masks[index]))
        except (OSError, ValueError) as error:
            return _Mask({}, problem=str(error).split(", got ", 1)[-1])
        return _Mask(_count(pixels), (int(pixels.shape[0]), int(pixels.shape[1])))

    with bar, ThreadPoolExecutor(_WORKERS) as pool:
        return dict(zip(indices, pool.map(read, indices), strict=True))


def _count(pixels: NDArray[Any]) -> dict[int, int]:
    if pixels.dtype == np.uint8:
        counts = np.bincount(pixels.ravel(), minlength=256)
        return {int(value): int(counts[value]) for value in np.flatnonzero(counts)}
    values, numbers = np.unique(pixels, return_counts=True)
    return dict(zip(values.tolist(), numbers.tolist(), strict=True))


def _tell_sizes(
    images: Sequence[Path],
    masks: Sequence[Path],
    facts: Mapping[int, Facts],
    read: Mapping[int, _Mask],
) -> list[Finding]:
    findings = []
    for index, mask in read.items():
        known = facts.get(index)
        if mask.problem or known is None or known.problem or mask.size == known.upright_size:
            continue
        turned = mask.size == known.size
        height, width = known.upright_size
        findings.append(
            Finding(
                "error",
                "labels-not-turned" if turned else "mask-size",
                f"expected a mask of the image's size, {width} x {height}"
                + (" as EXIF turns it" if turned else "")
                + f", got {mask.size[1]} x {mask.size[0]}",
                file=str(masks[index]),
                image=str(images[index]),
                fix="draw the mask on the image as it is seen"
                if turned
                else "scale the mask with nearest neighbours, or find the right one",
            )
        )
    return findings


def _tell_masks(
    data: SegmentationDataset,
    images: Sequence[Path],
    masks: Sequence[Path],
    read: Mapping[int, _Mask],
) -> list[Finding]:
    void = 255 if data.palette is not None else data.void
    return [
        fault.about(images[index], masks[index])
        for index, mask in read.items()
        if (fault := _find_fault(mask, len(data.classes), void)) is not None
    ]


def _find_fault(mask: _Mask, num_classes: int, void: int) -> _Fault | None:
    if mask.problem:
        return _Fault(
            "error",
            "unreadable-mask",
            f"expected a mask of class numbers, got {mask.problem}",
            "save class numbers as palette or grey PNG",
        )
    strange = [n for n in mask.counts if n != void and not 0 <= n < num_classes]
    if strange:
        told = ", ".join(f"{n} ({mask.counts[n]} pixels)" for n in strange[:_SHOWN_NUMBERS])
        return _Fault(
            "error",
            "unknown-class",
            f"expected classes 0..{num_classes - 1} or {void} for void, got {told}",
            "name every class, or say which number is void",
        )
    if set(mask.counts) == {void}:
        return _Fault(
            "warning",
            "all-void",
            "expected some pixels of a class, got none but void",
            "draw the mask, or leave the image out: it teaches nothing",
        )
    return None


def _about_names(classes: Sequence[str], place: str) -> list[Finding]:
    wrong = [name for name in classes if name.strip().lower() in _VOID_NAMES]
    if not wrong:
        return []
    return [
        Finding(
            "warning",
            "void-as-class",
            f"expected names of classes, got {name_some(wrong)}: that is no class",
            file=place,
            fix="leave it out of the classes and pass its number as void",
        )
    ]


def _sum(read: Mapping[int, _Mask], data: SegmentationDataset) -> dict[str, int]:
    return {
        name: sum(mask.counts.get(number, 0) for mask in read.values())
        for number, name in enumerate(data.classes)
    }


def _about_classes(counts: Mapping[str, int], place: str) -> list[Finding]:
    unused = [name for name, count in counts.items() if not count]
    if not unused or len(unused) == len(counts):
        return []
    return [
        Finding(
            "info",
            "unused-class",
            f"no pixel is of {name_some(unused)}; a model cannot learn "
            + ("them" if len(unused) > 1 else "it"),
            file=place,
        )
    ]
