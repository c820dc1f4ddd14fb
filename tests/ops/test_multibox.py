"""multibox_target and multibox_detection: decisions exactly, offsets and boxes to a tolerance."""

import math

import numpy as np
import oracles
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import cvlib
from cvlib.anchors import multibox_prior
from cvlib.ops.multibox import _multibox_detection_reference, _multibox_target_reference

nan, inf = float("nan"), float("inf")
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
VARIANCES = (0.1, 0.1, 0.2, 0.2)
# Powers of two: offsets that are small integers decode without rounding.
EXACT_VARIANCES = (0.125, 0.25, 0.5, 1.0)


def to_tensor(values, device, dtype=torch.float32):
    return torch.as_tensor(np.asarray(values, np.float64)).to(dtype).to(device)


def real_dtype(dtype):
    return torch.float64 if dtype == torch.float64 else torch.float32


def grid_boxes(rng, *shape, smallest=0):
    """Corners on a grid of 1/16, exact in every dtype."""
    corner = rng.integers(0, 11, (*shape, 2))
    return np.concatenate([corner, corner + rng.integers(smallest, 6, (*shape, 2))], -1) / 16


def target_scene(rng, num_anchors, num_images, num_gts, device, dtype=torch.float32):
    """Anchors (A, 4) with area and labels (B, M, 5) with ties, empty boxes and padding anywhere."""
    boxes = grid_boxes(rng, num_images, num_gts)
    classes = rng.integers(0, 9, (num_images, num_gts, 1))
    labels = np.concatenate([classes, boxes], -1)
    labels[rng.random((num_images, num_gts)) < 0.3] = -1
    anchors = grid_boxes(rng, num_anchors, smallest=1)
    return to_tensor(anchors, device, dtype), to_tensor(labels, device, dtype)


def assert_targets(anchors, labels, tolerances, iou_threshold=0.5, variances=VARIANCES):
    result = cvlib.multibox_target(
        anchors, labels, iou_threshold=iou_threshold, variances=variances
    )
    assert_same_targets(result, anchors, labels, tolerances, iou_threshold, variances)
    return result


def assert_same_targets(result, anchors, labels, tolerances, iou_threshold, variances):
    dtype = real_dtype(anchors.dtype)
    offsets, mask, classes = result
    expected = oracles.multibox_target(
        oracles.to_numpy(anchors).reshape(-1, 4), oracles.to_numpy(labels), iou_threshold, variances
    )
    expected_offsets, expected_mask, expected_classes = map(torch.from_numpy, expected)
    assert offsets.dtype == mask.dtype == dtype and classes.dtype == torch.int64
    assert offsets.device == mask.device == classes.device == anchors.device
    assert torch.equal(classes.cpu(), expected_classes)
    assert torch.equal(mask.cpu(), expected_mask.to(dtype))
    torch.testing.assert_close(offsets.cpu().double(), expected_offsets, **tolerances[dtype])


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
    """Whether no IoU is so near the threshold that rounding in the decoding would decide."""
    _, offsets, anchors = (oracles.to_numpy(tensor) for tensor in scene)
    return oracles.distance_to_threshold(offsets, anchors, nms_threshold, variances) > 1e-5


# === multibox_target ============================================================================
# --- matches the oracle -------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "shape", [(0, 1, 1), (1, 0, 1), (1, 1, 0), (1, 1, 1), (2, 3, 20), (65, 4, 9)]
)
def test_target_matches_oracle(device, dtype, shape, rng, tolerances):
    for iou_threshold in (0.0, 1 / 3, 0.5, 1.0):
        anchors, labels = target_scene(rng, *shape, device, dtype)
        assert_targets(anchors, labels, tolerances, iou_threshold)


@pytest.mark.parametrize("num_images", [1, 5, 32])
def test_target_matches_oracle_on_anchors_of_the_book(device, num_images, rng, tolerances):
    anchors = multibox_prior((8, 8), [0.2, 0.272], [1, 2, 0.5], device=device)
    boxes = oracles.random_boxes(rng, num_images * 6, size=0.6, extent=0.4).reshape(-1, 6, 4)
    labels = np.concatenate([rng.integers(0, 20, (num_images, 6, 1)), boxes], -1)
    labels[rng.random((num_images, 6)) < 0.5] = -1
    assert_targets(anchors, to_tensor(labels, device), tolerances)


