"""weighted_boxes_fusion: which boxes are fused is decided in float64, whatever the dtype."""

import numpy as np
import oracles
import oracles_suppression
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cvlib.ops.fusion import _CONFIDENCES, _fusion_reference, weighted_boxes_fusion

nan = float("nan")
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


def scene(rng, sizes, device, dtype=torch.float32, objects=5, classes=3, images=2):
    """Predictions of several models for the same objects: boxes, scores, labels, image ids."""
    places = oracles.random_boxes(rng, objects, size=60, extent=100)
    kinds, found_in = rng.integers(-1, classes, objects), rng.integers(0, images, objects)
    lists = [[], [], [], []]
    for n in sizes:
        seen = rng.integers(0, objects, n)
        boxes = places[seen] + rng.normal(size=(n, 4)) * 2
        boxes[:, 2:] = np.maximum(boxes[:, :2], boxes[:, 2:])
        lists[0].append(torch.from_numpy(boxes).to(dtype).to(device))
        lists[1].append(torch.from_numpy(rng.random(n)).to(dtype).to(device))
        lists[2].append(torch.from_numpy(kinds[seen]).to(device))
        lists[3].append(torch.from_numpy(found_in[seen]).to(device))
    return lists


def as_rows(fused):
    boxes, scores, labels, *images = (oracles.to_numpy(one).astype(np.float64) for one in fused)
    image = images[0] if images else np.zeros(len(labels))
    return np.column_stack([image, labels, scores, boxes]).reshape(-1, 7)


def oracle(
    boxes,
    scores,
    labels,
    weights=None,
    iou_threshold=0.55,
    score_threshold=0.0,
    conf_type="avg",
    allows_overflow=False,
    image_ids=None,
):
    lists = [[oracles.to_numpy(one) for one in values] for values in (boxes, scores, labels)]
    images = None if image_ids is None else [oracles.to_numpy(one) for one in image_ids]
    weights = [1.0] * len(boxes) if weights is None else weights
    settings = (weights, iou_threshold, score_threshold, conf_type, allows_overflow, images)
    return oracles_suppression.weighted_boxes_fusion(*lists, *settings)


def assert_is_right(boxes, scores, labels, **options):
    fused = weighted_boxes_fusion(boxes, scores, labels, **options)
    wide = boxes[0].dtype == torch.float64
    assert fused[0].dtype == fused[1].dtype == (torch.float64 if wide else torch.float32)
    assert fused[2].dtype == torch.int64 and fused[0].device == boxes[0].device
    tolerance = 1e-12 if wide else 1e-6
    expected = oracle(boxes, scores, labels, **options)
    np.testing.assert_allclose(as_rows(fused), expected, rtol=tolerance, atol=tolerance)
    return fused


def flat(lists, weights, images=True):
    models = torch.cat([torch.full((len(one),), m) for m, one in enumerate(lists[0])])
    boxes, scores, labels, ids = (torch.cat(one) for one in lists)
    factors = torch.tensor(weights, dtype=torch.float64, device=boxes.device)
    return boxes, scores, labels, models.to(boxes.device), factors, ids if images else None


def assert_equal(a, b):
    for one, other in zip(a, b, strict=True):
        assert torch.equal(one.cpu(), other.cpu())


# --- matches the oracle


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("sizes", [(0,), (1,), (0, 0, 3), (5, 7), (1, 1, 1, 1), (40, 0, 33)])
def test_matches_oracle(device, dtype, sizes, rng):
    boxes, scores, labels, images = scene(rng, sizes, device, dtype)
    assert_is_right(boxes, scores, labels)
    assert_is_right(boxes, scores, labels, image_ids=images)


@pytest.mark.parametrize("conf_type", _CONFIDENCES)
@pytest.mark.parametrize("allows_overflow", [False, True])
def test_confidence_matches_oracle(device, conf_type, allows_overflow, rng):
    boxes, scores, labels, _ = scene(rng, (20, 30, 9), device)
    for weights in (None, [1, 2, 0.5]):
        options = {"conf_type": conf_type, "allows_overflow": allows_overflow}
        assert_is_right(boxes, scores, labels, weights=weights, **options)


