"""upsample_bilinear: values, layouts, gradients."""

import numpy as np
import oracles_upsample
import pytest
import torch
import torch.nn.functional as F
from cases_upsample import DTYPES, LAYOUTS, OPERATORS, inf, nan, random_images
from hypothesis import given
from hypothesis import strategies as st

from cvlib.ops.upsample import _backward_reference, _readers, _reference, _taps, upsample_bilinear

# Input, then either a size or factors: enlarged, shrunk, both at once, odd, one pixel, wide enough
# for vector registers and for tiles.
CASES = {
    "10x15 to 32x48": ((1, 3, 10, 15), {"size": (32, 48)}),
    "twice": ((2, 3, 7, 9), {"scale_factor": 2}),
    "half": ((2, 3, 8, 14), {"scale_factor": 0.5}),
    "a third": ((2, 3, 8, 14), {"scale_factor": 1 / 3}),
    "1.7": ((2, 3, 8, 13), {"scale_factor": 1.7}),
    "2.0000001": ((2, 3, 8, 13), {"scale_factor": 2.0000001}),
    "0.3 and 2.9": ((2, 3, 8, 13), {"scale_factor": (0.3, 2.9)}),
    "taller, narrower": ((2, 3, 5, 40), {"size": (21, 7)}),
    "lower, wider": ((2, 3, 40, 5), {"size": (7, 67)}),
    "height stays": ((2, 3, 5, 6), {"size": (5, 11)}),
    "width stays": ((2, 3, 5, 6), {"size": (11, 6)}),
    "one pixel": ((2, 3, 1, 1), {"size": (4, 5)}),
    "one row": ((2, 3, 1, 6), {"size": (3, 9)}),
    "to one pixel": ((2, 3, 5, 6), {"size": 1}),
    "one channel": ((3, 1, 6, 33), {"scale_factor": (2, 3)}),
    "many channels": ((2, 21, 5, 6), {"scale_factor": 2}),
    "many channels, smaller": ((2, 35, 7, 8), {"size": (3, 5)}),
    "vectors": ((1, 2, 6, 70), {"size": (13, 141)}),
    "vectors, half": ((1, 2, 6, 141), {"size": (3, 70)}),
    "tiles": ((1, 1, 3, 900), {"size": (5, 4500)}),
    "tiles of pixels": ((1, 300, 3, 12), {"size": (5, 30)}),
}


def as_array(tensor):
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.element_size() == 2 else tensor).numpy()


def resized_by(images, keywords):
    """Size and factors of the keywords, as the operators expect them."""
    factor = keywords.get("scale_factor")
    if factor is None:
        size = keywords["size"]
        return (size if isinstance(size, tuple) else (size, size)), (0.0, 0.0)
    factors = factor if isinstance(factor, tuple) else (factor, factor)
    height, width = images.shape[2:]
    return (int(height * factors[0]), int(width * factors[1])), factors


def oracle(images, keywords, align_corners):
    size, factors = resized_by(images, keywords)
    array = oracles_upsample.upsample_bilinear(as_array(images), size, factors, align_corners)
    return torch.from_numpy(array)


def gradient_oracle(images, weight, keywords, align_corners):
    _, factors = resized_by(images, keywords)
    return torch.from_numpy(
        oracles_upsample.upsample_bilinear_backward(
            as_array(weight), tuple(images.shape[2:]), factors, align_corners
        )
    )


def assert_near(actual, expected, dtype, tolerances):
    torch.testing.assert_close(actual.detach().cpu().double(), expected, **tolerances[dtype])


# --- matches the oracle


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels-last"])
@pytest.mark.parametrize("align_corners", [False, True], ids=["edges", "corners"])
@pytest.mark.parametrize(("shape", "keywords"), CASES.values(), ids=CASES.keys())
def test_matches_oracle(device, dtype, layout, align_corners, shape, keywords, rng, tolerances):
    images = LAYOUTS[layout](random_images(rng, shape, device, dtype)).requires_grad_()
    resized = upsample_bilinear(images, align_corners=align_corners, **keywords)
    assert resized.dtype == dtype and resized.device == images.device
    assert_near(resized, oracle(images, keywords, align_corners), dtype, tolerances)
    weight = LAYOUTS[layout](random_images(rng, resized.shape, device, dtype))
    (grad,) = torch.autograd.grad(resized, images, weight)
    assert grad.dtype == dtype and grad.shape == images.shape
    expected = gradient_oracle(images, weight, keywords, align_corners)
    assert_near(grad, expected, dtype, tolerances)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize("size", [(5, 7), (13, 17)], ids=["smaller", "larger"])
