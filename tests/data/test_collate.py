"""collate: stacking, padding, and the errors that name a sample."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision import tv_tensors

from cvlib.data import SyntheticBananas, collate
from cvlib.geometry.view import BORDER


def sample(count, image_id=0, size=(6, 8)):
    generator = torch.Generator().manual_seed(image_id)
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator)
    boxes = torch.rand(count, 4, generator=generator)
    target = {
        "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=size),
        "labels": torch.arange(count),
        "image_id": image_id,
    }
    return tv_tensors.Image(image), target


def test_by_hand():
    samples = [sample(2, 4), sample(0, 5), sample(1, 6)]
    images, targets = collate(samples)
    assert images.shape == (3, 3, 6, 8)
    assert images.dtype == torch.uint8
    assert targets["boxes"].dtype == torch.float32
    assert targets["labels"].dtype == targets["image_id"].dtype == torch.int64
    assert targets["labels"].tolist() == [[0, 1], [-1, -1], [0, -1]]
    assert targets["image_id"].tolist() == [4, 5, 6]
    assert targets["boxes"][1].tolist() == [[-1] * 4] * 2
    assert targets["boxes"][2, 1].tolist() == [-1] * 4
    assert type(images) is type(targets["boxes"]) is torch.Tensor


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=6))
def test_nothing_is_lost_or_moved(counts):
    samples = [sample(count, index) for index, count in enumerate(counts)]
    images, targets = collate(samples)
    assert targets["boxes"].shape == (len(counts), max(1, *counts, 1), 4)
    for row, (image, target) in enumerate(samples):
        count = counts[row]
        assert torch.equal(images[row], image.as_subclass(torch.Tensor))
        assert torch.equal(targets["boxes"][row, :count], target["boxes"].as_subclass(torch.Tensor))
        assert torch.equal(targets["labels"][row, :count], target["labels"])
        assert torch.all(targets["boxes"][row, count:] == -1)
        assert torch.all(targets["labels"][row, count:] == -1)


def test_batch_of_empty_images_keeps_one_slot():
    _, targets = collate([sample(0), sample(0)])
    assert targets["boxes"].tolist() == [[[-1] * 4]] * 2
    assert targets["labels"].tolist() == [[-1]] * 2


def test_takes_dataset_samples():
    bananas = SyntheticBananas(4, image_size=64)
    images, targets = collate([bananas[i] for i in range(4)])
    assert images.shape == (4, 3, 64, 64)
    assert targets["image_id"].tolist() == [0, 1, 2, 3]


def detection(count, image_id, size=(6, 8)):
    image, target = sample(count, image_id, size)
    masks = torch.ones(count, *size, dtype=torch.uint8) * (image_id + 1)
    return image, target | {
        "iscrowd": torch.arange(count) % 2,
        "masks": tv_tensors.Mask(masks),
        "area": torch.ones(count),
    }


def test_crowds_are_padded_and_masks_listed():
    _, targets = collate([detection(3, 0), detection(0, 1), detection(1, 2)])
    assert targets["iscrowd"].tolist() == [[0, 1, 0], [-1] * 3, [0, -1, -1]]
    assert targets["iscrowd"].dtype == torch.int64
    assert [tuple(masks.shape) for masks in targets["masks"]] == [(3, 6, 8), (0, 6, 8), (1, 6, 8)]
    assert targets["masks"][2].unique().tolist() == [3]
    assert all(type(masks) is torch.Tensor for masks in targets["masks"])
    assert targets.keys() == {"size", "boxes", "labels", "image_id", "iscrowd", "masks"}


def test_crowds_and_masks_are_left_out_where_a_sample_has_none():
    _, targets = collate([detection(3, 0), sample(1, 1)])
    assert targets.keys() == {"size", "boxes", "labels", "image_id"}


def test_maps_of_classes_are_stacked():
    maps = [torch.full((6, 8), value, dtype=torch.uint8) for value in (3, 255)]
    samples = [(sample(0)[0], {"mask": tv_tensors.Mask(m), "image_id": 4}) for m in maps]
    images, targets = collate(samples)
    assert images.shape == (2, 3, 6, 8)
    assert torch.equal(targets["mask"], torch.stack(maps))
    assert targets["mask"].dtype == torch.uint8 and type(targets["mask"]) is torch.Tensor
    assert targets["image_id"].tolist() == [4, 4]


def test_labels_of_images_are_stacked():
    samples = [(sample(0)[0], {"label": torch.tensor(k), "image_id": k}) for k in (2, 0)]
    _, targets = collate(samples)
    assert targets["label"].tolist() == [2, 0] and targets["label"].dtype == torch.int64


def test_interleaved_images_stay_interleaved():
    samples = [sample(1, i) for i in range(3)]
    plain, _ = collate(samples)
    interleaved = [
        (image.permute(1, 2, 0).contiguous().permute(2, 0, 1), target) for image, target in samples
    ]
    images, _ = collate(interleaved)
    assert torch.equal(images, plain)
    assert plain.is_contiguous()
    assert images.is_contiguous(memory_format=torch.channels_last)
    mixed, _ = collate([interleaved[0], *samples[1:]])
    assert torch.equal(mixed, plain)


@pytest.mark.parametrize("other", [{"label": torch.tensor(1)}, {}])
def test_samples_of_two_tasks(other):
    with pytest.raises(ValueError, match="all have boxes, mask or label, got boxes in image_id 3"):
        collate([sample(1, 3), (sample(1)[0], other | {"image_id": 4})])


def test_mask_of_another_size():
    target = {"mask": torch.zeros(6, 9, dtype=torch.uint8), "image_id": 5}
    message = r"expected `mask` of the image's size \(6, 8\), got \(6, 9\) in image_id 5"
    with pytest.raises(ValueError, match=message):
        collate([(sample(0)[0], target)])


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("iscrowd", torch.zeros(1), r"`iscrowd` of shape \(2,\), one row per box, got \(1,\)"),
        ("masks", torch.zeros(2, 6, 6), r"`masks` of shape \(2, 6, 8\), .*, got \(2, 6, 6\)"),
    ],
)
def test_rows_and_boxes_disagree(name, value, message):
    image, target = detection(2, 5)
    with pytest.raises(ValueError, match=message):
        collate([(image, target | {name: value})])


def test_no_samples():
    with pytest.raises(ValueError, match="collate: expected at least one sample, got none"):
        collate([])


def test_images_of_different_sizes_are_padded():
    samples = [sample(1, 3), sample(2, 7, (9, 5))]
    images, targets = collate(samples, multiple=4)
    assert images.shape == (2, 3, 12, 8)
    assert targets["size"].tolist() == [[6, 8], [9, 5]]
    for image, (original, _), (height, width) in zip(
        images, samples, targets["size"].tolist(), strict=True
    ):
        assert torch.equal(image[:, :height, :width], original)
        assert (image[:, height:] == torch.tensor(BORDER)[:, None, None]).all()
        assert (image[:, :, width:] == torch.tensor(BORDER)[:, None, None]).all()


def test_masks_and_class_maps_are_padded_with_their_images():
    (small, one), (large, two) = detection(2, 5), detection(1, 6)
    large = torch.zeros(3, 9, 8, dtype=torch.uint8)
    two["masks"] = torch.ones(1, 9, 8, dtype=torch.uint8)
    one["masks"] = torch.ones(2, 6, 8, dtype=torch.uint8)
    _, targets = collate([(small, one), (large, two)])
    assert [mask.shape for mask in targets["masks"]] == [(2, 9, 8), (1, 9, 8)]
    assert targets["masks"][0].sum() == 2 * 6 * 8
    maps = [torch.zeros(6, 8, dtype=torch.uint8), torch.zeros(9, 8, dtype=torch.uint8)]
    _, targets = collate(
        [(i, {"mask": m, "image_id": 0}) for i, m in zip((small, large), maps, strict=True)]
    )
    assert (targets["mask"][0, 6:] == 255).all() and (targets["mask"][0, :6] == 0).all()


def test_float_images():
    image, target = sample(1, 5)
    with pytest.raises(TypeError, match=r"to be uint8, got torch.float32 in image_id 5"):
        collate([(image.float(), target)])


def test_grey_images():
    image, target = sample(1, 5)
    with pytest.raises(ValueError, match=r"shape \(3, H, W\), got \(1, 6, 8\) in image_id 5"):
        collate([(image[:1], target)])


def test_boxes_and_labels_disagree():
    image, target = sample(2, 5)
    target["labels"] = target["labels"][:1]
    with pytest.raises(ValueError, match=r"got \(2, 4\) and \(1,\) in image_id 5"):
        collate([(image, target)])
