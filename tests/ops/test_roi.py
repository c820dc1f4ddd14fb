"""roi_align and roi_pool: values."""

import oracles_roi
import pytest
import torch
import torchvision
from cases_roi import DTYPES, FORMATS, REAL, as_arrays, close, inf, nan, random_maps, random_regions
from hypothesis import given
from hypothesis import strategies as st
from torchvision import tv_tensors

from cvlib.ops.roi import _roi_align_backward_reference, _roi_align_reference, roi_align
from cvlib.ops.roi_pool import _roi_pool_backward_reference, _roi_pool_reference, roi_pool

# --- matches the oracle


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize("channels", [1, 7, 8, 16, 19, 33])
def test_roi_align_matches_oracle(device, dtype, memory_format, channels, rng, tolerances):
    maps = random_maps(rng, (2, channels, 9, 21), device, dtype, memory_format)
    regions = random_regions(rng, 7, maps, 0.5)
    arrays = as_arrays(maps, regions)
    for bins, ratio, aligned in (((2, 3), -1, False), ((3, 3), 2, True), ((1, 5), 0, True)):
        pooled = roi_align(maps, regions, bins, 0.5, ratio, aligned)
        assert pooled.dtype == dtype and pooled.shape == (7, channels, *bins)
        assert pooled.is_contiguous() and pooled.device == maps.device
        expected = oracles_roi.roi_align(*arrays, bins, 0.5, ratio, aligned)
        close(pooled, expected, dtype, tolerances)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize("channels", [1, 7, 16, 19])
def test_roi_pool_matches_oracle(device, dtype, memory_format, channels, rng):
    maps = random_maps(rng, (2, channels, 9, 21), device, dtype, memory_format)
    maps = (maps * 4).round().to(memory_format=memory_format)  # with ties
    regions = random_regions(rng, 7, maps, 0.5)
    for bins in ((2, 3), (1, 1), (5, 7)):
        expected, places = oracles_roi.roi_pool(*as_arrays(maps, regions), bins, 0.5)
        pooled = roi_pool(maps, regions, bins, 0.5)
        assert pooled.dtype == dtype and pooled.is_contiguous()
        assert torch.equal(pooled.cpu().double(), torch.from_numpy(expected))
        repeated, argmax = torch.ops.cvlib.roi_pool(maps, regions, *bins, 0.5, True)
        assert torch.equal(repeated, pooled) and argmax.dtype == torch.int32
        assert torch.equal(argmax.cpu(), torch.from_numpy(places))


@pytest.mark.parametrize("operator", [roi_align, roi_pool])
@pytest.mark.parametrize("shape", [(2, 3, 5, 6), (0, 3, 5, 6), (2, 0, 5, 6), (2, 3, 0, 6)], ids=str)
@pytest.mark.parametrize("count", [0, 2])
def test_nothing_to_pool(device, operator, shape, count):
    if count and not shape[0]:
        return  # regions of images that do not exist
    maps = torch.ones(shape, device=device, requires_grad=True)
    regions = torch.tensor([[0.0, 0, 0, 3, 3]], device=device).expand(count, 5)
    pooled = operator(maps, regions, (2, 2))
    assert pooled.shape == (count, shape[1], 2, 2)
    if not all(shape[1:]):
        assert not pooled.any()
    (grad,) = torch.autograd.grad(pooled.sum(), maps)
    assert grad.shape == shape and bool(grad.any()) == bool(grad.numel() and count)


LAYOUTS = {
    "cut out of a wider map": lambda maps: torch.cat([maps, maps], 3)[..., : maps.shape[3]],
    "transposed": lambda maps: maps.transpose(2, 3).contiguous().transpose(2, 3),
    "every second channel": lambda maps: maps.repeat_interleave(2, 1)[:, ::2],
    "channels-last": lambda maps: maps.to(memory_format=torch.channels_last),
    "offset in storage": lambda maps: torch.cat([maps[:1], maps])[1:],
}


@pytest.mark.parametrize("operator", [roi_align, roi_pool])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_memory_layout_does_not_matter(device, operator, layout, rng):
    maps = random_maps(rng, (2, 17, 13, 18), device)
    regions = random_regions(rng, 9, maps)
    expected = operator(maps, regions, 3)
    assert torch.equal(operator(layout(maps), regions, 3), expected)
    strided = torch.cat([regions, regions], 1)[:, 5:]
    assert torch.equal(operator(maps, strided, 3), expected)
    weight = torch.from_numpy(rng.normal(size=(3, 3, 17, 9))).to(maps).permute(3, 2, 0, 1)
    grads = []
    for one, strides in ((maps.clone(), weight.contiguous()), (layout(maps), weight)):
        one.requires_grad_()
        grads.append(torch.autograd.grad(operator(one, regions, 3), one, strides)[0])
    assert torch.equal(*grads)


