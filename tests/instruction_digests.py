"""Results of every operator on fixed random data, to be compared between instruction sets.

``python instruction_digests.py file.npz`` saves them. The first word of a key is the family, the
second how the results compare with those of the reference: ``equal`` bits or ``close``.
"""

import sys

import numpy as np
import oracles_roi
import torch

import cvlib
from cvlib import ops
from cvlib.ops.paste import paste_masks

FLOATS = (torch.float32, torch.float64)
LAYOUTS = (torch.contiguous_format, torch.channels_last)


def dtype_name(dtype):
    return str(dtype).removeprefix("torch.")


def random_boxes(rng, *shape, grid, extent, largest, smallest=0.0, scale=1.0):
    """Corners and sides below `extent` and `largest`; on a grid they are integers, with ties."""
    draw = rng.integers if grid else rng.uniform
    corner = draw(0, extent, (*shape, 2))
    sides = draw(int(smallest) if grid else smallest, largest, (*shape, 2))
    return torch.from_numpy(np.concatenate([corner, corner + sides], -1) * scale)


def normal(rng, *shape, dtype, scale=1.0):
    return torch.as_tensor(rng.normal(size=shape) * scale).to(dtype)


def ssd_boxes(rng, *shape, grid):
    if grid:
        return random_boxes(rng, *shape, grid=True, extent=11, smallest=1, largest=6, scale=1 / 16)
    return random_boxes(rng, *shape, grid=False, extent=0.7, smallest=0.02, largest=0.3)


def box_operators(rng):
    """Sizes around those of vector registers."""
    for grid in (True, False):
        for n in (3, 8, 17, 161, 401):
            for dtype in (*FLOATS, torch.float16):
                key = f"{'grid' if grid else 'random'} {n} {dtype_name(dtype)}"
                a = ssd_boxes(rng, n, grid=grid).to(dtype)
                b = ssd_boxes(rng, n + 1, grid=grid).to(dtype)
                scores = torch.from_numpy(rng.integers(0, 50, n) / 64).to(dtype)
                ids = torch.from_numpy(rng.integers(-2, 2, (2, n)))
                yield f"equal iou {key}", cvlib.box_iou(a, b)
                if dtype != torch.float16:
                    boxes = a.clone().requires_grad_(), b.clone().requires_grad_()
                    weight = normal(rng, n, n + 1, dtype=dtype)
                    grads = torch.autograd.grad(cvlib.box_iou(*boxes), boxes, weight)
                    for name, grad in zip("ab", grads, strict=True):
                        yield f"close iou-gradient {name} {key}", grad / n  # a sum of n terms
                for threshold in (0.05, 1 / 3, 0.5, 0.7):
                    yield f"equal nms {threshold} {key}", cvlib.nms(a, scores, threshold)
                    yield (
                        f"equal batched_nms {threshold} {key}",
                        cvlib.batched_nms(
                            a, scores, ids[0], threshold, image_ids=ids[1], max_output=9
                        ),
                    )
                yield from _targets_and_detections(rng, a, grid, key)


def _targets_and_detections(rng, anchors, grid, key):
    n, dtype = len(anchors), anchors.dtype
    gts = ssd_boxes(rng, 3, 7, grid=grid).to(dtype)
    gts[:, 5:] = -1
    yield f"equal match_anchors {key}", cvlib.match_anchors(anchors, gts, 1 / 3)
    labels = torch.cat([gts[..., :1].sign() * 2, gts], -1)
    labels[:, :5, 0] = 2
    offsets, mask, classes = cvlib.multibox_target(anchors, labels)
    yield f"close multibox_target offsets {key}", offsets
    yield f"equal multibox_target mask {key}", mask
    yield f"equal multibox_target classes {key}", classes
    # Without changes of size, decoding needs no exp and is exact.
    probs = torch.from_numpy(rng.integers(0, 65, (2, 4, n)) / 64).to(dtype)
    offsets = torch.from_numpy(rng.integers(-1, 2, (2, n, 4))).to(dtype)
    offsets[..., 2:] = 0
    grid_anchors = ssd_boxes(rng, n, grid=True).to(dtype)
    variances = (0.125, 0.25, 0.5, 1.0)
    rows = cvlib.multibox_detection(probs, offsets.flatten(1), grid_anchors, variances=variances)
    yield f"equal multibox_detection {key}", rows
    offsets = normal(rng, 2, 1, 4, dtype=dtype)
    rows = cvlib.multibox_detection(
        probs[:, :, :1], offsets.flatten(1), anchors[:1], pos_threshold=0.3
    )
    yield f"close multibox_detection single {key}", rows


