"""masks_to_boxes and mask_iou: values, errors."""

import json

import numpy as np
import oracles
import oracles_masks
import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco

import cvlib
from cvlib.ops.masks import (
    _mask_iou_reference,
    _masks_to_boxes_reference,
    mask_iou,
    masks_to_boxes,
)
from cvlib.ops.rle import masks_to_rle, rle_to_masks

nan = float("nan")
INTEGERS = [torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64]
UNSIGNED = [torch.uint16, torch.uint32, torch.uint64]
FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def random_masks(rng, n, height, width, density=0.1):
    return torch.from_numpy(rng.random((n, height, width)) < density)


def rectangles(rng, n, height, width):
    """Masks of random rectangles, and their integer boxes."""
    corners = np.sort(rng.integers(0, (width + 1, height + 1), (n, 2, 2)), axis=1)
    masks = torch.zeros(n, height, width, dtype=torch.bool)
    for mask, ((x1, y1), (x2, y2)) in zip(masks, corners, strict=True):
        mask[y1:y2, x1:x2] = True
    return masks, torch.from_numpy(corners.reshape(n, 4)).float()


def boxes_oracle(masks):
    return torch.from_numpy(oracles_masks.masks_to_boxes(masks.cpu().numpy()))


def iou_oracle(masks1, masks2, is_crowd=None):
    arrays = [None if one is None else one.cpu().numpy() for one in (masks1, masks2, is_crowd)]
    return torch.from_numpy(oracles_masks.mask_iou(*arrays))


SHAPES = [
    (0, 5, 5),
    (3, 0, 5),
    (3, 5, 0),
    (1, 1, 1),
    (4, 1, 9),
    (4, 9, 1),
    (5, 13, 17),
    (3, 63, 65),
]
LARGE = [(2, 300, 1333), (1, 2000, 700), (70, 64, 64), (2, 3, 70_000)]

# --- matches the oracle


@pytest.mark.parametrize("density", [0.0, 0.003, 0.05, 1.0])
@pytest.mark.parametrize("shape", SHAPES + LARGE)
def test_boxes_match_oracle(device, shape, density, rng):
    masks = random_masks(rng, *shape, density).to(device)
    boxes = masks_to_boxes(masks)
    assert boxes.dtype == torch.float32 and boxes.device == masks.device
    assert torch.equal(boxes.cpu(), boxes_oracle(masks))


@pytest.mark.parametrize("dtype", INTEGERS + UNSIGNED + FLOATS, ids=str)
def test_boxes_of_every_dtype(device, dtype, rng):
    masks = random_masks(rng, 6, 37, 41, 0.01).to(device)
    assert torch.equal(masks_to_boxes(masks.to(dtype)).cpu(), boxes_oracle(masks))
    assert torch.equal(_masks_to_boxes_reference(masks.to(dtype)).cpu(), boxes_oracle(masks))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_what_counts_as_zero(device, dtype):
    masks = torch.zeros(5, 3, 4, dtype=dtype, device=device)
    masks[0, 1, 2] = -0.0
    masks[1, 1, 2] = nan
    masks[2, 1, 2] = -float("inf")
    masks[3, 1, 2] = torch.finfo(dtype).smallest_normal / 4  # a denormal
    masks[4, 1, 2] = -1
    pixel = [2, 1, 3, 2]
    assert masks_to_boxes(masks).tolist() == [[0, 0, 0, 0], pixel, pixel, pixel, pixel]


@pytest.mark.parametrize("bit", range(8))
def test_any_bit_of_a_byte_counts(device, bit):
    masks = torch.zeros(1, 9, 70, dtype=torch.uint8, device=device)
    masks[0, 4, 66] = 1 << bit
    assert masks_to_boxes(masks).tolist() == [[66, 4, 67, 5]]
    assert mask_iou(masks, masks > 0).item() == 1


