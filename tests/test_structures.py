"""Detections, ground truth and class maps: contents, conversions and refusals."""

import dataclasses
import sys
import types

import numpy as np
import pytest
import torch
from torchvision import tv_tensors

from cvlib.ops.rle import masks_to_rle
from cvlib.structures import Classification, Detections, GroundTruth, Segmentation
from cvlib.structures.masks import mask_areas, resize_masks

CLASSES = ("cat", "dog")


@pytest.fixture
def detections():
    boxes = torch.tensor([[1.0, 2.0, 11.0, 22.0], [0.5, 0.0, 4.0, 8.25], [3.0, 3.0, 3.0, 3.0]])
    return Detections(boxes, torch.tensor([0.9, 0.5, 0.25]), torch.tensor([1, 0, 1]), CLASSES)


def test_names_follow_the_labels(detections):
    assert detections.names == ["dog", "cat", "dog"]
    assert len(detections) == 3


@pytest.mark.parametrize(
    "index, expected",
    [
        (slice(1, None), [1, 2]),
        ([2, 0], [2, 0]),
        (torch.tensor([1]), [1]),
        (torch.tensor([False, False, False]), []),
        (torch.tensor([True, True, False]), [0, 1]),
    ],
)
def test_indexing_takes_boxes_scores_and_labels_together(detections, index, expected):
    part = detections[index]
    assert torch.equal(part.boxes, detections.boxes[expected])
    assert torch.equal(part.scores, detections.scores[expected])
    assert torch.equal(part.labels, detections.labels[expected])
    assert part.classes == CLASSES


def test_detections_without_objects():
    nothing = Detections.empty(CLASSES)
    assert len(nothing) == 0
    assert nothing.names == nothing.to_coco(1) == []
    assert nothing.boxes.shape == (0, 4)
    assert nothing.labels.dtype == torch.int64


def test_detections_cannot_be_altered(detections):
    with pytest.raises(dataclasses.FrozenInstanceError):
        detections.scores = torch.zeros(3)


def test_detections_move_to_the_cpu(detections, device):
    tensors = detections.boxes, detections.scores, detections.labels
    moved = Detections(*(tensor.to(device) for tensor in tensors), CLASSES)
    back = moved.cpu()
    assert {t.device.type for t in (back.boxes, back.scores, back.labels)} == {"cpu"}
    assert torch.equal(back.boxes, detections.boxes)


def test_to_coco_gives_corner_and_sides(detections):
    rows = detections.to_coco(17)
    assert rows[0] == {
        "image_id": 17,
        "category_id": 1,
        "bbox": [1.0, 2.0, 10.0, 20.0],
        "score": pytest.approx(0.9),
    }
    assert [row["bbox"] for row in rows[1:]] == [[0.5, 0.0, 3.5, 8.25], [3.0, 3.0, 0.0, 0.0]]


def test_to_coco_maps_labels_to_the_ids_of_a_file(detections):
    assert [row["category_id"] for row in detections.to_coco(1, [7, 90])] == [90, 7, 90]


@pytest.mark.parametrize(
    "boxes, scores, labels",
    [((2, 4), (3,), (3,)), ((3, 5), (3,), (3,)), ((3, 4), (3,), (2,)), ((3, 4), (3,), (3, 1))],
)
def test_lengths_that_differ_are_refused(boxes, scores, labels):
    with pytest.raises(ValueError, match=r"Detections: expected `boxes` \(N, 4\)"):
        Detections(
            torch.zeros(boxes), torch.zeros(scores), torch.zeros(labels, dtype=torch.int64), CLASSES
        )


@pytest.mark.parametrize("label", [-1, 2])
def test_labels_without_a_class_are_refused(label):
    with pytest.raises(ValueError, match=rf"Detections: expected `labels` in 0\.\.1, got {label}"):
        Detections(torch.zeros(1, 4), torch.zeros(1), torch.tensor([label]), CLASSES)


@pytest.fixture
def masks():
    masks = torch.zeros(3, 24, 12, dtype=torch.bool)
    masks[0, 2:22, 1:11], masks[1, :8, :4] = True, True  # the third is empty
    return masks


@pytest.fixture(params=["bitmaps", "rles", "runs"])
def masked(request, detections, masks):
    kept = masks
    if request.param == "rles":
        kept = masks_to_rle(masks)
    elif request.param == "runs":  # as COCO's files have crowds: not compressed
        runs = [[26, 20, 4, 20, 4, 20, 4, 20, 4, 20, 4, 20, 4, 20, 4, 20, 4, 20, 4, 20, 26]]
        runs += [[0, 8, 16, 8, 16, 8, 16, 8, 208], [288]]
        kept = [{"size": [24, 12], "counts": counts} for counts in runs]
    return dataclasses.replace(detections, masks=kept)


def test_both_forms_of_masks_agree(masked, masks):
    assert torch.equal(masked.bitmaps(), masks)
    assert masked.rles() == masks_to_rle(masks)
    nothing = masked[masked.scores > 1]
    assert len(nothing) == 0 and nothing.rles() == []
    assert mask_areas(masked.masks).tolist() == [200, 32, 0]


