"""nms and batched_nms: decisions are compared exactly, everywhere."""

import numpy as np
import oracles
import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st

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


# --- scenes: float64 boxes (n, 4) that attack the search for near boxes ---------------------------


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
    """Squares that share edges and nothing else, at the cell size that a grid may well choose."""
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
    """Each box contains others whose share of it lies within rounding of a threshold."""
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
    if kind == "tied":  # with both zeros, that are equal
        return rng.choice([0.75, 0.5, 0.0, -0.0, -1.0, 0.25], n)
    return np.sort(rng.normal(size=n)) * 10.0 ** rng.uniform(-3, 3)  # worst first


# --- matches the oracle -------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("n", [0, 1, 2, 7, 63, 64, 65, 400])
def test_matches_oracle(device, dtype, n, rng):
    for iou_threshold in (0.2, 0.5, 0.7):
        boxes, scores = tensors(uniform(rng, n), rng.random(n), device, dtype)
        assert_nms_is_right(boxes, scores, iou_threshold)


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_matches_oracle_on_scenes(device, scene, rng):
    for n in (33, 159, 160, 161, 199, 200, 201, 350):
        for iou_threshold in rng.choice(THRESHOLDS, 4, replace=False):
            kind = rng.choice(["distinct", "tied", "worst first"])
            boxes, scores = tensors(scene(rng, n), scores_for(rng, n, kind), device)
            assert_nms_is_right(boxes, scores, float(iou_threshold))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16], ids=str)
@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_matches_oracle_on_scenes_in_other_dtypes(device, scene, dtype, rng):
    for n in (90, 260):
        iou_threshold = float(rng.choice(THRESHOLDS))
        boxes, scores = tensors(scene(rng, n), scores_for(rng, n, "tied"), device, dtype)
        assert_nms_is_right(boxes, scores, iou_threshold)


