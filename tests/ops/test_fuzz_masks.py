"""Many small random calls of the operators on masks, native and reference, against the oracles."""

import numpy as np
import oracles
import oracles_masks
import torch
from fuzzing import make_tests, random_dtype

from cvlib.ops.masks import (
    _mask_iou_reference,
    _masks_to_boxes_reference,
    mask_iou,
    masks_to_boxes,
)
from cvlib.ops.paste import _paste_mask_values_reference, _paste_masks_reference, paste_masks
from cvlib.ops.paste_rle import paste_masks_rle
from cvlib.ops.rle import masks_to_rle, rle_to_masks


def random_size(rng, most):
    """Mostly small, so that a failure can be read; now and then a few times a vector register."""
    if rng.random() < 0.95:
        return tuple(int(one) for one in rng.integers(0, most, 2))
    return int(rng.integers(1, 4)), int(rng.integers(100, 700))


def random_masks(rng, n, size):
    masks = rng.random((n, *size)) < 10.0 ** rng.uniform(-3, 0)
    if rng.random() < 0.5 and size[0] and size[1]:
        masks[:, : rng.integers(size[0])] = False
        masks[:, :, rng.integers(size[1]) :] = False
    return torch.from_numpy(masks)


def fuzz_masks_to_boxes(rng, device):
    masks = random_masks(rng, int(rng.integers(0, 6)), random_size(rng, 40)).to(device)
    expected = torch.from_numpy(oracles_masks.masks_to_boxes(oracles.to_numpy(masks)))
    values = masks.to(random_dtype(rng)) * -float(rng.uniform(0.1, 2))
    layout = masks.mT.contiguous().mT if rng.random() < 0.3 else masks
    for boxes in map(masks_to_boxes, (masks, values, layout)):
        assert torch.equal(boxes.cpu(), expected)
    assert torch.equal(_masks_to_boxes_reference(masks).cpu(), expected)


def fuzz_mask_iou(rng, device):
    size = random_size(rng, 30)
    first, second = (random_masks(rng, int(rng.integers(0, 6)), size).to(device) for _ in range(2))
    crowd = None
    if rng.random() < 0.5:
        crowd = torch.from_numpy(rng.random(len(second)) < 0.5).to(device)
    arrays = [None if one is None else oracles.to_numpy(one) for one in (first, second, crowd)]
    expected = torch.from_numpy(oracles_masks.mask_iou(*arrays))
    assert torch.equal(mask_iou(first, second, is_crowd=crowd).cpu(), expected)
    scaled = first.byte() * int(rng.integers(1, 256))
    assert torch.equal(mask_iou(scaled, second, is_crowd=crowd).cpu(), expected)
    assert torch.equal(_mask_iou_reference(first, second, crowd).cpu(), expected)


def fuzz_paste_masks(rng, device):
    size, n = random_size(rng, 16), int(rng.integers(0, 4))
    cells = tuple(int(one) for one in rng.integers(1, 9, 2))
    masks = torch.from_numpy(rng.random((n, *cells)))
    if rng.random() < 0.5:
        masks = (masks * 4).round() / 4
    masks = masks.to(device, random_dtype(rng))
    corner = rng.normal(size=(n, 2)) * 10.0 ** rng.uniform(-1, 3)
    sides = rng.random((n, 2)) * 10.0 ** rng.uniform(-2, 5, (n, 1))
    if rng.random() < 0.5:
        corner, sides = np.round(corner * 2) / 2, np.round(sides * 2) / 2
    boxes = torch.from_numpy(np.concatenate([corner, corner + sides], 1))
    boxes = boxes.to(device, [torch.float32, torch.float32, torch.float64][rng.integers(3)])
    threshold = float(rng.choice([0, 0.25, 1 / 3, 0.5, 0.7, 1]))
    values, inside = oracles_masks.paste_masks(*map(oracles.to_numpy, (masks, boxes)), size)
    decided = torch.from_numpy((values.astype(np.float64) >= threshold) & inside)
    values = torch.from_numpy(values)
    assert torch.equal(paste_masks(masks, boxes, size, threshold=threshold).cpu(), decided)
    assert torch.equal(_paste_masks_reference(masks, boxes, *size, threshold).cpu(), decided)
    assert torch.equal(paste_masks(masks, boxes, size, threshold=None).cpu(), values)
    assert torch.equal(_paste_mask_values_reference(masks, boxes, *size).cpu(), values)
    rles = paste_masks_rle(masks, boxes, size, threshold=threshold)
    assert torch.equal(rle_to_masks(rles, image_size=size), decided)


def fuzz_rle(rng, device):
    size = random_size(rng, 30)
    masks = random_masks(rng, int(rng.integers(0, 4)), size)
    rles = masks_to_rle(masks.to(device))
    for rle, mask in zip(rles, masks.numpy(), strict=True):
        assert rle["counts"] == oracles_masks.compress(oracles_masks.rle_counts(mask))
    assert torch.equal(rle_to_masks(rles, image_size=size), masks)


# Calls of a test; together 500.
CALLS = {
    fuzz_masks_to_boxes: 150,
    fuzz_mask_iou: 150,
    fuzz_paste_masks: 100,
    fuzz_rle: 100,
}

test_random_calls, test_many_random_calls = make_tests(CALLS)
