"""upsample_bilinear: registration, threads, scalars."""

import pytest
import torch
import torch.nn.functional as F
from cases_upsample import DTYPES, LAYOUTS, OPERATORS, random_images

from cvlib.ops.upsample import upsample_bilinear

# --- registration -------------------------------------------------------------------------------


# opcheck itself looks at the .grad of its copies.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.parametrize("layout", ["contiguous", "channels-last"])
@pytest.mark.parametrize("operator", ["upsample_bilinear", "upsample_bilinear_backward"])
def test_opcheck(device, operator, layout, rng):
    images = LAYOUTS[layout](random_images(rng, (2, 3, 4, 5), device))
    plain = getattr(OPERATORS, operator + "_plain").default
    torch.library.opcheck(plain, (images, 7, 3, 0.0, 0.0, False))
    images.requires_grad_()
    differentiable = getattr(OPERATORS, operator).default
    torch.library.opcheck(differentiable, (images, 7, 3, 1.8, 0.7, False))


@pytest.mark.parametrize("keywords", [{"size": (9, 11)}, {"scale_factor": 1.7}], ids=str)
def test_compiles_whole_with_dynamic_shapes(device, keywords, rng, fresh_compiler):
    def resize(images):
        return upsample_bilinear(images, **keywords)

    compiled = torch.compile(resize, fullgraph=True, dynamic=True, backend="aot_eager")
    for shape in ((2, 3, 5, 7), (3, 2, 12, 6)):
        images = random_images(rng, shape, device).requires_grad_()
        expected = resize(images)
        resized = compiled(images)
        assert torch.equal(resized, expected)
        (ours,) = torch.autograd.grad(resized.square().sum(), images)
        (eager,) = torch.autograd.grad(expected.square().sum(), images)
        assert torch.equal(ours, eager)
        with torch.no_grad():
            assert torch.equal(compiled(images), expected)


def test_compiles_with_a_size_that_is_computed(device, rng, fresh_compiler):
    def enlarge(small, large):
        return upsample_bilinear(small, large.shape[2:])

    compiled = torch.compile(enlarge, fullgraph=True, dynamic=True, backend="aot_eager")
    for shape in ((1, 2, 9, 8), (1, 2, 17, 4)):
        arguments = random_images(rng, (1, 2, 3, 5), device), random_images(rng, shape, device)
        assert torch.equal(compiled(*arguments), enlarge(*arguments))


def test_exports_with_dynamic_shapes(rng):
    class Enlarge(torch.nn.Module):
        def forward(self, images):
            return upsample_bilinear(images, scale_factor=2)

    images = random_images(rng, (1, 2, 5, 7), "cpu")
    sizes = {2: torch.export.Dim("h", min=2, max=64), 3: torch.export.Dim("w", min=2, max=64)}
    program = torch.export.export(Enlarge(), (images,), dynamic_shapes=(sizes,))
    larger = random_images(rng, (1, 2, 9, 4), "cpu")
    assert torch.equal(program.module()(larger), upsample_bilinear(larger, scale_factor=2))


def test_shape_is_known_without_data():
    images = torch.empty(3, 4, 5, 6, device="meta")
    assert upsample_bilinear(images, (7, 8)).shape == (3, 4, 7, 8)
    half = images.half().contiguous(memory_format=torch.channels_last)
    resized = upsample_bilinear(half, scale_factor=1.5)
    assert resized.shape == (3, 4, 7, 9) and resized.dtype == torch.float16
    assert resized.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_autocast_does_what_it_does_to_interpolate(device, dtype, rng):
    for needs_gradient in (False, True):
        images = random_images(rng, (1, 2, 4, 5), device, dtype).requires_grad_(needs_gradient)
        with torch.autocast(device, torch.bfloat16):
            resized = upsample_bilinear(images, (7, 8))
            expected = F.interpolate(images, (7, 8), mode="bilinear")
        assert resized.dtype == expected.dtype
        if needs_gradient:
            (grad,) = torch.autograd.grad(resized.sum(), images)
            assert grad.dtype == dtype


def test_maps_over_a_batch(device, rng):
    batch = random_images(rng, (3, 2, 4, 5, 6), device)
    expected = torch.stack([upsample_bilinear(one, (7, 9)) for one in batch])
    resize = torch.func.vmap(lambda one: upsample_bilinear(one, (7, 9)))
    assert torch.equal(resize(batch), expected)
    last = torch.func.vmap(lambda one: upsample_bilinear(one, (7, 9)), in_dims=4)
    assert torch.equal(last(batch.movedim(0, 4)), expected)


def test_maps_over_a_batch_with_a_gradient(device, rng):
    batch = random_images(rng, (3, 2, 2, 4, 5), device).requires_grad_()
    resize = torch.func.vmap(lambda one: upsample_bilinear(one, (7, 9)))
    (grad,) = torch.autograd.grad(resize(batch).square().sum(), batch)
    resized = upsample_bilinear(batch.flatten(0, 1), (7, 9))
    (expected,) = torch.autograd.grad(resized.square().sum(), batch)
    assert torch.equal(grad, expected)


# --- independence of threads ----------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["contiguous", "channels-last"])
@pytest.mark.parametrize("size", [(80, 120), (9, 20), (23, 200)], ids=str)
def test_number_of_threads_does_not_matter(thread_counts, layout, size, rng):
    images = LAYOUTS[layout](random_images(rng, (3, 19, 23, 37), "cpu")).requires_grad_()
    results = []
    for count in thread_counts:
        torch.set_num_threads(count)
        resized = upsample_bilinear(images, size)
        results.append((resized, *torch.autograd.grad(resized.square().sum(), images)))
    for other in results[1:]:
        assert all(torch.equal(x, y) for x, y in zip(results[0], other, strict=True))


# --- scalars reach the kernel as they are -------------------------------------------------------


def test_scalars_reach_the_kernel(device):
    row = torch.arange(4.0, device=device)
    images = (10 * row[:, None] + row)[None, None]
    result = OPERATORS.upsample_bilinear(images, 3, 2, 0.0, 0.0, True)
    expected = torch.tensor([[0.0, 3], [15, 18], [30, 33]], device=device)
    torch.testing.assert_close(result[0, 0], expected)
    # Factors 2 and 4 whatever the sizes: pixel (y, x) lies at (y + 1/2) / 2 - 1/2, (x + 1/2) / 4...
    result = OPERATORS.upsample_bilinear(images, 3, 2, 2.0, 4.0, False)
    expected = torch.tensor([[0.0, 0], [2.5, 2.5], [7.5, 7.5]], device=device)
    torch.testing.assert_close(result[0, 0], expected)
    # And each on its own.
    result = OPERATORS.upsample_bilinear(images, 3, 2, 2.0, 0.0, False)
    expected = torch.tensor([[0.5, 2.5], [3, 5], [8, 10]], device=device)
    torch.testing.assert_close(result[0, 0], expected)


def test_factors_count_as_given(device):
    # 5 x 2.3 = 11.5 gives 11 pixels; positions go by 1 / 2.3, not by 5 / 11.
    images = torch.arange(5.0, device=device).view(1, 1, 1, 5)
    resized = upsample_bilinear(images, scale_factor=(1, 2.3))
    position = (torch.arange(11, device=device) + 0.5) / 2.3 - 0.5
    torch.testing.assert_close(resized[0, 0, 0], position.clamp(0, 4))
    by_size = upsample_bilinear(images, (1, 11))
    assert (by_size - resized).abs().max() > 0.1