def test_memory_layout_does_not_matter(device, layout, size, rng, tolerances):
    dense = random_images(rng, (3, 4, 9, 11), device)
    resized = upsample_bilinear(layout(dense), size)
    assert_near(resized, oracle(dense, {"size": size}, False), torch.float32, tolerances)
    backward = OPERATORS.upsample_bilinear_backward
    grad = backward(layout(dense), *size, 0.0, 0.0, False)
    expected = torch.from_numpy(oracles_upsample.upsample_bilinear_backward(as_array(dense), size))
    assert_near(grad, expected, torch.float32, tolerances)


def test_expanded_images(device, rng, tolerances):
    one = random_images(rng, (1, 1, 4, 5), device)
    for expanded in (one.expand(3, 2, 4, 5), one[..., :1].expand(3, 2, 4, 5)):
        resized = upsample_bilinear(expanded, (7, 9))
        assert_near(resized, oracle(expanded, {"size": (7, 9)}, False), torch.float32, tolerances)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(0, 3, 4, 5), (2, 0, 4, 5), (0, 0, 4, 5)])
def test_no_images_and_no_channels(device, dtype, shape):
    images = torch.ones(shape, dtype=dtype, device=device, requires_grad=True)
    for size in ((2, 3), (8, 10), (4, 5)):
        resized = upsample_bilinear(images, size)
        assert resized.shape == (*shape[:2], *size) and resized.dtype == dtype
        (grad,) = torch.autograd.grad(resized.sum(), images)
        assert grad.shape == shape


@pytest.mark.parametrize("exponent", [-44, -40, -37, -20, 0, 20, 37, 38])
def test_matches_oracle_at_every_scale(device, exponent, rng):
    images = random_images(rng, (1, 2, 5, 6), device).clamp(-3, 3)
    images = images * float(f"1e{exponent}")
    expected = oracle(images, {"size": (9, 8)}, False)
    resized = upsample_bilinear(images, (9, 8)).cpu().double()
    assert resized.isfinite().all()
    # Denormals have an absolute precision.
    torch.testing.assert_close(
        resized, expected, rtol=1e-5, atol=max(1e-44, float(f"1e{exponent - 6}"))
    )


@pytest.mark.parametrize("value", [nan, inf, -inf])
@pytest.mark.parametrize("layout", ["contiguous", "channels-last"])
def test_values_that_are_not_finite_stay_with_their_neighbours(device, value, layout):
    images = torch.zeros(1, 2, 6, 40, device=device)
    images[0, 1, 3, 20] = value
    images = LAYOUTS[layout](images)
    for size in ((12, 80), (11, 67), (3, 20), (5, 31)):
        touched = ~upsample_bilinear(images, size).isfinite()
        marked = images.nan_to_num(nan=1, posinf=1, neginf=1)
        reads = upsample_bilinear(marked, size) != 0
        assert (touched | ~reads).all()
        # Weights of 0 may spread it to the next pixel, no further.
        assert not touched[0, 0].any()
        assert touched.sum() <= 4 * (size[0] / 6 + 1) * (size[1] / 40 + 1)


@pytest.mark.parametrize("layout", ["contiguous", "channels-last"])
@pytest.mark.parametrize("size", [(12, 80), (12, 40), (6, 80)])
def test_gradients_that_are_not_finite_stay_with_what_was_read(device, layout, size):
    images = LAYOUTS[layout](torch.zeros(1, 2, 6, 40, device=device)).requires_grad_()
    resized = upsample_bilinear(images, size)
    (finite,) = torch.autograd.grad(resized, images, marked(resized, 1.0), retain_graph=True)
    (grad,) = torch.autograd.grad(resized, images, marked(resized, inf))
    assert torch.equal(grad.isposinf(), finite != 0)
    assert torch.equal(grad[finite == 0], finite[finite == 0])


