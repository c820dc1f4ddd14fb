"""Tiles and test-time augmentation, held against a model that sees coloured squares exactly."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from cvlib.models import Model
from cvlib.predict import Views, augmented_detect, detect, predict, sliced_detect
from cvlib.predict.merging import Piece, join_tiles
from cvlib.predict.views import Window, cut_out, list_windows
from cvlib.structures import Detections

RED, BLUE = (255, 0, 0), (0, 0, 255)


class SquareFinder(Model):
    """Finds every connected red or blue rectangle at its exact place: no training, no doubt.

    Its pixels are those of the images, so that a tile of ``side`` is seen as it is.
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

    def decode(self, raw, *, score_threshold=0.5):
        return [self._find(image, score_threshold) for image in raw]

    def _find(self, image, score_threshold):
        boxes, labels, masks = [], [], []
        for label, colour in enumerate((RED, BLUE)):
            distance = (image.float() - torch.tensor(colour)[:, None, None]).abs().amax(0)
            for part in components(distance < 100):
                y, x = part.nonzero(as_tuple=True)
                boxes.append([x.min(), y.min(), x.max() + 1, y.max() + 1])
                labels.append(label)
                masks.append(part)
        if not boxes or self.score < score_threshold:
            found = Detections.empty(self.classes)
            if not self.with_masks:
                return found
            size = image.shape[1:]
            return Detections(
                found.boxes, found.scores, found.labels, self.classes,
                torch.zeros(0, *size, dtype=torch.bool),
            )  # fmt: skip
        return Detections(
            torch.tensor(boxes, dtype=torch.float32),
            torch.full((len(boxes),), self.score),
            torch.tensor(labels),
            self.classes,
            torch.stack(masks) if self.with_masks else None,
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


def as_set(found):
    return sorted(
        (*(round(v) for v in box), label)
        for box, label in zip(found.boxes.tolist(), found.labels.tolist(), strict=True)
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
    options = {"tile": 64, "overlap": 0.25, "whole": False, "merge": merge}
    found = sliced_detect(model, image, **options)
    assert as_set(found) == truth(squares)
    if whole:  # the whole image at less than half the size places edges to a pixel or three
        found = sliced_detect(model, image, **{**options, "whole": True})
        assert len(found) == len(squares)
        expected = torch.tensor([s[:4] for s in truth(squares)]).reshape(-1, 4)
        order = sorted(range(len(found)), key=lambda i: as_set(found).index(as_set(found[i])[0]))
        torch.testing.assert_close(found.boxes[order].round(), expected.float(), atol=4.0, rtol=0)


@pytest.mark.parametrize("size", [(160, 160), (97, 301), (64, 64), (30, 200), (10, 10)])
def test_random_squares_are_found_as_in_one_look(size, rng):
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
        found = sliced_detect(
            SquareFinder(32), draw_squares(size, squares), tile=32, overlap=0.5, whole=False
        )
        wanted = truth(squares)
        if min(size) >= 32:
            assert as_set(found) == wanted
        else:  # such tiles are stretched to the model's square
            assert len(found) == len(wanted)


def test_masks_are_joined_across_tiles():
    squares = [(30, 10, 90, 40, RED), (100, 100, 110, 120, BLUE)]
    image = draw_squares((160, 160), squares)
    model = SquareFinder(64, with_masks=True)
    found = sliced_detect(model, image, tile=64, overlap=0.25, whole=False)
    assert as_set(found) == truth(squares)
    for one in range(2):
        x1, y1, x2, y2 = (round(v) for v in found.boxes[one].tolist())
        expected = torch.zeros(160, 160, dtype=torch.bool)
        expected[y1:y2, x1:x2] = True
        assert torch.equal(found[one].bitmaps()[0], expected)


def test_masks_cannot_be_averaged():
    image = draw_squares((100, 100), [(10, 10, 20, 20, RED)])
    with pytest.raises(ValueError, match="expected boxes alone for merge='wbf', got masks"):
        sliced_detect(SquareFinder(64, with_masks=True), image, tile=64, merge="wbf")


def test_tiles_come_in_batches():
    model = SquareFinder(64)
    windows = list_windows((160, 160), Views(64, 0.25))
    sliced_detect(model, draw_squares((160, 160), []), tile=64, overlap=0.25, batch_size=4)
    assert max(model.batches) == 4
    assert sum(model.batches) == len(windows)


@pytest.mark.parametrize("size", [(1, 1), (64, 64), (65, 64), (640, 481), (1000, 63)])
@pytest.mark.parametrize("overlap", [0.0, 0.2, 0.9])
def test_windows_cover_every_pixel_and_overlap(size, overlap):
    windows = list_windows(size, Views(64, overlap, whole=False))
    seen = torch.zeros(size, dtype=torch.int64)
    for left, top, width, height in windows:
        assert left >= 0 and top >= 0 and left + width <= size[1] and top + height <= size[0]
        assert (width, height) == (min(64, size[1]), min(64, size[0]))
        seen[top : top + height, left : left + width] += 1
    assert seen.min() == 1
    for axis, start in ((0, "left"), (1, "top")):
        starts = sorted({getattr(window, start) for window in windows})
        side = windows[0][2 + axis]
        steps = [b - a for a, b in pairwise(starts)]
        assert all(step <= max(1, side * (1 - overlap)) + 1 for step in steps)


# --- test-time augmentation ------------------------------------------------------------------


@pytest.mark.parametrize("merge", ["nms", "wbf"])
def test_a_mirrored_view_says_the_same(merge):
    squares = [(5, 10, 25, 40, RED), (40, 30, 60, 50, BLUE)]
    image = draw_squares((64, 64), squares)
    found = augmented_detect(SquareFinder(64), image, flip=True, merge=merge)
    assert as_set(found) == truth(squares)
    torch.testing.assert_close(found.scores, torch.full((2,), 0.9))


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_a_scaled_view_says_the_same(scale):
    squares = [(8, 12, 24, 40, RED), (40, 20, 60, 52, BLUE)]
    image = draw_squares((64, 64), squares)
    found = augmented_detect(SquareFinder(64), image, flip=True, scales=(1.0, scale))
    assert len(found) == 2
    order = found.labels.argsort()
    expected = torch.tensor([s[:4] for s in squares]).float()
    torch.testing.assert_close(found.boxes[order], expected, atol=2.0, rtol=0)


class Sometimes(SquareFinder):
    """Sees nothing in the second image of a run."""

    def decode(self, raw, *, score_threshold=0.5):
        found = super().decode(raw, score_threshold=score_threshold)
        return found if len(self.batches) % 2 else [Detections.empty(self.classes) for _ in found]


def test_what_one_view_alone_has_is_less_sure():
    image = draw_squares((64, 64), [(5, 10, 25, 40, RED)])
    found = augmented_detect(Sometimes(64), image, flip=True, score_threshold=0.1)
    torch.testing.assert_close(found.scores, torch.tensor([0.45]))
    assert len(augmented_detect(Sometimes(64), image, flip=True, score_threshold=0.5)) == 0
    kept = augmented_detect(Sometimes(64), image, flip=True, merge="nms")
    torch.testing.assert_close(kept.scores, torch.tensor([0.9]))


def test_the_margin_of_a_small_view_has_the_mean_colour():
    image = draw_squares((4, 4), [(0, 0, 4, 4, RED)])
    seen = cut_out(image, Window(-2, -1, 8, 6))
    assert seen.shape == (3, 6, 8)
    assert torch.equal(seen[:, 1:5, 2:6], image)
    assert seen[:, 0, 0].tolist() == [124, 116, 104]


def test_predict_sees_through_views(tmp_path):
    from PIL import Image

    squares = [(30, 10, 90, 40, RED), (100, 100, 110, 120, BLUE)]
    pixels = draw_squares((160, 160), squares).permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(tmp_path / "a.png")
    views = Views(tile=64, overlap=0.25, whole=False)
    ((_, found),) = predict(SquareFinder(64), tmp_path, views=views)
    assert as_set(found) == truth(squares)


def test_detect_is_the_whole_image():
    squares = [(5, 10, 25, 40, RED)]
    (found,) = detect(SquareFinder(64), [draw_squares((64, 64), squares)])
    assert as_set(found) == truth(squares)


# --- errors ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, words",
    [
        ({"tile": 0}, "expected tile >= 1, got 0"),
        ({"overlap": 1.0}, r"expected overlap in \[0, 1\), got 1.0"),
        ({"scales": ()}, r"expected scales > 0, got \(\)"),
        ({"scales": (0.0,)}, "expected scales > 0"),
        ({"merge": "mean"}, "expected merge one of auto, nms, wbf, got 'mean'"),
        ({"iou_threshold": 2.0}, r"expected iou_threshold in \[0, 1\], got 2.0"),
    ],
)
def test_wrong_views(options, words):
    with pytest.raises(ValueError, match=f"Views: {words}"):
        Views(**options)


def test_tiles_are_for_detectors():
    from cvlib.models import create_model

    model = create_model("resnet18", ("ant", "bee"))
    image = draw_squares((64, 64), [])
    with pytest.raises(TypeError, match="sliced_detect: expected a model for detection, got one"):
        sliced_detect(model, image)
    with pytest.raises(TypeError, match="augmented_detect: expected a model for detection"):
        augmented_detect(model, image)


def test_nothing_found_anywhere_is_no_detection():
    pieces = [Piece(Window(0, 0, 64, 64), Detections.empty(("red",)))]
    assert len(join_tiles(pieces, (64, 64), "nms", 0.5)) == 0
