"""Random and stratified splits of a dataset into two parts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Labels = Sequence[NDArray[np.int64]]


def split_images(
    total: int, fraction: float, seed: int, labels: Labels | None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split the indices of images into two parts.

    Args:
        total: Number of images.
        fraction: Share of the first part, between 0 and 1.
        seed: Random seed.
        labels: Classes of each image, repeated as often as they count: both parts get the same
            share of every class, as nearly as the images allow. None for a random split.

    Returns:
        Indices of the first and of the second part, each in ascending order.

    Raises:
        ValueError: ``fraction`` is out of range, or a part would be empty.

    References:
        Sechidis, Tsoumakas, Vlahavas, On the Stratification of Multi-Label Data, ECML 2011.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"split: expected `fraction` between 0 and 1, got {fraction}")
    count = round(fraction * total)
    if not 0 < count < total:
        raise ValueError(
            f"split: expected at least one image in each part, got {count} and {total - count} "
            f"of {total} for fraction {fraction}"
        )
    order = np.random.default_rng(seed).permutation(total)
    if labels is not None:
        is_first = _stratify(labels, order, count, fraction)
    else:
        is_first = np.zeros(total, dtype=np.bool_)
        is_first[order[:count]] = True
    return np.flatnonzero(is_first), np.flatnonzero(~is_first)


def _stratify(
    labels: Labels, order: NDArray[np.int64], count: int, fraction: float
) -> NDArray[np.bool_]:
    """Assign images of the rarest class first, each to the part that lacks it most."""
    image_counts = [np.bincount(classes) for classes in labels]
    all_labels = np.concatenate(labels)
    owners = np.repeat(np.arange(len(order)), [len(classes) for classes in labels])
    totals = np.bincount(all_labels).astype(np.float64)
    lacking = np.outer([fraction, 1 - fraction], totals)
    room = np.array([count, len(order) - count])
    part = np.full(len(order), -1)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    for label in np.argsort(totals, kind="stable"):
        holders = np.unique(owners[all_labels == label])
        for image in holders[np.argsort(rank[holders])]:
            if part[image] < 0:
                # On a tie, the part with more room gets the image; a full part gets none.
                need = np.where(room > 0, lacking[:, label], -np.inf)
                chosen = int(np.lexsort((room, need))[-1])
                part[image] = chosen
                room[chosen] -= 1
                lacking[chosen, : len(image_counts[image])] -= image_counts[image]
    empty = order[part[order] < 0]
    part[empty[: room[0]]] = 0
    return part == 0