def iou_family(rng):
    """Grids with ties, boxes without area, random boxes."""
    operators = torch.ops.cvlib
    for grid in (True, False):
        for n in (1, 3, 8, 17, 161):
            for dtype in (*FLOATS, torch.bfloat16):
                key = f"{'grid' if grid else 'random'} {n} {dtype_name(dtype)}"
                shape = (
                    {"extent": 9, "largest": 6, "scale": 1 / 8}
                    if grid
                    else {"extent": 60, "smallest": 0.2, "largest": 30}
                )
                a = random_boxes(rng, n, grid=grid, **shape).to(dtype)
                b = random_boxes(rng, n + 1, grid=grid, **shape).to(dtype)
                values, indices = ops.max_iou(a, b)
                yield f"equal max_iou {key}", values
                yield f"equal argmax {key}", indices
                real = torch.float64 if dtype == torch.float64 else torch.float32
                weight = normal(rng, n, n + 1, dtype=real)
                for kind in range(4):
                    how = "equal" if kind == 0 else "close"
                    yield f"{how} box_iou {kind} {key}", operators.box_iou(a, b, kind)
                    yield f"{how} paired_iou {kind} {key}", operators.paired_iou(a, b[1:], kind)
                    if dtype == torch.bfloat16:
                        continue
                    grads = operators.box_iou_backward(weight, a, b, kind)
                    for name, grad in zip("ab", grads, strict=True):
                        yield f"close box_iou_backward {kind} {name} {key}", grad / n
                    grads = operators.paired_iou_backward(weight[:, 0].clone(), a, b[1:], kind)
                    for name, grad in zip("ab", grads, strict=True):
                        yield f"close paired_iou_backward {kind} {name} {key}", grad


def rotated(rng):
    for n in (3, 17, 70, 130):
        for dtype in (*FLOATS, torch.float16):
            key = f"{n} {dtype_name(dtype)}"
            rows = rng.uniform([0, 0, 1, 1, -720], [20, 20, 9, 9, 720], (2, n, 5))
            rows[0, ::3] = rng.integers([0, 0, 0, 0, -5], [9, 9, 9, 9, 5], (len(rows[0, ::3]), 5))
            rows[0, ::3, 4] *= 45
            a, b = torch.from_numpy(rows).to(dtype)
            scores = torch.from_numpy(rng.integers(0, 50, n) / 64).to(dtype)
            ids = torch.from_numpy(rng.integers(-2, 2, (2, n)))
            functions = ops.box_iou_rotated, ops.paired_box_iou_rotated
            for function in functions:
                yield f"equal {function.__name__} {key}", function(a, b)
            for threshold in (0.05, 0.5):
                yield f"equal nms {threshold} {key}", ops.nms_rotated(a, scores, threshold)
                yield (
                    f"equal batched {threshold} {key}",
                    ops.batched_nms_rotated(
                        a, scores, ids[0], threshold, image_ids=ids[1], max_output=9
                    ),
                )
            if dtype == torch.float16:
                continue
            for function in functions:
                boxes = a.clone().requires_grad_(), b.clone().requires_grad_()
                iou = function(*boxes)
                grads = torch.autograd.grad(iou, boxes, normal(rng, *iou.shape, dtype=dtype))
                for name, grad in zip("ab", grads, strict=True):
                    yield f"close gradient {function.__name__} {name} {key}", grad


