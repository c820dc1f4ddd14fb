"""Boxes, scores, ids and the oracle of nms, for the tests of suppression."""

import numpy as np
import oracles
import torch

import cvlib
from cvlib.ops.nms import _nms_reference

nan, inf = float("nan"), float("inf")
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
THRESHOLDS = [0.0, 1e-6, 0.05, 1 / 7, 0.3, 1 / 3, 0.45, 0.5, 0.7, 0.95, 1.0]


def tensors(boxes, scores, device, dtype=torch.float32):
    """Corners of boxes stay in order, because rounding is monotonic."""
    boxes = torch.as_tensor(np.asarray(boxes, np.float64)).to(dtype).reshape(-1, 4)
    return boxes.to(device), torch.as_tensor(np.asarray(scores, np.float64)).to(dtype).to(device)


def oracle(boxes, scores, iou_threshold, **options):
    options = {
        k: v if v is None or k == "max_output" else oracles.to_numpy(v) for k, v in options.items()
    }
    return oracles.nms(oracles.to_numpy(boxes), oracles.to_numpy(scores), iou_threshold, **options)


def assert_kept(keep, expected, boxes):
    assert keep.dtype == torch.int64 and keep.device == boxes.device
    np.testing.assert_array_equal(keep.cpu().numpy(), expected)


def assert_nms_is_right(boxes, scores, iou_threshold):
    keep = cvlib.nms(boxes, scores, iou_threshold)
    assert_kept(keep, oracle(boxes, scores, iou_threshold), boxes)
    return keep


def reference(boxes, scores, iou_threshold, labels=None, image_ids=None, max_output=None):
    limit = len(boxes) if max_output is None else max_output
    return _nms_reference(boxes, scores, labels, image_ids, iou_threshold, limit)


def native(boxes, scores, iou_threshold, labels=None, image_ids=None, max_output=None):
    limit = len(boxes) if max_output is None else max_output
    return torch.ops.cvlib.nms(boxes, scores, labels, image_ids, iou_threshold, limit)


def uniform(rng, n):
    return oracles.random_boxes(rng, n, size=60, extent=15 * np.sqrt(n))


def clusters(rng, n):
    centre = rng.uniform(-500, 500, (8, 2))[rng.integers(0, 8, n)]
    side = rng.uniform(5, 20, (n, 2))
    corner = centre + rng.normal(0, 3, (n, 2))
    return np.concatenate([corner, corner + side], 1)


def integer_grid(rng, n):
    """Small integer corners: ties at 1/2, 1/3, 1/7 and many identical and empty boxes."""
    corner = rng.integers(-6, int(np.sqrt(n)) + 2, (n, 2))
    return np.concatenate([corner, corner + rng.integers(0, 5, (n, 2))], 1).astype(float)


def lattice(rng, n):
    """Equal squares at half a side from each other: every IoU is 0, 1/7 or 1/3."""
    columns = int(np.ceil(np.sqrt(n)))
    corner = np.stack(np.divmod(np.arange(n), columns), 1) * 8.0
    return rng.permutation(np.concatenate([corner, corner + 16], 1))


def touching_lattice(rng, n):
    """Squares that share edges and nothing else, at a likely cell size of a grid search."""
    columns = int(np.ceil(np.sqrt(n)))
    corner = np.stack(np.divmod(np.arange(n), columns), 1) * 16.0 - 64
    return rng.permutation(np.concatenate([corner, corner + 16], 1))


def mixed_scales(rng, n):
    side = 10.0 ** rng.uniform(-3, 4, (n, 1)) * rng.uniform(0.8, 1, (n, 2))
    corner = rng.uniform(-1, 1, (n, 2)) * 10.0 ** rng.uniform(-3, 4, (n, 1))
    return np.concatenate([corner, corner + side], 1)


def two_scales(rng, n):
    """Crowds of 1e-3 wide boxes under a few that are 1e4 wide."""
    boxes = mixed_scales(rng, n)
    wide = rng.random(n) < 0.1
    corner = rng.uniform(0, 0.004, (n, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(5e-4, 1e-3, (n, 2))], 1)
    boxes[wide] = np.array([-5e3, -5e3, 5e3, 5e3]) + rng.uniform(-500, 500, (int(wide.sum()), 4))
    return boxes


