"""Recipes, colours, transforms of several samples, and the dataset that applies them."""

import pickle
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from torchvision import tv_tensors

sys.path.insert(0, str(Path(__file__).parent))
from samples import SAMPLES, SIZE, Listed, detection_sample

from cvlib.data import SyntheticBananas, collate
from cvlib.data.transforms import (
    RECIPES,
    ColourJitter,
    CopyPaste,
    Geometry,
    HorizontalFlip,
    Mosaic,
    PhotometricDistortion,
    Resize,
    TransformedDataset,
    make_transform,
)
from cvlib.data.transforms.multi_image import Chain
from cvlib.ops import masks_to_boxes

ALL = [(task, recipe) for task in RECIPES for recipe in RECIPES[task]]
IMAGE_SIZE = (40, 56)


def listed(task, count=6):
    if task == "detection":
        samples = [
            detection_sample(i % 4, (40 + 5 * i, 64), i, masks=True, image_id=i)
            for i in range(count)
        ]
    else:
        samples = [SAMPLES[task](size=(40 + 5 * i, 64), seed=i) for i in range(count)]
    return Listed(samples)


def same_sample(one, other):
    assert torch.equal(one[0], other[0])
    assert one[1].keys() == other[1].keys()
    for name, value in one[1].items():
        assert torch.equal(torch.as_tensor(value), torch.as_tensor(other[1][name])), name


@pytest.mark.parametrize("task, recipe", ALL)
@pytest.mark.parametrize("train", [True, False])
def test_every_recipe_gives_samples_that_make_a_batch(task, recipe, train):
    dataset = TransformedDataset(
        listed(task), make_transform(recipe, task, IMAGE_SIZE, train=train)
    )
    for epoch in range(4):
        samples = [dataset[epoch, i] for i in range(len(dataset))]
        images, targets = collate(samples)
        assert images.shape == (6, 3, *IMAGE_SIZE)
        assert all(isinstance(image, tv_tensors.Image) for image, _ in samples)
        if task == "segmentation":
            assert targets["mask"].shape == (6, *IMAGE_SIZE)
            assert set(targets["mask"].unique().tolist()) <= {0, 3, 255}
        if task == "classification":
            assert targets["label"].tolist() == [2] * 6
        if task == "detection":
            for _, target in samples:
                boxes = target["boxes"].as_subclass(torch.Tensor)
                assert target["boxes"].canvas_size == IMAGE_SIZE
                assert torch.equal(boxes, masks_to_boxes(target["masks"].as_subclass(torch.Tensor)))
                assert len(boxes) == len(target["labels"]) == len(target["area"])
                assert len(boxes) == len(target["iscrowd"]) == len(target["masks"])


@pytest.mark.parametrize("task, recipe", ALL)
def test_training_is_random_and_validation_is_not(task, recipe):
    data = listed(task)
    train = TransformedDataset(data, make_transform(recipe, task, IMAGE_SIZE, train=True))
    val = TransformedDataset(data, make_transform(recipe, task, IMAGE_SIZE, train=False))
    changes = [not torch.equal(train[epoch, 3][0], train[0, 3][0]) for epoch in range(1, 9)]
    assert any(changes) == (recipe != "none")
    same_sample(val[0, 3], val[7, 3])


@pytest.mark.parametrize("task, recipe", ALL)
def test_recipes_are_described_and_can_be_sent_to_workers(task, recipe):
    assert RECIPES[task][recipe].endswith(".")
    transform = make_transform(recipe, task, IMAGE_SIZE, train=True)
    data = listed(task)
    copy = pickle.loads(pickle.dumps(TransformedDataset(data, transform, 3)))
    same_sample(copy[2, 1], TransformedDataset(data, transform, 3)[2, 1])
    assert "(" in repr(transform)


