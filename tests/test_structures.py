"""Detections: what they hold, refuse and become in COCO's words."""

import dataclasses

import pytest
import torch

from cvlib.structures import Detections

CLASSES = ("cat", "dog")


@pytest.fixture
def found():
    boxes = torch.tensor([[1.0, 2.0, 11.0, 22.0], [0.5, 0.0, 4.0, 8.25], [3.0, 3.0, 3.0, 3.0]])
    return Detections(boxes, torch.tensor([0.9, 0.5, 0.25]), torch.tensor([1, 0, 1]), CLASSES)


def test_names_follow_the_labels(found):
    assert found.names == ["dog", "cat", "dog"]
    assert len(found) == 3


@pytest.mark.parametrize(
    "index, expected",
    [
        (slice(1, None), [1, 2]),
        ([2, 0], [2, 0]),
        (torch.tensor([1]), [1]),
        (torch.tensor([False, False, False]), []),
    ],
)
def test_indexing_takes_boxes_scores_and_labels_together(found, index, expected):
    part = found[index]
    assert torch.equal(part.boxes, found.boxes[expected])
    assert torch.equal(part.scores, found.scores[expected])
    assert torch.equal(part.labels, found.labels[expected])
    assert part.classes == CLASSES


def test_indexing_by_a_mask_of_the_scores(found):
    assert found[found.scores > 0.4].names == ["dog", "cat"]


def test_empty():
    nothing = Detections.empty(CLASSES)
    assert len(nothing) == 0
    assert nothing.names == nothing.to_coco(1) == []
    assert nothing.boxes.shape == (0, 4)
    assert nothing.labels.dtype == torch.int64


def test_detections_cannot_be_altered(found):
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.scores = torch.zeros(3)


def test_cpu(found, device):
    moved = Detections(
        found.boxes.to(device), found.scores.to(device), found.labels.to(device), CLASSES
    )
    back = moved.cpu()
    assert {t.device.type for t in (back.boxes, back.scores, back.labels)} == {"cpu"}
    assert torch.equal(back.boxes, found.boxes)


def test_to_coco_gives_corner_and_sides(found):
    rows = found.to_coco(17)
    assert rows[0] == {
        "image_id": 17,
        "category_id": 1,
        "bbox": [1.0, 2.0, 10.0, 20.0],
        "score": pytest.approx(0.9),
    }
    assert [row["bbox"] for row in rows[1:]] == [[0.5, 0.0, 3.5, 8.25], [3.0, 3.0, 0.0, 0.0]]


def test_to_coco_maps_labels_to_the_ids_of_a_file(found):
    assert [row["category_id"] for row in found.to_coco(1, [7, 90])] == [90, 7, 90]


@pytest.mark.parametrize(
    "boxes, scores, labels",
    [((2, 4), (3,), (3,)), ((3, 5), (3,), (3,)), ((3, 4), (3,), (2,)), ((3, 4), (3,), (3, 1))],
)
def test_lengths_that_differ_are_refused(boxes, scores, labels):
    with pytest.raises(ValueError, match=r"Detections: expected boxes \(N, 4\)"):
        Detections(
            torch.zeros(boxes), torch.zeros(scores), torch.zeros(labels, dtype=torch.int64), CLASSES
        )


@pytest.mark.parametrize("label", [-1, 2])
def test_labels_without_a_class_are_refused(label):
    with pytest.raises(ValueError, match=rf"Detections: expected labels in 0\.\.1, got {label}"):
        Detections(torch.zeros(1, 4), torch.zeros(1), torch.tensor([label]), CLASSES)
