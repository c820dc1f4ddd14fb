"""The default recipe of detection: boxes and masks go where the pixels go."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision import tv_tensors

from cvlib.data.transforms import (
    ColourJitter,
    GeometricStep,
    Geometry,
    TransformedDataset,
    make_transform,
)
from cvlib.data.transforms.geometric import ShiftScale
from cvlib.ops import masks_to_boxes

SIZES = [(40, 40), (24, 56), (56, 24)]


def light(size=(40, 40)):
    return make_transform("light", "detection", size, train=True)


def painted(size=(40, 40), seed=0, box=None, masks=False):
    """A black image with one white rectangle of class 7."""
    generator = torch.Generator().manual_seed(seed)
    if box is None:
        x, y = (int(torch.randint(0, side - 11, (), generator=generator)) for side in size[::-1])
        width, height = (int(torch.randint(5, 11, (), generator=generator)) for _ in range(2))
        box = (x, y, x + width, y + height)
    x1, y1, x2, y2 = box
    image = torch.zeros(3, *size, dtype=torch.uint8)
    image[:, y1:y2, x1:x2] = 255
    boxes = torch.tensor([box], dtype=torch.float32)
    target = {
        "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=size),
        "labels": torch.tensor([7]),
        "area": torch.tensor([float((x2 - x1) * (y2 - y1))]),
        "iscrowd": torch.tensor([1]),
        "image_id": 3,
    }
    if masks:
        target["masks"] = tv_tensors.Mask(image[:1] // 255)
    return tv_tensors.Image(image), target


def white(image):
    """Pixels of the rectangle, whatever colour it has become; margins are darker."""
    grey = image.as_subclass(torch.Tensor).float().mean(0)
    return grey > grey.min() + 0.75 * (grey.max() - grey.min())


def extent(image):
    return masks_to_boxes(white(image)[None].to(torch.uint8))[0]


def transformed(count, size=(40, 40), **options):
    """Pairs of samples before and after the recipe, each with random numbers of its own."""
    pairs = []
    for seed in range(count):
        sample = painted(size, seed, **options)
        torch.manual_seed(seed)
        pairs.append((sample, light(size)(*sample)))
    return pairs


@given(seed=st.integers(0, 10**6), size=st.sampled_from(SIZES), masks=st.booleans())
def test_boxes_follow_the_pixels(seed, size, masks):
    torch.manual_seed(seed)
    image, target = light(size)(*painted(size, seed, masks=masks))
    assert image.shape == (3, *size) and target["boxes"].canvas_size == size
    for box in target["boxes"].as_subclass(torch.Tensor):
        # A border between pixels may be counted to either side.
        assert (extent(image) - box).abs().max() <= 1


def test_a_box_at_the_corner_follows_the_pixels():
    pairs = transformed(32, box=(0, 0, 8, 10))
    kept = [sample for _, sample in pairs if len(sample[1]["labels"])]
    assert len(kept) > 16
    for image, target in kept:
        assert (extent(image) - target["boxes"].as_subclass(torch.Tensor)[0]).abs().max() <= 1


def test_masks_follow_the_pixels():
    for _, (image, target) in transformed(64, masks=True):
        for mask in target["masks"].as_subclass(torch.Tensor):
            differs = (mask > 0) != white(image)
            inner = torch.nn.functional.max_pool2d(-mask[None].float(), 3, 1, 1)[0] < 0
            assert not (differs & inner).any(), "only at the border, where pixels are mixed"


def test_boxes_of_mirrored_and_turned_images_are_exact():
    rigid = 0
    for (_, before), (image, after) in transformed(64):
        if torch.equal(before["area"], after["area"]):
            rigid += 1
            assert torch.equal(extent(image), after["boxes"].as_subclass(torch.Tensor)[0])
    assert rigid >= 16


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("masks", [False, True])
def test_boxes_stay_inside_and_labels_stay_with_their_boxes(size, masks):
    targets = [target for _, (_, target) in transformed(64, size, masks=masks)]
    boxes = torch.cat([target["boxes"].as_subclass(torch.Tensor) for target in targets])
    assert len(boxes) > 32
    assert boxes.min() >= 0
    assert (boxes <= torch.tensor([size[1], size[0]] * 2)).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()
    for target in targets:
        count = len(target["boxes"])
        assert target["labels"].tolist() == [7] * count
        assert target["iscrowd"].tolist() == [1] * count
        assert target["area"].shape == (count,)
        assert target["image_id"] == 3


@pytest.mark.parametrize("masks", [False, True])
def test_an_object_is_dropped_when_less_than_half_of_it_is_visible(masks):
    kept = []
    for (_, before), (image, after) in transformed(256, box=(0, 15, 9, 25), masks=masks):
        x1, y1, x2, y2 = extent(image).tolist()
        visible = (x2 - x1) * (y2 - y1) / float(before["area"])
        kept.append(len(after["labels"]))
        assert visible > 0.3 if kept[-1] else visible < 0.8  # scaled by up to 1.2 squared
    assert 0 < 256 - sum(kept) < 64


def test_an_image_that_would_lose_an_object_is_not_moved():
    image, target = painted(box=(0, 0, 4, 4))
    in_place = 0
    for seed in range(64):
        torch.manual_seed(seed)
        moved, after = ShiftScale(max_shift=1.0, p=1.0)(image, target)
        if torch.equal(moved, image):
            in_place += 1
            assert torch.equal(after["boxes"], target["boxes"])
    # At least three of four shifts are towards one of the two sides.
    assert 40 < in_place < 64


def test_removed_objects_do_not_keep_an_image_in_place():
    class RemoveAll(GeometricStep):
        def plan(self, plan):
            plan.kept[:] = False

    image, target = painted(box=(0, 0, 2, 2))
    for steps, expected in (([RemoveAll()], True), ([], False)):
        pushed_out = []
        for seed in range(64):
            torch.manual_seed(seed)
            moved, _ = Geometry([*steps, ShiftScale(max_shift=1.0, p=1.0)])(image, target)
            pushed_out.append(int(moved.max()) < 130)
        assert any(pushed_out) == expected


def test_objects_keep_their_order_and_proportions():
    boxes = torch.tensor([[20.0, 20, 30, 30], [32, 22, 40, 45], [21, 33, 30, 40]])
    target = {"boxes": boxes, "labels": torch.tensor([4, 5, 6])}
    image = torch.zeros(3, 60, 60, dtype=torch.uint8)
    for seed in range(16):
        torch.manual_seed(seed)
        _, moved = light((60, 60))(image, target)
        assert moved["labels"].tolist() == [4, 5, 6], "nothing is near the border"
        sides = moved["boxes"][:, 2:] - moved["boxes"][:, :2]
        ratios = sides.prod(1) / torch.tensor([100.0, 184, 63])
        torch.testing.assert_close(ratios, ratios[:1].expand(3), rtol=1e-4, atol=1e-4)


def test_an_image_of_one_colour_keeps_one_colour():
    # Mixing channels in place could read what was just written.
    image = torch.tensor([200, 90, 30], dtype=torch.uint8).view(3, 1, 1).repeat(1, 20, 20)
    for seed in range(32):
        torch.manual_seed(seed)
        middle = light((20, 20))(image, {})[0][:, 8:12, 8:12].flatten(1).int()
        assert (middle == middle[:, :1]).all()
        assert middle[0, 0] > middle[1, 0] > middle[2, 0], "still orange"


def test_order_of_memory_does_not_matter_and_the_input_is_left_alone():
    generator = torch.Generator().manual_seed(1)
    image = torch.randint(0, 256, (3, 40, 40), dtype=torch.uint8, generator=generator)
    interleaved = image.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    copy = image.clone()
    for seed in range(16):
        torch.manual_seed(seed)
        expected = light()(image, {})[0]
        torch.manual_seed(seed)
        assert torch.equal(light()(interleaved, {})[0], expected)
        assert expected.dtype == torch.uint8
    assert torch.equal(image, copy) and torch.equal(interleaved, copy)


def test_samples_differ_from_one_another_and_can_be_repeated():
    generator = torch.Generator().manual_seed(1)
    image, target = painted()
    image = torch.randint(60, 200, image.shape, dtype=torch.uint8, generator=generator)
    first, second, other = (TransformedDataset([(image, target)], light(), s) for s in (3, 3, 4))
    samples = [first[epoch, 0] for epoch in range(64)]
    boxes = {tuple(moved["boxes"].flatten().tolist()) for _, moved in samples}
    assert len(boxes) >= 8, "mirrored and turned in all directions"
    assert len({pixels.numpy().tobytes() for pixels, _ in samples}) == 64
    for epoch in reversed(range(64)):
        again = second[epoch, 0]
        assert torch.equal(samples[epoch][0], again[0])
        assert torch.equal(samples[epoch][1]["boxes"], again[1]["boxes"])
    assert not torch.equal(samples[0][0], other[0, 0][0])


def test_strengths_and_probabilities():
    """Half of the images are moved, by a factor of up to 1.2 and by up to a tenth of the sides."""
    geometry, colour = light((400, 400)).transforms
    assert isinstance(geometry, Geometry) and isinstance(colour, ColourJitter)
    *_, mirror, flip, transpose, shift_scale = geometry.steps
    assert mirror.p == flip.p == transpose.p == shift_scale.p == 0.5
    assert (shift_scale.max_scale, shift_scale.max_shift, shift_scale.min_visibility) == (
        1.2,
        0.1,
        0.5,
    )
    assert colour.strength == 0.2
    scales, shifts = [], []
    for _, (_, target) in transformed(400, (400, 400), box=(150, 150, 250, 250)):
        x1, y1, x2, y2 = target["boxes"].flatten().tolist()
        scales.append((x2 - x1) / 100)
        shifts += [(x1 + x2) / 800 - 0.5, (y1 + y2) / 800 - 0.5]
    scales, shifts = torch.tensor(scales), torch.tensor(shifts)
    assert 0.4 < float((scales != 1).float().mean()) < 0.6
    assert 1.15 < scales.max() < 1.21 and 1 / 1.21 < scales.min() < 1 / 1.15
    assert 0.09 < shifts.max() < 0.105 and -0.105 < shifts.min() < -0.09
    colours = torch.stack([ColourJitter()(torch.full((3, 1, 1), 200, dtype=torch.uint8))
                           for _ in range(200)]).flatten().float()  # fmt: skip
    # Brightness times contrast around mid-grey.
    assert 250 < colours.max() and colours.min() < 160


def test_an_image_without_objects():
    image, target = painted()
    nothing = {
        "boxes": tv_tensors.BoundingBoxes(torch.zeros(0, 4), format="XYXY", canvas_size=(40, 40)),
        "labels": target["labels"][:0],
    }
    moved = 0
    for seed in range(16):
        torch.manual_seed(seed)
        changed, after = light()(image, nothing)
        assert changed.shape == image.shape
        assert after["boxes"].shape == (0, 4) and after["labels"].shape == (0,)
        moved += int(white(changed).sum()) != int(white(image).sum())
    assert moved > 2, "these images are moved like others"