@pytest.mark.parametrize("recipe", [name for name in RECIPES["detection"] if name != "lsj"])
def test_boxes_stay_on_the_bananas(recipe):
    """A banana's box, moved with the image, still holds the pixels that it held."""
    bananas = SyntheticBananas(6, image_size=128)
    painted = []
    for i in range(6):
        image, target = bananas[i]
        flat = torch.zeros_like(image)
        for x1, y1, x2, y2 in target["boxes"].int().tolist():
            flat[:, y1:y2, x1:x2] = 255
        painted.append((flat, target))
    dataset = TransformedDataset(
        Listed(painted), make_transform(recipe, "detection", (96, 96), train=True)
    )
    inside = []
    for epoch in range(5):
        for i in range(6):
            image, target = dataset[epoch, i]
            for x1, y1, x2, y2 in target["boxes"].round().int().tolist():
                bright = image[:, y1:y2, x1:x2].float().amax(0)
                inside.append(float((bright > bright.max() * 0.7).float().mean()))
    assert len(inside) >= 15
    assert np.mean(inside) > 0.97


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("ssd", "guessing", (9, 9)), "expected `task` to be one of detection, segmentation, clas"),
        (("sdd", "detection", (9, 9)), "expected `recipe` for detection to be one of ssd, light, "),
        (("ssd", "segmentation", (9, 9)), "expected `recipe` for segmentation to be one of segm"),
        (
            ("ssd", "detection", (0, 9)),
            r"make_transform: expected `framing` to be \(height",
        ),
    ],
)
def test_unknown_recipes(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_transform(*arguments, train=True)


def test_zero_strength_changes_nothing():
    image, target = detection_sample()
    assert PhotometricDistortion(p=0.0)(image, target)[0] is image
    jittered, same = ColourJitter(0.0)(image, target)
    assert torch.equal(jittered, image) and same is target


def test_grey_stays_grey_under_hue_and_saturation():
    grey = torch.arange(256, dtype=torch.uint8).expand(3, 1, 256).contiguous()
    distort = PhotometricDistortion(0.0, (1.0, 1.0), (0.0, 2.0), 180.0, p=1.0)
    for _ in range(20):
        assert (distort(grey).int() - grey.int()).abs().max() <= 1


def test_saturation_zero_makes_grey():
    image, _ = detection_sample()
    image = torch.randint_like(image, 0, 256)
    distort = PhotometricDistortion(0.0, (1.0, 1.0), (0.0, 0.0), 0.0, p=1.0)
    changed = distort(image).int()
    assert (changed - changed[:1]).abs().max() <= 1


def test_brightness_and_contrast_by_hand():
    image = torch.full((3, 2, 2), 100, dtype=torch.uint8)
    for _ in range(20):
        value = PhotometricDistortion(32.0, (0.5, 0.5), (1.0, 1.0), 0.0, p=1.0)(image)
        assert 50 - 17 <= int(value.min()) == int(value.max()) <= 50 + 17


def test_colours_vary_and_the_input_is_not_modified():
    image, target = detection_sample()
    before = image.clone()
    results = {PhotometricDistortion()(image, target)[0].numpy().tobytes() for _ in range(20)}
    assert len(results) > 10
    assert torch.equal(image, before)


@pytest.mark.parametrize(
    "make, message",
    [
        (
            lambda: PhotometricDistortion(contrast=(2, 1)),
            "expected `contrast` to be .low, high. with",
        ),
        (
            lambda: PhotometricDistortion(p=3),
            r"Distortion: expected `p` to be in \[0, 1\], got 3",
        ),
        (
            lambda: ColourJitter(2.0),
            r"ColourJitter: expected `strength` to be in \[0, 1\]",
        ),
    ],
)
def test_wrong_colours(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def flat_sample(value, size=(40, 40)):
    """An image of one colour that is one object; its label is the colour."""
    image = torch.full((3, *size), value, dtype=torch.uint8)
    box = torch.tensor([[0.0, 0, size[1], size[0]]])
    masks = torch.ones(1, *size, dtype=torch.uint8)
    return tv_tensors.Image(image), {
        "boxes": tv_tensors.BoundingBoxes(box, format="XYXY", canvas_size=size),
        "labels": torch.tensor([value]),
        "image_id": value,
        "area": torch.tensor([float(size[0] * size[1])]),
        "iscrowd": torch.zeros(1, dtype=torch.int64),
        "masks": tv_tensors.Mask(masks),
    }


def test_mosaic_has_four_quarters_and_their_objects():
    mosaic = Mosaic((60, 80), p=1.0)
    assert mosaic.partners() == 3
    samples = [flat_sample(value) for value in (50, 100, 150, 200)]
    image, target = mosaic(*samples[0], *samples[1:])
    assert image.shape == (3, 60, 80) and target["image_id"] == 50
    assert target["labels"].tolist() == [50, 100, 150, 200]
    assert float(target["area"].sum()) == 60 * 80, "the quarters cover everything"
    for label, box, mask in zip(
        target["labels"], target["boxes"].int().tolist(), target["masks"], strict=True
    ):
        x1, y1, x2, y2 = box
        assert (image[:, y1:y2, x1:x2] == label).all()
        assert mask[y1:y2, x1:x2].all() and mask.sum() == (x2 - x1) * (y2 - y1)
        assert x2 - x1 >= 0.3 * 80 - 1 and y2 - y1 >= 0.3 * 60 - 1


def test_mosaic_alone_and_with_a_wrong_number():
    mosaic = Mosaic((60, 80), p=0.0)
    assert mosaic.partners() == 0
    image, target = mosaic(*flat_sample(9))
    assert image.shape == (3, 60, 80) and target["labels"].tolist() == [9]
    with pytest.raises(ValueError, match="Mosaic: expected 3 `partners` or none, got 1"):
        mosaic(*flat_sample(9), flat_sample(8))
    with pytest.raises(ValueError, match="Mosaic: expected `target` to have boxes, got label"):
        mosaic(flat_sample(9)[0], {"label": torch.tensor(1)})


def test_mosaic_refuses_targets_of_two_kinds():
    samples = [flat_sample(value) for value in (50, 100, 150, 200)]
    del samples[2][1]["masks"]
    with pytest.raises(ValueError, match="join_targets: expected all `targets` to have the same"):
        Mosaic((60, 80))(*samples[0], *samples[1:])


def test_pasted_objects_hide_what_is_below():
    image, target = detection_sample(3, masks=True)
    image = torch.zeros_like(image)
    pasted, other = detection_sample(4, seed=9, masks=True)
    other["iscrowd"] = torch.tensor([0, 0, 0, 1])
    other["labels"] = other["labels"] + 10
    paste = CopyPaste(Geometry([]), p=1.0)
    assert paste.partners() == 1
    pasted_labels = set()
    for seed in range(20):
        torch.manual_seed(seed)
        result, joined = paste(image, target, (pasted, other))
        labels = joined["labels"].tolist()
        pasted_labels |= set(labels)
        masks = joined["masks"].as_subclass(torch.Tensor)
        above = masks[joined["labels"] >= 10].sum(0) > 0
        below = masks[joined["labels"] < 10].sum(0) > 0
        assert not (above & below).any(), "hidden pixels belong to no object"
        assert torch.equal(result[:, above], pasted[:, above])
        assert not result[:, ~above].any()
        for mask, box in zip(masks, joined["boxes"].as_subclass(torch.Tensor), strict=True):
            assert torch.equal(masks_to_boxes(mask[None])[0], box)
    assert {10, 11, 12} <= pasted_labels and 13 not in pasted_labels, "crowds are not pasted"


def test_hidden_objects_are_removed():
    below, above = flat_sample(10), flat_sample(20)
    for seed in range(10):
        torch.manual_seed(seed)
        image, joined = CopyPaste(Geometry([]), p=1.0)(*below, above)
        assert joined["labels"].tolist() == [int(image[0, 0, 0])]


def test_copy_paste_without_masks_only_transforms():
    image, target = detection_sample(2)
    paste = CopyPaste(HorizontalFlip(1.0), p=1.0)
    same_sample(paste(image, target, (image, target)), HorizontalFlip(1.0)(image, target))
    assert CopyPaste(HorizontalFlip(), p=0.0).partners() == 0


def test_copy_paste_refuses_other_sizes_and_more_partners():
    one, other = flat_sample(1), flat_sample(2, (30, 30))
    with pytest.raises(ValueError, match=r"images of one size, got \(40, 40\) and \(30, 30\)"):
        CopyPaste(Geometry([]))(*one, other)
    with pytest.raises(ValueError, match="CopyPaste: expected 1 of `partners` or none, got 2"):
        CopyPaste(Geometry([]))(*one, one, one)


class Noise:
    """A transform that draws from all three global generators."""

    def __call__(self, image, target):
        numbers = [float(torch.rand(())), np.random.rand(), random.random()]  # noqa: NPY002
        return image, target | {"noise": torch.tensor(numbers, dtype=torch.float64)}


def noise(dataset, item):
    return dataset[item][1]["noise"].tolist()


def test_numbers_follow_from_seed_epoch_and_index_alone():
    data = listed("detection")
    first = TransformedDataset(data, Noise(), seed=5)
    numbers = {(e, i): noise(first, (e, i)) for e in range(3) for i in range(6)}
    flat = [number for three in numbers.values() for number in three]
    assert len(set(flat)) == len(flat), "all differ"
    random.seed(77), np.random.seed(77), torch.manual_seed(77)  # noqa: NPY002
    second = TransformedDataset(data, Noise(), seed=5)
    assert all(noise(second, item) == numbers[item] for item in reversed(list(numbers)))
    assert noise(second, 4) == numbers[0, 4] == noise(second, -2) == noise(second, (0, -2))
    other = TransformedDataset(data, Noise(), seed=6)
    assert not set(noise(other, (0, 0))) & set(flat)


def test_global_generators_are_left_as_they_were():
    dataset = TransformedDataset(listed("detection"), Noise())
    np.random.standard_normal()  # noqa: NPY002 - half of a pair is kept for the next call
    states = torch.get_rng_state(), random.getstate(), str(np.random.get_state())  # noqa: NPY002
    dataset[1, 2]
    dataset.__getitems__([(1, 2), 0])
    with pytest.raises(IndexError):
        dataset[1, 99]
    dataset.transform = lambda image, target: 1 / 0
    with pytest.raises(ZeroDivisionError):
        dataset[0]
    with pytest.raises(ZeroDivisionError):
        dataset.__getitems__([0, 1])
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert str(np.random.get_state()) == states[2]  # noqa: NPY002


def test_nested_datasets_have_their_own_random_numbers():
    data = listed("detection")
    inner = TransformedDataset(data, Noise(), seed=1)
    alone = noise(TransformedDataset(data, Noise(), seed=2), 3)
    outer = TransformedDataset(inner, Noise(), seed=2)
    assert noise(outer, 3) == alone != noise(inner, 3)
    assert outer.__getitems__([2, 3])[1][1]["noise"].tolist() == alone


@pytest.mark.parametrize("transform", ["noise", "mosaic"])
def test_a_batch_is_its_samples(transform):
    mosaic = make_transform("mosaic", "detection", (32, 32), train=True)
    dataset = TransformedDataset(
        listed("detection"), Noise() if transform == "noise" else mosaic, seed=3
    )
    items = [(2, 4), 1, (0, 1), -1]
    for one, item in zip(dataset.__getitems__(items), items, strict=True):
        same_sample(one, dataset[item])
    for one, item in zip(
        next(iter(DataLoader(dataset, 3, collate_fn=list))), range(3), strict=True
    ):
        same_sample(one, dataset[item])


def test_numpy_may_have_another_generator():
    dataset = TransformedDataset(listed("detection"), Noise(), seed=5)
    numbers, own = noise(dataset, 1), np.random.get_bit_generator()
    np.random.set_bit_generator(np.random.PCG64(1))
    try:
        state = str(np.random.get_state(legacy=False))  # noqa: NPY002
        assert noise(dataset, 1) == numbers
        assert str(np.random.get_state(legacy=False)) == state  # noqa: NPY002
    finally:
        np.random.set_bit_generator(own)


@pytest.mark.parametrize("recipe", ["mosaic", "lsj"])
def test_workers_change_nothing(recipe):
    dataset = TransformedDataset(
        listed("detection"), make_transform(recipe, "detection", (32, 32), train=True), 11
    )
    items = [(epoch, index) for epoch in range(2) for index in (3, 0, 5)]
    alone = [dataset[item] for item in items]
    loaded = list(DataLoader(dataset, None, sampler=items, num_workers=2))
    for one, other in zip(alone, loaded, strict=True):
        same_sample(one, other)


def test_partners_are_drawn_from_the_dataset_with_the_same_numbers():
    asked = []

    class Watched(Listed):
        def __getitem__(self, index):
            asked.append(index)
            return super().__getitem__(index)

    dataset = TransformedDataset(
        Watched(listed("detection").samples), Chain(Mosaic((32, 32), p=1.0), ColourJitter()), 1
    )
    dataset[0, 2], dataset[1, 2], dataset[0, 2]
    assert len(asked) == 12 and asked[::4] == [2, 2, 2]
    assert asked[:4] == asked[8:] != asked[4:8]


def test_it_looks_like_the_dataset():
    data = listed("detection")
    dataset = TransformedDataset(data, Resize(SIZE))
    assert len(dataset) == 6
    assert dataset.classes == ("a", "b", "c") and dataset.task == "detection"
    with pytest.raises(IndexError, match="TransformedDataset: expected `index` below 6, got 6"):
        dataset[6]
    with pytest.raises(ValueError, match="TransformedDataset: expected `seed` to fit in 64 bits"):
        TransformedDataset(data, Resize(SIZE), 2**64)


def test_real_images_go_through_every_recipe(test_data):
    from cvlib.data import BananaDataset

    bananas = BananaDataset(test_data / "banana-detection", "val")
    for recipe in RECIPES["detection"]:
        transform = make_transform(recipe, "detection", (256, 256), train=True)
        dataset = TransformedDataset(bananas, transform)
        _, targets = collate([dataset[1, i] for i in range(0, 50, 10)])
        assert (targets["labels"] >= 0).any()
