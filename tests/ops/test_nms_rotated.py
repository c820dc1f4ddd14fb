"""nms_rotated and batched_nms_rotated: decisions are compared exactly, everywhere."""

import numpy as np
import oracles
import oracles_rotated
import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st

import cvlib
from cvlib.ops.nms_rotated import _nms_rotated_reference, batched_nms_rotated, nms_rotated
from cvlib.ops.rotated import box_iou_rotated

nan, inf = float("nan"), float("inf")
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
THRESHOLDS = [0.0, 1e-6, 0.05, 0.1, 1 / 7, 0.3, 1 / 3, 0.45, 0.5, 0.7, 0.95, 1.0]


def tensors(boxes, scores, device, dtype=torch.float32):
    boxes = torch.as_tensor(np.asarray(boxes, np.float64)).to(dtype).reshape(-1, 5)
    return boxes.to(device), torch.as_tensor(np.asarray(scores, np.float64)).to(dtype).to(device)


def assert_matches_oracle(keep, boxes, scores, iou_threshold, **options):
    """Where an IoU is within rounding of the threshold, the oracle itself does not know."""
    options = {
        k: v if v is None or k == "max_output" else oracles.to_numpy(v) for k, v in options.items()
    }
    expected, distance = oracles_rotated.nms_rotated(
        oracles.to_numpy(boxes), oracles.to_numpy(scores), iou_threshold, **options
    )
    assert keep.dtype == torch.int64 and keep.device == boxes.device
    if distance > 1e-6:
        np.testing.assert_array_equal(keep.cpu().numpy(), expected)
    return distance


def reference(boxes, scores, iou_threshold, labels=None, image_ids=None, max_output=-1):
    return _nms_rotated_reference(boxes, scores, labels, image_ids, iou_threshold, max_output)


def native(boxes, scores, iou_threshold, labels=None, image_ids=None, max_output=-1):
    operator = torch.ops.cvlib.nms_rotated
    return operator(boxes, scores, labels, image_ids, iou_threshold, max_output)


# --- scenes: float64 boxes (n, 5) that are hard for the search of near boxes


def uniform(rng, n):
    return oracles_rotated.random_rotated_boxes(rng, n, size=60, extent=15 * np.sqrt(n))


