"""soft_nms: selection and scores; the linear method and the reference are compared to the bit."""

import numpy as np
import oracles
import oracles_suppression
import pytest
import torch
import torchvision
from cases_suppression import (
    DTYPES,
    identical,
    inf,
    integer_grid,
    mixed_scales,
    nan,
    one_far_away,
    slivers,
    tensors,
    with_infinities,
)
from hypothesis import given
from hypothesis import strategies as st

import cvlib
from cvlib.ops._suppression import exp_of_nonpositive
from cvlib.ops.soft_nms import _soft_nms_reference, soft_nms

METHODS = ["linear", "gaussian"]


def arrays(options):
    return {
        k: oracles.to_numpy(v) if isinstance(v, torch.Tensor) else v for k, v in options.items()
    }


def assert_linear_is_right(boxes, scores, iou_threshold=0.3, score_threshold=0.001, **options):
    keep, decayed = soft_nms(
        boxes, scores, iou_threshold=iou_threshold, score_threshold=score_threshold, **options
    )
    real = oracles.to_numpy(boxes), oracles.to_numpy(scores)
    expected = oracles_suppression.soft_nms_linear(
        *real, iou_threshold, score_threshold, **arrays(options)
    )
    assert keep.dtype == torch.int64 and keep.device == boxes.device == decayed.device
    assert decayed.dtype == (torch.float64 if boxes.dtype == torch.float64 else torch.float32)
    np.testing.assert_array_equal(keep.cpu().numpy(), expected[0])
    np.testing.assert_array_equal(decayed.cpu().numpy(), expected[1])
    return keep, decayed


def assert_gaussian_is_right(boxes, scores, sigma=0.5, score_threshold=0.001, **ids):
    keep, decayed = soft_nms(
        boxes, scores, method="gaussian", sigma=sigma, score_threshold=score_threshold, **ids
    )
    violation = oracles_suppression.soft_nms_gaussian_violation(
        oracles.to_numpy(boxes),
        oracles.to_numpy(scores),
        sigma,
        score_threshold,
        keep.tolist(),
        decayed.tolist(),
        **arrays(ids),
    )
    assert violation < (1e-12 if boxes.dtype == torch.float64 else 1e-4)


def run(boxes, scores, method="linear", labels=None, images=None, limit=-1, reference=False):
    settings = (labels, images, method == "gaussian", 0.3, 0.5, 0.001, limit)
    operator = _soft_nms_reference if reference else torch.ops.cvlib.soft_nms
    return operator(boxes, scores, *settings)


def assert_equal(a, b):
    assert torch.equal(a[0].cpu(), b[0].cpu()) and torch.equal(a[1].cpu(), b[1].cpu())


# --- scenes: float64 boxes (n, 4) that are hard for the search of near boxes


def uniform(rng, n):
    return oracles.random_boxes(rng, n, size=60, extent=8 * np.sqrt(n))


def touching(rng, n):
    """Squares that share edges and nothing else."""
    columns = int(np.ceil(np.sqrt(n)))
    corner = np.stack(np.divmod(np.arange(n), columns), 1) * 16.0 - 64
    return rng.permutation(np.concatenate([corner, corner + 16], 1))


def empty(rng, n):
    return uniform(rng, n)[:, [0, 1, 0, 3]]


def tiny(rng, n):
    return uniform(rng, n) * 1e-41


def far(rng, n):
    return uniform(rng, n) + 1e6


SCENES = [uniform, integer_grid, touching, mixed_scales, slivers, identical, empty]
SCENES += [with_infinities, one_far_away, tiny, far]


def scores_for(rng, n, kind="distinct"):
    if kind == "distinct":
        return (rng.permutation(n) + 1) / max(n, 1)
    return rng.choice([0.75, 0.5, 0.0, -0.0, -1.0, 0.25, 0.001], n)


# --- matches the oracle


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("n", [0, 1, 2, 31, 32, 33, 64, 65, 130])
def test_matches_oracle(device, dtype, n, rng):
    boxes, scores = tensors(uniform(rng, n), scores_for(rng, n), device, dtype)
    assert_linear_is_right(boxes, scores)
    assert_gaussian_is_right(boxes, scores)


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
@pytest.mark.parametrize("kind", ["distinct", "tied"])
def test_matches_oracle_on_scenes(device, scene, kind, rng):
    for n in (20, 65, 200):
        boxes, scores = tensors(scene(rng, n), scores_for(rng, n, kind), device)
        for threshold in (0.0, 1 / 3, 0.5, 1.0):
            assert_linear_is_right(boxes, scores, threshold)
        assert_gaussian_is_right(boxes, scores)
        assert_gaussian_is_right(boxes, scores, sigma=0.01)