@pytest.mark.parametrize("iou_threshold", [0.0, 0.3, 0.55, 0.9, 1.0])
@pytest.mark.parametrize("score_threshold", [0.0, 0.5, 2.0])
def test_thresholds_match_oracle(device, iou_threshold, score_threshold, rng):
    boxes, scores, labels, images = scene(rng, (30, 25), device)
    options = {"iou_threshold": iou_threshold, "score_threshold": score_threshold}
    assert_is_right(boxes, scores, labels, image_ids=images, **options)


def test_matches_oracle_when_large(device, rng):
    boxes, scores, labels, images = scene(rng, (300, 200), device, objects=60, classes=8)
    assert_is_right(boxes, scores, labels, image_ids=images)
    one_class = [torch.zeros_like(one) for one in labels]
    assert_is_right(boxes, scores, one_class, weights=[1, 3])


def test_ties_go_to_the_input_order_and_the_oldest_cluster(device):
    # Boxes on a grid with equal scores: IoUs of 1/3 on both sides.
    rows = [[x, 0, x + 2, 1] for x in (0, 2, 1, 4, 3)]
    boxes = [torch.tensor(rows, device=device).float()] * 2
    scores = [torch.full((5,), 0.5, device=device)] * 2
    labels = [torch.zeros(5, dtype=torch.int64, device=device)] * 2
    fused = assert_is_right(boxes, scores, labels, iou_threshold=0.3)
    assert len(fused[0]) < 5


def test_scores_of_zero_leave_the_first_box(device):
    boxes = [torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 5]], device=device)]
    scores = [torch.zeros(2, device=device)]
    labels = [torch.zeros(2, dtype=torch.int64, device=device)]
    fused = assert_is_right(boxes, scores, labels)
    assert fused[0].tolist() == [[0, 0, 4, 4]] and fused[1].tolist() == [0]


def test_negative_scores_do_not_count(device):
    boxes = [torch.tensor([[0.0, 0, 4, 4], [9, 9, 9.5, 9.5]], device=device)]
    labels = [torch.zeros(2, dtype=torch.int64, device=device)]
    fused = weighted_boxes_fusion(boxes, [torch.tensor([-0.5, 0.5], device=device)], labels)
    assert fused[0].tolist() == [[9, 9, 9.5, 9.5]]


def test_empty_boxes_stay_by_themselves(device):
    boxes = [torch.tensor([[1.0, 1, 1, 3], [1, 1, 1, 3], [0, 0, 4, 4]], device=device)]
    scores = [torch.tensor([0.9, 0.8, 0.7], device=device)]
    labels = [torch.zeros(3, dtype=torch.int64, device=device)]
    assert len(assert_is_right(boxes, scores, labels, iou_threshold=0)[0]) == 3


def test_labels_of_any_value(device, rng):
    boxes, scores, _, _ = scene(rng, (40, 30), device, objects=2)
    labels = [
        torch.from_numpy(rng.choice([2**62, -(2**63), 2**53, 2**53 + 1], len(one))).to(device)
        for one in boxes
    ]
    fused = weighted_boxes_fusion(boxes, scores, labels)
    # Alone, class by class.
    for label in fused[2].unique():
        rows = [one == label for one in labels]
        result = [[x[r] for x, r in zip(xs, rows, strict=True)] for xs in (boxes, scores, labels)]
        alone = weighted_boxes_fusion(*result)
        has_label = fused[2] == label
        assert_equal(alone[:2], (fused[0][has_label], fused[1][has_label]))


def test_memory_layout_does_not_matter(device, rng):
    boxes, scores, labels, _ = scene(rng, (30, 20), device)
    expected = weighted_boxes_fusion(boxes, scores, labels)
    boxes = [one.t().contiguous().t() for one in boxes]
    scores = [torch.stack([one, one], 1)[:, 0] for one in scores]
    labels = tuple(one.repeat_interleave(2)[::2] for one in labels)
    assert_equal(weighted_boxes_fusion(boxes, scores, labels), expected)


