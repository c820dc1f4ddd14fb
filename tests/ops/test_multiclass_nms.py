"""multiclass_nms: decisions are compared exactly with suppression class by class."""

import numpy as np
import oracles
import oracles_suppression
import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st

import cvlib
from cvlib.ops.multiclass_nms import _multiclass_nms_reference, multiclass_nms

nan, inf = float("nan"), float("inf")
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


def tensors(boxes, scores, device, dtype=torch.float32):
    boxes = torch.as_tensor(np.asarray(boxes, np.float64)).to(dtype)
    return boxes.to(device), torch.as_tensor(np.asarray(scores, np.float64)).to(dtype).to(device)


def scene(rng, shape, device, dtype=torch.float32, per_class=False, kind="uniform"):
    """Boxes (B, N, 4) or (B, N, K, 4) and scores (B, N, K) with ties."""
    count = shape if per_class else shape[:2]
    if kind == "uniform":
        boxes = oracles.random_boxes(rng, int(np.prod(count)), size=60, extent=150)
    else:  # small integer corners: ties, identical and empty boxes
        corner = rng.integers(-4, 8, (int(np.prod(count)), 2))
        boxes = np.concatenate([corner, corner + rng.integers(0, 5, corner.shape)], 1)
    scores = rng.integers(0, 17, shape) / 16
    return tensors(boxes.reshape(*count, 4), scores, device, dtype)


def assert_is_right(boxes, scores, max_candidates=None, max_output=10, **options):
    options = {"score_threshold": 0.05, "iou_threshold": 0.5, **options}
    results = multiclass_nms(
        boxes, scores, max_candidates=max_candidates, max_output=max_output, **options
    )
    expected = oracles_suppression.multiclass_nms(
        oracles.to_numpy(boxes),
        oracles.to_numpy(scores),
        *options.values(),
        max_candidates,
        max_output,
    )
    assert results.boxes.dtype == boxes.dtype and results.scores.dtype == scores.dtype
    assert results.counts.tolist() == [len(rows) for rows in expected]
    for image, rows in enumerate(expected):
        count = len(rows)
        pairs = zip(results.indices[image].tolist(), results.labels[image].tolist(), strict=True)
        assert list(pairs) == rows + [(-1, -1)] * (max_output - count)
        assert not results.scores[image, count:].any() and not results.boxes[image, count:].any()
        for d, (row, label) in enumerate(rows):
            box = boxes[image, row] if boxes.dim() == 3 else boxes[image, row, label]
            assert torch.equal(results.boxes[image, d], box)
            assert results.scores[image, d] == scores[image, row, label]
    return results


def native(boxes, scores, limits=(-1, 20), reference=False):
    operator = _multiclass_nms_reference if reference else torch.ops.cvlib.multiclass_nms
    return operator(boxes, scores, 0.1, 0.4, *limits)


def assert_equal(a, b):
    for one, other in zip(a, b, strict=True):
        assert torch.equal(one.cpu(), other.cpu())


# --- matches the oracle

