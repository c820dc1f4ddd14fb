"""matrix_nms: values against the definition; the reference and CUDA to the bit."""

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
    tensors,
)
from hypothesis import given
from hypothesis import strategies as st

from cvlib.ops.matrix_nms import _matrix_nms_reference, matrix_nms

KERNELS = ["linear", "gaussian"]


def assert_is_right(boxes, scores, kernel, sigma=2.0, labels=None, image_ids=None):
    result = matrix_nms(boxes, scores, labels, image_ids=image_ids, kernel=kernel, sigma=sigma)
    ids = [None if one is None else oracles.to_numpy(one) for one in (labels, image_ids)]
    expected = oracles_suppression.matrix_nms(
        oracles.to_numpy(boxes), oracles.to_numpy(scores), kernel == "gaussian", sigma, *ids
    )
    assert result.device == boxes.device
    assert result.dtype == (torch.float64 if boxes.dtype == torch.float64 else torch.float32)
    tolerance = 1e-10 if boxes.dtype == torch.float64 else 2e-5
    np.testing.assert_allclose(result.cpu().numpy(), expected, rtol=tolerance, atol=tolerance)
    return result


def native(boxes, scores, kernel, labels=None, images=None, sigma=2.0, reference=False):
    operator = _matrix_nms_reference if reference else torch.ops.cvlib.matrix_nms
    return operator(boxes, scores, labels, images, kernel == "gaussian", sigma)


def uniform(rng, n):
    return oracles.random_boxes(rng, n, size=60, extent=8 * np.sqrt(n))


def with_infinities(rng, n):
    boxes = uniform(rng, n)
    for column, value in ((0, -inf), (1, -inf), (2, inf), (3, inf)):
        boxes[rng.random(n) < 0.05, column] = value
    return boxes


def far(rng, n):
    return uniform(rng, n) + 1e6


SCENES = [uniform, integer_grid, mixed_scales, identical, with_infinities, far]


def scores_for(rng, n):
    return rng.choice([0.75, 0.5, 0.0, -0.0, 0.25, 0.125, 1.0], n)


# --- matches the oracle


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("n", [0, 1, 2, 31, 32, 33, 64, 65, 100])
def test_matches_oracle(device, dtype, n, kernel, rng):
    boxes, scores = tensors(uniform(rng, n), rng.random(n), device, dtype)
    assert_is_right(boxes, scores, kernel)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_matches_oracle_on_scenes(device, scene, kernel, rng):
    for n in (20, 90):
        boxes, scores = tensors(scene(rng, n), scores_for(rng, n), device)
        for sigma in (0.0, 0.5, 30.0):
            assert_is_right(boxes, scores, kernel, sigma)


@pytest.mark.parametrize("kernel", KERNELS)
def test_groups_match_oracle(device, kernel, rng):
    for n in (1, 40, 120):
        boxes, scores = tensors(integer_grid(rng, n), scores_for(rng, n), device)
        labels = torch.from_numpy(rng.choice([2**62, -(2**63), 0, 2**53, 2**53 + 1], n))
        images = torch.from_numpy(rng.integers(-1, 2, n))
        labels, images = labels.to(device), images.to(device)
        assert_is_right(boxes, scores, kernel, labels=labels)
        assert_is_right(boxes, scores, kernel, image_ids=images)
        assert_is_right(boxes, scores, kernel, labels=labels, image_ids=images)


@pytest.mark.parametrize("kernel", KERNELS)
def test_duplicates_are_lowered_to_nothing_not_to_nan(device, kernel):
    # In the paper's matrices the third is 0 / 0.
    boxes, scores = tensors([[0, 0, 2, 2]] * 4, [0.9, 0.8, 0.7, 0.6], device)
    result = matrix_nms(boxes, scores, kernel=kernel, sigma=1e6)
    expected = torch.tensor([0.9, 0, 0, 0], device=device)
    torch.testing.assert_close(result, expected)


def test_memory_layout_does_not_matter(device, rng):
    boxes, scores = tensors(uniform(rng, 90), rng.random(90), device)
    expected = matrix_nms(boxes[::2].clone(), scores[::2].clone())
    assert torch.equal(matrix_nms(boxes[::2], scores[::2]), expected)
    wide = torch.cat([scores[:, None], boxes], 1)[::2]
    assert torch.equal(matrix_nms(wide[:, 1:], wide[:, 0]), expected)
    column_major = boxes[::2].t().contiguous().t()
    assert torch.equal(matrix_nms(column_major, scores[::2]), expected)


@pytest.mark.cuda
@pytest.mark.parametrize("kernel", KERNELS)
def test_nan_lowers_nothing_on_cuda(cuda, kernel, rng):
    boxes, scores = tensors(uniform(rng, 60), rng.random(60), cuda)
    clean = matrix_nms(boxes, scores, kernel=kernel)
    bad_boxes = torch.cat([boxes, boxes[:9]])
    bad_boxes[60:66, 1] = nan
    bad_scores = torch.cat([scores, torch.full((9,), 2.0, device=cuda)])
    bad_scores[66:] = nan
    result = matrix_nms(bad_boxes, bad_scores, kernel=kernel)
    assert torch.equal(result[:60], clean) and (result[60:66] == 2).all()
    assert result[66:].isnan().all()


# --- matches the paper's matrices