def test_sixty_four_models(device, rng):
    boxes, scores, labels, _ = scene(rng, (2,) * 64, device)
    for conf_type in _CONFIDENCES:
        assert_is_right(boxes, scores, labels, conf_type=conf_type)


@pytest.mark.cuda
def test_nan_is_left_out_on_cuda(cuda, rng):
    boxes, scores, labels, _ = scene(rng, (30, 20), cuda)
    clean = weighted_boxes_fusion(boxes, scores, labels)
    bad = boxes[0][:3].clone()
    bad[:, 2] = nan
    extra = [bad, boxes[0][3:5]], [scores[0][:3], torch.full((2,), nan, device=cuda)]
    boxes[0], scores[0] = torch.cat([boxes[0], *extra[0]]), torch.cat([scores[0], *extra[1]])
    labels[0] = torch.cat([labels[0], labels[0][:5]])
    assert_equal(weighted_boxes_fusion(boxes, scores, labels), clean)


# --- CPU equals CUDA


@pytest.mark.cuda
@pytest.mark.parametrize("conf_type", _CONFIDENCES)
def test_cpu_equals_cuda(cuda, conf_type, rng):
    for sizes in ((5, 3), (400, 300, 1)):
        lists = scene(rng, sizes, "cpu", objects=40)
        on_cuda = [[one.to(cuda) for one in values] for values in lists]
        weights = [1.5, 0.5, 2][: len(sizes)]
        options = {"weights": weights, "conf_type": conf_type}
        expected = weighted_boxes_fusion(*lists[:3], image_ids=lists[3], **options)
        results = weighted_boxes_fusion(*on_cuda[:3], image_ids=on_cuda[3], **options)
        assert_equal(results, expected)


# --- reference equals native


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("confidence", range(4))
def test_reference_equals_native(device, dtype, confidence, rng):
    lists = scene(rng, (20, 15, 12), device, dtype)
    for images in (False, True):
        arguments = *flat(lists, [1.0, 0.3, 2.0], images), 0.5, 0.1, confidence, False
        native = torch.ops.cvlib.weighted_boxes_fusion(*arguments)
        assert_equal(native, _fusion_reference(*arguments))


# --- properties

box_rows = st.tuples(st.integers(-9, 9), st.integers(-9, 9), st.integers(0, 9), st.integers(0, 9))
predictions = st.lists(
    st.lists(st.tuples(box_rows, st.integers(1, 8), st.integers(0, 1)), max_size=12),
    min_size=1,
    max_size=4,
)


def unpack(models, device):
    boxes = [[[x, y, x + w, y + h] for (x, y, w, h), _, _ in rows] for rows in models]
    return (
        [torch.tensor(one, device=device).float().reshape(-1, 4) for one in boxes],
        [torch.tensor([s / 8 for _, s, _ in rows], device=device) for rows in models],
        [torch.tensor([c for _, _, c in rows], device=device).long() for rows in models],
    )


@given(models=predictions, iou_threshold=st.sampled_from([0.0, 1 / 3, 0.55]))
def test_fused_boxes_lie_among_their_boxes_and_scores_descend(device, models, iou_threshold):
    lists = unpack(models, device)
    boxes, scores, labels = weighted_boxes_fusion(*lists, iou_threshold=iou_threshold)
    assert len(boxes) <= sum(map(len, models)) and (scores[1:] <= scores[:-1]).all()
    assert (scores <= 1).all() and (scores > 0).all()
    everything = torch.cat(lists[0])
    if len(everything):
        low, high = everything.min(0).values, everything.max(0).values
        assert (boxes >= low - 1e-4).all() and (boxes <= high + 1e-4).all()
    assert set(labels.tolist()) == set(torch.cat(lists[2]).tolist())