@pytest.mark.parametrize("operator", [roi_align, roi_pool])
def test_expanded_maps(device, operator, rng):
    one = random_maps(rng, (1, 3, 8, 9), device)
    regions = random_regions(rng, 5, one.expand(4, 3, 8, 9))
    expected = operator(one.repeat(4, 1, 1, 1), regions, 2)
    assert torch.equal(operator(one.expand(4, 3, 8, 9), regions, 2), expected)


BORDERS = [
    [0, -1, -1, -1, -1],  # samples exactly one pixel outside, and just beyond
    [0, -1.0000001, 0, -1, 3],
    [0, 20, 8, 21, 9],
    [0, 21, 9, 21, 9],
    [0, 19.999, 7.999, 25, 25],
    [0, 3, 3, 3, 3],
    [0, 0.5, 0.5, 0.5, 7.5],
    [0, 1e-40, 1e-40, 1e-38, 1e-38],
    [0, -50, -50, 70, 70],
    [0, 100, 100, 200, 200],
    [0, -1e4, 2, 1e4, 4],
]


@pytest.mark.parametrize("dtype", REAL, ids=str)
@pytest.mark.parametrize("ratio", [-1, 1, 3])
@pytest.mark.parametrize("aligned", [False, True])
def test_borders(device, dtype, ratio, aligned, rng, tolerances):
    maps = random_maps(rng, (1, 3, 9, 21), device, dtype).requires_grad_()
    rows = BORDERS[:-1] if ratio < 0 else BORDERS
    regions = torch.tensor(rows, dtype=dtype, device=device)
    pooled = roi_align(maps, regions, (2, 3), 1.0, ratio, aligned)
    expected = oracles_roi.roi_align(*as_arrays(maps, regions), (2, 3), 1.0, ratio, aligned)
    close(pooled, expected, dtype, tolerances)
    weight = torch.from_numpy(rng.normal(size=pooled.shape)).to(pooled)
    (grad,) = torch.autograd.grad(pooled, maps, weight)
    arrays = as_arrays(weight, regions)
    expected = oracles_roi.roi_align_gradient(*arrays, maps.shape, 1.0, ratio, aligned)
    close(grad, expected, dtype, tolerances)
    bins, _ = oracles_roi.roi_pool(*as_arrays(maps, regions), (2, 3))
    assert torch.equal(roi_pool(maps, regions, (2, 3)).detach().cpu().double(), torch.tensor(bins))


@pytest.mark.parametrize("dtype", REAL, ids=str)
@pytest.mark.parametrize("ratio", [-1, 4])
@pytest.mark.parametrize("size", [1e5, 1e7, 1e9])
def test_huge_boxes_cost_no_more_than_the_map(device, dtype, ratio, size, rng):
    # An adaptive grid of 1e9 / 7 samples along each axis: only those inside of the map are visited.
    maps = random_maps(rng, (1, 2, 30, 40), device, dtype).requires_grad_()
    rows = [[0, -size, -size, size, size], [0, 0, 0, size, size], [0, -size, 5, 20, 9]]
    regions = torch.tensor(rows, dtype=dtype, device=device)
    pooled = roi_align(maps, regions, 7, 1.0, ratio)
    assert pooled.isfinite().all()
    reference = _roi_align_reference(maps.detach(), regions, 7, 7, 1.0, ratio, False)
    torch.testing.assert_close(pooled, reference, rtol=1e-4, atol=1e-5)
    (grad,) = torch.autograd.grad(pooled.sum(), maps)
    assert grad.isfinite().all()
    assert roi_pool(maps, regions, 7).isfinite().all()


@pytest.mark.parametrize("ratio", [-1, 2])
def test_pixels_outside_of_the_boxes_may_be_anything(device, ratio, rng):
    maps = torch.full((1, 3, 24, 40), nan, device=device)
    maps[:, :, 4:11, 5:20] = random_maps(rng, (1, 3, 7, 15), device)
    regions = torch.tensor([[0.0, 5, 4, 18.9, 9.9], [0, 6, 5, 10, 10]], device=device)
    for pooled in (
        roi_align(maps, regions, 3, 1.0, ratio),
        roi_pool(maps, regions, 3),
        _roi_align_reference(maps, regions, 3, 3, 1.0, ratio, False),
    ):
        assert pooled.isfinite().all()


