"""roi_align and roi_pool: gradients."""

import oracles_roi
import pytest
import torch
from cases_roi import DTYPES, FORMATS, REAL, as_arrays, close, random_maps, random_regions

from cvlib.ops.roi import roi_align
from cvlib.ops.roi_pool import roi_pool

# --- matches the oracle


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


# --- gradients


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
        assert torch.autograd.gradgradcheck(function, (maps,), fast_mode=True)


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
        (actual,) = torch.autograd.grad(mapped, maps, weight)
        (eager,) = torch.autograd.grad(expected, maps, weight)
        assert torch.equal(actual, eager)
    with torch.no_grad():
        assert not torch.func.vmap(pool)(maps, regions).requires_grad
    assert torch.equal(
        torch.func.vmap(pool)(maps.detach(), regions), torch.func.vmap(pool)(maps, regions)
    )
