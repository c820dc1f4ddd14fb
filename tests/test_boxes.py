"""box_convert, box_area, clip_boxes."""

import itertools

import numpy as np
import oracles
import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st

import cvlib

FORMATS = ["xyxy", "xywh", "cxcywh"]
PAIRS = list(itertools.product(FORMATS, FORMATS))
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
BOX = {"xyxy": (10, 20, 40, 60), "xywh": (10, 20, 30, 40), "cxcywh": (25, 40, 30, 40)}


def random_boxes(rng, *shape, device="cpu", dtype=torch.float64):
    boxes = oracles.random_boxes(rng, int(np.prod(shape))).reshape(*shape, 4)
    return torch.from_numpy(boxes).to(dtype).to(device)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_convert_by_hand(device, dtype, source, target):
    boxes = torch.tensor([BOX[source]], dtype=dtype, device=device)
    expected = torch.tensor([BOX[target]], dtype=dtype, device=device)
    converted = cvlib.box_convert(boxes, source, target)
    assert converted.dtype == dtype and torch.equal(converted, expected)
    assert torch.equal(boxes, torch.tensor([BOX[source]], dtype=dtype, device=device))


@pytest.mark.parametrize("shape", [(), (0,), (1,), (7,), (2, 3), (2, 0, 3)])
@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_convert_equals_torchvision(device, source, target, shape, rng, tolerances):
    boxes = random_boxes(rng, *shape, device=device)
    if source != "xyxy":
        boxes[..., 2:] -= boxes[..., :2]
    expected = torchvision.ops.box_convert(boxes, source, target)
    converted = cvlib.box_convert(boxes, source, target)
    torch.testing.assert_close(converted, expected, **tolerances[torch.float64])


@pytest.mark.parametrize("name", FORMATS)
def test_convert_to_the_same_format_returns_its_argument(name, rng):
    boxes = random_boxes(rng, 3)
    assert cvlib.box_convert(boxes, name, name) is boxes


coordinates = st.integers(-(2**15), 2**15).map(lambda value: value / 2)
sides = st.integers(0, 2**15).map(float)


@given(rows=st.lists(st.tuples(coordinates, coordinates, sides, sides), min_size=1, max_size=9))
def test_convert_and_back_is_exact_on_a_grid(device, rows):
    boxes = torch.tensor(rows, device=device)
    for source, target in PAIRS:
        there = cvlib.box_convert(boxes, source, target)
        assert torch.equal(cvlib.box_convert(there, target, source), boxes)


def test_convert_of_strided_boxes(device, rng):
    boxes = random_boxes(rng, 6, device=device)
    strided = boxes.t().contiguous().t()
    assert torch.equal(
        cvlib.box_convert(strided, "xyxy", "cxcywh"), cvlib.box_convert(boxes, "xyxy", "cxcywh")
    )


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_convert_is_differentiable_twice(source, target, rng):
    boxes = random_boxes(rng, 3).requires_grad_()
    torch.autograd.gradcheck(lambda x: cvlib.box_convert(x, source, target), boxes)
    torch.autograd.gradgradcheck(lambda x: cvlib.box_convert(x, source, target) ** 2, boxes)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_area_by_hand(device, dtype):
    rows = [[0, 0, 3, 2], [-4, -4, -2, -1], [1, 1, 1, 9], [1, 9, 4, 9], [5, 5, 1, 1], [5, 1, 1, 5]]
    areas = cvlib.box_area(torch.tensor(rows, dtype=dtype, device=device))
    assert areas.tolist() == [6, 6, 0, 0, 0, 0]  # inverted on both sides is empty too


@pytest.mark.parametrize("shape", [(), (0,), (1,), (7,), (2, 3)])
def test_area_equals_torchvision(device, shape, rng):
    boxes = random_boxes(rng, *shape, device=device)
    areas = cvlib.box_area(boxes)
    assert areas.shape == shape
    assert torch.equal(areas, torchvision.ops.box_area(boxes))
    np.testing.assert_array_equal(areas.cpu(), oracles.box_area(boxes.cpu().numpy()))