def test_target_matches_oracle_in_pixels(device, rng, tolerances):
    anchors, labels = target_scene(rng, 60, 3, 5, device)
    labels[:, 0] = to_tensor([3, 0, 0, 1, 1], device)  # so that no image is without a large box
    labels[..., 1:] = torch.where(labels[..., :1] < 0, -1.0, labels[..., 1:] * 512)
    assert_targets(anchors * 512, labels, tolerances)


@pytest.mark.parametrize("variances", [(1, 1, 1, 1), (0.05, 0.3, 0.7, 2.0)])
def test_target_matches_oracle_with_other_variances(device, variances, rng, tolerances):
    anchors, labels = target_scene(rng, 40, 3, 5, device)
    assert_targets(anchors, labels, tolerances, variances=variances)


def test_target_accepts_anchors_with_a_batch_dimension_of_one(device, rng):
    anchors, labels = target_scene(rng, 30, 2, 4, device)
    for one, other in zip(
        cvlib.multibox_target(anchors[None], labels),
        cvlib.multibox_target(anchors, labels),
        strict=True,
    ):
        assert torch.equal(one, other)


def test_target_rows_of_negative_class_are_padding(device):
    anchors = to_tensor([[0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1]], device)
    row, other = [2, 0.5, 0.5, 1, 1], [0, 0, 0, 0.5, 0.5]
    paddings = [[-1] * 5, [-1, 0, 0, 0, 0], [-3, 0, 0, 0.5, 0.5], [-1, 0.9, 0, 0.5, 0.5]]
    for padding in [*paddings, [-1, 0, 0, 500, 500], [-1, nan, nan, nan, nan]]:
        for rows in ([padding, row, padding], [row, padding, padding], [padding, padding, row]):
            offsets, mask, classes = cvlib.multibox_target(
                anchors, to_tensor([rows], device), iou_threshold=0.01
            )
            assert classes.tolist() == [[0, 3]]
            assert mask.tolist() == [[0, 0, 0, 0, 1, 1, 1, 1]] and not offsets.any()
        classes = cvlib.multibox_target(anchors, to_tensor([[padding, row, other]], device))[2]
        assert classes.tolist() == [[1, 3]]


def test_target_of_an_image_without_objects_is_background(device):
    anchors = to_tensor([[0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1]], device)
    for labels in (torch.full((2, 3, 5), -1.0, device=device), torch.zeros(2, 0, 5, device=device)):
        for iou_threshold in (0.0, 0.5):
            offsets, mask, classes = cvlib.multibox_target(
                anchors, labels, iou_threshold=iou_threshold
            )
            assert offsets.shape == mask.shape == (2, 8) and classes.shape == (2, 2)
            assert not offsets.any() and not mask.any() and not classes.any()


def test_target_of_an_empty_box_is_finite(device, tolerances):
    anchors = to_tensor([[0, 0, 0.5, 0.5]], device)
    labels = to_tensor([[[0, 0.25, 0.25, 0.25, 0.25]]], device)
    offsets = assert_targets(anchors, labels, tolerances)[0]
    expected = to_tensor([[0, 0, math.log(1e-6) / 0.2, math.log(1e-6) / 0.2]], device)
    torch.testing.assert_close(offsets, expected)


def test_target_agrees_with_match_anchors_and_encode_boxes(device, rng, tolerances):
    anchors, labels = target_scene(rng, 200, 3, 6, device)
    offsets, mask, classes = cvlib.multibox_target(anchors, labels, iou_threshold=0.3)
    for image, rows in enumerate(labels):
        gts = rows[:, 1:].where(rows[:, :1] >= 0, -1.0)
        matches = cvlib.match_anchors(anchors, gts, 0.3)
        matched = matches >= 0
        assert torch.equal(classes[image], torch.where(matched, rows[matches, 0].long() + 1, 0))
        assert torch.equal(mask[image].view(-1, 4).bool().all(1), matched)
        expected = cvlib.encode_boxes(gts[matches[matched]], anchors[matched])
        actual = offsets[image].view(-1, 4)[matched]
        torch.testing.assert_close(actual, expected, **tolerances[torch.float32])


