"""multiscale_roi_align and MultiScaleRoIAlign: levels, values, gradients, errors."""

from collections import OrderedDict

import numpy as np
import oracles_roi
import pytest
import torch
import torchvision
from cases_roi import DTYPES, GOOD, MAPS, REAL, nan, random_maps, random_regions

from cvlib.ops.multiscale_roi import (
    MultiScaleRoIAlign,
    _backward_reference,
    _choose_levels,
    _reference,
    multiscale_roi_align,
)
from cvlib.ops.roi import roi_align

# --- matches torchvision


def pyramid(rng, device, *, images=2, channels=9, height=96, width=128, count=4, **options):
    return OrderedDict(
        (str(i), random_maps(rng, (images, channels, height >> i, width >> i), device, **options))
        for i in range(count)
    )


def boxes_of_all_sizes(rng, counts, device, dtype=torch.float32):
    boxes = []
    for count in counts:
        center = rng.uniform(0, 1, (count, 2)) * [512, 384]
        half = np.exp(rng.uniform(0, 6, (count, 2))) / 2
        rows = np.concatenate([center - half, center + half], 1)
        boxes.append(torch.from_numpy(rows).to(dtype).to(device))
    return boxes


@pytest.mark.parametrize("dtype", REAL, ids=str)
@pytest.mark.parametrize("ratio", [2, 0])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_multiscale_equals_torchvision(device, dtype, ratio, count, rng, tolerances):
    maps = pyramid(rng, device, dtype=dtype)
    for one in maps.values():
        one.requires_grad_()
    maps["pool"] = random_maps(rng, (2, 9, 6, 8), device, dtype)  # not one of the names
    boxes, shapes = boxes_of_all_sizes(rng, (30, 41), device, dtype), [(370, 512), (384, 500)]
    names = [str(i) for i in range(count)]
    arguments = names, (7, 5), ratio
    computed = MultiScaleRoIAlign(*arguments)(maps, boxes, shapes)
    expected = torchvision.ops.MultiScaleRoIAlign(*arguments)(maps, boxes, shapes)
    torch.testing.assert_close(computed, expected, **tolerances[dtype])
    weight, inputs = (
        torch.from_numpy(rng.normal(size=computed.shape)).to(computed),
        [maps[n] for n in names],
    )
    for actual, other in zip(
        torch.autograd.grad(computed, inputs, weight),
        torch.autograd.grad(expected, inputs, weight),
        strict=True,
    ):
        torch.testing.assert_close(actual, other, **tolerances[dtype])


def test_multiscale_canonical_scale_and_level(device, rng, tolerances):
    maps, boxes = pyramid(rng, device), boxes_of_all_sizes(rng, (20, 20), device)
    names, shapes = list(maps), [(384, 512)] * 2
    for options in ({"canonical_scale": 100}, {"canonical_level": 3}, {"canonical_level": 6}):
        actual = MultiScaleRoIAlign(names, 3, 2, **options)(maps, boxes, shapes)
        expected = torchvision.ops.MultiScaleRoIAlign(names, 3, 2, **options)(maps, boxes, shapes)
        torch.testing.assert_close(actual, expected, **tolerances[torch.float32])


def test_boxes_on_the_edge_of_a_level(device):
    # 112, 224, 448 pixels are the smallest squares of levels 3, 4, 5; the rounding of 1e-6 counts.
    maps = [torch.full((1, 1, 40, 40), float(level), device=device) for level in (2, 3, 4, 5)]
    sides = [0, 1, 111.99, 112, 112.01, 223.99, 223.99999, 224, 447.9, 448, 1e5]
    boxes = torch.tensor([[0.0, 0, side, side] for side in sides], device=device)
    pooled = multiscale_roi_align(maps, [boxes], 1, (2, 3, 4, 5), 1)
    regions = torch.nn.functional.pad(boxes, (1, 0))
    chosen = oracles_roi.choose_levels(regions.cpu().double().numpy(), (2, 3, 4, 5), 224, 4)
    assert chosen == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3]
    assert _choose_levels(regions, (2, 3, 4, 5), 224, 4).tolist() == chosen
    inside = pooled.flatten()[1:-1].tolist()
    assert [one - 2 for one in inside] == chosen[1:-1]


def test_a_pyramid_with_a_gap_uses_the_next_finer_map(device):
    # torchvision gives zeros for the boxes of the missing level.
    maps = {"fine": torch.ones(1, 1, 64, 64), "coarse": torch.full((1, 1, 16, 16), 2.0)}
    maps = {name: one.to(device) for name, one in maps.items()}
    pool = MultiScaleRoIAlign(["fine", "coarse"], 1, 2, canonical_scale=64, canonical_level=4)
    boxes = torch.tensor([[0.0, 0, s, s] for s in (20, 40, 70, 130, 250)], device=device)
    assert pool(maps, [boxes], [(512, 512)]).flatten().tolist() == [1, 1, 1, 2, 2]


# --- reference equals native


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_multiscale_reference_equals_native(device, dtype, rng, tolerances):
    maps = list(pyramid(rng, device, dtype=dtype).values())
    boxes = boxes_of_all_sizes(rng, (10, 11), device)
    regions = torch.cat([torch.nn.functional.pad(b, (1, 0), value=i) for i, b in enumerate(boxes)])
    rule = [2, 3, 4, 5], 2, False, 100.0, 3
    native = torch.ops.cvlib.multiscale_roi_align(maps, regions, 3, 2, *rule)
    reference = _reference(maps, regions, 3, 2, *rule)
    torch.testing.assert_close(native, reference, **tolerances[dtype])
    sizes = [side for one in maps for side in one.shape[2:]]
    for channels_last in (False, True):
        arguments = native, regions, 2, sizes, *rule, channels_last
        computed = torch.ops.cvlib.multiscale_roi_align_backward(*arguments)
        for actual, other in zip(computed, _backward_reference(*arguments), strict=True):
            assert actual.stride() == other.stride()
            torch.testing.assert_close(actual, other, **tolerances[dtype])


