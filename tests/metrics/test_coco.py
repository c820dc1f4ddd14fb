"""COCO's figures: the official evaluator's digits."""

import copy
import json

import numpy as np
import pytest
import torch

from cvlib.boxes import box_convert
from cvlib.metrics import evaluate_boxes, evaluate_masks
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
    """pycocotools, evaluated."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth, found = COCO(), COCO()
    truth.dataset = {"info": {}, **copy.deepcopy(dataset)}
    truth.createIndex()
    found = truth.loadRes(copy.deepcopy(results)) if results else found
    evaluator = COCOeval(truth, found, {"boxes": "bbox", "masks": "segm"}[kind])
    evaluator.evaluate(), evaluator.accumulate(), evaluator.summarize()
    capsys.readouterr()
    return evaluator


def written(truths, detections, classes, kind):
    """Our objects as COCO's files, fed by hand and not through the library."""
    annotations, results = [], []
    for image, (truth, found) in enumerate(zip(truths, detections, strict=True), start=1):
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
        for i, box in enumerate(found.boxes.double().numpy()):
            row = {
                "image_id": image,
                "category_id": int(found.labels[i]) + 1,
                "score": float(found.scores[i]),
            }
            if kind == "masks":
                row["segmentation"] = found.rles()[i]
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


def random_set(rng, pictures=12, ties=False):
    """Detections near the truth, false ones, lost ones, and classes confused."""
    truths, detections = [], []
    for _ in range(pictures):
        count = int(rng.integers(0, 6))
        # A grid of 1/8 pixel: exact in float32, so that both ways compute with the same numbers.
        corner = rng.integers(0, 1200, (count, 2)) / 8
        boxes = np.concatenate([corner, corner + rng.integers(8, 1100, (count, 2)) / 8], axis=1)
        labels = rng.integers(0, 3, count)
        found = np.repeat(boxes, 3, axis=0) + rng.integers(-60, 60, (3 * count, 4)) / 8
        found = np.concatenate([found, rng.integers(0, 1000, (2, 4)) / 8])
        found = np.concatenate([found.reshape(-1, 2, 2).min(1), found.reshape(-1, 2, 2).max(1)], 1)
        found_labels = np.concatenate([np.repeat(labels, 3), rng.integers(0, 3, 2)])
        keep = rng.random(len(found)) < 0.8
        scores = rng.integers(1, 5, len(found)) / 4 if ties else rng.random(len(found))
        order = np.argsort(-scores, kind="stable")
        order = order[keep[order]]
        truths.append(
            GroundTruth(torch.tensor(boxes).float(), torch.tensor(labels), SIZE),
        )
        detections.append(
            Detections(
                torch.tensor(found[order]).float(),
                torch.tensor(scores[order]).float(),
                torch.tensor(found_labels[order]),
                CLASSES,
            )
        )
    return truths, detections


def one_truth(*boxes, labels=None):
    labels = torch.zeros(len(boxes)).long() if labels is None else torch.tensor(labels)
    return GroundTruth(torch.tensor(boxes).reshape(-1, 4).float(), labels, SIZE)


def perfect(truth):
    return Detections(truth.boxes, torch.ones(len(truth.boxes)), truth.labels, CLASSES)


# --- agreement -------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_equals_pycocotools_exactly(seed, capsys):
    truths, detections = random_set(np.random.default_rng(seed), ties=seed % 2 == 1)
    found = evaluate_boxes(truths, detections, CLASSES)
    dataset, results = written(truths, detections, CLASSES, "boxes")
    assert (
        list(found.as_dict().values()) == official(dataset, results, "boxes", capsys).stats.tolist()
    )
    assert 0.02 < found.ap < 0.98


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
        found = [row for row in results if row["image_id"] == image["id"]]
        boxes, labels = tensors(mine)
        masks = [outline(row["segmentation"], size) for row in mine] if kind == "masks" else None
        crowds, areas = column(mine, "iscrowd"), column(mine, "area")
        truths.append(GroundTruth(boxes, labels, size, crowds, areas, masks))
        boxes, labels = tensors(found)
        masks = [row["segmentation"] for row in found] if kind == "masks" else None
        detections.append(Detections(boxes, column(found, "score"), labels, classes, masks))
    return truths, detections, classes, (dataset, results)