def test_nan_and_infinity_in_the_map_show(device):
    maps = torch.zeros(1, 1, 6, 6, device=device)
    maps[0, 0, 2, 2], maps[0, 0, 2, 4], maps[0, 0, 4, 4] = nan, inf, -inf
    regions = torch.tensor([[0.0, 0, 0, 5, 5]], device=device)
    pooled = roi_pool(maps, regions, 2).flatten().tolist()
    assert pooled[0] != pooled[0] and pooled[1] == inf and pooled[2:] == [0, 0]
    repeated, argmax = torch.ops.cvlib.roi_pool(maps, regions, 2, 2, 1.0, True)
    expected = _roi_pool_reference(maps, regions, 2, 2, 1.0, True)
    assert torch.equal(repeated.isnan(), expected[0].isnan()) and torch.equal(argmax, expected[1])
    low = torch.full((1, 1, 3, 3), -inf, device=device)
    pooled, argmax = torch.ops.cvlib.roi_pool(low, regions, 1, 1, 1.0, True)
    assert pooled.item() == -inf and argmax.item() == 0
    assert roi_align(maps, regions, 1, 1.0, 6).isnan().all()


def test_a_large_map_in_several_shares(device, rng, tolerances):
    # More regions than one group has, and a map of several tiles of CUDA.
    maps = random_maps(rng, (3, 20, 61, 83), device).requires_grad_()
    regions = random_regions(rng, 500, maps, 0.25)
    for ratio in (2, 0):
        actual = roi_align(maps, regions, 7, 0.25, ratio)
        expected = torchvision.ops.roi_align(maps, regions, 7, 0.25, ratio)
        torch.testing.assert_close(actual, expected, **tolerances[torch.float32])


@pytest.mark.cuda
def test_bad_boxes_give_zeros_on_cuda(cuda, rng):
    maps = random_maps(rng, (2, 3, 9, 21), cuda).requires_grad_()
    good = [0, 1, 1, 8, 8]
    bad = [[*good[:i], value, *good[i + 1 :]] for i in range(5) for value in (nan, inf, -inf)]
    bad += [[2, 1, 1, 8, 8], [-1, 1, 1, 8, 8], [0, 8, 1, 1, 8], [0, 1, 8, 8, 1], [0, 0, 0, 1e10, 1]]
    regions = torch.tensor([*bad, good], device=cuda, dtype=torch.float32)
    for operator in (roi_align, roi_pool):
        pooled = operator(maps, regions, 2)
        assert not pooled[:-1].any() and torch.equal(pooled[-1:], operator(maps, regions[-1:], 2))
        (grad,) = torch.autograd.grad(pooled.sum(), maps)
        alone = torch.autograd.grad(operator(maps, regions[-1:], 2).sum(), maps)[0]
        assert torch.equal(grad, alone)


# --- matches torchvision


@pytest.mark.parametrize("dtype", REAL, ids=str)
@pytest.mark.parametrize("ratio", [-1, 0, 1, 2, 3, 5])
@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("bins", [1, 7, (14, 3), 20])
def test_roi_align_equals_torchvision(device, dtype, ratio, aligned, bins, rng, tolerances):
    maps = random_maps(rng, (2, 17, 25, 33), device, dtype).requires_grad_()
    regions = random_regions(rng, 41, maps, 0.3)
    results = [
        function(maps, regions, bins, 0.3, ratio, aligned)
        for function in (roi_align, torchvision.ops.roi_align)
    ]
    torch.testing.assert_close(*results, **tolerances[dtype])
    weight = torch.from_numpy(rng.normal(size=results[0].shape)).to(maps)
    grads = [torch.autograd.grad(one, maps, weight)[0] for one in results]
    torch.testing.assert_close(*grads, **tolerances[dtype])


@pytest.mark.parametrize("dtype", REAL, ids=str)
@pytest.mark.parametrize("bins", [1, 7, (14, 3), 40])
@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_roi_pool_equals_torchvision(device, dtype, bins, scale, rng, tolerances):
    maps = random_maps(rng, (2, 17, 25, 33), device, dtype).requires_grad_()
    regions = random_regions(rng, 41, maps, scale)
    results = [
        function(maps, regions, bins, scale) for function in (roi_pool, torchvision.ops.roi_pool)
    ]
    assert torch.equal(*results)
    weight = torch.from_numpy(rng.normal(size=results[0].shape)).to(maps)
    grads = [torch.autograd.grad(one, maps, weight)[0] for one in results]
    torch.testing.assert_close(*grads, **tolerances[dtype])


