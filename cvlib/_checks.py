"""The one source of user-facing messages about tensors.

Every message reads ``{function}: expected {argument} {requirement}, got {actual}``. Checks of kind,
dtype and shape run before the operator; checks of values run where they are free: inside the CPU
kernels, which signal with a RuntimeError that `explain_boxes` and its like turn into words.
"""

from __future__ import annotations

import math
import numbers

import torch
from torch import Tensor

BAD_VALUES = "cvlib: bad values"
_FORMAT_ADVICE = 'boxes are (x1, y1, x2, y2), for xywh use box_convert(boxes, "xywh", "xyxy")'


def check_tensor(function: str, argument: str, value: object) -> None:
    """Raises TypeError unless ``value`` is a floating-point tensor."""
    if not isinstance(value, Tensor):
        raise TypeError(
            f"{function}: expected {argument} to be a torch.Tensor, got {type(value).__name__}"
        )
    if not value.is_floating_point():
        raise TypeError(
            f"{function}: expected {argument} of a floating-point dtype, got {value.dtype}; "
            f"convert with {argument}.float()"
        )


def check_boxes(function: str, argument: str, boxes: object, shape: str = "(N, 4)") -> None:
    """Raises unless ``boxes`` is a floating-point tensor of a shape like ``(N, 4)``."""
    check_tensor(function, argument, boxes)
    check_shape(function, argument, boxes, shape)  # type: ignore[arg-type]


def check_shape(function: str, argument: str, value: Tensor, shape: str) -> None:
    """Raises ValueError unless ``value`` has as many dimensions as ``shape`` and its last number.

    A leading ``...`` stands for any number of dimensions.
    """
    sizes = [part.strip() for part in shape.strip("()").split(",") if part.strip()]
    if sizes[0] == "...":
        fits = value.dim() >= len(sizes) - 1
    else:
        fits = value.dim() == len(sizes)
    if fits and sizes[-1].isdigit():
        fits = value.shape[-1] == int(sizes[-1])
    if not fits:
        raise ValueError(
            f"{function}: expected {argument} of shape {shape}, got {tuple(value.shape)}"
        )


def check_same_kind(function: str, first: str, a: Tensor, second: str, b: Tensor) -> None:
    """Raises unless both tensors have one dtype (TypeError) and one device (ValueError).

    Under autocast the operator converts to float32 itself, so there dtypes may differ.
    """
    if a.dtype != b.dtype and not torch.is_autocast_enabled(a.device.type):
        raise TypeError(
            f"{function}: expected {second} of the dtype of {first} ({a.dtype}), got {b.dtype}"
        )
    check_same_device(function, first, a, second, b)


def check_same_device(function: str, first: str, a: Tensor, second: str, b: Tensor) -> None:
    """Raises ValueError unless both tensors have one device."""
    if a.device != b.device:
        raise ValueError(
            f"{function}: expected {second} on the device of {first} ({a.device}), got {b.device}"
        )


def check_ids(function: str, argument: str, ids: object, boxes: Tensor) -> None:
    """Raises unless ``ids`` is an int64 tensor with one entry per box, on the boxes' device."""
    if not isinstance(ids, Tensor) or ids.dtype != torch.int64:
        actual = ids.dtype if isinstance(ids, Tensor) else type(ids).__name__
        raise TypeError(f"{function}: expected {argument} to be an int64 tensor, got {actual}")
    if ids.shape != boxes.shape[:1]:
        raise ValueError(
            f"{function}: expected {argument} of shape (N,) with N = {boxes.shape[0]} as in boxes, "
            f"got {tuple(ids.shape)}"
        )
    check_same_device(function, "boxes", boxes, argument, ids)


def is_integer(value: object) -> bool:
    """Says whether this is an int, a compiler's symbol of one or NumPy's, and no bool."""
    # An int first: the compiler of torch 2.11 knows no attributes of a size that is a symbol.
    if isinstance(value, int | torch.SymInt):
        return not isinstance(value, bool)
    return hasattr(value, "__index__") and not isinstance(value, Tensor)


def check_number(
    function: str,
    argument: str,
    value: float,
    least: float = -math.inf,
    most: float = math.inf,
) -> None:
    """Raises unless ``value`` is a finite number (TypeError) in [least, most] (ValueError)."""
    check_is_number(function, argument, value)
    if not least <= value <= most or abs(value) == math.inf:
        raise ValueError(
            f"{function}: expected {argument} to be finite and in [{least:g}, {most:g}], "
            f"got {value}"
        )


def check_fraction(function: str, argument: str, value: float) -> None:
    """Raises unless ``value`` is a number (TypeError) in [0, 1] (ValueError)."""
    check_is_number(function, argument, value)
    if not 0 <= value <= 1:
        raise ValueError(f"{function}: expected {argument} in [0, 1], got {value}")


def check_integer(function: str, argument: str, value: object, or_none: str = "") -> None:
    """Raises TypeError unless ``value`` is an integer."""
    if not is_integer(value):
        raise TypeError(
            f"{function}: expected {argument} to be an int{or_none}, got {type(value).__name__}"
        )


