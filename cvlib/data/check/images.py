"""What can be known of images: from their folder, their headers, and all of their bytes."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from cvlib.data.check.statistics import Histogram
from cvlib.data.files.images import read_image, read_image_header
from cvlib.data.labels.findings import Finding
from cvlib.data.labels.rules import MOST_OF_A_KIND
from cvlib.data.labels.table import LabelTable


@dataclass(frozen=True)
class Checked:
    """One set, looked over.

    Attributes:
        source: In words.
        paths: Of the images.
        facts: What is known of them, by index; read whole in the full form.
        classes: Names.
        counts: Objects, images or pixels of each class; empty where nobody counted.
        findings: What is wrong with it.
        summary: Plain values for the report.
        histograms: For the page.
        folder: Of the images, where every image in it should be one of a split.
        split: Name of the split; empty: not one of several.
    """

    source: str
    paths: Sequence[Path]
    facts: Mapping[int, Facts]
    classes: tuple[str, ...]
    counts: Mapping[str, int]
    findings: list[Finding]
    summary: dict[str, Any]
    histograms: tuple[Histogram, ...] = field(default=())
    folder: Path | None = None
    split: str = ""

    @property
    def name(self) -> str:
        """The source and the split: several splits may lie in one place."""
        return f"{self.source}, split {self.split}" if self.split else self.source


def cut(findings: list[Finding]) -> list[Finding]:
    """The first thousand of each code, and one that counts the rest."""
    groups: dict[str, list[Finding]] = {}
    for finding in findings:
        groups.setdefault(finding.code, []).append(finding)
    return [finding for group in groups.values() for finding in _cut(group)]


def _cut(findings: list[Finding]) -> list[Finding]:
    rest = len(findings) - MOST_OF_A_KIND
    if rest <= 0:
        return findings
    more = replace(
        findings[0], message=f"{rest} more like these", row="", image="", box=None, count=rest
    )
    return [*findings[:MOST_OF_A_KIND], more]


# Share of one grey, which no photograph without colours in our sets comes near, and share of such
# images in a set beyond which they are no accident.
_PLACEHOLDER = 0.9
_MOST_PLACEHOLDERS = 0.1


def tell_missing(
    paths: Sequence[Path], missing: Mapping[int, str], files: Sequence[str]
) -> list[Finding]:
    """An error for each image that is not there.

    Args:
        paths: Of all images.
        missing: Indices with hints, as of `list_missing`.
        files: For each image the file that names it.
    """
    return cut(
        [
            Finding(
                "error",
                "missing-image",
                "expected an image, got no such file" + (f" ({hint})" if hint else ""),
                file=files[index],
                row=paths[index].name,
                image=str(paths[index]),
                fix="restore it, correct its name, or remove its labels",
            )
            for index, hint in missing.items()
        ]
    )


def tell_unreadable(paths: Sequence[Path], facts: Mapping[int, Facts]) -> list[Finding]:
    """An error for each image that cannot be read, a warning for each misleading name."""
    findings = []
    for index, known in facts.items():
        path = paths[index]
        if known.problem:
            findings.append(
                Finding(
                    "error",
                    "unreadable-image",
                    f"expected a whole image, got {known.problem}",
                    image=str(path),
                    fix="restore or remove the file",
                )
            )
        elif not known.has_right_suffix(path):
            findings.append(
                Finding(
                    "warning",
                    "wrong-suffix",
                    f"expected a name that says what the file is, got {path.suffix or 'no suffix'} "
                    f"on {known.format} data",
                    image=str(path),
                    fix="rename it, and its labels; other programs go by the name",
                )
            )
    return cut(findings)


def tell_placeholders(paths: Sequence[Path], facts: Mapping[int, Facts]) -> list[Finding]:
    """A warning for each image that is nearly all one grey: a website's "image not found".

    Where many are, as among scans of writing, that is how the set looks.
    """
    plain = [index for index, known in facts.items() if known.plain_share >= _PLACEHOLDER]
    if len(plain) > max(1, _MOST_PLACEHOLDERS * len(facts)):
        return []
    return cut(
        [
            Finding(
                "warning",
                "placeholder-image",
                f"expected something to see, got {facts[index].plain_share:.0%} of one grey and no "
                'colours: is it the "not found" of a website, or an empty frame?',
                image=str(paths[index]),
                fix="look at it; remove it unless it is what its label says",
            )
            for index in plain
        ]
    )


def tell_sizes(table: LabelTable, facts: Mapping[int, Facts]) -> list[Finding]:
    """Compares the sizes that label files claim with those of the images.

    An image that EXIF turns is labelled as people see it, unless the claim is that of the stored
    image, or boxes fit only there.
    """
    findings = []
    for index, known in facts.items():
        claim = (int(table.sizes[index, 0]), int(table.sizes[index, 1]))
        if known.problem or claim == known.upright_size:
            continue
        if is_labelled_as_stored(table, index, known):
            findings.append(_turned(table, index, known))
        elif claim[0] >= 0:
            findings.append(_differs(table, index, claim, known))
    turned = [index for index, known in facts.items() if known.orientation != 1]
    told = {finding.image for finding in findings}
    quiet = [index for index in turned if str(table.path(index)) not in told]
    if quiet:
        findings.append(
            Finding(
                "info",
                "exif-orientation",
                f"{len(quiet)} images are turned as their EXIF orientation says; boxes must have "
                "been drawn on the turned images",
                image=str(table.path(quiet[0])),
                count=len(quiet),
            )
        )
    return cut(findings)


def is_labelled_as_stored(table: LabelTable, index: int, known: Facts) -> bool:
    """Whether the labels of an image that EXIF turns are of the pixels before."""
    height, width = (int(side) for side in table.sizes[index])
    if known.problem or known.orientation < 5 or known.size[0] == known.size[1]:
        return False
    return (height, width) == known.size if height >= 0 else _fits_stored_only(table, index, known)


def _fits_stored_only(table: LabelTable, index: int, known: Facts) -> bool:
    boxes = table.boxes[table.objects(index)]
    (height, width), (turned_height, turned_width) = known.size, known.upright_size
    far = boxes[:, 2:].max(0, initial=0)
    fits = far[0] <= width and far[1] <= height
    return bool(fits and (far[0] > turned_width or far[1] > turned_height))


def _turned(table: LabelTable, index: int, known: Facts) -> Finding:
    height, width = known.size
    return Finding(
        "error",
        "labels-not-turned",
        f"expected labels of the image as it is seen, {height} wide and {width} high after its "
        f"EXIF orientation {known.orientation}, got labels of the stored {width} x {height}",
        file=table.label_file(index),
        image=str(table.path(index)),
        fix="turn the stored pixels and remove the orientation's tag, with the labels as they are",
    )


def _differs(table: LabelTable, index: int, claim: tuple[int, int], known: Facts) -> Finding:
    height, width = known.upright_size
    hint = "; width and height are exchanged" if claim == (width, height) else ""
    return Finding(
        "error",
        "size-differs",
        f"expected an image of width {claim[1]} and height {claim[0]} as the labels say, got "
        f"{width} x {height}{hint}",
        file=table.label_file(index),
        image=str(table.path(index)),
        fix="find the image that was labelled, or scale its boxes",
    )


def rule_sizes(table: LabelTable, facts: Mapping[int, Facts]) -> NDArray[np.int64]:
    """Sizes that boxes are judged by, shape (P, 2): those claimed, else those of the images.

    A wrong size is told once, not again for each of its boxes.
    """
    sizes = table.sizes.copy()
    for index, known in facts.items():
        if known.problem or sizes[index, 0] >= 0:
            continue
        stored = known.orientation >= 5 and _fits_stored_only(table, index, known)
        sizes[index] = known.size if stored else known.upright_size
    return sizes


# Side of the small grey image by which images are compared.
THUMBNAIL = 16
_WORKERS = 2
# JPEG adds so many steps of brightness to what is one grey, and so much between its channels.
_GREY_NOISE = 4
_GREY_SPREAD = 16
# Whether an image has colours is asked of every so many pixels of a row and a column.
_GREY_STEP = 4
_SUFFIXES = {
    "PNG": (".png",),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "GIF": (".gif",),
    "BMP": (".bmp", ".dib"),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
}
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Facts:
    """What is known of one image.

    Attributes:
        problem: Why it cannot be read; empty: it can.
        size: (height, width) as stored.
        orientation: EXIF's, from 1 (upright) to 8.
        format: Pillow's name.
        digest: Of its bytes; empty where only the header was read.
        thumbnail: Shape (16, 16), uint8, grey; None where only the header was read.
        plain_share: Of an image without colours: the share of its pixels that are one grey.
    """

    problem: str = ""
    size: tuple[int, int] = (-1, -1)
    orientation: int = 1
    format: str = ""
    digest: bytes = b""
    thumbnail: NDArray[np.uint8] | None = None
    plain_share: float = 0.0

    @property
    def upright_size(self) -> tuple[int, int]:
        """(height, width) as people see it."""
        height, width = self.size
        return (width, height) if self.orientation >= 5 else (height, width)

    @property
    def usual_suffix(self) -> str:
        """That of the format, with its dot; empty where the format is unusual."""
        return _SUFFIXES.get(self.format, ("",))[0]

    def has_right_suffix(self, path: Path) -> bool:
        """Whether the name ends as the content wants."""
        return path.suffix.lower() in _SUFFIXES.get(self.format, (path.suffix.lower(),))


def list_missing(paths: Sequence[Path]) -> dict[int, str]:
    """Finds the paths that are no files.

    Args:
        paths: Of images.

    Returns:
        Their indices, with a hint where a similar name exists, else an empty string.

    Note:
        Each folder is listed once, which takes a tenth of asking for each file.
    """
    folders: dict[str, list[int]] = defaultdict(list)
    for index, path in enumerate(paths):
        folders[os.path.dirname(path)].append(index)
    missing = {}
    for folder, indices in folders.items():
        names = _list_names(folder)
        absent = [index for index in indices if paths[index].name not in names]
        similar = {os.path.splitext(name)[0].lower(): name for name in names} if absent else {}
        for index in absent:
            if not paths[index].is_file():
                near = similar.get(paths[index].stem.lower())
                missing[index] = f"there is {near}" if near else ""
    return missing


def _list_names(folder: str) -> set[str]:
    try:
        with os.scandir(folder or ".") as entries:
            return {entry.name for entry in entries}
    except OSError:
        return set()


def read_header(path: Path) -> Facts:
    """Reads size, format and orientation; no pixels."""
    try:
        header = read_image_header(path)
        return Facts(
            size=header.size(upright=False),
            orientation=header.orientation,
            format=header.format,
        )
    except (OSError, ValueError) as error:
        return Facts(problem=_reason(error))


def read_whole(path: Path) -> Facts:
    """Reads the header, hashes the bytes and decodes the pixels as training would."""
    facts = read_header(path)
    if facts.problem:
        return facts
    try:
        data = path.read_bytes()
        image = read_image(data).numpy()
    except (OSError, ValueError) as error:
        return Facts(problem=_reason(error))
    digest = hashlib.blake2b(data, digest_size=16).digest()
    return replace(
        facts, digest=digest, thumbnail=_shrink(image[1]), plain_share=_plain_share(image)
    )


def _shrink(channel: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Averages over the cells of a small grid; green is nearly grey, and lies ready in memory."""
    import cv2

    small = cv2.resize(channel, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)
    return np.asarray(small, dtype=np.uint8)