SHAPES = [
    (0, 3, 2),
    (2, 0, 3),
    (2, 3, 0),
    (1, 1, 1),
    (2, 7, 1),
    (1, 33, 5),
    (3, 40, 16),
    (2, 65, 3),
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("per_class", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_matches_oracle(device, dtype, per_class, shape, rng):
    boxes, scores = scene(rng, shape, device, dtype, per_class)
    assert_is_right(boxes, scores)


@pytest.mark.parametrize("per_class", [False, True])
@pytest.mark.parametrize("kind", ["uniform", "grid"])
def test_settings_match_oracle(device, kind, per_class, rng):
    boxes, scores = scene(rng, (2, 60, 4), device, per_class=per_class, kind=kind)
    for iou_threshold in (0.0, 1 / 3, 0.5, 1.0):
        assert_is_right(boxes, scores, iou_threshold=iou_threshold, max_output=50)
    for score_threshold in (-1, 0.0, 0.5, 1.0, 1.1):
        assert_is_right(boxes, scores, score_threshold=score_threshold)
    for max_candidates in (0, 1, 3, 17, 60, 1000):
        assert_is_right(boxes, scores, max_candidates=max_candidates, max_output=100)
    for max_output in (0, 1, 2, 239, 240, 300):
        assert_is_right(boxes, scores, max_output=max_output)


def test_matches_oracle_when_large(device, rng):
    # More candidates than one portion of the CPU kernel, more than a tile of the CUDA kernel.
    boxes, scores = scene(rng, (2, 900, 5), device)
    assert_is_right(boxes, scores, max_output=40, max_candidates=300)
    boxes, scores = scene(rng, (1, 700, 3), device, per_class=True)
    scores = scores * 0.01 + torch.rand(scores.shape, device=device)
    assert_is_right(boxes, scores, max_output=5)
    assert_is_right(boxes, scores, max_output=500)


def test_heavy_overlap_needs_all_candidates(device, rng):
    # Thousands of candidates for two boxes: every portion is read, and few are kept.
    boxes, scores = tensors(np.tile([0.0, 0, 4, 4], (1, 3000, 1)), rng.random((1, 3000, 2)), device)
    boxes[0, 1234] += 100
    results = multiclass_nms(boxes, scores, score_threshold=0, max_output=6)
    assert results.counts.tolist() == [4]
    assert 1234 in results.indices[0].tolist()


def test_equal_scores_come_in_the_order_of_the_input(device):
    corner = torch.arange(6, device=device).float() * 10
    boxes = torch.stack([corner, corner, corner + 1, corner + 1], 1)[None]
    scores = torch.zeros(1, 6, 3, device=device)
    scores[0, ::2] = -0.0
    results = multiclass_nms(boxes, scores, score_threshold=0, max_output=10)
    assert results.indices.tolist() == [[0, 0, 0, 1, 1, 1, 2, 2, 2, 3]]
    assert results.labels.tolist() == [[0, 1, 2, 0, 1, 2, 0, 1, 2, 0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_score_threshold_is_compared_as_given(device, dtype):
    boxes, scores = tensors([[[0, 0, 1, 1]]], [[[0.1]]], device, dtype)
    value = float(scores)
    for threshold in (0.1, value, float(np.nextafter(value, 0)), float(np.nextafter(value, 1))):
        results = multiclass_nms(boxes, scores, score_threshold=threshold)
        assert int(results.counts) == (1 if value >= threshold else 0)


def test_scores_of_any_sign_and_size(device):
    values = [0.5, -inf, inf, 1e-7, -1e-7, -3, 6e4, -6e4, 0.0, -0.0, 1]
    corner = np.arange(len(values)) * 10.0
    boxes = np.stack([corner, corner, corner + 1, corner + 1], 1)[None]
    boxes, scores = tensors(boxes, np.array(values)[None, :, None], device)
    assert_is_right(boxes, scores, score_threshold=-1e30, max_output=11)


LAYOUTS = {
    "without the background": lambda x: torch.cat([x[:, :, :1], x], 2)[:, :, 1:],
    "every second row": lambda x: x.repeat_interleave(2, 1)[:, ::2],
    "every second image": lambda x: x.repeat_interleave(2, 0)[::2],
    "last dimension first": lambda x: x.movedim(-1, 0).contiguous().movedim(0, -1),
    "offset in storage": lambda x: torch.cat([x[:1], x])[1:],
}


@pytest.mark.parametrize("per_class", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_memory_layout_does_not_matter(device, layout, per_class, rng):
    boxes, scores = scene(rng, (2, 30, 5), device, per_class=per_class)
    change = LAYOUTS[layout]
    expected = multiclass_nms(boxes, scores)
    assert_equal(multiclass_nms(boxes, change(scores)), expected)
    if per_class or layout != "without the background":
        assert_equal(multiclass_nms(change(boxes), scores), expected)
    shared = boxes[:, :, :1].expand(-1, -1, 5, -1) if per_class else boxes[:1].expand(2, -1, -1)
    assert_equal(multiclass_nms(shared, scores), multiclass_nms(shared.contiguous(), scores))


@pytest.mark.cuda
def test_nan_is_no_candidate_on_cuda(cuda, rng):
    boxes, scores = scene(rng, (2, 300, 4), cuda)
    boxes[:, ::7, 2] = nan
    scores[:, ::5, 1] = nan
    assert_is_right(boxes, scores, max_candidates=40, max_output=50)
    assert_equal(native(boxes, scores), native(boxes, scores, reference=True))


# --- matches torchvision


def test_equals_batched_nms_of_torchvision(device, rng):
    boxes, _ = scene(rng, (2, 400, 6), device, per_class=True)
    scores = torch.from_numpy(rng.permutation(2 * 400 * 6).reshape(2, 400, 6) / 4800).float()
    scores = scores.to(device)
    results = multiclass_nms(boxes, scores, score_threshold=0.5, max_output=100)
    for image in range(2):
        rows, labels = torch.where(scores[image] > 0.5)
        candidates = boxes[image, rows, labels], scores[image, rows, labels], labels
        keep = torchvision.ops.batched_nms(*candidates, 0.5)[:100]
        assert torch.equal(results.indices[image], rows[keep])
        assert torch.equal(results.labels[image], labels[keep])
        assert torch.equal(results.boxes[image], candidates[0][keep])


def test_one_class_equals_nms(device, rng):
    boxes, scores = scene(rng, (1, 500, 1), device)
    keep = cvlib.nms(boxes[0], scores[0, :, 0], 0.5, max_output=30)
    results = multiclass_nms(boxes, scores, score_threshold=-1, max_output=30)
    assert torch.equal(results.indices[0, : len(keep)], keep)


# --- CPU equals CUDA


@pytest.mark.cuda
@pytest.mark.parametrize("per_class", [False, True])
@pytest.mark.parametrize("kind", ["uniform", "grid"])
def test_cpu_equals_cuda(cuda, kind, per_class, rng):
    for shape in ((2, 30, 3), (3, 2000, 7)):
        boxes, scores = scene(rng, shape, "cpu", per_class=per_class, kind=kind)
        for limits in ((-1, 20), (150, 400)):
            results = native(boxes.to(cuda), scores.to(cuda), limits)
            assert_equal(results, native(boxes, scores, limits))


# --- reference equals native


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("per_class", [False, True])
def test_reference_equals_native(device, dtype, per_class, rng):
    for shape in ((2, 50, 3), (1, 300, 2), (2, 0, 1)):
        boxes, scores = scene(rng, shape, device, dtype, per_class, kind="grid")
        for limits in ((-1, 20), (5, 100), (0, 3), (9, 0)):
            expected = native(boxes, scores, limits, reference=True)
            assert_equal(native(boxes, scores, limits), expected)


# --- properties

box_rows = st.tuples(st.integers(-9, 9), st.integers(-9, 9), st.integers(0, 9), st.integers(0, 9))
scored_boxes = st.lists(
    st.tuples(box_rows, st.tuples(st.integers(0, 8), st.integers(0, 8))), max_size=20
)


@given(rows=scored_boxes, iou_threshold=st.sampled_from([0.0, 1 / 3, 0.5, 0.9]))
def test_equals_batched_nms(device, rows, iou_threshold):
    boxes = np.reshape([[x, y, x + w, y + h] for (x, y, w, h), _ in rows], (1, -1, 4))
    scores = np.reshape([one for _, one in rows], (1, -1, 2)) / 8
    boxes, scores = tensors(boxes, scores, device)
    results = multiclass_nms(
        boxes, scores, score_threshold=0.25, iou_threshold=iou_threshold, max_output=9
    )
    row, label = torch.where(scores[0] >= 0.25)
    keep = cvlib.batched_nms(
        boxes[0, row], scores[0, row, label], label, iou_threshold, max_output=9
    )
    count = int(results.counts)
    assert count == len(keep)
    assert torch.equal(results.indices[0, :count], row[keep])
    assert torch.equal(results.labels[0, :count], label[keep])


def test_images_do_not_know_of_each_other(device, rng):
    boxes, scores = scene(rng, (3, 50, 4), device)
    results = multiclass_nms(boxes, scores)
    for image in range(3):
        alone = multiclass_nms(boxes[image : image + 1], scores[image : image + 1])
        assert_equal(alone, [one[image : image + 1] for one in results])


def test_does_not_change_its_arguments(device, rng):
    boxes, scores = scene(rng, (2, 50, 4), device)
    copies = boxes.clone(), scores.clone()
    multiclass_nms(boxes, scores)
    assert_equal((boxes, scores), copies)


# --- gradients


@pytest.mark.parametrize("per_class", [False, True])
def test_gradient_is_that_of_the_gathered_rows(device, per_class, rng):
    boxes, scores = scene(rng, (2, 4, 2), device, torch.float64, per_class)
    scores = scores + torch.from_numpy(rng.random(scores.shape) / 100).to(device)
    boxes.requires_grad_(), scores.requires_grad_()

    def both(boxes, scores):
        return multiclass_nms(boxes, scores, max_output=3)[:2]

    assert torch.autograd.gradcheck(both, (boxes, scores))
    assert torch.autograd.gradgradcheck(
        lambda *a: tuple(x.square() for x in both(*a)), (boxes, scores)
    )
    results = multiclass_nms(boxes, scores, max_output=9)
    (grad,) = torch.autograd.grad(results.scores.sum(), scores)
    assert int(grad.sum()) == int(results.counts.sum())


def test_gradient_without_boxes_is_zero(device):
    boxes = torch.zeros(2, 0, 4, device=device, requires_grad=True)
    results = multiclass_nms(boxes, torch.zeros(2, 0, 3, device=device), max_output=4)
    assert results.boxes.shape == (2, 4, 4) and results.counts.tolist() == [0, 0]


# --- scalars reach the kernel


def test_every_scalar_of_the_schema_has_its_meaning(device):
    # IoUs with the first box are .2, .4, .6, .8; among the others 1/2, 1/3, 1/4, 2/3, 3/4.
    rows = [[0, 0, w, 1] for w in (10, 2, 4, 6, 8)]
    boxes, scores = tensors([rows], [[[5], [4], [3], [2], [1]]], device)

    def kept(*settings):
        rows, _, counts = torch.ops.cvlib.multiclass_nms(boxes, scores, *settings)
        assert rows.shape == (1, settings[-1])
        return rows[0, : int(counts)].tolist()

    assert kept(0.0, 0.1, -1, 9) == [0]
    assert kept(0.0, 0.5, -1, 9) == [0, 1, 2]
    assert kept(0.0, 0.9, -1, 9) == [0, 1, 2, 3, 4]
    assert kept(2.0, 0.9, -1, 9) == [0, 1, 2, 3]
    assert kept(2.5, 0.9, -1, 9) == [0, 1, 2]
    assert kept(0.0, 0.9, 2, 9) == [0, 1]
    assert kept(0.0, 0.9, -1, 3) == [0, 1, 2]


# --- errors


@pytest.mark.parametrize("position", [0, 7, 16, 31, 32, 1234, 2999])
def test_one_bad_value_among_many_is_found(position, rng):
    for per_class in (False, True):
        boxes, scores = scene(rng, (1, 1000, 3), "cpu", per_class=per_class)
        flat = boxes.view(-1, 4)
        row = position * len(flat) // 3000
        flat[row, 3] = nan
        with pytest.raises(ValueError, match="expected `boxes` to be without NaN"):
            multiclass_nms(boxes, scores)
        flat[row] = 0
        for wrong in (scores, torch.cat([scores, scores], 2)[:, :, :3]):
            wrong.reshape(-1)[position], wrong[0, position // 3, position % 3] = nan, nan
            with pytest.raises(ValueError, match="expected `scores` to be without NaN"):
                multiclass_nms(boxes, wrong)


# --- worked examples


def test_by_hand(device):
    # a and b overlap by 1/3 and both are of class 0 and 1; c is by itself. At a threshold of .3, a
    # drops b in class 0, and b drops a in class 1.
    #  +-------+          class 0: a .9, b .8, c .1        class 1: a .2, b .6, c .7
    #  |   a   |   +---+
    #  +---+---+---+ c |
    #      |   b   |---+
    #      +-------+
    boxes, scores = tensors(
        [[[0, 0, 2, 1], [1, 0, 3, 1], [3, 0, 4, 1]]],
        [[[0.9, 0.2], [0.8, 0.6], [0.1, 0.7]]],
        device,
    )
    results = multiclass_nms(boxes, scores, score_threshold=0.15, iou_threshold=0.3, max_output=4)
    assert results.indices.tolist() == [[0, 2, 1, -1]] and results.labels.tolist() == [
        [0, 1, 1, -1]
    ]
    assert results.counts.tolist() == [3]
    torch.testing.assert_close(results.scores.cpu(), torch.tensor([[0.9, 0.7, 0.6, 0]]))
    assert results.boxes[0, 1].tolist() == [3, 0, 4, 1] and not results.boxes[0, 3].any()
