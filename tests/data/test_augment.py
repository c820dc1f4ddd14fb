"""Random changes of a batch: the boxes go where the pixels go."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cvlib.data.augment import augment_batch

SIZES = [(40, 40), (24, 56), (56, 24)]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def painted(count, size=(40, 40), seed=0):
    """Black images with one white rectangle each, its box, and a row of padding."""
    images = torch.zeros(count, 3, *size, dtype=torch.uint8)
    boxes = torch.full((count, 2, 4), -1.0)
    draw = generator(seed)
    for i in range(count):
        x1, y1 = (int(torch.randint(0, side - 11, (), generator=draw)) for side in reversed(size))
        width, height = (int(torch.randint(5, 11, (), generator=draw)) for _ in range(2))
        images[i, :, y1 : y1 + height, x1 : x1 + width] = 255
        boxes[i, 0] = torch.tensor([x1, y1, x1 + width, y1 + height])
    labels = torch.tensor([[7, -1]]).repeat(count, 1)
    return images, boxes, labels


def extent(image):
    """The box of the white pixels, whatever colour they have become; frames are darker."""
    grey = image.float().mean(0)
    bright = grey > grey.min() + 0.75 * (grey.max() - grey.min())
    ys, xs = bright.nonzero(as_tuple=True)
    return torch.tensor([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]).float()


@given(seed=st.integers(0, 10**6), size=st.sampled_from(SIZES))
def test_boxes_follow_the_pixels(seed, size):
    images, boxes, labels = painted(4, size, seed)
    changed, moved, kept = augment_batch(images, boxes, labels, generator(seed))
    assert changed.shape == images.shape
    for i in range(4):
        if kept[i, 0] >= 0:
            # A border between pixels may be counted to either side.
            assert (extent(changed[i]) - moved[i, 0]).abs().max() <= 1


def test_boxes_of_mirrored_and_turned_images_are_exact():
    images, boxes, labels = painted(64)
    changed, moved, _ = augment_batch(images, boxes, labels, generator())
    sides = boxes[:, 0, 2:] - boxes[:, 0, :2]
    new_sides = moved[:, 0, 2:] - moved[:, 0, :2]
    rigid = (sides.sort().values == new_sides.sort().values).all(1)
    assert rigid.sum() >= 8
    for i in rigid.nonzero()[:, 0].tolist():
        assert torch.equal(extent(changed[i]), moved[i, 0])


@pytest.mark.parametrize("size", SIZES)
def test_boxes_stay_inside_and_in_order(size):
    _, moved, kept = augment_batch(*painted(64, size), generator())
    found = moved[kept >= 0]
    assert len(found) > 32
    assert found.min() >= 0
    assert (found <= torch.tensor([size[1], size[0]] * 2)).all()
    assert (found[:, 2:] > found[:, :2]).all()


def test_padding_stays_padding_and_labels_stay_with_their_boxes():
    images, boxes, labels = painted(64)
    _, moved, kept = augment_batch(images, boxes, labels, generator())
    assert (moved[:, 1] == -1).all()
    assert (kept[:, 1] == -1).all()
    assert set(kept[:, 0].tolist()) <= {7, -1}
    # An object that is dropped becomes padding, label and box alike.
    assert torch.equal(kept == -1, (moved == -1).all(-1))


def test_what_is_dropped_is_hardly_to_be_seen():
    # Half of the objects touch the border, where shifts may push them out.
    images, boxes, labels = painted(256)
    changed, _, kept = augment_batch(images, boxes, labels, generator())
    areas = (boxes[:, 0, 2:] - boxes[:, 0, :2]).prod(1)
    for i in range(256):
        x1, y1, x2, y2 = extent(changed[i]).tolist()
        visible = (x2 - x1) * (y2 - y1) / float(areas[i])
        if kept[i, 0] < 0:
            assert visible < 0.9
        else:
            assert visible > 0.3


def test_several_objects_keep_their_order():
    images = torch.zeros(16, 3, 60, 60, dtype=torch.uint8)
    boxes = torch.tensor([[20.0, 20, 30, 30], [32, 22, 40, 45], [21, 33, 30, 40]]).repeat(16, 1, 1)
    labels = torch.tensor([[4, 5, 6]]).repeat(16, 1)
    _, moved, kept = augment_batch(images, boxes, labels, generator())
    assert torch.equal(kept, labels), "nothing is near the border"
    areas = (moved[..., 2:] - moved[..., :2]).prod(-1)
    expected = torch.tensor([100.0, 184, 63])
    ratios = areas / expected
    torch.testing.assert_close(ratios, ratios[:, :1].expand(-1, 3), rtol=1e-4, atol=1e-4)


def test_a_box_at_the_origin_is_not_taken_for_padding():
    images, boxes, labels = painted(32)
    boxes[:, 0] = torch.tensor([0.0, 0.0, 8.0, 10.0])
    images.zero_()[:, :, :10, :8] = 255
    changed, moved, kept = augment_batch(images, boxes, labels, generator())
    for i in range(32):
        if kept[i, 0] >= 0:
            assert (extent(changed[i]) - moved[i, 0]).abs().max() <= 1
    assert (kept[:, 0] >= 0).sum() > 16


def test_a_image_of_one_colour_keeps_one_colour():
    # Mixing channels in place could read what was just written.
    images = torch.tensor([200, 90, 30], dtype=torch.uint8).view(1, 3, 1, 1)
    images = images.repeat(32, 1, 20, 20)
    changed, _, _ = augment_batch(*((images, *painted(32)[1:])), generator())
    middle = changed[:, :, 8:12, 8:12].flatten(2)
    assert (middle == middle[..., :1]).all()
    assert ((middle[:, 0] > middle[:, 1]) & (middle[:, 1] > middle[:, 2])).all(), "still orange"


def test_images_stay_images():
    images, boxes, labels = painted(8)
    changed, moved, kept = augment_batch(
        torch.randint_like(images, 0, 256), boxes, labels, generator()
    )
    assert changed.dtype == torch.uint8
    assert moved.dtype == torch.float32
    assert kept.dtype == torch.int64


def test_the_generator_alone_decides():
    batch = painted(8)
    first = augment_batch(*batch, generator(3))
    torch.manual_seed(99)
    second = augment_batch(*batch, generator(3))
    other = augment_batch(*batch, generator(4))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[0], other[0])
    assert not torch.equal(first[1], other[1])


def test_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    augment_batch(*painted(2), generator())
    assert torch.equal(torch.get_rng_state(), before)


def test_input_is_left_alone():
    batch = painted(32)
    copies = [one.clone() for one in batch]
    augment_batch(*batch, generator())
    interleaved = batch[0].contiguous(memory_format=torch.channels_last)
    augment_batch(interleaved, *batch[1:], generator())
    assert all(torch.equal(a, b) for a, b in zip(batch, copies, strict=True))
    assert torch.equal(interleaved, copies[0])


def test_memory_order_of_the_input_does_not_matter():
    images, boxes, labels = painted(8)
    interleaved = images.contiguous(memory_format=torch.channels_last)
    one = augment_batch(images, boxes, labels, generator())
    two = augment_batch(interleaved, boxes, labels, generator())
    assert torch.equal(one[0], two[0])


def test_images_differ_from_one_another():
    images, boxes, labels = painted(1)
    images = torch.randint_like(images, 60, 200)  # colours that no change clips
    changed, moved, _ = augment_batch(
        images.repeat(64, 1, 1, 1), boxes.repeat(64, 1, 1), labels.repeat(64, 1), generator()
    )
    assert len(moved[:, 0].unique(dim=0)) >= 8, "mirrored and turned in every way"
    assert len(changed.unique(dim=0)) == 64


def test_a_batch_without_objects():
    images, boxes, labels = painted(3)
    nothing = torch.full_like(boxes, -1), torch.full_like(labels, -1)
    changed, moved, kept = augment_batch(images, *nothing, generator())
    assert changed.shape == images.shape
    assert (moved == -1).all()
    assert (kept == -1).all()
    _, moved, kept = augment_batch(images, boxes[:, :0], labels[:, :0], generator())
    assert moved.shape == (3, 0, 4)
    assert kept.shape == (3, 0)
