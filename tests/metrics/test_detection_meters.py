"""VOC, curves, confusions and error kinds: against slow oracles, and by hand."""

import numpy as np
import oracles_metrics as oracle
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cvlib.metrics import (
    ConfusionMatrix,
    DetectionConfusionMeter,
    ErrorMeter,
    PrecisionRecallMeter,
    VocMeter,
    evaluate_boxes,
    plot_confusion,
    plot_errors,
    plot_precision_recall,
)
from cvlib.metrics.errors import KINDS
from cvlib.structures import Detections, GroundTruth

CLASSES = ("cat", "dog", "cow")
SIZE = (200, 300)
METERS = (VocMeter, PrecisionRecallMeter, DetectionConfusionMeter, ErrorMeter)


def random_set(seed, images=8, crowds=False):
    """Detections near and far from the truth; no two scores and no two overlaps are equal."""
    rng = np.random.default_rng(seed)
    truths, detections = [], []
    for _ in range(images):
        count = int(rng.integers(0, 6))
        corner = rng.random((count, 2)) * 100
        boxes = np.concatenate([corner, corner + 20 + rng.random((count, 2)) * 80], axis=1)
        labels = rng.integers(0, 3, count)
        shift = rng.normal(0, 1, (3 * count, 4)) * rng.choice([2, 8, 20], (3 * count, 1))
        detected = np.concatenate([np.repeat(boxes, 3, axis=0) + shift, rng.random((3, 4)) * 150])
        detected = np.concatenate(
            [detected.reshape(-1, 2, 2).min(1), detected.reshape(-1, 2, 2).max(1)], 1
        )
        detected_labels = np.concatenate([np.repeat(labels, 3), rng.integers(0, 3, 3)])
        confused = rng.random(len(detected)) < 0.25
        detected_labels[confused] = rng.integers(0, 3, confused.sum())
        keep = rng.random(len(detected)) < 0.6
        truths.append(
            GroundTruth(
                torch.tensor(boxes),
                torch.tensor(labels),
                SIZE,
                torch.tensor(rng.random(count) < 0.3) if crowds else None,
            )
        )
        detections.append(
            Detections(
                torch.tensor(detected[keep]),
                torch.tensor(rng.random(len(detected))[keep]),
                torch.tensor(detected_labels[keep]),
                CLASSES,
            )
        )
    return truths, detections


def fill(meter, truths, detections):
    meter.update(range(len(truths)), truths, detections)
    return meter


def truth(*boxes, labels=None, crowds=None):
    labels = torch.zeros(len(boxes)).long() if labels is None else torch.tensor(labels)
    crowds = None if crowds is None else torch.tensor(crowds)
    return GroundTruth(torch.tensor(boxes).reshape(-1, 4).float(), labels, SIZE, crowds)


def detected(*boxes, scores, labels=None):
    labels = torch.zeros(len(boxes)).long() if labels is None else torch.tensor(labels)
    return Detections(
        torch.tensor(boxes).reshape(-1, 4).float(), torch.tensor(scores), labels, CLASSES
    )


@given(seed=st.integers(0, 10**6), crowds=st.booleans(), year=st.sampled_from([2007, 2012]))
def test_voc_equals_the_oracle(seed, crowds, year):
    truths, detections = random_set(seed, 6, crowds)
    metrics = fill(VocMeter(CLASSES, year), truths, detections).compute()
    values = []
    for k, name in enumerate(CLASSES):
        expected = oracle.voc_average_precision(truths, detections, k, year)
        assert metrics.classes[name] == pytest.approx(-1 if expected is None else expected)
        values += [] if expected is None else [expected]
    assert metrics.map == pytest.approx(np.mean(values) if values else -1)
    assert metrics.as_dict() == {f"voc{year % 100:02}_map": metrics.map}


