"""Repeated images: identical files, and visually similar ones."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cvlib.data.check.images import THUMBNAIL, ImageFacts
from cvlib.data.labels.findings import Finding, Severity

# Largest mean and maximal difference between the thumbnails of similar images: JPEG at another
# quality or size changes them by less, the next frame of a film by more.
_MEAN_DIFFERENCE = 1.0
_LARGEST_DIFFERENCE = 8
# Hashes of 64 bits in 4 words: hashes that differ in up to 3 bits have an equal word.
_HASH_WORDS = 4
# Each image is compared with at most this many others of an equal word, so that an album of black
# images does not take for ever.
_MOST_NEIGHBOURS = 32

Pairs = list[tuple[int, int]]


def find_duplicate_images(paths: Sequence[Path], facts: Mapping[int, ImageFacts]) -> list[Finding]:
    """Return warnings about images that occur twice in a split."""
    return [
        *_find_repeated(paths, list_equal(facts), "duplicate-image", "the same file again"),
        *_find_repeated(paths, list_similar(facts), "similar-image", "nearly the same image"),
    ]


def _find_repeated(paths: Sequence[Path], pairs: Pairs, code: str, actual: str) -> list[Finding]:
    return [
        Finding(
            "warning",
            code,
            f"expected each image once, got {actual}: {paths[first]}",
            image=str(paths[second]),
            fix="remove one of the two",
        )
        for first, second in pairs
    ]


def find_leaks(
    train: tuple[Sequence[Path], Mapping[int, ImageFacts]],
    val: tuple[Sequence[Path], Mapping[int, ImageFacts]],
) -> list[Finding]:
    """Find images of the validation split that are also in the training split.

    Args:
        train: Paths and properties of the training images.
        val: Paths and properties of the validation images.
    """
    paths = [*train[0], *val[0]]
    offset = len(train[0])
    facts = {**train[1], **{offset + index: image for index, image in val[1].items()}}
    first_of: dict[bytes, int] = {}
    for index, image in train[1].items():
        first_of.setdefault(image.digest, index)
    equal = [
        (first_of[image.digest], offset + index)
        for index, image in val[1].items()
        if image.digest and image.digest in first_of
    ]
    similar = [(a, b) for a, b in list_similar(facts) if a < offset <= b]
    actual = "an image of the training set"
    return [
        *_find_leaked(paths, equal, "leaked-image", actual, "error"),
        *_find_leaked(paths, similar, "similar-leaked-image", f"nearly {actual}", "warning"),
    ]


def _find_leaked(
    paths: Sequence[Path], pairs: Pairs, code: str, actual: str, severity: Severity
) -> list[Finding]:
    return [
        Finding(
            severity,
            code,
            f"expected new images for validation, got {actual}: {paths[first]}",
            image=str(paths[second]),
            fix="remove one of the two: metrics on training images are meaningless",
        )
        for first, second in pairs
    ]


def list_equal(facts: Mapping[int, ImageFacts]) -> Pairs:
    """List images with identical files, each with the first of its group.

    Args:
        facts: Properties of decoded images, keyed by index.
    """
    groups: dict[bytes, list[int]] = defaultdict(list)
    for index, image in facts.items():
        if image.digest:
            groups[image.digest].append(index)
    return [(group[0], other) for group in groups.values() for other in group[1:]]


def list_similar(facts: Mapping[int, ImageFacts]) -> Pairs:
    """List images that look the same but have different files.

    Args:
        facts: Properties of decoded images, keyed by index.
    """
    thumbnails = {}
    digests = set()
    for index, image in facts.items():
        if image.thumbnail is not None and image.digest not in digests:
            digests.add(image.digest)
            thumbnails[index] = image.thumbnail
    if len(thumbnails) < 2:
        return []
    indices = np.array(list(thumbnails))
    small = np.stack(list(thumbnails.values()))
    flat = small.reshape(len(small), -1).astype(np.int16)
    words = _hash(small)
    pairs: set[tuple[int, int]] = set()
    for word in range(_HASH_WORDS):
        order = np.argsort(words[:, word], kind="stable")
        key = words[order, word]
        for distance in range(1, min(_MOST_NEIGHBOURS, len(order) - 1) + 1):
            near = np.flatnonzero(key[distance:] == key[:-distance])
            if not len(near):
                break
            a, b = order[near], order[near + distance]
            difference = np.abs(flat[a] - flat[b])
            same = (difference.mean(1) <= _MEAN_DIFFERENCE) & (
                difference.max(1) <= _LARGEST_DIFFERENCE
            )
            first, second = np.minimum(a[same], b[same]), np.maximum(a[same], b[same])
            pairs.update(zip(indices[first].tolist(), indices[second].tolist(), strict=True))
    return sorted(pairs)


def _hash(small: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """Difference hash, shape (N, 4): whether each of 8 x 8 cells is lighter than its neighbour."""
    half = THUMBNAIL // 2
    cells = small.reshape(len(small), half, 2, half, 2).astype(np.int32).sum((2, 4))
    bits = cells > np.roll(cells, 1, axis=2)
    packed = np.packbits(bits.reshape(len(small), -1), axis=1)
    return packed.view(np.uint16).reshape(len(small), _HASH_WORDS)
