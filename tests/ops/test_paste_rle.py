"""paste_masks_rle: the text of pasting and encoding, in one step."""

import numpy as np
import oracles
import oracles_masks
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cvlib.ops.paste import paste_masks
from cvlib.ops.paste_rle import _paste_masks_rle_reference, paste_masks_rle
from cvlib.ops.rle import masks_to_rle, rle_to_masks

nan, inf = float("nan"), float("inf")
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


def random_scene(rng, n, cells, size, device="cpu", dtype=torch.float32):
    extent = np.array([size[1], size[0]], np.float64)
    corner = rng.uniform(-0.6, 1.1, (n, 2)) * extent
    sides = rng.choice([0.02, 0.3, 1.0, 2.0], (n, 1)) * rng.random((n, 2)) * extent
    boxes = torch.from_numpy(np.concatenate([corner, corner + sides], 1)).float().to(device)
    return torch.from_numpy(rng.random((n, *cells))).to(device, dtype), boxes


def two_steps(masks, boxes, size, threshold=0.5):
    return masks_to_rle(paste_masks(masks, boxes, size, threshold=threshold))


# --- matches the oracle


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("n", [0, 1, 9])
def test_matches_oracle(device, dtype, n, rng):
    masks, boxes = random_scene(rng, n, (7, 5), (23, 31), device, dtype)
    values, inside = oracles_masks.paste_masks(*map(oracles.to_numpy, (masks, boxes)), (23, 31))
    rles = paste_masks_rle(masks, boxes, (23, 31))
    assert len(rles) == n
    for rle, decided in zip(rles, (values >= 0.5) & inside, strict=True):
        text = oracles_masks.compress(oracles_masks.rle_counts(decided))
        assert rle == {"size": [23, 31], "counts": text}


@pytest.mark.parametrize("size", [(0, 0), (0, 9), (9, 0), (1, 1), (1, 70), (70, 1), (400, 300)])
@pytest.mark.parametrize("cells", [(1, 1), (28, 28), (3, 40)])
def test_equals_pasting_and_encoding(device, size, cells, rng):
    masks, boxes = random_scene(rng, 20, cells, size, device)
    for threshold in (0.0, 0.3, 0.5, 1.0):
        expected = two_steps(masks, boxes, size, threshold)
        assert paste_masks_rle(masks, boxes, size, threshold=threshold) == expected


def test_ties_are_decided_alike(device, rng):
    # Values on a grid of quarters, and boxes whose pixels lie on it: many are the threshold itself.
    masks = torch.from_numpy(rng.integers(0, 5, (40, 4, 4)) / 4).float().to(device)
    corner = torch.from_numpy(rng.integers(-8, 40, (40, 2)) / 2)
    side = torch.from_numpy(rng.choice([4.0, 8, 16, 32], (40, 2)))
    boxes = torch.cat([corner, corner + side], 1).float().to(device)
    for threshold in (0.25, 0.5, 0.75):
        expected = two_steps(masks, boxes, (30, 40), threshold)
        assert paste_masks_rle(masks, boxes, (30, 40), threshold=threshold) == expected


@pytest.mark.parametrize(
    "box",
    [
        [3, 3, 3, 3],
        [2.5, 2.5, 6.5, 7.5],
        [-50, 2, -40, 8],
        [-1e9, -1e9, 1e9, 1e9],
        [3, -1e9, 1e9, 4],
        [-inf, -inf, inf, inf],
        [0, 0, 13, 9],
        [-1e30, -5, 1e30, 5],
    ],
)
def test_odd_boxes(device, box, rng):
    masks = torch.from_numpy(rng.random((2, 4, 3))).float().to(device)
    masks[1] = 1
    boxes = torch.tensor([box, box], device=device).float()
    assert paste_masks_rle(masks, boxes, (9, 13)) == two_steps(masks, boxes, (9, 13))


def test_nothing_and_everything(device):
    ones, boxes = torch.ones(1, 2, 2, device=device), torch.tensor([[-99.0, -99, 99, 99]])
    full = paste_masks_rle(ones, boxes.to(device), (5, 7))
    assert rle_to_masks(full).all()
    assert not rle_to_masks(paste_masks_rle(ones * 0, boxes.to(device), (5, 7))).any()


def test_masks_with_a_channel_and_strides(device, rng):
    masks, boxes = random_scene(rng, 6, (7, 5), (23, 31), device)
    expected = paste_masks_rle(masks, boxes, (23, 31))
    strided = masks.mT.contiguous().mT
    assert paste_masks_rle(masks[:, None], boxes.double(), [23, 31]) == expected
    assert paste_masks_rle(strided, boxes.t().contiguous().t(), (23, 31)) == expected


def test_huge_image_needs_no_canvas():
    # 2.5 gigabytes if it were pasted, for each mask.
    boxes = torch.tensor([[100.0, 200, 140, 230], [49_990, 49_980, 50_100, 50_100]])
    first, second = paste_masks_rle(torch.ones(2, 2, 2), boxes, (50_000, 50_000))
    assert first["size"] == [50_000, 50_000] and len(first["counts"]) < 500
    assert len(second["counts"]) < 500


# --- reference equals native


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("n", [0, 7])
def test_reference_equals_native(dtype, n, rng):
    masks, boxes = random_scene(rng, n, (7, 5), (23, 31), dtype=dtype)
    native = torch.ops.cvlib.paste_masks_rle(masks, boxes, 23, 31, 0.5)
    reference = _paste_masks_rle_reference(masks, boxes, 23, 31, 0.5)
    for actual, other in zip(native, reference, strict=True):
        assert torch.equal(actual, other) and actual.dtype == other.dtype


# --- properties


@given(seed=st.integers(0, 2**32), threshold=st.floats(0, 1))
def test_equals_pasting_and_encoding_for_any_scene(seed, threshold):
    rng = np.random.default_rng(seed)
    size = tuple(int(one) for one in rng.integers(1, 60, 2))
    cells = tuple(int(one) for one in rng.integers(1, 30, 2))
    dtype = DTYPES[rng.integers(len(DTYPES))]
    masks, boxes = random_scene(rng, int(rng.integers(0, 5)), cells, size, dtype=dtype)
    expected = two_steps(masks, boxes, size, threshold)
    assert paste_masks_rle(masks, boxes, size, threshold=threshold) == expected


# --- gradients


def test_masks_that_require_a_gradient_are_read(rng):
    masks, boxes = random_scene(rng, 3, (7, 5), (23, 31))
    expected = paste_masks_rle(masks, boxes, (23, 31))
    assert paste_masks_rle(masks.requires_grad_(), boxes.requires_grad_(), (23, 31)) == expected


# --- by hand ------------------------------------------------------------------------------------


def test_by_hand(device):
    # . . . .      down the columns: 7 zeros, 2 ones, 1 zero, 2 ones; from the fourth run on the
    # . . 1 1      text has the difference to the run two before, which is 2 - 2 = 0
    # . . 1 1
    boxes = torch.tensor([[2.0, 1, 4, 3]], device=device)
    masks = torch.ones(1, 2, 2, device=device)
    assert paste_masks_rle(masks, boxes, (3, 4)) == [{"size": [3, 4], "counts": "7210"}]
