"""Anchor boxes, in plain PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cvlib._checks import mismatch


def multibox_prior(
    feature_size: tuple[int, int],
    sizes: Sequence[float],
    ratios: Sequence[float],
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Tensor:
    """Return anchors of several sizes and ratios, centred on every cell of a feature map.

    Each cell has ``len(sizes) + len(ratios) - 1`` anchors: every size with the first ratio, then
    the first size with every other ratio. An anchor of size s and ratio r is ``s * sqrt(r)`` wide
    and ``s / sqrt(r)`` high in units of the image height, if the feature map has the aspect ratio
    of the image.

    Args:
        feature_size: Height H and width W of the feature map.
        sizes: Fractions of the image height, in (0, 1].
        ratios: Aspect ratios, width over height, positive.
        dtype: Dtype of the result.
        device: Device of the result.

    Returns:
        Anchors (x1, y1, x2, y2) normalised to 0..1, not clipped, cells row by row, shape
        (H * W * (len(sizes) + len(ratios) - 1), 4).

    Raises:
        ValueError: No sizes or ratios, one that is not positive, or an empty feature map.

    References:
        Zhang et al., "Dive into Deep Learning", section 14.4.1.

    Example:
        >>> multibox_prior((1, 1), sizes=[0.5], ratios=[1, 4])
        tensor([[0.2500, 0.2500, 0.7500, 0.7500],
                [0.0000, 0.3750, 1.0000, 0.6250]])
    """
    height, width = feature_size
    if height < 1 or width < 1:
        requirement = "be at least (1, 1)"
        raise ValueError(mismatch("multibox_prior", "feature_size", requirement, feature_size))
    for argument, values in (("sizes", sizes), ("ratios", ratios)):
        if not len(values) or not all(0 < value < float("inf") for value in values):
            requirement, actual = "be positive numbers", list(values)
            raise ValueError(mismatch("multibox_prior", argument, requirement, actual))
    pairs = [(size, ratios[0]) for size in sizes] + [(sizes[0], ratio) for ratio in ratios[1:]]
    size, ratio = torch.tensor(pairs, dtype=torch.float64, device=device).unbind(1)
    # Sizes are fractions of the height; x is a fraction of the width.
    half = torch.stack([size * ratio.sqrt() * height / width, size / ratio.sqrt()], dim=1) / 2
    y = (torch.arange(height, dtype=torch.float64, device=device) + 0.5) / height
    x = (torch.arange(width, dtype=torch.float64, device=device) + 0.5) / width
    center_y, center_x = torch.meshgrid(y, x, indexing="ij")
    centers = torch.stack([center_x, center_y], dim=-1).reshape(-1, 1, 2)  # (H * W, 1, 2)
    return torch.cat([centers - half, centers + half], dim=-1).reshape(-1, 4).to(dtype)
