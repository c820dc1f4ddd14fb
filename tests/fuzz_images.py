"""Random calls of the operators on masks, feature maps and images."""

import numpy as np
import oracles_conv_transpose
import oracles_masks
import oracles_roi
import oracles_upsample
import torch
from fuzzing import random_dtype
from oracles import TOLERANCES, to_numpy

from cvlib.ops import conv_transpose, upsample
from cvlib.ops.conv_transpose_lessons import (
    conv_transpose2d_by_definition,
    conv_transpose2d_by_matrix,
)
from cvlib.ops.masks import (
    _mask_iou_reference,
    _masks_to_boxes_reference,
    mask_iou,
    masks_to_boxes,
)
from cvlib.ops.multiscale_roi import _choose_levels, multiscale_roi_align
from cvlib.ops.paste import _paste_mask_values_reference, _paste_masks_reference, paste_masks
from cvlib.ops.paste_rle import paste_masks_rle
from cvlib.ops.rle import masks_to_rle, rle_to_masks
from cvlib.ops.roi import _roi_align_reference, roi_align
from cvlib.ops.roi_pool import _roi_pool_reference, roi_pool

# Sums of more terms than those that the common table is for.
CONV_TOLERANCES = TOLERANCES | {torch.float32: {"rtol": 1e-4, "atol": 1e-4}}
SCALE_FACTORS = [1 / 3, 0.5, 0.7, 1.0, 1.3, 1.7, 2.0, 2.0000001, 3.0, 4.0]


def assert_close(actual, expected, tolerances=TOLERANCES):
    actual, tolerance = to_numpy(actual).astype(np.float64), tolerances[actual.dtype]
    np.testing.assert_allclose(actual, expected, **tolerance)


def random_size(rng, limit):
    """Mostly small, so that a failure can be read; sometimes wider than a vector register."""
    if rng.random() < 0.95:
        return tuple(int(side) for side in rng.integers(0, limit, 2))
    return int(rng.integers(1, 4)), int(rng.integers(100, 700))


def random_masks(rng, n, size):
    masks = rng.random((n, *size)) < 10.0 ** rng.uniform(-3, 0)
    if rng.random() < 0.5 and size[0] and size[1]:
        masks[:, : rng.integers(size[0])] = False
        masks[:, :, rng.integers(size[1]) :] = False
    return torch.from_numpy(masks)


def fuzz_masks_to_boxes(rng, device):
    masks = random_masks(rng, int(rng.integers(0, 6)), random_size(rng, 40)).to(device)
    expected = torch.from_numpy(oracles_masks.masks_to_boxes(to_numpy(masks)))
    values = masks.to(random_dtype(rng)) * -float(rng.uniform(0.1, 2))
    layout = masks.mT.contiguous().mT if rng.random() < 0.3 else masks
    for boxes in map(masks_to_boxes, (masks, values, layout)):
        assert torch.equal(boxes.cpu(), expected)
    assert torch.equal(_masks_to_boxes_reference(masks).cpu(), expected)


def fuzz_mask_iou(rng, device):
    size = random_size(rng, 30)
    first, second = (random_masks(rng, int(rng.integers(0, 6)), size).to(device) for _ in range(2))
    crowd = None
    if rng.random() < 0.5:
        crowd = torch.from_numpy(rng.random(len(second)) < 0.5).to(device)
    arrays = [None if tensor is None else to_numpy(tensor) for tensor in (first, second, crowd)]
    expected = torch.from_numpy(oracles_masks.mask_iou(*arrays))
    assert torch.equal(mask_iou(first, second, is_crowd=crowd).cpu(), expected)
    scaled = first.byte() * int(rng.integers(1, 256))
    assert torch.equal(mask_iou(scaled, second, is_crowd=crowd).cpu(), expected)
    assert torch.equal(_mask_iou_reference(first, second, crowd).cpu(), expected)


