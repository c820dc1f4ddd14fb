"""paste_masks: values, decisions, gradients, registration, errors."""

import math

import numpy as np
import oracles
import oracles_masks
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.models.detection.roi_heads import paste_masks_in_image

from cvlib.ops.paste import (
    _paste_mask_values_backward_reference,
    _paste_mask_values_reference,
    _paste_masks_reference,
    paste_masks,
)

nan, inf = float("nan"), float("inf")
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
HEIGHT, WIDTH = 23, 31


def random_scene(rng, n, cells=(7, 5), device="cpu", dtype=torch.float32, size=(HEIGHT, WIDTH)):
    """Masks and boxes of all sizes, many of them partly or wholly outside of the canvas."""
    extent = np.array([size[1], size[0]], np.float64)
    corner = rng.uniform(-0.6, 1.1, (n, 2)) * extent
    sides = rng.choice([0.02, 0.3, 1.0, 2.0], (n, 1)) * rng.random((n, 2)) * extent
    boxes = torch.from_numpy(np.concatenate([corner, corner + sides], 1)).to(device)
    masks = torch.from_numpy(rng.random((n, *cells))).to(device, dtype)
    return masks, boxes.to(torch.float64 if dtype == torch.float64 else torch.float32)


def oracle(masks, boxes, size, threshold=None):
    values, inside = oracles_masks.paste_masks(
        oracles.to_numpy(masks), oracles.to_numpy(boxes), size
    )
    if threshold is not None:
        values = (values.astype(np.float64) >= threshold) & inside
    return torch.from_numpy(values)


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


# --- matches the oracle -------------------------------------------------------------------------


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


# --- large results, whose pages nobody has touched ----------------------------------------------


@pytest.mark.parametrize("threshold", [0.5, None])
def test_large_result_equals_its_parts(device, threshold, rng):
    size = (900, 1100)
    masks, boxes = random_scene(rng, 36, (28, 28), device, size=size)
    whole = paste_masks(masks, boxes, size, threshold=threshold)
    assert whole.numel() * whole.element_size() > 32 << 20
    for n in range(36):
        one = paste_masks(masks[n : n + 1], boxes[n : n + 1], size, threshold=threshold)
        assert torch.equal(whole[n], one[0])


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


# --- matches detectron2 and torchvision ---------------------------------------------------------


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
    values, theirs = (
        paste_masks(masks, boxes, size, threshold=None),
        detectron2_values(masks, boxes, size),
    )
    inside = paste_masks(torch.ones_like(masks), boxes, size, threshold=0.0)
    clear = far_from(boxes, size)
    torch.testing.assert_close(values[inside & clear], theirs[inside & clear])
    # Outside of its box a mask of probabilities never comes to one half.
    sure = clear & ((theirs - 0.5).abs() > 1e-9)
    assert torch.equal(paste_masks(masks, boxes, size)[sure], (theirs >= 0.5)[sure])


def test_is_within_a_pixel_of_torchvision(device, rng):
    masks, _ = random_scene(rng, 10, (28, 28), device)
    disk = (torch.arange(28) - 13.5) ** 2
    masks[:] = ((disk[:, None] + disk) < 100).float()
    corner = torch.from_numpy(rng.uniform(5, 40, (10, 2))).float()
    boxes = torch.cat([corner, corner + 40], 1).to(device)
    ours = paste_masks(masks, boxes, (90, 90))
    theirs = paste_masks_in_image(masks[:, None], boxes, (90, 90))[:, 0] >= 0.5
    grown = torch.nn.functional.max_pool2d(ours.float(), 3, 1, 1) > 0
    shrunk = torch.nn.functional.max_pool2d((~ours).float(), 3, 1, 1) == 0
    assert not (theirs & ~grown).any() and not (shrunk & ~theirs).any() and shrunk.any()


# --- CPU equals CUDA ----------------------------------------------------------------------------


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_cpu_equals_cuda(cuda, dtype, rng):
    masks, boxes = random_scene(rng, 40, (28, 28), "cpu", dtype, size=(200, 300))
    for threshold in (0.5, 0.3, None):
        ours = paste_masks(masks, boxes, (200, 300), threshold=threshold)
        on_cuda = paste_masks(masks.to(cuda), boxes.to(cuda), (200, 300), threshold=threshold)
        assert torch.equal(ours, on_cuda.cpu())


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


# --- properties ---------------------------------------------------------------------------------

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


# --- gradients ----------------------------------------------------------------------------------


