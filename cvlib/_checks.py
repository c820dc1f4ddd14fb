"""Argument checks with uniform messages: ``nms: expected `boxes` to be ..., got ...; advice``.

Checks of types, dtypes and shapes run before an operator. Values are checked inside the CPU
kernels, where that is free: they raise a RuntimeError with the text `BAD_VALUES`, and the caller
then searches for the bad entry (`is_value_error`, `check_entries`).
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from typing import TypeGuard

import torch
from torch import Tensor

BAD_VALUES = "cvlib: bad values"
_FORMAT_ADVICE = 'boxes are (x1, y1, x2, y2), for xywh use box_convert(boxes, "xywh", "xyxy")'
_NAN_ADVICE = "NaN often comes from a diverged model: check its loss and learning rate"


def mismatch(
    function: str, argument: str, requirement: str, actual: object, advice: str = ""
) -> str:
    """Return the message of an error.

    Args:
        function: Name of the function that the user called.
        argument: Name of the argument, without backticks.
        requirement: Infinitive without "to": ``"be positive"``.
        actual: Value, shape or type that was passed.
        advice: How to fix it.

    Example:
        >>> mismatch("nms", "max_output", "be at least 0", -1)
        'nms: expected `max_output` to be at least 0, got -1'
    """
    message = f"{function}: expected `{argument}` to {requirement}, got {actual}"
    return f"{message}; {advice}" if advice else message


def check_is_tensor(function: str, argument: str, value: object) -> None:
    """Raises TypeError unless ``value`` is a tensor."""
    if not isinstance(value, Tensor):
        actual = type(value).__name__
        raise TypeError(mismatch(function, argument, "be a torch.Tensor", actual))


def check_tensor(function: str, argument: str, value: object) -> None:
    """Raises TypeError unless ``value`` is a floating-point tensor."""
    check_is_tensor(function, argument, value)
    if not value.is_floating_point():  # type: ignore[attr-defined]
        dtype, advice = value.dtype, f"convert with {argument}.float()"  # type: ignore[attr-defined]
        raise TypeError(mismatch(function, argument, "have a floating-point dtype", dtype, advice))


def check_dtype(
    function: str, argument: str, value: object, *dtypes: torch.dtype, advice: str = ""
) -> None:
    """Raises TypeError unless ``value`` is a tensor with one of these dtypes."""
    if not isinstance(value, Tensor) or value.dtype not in dtypes:
        actual = value.dtype if isinstance(value, Tensor) else type(value).__name__
        names = " or ".join(map(str, dtypes))
        raise TypeError(mismatch(function, argument, f"be a {names} tensor", actual, advice))


def check_shape(function: str, argument: str, value: Tensor, *shape: str | int) -> None:
    """Raises ValueError unless ``value`` has this shape.

    Args:
        function: Name for the message.
        argument: Name for the message.
        value: Tensor.
        shape: Size of each dimension: a number, or a letter for any size. A leading ``"..."``
            matches any number of dimensions.
    """
    sizes = shape[1:] if shape[0] == "..." else shape
    fits = value.dim() >= len(sizes) if shape[0] == "..." else value.dim() == len(sizes)
    if fits and isinstance(sizes[-1], int):
        fits = value.shape[-1] == sizes[-1]
    if not fits:
        text = f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"
        raise ValueError(mismatch(function, argument, f"have shape {text}", tuple(value.shape)))


def check_shape_matches(
    function: str,
    argument: str,
    value: Tensor,
    shape: Sequence[int],
    other: str,
    advice: str = "",
) -> None:
    """Raises ValueError unless ``value`` has the shape that follows from argument ``other``."""
    if value.shape != tuple(shape):
        requirement = f"have shape {tuple(shape)} to match `{other}`"
        actual = tuple(value.shape)
        raise ValueError(mismatch(function, argument, requirement, actual, advice))


def check_boxes(function: str, argument: str, boxes: object, *shape: str | int) -> None:
    """Raises unless ``boxes`` is a floating-point tensor of this shape, (N, 4) by default."""
    check_tensor(function, argument, boxes)
    check_shape(function, argument, boxes, *(shape or ("N", 4)))  # type: ignore[arg-type]


def check_same_dtype_and_device(
    function: str, first: str, a: Tensor, second: str, b: Tensor
) -> None:
    """Raises unless both tensors have the same dtype (TypeError) and device (ValueError).

    Under autocast the operator converts to float32 itself, so there dtypes may differ.
    """
    if a.dtype != b.dtype and not torch.is_autocast_enabled(a.device.type):
        requirement = f"have the dtype of `{first}` ({a.dtype})"
        raise TypeError(mismatch(function, second, requirement, b.dtype))
    check_same_device(function, first, a, second, b)


def check_same_device(function: str, first: str, a: Tensor, second: str, b: Tensor) -> None:
    """Raises ValueError unless both tensors are on the same device."""
    if a.device != b.device:
        requirement = f"be on the device of `{first}` ({a.device})"
        raise ValueError(mismatch(function, second, requirement, b.device))


def check_ids(
    function: str, argument: str, ids: object, boxes: Tensor, other: str = "boxes"
) -> None:
    """Raises unless ``ids`` is an int64 tensor with one entry per box, on the boxes' device."""
    check_dtype(function, argument, ids, torch.int64)
    check_shape_matches(function, argument, ids, boxes.shape[:1], other)  # type: ignore[arg-type]
    check_same_device(function, other, boxes, argument, ids)  # type: ignore[arg-type]