# --- gradients


def test_multiscale_gradients_are_derivatives(device, rng):
    maps = [
        random_maps(rng, (2, 2, 8 >> i, 8 >> i), device, torch.float64).requires_grad_()
        for i in range(2)
    ]
    rows = [[0, 2, 2, 10, 9], [1, 0, 0, 30, 25], [1, 4, 4, 15, 30], [0, 0, 0, 8, 8]]
    regions = torch.tensor(rows, dtype=torch.float64, device=device)

    def function(*features):
        options = {"canonical_scale": 20, "canonical_level": 3}
        return multiscale_roi_align(features, regions, 2, (2, 3), **options)

    assert torch.autograd.gradcheck(function, maps)
    assert torch.autograd.gradgradcheck(function, maps, fast_mode=True)


def test_second_derivative_in_one_map_of_a_pyramid(device, rng):
    maps = [random_maps(rng, (1, 2, 8 >> i, 8 >> i), device).requires_grad_() for i in range(2)]
    regions = torch.tensor([[0.0, 0, 0, 9, 9], [0, 0, 0, 30, 30]], device=device)
    pooled = multiscale_roi_align(maps, regions, 2, (2, 3), canonical_scale=20, canonical_level=3)
    weight = torch.ones_like(pooled, requires_grad=True)
    first = torch.autograd.grad(pooled, maps, weight, create_graph=True)
    (second,) = torch.autograd.grad((first[1] * first[1]).sum(), weight)
    assert second[1].any() and not second[0].any()


# --- module


def test_multiscale_compiles_whole(device, rng, fresh_compiler):
    pool = MultiScaleRoIAlign(["0", "1"], 3, 2)
    compiled = torch.compile(pool, fullgraph=True, dynamic=True, backend="aot_eager")
    for height, counts in ((96, (4, 5)), (64, (6, 3))):
        maps = pyramid(rng, device, height=height, count=2)
        inputs = [one.requires_grad_() for one in maps.values()]
        boxes = boxes_of_all_sizes(rng, counts, device)
        shapes = [(4 * height, 512)] * 2
        pooled, expected = compiled(maps, boxes, shapes), pool(maps, boxes, shapes)
        assert torch.equal(pooled, expected)
        actual = torch.autograd.grad(pooled.sum(), inputs)
        eager = torch.autograd.grad(expected.sum(), inputs)
        assert all(torch.equal(a, b) for a, b in zip(actual, eager, strict=True))


def test_module_prints_its_arguments():
    text = "MultiScaleRoIAlign(featmap_names=['0'], output_size=(7, 7), sampling_ratio=2)"
    assert repr(MultiScaleRoIAlign(["0"], 7, 2)) == text


# --- scalars reach the kernel


@pytest.mark.parametrize("canonical_scale", [10.5, 33])
@pytest.mark.parametrize("canonical_level", [-3, 0, 2])
@pytest.mark.parametrize("levels", [(0, 1, 2), (-2, 0, 3)])
def test_scalars_of_the_pyramid_reach_the_kernel(
    device, canonical_scale, canonical_level, levels, rng, tolerances
):
    maps = [random_maps(rng, (1, 2, 12 - i, 12), device, torch.float64) for i in range(3)]
    regions = random_regions(rng, 25, maps[0], 0.1)
    chosen = oracles_roi.choose_levels(
        regions.cpu().numpy(), levels, canonical_scale, canonical_level
    )
    options = {"canonical_scale": canonical_scale, "canonical_level": canonical_level}
    pooled = multiscale_roi_align(maps, regions, 2, levels, 2, True, **options)
    for k, index in enumerate(chosen):
        one = roi_align(maps[index], regions[k : k + 1], 2, 2.0 ** -levels[index], 2, True)
        torch.testing.assert_close(pooled[k : k + 1], one, **tolerances[torch.float64])


# --- errors


def test_errors_of_the_module():
    pool = MultiScaleRoIAlign(["a", "b"], 2, 2)
    boxes = [GOOD[:, 1:]] * 2
    maps = {"a": MAPS, "b": MAPS[:, :, ::2, ::2].contiguous()}
    with pytest.raises(
        ValueError, match=r"^MultiScaleRoIAlign: expected `image_shapes` .* got none"
    ):
        pool(maps, boxes, [])
    with pytest.raises(ValueError, match=r"expected `levels` to increase .* got \[2, 2\]"):
        pool({"a": MAPS, "b": MAPS}, boxes, [(32, 32)])
    with pytest.raises(
        ValueError, match=r"expected `image_shapes` to have heights of at least 1, got 0"
    ):
        pool(maps, boxes, [(0, 32)])
    with pytest.raises(ValueError, match=r"hold at least one feature map"):
        pool({"c": MAPS}, boxes, [(32, 32)])
    with pytest.raises(
        ValueError, match=r"^MultiScaleRoIAlign: expected `boxes\[1\]` to be without NaN"
    ):
        pool(maps, [GOOD[:, 1:], GOOD[:, 1:] * nan], [(32, 32)])
    with pytest.raises(
        ValueError, match=r"^MultiScaleRoIAlign: expected `output_size` to be at least 1"
    ):
        MultiScaleRoIAlign(["a"], 0, 2)
