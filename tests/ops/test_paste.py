"""paste_masks: values and decisions."""

import math

import pytest
import torch
from cases_paste import DTYPES, HEIGHT, WIDTH, inf, nan, oracle, random_scene
from hypothesis import given
from hypothesis import strategies as st
from torchvision.models.detection.roi_heads import paste_masks_in_image

from cvlib.ops.paste import _paste_mask_values_reference, _paste_masks_reference, paste_masks


def paste_both(masks, boxes, size, threshold=0.5):
    """The decisions and the values, by kernel and by reference, each equal."""
    results = []
    for limit in (threshold, None):
        native = paste_masks(masks, boxes, size, threshold=limit)
        if limit is None:
            reference = _paste_mask_values_reference(masks, boxes, *size)
        else:
            reference = _paste_masks_reference(masks, boxes, *size, limit)
        assert torch.equal(native, reference)
        results.append(native.cpu())
    return results


# --- matches the oracle


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("n", [0, 1, 12])
@pytest.mark.parametrize("cells", [(1, 1), (7, 5), (28, 28)])
def test_matches_oracle(device, dtype, n, cells, rng):
    masks, boxes = random_scene(rng, n, cells, device, dtype)
    size = (HEIGHT, WIDTH)
    decided, values = paste_both(masks, boxes, size)
    assert decided.dtype == torch.bool
    assert values.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert decided.shape == values.shape == (n, *size)
    assert torch.equal(values, oracle(masks, boxes, size))
    assert torch.equal(decided, oracle(masks, boxes, size, 0.5))


@pytest.mark.parametrize("size", [(0, 0), (0, 9), (9, 0), (1, 1), (1, 70), (70, 1), (65, 33)])
def test_matches_oracle_on_every_canvas(device, size, rng):
    masks, boxes = random_scene(rng, 9, (6, 9), device, size=(max(size), max(size)))
    decided, values = paste_both(masks, boxes, size)
    assert torch.equal(values, oracle(masks, boxes, size))
    assert torch.equal(decided, oracle(masks, boxes, size, 0.5))


@pytest.mark.parametrize("threshold", [0.0, 0.25, 1 / 3, 0.7, 1.0])
def test_threshold_is_compared_as_given(device, threshold, rng):
    masks, boxes = random_scene(rng, 12, (3, 4), device)
    masks = (masks * 4).round() / 4  # many ties
    masks[:4] = torch.tensor(threshold)  # constant: float32 rounds 1/3 up and .7 down
    decided, _ = paste_both(masks, boxes, (HEIGHT, WIDTH), threshold)
    assert torch.equal(decided, oracle(masks, boxes, (HEIGHT, WIDTH), threshold))


def test_threshold_reaches_the_kernel_as_a_double(device):
    # Between the float32 next to 0.3 and the double 0.3 lies the decision.
    box = torch.tensor([[0.0, 0, 3, 3]], device=device)
    below = torch.tensor(0.3, dtype=torch.float64).float().item()
    masks = torch.full((1, 3, 3), below, device=device)
    for threshold in (below, math.nextafter(below, 1), math.nextafter(below, 0)):
        assert paste_masks(masks, box, (3, 3), threshold=threshold).all() == (below >= threshold)


