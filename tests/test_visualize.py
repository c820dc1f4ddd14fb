"""Images of objects: drawn where the boxes are, on a copy."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from cvlib.ops.rle import masks_to_rle
from cvlib.structures import Classification, Detections, GroundTruth, Segmentation
from cvlib.visualize import draw, draw_truth
from cvlib.visualize.drawing import to_pil
from cvlib.visualize.results import draw_comparison

CLASSES = tuple(f"class {k}" for k in range(9))


def detections(*boxes, labels=None):
    labels = torch.zeros(len(boxes), dtype=torch.int64) if labels is None else torch.tensor(labels)
    scores = torch.linspace(0.9, 0.5, len(boxes))
    return Detections(torch.tensor(boxes).reshape(-1, 4).float(), scores, labels, CLASSES)


def pixels(image):
    return np.asarray(image).astype(int)


@pytest.fixture
def image():
    return torch.full((3, 90, 120), 40, dtype=torch.uint8)


def test_to_pil_keeps_every_pixel():
    image = torch.arange(3 * 5 * 7, dtype=torch.uint8).view(3, 5, 7)
    scene = to_pil(image)
    assert scene.size == (7, 5)
    assert torch.equal(torch.from_numpy(np.array(scene)).permute(2, 0, 1), image)


@pytest.mark.parametrize(
    "image",
    [
        torch.zeros(3, 4, 4),
        torch.zeros(1, 4, 4, dtype=torch.uint8),
        torch.zeros(4, 4, 3, dtype=torch.uint8),
        torch.zeros(1, 3, 4, 4, dtype=torch.uint8),
    ],
)
def test_to_pil_refuses_other_images(image):
    with pytest.raises(ValueError, match=r"to_pil: expected `image` to be uint8 of shape"):
        to_pil(image)


def test_the_outline_is_where_the_box_is(image):
    changed = (pixels(draw(image, detections((30, 40, 80, 70)))) != 40).any(-1)
    # Left, right and lower edge; the upper one has the label above it.
    assert changed[40:71, 30].all()
    assert changed[40:71, 80].all()
    assert changed[70, 30:81].all()
    assert not changed[72:].any()
    assert not changed[:, :30].any()
    assert not changed[45:65, 40:70].any(), "the object itself stays visible"


def test_draw_leaves_its_input_alone(image):
    before = image.clone()
    draw(image, detections((30, 40, 80, 70)))
    assert torch.equal(image, before)
    # In this order of strides, Pillow could share the tensor's memory.
    interleaved = image.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    draw(interleaved, detections((30, 40, 80, 70)))
    assert torch.equal(interleaved, before)
    scene = to_pil(image)
    draw(scene, detections((30, 40, 80, 70)))
    assert (pixels(scene) == 40).all()


def test_without_objects_nothing_is_drawn(image):
    assert (pixels(draw(image, Detections.empty(CLASSES))) == 40).all()


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "RGB"])
def test_images_of_every_mode_become_rgb(mode):
    drawn = draw(Image.new(mode, (40, 30)), detections((5, 15, 20, 25)))
    assert drawn.mode == "RGB"
    assert drawn.size == (40, 30)
    assert pixels(drawn).any()


def test_classes_have_colours_and_colours_repeat(image):
    drawn = [
        pixels(draw(image, detections((30, 40, 80, 70), labels=[label])))[69, 50].tolist()
        for label in range(8)
    ]
    assert len({tuple(colour) for colour in drawn}) == 7
    assert drawn[7] == drawn[0]


def test_the_best_box_lies_on_top(image):
    both = pixels(draw(image, detections((30, 40, 80, 70), (30, 40, 80, 70), labels=[0, 1])))
    best = pixels(draw(image, detections((30, 40, 80, 70), labels=[0])))
    assert (both[69, 50] == best[69, 50]).all()


@pytest.mark.parametrize(
    "box",
    [(0, 0, 120, 90), (-50, -60, 400, 300), (30, 40, 30, 40), (119, 89, 120, 90), (0, 0, 1, 1)],
)
def test_boxes_at_and_beyond_the_border_are_drawn(image, box):
    assert draw(image, detections(box)).size == (120, 90)


def test_an_image_of_one_pixel(image):
    assert draw(image[:, :1, :1], detections((0, 0, 1, 1))).size == (1, 1)


def test_draw_takes_detections_on_every_device(image, device):
    found = detections((30, 40, 80, 70))
    moved = Detections(
        found.boxes.to(device), found.scores.to(device), found.labels.to(device), CLASSES
    )
    assert (pixels(draw(image.to(device), moved)) == pixels(draw(image, found))).all()


def test_long_names_leave_the_image_visible():
    image = torch.full((3, 300, 600), 40, dtype=torch.uint8)
    found = replace(detections((10, 100, 500, 290)), classes=("word " * 40,) * 9)
    changed = (pixels(draw(image, found)) != 40).any(-1)
    assert changed[80:99, 20:60].any() and not changed[:99, 300:].any()


@pytest.mark.parametrize("form", ["bitmaps", "rles"])
def test_masks_are_drawn_in_both_forms(image, form):
    plain = detections((30, 40, 90, 80))
    masks = torch.zeros(1, 90, 120, dtype=torch.bool)
    masks[0, 50:60, 40:80] = True
    masked = replace(plain, masks=masks if form == "bitmaps" else masks_to_rle(masks))
    changed = (pixels(draw(image, masked)) != pixels(draw(image, plain))).any(-1)
    assert changed[50:60, 40:80].all() and changed.sum() == 10 * 40


def test_classes_of_an_image_are_written_on_it(image):
    drawn = pixels(draw(image, Classification(torch.tensor([0.2, 0.8]), ("ant", "bee"))))
    assert drawn.shape == (90, 120, 3)
    assert (drawn[0, 0] == 0).all() and (drawn[60:] == 40).all(), "a plate in the corner"
    assert (drawn == 255).all(-1).any()


def test_classes_of_pixels_are_tinted_and_void_stays(image):
    labels = torch.zeros(90, 120, dtype=torch.int64)
    labels[30:60], labels[60:] = 1, -1
    drawn = pixels(draw(image, Segmentation(labels, ("left", "right"), void=-1)))
    assert len(np.unique(drawn.reshape(-1, 3), axis=0)) == 3
    assert (drawn[60:] == 40).all()
    with pytest.raises(
        ValueError, match=r"draw: expected `result` to be a segmentation .* \(90, 1"
    ):
        draw(image, Segmentation(labels[:9], ("left", "right"), void=-1))


def test_truth_is_drawn_white(image):
    truth = GroundTruth(torch.tensor([[30.0, 40, 80, 70]]), torch.tensor([0]), (90, 120))
    drawn = pixels(draw_truth(image, truth))
    assert (drawn[55, 30] == 255).all()
    assert (drawn[55, 55] == 40).all()


@pytest.mark.parametrize("count, columns, rows", [(1, 1, 1), (2, 2, 1), (3, 2, 2), (8, 2, 4)])
def test_comparison_shows_every_pair(image, count, columns, rows):
    truth = GroundTruth(torch.tensor([[30.0, 40, 80, 70]]), torch.tensor([0]), (90, 120))
    grid = draw_comparison([image] * count, [truth] * count, [detections((30, 40, 80, 70))] * count)
    assert grid.width == pytest.approx(columns * 2 * 120, rel=0.1)
    assert grid.height == pytest.approx(rows * 90, rel=0.15)
    # The white of the truth shows once for every pair, the text aside.
    white = (pixels(grid) == 255).all(-1).sum()
    alone = (pixels(draw_truth(image, truth)) == 255).all(-1).sum()
    assert white == count * alone


def test_comparison_refuses_lists_of_different_lengths(image):
    with pytest.raises(ValueError):
        draw_comparison([image], [], [detections()])
