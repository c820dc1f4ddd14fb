"""The number of threads does not change a bit of any result or gradient."""

import inspect

import numpy as np
import oracles
import oracles_rotated
import pytest
import torch
from cases_conv_transpose import OWN, make
from cases_iou import random_boxes
from cases_multibox import grid_boxes
from cases_paired_iou import FUNCTIONS as OF_PAIRS
from cases_paired_iou import OF_ALL_PAIRS
from cases_paste import random_scene
from cases_roi import FORMATS, random_maps, random_regions
from cases_suppression import mixed_scales, scores_for, tensors
from torch.utils._pytree import tree_leaves

import cvlib
from cvlib import ops
from cvlib._extension import has_kernels


def random_ids(rng, n, count):
    return torch.from_numpy(rng.integers(0, count, n))


def unit_boxes(rng, *shape):
    return torch.from_numpy(grid_boxes(rng, *shape, smallest=1)).float()


def padded(rng, boxes):
    return torch.where(torch.from_numpy(rng.random(boxes.shape[:-1]) < 0.3)[..., None], -1, boxes)


def rotated_boxes(rng, n, **options):
    return torch.from_numpy(oracles_rotated.random_rotated_boxes(rng, n, **options)).float()


def mixed_scene(rng, n):
    return tensors(mixed_scales(rng, n), scores_for(rng, n, "tied"), "cpu")


# Each case draws its inputs and returns what is computed, and the inputs that have a gradient.


def box_iou(rng, kind):
    a, b = (random_boxes(rng, n, "cpu", extent=300) for n in (701 if kind else 1501, 401))
    return lambda: OF_ALL_PAIRS[kind](a, b), (a, b)


def paired_iou(rng, kind):
    a, b = (random_boxes(rng, 150001, "cpu", extent=100) for _ in range(2))
    return lambda: OF_PAIRS[kind](a, b), (a, b)


def max_iou(rng, *shape):
    # Few different boxes: nearly every maximum is a tie.
    corners = [torch.from_numpy(rng.integers(0, 6, (n, 2))) for n in shape]
    a, b = (torch.cat([c, c + torch.from_numpy(rng.integers(0, 4, c.shape))], 1) for c in corners)
    return lambda: ops.max_iou(a.float(), b.float()), ()


def rotated_iou(rng):
    a, b = (rotated_boxes(rng, n, extent=300) for n in (1501, 401))
    return lambda: ops.box_iou_rotated(a, b), (a, b)


def paired_rotated_iou(rng):
    a, b = (rotated_boxes(rng, n, extent=300) for n in (1501, 401))
    pairs = torch.arange(15010) % 401
    return lambda: ops.paired_box_iou_rotated(a.repeat(10, 1), b[pairs]), ()


def nms(rng, n):
    boxes, scores = mixed_scene(rng, n)
    labels, images = random_ids(rng, (2, n), 4)

    def compute():
        batched = {"image_ids": images, "max_output": 50}
        yield cvlib.nms(boxes, scores, 0.2)
        yield cvlib.batched_nms(boxes, scores, labels, 0.2, **batched)

    return compute, ()


def nms_rotated(rng, n):
    boxes, scores = rotated_boxes(rng, n), torch.from_numpy(rng.integers(0, 6, n) / 8)
    boxes[:, :4] *= 10.0 ** torch.from_numpy(rng.uniform(-3, 4, (n, 1))).float()
    labels, images = random_ids(rng, (2, n), 4)

    def compute():
        batched = {"image_ids": images, "max_output": 50}
        yield ops.nms_rotated(boxes, scores.float(), 0.2)
        yield ops.batched_nms_rotated(boxes, scores.float(), labels, 0.2, **batched)

    return compute, ()


def soft_nms(rng, method):
    boxes, scores = mixed_scene(rng, 1500)
    options = {"method": method, "labels": random_ids(rng, 1500, 20), "max_output": 300}
    return lambda: ops.soft_nms(boxes, scores, **options), ()


def matrix_nms(rng, groups):
    boxes, scores = tensors(mixed_scales(rng, 1500), rng.random(1500), "cpu")
    labels = random_ids(rng, 1500, groups)
    return lambda: ops.matrix_nms(boxes, scores, labels), ()


def multiclass_nms(rng, *shape):
    boxes = oracles.random_boxes(rng, shape[0] * shape[1], size=60, extent=150)
    boxes = torch.from_numpy(boxes.reshape(*shape[:2], 4)).float()
    scores = torch.from_numpy(rng.integers(0, 17, shape) / 16).float()
    return lambda: ops.multiclass_nms(boxes, scores, max_candidates=100, max_output=300), ()


def weighted_boxes_fusion(rng):
    objects = oracles.random_boxes(rng, 150, size=60, extent=100)
    lists = [[], [], [], []]
    for n in (900, 800):
        boxes = objects[rng.integers(0, 150, n)] + rng.normal(size=(n, 4)) * 2
        boxes[:, 2:] = np.maximum(boxes[:, :2], boxes[:, 2:])
        values = boxes, rng.random(n), rng.integers(0, 20, n), rng.integers(0, 2, n)
        for values_of_models, value in zip(lists, values, strict=True):
            values_of_models.append(torch.from_numpy(value))
    return lambda: ops.weighted_boxes_fusion(*lists[:3], image_ids=lists[3]), ()


def match_anchors(rng, anchors, images, gts):
    boxes, targets = unit_boxes(rng, anchors), padded(rng, unit_boxes(rng, images, gts))
    return lambda: ops.match_anchors(boxes, targets, 0.4), ()