@pytest.mark.parametrize(
    ("scene", "iou_threshold"),
    [
        (uniform, 0.5),
        (clusters, 0.3),
        (integer_grid, 1 / 3),
        (lattice, 1 / 7),
        (mixed_scales, 0.02),
        (two_scales, 0.0),
        (nested, 0.45),
        (slivers, 0.01),
        (one_far_away, 0.1),
        (shifted(1e6), 0.4),
        (shifted(-1e7), 0.4),
        (with_infinities, 0.3),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_matches_oracle_when_large(device, scene, iou_threshold, rng):
    n = 5000 if scene in (clusters, two_scales, slivers, mixed_scales) else 2100
    boxes, scores = tensors(scene(rng, n), scores_for(rng, n, "tied"), device)
    assert_nms_is_right(boxes, scores, iou_threshold)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("count", range(1, 10))
def test_threshold_is_compared_as_given(device, dtype, count):
    # The IoU is count / 10 rounded to the dtype; the threshold is a double on either side of it.
    # In float32, .1 and .6 round up and are greater than the double, .7 and .9 round down.
    boxes, scores = tensors([[0, 0, 10, 1], [0, 0, count, 1]], [1, 0], device, dtype)
    iou = float(cvlib.box_iou(boxes[:1], boxes[1:]))
    for threshold in (count / 10, iou, np.nextafter(iou, 0), np.nextafter(iou, 1)):
        kept = assert_nms_is_right(boxes, scores, float(threshold))
        assert len(kept) == (1 if iou > threshold else 2)


@pytest.mark.parametrize(("numerator", "denominator"), [(1, 2), (1, 3), (1, 7), (0, 1), (1, 1)])
def test_iou_equal_to_the_threshold_does_not_suppress(device, numerator, denominator):
    # A box 2d x 1 and its first 2n x 1, in float64: the IoU is n / d, rounded as Python rounds it.
    rows = [[0, 0, 2 * denominator, 1], [0, 0, 2 * numerator, 1]]
    boxes, scores = tensors(rows, [1, 0], device, torch.float64)
    threshold = numerator / denominator
    assert cvlib.nms(boxes, scores, threshold).tolist() == [0, 1]
    if threshold > 0:
        assert cvlib.nms(boxes, scores, np.nextafter(threshold, 0)).tolist() == [0]


@pytest.mark.parametrize("iou_threshold", [0, 1, 0.0, 1.0, np.float64(0.5)])
def test_threshold_may_be_any_number(device, iou_threshold, rng):
    boxes, scores = tensors(integer_grid(rng, 50), rng.random(50), device)
    assert_kept(
        cvlib.nms(boxes, scores, iou_threshold), oracle(boxes, scores, iou_threshold), boxes
    )


def test_equal_scores_keep_the_order_of_the_input(device):
    # Far apart, so that all are kept; 0.0 and -0.0 are equal.
    for n in (5, 300, 3000):
        corner = torch.arange(n, device=device).float() * 10
        boxes = torch.stack([corner, corner, corner + 1, corner + 1], 1)
        scores = torch.zeros(n, device=device)
        scores[::3] = -0.0
        assert cvlib.nms(boxes, scores, 0.5).tolist() == list(range(n))
        scores[1::3] = 1
        expected = [*range(1, n, 3), *(i for i in range(n) if i % 3 != 1)]
        assert cvlib.nms(boxes, scores, 0.5).tolist() == expected


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_scores_of_any_sign_and_size_are_ordered(device, dtype):
    values = [0.5, -inf, inf, 1e-7, -1e-7, -3, 6e4, -6e4, 0.0, -0.0, 1, 1.0009765625, 6e-8, inf]
    corner = np.arange(len(values)) * 10.0
    boxes, scores = tensors(
        np.stack([corner, corner, corner + 1, corner + 1], 1), values, device, dtype
    )
    keep = assert_nms_is_right(boxes, scores, 0.5)
    assert len(keep) == len(values)


@pytest.mark.parametrize("n", [10, 199, 1000])
def test_max_output_gives_the_head_of_the_full_result(device, n, rng):
    for scene in (uniform, clusters, integer_grid, mixed_scales):
        boxes, scores = tensors(scene(rng, n), scores_for(rng, n, "tied"), device)
        full = cvlib.nms(boxes, scores, 0.4)
        for limit in (0, 1, 2, 5, len(full) - 1, len(full), len(full) + 1, n, n + 1, 2**40):
            assert torch.equal(cvlib.nms(boxes, scores, 0.4, max_output=limit), full[:limit])


@pytest.mark.parametrize("rows", [slice(None, None, 2), slice(1, None, 3), slice(5, 6)])
def test_memory_layout_does_not_matter(device, rows, rng):
    boxes, scores = tensors(clusters(rng, 400), rng.random(400), device)
    expected = oracle(boxes[rows], scores[rows], 0.4)
    assert_kept(cvlib.nms(boxes[rows], scores[rows], 0.4), expected, boxes)
    column_major = boxes[rows].t().contiguous().t()
    assert_kept(cvlib.nms(column_major, scores[rows], 0.4), expected, boxes)
    wide = torch.cat([scores[rows, None], boxes[rows], scores[rows, None]], 1)
    assert_kept(cvlib.nms(wide[:, 1:5], wide[:, 5], 0.4), expected, boxes)


def test_expanded_boxes_and_scores(device):
    boxes, scores = tensors([[0, 0, 2, 2]], [0.5], device)
    assert cvlib.nms(boxes.expand(300, 4), scores.expand(300), 0.5).tolist() == [0]
    assert cvlib.nms(boxes.expand(300, 4), scores.expand(300), 1.0).tolist() == list(range(300))


def test_arguments_that_require_grad(device, rng):
    boxes, scores = tensors(clusters(rng, 50), rng.random(50), device)
    expected = cvlib.nms(boxes, scores, 0.4)
    keep = cvlib.nms(boxes.requires_grad_(), scores.requires_grad_(), 0.4)
    assert torch.equal(keep, expected) and not keep.requires_grad


@pytest.mark.cuda
def test_invalid_boxes_and_scores_are_never_kept_on_cuda(cuda, rng):
    for n in (20, 300, 3000):
        boxes, scores = tensors(clusters(rng, n), scores_for(rng, n, "tied"), cuda)
        boxes[torch.from_numpy(rng.random(n) < 0.1), int(rng.integers(4))] = nan
        scores[torch.from_numpy(rng.random(n) < 0.1)] = nan
        keep = assert_nms_is_right(boxes, scores, 0.3)
        assert not boxes[keep].isnan().any() and not scores[keep].isnan().any()


@pytest.mark.cuda
def test_inverted_boxes_count_as_empty_on_cuda(cuda):
    rows = [[10, 10, 0, 0], [0, 0, 10, 10], [0, 10, 10, 0], [0, 0, 10, 9]]
    boxes, scores = tensors(rows, [4, 3, 2, 1], cuda)
    assert cvlib.nms(boxes, scores, 0.5).tolist() == [0, 1, 2]


# --- batched_nms matches the oracle -------------------------------------------------------------

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


def to_device(ids, device):
    return None if ids is None else ids.to(device)


@pytest.mark.parametrize("images", IDS)
@pytest.mark.parametrize("labels", IDS)
def test_batched_nms_matches_oracle(device, labels, images, rng):
    for n in (1, 40, 161, 500):
        scene = SCENES[rng.integers(len(SCENES))]
        iou_threshold = float(rng.choice(THRESHOLDS))
        boxes, scores = tensors(scene(rng, n), scores_for(rng, n, "tied"), device)
        ids = [to_device(IDS[kind](rng, n), device) for kind in (labels, images)]
        for limit in (None, 0, 1, 3):
            keep = cvlib.batched_nms(
                boxes, scores, ids[0], iou_threshold, image_ids=ids[1], max_output=limit
            )
            expected = oracle(
                boxes, scores, iou_threshold, labels=ids[0], image_ids=ids[1], max_output=limit
            )
            assert_kept(keep, expected, boxes)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("scene", [clusters, integer_grid, uniform])
def test_batched_nms_matches_oracle_when_large(device, scene, dtype, rng):
    n = 1500
    boxes, scores = tensors(scene(rng, n), scores_for(rng, n, "tied"), device, dtype)
    labels, images = (IDS[kind](rng, n).to(device) for kind in ("few", "huge"))
    keep = cvlib.batched_nms(boxes, scores, labels, 0.3, image_ids=images, max_output=40)
    expected = oracle(boxes, scores, 0.3, labels=labels, image_ids=images, max_output=40)
    assert_kept(keep, expected, boxes)


def test_batched_nms_without_boxes(device):
    boxes, scores = torch.zeros(0, 4, device=device), torch.zeros(0, device=device)
    ids = torch.zeros(0, dtype=torch.int64, device=device)
    for limit in (None, 0, 5):
        keep = cvlib.batched_nms(boxes, scores, ids, 0.5, image_ids=ids, max_output=limit)
        assert_kept(keep, np.zeros(0, np.int64), boxes)


def test_batched_nms_with_one_group_equals_nms(device, rng):
    boxes, scores = tensors(clusters(rng, 300), rng.random(300), device)
    expected = cvlib.nms(boxes, scores, 0.3)
    for ids in (None, torch.full((300,), -5, device=device)):
        assert torch.equal(cvlib.batched_nms(boxes, scores, ids, 0.3), expected)
        assert torch.equal(cvlib.batched_nms(boxes, scores, None, 0.3, image_ids=ids), expected)


def test_batched_nms_of_different_labels_keeps_identical_boxes(device):
    # Where adding offsets to coordinates fails: labels far apart, negative coordinates.
    boxes, scores = tensors([[-500, -500, -100, -100]] * 4, [0.1, 0.4, 0.3, 0.2], device)
    labels = torch.tensor([0, 2**62, -1, 2**62], device=device)
    assert cvlib.batched_nms(boxes, scores, labels, 0.0).tolist() == [1, 2, 0]


def test_batched_nms_limits_each_image_by_itself(device):
    corner = torch.arange(6, device=device).float() * 10
    boxes = torch.stack([corner, corner, corner + 1, corner + 1], 1)
    scores = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5, 0.4], device=device)
    images = torch.tensor([5, 5, 5, -1, -1, 9], device=device)
    labels = torch.tensor([0, 1, 2, 0, 1, 0], device=device)
    keep = cvlib.batched_nms(boxes, scores, labels, 0.5, image_ids=images, max_output=1)
    assert keep.tolist() == [0, 3, 5]
    keep = cvlib.batched_nms(boxes, scores, labels, 0.5, image_ids=images, max_output=2)
    assert keep.tolist() == [0, 1, 3, 4, 5]


