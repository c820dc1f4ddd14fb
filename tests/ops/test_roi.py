"""roi_align and roi_pool: values, gradients, registration, errors."""

import textwrap

import numpy as np
import oracles_roi
import pytest
import torch
import torchvision
from cases_roi import (
    DTYPES,
    FORMATS,
    GOOD,
    MAPS,
    REAL,
    ignore_grad,
    inf,
    nan,
    random_maps,
    random_regions,
)
from hypothesis import given
from hypothesis import strategies as st
from instruction_levels import ENVIRONMENTS, run_on_every_level
from torchvision import tv_tensors

from cvlib.ops.multiscale_roi import multiscale_roi_align
from cvlib.ops.roi import _roi_align_backward_reference, _roi_align_reference, roi_align
from cvlib.ops.roi_pool import _roi_pool_backward_reference, _roi_pool_reference, roi_pool


def as_arrays(maps, regions):
    """In the dtype that is computed in."""
    return [
        (one.float() if one.dtype in DTYPES[2:] else one).detach().cpu().numpy()
        for one in (maps, regions)
    ]


def close(actual, expected, dtype, tolerances):
    expected = torch.as_tensor(expected)
    torch.testing.assert_close(actual.detach().cpu().double(), expected, **tolerances[dtype])


# --- matches the oracle -------------------------------------------------------------------------


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


@pytest.mark.parametrize("dtype", REAL, ids=str)
@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize("channels", [1, 8, 19])
def test_roi_align_gradient_matches_oracle(device, dtype, memory_format, channels, rng, tolerances):
    maps = random_maps(rng, (2, channels, 9, 21), device, dtype, memory_format).requires_grad_()
    regions = random_regions(rng, 7, maps, 0.5)
    for bins, ratio, aligned in (((2, 3), -1, False), ((3, 3), 2, True), ((1, 5), 0, True)):
        pooled = roi_align(maps, regions, bins, 0.5, ratio, aligned)
        weight = torch.from_numpy(rng.normal(size=pooled.shape)).to(pooled)
        (grad,) = torch.autograd.grad(pooled, maps, weight)
        assert grad.is_contiguous(memory_format=memory_format)
        weight, rows = as_arrays(weight, regions)
        expected = oracles_roi.roi_align_gradient(weight, rows, maps.shape, 0.5, ratio, aligned)
        close(grad, expected, dtype, tolerances)


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
        again, argmax = torch.ops.cvlib.roi_pool(maps, regions, *bins, 0.5, True)
        assert torch.equal(again, pooled) and argmax.dtype == torch.int32
        assert torch.equal(argmax.cpu(), torch.from_numpy(places))


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize("dtype", REAL, ids=str)
def test_roi_pool_gradient_matches_oracle(device, dtype, memory_format, rng, tolerances):
    maps = random_maps(rng, (2, 19, 9, 21), device, dtype, memory_format).requires_grad_()
    regions = random_regions(rng, 7, maps)
    pooled = roi_pool(maps, regions, (3, 2))
    weight = torch.from_numpy(rng.normal(size=pooled.shape)).to(pooled)
    (grad,) = torch.autograd.grad(pooled, maps, weight)
    assert grad.is_contiguous(memory_format=memory_format)
    _, places = oracles_roi.roi_pool(*as_arrays(maps, regions), (3, 2))
    arrays = as_arrays(weight, regions)
    expected = oracles_roi.roi_pool_gradient(arrays[0], places, arrays[1], maps.shape)
    close(grad, expected, dtype, tolerances)


@pytest.mark.parametrize("operator", [roi_align, roi_pool])
@pytest.mark.parametrize("shape", [(2, 3, 5, 6), (0, 3, 5, 6), (2, 0, 5, 6), (2, 3, 0, 6)], ids=str)
@pytest.mark.parametrize("count", [0, 2])
def test_nothing_to_pool(device, operator, shape, count):
    if count and not shape[0]:
        return  # no image that a region could name
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
    again, argmax = torch.ops.cvlib.roi_pool(maps, regions, 2, 2, 1.0, True)
    expected = _roi_pool_reference(maps, regions, 2, 2, 1.0, True)
    assert torch.equal(again.isnan(), expected[0].isnan()) and torch.equal(argmax, expected[1])
    low = torch.full((1, 1, 3, 3), -inf, device=device)
    pooled, argmax = torch.ops.cvlib.roi_pool(low, regions, 1, 1, 1.0, True)
    assert pooled.item() == -inf and argmax.item() == 0
    assert roi_align(maps, regions, 1, 1.0, 6).isnan().all()


