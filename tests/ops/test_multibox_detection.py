"""multibox_detection: decisions exactly, boxes to a tolerance."""

import math

import numpy as np
import oracles
import pytest
import torch
from cases_multibox import (
    DTYPES,
    VARIANCES,
    grid_boxes,
    inf,
    nan,
    real_dtype,
    to_tensor,
)
from hypothesis import given
from hypothesis import strategies as st

import cvlib
from cvlib.ops.multibox import _multibox_detection_reference

# Powers of two: offsets that are small integers decode without rounding.
EXACT_VARIANCES = (0.125, 0.25, 0.5, 1.0)


def exact_detection_scene(rng, num_images, num_classes, num_anchors, device, dtype=torch.float32):
    """Decodes exactly with EXACT_VARIANCES; confidences and IoUs are tied often."""
    anchors = grid_boxes(rng, num_anchors, smallest=1)
    offsets = rng.integers(-1, 2, (num_images, num_anchors, 4)) * np.array([1, 1, 0, 0])
    probs = rng.integers(0, 9, (num_images, num_classes + 1, num_anchors)) / 8
    scene = probs, offsets.reshape(num_images, 4 * num_anchors), anchors
    return tuple(to_tensor(values, device, dtype) for values in scene)


def random_detection_scene(rng, num_images, num_classes, num_anchors, device, dtype=torch.float32):
    anchors = oracles.random_boxes(rng, num_anchors, size=0.4, extent=0.7).reshape(-1, 4)
    offsets = rng.normal(size=(num_images, 4 * num_anchors))
    probs = rng.dirichlet(np.ones(num_classes + 1), (num_images, num_anchors)).transpose(0, 2, 1)
    return tuple(to_tensor(values, device, dtype) for values in (probs, offsets, anchors))


def assert_detections(scene, tolerances, *, nms_threshold, pos_threshold, variances):
    rows = cvlib.multibox_detection(
        *scene, nms_threshold=nms_threshold, pos_threshold=pos_threshold, variances=variances
    )
    arrays = [oracles.to_numpy(tensor) for tensor in scene]
    expected = oracles.multibox_detection(*arrays, nms_threshold, pos_threshold, variances)
    expected = torch.from_numpy(expected)
    dtype = real_dtype(scene[2].dtype)
    assert rows.dtype == dtype and rows.device == scene[0].device
    assert torch.equal(rows[..., 0].cpu(), expected[..., 0].to(dtype))
    torch.testing.assert_close(rows.cpu().double(), expected, **tolerances[dtype])


def is_decided(scene, nms_threshold, variances):
    """Whether every IoU is far enough from the threshold for rounding not to matter."""
    _, offsets, anchors = (oracles.to_numpy(tensor) for tensor in scene)
    return oracles.distance_to_threshold(offsets, anchors, nms_threshold, variances) > 1e-5


# --- matches the oracle


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "shape", [(0, 1, 3), (1, 1, 0), (1, 1, 1), (2, 3, 7), (3, 1, 64), (2, 5, 170), (1, 2, 420)]
)
def test_detection_matches_oracle_exactly(device, dtype, shape, rng, tolerances):
    for nms_threshold, pos_threshold in ((0.5, 0.125), (1 / 3, 0.5), (0.0, 0.0), (1.0, 1.0)):
        scene = exact_detection_scene(rng, *shape, device, dtype)
        assert_detections(
            scene,
            tolerances,
            nms_threshold=nms_threshold,
            pos_threshold=pos_threshold,
            variances=EXACT_VARIANCES,
        )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("variances", [VARIANCES, (0.05, 0.3, 0.7, 0.4)])
def test_detection_matches_oracle_on_random_predictions(device, dtype, variances, rng, tolerances):
    compared = 0
    for nms_threshold in (0.1, 0.3, 0.5, 0.6, 0.7):
        scene = random_detection_scene(rng, 2, 4, 40, device, dtype)
        if is_decided(scene, nms_threshold, variances):
            options = {"nms_threshold": nms_threshold, "pos_threshold": 0.4, "variances": variances}
            assert_detections(scene, tolerances, **options)
            compared += 1
    assert compared >= 3


def test_detection_matches_oracle_when_large(device, rng, tolerances):
    scene = exact_detection_scene(rng, 2, 3, 5444, device)
    scene[0].copy_(torch.from_numpy(rng.random(scene[0].shape)))  # as good as no ties
    assert_detections(
        scene,
        tolerances,
        nms_threshold=0.5,
        pos_threshold=0.2,
        variances=EXACT_VARIANCES,
    )


