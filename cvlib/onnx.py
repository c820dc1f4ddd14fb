"""Translation of operators to ONNX, for ``torch.onnx.export(..., dynamo=True)``.

Requires the package onnxscript: ``pip install 'cvlib-torch[onnx]'``.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from cvlib._checks import mismatch

# Arguments of NonMaxSuppression that keep all boxes.
_LOWEST_SCORE = -3.4e38
_ALL_BOXES = 2**62
# Values of TensorProto.DataType.
_INT64, _BOOL = 7, 9


def translations() -> dict[Any, Callable[..., Any]]:
    """Return the ``custom_translation_table`` for exporting models that use cvlib to ONNX.

    ======================= =========================================================
    `nms`, `batched_nms`    NonMaxSuppression (float32; groups as its classes)
    `roi_align`             RoiAlign
    `upsample_bilinear`     Resize
    `conv_transpose2d`      ConvTranspose
    ======================= =========================================================

    Returns:
        The function that builds the nodes of each operator.

    Raises:
        ModuleNotFoundError: onnxscript is not installed.

    Example:
        >>> import cvlib
        >>> class Suppress(torch.nn.Module):
        ...     def forward(self, boxes, scores):
        ...         return cvlib.nms(boxes, scores, 0.5)
        >>> inputs = (torch.zeros(3, 4), torch.zeros(3))
        >>> program = torch.onnx.export(  # doctest: +SKIP
        ...     Suppress(), inputs, dynamo=True, custom_translation_table=translations()
        ... )
    """
    try:
        op = importlib.import_module("onnxscript").opset18
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "translations: expected the package `onnxscript` to be installed, got none; run "
            "`pip install 'cvlib-torch[onnx]'`"
        ) from error
    operators = torch.ops.cvlib
    return {
        operators.nms.default: _Nms(op),
        operators.roi_align.default: _RoiAlign(op),
        operators.upsample_bilinear.default: _Resize(op),
        operators.conv_transpose2d.default: _ConvTranspose(op),
    }


@dataclass
class _Nodes:
    """Base class of builders of the nodes of an operator; ``op`` is the opset of onnxscript."""

    op: Any


class _RoiAlign(_Nodes):
    def __call__(
        self,
        input: Any,
        regions: Any,
        bins_y: int,
        bins_x: int,
        spatial_scale: float,
        sampling_ratio: int,
        aligned: bool,
    ) -> Any:
        op = self.op
        axis, first, corners, end = (op.Constant(value_ints=[i]) for i in (1, 0, 1, 5))
        images = op.Cast(op.Squeeze(op.Slice(regions, first, corners, axis), axis), to=_INT64)
        return op.RoiAlign(
            input,
            op.Slice(regions, corners, end, axis),
            images,
            coordinate_transformation_mode="half_pixel" if aligned else "output_half_pixel",
            output_height=bins_y,
            output_width=bins_x,
            sampling_ratio=max(sampling_ratio, 0),
            spatial_scale=spatial_scale,
        )


class _Resize(_Nodes):
    def __call__(
        self,
        input: Any,
        height: Any,
        width: Any,
        scale_y: float,
        scale_x: float,
        align_corners: bool,
    ) -> Any:
        op = self.op
        mode = "align_corners" if align_corners else "half_pixel"
        # Positions follow the factor only if corners are not aligned.
        if scale_y > 0 and not align_corners:
            scales = op.Constant(value_floats=[1.0, 1.0, scale_y, scale_x])
            return op.Resize(
                input, None, scales, mode="linear", coordinate_transformation_mode=mode
            )
        images = op.Slice(op.Shape(input), *(op.Constant(value_ints=[i]) for i in (0, 2)))
        sizes = op.Concat(images, self._vector(height), self._vector(width), axis=0)
        return op.Resize(
            input, None, None, sizes, mode="linear", coordinate_transformation_mode=mode
        )

    def _vector(self, size: Any) -> Any:
        op = self.op
        if isinstance(size, int):
            return op.Constant(value_ints=[size])
        return op.Reshape(op.Cast(size, to=_INT64), op.Constant(value_ints=[1]))


class _ConvTranspose(_Nodes):
    def __call__(
        self,
        input: Any,
        weight: Any,
        bias: Any,
        stride_h: int,
        stride_w: int,
        padding_h: int,
        padding_w: int,
        output_padding_h: int,
        output_padding_w: int,
        groups: int,
    ) -> Any:
        return self.op.ConvTranspose(
            input,
            weight,
            bias,
            group=groups,
            output_padding=[output_padding_h, output_padding_w],
            pads=[padding_h, padding_w] * 2,
            strides=[stride_h, stride_w],
        )


class _Nms(_Nodes):
    def __call__(
        self,
        boxes: Any,
        scores: Any,
        labels: Any,
        image_ids: Any,
        iou_threshold: float,
        max_output: int,
    ) -> Any:
        if labels is None and image_ids is None:
            limit = _ALL_BOXES if max_output < 0 else max_output
            return self._suppress(boxes, self._rows(scores, 2), iou_threshold, limit)
        if image_ids is not None and max_output >= 0:
            requirement = "be None for ONNX, which has no limit per image"
            raise ValueError(mismatch("batched_nms", "max_output", requirement, max_output))
        kept = self._suppress_groups(boxes, scores, labels, image_ids, iou_threshold)
        return self._best_first(kept, scores, max_output)

    def _suppress(self, boxes: Any, scores: Any, iou_threshold: float, limit: int) -> Any:
        op = self.op
        chosen = op.NonMaxSuppression(
            self._rows(boxes, 1),
            scores,
            op.Constant(value_int=limit),
            op.Constant(value_float=iou_threshold),
            op.Constant(value_float=_LOWEST_SCORE),
        )  # (K, 3): image, class, box
        return op.Gather(chosen, op.Constant(value_int=2), axis=1)

    def _suppress_groups(
        self, boxes: Any, scores: Any, labels: Any, image_ids: Any, iou_threshold: float
    ) -> Any:
        """Suppress with groups as classes; a box has a score in the class of its group only."""
        op = self.op
        one = op.Constant(value_int=1)
        groups, count = None, None
        for ids in (image_ids, labels):
            if ids is None:
                continue
            dense = op.Sub(ids, op.ReduceMin(ids, keepdims=0))
            size = op.Add(op.ReduceMax(dense, keepdims=0), one)
            groups = dense if groups is None else op.Add(op.Mul(groups, size), dense)
            count = size if count is None else op.Mul(count, size)
        members = op.OneHot(groups, count, op.Constant(value_ints=[0, 1]), axis=0)  # (G, N)
        nowhere = op.Constant(value_float=float("-inf"))
        table = op.Where(op.Cast(members, to=_BOOL), self._rows(scores, 1), nowhere)
        return self._suppress(boxes, self._rows(table, 1), iou_threshold, _ALL_BOXES)

    def _best_first(self, kept: Any, scores: Any, max_output: int) -> Any:
        """Sort by score; TopK returns the lower index first at ties, so sort by index before."""
        op = self.op
        count = op.Shape(kept)
        kept, _ = op.TopK(kept, count, largest=0)
        _, order = op.TopK(op.Gather(scores, kept), count)
        kept = op.Gather(kept, order)
        if max_output < 0:
            return kept
        first, end = op.Constant(value_ints=[0]), op.Constant(value_ints=[max_output])
        return op.Slice(kept, first, end)

    def _rows(self, values: Any, dimensions: int) -> Any:
        return self.op.Unsqueeze(values, self.op.Constant(value_ints=list(range(dimensions))))