def suppression(rng):
    for grid in (True, False):
        side = (
            {"extent": 11, "largest": 6} if grid else {"extent": 9, "smallest": 0.1, "largest": 4}
        )
        for n in (3, 17, 33, 101):
            for dtype in (*FLOATS, torch.float16):
                key = f"{'grid' if grid else 'random'} {n} {dtype_name(dtype)}"
                boxes = random_boxes(rng, n, grid=grid, scale=1 / 16, **side).to(dtype)
                scores = torch.from_numpy(rng.integers(1, 50, n) / 64).to(dtype)
                labels, images = torch.from_numpy(rng.integers(-2, 2, (2, n)))
                for method in ("linear", "gaussian"):
                    for limit in (None, 5):
                        keep, decayed = ops.soft_nms(
                            boxes, scores, method=method, max_output=limit, image_ids=images
                        )
                        yield f"equal soft_nms keep {method} {limit} {key}", keep
                        yield f"equal soft_nms scores {method} {limit} {key}", decayed
                    decayed = ops.matrix_nms(boxes, scores, labels, kernel=method)
                    yield f"equal matrix_nms {method} {key}", decayed
                half = n // 2
                lists = [tensor.split([half, n - half]) for tensor in (boxes, scores, labels)]
                for confidence in ("avg", "max", "box_and_model_avg", "absent_model_aware_avg"):
                    fused = ops.weighted_boxes_fusion(
                        *lists, weights=[1, 3], iou_threshold=1 / 3, conf_type=confidence
                    )
                    for name, value in zip(("boxes", "scores", "labels"), fused, strict=True):
                        yield f"equal fusion {name} {confidence} {key}", value
                per_class = random_boxes(rng, 2, n, 3, grid=grid, scale=1 / 16, **side).to(dtype)
                scores = torch.from_numpy(rng.integers(0, 65, (2, n, 3)) / 64).to(dtype)
                for candidates in (per_class, per_class[:, :, 0]):
                    kept = ops.multiclass_nms(candidates, scores, max_candidates=20, max_output=30)
                    for name, value in kept._asdict().items():
                        yield f"equal multiclass_nms {name} {candidates.dim()} {key}", value


def losses(rng):
    """Sizes around those of registers, of lanes, and of the pieces of threads."""
    for dtype in FLOATS:
        for n in (1, 7, 33, 700, 6001):
            x = normal(rng, n, 3, dtype=dtype, scale=9).requires_grad_()
            soft = torch.from_numpy(rng.random((n, 3))).to(dtype)
            classes = torch.from_numpy(rng.integers(-1, 3, n))
            for kind, targets in (("soft", soft), ("classes", classes)):
                for gamma in (0, 2, 1.5):
                    for reduction in ("none", "mean", "sum"):
                        loss = ops.sigmoid_focal_loss(x, targets, 0.3, gamma, reduction)
                        weight = normal(rng, *loss.shape, dtype=dtype)
                        (grad,) = torch.autograd.grad(loss, x, weight)
                        key = f"{kind} {gamma} {reduction} {n} {dtype_name(dtype)}"
                        yield f"close focal loss {key}", loss
                        yield f"close focal gradient {key}", grad
        for columns in (1, 2, 15, 16, 17, 31, 32, 81, 5000):
            key = f"{columns} {dtype_name(dtype)}"
            shape = (2, 3 if columns == 5000 else 101)
            logits = normal(rng, *shape, columns, dtype=dtype, scale=3).requires_grad_()
            offsets, target_offsets = (
                normal(rng, *shape, 4, dtype=dtype).requires_grad_() for _ in range(2)
            )
            classes = rng.integers(0, columns, shape) * (rng.random(shape) < 0.1)
            arguments = logits, offsets, torch.from_numpy(classes), target_offsets
            yield f"close ssd saved {key}", torch.ops.cvlib.ssd_loss(*arguments, 3.0)[3]
            values = ops.ssd_loss(*arguments)
            grads = torch.autograd.grad(sum(values), (logits, offsets, target_offsets))
            for i, value in enumerate((*values, *grads)):
                yield f"close ssd {i} {key}", value


def masks(rng):
    operators = torch.ops.cvlib
    for size in ((3, 5), (33, 65), (90, 130), (41, 513)):
        for dtype in (*FLOATS, torch.float16):
            key = f"{size} {dtype_name(dtype)}"
            corner = rng.uniform(-20, 60, (9, 2))
            boxes = np.concatenate([corner, corner + rng.uniform(0.2, 90, (9, 2))], 1)
            boxes = torch.from_numpy(boxes).float()
            cells = torch.from_numpy(rng.random((9, 7, 6))).to(dtype)
            for threshold in (0.3, 0.5):
                pasted = paste_masks(cells, boxes, size, threshold=threshold)
                yield f"equal paste_masks {threshold} {key}", pasted
                text, ends = operators.paste_masks_rle(cells, boxes, *size, threshold)
                yield f"equal rle text {threshold} {key}", text
                yield f"equal rle ends {threshold} {key}", ends
            yield f"equal values {key}", paste_masks(cells, boxes, size, threshold=None)
            yield f"equal masks_to_boxes {key}", ops.masks_to_boxes(pasted)
            yield f"equal mask_iou {key}", ops.mask_iou(pasted, pasted[:5])
            dense = torch.from_numpy(rng.random((4, *size)) < 0.6)
            yield f"equal mask_iou dense {key}", ops.mask_iou(dense, pasted)
            grad = normal(rng, 9, *size, dtype=dtype)
            yield (
                f"close gradient {key}",
                operators.paste_mask_values_backward(grad, boxes, 7, 6),
            )


