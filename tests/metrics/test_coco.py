"""COCO metrics, equal to the official evaluator."""

import copy
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision import tv_tensors

from cvlib.boxes import box_convert
from cvlib.metrics import CocoMeter, evaluate_boxes, evaluate_masks
from cvlib.ops.rle import masks_to_rle, polygons_to_masks
from cvlib.structures import Detections, GroundTruth

CLASSES = ("cat", "dog", "cow")
SIZE = (200, 300)
# What pycocotools prints for coco-eval-pair; see its README.
PUBLISHED = {
    "boxes": [0.505, 0.697, 0.573, 0.586, 0.519, 0.501, 0.387, 0.594, 0.595, 0.640, 0.566, 0.564],
    "masks": [0.320, 0.562, 0.299, 0.387, 0.310, 0.327, 0.268, 0.415, 0.417, 0.469, 0.377, 0.381],
}


def official(dataset, results, kind, capsys):
    """Evaluate with pycocotools."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth, detected = COCO(), COCO()
    truth.dataset = {"info": {}, **copy.deepcopy(dataset)}
    truth.createIndex()
    detected = truth.loadRes(copy.deepcopy(results)) if results else detected
    evaluator = COCOeval(truth, detected, {"boxes": "bbox", "masks": "segm"}[kind])
    evaluator.evaluate(), evaluator.accumulate(), evaluator.summarize()
    capsys.readouterr()
    return evaluator


def written(truths, detections, classes, kind):
    """Convert objects to COCO rows by hand, without the library."""
    annotations, results = [], []
    for image, (truth, detected) in enumerate(zip(truths, detections, strict=True), start=1):
        crowds, areas = truth.crowds.tolist(), truth.areas.double().tolist()
        for i, box in enumerate(truth.boxes.double().numpy()):
            row = {
                "id": len(annotations) + 1,
                "image_id": image,
                "category_id": int(truth.labels[i]) + 1,
                "bbox": [*box[:2], *(box[2:] - box[:2])],
                "area": areas[i],
                "iscrowd": int(crowds[i]),
            }
            if kind == "masks":
                row["segmentation"] = truth.rles()[i]
            annotations.append(row)
        for i, box in enumerate(detected.boxes.double().numpy()):
            row = {
                "image_id": image,
                "category_id": int(detected.labels[i]) + 1,
                "score": float(detected.scores[i]),
            }
            if kind == "masks":
                row["segmentation"] = detected.rles()[i]
            else:
                row["bbox"] = [*box[:2], *(box[2:] - box[:2])]
            results.append(row)
    dataset = {
        "images": [
            {"id": i, "height": truth.size[0], "width": truth.size[1]}
            for i, truth in enumerate(truths, 1)
        ],
        "annotations": annotations,
        "categories": [{"id": k, "name": name} for k, name in enumerate(classes, 1)],
    }
    return dataset, results


def random_set(rng, images=12, ties=False, crowds=False, masks=False):
    """Detections near the truth, false ones, lost ones, and classes confused."""
    truths, detections = [], []
    size = (40, 60) if masks else SIZE
    for _ in range(images):
        count = int(rng.integers(0, 6))
        # A grid of 1/8 pixel: exact in float32, so that both ways compute with the same numbers.
        corner = rng.integers(0, 1200, (count, 2)) / 8
        boxes = np.concatenate([corner, corner + rng.integers(8, 1100, (count, 2)) / 8], axis=1)
        labels = rng.integers(0, 3, count)
        detected = np.repeat(boxes, 3, axis=0) + rng.integers(-60, 60, (3 * count, 4)) / 8
        detected = np.concatenate([detected, rng.integers(0, 1000, (2, 4)) / 8])
        detected = np.concatenate(
            [detected.reshape(-1, 2, 2).min(1), detected.reshape(-1, 2, 2).max(1)], 1
        )
        detected_labels = np.concatenate([np.repeat(labels, 3), rng.integers(0, 3, 2)])
        keep = rng.random(len(detected)) < 0.8
        scores = rng.integers(1, 5, len(detected)) / 4 if ties else rng.random(len(detected))
        order = rng.permutation(len(detected))
        order = order[keep[order]]
        truths.append(
            GroundTruth(
                torch.tensor(boxes).float(),
                torch.tensor(labels),
                size,
                torch.tensor(rng.random(count) < 0.3) if crowds else None,
                torch.tensor(rng.integers(100, 15000, count)) if crowds and not masks else None,
                filled(boxes / 5, size) if masks else None,
            ),
        )
        detections.append(
            Detections(
                torch.tensor(detected[order]).float(),
                torch.tensor(scores[order]).float(),
                torch.tensor(detected_labels[order]),
                CLASSES,
                filled(detected[order] / 5, size) if masks else None,
            )
        )
    return truths, detections


def filled(boxes, size):
    masks = torch.zeros(len(boxes), *size, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.round().astype(int), strict=True):
        mask[y1:y2, x1:x2] = True
        mask[y1 : y1 + 3, x1 : x1 + 2] = False  # no plain boxes
    return masks


def one_truth(*boxes, labels=None):
    labels = torch.zeros(len(boxes)).long() if labels is None else torch.tensor(labels)
    return GroundTruth(torch.tensor(boxes).reshape(-1, 4).float(), labels, SIZE)


def perfect(truth):
    return Detections(truth.boxes, torch.ones(len(truth.boxes)), truth.labels, CLASSES)


def compare(truths, detections, kind, capsys, classes=CLASSES):
    """Compare all metrics with pycocotools and return them."""
    evaluate = {"boxes": evaluate_boxes, "masks": evaluate_masks}[kind]
    detected = evaluate(truths, detections, classes)
    dataset, results = written(truths, detections, classes, kind)
    evaluator = official(dataset, results, kind, capsys)
    assert list(detected.as_dict().values()) == pytest.approx(evaluator.stats.tolist(), abs=1e-12)
    precision, recall = evaluator.eval["precision"], evaluator.eval["recall"]
    for k, one in enumerate(detected.classes):
        for value, expected in (
            (one.ap, precision[:, :, k, 0, 2]),
            (one.ap50, precision[0, :, k, 0, 2]),
            (one.ap75, precision[5, :, k, 0, 2]),
            (one.ar100, recall[:, k, 0, 2]),
        ):
            assert value == pytest.approx(expected.mean(), abs=1e-12), one.name
    return detected


@pytest.mark.parametrize("kind", ["boxes", "masks"])
@pytest.mark.parametrize("crowds", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_equals_pycocotools(kind, crowds, seed, capsys):
    rng = np.random.default_rng(seed)
    truths, detections = random_set(rng, 12, seed % 2 == 1, crowds, kind == "masks")
    detected = compare(truths, detections, kind, capsys)
    assert 0.02 < detected.ap < 0.98
    assert [one.objects for one in detected.classes] == [
        sum(int(((t.labels == k) & ~t.crowds).sum()) for t in truths) for k in range(3)
    ]


@given(
    seed=st.integers(0, 10**6),
    images=st.integers(1, 5),
    ties=st.booleans(),
    crowds=st.booleans(),
)
@settings(max_examples=25)
def test_equals_pycocotools_on_small_sets(capsys, seed, images, ties, crowds):
    truths, detections = random_set(np.random.default_rng(seed), images, ties, crowds)
    compare(truths, detections, "boxes", capsys)


def test_many_detections_of_a_class_in_one_image(capsys, rng):
    corner = torch.from_numpy(rng.integers(0, 800, (130, 2)) / 8).float()
    boxes = torch.cat([corner, corner + 40], dim=1)
    detected = Detections(boxes, torch.rand(130), torch.zeros(130).long(), CLASSES)
    truth = GroundTruth(boxes[::9], torch.zeros(15).long(), SIZE)
    metrics = compare([truth] * 3, [detected] * 3, "boxes", capsys)
    assert metrics.ar1 < metrics.ar10 < metrics.ar100


def test_two_areas_two_crowds_and_equal_overlaps(capsys):
    # Objects on each other's place: a small and a large area, a crowd twice, exact ties of IoU.
    box = (0.0, 0, 60, 60)
    truth = GroundTruth(
        torch.tensor([box] * 5),
        torch.zeros(5).long(),
        SIZE,
        torch.tensor([0, 1, 0, 1, 0]),
        torch.tensor([100.0, 2000, 2000, 20000, 20000]),
    )
    shifted = torch.tensor([box, (0, 0, 60, 50), (0, 0, 50, 60), (0, 0, 30, 60), box, box, box])
    scores = torch.tensor([0.5, 0.5, 0.9, 0.8, 0.1, 0.2, 0.5])
    detected = Detections(shifted, scores, torch.zeros(7).long(), CLASSES)
    compare([truth, truth], [detected, detected[:3]], "boxes", capsys)


def test_category_ids_with_gaps_and_image_ids_out_of_order(capsys):
    truths, detections = random_set(np.random.default_rng(3))
    dataset, results = written(truths, detections, CLASSES, "boxes")
    ids = {1: 3, 2: 17, 3: 90}
    for row in [*dataset["annotations"], *results]:
        row["category_id"], row["image_id"] = ids[row["category_id"]], 1000 - row["image_id"]
    dataset["categories"] = [{"id": ids[k], "name": str(k)} for k in (1, 2, 3)]
    dataset["images"] = [{"id": 1000 - one["id"]} for one in dataset["images"]]
    expected = official(dataset, results, "boxes", capsys).stats.tolist()
    meter = CocoMeter(CLASSES)
    meter.update([1000 - i for i in range(1, 13)], truths, detections)
    assert list(meter.compute().as_dict().values()) == pytest.approx(expected, abs=1e-12)
    rows = [r for i, one in enumerate(detections, 1) for r in one.to_coco(1000 - i, [3, 17, 90])]
    assert sorted(r["score"] for r in rows) == sorted(r["score"] for r in results)
    assert {r["category_id"] for r in rows} == {3, 17, 90}


def read_pair(folder, kind):
    """The published pair as our own objects, with nothing rounded."""
    dataset = json.loads((folder / "instances_val2014_100.json").read_text())
    name = {"boxes": "bbox", "masks": "segm"}[kind]
    results = json.loads((folder / f"instances_val2014_fake{name}100_results.json").read_text())
    categories = sorted(dataset["categories"], key=lambda category: category["id"])
    label_of = {category["id"]: k for k, category in enumerate(categories)}
    classes = tuple(category["name"] for category in categories)

    def tensors(rows):
        boxes = torch.tensor([row.get("bbox", [0, 0, 1, 1]) for row in rows], dtype=torch.float64)
        labels = torch.tensor([label_of[row["category_id"]] for row in rows], dtype=torch.int64)
        return box_convert(boxes.reshape(-1, 4), "xywh", "xyxy"), labels

    def column(rows, name):
        return torch.tensor([row[name] for row in rows], dtype=torch.float64)

    truths, detections = [], []
    for image in sorted(dataset["images"], key=lambda image: image["id"]):
        size = (image["height"], image["width"])
        mine = [row for row in dataset["annotations"] if row["image_id"] == image["id"]]
        detected = [row for row in results if row["image_id"] == image["id"]]
        boxes, labels = tensors(mine)
        masks = [outline(row["segmentation"], size) for row in mine] if kind == "masks" else None
        crowds, areas = column(mine, "iscrowd"), column(mine, "area")
        truths.append(GroundTruth(boxes, labels, size, crowds, areas, masks))
        boxes, labels = tensors(detected)
        masks = [row["segmentation"] for row in detected] if kind == "masks" else None
        detections.append(Detections(boxes, column(detected, "score"), labels, classes, masks))
    return truths, detections, classes, (dataset, results)


def outline(segmentation, size):
    if isinstance(segmentation, dict):
        return segmentation
    return masks_to_rle(polygons_to_masks([segmentation], size))[0]


@pytest.mark.parametrize("kind", ["boxes", "masks"])
def test_the_published_metrics(kind, test_data, capsys):
    truths, detections, classes, (dataset, results) = read_pair(test_data / "coco-eval-pair", kind)
    evaluate = {"boxes": evaluate_boxes, "masks": evaluate_masks}[kind]
    detected = list(evaluate(truths, detections, classes).as_dict().values())
    assert [round(value, 3) for value in detected] == PUBLISHED[kind]
    assert sum(truth.crowds.sum() for truth in truths) == 9
    assert detected == pytest.approx(
        official(dataset, results, kind, capsys).stats.tolist(), abs=1e-9
    )


def test_perfect_detections_score_one():
    truths = [
        one_truth((0, 0, 20, 20), (50, 50, 100, 100), labels=[0, 1]),
        one_truth((10, 10, 190, 190), labels=[2]),
        one_truth(),
    ]
    detected = evaluate_boxes(truths, [perfect(t) for t in truths], CLASSES)
    # Whatever comes of summing the ten thresholds' ones.
    assert detected.as_dict() == pytest.approx(dict.fromkeys(detected.as_dict(), 1.0), abs=1e-9)


def test_no_detections_score_nothing():
    truths = [one_truth((0, 0, 20, 20)), one_truth((10, 10, 190, 190))]
    detected = evaluate_boxes(truths, [Detections.empty(CLASSES)] * 2, CLASSES)
    assert detected.ap == detected.ap50 == detected.ap75 == detected.ar100 == 0


@pytest.mark.parametrize("detected", [False, True])
def test_without_ground_truth_there_is_no_figure(detected):
    detected = perfect(one_truth((0, 0, 20, 20))) if detected else Detections.empty(CLASSES)
    metrics = evaluate_boxes([one_truth()], [detected], CLASSES)
    assert set(metrics.as_dict().values()) == {-1.0}


def test_sizes_that_do_not_occur_have_no_figure():
    truth = one_truth((0, 0, 20, 20))
    metrics = evaluate_boxes([truth], [perfect(truth)], CLASSES)
    assert metrics.ap_medium == metrics.ap_large == metrics.ar_medium == metrics.ar_large == -1
    assert metrics.ap_small == pytest.approx(1)


def test_the_wrong_class_is_no_detection():
    truth = one_truth((0, 0, 20, 20), labels=[1])
    wrong = Detections(truth.boxes, torch.ones(1), torch.tensor([2]), CLASSES)
    assert evaluate_boxes([truth], [wrong], CLASSES).ap == 0


def test_an_iou_of_exactly_the_threshold_counts():
    truth = one_truth((0, 0, 64, 64))
    half = Detections(
        torch.tensor([[0.0, 0, 64, 32]]), torch.ones(1), torch.zeros(1).long(), CLASSES
    )
    metrics = evaluate_boxes([truth], [half], CLASSES)
    assert metrics.ap50 == pytest.approx(1)
    assert metrics.ap == pytest.approx(0.1)


def test_nothing_is_printed(capfd):
    truth = one_truth((0, 0, 20, 20))
    evaluate_boxes([truth], [perfect(truth)], CLASSES)
    assert capfd.readouterr().out == ""


def test_lists_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="expected `detections` of 2 images, got 1"):
        evaluate_boxes([one_truth()] * 2, [Detections.empty(CLASSES)], CLASSES)


def test_nan_scores_are_refused():
    truth = one_truth((0, 0, 20, 20), (5, 5, 9, 9))
    detected = Detections(truth.boxes, torch.tensor([0.5, float("nan")]), truth.labels, CLASSES)
    with pytest.raises(ValueError, match=r"scores without NaN, got nan in detections\[1\]"):
        evaluate_boxes([truth, truth], [perfect(truth), detected], CLASSES)


def test_nan_boxes_are_refused():
    truth = one_truth((0, 0, 20, 20))
    detected = Detections(truth.boxes * float("nan"), torch.ones(1), truth.labels, CLASSES)
    with pytest.raises(ValueError, match="`boxes of detections` to be without NaN"):
        evaluate_boxes([truth], [detected], CLASSES)


def test_inverted_boxes_are_refused():
    detected = perfect(one_truth((0, 0, 20, 20)))
    with pytest.raises(ValueError, match="`boxes of truths` to have x1 <= x2"):
        evaluate_boxes([one_truth((20, 0, 0, 20))], [detected], CLASSES)


@pytest.mark.parametrize("label", [-1, 3])
def test_labels_out_of_range_are_refused(label):
    truth = one_truth((0, 0, 20, 20), labels=[label])
    message = rf"labels of `truths` in 0\.\.2, got {label} in truths\[1"
    with pytest.raises(ValueError, match=message):
        evaluate_boxes([one_truth(), truth], [Detections.empty(CLASSES)] * 2, CLASSES)


def test_objects_without_masks_are_refused():
    truth = one_truth((0, 0, 20, 20))
    with pytest.raises(ValueError, match=r"masks in every image with objects, got none in det"):
        evaluate_masks([one_truth()], [perfect(truth)], CLASSES)


def test_an_unknown_kind_is_refused_before_there_are_images():
    with pytest.raises(ValueError, match="expected `kind` to be 'boxes' or 'masks', got 'points'"):
        CocoMeter(CLASSES, "points")


def test_detections_of_other_classes_are_refused():
    # The same names in another order: the labels would mean something else.
    truth = one_truth((0, 0, 20, 20))
    detected = Detections(truth.boxes, torch.ones(1), truth.labels, CLASSES[::-1])
    message = (
        r"evaluate_boxes: expected `detections` of the classes \('cat', 'dog', 'cow'\), got .*\[1\]"
    )
    with pytest.raises(ValueError, match=message):
        evaluate_boxes([truth, truth], [perfect(truth), detected], CLASSES)


def test_devices_may_be_mixed(device):
    truth = one_truth((0, 0, 20, 20), (30, 30, 90, 90))
    detected = perfect(truth)
    moved = Detections(
        detected.boxes.to(device), detected.scores.to(device), detected.labels.to(device), CLASSES
    )
    expected = evaluate_boxes([truth] * 2, [detected] * 2, CLASSES)
    assert evaluate_boxes([truth] * 2, [moved, detected], CLASSES) == expected


def test_gradients_and_tv_tensors_do_not_disturb():
    truth = one_truth((0, 0, 20, 20))
    boxes = tv_tensors.BoundingBoxes(truth.boxes, format="XYXY", canvas_size=SIZE)
    detected = Detections(truth.boxes, torch.ones(1, requires_grad=True), truth.labels, CLASSES)
    metrics = evaluate_boxes([GroundTruth(boxes, truth.labels, SIZE)], [detected], CLASSES)
    assert metrics.ap50 == pytest.approx(1)


def test_the_table_has_a_line_for_each_class():
    truth = one_truth((0, 0, 20, 20), labels=[1])
    table = evaluate_boxes([truth], [perfect(truth)], CLASSES).table().splitlines()
    assert len(table) == 4
    assert table[1].split() == ["cat", "0", "-", "-", "-", "-"]
    assert table[2].split() == ["dog", "1", "1.000", "1.000", "1.000", "1.000"]


def test_a_image_counts_once_whoever_brings_it():
    truths, detections = random_set(np.random.default_rng(1), 9)
    expected = evaluate_boxes(truths, detections, CLASSES)
    parts = [CocoMeter(CLASSES) for _ in range(3)]
    for rank, meter in enumerate(parts):
        # As a sampler that pads: each process has four images, some of another's.
        mine = [(rank + 3 * step) % 9 for step in range(4)]
        meter.update(mine, [truths[i] for i in mine], [detections[i] for i in mine])
        meter.update(mine[:1], [truths[mine[0]]], [detections[mine[0]]])
    merged = parts[2].merge(parts[0]).merge(parts[1])
    assert merged.image_ids == list(range(9)) and len(merged) == 9
    assert merged.compute() == expected


def test_a_meter_of_other_classes_is_not_merged():
    message = r"CocoMeter.merge: expected `other` to have the classes \('cat', 'dog', 'cow'\), got"
    with pytest.raises(ValueError, match=message):
        CocoMeter(CLASSES).merge(CocoMeter(CLASSES[:2]))


def test_the_meter_keeps_masks_as_run_lengths():
    truths, detections = random_set(np.random.default_rng(1), 6, masks=True)
    meter = CocoMeter(CLASSES, "masks")
    meter.update(range(6), truths, detections)
    assert all(isinstance(one.masks, list) for one in [*meter.truths, *meter.detections])
    assert meter.compute() == evaluate_masks(truths, detections, CLASSES)


def test_an_update_of_different_lengths_is_refused():
    with pytest.raises(ValueError, match="`truths` and `detections` of 2 images, got 1 and 0"):
        CocoMeter(CLASSES).update([1, 2], [one_truth()], [])