def marked(like, value):
    weight = torch.zeros_like(like)
    weight[0, 1, like.shape[2] // 2, like.shape[3] // 2] = value
    return weight


# --- matches PyTorch


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels-last"])
@pytest.mark.parametrize("align_corners", [False, True], ids=["edges", "corners"])
@pytest.mark.parametrize(("shape", "keywords"), CASES.values(), ids=CASES.keys())
def test_matches_pytorch(device, dtype, layout, align_corners, shape, keywords, rng, tolerances):
    actual = LAYOUTS[layout](random_images(rng, shape, device, dtype)).requires_grad_()
    reference = actual.detach().clone().requires_grad_()
    resized = upsample_bilinear(actual, align_corners=align_corners, **keywords)
    expected = F.interpolate(reference, mode="bilinear", align_corners=align_corners, **keywords)
    torch.testing.assert_close(resized, expected, **tolerances[dtype], check_stride=True)
    weight = LAYOUTS[layout](random_images(rng, resized.shape, device, dtype))
    (grad,) = torch.autograd.grad(resized, actual, weight)
    (expected_grad,) = torch.autograd.grad(expected, reference, weight)
    torch.testing.assert_close(grad, expected_grad, **tolerances[dtype], check_stride=True)


@pytest.mark.parametrize("layout", ["contiguous", "channels-last"])
@pytest.mark.parametrize("align_corners", [False, True], ids=["edges", "corners"])
@pytest.mark.parametrize(
    "keywords",
    [
        {"size": (3, 9001)},
        {"size": (3, 1999)},
        {"scale_factor": (1, 2.1999)},
        {"scale_factor": (1, 1 / 3)},
        {"scale_factor": (1, 0.77)},
        {"scale_factor": (1, 2.0000001)},
    ],
    ids=str,
)
def test_matches_pytorch_over_long_axes(layout, align_corners, keywords, rng):
    # 1e-5 holds only when positions are rounded alike: between neighbours as different as these, a
    # position that is off by its last bit shows. (CUDA is compared with the CPU below.)
    images = LAYOUTS[layout](random_images(rng, (1, 2, 3, 4001), "cpu"))
    resized = upsample_bilinear(images, align_corners=align_corners, **keywords)
    expected = F.interpolate(images, mode="bilinear", align_corners=align_corners, **keywords)
    torch.testing.assert_close(resized, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("keywords", [{"size": (32, 48)}, {"scale_factor": 1 / 2}], ids=str)
def test_matches_pytorch_on_a_batch_of_several_tasks(device, keywords, rng, tolerances):
    for layout in ("contiguous", "channels-last"):
        actual = LAYOUTS[layout](random_images(rng, (5, 37, 24, 36), device)).requires_grad_()
        reference = actual.detach().clone().requires_grad_()
        resized = upsample_bilinear(actual, **keywords)
        expected = F.interpolate(reference, mode="bilinear", **keywords)
        torch.testing.assert_close(resized, expected, **tolerances[torch.float32])
        weight = random_images(rng, resized.shape, device)
        (grad,) = torch.autograd.grad(resized, actual, weight)
        (expected_grad,) = torch.autograd.grad(expected, reference, weight)
        torch.testing.assert_close(grad, expected_grad, **tolerances[torch.float32])


AMBIGUOUS = {
    "one channel": (3, 1, 4, 5),
    "one pixel": (3, 4, 1, 1),
    "one column": (3, 4, 5, 1),
    "one row": (3, 4, 1, 5),
    "one image": (1, 4, 4, 5),
    "one of each": (1, 1, 1, 1),
    "no images": (0, 3, 4, 5),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize("shape", [(3, 4, 5, 6), *AMBIGUOUS.values()], ids=str)
def test_memory_format_is_that_of_pytorch(device, layout, shape):
    if shape[0] == 0 and layout is LAYOUTS["offset in storage"]:
        layout = LAYOUTS["contiguous"]
    images = layout(torch.zeros(shape, device=device)).requires_grad_()
    resized = upsample_bilinear(images, (7, 8))
    expected = F.interpolate(images, (7, 8), mode="bilinear")
    assert resized.stride() == expected.stride()
    meta = upsample_bilinear(images.detach().to("meta"), (7, 8))
    assert meta.shape == resized.shape
    weight = torch.zeros_like(expected)
    (grad,) = torch.autograd.grad(resized, images, weight)
    (expected_grad,) = torch.autograd.grad(expected, images, weight)
    assert grad.stride() == expected_grad.stride()


# --- CPU equals CUDA


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels-last", "crop", "transposed"])
@pytest.mark.parametrize("size", [(7, 9), (40, 64), (1001, 3)], ids=str)
def test_cpu_equals_cuda(cuda, dtype, layout, size, rng, tolerances):
    images = LAYOUTS[layout](random_images(rng, (2, 5, 16, 24), "cpu", dtype))
    for align_corners in (False, True):
        actual = images.detach().requires_grad_()
        on_gpu = LAYOUTS[layout](images.detach().to(cuda)).requires_grad_()
        resized = upsample_bilinear(actual, size, align_corners=align_corners)
        other = upsample_bilinear(on_gpu, size, align_corners=align_corners)
        torch.testing.assert_close(other.cpu(), resized, **tolerances[dtype], check_stride=True)
        weight = random_images(rng, resized.shape, "cpu", dtype)
        (grad,) = torch.autograd.grad(resized, actual, weight)
        (other_grad,) = torch.autograd.grad(other, on_gpu, weight.to(cuda))
        torch.testing.assert_close(other_grad.cpu(), grad, **tolerances[dtype])


@pytest.mark.cuda
def test_cuda_is_deterministic(cuda, rng):
    images = random_images(rng, (4, 8, 16, 16), cuda).requires_grad_()
    weight = random_images(rng, (4, 8, 256, 256), cuda)
    grads = [torch.autograd.grad(upsample_bilinear(images, 256), images, weight) for _ in range(3)]
    assert torch.equal(grads[0][0], grads[1][0]) and torch.equal(grads[0][0], grads[2][0])


# --- reference equals native


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("align_corners", [False, True], ids=["edges", "corners"])
@pytest.mark.parametrize(("shape", "keywords"), CASES.values(), ids=CASES.keys())
def test_reference_equals_native(device, dtype, align_corners, shape, keywords, rng, tolerances):
    images = random_images(rng, shape, device, dtype)
    size, factors = resized_by(images, keywords)
    arguments = *size, *factors, align_corners
    native = OPERATORS.upsample_bilinear(images, *arguments)
    torch.testing.assert_close(_reference(images, *arguments), native, **tolerances[dtype])
    arguments = *shape[2:], *factors, align_corners
    native = OPERATORS.upsample_bilinear_backward(native, *arguments)
    grad = OPERATORS.upsample_bilinear(images, *size, *factors, align_corners)
    reference = _backward_reference(grad, *arguments)
    torch.testing.assert_close(reference, native, **tolerances[dtype])


@pytest.mark.parametrize("align_corners", [False, True], ids=["edges", "corners"])
@pytest.mark.parametrize(("size", "out_size"), [(4, 9), (9, 4), (1, 5), (5, 1), (6, 6)])
def test_tables_of_the_reference_by_the_oracle(size, out_size, align_corners):
    low, high, weight = _taps(size, out_size, 0.0, align_corners, torch.float32)
    expected = oracles_upsample.taps(size, out_size, 0, align_corners, np.float32)
    matrix, transposed = torch.zeros(2, out_size, size, dtype=torch.float64).unbind(0)
    outputs = torch.arange(out_size)
    matrix[outputs, low] += 1 - weight.double()
    matrix[outputs, high] += weight.double()
    readers, share = _readers(size, out_size, 0.0, align_corners, torch.float32)
    for pixel in range(size):
        for reader, part in zip(readers[pixel], share[pixel], strict=True):
            transposed[reader, pixel] += part
    for output, mixed in enumerate(expected):
        for pixel, part in mixed:
            matrix[output, pixel] -= part
            transposed[output, pixel] -= part
    assert matrix.abs().max() < 1e-6 and transposed.abs().max() < 1e-6


# --- properties


sides = st.integers(1, 24)


@given(
    h=sides, w=sides, oh=sides, ow=sides, align=st.booleans(), channels=st.sampled_from([1, 3, 17])
)
def test_backward_is_the_transpose_of_forward(device, h, w, oh, ow, align, channels):
    # One channel-last image whose channels are the unit images: the rows of the matrix.
    generator = torch.Generator().manual_seed(h + 100 * w)
    x = torch.randn(1, channels, h, w, generator=generator, dtype=torch.float64).to(device)
    y = torch.randn(1, channels, oh, ow, generator=generator, dtype=torch.float64).to(device)
    for images, grads in ((x, y), map(LAYOUTS["channels-last"], (x, y))):
        forward = OPERATORS.upsample_bilinear(images, oh, ow, 0.0, 0.0, align)
        backward = OPERATORS.upsample_bilinear_backward(grads, h, w, 0.0, 0.0, align)
        torch.testing.assert_close((forward * grads).sum(), (images * backward).sum())


@pytest.mark.parametrize("align_corners", [False, True], ids=["edges", "corners"])
@pytest.mark.parametrize(("size", "out"), [((2, 3), (5, 4)), ((4, 3), (2, 7)), ((3, 4), (3, 2))])
def test_matrices_of_forward_and_backward_are_transposes(device, size, out, align_corners):
    def matrix(operator, size, out):
        unit_images = torch.eye(size[0] * size[1], dtype=torch.float64, device=device)
        rows = operator(unit_images.view(-1, 1, *size), *out, 0.0, 0.0, align_corners)
        return rows.view(-1, out[0] * out[1])

    forward = matrix(OPERATORS.upsample_bilinear, size, out)
    backward = matrix(OPERATORS.upsample_bilinear_backward, out, size)
    torch.testing.assert_close(forward, backward.t(), rtol=0, atol=1e-15)
    torch.testing.assert_close(forward.sum(0), torch.ones_like(forward[0]))


@given(h=sides, w=sides, oh=sides, ow=sides, align=st.booleans(), value=st.floats(-1e6, 1e6))
def test_a_constant_stays_constant(device, h, w, oh, ow, align, value):
    images = torch.full((1, 2, h, w), value, device=device)
    resized = upsample_bilinear(images, (oh, ow), align_corners=align)
    expected = torch.full((1, 2, oh, ow), value, device=device)
    torch.testing.assert_close(resized, expected, rtol=1e-6, atol=0)


@given(h=st.integers(2, 40), w=st.integers(2, 40), oh=st.integers(2, 90), ow=st.integers(2, 90))
def test_a_ramp_stays_a_ramp_between_corners(device, h, w, oh, ow):
    def ramp(height, width):
        y = torch.linspace(-1, 1, height, dtype=torch.float64, device=device)[:, None]
        x = torch.linspace(-1, 1, width, dtype=torch.float64, device=device)
        return (3 * y + 5 * x + 1)[None, None]

    resized = upsample_bilinear(ramp(h, w), (oh, ow), align_corners=True)
    torch.testing.assert_close(resized, ramp(oh, ow), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_the_same_size_gives_the_same_values(device, dtype, layout, rng):
    images = layout(random_images(rng, (2, 3, 5, 6), device, dtype)).detach()
    images[1, 2, 3, 4], images[0, 0, 0, 0] = inf, nan
    images = images.requires_grad_()
    for keywords in ({"size": (5, 6)}, {"scale_factor": 1}, {"scale_factor": (1.1, 1.05)}):
        resized = upsample_bilinear(images, **keywords)
        assert torch.equal(resized.nan_to_num(7), images.nan_to_num(7))
        assert resized.data_ptr() != images.data_ptr()
        (grad,) = torch.autograd.grad(resized, images, images.detach())
        assert torch.equal(grad.nan_to_num(7), images.nan_to_num(7))


@given(h=sides, w=sides, oh=sides, ow=sides)
def test_flipping_commutes_with_resizing(device, h, w, oh, ow):
    images = torch.randn(1, 1, h, w, dtype=torch.float64).to(device)
    flipped = upsample_bilinear(images.flip(2, 3), (oh, ow)).flip(2, 3)
    torch.testing.assert_close(upsample_bilinear(images, (oh, ow)), flipped, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7, 8, 15, 16, 17, 24, 33])
@pytest.mark.parametrize("size", [(5, 9), (12, 31), (12, 75)], ids=str)
def test_layouts_and_channels_agree(device, channels, size, rng, tolerances):
    images = random_images(rng, (2, channels, 8, 18), device)
    last = LAYOUTS["channels-last"](images)
    near = tolerances[torch.float32]
    resized = upsample_bilinear(images, size)
    torch.testing.assert_close(upsample_bilinear(last, size), resized, **near)
    backward = OPERATORS.upsample_bilinear_backward
    for grad in (images, last):
        grad = backward(grad, *size, 0.0, 0.0, False)
        expected = backward(images[:, :1], *size, 0.0, 0.0, False)
        torch.testing.assert_close(grad[:, :1], expected, **near)


def test_does_not_change_its_argument(device, rng):
    images = random_images(rng, (1, 2, 4, 5), device)
    copy = images.clone()
    upsample_bilinear(images, 9)
    assert torch.equal(images, copy)


@pytest.mark.parametrize("size", [9, (9, 9), [9, 9], torch.Size([9, 9]), np.int64(9)], ids=repr)
def test_sizes_of_every_kind(device, size):
    assert upsample_bilinear(torch.ones(1, 1, 4, 5, device=device), size).shape == (1, 1, 9, 9)


@pytest.mark.parametrize("factor", [2, 2.0, (2, 2.0), [2, 2], np.float64(2)], ids=repr)
def test_factors_of_every_kind(device, factor):
    resized = upsample_bilinear(torch.ones(1, 1, 4, 5, device=device), scale_factor=factor)
    assert resized.shape == (1, 1, 8, 10)


def test_two_images_more_than_2_to_the_31_values_apart(device):
    # 4 GB of address space, of which only the two ends are ever touched.
    stride = 2**31 + 7
    storage = torch.empty(stride + 32, dtype=torch.float16, device=device)
    images = storage.as_strided((2, 1, 4, 8), (stride, 1, 8, 1))
    images.copy_(torch.arange(64.0).view(2, 1, 4, 8))
    near = images.contiguous()
    for size in ((8, 16), (2, 4), (4, 8)):
        assert torch.equal(upsample_bilinear(images, size), upsample_bilinear(near, size))
        grads = (
            OPERATORS.upsample_bilinear_backward(grad, *size, 0.0, 0.0, False)
            for grad in (images, near)
        )
        assert torch.equal(*grads)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(1, 1, 46_400, 46_400), (1, 3, 26_800, 26_800)], ids=str)
def test_more_than_2_to_the_31_results(shape, rng):
    layout = LAYOUTS["contiguous" if shape[1] == 1 else "channels-last"]
    images = layout(random_images(rng, (*shape[:2], 19, 21), "cpu", torch.bfloat16))
    resized = upsample_bilinear(images, shape[2:])
    assert resized.numel() > 2**31
    rows = oracles_upsample.taps(19, shape[2], 0, False, np.float32)
    columns = oracles_upsample.taps(21, shape[3], 0, False, np.float32)
    for y, x in ((0, 0), (-1, -1), (12_345, 23_456), (26_000, 7), (25_999, 26_001)):
        pixels = [(i, j, p * q) for i, p in rows[y] for j, q in columns[x]]
        expected = sum(float(images[0, -1, i, j]) * share for i, j, share in pixels)
        assert abs(float(resized[0, -1, y, x]) - expected) < 0.02
    resized.fill_(1)
    grad = OPERATORS.upsample_bilinear_backward(resized, 19, 21, 0.0, 0.0, False)
    inner = grad[:, :, 1:-1, 1:-1].float()
    expected = torch.full_like(inner, shape[2] * shape[3] / 19 / 21)
    torch.testing.assert_close(inner, expected, rtol=1e-2, atol=0)


# --- gradients


@pytest.mark.parametrize("layout", ["contiguous", "channels-last"])
@pytest.mark.parametrize("align_corners", [False, True], ids=["edges", "corners"])
@pytest.mark.parametrize(
    "keywords", [{"size": (5, 7)}, {"size": (2, 3)}, {"scale_factor": 1.7}], ids=str
)
def test_first_and_second_gradient(device, layout, align_corners, keywords, rng):
    images = LAYOUTS[layout](random_images(rng, (2, 2, 3, 4), device, torch.float64))
    images.requires_grad_()

    def resize(images):
        return upsample_bilinear(images, align_corners=align_corners, **keywords)

    assert torch.autograd.gradcheck(resize, (images,))
    assert torch.autograd.gradgradcheck(resize, (images,))


@pytest.mark.parametrize("operator", ["upsample_bilinear", "upsample_bilinear_backward"])
def test_gradients_of_the_operators(device, operator, rng):
    images = random_images(rng, (1, 2, 3, 4), device, torch.float64).requires_grad_()

    def resize(images):
        return getattr(OPERATORS, operator)(images, 5, 3, 0.0, 0.0, True)

    assert torch.autograd.gradcheck(resize, (images,))
    assert torch.autograd.gradgradcheck(resize, (images,))


def test_third_derivative(device, rng):
    images = random_images(rng, (1, 1, 3, 4), device, torch.float64).requires_grad_()

    def cube(images):
        return upsample_bilinear(images, (5, 6)).pow(3).sum()

    def by_pytorch(images):
        return F.interpolate(images, (5, 6), mode="bilinear").pow(3).sum()

    results = []
    for function in (cube, by_pytorch):
        value = function(images)
        for _ in range(3):
            (value,) = torch.autograd.grad(value.sum(), images, create_graph=True)
        results.append(value)
    torch.testing.assert_close(*results)


def test_gradient_reaches_through_strided_weights(device, rng, tolerances):
    images = random_images(rng, (2, 3, 4, 5), device).requires_grad_()
    resized = upsample_bilinear(images, (8, 10))
    dense = random_images(rng, (2, 3, 8, 10), device)
    weights = [layout(dense) for layout in LAYOUTS.values()]
    weights += [torch.ones((), device=device).expand(2, 3, 8, 10), dense[:, :, :1].expand_as(dense)]
    for weight in weights:
        (grad,) = torch.autograd.grad(resized, images, weight, retain_graph=True)
        expected = gradient_oracle(images, weight, {"size": (8, 10)}, False)
        assert_near(grad, expected, torch.float32, tolerances)


def test_no_graph_without_need(device):
    images = torch.ones(1, 1, 2, 2, device=device)
    assert upsample_bilinear(images, 4).grad_fn is None
    images.requires_grad_()
    assert upsample_bilinear(images, 4).requires_grad
    with torch.no_grad():
        assert not upsample_bilinear(images, 4).requires_grad
    with torch.inference_mode():
        assert upsample_bilinear(images, 4).is_inference()
    (first,) = torch.autograd.grad(upsample_bilinear(images, 4).sum(), images)
    assert not first.requires_grad


# --- scalars reach the kernel


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
    # Each factor alone.
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


# --- worked examples


def test_by_hand(device):
    # Twice as many pixels: centres lie a quarter pixel left and right of the old centres.
    #
    #   |   0   |   4   |        the first quarter has no left neighbour and stays 0; then
    #   | 0 | 1 | 3 | 4 |        3/4 0 + 1/4 4 = 1, and 1/4 0 + 3/4 4 = 3
    images = torch.tensor([[[[0.0, 4.0], [8.0, 12.0]]]], device=device, requires_grad=True)
    resized = upsample_bilinear(images, scale_factor=2)
    rows = [[0.0, 1, 3, 4], [2, 3, 5, 6], [6, 7, 9, 10], [8, 9, 11, 12]]
    assert torch.equal(resized[0, 0], torch.tensor(rows, device=device))
    # Each of the 16 pixels adds its gradient to the four pixels it was computed from.
    (grad,) = torch.autograd.grad(resized[..., 1, 1], images)
    expected = torch.tensor([[9.0, 3.0], [3.0, 1.0]], device=device) / 16
    assert torch.equal(grad[0, 0], expected)
