"""Sheets of samples, anchors and matches: what they show, counted in pixels."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors

from cvlib.data import SyntheticBananas, collate
from cvlib.geometry.view import VOID
from cvlib.models import TinySSD
from cvlib.visualize import (
    draw_segmentation,
    show_anchors,
    show_batch,
    show_targets,
    show_transforms,
)
from cvlib.visualize.anchors import split_levels
from cvlib.visualize.drawing import draw_target
from cvlib.visualize.segmentation import class_colours
from cvlib.visualize.sheets import Tile, make_sheet

CLASSES = ("cat", "dog")


def pixels(image):
    return np.asarray(image).astype(int)


@pytest.fixture
def image():
    return torch.full((3, 90, 120), 40, dtype=torch.uint8)


def target_of(*boxes, size=(90, 120), **more):
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return {
        "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=size),
        "labels": torch.arange(len(boxes)) % 2,
        "image_id": 3,
        **more,
    }


def test_masks_are_tinted_only_inside(image):
    mask = torch.zeros(1, 90, 120, dtype=torch.uint8)
    mask[0, 50:60, 40:80] = 1
    target = target_of((30, 40, 90, 80), masks=tv_tensors.Mask(mask))
    with_mask = pixels(draw_target(image, target, CLASSES))
    without = pixels(draw_target(image, target_of((30, 40, 90, 80)), CLASSES))
    changed = (with_mask != without).any(-1)
    assert changed[50:60, 40:80].all()
    assert changed.sum() == 10 * 40


def test_crowds_are_dashed_and_padding_is_left_out(image):
    box = (30, 40, 90, 80)
    outline = pixels(draw_target(image, target_of(box), CLASSES))[80, 30:91]
    crowd = target_of(box, iscrowd=torch.tensor([1]))
    dashes = pixels(draw_target(image, crowd, CLASSES))[80, 30:91]
    assert (outline != 40).any(-1).all()
    assert 0.3 < (dashes != 40).any(-1).mean() < 0.9
    padding = {"boxes": torch.full((2, 4), -1.0), "labels": torch.tensor([-1, -1])}
    assert (pixels(draw_target(image, padding, CLASSES)) == 40).all()


def test_a_name_at_the_right_border_stays_inside(image):
    drawn = pixels(draw_target(image, target_of((112, 40, 119, 60)), ["a long name"]))
    assert (drawn[35] != 40).any(-1).sum() > 40


def test_segmentation_colours_classes_and_hatches_void():
    image = torch.zeros(3, 100, 60, dtype=torch.uint8)
    mask = torch.zeros(100, 60, dtype=torch.uint8)
    mask[20:40], mask[40:] = 1, VOID
    drawn = pixels(draw_segmentation(image, mask, CLASSES))[:, :60]
    for rows, colour in ((slice(0, 20), class_colours(2)[0]), (slice(20, 40), class_colours(2)[1])):
        area = drawn[rows].reshape(-1, 3)
        assert (area == area[0]).all()
        assert np.abs(area[0] / 0.6 - colour).max() <= 2
    void = drawn[40:].reshape(-1, 3)
    assert len(np.unique(void, axis=0)) == 2, "stripes"
    assert (void == void[:, :1]).all(), "grey"


def test_legend_lists_the_classes_that_occur():
    image = torch.zeros(3, 100, 60, dtype=torch.uint8)
    mask = torch.zeros(100, 60, dtype=torch.uint8)
    one = pixels(draw_segmentation(image, mask, CLASSES))[:, 60:]
    mask[:10] = 1
    two = pixels(draw_segmentation(image, mask, CLASSES))[:, 60:]

    def swatches(legend):
        return [(legend == colour).all(-1).any() for colour in class_colours(2)]

    assert swatches(one) == [True, False]
    assert swatches(two) == [True, True]


def test_segmentation_refuses_wrong_masks(image):
    with pytest.raises(ValueError, match="expected `mask` to have the image's shape"):
        draw_segmentation(image, torch.zeros(9, 9, dtype=torch.uint8), CLASSES)
    with pytest.raises(
        ValueError, match=r"expected `mask` to hold classes in 0..1 or 255 \(void\), got 7"
    ):
        draw_segmentation(image, torch.full((90, 120), 7, dtype=torch.uint8), CLASSES)


def test_class_colours_are_distinct_and_stay_with_their_class():
    colours = class_colours(80)
    assert len(set(colours)) == 80 == len(colours)
    assert class_colours(5) == colours[:5]
    few = np.array(class_colours(21))
    distance = np.linalg.norm(few[:, None] - few, axis=-1)
    assert distance[~np.eye(21, dtype=bool)].min() > 60


@pytest.mark.parametrize("count", [1, 2, 7, 8])
def test_sheet_shows_every_image(count):
    tiles = [Tile(Image.new("RGB", (50, 40), (i + 1, 0, 255)), "a caption") for i in range(count)]
    sheet = pixels(make_sheet(tiles, "title"))
    for i in range(count):
        assert (sheet == (i + 1, 0, 255)).all(-1).sum() == 50 * 40


def test_long_captions_are_broken_and_make_room():
    tile = Tile(Image.new("RGB", (60, 40)), "one two three four five six seven")
    short = make_sheet([Tile(tile.image, "one")])
    assert make_sheet([tile]).height >= short.height + 2 * 20


def test_batch_of_every_task():
    bananas = SyntheticBananas(3, image_size=64)
    images, targets = collate([bananas[i] for i in range(3)])
    sheet = show_batch(images, targets, bananas.classes)
    assert sheet.width > 3 * 64, "small images are enlarged"
    assert show_batch(images, targets, bananas.classes, limit=1).width < sheet.width
    maps = {"mask": torch.zeros(3, 64, 64, dtype=torch.uint8), "image_id": targets["image_id"]}
    assert show_batch(images, maps, bananas.classes).width > sheet.width, "there are legends"
    labels = {"label": torch.tensor([0, 0, 5]), "image_id": targets["image_id"]}
    assert show_batch(images, labels, bananas.classes).size == sheet.size
    with pytest.raises(ValueError, match=r"show_batch: expected `images` of shape \(B, 3, H, W\)"):
        show_batch(images[0], targets, bananas.classes)


def test_batch_draws_boxes_where_they_are():
    image = torch.full((1, 3, 256, 256), 40, dtype=torch.uint8)
    sample = target_of((30, 40, 90, 80), size=(256, 256))
    images, targets = collate([(image[0], sample)])
    drawn = pixels(show_batch(images, targets, CLASSES))
    alone = pixels(draw_target(image[0], sample, CLASSES))
    top = drawn.shape[0] - 256 - 6
    assert (drawn[top : top + 256, 6 : 6 + 256] == alone).all()


def test_transforms_are_shown_as_training_sees_them():
    bananas = SyntheticBananas(2, image_size=64)
    one = show_transforms(bananas, 1, "ssd", image_size=(64, 64), count=3)
    assert (
        one.tobytes() == show_transforms(bananas, 1, "ssd", image_size=(64, 64), count=3).tobytes()
    )
    other = show_transforms(bananas, 1, "ssd", image_size=(64, 64), count=3, seed=1)
    assert one.tobytes() != other.tobytes()
    own = show_transforms(bananas, 1, lambda image, target: (image, target), count=2)
    assert own.mode == "RGB"
    with pytest.raises(ValueError, match="expected `recipe` for detection to be one of"):
        show_transforms(bananas, 1, "nonsense")


def test_levels_are_found_from_the_anchors():
    model = TinySSD(CLASSES, image_size=(128, 192))
    shapes = [(one.rows, one.columns, one.per_cell) for one in split_levels(model.anchors)]
    assert shapes == [(16, 24, 4), (8, 12, 4), (4, 6, 4), (2, 3, 4), (1, 1, 4)]
    levels = split_levels(model.anchors)
    assert [one.start for one in levels[1:]] == [one.stop for one in levels[:-1]]
    assert levels[-1].stop == len(model.anchors)


def test_anchors_are_drawn(image):
    model = TinySSD(CLASSES)
    few, many = (pixels(show_anchors(model, image, cells=cells)) for cells in (1, 3))
    assert few.shape == many.shape
    assert (many != few).any()


@pytest.mark.parametrize("function", ["show_anchors", "show_targets"])
def test_models_without_anchors_are_refused(image, function):
    arguments = (image,) if function == "show_anchors" else (image, target_of())
    call = {"show_anchors": show_anchors, "show_targets": show_targets}[function]
    with pytest.raises(ValueError, match=f"{function}: expected `model` to have anchors .*Linear"):
        call(torch.nn.Linear(2, 2), *arguments)


def test_matches_are_those_of_training(image, monkeypatch):
    sheets = []
    monkeypatch.setattr(
        "cvlib.visualize.anchors.make_sheet", lambda tiles, title: sheets.append((tiles, title))
    )
    model = TinySSD(CLASSES)
    target = target_of((10, 10, 60, 60), (0, 0, 118, 88), (70, 70, 73, 72))
    show_targets(model, image, target, classes=CLASSES)
    (tiles, title), scale = sheets[0], torch.tensor([256 / 120, 256 / 90] * 2)
    boxes = target["boxes"].as_subclass(torch.Tensor) * scale
    assigned = model.assign(model.anchors, boxes[None], target["labels"][None], (256, 256))
    assert f"3 objects, {int(assigned.positive.sum())} of 5,444 anchors matched" in title
    assert "no anchor fits 1 (red)" in title
    shown = sum(int(tile.caption.split(": ")[1].split(" of ")[0]) for tile in tiles[1:])
    assert shown == int(assigned.positive.sum())
    red = (pixels(tiles[0].image) == (255, 48, 48)).all(-1)
    assert red[400:440].any() and not red[:300].any(), "only the small object is marked"


def test_targets_of_an_image_without_objects(image):
    assert show_targets(TinySSD(CLASSES), image, target_of()).mode == "RGB"