def test_target_memory_layout_does_not_matter(device, rng, tolerances):
    anchors, labels = target_scene(rng, 50, 4, 6, device)
    column_major = anchors.t().contiguous().t()
    images_last = labels.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    assert_targets(column_major, images_last, tolerances)
    assert_targets(anchors[::3], labels[1::2, ::2], tolerances)
    assert_targets(anchors, labels[:1].expand(3, -1, -1), tolerances)
    wide = torch.cat([labels, labels], 2)[:, :, 5:]
    assert_targets(torch.cat([anchors, anchors], 1)[:, 4:], wide, tolerances)


@pytest.mark.cuda
def test_target_of_invalid_boxes_on_cuda(cuda):
    anchors = to_tensor([[0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1], [0, 0, 0.25, 0.25]], cuda)
    labels = to_tensor([[[1, 0.5, 0.5, 1, 1], [2, 0.9, 0.9, 0.1, 0.1]]], cuda)
    # The inverted box overlaps nothing and claims the lowest anchor that is free.
    assert cvlib.multibox_target(anchors, labels)[2].tolist() == [[3, 2, 0]]


# --- CPU equals CUDA; reference equals native -----------------------------------------------------


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_target_on_cpu_equals_cuda(cuda, dtype, rng, tolerances):
    anchors, labels = target_scene(rng, 700, 6, 15, "cpu", dtype)
    on_cpu = cvlib.multibox_target(anchors, labels)
    on_cuda = [x.cpu() for x in cvlib.multibox_target(anchors.to(cuda), labels.to(cuda))]
    assert torch.equal(on_cpu[1], on_cuda[1]) and torch.equal(on_cpu[2], on_cuda[2])
    torch.testing.assert_close(on_cpu[0], on_cuda[0], **tolerances[real_dtype(dtype)])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_target_reference_equals_native(device, dtype, rng, tolerances):
    anchors, labels = target_scene(rng, 90, 4, 8, device, dtype)
    arguments = (anchors, labels, 1 / 3, 0.1, 0.2, 0.3, 0.4)
    reference = _multibox_target_reference(*arguments)
    native = torch.ops.cvlib.multibox_target(*arguments)
    torch.testing.assert_close(native[0], reference[0], **tolerances[real_dtype(dtype)])
    assert torch.equal(native[1], reference[1]) and torch.equal(native[2], reference[2])


# --- properties ---------------------------------------------------------------------------------

grid_rows = st.tuples(
    st.integers(-1, 5), st.integers(0, 8), st.integers(0, 8), st.integers(1, 8), st.integers(1, 8)
).map(
    lambda row: [row[0], row[1] / 16, row[2] / 16, (row[1] + row[3]) / 16, (row[2] + row[4]) / 16]
)


@given(
    anchors=st.lists(grid_rows, min_size=1, max_size=12),
    labels=st.lists(grid_rows, min_size=1, max_size=6),
)
def test_target_decodes_to_the_ground_truths(device, anchors, labels):
    anchors, labels = to_tensor(anchors, device)[:, 1:], to_tensor([labels], device)
    offsets, mask, classes = cvlib.multibox_target(anchors, labels)
    positive = classes[0] > 0
    assert torch.equal(mask.view(-1, 4), positive[:, None].expand(-1, 4).float())
    assert not offsets.view(-1, 4)[~positive].any()
    decoded = cvlib.decode_boxes(offsets.view(-1, 4), anchors)[positive]
    rows = torch.cat([classes[0, positive, None].float() - 1, decoded], 1)
    distance = (rows[:, None] - labels).abs().amax(2)
    assert positive.sum() == 0 or distance.amin(1).max() < 1e-5
    assert int(positive.sum()) >= min(len(anchors), int((labels[0, :, 0] >= 0).sum()))


# --- gradients ----------------------------------------------------------------------------------


@pytest.mark.parametrize("argument", [0, 1])
def test_target_refuses_a_gradient(device, argument, rng):
    arguments = target_scene(rng, 9, 2, 3, device)
    expected = cvlib.multibox_target(*arguments)
    arguments[argument].requires_grad_()
    offsets, mask, classes = cvlib.multibox_target(*arguments)
    for one, other in zip((offsets, mask, classes), expected, strict=True):
        assert torch.equal(one, other)
    with pytest.raises(RuntimeError, match="multibox_target is not differentiable"):
        offsets.sum().backward()


