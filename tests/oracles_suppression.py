"""Oracles of soft, matrix and multiclass suppression and of fusion: loops over single boxes."""

from __future__ import annotations

import numpy as np
from oracles import box_iou, iou_with_each, nms


def _ids(ids, n) -> np.ndarray:
    return np.zeros(n, np.int64) if ids is None else ids


def soft_nms_linear(
    boxes,
    scores,
    iou_threshold,
    score_threshold,
    labels=None,
    image_ids=None,
    max_output=None,
):
    """Linear soft NMS, exact: sequential multiplications in the dtype of the boxes."""
    n = len(boxes)
    labels, image_ids = _ids(labels, n), _ids(image_ids, n)
    scores = scores.copy()
    left = np.ones(n, bool) & ~np.isnan(boxes).any(1) & ~np.isnan(scores)
    keep, kept_scores, kept_of_image = [], [], {}
    while True:
        left &= scores.astype(np.float64) >= score_threshold
        full = [image for image, count in kept_of_image.items() if count == max_output]
        left &= ~np.isin(image_ids, full) if max_output != 0 else False
        if not left.any():
            return np.array(keep, np.int64), np.array(kept_scores, scores.dtype)
        i = min(np.flatnonzero(left), key=lambda j: (-scores[j], j))
        keep.append(i)
        kept_scores.append(scores[i])
        kept_of_image[image_ids[i]] = kept_of_image.get(image_ids[i], 0) + 1
        left[i] = False
        overlap = iou_with_each(boxes[i], boxes)
        for j in np.flatnonzero(left & (labels == labels[i]) & (image_ids == image_ids[i])):
            if float(overlap[j]) >= iou_threshold:
                with np.errstate(invalid="ignore"):
                    scores[j] = scores[j] * (scores.dtype.type(1) - overlap[j])


def soft_nms_gaussian_violation(
    boxes, scores, sigma, score_threshold, keep, kept_scores, labels=None, image_ids=None
) -> float:
    """Largest relative error of a claimed selection of all boxes, followed in float64.

    Every selected box must have the best score, that score must be the one claimed, and nothing
    may be left at the end; a rounding of the scores may swap two boxes, so each is a number.
    """
    n = len(boxes)
    labels, image_ids = _ids(labels, n), _ids(image_ids, n)
    scores = scores.astype(np.float64)
    left = np.ones(n, bool)
    worst = 0.0
    for i, claimed in zip(keep, kept_scores, strict=True):
        assert left[i], "selected twice"
        best = scores[left].max()
        worst = max(worst, (best - scores[i]) / best if best > 0 else 0.0)
        worst = max(worst, abs(scores[i] - claimed) / max(scores[i], 1e-30))
        left[i] = False
        overlap = iou_with_each(boxes[i], boxes).astype(np.float64)
        rivals = left & (labels == labels[i]) & (image_ids == image_ids[i])
        scores[rivals] *= np.exp(-(overlap[rivals] ** 2) / sigma)
    rest = scores[left]
    if len(rest) and rest.max() > score_threshold:
        worst = max(worst, (rest.max() - score_threshold) / rest.max())
    return worst


def matrix_nms(boxes, scores, gaussian, sigma, labels=None, image_ids=None) -> np.ndarray:
    """Decayed scores in float64; the IoU in the dtype of the boxes."""
    n = len(boxes)
    labels, image_ids = _ids(labels, n), _ids(image_ids, n)
    iou = box_iou(boxes, boxes).astype(np.float64)
    # Ranks: a lower one is better.
    order = sorted(range(n), key=lambda j: (-scores[j], j))
    rank = {j: position for position, j in enumerate(order)}

    def better(j):
        return [
            i
            for i in range(n)
            if rank[i] < rank[j] and labels[i] == labels[j] and image_ids[i] == image_ids[j]
        ]

    largest = [max((iou[i, j] for i in better(j)), default=0.0) for j in range(n)]
    result = np.empty(n)
    for j in range(n):
        factor = 1.0
        for i in better(j):
            if gaussian:
                factor = min(factor, np.exp(sigma * (largest[i] ** 2 - iou[i, j] ** 2)))
            elif largest[i] < 1:
                factor = min(factor, (1 - iou[i, j]) / (1 - largest[i]))
        result[j] = scores[j] * factor
    return result


def weighted_boxes_fusion(
    boxes,
    scores,
    labels,
    weights,
    iou_threshold,
    score_threshold,
    conf_type,
    allows_overflow,
    image_ids=None,
):
    """Convert lists of arrays, one per model, to rows (image, label, score, box) in float64."""
    entries = []
    for model, (own_boxes, own_scores, own_labels) in enumerate(
        zip(boxes, scores, labels, strict=True)
    ):
        for k, score in enumerate(own_scores):
            if float(score) >= score_threshold:
                image = 0 if image_ids is None else int(image_ids[model][k])
                box = own_boxes[k].astype(np.float64)
                weighted = float(score) * weights[model]
                entries.append((weighted, len(entries), model, (image, int(own_labels[k])), box))
    entries.sort(key=lambda entry: (-entry[0], entry[1]))
    clusters = []  # lists of entries, with the fused box
    for entry in entries:
        best, best_iou = None, iou_threshold
        for cluster in clusters:
            if cluster["group"] != entry[3]:
                continue
            iou = float(iou_with_each(entry[4], cluster["box"][None])[0])
            if iou > best_iou:
                best, best_iou = cluster, iou
        if best is None:
            clusters.append({"group": entry[3], "box": entry[4], "entries": [entry]})
            continue
        best["entries"].append(entry)
        total = sum(one[0] for one in best["entries"])
        if total > 0:
            best["box"] = sum(one[0] * one[4] for one in best["entries"]) / total
    rows = []
    for cluster in clusters:
        scores = [one[0] for one in cluster["entries"]]
        models = [one[2] for one in cluster["entries"]]
        count, total = len(scores), sum(weights)
        box_weights = sum(weights[m] for m in models)
        present = sum(weights[m] for m in set(models))
        score = {
            "avg": np.mean(scores)
            * (count if allows_overflow else min(count, len(weights)))
            / total,
            "max": max(scores) / max(weights),
            "box_and_model_avg": sum(scores) / box_weights * present / total,
            "absent_model_aware_avg": sum(scores) / (box_weights + total - present),
        }[conf_type]
        first = cluster["entries"][0][1]
        rows.append((-score, first, [*cluster["group"], score, *cluster["box"]]))
    rows.sort(key=lambda row: row[:2])
    return np.array([row[2] for row in rows]).reshape(-1, 7)


def multiclass_nms(boxes, scores, score_threshold, iou_threshold, max_candidates, max_output):
    """Rows (box index, class) of each image, from `nms` of every class by itself."""
    results = []
    for own_boxes, own_scores in zip(boxes, scores, strict=True):
        outputs = []
        for label in range(own_scores.shape[1]):
            score = own_scores[:, label]
            of_class = own_boxes if own_boxes.ndim == 2 else own_boxes[:, label]
            usable = ~np.isnan(of_class).any(1)
            rows = [j for j in range(len(score)) if score[j] >= score_threshold and usable[j]]
            rows = sorted(rows, key=lambda j: (-score[j], j))[:max_candidates]
            rows = np.array(rows, np.int64)
            keep = rows[nms(of_class[rows], score[rows], iou_threshold)]
            outputs += [(-score[j], j, label) for j in keep]
        outputs.sort()
        results.append([(int(j), label) for _, j, label in outputs[:max_output]])
    return results