def test_batched_nms_accepts_strided_ids(device, rng):
    boxes, scores = tensors(clusters(rng, 120), rng.random(120), device)
    ids = torch.from_numpy(rng.integers(0, 3, (120, 2))).to(device)
    keep = cvlib.batched_nms(boxes, scores, ids[:, 0], 0.3, image_ids=ids[:, 1])
    assert_kept(keep, oracle(boxes, scores, 0.3, labels=ids[:, 0], image_ids=ids[:, 1]), boxes)
    one = torch.tensor([3], device=device).expand(120)
    assert torch.equal(cvlib.batched_nms(boxes, scores, one, 0.3), cvlib.nms(boxes, scores, 0.3))


# --- matches torchvision ------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("iou_threshold", [0.45, 0.5, 0.7])
def test_equals_torchvision(device, dtype, iou_threshold, rng):
    for n in (5, 300, 1500):
        boxes, scores = tensors(uniform(rng, n), rng.permutation(n), device, dtype)
        expected = torchvision.ops.nms(boxes, scores, iou_threshold)
        assert torch.equal(cvlib.nms(boxes, scores, iou_threshold), expected)


def test_batched_nms_equals_torchvision_class_by_class(device, rng):
    boxes, scores = tensors(clusters(rng, 600), rng.permutation(600), device)
    labels = torch.from_numpy(rng.integers(0, 5, 600)).to(device)
    keep = [
        rows[torchvision.ops.nms(boxes[rows], scores[rows], 0.5)]
        for rows in (torch.where(labels == label)[0] for label in range(5))
    ]
    keep = torch.cat(keep)
    expected = keep[scores[keep].argsort(descending=True)]
    assert torch.equal(cvlib.batched_nms(boxes, scores, labels, 0.5), expected)


