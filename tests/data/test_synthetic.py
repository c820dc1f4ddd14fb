"""SyntheticBananas: properties of boxes, and independence from everything but the seed."""

import pickle
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader
from torchvision import tv_tensors
from torchvision.ops import box_iou
from torchvision.transforms import v2

from cvlib.data import SyntheticBananas, collate
from cvlib.data.synthetic import banana_painter as painter
from cvlib.data.synthetic import bananas as synthetic
from cvlib.ops import masks_to_boxes


def are_equal(first, second):
    (image, target), (other_image, other_target) = first, second
    return torch.equal(image, other_image) and all(
        torch.equal(torch.as_tensor(target[key]), torch.as_tensor(other_target[key]))
        for key in target
    )


@pytest.fixture(scope="module")
def samples():
    bananas = SyntheticBananas(400, image_size=128, seed=3)
    return [bananas[index] for index in range(len(bananas))]


def test_sample():
    dataset = SyntheticBananas(9)
    image, target = dataset[-1]
    assert len(dataset) == 9
    assert dataset.classes == ("banana",)
    assert isinstance(image, tv_tensors.Image)
    assert image.shape == (3, 256, 256)
    assert image.dtype == torch.uint8
    assert image.is_contiguous()
    assert isinstance(target["boxes"], tv_tensors.BoundingBoxes)
    assert target["boxes"].dtype == target["area"].dtype == torch.float32
    assert target["boxes"].canvas_size == (256, 256)
    assert target["labels"].dtype == target["iscrowd"].dtype == torch.int64
    assert target["image_id"] == 8


def test_transform_gets_the_pair():
    plain, flipped = (
        SyntheticBananas(3, image_size=64, transform=transform)[2]
        for transform in (None, v2.RandomHorizontalFlip(1.0))
    )
    assert torch.equal(plain[0].flip(-1), flipped[0])
    assert torch.equal(64 - plain[1]["boxes"][:, 2], flipped[1]["boxes"][:, 0])


def test_boxes_lie_inside_and_are_large_enough(samples):
    boxes = torch.cat([target["boxes"].as_subclass(torch.Tensor) for _, target in samples])
    sides = boxes[:, 2:] - boxes[:, :2]
    assert boxes.min() >= 0
    assert boxes.max() <= 128
    assert torch.quantile(sides.amax(1), 0.02) >= 0.19 * 128
    assert sides.amax() <= 0.61 * 128
    assert sides.amin() >= 0.05 * 128


def test_area_and_labels_match_boxes(samples):
    for _, target in samples:
        boxes = target["boxes"]
        assert torch.equal(
            target["area"], (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        )
        assert target["labels"].tolist() == target["iscrowd"].tolist() == [0] * len(boxes)


def test_pairs_do_not_overlap_too_much(samples):
    for _, target in samples:
        boxes = target["boxes"].as_subclass(torch.Tensor)
        assert torch.all(box_iou(boxes, boxes).triu(1) <= 0.35 + 1e-6)


def test_numbers_of_objects(samples):
    counts = np.bincount([len(target["boxes"]) for _, target in samples])
    assert len(counts) == 5
    assert 0.04 < counts[0] / len(samples) < 0.11
    assert np.all(counts[1:] > 0.05 * len(samples))


@pytest.mark.parametrize("most", [1, 12])
def test_max_objects(most):
    bananas = SyntheticBananas(60, image_size=64, max_objects=most)
    counts = [len(bananas[index][1]["labels"]) for index in range(60)]
    assert max(counts) <= most
    assert most == 1 or max(counts) > 4


def test_images_are_diverse(samples):
    means = torch.stack([image.float().mean((1, 2)) for image, _ in samples])
    assert torch.all(means.std(0) > 25)


@pytest.mark.parametrize("size", [32, 75, 300])
def test_sizes(size):
    bananas = SyntheticBananas(20, image_size=size)
    for index in range(20):
        image, target = bananas[index]
        assert image.shape == (3, size, size)
        assert target["boxes"].canvas_size == (size, size)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    side=st.floats(25, 150),
    x=st.floats(0, 200),
    y=st.floats(0, 200),
)
def test_box_is_the_extent_of_the_drawn_pixels(seed, side, x, y):
    rng = np.random.default_rng(seed)
    peel, pose = painter.random_peel(rng), painter.random_pose(rng)
    unit = painter.bounding_box(peel, pose)
    half = (unit[2:] - unit[:2]) * (side / (unit[2:] - unit[:2]).max() / 2)
    center = np.array([x, y])
    banana = painter.place(peel, pose, np.concatenate([center - half, center + half]))
    blue = np.zeros((200, 200, 3), np.uint8) + np.array([0, 0, 255], np.uint8)
    scene = synthetic._Scene(blue.copy(), np.zeros((200, 200), np.uint8))
    if not synthetic._claim(scene, banana):
        return  # too much of it is outside the image
    synthetic._blend(scene.image, banana, painter.paint(banana, peel))
    difference = cv2.absdiff(scene.image, blue).max(2)
    rows, columns = np.nonzero(difference > 64)  # covered by a quarter or more
    drawn = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert np.abs(np.array(drawn) - scene.boxes[0]).max() <= 1
    if half.max() <= min(x, y, 200 - x, 200 - y):
        expected = np.concatenate([center - half, center + half])
        assert np.abs(expected - scene.boxes[0]).max() <= 2.5


