"""Properties of images, read from folders, headers and pixels, and findings about them."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from cvlib.data.files.images import read_image, read_image_header
from cvlib.data.labels.findings import Finding
from cvlib.data.labels.table import LabelTable

# Side of the small grey image by which images are compared.
THUMBNAIL = 16
# Share of a single grey, which no greyscale photograph in our datasets reaches, and share of such
# images beyond which they are typical of the dataset.
_PLACEHOLDER = 0.9
_MOST_PLACEHOLDERS = 0.1
_WORKERS = 2
# Images submitted at once, so that an interruption waits for few of them.
_SUBMITTED = 256
# JPEG noise on a grey surface: in brightness, and between the channels.
_GREY_NOISE = 4
_GREY_SPREAD = 16
# Colours are searched for in every n-th row and column.
_GREY_STEP = 4
_SUFFIXES = {
    "PNG": (".png",),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "GIF": (".gif",),
    "BMP": (".bmp", ".dib"),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
}


@dataclass(frozen=True)
class ImageFacts:
    """Properties of one image.

    Attributes:
        problem: Why the image cannot be read; empty if it can.
        size: (height, width) as stored.
        orientation: EXIF orientation, from 1 (upright) to 8.
        format: Pillow's name of the file format.
        digest: Hash of the file; empty if only the header was read.
        thumbnail: Grey values, shape (16, 16), uint8; None if only the header was read.
        grey_share: Largest share of pixels with one grey value; 0 for images with colours.
    """

    problem: str = ""
    size: tuple[int, int] = (-1, -1)
    orientation: int = 1
    format: str = ""
    digest: bytes = b""
    thumbnail: NDArray[np.uint8] | None = None
    grey_share: float = 0.0

    @property
    def upright_size(self) -> tuple[int, int]:
        """(height, width) after applying the EXIF orientation."""
        height, width = self.size
        return (width, height) if self.orientation >= 5 else (height, width)

    @property
    def usual_suffix(self) -> str:
        """File suffix of the format, with its dot; empty for unusual formats."""
        return _SUFFIXES.get(self.format, ("",))[0]

    def has_right_suffix(self, path: Path) -> bool:
        """Whether the file suffix matches the format."""
        return path.suffix.lower() in _SUFFIXES.get(self.format, (path.suffix.lower(),))


def list_missing(paths: Sequence[Path]) -> dict[int, str]:
    """List the paths that do not exist.

    Args:
        paths: Paths of images.

    Returns:
        Their indices, with a hint if a similar name exists and an empty string otherwise.

    Note:
        Each folder is listed once, which takes a tenth of the time of a query per file.
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


def scan(
    paths: Sequence[Path], *, decode: bool, progress: bool, skip: Iterable[int] = ()
) -> dict[int, ImageFacts]:
    """Read images on two threads; decoders release the GIL.

    Args:
        paths: Paths of the images.
        decode: Whether to decode the images; otherwise only headers are read.
        progress: Whether to show a progress bar.
        skip: Indices to leave out.

    Returns:
        Properties of each image, keyed by index.
    """
    skipped = set(skip)
    indices = [index for index in range(len(paths)) if index not in skipped]
    read, verb = (read_facts, "decoding") if decode else (read_header, "reading headers of")
    bar = tqdm(
        total=len(indices),
        desc=f"{verb} images",
        unit="image",
        disable=None if progress else True,
        leave=False,
        delay=1,
    )
    facts = {}
    with bar, ThreadPoolExecutor(_WORKERS if decode else 1) as pool:
        for index, image in zip(indices, _map(pool, read, paths, indices), strict=True):
            facts[index] = image
            bar.update()
    return facts


def _map(
    pool: ThreadPoolExecutor,
    read: Callable[[Path], ImageFacts],
    paths: Sequence[Path],
    indices: Sequence[int],
) -> Iterator[ImageFacts]:
    remaining = (paths[index] for index in indices)
    while chunk := list(islice(remaining, _SUBMITTED)):
        yield from pool.map(read, chunk)


def read_header(path: Path) -> ImageFacts:
    """Read size, format and orientation without decoding pixels."""
    try:
        header = read_image_header(path)
        return ImageFacts(
            size=header.size(upright=False),
            orientation=header.orientation,
            format=header.format,
        )
    except (OSError, ValueError) as error:
        return ImageFacts(problem=_reason(error))


def read_facts(path: Path) -> ImageFacts:
    """Read the header, hash the file and decode the pixels as in training."""
    facts = read_header(path)
    if facts.problem:
        return facts
    try:
        data = path.read_bytes()
        image = read_image(data).numpy()
    except (OSError, ValueError) as error:
        return ImageFacts(problem=_reason(error))
    digest = hashlib.blake2b(data, digest_size=16).digest()
    return replace(facts, digest=digest, thumbnail=_shrink(image[1]), grey_share=_grey_share(image))


def _reason(error: Exception) -> str:
    """Keep what a reader got; the finding repeats what was expected, where, and the advice."""
    text = (str(error).splitlines() or [type(error).__name__])[0]
    return text.split(", got ", 1)[-1].split("; restore or remove", 1)[0]