# --- registration -------------------------------------------------------------------------------


def test_target_opcheck(device, rng):
    anchors, labels = target_scene(rng, 9, 2, 3, device)
    arguments = (anchors, labels, 0.5, *VARIANCES)
    torch.library.opcheck(torch.ops.cvlib.multibox_target.default, arguments)


def test_target_compiles_whole_with_dynamic_shapes(device, rng, fresh_compiler):
    compiled = torch.compile(
        cvlib.multibox_target, fullgraph=True, dynamic=True, backend="aot_eager"
    )
    for shape in ((20, 2, 3), (33, 3, 5)):
        scene = target_scene(rng, *shape, device)
        for one, other in zip(compiled(*scene), cvlib.multibox_target(*scene), strict=True):
            assert torch.equal(one, other)


def test_target_shape_is_known_without_data():
    anchors, labels = torch.empty(7, 4, device="meta"), torch.empty(3, 2, 5, device="meta")
    shapes = [x.shape for x in cvlib.multibox_target(anchors, labels)]
    assert shapes == [(3, 28), (3, 28), (3, 7)]
    dtypes = [x.dtype for x in cvlib.multibox_target(anchors.half(), labels.half())]
    assert dtypes == [torch.float32, torch.float32, torch.int64]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_target_autocast_computes_in_float32(device, dtype, rng, tolerances):
    anchors, labels = target_scene(rng, 30, 3, 5, device, dtype)
    with torch.autocast(device, torch.bfloat16):
        assert_targets(anchors, labels, tolerances)


# --- independence of threads --------------------------------------------------------------------


def test_target_number_of_threads_does_not_matter(thread_counts, rng):
    scenes = [target_scene(rng, 500, 9, 12, "cpu"), target_scene(rng, 4000, 1, 20, "cpu")]
    results = []
    for count in thread_counts:
        torch.set_num_threads(count)
        results.append([x for scene in scenes for x in cvlib.multibox_target(*scene)])
    for other in results[1:]:
        assert all(torch.equal(x, y) for x, y in zip(results[0], other, strict=True))


# --- scalars reach the kernel as they are -------------------------------------------------------


def test_target_every_scalar_of_the_schema_has_its_meaning(device, tolerances):
    # The box is moved by (1/4, 1/2) of the anchor and 1/2 as wide, 1/4 as high.
    anchors = to_tensor([[0, 0, 0.5, 0.5]], device)
    labels = to_tensor([[[0, 0.25, 0.4375, 0.5, 0.5625]]], device)
    operator = torch.ops.cvlib.multibox_target
    plain = np.array([0.25, 0.5, math.log(0.5), math.log(0.25)])
    for variances in ((0.1, 0.2, 0.4, 0.8), (3.0, 5.0, 7.0, 11.0), (0.8, 0.4, 0.2, 0.1)):
        offsets = operator(anchors, labels, 0.5, *variances)[0]
        expected = to_tensor([plain / variances], device)
        torch.testing.assert_close(offsets, expected, **tolerances[torch.float32])
    # IoUs of the anchors with the one ground truth are 1, .8, .6, .4, .2.
    anchors = to_tensor([[0, 0, w, 1] for w in (1, 0.8, 0.6, 0.4, 0.2)], device)
    labels = to_tensor([[[0, 0, 0, 1, 1]]], device)
    for threshold, count in ((0.1, 5), (0.3, 4), (0.5, 3), (0.7, 2), (0.9, 1)):
        classes = operator(anchors, labels, threshold, *VARIANCES)[2]
        assert classes.tolist() == [[1] * count + [0] * (5 - count)]


# --- errors -------------------------------------------------------------------------------------

ANCHORS = torch.tensor([[0.0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1]])
LABELS = torch.tensor(
    [[[0, 0.1, 0.1, 0.5, 0.4], [-1, -1, -1, -1, -1]], [[3, 0.2, 0.1, 0.9, 1]] * 2]
)


def changed(tensor, index, value):
    tensor = tensor.clone()
    tensor[index] = torch.as_tensor(value, dtype=tensor.dtype)
    return tensor