def test_voc_by_hand():
    # Objects at 0 and 100, the second one difficult. Detections, best first: right; a second one
    # on the same object; one on the difficult object; one of nothing.
    one = truth((0, 0, 50, 50), (100, 0, 150, 50), (200, 0, 250, 50), crowds=[0, 1, 0])
    boxes = [(0, 0, 50, 50), (0, 0, 50, 48), (100, 0, 150, 50), (0, 100, 50, 150)]
    detections = detected(*boxes, scores=[0.9, 0.8, 0.7, 0.6])
    later = fill(VocMeter(CLASSES), [one], [detections]).compute()
    assert later.classes == {"cat": 0.5, "dog": -1, "cow": -1}  # one of two detected, precision 1
    first = fill(VocMeter(CLASSES, 2007), [one], [detections]).compute()
    assert first.map == pytest.approx(6 / 11)  # recalls 0, .1, ... .5


def test_a_voc_detection_belongs_to_the_object_that_it_overlaps_most():
    # COCO would give the second detection the second object; VOC finds it a repetition.
    one = truth((0, 0, 100, 100), (0, 0, 100, 60))
    twice = detected((0, 0, 100, 100), (0, 0, 100, 85), scores=[0.9, 0.8])
    assert fill(VocMeter(CLASSES), [one], [twice]).compute().map == pytest.approx(0.5)
    assert evaluate_boxes([one], [twice], CLASSES).ap50 == pytest.approx(1)


@pytest.mark.parametrize("year", [2010, "2007"])
def test_other_years_are_refused(year):
    with pytest.raises(
        ValueError, match=f"VocMeter: expected `year` to be 2007 or 2012, got {year}"
    ):
        VocMeter(CLASSES, year)


def test_curves_agree_with_coco():
    truths, detections = random_set(5, 12, crowds=True)
    curves = fill(PrecisionRecallMeter(CLASSES), truths, detections).compute()
    coco = evaluate_boxes(truths, detections, CLASSES)
    for curve, expected in zip(curves, coco.classes, strict=True):
        assert (curve.name, curve.objects) == (expected.name, expected.objects)
        assert curve.ap == pytest.approx(expected.ap50, abs=1e-12)
        assert (np.diff(curve.score) <= 0).all() and (np.diff(curve.recall) >= 0).all()


def test_a_curve_by_hand():
    one = truth((0, 0, 50, 50), (100, 0, 150, 50))
    boxes = [(0, 0, 50, 50), (0, 100, 50, 150), (100, 0, 150, 50)]
    curve = fill(
        PrecisionRecallMeter(CLASSES), [one], [detected(*boxes, scores=[0.75, 0.5, 0.25])]
    ).compute()[0]
    assert curve.score.tolist() == [0.75, 0.5, 0.25]
    assert curve.precision.tolist() == pytest.approx([1, 1 / 2, 2 / 3])
    assert curve.recall.tolist() == [0.5, 0.5, 1]
    assert curve.best_f1() == pytest.approx((0.8, 0.25))


def test_curves_of_nothing():
    curves = fill(PrecisionRecallMeter(CLASSES), [truth()], [Detections.empty(CLASSES)]).compute()
    assert [(curve.ap, curve.best_f1()) for curve in curves] == [(-1, (0.0, 1.0))] * 3


@given(seed=st.integers(0, 10**6), crowds=st.booleans(), iou=st.sampled_from([0.3, 0.5, 0.8]))
def test_confusions_equal_the_oracle(seed, crowds, iou):
    truths, detections = random_set(seed, 6, crowds)
    meter = fill(
        DetectionConfusionMeter(CLASSES, iou_threshold=iou, score_threshold=0.3),
        truths,
        detections,
    )
    expected = oracle.confusion(truths, detections, 3, iou, 0.3)
    assert meter.compute().counts.tolist() == expected.tolist()


def test_every_object_and_every_detection_is_counted_once():
    truths, detections = random_set(2, 12)
    counts = fill(DetectionConfusionMeter(CLASSES, score_threshold=0), truths, detections).compute()
    labels = torch.cat([one.labels for one in truths])
    assert counts.counts[:3].sum(axis=1).tolist() == labels.bincount(minlength=3).tolist()
    labels = torch.cat([one.labels for one in detections])
    assert counts.counts[:, :3].sum(axis=0).tolist() == labels.bincount(minlength=3).tolist()
    assert counts.rows == (*CLASSES, "(background)")


