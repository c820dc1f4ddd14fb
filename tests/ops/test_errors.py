"""Arguments that operators refuse, and the messages; values are refused on the CPU only."""

import numpy as np
import pytest
import torch
from cases_errors import (
    ANCHOR_CASES,
    GOOD,
    IOU_CASES,
    LARGE,
    PAIRS,
    SHARED,
    SUPPRESSION_CASES,
    T,
    V,
    nan,
)
from cases_errors_images import LOSS_CASES, MASK_CASES, RESIZE_CASES, ROI_CASES

from cvlib import ops
from cvlib._extension import has_kernels
from cvlib.ops.paste import _paste_mask_values_reference, _paste_masks_reference

CASES = [
    *IOU_CASES, *SUPPRESSION_CASES, *ANCHOR_CASES,
    *LOSS_CASES, *MASK_CASES, *ROI_CASES, *RESIZE_CASES,
]  # fmt: skip


def expect_error(operator, arguments, error, message):
    with pytest.raises(error) as caught:
        operator(**arguments)
    assert str(caught.value).startswith(f"{operator.__name__}: expected {message}")


@pytest.mark.parametrize(
    ("operator", "changes", "error", "message"),
    [
        pytest.param(operator, *row, id=f"{operator.__name__}-{'-'.join(row[0])}-{i}")
        for i, (operators, rows) in enumerate(CASES)
        for operator in operators
        for row in rows
    ],
)
def test_wrong_arguments(operator, changes, error, message):
    if not message.startswith("`"):
        message = f"`{next(iter(changes))}` to {message}"
    expect_error(operator, GOOD[operator] | changes, error, message)


@pytest.mark.parametrize(
    ("operator", "first", "argument"),
    [
        pytest.param(operator, arguments[0], argument, id=f"{operator.__name__}-{argument}")
        for operator, arguments in SHARED.items()
        for argument in arguments
    ],
)
def test_wrong_types_dtypes_and_devices(operator, first, argument):
    good = GOOD[operator]
    value = good[argument]
    wrong = [
        ([1], T, "be a torch.Tensor, got list"),
        (None, T, "be a torch.Tensor, got NoneType"),
        (value.int(), T, "have a floating-point dtype, got torch.int32; convert with "),
        (value > 1, T, "have a floating-point dtype, got torch.bool; convert with "),
        (value.cfloat(), T, "have a floating-point dtype, got torch.complex64; convert with "),
    ]
    for changed, error, message in wrong:
        expect_error(operator, good | {argument: changed}, error, f"`{argument}` to {message}")
    if argument != first:
        message = f"`{argument}` to have the dtype of `{first}` (torch.float32), got torch.float64"
        expect_error(operator, good | {argument: value.double()}, T, message)
        message = f"`{argument}` to be on the device of `{first}` (cpu), got meta"
        expect_error(operator, good | {argument: value.to("meta")}, V, message)


@pytest.mark.parametrize(
    ("operator", "argument", "columns"),
    [
        pytest.param(operator, *row, id=f"{operator.__name__}-{row[0]}")
        for operator, (_, *rows) in LARGE.items()
        for row in rows
    ],
)
def test_one_nan_among_many_values_is_found(operator, argument, columns, rng):
    # Wherever it lies in a vector register or in the share of a thread.
    good = LARGE[operator][0](rng)
    count = len(good[argument])
    places = {0, 1, 7, 8, 9, 15, 16, 19, 31, 63, 64, 199, 500, 511, 512, 2500, count - 2, count - 1}
    for place in sorted(place for place in places if place < count):
        for column in columns:
            values = good[argument].clone()
            values[(place, column) if values.dim() == 2 else place] = nan
            message = f"`{argument}` to be without NaN, got {argument}[{place}] = "
            expect_error(operator, good | {argument: values}, V, message)


@pytest.mark.parametrize("count", [20, 1000])
@pytest.mark.parametrize("position", [0, 1, 9, 16, 19])
def test_one_inverted_box_among_many_is_found(count, position, rng):
    good = LARGE[ops.nms][0](rng)
    boxes, scores = good["boxes"][:count], good["scores"][:count]
    position = count - 20 + position
    boxes[position] = boxes[position, [2, 1, 0, 3]]
    message = f"`boxes` to have x1 <= x2 and y1 <= y2, got boxes[{position}] = "
    expect_error(ops.nms, good | {"boxes": boxes, "scores": scores}, V, message)