def regions(rng):
    for channels in (5, 37):
        for dtype in FLOATS:
            maps = normal(rng, 2, channels, 13, 37, dtype=dtype)
            rows = oracles_roi.random_regions(rng, 6, 2, np.array([37, 13]))
            rois = torch.from_numpy(rows).to(dtype)
            coarse = maps[:, :, ::2, ::2].contiguous()
            canonical = {"canonical_scale": 20, "canonical_level": 1}
            for layout in LAYOUTS:
                x = maps.contiguous(memory_format=layout).requires_grad_()
                for name, pooled in (
                    ("align", ops.roi_align(x, rois, 7, 1.0, 2)),
                    ("adaptive", ops.roi_align(x, rois, (3, 17))),
                    ("pool", ops.roi_pool(x, rois, 5)),
                    (
                        "multiscale",
                        ops.multiscale_roi_align([x, coarse], rois, 3, (0, 1), **canonical),
                    ),
                ):
                    weight = normal(rng, *pooled.shape, dtype=dtype)
                    (grad,) = torch.autograd.grad(pooled, x, weight)
                    key = f"{name} {channels} {layout} {dtype_name(dtype)}"
                    yield f"close {key}", pooled
                    yield f"close gradient {key}", grad


def conv_transpose(rng):
    for dtype in FLOATS:
        for channels in (1, 2, 7, 13):
            for groups in {1, channels}:
                for kernel, stride, width in ((16, 4, 1), (17, 8, 8), (33, 5, 3), (64, 32, 2)):
                    shapes = (2, channels, 2, width), (channels, channels // groups, kernel, kernel)
                    inputs = [normal(rng, *s, dtype=dtype).requires_grad_() for s in shapes]
                    output = ops.conv_transpose2d(*inputs, None, stride, kernel // 4, 1, groups)
                    weight = normal(rng, *output.shape, dtype=dtype)
                    results = output, *torch.autograd.grad(output, inputs, weight)
                    for name, value in zip(("output", "input", "weight"), results, strict=True):
                        key = f"{channels} {groups} {kernel} {width} {dtype_name(dtype)}"
                        yield f"close {name} {key}", value / kernel


def upsample(rng):
    for channels in (1, 2, 3, 17):
        for shape, size in (((5, 9), (8, 33)), ((9, 70), (5, 35)), ((3, 40), (13, 140))):
            for dtype in (*FLOATS, torch.float16, torch.bfloat16):
                for layout in LAYOUTS:
                    for align_corners in (False, True):
                        images = normal(rng, 2, channels, *shape, dtype=dtype)
                        images = images.contiguous(memory_format=layout).requires_grad_()
                        resized = ops.upsample_bilinear(images, size, align_corners=align_corners)
                        weight = normal(rng, *resized.shape, dtype=dtype)
                        (grad,) = torch.autograd.grad(resized, images, weight)
                        key = f"{channels} {shape} {layout} {align_corners} {dtype_name(dtype)}"
                        yield f"close image {key}", resized.double()
                        yield f"close gradient {key}", grad.double()


FAMILIES = {
    "boxes": box_operators,
    "iou": iou_family,
    "rotated": rotated,
    "suppression": suppression,
    "losses": losses,
    "masks": masks,
    "regions": regions,
    "conv_transpose": conv_transpose,
    "upsample": upsample,
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    results = {
        f"{family} {key}": value.detach().contiguous().numpy()
        for family, digest in FAMILIES.items()
        for key, value in digest(np.random.default_rng(0))
    }
    np.savez(sys.argv[1], **results)
