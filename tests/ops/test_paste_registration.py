"""paste_masks: registration, threads, scalars."""

import pytest
import torch
from cases_paste import HEIGHT, WIDTH, random_scene

from cvlib.ops.paste import paste_masks

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