@given(models=predictions)
def test_one_model_without_overlap_is_only_sorted(device, models):
    boxes, scores, labels = unpack(models[:1], device)
    boxes = [boxes[0] + 100 * torch.arange(len(boxes[0]), device=device)[:, None]]
    fused = weighted_boxes_fusion(boxes, scores, labels)
    order = scores[0].sort(descending=True, stable=True).indices
    assert_equal(fused, (boxes[0][order], scores[0][order], labels[0][order]))


# --- gradients


def test_gradient_is_refused(device, rng):
    boxes, scores, labels, _ = scene(rng, (5, 4), device)
    fused = weighted_boxes_fusion([boxes[0].requires_grad_(), boxes[1]], scores, labels)
    with pytest.raises(RuntimeError, match="weighted_boxes_fusion is not differentiable"):
        fused[1].sum().backward()


# --- scalars reach the kernel


def test_every_scalar_of_the_schema_has_its_meaning(device):
    # Two boxes of one model with an IoU of 1/2, weights 1 and 3: the other model has no box there.
    boxes = torch.tensor([[0.0, 0, 4, 1], [0, 0, 2, 1]], device=device)
    scores = torch.tensor([0.75, 0.25], device=device)
    ids = torch.zeros(2, dtype=torch.int64, device=device)
    weights = torch.tensor([1.0, 3.0], dtype=torch.float64, device=device)

    def fused(*settings):
        operator = torch.ops.cvlib.weighted_boxes_fusion
        results = operator(boxes, scores, ids, ids, weights, None, *settings)
        return results[1].tolist(), results[0][:, 2].tolist()

    assert fused(0.25, 0.0, 0, False) == ([0.5 * 2 / 4], [3.5])
    assert fused(0.5, 0.0, 0, False) == ([0.75 / 4, 0.25 / 4], [4, 2])
    assert fused(0.25, 0.5, 0, False) == ([0.75 / 4], [4])
    assert fused(0.25, 0.0, 1, False) == ([0.75 / 3], [3.5])
    assert fused(0.25, 0.0, 2, False) == ([0.5 / 4], [3.5])
    assert fused(0.25, 0.0, 3, False)[0] == pytest.approx([1 / 5])
    boxes, scores, ids = (torch.cat([one, one[:1]]) for one in (boxes, scores, ids))
    total = 1.75 / 3
    assert fused(0.25, 0.0, 0, False)[0] == pytest.approx([total * 2 / 4])
    assert fused(0.25, 0.0, 0, True)[0] == pytest.approx([total * 3 / 4])


# --- errors

BOXES = torch.tensor([[0.0, 0, 2, 2], [1, 1, 3, 3]])
SCORES = torch.tensor([0.9, 0.8])
IDS = torch.tensor([0, 1])


def test_models_beyond_the_weights_are_refused():
    weights = torch.ones(1, dtype=torch.float64)
    for models in (IDS, IDS - 1):
        with pytest.raises((RuntimeError, IndexError)):
            torch.ops.cvlib.weighted_boxes_fusion(
                BOXES, SCORES, IDS, models, weights, None, 0.5, 0.0, 0, False
            )


# --- worked examples


def test_by_hand(device):
    # Model 0 has (0, 0, 4, 4) with .75, model 1 (0, 0, 4, 5) with .25: IoU 16 / 20. The fused box
    # ends at (.75 * 4 + .25 * 5) / 1 = 4.25, its score is (.75 + .25) / 2. No model
    # confirms the box of model 1 far away: .5 / 1 * 1 / 2.
    boxes = [
        torch.tensor([[0.0, 0, 4, 4]], device=device),
        torch.tensor([[0.0, 0, 4, 5], [20, 20, 24, 24]], device=device),
    ]
    scores = [torch.tensor([0.75], device=device), torch.tensor([0.25, 0.5], device=device)]
    labels = [torch.tensor([3], device=device), torch.tensor([3, 3], device=device)]
    fused = weighted_boxes_fusion(boxes, scores, labels)
    assert fused[0].tolist() == [[0, 0, 4, 4.25], [20, 20, 24, 24]]
    assert fused[1].tolist() == [0.5, 0.25] and fused[2].tolist() == [3, 3]