# --- CPU equals CUDA ----------------------------------------------------------------------------


@pytest.mark.cuda
@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_cpu_equals_cuda(cuda, scene, rng):
    for n, iou_threshold in ((161, 0.5), (2000, 1 / 3)):
        boxes, scores = tensors(scene(rng, n), scores_for(rng, n, "tied"), "cpu")
        keep = cvlib.nms(boxes, scores, iou_threshold)
        assert torch.equal(cvlib.nms(boxes.to(cuda), scores.to(cuda), iou_threshold).cpu(), keep)


# --- reference equals native --------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_reference_equals_native(device, scene, dtype, rng):
    n = 170
    boxes, scores = tensors(scene(rng, n), scores_for(rng, n, "tied"), device, dtype)
    labels, images = (IDS["huge"](rng, n).to(device) for _ in range(2))
    iou_threshold = float(rng.choice(THRESHOLDS))
    for options in ({}, {"labels": labels, "image_ids": images, "max_output": 4}):
        expected = reference(boxes, scores, iou_threshold, **options)
        assert torch.equal(native(boxes, scores, iou_threshold, **options), expected)


# --- properties ---------------------------------------------------------------------------------

box_rows = st.tuples(st.integers(-9, 9), st.integers(-9, 9), st.integers(0, 9), st.integers(0, 9))
scored_boxes = st.lists(st.tuples(box_rows, st.integers(0, 5)), max_size=25)
iou_thresholds = st.sampled_from([0.0, 1 / 7, 0.2, 1 / 3, 0.5, 0.6, 0.9, 1.0])


def unpack(rows, device):
    boxes = [[x, y, x + w, y + h] for (x, y, w, h), _ in rows]
    return tensors(np.reshape(boxes, (-1, 4)), [score for _, score in rows], device)


@given(rows=scored_boxes, iou_threshold=iou_thresholds)
def test_is_idempotent(device, rows, iou_threshold):
    boxes, scores = unpack(rows, device)
    keep = cvlib.nms(boxes, scores, iou_threshold)
    again = cvlib.nms(boxes[keep], scores[keep], iou_threshold)
    assert again.tolist() == list(range(len(keep)))