def is_number(value: object) -> bool:
    """Says whether this is a real number, a compiler's symbol of one, or NumPy's."""
    if isinstance(value, int | float | torch.SymInt | torch.SymFloat):
        return True
    return isinstance(value, numbers.Real)


def check_is_number(function: str, argument: str, value: object) -> None:
    """Raises TypeError unless ``value`` is a number."""
    if not is_number(value):
        raise TypeError(
            f"{function}: expected {argument} to be a number, got {type(value).__name__}"
        )


def check_variances(function: str, variances: tuple[float, ...]) -> None:
    """Raises unless this is a tuple (TypeError) of four positive, finite numbers (ValueError)."""
    if not isinstance(variances, tuple | list):
        raise TypeError(
            f"{function}: expected variances to be a tuple, got {type(variances).__name__}"
        )
    for i, variance in enumerate(variances):
        check_is_number(function, f"variances[{i}]", variance)
    if len(variances) != 4 or not all(0 < v < math.inf for v in variances):
        raise ValueError(
            f"{function}: expected variances to be four positive numbers, got {tuple(variances)}"
        )


def first_true(mask: Tensor) -> tuple[int, ...] | None:
    """Gives the index of the first True, if there is one."""
    found = mask.nonzero()
    return tuple(found[0].tolist()) if len(found) else None


def index_text(index: tuple[int, ...]) -> str:
    """Writes an index as one reads it in code: ``[3, 1]``, and nothing for a scalar."""
    return f"[{', '.join(map(str, index))}]" if index else ""


def check_box_values(function: str, argument: str, boxes: Tensor) -> None:
    """Raises ValueError for the first box (..., 4) with a NaN or with corners out of order."""
    x1, y1, x2, y2 = boxes.detach().unbind(-1)
    index = first_true(~((x1 <= x2) & (y1 <= y2)))
    if index is None:
        return
    box = boxes[index].tolist()
    wrong = "without NaN" if any(v != v for v in box) else "with x1 <= x2 and y1 <= y2"
    actual = ", ".join(f"{v:g}" for v in box)
    raise ValueError(
        f"{function}: expected {argument} {wrong}, got {argument}{index_text(index)} = "
        f"({actual}); {_FORMAT_ADVICE}"
    )


def check_no_nan(function: str, argument: str, values: Tensor) -> None:
    """Raises ValueError for the first NaN."""
    index = first_true(values.detach().isnan())
    if index is not None:
        raise ValueError(
            f"{function}: expected {argument} without NaN, got {argument}{index_text(index)} = "
            "nan; a diverged model gives NaN: look at its loss and learning rate"
        )


def check_units(function: str, anchors: Tensor, boxes: Tensor, argument: str) -> None:
    """Raises ValueError when one side is in pixels and the other normalised to 0..1.

    Args:
        function: Name for the message.
        anchors: Shape (A, 4).
        boxes: Shape (K, 4), without padding.
        argument: Name of ``boxes`` for the message.
    """
    if not len(anchors) or not len(boxes):
        return
    anchor_extent, box_extent = float(anchors.abs().max()), float(boxes.abs().max())
    if anchor_extent <= LARGEST_NORMALISED and box_extent > SMALLEST_PIXELS:
        raise ValueError(
            f"{function}: expected {argument} in the units of the anchors, which look normalised "
            f"to 0..1 (largest coordinate {anchor_extent:g}), got pixels (largest {box_extent:g}); "
            "divide x by the image's width and y by its height"
        )
    if anchor_extent > SMALLEST_PIXELS and box_extent <= 1:
        raise ValueError(
            f"{function}: expected {argument} in the units of the anchors, which look like pixels "
            f"(largest coordinate {anchor_extent:g}), got boxes normalised to 0..1 (largest "
            f"{box_extent:g}); multiply x by the image's width and y by its height"
        )


# Normalised anchors may stick out of the image; boxes of this many pixels are no longer a fraction.
LARGEST_NORMALISED = 2.0
SMALLEST_PIXELS = 8.0


def signal_bad_values(*checked: Tensor) -> None:
    """For references: raises as a CPU kernel does, so that the caller explains in its own name.

    Args:
        checked: Boolean tensors; all entries shall be True.
    """
    if not all(bool(one.all()) for one in checked):
        raise RuntimeError(BAD_VALUES)


def are_ordered(boxes: Tensor) -> Tensor:
    """Says of each box (..., 4) whether its corners are in order and no NaN."""
    return (boxes[..., :2] <= boxes[..., 2:]).all(-1)


def is_value_error(error: RuntimeError) -> bool:
    """Says whether a CPU kernel has signalled bad values."""
    return BAD_VALUES in str(error)


def explain_boxes(function: str, error: RuntimeError, **boxes: Tensor) -> None:
    """Raises ValueError for the first bad box of these, if a kernel has signalled bad values."""
    if is_value_error(error):
        for argument, values in boxes.items():
            check_box_values(function, argument, values)