VARIANCE_ERRORS = [
    ({"variances": variances}, ValueError, r"expected variances to be four positive numbers, got ")
    for variances in (
        (0.1, 0.1, 0.2),
        (0.1,) * 5,
        (0.1, 0.1, 0.2, 0),
        (0.1, -0.1, 0.2, 0.2),
        (nan, 0.1, 0.2, 0.2),
        (0.1, 0.1, inf, 0.2),
    )
]


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (
            {"anchors": [[0, 0, 1, 1]]},
            TypeError,
            r"expected anchors to be a torch\.Tensor, got list",
        ),
        ({"labels": [[0]]}, TypeError, r"expected labels to be a torch\.Tensor, got list"),
        ({"anchors": ANCHORS.int()}, TypeError, r"expected anchors of a floating-point.*int32"),
        ({"labels": LABELS.long()}, TypeError, r"expected labels of .*dtype.*got torch\.int64"),
        (
            {"labels": LABELS.double()},
            TypeError,
            r"expected labels of the dtype of anchors.*float64",
        ),
        (
            {"anchors": ANCHORS[:, :2]},
            ValueError,
            r"expected anchors of shape \(A, 4\), got \(2, 2\)",
        ),
        (
            {"anchors": ANCHORS.expand(2, 2, 4)},
            ValueError,
            r"expected anchors of shape .*, got \(2, 2, 4\)",
        ),
        ({"labels": LABELS[0]}, ValueError, r"expected labels of shape \(B, M, 5\), got \(2, 5\)"),
        (
            {"labels": LABELS[..., 1:]},
            ValueError,
            r"expected labels of shape \(B, M, 5\), got \(2, 2, 4\)",
        ),
        (
            {"labels": LABELS.to("meta")},
            ValueError,
            r"expected labels on the device.*cpu.*got meta",
        ),
        ({"iou_threshold": -0.5}, ValueError, r"expected iou_threshold in \[0, 1\], got -0\.5"),
        ({"iou_threshold": 50}, ValueError, r"expected iou_threshold in \[0, 1\], got 50"),
        ({"iou_threshold": nan}, ValueError, r"expected iou_threshold in \[0, 1\], got nan"),
        *VARIANCE_ERRORS,
        (
            {"anchors": changed(ANCHORS, (1, 0), nan)},
            ValueError,
            r"expected anchors without NaN, got anchors\[1\] = \(nan, 0\.5, 1, 1\)",
        ),
        (
            {"anchors": changed(ANCHORS, 0, [0.5, 0.6, 0.5, 0.5])},
            ValueError,
            r"expected anchors with x1 <= x2 and y1 <= y2, got anchors\[0\] = \(0\.5, 0\.6",
        ),
        (
            {"labels": changed(LABELS, (1, 0, 2), nan)},
            ValueError,
            r"expected labels.* without NaN, got labels.*\[1, 0\] = \(0\.2, nan, 0\.9, 1\)",
        ),
        (
            {"labels": changed(LABELS, (1, 1, 0), nan)},
            ValueError,
            r"expected labels .*\[1, 1, 0\] = nan",
        ),
        (
            {"labels": changed(LABELS, (0, 0), [2, 0.5, 0.1, 0.4, 0.2])},
            ValueError,
            r"expected labels.* with x1 <= x2 and y1 <= y2, got labels.*\[0, 0\] = \(0\.5, 0\.1",
        ),
        (
            {"labels": changed(LABELS, (slice(None), 0), [0, 30, 40, 200, 250])},
            ValueError,
            r"expected labels.* normalised to 0\.\.1.*pixels.*divide",
        ),
        (
            {"anchors": ANCHORS * 300},
            ValueError,
            r"expected labels.* pixels.*normalised to 0\.\.1.*multiply",
        ),
    ],
)
def test_target_errors(wrong, error, message):
    with pytest.raises(error, match="^multibox_target: " + message):
        cvlib.multibox_target(**{"anchors": ANCHORS, "labels": LABELS, **wrong})


def test_target_units_are_not_judged_without_objects():
    none = torch.full((2, 3, 5), -1.0)
    assert not cvlib.multibox_target(ANCHORS * 300, none)[2].any()
    assert not cvlib.multibox_target(ANCHORS, none)[2].any()


# --- by hand ------------------------------------------------------------------------------------