def fuzz_paste_masks(rng, device):
    size, n = random_size(rng, 16), int(rng.integers(0, 4))
    cells = tuple(int(side) for side in rng.integers(1, 9, 2))
    masks = torch.from_numpy(rng.random((n, *cells)))
    if rng.random() < 0.5:
        masks = (masks * 4).round() / 4
    masks = masks.to(device, random_dtype(rng))
    corner = rng.normal(size=(n, 2)) * 10.0 ** rng.uniform(-1, 3)
    sides = rng.random((n, 2)) * 10.0 ** rng.uniform(-2, 5, (n, 1))
    if rng.random() < 0.5:
        corner, sides = np.round(corner * 2) / 2, np.round(sides * 2) / 2
    boxes = torch.from_numpy(np.concatenate([corner, corner + sides], 1))
    boxes = boxes.to(device, [torch.float32, torch.float32, torch.float64][rng.integers(3)])
    threshold = float(rng.choice([0, 0.25, 1 / 3, 0.5, 0.7, 1]))
    values, inside = oracles_masks.paste_masks(*map(to_numpy, (masks, boxes)), size)
    binary = torch.from_numpy((values.astype(np.float64) >= threshold) & inside)
    values = torch.from_numpy(values)
    assert torch.equal(paste_masks(masks, boxes, size, threshold=threshold).cpu(), binary)
    assert torch.equal(_paste_masks_reference(masks, boxes, *size, threshold).cpu(), binary)
    assert torch.equal(paste_masks(masks, boxes, size, threshold=None).cpu(), values)
    assert torch.equal(_paste_mask_values_reference(masks, boxes, *size).cpu(), values)
    rles = paste_masks_rle(masks, boxes, size, threshold=threshold)
    assert torch.equal(rle_to_masks(rles, image_size=size), binary)


def fuzz_rle(rng, device):
    size = random_size(rng, 30)
    masks = random_masks(rng, int(rng.integers(0, 4)), size)
    rles = masks_to_rle(masks.to(device))
    for rle, mask in zip(rles, masks.numpy(), strict=True):
        assert rle["counts"] == oracles_masks.compress(oracles_masks.rle_counts(mask))
    assert torch.equal(rle_to_masks(rles, image_size=size), masks)


def random_roi_scene(rng, device):
    """Maps smaller or larger than a vector register, and regions on a grid or anywhere."""
    dtype = [torch.float32, torch.float64, torch.float16][rng.integers(3)]
    images, channels = int(rng.integers(1, 4)), int(rng.choice([1, 2, 7, 8, 9, 16, 17]))
    height, width = (int(rng.choice([1, 2, 3, 7, 16, 19])) for _ in range(2))
    maps = torch.from_numpy(rng.integers(-8, 9, (images, channels, height, width)) / 4)
    scale = float(rng.choice([1.0, 0.5, 0.3, 2.0]))
    extent = np.array([width, height]) / scale
    rows = oracles_roi.random_regions(rng, int(rng.integers(0, 4)), images, extent, largest=1.3)
    if rng.random() < 0.3:
        rows = np.round(rows)
    maps = maps.to(dtype).to(device)
    if rng.random() < 0.5:
        maps = maps.to(memory_format=torch.channels_last)
    regions = torch.from_numpy(rows).to(dtype).to(device)
    bins = tuple(int(rng.choice([1, 2, 3, 7])) for _ in range(2))
    return maps, regions, bins, scale


def fuzz_roi_align(rng, device):
    maps, regions, bins, scale = random_roi_scene(rng, device)
    options = scale, int(rng.choice([-1, 0, 1, 2, 3])), bool(rng.random() < 0.5)
    expected = oracles_roi.roi_align(to_numpy(maps), to_numpy(regions), bins, *options)
    assert_close(_roi_align_reference(maps, regions, *bins, *options), expected)
    pooled = roi_align(maps.requires_grad_(), regions, bins, *options)
    assert_close(pooled, expected)
    weight = torch.from_numpy(rng.normal(size=pooled.shape)).to(pooled)
    (grad,) = torch.autograd.grad(pooled, maps, weight)
    arrays = to_numpy(weight), to_numpy(regions)
    assert_close(grad, oracles_roi.roi_align_gradient(*arrays, maps.shape, *options))


def fuzz_roi_pool(rng, device):
    maps, regions, bins, scale = random_roi_scene(rng, device)
    arrays = to_numpy(maps), to_numpy(regions)
    expected, argmax = oracles_roi.roi_pool(*arrays, bins, scale)
    reference, reference_argmax = _roi_pool_reference(maps, regions, *bins, scale, True)
    assert np.array_equal(reference_argmax.cpu().numpy(), argmax)
    assert_close(reference, expected)
    assert_close(roi_pool(maps, regions, bins, scale), expected)
    pooled = roi_pool(maps.requires_grad_(), regions, bins, scale)
    assert_close(pooled, expected)
    weight = torch.from_numpy(rng.integers(-8, 9, pooled.shape) / 4).to(pooled)
    (grad,) = torch.autograd.grad(pooled, maps, weight)
    expected = oracles_roi.roi_pool_gradient(to_numpy(weight), argmax, arrays[1], maps.shape)
    assert_close(grad, expected)