def _plain_share(image: NDArray[np.uint8]) -> float:
    """See `Facts`. What JPEG adds to a grey surface still counts as it."""
    import cv2

    counts = cv2.calcHist([image[1]], [0], None, [256], [0, 256]).ravel()
    near = np.convolve(counts, np.ones(2 * _GREY_NOISE + 1), "same")
    has_colours = np.ptp(image[:, ::_GREY_STEP, ::_GREY_STEP], axis=0) > _GREY_SPREAD
    return 0.0 if has_colours.any() else float(near.max() / image[1].size)


def _reason(error: Exception) -> str:
    """What a reader got, without what it had expected and where."""
    text = (str(error).splitlines() or [type(error).__name__])[0]
    return text.split(", got ", 1)[-1].split("; restore or remove", 1)[0]


def scan(
    paths: Sequence[Path], *, decode: bool, progress: bool, skip: Iterable[int] = ()
) -> dict[int, Facts]:
    """Reads images on two threads; decoders let go of Python's lock.

    Args:
        paths: Of the images.
        decode: Read all of them; else their headers.
        progress: Show a bar.
        skip: Indices to leave out.

    Returns:
        What is known of each image, by index.
    """
    left_out = set(skip)
    indices = [index for index in range(len(paths)) if index not in left_out]
    read, verb = (read_whole, "decoding") if decode else (read_header, "reading headers of")
    bar = tqdm(
        total=len(indices),
        desc=f"{verb} images",
        unit="image",
        disable=None if progress else True,
        leave=False,
        delay=1,
    )
    with bar, ThreadPoolExecutor(_WORKERS if decode else 1) as pool:
        facts = {}
        for index, known in zip(
            indices, _map(pool, read, (paths[i] for i in indices)), strict=True
        ):
            facts[index] = known
            bar.update()
    return facts


def _map(
    pool: ThreadPoolExecutor, call: Callable[[_Item], _Result], items: Iterator[_Item]
) -> Iterator[_Result]:
    """As ``pool.map``, in slices, so that an interruption waits for few, not for all."""
    while chunk := list(islice(items, 256)):
        yield from pool.map(call, chunk)