def nested(rng, n):
    """Each box contains others; their share of it lies within rounding of a threshold."""
    share = rng.choice(THRESHOLDS[2:-1], n) * (1 + rng.integers(-3, 4, n) * 2.0**-24)
    parent = oracles.random_boxes(rng, max(1, n // 8), size=100, extent=2000)
    boxes = parent[rng.integers(0, len(parent), n)]
    boxes[:, 2] = boxes[:, 0] + (boxes[:, 2] - boxes[:, 0]) * np.where(
        rng.random(n) < 0.2, 1, share
    )
    return boxes


def slivers(rng, n):
    """Very long and very thin, lying and standing, crossing each other."""
    corner = rng.uniform(-50, 50, (n, 2))
    side = np.stack([rng.uniform(100, 5000, n), 10.0 ** rng.uniform(-4, 0.5, n)], 1)
    side[::2] = side[::2, ::-1].copy()
    corner[1::2] = corner[1::2] // 10 * 10
    return np.concatenate([corner, corner + side], 1)


def identical(rng, n):
    return np.tile([[3.0, 4.0, 10.0, 12.0]], (n, 1))


def diagonal_chain(rng, n):
    """Each box overlaps the next alone; far pairs have the same coordinates on one axis."""
    start = np.arange(n) * 5.0
    return np.stack([start, start % 70, start + 8, start % 70 + 8], 1)


def mostly_empty(rng, n):
    boxes = uniform(rng, n)
    flat = rng.integers(0, 4, n)
    boxes[flat == 0, 2] = boxes[flat == 0, 0]
    boxes[flat == 1, 3] = boxes[flat == 1, 1]
    boxes[flat == 2, 2:] = boxes[flat == 2, :2]
    return boxes


def with_infinities(rng, n):
    boxes = uniform(rng, n)
    for column, value in ((0, -inf), (1, -inf), (2, inf), (3, inf)):
        boxes[rng.random(n) < 0.05, column] = value
    boxes[rng.random(n) < 0.03] = inf
    boxes[rng.random(n) < 0.03] = -inf
    return boxes


def one_far_away(rng, n):
    """An outlier makes a grid over the whole extent useless, or overflow."""
    boxes = uniform(rng, n)
    boxes[0] = [1e30, 1e30, 2e30, 2e30]
    boxes[-1] = [-3e38, -3e38, -2.9e38, -2.9e38]
    return boxes


def shifted(offset, scale=1.0):
    def scene(rng, n):
        return uniform(rng, n) * scale + offset

    scene.__name__ = f"shifted_{offset:g}"
    return scene


def scaled(factor, scene=clusters):
    def scaled_scene(rng, n):
        with np.errstate(all="ignore"):
            return np.clip(scene(rng, n) * factor, -3.4e38, 3.4e38)

    scaled_scene.__name__ = f"scaled_{factor:g}"
    return scaled_scene


SCENES = [
    uniform,
    clusters,
    integer_grid,
    lattice,
    touching_lattice,
    mixed_scales,
    two_scales,
    nested,
    slivers,
    identical,
    diagonal_chain,
    mostly_empty,
    with_infinities,
    one_far_away,
    shifted(1e6),
    shifted(-1e7),
    shifted(1e7, 0.05),
    shifted(-3e9, 100),
    *[scaled(f) for f in (1e-41, 1e-38, 1e-30, 1e-22, 1e-20, 1e-19, 1e15, 1e16, 1e17, 1e30, 1e36)],
]


def scores_for(rng, n, kind):
    if kind == "distinct":
        return rng.permutation(n) / max(n, 1)
    if kind == "tied":  # with both zeros, which are equal
        return rng.choice([0.75, 0.5, 0.0, -0.0, -1.0, 0.25], n)
    return np.sort(rng.normal(size=n)) * 10.0 ** rng.uniform(-3, 3)  # worst first


IDS = {
    "none": lambda rng, n: None,
    "one": lambda rng, n: torch.full((n,), 7),
    "few": lambda rng, n: torch.from_numpy(rng.integers(0, 4, n)),
    "negative": lambda rng, n: torch.from_numpy(rng.integers(-3, 3, n)),
    "huge": lambda rng, n: torch.from_numpy(
        rng.choice([2**62, 2**62 + 1, -(2**63), 2**63 - 1, 0, 2**32, 2**53, 2**53 + 1], n)
    ),
    "all different": lambda rng, n: torch.from_numpy(rng.permutation(n)) - n // 2,
}