def test_bad_values_are_found_even_when_the_output_is_limited(rng):
    good = LARGE[ops.nms][0](rng)
    good["boxes"][good["scores"].argmin(), 0] = nan
    expect_error(ops.nms, good | {"max_output": 1}, V, "`boxes` to be without NaN")
    good = GOOD[ops.soft_nms] | {"scores": torch.tensor([0.9, 0.0, 0.7]), "max_output": 1}
    boxes = good["boxes"].clone()
    boxes[1, 2] = nan
    expect_error(ops.soft_nms, good | {"boxes": boxes}, V, "`boxes` to be without NaN")


@pytest.mark.parametrize("operator", PAIRS, ids=lambda operator: operator.__name__)
def test_bad_boxes_are_found_without_partners(operator):
    bad, none = torch.tensor([[0.0, nan, 1, 1]]), torch.zeros(0, 4)
    for name, other in (("boxes1", "boxes2"), ("boxes2", "boxes1")):
        message = f"`{name}` to be without NaN, got {name}[0] = (0, nan, 1, 1)"
        expect_error(operator, {name: bad, other: none}, V, message)


@pytest.mark.parametrize("position", [0, 1, 15, 16, 31, 783, 784 * 3 + 500])
def test_one_nan_among_many_cells_is_found(position):
    good = GOOD[ops.paste_masks]
    masks = torch.rand(4, 28, 28)
    masks.view(-1)[position] = nan
    arguments = good | {"masks": masks, "boxes": good["boxes"].repeat(2, 1)}
    expect_error(ops.paste_masks, arguments, V, "`masks` to be without NaN, got masks[")


@pytest.mark.parametrize("position", [0, 7, 16, 511, 512, 2500, 4998])
def test_one_bad_class_among_many_is_found(position):
    classes = torch.zeros(4999, dtype=torch.int64)
    classes[position] = 2
    message = f"`targets` to be in 0..1 (-1: none of the classes), got targets[{position}] = 2"
    arguments = {"inputs": torch.zeros(4999, 2), "targets": classes}
    expect_error(ops.sigmoid_focal_loss, arguments, V, message)


@pytest.mark.parametrize("value", [None, 0.1, "abcd", (0.1, 0.1, 0.2, "a"), (None,) * 4])
def test_variances_are_numbers(value):
    with pytest.raises(TypeError, match=r"expected `variances(\[\d\])?` to be a "):
        ops.multibox_target(**GOOD[ops.multibox_target], variances=value)


@pytest.mark.parametrize("ratio", [0.5, np.float32(0.5), torch.tensor(1.5), None])
def test_sampling_ratio_is_an_integer(ratio):
    arguments = GOOD[ops.roi_align] | {"sampling_ratio": ratio}
    expect_error(ops.roi_align, arguments, T, "`sampling_ratio` to be an int, got ")


def test_references_find_bad_values_of_masks_too():
    masks, boxes = GOOD[ops.paste_masks]["masks"], GOOD[ops.paste_masks]["boxes"]
    for arguments in ((masks * nan, boxes), (masks, boxes * nan), (masks, -boxes)):
        for reference, threshold in ((_paste_masks_reference, (0.5,)),
                                     (_paste_mask_values_reference, ())):  # fmt: skip
            with pytest.raises(RuntimeError, match="cvlib: bad values"):
                reference(*arguments, 5, 5, *threshold)


@pytest.mark.parametrize("name", ["upsample_bilinear", "upsample_bilinear_backward"])
def test_kernels_of_upsampling_check_shapes_themselves(name):
    images = torch.zeros(1, 2, 3, 4)
    for wrong, size in ((images[0], (2, 2)), (images, (0, 2)), (images[..., :0], (2, 2))):
        with pytest.raises(RuntimeError):
            getattr(torch.ops.cvlib, name)(wrong, *size, 0.0, 0.0, False)


@pytest.mark.skipif(not has_kernels("cpu"), reason="without kernels PyTorch checks")
def test_kernels_of_transposed_convolution_check_shapes_themselves():
    image, weight = torch.zeros(1, 4, 3, 3), torch.zeros(4, 2, 16, 16)
    for wrong, numbers in (
        (weight[:3], (8, 8, 0, 0, 0, 0, 1)),
        (weight, (8, 8, 0, 0, 0, 0, 3)),
        (weight, (0, 8, 0, 0, 0, 0, 1)),
        (weight, (8, 8, -1, 0, 0, 0, 1)),
        (weight, (8, 8, 0, 0, -1, 0, 1)),
        (weight, (8, 8, 99, 0, 0, 0, 1)),
    ):
        with pytest.raises(RuntimeError, match="conv_transpose2d: expected"):
            torch.ops.cvlib.conv_transpose2d(image, wrong, None, *numbers)