def test_target_by_hand(device, tolerances):
    #  0    .25   .5    .75    1     anchors a, b, c: 0.5 x 0.5 squares at x = 0, .5 and 0, .5 down
    #  +-----------+-----------+     dog (class 1), .5 x .5, lies .125 right of a:
    #  |  a ,      |     b     |       IoU with a = .375 / .625 = .6: claimed
    #  |    '  dog |           |     so a has class 2 and dx = .125 / .5 / .1 = 2.5;
    #  +-----------+-----------+     b, IoU 1/7, and c are background.
    #  |     c     |
    #  +-----------+
    anchors = to_tensor([[0, 0, 0.5, 0.5], [0.5, 0, 1, 0.5], [0, 0.5, 0.5, 1]], device)
    labels = to_tensor([[[1, 0.125, 0, 0.625, 0.5]]], device)
    offsets, mask, classes = cvlib.multibox_target(anchors, labels)
    assert classes.tolist() == [[2, 0, 0]]
    assert mask.tolist() == [[1] * 4 + [0] * 8]
    expected = to_tensor([[2.5, 0, 0, 0] + [0] * 8], device)
    torch.testing.assert_close(offsets, expected, **tolerances[torch.float32])
    assert cvlib.multibox_target(anchors, labels, iou_threshold=0.14)[2].tolist() == [[2, 2, 0]]


# === multibox_detection =========================================================================
# --- matches the oracle -------------------------------------------------------------------------


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
    # A confidence below the double that was given is background, and 1 - confidence is told.
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
    # As in the book: suppression does not look at pos_threshold. Anchors 0 and 1 are identical.
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
    # As models give them: (B, A, K + 1) transposed, and a slice of a wider matrix.
    transposed = probs.transpose(1, 2).contiguous().transpose(1, 2)
    wide = torch.cat([offsets, offsets], 1)[:, 200:]
    columns = anchors.t().contiguous().t()
    assert torch.equal(cvlib.multibox_detection(transposed, wide, columns), expected)
    every_second = torch.stack([probs, probs + 1], 3)[..., 0]
    images_last = offsets.t().contiguous().t()
    assert torch.equal(cvlib.multibox_detection(every_second, images_last, anchors), expected)
    same = cvlib.multibox_detection(probs[:1].expand(2, -1, -1), offsets[:1].expand(2, -1), anchors)
    assert torch.equal(same, expected[:1].expand(2, -1, -1))


# --- CPU equals CUDA; reference equals native -----------------------------------------------------


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


# --- properties ---------------------------------------------------------------------------------


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


# --- gradients ----------------------------------------------------------------------------------


@pytest.mark.parametrize("argument", [0, 1, 2])
def test_detection_refuses_a_gradient(device, argument, rng):
    scene = random_detection_scene(rng, 2, 3, 9, device)
    expected = cvlib.multibox_detection(*scene)
    scene[argument].requires_grad_()
    rows = cvlib.multibox_detection(*scene)
    assert torch.equal(rows, expected)
    with pytest.raises(RuntimeError, match="multibox_detection is not differentiable"):
        rows.sum().backward()


# --- registration -------------------------------------------------------------------------------


def test_detection_opcheck(device, rng):
    arguments = (*exact_detection_scene(rng, 2, 3, 9, device), 0.5, 0.01, *VARIANCES)
    torch.library.opcheck(torch.ops.cvlib.multibox_detection.default, arguments)


def test_detection_compiles_whole_with_dynamic_shapes(device, rng, fresh_compiler):
    compiled = torch.compile(
        cvlib.multibox_detection, fullgraph=True, dynamic=True, backend="aot_eager"
    )
    for shape in ((2, 3, 20), (3, 3, 33)):
        scene = exact_detection_scene(rng, *shape, device)
        assert torch.equal(compiled(*scene), cvlib.multibox_detection(*scene))


def test_detection_shape_is_known_without_data():
    shapes = (3, 5, 7), (3, 28), (7, 4)
    scene = [torch.empty(shape, device="meta") for shape in shapes]
    assert cvlib.multibox_detection(*scene).shape == (3, 7, 6)
    assert cvlib.multibox_detection(*(x.bfloat16() for x in scene)).dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_detection_autocast_computes_in_float32(device, dtype, rng, tolerances):
    scene = exact_detection_scene(rng, 2, 3, 60, device, dtype)
    with torch.autocast(device, torch.bfloat16):
        assert_detections(
            scene,
            tolerances,
            nms_threshold=0.5,
            pos_threshold=0.25,
            variances=EXACT_VARIANCES,
        )