def fuzz_multiscale_roi_align(rng, device):
    maps, regions, bins, _ = random_roi_scene(rng, device)
    features = [maps, maps[:, :, ::2, ::2], -maps]
    levels = sorted(int(level) for level in rng.choice(np.arange(-3, 4), 3, replace=False))
    canonical = float(rng.choice([1, 3, 10.5])), int(rng.integers(-1, 2))
    chosen = oracles_roi.choose_levels(to_numpy(regions.double()), levels, *canonical)
    # At the edge of a level rounding decides, in another way in float16 than in float64.
    if regions.dtype == torch.float64:
        assert _choose_levels(regions, levels, *canonical).tolist() == chosen
        options = {"canonical_scale": canonical[0], "canonical_level": canonical[1]}
        pooled = multiscale_roi_align(features, regions, bins, levels, 2, **options)
        for k, index in enumerate(chosen):
            arrays = to_numpy(features[index]), to_numpy(regions[k : k + 1])
            expected = oracles_roi.roi_align(*arrays, bins, 2.0 ** -levels[index], 2)
            assert_close(pooled[k : k + 1], expected)


def random_pair(rng, low, high):
    return tuple(int(n) for n in rng.integers(low, high, 2))


def random_normal(rng, device, dtype, *shapes):
    return [torch.from_numpy(rng.normal(size=shape)).to(device, dtype) for shape in shapes]


