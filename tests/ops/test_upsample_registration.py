"""upsample_bilinear: registration, independence of threads and instruction sets, errors."""

import textwrap

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases_upsample import DTYPES, LAYOUTS, OPERATORS, inf, nan, random_images
from instruction_levels import ENVIRONMENTS, run_on_every_level

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


# --- independence of threads and instruction sets -----------------------------------------------


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


DIGEST = textwrap.dedent(
    """
    import sys
    import numpy as np, torch
    from cvlib.ops.upsample import upsample_bilinear
    from cvlib._extension import load_kernels

    rng, results = np.random.default_rng(0), {}
    for channels in (1, 2, 3, 17):
        for shape, size in (((5, 9), (8, 33)), ((9, 70), (5, 35)), ((3, 40), (13, 140))):
            for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
                for layout in (torch.contiguous_format, torch.channels_last):
                    for align_corners in (False, True):
                        images = torch.from_numpy(rng.normal(size=(2, channels, *shape)))
                        images = images.to(dtype).contiguous(memory_format=layout).requires_grad_()
                        resized = upsample_bilinear(images, size, align_corners=align_corners)
                        weight = torch.from_numpy(rng.normal(size=resized.shape)).to(dtype)
                        (grad,) = torch.autograd.grad(resized, images, weight)
                        key = f"{channels} {shape} {str(dtype)[6:]} {layout} {align_corners}"
                        results["image " + key] = resized.detach().double()
                        results["gradient " + key] = grad.double()
    np.savez(sys.argv[1], **{key: value.numpy() for key, value in results.items()})
    """
)


@pytest.fixture(scope="module")
def digests(tmp_path_factory):
    return run_on_every_level(DIGEST, tmp_path_factory.mktemp("digests"))


@pytest.mark.parametrize("name", [name for name in ENVIRONMENTS if name != "default"])
def test_results_do_not_depend_on_the_instruction_set(digests, name, tolerances):
    assert digests[name].keys() == digests["default"].keys()
    for key, expected in digests["default"].items():
        near = tolerances[next(one for one in DTYPES if f"{str(one)[6:]} " in key)]
        np.testing.assert_allclose(digests[name][key], expected, **near, err_msg=key)


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


# --- errors -------------------------------------------------------------------------------------


GOOD = torch.zeros(1, 2, 3, 4)


@pytest.mark.parametrize(
    ("images", "keywords", "error", "message"),
    [
        ([[1.0]], {"size": 2}, TypeError, r"expected input to be a torch\.Tensor, got list"),
        (
            GOOD.long(),
            {"size": 2},
            TypeError,
            r"expected input of a floating-point dtype, got torch\.int64; convert with",
        ),
        (
            GOOD.to(torch.cfloat),
            {"size": 2},
            TypeError,
            r"expected input of a floating-point dtype, got torch\.complex64",
        ),
        (
            GOOD[0],
            {"size": 2},
            ValueError,
            r"expected input of shape \(N, C, H, W\), got \(2, 3, 4\)",
        ),
        (
            GOOD[:, :, :0],
            {"size": 2},
            ValueError,
            r"expected input with height and width of at least 1, got \(1, 2, 0, 4\)",
        ),
        (
            GOOD[..., :0],
            {"scale_factor": 2},
            ValueError,
            r"expected input with height and width of at least 1, got \(1, 2, 3, 0\)",
        ),
        (GOOD, {}, ValueError, "expected one of size and scale_factor, got neither"),
        (
            GOOD,
            {"size": 2, "scale_factor": 2},
            ValueError,
            "expected one of size and scale_factor, got both",
        ),
        (GOOD, {"size": (2, 0)}, ValueError, r"expected size of at least 1, got \(2, 0\)"),
        (GOOD, {"size": -1}, ValueError, r"expected size of at least 1, got \(-1, -1\)"),
        (
            GOOD,
            {"size": (1, 2, 3)},
            ValueError,
            r"expected size to be one or two integers, got \(1, 2, 3\)",
        ),
        (GOOD, {"size": 2.0}, TypeError, r"expected size to be one or two integers, got 2\.0"),
        (
            GOOD,
            {"size": (2, "3")},
            TypeError,
            r"expected size to be one or two integers, got \(2, '3'\)",
        ),
        (GOOD, {"size": True}, TypeError, "expected size to be one or two integers, got True"),
        (
            GOOD,
            {"scale_factor": (1.0,)},
            ValueError,
            r"expected scale_factor to be one or two numbers, got \(1\.0,\)",
        ),
        (
            GOOD,
            {"scale_factor": "2"},
            TypeError,
            "expected scale_factor to be one or two numbers, got 2",
        ),
        (
            GOOD,
            {"scale_factor": 0},
            ValueError,
            "expected scale_factor to be positive and finite, got 0",
        ),
        (
            GOOD,
            {"scale_factor": (2, -1.5)},
            ValueError,
            r"expected scale_factor to be positive and finite, got \(2, -1\.5\)",
        ),
        (
            GOOD,
            {"scale_factor": nan},
            ValueError,
            "expected scale_factor to be positive and finite, got nan",
        ),
        (
            GOOD,
            {"scale_factor": (inf, 1)},
            ValueError,
            r"expected scale_factor to be positive and finite, got \(inf, 1\)",
        ),
        (
            GOOD,
            {"scale_factor": 0.3},
            ValueError,
            r"expected scale_factor that gives a size of at least 1, got 0\.3 for \(3, 4\), which "
            r"gives \(0, 1\)",
        ),
    ],
)
def test_errors(images, keywords, error, message):
    with pytest.raises(error, match="^upsample_bilinear: " + message):
        upsample_bilinear(images, **keywords)


@pytest.mark.parametrize("operator", ["upsample_bilinear", "upsample_bilinear_backward"])
def test_kernels_refuse_what_python_would_have_refused(operator):
    for images, size in ((GOOD[0], (2, 2)), (GOOD, (0, 2)), (GOOD[..., :0], (2, 2))):
        with pytest.raises(RuntimeError):
            getattr(OPERATORS, operator)(images, *size, 0.0, 0.0, False)
