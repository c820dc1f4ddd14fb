"""match_anchors: the book's rule, its ties and its corners."""

import numpy as np
import oracles
import pytest
import torch
from cases_multibox import DTYPES, nan, to_tensor
from hypothesis import given
from hypothesis import strategies as st

import cvlib
from cvlib.anchors import multibox_prior
from cvlib.ops.matching import _match_anchors_reference


def oracle(anchors, gt_boxes, iou_threshold):
    anchors = oracles.to_numpy(anchors)
    images = [
        oracles.match_anchors(anchors, gt, iou_threshold) for gt in oracles.to_numpy(gt_boxes)
    ]
    return torch.from_numpy(np.reshape(images, (len(gt_boxes), len(anchors))).astype(np.int64))


def assert_matches(anchors, gt_boxes, iou_threshold):
    matches = cvlib.match_anchors(anchors, gt_boxes, iou_threshold)
    assert matches.dtype == torch.int64 and matches.device == anchors.device
    assert torch.equal(matches.cpu(), oracle(anchors, gt_boxes, iou_threshold))
    return matches


def grid_scene(rng, num_anchors, num_images, num_gts, device, dtype=torch.float32):
    """Small integer boxes: many equal IoUs, empty boxes, identical boxes, padding anywhere."""

    def boxes(*shape):
        corner = rng.integers(-4, 8, (*shape, 2))
        return np.concatenate([corner, corner + rng.integers(0, 6, (*shape, 2))], -1).astype(float)

    gts = boxes(num_images, num_gts)
    gts[rng.random((num_images, num_gts)) < 0.3] = -1
    return to_tensor(boxes(num_anchors), device, dtype), to_tensor(gts, device, dtype)


def book_scene(rng, num_images, num_gts, device, dtype=torch.float32):
    """Anchors of the book and random ground truths, normalised; the last rows are padding."""
    anchors = multibox_prior((8, 8), [0.2, 0.3], [1, 2, 0.5], dtype=torch.float64)
    gts = oracles.random_boxes(rng, num_images * num_gts, size=0.5, extent=0.6)
    gts = gts.reshape(num_images, num_gts, 4)
    for image in range(num_images):
        gts[image, rng.integers(0, num_gts + 1) :] = -1
    return anchors.to(dtype).to(device), to_tensor(gts, device, dtype)


# --- matches the oracle


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("num_anchors", [1, 2, 15, 16, 17, 65])
@pytest.mark.parametrize("num_gts", [1, 2, 9, 20])
def test_matches_oracle_where_ties_abound(device, dtype, num_anchors, num_gts, rng):
    for iou_threshold in (0.0, 1 / 7, 1 / 3, 0.5, 1.0):
        anchors, gts = grid_scene(rng, num_anchors, 3, num_gts, device, dtype)
        assert_matches(anchors, gts, iou_threshold)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(0, 3), (1, 1), (3, 0), (4, 7)])
def test_matches_oracle_on_anchors_of_the_book(device, dtype, shape, rng):
    num_images, num_gts = shape
    anchors, gts = book_scene(rng, num_images, max(num_gts, 1), device, dtype)
    for iou_threshold in (0.3, 0.5, 0.7):
        assert_matches(anchors, gts[:, :num_gts], iou_threshold)


def test_matches_oracle_when_large(device, rng):
    anchors = multibox_prior((32, 32), [0.2, 0.272], [1, 2, 0.5], device=device)
    gts = oracles.random_boxes(rng, 2 * 90, size=0.4, extent=0.7).reshape(2, 90, 4)
    assert_matches(anchors, to_tensor(gts, device), 0.5)


def test_more_ground_truths_than_anchors(device, rng):
    for num_anchors, num_gts in ((1, 5), (3, 4), (10, 64), (17, 300)):
        anchors, gts = grid_scene(rng, num_anchors, 2, num_gts, device)
        gts = gts.where((gts != -1).any(2, keepdim=True), to_tensor([0, 0, 1, 1], device))
        matches = assert_matches(anchors, gts, 0.5)
        # Every anchor is claimed, each by another ground truth.
        assert (matches >= 0).all()
        assert all(len(set(image.tolist())) == num_anchors for image in matches)