def random_conv_transpose(rng, device, *, kernels, strides, dilations):
    """Input, weight, bias, and options that leave at least one output pixel."""
    groups = int(rng.integers(1, 4)) if rng.random() < 0.4 else 1
    inputs, outputs = (1, 1) if rng.random() < 0.3 else random_pair(rng, 1, 4)
    kernel, size = random_pair(rng, *kernels), random_pair(rng, 1, 4)
    stride, dilation = random_pair(rng, *strides), random_pair(rng, *dilations)
    output_padding = tuple(
        int(rng.integers(0, max(s, d))) for s, d in zip(stride, dilation, strict=True)
    )
    full = [
        (size[d] - 1) * stride[d] + dilation[d] * (kernel[d] - 1) + 1 + output_padding[d]
        for d in range(2)
    ]
    padding = tuple(int(rng.integers(0, (full[d] - 1) // 2 + 1)) for d in range(2))
    dtype = torch.float64 if rng.random() < 0.5 else torch.float32
    tensors = random_normal(
        rng,
        device,
        dtype,
        (int(rng.integers(0, 3)), groups * inputs, *size),
        (groups * inputs, outputs, *kernel),
        (groups * outputs,),
    )
    if rng.random() < 0.3:
        tensors[2] = None
    return tensors, (stride, padding, output_padding, groups, dilation)


def as_float64(tensors):
    return [None if t is None else to_numpy(t).astype(np.float64) for t in tensors]


def fuzz_conv_transpose_kernels(rng, device):
    """The operators, with sizes that the public function may pass to PyTorch."""
    small = {"kernels": (1, 14), "strides": (1, 9), "dilations": (1, 2)}
    tensors, options = random_conv_transpose(rng, device, **small)
    image, weight, bias = tensors
    stride, padding, output_padding, groups, _ = options
    numbers = (*stride, *padding, *output_padding, groups)
    expected = oracles_conv_transpose.conv_transpose2d(*as_float64(tensors), *options)
    for function in (torch.ops.cvlib.conv_transpose2d, conv_transpose._reference):
        assert_close(function(image, weight, bias, *numbers), expected, CONV_TOLERANCES)
    (grad,) = random_normal(rng, device, image.dtype, expected.shape)
    expected = oracles_conv_transpose.conv_transpose2d_gradients(
        *as_float64([grad, image, weight]), stride, padding, groups
    )
    needs = bool(rng.random() < 0.8), bool(rng.random() < 0.8)
    for function in (
        torch.ops.cvlib.conv_transpose2d_backward,
        conv_transpose._backward_reference,
    ):
        grads = function(grad, image, weight, *stride, *padding, groups, *needs)
        for is_needed, actual, other in zip(needs, grads, expected, strict=False):
            if is_needed:
                assert_close(actual, other, CONV_TOLERANCES)
            else:
                assert actual.numel() == 0


def fuzz_conv_transpose_functions(rng, device):
    """The three public functions agree with the oracle for all options."""
    small = {"kernels": (1, 6), "strides": (1, 5), "dilations": (1, 4)}
    tensors, options = random_conv_transpose(rng, device, **small)
    expected = oracles_conv_transpose.conv_transpose2d(*as_float64(tensors), *options)
    for function in (
        conv_transpose.conv_transpose2d,
        conv_transpose2d_by_definition,
        conv_transpose2d_by_matrix,
    ):
        assert_close(function(*tensors, *options), expected, CONV_TOLERANCES)


def fuzz_conv_transpose_gradients(rng, device):
    """The public function, with sizes that the kernels of cvlib compute."""
    large = {"kernels": (16, 20), "strides": (4, 17), "dilations": (1, 2)}
    tensors, options = random_conv_transpose(rng, device, **large)
    tensors = [None if t is None else t.requires_grad_() for t in tensors]
    output = conv_transpose.conv_transpose2d(*tensors, *options)
    (grad,) = random_normal(rng, device, output.dtype, output.shape)
    output.backward(grad)
    stride, padding, _, groups, _ = options
    expected = oracles_conv_transpose.conv_transpose2d_gradients(
        *as_float64([grad, tensors[0], tensors[1]]), stride, padding, groups
    )
    for tensor, other in zip(tensors, expected, strict=True):
        if tensor is not None:
            assert_close(tensor.grad, other, CONV_TOLERANCES)


def random_side(rng):
    return int(rng.integers(1, 9) if rng.random() < 0.9 else rng.integers(30, 80))


def random_images(rng, device, dtype):
    channels = int(rng.choice([0, 1, 2, 3, 5, 16, 19], p=[0.02, 0.3, 0.2, 0.2, 0.1, 0.1, 0.08]))
    shape = int(rng.integers(0, 4)), channels, random_side(rng), random_side(rng)
    layout = rng.integers(5)
    if layout == 0:  # a crop of a larger image
        images = torch.from_numpy(rng.normal(size=(*shape[:2], shape[2] + 2, shape[3] + 3)))
        images = images[:, :, 1:-1, 2:-1]
    elif layout == 1:  # rows that are not dense
        images = torch.from_numpy(rng.normal(size=(*shape[:2], shape[3], shape[2]))).mT
    else:
        images = torch.from_numpy(rng.normal(size=shape))
    images = images.to(device, dtype)
    return images.contiguous(memory_format=torch.channels_last) if layout > 2 else images


def random_resize(rng, images):
    """Arguments of the public function, and the size and factors that its operator expects."""
    height, width = images.shape[2:]
    if rng.random() < 0.5:
        size = random_side(rng), random_side(rng)
        return {"size": size}, size, (0.0, 0.0)
    factors = tuple(float(factor) for factor in rng.choice(SCALE_FACTORS, 2))
    size = int(height * factors[0]), int(width * factors[1])
    if min(size) < 1:
        return {"size": (1, 1)}, (1, 1), (0.0, 0.0)
    return {"scale_factor": factors}, size, factors


def fuzz_upsample_bilinear(rng, device):
    dtype = random_dtype(rng)
    images, align_corners = random_images(rng, device, dtype), bool(rng.integers(2))
    keywords, size, factors = random_resize(rng, images)
    images.requires_grad_()
    resized = upsample.upsample_bilinear(images, align_corners=align_corners, **keywords)
    weight = torch.from_numpy(rng.normal(size=resized.shape)).to(device, dtype)
    (grad,) = torch.autograd.grad(resized, images, weight)
    images = images.detach()
    options = factors, align_corners
    expected = oracles_upsample.upsample_bilinear(to_numpy(images), size, *options)
    reference = upsample._reference(images, *size, *factors, align_corners)
    in_size = tuple(images.shape[2:])
    expected_grad = oracles_upsample.upsample_bilinear_backward(to_numpy(weight), in_size, *options)
    reference_grad = upsample._backward_reference(weight, *in_size, *factors, align_corners)
    for actual, oracle in (
        (resized, expected),
        (reference, expected),
        (grad, expected_grad),
        (reference_grad, expected_grad),
    ):
        assert actual.dtype == dtype
        assert_close(actual, oracle)


# Number of calls in an ordinary run.
CALLS = {
    fuzz_masks_to_boxes: 150,
    fuzz_mask_iou: 150,
    fuzz_paste_masks: 100,
    fuzz_rle: 100,
    fuzz_roi_align: 120,
    fuzz_roi_pool: 120,
    fuzz_multiscale_roi_align: 120,
    fuzz_conv_transpose_kernels: 100,
    fuzz_conv_transpose_functions: 100,
    fuzz_conv_transpose_gradients: 30,
    fuzz_upsample_bilinear: 300,
}