def test_matches_oracle_when_large(device, rng):
    boxes, scores = tensors(uniform(rng, 1500), scores_for(rng, 1500), device)
    assert_linear_is_right(boxes, scores)
    boxes, scores = tensors(mixed_scales(rng, 900), scores_for(rng, 900), device)
    assert_gaussian_is_right(boxes, scores)


@pytest.mark.parametrize("score_threshold", [0.0, 1e-30, 0.1, 0.5, 2.0])
def test_score_threshold(device, score_threshold, rng):
    boxes, scores = tensors(integer_grid(rng, 80), scores_for(rng, 80, "tied"), device)
    assert_linear_is_right(boxes, scores, score_threshold=score_threshold)
    # .1 in float32 is greater than the double.
    one, tenth = tensors([[0, 0, 1, 1]], [0.1], device)
    value = float(tenth)
    assert len(soft_nms(one, tenth, score_threshold=value)[0]) == 1
    assert len(soft_nms(one, tenth, score_threshold=float(np.nextafter(value, 1)))[0]) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_iou_equal_to_the_threshold_lowers(device, dtype):
    boxes, scores = tensors([[0, 0, 10, 1], [0, 0, 3, 1]], [1, 0.5], device, dtype)
    iou = float(cvlib.box_iou(boxes[:1], boxes[1:]))
    for threshold in (0.3, iou, float(np.nextafter(iou, 0)), float(np.nextafter(iou, 1))):
        decayed = assert_linear_is_right(boxes, scores, threshold)[1]
        assert (float(decayed[1]) < 0.5) == (iou >= threshold)


@pytest.mark.parametrize("n", [5, 40, 300])
def test_equal_scores_keep_the_order_of_the_input(device, n):
    corner = torch.arange(n, device=device).float().flip(0) * 10
    boxes = torch.stack([corner, corner, corner + 1, corner + 1], 1)
    scores = torch.full((n,), 0.5, device=device)
    for method in METHODS:
        keep, decayed = soft_nms(boxes, scores, method=method)
        assert keep.tolist() == list(range(n)) and torch.equal(decayed, scores)


def test_infinite_scores(device):
    # inf * 0 is NaN.
    boxes, scores = tensors([[0, 0, 1, 1]] * 3 + [[5, 5, 6, 6]], [inf, inf, 1, inf], device)
    assert_linear_is_right(boxes, scores)
    keep, decayed = soft_nms(boxes, scores, method="gaussian")
    assert keep.tolist() == [0, 1, 3, 2] and decayed[:3].isinf().all()


GROUPS = {
    "labels": lambda rng, n: {"labels": torch.from_numpy(rng.integers(-2, 3, n))},
    "images": lambda rng, n: {"image_ids": torch.from_numpy(rng.integers(0, 4, n))},
    "both": lambda rng, n: {
        "labels": torch.from_numpy(rng.choice([2**62, -(2**63), 0, 2**53, 2**53 + 1], n)),
        "image_ids": torch.from_numpy(rng.integers(-1, 2, n)),
    },
    "all different": lambda rng, n: {"labels": torch.from_numpy(rng.permutation(n))},
}


@pytest.mark.parametrize("groups", GROUPS)
def test_groups_match_oracle(device, groups, rng):
    for n in (1, 40, 170):
        ids = {k: v.to(device) for k, v in GROUPS[groups](rng, n).items()}
        boxes, scores = tensors(integer_grid(rng, n), scores_for(rng, n, "tied"), device)
        for limit in (None, 0, 1, 3, n):
            assert_linear_is_right(boxes, scores, max_output=limit, **ids)
        boxes, scores = tensors(uniform(rng, n), scores_for(rng, n), device)
        assert_gaussian_is_right(boxes, scores, **ids)


@pytest.mark.parametrize("method", METHODS)
def test_max_output_gives_the_head_of_the_full_result(device, method, rng):
    boxes, scores = tensors(uniform(rng, 200), scores_for(rng, 200), device)
    keep, decayed = soft_nms(boxes, scores, method=method)
    for limit in (0, 1, 7, len(keep) - 1, len(keep), 200, 2**40):
        some = soft_nms(boxes, scores, method=method, max_output=limit)
        assert_equal(some, (keep[:limit], decayed[:limit]))


def test_memory_layout_does_not_matter(device, rng):
    boxes, scores = tensors(uniform(rng, 90), scores_for(rng, 90), device)
    expected = soft_nms(boxes[::2].clone(), scores[::2].clone())
    assert_equal(soft_nms(boxes[::2], scores[::2]), expected)
    column_major = boxes[::2].t().contiguous().t()
    wide = torch.cat([scores[:, None], boxes], 1)[::2]
    assert_equal(soft_nms(column_major, wide[:, 0]), expected)
    assert_equal(soft_nms(wide[:, 1:], wide[:, 0]), expected)
    one, score = tensors([[0, 0, 2, 2]], [0.5], device)
    keep, decayed = soft_nms(one.expand(3, 4), score.expand(3), score_threshold=0)
    assert keep.tolist() == [0, 1, 2] and decayed.tolist() == [0.5, 0, 0]