def outline(segmentation, size):
    if isinstance(segmentation, dict):
        return segmentation
    return masks_to_rle(polygons_to_masks([segmentation], size))[0]


@pytest.mark.parametrize("kind", ["boxes", "masks"])
def test_the_published_figures(kind, test_data, capsys):
    truths, detections, classes, (dataset, results) = read_pair(test_data / "coco-eval-pair", kind)
    evaluate = {"boxes": evaluate_boxes, "masks": evaluate_masks}[kind]
    found = list(evaluate(truths, detections, classes).as_dict().values())
    assert [round(value, 3) for value in found] == PUBLISHED[kind]
    assert sum(truth.crowds.sum() for truth in truths) == 9
    assert found == pytest.approx(official(dataset, results, kind, capsys).stats.tolist(), abs=1e-9)


# --- extremes --------------------------------------------------------------------------------


def test_perfect_detections_score_one():
    truths = [
        one_truth((0, 0, 20, 20), (50, 50, 100, 100), labels=[0, 1]),
        one_truth((10, 10, 190, 190), labels=[2]),
        one_truth(),
    ]
    found = evaluate_boxes(truths, [perfect(t) for t in truths], CLASSES)
    # Whatever comes of summing the ten thresholds' ones.
    assert found.as_dict() == pytest.approx(dict.fromkeys(found.as_dict(), 1.0), abs=1e-9)


def test_no_detections_score_nothing():
    truths = [one_truth((0, 0, 20, 20)), one_truth((10, 10, 190, 190))]
    found = evaluate_boxes(truths, [Detections.empty(CLASSES)] * 2, CLASSES)
    assert found.ap == found.ap50 == found.ap75 == found.ar100 == 0


@pytest.mark.parametrize("detected", [False, True])
def test_without_ground_truth_there_is_no_figure(detected):
    found = perfect(one_truth((0, 0, 20, 20))) if detected else Detections.empty(CLASSES)
    figures = evaluate_boxes([one_truth()], [found], CLASSES)
    assert set(figures.as_dict().values()) == {-1.0}


def test_sizes_that_do_not_occur_have_no_figure():
    truth = one_truth((0, 0, 20, 20))
    figures = evaluate_boxes([truth], [perfect(truth)], CLASSES)
    assert figures.ap_medium == figures.ap_large == figures.ar_medium == figures.ar_large == -1
    assert figures.ap_small == pytest.approx(1)


def test_the_wrong_class_is_no_detection():
    truth = one_truth((0, 0, 20, 20), labels=[1])
    wrong = Detections(truth.boxes, torch.ones(1), torch.tensor([2]), CLASSES)
    assert evaluate_boxes([truth], [wrong], CLASSES).ap == 0


def test_an_iou_of_exactly_the_threshold_counts():
    truth = one_truth((0, 0, 64, 64))
    half = Detections(
        torch.tensor([[0.0, 0, 64, 32]]), torch.ones(1), torch.zeros(1).long(), CLASSES
    )
    figures = evaluate_boxes([truth], [half], CLASSES)
    assert figures.ap50 == pytest.approx(1)
    assert figures.ap == pytest.approx(0.1)


def test_nothing_is_printed(capfd):
    truth = one_truth((0, 0, 20, 20))
    evaluate_boxes([truth], [perfect(truth)], CLASSES)
    assert capfd.readouterr().out == ""


def test_lists_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="expected detections for 2 pictures, got 1"):
        evaluate_boxes([one_truth()] * 2, [Detections.empty(CLASSES)], CLASSES)