def values_of(boxes, size=(6, 7)):
    return lambda masks: paste_masks(masks, boxes, size, threshold=None)


@pytest.mark.parametrize("cells", [(1, 1), (3, 4), (7, 2)])
def test_gradient_is_the_derivative(device, cells, rng):
    masks, boxes = random_scene(rng, 3, cells, device, torch.float64, size=(6, 7))
    boxes[0] = torch.tensor([1.0, 1.5, 6, 5])
    boxes[1] = torch.tensor([-1e9, -1e9, 1e9, 1e9])
    masks.requires_grad_()
    assert torch.autograd.gradcheck(values_of(boxes), (masks,))
    assert torch.autograd.gradgradcheck(values_of(boxes), (masks,))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gradient_equals_that_of_the_oracle(device, dtype, rng, tolerances):
    masks, boxes = random_scene(rng, 7, (5, 6), device, dtype, size=(40, 50))
    masks.requires_grad_()
    weight = torch.from_numpy(rng.normal(size=(7, 40, 50)))
    values = paste_masks(masks, boxes, (40, 50), threshold=None)
    (values * weight.to(device, values.dtype)).sum().backward()
    assert masks.grad.dtype == dtype
    # Pasting is linear: the gradient of a cell is what its pixels add up to when it alone is 1.
    expected = torch.zeros(7, 5, 6, dtype=torch.float64)
    for k, j in np.ndindex(5, 6):
        one = torch.zeros(7, 5, 6, dtype=torch.float64)
        one[:, k, j] = 1
        expected[:, k, j] = (oracle(one, boxes, (40, 50)) * weight).sum((1, 2))
    scale = tolerances[dtype] if dtype in (torch.float16, torch.bfloat16) else {
        "rtol": 1e-5, "atol": 1e-4 if dtype == torch.float32 else 1e-10
    }  # fmt: skip
    torch.testing.assert_close(masks.grad.cpu().double(), expected, **scale)


def test_backward_of_the_reference_equals_native(device, rng):
    masks, boxes = random_scene(rng, 9, (6, 5), device, torch.float64, size=(40, 50))
    grad = torch.from_numpy(rng.normal(size=(9, 40, 50))).to(device)
    native = torch.ops.cvlib.paste_mask_values_backward(grad, boxes, 6, 5)
    reference = _paste_mask_values_backward_reference(grad, boxes, 6, 5)
    torch.testing.assert_close(native, reference, rtol=1e-10, atol=1e-10)
    assert native.shape == masks.shape


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (0, 0), (4, 4)])
@pytest.mark.parametrize("n", [0, 2])
def test_gradient_without_pixels_is_zero(device, n, size):
    masks = torch.ones(n, 3, 3, device=device, requires_grad=True)
    boxes = torch.tensor([[50.0, 50, 60, 60]], device=device).expand(n, 4)
    paste_masks(masks, boxes, size, threshold=None).sum().backward()
    assert torch.equal(masks.grad, torch.zeros_like(masks))


def test_gradient_ignores_what_lies_outside_of_boxes(device):
    masks = torch.ones(1, 2, 2, device=device, requires_grad=True)
    boxes = torch.tensor([[1.0, 1, 3, 3]], device=device)
    grad = torch.full((1, 5, 5), nan, device=device)
    grad[:, 1:3, 1:3] = 1
    for strided in (grad, grad.mT):
        values = paste_masks(masks, boxes, (5, 5), threshold=None)
        (own,) = torch.autograd.grad(values, masks, strided)
        assert torch.equal(own, torch.ones_like(own))
        assert torch.equal(_paste_mask_values_backward_reference(strided, boxes, 2, 2), own)


def test_gradient_of_boxes_is_refused(device, rng):
    masks, boxes = random_scene(rng, 3, device=device)
    masks.requires_grad_(), boxes.requires_grad_()
    values = paste_masks(masks, boxes, (HEIGHT, WIDTH), threshold=None)
    with pytest.raises(
        RuntimeError, match="paste_masks is not differentiable in boxes; give boxes"
    ):
        values.sum().backward()
    grad = torch.ones(3, HEIGHT, WIDTH, device=device, requires_grad=True)
    again = torch.ops.cvlib.paste_mask_values_backward(grad, boxes, 7, 5)
    with pytest.raises(RuntimeError, match="paste_masks is not differentiable in boxes"):
        again.sum().backward()


def test_decisions_have_no_gradient(device, rng):
    masks, boxes = random_scene(rng, 3, device=device)
    assert not paste_masks(masks.requires_grad_(), boxes, (HEIGHT, WIDTH)).requires_grad