@pytest.mark.cuda
def test_nan_is_never_selected_on_cuda(cuda, rng):
    boxes, scores = tensors(uniform(rng, 100), scores_for(rng, 100), cuda)
    boxes[torch.from_numpy(rng.random(100) < 0.1), 2] = nan
    scores[torch.from_numpy(rng.random(100) < 0.1)] = nan
    assert_linear_is_right(boxes, scores)
    assert_equal(run(boxes, scores), run(boxes, scores, reference=True))


# --- matches plain PyTorch


@pytest.mark.parametrize("method", METHODS)
def test_equals_a_loop_over_torchvision(device, method, rng):
    boxes, scores = tensors(uniform(rng, 300), scores_for(rng, 300), device, torch.float64)
    left, keep, decayed = scores.clone(), [], []
    while (best := left.max()) >= 0.001:
        keep.append(int(left.argmax()))
        decayed.append(float(best))
        iou = torchvision.ops.box_iou(boxes[keep[-1:]], boxes)[0]
        linear = torch.where(iou >= 0.3, 1 - iou, 1)
        left = left * (linear if method == "linear" else torch.exp(-(iou**2) / 0.5))
        left[keep[-1]] = 0
    actual = soft_nms(boxes, scores, method=method)
    assert actual[0].tolist() == keep
    np.testing.assert_allclose(actual[1].tolist(), decayed, rtol=1e-12)


# --- CPU equals CUDA


@pytest.mark.cuda
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_cpu_equals_cuda(cuda, scene, method, rng):
    for n in (33, 1200):
        boxes, scores = tensors(scene(rng, n), scores_for(rng, n, "tied"), "cpu")
        ids = torch.from_numpy(rng.integers(0, 4, n))
        expected = run(boxes, scores, method)
        assert_equal(run(boxes.to(cuda), scores.to(cuda), method), expected)
        expected = run(boxes, scores, method, ids, limit=9)
        results = run(boxes.to(cuda), scores.to(cuda), method, ids.to(cuda), limit=9)
        assert_equal(results, expected)


# --- reference equals native


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_reference_equals_native(device, scene, dtype, method, rng):
    n = 70
    boxes, scores = tensors(scene(rng, n), scores_for(rng, n, "tied"), device, dtype)
    labels, images = (torch.from_numpy(rng.integers(0, 2, n)).to(device) for _ in range(2))
    for options in ({}, {"labels": labels, "images": images, "limit": 5}, {"labels": labels}):
        native = run(boxes, scores, method, **options)
        assert_equal(native, run(boxes, scores, method, reference=True, **options))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_exponential_is_close_to_the_true_one(dtype):
    lowest = -87.0 if dtype == torch.float32 else -708.0
    x = torch.linspace(lowest, 0, 100_001, dtype=dtype)
    actual, true = exp_of_nonpositive(x).double(), torch.exp(x.double())
    inside = x > lowest
    error = ((actual - true).abs() / true)[inside].max()
    assert error <= 2 * torch.finfo(dtype).eps
    special = torch.tensor([0.0, -0.0, lowest, 2 * lowest, -inf], dtype=dtype)
    assert exp_of_nonpositive(special).tolist() == [1, 1, 0, 0, 0]


# --- properties

box_rows = st.tuples(st.integers(-9, 9), st.integers(-9, 9), st.integers(0, 9), st.integers(0, 9))
scored_boxes = st.lists(st.tuples(box_rows, st.integers(0, 8)), max_size=25)


def unpack(rows, device):
    boxes = [[x, y, x + w, y + h] for (x, y, w, h), _ in rows]
    return tensors(np.reshape(boxes, (-1, 4)), [score / 8 for _, score in rows], device)


@given(rows=scored_boxes, method=st.sampled_from(METHODS))
def test_scores_descend_and_never_rise(device, rows, method):
    boxes, scores = unpack(rows, device)
    keep, decayed = soft_nms(boxes, scores, method=method)
    assert (decayed[1:] <= decayed[:-1]).all() and (decayed <= scores[keep]).all()
    assert len(set(keep.tolist())) == len(keep) and (decayed >= 0.001).all()
    if len(keep):
        assert int(keep[0]) == int((scores == scores.max()).nonzero()[0])


