"""roi_align and roi_pool: registration, threads, scalars."""

import oracles_roi
import pytest
import torch
from cases_roi import FORMATS, as_arrays, close, ignore_grad, random_maps, random_regions

from cvlib.ops.multiscale_roi import multiscale_roi_align
from cvlib.ops.roi import roi_align
from cvlib.ops.roi_pool import roi_pool

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


# --- independence of threads ----------------------------------------------------------------------


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