def clusters(rng, n):
    """As a detector of ships gives them: long boxes, a few objects, angles of either side."""
    objects = oracles_rotated.random_rotated_boxes(rng, 1 + n // 12, extent=300)
    objects[:, 3] = objects[:, 2] * rng.uniform(0.1, 0.5, len(objects))
    boxes = objects[rng.integers(0, len(objects), n)]
    boxes[:, :2] += rng.normal(size=(n, 2)) * boxes[:, 3:4] * 0.2
    boxes[:, 2:4] *= np.exp(rng.normal(size=(n, 2)) * 0.1)
    boxes[:, 4] += rng.normal(size=n) * 4 + rng.choice([0, 180, -360], n)
    return boxes


def integer_grid(rng, n):
    """Upright and tilted by 45 degrees: ties at 1/2, 1/3, 1/7, many identical and empty boxes."""
    center = rng.integers(-6, int(np.sqrt(n)) + 2, (n, 2))
    return np.concatenate([center, rng.integers(0, 5, (n, 2)), rng.integers(-9, 9, (n, 1)) * 45], 1)


def lattice(rng, n):
    """Equal squares at half a side from each other: every IoU is 0, 1/7 or 1/3."""
    columns = int(np.ceil(np.sqrt(n)))
    center = np.stack(np.divmod(np.arange(n), columns), 1) * 8.0
    sides, angle = np.full((n, 2), 16.0), rng.integers(-4, 5, (n, 1)) * 90.0
    return rng.permutation(np.concatenate([center, sides, angle], 1))


def mixed_scales(rng, n):
    side = 10.0 ** rng.uniform(-3, 4, (n, 1)) * rng.uniform(0.8, 1, (n, 2))
    center = rng.uniform(-1, 1, (n, 2)) * 10.0 ** rng.uniform(-3, 4, (n, 1))
    return np.concatenate([center, side, rng.uniform(-180, 180, (n, 1))], 1)


def needles(rng, n):
    """Very long and very thin, in all directions, crossing each other."""
    center = rng.uniform(-50, 50, (n, 2))
    side = np.stack([rng.uniform(100, 5000, n), 10.0 ** rng.uniform(-4, 0.5, n)], 1)
    return np.concatenate([center, side, rng.uniform(-180, 180, (n, 1)) // 30 * 30], 1)


def crosses(rng, n):
    """Centres as far apart as an IoU above the threshold allows: a square and halves of it."""
    boxes = np.tile([[0.0, 0, 8, 8, 0]], (n, 1))
    boxes[:, :2] = rng.integers(-4, 5, (n, 2))
    boxes[:, 2:4] *= rng.choice([0.25, 0.5, 1, 2], (n, 2))
    boxes[:, 4] = rng.choice([0, 45, 90, 30], n)
    return boxes


def identical(rng, n):
    return np.tile([[3.0, 4.0, 10.0, 12.0, 33.0]], (n, 1))


def nearly_identical(rng, n):
    return identical(rng, n) + rng.normal(size=(n, 5)) * 10.0 ** rng.uniform(-12, -1, (n, 1))


def mostly_empty(rng, n):
    boxes = uniform(rng, n)
    flat = rng.integers(0, 4, n)
    boxes[flat == 0, 2] = 0
    boxes[flat == 1, 3] = 0
    boxes[flat == 2, 2:4] = 0
    return boxes


def with_infinities(rng, n):
    boxes = uniform(rng, n)
    for column, value in ((0, -inf), (1, inf), (2, inf), (3, inf), (0, 1e30), (2, 1e30)):
        boxes[rng.random(n) < 0.05, column] = value
    return boxes


def one_far_away(rng, n):
    """An outlier makes a grid over the whole extent useless."""
    boxes = uniform(rng, n)
    boxes[0, :4], boxes[-1, :4] = 1e30, [-3e38, -3e38, 1e37, 1e37]
    return boxes


def in_a_row(rng, n):
    """All on one line, so that a grid has one row, or one column."""
    boxes = uniform(rng, n)
    boxes[:, n % 2] = 7
    return boxes


def shifted(rng, n):
    return uniform(rng, n) + np.array([1e6, -1e7, 0, 0, 0])


def microscopic(rng, n):
    return clusters(rng, n) * np.array([1e-30, 1e-30, 1e-30, 1e-30, 1])


SCENES = [uniform, clusters, integer_grid, lattice, mixed_scales, needles, crosses, identical]
SCENES += [nearly_identical, mostly_empty, with_infinities, one_far_away, in_a_row, shifted]
SCENES += [microscopic]


def scores_for(rng, n, kind):
    if kind == "distinct":
        return rng.permutation(n) / max(n, 1)
    return rng.choice([0.75, 0.5, 0.0, -0.0, -1.0, 0.25], n)  # with both zeros, that are equal


# --- matches the oracle


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("n", [0, 1, 2, 7, 63, 65, 120])
def test_matches_oracle(device, dtype, n, rng):
    for iou_threshold in (0.1, 0.3, 0.5, 0.7):
        boxes, scores = tensors(uniform(rng, n), rng.random(n), device, dtype)
        keep = nms_rotated(boxes, scores, iou_threshold)
        assert_matches_oracle(keep, boxes, scores, iou_threshold)


@pytest.mark.parametrize("kind", ["distinct", "tied"])
@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_scenes_match_oracle(device, scene, kind, rng):
    sure = 0
    for iou_threshold in rng.choice(THRESHOLDS, 3):
        boxes, scores = tensors(scene(rng, 70), scores_for(rng, 70, kind), device, torch.float64)
        if scene in (with_infinities, one_far_away):
            boxes = boxes[boxes.isfinite().all(1)]
            scores = scores[: len(boxes)]
        keep = nms_rotated(boxes, scores, float(iou_threshold))
        sure += assert_matches_oracle(keep, boxes, scores, float(iou_threshold)) > 1e-6
    assert sure or scene not in (uniform, clusters)


# --- matches the matrix: the same decisions without any search


def greedy(boxes, scores, iou_threshold):
    """From the matrix that box_iou_rotated gives."""
    order = scores.argsort(descending=True, stable=True)
    overlap = (box_iou_rotated(boxes, boxes).double() > iou_threshold).cpu()
    alive, keep = torch.ones(len(boxes), dtype=torch.bool), []
    for i in order.tolist():
        if alive[i]:
            keep.append(i)
            alive &= ~overlap[i]
    return keep


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_equals_the_greedy_choice_from_the_matrix(device, scene, dtype, rng):
    for n in (40, 500):
        boxes, scores = tensors(scene(rng, n), scores_for(rng, n, "tied"), device, dtype)
        for iou_threshold in THRESHOLDS if n == 40 else rng.choice(THRESHOLDS[:-2], 4).tolist():
            keep = nms_rotated(boxes, scores, iou_threshold)
            assert keep.tolist() == greedy(boxes, scores, iou_threshold), iou_threshold


def test_neighbours_far_from_the_origin_are_found(device, rng):
    """Centres so far away that float64 rounds them by more than the sides."""
    n = 300
    step = np.spacing(1e7)
    boxes = np.tile([[1e7, -1e7, 64 * step, 64 * step, 0]], (n, 1))
    boxes[:, :2] += rng.integers(-900, 900, (n, 2)) * step
    boxes, scores = tensors(boxes, rng.random(n), device, torch.float64)
    for iou_threshold in (0.0, 1e-6, 0.05, 0.3):
        keep = nms_rotated(boxes, scores, iou_threshold)
        assert keep.tolist() == greedy(boxes, scores, iou_threshold)


@pytest.mark.parametrize("iou_threshold", [0.0, 0.1, 1 / 3, 0.5, 0.7])
def test_upright_boxes_equal_nms(device, iou_threshold, rng):
    boxes, scores = tensors(lattice(rng, 500), scores_for(rng, 500, "tied"), device)
    corners = torch.cat([boxes[:, :2] - boxes[:, 2:4] / 2, boxes[:, :2] + boxes[:, 2:4] / 2], 1)
    expected = cvlib.nms(corners, scores, iou_threshold)
    assert torch.equal(nms_rotated(boxes, scores, iou_threshold), expected)


def test_a_threshold_of_exactly_the_iou_keeps(device):
    # The IoU is 1/3 in float32, which is above 1/3 in float64: as in nms.
    boxes, scores = tensors([[0, 0, 2, 1, 90], [0, 1, 2, 1, 90]], [1, 0.5], device)
    iou = float(box_iou_rotated(boxes, boxes)[0, 1])
    assert iou == float(np.float32(1 / 3))
    assert len(nms_rotated(boxes, scores, iou)) == 2
    assert len(nms_rotated(boxes, scores, float(np.nextafter(iou, 0)))) == 1
    assert len(nms_rotated(boxes, scores, 1 / 3)) == 1


@pytest.mark.parametrize("n", [90, 400])
@pytest.mark.parametrize("max_output", [0, 1, 5, 1000])
def test_max_output_is_a_prefix(device, n, max_output, rng):
    boxes, scores = tensors(clusters(rng, n), rng.random(n), device)
    keep = nms_rotated(boxes, scores, 0.3)
    limited = nms_rotated(boxes, scores, 0.3, max_output=max_output)
    assert torch.equal(limited, keep[:max_output])


@pytest.mark.cuda
def test_nan_is_never_kept_on_cuda(cuda, rng):
    boxes, scores = tensors(clusters(rng, 300), rng.random(300), cuda)
    bad = torch.from_numpy(rng.integers(0, 300, 40)).to(cuda)
    boxes[bad[:20], torch.arange(20, device=cuda) % 5] = nan
    scores[bad[20:]] = nan
    keep = nms_rotated(boxes, scores, 0.3)
    assert torch.equal(keep, reference(boxes, scores, 0.3))
    assert not torch.isin(keep, bad).any()


# --- batched


def random_ids(rng, n, kind):
    if kind == "few":
        return torch.from_numpy(rng.integers(-1, 2, n))
    if kind == "many":
        return torch.from_numpy(rng.integers(0, 80, n))
    return torch.from_numpy(rng.choice([-(2**63), 2**63 - 1, 0, 7], n))


@pytest.mark.parametrize("kind", ["few", "many", "huge"])
@pytest.mark.parametrize("n", [0, 1, 60, 150])
def test_batched_matches_oracle(device, n, kind, rng):
    boxes, scores = tensors(clusters(rng, n), rng.random(n), device, torch.float64)
    labels, images = (random_ids(rng, n, kind).to(device) for _ in range(2))
    for options in (
        {"labels": labels},
        {"labels": None, "image_ids": images},
        {"labels": labels, "image_ids": images},
        {"labels": labels, "image_ids": images, "max_output": 3},
        {"labels": labels, "max_output": 9},
    ):
        arguments = dict(options)
        keep = batched_nms_rotated(
            boxes, scores, arguments.pop("labels"), iou_threshold=0.3, **arguments
        )
        assert_matches_oracle(keep, boxes, scores, 0.3, **options)


def test_batched_equals_one_call_for_each_class(device, rng):
    boxes, scores = tensors(clusters(rng, 600), rng.permutation(600), device)
    labels = torch.from_numpy(rng.integers(0, 5, 600)).to(device)
    rows = [torch.where(labels == label)[0] for label in range(5)]
    keep = torch.cat([row[nms_rotated(boxes[row], scores[row], 0.3)] for row in rows])
    expected = keep[scores[keep].argsort(descending=True)]
    assert torch.equal(batched_nms_rotated(boxes, scores, labels, 0.3), expected)


def test_batched_accepts_strided_ids(device, rng):
    boxes, scores = tensors(clusters(rng, 120), rng.random(120), device)
    ids = torch.from_numpy(rng.integers(0, 3, (120, 2))).to(device)
    keep = batched_nms_rotated(boxes, scores, ids[:, 0], 0.3, image_ids=ids[:, 1])
    copies = [ids[:, k].contiguous() for k in range(2)]
    expected = batched_nms_rotated(boxes, scores, copies[0], 0.3, image_ids=copies[1])
    assert torch.equal(keep, expected)
    one = torch.tensor([3], device=device).expand(120)
    keep = batched_nms_rotated(boxes, scores, one, 0.3)
    assert torch.equal(keep, nms_rotated(boxes, scores, 0.3))


# --- matches torchvision


@pytest.mark.parametrize("iou_threshold", [0.1, 0.5])
@pytest.mark.skipif(
    not hasattr(torch.ops.torchvision, "box_iou_rotated"),
    reason="this torchvision has no IoU of rotated boxes",
)
def test_equals_a_greedy_loop_over_torchvision(iou_threshold, rng):
    boxes, scores = tensors(uniform(rng, 400), rng.permutation(400), "cpu")
    rest, expected = scores.argsort(descending=True), []
    while len(rest):
        best, rest = rest[:1], rest[1:]
        expected.append(int(best))
        iou = torchvision.ops.box_iou(boxes[best], boxes[rest], fmt="cxcywhr")[0]
        rest = rest[iou <= iou_threshold]
    assert nms_rotated(boxes, scores, iou_threshold).tolist() == expected


# --- CPU equals CUDA


@pytest.mark.cuda
@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_cpu_equals_cuda(cuda, scene, rng):
    for n, iou_threshold in ((161, 0.5), (2000, 0.1)):
        boxes, scores = tensors(scene(rng, n), scores_for(rng, n, "tied"), "cpu")
        ids = [random_ids(rng, n, "few") for _ in range(2)]
        keep = nms_rotated(boxes, scores, iou_threshold)
        on_cuda = nms_rotated(boxes.to(cuda), scores.to(cuda), iou_threshold)
        assert torch.equal(on_cuda.cpu(), keep)
        options = {"max_output": 20}
        keep = batched_nms_rotated(boxes, scores, ids[0], 0.3, image_ids=ids[1], **options)
        labels, images = (one.to(cuda) for one in ids)
        on_cuda = batched_nms_rotated(
            boxes.to(cuda), scores.to(cuda), labels, 0.3, image_ids=images, **options
        )
        assert torch.equal(on_cuda.cpu(), keep)


# --- reference equals native


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_reference_equals_native(device, scene, dtype, rng):
    n = 150 if dtype == torch.float32 else 80  # the reference takes most of the time
    rows = scene(rng, n).clip(-6e4, 6e4) if dtype == torch.float16 else scene(rng, n)
    boxes, scores = tensors(rows, scores_for(rng, n, "tied"), device, dtype)
    labels, images = (random_ids(rng, n, "huge").to(device) for _ in range(2))
    iou_threshold = float(rng.choice(THRESHOLDS))
    for options in ({}, {"labels": labels, "image_ids": images, "max_output": 4}):
        expected = reference(boxes, scores, iou_threshold, **options)
        assert torch.equal(native(boxes, scores, iou_threshold, **options), expected)


# --- properties

box_rows = st.tuples(
    st.integers(-9, 9),
    st.integers(-9, 9),
    st.integers(0, 9),
    st.integers(0, 9),
    st.integers(-360, 360),
)
scored_boxes = st.lists(st.tuples(box_rows, st.integers(0, 5)), max_size=20)
iou_thresholds = st.sampled_from([0.0, 1 / 7, 0.2, 1 / 3, 0.5, 0.6, 0.9, 1.0])


def unpack(rows, device):
    boxes = np.reshape([box for box, _ in rows], (-1, 5))
    return tensors(boxes, [score for _, score in rows], device)


@given(rows=scored_boxes, iou_threshold=iou_thresholds)
def test_is_idempotent(device, rows, iou_threshold):
    boxes, scores = unpack(rows, device)
    keep = nms_rotated(boxes, scores, iou_threshold)
    repeated = nms_rotated(boxes[keep], scores[keep], iou_threshold)
    assert repeated.tolist() == list(range(len(keep)))


@given(rows=scored_boxes, iou_threshold=iou_thresholds)
def test_kept_boxes_never_overlap_and_dropped_ones_overlap_a_better(device, rows, iou_threshold):
    boxes, scores = unpack(rows, device)
    keep = nms_rotated(boxes, scores, iou_threshold).tolist()
    overlap = (box_iou_rotated(boxes, boxes).double() > iou_threshold).cpu()
    rank = {i: (-float(scores[i]), i) for i in range(len(rows))}
    assert keep == sorted(keep, key=rank.get)
    assert not overlap[keep][:, keep].fill_diagonal_(False).any()
    for dropped in set(rank) - set(keep):
        assert any(overlap[dropped, i] and rank[i] < rank[dropped] for i in keep)


@given(rows=scored_boxes, iou_threshold=iou_thresholds, dx=st.integers(-99, 99))
def test_is_invariant_to_moving_on_a_grid_doubling_and_whole_turns(device, rows, iou_threshold, dx):
    boxes, scores = unpack(rows, device)
    keep = nms_rotated(boxes, scores, iou_threshold)
    moves = torch.tensor([dx, -dx, 0, 0, 360.0 * dx], device=device)
    assert torch.equal(nms_rotated(boxes + moves, scores, iou_threshold), keep)
    double = torch.tensor([2, 2, 2, 2, 1], device=device)
    assert torch.equal(nms_rotated(boxes * double, scores, iou_threshold), keep)


def test_does_not_change_its_arguments(device, rng):
    boxes, scores = tensors(uniform(rng, 300), rng.random(300), device)
    copies = boxes.clone(), scores.clone()
    nms_rotated(boxes, scores, 0.5)
    assert torch.equal(boxes, copies[0]) and torch.equal(scores, copies[1])


# --- scalars reach the kernel


def test_every_scalar_of_the_schema_has_its_meaning(device):
    # IoUs with the first box are .2, .4, .6, .8; among the others 1/2, 1/3, 1/4, 2/3, 3/4.
    rows = [[w / 2, 0.5, w, 1, 0] for w in (10, 2, 4, 6, 8)]
    boxes, scores = tensors(rows, [5, 4, 3, 2, 1], device)
    kept = {t: native(boxes, scores, t).tolist() for t in (0.1, 0.3, 0.5, 0.7, 0.9)}
    assert kept == {
        0.1: [0],
        0.3: [0, 1],
        0.5: [0, 1, 2],
        0.7: [0, 1, 2, 3],
        0.9: [0, 1, 2, 3, 4],
    }
    lengths = [len(native(boxes, scores, 1.0, max_output=limit)) for limit in range(-1, 7)]
    assert lengths == [5, 0, 1, 2, 3, 4, 5, 5]


# --- by hand ------------------------------------------------------------------------------------


def test_by_hand(device):
    # a: 4 x 2, upright, score .9     b: the same turned by 90 degrees, score .8; IoU with a is 1/3
    # c: the same as b, as 2 x 4 at 0 degrees, score .7; IoU with b is 1
    #
    #        +---+
    #     +--|---|--+     At .5 a keeps b, and b drops c; at .3 a drops both.
    #     |  |   |  |
    #     +--|---|--+     d: the same as a, half a turn on, score .6; IoU with a is 1.
    #        +---+
    rows = [[5, 5, 2, 4, 0], [5, 5, 4, 2, 0], [5, 5, 4, 2, 90], [5, 5, 4, 2, 180]]
    boxes, scores = tensors(rows, [0.7, 0.9, 0.8, 0.6], device)
    assert nms_rotated(boxes, scores, 0.5).tolist() == [1, 2]
    assert nms_rotated(boxes, scores, 0.3).tolist() == [1]
    labels = torch.tensor([0, 1, 1, 0], device=device)
    assert batched_nms_rotated(boxes, scores, labels, 0.5).tolist() == [1, 2, 0, 3]