@given(rows=scored_boxes, method=st.sampled_from(METHODS), dx=st.integers(-99, 99))
def test_is_invariant_to_translation_on_a_grid_and_to_doubling(device, rows, method, dx):
    boxes, scores = unpack(rows, device)
    expected = soft_nms(boxes, scores, method=method)
    assert_equal(soft_nms(boxes + dx, scores, method=method), expected)
    assert_equal(soft_nms(boxes * 2, scores, method=method), expected)


@given(rows=scored_boxes)
def test_boxes_without_overlap_keep_their_scores(device, rows):
    boxes, scores = unpack(rows, device)
    boxes = boxes + 100 * torch.arange(len(boxes), device=device).float()[:, None]
    keep, decayed = soft_nms(boxes, scores, method="gaussian", score_threshold=0)
    assert torch.equal(decayed, scores[keep]) and len(keep) == len(boxes)


def test_one_group_at_a_time_is_the_same_as_all(device, rng):
    boxes, scores = tensors(uniform(rng, 150), scores_for(rng, 150), device)
    labels = torch.from_numpy(rng.integers(0, 3, 150)).to(device)
    keep, decayed = soft_nms(boxes, scores, labels=labels)
    for label in range(3):
        (group,) = torch.where(labels == label)
        alone = soft_nms(boxes[group], scores[group])
        in_group = labels[keep] == label
        assert torch.equal(keep[in_group], group[alone[0]])
        assert torch.equal(decayed[in_group], alone[1])


def test_does_not_change_its_arguments(device, rng):
    boxes, scores = tensors(uniform(rng, 100), scores_for(rng, 100), device)
    copies = boxes.clone(), scores.clone()
    soft_nms(boxes, scores)
    assert torch.equal(boxes, copies[0]) and torch.equal(scores, copies[1])


# --- gradients


def test_gradient_is_refused(device, rng):
    boxes, scores = tensors(uniform(rng, 9), scores_for(rng, 9), device)
    for arguments in ((boxes, scores.clone().requires_grad_()), (boxes.requires_grad_(), scores)):
        decayed = soft_nms(*arguments)[1]
        with pytest.raises(RuntimeError, match="soft_nms is not differentiable"):
            decayed.sum().backward()


# --- scalars reach the kernel


def test_every_scalar_of_the_schema_has_its_meaning(device):
    # IoU with the first box: .5 and .25.
    boxes, scores = tensors([[0, 0, 4, 1], [0, 0, 2, 1], [0, 0, 1, 1]], [1, 0.5, 0.25], device)
    operator = torch.ops.cvlib.soft_nms

    def decayed(*settings):
        return operator(boxes, scores, None, None, *settings)[1].tolist()

    # The second lowers the third as well: their IoU is .5.
    assert decayed(False, 0.25, 0.5, 0.0, -1) == [1, 0.25, 0.09375]
    assert decayed(False, 0.5, 0.5, 0.0, -1) == [1, 0.25, 0.125]
    assert decayed(False, 0.75, 0.5, 0.0, -1) == [1, 0.5, 0.25]
    assert decayed(False, 0.25, 0.5, 0.125, -1) == [1, 0.25]
    assert decayed(False, 0.25, 0.5, 0.0, 2) == [1, 0.25]
    expected = [1, 0.5 * np.exp(-0.25 / 2), 0.25 * np.exp(-0.0625 / 2 - 0.25 / 2)]
    np.testing.assert_allclose(decayed(True, 0.25, 2.0, 0.0, -1), expected, rtol=1e-6)
    expected = [1, 0.5 * np.exp(-0.25 / 4), 0.25 * np.exp(-0.0625 / 4 - 0.25 / 4)]
    np.testing.assert_allclose(decayed(True, 0.25, 4.0, 0.0, -1), expected, rtol=1e-6)


# --- by hand ------------------------------------------------------------------------------------


def test_by_hand(device):
    #  +-------+            a = (0, 0, 2, 1) score .75
    #  |   a   |            b = (1, 0, 3, 1) score .5: IoU with a is 1/3, so .5 * 2/3 = 1/3
    #  +---+---+---+        c = (2, 0, 4, 1) score .375: touches a, IoU with b is 1/3
    #      |   b   |
    #      +---+---+---+    After a, c (.375) comes before b (.333), and lowers it again: 2/9.
    #          |   c   |
    #          +-------+
    boxes, scores = tensors([[0, 0, 2, 1], [1, 0, 3, 1], [2, 0, 4, 1]], [0.75, 0.5, 0.375], device)
    keep, decayed = soft_nms(boxes, scores)
    assert keep.tolist() == [0, 2, 1]
    np.testing.assert_allclose(decayed.tolist(), [0.75, 0.375, 2 / 9], rtol=1e-6)