@given(rows=scored_boxes, iou_threshold=iou_thresholds)
def test_kept_boxes_never_overlap_and_dropped_ones_overlap_a_better(device, rows, iou_threshold):
    boxes, scores = unpack(rows, device)
    keep = cvlib.nms(boxes, scores, iou_threshold).tolist()
    overlap = (cvlib.box_iou(boxes, boxes).double() > iou_threshold).cpu()
    rank = {i: (-float(scores[i]), i) for i in range(len(rows))}
    assert keep == sorted(keep, key=rank.get)
    assert not overlap[keep][:, keep].fill_diagonal_(False).any()
    for dropped in set(rank) - set(keep):
        assert any(overlap[dropped, i] and rank[i] < rank[dropped] for i in keep)


@given(rows=scored_boxes, iou_threshold=iou_thresholds, dx=st.integers(-99, 99))
def test_is_invariant_to_translation_on_a_grid_and_to_doubling(device, rows, iou_threshold, dx):
    boxes, scores = unpack(rows, device)
    keep = cvlib.nms(boxes, scores, iou_threshold)
    assert torch.equal(cvlib.nms(boxes + dx, scores, iou_threshold), keep)
    assert torch.equal(cvlib.nms(boxes * 2, scores, iou_threshold), keep)


def test_does_not_change_its_arguments(device, rng):
    boxes, scores = tensors(uniform(rng, 300), rng.random(300), device)
    copies = boxes.clone(), scores.clone()
    cvlib.nms(boxes, scores, 0.5)
    assert torch.equal(boxes, copies[0]) and torch.equal(scores, copies[1])


# --- registration -------------------------------------------------------------------------------


def test_opcheck(device, rng):
    boxes, scores = tensors(clusters(rng, 30), rng.random(30), device)
    ids = torch.from_numpy(rng.integers(0, 3, 30)).to(device)
    torch.library.opcheck(torch.ops.cvlib.nms.default, (boxes, scores, None, None, 0.5, 30))
    torch.library.opcheck(torch.ops.cvlib.nms.default, (boxes, scores, ids, ids, 0.5, 2))