@pytest.mark.parametrize("operator", ["roi_align", "roi_pool"])
def test_list_of_boxes_equals_torchvision(device, operator, rng):
    maps = random_maps(rng, (3, 5, 20, 20), device)
    rows = random_regions(rng, 12, maps)[:, 1:]
    boxes = [rows[:5], rows[:0], rows[5:]]
    actual = {"roi_align": roi_align, "roi_pool": roi_pool}[operator](maps, boxes, 3)
    expected = getattr(torchvision.ops, operator)(maps, boxes, 3)
    torch.testing.assert_close(actual, expected)
    images = [tv_tensors.BoundingBoxes(one, format="XYXY", canvas_size=(20, 20)) for one in boxes]
    repeated = {"roi_align": roi_align, "roi_pool": roi_pool}[operator](maps, images, 3)
    assert type(repeated) is torch.Tensor and torch.equal(repeated, actual)


# --- CPU equals CUDA


@pytest.mark.cuda
@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize("dtype", REAL, ids=str)
@pytest.mark.parametrize("bins", [7, (3, 70)])
def test_cpu_equals_cuda(cuda, dtype, memory_format, bins, rng, tolerances):
    maps = random_maps(rng, (2, 19, 45, 63), "cpu", dtype, memory_format)
    regions = random_regions(rng, 300, maps)
    for operator in (roi_align, roi_pool):
        results = []
        for device in ("cpu", cuda):
            one = maps.detach().to(device).requires_grad_()
            pooled = operator(one, regions.to(device), bins)
            repeated = operator(one, regions.to(device), bins)
            first, second = (torch.autograd.grad((x * x).sum(), one)[0] for x in (pooled, repeated))
            assert torch.equal(pooled, repeated) and torch.equal(first, second)
            results.append((pooled.detach().cpu(), first.cpu()))
        for a, b in zip(*results, strict=True):
            torch.testing.assert_close(a, b, **tolerances[dtype])


# --- reference equals native


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("ratio", [-1, 2])
def test_reference_equals_native(device, dtype, ratio, rng, tolerances):
    maps = random_maps(rng, (2, 17, 12, 23), device, dtype)
    regions = random_regions(rng, 15, maps)
    rule = 1.0, ratio, True
    native = torch.ops.cvlib.roi_align(maps, regions, 3, 4, *rule)
    reference = _roi_align_reference(maps, regions, 3, 4, *rule)
    assert native.dtype == reference.dtype
    torch.testing.assert_close(native, reference, **tolerances[dtype])
    grad = random_maps(rng, (15, 17, 3, 4), device, dtype)
    for channels_last in (False, True):
        arguments = grad, regions, 2, 12, 23, *rule, channels_last
        native = torch.ops.cvlib.roi_align_backward(*arguments)
        reference = _roi_align_backward_reference(*arguments)
        assert native.stride() == reference.stride()
        torch.testing.assert_close(native, reference, **tolerances[dtype])
    native = torch.ops.cvlib.roi_pool(maps, regions, 3, 4, 1.0, True)
    reference = _roi_pool_reference(maps, regions, 3, 4, 1.0, True)
    assert all(torch.equal(a, b) for a, b in zip(native, reference, strict=True))
    arguments = grad, native[1], regions, 2, 12, 23, 1.0, False
    torch.testing.assert_close(
        torch.ops.cvlib.roi_pool_backward(*arguments),
        _roi_pool_backward_reference(*arguments),
        **tolerances[dtype],
    )


# --- properties

small_regions = st.lists(
    st.tuples(st.integers(0, 1), *[st.integers(-8, 40)] * 2, *[st.integers(0, 40)] * 2),
    min_size=1,
    max_size=6,
).map(lambda rows: torch.tensor([[i, x, y, x + w, y + h] for i, x, y, w, h in rows]) / 4.0)


def on_images(regions):
    return torch.cat([(regions[:, :1] * 4).round(), regions[:, 1:]], 1)


