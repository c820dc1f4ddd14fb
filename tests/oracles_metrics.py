"""Slow, obvious evaluators, from the definitions alone: one image and one box at a time."""

import numpy as np


def iou(a, b, crowd=False):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    area_a, area_b = ((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return width * height / (area_a if crowd else area_a + area_b - width * height)


def plain(truths, detections):
    """Images as lists of (box, label, crowd) and (box, label, score)."""
    return [
        (
            list(zip(t.boxes.tolist(), t.labels.tolist(), t.crowds.tolist(), strict=True)),
            list(zip(d.boxes.tolist(), d.labels.tolist(), d.scores.tolist(), strict=True)),
        )
        for t, d in zip(truths, detections, strict=True)
    ]


def voc_average_precision(truths, detections, label, year):
    """VOCevaldet.m and VOCap.m, without the kit's "+1"; None without objects."""
    images = plain(truths, detections)
    objects = [[one for one in true if one[1] == label] for true, _ in images]
    taken = [[False] * len(actual) for actual in objects]
    total = sum(not difficult for actual in objects for _, _, difficult in actual)
    results = [(s, i, box) for i, (_, ds) in enumerate(images) for box, k, s in ds if k == label]
    results.sort(key=lambda one: -one[0])
    right, wrong = [], []
    for _, i, box in results:
        best, which = -1.0, None
        for j, (true_box, _, _) in enumerate(objects[i]):
            if iou(box, true_box) > best:
                best, which = iou(box, true_box), j
        hit = miss = 0
        if best >= 0.5:
            if not objects[i][which][2]:
                hit, miss = (0, 1) if taken[i][which] else (1, 0)
                taken[i][which] = True
        else:
            miss = 1
        right.append(hit), wrong.append(miss)
    if not total:
        return None
    tp, fp = np.cumsum(right), np.cumsum(wrong)
    recall, precision = tp / total, tp / np.maximum(tp + fp, 1)
    if year == 2007:
        parts = [precision[recall >= t] for t in [i * 0.1 for i in range(11)]]
        return sum(part.max() if len(part) else 0 for part in parts) / 11
    recall, precision = [0, *recall, 1], [0, *precision, 0]
    for i in range(len(precision) - 2, -1, -1):
        precision[i] = max(precision[i], precision[i + 1])
    return sum((recall[i] - recall[i - 1]) * precision[i] for i in range(1, len(recall)))


def confusion(truths, detections, size, iou_threshold, score_threshold):
    counts = np.zeros((size + 1, size + 1), int)
    for true, results in plain(truths, detections):
        results = [one for one in results if one[2] >= score_threshold]
        real = [one for one in true if not one[2]]
        pairs = [
            (iou(d[0], t[0]), d[2], i, j)
            for i, d in enumerate(results)
            for j, t in enumerate(real)
            if iou(d[0], t[0]) >= iou_threshold
        ]
        pairs.sort(key=lambda pair: (-pair[0], -pair[1]))
        left, right = set(range(len(results))), set(range(len(real)))
        for _, _, i, j in pairs:
            if i in left and j in right:
                left.remove(i), right.remove(j)
                counts[real[j][1], results[i][1]] += 1
        for i in left:
            box, label, _ = results[i]
            crowds = [t[0] for t in true if t[2] and t[1] == label]
            if not any(iou(box, crowd, True) >= iou_threshold for crowd in crowds):
                counts[size, label] += 1
        for j in right:
            counts[real[j][1], size] += 1
    return counts


def average_precision_101(points, total):
    """COCO's: mean of the best precision at or beyond each of 101 recalls."""
    points = sorted(points, key=lambda point: -point[0])
    curve, hits = [], 0
    for n, (_, is_right) in enumerate(points, 1):
        hits += is_right
        curve.append((hits / total, hits / n))
    best = [max((p for r, p in curve if r >= t), default=0) for t in np.linspace(0, 1, 101)]
    return sum(best) / 101


def errors(truths, detections, size, positive=0.5, background=0.1):
    """TIDE, from the paper: every error, and the average precision without each kind."""
    right, wrong, missed, totals, unfound = [], [], [], [0] * size, [0] * size
    for image, (true, results) in enumerate(plain(truths, detections)):
        real = [(box, label) for box, label, crowd in true if not crowd]
        owner = {}
        judged = {}
        for i in sorted(range(len(results)), key=lambda i: -results[i][2]):
            box, label, _ = results[i]
            free = [
                (iou(box, t[0]), j)
                for j, t in enumerate(real)
                if t[1] == label and j not in owner and iou(box, t[0]) >= positive
            ]
            if free:
                owner[max(free)[1]] = i
                judged[i] = "right"
            elif any(
                crowd and k == label and iou(box, b, True) >= positive for b, k, crowd in true
            ):
                judged[i] = "ignored"
        claimed = set()
        for i in sorted(range(len(results)), key=lambda i: -results[i][2]):
            box, label, score = results[i]
            if i in judged:
                if judged[i] == "right":
                    right.append((label, score))
                continue
            same = [(iou(box, t[0]), -j) for j, t in enumerate(real) if t[1] == label]
            other = [(iou(box, t[0]), -j) for j, t in enumerate(real) if t[1] != label]
            best_same, best_other = max(same, default=(0, 0)), max(other, default=(0, 0))
            target = None
            if background <= best_same[0] <= positive:
                kind, target = "localisation", -best_same[1]
            elif best_other[0] >= positive:
                kind, target = "classification", -best_other[1]
            elif best_same[0] >= positive:
                kind = "duplicate"
            elif max(best_same[0], best_other[0]) <= background:
                kind = "background"
            else:
                kind = "both"
            if target in owner:
                target = None
            mended = None if target is None or target in claimed else real[target][1]
            if target is not None:
                claimed.add(target)
            wrong.append((kind, label, score, mended, image))
        for j, (_, label) in enumerate(real):
            totals[label] += 1
            if j not in owner:
                unfound[label] += 1
                if j not in claimed:
                    missed.append((label, image))

    def score(wrongs, counts, extra=()):
        values = []
        for k in range(size):
            points = [(s, 1) for label, s in [*right, *extra] if label == k]
            points += [(s, 0) for _, label, s, *_ in wrongs if label == k]
            if counts[k]:
                values.append(average_precision_101(points, counts[k]))
            elif totals[k] and points:
                values.append(0)
        return sum(values) / len(values) if values else -1

    base = score(wrong, totals)
    deltas, counts = {}, {}
    for kind in ("classification", "localisation", "both", "duplicate", "background"):
        extra = [(w[3], w[2]) for w in wrong if w[0] == kind and w[3] is not None]
        deltas[kind] = score([w for w in wrong if w[0] != kind], totals, extra) - base
        counts[kind] = sum(w[0] == kind for w in wrong)
    fewer = [totals[k] - sum(label == k for label, _ in missed) for k in range(size)]
    deltas["missed"] = score(wrong, fewer) - base
    counts["missed"] = len(missed)
    deltas["false_positive"] = score([], totals) - base
    results = [totals[k] - unfound[k] for k in range(size)]
    deltas["false_negative"] = score(wrong, results) - base
    costs = {}
    for _, _, s, _, image in wrong:
        costs[image] = costs.get(image, 0) + s
    for _, image in missed:
        costs[image] = costs.get(image, 0) + 1
    return base, counts, {kind: max(value, 0) for kind, value in deltas.items()}, costs


def segmentation(pairs, size, ignore):
    """Mean IoU, pixel accuracy and class accuracy, one pixel at a time."""
    shared, true, results = ([0] * size for _ in range(3))
    right = total = 0
    for predicted, truth in pairs:
        for p, t in zip(predicted.ravel().tolist(), truth.ravel().tolist(), strict=True):
            if t == ignore:
                continue
            total += 1
            right += p == t
            true[t] += 1
            if p != ignore:
                results[p] += 1
            if p == t:
                shared[t] += 1
    unions = [true[k] + results[k] - shared[k] for k in range(size)]
    ious = [shared[k] / unions[k] for k in range(size) if unions[k]]
    accuracies = [shared[k] / true[k] for k in range(size) if true[k]]
    return (
        sum(ious) / len(ious) if ious else -1,
        right / total if total else -1,
        sum(accuracies) / len(accuracies) if accuracies else -1,
    )