def test_a_large_map_in_several_shares(device, rng, tolerances):
    # More regions than one group has, and a map of several tiles of CUDA.
    maps = random_maps(rng, (3, 20, 61, 83), device).requires_grad_()
    regions = random_regions(rng, 500, maps, 0.25)
    for ratio in (2, 0):
        ours = roi_align(maps, regions, 7, 0.25, ratio)
        theirs = torchvision.ops.roi_align(maps, regions, 7, 0.25, ratio)
        torch.testing.assert_close(ours, theirs, **tolerances[torch.float32])


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


# --- matches torchvision ------------------------------------------------------------------------


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
    ours = {"roi_align": roi_align, "roi_pool": roi_pool}[operator](maps, boxes, 3)
    theirs = getattr(torchvision.ops, operator)(maps, boxes, 3)
    torch.testing.assert_close(ours, theirs)
    images = [tv_tensors.BoundingBoxes(one, format="XYXY", canvas_size=(20, 20)) for one in boxes]
    again = {"roi_align": roi_align, "roi_pool": roi_pool}[operator](maps, images, 3)
    assert type(again) is torch.Tensor and torch.equal(again, ours)


# --- CPU equals CUDA ----------------------------------------------------------------------------


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
            again = operator(one, regions.to(device), bins)
            first, second = (torch.autograd.grad((x * x).sum(), one)[0] for x in (pooled, again))
            assert torch.equal(pooled, again) and torch.equal(first, second)
            results.append((pooled.detach().cpu(), first.cpu()))
        for a, b in zip(*results, strict=True):
            torch.testing.assert_close(a, b, **tolerances[dtype])


# --- reference equals native --------------------------------------------------------------------


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


# --- properties ---------------------------------------------------------------------------------


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
    # <roi_align(a), g> = <a, roi_align'(g)>, and what a map gives away comes back.
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


# --- gradients ----------------------------------------------------------------------------------


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize("ratio", [-1, 2])
def test_gradients_are_derivatives(device, memory_format, ratio, rng):
    maps = random_maps(rng, (2, 3, 5, 6), device, torch.float64, memory_format).requires_grad_()
    regions = random_regions(rng, 4, maps)
    for function in (
        lambda x: roi_align(x, regions, (2, 3), 1.0, ratio),
        lambda x: roi_pool(x, regions, (2, 3)),
    ):
        assert torch.autograd.gradcheck(function, (maps,))
        assert torch.autograd.gradgradcheck(function, (maps,))


@pytest.mark.parametrize("operator", [roi_align, roi_pool])
@pytest.mark.parametrize("dtype", DTYPES[2:], ids=str)
def test_gradient_of_half_maps_has_their_dtype(device, operator, dtype, rng, tolerances):
    maps = random_maps(rng, (1, 3, 9, 9), device, dtype).requires_grad_()
    regions = random_regions(rng, 4, maps)
    operator(maps, regions, 2).sum().backward()
    assert maps.grad.dtype == dtype
    wide = maps.detach().float().requires_grad_()
    operator(wide, regions.float(), 2).sum().backward()
    torch.testing.assert_close(maps.grad.float(), wide.grad, **tolerances[dtype])


def test_no_gradient_without_argmax(device):
    maps = torch.ones(1, 1, 4, 4, device=device, requires_grad=True)
    regions = torch.tensor([[0.0, 0, 0, 3, 3]], device=device)
    pooled, argmax = torch.ops.cvlib.roi_pool(maps, regions, 2, 2, 1.0, False)
    assert argmax.shape == (0,)
    with pytest.raises(RuntimeError, match="roi_pool: expected with_argmax=True for a gradient"):
        pooled.sum().backward()


def test_without_a_gradient(device, rng):
    maps = random_maps(rng, (1, 3, 9, 9), device).requires_grad_()
    regions = random_regions(rng, 4, maps)
    with torch.inference_mode():
        for operator in (roi_align, roi_pool):
            assert not operator(maps, regions.clone().requires_grad_(), 2).requires_grad