def test_compiles_whole_with_dynamic_shapes(device, rng, fresh_compiler):
    def both(boxes, scores, labels):
        best = cvlib.nms(boxes, scores, 0.5, max_output=5)
        return boxes[best], cvlib.batched_nms(boxes, scores, labels, 0.3, image_ids=labels)

    compiled = torch.compile(both, fullgraph=True, dynamic=True, backend="aot_eager")
    for n in (12, 31):
        boxes, scores = tensors(clusters(rng, n), rng.random(n), device)
        labels = torch.from_numpy(rng.integers(0, 3, n)).to(device)
        results = compiled(boxes, scores, labels)
        for result, expected in zip(results, both(boxes, scores, labels), strict=True):
            assert torch.equal(result, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_autocast_computes_in_float32(device, dtype, rng):
    boxes, scores = tensors(integer_grid(rng, 99), scores_for(rng, 99, "tied"), device, dtype)
    with torch.autocast(device, torch.bfloat16):
        assert_nms_is_right(boxes, scores, 1 / 3)


# --- independence of threads --------------------------------------------------------------------


@pytest.mark.parametrize("n", [150, 201, 3000])
def test_number_of_threads_does_not_matter(n, thread_counts, rng):
    boxes, scores = tensors(mixed_scales(rng, n), scores_for(rng, n, "tied"), "cpu")
    ids = [IDS["few"](rng, n) for _ in range(2)]
    results = []
    for count in thread_counts:
        torch.set_num_threads(count)
        plain = cvlib.nms(boxes, scores, 0.2)
        batched = cvlib.batched_nms(boxes, scores, ids[0], 0.2, image_ids=ids[1], max_output=50)
        results.append((plain, batched))
    for plain, batched in results[1:]:
        assert torch.equal(plain, results[0][0]) and torch.equal(batched, results[0][1])


# --- scalars reach the kernel as they are -------------------------------------------------------


def test_every_scalar_of_the_schema_has_its_meaning(device):
    # IoUs with the first box are .2, .4, .6, .8; among the others 1/2, 1/3, 1/4, 2/3, 3/4.
    boxes, scores = tensors([[0, 0, w, 1] for w in (10, 2, 4, 6, 8)], [5, 4, 3, 2, 1], device)
    kept = {t: native(boxes, scores, t).tolist() for t in (0.1, 0.3, 0.5, 0.7, 0.9)}
    assert kept == {
        0.1: [0],
        0.3: [0, 1],
        0.5: [0, 1, 2],
        0.7: [0, 1, 2, 3],
        0.9: [0, 1, 2, 3, 4],
    }
    lengths = [len(native(boxes, scores, 1.0, max_output=limit)) for limit in range(7)]
    assert lengths == [0, 1, 2, 3, 4, 5, 5]


# --- errors -------------------------------------------------------------------------------------

BOXES = torch.tensor([[0.0, 0, 2, 2], [1, 1, 3, 3], [5, 5, 6, 6]])
SCORES = torch.tensor([0.9, 0.8, 0.7])
LABELS = torch.tensor([0, 1, 0])
NAN_BOX = torch.tensor([[0.0, 0, 2, 2], [1, 1, nan, 3], [5, 5, 6, 6]])
INVERTED = torch.tensor([[0.0, 0, 2, 2], [1, 1, 3, 3], [30, 40, 20, 60]])

SHARED_ERRORS = [
    ({"boxes": BOXES.tolist()}, TypeError, r"expected boxes to be a torch\.Tensor, got list"),
    ({"scores": [0.9]}, TypeError, r"expected scores to be a torch\.Tensor, got list"),
    ({"boxes": BOXES.int()}, TypeError, r"expected boxes of a floating-point dtype, got .*int32"),
    ({"scores": SCORES.long()}, TypeError, r"expected scores of .*dtype.*, got .*int64"),
    ({"scores": SCORES.double()}, TypeError, r"expected scores of the dtype of boxes .*float64"),
    ({"boxes": BOXES[:, :3]}, ValueError, r"expected boxes of shape \(N, 4\), got \(3, 3\)"),
    ({"boxes": BOXES[0]}, ValueError, r"expected boxes of shape \(N, 4\), got \(4,\)"),
    ({"boxes": BOXES[None]}, ValueError, r"expected boxes of shape \(N, 4\), got \(1, 3, 4\)"),
    (
        {"scores": SCORES[:2]},
        ValueError,
        r"expected scores of shape \(N,\) with N = 3 .*got \(2,\)",
    ),
    ({"scores": SCORES[:, None]}, ValueError, r"expected scores of shape \(N,\), got \(3, 1\)"),
    ({"scores": SCORES.to("meta")}, ValueError, r"expected scores on the device .*cpu.*, got meta"),
    ({"iou_threshold": -0.1}, ValueError, r"expected iou_threshold in \[0, 1\], got -0\.1"),
    ({"iou_threshold": 1.5}, ValueError, r"expected iou_threshold in \[0, 1\], got 1\.5"),
    ({"iou_threshold": nan}, ValueError, r"expected iou_threshold in \[0, 1\], got nan"),
    ({"iou_threshold": inf}, ValueError, r"expected iou_threshold in \[0, 1\], got inf"),
    ({"iou_threshold": "half"}, TypeError, r"expected iou_threshold"),
    ({"iou_threshold": None}, TypeError, r"expected iou_threshold"),
    ({"max_output": -1}, ValueError, r"expected max_output >= 0 or None, got -1"),
    ({"max_output": 1.5}, TypeError, r"expected max_output"),
    (
        {"boxes": NAN_BOX},
        ValueError,
        r"expected boxes without NaN, got boxes\[1\] = \(1, 1, nan, 3\)",
    ),
    (
        {"boxes": INVERTED},
        ValueError,
        r"expected boxes with x1 <= x2 .*boxes\[2\] = \(30, 40, 20, 60\)",
    ),
    ({"scores": SCORES * nan}, ValueError, r"expected scores without NaN, got scores\[0\] = nan"),
]


@pytest.mark.parametrize(("wrong", "error", "message"), SHARED_ERRORS)
def test_errors(wrong, error, message):
    arguments = {"boxes": BOXES, "scores": SCORES, "iou_threshold": 0.5, **wrong}
    with pytest.raises(error, match="^nms: " + message):
        cvlib.nms(**arguments)


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        *SHARED_ERRORS,
        (
            {"labels": LABELS.int()},
            TypeError,
            r"expected labels to be an int64 tensor, got .*int32",
        ),
        ({"labels": [0, 1, 0]}, TypeError, r"expected labels to be an int64 tensor, got list"),
        (
            {"labels": LABELS.float()},
            TypeError,
            r"expected labels to be an int64 tensor, got .*float32",
        ),
        (
            {"image_ids": LABELS > 0},
            TypeError,
            r"expected image_ids to be an int64 tensor, got .*bool",
        ),
        (
            {"labels": LABELS[:2]},
            ValueError,
            r"expected labels of shape \(N,\) with N = 3.*got \(2,\)",
        ),
        (
            {"image_ids": LABELS[None]},
            ValueError,
            r"expected image_ids of shape \(N,\).*got \(1, 3\)",
        ),
        (
            {"labels": LABELS.to("meta")},
            ValueError,
            r"expected labels on the device.*cpu.*got meta",
        ),
        (
            {"image_ids": LABELS.to("meta")},
            ValueError,
            r"expected image_ids on the device.*got meta",
        ),
    ],
)
def test_batched_nms_errors(wrong, error, message):
    arguments = {"boxes": BOXES, "scores": SCORES, "labels": LABELS, "iou_threshold": 0.5, **wrong}
    with pytest.raises(error, match="^batched_nms: " + message):
        cvlib.batched_nms(**arguments)