def _shrink(channel: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Average over the cells of a small grid. Green is close to grey and contiguous in memory."""
    import cv2

    small = cv2.resize(channel, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)
    return np.asarray(small, dtype=np.uint8)


def _grey_share(image: NDArray[np.uint8]) -> float:
    """Largest share of pixels with one grey value, up to JPEG noise; 0 for colour images."""
    import cv2

    counts = cv2.calcHist([image[1]], [0], None, [256], [0, 256]).ravel()
    near = np.convolve(counts, np.ones(2 * _GREY_NOISE + 1), "same")
    has_colours = np.ptp(image[:, ::_GREY_STEP, ::_GREY_STEP], axis=0) > _GREY_SPREAD
    return 0.0 if has_colours.any() else float(near.max() / image[1].size)


def find_missing_images(
    paths: Sequence[Path], missing: Mapping[int, str], files: Sequence[str]
) -> list[Finding]:
    """Return an error for each image that does not exist.

    Args:
        paths: Paths of all images.
        missing: Indices with hints, from `list_missing`.
        files: For each image the label file that names it.
    """
    return [
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


def find_image_faults(paths: Sequence[Path], facts: Mapping[int, ImageFacts]) -> list[Finding]:
    """Find unreadable images, misleading suffixes, and placeholders for lost images."""
    return [*_find_unreadable(paths, facts), *_find_placeholders(paths, facts)]


def _find_unreadable(paths: Sequence[Path], facts: Mapping[int, ImageFacts]) -> list[Finding]:
    findings = []
    for index, image in facts.items():
        path = paths[index]
        if image.problem:
            findings.append(
                Finding(
                    "error",
                    "unreadable-image",
                    f"expected a complete image, got {image.problem}",
                    image=str(path),
                    fix="restore or remove the file",
                )
            )
        elif not image.has_right_suffix(path):
            findings.append(
                Finding(
                    "warning",
                    "wrong-suffix",
                    f"expected a suffix that matches the format, got {path.suffix or 'no suffix'} "
                    f"for {image.format} data",
                    image=str(path),
                    fix="rename it and its labels; other programs rely on the suffix",
                )
            )
    return findings


def _find_placeholders(paths: Sequence[Path], facts: Mapping[int, ImageFacts]) -> list[Finding]:
    """Find images of a single grey, such as a website's "image not found".

    If many images are like this, as among scans of writing, it is typical of the dataset.
    """
    grey = [index for index, image in facts.items() if image.grey_share >= _PLACEHOLDER]
    if len(grey) > max(1, _MOST_PLACEHOLDERS * len(facts)):
        return []
    return [
        Finding(
            "warning",
            "placeholder-image",
            f"expected image content, got {facts[index].grey_share:.0%} of one grey and no "
            'colours: is it the "not found" of a website, or an empty frame?',
            image=str(paths[index]),
            fix="inspect it; remove it unless it shows what its label says",
        )
        for index in grey
    ]


def find_size_conflicts(table: LabelTable, facts: Mapping[int, ImageFacts]) -> list[Finding]:
    """Compare the sizes in the label files with those of the images.

    Labels are expected to refer to the image after its EXIF orientation, unless their size is that
    of the stored image, or boxes fit only there.
    """
    findings = []
    turned = []
    for index, image in facts.items():
        claim = (int(table.sizes[index, 0]), int(table.sizes[index, 1]))
        if not image.problem and claim != image.upright_size:
            if is_labelled_as_stored(table, index, image):
                findings.append(_unturned_labels(table, index, image))
                continue
            if claim[0] >= 0:
                findings.append(_size_conflict(table, index, claim, image))
                continue
        if image.orientation != 1:
            turned.append(index)
    if turned:
        findings.append(
            Finding(
                "info",
                "exif-orientation",
                f"{len(turned)} images have an EXIF orientation; boxes must have been drawn on the "
                "turned images",
                image=str(table.path(turned[0])),
                count=len(turned),
            )
        )
    return findings


def is_labelled_as_stored(table: LabelTable, index: int, image: ImageFacts) -> bool:
    """Whether the labels of an image with an EXIF orientation refer to its stored pixels."""
    height, width = (int(side) for side in table.sizes[index])
    if image.problem or image.orientation < 5 or image.size[0] == image.size[1]:
        return False
    return (height, width) == image.size if height >= 0 else _fits_stored_only(table, index, image)


def _fits_stored_only(table: LabelTable, index: int, image: ImageFacts) -> bool:
    boxes = table.boxes[table.objects(index)]
    (height, width), (turned_height, turned_width) = image.size, image.upright_size
    right, bottom = boxes[:, 2:].max(0, initial=0)
    fits = right <= width and bottom <= height
    return bool(fits and (right > turned_width or bottom > turned_height))


def _unturned_labels(table: LabelTable, index: int, image: ImageFacts) -> Finding:
    height, width = image.size
    return Finding(
        "error",
        "labels-not-turned",
        f"expected labels of the upright image, {height} wide and {width} high after its EXIF "
        f"orientation {image.orientation}, got labels of the stored {width} x {height}",
        file=table.label_file(index),
        image=str(table.path(index)),
        fix="turn the stored pixels and remove the orientation tag; keep the labels as they are",
    )


def _size_conflict(
    table: LabelTable, index: int, claim: tuple[int, int], image: ImageFacts
) -> Finding:
    height, width = image.upright_size
    hint = "; width and height are exchanged" if claim == (width, height) else ""
    return Finding(
        "error",
        "size-differs",
        f"expected an image of width {claim[1]} and height {claim[0]} as in the labels, got "
        f"{width} x {height}{hint}",
        file=table.label_file(index),
        image=str(table.path(index)),
        fix="find the image that was labelled, or scale its boxes",
    )


def label_sizes(table: LabelTable, facts: Mapping[int, ImageFacts]) -> NDArray[np.int64]:
    """Return the sizes that boxes are compared with: from the labels, otherwise from the images.

    Labels come first so that a wrong size is reported once, not again for each of its boxes.

    Returns:
        Height and width of each image, shape (P, 2); -1 where unknown.
    """
    sizes = table.sizes.copy()
    for index, image in facts.items():
        if image.problem or sizes[index, 0] >= 0:
            continue
        stored = image.orientation >= 5 and _fits_stored_only(table, index, image)
        sizes[index] = image.size if stored else image.upright_size
    return sizes