@pytest.mark.parametrize("operator", [roi_align, roi_pool])
def test_gradient_reaches_through_vmap(device, operator, rng):
    maps = random_maps(rng, (3, 2, 4, 9, 8), device, torch.float64).requires_grad_()
    regions = torch.stack([random_regions(rng, 5, one) for one in maps])

    def pool(maps, regions):
        return operator(maps, regions, (2, 3), 0.5)

    for mapped, rows in (
        (torch.func.vmap(pool)(maps, regions), regions),
        (torch.func.vmap(pool, (0, None))(maps, regions[0]), regions[:1].expand_as(regions)),
    ):
        expected = torch.stack([pool(*sample) for sample in zip(maps, rows, strict=True)])
        assert torch.equal(mapped, expected)
        weight = torch.randn_like(expected)
        (ours,) = torch.autograd.grad(mapped, maps, weight)
        (eager,) = torch.autograd.grad(expected, maps, weight)
        assert torch.equal(ours, eager)
    with torch.no_grad():
        assert not torch.func.vmap(pool)(maps, regions).requires_grad
    assert torch.equal(
        torch.func.vmap(pool)(maps.detach(), regions), torch.func.vmap(pool)(maps, regions)
    )


# --- registration -------------------------------------------------------------------------------


@ignore_grad
@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
def test_opcheck(device, memory_format, rng):
    maps = random_maps(rng, (2, 3, 6, 7), device, memory_format=memory_format).requires_grad_()
    regions = random_regions(rng, 4, maps).detach()
    opcheck, ops = torch.library.opcheck, torch.ops.cvlib
    opcheck(ops.roi_align.default, (maps, regions, 2, 3, 0.5, 2, True))
    opcheck(ops.roi_pool.default, (maps, regions, 2, 3, 0.5, True))
    opcheck(ops.roi_pool.default, (maps.detach(), regions, 2, 3, 0.5, False))
    grad = torch.rand(4, 3, 2, 3, device=device, requires_grad=True)
    last = memory_format == torch.channels_last
    opcheck(ops.roi_align_backward.default, (grad, regions, 2, 6, 7, 0.5, 2, True, last))
    argmax = ops.roi_pool(maps.detach(), regions, 2, 3, 0.5, True)[1]
    opcheck(ops.roi_pool_backward.default, (grad, argmax, regions, 2, 6, 7, 0.5, last))


@pytest.mark.parametrize("operator", [roi_align, roi_pool])
@pytest.mark.parametrize("as_list", [False, True])
def test_compiles_whole_with_dynamic_shapes(device, operator, as_list, rng, fresh_compiler):
    def function(maps, boxes):
        return operator(maps, boxes, (3, 2), 0.5)

    compiled = torch.compile(function, fullgraph=True, dynamic=True, backend="aot_eager")
    for shape, count in (((2, 3, 9, 12), 5), ((3, 4, 10, 8), 7)):
        maps = random_maps(rng, shape, device).requires_grad_()
        boxes = random_regions(rng, count, maps).detach()
        if as_list:
            boxes = [boxes[:3, 1:], *[boxes[3:, 1:]] * (shape[0] - 1)]
        pooled, expected = compiled(maps, boxes), function(maps, boxes)
        assert torch.equal(pooled, expected)
        grads = [torch.autograd.grad((x * x).sum(), maps)[0] for x in (pooled, expected)]
        assert torch.equal(*grads)


def test_exports(rng):
    class Head(torch.nn.Module):
        def forward(self, maps, boxes):
            return roi_align(maps, [boxes], 3, 0.5, 2) + roi_pool(maps, [boxes], 3, 0.5)

    maps = random_maps(rng, (1, 3, 9, 12))
    boxes = random_regions(rng, 5, maps)[:, 1:]
    exported = torch.export.export(Head(), (maps, boxes)).module()
    assert torch.equal(exported(maps, boxes), Head()(maps, boxes))


