"""Box masks pasted as COCO run lengths, for images too large or too many to paste."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cvlib._checks import check_box_values, check_fraction, check_no_nan, is_value_error
from cvlib._extension import define
from cvlib.ops.paste import _check_arguments, _paste_each
from cvlib.ops.rle import check_pixels, masks_to_rle


def paste_masks_rle(
    masks: Tensor, boxes: Tensor, image_size: tuple[int, int], *, threshold: float = 0.5
) -> list[dict[str, Any]]:
    """Paste masks like `paste_masks` and encode them like `masks_to_rle`, in one step.

    No canvas is allocated: memory is that of the run lengths, and time depends on the width of
    boxes, not on the size of the image. Use it to write results for COCO's evaluation.

    Args:
        masks: Shape (N, h, w) or (N, 1, h, w), floating point: probabilities.
        boxes: Shape (N, 4), any floating-point dtype, (x1, y1, x2, y2) in pixels.
        image_size: (height, width) of the image.
        threshold: In [0, 1], as in `paste_masks`.

    Returns:
        One dictionary ``{"size": [H, W], "counts": str}`` per mask, ready for a JSON file, equal to
        ``masks_to_rle(paste_masks(masks, boxes, image_size))``.

    Raises:
        TypeError: See `paste_masks`.
        ValueError: See `paste_masks`, but NaN and corners out of order are checked on every
            device; also an image of more than 2^32 - 1 pixels.

    Note:
        Deterministic. Tensors on other devices are copied to the CPU first: masks are small.

    Example:
        >>> paste_masks_rle(torch.ones(1, 2, 2), torch.tensor([[1.0, 0.0, 3.0, 2.0]]), (2, 4))
        [{'size': [2, 4], 'counts': '242'}]
    """
    function = "paste_masks_rle"
    masks, height, width = _check_arguments(function, masks, boxes, image_size)
    check_fraction(function, "threshold", threshold)
    check_pixels(function, "image_size", height, width)
    masks, boxes = masks.detach().cpu(), boxes.detach().cpu()
    try:
        text, ends = torch.ops.cvlib.paste_masks_rle(masks, boxes, height, width, threshold)
    except RuntimeError as error:
        if is_value_error(error):
            check_box_values(function, "boxes", boxes)
            check_no_nan(function, "masks", masks)
        raise
    characters, stops = bytes(text.numpy()).decode("ascii"), ends.tolist()
    return [
        {"size": [height, width], "counts": characters[begin:end]}
        for begin, end in zip([0, *stops], stops, strict=False)
    ]


def _paste_masks_rle_reference(
    masks: Tensor, boxes: Tensor, height: int, width: int, threshold: float
) -> tuple[Tensor, Tensor]:
    texts = [
        masks_to_rle(((values.double() >= threshold) & counts)[None])[0]["counts"].encode("ascii")
        for values, counts in _paste_each(masks, boxes, height, width)
    ]
    lengths = torch.tensor([len(text) for text in texts], dtype=torch.int64)
    text = torch.tensor(list(b"".join(texts)), dtype=torch.uint8)
    return text.to(masks.device), lengths.cumsum(0).to(masks.device)


def _paste_masks_rle_fake(
    masks: Tensor, boxes: Tensor, height: int, width: int, threshold: float
) -> tuple[Tensor, Tensor]:
    length = torch.library.get_ctx().new_dynamic_size()
    return (
        masks.new_empty(length, dtype=torch.uint8),
        masks.new_empty(masks.shape[0], dtype=torch.int64),
    )


define(
    "paste_masks_rle(Tensor masks, Tensor boxes, int height, int width, float threshold) -> "
    "(Tensor, Tensor)",
    _paste_masks_rle_reference,
    _paste_masks_rle_fake,
)