def test_bananas_stay_visible():
    hidden = 0
    for index in range(150):
        scene = synthetic._compose_scene(1, index, 128, 4)
        for number, total in enumerate(scene.pixels, start=1):
            visible = np.count_nonzero(scene.owners == number)
            assert visible >= 0.6 * total
            hidden += visible < total
    assert hidden > 20


def test_access_order_does_not_matter():
    first, second = (SyntheticBananas(12, image_size=64, seed=5) for _ in range(2))
    forward = [first[index] for index in range(12)]
    synthetic._cached_peel.cache_clear()
    backward = [second[index] for index in reversed(range(12))][::-1]
    assert all(are_equal(a, b) for a, b in zip(forward, backward, strict=True))


def test_global_generators_are_neither_used_nor_changed():
    bananas = SyntheticBananas(3, image_size=64)
    torch.manual_seed(1)
    first, state = bananas[2], torch.get_rng_state()
    numbers = np.random.get_state()[1].copy()  # noqa: NPY002
    torch.manual_seed(2)
    second = bananas[2]
    torch.set_rng_state(state)
    assert are_equal(first, second)
    assert np.array_equal(numbers, np.random.get_state()[1])  # noqa: NPY002


def test_length_does_not_matter_but_seed_does():
    short, long = SyntheticBananas(3, image_size=64), SyntheticBananas(9**9, image_size=64)
    other = SyntheticBananas(3, image_size=64, seed=1)
    assert are_equal(short[2], long[2])
    assert not are_equal(short[2], other[2])
    assert not are_equal(short[1], short[2])


def test_python_threads_do_not_matter():
    bananas = SyntheticBananas(40, image_size=64, seed=8)
    alone = [bananas[index] for index in range(40)]
    synthetic._cached_peel.cache_clear()
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(bananas.__getitem__, range(40)))
    assert all(are_equal(a, b) for a, b in zip(alone, together, strict=True))


def test_opencv_threads_do_not_matter_and_are_left_alone():
    bananas = SyntheticBananas(10, seed=8)
    before = cv2.getNumThreads()
    many = [bananas[index] for index in range(10)]
    assert cv2.getNumThreads() == before
    cv2.setNumThreads(1)
    try:
        single = [bananas[index] for index in range(10)]
    finally:
        cv2.setNumThreads(before)
    assert all(are_equal(a, b) for a, b in zip(many, single, strict=True))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_workers_do_not_matter():
    bananas = SyntheticBananas(24, image_size=128, seed=8)
    expected = [collate([bananas[i + k] for k in range(4)]) for i in range(0, 24, 4)]
    loader = DataLoader(
        bananas, 4, num_workers=2, collate_fn=collate, multiprocessing_context="fork"
    )
    assert all(are_equal(a, b) for a, b in zip(expected, loader, strict=True))


def test_pickles():
    bananas = SyntheticBananas(5, image_size=64, seed=8, max_objects=2)
    assert are_equal(bananas[3], pickle.loads(pickle.dumps(bananas))[3])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"length": -1}, ValueError, "expected `length` from 0 to 2147483647, got -1"),
        ({"length": 2.0}, TypeError, "expected `length` to be an integer, got float"),
        (
            {"length": 1, "image_size": 31},
            ValueError,
            "expected `image_size` from 32 to 4096, got 31",
        ),
        (
            {"length": 1, "image_size": (64, 64)},
            TypeError,
            "`image_size` .*, got tuple",
        ),
        ({"length": 1, "seed": -1}, ValueError, "expected `seed` from 0 to 4294967295, got -1"),
        ({"length": 1, "seed": None}, TypeError, "expected `seed` to be an integer, got NoneType"),
        ({"length": 1, "max_objects": 0}, ValueError, "`max_objects` from 1 to 16, got 0"),
        (
            {"length": 1, "max_objects": 17},
            ValueError,
            "`max_objects` from 1 to 16, got 17",
        ),
    ],
)
def test_errors(arguments, error, message):
    with pytest.raises(error, match=f"SyntheticBananas: .*{message}"):
        SyntheticBananas(**arguments)


@pytest.mark.parametrize("bad", [2, -3])
def test_index_out_of_range(bad):
    with pytest.raises(IndexError, match=f"SyntheticBananas: expected index below 2, got {bad}"):
        SyntheticBananas(2)[bad]


def test_empty_dataset():
    assert len(SyntheticBananas(0)) == 0
    assert list(SyntheticBananas(0)) == []


def test_masks_cover_the_visible_parts():
    plain = SyntheticBananas(40, image_size=96, seed=2)
    masked = SyntheticBananas(40, image_size=96, seed=2, masks=True)
    smaller = 0
    for i in range(40):
        (image, target), (plain_image, plain_target) = masked[i], plain[i]
        assert torch.equal(image, plain_image)
        assert torch.equal(target["labels"], plain_target["labels"])
        masks = target["masks"].as_subclass(torch.Tensor)
        boxes = target["boxes"].as_subclass(torch.Tensor)
        assert masks.shape == (len(boxes), 96, 96) and masks.dtype == torch.uint8
        assert (masks.sum(0) <= 1).all(), "a pixel shows one banana"
        assert torch.equal(boxes, masks_to_boxes(masks))
        assert torch.equal(target["area"], masks.flatten(1).sum(1).float())
        full = plain_target["boxes"].as_subclass(torch.Tensor)
        assert (boxes[:, :2] >= full[:, :2]).all() and (boxes[:, 2:] <= full[:, 2:]).all()
        smaller += int((boxes != full).any())
    assert smaller > 3, "some bananas are partly hidden"
