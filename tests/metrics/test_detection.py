"""COCO's figures: the official evaluator's digits, whatever the backend."""

import json

import numpy as np
import pytest
import torch

from cvlib.boxes import box_convert
from cvlib.metrics import GroundTruth, evaluate_boxes
from cvlib.metrics import detection as module
from cvlib.structures import Detections

BACKENDS = ["hotcoco", "pycocotools"]
CLASSES = ("cat", "dog", "cow")
SIZE = (200, 300)
# What pycocotools prints for the boxes of coco-eval-pair; see its README.
PUBLISHED = [0.505, 0.697, 0.573, 0.586, 0.519, 0.501, 0.387, 0.594, 0.595, 0.640, 0.566, 0.564]


def official(truths, detections, classes, capsys):
    """pycocotools, fed by hand and not through the library."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    annotations, results = [], []
    for image, (truth, found) in enumerate(zip(truths, detections, strict=True), start=1):
        for box, label in zip(truth.boxes.double().numpy(), truth.labels.tolist(), strict=True):
            sides = box[2:] - box[:2]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": label + 1,
                    "bbox": [*box[:2], *sides],
                    "area": sides.prod(),
                    "iscrowd": 0,
                }
            )
        rows = zip(
            found.boxes.double().numpy(), found.scores.tolist(), found.labels.tolist(), strict=True
        )
        for box, score, label in rows:
            results.append([image, *box[:2], *(box[2:] - box[:2]), score, label + 1])
    truth_coco = COCO()
    truth_coco.dataset = {
        "info": {},
        "images": [{"id": i} for i in range(1, len(truths) + 1)],
        "annotations": annotations,
        "categories": [{"id": k, "name": name} for k, name in enumerate(classes, 1)],
    }
    truth_coco.createIndex()
    evaluator = COCOeval(truth_coco, truth_coco.loadRes(np.array(results)), "bbox")
    evaluator.evaluate(), evaluator.accumulate(), evaluator.summarize()
    capsys.readouterr()
    return evaluator.stats.tolist()


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


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("seed", range(6))
def test_equals_pycocotools_exactly(backend, seed, capsys):
    truths, detections = random_set(np.random.default_rng(seed), ties=seed % 2 == 1)
    found = evaluate_boxes(truths, detections, CLASSES, backend=backend)
    expected = official(truths, detections, CLASSES, capsys)
    assert list(found.as_dict().values()) == expected
    assert 0.02 < found.ap < 0.98


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_published_figures(backend, test_data):
    folder = test_data / "coco-eval-pair"
    dataset = json.loads((folder / "instances_val2014_100.json").read_text())
    results = json.loads((folder / "instances_val2014_fakebbox100_results.json").read_text())
    found = module._coco_statistics(dataset, results, backend)
    assert [round(value, 3) for value in found] == PUBLISHED


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_published_figures_through_the_public_function(backend, test_data, capsys):
    # A GroundTruth knows neither crowds nor areas of masks, so that nine crowds are left out and
    # sizes are those of boxes; figures without regard to size remain nearly the same.
    folder = test_data / "coco-eval-pair"
    dataset = json.loads((folder / "instances_val2014_100.json").read_text())
    results = json.loads((folder / "instances_val2014_fakebbox100_results.json").read_text())
    label_of = {category["id"]: k for k, category in enumerate(dataset["categories"])}
    classes = [category["name"] for category in dataset["categories"]]

    def tensors(rows):
        boxes = torch.tensor([row["bbox"] for row in rows]).reshape(-1, 4)
        labels = torch.tensor([label_of[row["category_id"]] for row in rows], dtype=torch.int64)
        return box_convert(boxes, "xywh", "xyxy"), labels

    truths, detections = [], []
    for image in dataset["images"]:
        mine = [
            row
            for row in dataset["annotations"]
            if row["image_id"] == image["id"] and not row["iscrowd"]
        ]
        found = [row for row in results if row["image_id"] == image["id"]]
        truths.append(GroundTruth(*tensors(mine), (image["height"], image["width"])))
        boxes, labels = tensors(found)
        scores = torch.tensor([row["score"] for row in found])
        detections.append(Detections(boxes, scores, labels, tuple(classes)))
    figures = evaluate_boxes(truths, detections, classes, backend=backend)
    assert [round(value, 3) for value in (figures.ar1, figures.ar10, figures.ar100)] == [
        0.387,
        0.594,
        0.595,
    ]
    assert figures.ap == pytest.approx(0.505, abs=0.002)
    assert figures.ap50 == pytest.approx(0.697, abs=0.002)
    assert figures.ap75 == pytest.approx(0.573, abs=0.002)
    assert list(figures.as_dict().values()) == pytest.approx(
        official(truths, detections, classes, capsys), abs=1e-12
    )


# --- extremes --------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_perfect_detections_score_one(backend):
    truths = [
        one_truth((0, 0, 20, 20), (50, 50, 100, 100), labels=[0, 1]),
        one_truth((10, 10, 190, 190), labels=[2]),
        one_truth(),
    ]
    found = evaluate_boxes(truths, [perfect(t) for t in truths], CLASSES, backend=backend)
    # Whatever comes of summing the ten thresholds' ones.
    assert found.as_dict() == pytest.approx(dict.fromkeys(found.as_dict(), 1.0), abs=1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_detections_score_nothing(backend):
    truths = [one_truth((0, 0, 20, 20)), one_truth((10, 10, 190, 190))]
    found = evaluate_boxes(truths, [Detections.empty(CLASSES)] * 2, CLASSES, backend=backend)
    assert found.ap == found.ap50 == found.ap75 == found.ar100 == 0


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("detected", [False, True])
def test_without_ground_truth_there_is_no_figure(backend, detected):
    found = perfect(one_truth((0, 0, 20, 20))) if detected else Detections.empty(CLASSES)
    figures = evaluate_boxes([one_truth()], [found], CLASSES, backend=backend)
    assert set(figures.as_dict().values()) == {-1.0}


@pytest.mark.parametrize("backend", BACKENDS)
def test_sizes_that_do_not_occur_have_no_figure(backend):
    truth = one_truth((0, 0, 20, 20))
    figures = evaluate_boxes([truth], [perfect(truth)], CLASSES, backend=backend)
    assert figures.ap_medium == figures.ap_large == figures.ar_medium == figures.ar_large == -1
    assert figures.ap_small == pytest.approx(1)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_wrong_class_is_no_detection(backend):
    truth = one_truth((0, 0, 20, 20), labels=[1])
    wrong = Detections(truth.boxes, torch.ones(1), torch.tensor([2]), CLASSES)
    assert evaluate_boxes([truth], [wrong], CLASSES, backend=backend).ap == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_iou_of_exactly_the_threshold_counts(backend):
    truth = one_truth((0, 0, 64, 64))
    half = Detections(
        torch.tensor([[0.0, 0, 64, 32]]), torch.ones(1), torch.zeros(1).long(), CLASSES
    )
    figures = evaluate_boxes([truth], [half], CLASSES, backend=backend)
    assert figures.ap50 == pytest.approx(1)
    assert figures.ap == pytest.approx(0.1)


def test_nothing_is_printed(capfd):
    truth = one_truth((0, 0, 20, 20))
    for backend in BACKENDS:
        evaluate_boxes([truth], [perfect(truth)], CLASSES, backend=backend)
    assert capfd.readouterr().out == ""


def test_lists_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="expected detections for 2 pictures, got 1"):
        evaluate_boxes([one_truth()] * 2, [Detections.empty(CLASSES)], CLASSES)


def test_unknown_backends_are_refused():
    truth = one_truth((0, 0, 20, 20))
    with pytest.raises(ValueError, match="expected backend hotcoco, pycocotools or None"):
        evaluate_boxes([truth], [perfect(truth)], CLASSES, backend="faster")


def test_without_hotcoco_pycocotools_is_used(monkeypatch):
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    assert module._choose_backend(None) == "pycocotools"
    monkeypatch.undo()
    assert module._choose_backend(None) == "hotcoco"