def test_detection_defaults_are_those_of_the_book(device, rng):
    scene = random_detection_scene(rng, 2, 3, 30, device)
    expected = cvlib.multibox_detection(
        *scene, nms_threshold=0.5, pos_threshold=0.009999999, variances=VARIANCES
    )
    assert torch.equal(cvlib.multibox_detection(*scene), expected)


def test_detection_accepts_anchors_with_a_batch_dimension_of_one(device, rng):
    probs, offsets, anchors = random_detection_scene(rng, 2, 3, 30, device)
    expected = cvlib.multibox_detection(probs, offsets, anchors)
    assert torch.equal(cvlib.multibox_detection(probs, offsets, anchors[None]), expected)


def apart(n, device, dtype=torch.float32):
    """Anchors that do not overlap, and offsets of zero."""
    anchors = [[i / 16, 0, (i + 1) / 16, 1 / 16] for i in range(n)]
    return torch.zeros(1, 4 * n, device=device, dtype=dtype), to_tensor(anchors, device, dtype)


def test_detection_tied_classes_give_the_lowest(device):
    columns = [[0.25, 0.25, 0.25, 0.25], [0, 0.25, 0.5, 0.5], [0.5, 0.5, 0.0, 0.5], [1, 0, -0.0, 0]]
    probs = to_tensor(np.transpose(columns)[None], device)
    rows = cvlib.multibox_detection(probs, *apart(4, device), pos_threshold=0.0)[0]
    # Best first; the two of confidence .5 in the order of their anchors.
    assert rows[:, 0].tolist() == [1, 0, 0, 0]
    assert rows[:, 1].tolist() == [0.5, 0.5, 0.25, 0]
    assert rows[:, 2].tolist() == [1 / 16, 2 / 16, 0, 3 / 16]


