"""DetectionDataset.from_lists: box formats, kinds of labels and masks, and invalid arguments."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco

from cvlib.data.datasets.detection import DetectionDataset
from cvlib.data.labels.findings import BadLabelsError

CLASSES = ("cat", "dog")


@pytest.fixture
def images(tmp_path):
    for name in ("a.png", "b.png"):
        Image.new("RGB", (40, 30)).save(tmp_path / name)
    return [tmp_path / "a.png", str(tmp_path / "b.png")]


def make(images, boxes=((), ()), labels=((), ()), classes=CLASSES, **options):
    return DetectionDataset.from_lists(images, boxes, labels, classes, **options)


@pytest.mark.parametrize(
    ("format", "box"),
    [("xyxy", (2, 3, 12, 11)), ("xywh", (2, 3, 10, 8)), ("cxcywh", (7, 7, 10, 8))],
)
@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
def test_formats_and_kinds(images, format, box, kind):
    dataset = make(images, [kind([box, box]), []], [kind([1, 0]), []], format=format)
    image, target = dataset[0]
    assert image.shape == (3, 30, 40)
    assert target["boxes"].tolist() == [[2, 3, 12, 11]] * 2
    assert target["labels"].tolist() == [1, 0]
    assert target["image_id"] == 0
    assert dataset[1][1]["boxes"].shape == (0, 4)
    assert dataset.classes == CLASSES


def test_names_as_labels(images):
    dataset = make(images, [[[2, 3, 12, 11]] * 2, []], [["dog", "cat"], []])
    assert dataset[0][1]["labels"].tolist() == [1, 0]


def test_masks_of_every_kind(images):
    square = np.zeros((30, 40), np.uint8)
    square[3:11, 2:12] = 9
    runs = {"size": [30, 40], "counts": [2 * 30 + 3, *([8, 22] * 9), 8, 30 * 40 - 11 * 30 - 11]}
    polygon = [[2, 3, 12, 3, 12, 11, 2, 11]]
    packed = coco.encode(np.asfortranarray(square > 0))  # counts are bytes
    masks = [[square, square > 0, runs, polygon, [np.array(polygon[0])], packed, None], []]
    dataset = make(images, [[[2, 3, 12, 11]] * 7, []], [[0] * 7, []], masks=masks)
    stored = dataset[0][1]["masks"]
    assert all(np.array_equal(stored[k].numpy(), square > 0) for k in range(6))
    assert not stored[6].any()
    assert json.loads(json.dumps(dataset.to_coco())) == dataset.to_coco()
    assert dataset[1][1]["masks"].shape == (0, 30, 40)


def test_invalid_boxes_are_named_by_image_and_index(images):
    boxes = [[[2, 3, 12, 11], [12, 3, 2, 11]], [[0, 0, float("nan"), 4]]]
    with pytest.raises(BadLabelsError) as caught:
        make(images, boxes, [[0, 0], [5]])
    findings = {(f.code, f.image, f.row) for f in caught.value.findings}
    a, b = map(str, images)
    assert findings == {("inverted-box", a, "box 1"), ("unknown-class", b, "box 0")}
    assert f"{a}, box 1: expected x1 <= x2" in str(caught.value)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"classes": "cat"}, TypeError, r"got the string 'cat'; write \('cat',\)"),
        ({"classes": [0, 1]}, TypeError, r"a sequence of names, got \[0, 1\]"),
        ({"classes": ["cat", "cat"]}, ValueError, "unique names, .*, got 'cat' twice"),
        ({"classes": []}, ValueError, "unique names, at least one, got none"),
        ({"format": "yolo"}, ValueError, "`format` to be one of xyxy, xywh, cxcywh, got 'yolo'"),
        ({"boxes": [[]]}, ValueError, "`boxes` to have an entry for each of 2 images, got 1"),
        ({"labels": [[]]}, ValueError, "`labels` to have an entry for each of 2 images, got 1"),
        ({"masks": [[]]}, ValueError, "`masks` to have an entry for each of 2 images, got 1"),
        ({"boxes": [[1, 2, 3, 4], []]}, ValueError, r"boxes\[0\]` of shape \(N, 4\), got \(4,\)"),
        ({"boxes": [[[1, 2, 3]], []]}, ValueError, r"of shape \(N, 4\), got \(1, 3\)"),
        (
            {"boxes": [[["a", 2, 3, 4]], []]},
            ValueError,
            r"boxes\[0\]` to be numbers of shape",
        ),
        ({"labels": [[[1]], []]}, ValueError, r"labels\[0\]` of shape \(N,\), got \(1, 1\)"),
        ({"labels": [[1.0], []]}, TypeError, r"labels\[0\]` to be integers or class names, got"),
        ({"labels": [["cow"], []]}, ValueError, r"labels\[0\]` to be among cat, dog, got cow"),
        ({"labels": [[1], []]}, ValueError, "in entry 0, got 0 boxes, 1 labels, 0 masks"),
        ({"images": [5, "b.png"]}, TypeError, r"images\[0\]` to be a path, got int"),
    ],
)
def test_invalid_arguments(images, options, error, message):
    arguments = {"images": images} | options
    with pytest.raises(error, match=f"^from_lists: expected .*{message}"):
        make(arguments.pop("images"), **arguments)


@pytest.mark.parametrize(
    "mask", [[2, 3, 12, 3, 12, 11], [[2, 3, 12]], [[0, 0, 5, 0, "5", 5]], {"counts": [1200]}]
)
def test_invalid_masks(images, mask):
    with pytest.raises(ValueError, match=r"^from_lists: expected .* in `masks\[0\]\[0\]`"):
        make(images, [[[2, 3, 12, 11]], []], [[0], []], masks=[[mask], []])


def test_masks_of_another_shape(images):
    masks = [[np.zeros((1, 30, 40))], []]
    with pytest.raises(
        ValueError, match=r"\[0\]\[0\]` to be polygons, .*, got float64 of shape \(1"
    ):
        make(images, [[[2, 3, 12, 11]], []], [[0], []], masks=masks)