def test_nothing_to_match(device):
    anchors = to_tensor([[0, 0, 1, 1], [0, 0, 2, 2]], device)
    none = torch.full((2,), -1, device=device)
    for iou_threshold in (0.0, 0.5):
        assert torch.equal(cvlib.match_anchors(anchors, anchors[:0], iou_threshold), none)
        padding = torch.full((3, 4), -1.0, device=device)
        assert torch.equal(cvlib.match_anchors(anchors, padding, iou_threshold), none)
        batch = torch.full((2, 3, 4), -1.0, device=device)
        assert torch.equal(cvlib.match_anchors(anchors, batch, iou_threshold), none.expand(2, 2))
    assert cvlib.match_anchors(anchors[:0], anchors).shape == (0,)
    assert cvlib.match_anchors(anchors, anchors[None, :0].expand(5, 0, 4)).shape == (5, 2)
    assert cvlib.match_anchors(anchors, anchors[None][:0]).shape == (0, 2)
    assert cvlib.match_anchors(anchors[:0], anchors[None].expand(5, 2, 4)).shape == (5, 0)


def test_padding_may_stand_anywhere(device):
    anchors = to_tensor([[0, 0, 2, 2], [4, 4, 6, 6], [8, 8, 9, 9]], device)
    gt, pad = [4, 4, 6, 6], [-1, -1, -1, -1]
    for position in range(4):
        rows = [pad] * 4
        rows[position] = gt
        matches = cvlib.match_anchors(anchors, to_tensor(rows, device))
        assert matches.tolist() == [-1, position, -1]
    # Padding is ignored, even where every IoU reaches the threshold.
    matches = cvlib.match_anchors(anchors, to_tensor([pad, gt, pad], device), 0.0)
    assert matches.tolist() == [1, 1, 1]


def test_only_four_times_minus_one_is_padding(device):
    anchors = to_tensor([[-1, -1, 1, 1], [5, 5, 6, 6]], device)
    gts = to_tensor([[-1, -1, -1, 1], [-1, -1, 1, 1]], device)
    # The second is the best of anchor 0; the first, empty, still claims the remaining one.
    assert cvlib.match_anchors(anchors, gts).tolist() == [1, 0]


def test_ground_truth_without_overlap_claims_the_lowest_free_anchor(device):
    anchors = to_tensor([[0, 0, 1, 1], [2, 2, 3, 3], [4, 4, 5, 5]], device)
    far = to_tensor([[90, 90, 91, 91]], device)
    assert cvlib.match_anchors(anchors, far).tolist() == [0, -1, -1]
    both = to_tensor([[90, 90, 91, 91], [0, 0, 1, 1]], device)
    assert cvlib.match_anchors(anchors, both).tolist() == [1, 0, -1]
    two = to_tensor([[90, 90, 91, 91], [80, 80, 81, 81]], device)
    assert cvlib.match_anchors(anchors, two).tolist() == [0, 1, -1]


def test_identical_ground_truths_claim_different_anchors(device):
    anchors = to_tensor([[0, 0, 4, 4], [0, 0, 4, 4], [0, 0, 4, 3], [0, 0, 4, 4]], device)
    gts = to_tensor([[0, 0, 4, 4]] * 2, device)
    # Lowest anchor, lowest ground truth first; the others take the lowest of equally good ones.
    assert cvlib.match_anchors(anchors, gts, 0.5).tolist() == [0, 1, 0, 0]


def test_claims_are_greedy_over_the_whole_matrix(device):
    # Anchor 0 is the best of ground truth 0, but ground truth 1 fits it better and comes first.
    anchors = to_tensor([[0, 0, 10, 10], [0, 0, 10, 4]], device)
    gts = to_tensor([[0, 0, 10, 7], [0, 0, 10, 9]], device)
    assert cvlib.match_anchors(anchors, gts, 0.99).tolist() == [1, 0]


def test_claim_goes_before_a_better_ground_truth(device):
    # Anchor 1 overlaps ground truth 0 best, but is the last one left for ground truth 1.
    anchors = to_tensor([[0, 0, 10, 10], [0, 0, 10, 9]], device)
    gts = to_tensor([[0, 0, 10, 10], [0, 0, 10, 1]], device)
    assert cvlib.match_anchors(anchors, gts, 0.5).tolist() == [0, 1]


@pytest.mark.parametrize(("numerator", "denominator"), [(1, 2), (1, 3), (1, 7), (3, 4), (1, 1)])
def test_iou_equal_to_the_threshold_matches(device, numerator, denominator):
    # Anchor 0 is claimed at IoU 1; anchor 1 is its first n of d parts.
    rows = [[0, 0, 2 * denominator, 1], [0, 0, 2 * numerator, 1]]
    anchors = to_tensor(rows, device, torch.float64)
    threshold = numerator / denominator
    assert cvlib.match_anchors(anchors, anchors[:1], threshold).tolist() == [0, 0]
    if threshold < 1:
        above = float(np.nextafter(threshold, 1))
        assert cvlib.match_anchors(anchors, anchors[:1], above).tolist() == [0, -1]