@pytest.mark.parametrize("width", [1, 7, 8, 9, 63, 64, 65, 511, 512, 513, 700])
def test_boxes_of_single_pixels_and_pairs(device, width, rng):
    # Wherever the first and the last pixel lie in registers, rows and bands.
    height = 23
    masks = torch.zeros(60, height, width, dtype=torch.bool)
    for mask in masks:
        for _ in range(int(rng.integers(1, 4))):
            mask[rng.integers(height), rng.integers(width)] = True
    assert torch.equal(masks_to_boxes(masks.to(device)).cpu(), boxes_oracle(masks))


@pytest.mark.parametrize("density", [0.0, 0.0005, 0.02, 0.5, 1.0])
@pytest.mark.parametrize("shape", SHAPES + LARGE)
def test_iou_matches_oracle(device, shape, density, rng):
    first = random_masks(rng, *shape, density).to(device)
    second = random_masks(rng, 3, *shape[1:], 0.3).to(device)
    crowd = torch.tensor([True, False, True], device=device)
    for flags in (None, crowd):
        iou = mask_iou(first, second, is_crowd=flags)
        assert iou.dtype == torch.float32 and iou.device == first.device
        assert torch.equal(iou.cpu(), iou_oracle(first, second, flags))


def test_iou_of_masks_with_dense_and_sparse_parts(device, rng):
    # Both ways of counting under one word of the map, and blocks that only one mask has.
    masks = random_masks(rng, 5, 90, 400, 0.5)
    masks[0, 20:] = False
    masks[1, :50] &= torch.from_numpy(rng.random((50, 400)) < 0.003)
    masks[2] &= torch.from_numpy(rng.random((90, 400)) < 0.005)
    masks[3, :, 37:] = False
    masks = masks.to(device)
    assert torch.equal(mask_iou(masks, masks).cpu(), iou_oracle(masks, masks))


@pytest.mark.parametrize("dtypes", [(torch.uint8, torch.bool), (torch.bool, torch.uint8)])
def test_iou_of_mixed_dtypes(device, dtypes, rng):
    first, second = (random_masks(rng, 3, 21, 30, 0.4).to(device) for _ in range(2))
    expected = iou_oracle(first, second)
    scaled = [
        masks.byte() * 255 if dtype == torch.uint8 else masks
        for masks, dtype in zip((first, second), dtypes, strict=True)
    ]
    assert torch.equal(mask_iou(*scaled).cpu(), expected)


