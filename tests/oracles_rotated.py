"""Rotated boxes by the definition: polygons clipped edge by edge, slow and obvious.

The same lines run on float64 numbers and on fractions. Fractions are exact but for sine and cosine,
which have 60 digits; they give the right answer where float64 is not precise enough.
"""

import itertools
from fractions import Fraction

import numpy as np

PI = Fraction(3141592653589793238462643383279502884197169399375105820974944592307816406286, 10**75)
_GRAIN = 2**200


def exact_sine_and_cosine(degrees) -> tuple[Fraction, Fraction]:
    """Sine and cosine by Taylor series after reduction by full turns; right angles are exact."""
    rest = Fraction(degrees) % 360
    turns, rest = divmod(rest, 90)
    x = Fraction(round(rest * PI / 180 * _GRAIN), _GRAIN)
    sine, cosine, term, n = Fraction(0), Fraction(0), Fraction(1), 0
    while abs(term) > Fraction(1, _GRAIN):
        if n % 2 == 0:
            cosine += term * (-1) ** (n // 2)
        else:
            sine += term * (-1) ** (n // 2)
        n += 1
        term = Fraction(round(term * x / n * _GRAIN), _GRAIN)
    quarter = [(sine, cosine), (cosine, -sine), (-sine, -cosine), (-cosine, sine)]
    return quarter[int(turns)]


def float_sine_and_cosine(degrees) -> tuple[float, float]:
    radians = np.radians(np.fmod(np.float64(degrees), 360.0))
    return float(np.sin(radians)), float(np.cos(radians))


def corners(box, center, number) -> list:
    """The four corners of (cx, cy, w, h, angle), seen from ``center``, one after the other."""
    sine, cosine = (exact_sine_and_cosine if number is Fraction else float_sine_and_cosine)(box[4])
    x, y, w, h = (number(float(value)) for value in box[:4])
    x, y = x - number(float(center[0])), y - number(float(center[1]))
    result = []
    for along_w, along_h in ((-1, -1), (1, -1), (1, 1), (-1, 1)):
        a, b = along_w * w / 2, along_h * h / 2
        # Counter-clockwise as seen in an image, where y points down.
        result.append((x + a * cosine + b * sine, y - a * sine + b * cosine))
    return result


def _cross(o, p, q):
    return (p[0] - o[0]) * (q[1] - o[1]) - (p[1] - o[1]) * (q[0] - o[0])


def clip(polygon: list, clipper: list) -> list:
    """Intersection of two convex polygons, both in the order of `corners`."""
    for start, end in zip(clipper, clipper[1:] + clipper[:1], strict=True):
        result = []
        for p, q in zip(polygon, polygon[1:] + polygon[:1], strict=True):
            side_p, side_q = _cross(start, end, p), _cross(start, end, q)
            if side_p >= 0:
                result.append(p)
            if (side_p > 0 and side_q < 0) or (side_p < 0 and side_q > 0):
                t = side_p / (side_p - side_q)
                result.append((p[0] + t * (q[0] - p[0]), p[1] + t * (q[1] - p[1])))
        polygon = result
    return polygon


def area(polygon: list):
    if len(polygon) < 3:
        return 0
    rest = itertools.pairwise(polygon[1:])
    return sum((_cross(polygon[0], p, q) for p, q in rest), start=0 * polygon[0][0]) / 2


def pair_iou(a, b, number=float):
    """IoU of two boxes (cx, cy, w, h, angle) as ``number``: float or Fraction."""
    w1, h1, w2, h2 = (number(float(value)) for value in (a[2], a[3], b[2], b[3]))
    if w1 * h1 == 0 or w2 * h2 == 0:
        return number(0)
    if np.hypot(a[0] - b[0], a[1] - b[1]) > 0.51 * (np.hypot(*a[2:4]) + np.hypot(*b[2:4])):
        return number(0)
    shared = area(clip(corners(a, a, number), corners(b, a, number)))
    return shared / (w1 * h1 + w2 * h2 - shared)


def box_iou_rotated(boxes1, boxes2, number=float) -> np.ndarray:
    """IoU (N, M) in float64; with ``Fraction`` correctly rounded."""
    boxes1, boxes2 = np.asarray(boxes1, np.float64), np.asarray(boxes2, np.float64)
    rows = [[float(pair_iou(a, b, number)) for b in boxes2] for a in boxes1]
    return np.array(rows, np.float64).reshape(len(boxes1), len(boxes2))


def nms_rotated(
    boxes, scores, iou_threshold, labels=None, image_ids=None, max_output=None
) -> tuple[np.ndarray, float]:
    """Kept indices, and how near an IoU that mattered came to the threshold.

    IoUs are rounded to the dtype of the boxes, as in the docstring. Where one is next to the
    threshold, the rounding of float64 may decide either way.
    """
    labels = np.zeros(len(boxes), np.int64) if labels is None else labels
    image_ids = np.zeros(len(boxes), np.int64) if image_ids is None else image_ids
    alive = ~(np.isnan(boxes).any(1) | np.isnan(scores))
    keep, kept_of_image, distance = [], {}, np.inf
    order = list(np.argsort(-scores, kind="stable"))
    for rank, i in enumerate(order):
        if not alive[i] or kept_of_image.get(int(image_ids[i]), 0) == max_output:
            continue
        kept_of_image[int(image_ids[i])] = kept_of_image.get(int(image_ids[i]), 0) + 1
        keep.append(i)
        for j in order[rank + 1 :]:
            if alive[j] and labels[i] == labels[j] and image_ids[i] == image_ids[j]:
                exact = pair_iou(boxes[i].astype(np.float64), boxes[j].astype(np.float64))
                distance = min(distance, abs(exact - iou_threshold))
                alive[j] = not float(boxes.dtype.type(exact)) > iou_threshold
    return np.array(keep, np.int64), float(distance)


def random_rotated_boxes(rng, n, *, size=100.0, extent=1000.0, turns=1.0) -> np.ndarray:
    """Boxes (n, 5) in float64 with positive sides and angles of up to `turns` turns."""
    center = rng.uniform(0, extent, (n, 2))
    sides = rng.uniform(size / 10, size, (n, 2))
    angle = rng.uniform(-360 * turns, 360 * turns, (n, 1))
    return np.concatenate([center, sides, angle], axis=1).reshape(n, 5)