@pytest.mark.parametrize("count", range(1, 10))
def test_threshold_is_compared_as_given(device, count):
    # float32 rounds count / 10 up or down; the threshold is a double on either side of that.
    anchors = to_tensor([[0, 0, 10, 1], [0, 0, count, 1]], device)
    iou = float(cvlib.box_iou(anchors[:1], anchors[1:]))
    for threshold in (count / 10, iou, float(np.nextafter(iou, 0)), float(np.nextafter(iou, 1))):
        matches = cvlib.match_anchors(anchors, anchors[:1], threshold).tolist()
        assert matches == [0, 0 if iou >= threshold else -1]


def test_default_threshold_is_one_half(device):
    anchors = to_tensor([[0, 0, 4, 4], [0, 0, 4, 2], [0, 0, 4, 1.9]], device)
    assert cvlib.match_anchors(anchors, anchors[:1]).tolist() == [0, 0, -1]


@pytest.mark.parametrize("factor", [1e-40, 1e-30, 1e-21, 1e-19, 1e15, 1e18, 1e30])
def test_matches_oracle_at_every_scale(device, factor, rng):
    anchors, gts = (
        to_tensor(oracles.random_boxes(rng, n, size=6, extent=8) * factor, device) for n in (40, 9)
    )
    assert_matches(anchors, gts[None], 0.3)


def test_one_image_is_a_batch_of_one(device, rng):
    anchors, gts = book_scene(rng, 1, 5, device)
    assert torch.equal(cvlib.match_anchors(anchors, gts[0]), cvlib.match_anchors(anchors, gts)[0])


def test_memory_layout_does_not_matter(device, rng):
    anchors, gts = grid_scene(rng, 41, 4, 6, device)
    expected = oracle(anchors, gts, 0.4)
    column_major = anchors.t().contiguous().t()
    images_last = gts.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    wide = torch.cat([anchors, anchors], 1)[:, 4:]
    assert torch.equal(cvlib.match_anchors(column_major, images_last, 0.4).cpu(), expected)
    assert torch.equal(cvlib.match_anchors(wide, gts, 0.4).cpu(), expected)
    assert torch.equal(
        cvlib.match_anchors(anchors[::2], gts[::2, 1:], 0.4).cpu(),
        oracle(anchors[::2], gts[::2, 1:], 0.4),
    )
    expanded = gts[:1].expand(3, -1, -1)
    assert torch.equal(
        cvlib.match_anchors(anchors, expanded, 0.4).cpu(), expected[:1].expand(3, -1)
    )


def test_arguments_that_require_grad(device, rng):
    anchors, gts = grid_scene(rng, 20, 2, 4, device)
    expected = cvlib.match_anchors(anchors, gts)
    matches = cvlib.match_anchors(anchors.requires_grad_(), gts.requires_grad_())
    assert torch.equal(matches, expected) and not matches.requires_grad


@pytest.mark.cuda
def test_invalid_boxes_have_iou_zero_on_cuda(cuda):
    anchors = to_tensor([[0, 0, nan, 1], [0, 0, 4, 4], [4, 4, 0, 0], [8, 8, 9, 9]], cuda)
    gts = to_tensor([[0, 0, 4, 4], [9, 9, 8, 8], [0, nan, 4, 4]], cuda)
    # Ground truth 0 claims anchor 1; the others overlap nothing and claim the lowest free anchors.
    assert cvlib.match_anchors(anchors, gts).tolist() == [1, 0, 2, -1]


# --- equals the book's algorithm


@pytest.mark.parametrize("iou_threshold", [0.0, 1 / 3, 0.5, 0.8])
def test_equals_the_algorithm_of_the_book(device, iou_threshold, rng):
    for _ in range(10):
        num_anchors, num_gts = rng.integers(1, 30), rng.integers(1, 12)
        anchors, gts = grid_scene(rng, num_anchors, 1, num_gts, device)
        gts = gts[0][(gts[0] != -1).any(1)]
        expected = oracles.book_assignment(
            oracles.to_numpy(anchors), oracles.to_numpy(gts), iou_threshold
        )
        assert cvlib.match_anchors(anchors, gts, iou_threshold).tolist() == expected.tolist()


def test_example_of_the_book(device):
    # Section 14.4.3.3: a dog and a cat; anchors 1 and 4 are claimed, 3 has IoU > .5 with the cat.
    gts = [[0.1, 0.08, 0.52, 0.92], [0.55, 0.2, 0.9, 0.88]]
    anchors = [
        [0, 0.1, 0.2, 0.3],
        [0.15, 0.2, 0.4, 0.4],
        [0.63, 0.05, 0.88, 0.98],
        [0.66, 0.45, 0.8, 0.8],
        [0.57, 0.3, 0.92, 0.9],
    ]
    matches = cvlib.match_anchors(to_tensor(anchors, device), to_tensor(gts, device))
    assert matches.tolist() == [-1, 0, 1, -1, 1]