# --- registration -------------------------------------------------------------------------------


# opcheck itself looks at the .grad of its copies.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_opcheck(device, rng):
    masks, boxes = random_scene(rng, 3, device=device)
    grad = torch.ones(3, 9, 11, device=device, requires_grad=True)
    operators = torch.ops.cvlib
    torch.library.opcheck(operators.paste_masks.default, (masks, boxes, 9, 11, 0.5))
    values = operators.paste_mask_values.default
    torch.library.opcheck(values, (masks.requires_grad_(), boxes, 9, 11))
    torch.library.opcheck(operators.paste_mask_values_backward.default, (grad, boxes, 7, 5))


@pytest.mark.parametrize("threshold", [0.5, None])
def test_compiles_whole_with_dynamic_shapes(device, threshold, rng, fresh_compiler):
    def paste(masks, boxes, height, width):
        return paste_masks(masks, boxes, (height, width), threshold=threshold)

    compiled = torch.compile(paste, fullgraph=True, dynamic=True, backend="aot_eager")
    for n, cells, size in ((5, (7, 5), (30, 40)), (8, (4, 6), (33, 20))):
        masks, boxes = random_scene(rng, n, cells, device)
        masks.requires_grad_(threshold is None)
        ours, eager = compiled(masks, boxes, *size), paste(masks, boxes, *size)
        assert torch.equal(ours, eager)
        if threshold is None:
            grads = [torch.autograd.grad(one.sum(), masks)[0] for one in (ours, eager)]
            assert torch.equal(*grads)


def test_exports(rng):
    class Paste(torch.nn.Module):
        def forward(self, masks, boxes):
            return paste_masks(masks, boxes, (HEIGHT, WIDTH))

    masks, boxes = random_scene(rng, 4)
    program = torch.export.export(Paste(), (masks, boxes))
    assert torch.equal(program.module()(masks, boxes), Paste()(masks, boxes))


def test_shape_is_known_without_data():
    masks, boxes = torch.empty(3, 7, 7, device="meta"), torch.empty(3, 4, device="meta")
    assert paste_masks(masks, boxes, (8, 9)).shape == (3, 8, 9)
    values = paste_masks(masks.half(), boxes, (8, 9), threshold=None)
    assert values.shape == (3, 8, 9) and values.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_autocast_computes_in_float32(device, dtype, rng):
    masks, boxes = random_scene(rng, 4, device=device, dtype=dtype)
    expected = paste_masks(masks, boxes, (HEIGHT, WIDTH), threshold=None)
    with torch.autocast(device, torch.bfloat16):
        values = paste_masks(masks, boxes, (HEIGHT, WIDTH), threshold=None)
    assert values.dtype == torch.float32 and torch.equal(values, expected)


def test_inference_mode(device, rng):
    masks, boxes = random_scene(rng, 4, device=device)
    with torch.inference_mode():
        decided = paste_masks(masks, boxes, (HEIGHT, WIDTH))
    assert torch.equal(decided, paste_masks(masks, boxes, (HEIGHT, WIDTH)))


# --- independence of threads --------------------------------------------------------------------


def test_number_of_threads_does_not_matter(thread_counts, rng):
    size = (700, 901)
    masks, boxes = random_scene(rng, 9, (28, 28), size=size)
    masks.requires_grad_()
    weight = torch.from_numpy(rng.normal(size=(9, *size))).float()
    results = []
    for count in thread_counts:
        torch.set_num_threads(count)
        values = paste_masks(masks, boxes, size, threshold=None)
        decided = paste_masks(masks, boxes, size, threshold=0.4)
        results.append((values, decided, torch.autograd.grad(values, masks, weight)[0]))
    for other in results[1:]:
        assert all(torch.equal(x, y) for x, y in zip(results[0], other, strict=True))


# --- scalars reach the kernel as they are -------------------------------------------------------


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


# --- errors -------------------------------------------------------------------------------------

MASKS = torch.rand(2, 3, 4)
BOXES = torch.tensor([[0.0, 0, 2, 2], [1, 1, 3, 3]])


