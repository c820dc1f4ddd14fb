"""Steps of geometry: pixels, boxes and masks go the same way."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import v2

sys.path.insert(0, str(Path(__file__).parent))
from samples import SIZE, classification_sample, detection_sample, segmentation_sample

from cvlib.data.transforms import (
    GeometricStep,
    Geometry,
    HorizontalFlip,
    IoUCrop,
    Letterbox,
    RandomResizedCrop,
    Resize,
    ScaleJitter,
    VerticalFlip,
    ZoomOut,
)
from cvlib.data.transforms.colour import ColourTransform
from cvlib.data.transforms.geometric import CenterCrop, FixedCrop, ShiftScale, Transpose
from cvlib.geometry.view import BORDER, VOID, View
from cvlib.ops import masks_to_boxes

STEPS = {
    "resize": Resize((40, 52)),
    "enlarge": Resize((100, 140)),
    "letterbox": Letterbox((50, 50)),
    "mirror": HorizontalFlip(1.0),
    "flip": VerticalFlip(1.0),
    "zoom out": ZoomOut(p=1.0),
    "iou crop": IoUCrop(),
    "scale jitter": ScaleJitter((0.5, 2.0)),
    "fixed crop": FixedCrop((40, 80)),
    "resized crop": RandomResizedCrop((33, 47)),
    "center crop": CenterCrop((30, 30)),
    "shift scale": ShiftScale(p=1.0),
    "chain": Geometry(
        [Resize((60, 60)), Transpose(1.0), ScaleJitter(), FixedCrop((44, 52)), HorizontalFlip()]
    ),
}


def same_tensor(one, other):
    return torch.equal(one.as_subclass(torch.Tensor), other.as_subclass(torch.Tensor))


def same_target(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        if isinstance(value, torch.Tensor):
            assert type(value) is type(other[name]), name
            assert same_tensor(value, other[name]), name
        else:
            assert value == other[name]
    return True


def bright_box(image):
    """Extent of the bright pixels: the union of all objects."""
    ys, xs = (image.as_subclass(torch.Tensor)[0] > 150).nonzero(as_tuple=True)
    return torch.tensor([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]).float()


def plain(boxes):
    return boxes.as_subclass(torch.Tensor)


@pytest.mark.parametrize(
    "step",
    [
        Resize(SIZE),
        Letterbox(SIZE),
        HorizontalFlip(0.0),
        VerticalFlip(0.0),
        Transpose(1.0),  # the image is not square
        ZoomOut(p=0.0),
        ScaleJitter((1.0, 1.0)),
        FixedCrop(SIZE),
        CenterCrop(SIZE, 1.0),
        ShiftScale(p=0.0),
        ShiftScale(1.0, 0.0, 1.0),
        Geometry([]),
        Geometry([HorizontalFlip(1.0), HorizontalFlip(1.0)]),
    ],
    ids=repr,
)
@pytest.mark.parametrize("masks", [False, True])
def test_identity_is_identity(step, masks):
    image, target = detection_sample(masks=masks)
    moved, changed = step(image, target)
    assert same_tensor(moved, image)
    assert same_target(changed, target)


@pytest.mark.parametrize("flip", [HorizontalFlip(1.0), VerticalFlip(1.0), Transpose(1.0)], ids=repr)
@settings(max_examples=12)
@given(seed=st.integers(0, 10**6), masks=st.booleans())
def test_flips_are_involutions(flip, seed, masks):
    image, target = detection_sample(size=(40, 40), seed=seed, masks=masks)
    once = flip(image, target)
    assert not same_tensor(once[0], image)
    twice = flip(*once)
    assert same_tensor(twice[0], image)
    assert same_target(twice[1], target)


def test_flip_by_hand():
    image, target = detection_sample(1)
    moved, changed = HorizontalFlip(1.0)(image, target)
    assert torch.equal(moved, image.flip(-1))
    x1, y1, x2, y2 = plain(target["boxes"])[0].tolist()
    assert plain(changed["boxes"]).tolist() == [[SIZE[1] - x2, y1, SIZE[1] - x1, y2]]


def test_chain_of_two_steps_is_one_after_the_other():
    # Whole pixels all the way, so that nothing is interpolated in between.
    image, target = detection_sample(masks=True)
    steps = [HorizontalFlip(1.0), VerticalFlip(1.0), Resize((SIZE[0] * 2, SIZE[1] * 2))]
    one = Geometry(steps)(image, target)
    other = v2.Compose(steps)(image, target)
    assert (one[0].int() - other[0].int()).abs().max() <= 1
    same_target(one[1], other[1])


@pytest.mark.parametrize("name", STEPS)
@settings(max_examples=12)
@given(seed=st.integers(0, 10**6))
def test_box_is_where_the_pixels_are(name, seed):
    torch.manual_seed(seed)
    image, target = detection_sample(1, seed=seed)
    moved, changed = STEPS[name](image, target)
    assert tuple(moved.shape[1:]) == changed["boxes"].canvas_size
    if len(changed["labels"]):
        # A border between pixels is blurred by enlarging.
        blur = 1 + max(new / old for new, old in zip(moved.shape[1:], SIZE, strict=True))
        assert (bright_box(moved) - plain(changed["boxes"])[0]).abs().max() <= blur


@pytest.mark.parametrize("name", STEPS)
@settings(max_examples=12)
@given(seed=st.integers(0, 10**6))
def test_boxes_are_the_extents_of_masks(name, seed):
    torch.manual_seed(seed)
    _, changed = STEPS[name](*detection_sample(4, seed=seed, masks=True))
    masks = changed["masks"].as_subclass(torch.Tensor)
    assert torch.equal(plain(changed["boxes"]), masks_to_boxes(masks))
    assert torch.equal(changed["area"], masks.flatten(1).sum(1).float())
    assert masks.max() <= 1 if len(masks) else True


@pytest.mark.parametrize("name", STEPS)
@settings(max_examples=12)
@given(seed=st.integers(0, 10**6), masks=st.booleans())
def test_everything_of_an_object_stays_together(name, seed, masks):
    torch.manual_seed(seed)
    _, changed = STEPS[name](*detection_sample(6, seed=seed, masks=masks))
    count = len(changed["labels"])
    height, width = changed["boxes"].canvas_size
    boxes = plain(changed["boxes"])
    assert boxes.shape == (count, 4) and boxes.dtype == torch.float32
    assert changed["area"].shape == changed["iscrowd"].shape == (count,)
    assert torch.equal(changed["iscrowd"], changed["labels"] % 2), "labels name the objects"
    assert boxes.isfinite().all() and (boxes >= 0).all()
    assert (boxes <= torch.tensor([width, height, width, height])).all()
    assert (boxes[:, 2:] - boxes[:, :2] >= 1).all()
    assert (changed["area"] > 0).all()
    if masks:
        assert changed["masks"].shape == (count, height, width)


@pytest.mark.parametrize("name", STEPS)
def test_classes_of_pixels_go_with_the_pixels(name):
    torch.manual_seed(1)
    image, target = segmentation_sample()
    moved, changed = STEPS[name](image, target)
    mask = changed["mask"].as_subclass(torch.Tensor)
    assert mask.dtype == torch.uint8 and mask.shape == moved.shape[1:]
    assert set(mask.unique().tolist()) <= {0, 3, VOID}
    # Red is the class, except at the seam and in the margins.
    red = moved.as_subclass(torch.Tensor)[0]
    inner = mask != VOID
    assert (red[inner] == mask[inner]).float().mean() > 0.9
    assert (red[~inner] == BORDER[0]).all()


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (3, 2)])
def test_tiny_and_thin_images(name, size):
    image = torch.zeros(3, *size, dtype=torch.uint8)
    target = {
        "boxes": torch.tensor([[0.0, 0, size[1], size[0]]]),
        "labels": torch.tensor([4]),
        "masks": torch.ones(1, *size, dtype=torch.uint8),
    }
    moved, changed = STEPS[name](image, target)
    assert moved.dtype == torch.uint8 and moved.shape[0] == 3 and 0 not in moved.shape
    assert len(changed["boxes"]) == len(changed["labels"]) == len(changed["masks"])


@pytest.mark.parametrize("name", STEPS)
def test_images_without_objects_stay_valid(name):
    torch.manual_seed(0)
    _, changed = STEPS[name](*detection_sample(0, masks=True))
    assert changed["boxes"].shape == (0, 4)
    assert changed["labels"].shape == changed["area"].shape == changed["iscrowd"].shape == (0,)
    assert changed["masks"].shape == (0, *changed["boxes"].canvas_size)


@pytest.mark.parametrize("name", STEPS)
def test_input_is_left_alone(name):
    image, target = detection_sample(masks=True)
    before, copy = (
        image.clone(),
        {k: getattr(v, "clone", lambda v=v: v)() for k, v in target.items()},
    )
    STEPS[name](image, target)
    assert torch.equal(image, before)
    same_target(target, copy)


@pytest.mark.parametrize("name", STEPS)
def test_order_of_memory_does_not_matter(name):
    image, target = detection_sample()
    interleaved = image.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    torch.manual_seed(5)
    one = STEPS[name](image, target)
    torch.manual_seed(5)
    other = STEPS[name](interleaved, target)
    assert torch.equal(one[0], other[0])
    same_target(one[1], other[1])


def test_image_alone_and_with_a_label():
    image, target = classification_sample()
    torch.manual_seed(2)
    alone = RandomResizedCrop((20, 20))(image)
    torch.manual_seed(2)
    moved, same = RandomResizedCrop((20, 20))(image, target)
    assert torch.equal(alone, moved) and same == target


def test_objects_that_lost_too_much_are_removed():
    image, _ = detection_sample(0)
    boxes = torch.tensor([[0.0, 0, 23, 10], [0.0, 0, 25, 10], [20.0, 0, 30, 10]])
    target = {"boxes": boxes, "labels": torch.tensor([5, 6, 7]), "area": torch.tensor([1.0, 2, 3])}

    class RightOf(HorizontalFlip):
        def plan(self, plan):
            plan.view = plan.view.crop((18, 0, 64, 48))

    _, changed = RightOf()(image, target)
    # 5 of 23 columns are left, 7 of 25, and all.
    assert changed["labels"].tolist() == [6, 7]
    assert changed["boxes"].tolist() == [[0, 0, 7, 10], [2, 0, 12, 10]]
    assert changed["area"].tolist() == pytest.approx([2 * 7 / 25, 3])


def test_iou_crop_keeps_an_object_and_only_centres():
    for seed in range(100):
        torch.manual_seed(seed)
        image, target = detection_sample(2, seed=seed)
        _, changed = IoUCrop()(image, target)
        assert len(changed["labels"]) >= 1


@pytest.mark.parametrize("min_iou", [0.1, 0.5, 0.9])
def test_iou_crop_reaches_its_minimum(min_iou, monkeypatch):
    monkeypatch.setattr(IoUCrop, "min_ious", (min_iou, None))
    image = torch.zeros(3, 60, 60, dtype=torch.uint8)
    target = {"boxes": torch.tensor([[15.0, 15, 45, 45]]), "labels": torch.tensor([0])}
    cropped = 0
    for seed in range(60):
        torch.manual_seed(seed)
        moved, changed = IoUCrop(2000)(image, target)
        if moved.shape[1:] == (60, 60):
            continue
        cropped += 1
        x1, y1, x2, y2 = changed["boxes"][0].tolist()
        common, crop = (x2 - x1) * (y2 - y1), moved.shape[1] * moved.shape[2]
        assert common / (crop + 900 - common) >= min_iou
        assert 0.3 * 60 - 1 <= min(moved.shape[1:]) and max(moved.shape[1:]) <= 60
        assert 0.5 <= moved.shape[1] / moved.shape[2] <= 2
    assert cropped > 5


def test_zoom_out_keeps_the_image_and_fills_the_rest():
    torch.manual_seed(3)
    image, target = detection_sample(1)
    moved, changed = ZoomOut(p=1.0)(image, target)
    assert moved.shape[1] > SIZE[0] and moved.shape[2] > SIZE[1]
    shift = (plain(changed["boxes"]) - plain(target["boxes"]))[0].tolist()
    x, y = int(shift[0]), int(shift[1])
    assert shift == [x, y, x, y]
    assert torch.equal(moved[:, y : y + SIZE[0], x : x + SIZE[1]], image)
    assert moved[:, 0, -1].tolist() == list(BORDER) or moved[:, -1, 0].tolist() == list(BORDER)
    assert changed["area"].tolist() == target["area"].tolist()


@given(st.integers(1, 400), st.integers(1, 400), st.integers(1, 300), st.integers(1, 300))
def test_letterbox_can_be_undone(height, width, new_height, new_width):
    view = Letterbox((new_height, new_width)).view((height, width))
    boxes = np.array([[0.0, 0, width, height], [width / 4, height / 3, width / 2, height / 2]])
    back = view.undo_boxes(torch.from_numpy(view.map_boxes(boxes)))
    torch.testing.assert_close(back, torch.from_numpy(boxes), rtol=1e-9, atol=1e-9)
    assert view.map_boxes(boxes).min() >= 0


@given(st.lists(st.sampled_from("mftcrp"), max_size=8), st.integers(0, 1000))
def test_every_view_can_be_undone(steps, seed):
    rng = np.random.default_rng(seed)
    view = View.whole((30, 40))
    for step in steps:
        height, width = view.canvas
        if step == "c":
            view = view.crop((0, 0, max(1, width - 3), max(1, height - 2)))
        if step == "p":
            view = view.crop((-4, -2, width + 1, height + 5))
        if step == "r":
            view = view.resize((int(rng.integers(5, 90)), int(rng.integers(5, 90))))
        view = {"m": view.mirror, "f": view.flip, "t": view.transpose}.get(step, lambda v=view: v)()
    view = view.on_whole_pixels()
    boxes = rng.uniform([0, 0, 20, 20], [20, 20, 40, 40], (5, 4))
    back = view.undo_boxes(torch.from_numpy(view.map_boxes(boxes)))
    torch.testing.assert_close(back, torch.from_numpy(boxes), rtol=1e-8, atol=1e-8)


def test_shrinking_averages():
    # A chessboard: taking single pixels would give 0 or 255.
    image = (torch.arange(64)[:, None] + torch.arange(64)) % 2 * 255
    image = image.to(torch.uint8).expand(3, -1, -1).contiguous()
    small = Resize((16, 16))(image)
    assert (small.int() - 128).abs().max() <= 1


def test_crowded_crop_prefers_a_place_with_an_object():
    image = torch.zeros(3, 400, 400, dtype=torch.uint8)
    target = {"boxes": torch.tensor([[190.0, 190, 210, 210]]), "labels": torch.tensor([1])}
    with_object = 0
    for seed in range(40):
        torch.manual_seed(seed)
        with_object += len(FixedCrop((160, 160))(image, target)[1]["labels"])
    # A single place has the centre with a probability of 160/240 squared = .44.
    assert with_object >= 39


def test_shift_does_not_push_an_object_out():
    image = torch.zeros(3, 100, 100, dtype=torch.uint8)
    target = {"boxes": torch.tensor([[0.0, 0, 4, 4]]), "labels": torch.tensor([1])}
    moved = 0
    for seed in range(50):
        torch.manual_seed(seed)
        scene, changed = ShiftScale(p=1.0)(image, target)
        if changed["boxes"].tolist() == [[0, 0, 4, 4]]:
            assert not scene.any()
        moved += changed["boxes"].tolist() != [[0, 0, 4, 4]]
    assert moved > 10


@pytest.mark.parametrize("size", [(0, 5), (5,), 5, (5.0, 5), (3, 4, 5), "ab"])
def test_wrong_sizes(size):
    with pytest.raises(
        ValueError, match=r"Resize: expected `size` to be \(height, width\) in whole"
    ):
        Resize(size)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: HorizontalFlip(1.1), r"HorizontalFlip: expected `p` to be in \[0, 1\], got 1.1"),
        (lambda: ZoomOut(0.5), "ZoomOut: expected `max_ratio` to be at least 1, got 0.5"),
        (lambda: IoUCrop(0), "IoUCrop: expected `tries` to be at least 1, got 0"),
        (lambda: FixedCrop((4, 4), 0), "FixedCrop: expected `tries` to be at least 1, got 0"),
        (
            lambda: ScaleJitter((2.0, 1.0)),
            "ScaleJitter: expected `scale_range` to be .low, high. with",
        ),
        (
            lambda: RandomResizedCrop((4, 4), (0, 1)),
            "expected `scale` to be .* <= high <= 1",
        ),
        (
            lambda: RandomResizedCrop((4, 4), max_aspect_ratio=0.5),
            "expected `max_aspect_ratio` to",
        ),
        (
            lambda: CenterCrop((4, 4), 0),
            r"CenterCrop: expected `fraction` to be in \(0, 1\]",
        ),
        (lambda: ShiftScale(0.5), "ShiftScale: expected `max_scale` to be at least 1, got 0.5"),
        (
            lambda: ShiftScale(max_shift=2),
            r"expected `max_shift` to be in \[0, 1\], got 2",
        ),
    ],
)
def test_wrong_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("image", [torch.zeros(3, 4, 4), np.zeros((4, 4, 3), np.uint8)])
def test_images_of_another_kind(image):
    with pytest.raises(TypeError, match="Resize: expected `image` to be a uint8 tensor, got"):
        Resize((4, 4))(image)


@pytest.mark.parametrize("shape", [(1, 4, 4), (4, 4), (3, 0, 4)])
def test_images_of_another_shape(shape):
    with pytest.raises(ValueError, match=r"Resize: expected `image` to have shape \(3, H, W\)"):
        Resize((4, 4))(torch.zeros(shape, dtype=torch.uint8))


@pytest.mark.parametrize("kind, method", [(GeometricStep, "plan"), (ColourTransform, "matrix")])
def test_base_classes_cannot_be_instantiated(kind, method):
    with pytest.raises(TypeError, match=f"abstract class Incomplete .*{method}"):
        type("Incomplete", (kind,), {})()