@pytest.mark.parametrize(
    "index, expected",
    [
        (slice(1, None), [1, 2]),
        ([2, 0], [2, 0]),
        (torch.tensor([2, 1]), [2, 1]),
        (torch.tensor([True, False, True]), [0, 2]),
        (-1, [2]),
    ],
)
def test_indexing_takes_masks_along(masked, masks, index, expected):
    assert torch.equal(masked[index].bitmaps(), masks[expected])


def test_masks_stretched_by_whole_numbers_are_exact():
    masks = torch.rand(3, 6, 8) > 0.5
    double = masks.repeat_interleave(2, 1).repeat_interleave(3, 2)
    assert torch.equal(resize_masks(double, (6, 8)), masks)
    assert resize_masks(masks[:0], (3, 3)).shape == (0, 3, 3)


def test_resizing_takes_boxes_and_masks_along(masked, masks):
    masked = dataclasses.replace(masked, size=(24, 12))
    larger = masked.resize((48, 24))
    assert torch.equal(larger.boxes, masked.boxes * 2)
    assert torch.equal(larger.bitmaps(), masks.repeat_interleave(2, 1).repeat_interleave(2, 2))
    assert masked.resize((24, 12)) is masked
    smaller = dataclasses.replace(masked, size=(10, 6)).resize((5, 6))
    assert smaller.boxes.tolist()[0] == [1, 1, 6, 5], "inside of the image"


def test_cpu_takes_masks_along(masked, masks, device):
    if isinstance(masked.masks, torch.Tensor):
        masked = dataclasses.replace(masked, masks=masked.masks.to(device))
    assert torch.equal(masked.cpu().bitmaps(), masks)
    assert masked.cpu().bitmaps().device.type == "cpu"


def test_to_coco_writes_masks_as_run_lengths(masked, masks):
    rows = masked.to_coco(17)
    assert [row["segmentation"] for row in rows] == masks_to_rle(masks)
    assert all(isinstance(row["segmentation"]["counts"], str) for row in rows)


def test_missing_masks_are_refused(detections):
    with pytest.raises(ValueError, match=r"Detections\.bitmaps: expected masks, got"):
        detections.bitmaps()
    with pytest.raises(ValueError, match=r"Detections\.rles: expected masks, got"):
        detections.rles()


def test_masks_of_another_dtype_are_refused(detections, masks):
    with pytest.raises(TypeError, match=r"dtype torch\.bool, got torch\.float32; compare first"):
        dataclasses.replace(detections, masks=masks.float())


@pytest.mark.parametrize("kept", [{"size": [1, 1], "counts": "1"}, "text", 7])
def test_masks_of_another_kind_are_refused(detections, kept):
    with pytest.raises(TypeError, match="`masks` to be a bool tensor or a list of run lengths"):
        dataclasses.replace(detections, masks=kept)


def test_masks_of_another_number_are_refused(detections, masks):
    with pytest.raises(ValueError, match=r"`masks` of shape \(N, H, W\) with N = 3 as in labels"):
        dataclasses.replace(detections, masks=masks[:2])
    with pytest.raises(ValueError, match="`masks` to hold 3 run lengths, as in labels, got 2"):
        dataclasses.replace(detections, masks=masks_to_rle(masks[:2]))


def test_to_supervision_without_the_package_names_the_installation(detections, monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ImportError, match="pip install supervision"):
        detections.to_supervision()


def test_to_supervision_names_everything(masked, masks, monkeypatch):
    package = types.SimpleNamespace(Detections=lambda **fields: fields)
    monkeypatch.setitem(sys.modules, "supervision", package)
    fields = masked.to_supervision()
    assert np.array_equal(fields["xyxy"], masked.boxes.numpy())
    assert fields["mask"].dtype == bool and np.array_equal(fields["mask"], masks.numpy())
    assert np.array_equal(fields["confidence"], masked.scores.numpy())
    assert fields["class_id"].tolist() == [1, 0, 1]
    assert fields["data"]["class_name"].tolist() == ["dog", "cat", "dog"]
    assert masked[[]].to_supervision()["mask"] is None


def test_to_supervision_with_the_package(detections):
    supervision = pytest.importorskip("supervision")
    converted = detections.to_supervision()
    assert isinstance(converted, supervision.Detections) and len(converted) == 3


def test_truths_without_areas_or_crowds():
    truth = GroundTruth(torch.tensor([[0.0, 0, 4, 5]]), torch.tensor([1]), (8, 8))
    assert truth.areas.tolist() == [20] and truth.crowds.tolist() == [False] and len(truth) == 1


def test_the_area_of_a_truth_is_that_of_its_mask(masks):
    boxes, labels = torch.zeros(3, 4), torch.zeros(3).long()
    truth = GroundTruth(boxes, labels, (24, 12), masks=masks_to_rle(masks))
    assert truth.areas.tolist() == [200, 32, 0]
    measured = dataclasses.replace(truth, area=torch.tensor([1.0, 2, 3]))
    assert measured.areas.tolist() == [1, 2, 3]
    assert torch.equal(measured.bitmaps(), masks)


