"""Slow and obvious losses in float64, from their definitions in NumPy."""

from __future__ import annotations

import math

import numpy as np


def log_sigmoid(x):
    return -np.logaddexp(0, -np.asarray(x, np.float64))


def one_hot(classes, columns):
    return (np.asarray(classes)[..., None] == np.arange(columns)).astype(np.float64)


def focal_loss(inputs, targets, alpha, gamma):
    """Equation 5 of the paper, for targets from 0 to 1."""
    x, t = np.asarray(inputs, np.float64), np.asarray(targets, np.float64)
    p, n = np.exp(log_sigmoid(x)), np.exp(log_sigmoid(-x))
    with np.errstate(invalid="ignore"):
        right = np.where(t == 0, 0, t * log_sigmoid(x))
        wrong = np.where(t == 1, 0, (1 - t) * log_sigmoid(-x))
    weight = np.ones_like(t) if alpha < 0 else alpha * t + (1 - alpha) * (1 - t)
    with np.errstate(invalid="ignore"):
        loss = weight * (p * (1 - t) + n * t) ** gamma * -(right + wrong)
    return np.where((weight == 0) & ~np.isnan(x), 0, loss)


def reduce(values, reduction):
    if reduction == "none":
        return values
    total = math.fsum(values.ravel())
    if reduction == "sum":
        return total
    return total / values.size if values.size else math.nan


def smooth_l1(difference):
    size = abs(difference)
    return size * size / 2 if size < 1 else size - 0.5


def ssd_loss(logits, offsets, classes, target_offsets, ratio, losses=None):
    """Class loss, box loss, kept anchors, and the gradients of both losses to logits and offsets.

    ``losses`` are cross-entropies that decide, instead of those computed here.
    """
    logits = np.asarray(logits, np.float64)
    batch, anchors, columns = logits.shape
    kept = np.zeros((batch, anchors), bool)
    to_logits, to_offsets = np.zeros(logits.shape), np.zeros((batch, anchors, 4))
    class_terms, box_terms = [], []
    count = max(1, int((classes > 0).sum()))
    for b in range(batch):
        entropy, probability = np.zeros(anchors), np.zeros((anchors, columns))
        for a in range(anchors):
            row = logits[b, a]
            logarithm = row.max() + math.log(sum(math.exp(x - row.max()) for x in row))
            probability[a] = np.exp(row - logarithm)
            entropy[a] = logarithm - row[max(classes[b, a], 0)]
        hardness = entropy if losses is None else losses[b]
        negatives = [a for a in range(anchors) if classes[b, a] == 0]
        negatives.sort(key=lambda a: -hardness[a])  # stable
        positives = [a for a in range(anchors) if classes[b, a] > 0]
        limit = ratio * len(positives)
        hard = [a for rank, a in enumerate(negatives) if rank < limit]
        for a in positives + hard:
            kept[b, a] = True
            class_terms.append(entropy[a])
            to_logits[b, a] = (probability[a] - one_hot(classes[b, a], columns)) / count
        for a in positives:
            for k in range(4):
                difference = float(offsets[b, a, k]) - float(target_offsets[b, a, k])
                box_terms.append(smooth_l1(difference))
                to_offsets[b, a, k] = min(max(difference, -1), 1) / count
    sums = math.fsum(class_terms) / count, math.fsum(box_terms) / count
    return *sums, kept, to_logits, to_offsets
