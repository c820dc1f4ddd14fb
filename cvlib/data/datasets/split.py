"""Two parts of a set, drawn at random or with the same share of every class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Labels = Sequence[NDArray[np.int64]]


def split_images(
    total: int, fraction: float, seed: int, labels: Labels | None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draws a share of the images.

    Args:
        total: Number of images.
        fraction: Between 0 and 1: share of the first part.
        seed: Of the draw.
        labels: The classes in each image, each as often as it counts: both parts get the
            same share of every class, as nearly as the images allow. ``None``: drawn at random.

    Returns:
        The images of the first part and the others, in the order of the set.

    Raises:
        ValueError: ``fraction`` is out of range, or a part would be empty.

    References:
        Sechidis, Tsoumakas, Vlahavas, On the Stratification of Multi-Label Data, ECML 2011.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"split: expected fraction between 0 and 1, got {fraction}")
    count = round(fraction * total)
    if not 0 < count < total:
        raise ValueError(
            f"split: expected at least one image in each part, got {count} and {total - count} "
            f"of {total} for fraction {fraction}"
        )
    order = np.random.default_rng(seed).permutation(total)
    if labels is not None:
        is_first = _stratified(labels, order, count, fraction)
    else:
        is_first = np.zeros(total, dtype=np.bool_)
        is_first[order[:count]] = True
    return np.flatnonzero(is_first), np.flatnonzero(~is_first)


def _stratified(
    labels: Labels, order: NDArray[np.int64], count: int, fraction: float
) -> NDArray[np.bool_]:
    """Gives out the images of the rarest class first, each to the part that lacks it most."""
    things = [np.bincount(own) for own in labels]
    every = np.concatenate(labels)
    owners = np.repeat(np.arange(len(order)), [len(own) for own in labels])
    totals = np.bincount(every).astype(np.float64)
    lacking = np.outer([fraction, 1 - fraction], totals)
    room = np.array([count, len(order) - count])
    part = np.full(len(order), -1)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    for label in np.argsort(totals, kind="stable"):
        holders = np.unique(owners[every == label])
        for image in holders[np.argsort(rank[holders])]:
            if part[image] < 0:
                # Equal lacks go to the part with more room; a full part gets nothing.
                wish = np.where(room > 0, lacking[:, label], -np.inf)
                chosen = int(np.lexsort((room, wish))[-1])
                part[image] = chosen
                room[chosen] -= 1
                lacking[chosen, : len(things[image])] -= things[image]
    empty = order[part[order] < 0]
    part[empty[: room[0]]] = 0
    return part == 0