def test_a_matrix_in_shares_and_words():
    matrix = ConfusionMatrix(np.array([[6, 2], [0, 0]]), ("cat", "dog"), ("cat", "dog"))
    assert matrix.normalised().tolist() == [[0.75, 0.25], [0, 0]]
    assert matrix.worst() == [("cat", "dog", 2)]
    assert matrix.worst(0) == []


@given(seed=st.integers(0, 10**6), crowds=st.booleans())
def test_errors_equal_the_oracle(seed, crowds):
    truths, detections = random_set(seed, 6, crowds)
    split = fill(ErrorMeter(CLASSES), truths, detections).compute()
    base, counts, deltas, costs = oracle.errors(truths, detections, 3)
    assert split.counts == counts
    assert split.ap == pytest.approx(base, abs=1e-9)
    assert split.ap == pytest.approx(evaluate_boxes(truths, detections, CLASSES).ap50, abs=1e-12)
    assert split.delta_ap_false_positive == pytest.approx(deltas.pop("false_positive"), abs=1e-9)
    assert split.delta_ap_false_negative == pytest.approx(deltas.pop("false_negative"), abs=1e-9)
    assert split.delta_ap == pytest.approx(deltas, abs=1e-9)
    assert {one.image_id: one.cost for one in split.images} == pytest.approx(costs)
    assert sorted((one.cost for one in split.images), reverse=True) == [
        one.cost for one in split.images
    ]


def test_one_error_of_each_kind_by_hand():
    # One image per kind, each with a single error.
    cat = (100.0, 100, 200, 200)
    cases = {
        "classification": ([cat], [cat], [1]),
        "localisation": ([cat], [(100, 100, 200, 140)], [0]),  # IoU .4
        "both": ([cat], [(100, 100, 200, 140)], [1]),
        "duplicate": ([cat], [cat, (100, 100, 200, 195)], [0, 0]),
        "background": ([cat], [cat, (0, 0, 50, 50)], [0, 0]),
        "missed": ([cat], [], []),
    }
    for kind, (objects, boxes, labels) in cases.items():
        scores = [0.9 - 0.1 * i for i in range(len(boxes))]
        meter = fill(
            ErrorMeter(CLASSES),
            [truth(*objects)],
            [
                detected(*boxes, scores=scores, labels=labels)
                if boxes
                else Detections.empty(CLASSES)
            ],
        )
        split = meter.compute()
        expected = dict.fromkeys(KINDS, 0) | {kind: 1}
        if kind == "both":
            expected["missed"] = 1  # nothing near it could be mended
        assert split.counts == expected, kind
        assert split.images[0].counts == expected


def test_a_perfect_detector_makes_no_errors():
    one = truth((0, 0, 50, 50), (100, 0, 150, 50), labels=[0, 2])
    perfect = Detections(one.boxes, torch.ones(2), one.labels, CLASSES)
    split = fill(ErrorMeter(CLASSES), [one], [perfect]).compute()
    assert split.ap == pytest.approx(1)
    assert set(split.counts.values()) == {0} and split.images == ()
    assert split.as_dict() == {f"delta_ap_{kind}": 0 for kind in KINDS}
    assert len(split.table().splitlines()) == 7


def test_thresholds_in_the_wrong_order_are_refused():
    with pytest.raises(
        ValueError, match="`background_threshold` above 0 and at most `iou_threshold`"
    ):
        ErrorMeter(CLASSES, iou_threshold=0.3, background_threshold=0.4)


@pytest.mark.parametrize("meter", METERS)
@pytest.mark.parametrize("has_objects", [True, False])
@pytest.mark.parametrize("has_detections", [True, False])
def test_empty_sides(meter, has_objects, has_detections):
    one = truth((0, 0, 50, 50)) if has_objects else truth()
    some = detected((0, 0, 50, 50), scores=[0.5]) if has_detections else Detections.empty(CLASSES)
    assert fill(meter(CLASSES), [one], [some]).compute()
    assert meter(CLASSES).compute()