def is_integer(value: object) -> TypeGuard[int]:
    """Whether ``value`` is an int, a symbolic int or a NumPy integer, but not a bool."""
    # int first, because the compiler of torch 2.11 cannot look up attributes of symbolic sizes.
    if isinstance(value, int | torch.SymInt):
        return not isinstance(value, bool)
    return hasattr(value, "__index__") and not isinstance(value, Tensor)


def check_integer(
    function: str,
    argument: str,
    value: object,
    least: int | None = None,
    *,
    allows_none: bool = False,
) -> None:
    """Raises unless ``value`` is an integer (TypeError) of at least ``least`` (ValueError)."""
    alternative = " or None" if allows_none else ""
    if not is_integer(value):
        requirement, actual = f"be an int{alternative}", type(value).__name__
        raise TypeError(mismatch(function, argument, requirement, actual))
    if least is not None and value < least:
        requirement = f"be at least {least}{alternative}"
        raise ValueError(mismatch(function, argument, requirement, value))


def is_number(value: object) -> bool:
    """Whether ``value`` is a real number, also a symbolic one or one of NumPy."""
    if isinstance(value, int | float | torch.SymInt | torch.SymFloat):
        return True
    return isinstance(value, numbers.Real)


def check_is_number(function: str, argument: str, value: object) -> None:
    """Raises TypeError unless ``value`` is a number."""
    if not is_number(value):
        raise TypeError(mismatch(function, argument, "be a number", type(value).__name__))


def check_number(
    function: str,
    argument: str,
    value: float,
    low: float = -math.inf,
    high: float = math.inf,
) -> None:
    """Raises unless ``value`` is a finite number (TypeError) in [low, high] (ValueError)."""
    check_is_number(function, argument, value)
    if not low <= value <= high or abs(value) == math.inf:
        if high < math.inf:
            requirement = f"be in [{low:g}, {high:g}]"
        else:
            requirement = "be finite" if low == -math.inf else f"be finite and at least {low:g}"
        raise ValueError(mismatch(function, argument, requirement, value))


def check_fraction(function: str, argument: str, value: float) -> None:
    """Raises unless ``value`` is a number (TypeError) in [0, 1] (ValueError)."""
    check_number(function, argument, value, 0, 1)


def check_positive(function: str, argument: str, value: float) -> None:
    """Raises unless ``value`` is a number (TypeError), positive and finite (ValueError)."""
    check_is_number(function, argument, value)
    if not 0 < value < math.inf:
        raise ValueError(mismatch(function, argument, "be positive and finite", value))


def check_choice(function: str, argument: str, value: object, choices: Sequence[str]) -> None:
    """Raises ValueError unless ``value`` is one of ``choices``."""
    if value not in tuple(choices):
        names = ", ".join(map(repr, choices))
        raise ValueError(mismatch(function, argument, f"be one of {names}", repr(value)))


def check_entries(
    function: str,
    argument: str,
    values: Tensor,
    is_good: Tensor,
    requirement: str,
    advice: str = "",
) -> None:
    """Raises ValueError for the first entry that is not good.

    Args:
        function: Name for the message.
        argument: Name of ``values`` for the message.
        values: Numbers, or rows of numbers in the last dimension.
        is_good: Bool, one per number or row.
        requirement: See `mismatch`.
        advice: See `mismatch`.
    """
    bad = (~is_good.detach()).nonzero()
    if not len(bad):
        return
    index = tuple(bad[0].tolist())
    entry = values[index].tolist()
    if isinstance(entry, list):
        text = f"({', '.join(f'{value:g}' for value in entry)})"
    else:
        text = f"{entry:g}" if isinstance(entry, float) else str(entry)
    place = f"[{', '.join(map(str, index))}]" if index else ""
    actual = f"{argument}{place} = {text}"
    raise ValueError(mismatch(function, argument, requirement, actual, advice))


def check_box_values(function: str, argument: str, boxes: Tensor) -> None:
    """Raises ValueError for the first box (..., 4) with a NaN or with corners out of order."""
    has_numbers = ~boxes.isnan().any(-1)
    check_entries(function, argument, boxes, has_numbers, "be without NaN", _FORMAT_ADVICE)
    requirement = "have x1 <= x2 and y1 <= y2"
    check_entries(function, argument, boxes, are_ordered(boxes), requirement, _FORMAT_ADVICE)


def check_no_nan(function: str, argument: str, values: Tensor) -> None:
    """Raises ValueError for the first NaN."""
    check_entries(function, argument, values, ~values.isnan(), "be without NaN", _NAN_ADVICE)


def are_ordered(boxes: Tensor) -> Tensor:
    """Whether the corners of each box (..., 4) are in order and not NaN."""
    return (boxes[..., :2] <= boxes[..., 2:]).all(-1)


def signal_bad_values(*checked: Tensor) -> None:
    """Raises the error of a CPU kernel in its reference unless all of these are True."""
    if not all(bool(good.all()) for good in checked):
        raise RuntimeError(BAD_VALUES)


def is_value_error(error: RuntimeError) -> bool:
    """Whether a CPU kernel has signalled bad values."""
    return BAD_VALUES in str(error)


def explain_boxes(function: str, error: RuntimeError, **boxes: Tensor) -> None:
    """Raises ValueError for the first bad box of these if a kernel has signalled bad values."""
    if is_value_error(error):
        for argument, values in boxes.items():
            check_box_values(function, argument, values)