def test_a_truth_is_read_from_a_target(masks):
    boxes = torch.rand(3, 4).cumsum(1)
    target = {
        "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(24, 12)),
        "labels": torch.tensor([0, 1, 0]),
        "iscrowd": torch.tensor([0, 0, 1]),
        "area": torch.tensor([5.0, 6, 7]),
        "masks": tv_tensors.Mask(masks.to(torch.uint8)),
        "image_id": 3,
    }
    truth = GroundTruth.from_target(target, (24, 12))
    assert type(truth.boxes) is torch.Tensor and torch.equal(truth.boxes, boxes)
    assert truth.crowds.tolist() == [False, False, True] and truth.areas.tolist() == [5, 6, 7]
    assert truth.masks.dtype == torch.bool and torch.equal(truth.bitmaps(), masks)
    less = GroundTruth.from_target({k: target[k] for k in ("boxes", "labels")}, (24, 12))
    assert less.masks is None and less.iscrowd is None and less.area is None


def test_truths_of_a_stretched_image(masks):
    boxes = torch.tensor([[1.0, 2, 11, 22], [0, 0, 4, 8], [0, 0, 1, 1]])
    truth = GroundTruth(boxes, torch.tensor([0, 1, 1]), (24, 12), None, torch.ones(3), masks)
    larger = truth.resize((48, 24))
    assert larger.boxes[0].tolist() == [2, 4, 22, 44] and larger.size == (48, 24)
    assert larger.area.tolist() == [4, 4, 4]
    assert torch.equal(larger.bitmaps(), masks.repeat_interleave(2, 1).repeat_interleave(2, 2))
    assert truth.resize((24, 12)) is truth


def test_truths_of_different_lengths_are_refused():
    boxes, labels = torch.zeros(2, 4), torch.zeros(2).long()
    with pytest.raises(ValueError, match=r"GroundTruth: expected `boxes` \(N, 4\) and `labels`"):
        GroundTruth(boxes, labels[:1], (8, 8))
    with pytest.raises(ValueError, match=r"expected `iscrowd` of shape \(N,\) with N = 2"):
        GroundTruth(boxes, labels, (8, 8), iscrowd=torch.zeros(3))
    with pytest.raises(ValueError, match=r"expected `area` of shape \(N,\) with N = 2"):
        GroundTruth(boxes, labels, (8, 8), area=torch.zeros(2, 1))
    with pytest.raises(ValueError, match=r"GroundTruth\.rles: expected masks"):
        GroundTruth(boxes, labels, (8, 8)).rles()


def test_shares_of_classes():
    labels = torch.tensor([[0, 1, 1], [255, 1, 0]], dtype=torch.uint8)
    class_map = Segmentation(labels, CLASSES)
    assert class_map.shares() == {"cat": pytest.approx(2 / 6), "dog": pytest.approx(3 / 6)}
    assert class_map.size == (2, 3)


@pytest.mark.parametrize("size", [(4, 6), (2, 3), (1, 1), (3, 5), (1, 6)])
def test_resizing_takes_the_nearest_pixel(size):
    labels = torch.tensor([[0, 1, 0], [255, 1, 1]], dtype=torch.uint8)
    resized = Segmentation(labels, CLASSES, scores=labels / 255).resize(size)
    expected = torch.nn.functional.interpolate(
        labels[None, None].float(), size, mode="nearest-exact"
    )
    assert torch.equal(resized.labels, expected[0, 0].byte())
    assert torch.equal(resized.scores, resized.labels / 255)


def test_class_maps_move_to_the_cpu(device):
    labels = torch.zeros(2, 2, dtype=torch.int64, device=device)
    class_map = Segmentation(labels, CLASSES, scores=labels.float()).cpu()
    assert class_map.labels.device.type == class_map.scores.device.type == "cpu"


def test_invalid_class_maps_are_refused():
    with pytest.raises(TypeError, match=r"`labels` of an integer dtype, got torch\.float32"):
        Segmentation(torch.zeros(2, 2), CLASSES)
    with pytest.raises(ValueError, match=r"`labels` of shape \(H, W\), got \(1, 2, 2\)"):
        Segmentation(torch.zeros(1, 2, 2).long(), CLASSES)
    with pytest.raises(ValueError, match=r"`labels` in 0\.\.1 or 255 \(void\), got 0\.\.2"):
        Segmentation(torch.tensor([[0, 2]]), CLASSES)
    with pytest.raises(ValueError, match=r"`scores` of the shape of labels \(1, 1\), got \(2, 1\)"):
        Segmentation(torch.zeros(1, 1).long(), CLASSES, scores=torch.zeros(2, 1))


def test_a_wrong_number_of_probabilities_is_refused():
    with pytest.raises(ValueError, match=r"expected `probabilities` of shape \(2,\)"):
        Classification(torch.ones(3) / 3, ("a", "b"))
