"""nms and batched_nms: decisions are compared exactly, everywhere."""

import numpy as np
import pytest
import torch
import torchvision
from cases_suppression import (
    DTYPES,
    IDS,
    SCENES,
    THRESHOLDS,
    assert_kept,
    assert_nms_is_right,
    clusters,
    inf,
    integer_grid,
    lattice,
    mixed_scales,
    nan,
    native,
    nested,
    one_far_away,
    oracle,
    reference,
    scores_for,
    shifted,
    slivers,
    tensors,
    two_scales,
    uniform,
    with_infinities,
)
from hypothesis import given
from hypothesis import strategies as st

import cvlib

# --- matches the oracle


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


@pytest.mark.parametrize("iou_threshold", [0, 1, 0.0, 1.0, np.float64(0.5), np.float32(0.3)])
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


# --- matches torchvision


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("iou_threshold", [0.45, 0.5, 0.7])
def test_equals_torchvision(device, dtype, iou_threshold, rng):
    for n in (5, 300, 1500):
        boxes, scores = tensors(uniform(rng, n), rng.permutation(n), device, dtype)
        expected = torchvision.ops.nms(boxes, scores, iou_threshold)
        assert torch.equal(cvlib.nms(boxes, scores, iou_threshold), expected)


# --- CPU equals CUDA


@pytest.mark.cuda
@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_cpu_equals_cuda(cuda, scene, rng):
    for n, iou_threshold in ((161, 0.5), (2000, 1 / 3)):
        boxes, scores = tensors(scene(rng, n), scores_for(rng, n, "tied"), "cpu")
        keep = cvlib.nms(boxes, scores, iou_threshold)
        assert torch.equal(cvlib.nms(boxes.to(cuda), scores.to(cuda), iou_threshold).cpu(), keep)


# --- reference equals native


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


# --- properties

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
    repeated = cvlib.nms(boxes[keep], scores[keep], iou_threshold)
    assert repeated.tolist() == list(range(len(keep)))


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


# --- scalars reach the kernel


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


# --- batched_nms matches the oracle


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


# --- matches torchvision


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


# --- worked examples


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