@pytest.mark.parametrize("meter", METERS)
def test_crowds_alone(meter):
    one = truth((0, 0, 50, 50), crowds=[1])
    some = detected((0, 0, 50, 50), (10, 10, 30, 30), scores=[0.5, 0.4])
    metrics = fill(meter(CLASSES), [one], [some]).compute()
    if meter is DetectionConfusionMeter:
        assert metrics.counts.sum() == 0
    if meter is ErrorMeter:
        assert metrics.ap == -1 and set(metrics.counts.values()) == {0}


@pytest.mark.parametrize("meter", METERS)
def test_nan_scores_are_refused_by_all(meter):
    some = detected((0, 0, 50, 50), scores=[float("nan")])
    with pytest.raises(ValueError, match=rf"{meter.__name__}: expected scores without NaN"):
        fill(meter(CLASSES), [truth()], [some]).compute()


@pytest.mark.parametrize("meter", METERS)
def test_thresholds_outside_of_0_to_1_are_refused(meter):
    with pytest.raises(ValueError, match=r"expected `iou_threshold` to be in \[0, 1\], got 50"):
        meter(CLASSES, iou_threshold=50)


def test_a_score_in_percent_is_refused():
    with pytest.raises(ValueError, match=r"expected `score_threshold` to be in \[0, 1\], got 25"):
        DetectionConfusionMeter(CLASSES, score_threshold=25)


@pytest.mark.parametrize("meter", METERS[1:])
def test_masks_are_judged_by_their_pixels(meter):
    # The box of the detection is wrong, its mask is right.
    mask = torch.zeros(1, 40, 40, dtype=torch.bool)
    mask[:, 10:30, 10:30] = True
    box, label = torch.tensor([[10.0, 10, 30, 30]]), torch.tensor([0])
    one = GroundTruth(box, label, (40, 40), masks=mask)
    some = Detections(box * 0 + torch.tensor([0.0, 0, 9, 9]), torch.ones(1), label, CLASSES, mask)
    metrics = fill(meter(CLASSES, "masks"), [one], [some]).compute()
    if meter is PrecisionRecallMeter:
        assert metrics[0].ap == pytest.approx(1)
    if meter is DetectionConfusionMeter:
        assert metrics.counts[0, 0] == metrics.counts.sum() == 1
    if meter is ErrorMeter:
        assert metrics.ap == pytest.approx(1)


def test_charts_are_images(tmp_path):
    truths, detections = random_set(4, 6)
    images = [
        plot_confusion(fill(DetectionConfusionMeter(CLASSES), truths, detections).compute()),
        plot_precision_recall(fill(PrecisionRecallMeter(CLASSES), truths, detections).compute()),
        plot_errors(fill(ErrorMeter(CLASSES), truths, detections).compute()),
    ]
    for image in images:
        assert image.mode == "RGB" and min(image.size) > 200
        assert len(image.getcolors(10**6)) > 20  # not blank
    names = tuple(f"class {k}" for k in range(40))
    counts = np.diag(np.full(40, 123_456))
    assert plot_confusion(ConfusionMatrix(counts, names, names)).width > 1500
    names = tuple(f"class {k} has a name of very many words, all of them here" for k in range(90))
    counts = np.diag([1] * 45 + [0] * 45)
    many = plot_confusion(ConfusionMatrix(counts, names, names))
    assert many.width < 1500 and many.height < 1500, "classes that do not occur are left out"
    counts[:] = 0
    assert plot_confusion(ConfusionMatrix(counts, names, names)).mode == "RGB"
    short = plot_confusion(ConfusionMatrix(np.eye(2), ("a", "b"), ("a", "b")))
    long = plot_confusion(ConfusionMatrix(np.eye(2), names[:2], names[:2]))
    matrix = [(np.asarray(one)[..., 2] != np.asarray(one)[..., 0]).sum() for one in (short, long)]
    assert matrix[1] > 0.8 * matrix[0], "long names leave the matrix its place"
    nothing = fill(PrecisionRecallMeter(CLASSES), [truth()], [Detections.empty(CLASSES)])
    assert plot_precision_recall(nothing.compute()).mode == "RGB"
