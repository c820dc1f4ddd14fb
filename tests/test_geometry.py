"""Views and framings: boxes, masks and pixels go to the canvas and come back."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as F

from cvlib.geometry.framing import Framing, stack_padded
from cvlib.geometry.inputs import to_image_tensor
from cvlib.geometry.view import BORDER, View
from cvlib.structures import Detections, Segmentation

SIZES = [(48, 64), (64, 48), (31, 90), (60, 80), (7, 5), (1, 1), (240, 200)]
FRAMINGS = [
    Framing("stretch", (60, 80)),
    Framing("letterbox", (60, 80)),
    Framing("letterbox", (33, 95)),
    Framing("crop", (60, 80), crop_share=0.875),
    Framing("pad"),
    Framing("pad", short_side=50),
    Framing("pad", short_side=50, long_side=70, multiple=32),
]


def named(framing):
    return f"{framing.mode}-{framing.size or framing.short_side}-{framing.long_side}"


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("framing", FRAMINGS, ids=named)
def test_boxes_come_back_where_they_were(framing, size):
    view = framing.view(size)
    corners = np.sort(np.random.default_rng(0).uniform(0, 1, (50, 2, 2)), axis=1)
    boxes = corners.reshape(50, 4) * (size[1], size[0], size[1], size[0])
    moved = torch.from_numpy(view.map_boxes(boxes))
    np.testing.assert_allclose(view.undo_boxes(moved).numpy(), boxes, atol=1e-9)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("framing", FRAMINGS, ids=named)
def test_pixels_move_with_boxes(framing, size):
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
    view, canvas = framing.view(size), framing.apply(image)
    assert canvas.shape == (3, *view.canvas) and canvas.dtype == torch.uint8
    full = np.array([[0.0, 0.0, size[1], size[0]]])
    x1, y1, x2, y2 = view.map_boxes(full)[0]
    inside = canvas[:, max(0, round(y1)) : round(y2), max(0, round(x1)) : round(x2)]
    resized = F.resize(image, [round(y2 - y1), round(x2 - x1)], antialias=True)
    top, left = max(0, round(-y1)), max(0, round(-x1))
    expected = resized[:, top : top + inside.shape[1], left : left + inside.shape[2]]
    assert torch.equal(inside, expected)
    border = torch.tensor(BORDER, dtype=torch.uint8)[:, None, None]
    inside[:] = border
    assert (canvas == border).all()


@pytest.mark.parametrize("size", [(48, 64), (30, 90), (60, 80)])
@pytest.mark.parametrize(
    "framing", [f for f in FRAMINGS if f.mode in ("stretch", "letterbox", "pad")], ids=named
)
def test_masks_and_class_maps_come_back(framing, size):
    """Rectangles larger than the coarsest pixel survive the round trip."""
    mask = torch.zeros(1, *size, dtype=torch.bool)
    mask[0, size[0] // 4 : 3 * size[0] // 4, size[1] // 3 : 2 * size[1] // 3] = True
    view = framing.view(size)
    canvas = framing.apply((mask * 255).to(torch.uint8).expand(3, -1, -1))[:1] > 127
    empty = torch.zeros(1, 4), torch.ones(1), torch.zeros(1, dtype=torch.int64)
    detections = Detections(*empty, ("a",), masks=canvas).restore(view)
    assert detections.size == size and detections.bitmaps().shape == mask.shape
    overlap = (detections.bitmaps() & mask).sum() / (detections.bitmaps() | mask).sum()
    assert overlap > 0.85
    labels = Segmentation(canvas[0].long(), ("a", "b")).restore(view).labels
    assert labels.shape == size
    assert ((labels == 1) & mask[0]).sum() / ((labels == 1) | mask[0]).sum() > 0.85


def test_pixels_outside_a_crop_are_void():
    view = Framing("crop", (20, 20)).view((20, 40))
    labels = Segmentation(torch.ones(20, 20).long(), ("a", "b")).restore(view).labels
    assert (labels[:, 10:30] == 1).all()
    assert (labels[:, :10] == 255).all() and (labels[:, 30:] == 255).all()


@pytest.mark.parametrize("turns", ["mirror", "flip", "transpose", "mirror flip transpose"])
def test_turned_views_give_labels_back_exactly(turns):
    labels = torch.randint(0, 9, (6, 10), dtype=torch.uint8)
    view = View.whole((6, 10))
    for turn in turns.split():
        view = getattr(view, turn)()
    assert torch.equal(view.undo_labels(view.show_classes(labels, 255), 255), labels)
    masks = torch.rand(2, 6, 10) > 0.5
    turned = view.show_classes(masks.to(torch.uint8), 0) > 0
    boxes = torch.tensor([[1.0, 2.0, 5.0, 4.0], [0.0, 0.0, 10.0, 6.0]])
    moved = torch.from_numpy(view.map_boxes(boxes.double().numpy())).float()
    detections = Detections(moved, torch.ones(2), torch.zeros(2).long(), ("a",), turned)
    detections = detections.restore(view)
    assert torch.equal(detections.boxes, boxes) and torch.equal(detections.bitmaps(), masks)


def test_a_crop_at_the_top_left_corner_is_not_the_identity():
    image = torch.arange(3 * 4 * 6, dtype=torch.uint8).view(3, 4, 6)
    view = View.whole((4, 6)).crop((0, 0, 3, 2)).on_whole_pixels()
    assert not view.is_identity
    assert torch.equal(view.show(image), image[:, :2, :3])


def test_batches_of_different_sizes_are_padded():
    images = [torch.full((3, *size), 9, dtype=torch.uint8) for size in ((20, 30), (40, 10))]
    batch, views = Framing("pad", multiple=32).batch(images)
    assert batch.shape == (2, 3, 64, 32)
    assert [view.canvas for view in views] == [(20, 30), (40, 10)]
    assert (batch[0, :, :20, :30] == 9).all() and (batch[0, 0, 20:] == BORDER[0]).all()
    assert stack_padded(images).shape == (2, 3, 40, 30)


def test_a_framing_survives_as_plain_values():
    for framing in FRAMINGS:
        assert Framing(**framing.as_dict()) == framing


@pytest.mark.parametrize(
    "options, message",
    [
        ({"mode": "zoom"}, "`mode` to be one of stretch, letterbox, crop, pad, got 'zoom'"),
        ({"mode": "stretch"}, "a `size` for mode 'stretch', got None"),
        ({"mode": "pad", "size": (3, 3)}, "no `size`"),
        ({"mode": "stretch", "size": (0, 3)}, r"`size` to be \(height, width\) in pixels"),
        ({"mode": "crop", "size": (3, 3), "crop_share": 0}, r"`crop_share` to be in \(0, 1\]"),
        ({"mode": "pad", "short_side": 0}, "`short_side` to be at least 1"),
    ],
)
def test_impossible_framings_are_refused(options, message):
    with pytest.raises(ValueError, match=f"Framing: expected {message}"):
        Framing(**options)


def test_images_of_every_library_become_the_same_tensor():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    expected = torch.from_numpy(pixels).permute(2, 0, 1)
    bgr = np.ascontiguousarray(pixels[..., ::-1])
    for image in (pixels, Image.fromarray(pixels), expected, bgr[..., ::-1]):
        assert torch.equal(to_image_tensor("f", image), expected)
    grey = to_image_tensor("f", pixels[..., 0])
    assert torch.equal(grey, expected[:1].expand(3, -1, -1))


@pytest.mark.parametrize(
    "image, error, message",
    [
        ("a.jpg", TypeError, "an array .* got str"),
        (np.zeros((5, 7, 3)), TypeError, r"uint8 in 0\.\.255, got float64.*astype"),
        (torch.zeros(3, 5, 7), TypeError, r"uint8 in 0\.\.255, got torch\.float32.*round"),
        (np.zeros((3, 5, 7), np.uint8), ValueError, "channels last"),
        (np.zeros((5, 7, 4), np.uint8), ValueError, r"shape \(H, W, 3\), got \(5, 7, 4\)"),
        (torch.zeros(5, 7, 3, dtype=torch.uint8), ValueError, r"\(3, H, W\), got \(5, 7, 3\)"),
        (torch.zeros(3, 0, 7, dtype=torch.uint8), ValueError, r"got \(3, 0, 7\)"),
    ],
)
def test_other_values_are_refused_as_images(image, error, message):
    with pytest.raises(error, match=f"f: expected `image` to be .*{message}"):
        to_image_tensor("f", image)
