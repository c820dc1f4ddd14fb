"""Cases of other suppression: soft and matrix NMS, fusion of models, multiclass NMS."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
import torchvision
from torch import Tensor

from bench_cases.case import (
    Case,
    close,
    clustered_boxes,
    random_boxes,
    random_scores,
    size_in_bytes,
)
from cvlib.ops.fusion import weighted_boxes_fusion
from cvlib.ops.matrix_nms import _matrix_nms_reference, matrix_nms
from cvlib.ops.multiclass_nms import multiclass_nms
from cvlib.ops.soft_nms import _soft_nms_reference, soft_nms


def soft_nms_in_pytorch(
    boxes: Tensor, scores: Tensor, method: str, max_output: int | None
) -> tuple[Tensor, Tensor]:
    """Soft NMS as a Python loop over whole tensors."""
    scores = scores.clone()
    keep: list[Tensor] = []
    kept_scores: list[Tensor] = []
    while max_output is None or len(keep) < max_output:
        best, index = scores.max(dim=0)
        if best < 0.001:
            break
        keep.append(index)
        kept_scores.append(best)
        iou = torchvision.ops.box_iou(boxes[index][None], boxes)[0]
        if method == "gaussian":
            scores *= torch.exp(-(iou * iou) / 0.5)
        else:
            scores *= torch.where(iou >= 0.3, 1 - iou, 1)
        scores[index] = 0
    return torch.stack(keep), torch.stack(kept_scores)


def mostly_close(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> bool:
    """Whether scores agree up to rounding, and indices except for boxes swapped by rounding."""
    return close(a[1], b[1]) and bool((a[0] == b[0]).float().mean() > 0.9)


def soft_nms_cases(device: str) -> Iterator[Case]:
    """Soft NMS with and without a limit."""
    generator = torch.Generator().manual_seed(4)
    sizes = [("random", random_boxes, n) for n in (10, 1000, 10_000)]
    for kind, make, n in [*sizes, ("clustered", clustered_boxes, 10_000)]:
        boxes, scores = make(n, generator, device), random_scores(n, generator, device)
        for method in ("linear", "gaussian"):
            limits = (None,) if n < 10_000 or method == "linear" else (None, 300)
            for limit in limits:
                own = partial(soft_nms, boxes, scores, method=method, max_output=limit)
                settings = (method == "gaussian", 0.3, 0.5, 0.001, -1)
                yield Case(
                    "soft_nms",
                    f"{n} {kind}, {method}" + (f", best {limit}" if limit else ""),
                    "PyTorch loop",
                    own,
                    partial(soft_nms_in_pytorch, boxes, scores, method, limit),
                    partial(_soft_nms_reference, boxes, scores, None, None, *settings)
                    if n <= 1000
                    else None,
                    mostly_close,
                    bytes_moved=size_in_bytes(boxes, scores, *own()),
                )


def matrix_nms_in_pytorch(boxes: Tensor, scores: Tensor, kernel: str) -> Tensor:
    """Matrix NMS as in the paper, with N x N matrices."""
    order = scores.argsort(descending=True, stable=True)
    iou = torchvision.ops.box_iou(boxes[order], boxes[order]).triu(diagonal=1)
    largest = iou.amax(0)[:, None]
    if kernel == "gaussian":
        factors = torch.exp(-2.0 * (iou * iou - largest * largest)).amin(0)
    else:
        factors = ((1 - iou) / (1 - largest)).amin(0)
    result = torch.empty_like(scores)
    result[order] = scores[order] * factors
    return result


def matrix_nms_by_reference(boxes: Tensor, scores: Tensor, *settings: Any) -> Tensor:
    """Multiply the scores by the reference's factors, like the public function."""
    return scores * _matrix_nms_reference(boxes, scores, *settings)