LAYOUTS = {
    "every second mask": lambda masks: masks.repeat_interleave(2, 0)[::2],
    "column-major": lambda masks: masks.mT.contiguous().mT,
    "part of a larger canvas": lambda masks: torch.nn.functional.pad(masks, (3, 2, 1, 4))[
        :, 1:-4, 3:-2
    ],
    "offset in storage": lambda masks: torch.cat([masks[:1], masks])[1:],
    "channels last": lambda masks: masks.permute(1, 2, 0).contiguous().permute(2, 0, 1),
    "unaligned": lambda masks: torch.cat([masks.new_zeros(1), masks.flatten()])[1:].view(
        masks.shape
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_memory_layout_does_not_matter(device, layout, rng):
    masks, others = (random_masks(rng, 7, 33, 45, 0.02).to(device) for _ in range(2))
    assert torch.equal(masks_to_boxes(layout(masks)).cpu(), boxes_oracle(masks))
    assert torch.equal(masks_to_boxes(layout(masks.float())).cpu(), boxes_oracle(masks))
    assert torch.equal(mask_iou(layout(masks), others).cpu(), iou_oracle(masks, others))
    assert torch.equal(mask_iou(others, layout(masks)).cpu(), iou_oracle(others, masks))


def test_expanded_masks(device, rng):
    masks = random_masks(rng, 1, 33, 45, 0.02).to(device).expand(5, 33, 45)
    assert torch.equal(masks_to_boxes(masks).cpu(), boxes_oracle(masks))
    assert torch.equal(mask_iou(masks, masks).cpu(), torch.ones(5, 5))
    others = random_masks(rng, 5, 33, 45, 0.3).to(device)
    assert torch.equal(mask_iou(masks, others).cpu(), iou_oracle(masks, others))


def test_same_memory_read_as_two_stacks(device, rng):
    masks = random_masks(rng, 6, 20, 30, 0.3).to(device)
    for first, second in ((masks, masks[:4]), (masks[::2], masks[:3]), (masks[:1], masks)):
        assert torch.equal(mask_iou(first, second).cpu(), iou_oracle(first, second))


# --- matches torchvision and pycocotools


def test_boxes_match_torchvision_but_for_the_far_edges(device, rng):
    masks = random_masks(rng, 20, 50, 60, 0.005).to(device)
    masks[3] = False
    expected = torchvision.ops.masks_to_boxes(masks)
    is_set = masks.flatten(1).any(1)
    assert not is_set.all() and is_set.any()
    expected[is_set] += torch.tensor([0.0, 0, 1, 1], device=device)
    assert torch.equal(masks_to_boxes(masks), expected)


@pytest.mark.parametrize("density", [0.01, 0.5])
def test_iou_matches_pycocotools(device, density, rng):
    first, second = (random_masks(rng, n, 31, 47, density) for n in (6, 7))
    first[2], second[3] = False, False
    crowd = torch.from_numpy(rng.random(7) < 0.5)
    expected = coco.iou(masks_to_rle(first), masks_to_rle(second), crowd.tolist())
    actual = mask_iou(first.to(device), second.to(device), is_crowd=crowd.to(device))
    assert torch.equal(actual.cpu(), torch.from_numpy(expected).float())


def test_real_masks_against_pycocotools(device, test_data):
    annotations = json.loads((test_data / "pennfudan-coco/instances_val.json").read_text())
    by_image = {}
    for one in annotations["annotations"]:
        by_image.setdefault(one["image_id"], []).append(one["segmentation"])
    assert by_image
    for rles in by_image.values():
        masks = rle_to_masks(rles).to(device)
        left, top, width, height = torch.from_numpy(coco.toBbox(rles)).unbind(1)
        boxes = torch.stack([left, top, left + width, top + height], 1).float()
        assert torch.equal(masks_to_boxes(masks).cpu(), boxes)
        iou = torch.from_numpy(coco.iou(rles, rles, [0] * len(rles))).float()
        assert torch.equal(mask_iou(masks, masks).cpu(), iou)


# --- CPU equals CUDA


@pytest.mark.cuda
@pytest.mark.parametrize("shape", [(7, 33, 45), (3, 400, 1333), (1, 1, 1)])
def test_cpu_equals_cuda(cuda, shape, rng):
    masks, others = (random_masks(rng, *shape, 0.01) for _ in range(2))
    assert torch.equal(masks_to_boxes(masks), masks_to_boxes(masks.to(cuda)).cpu())
    iou = mask_iou(masks, others)
    assert torch.equal(iou, mask_iou(masks.to(cuda), others.to(cuda)).cpu())


# --- reference equals native


@pytest.mark.parametrize("shape", SHAPES)
def test_reference_equals_native(device, shape, rng):
    masks = random_masks(rng, *shape, 0.1).to(device)
    others = random_masks(rng, 4, *shape[1:], 0.4).to(device)
    assert torch.equal(_masks_to_boxes_reference(masks), masks_to_boxes(masks))
    assert torch.equal(_masks_to_boxes_reference(masks.half()), masks_to_boxes(masks))
    crowd = torch.tensor([True, False, False, True], device=device)
    for flags in (None, crowd):
        expected = mask_iou(masks, others, is_crowd=flags)
        assert torch.equal(_mask_iou_reference(masks, others, flags), expected)


# --- properties

small_masks = st.tuples(
    st.integers(1, 5), st.integers(1, 9), st.integers(1, 12), st.integers(0, 2**32)
).map(lambda case: random_masks(np.random.default_rng(case[3]), *case[:3], 0.2))


@given(masks=small_masks)
def test_boxes_hold_all_pixels_and_touch_them(device, masks):
    boxes = masks_to_boxes(masks.to(device)).cpu()
    assert (cvlib.box_area(boxes) >= masks.flatten(1).sum(1)).all()
    for mask, box in zip(masks, boxes.int().tolist(), strict=True):
        x1, y1, x2, y2 = box
        inside = mask[y1:y2, x1:x2]
        assert inside.sum() == mask.sum()
        if mask.any():
            for edge in (inside[0], inside[-1], inside[:, 0], inside[:, -1]):
                assert edge.any()


@given(masks=small_masks)
def test_box_of_a_union_is_the_box_around_the_boxes(device, masks):
    masks = masks[masks.flatten(1).any(1)].to(device)
    if len(masks):
        boxes = masks_to_boxes(masks)
        joined = torch.cat([boxes[:, :2].amin(0), boxes[:, 2:].amax(0)])
        assert torch.equal(masks_to_boxes(masks.any(0, keepdim=True))[0], joined)


@given(masks=small_masks)
def test_iou_is_symmetric_and_one_exactly_for_equal_masks(device, masks):
    masks = masks.to(device)
    iou = mask_iou(masks, masks.clone())
    assert torch.equal(iou, iou.t()) and iou.min() >= 0 and iou.max() <= 1
    equal = (masks[:, None] == masks[None]).flatten(2).all(2)
    has_area = masks.flatten(1).any(1)
    assert torch.equal(iou == 1, equal & has_area[:, None])


def test_rectangles_have_the_iou_and_the_boxes_of_their_boxes(device, rng):
    masks, boxes = rectangles(rng, 40, 30, 50)
    iou = mask_iou(masks.to(device), masks.to(device)).cpu()
    torch.testing.assert_close(iou, cvlib.box_iou(boxes, boxes), rtol=1e-6, atol=0)
    has_area = cvlib.box_area(boxes) > 0
    assert not has_area.all()
    assert torch.equal(masks_to_boxes(masks.to(device)).cpu()[has_area], boxes[has_area])


def test_does_not_change_its_arguments(device, rng):
    masks, others = (random_masks(rng, 3, 20, 30).to(device) for _ in range(2))
    copies = masks.clone(), others.clone()
    masks_to_boxes(masks), mask_iou(masks, others)
    assert torch.equal(masks, copies[0]) and torch.equal(others, copies[1])


# --- gradients


def test_gradient_of_boxes_is_refused(device):
    masks = torch.ones(1, 3, 4, device=device, requires_grad=True)
    with pytest.raises(RuntimeError, match="masks_to_boxes is not differentiable"):
        masks_to_boxes(masks).sum().backward()


# --- by hand ------------------------------------------------------------------------------------


def test_by_hand(device):
    # . . . . .      columns 1 to 3 and row 1: the box reaches from 1 to 4 and from 1 to 2
    # . a a b .      a and b share nothing; the union of both with itself is 1
    # . . . . .
    a = torch.zeros(3, 5, dtype=torch.bool, device=device)
    b = a.clone()
    a[1, 1:3], b[1, 3] = True, True
    masks = torch.stack([a, b, a | b, a & b])
    assert masks_to_boxes(masks).tolist() == [
        [1, 1, 3, 2],
        [3, 1, 4, 2],
        [1, 1, 4, 2],
        [0, 0, 0, 0],
    ]
    third = 1 / 3
    expected = [[1, 0, 1 - third, 0], [0, 1, third, 0], [1 - third, third, 1, 0], [0, 0, 0, 0]]
    torch.testing.assert_close(mask_iou(masks, masks).cpu(), torch.tensor(expected))
    crowd = torch.tensor([False, False, True, True], device=device)
    assert mask_iou(masks[:1], masks, is_crowd=crowd).tolist() == [[1, 0, 1, 0]]
    assert oracles.box_area(masks_to_boxes(masks).cpu().numpy()).tolist() == [2, 1, 3, 0]
