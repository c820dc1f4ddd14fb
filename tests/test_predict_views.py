"""Tiles and test-time augmentation with a model that finds coloured squares exactly."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from PIL import Image
from torch import Tensor

from cvlib.models import Model
from cvlib.predict import Views, predict
from cvlib.predict.merging import Piece, Window, join_tiles
from cvlib.predict.views import list_windows, make_view
from cvlib.structures import Detections

RED, BLUE = (255, 0, 0), (0, 0, 255)


class SquareFinder(Model):
    """Finds every connected red or blue rectangle exactly.

    Tiles of ``side`` pixels are not resized.
    """

    task = "detection"
    name = "square_finder"

    def __init__(self, side=64, score=0.9, with_masks=False):
        super().__init__(("red", "blue"), (side, side))
        self.score, self.with_masks = score, with_masks
        self.batches = []

    def forward(self, images: Tensor) -> Tensor:
        self.batches.append(len(images))
        return images

    def loss(self, raw, targets):
        raise NotImplementedError

    def decode(self, raw, sizes=None, *, score_threshold=0.5):
        return [self._find(image, score_threshold) for image in raw]

    def _find(self, image, score_threshold):
        size = tuple(image.shape[1:])
        boxes, labels, masks = [], [], []
        for label, colour in enumerate((RED, BLUE)):
            distance = (image.float() - torch.tensor(colour)[:, None, None]).abs().amax(0)
            for part in components(distance < 100):
                y, x = part.nonzero(as_tuple=True)
                boxes.append([x.min(), y.min(), x.max() + 1, y.max() + 1])
                labels.append(label)
                masks.append(part)
        if not boxes or self.score < score_threshold:
            empty = Detections.empty(self.classes, size)
            return replace(empty, masks=torch.zeros(0, *size) > 0) if self.with_masks else empty
        return Detections(
            torch.tensor(boxes, dtype=torch.float32),
            torch.full((len(boxes),), self.score),
            torch.tensor(labels),
            self.classes,
            torch.stack(masks) if self.with_masks else None,
            size,
        )


def components(mask):
    """Connected parts, one bool mask each."""
    import cv2

    count, numbers = cv2.connectedComponents(mask.to(torch.uint8).numpy(), connectivity=4)
    return [torch.from_numpy(numbers == i) for i in range(1, count)]


def draw_squares(size, squares):
    """Black, with rectangles (x1, y1, x2, y2, colour)."""
    image = torch.zeros(3, *size, dtype=torch.uint8)
    for x1, y1, x2, y2, colour in squares:
        image[:, y1:y2, x1:x2] = torch.tensor(colour, dtype=torch.uint8)[:, None, None]
    return image


def predict_one(model, image, score_threshold=0.5, batch_size=16, **views):
    """Detections of one image through views; they know the size of the image."""
    options = {"score_threshold": score_threshold, "batch_size": batch_size}
    ((_, detections),) = predict(model, image, views=Views(**views), **options)
    assert detections.size == image.shape[1:]
    return detections


def as_set(detections):
    return sorted(
        (*(round(v) for v in box), label)
        for box, label in zip(detections.boxes.tolist(), detections.labels.tolist(), strict=True)
    )


def truth(squares):
    return sorted((*s[:4], 0 if s[4] == RED else 1) for s in squares)


# Tiles of 64 with an overlap of 16 begin at 0, 48 and so on.
SQUARES = {
    "inside of one tile": [(5, 5, 25, 25, RED)],
    "in the overlap of two": [(50, 10, 60, 20, RED)],
    "in the overlap of four": [(50, 50, 60, 60, BLUE)],
    "cut by one border, whole in the next tile": [(52, 10, 72, 30, RED)],
    "cut by the corner of four": [(52, 52, 70, 70, RED)],
    "exactly from border to border": [(48, 10, 64, 30, RED)],
    "wider than the overlap, in no tile whole": [(30, 10, 90, 40, RED)],
    "larger than a tile": [(20, 20, 150, 140, BLUE)],
    "as wide as the image": [(0, 70, 160, 90, RED)],
    "at the edges of the image": [(0, 0, 12, 12, RED), (148, 148, 160, 160, RED)],
    "two classes at one border": [(40, 10, 70, 30, RED), (40, 30, 70, 50, BLUE)],
    "two in a row": [(30, 10, 60, 30, RED), (62, 10, 95, 30, RED)],
    "none": [],
}


@pytest.mark.parametrize("merge", ["nms", "wbf"])
@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("name", SQUARES)
def test_every_square_is_found_once_and_exactly(name, whole, merge):
    squares = SQUARES[name]
    image = draw_squares((160, 160), squares)
    model = SquareFinder(64)
    options = {"tile": 64, "overlap": 0.25, "merge": merge}
    result = predict_one(model, image, whole=False, **options)
    assert as_set(result) == truth(squares)
    if whole:  # the whole image at less than half the size places edges to a pixel or three
        result = predict_one(model, image, whole=True, **options)
        assert len(result) == len(squares)
        expected = torch.tensor([s[:4] for s in truth(squares)]).reshape(-1, 4)
        order = sorted(range(len(result)), key=lambda i: as_set(result).index(as_set(result[i])[0]))
        torch.testing.assert_close(result.boxes[order].round(), expected.float(), atol=4.0, rtol=0)


@pytest.mark.parametrize("size", [(160, 160), (97, 301), (64, 64), (30, 200), (10, 10)])
def test_random_squares_are_found_as_in_the_whole_image(size, rng):
    """Compared with a model that sees the whole image in its own pixels."""
    for _ in range(5):
        squares = []
        for x in range(0, size[1] - 8, 24):
            for y in range(0, size[0] - 8, 24):
                if rng.random() < 0.5:
                    left, top = x + int(rng.integers(3)), y + int(rng.integers(3))
                    right = min(size[1], left + int(rng.integers(8, 20)))
                    bottom = min(size[0], top + int(rng.integers(8, 20)))
                    squares.append((left, top, right, bottom, (RED, BLUE)[int(rng.integers(2))]))
        image = draw_squares(size, squares)
        result = predict_one(SquareFinder(32), image, tile=32, overlap=0.5, whole=False)
        if min(size) >= 32:
            assert as_set(result) == truth(squares)
        else:  # such tiles are stretched to the model's square
            assert len(result) == len(squares)


def test_masks_are_joined_across_tiles():
    squares = [(30, 10, 90, 40, RED), (100, 100, 110, 120, BLUE)]
    image = draw_squares((160, 160), squares)
    model = SquareFinder(64, with_masks=True)
    result = predict_one(model, image, tile=64, overlap=0.25, whole=False)
    assert as_set(result) == truth(squares)
    for i in range(2):
        x1, y1, x2, y2 = (round(v) for v in result.boxes[i].tolist())
        expected = torch.zeros(160, 160, dtype=torch.bool)
        expected[y1:y2, x1:x2] = True
        assert torch.equal(result[i].bitmaps()[0], expected)


def test_masks_cannot_be_averaged():
    image = draw_squares((100, 100), [(10, 10, 20, 20, RED)])
    with pytest.raises(ValueError, match="expected `merge` to be 'nms' for detections with masks"):
        predict_one(SquareFinder(64, with_masks=True), image, tile=64, merge="wbf")


def test_tiles_come_in_batches():
    model = SquareFinder(64)
    windows = list_windows((160, 160), Views(64, 0.25))
    predict_one(model, draw_squares((160, 160), []), batch_size=4, tile=64, overlap=0.25)
    assert max(model.batches) == 4
    assert sum(model.batches) == len(windows)


@pytest.mark.parametrize("size", [(1, 1), (64, 64), (65, 64), (640, 481), (1000, 63)])
@pytest.mark.parametrize("overlap", [0.0, 0.2, 0.9])
def test_windows_cover_every_pixel_and_overlap(size, overlap):
    windows = list_windows(size, Views(64, overlap, whole=False))
    counts = torch.zeros(size, dtype=torch.int64)
    for left, top, width, height in windows:
        assert left >= 0 and top >= 0 and left + width <= size[1] and top + height <= size[0]
        assert (width, height) == (min(64, size[1]), min(64, size[0]))
        counts[top : top + height, left : left + width] += 1
    assert counts.min() == 1
    for axis, start in ((0, "left"), (1, "top")):
        starts = sorted({getattr(window, start) for window in windows})
        side = windows[0][2 + axis]
        steps = [b - a for a, b in pairwise(starts)]
        assert all(step <= max(1, side * (1 - overlap)) + 1 for step in steps)


@pytest.mark.parametrize("merge", ["nms", "wbf"])
def test_a_mirrored_view_gives_the_same_boxes(merge):
    squares = [(5, 10, 25, 40, RED), (40, 30, 60, 50, BLUE)]
    image = draw_squares((64, 64), squares)
    result = predict_one(SquareFinder(64), image, flip=True, merge=merge)
    assert as_set(result) == truth(squares)
    torch.testing.assert_close(result.scores, torch.full((2,), 0.9))


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_a_scaled_view_gives_the_same_boxes(scale):
    squares = [(8, 12, 24, 40, RED), (40, 20, 60, 52, BLUE)]
    image = draw_squares((64, 64), squares)
    result = predict_one(SquareFinder(64), image, flip=True, scales=(1.0, scale))
    assert len(result) == 2
    order = result.labels.argsort()
    expected = torch.tensor([s[:4] for s in squares]).float()
    torch.testing.assert_close(result.boxes[order], expected, atol=2.0, rtol=0)


def test_mirrored_tiles_at_a_scale_give_the_same_boxes_and_masks():
    squares = [(30, 10, 90, 40, RED), (100, 100, 110, 120, BLUE)]
    image = draw_squares((160, 160), squares)
    options = {"tile": 64, "overlap": 0.25, "whole": False, "flip": True}
    assert as_set(predict_one(SquareFinder(64), image, **options)) == truth(squares)
    result = predict_one(SquareFinder(64, with_masks=True), image, **options)
    assert as_set(result) == truth(squares)
    for box, mask in zip(result.boxes.round().long().tolist(), result.bitmaps(), strict=True):
        x1, y1, x2, y2 = box
        assert mask.sum() == mask[y1:y2, x1:x2].sum() == (x2 - x1) * (y2 - y1)
    half = predict_one(SquareFinder(64), image, **options, scales=(2.0,))
    torch.testing.assert_close(
        torch.tensor(as_set(half)), torch.tensor(truth(squares)), atol=1, rtol=0
    )


def test_results_of_views_can_be_resized_and_drawn():
    image = draw_squares((160, 160), [(30, 10, 90, 40, RED)])
    result = predict_one(SquareFinder(64, with_masks=True), image, tile=64, flip=True)
    assert result.draw(image).size == (160, 160)
    assert as_set(result.resize((80, 320))) == [(60, 5, 180, 20, 0)]


class Alternating(SquareFinder):
    """Detects nothing in every second batch."""

    def decode(self, raw, sizes=None, *, score_threshold=0.5):
        results = super().decode(raw, sizes, score_threshold=score_threshold)
        return results if len(self.batches) % 2 else [result[:0] for result in results]


def test_an_object_that_one_view_misses_has_a_lower_score():
    image = draw_squares((64, 64), [(5, 10, 25, 40, RED)])
    result = predict_one(Alternating(64), image, score_threshold=0.1, flip=True)
    torch.testing.assert_close(result.scores, torch.tensor([0.45]))
    assert len(predict_one(Alternating(64), image, score_threshold=0.5, flip=True)) == 0
    kept = predict_one(Alternating(64), image, flip=True, merge="nms")
    torch.testing.assert_close(kept.scores, torch.tensor([0.9]))


def test_the_margin_of_a_small_view_has_the_mean_colour():
    image = draw_squares((4, 4), [(0, 0, 4, 4, RED)])
    crop = make_view(image, Window(-2, -1, 8, 6)).show(image)
    assert crop.shape == (3, 6, 8)
    assert torch.equal(crop[:, 1:5, 2:6], image)
    assert crop[:, 0, 0].tolist() == [124, 116, 104]


def test_views_of_a_file(tmp_path):
    squares = [(30, 10, 90, 40, RED), (100, 100, 110, 120, BLUE)]
    pixels = draw_squares((160, 160), squares).permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(tmp_path / "a.png")
    views = Views(tile=64, overlap=0.25, whole=False)
    ((_, result),) = predict(SquareFinder(64), tmp_path, views=views)
    assert as_set(result) == truth(squares)


def test_without_views_the_whole_image_is_predicted_once():
    squares = [(5, 10, 25, 40, RED)]
    model = SquareFinder(64)
    ((_, result),) = predict(model, draw_squares((64, 64), squares))
    assert as_set(result) == truth(squares)
    assert model.batches == [1]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"tile": 0}, "expected `tile` to be at least 1, got 0"),
        ({"overlap": 1.0}, r"expected `overlap` to be in \[0, 1\), got 1.0"),
        ({"scales": ()}, r"expected `scales` to be positive numbers, got \(\)"),
        ({"scales": (0.0,)}, "expected `scales` to be positive"),
        ({"merge": "mean"}, "expected `merge` to be one of auto, nms, wbf, got 'mean'"),
        ({"iou_threshold": 2.0}, r"expected `iou_threshold` to be in \[0, 1\], got 2.0"),
    ],
)
def test_wrong_views(options, message):
    with pytest.raises(ValueError, match=f"Views: {message}"):
        Views(**options)


def test_scales_may_be_a_list():
    assert Views(scales=[1.0]).is_whole


def test_tiles_without_objects_give_no_detections():
    pieces = [Piece(Window(0, 0, 64, 64), Detections.empty(("red",)))]
    assert len(join_tiles(pieces, (64, 64), "nms", 0.5)) == 0