ODD_BOXES = {
    "empty": [3.0, 3, 3, 3],
    "no width": [3.0, 3, 3, 9],
    "no height": [3.0, 3, 9, 3],
    "edge on a centre": [2.5, 2.5, 6.5, 7.5],
    "between two centres": [2.6, 2.6, 3.4, 3.4],
    "around one centre": [2.4, 2.4, 2.6, 2.6],
    "far left": [-50.0, 2, -40, 8],
    "far below": [2.0, 500, 9, 900],
    "touching the canvas": [-9.0, -9, 0, 0],
    "huge": [-1e9, -1e9, 1e9, 1e9],
    "huge and one-sided": [3.0, -1e9, 1e9, 4],
    "larger than float32 counts": [-1e30, -1e30, 1e30, 1e30],
    "almost the largest": [-3e38, 0, 3e38, 9],
    "denormal": [0.5, 0.5, 0.5 + 1e-7, 0.5 + 1e-7],
    "tiny": [1e-40, 1e-40, 2e-40, 9],
    "infinite": [-inf, -inf, inf, inf],
    "infinite on one side": [2.0, 2, inf, 9],
    "at infinity": [inf, inf, inf, inf],
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("box", ODD_BOXES.values(), ids=ODD_BOXES.keys())
def test_odd_boxes(device, dtype, box, rng):
    masks = torch.from_numpy(rng.random((2, 4, 3))).to(device, dtype)
    boxes = torch.tensor([box, [1, 1, 9, 9]], device=device, dtype=dtype)
    decided, values = paste_both(masks, boxes, (HEIGHT, WIDTH))
    assert torch.equal(values, oracle(masks, boxes, (HEIGHT, WIDTH)))
    assert torch.equal(decided, oracle(masks, boxes, (HEIGHT, WIDTH), 0.5))
    assert values[1].any() and not values.isnan().any()


def test_box_of_doubles_that_overflow_their_side_gives_nothing(device):
    boxes = torch.tensor([[-1.7e308, 0, 1.7e308, 9]], device=device, dtype=torch.float64)
    assert not paste_masks(torch.ones(1, 2, 2, device=device), boxes, (9, 9)).any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_boxes_have_a_dtype_of_their_own(device, dtype, rng):
    masks, boxes = random_scene(rng, 9, device=device)
    boxes = boxes.to(dtype)
    decided, values = paste_both(masks, boxes, (HEIGHT, WIDTH))
    assert values.dtype == torch.float32
    assert torch.equal(values, oracle(masks, boxes, (HEIGHT, WIDTH)))
    assert torch.equal(decided, oracle(masks, boxes, (HEIGHT, WIDTH), 0.5))


def test_denormal_and_large_values(device, rng):
    masks, boxes = random_scene(rng, 6, device=device)
    for factor in (1e-42, 1e-30, 1e30):
        _, values = paste_both(masks * factor, boxes, (HEIGHT, WIDTH))
        assert torch.equal(values, oracle(masks * factor, boxes, (HEIGHT, WIDTH)))


LAYOUTS = {
    "every second": lambda one: one.repeat_interleave(2, 0)[::2],
    "last dimension first in memory": lambda one: (
        one.transpose(0, -1).contiguous().transpose(0, -1)
    ),
    "offset in storage": lambda one: torch.cat([one[:1], one])[1:],
    "reversed memory": lambda one: one.flip(0).contiguous().flip(0),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_memory_layout_does_not_matter(device, layout, rng):
    masks, boxes = random_scene(rng, 8, device=device)
    expected = oracle(masks, boxes, (HEIGHT, WIDTH))
    for arguments in ((layout(masks), boxes), (masks, layout(boxes))):
        assert torch.equal(paste_both(*arguments, (HEIGHT, WIDTH))[1], expected)


def test_expanded_masks_and_boxes(device, rng):
    masks, boxes = random_scene(rng, 1, device=device)
    boxes[:] = torch.tensor([2.0, 3, 20, 19])
    one = paste_masks(masks, boxes, (HEIGHT, WIDTH))
    many = paste_masks(masks.expand(4, -1, -1), boxes.expand(4, -1), (HEIGHT, WIDTH))
    assert torch.equal(many, one.expand(4, -1, -1)) and one.any()


def test_masks_with_a_channel(device, rng):
    masks, boxes = random_scene(rng, 5, device=device)
    expected = paste_masks(masks, boxes, (HEIGHT, WIDTH))
    assert torch.equal(paste_masks(masks[:, None], boxes, [HEIGHT, WIDTH]), expected)


# --- large results in untouched pages


@pytest.mark.parametrize("threshold", [0.5, None])
def test_large_result_equals_its_parts(device, threshold, rng):
    size = (900, 1100)
    masks, boxes = random_scene(rng, 36, (28, 28), device, size=size)
    complete = paste_masks(masks, boxes, size, threshold=threshold)
    assert complete.numel() * complete.element_size() > 32 << 20
    for n in range(36):
        one = paste_masks(masks[n : n + 1], boxes[n : n + 1], size, threshold=threshold)
        assert torch.equal(complete[n], one[0])


def test_large_result_is_an_ordinary_tensor(rng, tmp_path):
    size = (900, 1100)
    masks, boxes = random_scene(rng, 36, size=size)
    boxes[0] = torch.tensor([5.0, 5, 400, 300])
    pasted = paste_masks(masks, boxes, size)
    count = int(pasted.sum())
    assert count > 0 and pasted.is_contiguous() and pasted.device.type == "cpu"
    torch.save(pasted, tmp_path / "masks.pt")
    assert torch.equal(torch.load(tmp_path / "masks.pt"), pasted)
    kept = pasted[3:5]
    del pasted
    assert kept.logical_not_().sum() > 0
    shared = paste_masks(masks, boxes, size).share_memory_()
    assert shared.is_shared() and int(shared.sum()) == count


# --- matches detectron2 and torchvision


def detectron2_values(masks, boxes, size):
    """detectron2's rule, as its documentation has it: grid_sample at the centres of pixels."""
    height, width = size
    x1, y1, x2, y2 = boxes[:, :, None].unbind(1)
    x = (torch.arange(width, device=boxes.device) + 0.5 - x1) / (x2 - x1) * 2 - 1
    y = (torch.arange(height, device=boxes.device) + 0.5 - y1) / (y2 - y1) * 2 - 1
    grid = torch.stack(
        [x[:, None].expand(-1, height, -1), y[:, :, None].expand(-1, -1, width)], dim=3
    )
    return torch.nn.functional.grid_sample(masks[:, None], grid, align_corners=False)[:, 0]


def far_from(boxes, size, least=1e-3):
    """Pixels whose centres lie clearly inside or outside of the boxes."""
    height, width = size
    x = torch.arange(width, device=boxes.device) + 0.5
    y = torch.arange(height, device=boxes.device) + 0.5
    near_x = (x - boxes[:, 0::2, None]).abs().amin(1) < least
    near_y = (y - boxes[:, 1::2, None]).abs().amin(1) < least
    return ~(near_x[:, None] | near_y[:, :, None])


def test_matches_detectron2_inside_of_boxes(device, rng):
    masks, boxes = random_scene(rng, 30, (14, 14), device, torch.float64)
    boxes[:, 2:] += 2
    size = (HEIGHT, WIDTH)
    values, expected = (
        paste_masks(masks, boxes, size, threshold=None),
        detectron2_values(masks, boxes, size),
    )
    inside = paste_masks(torch.ones_like(masks), boxes, size, threshold=0.0)
    clear = far_from(boxes, size)
    torch.testing.assert_close(values[inside & clear], expected[inside & clear])
    # Outside of its box a mask of probabilities never comes to one half.
    sure = clear & ((expected - 0.5).abs() > 1e-9)
    assert torch.equal(paste_masks(masks, boxes, size)[sure], (expected >= 0.5)[sure])


def test_is_within_a_pixel_of_torchvision(device, rng):
    masks, _ = random_scene(rng, 10, (28, 28), device)
    disk = (torch.arange(28) - 13.5) ** 2
    masks[:] = ((disk[:, None] + disk) < 100).float()
    corner = torch.from_numpy(rng.uniform(5, 40, (10, 2))).float()
    boxes = torch.cat([corner, corner + 40], 1).to(device)
    actual = paste_masks(masks, boxes, (90, 90))
    expected = paste_masks_in_image(masks[:, None], boxes, (90, 90))[:, 0] >= 0.5
    grown = torch.nn.functional.max_pool2d(actual.float(), 3, 1, 1) > 0
    shrunk = torch.nn.functional.max_pool2d((~actual).float(), 3, 1, 1) == 0
    assert not (expected & ~grown).any() and not (shrunk & ~expected).any() and shrunk.any()


# --- CPU equals CUDA


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_cpu_equals_cuda(cuda, dtype, rng):
    masks, boxes = random_scene(rng, 40, (28, 28), "cpu", dtype, size=(200, 300))
    for threshold in (0.5, 0.3, None):
        actual = paste_masks(masks, boxes, (200, 300), threshold=threshold)
        on_cuda = paste_masks(masks.to(cuda), boxes.to(cuda), (200, 300), threshold=threshold)
        assert torch.equal(actual, on_cuda.cpu())


@pytest.mark.cuda
def test_invalid_values_on_cuda(cuda):
    masks = torch.ones(5, 2, 2, device=cuda)
    good = [1.0, 1, 5, 5]
    rows = [[nan, 1, 5, 5], [1, 1, 5, nan], [5, 1, 1, 5], [1, 5, 5, 1], good]
    boxes = torch.tensor(rows, device=cuda)
    assert paste_masks(masks, boxes, (9, 9)).flatten(1).any(1).tolist() == [False] * 4 + [True]
    masks[4, 0, 0] = nan
    assert not paste_masks(masks, boxes, (9, 9))[4, 1, 1]
    assert paste_masks(masks, boxes, (9, 9), threshold=None)[4, 1, 1].isnan()


# --- properties

grid_boxes = st.lists(
    st.tuples(st.integers(-9, 40), st.integers(-9, 40), st.integers(0, 40), st.integers(0, 40)),
    min_size=1,
    max_size=6,
).map(lambda rows: torch.tensor([[x, y, x + w, y + h] for x, y, w, h in rows]).float() / 2)


def masks_for(boxes, device, cells=(4, 8)):
    generator = torch.Generator().manual_seed(len(boxes))
    return torch.rand(len(boxes), *cells, generator=generator).to(device)


@given(boxes=grid_boxes)
def test_values_lie_between_zero_and_the_largest_cell(device, boxes):
    masks = masks_for(boxes, device)
    values = paste_masks(masks, boxes.to(device), (HEIGHT, WIDTH), threshold=None)
    assert values.min() >= 0 and (values.amax((1, 2)) <= masks.amax((1, 2))).all()


@given(boxes=grid_boxes, low=st.floats(0, 1), high=st.floats(0, 1))
def test_a_higher_threshold_gives_a_part(device, boxes, low, high):
    low, high = sorted((low, high))
    masks, boxes = masks_for(boxes, device), boxes.to(device)
    less = paste_masks(masks, boxes, (HEIGHT, WIDTH), threshold=high)
    assert (less <= paste_masks(masks, boxes, (HEIGHT, WIDTH), threshold=low)).all()


@given(boxes=grid_boxes, dx=st.integers(0, 5), dy=st.integers(0, 5))
def test_moves_with_its_box(device, boxes, dx, dy):
    masks, boxes = masks_for(boxes, device), boxes.to(device)
    shift = torch.tensor([dx, dy, dx, dy], device=device).float()
    here = paste_masks(masks, boxes, (40, 40), threshold=None)
    there = paste_masks(masks, boxes + shift, (40 + dy, 40 + dx), threshold=None)
    assert torch.equal(there[:, dy:, dx:], here)


@given(boxes=grid_boxes)
def test_mirrors_with_its_box(device, boxes):
    masks, boxes = masks_for(boxes, device), boxes.to(device)
    x1, y1, x2, y2 = boxes.unbind(1)
    mirrored = torch.stack([WIDTH - x2, y1, WIDTH - x1, y2], 1)
    here = paste_masks(masks, boxes, (HEIGHT, WIDTH), threshold=None)
    there = paste_masks(masks.flip(2), mirrored, (HEIGHT, WIDTH), threshold=None)
    torch.testing.assert_close(there.flip(2), here, rtol=1e-5, atol=1e-6)


@given(boxes=grid_boxes)
def test_a_full_mask_fills_its_box_but_for_the_corners(device, boxes):
    ones = torch.ones(len(boxes), 8, 8, device=device)
    pasted = paste_masks(ones, boxes.to(device), (HEIGHT, WIDTH)).cpu()
    x, y = torch.arange(WIDTH) + 0.5, torch.arange(HEIGHT) + 0.5
    for mask, (x1, y1, x2, y2) in zip(pasted, boxes.tolist(), strict=True):
        has_area = x2 > x1 and y2 > y1
        inside = ((x >= x1) & (x <= x2)) & ((y >= y1) & (y <= y2))[:, None] & has_area
        margin = (x2 - x1) / 16, (y2 - y1) / 16
        core_x = (x >= x1 + margin[0]) & (x <= x2 - margin[0])
        core_y = (y >= y1 + margin[1]) & (y <= y2 - margin[1])
        assert not (mask & ~inside).any()
        assert mask[inside & (core_x | core_y[:, None])].all()


def test_a_box_of_the_size_of_its_mask_copies_it(device, rng):
    masks = torch.from_numpy(rng.random((1, 6, 9))).float().to(device)
    boxes = torch.tensor([[4.0, 3, 13, 9]], device=device)
    values = paste_masks(masks, boxes, (HEIGHT, WIDTH), threshold=None)
    assert torch.equal(values[:, 3:9, 4:13], masks)
    assert values.count_nonzero() == masks.count_nonzero()


def test_does_not_change_its_arguments(device, rng):
    masks, boxes = random_scene(rng, 4, device=device)
    copies = masks.clone(), boxes.clone()
    paste_masks(masks, boxes, (HEIGHT, WIDTH))
    assert torch.equal(masks, copies[0]) and torch.equal(boxes, copies[1])


# --- scalars reach the kernel


@pytest.mark.parametrize("height", [1, 5, 300])
@pytest.mark.parametrize("width", [1, 7, 600])
def test_sizes_reach_the_kernels(device, height, width):
    masks = torch.ones(1, 3, 2, device=device)
    boxes = torch.tensor([[-900.0, -900, 1500, 1500]], device=device)
    for threshold in (0.5, None):
        pasted = paste_masks(masks, boxes, (height, width), threshold=threshold)
        assert pasted.shape == (1, height, width) and pasted.all()
    grad = torch.ones(1, 2, 2, device=device)
    backward = torch.ops.cvlib.paste_mask_values_backward(grad, boxes, height, width)
    assert backward.shape == (1, height, width)


# --- worked examples


def test_by_hand(device):
    # One row of two cells, 1 and 0, over a box from 1 to 5: centres of cells at x = 2 and x = 4.
    #
    #   x      0.5   1.5   2.5   3.5   4.5   5.5
    #   value    0  0.75  0.75  0.25     0     0
    #
    # At 1.5 the mask fades into the zeros before it. Rows: the box is one pixel high, its centre
    # that of the cell.
    masks = torch.tensor([[[1.0, 0.0]]], device=device)
    boxes = torch.tensor([[1.0, 1, 5, 2]], device=device)
    values = paste_masks(masks, boxes, (3, 6), threshold=None)
    assert values[0, 1].tolist() == [0, 0.75, 0.75, 0.25, 0, 0]
    assert not values[0, [0, 2]].any()
    assert paste_masks(masks, boxes, (3, 6))[0, 1].tolist() == [False, True, True, *[False] * 3]
    assert paste_masks(masks, boxes, (3, 6), threshold=0)[0, 1].tolist() == [
        False, *[True] * 4, False
    ]  # fmt: skip