def test_shape_is_known_without_data():
    maps, regions = torch.empty(2, 3, 9, 9, device="meta"), torch.empty(5, 5, device="meta")
    for operator in (roi_align, roi_pool):
        assert operator(maps, regions, (2, 4)).shape == (5, 3, 2, 4)
        assert operator(maps.half(), regions.half(), 2).dtype == torch.float16
    assert multiscale_roi_align([maps, maps], regions, 2, (2, 3)).shape == (5, 3, 2, 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_autocast_takes_boxes_of_another_dtype(device, dtype, rng):
    maps = random_maps(rng, (1, 3, 9, 9), device, dtype).requires_grad_()
    regions = random_regions(rng, 4, maps).detach().float()
    for operator in (roi_align, roi_pool):
        with torch.autocast(device, torch.bfloat16):
            pooled = operator(maps, regions, 2)
        assert pooled.dtype == dtype
        expected = operator(maps.float(), regions, 2).to(dtype)
        assert torch.equal(pooled, expected)
        pooled.sum().backward()
        assert maps.grad.dtype == dtype


# --- independence of threads and instruction sets -------------------------------------------------


def test_number_of_threads_does_not_matter(thread_counts, rng):
    maps = random_maps(rng, (2, 70, 33, 45)).requires_grad_()
    last = maps.detach().to(memory_format=torch.channels_last).requires_grad_()
    regions = random_regions(rng, 201, maps).detach()
    results = []
    for count in thread_counts:
        torch.set_num_threads(count)
        row = []
        for one in (maps, last):
            for operator in (roi_align, roi_pool):
                pooled = operator(one, regions, 7)
                row += [pooled, *torch.autograd.grad((pooled * pooled).sum(), one)]
        results.append(row)
    for other in results[1:]:
        assert all(torch.equal(x, y) for x, y in zip(results[0], other, strict=True))


DIGEST = textwrap.dedent(
    """
    import json, sys
    import numpy as np, torch
    import oracles_roi
    from cvlib.ops.multiscale_roi import multiscale_roi_align
    from cvlib.ops.roi import roi_align
    from cvlib.ops.roi_pool import roi_pool

    rng, results = np.random.default_rng(0), {}
    for channels in (5, 37):
        for dtype in (torch.float32, torch.float64):
            maps = torch.from_numpy(rng.normal(size=(2, channels, 13, 37))).to(dtype)
            rows = oracles_roi.random_regions(rng, 6, 2, np.array([37, 13]))
            regions = torch.from_numpy(rows).to(dtype)
            coarse = maps[:, :, ::2, ::2].contiguous()
            calls = {
                "align": lambda x: roi_align(x, regions, 7, 1.0, 2),
                "adaptive": lambda x: roi_align(x, regions, (3, 17)),
                "pool": lambda x: roi_pool(x, regions, 5),
                "multiscale": lambda x: multiscale_roi_align(
                    [x, coarse], regions, 3, (0, 1), canonical_scale=20, canonical_level=1
                ),
            }
            for layout in (torch.contiguous_format, torch.channels_last):
                x = maps.contiguous(memory_format=layout).requires_grad_()
                for name, call in calls.items():
                    pooled = call(x)
                    weight = torch.from_numpy(rng.normal(size=pooled.shape)).to(dtype)
                    (grad,) = torch.autograd.grad(pooled, x, weight)
                    key = f"{name} {channels} {dtype} {layout}"
                    results[key] = pooled.detach().numpy()
                    results[key + " gradient"] = grad.contiguous().numpy()
    np.savez(sys.argv[1], **results)
    """
)


@pytest.fixture(scope="module")
def digests(tmp_path_factory):
    return run_on_every_level(DIGEST, tmp_path_factory.mktemp("digests"))


@pytest.mark.parametrize("name", [name for name in ENVIRONMENTS if name != "default"])
def test_results_do_not_depend_on_the_instruction_set(digests, name):
    assert digests[name].keys() == digests["default"].keys()
    for key, expected in digests["default"].items():
        if name == "reference" and "pool" not in key:
            np.testing.assert_allclose(digests[name][key], expected, rtol=1e-5, atol=1e-5)
        elif name == "reference":
            np.testing.assert_allclose(digests[name][key], expected, rtol=1e-6, atol=1e-6)
        else:
            np.testing.assert_array_equal(digests[name][key], expected, err_msg=key)


# --- scalars reach the kernel as they are -------------------------------------------------------


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


# --- errors -------------------------------------------------------------------------------------


def with_value(column, value):
    boxes = GOOD.clone()
    boxes[1, column] = value
    return boxes


@pytest.mark.parametrize("operator", [roi_align, roi_pool])
@pytest.mark.parametrize(
    ("maps", "boxes", "error", "message"),
    [
        ([1], GOOD, TypeError, r"expected input to be a torch\.Tensor, got list"),
        (
            MAPS.int(),
            GOOD,
            TypeError,
            r"expected input of a floating-point dtype, got torch",
        ),
        (MAPS[0], GOOD, ValueError, r"expected input of shape \(N, C, H, W\), got \(3, 8, 8\)"),
        (MAPS, GOOD.long(), TypeError, r"expected boxes of a floating-point dtype"),
        (MAPS, GOOD[:, 1:], ValueError, r"expected boxes of shape \(K, 5\), got \(2, 4\)"),
        (MAPS, GOOD.double(), TypeError, r"expected boxes of the dtype of input \(torch.float32\)"),
        (MAPS, GOOD.to("meta"), ValueError, r"expected boxes on the device of input \(cpu\)"),
        (MAPS, 3, TypeError, r"expected boxes to be a torch\.Tensor of shape .* got int"),
        (
            MAPS,
            [GOOD[:, 1:]],
            ValueError,
            r"expected boxes to be a list of N = 2 .* got 1",
        ),
        (
            MAPS,
            [GOOD[:, 1:], GOOD],
            ValueError,
            r"expected boxes\[1\] of shape \(L, 4\), got \(2, 5\)",
        ),
        (MAPS, [GOOD[:, 1:], 3], TypeError, r"expected boxes\[1\] to be a torch\.Tensor, got int"),
        (
            MAPS,
            GOOD.clone().requires_grad_(),
            RuntimeError,
            r"expected boxes that do not require a gradient, .* detach them",
        ),
        (
            MAPS,
            [GOOD[:, 1:].clone().requires_grad_(), GOOD[:, 1:]],
            RuntimeError,
            r"expected boxes that do not require a gradient",
        ),
        (MAPS, with_value(0, 2), ValueError, r"image index in \[0, 2\), got boxes\[1, 0\] = 2"),
        (MAPS, with_value(0, -1), ValueError, r"image index in \[0, 2\), got boxes\[1, 0\] = -1"),
        (MAPS, with_value(0, nan), ValueError, r"image index in \[0, 2\), got boxes\[1, 0\] = nan"),
        (MAPS, with_value(2, nan), ValueError, r"expected boxes without NaN, got boxes\[1\]"),
        (
            MAPS,
            with_value(3, 0.5),
            ValueError,
            r"expected boxes with x1 <= x2 and y1 <= y2, got boxes\[1\] = \(1, 1, 0.5, 3\)",
        ),
        (
            MAPS,
            with_value(3, inf),
            ValueError,
            r"expected boxes with coordinates of at most 2\*\*30 pixels .* \(1, 1, inf, 3\)",
        ),
        (MAPS, with_value(2, -2.0e9), ValueError, r"expected boxes with coordinates of at most"),
        (
            MAPS,
            [GOOD[:, 1:], with_value(4, inf)[:, 1:]],
            ValueError,
            r"expected boxes\[1\] with coordinates of at most .* got boxes\[1\]\[1\]",
        ),
    ],
)
def test_errors(operator, maps, boxes, error, message):
    with pytest.raises(error, match=f"^{operator.__name__}: .*" + message):
        operator(maps, boxes, 2)


@pytest.mark.parametrize("operator", [roi_align, roi_pool])
@pytest.mark.parametrize(
    ("size", "scale", "error", "message"),
    [
        (0, 1.0, ValueError, r"expected output_size >= 1, got 0"),
        ((2, -1), 1.0, ValueError, r"expected output_size >= 1, got \(2, -1\)"),
        ((2, 2, 2), 1.0, TypeError, r"expected output_size to be an int or a pair"),
        (2.5, 1.0, TypeError, r"expected output_size to be an int or a pair of them, got 2.5"),
        (2, 0.0, ValueError, r"expected spatial_scale to be positive and finite, got 0.0"),
        (2, nan, ValueError, r"expected spatial_scale to be positive and finite, got nan"),
        (2, inf, ValueError, r"expected spatial_scale to be positive and finite, got inf"),
    ],
)
def test_errors_of_numbers(operator, size, scale, error, message):
    with pytest.raises(error, match=f"^{operator.__name__}: " + message):
        operator(MAPS, GOOD, size, scale)


@pytest.mark.parametrize("position", [0, 15, 16, 500, 998])
def test_one_bad_box_among_many_is_found(position, rng):
    maps = random_maps(rng, (2, 1, 8, 8))
    regions = random_regions(rng, 999, maps)
    regions[position, 2] = nan
    for operator in (roi_align, roi_pool):
        with pytest.raises(ValueError, match=rf"without NaN, got boxes\[{position}\]"):
            operator(maps, regions, 2)


# --- by hand ------------------------------------------------------------------------------------


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
