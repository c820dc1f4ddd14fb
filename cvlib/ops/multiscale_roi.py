"""RoI align on a feature pyramid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cvlib._checks import (
    check_integer,
    check_positive,
    check_same_dtype_and_device,
    check_shape,
    check_tensor,
    is_integer,
    is_value_error,
    mismatch,
)
from cvlib._extension import define, library
from cvlib.ops._similarity import as_real
from cvlib.ops.roi import (
    Boxes,
    _as_pair,
    _as_regions,
    _explain_regions,
    _roi_align_backward_reference,
    _roi_align_reference,
    empty_map,
    is_channels_last,
)

_ROUNDING = 0.9999986137065998  # 2**-2e-6


def multiscale_roi_align(
    features: Sequence[Tensor],
    boxes: Boxes,
    output_size: int | tuple[int, int],
    levels: Sequence[int],
    sampling_ratio: int = -1,
    aligned: bool = False,
    *,
    canonical_scale: float = 224,
    canonical_level: int = 4,
) -> Tensor:
    """Run `roi_align` for each box on the pyramid level that fits its size.

    Level k has a stride of 2**k pixels. A box belongs on level ``floor(canonical_level +
    log2(sqrt(area) / canonical_scale) + 1e-6)``, on the nearest existing level below it, or on the
    first one. Areas are compared with the smallest area of each level, without a logarithm.

    Args:
        features: Maps of the levels, each of shape (N, C, H, W), floating point; H and W differ.
        boxes: In pixels of the images: shape (K, 5), (image, x1, y1, x2, y2), or a list of N
            tensors of shape (L, 4), one per image, as for `roi_align`.
        output_size: Bins as (height, width); one number for both.
        levels: Level k of each map, from fine to coarse.
        sampling_ratio: See `roi_align`.
        aligned: See `roi_align`.
        canonical_scale: Side of a square box on ``canonical_level``, in pixels; positive.
        canonical_level: Level of a box with this side.

    Returns:
        Shape (K, C, height, width), in the order of the boxes, contiguous, in the dtype of the
        first map.

    Raises:
        TypeError: See `roi_align`.
        ValueError: See `roi_align`; also no maps, maps of different batch size, channels or device,
            levels that do not increase, or not one per map.
        RuntimeError: Boxes that require a gradient, which does not exist.

    Note:
        Differentiable any number of times in the maps. Deterministic, forward and backward. One
        operator for all levels, so no synchronisation to count the boxes of a level.

    References:
        Lin et al., "Feature Pyramid Networks for Object Detection" (2017).

    Example:
        >>> maps = [torch.zeros(1, 1, 64, 64), torch.ones(1, 1, 32, 32)]
        >>> boxes = torch.tensor([[0.0, 0.0, 100.0, 100.0], [0.0, 0.0, 200.0, 200.0]])
        >>> multiscale_roi_align(maps, [boxes], 1, levels=(2, 3), sampling_ratio=2).flatten()
        tensor([0., 1.])
    """
    function = "multiscale_roi_align"
    _check_features(function, features)
    _check_levels(function, levels, len(features))
    check_positive(function, "canonical_scale", canonical_scale)
    check_integer(function, "canonical_level", canonical_level)
    check_integer(function, "sampling_ratio", sampling_ratio)
    bins = _as_pair(function, output_size)
    rule = sampling_ratio, aligned, canonical_scale, canonical_level
    return _call(function, features, boxes, bins, levels, rule)


class MultiScaleRoIAlign(nn.Module):
    """Module that pools boxes from a feature pyramid, compatible with torchvision's.

    Infers the level of each map from its height and the height of the largest image, and calls
    `multiscale_roi_align`. Where the pyramid has a gap, a box uses the next finer map;
    torchvision returns zeros there.

    Args:
        featmap_names: Keys of the maps to use; others are ignored.
        output_size: Bins as (height, width); one number for both.
        sampling_ratio: See `roi_align`.
        canonical_scale: Side of a square box on ``canonical_level``, in pixels.
        canonical_level: Level of a box with this side.

    Note:
        Deterministic, forward and backward. See `multiscale_roi_align` for the cost.

    Example:
        >>> maps = {"fine": torch.zeros(1, 1, 64, 64), "coarse": torch.ones(1, 1, 32, 32)}
        >>> pool = MultiScaleRoIAlign(["fine", "coarse"], output_size=1, sampling_ratio=2)
        >>> boxes = torch.tensor([[0.0, 0.0, 100.0, 100.0], [0.0, 0.0, 200.0, 200.0]])
        >>> pool(maps, [boxes], [(256, 256)]).flatten()
        tensor([0., 1.])
    """

    def __init__(
        self,
        featmap_names: list[str],
        output_size: int | tuple[int, int] | list[int],
        sampling_ratio: int,
        *,
        canonical_scale: int = 224,
        canonical_level: int = 4,
    ) -> None:
        super().__init__()
        self.featmap_names = featmap_names
        self.output_size = _as_pair("MultiScaleRoIAlign", output_size)
        self.sampling_ratio = sampling_ratio
        self.canonical_scale = canonical_scale
        self.canonical_level = canonical_level

    def forward(
        self, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]
    ) -> Tensor:
        """Pool the boxes of all images.

        Args:
            x: Maps keyed by name, from fine to coarse, each of shape (N, C, H, W).
            boxes: One tensor of shape (L, 4) per image, in its pixels.
            image_shapes: Size of each image as (height, width).

        Returns:
            Shape (K, C, height, width), image by image.
        """
        function = "MultiScaleRoIAlign"
        features = [feature for name, feature in x.items() if name in self.featmap_names]
        _check_features(function, features)
        if not image_shapes:
            raise ValueError(mismatch(function, "image_shapes", "hold one size per image", "none"))
        height = max(shape[0] for shape in image_shapes)
        levels = [_level_of(function, feature.shape[2], height) for feature in features]
        _check_levels(function, levels, len(features))
        rule = self.sampling_ratio, False, self.canonical_scale, self.canonical_level
        return _call(function, features, boxes, self.output_size, levels, rule)

    def extra_repr(self) -> str:
        """Return the arguments for printing."""
        return (
            f"featmap_names={self.featmap_names}, output_size={self.output_size}, "
            f"sampling_ratio={self.sampling_ratio}"
        )


def _call(
    function: str,
    features: Sequence[Tensor],
    boxes: Boxes,
    bins: tuple[int, int],
    levels: Sequence[int],
    rule: tuple[int, bool, float, int],
) -> Tensor:
    regions = _as_regions(function, features[0], boxes)
    try:
        return torch.ops.cvlib.multiscale_roi_align(features, regions, *bins, levels, *rule)
    except RuntimeError as error:
        if is_value_error(error):
            # The finest level has the largest coordinates.
            _explain_regions(function, boxes, features[0].shape[0], 2.0 ** -levels[0])
        raise


def _check_features(function: str, features: Sequence[Tensor]) -> None:
    if not isinstance(features, list | tuple):
        actual = type(features).__name__
        raise TypeError(mismatch(function, "features", "be a list of tensors", actual))
    if not features:
        raise ValueError(mismatch(function, "features", "hold at least one feature map", "none"))
    for i, feature in enumerate(features):
        name = f"features[{i}]"
        check_tensor(function, name, feature)
        check_shape(function, name, feature, "N", "C", "H", "W")
        check_same_dtype_and_device(function, "features[0]", features[0], name, feature)
        shape = tuple(features[0].shape[:2])
        if feature.shape[:2] != shape:
            requirement = f"have the batch size and channels of `features[0]` {shape}"
            raise ValueError(mismatch(function, name, requirement, tuple(feature.shape[:2])))


def _check_levels(function: str, levels: Sequence[int], count: int) -> None:
    if not isinstance(levels, list | tuple) or not all(map(is_integer, levels)):
        raise TypeError(mismatch(function, "levels", "be a list of integers", repr(levels)))
    if len(levels) != count or any(levels[i] >= levels[i + 1] for i in range(count - 1)):
        requirement = f"increase from fine to coarse, one per map ({count})"
        raise ValueError(mismatch(function, "levels", requirement, list(levels)))


def _level_of(function: str, feature: int, image: int) -> int:
    """Nearest integer to log2(image / feature), in integer arithmetic."""
    for argument, height in (("x", feature), ("image_shapes", image)):
        if height < 1:
            raise ValueError(mismatch(function, argument, "have heights of at least 1", height))
    level = 0
    while image * image >= 2 * feature * feature:
        feature, level = 2 * feature, level + 1
    while 2 * image * image < feature * feature:
        image, level = 2 * image, level - 1
    return level


def _choose_levels(
    regions: Tensor, levels: Sequence[int], canonical_scale: float, canonical_level: int
) -> Tensor:
    """Return the index of the map of each region, from the smallest area of each level."""
    sides = regions[:, 3:] - regions[:, 1:3]
    area = (sides[:, 0] * sides[:, 1]).double()
    chosen = torch.zeros_like(area, dtype=torch.int64)
    factor = canonical_scale * canonical_scale * _ROUNDING
    for level in levels[1:]:
        chosen += area >= math.ldexp(factor, 2 * (level - canonical_level))
    return chosen


def _reference(
    features: list[Tensor],
    regions: Tensor,
    bins_y: int,
    bins_x: int,
    levels: list[int],
    sampling_ratio: int,
    aligned: bool,
    canonical_scale: float,
    canonical_level: int,
) -> Tensor:
    rows = regions.to(as_real(features[0]).dtype)
    chosen = _choose_levels(rows, levels, canonical_scale, canonical_level)
    result = _fake(features, regions, bins_y, bins_x)
    for i, (feature, level) in enumerate(zip(features, levels, strict=True)):
        index = (chosen == i).nonzero()[:, 0]
        rule = 2.0**-level, sampling_ratio, aligned
        pooled = _roi_align_reference(feature, rows[index], bins_y, bins_x, *rule)
        result[index] = pooled.to(result.dtype)
    return result


def _fake(features: list[Tensor], regions: Tensor, bins_y: int, bins_x: int, *_: object) -> Tensor:
    return features[0].new_empty(regions.shape[0], features[0].shape[1], bins_y, bins_x)


def _backward_reference(
    grad: Tensor,
    regions: Tensor,
    batch: int,
    sizes: list[int],
    levels: list[int],
    sampling_ratio: int,
    aligned: bool,
    canonical_scale: float,
    canonical_level: int,
    channels_last: bool,
) -> list[Tensor]:
    rows = regions.to(as_real(grad).dtype)
    chosen = _choose_levels(rows, levels, canonical_scale, canonical_level)
    result = []
    for i, level in enumerate(levels):
        index = (chosen == i).nonzero()[:, 0]
        rule = 2.0**-level, sampling_ratio, aligned, channels_last
        height, width = sizes[2 * i], sizes[2 * i + 1]
        result.append(
            _roi_align_backward_reference(grad[index], rows[index], batch, height, width, *rule)
        )
    return result


def _backward_fake(
    grad: Tensor,
    regions: Tensor,
    batch: int,
    sizes: list[int],
    levels: list[int],
    sampling_ratio: int,
    aligned: bool,
    canonical_scale: float,
    canonical_level: int,
    channels_last: bool,
) -> list[Tensor]:
    return [
        empty_map(grad, (batch, grad.shape[1], *sizes[i : i + 2]), channels_last)
        for i in range(0, len(sizes), 2)
    ]


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    features, regions, _, _, *ctx.rule = inputs
    ctx.save_for_backward(regions)
    ctx.batch = features[0].shape[0]
    ctx.sizes = [side for feature in features for side in feature.shape[2:]]
    ctx.dtypes = [feature.dtype for feature in features]
    ctx.channels_last = is_channels_last(features[0])


def _gradient(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    (regions,) = ctx.saved_tensors
    maps = torch.ops.cvlib.multiscale_roi_align_backward(
        grad, regions, ctx.batch, ctx.sizes, *ctx.rule, ctx.channels_last
    )
    grads = [grad.to(dtype) for grad, dtype in zip(maps, ctx.dtypes, strict=True)]
    return grads, *[None] * 8


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    grad, regions, ctx.batch, ctx.sizes, *ctx.rule, _ = inputs
    ctx.save_for_backward(regions)
    ctx.shape = grad.shape[1:]


def _backward_gradient(ctx: Any, grads: list[Tensor | None]) -> tuple[Any, ...]:
    # The backward is linear in grad, and its transpose is the operator itself.
    (regions,) = ctx.saved_tensors
    like = next(grad for grad in grads if grad is not None)
    channels, *bins = ctx.shape
    maps = [
        like.new_zeros(ctx.batch, channels, *ctx.sizes[2 * i : 2 * i + 2]) if grad is None else grad
        for i, grad in enumerate(grads)
    ]
    result = torch.ops.cvlib.multiscale_roi_align(maps, regions, *bins, *ctx.rule)
    return result, *[None] * 9


define(
    "multiscale_roi_align(Tensor[] features, Tensor regions, SymInt bins_y, SymInt bins_x, "
    "int[] levels, int sampling_ratio, bool aligned, float canonical_scale, int canonical_level) "
    "-> Tensor",
    _reference,
    _fake,
    autocast=None,
)
define(
    "multiscale_roi_align_backward(Tensor grad, Tensor regions, SymInt batch, SymInt[] sizes, "
    "int[] levels, int sampling_ratio, bool aligned, float canonical_scale, int canonical_level, "
    "bool channels_last) -> Tensor[]",
    _backward_reference,
    _backward_fake,
    autocast=None,
)
torch.library.register_autograd(
    "cvlib::multiscale_roi_align", _gradient, setup_context=_save, lib=library
)
torch.library.register_autograd(
    "cvlib::multiscale_roi_align_backward",
    _backward_gradient,
    setup_context=_save_backward,
    lib=library,
)