def test_area_is_differentiable(rng):
    assert torch.autograd.gradcheck(cvlib.box_area, random_boxes(rng, 4).requires_grad_())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_clip_by_hand(device, dtype):
    # The image is 10 high and 20 wide.
    rows = [[-5, 2, 30, 12], [3, 4, 5, 6], [-9, -9, -1, -1], [25, 15, 30, 20], [0, 0, 20, 10]]
    expected = [[0, 2, 20, 10], [3, 4, 5, 6], [0, 0, 0, 0], [20, 10, 20, 10], [0, 0, 20, 10]]
    boxes = torch.tensor(rows, dtype=dtype, device=device)
    clipped = cvlib.clip_boxes(boxes, (10, 20))
    assert clipped.dtype == dtype and clipped.tolist() == expected
    assert boxes.tolist() == rows
    assert not cvlib.clip_boxes(boxes, (0, 0)).any()


@pytest.mark.parametrize("shape", [(), (0,), (1,), (7,), (2, 3)])
def test_clip_equals_torchvision(device, shape, rng):
    boxes = random_boxes(rng, *shape, device=device) - 300
    assert torch.equal(
        cvlib.clip_boxes(boxes, (333, 222)), torchvision.ops.clip_boxes_to_image(boxes, (333, 222))
    )


def test_clip_is_idempotent_and_differentiable(rng):
    boxes = (random_boxes(rng, 9) - 300).requires_grad_()
    once = cvlib.clip_boxes(boxes, (333, 222))
    assert torch.equal(cvlib.clip_boxes(once, (333, 222)), once)
    assert torch.autograd.gradcheck(lambda x: cvlib.clip_boxes(x, (333, 222)), boxes)


def test_compiles_without_graph_breaks_and_with_dynamic_shapes(device, rng, fresh_compiler):
    def everything(boxes):
        centred = cvlib.box_convert(boxes, "xyxy", "cxcywh")
        return centred, cvlib.box_area(boxes), cvlib.clip_boxes(boxes, (50, 60))

    compiled = torch.compile(everything, fullgraph=True, dynamic=True, backend="aot_eager")
    for n in (5, 12):
        boxes = random_boxes(rng, n, device=device)
        for one, other in zip(compiled(boxes), everything(boxes), strict=True):
            assert torch.equal(one, other)


CALLS = {
    "box_convert": lambda boxes: cvlib.box_convert(boxes, "xyxy", "xywh"),
    "box_area": cvlib.box_area,
    "clip_boxes": lambda boxes: cvlib.clip_boxes(boxes, (10, 20)),
}


@pytest.mark.parametrize(
    ("boxes", "error", "message"),
    [
        ([[0, 0, 1, 1]], TypeError, r"expected `boxes` to be a torch\.Tensor, got list"),
        (np.zeros((1, 4)), TypeError, r"expected `boxes` to be a torch\.Tensor, got ndarray"),
        (
            torch.zeros(1, 4).int(),
            TypeError,
            r"expected `boxes` to have a floating-point dtype, got .*int32",
        ),
        (
            torch.zeros(1, 5),
            ValueError,
            r"expected `boxes` to have shape \(\.\.\., 4\), got \(1, 5\)",
        ),
        (
            torch.zeros(4, 0),
            ValueError,
            r"expected `boxes` to have shape \(\.\.\., 4\), got \(4, 0\)",
        ),
        (torch.zeros(()), ValueError, r"expected `boxes` to have shape \(\.\.\., 4\), got \(\)"),
    ],
)
@pytest.mark.parametrize("function", CALLS)
def test_errors(function, boxes, error, message):
    with pytest.raises(error, match=f"^{function}: {message}"):
        CALLS[function](boxes)


@pytest.mark.parametrize(
    ("formats", "message"),
    [
        (
            ("xyXY", "xywh"),
            r"expected `from_format` to be one of 'xyxy', 'xywh', 'cxcywh', got 'xyXY'",
        ),
        (
            ("xyxy", "ltrb"),
            r"expected `to_format` to be one of 'xyxy', 'xywh', 'cxcywh', got 'ltrb'",
        ),
        (
            ("ltrb", "ltrb"),
            r"expected `from_format` to be one of 'xyxy', 'xywh', 'cxcywh', got 'ltrb'",
        ),
    ],
)
def test_unknown_formats(formats, message):
    with pytest.raises(ValueError, match="^box_convert: " + message):
        cvlib.box_convert(torch.zeros(1, 4), *formats)


@pytest.mark.parametrize("size", [(-1, 3), (3, -1), (3,), (1, 2, 3)])
def test_clip_size_errors(size):
    with pytest.raises(ValueError, match=r"^clip_boxes: expected `size` to be \(height, width\)"):
        cvlib.clip_boxes(torch.zeros(1, 4), size)