def multibox_target(rng, anchors, images, gts):
    boxes, gt_boxes = unit_boxes(rng, anchors), unit_boxes(rng, images, gts)
    labels = torch.cat([random_ids(rng, (images, gts, 1), 9), gt_boxes], -1)
    labels = padded(rng, labels)
    return lambda: ops.multibox_target(boxes, labels), ()


def multibox_detection(rng, images, classes, anchors):
    boxes = torch.from_numpy(oracles.random_boxes(rng, anchors, size=0.4, extent=0.7)).float()
    offsets = torch.from_numpy(rng.normal(size=(images, 4 * anchors))).float()
    probs = rng.dirichlet(np.ones(classes + 1), (images, anchors)).transpose(0, 2, 1)
    probs = torch.from_numpy(probs).float()
    return lambda: ops.multibox_detection(probs, offsets, boxes), ()


def focal_loss(rng, reduction):
    x = torch.from_numpy(rng.normal(size=(70_001, 3)) * 4).float()
    soft = torch.from_numpy(rng.random(x.shape)).float()
    classes = torch.from_numpy(rng.integers(-1, 3, len(x)))

    def compute():
        for targets in (soft, classes):
            yield ops.sigmoid_focal_loss(x, targets, reduction=reduction)

    return compute, (x,)


def ssd_loss(rng):
    shape = 7, 3001
    logits = torch.from_numpy(rng.normal(size=(*shape, 5)) * 3).float()
    offsets, targets = torch.from_numpy(rng.normal(size=(2, *shape, 4)) * 1.5).float()
    classes = torch.from_numpy(rng.integers(0, 5, shape) * (rng.random(shape) < 0.1))
    return lambda: ops.ssd_loss(logits, offsets, classes, targets), (logits, offsets)


def masks(rng):
    masks = torch.from_numpy(rng.random((9, 300, 1333)) < 0.001)
    return lambda: (ops.masks_to_boxes(masks), ops.mask_iou(masks, masks)), ()


def paste_masks(rng):
    size = (700, 901)
    masks, boxes = random_scene(rng, 9, (28, 28), size=size)

    def compute():
        yield ops.paste_masks(masks, boxes, size, threshold=None)
        yield ops.paste_masks(masks.detach(), boxes, size, threshold=0.4)

    return compute, (masks,)


def paste_masks_rle(rng):
    masks, boxes = random_scene(rng, 30, (28, 28), size=(300, 400))
    return lambda: ops.paste_masks_rle(masks, boxes, (300, 400)), ()


def regions(rng, memory_format):
    maps = random_maps(rng, (2, 70, 33, 45), memory_format=memory_format)
    rois = random_regions(rng, 201, maps)
    return lambda: [function(maps, rois, 7) for function in (ops.roi_align, ops.roi_pool)], (maps,)


def conv_transpose(rng, case):
    if not has_kernels("cpu"):
        pytest.skip("PyTorch does not promise it")
    inputs, options = make(rng, case, "cpu", torch.float32)
    return lambda: ops.conv_transpose2d(*inputs, *options), inputs[:2]


def upsample(rng, memory_format, *size):
    images = random_maps(rng, (3, 19, 23, 37), memory_format=memory_format)
    return lambda: ops.upsample_bilinear(images, size), (images,)


CASES = [
    *((function, kind) for function in (box_iou, paired_iou) for kind in range(4)),
    *((max_iou, *shape) for shape in ((20001, 41), (7, 30001), (1, 100001))),
    (rotated_iou,),
    (paired_rotated_iou,),
    *((nms, n) for n in (150, 201, 3000)),
    *((nms_rotated, n) for n in (150, 3000)),
    *((soft_nms, method) for method in ("linear", "gaussian")),
    *((matrix_nms, groups) for groups in (1, 30)),
    *((multiclass_nms, *shape) for shape in ((1, 4000, 20), (7, 900, 5))),
    (weighted_boxes_fusion,),
    *((match_anchors, *shape) for shape in ((900, 7, 20), (3000, 1, 30))),
    *((multibox_target, *shape) for shape in ((500, 9, 12), (4000, 1, 20))),
    *((multibox_detection, *shape) for shape in ((7, 5, 300), (1, 3, 3000))),
    *((focal_loss, reduction) for reduction in ("none", "mean", "sum")),
    (ssd_loss,),
    (masks,),
    (paste_masks,),
    (paste_masks_rle,),
    *((regions, memory_format) for memory_format in FORMATS),
    *((conv_transpose, case) for case in OWN.values()),
    *((upsample, form, *size) for form in FORMATS for size in ((80, 120), (9, 20), (23, 200))),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0].__name__)
def test_number_of_threads_does_not_matter(thread_counts, case, rng):
    function, *arguments = case
    compute, inputs = function(rng, *arguments)
    for tensor in inputs:
        tensor.requires_grad_()
    expected = None
    for count in thread_counts:
        torch.set_num_threads(count)
        results = compute()
        results = tree_leaves(list(results) if inspect.isgenerator(results) else results)
        differentiable = [x for x in results if isinstance(x, torch.Tensor) and x.requires_grad]
        if differentiable:
            total = sum(result.square().sum() for result in differentiable)
            results += torch.autograd.grad(total, inputs)
        expected = expected or results
        for actual, other in zip(results, expected, strict=True):
            if isinstance(actual, torch.Tensor):
                assert torch.equal(actual, other)
            else:
                assert actual == other