def matrix_nms_cases(device: str) -> Iterator[Case]:
    """Matrix NMS; each of the peer's matrices takes 100 MB for 5,000 boxes."""
    generator = torch.Generator().manual_seed(5)
    sizes = [("random", random_boxes, n) for n in (10, 500, 2000, 5000)]
    for kind, make, n in [*sizes, ("clustered", clustered_boxes, 2000)]:
        boxes, scores = make(n, generator, device), random_scores(n, generator, device)
        for kernel in ("gaussian", "linear"):
            settings = (None, None, kernel == "gaussian", 2.0)
            yield Case(
                "matrix_nms",
                f"{n} {kind}, {kernel}",
                "N x N PyTorch",
                partial(matrix_nms, boxes, scores, kernel=kernel),
                partial(matrix_nms_in_pytorch, boxes, scores, kernel),
                partial(matrix_nms_by_reference, boxes, scores, *settings),
                close,
                bytes_moved=size_in_bytes(boxes, scores, scores),
            )


def fuse_in_pytorch(
    boxes: list[Tensor], scores: list[Tensor], labels: list[Tensor]
) -> tuple[Tensor, ...]:
    """Weighted boxes fusion with vectorised matching, like its authors' NumPy code."""
    all_boxes, all_scores, all_labels = (torch.cat(field) for field in (boxes, scores, labels))
    results = []
    for label in all_labels.unique():
        own = (all_labels == label).nonzero()[:, 0]
        own = own[all_scores[own].argsort(descending=True, stable=True)]
        fused = all_boxes.new_empty(len(own), 4)
        sums, totals, sizes = (all_boxes.new_zeros(len(own), k) for k in (4, 1, 1))
        count = 0
        for i in own:
            box, score = all_boxes[i], all_scores[i]
            cluster = count
            if count:
                iou, nearest = torchvision.ops.box_iou(box[None], fused[:count])[0].max(dim=0)
                cluster = int(nearest) if iou > 0.55 else count
            count += cluster == count
            sums[cluster] += box * score
            totals[cluster] += score
            sizes[cluster] += 1
            fused[cluster] = sums[cluster] / totals[cluster] if sizes[cluster] > 1 else box
        size = sizes[:count, 0]
        score = totals[:count, 0] / size * size.clamp(max=len(boxes)) / len(boxes)
        results.append((fused[:count], score, label.expand(count)))
    fused, score, label = (torch.cat(field) for field in zip(*results, strict=True))
    order = score.argsort(descending=True, stable=True)
    return fused[order], score[order], label[order]