@pytest.mark.parametrize("n", [20, 1000])
@pytest.mark.parametrize("position", [0, 1, 9, 16, 19])
def test_one_bad_value_among_many_is_found(n, position, rng):
    boxes, scores = tensors(uniform(rng, n), rng.random(n), "cpu")
    position = n - 20 + position
    for column in range(4):
        bad = boxes.clone()
        bad[position, column] = nan
        with pytest.raises(
            ValueError, match=rf"^nms: expected boxes without NaN, got boxes\[{position}\]"
        ):
            cvlib.nms(bad, scores, 0.5)
    bad = boxes.clone()
    bad[position] = bad[position, [2, 1, 0, 3]]
    with pytest.raises(ValueError, match=rf"x1 <= x2 and y1 <= y2, got boxes\[{position}\]"):
        cvlib.nms(bad, scores, 0.5)
    scores[position] = nan
    with pytest.raises(ValueError, match=rf"expected scores without NaN, got scores\[{position}\]"):
        cvlib.nms(boxes, scores, 0.5)


def test_bad_values_are_found_even_when_the_output_is_limited(rng):
    boxes, scores = tensors(uniform(rng, 50), np.arange(50)[::-1], "cpu")
    boxes[49, 0] = nan
    with pytest.raises(ValueError, match="without NaN"):
        cvlib.nms(boxes, scores, 0.5, max_output=1)


# --- by hand ------------------------------------------------------------------------------------


def test_by_hand(device):
    #  0   1   2   3   4       a = (0, 0, 2, 1) score .9
    #  +-------+                b = (1, 0, 3, 1) score .8: IoU with a is 1/3
    #  |   a   |
    #  +---+-------+            c = (2, 0, 4, 1) score .7: touches a, IoU with b is 1/3
    #      |   b   |
    #      +---+-------+        At a threshold of .3, a drops b, and b cannot drop c any more.
    #          |   c   |
    #          +-------+
    boxes, scores = tensors([[2, 0, 4, 1], [0, 0, 2, 1], [1, 0, 3, 1]], [0.7, 0.9, 0.8], device)
    assert cvlib.nms(boxes, scores, 0.3).tolist() == [1, 0]
    assert cvlib.nms(boxes, scores, 0.35).tolist() == [1, 2, 0]