@pytest.mark.parametrize("kernel", KERNELS)
def test_equals_the_formulas_of_the_paper(device, kernel, rng):
    boxes, scores = tensors(uniform(rng, 400), rng.permutation(400) / 400, device, torch.float64)
    order = scores.argsort(descending=True)
    iou = torchvision.ops.box_iou(boxes[order], boxes[order]).triu(diagonal=1)
    largest = iou.max(0).values.expand(400, 400).T
    if kernel == "gaussian":
        decay = (torch.exp(-2.0 * iou**2) / torch.exp(-2.0 * largest**2)).min(0).values
    else:
        decay = ((1 - iou) / (1 - largest)).min(0).values
    result = matrix_nms(boxes, scores, kernel=kernel)[order]
    torch.testing.assert_close(result, scores[order] * decay, rtol=1e-12, atol=1e-14)


# --- CPU equals CUDA


@pytest.mark.cuda
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_cpu_equals_cuda(cuda, scene, kernel, rng):
    for n in (33, 1500):
        boxes, scores = tensors(scene(rng, n), scores_for(rng, n), "cpu")
        ids = torch.from_numpy(rng.integers(0, 4, n))
        expected = native(boxes, scores, kernel, ids, ids)
        results = native(boxes.to(cuda), scores.to(cuda), kernel, ids.to(cuda), ids.to(cuda))
        assert torch.equal(results.cpu(), expected)


# --- reference equals native


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_reference_equals_native(device, scene, dtype, kernel, rng):
    n = 170
    boxes, scores = tensors(scene(rng, n), scores_for(rng, n), device, dtype)
    ids = [torch.from_numpy(rng.integers(0, 2, n)).to(device) for _ in range(2)]
    for groups in ((None, None), (ids[0], None), ids):
        expected = native(boxes, scores, kernel, *groups, reference=True)
        assert torch.equal(native(boxes, scores, kernel, *groups), expected)


def test_reference_equals_native_when_large(device, rng):
    # More than one block of rows of the reference, many chunks of the kernel.
    boxes, scores = tensors(uniform(rng, 3000), rng.random(3000), device)
    for kernel in KERNELS:
        expected = native(boxes, scores, kernel, reference=True)
        assert torch.equal(native(boxes, scores, kernel), expected)


# --- properties

box_rows = st.tuples(st.integers(-9, 9), st.integers(-9, 9), st.integers(0, 9), st.integers(0, 9))
scored_boxes = st.lists(st.tuples(box_rows, st.integers(0, 8)), min_size=1, max_size=25)


def unpack(rows, device):
    boxes = [[x, y, x + w, y + h] for (x, y, w, h), _ in rows]
    return tensors(np.reshape(boxes, (-1, 4)), [score / 8 for _, score in rows], device)


@given(rows=scored_boxes, kernel=st.sampled_from(KERNELS))
def test_no_score_rises_and_the_best_stays(device, rows, kernel):
    boxes, scores = unpack(rows, device)
    result = matrix_nms(boxes, scores, kernel=kernel)
    assert (result <= scores).all() and (result >= 0).all()
    best = int((scores == scores.max()).nonzero()[0])
    assert result[best] == scores[best]


@given(rows=scored_boxes, kernel=st.sampled_from(KERNELS), seed=st.integers(0, 99))
def test_order_of_the_input_does_not_matter_without_ties(device, rows, kernel, seed):
    boxes, scores = unpack(rows, device)
    scores = scores + torch.arange(len(rows), device=device) / 1024
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(rows))).to(device)
    result = matrix_nms(boxes, scores, kernel=kernel)
    assert torch.equal(matrix_nms(boxes[order], scores[order], kernel=kernel), result[order])


# --- gradients


@pytest.mark.parametrize("kernel", KERNELS)
def test_gradient_of_the_scores(device, kernel, rng):
    boxes, scores = tensors(uniform(rng, 12), rng.random(12), device, torch.float64)
    scores.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: matrix_nms(boxes, s, kernel=kernel), (scores,))
    assert torch.autograd.gradgradcheck(
        lambda s: matrix_nms(boxes, s, kernel=kernel).square(), (scores,)
    )


def test_gradient_of_the_boxes_is_refused(device, rng):
    boxes, scores = tensors(uniform(rng, 5), rng.random(5), device)
    with pytest.raises(RuntimeError, match="matrix_nms is not differentiable"):
        matrix_nms(boxes.requires_grad_(), scores).sum().backward()


# --- scalars reach the kernel


def test_every_scalar_of_the_schema_has_its_meaning(device):
    boxes, scores = tensors([[0, 0, 4, 1], [0, 0, 2, 1]], [1, 0.5], device)
    operator = torch.ops.cvlib.matrix_nms
    assert operator(boxes, scores, None, None, False, 2.0).tolist() == [1, 0.5]
    for sigma in (0.0, 2.0, 3.5):
        results = float(operator(boxes, scores, None, None, True, sigma)[1])
        assert results == pytest.approx(np.exp(-sigma / 4), rel=1e-6)


# --- by hand ------------------------------------------------------------------------------------


def test_by_hand(device):
    #  +-------+            a = (0, 0, 2, 1) score 1
    #  |   a   |            b = (1, 0, 3, 1) score .5: IoU with a is 1/3, so .5 * 2/3 = 1/3
    #  +---+---+---+        c = (2, 0, 4, 1) score .25: touches a, IoU with b is 1/3; but b is
    #      |   b   |        itself lowered by 2/3, so the quotient is 1 and c stays
    #      +---+---+---+
    #          |   c   |
    #          +-------+
    boxes, scores = tensors([[0, 0, 2, 1], [1, 0, 3, 1], [2, 0, 4, 1]], [1, 0.5, 0.25], device)
    result = matrix_nms(boxes, scores, kernel="linear")
    np.testing.assert_allclose(result.tolist(), [1, 1 / 3, 0.25], rtol=1e-6)