def test_detection_background_probability_plays_no_part(device):
    probs = to_tensor([[[0.9, 0.0], [0.1, 0.2]]], device)
    rows = cvlib.multibox_detection(probs, *apart(2, device))[0]
    assert rows[:, 0].tolist() == [0, 0] and rows[:, 2].tolist() == [1 / 16, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_detection_pos_threshold_is_the_least_confidence_as_given(device, dtype):
    # A confidence below the threshold, a double, is background with 1 - confidence.
    for confidence in (0.25, 0.1, 0.7, 0.01):
        probs = to_tensor([[[0], [confidence]]], device, dtype)
        stored = float(probs[0, 1, 0])
        for threshold in (
            confidence,
            stored,
            float(np.nextafter(stored, 0)),
            float(np.nextafter(stored, 1)),
        ):
            rows = cvlib.multibox_detection(
                probs, *apart(1, device, dtype), pos_threshold=threshold
            )
            background = stored < threshold
            assert rows[0, 0, 0] == (-1 if background else 0)
            expected = 1 - probs[0, 1, 0] if background else probs[0, 1, 0]
            assert rows[0, 0, 1] == expected


def test_detection_background_still_suppresses_and_comes_in_its_place(device):
    # As in the book: suppression ignores pos_threshold. Anchors 0 and 1 are identical.
    anchors = to_tensor([[0, 0, 0.5, 0.5], [0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1]], device)
    probs = to_tensor([[[0, 0, 0], [0.25, 0.375, 0.75]]], device)
    rows = cvlib.multibox_detection(
        probs, torch.zeros(1, 12, device=device), anchors, pos_threshold=0.5
    )
    assert rows[0, :, :2].tolist() == [[0, 0.75], [-1, 0.625], [-1, 0.75]]
    assert rows[0, :, 2].tolist() == [0.5, 0, 0]


def test_detection_suppresses_across_classes(device):
    anchors = to_tensor([[0, 0, 0.5, 0.5], [0, 0, 0.5, 0.5]], device)
    probs = to_tensor([[[0, 0], [0.75, 0], [0, 0.875]]], device)
    rows = cvlib.multibox_detection(probs, torch.zeros(1, 8, device=device), anchors)
    assert rows[0, :, :2].tolist() == [[1, 0.875], [-1, 0.75]]


def test_detection_suppressed_rows_follow_in_the_order_of_their_anchors(device, rng):
    n = 300
    anchors = to_tensor([[0, 0, 0.5, 0.5]], device).repeat(n, 1)
    confidence = rng.permutation(n) / 512 + 0.25
    probs = to_tensor(np.stack([1 - confidence, confidence])[None], device)
    rows = cvlib.multibox_detection(probs, torch.zeros(1, 4 * n, device=device), anchors)[0]
    best = int(confidence.argmax())
    expected = [confidence[best], *np.delete(confidence, best)]
    assert rows[:, 0].tolist() == [0] + [-1] * (n - 1)
    assert rows[:, 1].tolist() == expected


def test_detection_images_are_independent(device, rng):
    scene = exact_detection_scene(rng, 4, 3, 50, device)
    batch = cvlib.multibox_detection(*scene, variances=EXACT_VARIANCES)
    for image in range(4):
        one = slice(image, image + 1)
        alone = cvlib.multibox_detection(
            scene[0][one], scene[1][one], scene[2], variances=EXACT_VARIANCES
        )
        assert torch.equal(batch[one], alone)


@pytest.mark.parametrize("n", [6, 250])
@pytest.mark.parametrize("what", ["all probabilities", "one class", "offset", "anchor"])
def test_detection_of_a_nan_is_never_one(device, what, n, rng):
    probs, offsets, anchors = exact_detection_scene(rng, 1, 3, n, device)
    probs[0, 1:, 2] = 2  # would be the best of all, and suppress others
    options = {"nms_threshold": 0.2, "pos_threshold": 0.125, "variances": EXACT_VARIANCES}
    if what == "all probabilities":
        probs[0, :, 2] = nan
    elif what == "one class":
        probs[0, 2, 2] = nan
    elif what == "offset":
        offsets[0, 8 + int(rng.integers(4))] = nan
    else:
        anchors[2, int(rng.integers(4))] = nan
    rows = cvlib.multibox_detection(probs, offsets, anchors, **options)[0]
    is_invalid = rows.isnan().any(1)
    assert is_invalid.sum() == 1 and rows[is_invalid, 0].item() == -1
    others = torch.arange(n, device=device) != 2
    expected = cvlib.multibox_detection(
        probs[:, :, others],
        offsets.view(1, n, 4)[:, others].reshape(1, -1),
        anchors[others],
        **options,
    )[0]
    assert torch.equal(rows[~is_invalid], expected)


def test_detection_memory_layout_does_not_matter(device, rng):
    probs, offsets, anchors = exact_detection_scene(rng, 3, 4, 50, device)
    expected = cvlib.multibox_detection(probs, offsets, anchors)
    # As models return them: (B, A, K + 1) transposed, and a slice of a wider matrix.
    transposed = probs.transpose(1, 2).contiguous().transpose(1, 2)
    wide = torch.cat([offsets, offsets], 1)[:, 200:]
    columns = anchors.t().contiguous().t()
    assert torch.equal(cvlib.multibox_detection(transposed, wide, columns), expected)
    every_second = torch.stack([probs, probs + 1], 3)[..., 0]
    images_last = offsets.t().contiguous().t()
    assert torch.equal(cvlib.multibox_detection(every_second, images_last, anchors), expected)
    same = cvlib.multibox_detection(probs[:1].expand(2, -1, -1), offsets[:1].expand(2, -1), anchors)
    assert torch.equal(same, expected[:1].expand(2, -1, -1))


# --- CPU equals CUDA; reference equals native


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_detection_on_cpu_equals_cuda(cuda, dtype, rng):
    scene = exact_detection_scene(rng, 5, 3, 700, "cpu", dtype)
    on_cpu = cvlib.multibox_detection(*scene, variances=EXACT_VARIANCES)
    on_cuda = cvlib.multibox_detection(*(x.to(cuda) for x in scene), variances=EXACT_VARIANCES)
    assert torch.equal(on_cuda.cpu(), on_cpu)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_detection_reference_equals_native(device, dtype, rng):
    scene = exact_detection_scene(rng, 3, 4, 230, device, dtype)
    for arguments in (
        (*scene, 0.5, 0.25, *EXACT_VARIANCES),
        (*scene, 1 / 3, 0.5, *EXACT_VARIANCES),
    ):
        expected = _multibox_detection_reference(*arguments)
        assert torch.equal(torch.ops.cvlib.multibox_detection(*arguments), expected)


@pytest.mark.parametrize("value", [nan, inf, -inf, 1e30, -1e30])
@pytest.mark.parametrize("position", range(4))
def test_detection_reference_equals_native_on_odd_offsets(device, value, position, rng):
    probs, offsets, anchors = exact_detection_scene(rng, 2, 3, 30, device)
    offsets[0, 12 + position] = value
    arguments = (probs, offsets, anchors, 0.4, 0.25, *EXACT_VARIANCES)
    expected = _multibox_detection_reference(*arguments)
    actual = torch.ops.cvlib.multibox_detection(*arguments)
    torch.testing.assert_close(actual, expected, rtol=0, atol=0, equal_nan=True)


# --- properties


@given(seed=st.integers(0, 2**32 - 1), num_anchors=st.integers(1, 20))
def test_detection_rows_are_ordered_and_kept_boxes_do_not_overlap(device, seed, num_anchors):
    scene = exact_detection_scene(np.random.default_rng(seed), 1, 2, num_anchors, device)
    rows = cvlib.multibox_detection(
        *scene, nms_threshold=0.4, pos_threshold=0.0, variances=EXACT_VARIANCES
    )[0].cpu()
    kept = rows[:, 0] >= 0
    assert torch.equal(kept, kept.sort(descending=True, stable=True).values)  # first of all
    assert torch.equal(rows[kept, 1], rows[kept, 1].sort(descending=True).values)
    assert cvlib.box_iou(rows[kept, 2:], rows[kept, 2:]).fill_diagonal_(0).max() <= 0.4
    confidence = scene[0][0, 1:].amax(0).cpu()
    assert torch.equal(rows[:, 1].sort().values, confidence.sort().values)


# --- gradients


@pytest.mark.parametrize("argument", [0, 1, 2])
def test_detection_refuses_a_gradient(device, argument, rng):
    scene = random_detection_scene(rng, 2, 3, 9, device)
    expected = cvlib.multibox_detection(*scene)
    scene[argument].requires_grad_()
    rows = cvlib.multibox_detection(*scene)
    assert torch.equal(rows, expected)
    with pytest.raises(RuntimeError, match="multibox_detection is not differentiable"):
        rows.sum().backward()


# --- scalars reach the kernel


def test_detection_every_scalar_of_the_schema_has_its_meaning(device, tolerances):
    operator = torch.ops.cvlib.multibox_detection
    anchors = to_tensor([[0, 0, 0.5, 0.25]], device)
    offsets = to_tensor([[1, -1, 1, -1]], device)
    probs = to_tensor([[[0.5], [0.5]]], device)
    for variances in ((0.1, 0.2, 0.4, 0.8), (3.0, 5.0, 0.7, 1.1), (0.8, 0.4, 0.2, 0.1)):
        rows = operator(probs, offsets, anchors, 0.5, 0.01, *variances)
        x, y, w, h = variances
        cx, cy = 0.25 + 0.5 * x, 0.125 - 0.25 * y
        width, height = 0.5 * math.exp(w), 0.25 * math.exp(-h)
        box = [cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2]
        expected = to_tensor([[[0, 0.5, *box]]], device)
        torch.testing.assert_close(rows, expected, **tolerances[torch.float32])
    # IoUs with the best box are .2, .4, .6, .8; confidences are .9, .8, .7, .6, .5.
    anchors = to_tensor([[0, 0, w, 1] for w in (1, 0.2, 0.4, 0.6, 0.8)], device)
    offsets = torch.zeros(1, 20, device=device)
    probs = to_tensor([[[0] * 5, [0.9, 0.8, 0.7, 0.6, 0.5]]], device)
    for nms_threshold, pos_threshold, detections in (
        (0.1, 0.0, 1),
        (0.3, 0.0, 2),
        (0.52, 0.0, 3),
        (0.9, 0.0, 5),
        (0.9, 0.55, 4),
        (0.9, 0.75, 2),
        (0.9, 0.95, 0),
        (0.1, 0.75, 1),
    ):
        rows = operator(probs, offsets, anchors, nms_threshold, pos_threshold, *VARIANCES)
        assert int((rows[..., 0] >= 0).sum()) == detections


# --- by hand ------------------------------------------------------------------------------------


def test_detection_by_hand(device):
    # Section 14.4.4 of the book: three anchors on a dog, one on a cat; the best dog (.9) suppresses
    # the other two (IoU .56 and .74), and the cat is elsewhere.
    anchors = [
        [0.1, 0.08, 0.52, 0.92],
        [0.08, 0.2, 0.56, 0.95],
        [0.15, 0.3, 0.62, 0.91],
        [0.55, 0.2, 0.9, 0.88],
    ]
    probs = [[0] * 4, [0.9, 0.8, 0.7, 0.1], [0.1, 0.2, 0.3, 0.9]]
    rows = cvlib.multibox_detection(
        to_tensor([probs], device), torch.zeros(1, 16, device=device), to_tensor(anchors, device)
    )
    expected = [
        [0, 0.9, *anchors[0]],
        [1, 0.9, *anchors[3]],
        [-1, 0.8, *anchors[1]],
        [-1, 0.7, *anchors[2]],
    ]
    torch.testing.assert_close(rows, to_tensor([expected], device))
