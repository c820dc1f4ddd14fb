"""The same image twice: byte for byte, or to the eye."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cvlib.data.check.images import THUMBNAIL, Facts, cut
from cvlib.data.labels.findings import Finding, Severity

# Mean and largest difference of grey values in the small images of what is nearly the same: JPEG
# at another quality or another size changes them by less, another moment of a film by more.
_MEAN_DIFFERENCE = 1.0
_LARGEST_DIFFERENCE = 8
# Hashes of 64 bits in 4 parts: what differs in up to 3 bits agrees in a part.
_PARTS = 4
# Of one part, an image is compared with so many that follow it: an album of black images must
# not take for ever.
_MOST_NEIGHBOURS = 32

Pairs = list[tuple[int, int]]


def find_equal(facts: Mapping[int, Facts]) -> Pairs:
    """Images whose files are equal, each with the first of its kind.

    Args:
        facts: Of images by index, read whole.
    """
    groups: dict[bytes, list[int]] = defaultdict(list)
    for index, known in facts.items():
        if known.digest:
            groups[known.digest].append(index)
    return [(group[0], other) for group in groups.values() for other in group[1:]]


def find_similar(facts: Mapping[int, Facts]) -> Pairs:
    """Images that look the same but have other bytes.

    Args:
        facts: Of images by index, read whole.
    """
    chosen = [(i, known) for i, known in facts.items() if known.thumbnail is not None]
    first_of: dict[bytes, int] = {}
    chosen = [(i, k) for i, k in chosen if first_of.setdefault(k.digest, i) == i]
    if len(chosen) < 2:
        return []
    indices = np.array([index for index, _ in chosen])
    small = np.stack([known.thumbnail for _, known in chosen if known.thumbnail is not None])
    flat = small.reshape(len(small), -1).astype(np.int16)
    parts = _hash(small)
    pairs: set[tuple[int, int]] = set()
    for part in range(_PARTS):
        order = np.argsort(parts[:, part], kind="stable")
        key = parts[order, part]
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
    return packed.view(np.uint16).reshape(len(small), _PARTS)


def tell_twice(paths: Sequence[Path], facts: Mapping[int, Facts]) -> list[Finding]:
    """Warnings about images of one set that are there twice."""
    return [
        *_tell(paths, find_equal(facts), "duplicate-image", "the same file again", "warning"),
        *_tell(paths, find_similar(facts), "similar-image", "nearly the same image", "warning"),
    ]


def tell_leaks(
    train: tuple[Sequence[Path], Mapping[int, Facts]],
    val: tuple[Sequence[Path], Mapping[int, Facts]],
) -> list[Finding]:
    """Images of the validation set that the training set has, too.

    Args:
        train: Paths, and what is known of them.
        val: The same.
    """
    paths = [*train[0], *val[0]]
    start = len(train[0])
    facts = {**train[1], **{start + index: known for index, known in val[1].items()}}
    first_of: dict[bytes, int] = {}
    for index, known in train[1].items():
        first_of.setdefault(known.digest, index)
    equal = [
        (first_of[known.digest], start + index)
        for index, known in val[1].items()
        if known.digest and known.digest in first_of
    ]
    similar = [(a, b) for a, b in find_similar(facts) if a < start <= b]
    word = "an image of the training set"
    return [
        *_tell(paths, equal, "leaked-image", word, "error"),
        *_tell(paths, similar, "similar-leaked-image", f"nearly {word}", "warning"),
    ]


def _tell(
    paths: Sequence[Path], pairs: Pairs, code: str, actual: str, severity: Severity
) -> list[Finding]:
    leaks = "leak" in code
    return cut(
        [
            Finding(
                severity,
                code,
                f"expected {'new images to validate on' if leaks else 'each image once'}, got "
                f"{actual}: {paths[first]}",
                image=str(paths[second]),
                fix="remove one of the two"
                + (": figures measured on what was trained on say nothing" if leaks else ""),
            )
            for first, second in pairs
        ]
    )