# --- CPU equals CUDA


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_cpu_equals_cuda(cuda, dtype, rng):
    for anchors, gts in (
        grid_scene(rng, 700, 5, 40, "cpu", dtype),
        book_scene(rng, 9, 6, "cpu", dtype),
    ):
        matches = cvlib.match_anchors(anchors, gts, 0.4)
        assert torch.equal(cvlib.match_anchors(anchors.to(cuda), gts.to(cuda), 0.4).cpu(), matches)


# --- reference equals native


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_reference_equals_native(device, dtype, rng):
    for anchors, gts in (
        grid_scene(rng, 50, 4, 12, device, dtype),
        book_scene(rng, 4, 6, device, dtype),
    ):
        for iou_threshold in (0.0, 1 / 3, 0.5):
            expected = _match_anchors_reference(anchors, gts, iou_threshold)
            assert torch.equal(torch.ops.cvlib.match_anchors(anchors, gts, iou_threshold), expected)


# --- properties

rows = st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9), st.integers(0, 9))
some_boxes = st.lists(rows, min_size=1, max_size=12).map(
    lambda boxes: torch.tensor([[x, y, x + w, y + h] for x, y, w, h in boxes]).float()
)


@given(anchors=some_boxes, gts=some_boxes, iou_threshold=st.sampled_from([0.0, 0.25, 0.5, 1.0]))
def test_every_ground_truth_has_an_anchor_and_other_matches_are_good(
    device, anchors, gts, iou_threshold
):
    anchors, gts = anchors.to(device), gts.to(device)
    matches = cvlib.match_anchors(anchors, gts, iou_threshold).tolist()
    claimed = set(matches) - {-1}
    assert len(claimed) >= min(len(anchors), len(gts))
    iou = cvlib.box_iou(anchors, gts).cpu()
    below = [a for a, gt in enumerate(matches) if gt >= 0 and iou[a, gt] < iou_threshold]
    assert len({matches[a] for a in below}) == len(below)  # those are claims, one for each gt
    assert all(iou[a].max() < iou_threshold for a, gt in enumerate(matches) if gt == -1)


@given(anchors=some_boxes, gts=some_boxes, shift=st.integers(0, 99))
def test_is_invariant_to_translation_on_a_grid_and_to_doubling(device, anchors, gts, shift):
    anchors, gts = anchors.to(device), gts.to(device)
    matches = cvlib.match_anchors(anchors, gts, 0.4)
    assert torch.equal(cvlib.match_anchors(anchors + shift, gts + shift, 0.4), matches)
    assert torch.equal(cvlib.match_anchors(anchors * 2, gts * 2, 0.4), matches)


# --- scalars reach the kernel


def test_every_scalar_of_the_schema_has_its_meaning(device):
    # IoUs of anchors 1 to 4 with the one ground truth are .8, .6, .4, .2.
    anchors = to_tensor([[0, 0, w, 1] for w in (10, 8, 6, 4, 2)], device)
    for threshold, count in ((0.1, 5), (0.3, 4), (0.5, 3), (0.7, 2), (0.9, 1)):
        matches = torch.ops.cvlib.match_anchors(anchors, anchors[None, :1], threshold)
        assert matches.tolist() == [[0] * count + [-1] * (5 - count)]


# --- by hand ------------------------------------------------------------------------------------


def test_by_hand(device):
    #   0     2     4     6      anchors: a = (0, 0, 2, 2), b = (0, 0, 4, 2), c = (4, 0, 6, 2)
    #   +-----+-----+-----+      ground truths: g = (0, 0, 3, 2), h = (5, 0, 6, 2)
    #   |  a  :  b  |  c  |      IoU  g            h
    #   +-----+-----+-----+       a   4/6          0
    #   |    g   |     |h |       b   6/8 claimed  0
    #                             c   0            2/4 claimed
    # a takes g as well, when the threshold is at most 2/3.
    anchors = to_tensor([[0, 0, 2, 2], [0, 0, 4, 2], [4, 0, 6, 2]], device)
    gts = to_tensor([[0, 0, 3, 2], [5, 0, 6, 2]], device)
    assert cvlib.match_anchors(anchors, gts, 0.6).tolist() == [0, 0, 1]
    assert cvlib.match_anchors(anchors, gts, 0.7).tolist() == [-1, 0, 1]