@given(regions=small_regions, ratio=st.integers(-1, 3), aligned=st.booleans())
def test_a_constant_map_gives_the_constant_inside(device, regions, ratio, aligned):
    regions = on_images(regions)
    inside = (regions[:, 1:3] >= 1).all(1) & (regions[:, 3:] <= 8).all(1)
    pooled = roi_align(
        torch.ones(2, 3, 9, 9, device=device), regions.to(device), 2, 1, ratio, aligned
    )
    full = inside & ((regions[:, 3:] > regions[:, 1:3]).all(1) | (not aligned) | (ratio > 0))
    torch.testing.assert_close(pooled[full.to(device)].cpu(), torch.ones(int(full.sum()), 3, 2, 2))
    assert pooled.min() >= 0 and pooled.max() <= 1 + 1e-5


@given(regions=small_regions, ratio=st.integers(-1, 3))
def test_is_linear_and_permutes_with_the_boxes(device, regions, ratio):
    regions = on_images(regions).to(device)
    a, b = torch.rand(2, 2, 3, 9, 11, device=device, dtype=torch.float64).unbind()
    regions = regions.double()
    total = roi_align(2 * a + b, regions, 3, 1.0, ratio)
    parts = 2 * roi_align(a, regions, 3, 1.0, ratio) + roi_align(b, regions, 3, 1.0, ratio)
    torch.testing.assert_close(total, parts)
    flipped = roi_align(a, regions.flip(0), 3, 1.0, ratio)
    assert torch.equal(flipped.flip(0), roi_align(a, regions, 3, 1.0, ratio))


@given(regions=small_regions, ratio=st.integers(-1, 3))
def test_the_gradient_is_the_transpose(device, regions, ratio):
    # <roi_align(a), g> = <a, roi_align'(g)>, and the pooled gradient returns to its map.
    regions = on_images(regions).double().to(device)
    maps = torch.rand(2, 3, 9, 11, device=device, dtype=torch.float64, requires_grad=True)
    for operator in (
        lambda x: roi_align(x, regions, 2, 1.0, ratio),
        lambda x: roi_pool(x, regions, 2),
    ):
        pooled = operator(maps)
        weight = torch.rand_like(pooled)
        (grad,) = torch.autograd.grad(pooled, maps, weight)
        torch.testing.assert_close((pooled * weight).sum(), (maps * grad).sum())


def test_does_not_change_its_arguments(device, rng):
    maps = random_maps(rng, (2, 17, 9, 20), device)
    regions = random_regions(rng, 5, maps)
    copies = maps.clone(), regions.clone()
    for operator in (roi_align, roi_pool):
        operator(maps, regions, 3)
        operator(maps.requires_grad_(), regions, 3).sum().backward()
        assert torch.equal(maps, copies[0]) and torch.equal(regions, copies[1])


# --- scalars reach the kernel


@pytest.mark.parametrize("scale", [0.1, 1 / 3, 2.5, 1e-3])
@pytest.mark.parametrize("ratio", [1, 7, -(2**40)])
@pytest.mark.parametrize("aligned", [False, True])
def test_scalars_reach_the_kernel(device, scale, ratio, aligned, rng, tolerances):
    maps = random_maps(rng, (1, 2, 11, 12), device, torch.float64)
    regions = random_regions(rng, 6, maps, scale)
    pooled = roi_align(maps, regions, (3, 2), scale, ratio, aligned)
    expected = oracles_roi.roi_align(*as_arrays(maps, regions), (3, 2), scale, ratio, aligned)
    close(pooled, expected, torch.float64, tolerances)
    bins, _ = oracles_roi.roi_pool(*as_arrays(maps, regions), (3, 2), scale)
    assert torch.equal(roi_pool(maps, regions, (3, 2), scale).cpu(), torch.from_numpy(bins))


# --- worked examples


def test_by_hand(device):
    #  0  1  2  3     the box from pixel 0 to pixel 2 has bins of 1 x 1 with one sample each, at
    #  4  5  6  7     0.5 and 1.5: the mean of four pixels; roi_pool rounds its end, 2.4, to 2, so
    #  8  9 10 11     bins of 1.5 pixels take rows and columns 0..1 and 1..2
    # 12 13 14 15
    maps = torch.arange(16.0, device=device).view(1, 1, 4, 4)
    boxes = torch.tensor([[0.0, 0, 0, 2, 2]], device=device)
    expected = torch.tensor([[[[2.5, 3.5], [6.5, 7.5]]]], device=device)
    assert torch.equal(roi_align(maps, boxes, 2, 1.0, 1), expected)
    expected = torch.tensor([[[[5.0, 6], [9, 10]]]], device=device)
    assert torch.equal(roi_pool(maps, boxes * 1.2, 2), expected)