# --- independence of threads --------------------------------------------------------------------


def test_detection_number_of_threads_does_not_matter(thread_counts, rng):
    scenes = [
        random_detection_scene(rng, 7, 5, 300, "cpu"),
        random_detection_scene(rng, 1, 3, 3000, "cpu"),
    ]
    results = []
    for count in thread_counts:
        torch.set_num_threads(count)
        results.append([cvlib.multibox_detection(*scene) for scene in scenes])
    for other in results[1:]:
        assert all(torch.equal(x, y) for x, y in zip(results[0], other, strict=True))


# --- scalars reach the kernel as they are -------------------------------------------------------


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


# --- errors -------------------------------------------------------------------------------------

PROBS, OFFSETS = torch.full((3, 4, 2), 0.25), torch.zeros(3, 8)


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (
            {"class_probs": [0.5]},
            TypeError,
            r"expected class_probs to be a torch\.Tensor, got list",
        ),
        ({"offset_preds": None}, TypeError, r"expected offset_preds to be a torch\.Tensor"),
        (
            {"anchors": (0, 0, 1, 1)},
            TypeError,
            r"expected anchors to be a torch\.Tensor, got tuple",
        ),
        ({"class_probs": PROBS.long()}, TypeError, r"expected class_probs of .*int64"),
        ({"anchors": ANCHORS.int()}, TypeError, r"expected anchors of a floating-point .*int32"),
        (
            {"class_probs": PROBS.double()},
            TypeError,
            r"expected class_probs of the dtype .*float64",
        ),
        (
            {"offset_preds": OFFSETS.half()},
            TypeError,
            r"expected offset_preds of the dtype .*float16",
        ),
        ({"anchors": ANCHORS[0]}, ValueError, r"expected anchors of shape .*got \(4,\)"),
        (
            {"anchors": ANCHORS.expand(3, 2, 4)},
            ValueError,
            r"expected anchors of shape .*\(3, 2, 4\)",
        ),
        (
            {"class_probs": PROBS[0]},
            ValueError,
            r"expected class_probs of shape \(B, K \+ 1, A\).*\(4, 2\)",
        ),
        (
            {"class_probs": PROBS[:, :1]},
            ValueError,
            r"expected class_probs of .*K >= 1.*\(3, 1, 2\)",
        ),
        (
            {"class_probs": PROBS[..., :1]},
            ValueError,
            r"expected class_probs of .*A = 2.*\(3, 4, 1\)",
        ),
        (
            {"offset_preds": OFFSETS[:2]},
            ValueError,
            r"expected offset_preds of shape .*\(3, 8\), got \(2, 8\)",
        ),
        (
            {"offset_preds": OFFSETS.view(3, 2, 4)},
            ValueError,
            r"expected offset_preds .*\(3, 2, 4\)",
        ),
        (
            {"offset_preds": OFFSETS[:, :4]},
            ValueError,
            r"expected offset_preds .*\(3, 8\), got \(3, 4\)",
        ),
        (
            {"class_probs": PROBS.to("meta")},
            ValueError,
            r"expected class_probs on the device .*meta",
        ),
        (
            {"offset_preds": OFFSETS.to("meta")},
            ValueError,
            r"expected offset_preds on the device .*meta",
        ),
        ({"nms_threshold": 1.1}, ValueError, r"expected nms_threshold in \[0, 1\], got 1\.1"),
        ({"nms_threshold": nan}, ValueError, r"expected nms_threshold in \[0, 1\], got nan"),
        ({"pos_threshold": -0.1}, ValueError, r"expected pos_threshold in \[0, 1\], got -0\.1"),
        ({"pos_threshold": nan}, ValueError, r"expected pos_threshold in \[0, 1\], got nan"),
        *VARIANCE_ERRORS,
    ],
)
def test_detection_errors(wrong, error, message):
    arguments = {"class_probs": PROBS, "offset_preds": OFFSETS, "anchors": ANCHORS, **wrong}
    with pytest.raises(error, match="^multibox_detection: " + message):
        cvlib.multibox_detection(**arguments)


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