def close_up_to_order(a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> bool:
    """Whether fused scores and sums of boxes agree; boxes of equal scores may be swapped."""
    return close(a[1], b[1]) and close(a[0].sum(0), b[0].sum(0))


def fusion_cases(device: str) -> Iterator[Case]:
    """Fusion of five models that detect the same objects."""
    generator = torch.Generator().manual_seed(6)
    for n, objects, classes in ((5, 3, 2), (100, 60, 80), (1000, 300, 10)):
        object_boxes = random_boxes(objects, generator, device)
        object_labels = torch.randint(classes, (objects,), generator=generator).to(device)
        boxes, scores, labels = [], [], []
        for _ in range(5):
            chosen = torch.randint(objects, (n,), generator=generator).to(device)
            noise = torch.randn(n, 4, generator=generator).to(device) * 2
            boxes.append(object_boxes[chosen] + noise)
            scores.append(torch.rand(n, generator=generator).to(device))
            labels.append(object_labels[chosen])
        yield Case(
            "weighted_boxes_fusion",
            f"5 x {n}, {classes} classes",
            "PyTorch loop",
            partial(weighted_boxes_fusion, boxes, scores, labels),
            partial(fuse_in_pytorch, boxes, scores, labels),
            None,
            close_up_to_order,
            bytes_moved=2 * size_in_bytes(*boxes, *scores, *labels),
        )


def detect_in_torchvision(
    boxes: Tensor, scores: Tensor, threshold: float, iou: float, topk: int | None, limit: int
) -> list[tuple[Tensor, ...]]:
    """Last step of torchvision's detectors: SSD's with ``topk``, otherwise Faster R-CNN's."""
    results: list[tuple[Tensor, ...]] = []
    for image_boxes, image_scores in zip(boxes, scores, strict=True):
        if topk is None:
            classes = torch.arange(image_scores.shape[1], device=scores.device)
            label = classes.expand_as(image_scores).reshape(-1)
            flat = image_scores.reshape(-1)
            above = torch.where(flat > threshold)[0]
            candidates: tuple[Tensor, ...] = (
                image_boxes.reshape(-1, 4)[above],
                flat[above],
                label[above],
            )
        else:
            per_class = []
            for k in range(image_scores.shape[1]):
                score = image_scores[:, k]
                above = score > threshold
                score, box = score[above], image_boxes[above]
                score, best = score.topk(min(topk, len(score)))
                per_class.append((box[best], score, torch.full_like(score, k, dtype=torch.int64)))
            candidates = tuple(torch.cat(field) for field in zip(*per_class, strict=True))
        keep = torchvision.ops.batched_nms(*candidates, iou)[:limit]
        results.append(tuple(field[keep] for field in candidates))
    return results


def same_detections(own: Any, peer: Any) -> bool:
    """Whether scores and labels are equal, except where torchvision swaps equal scores."""
    if not isinstance(peer, list):
        return all(torch.equal(x, y) for x, y in zip(own, peer, strict=True))
    return all(
        int(count) == len(score)
        and torch.equal(own_score[:count], score)
        and bool((own_label[:count] != label).sum() <= 4)
        for own_score, own_label, count, (_, score, label) in zip(
            own.scores, own.labels, own.counts, peer, strict=True
        )
    )


def class_scores(shape: tuple[int, int, int], share: float, generator: torch.Generator) -> Tensor:
    """Draw probabilities without background; ``share`` of the rows have two likely classes."""
    batch, rows, classes = shape
    logits = torch.randn(*shape, generator=generator)
    has_object = torch.rand(batch, rows, 1, generator=generator) < share
    raised = has_object * (6 + 4 * torch.rand(batch, rows, 2, generator=generator))
    likely = torch.randint(classes, (batch, rows, 2), generator=generator)
    logits.scatter_add_(2, likely, raised)
    background = torch.full((batch, rows, 1), 9.0)
    return torch.cat([background, logits], 2).softmax(2)[..., 1:]


def multiclass_nms_cases(device: str) -> Iterator[Case]:
    """The last step of SSD300 and of Faster R-CNN."""
    generator = torch.Generator().manual_seed(7)
    sizes = [(1, 16, 3), (1, 8732, 20), (8, 8732, 20), (8, 8732, 90), (32, 8732, 80)]
    for batch, rows, classes in sizes:
        boxes = random_boxes(batch * rows, generator, device).view(batch, rows, 4)
        scores = class_scores((batch, rows, classes), 0.1, generator).to(device)
        threshold = 0.01
        yield Case(
            "multiclass_nms",
            f"SSD {batch} x {rows} x {classes}",
            "torchvision's SSD",
            partial(
                multiclass_nms,
                boxes,
                scores,
                score_threshold=threshold,
                iou_threshold=0.45,
                max_candidates=400,
                max_output=200,
            ),
            partial(detect_in_torchvision, boxes, scores, threshold, 0.45, 400, 200),
            None,
            same_detections,
            bytes_moved=size_in_bytes(boxes, scores),
        )
    for batch in (1, 8):
        shape = (batch, 1000, 90)
        scores = class_scores(shape, 0.8, generator).to(device)
        boxes = random_boxes(batch * 90_000, generator, device).view(*shape, 4)
        yield Case(
            "multiclass_nms",
            f"R-CNN {batch} x 1000 x 90",
            "torchvision's R-CNN",
            partial(multiclass_nms, boxes, scores),
            partial(detect_in_torchvision, boxes, scores, 0.05, 0.5, None, 100),
            None,
            same_detections,
            bytes_moved=size_in_bytes(boxes, scores),
        )