@pytest.mark.parametrize(
    ("masks", "boxes", "size", "threshold", "error", "message"),
    [
        ([1], BOXES, (5, 5), 0.5, TypeError, r"expected masks to be a torch\.Tensor, got list"),
        (
            MASKS > 0.5,
            BOXES,
            (5, 5),
            0.5,
            TypeError,
            r"expected masks of a floating-point dtype, got torch\.bool; convert with masks\.float",
        ),
        (MASKS, None, (5, 5), 0.5, TypeError, r"expected boxes to be a torch\.Tensor, got None"),
        (MASKS, BOXES.long(), (5, 5), 0.5, TypeError, r"expected boxes of a floating-point dtype"),
        (
            MASKS[0],
            BOXES,
            (5, 5),
            0.5,
            ValueError,
            r"expected masks of shape \(N, h, w\), got \(3, 4\)",
        ),
        (
            torch.rand(2, 3, 4, 5),
            BOXES,
            (5, 5),
            0.5,
            ValueError,
            r"expected masks of shape \(N, h, w\), got \(2, 3, 4, 5\)",
        ),
        (
            MASKS,
            BOXES[:, :3],
            (5, 5),
            0.5,
            ValueError,
            r"expected boxes of shape \(N, 4\), got \(2, 3\)",
        ),
        (
            MASKS,
            BOXES[:1],
            (5, 5),
            0.5,
            ValueError,
            r"expected masks of shape \(N, h, w\) with N = 1 as in boxes, got \(2, 3, 4\)",
        ),
        (
            MASKS[:, :0],
            BOXES,
            (5, 5),
            0.5,
            ValueError,
            r"expected masks of at least one cell, got \(2, 0, 4\)",
        ),
        (
            MASKS,
            BOXES.to("meta"),
            (5, 5),
            0.5,
            ValueError,
            r"expected boxes on the device of masks \(cpu\), got meta",
        ),
        (
            MASKS,
            BOXES,
            5,
            0.5,
            TypeError,
            r"expected image_size to be two integers \(height, width\), got 5",
        ),
        (MASKS, BOXES, (5, 5.0), 0.5, TypeError, r"expected image_size to be two integers .*5\.0"),
        (MASKS, BOXES, (5, True), 0.5, TypeError, r"expected image_size to be two integers"),
        (MASKS, BOXES, (3, 5, 5), 0.5, TypeError, r"expected image_size to be two integers"),
        (
            MASKS,
            BOXES,
            (5, -1),
            0.5,
            ValueError,
            r"expected image_size of at least \(0, 0\), got \(5, -1\)",
        ),
        (MASKS, BOXES, (5, 5), "a", TypeError, r"expected threshold to be a number, got str"),
        (MASKS, BOXES, (5, 5), 1.5, ValueError, r"expected threshold in \[0, 1\], got 1\.5"),
        (MASKS, BOXES, (5, 5), nan, ValueError, r"expected threshold in \[0, 1\], got nan"),
        (
            MASKS,
            torch.tensor([[0.0, 0, 2, 2], [0, nan, 2, 2]]),
            (5, 5),
            0.5,
            ValueError,
            r"expected boxes without NaN, got boxes\[1\] = \(0, nan, 2, 2\)",
        ),
        (
            MASKS,
            torch.tensor([[0.0, 0, 2, 2], [3, 0, 2, 2]]),
            (5, 5),
            None,
            ValueError,
            r"expected boxes with x1 <= x2 and y1 <= y2, got boxes\[1\] = \(3, 0, 2, 2\)",
        ),
        (
            torch.where(torch.arange(24).view(2, 3, 4) == 17, nan, MASKS),
            BOXES,
            (5, 5),
            0.5,
            ValueError,
            r"expected masks without NaN, got masks\[1, 1, 1\] = nan; a diverged model",
        ),
    ],
)
def test_errors(masks, boxes, size, threshold, error, message):
    with pytest.raises(error, match="^paste_masks: " + message):
        paste_masks(masks, boxes, size, threshold=threshold)


@pytest.mark.parametrize("reference", [_paste_masks_reference, None])
def test_reference_finds_bad_values_too(reference):
    call = reference or (lambda *rest: _paste_mask_values_reference(*rest[:4]))
    for masks, boxes in ((MASKS * nan, BOXES), (MASKS, BOXES * nan), (MASKS, -BOXES)):
        with pytest.raises(RuntimeError, match="cvlib: bad values"):
            call(masks, boxes, 5, 5, 0.5)


@pytest.mark.parametrize("position", [0, 1, 15, 16, 31, 783, 784 * 3 + 500])
def test_one_nan_among_many_cells_is_found(position):
    masks = torch.rand(4, 28, 28)
    masks.view(-1)[position] = nan
    with pytest.raises(ValueError, match=r"without NaN, got masks\["):
        paste_masks(masks, BOXES.repeat(2, 1), (5, 5))


# --- by hand ------------------------------------------------------------------------------------


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
