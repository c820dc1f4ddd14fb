"""Segmentation metrics, compared with a pixel-by-pixel count and by hand."""

import oracles_metrics as oracle
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision import tv_tensors

from cvlib.metrics import SegmentationMeter

CLASSES = ("road", "sky", "tree")


def random_maps(seed, ignore=255, size=(7, 9)):
    generator = torch.Generator().manual_seed(seed)
    values = torch.tensor([0, 1, 2, ignore])
    used = int(torch.randint(1, 5, (), generator=generator))

    def draw():
        return values[torch.randint(0, used, (3, *size), generator=generator)]

    return draw(), draw()


@given(seed=st.integers(0, 10**6), ignore=st.sampled_from([255, -1]))
def test_equals_the_oracle(seed, ignore):
    predicted, truth = random_maps(seed, ignore)
    meter = SegmentationMeter(CLASSES, ignore)
    meter.update([4, 5, 6], predicted, truth)
    expected = oracle.segmentation(zip(predicted, truth, strict=True), 3, ignore)
    assert tuple(meter.compute().as_dict().values()) == pytest.approx(expected)


def test_a_case_by_hand(device):
    truth = torch.tensor([[0, 0, 0, 1], [1, 255, 255, 1]], dtype=torch.uint8, device=device)
    predicted = torch.tensor([[0, 0, 1, 1], [1, 0, 2, 255]], device=device)
    meter = SegmentationMeter(CLASSES)
    meter.update([0], [predicted], [truth])
    metrics = meter.compute()
    # road: 2 of 3, none elsewhere; sky: 2 of 3, and one of road; tree: nowhere that counts.
    assert metrics.as_dict() == pytest.approx(
        {"miou": (2 / 3 + 2 / 4) / 2, "pixel_accuracy": 4 / 6, "class_accuracy": 2 / 3}
    )
    assert [(row.name, row.pixels) for row in metrics.classes] == [
        ("road", 3),
        ("sky", 3),
        ("tree", 0),
    ]
    assert (metrics.classes[2].iou, metrics.classes[2].accuracy) == (-1, -1)
    assert metrics.confusion.counts.tolist() == [[2, 1, 0, 0], [0, 2, 0, 1], [0, 0, 0, 0]]
    assert metrics.confusion.worst() == [("road", "sky", 1), ("sky", "(none)", 1)]
    assert metrics.table().splitlines()[3].split() == ["tree", "0", "-", "-"]


def test_a_class_that_is_only_predicted_counts_against_the_mean():
    meter = SegmentationMeter(CLASSES)
    meter.update([0], torch.tensor([[[0, 2]]]), torch.tensor([[[0, 0]]]))
    metrics = meter.compute()
    assert metrics.miou == pytest.approx((0.5 + 0) / 2)
    assert metrics.class_accuracy == 0.5


def test_images_of_any_sizes_and_a_repeated_image():
    meter, parts = SegmentationMeter(CLASSES), [SegmentationMeter(CLASSES) for _ in range(2)]
    pairs = [random_maps(seed, size=(3 + seed, 4)) for seed in range(5)]
    for number, (predicted, truth) in enumerate(pairs):
        meter.update([number], predicted[:1], truth[:1])
        parts[number % 2].update([number], predicted[:1], truth[:1])
    meter.update([0], pairs[1][0][:1], pairs[1][1][:1])  # already present
    parts[1].update([0], pairs[0][0][:1], pairs[0][1][:1])  # padding
    assert len(parts[0].merge(parts[1])) == 5
    assert parts[0].compute().as_dict() == meter.compute().as_dict()


def test_the_worst_images():
    meter = SegmentationMeter(CLASSES)
    truth = torch.zeros(1, 1, 4, dtype=torch.int64)
    for number, wrong in ((7, 1), (3, 4), (5, 0), (1, 1)):
        predicted = truth.clone()
        predicted[..., :wrong] = 1
        meter.update([number], predicted, truth)
    meter.update([9], truth, truth + 255)  # no counted pixel
    assert meter.worst(3) == [(3, 0.0), (1, 0.75), (7, 0.75)]
    assert [meter.accuracy(number) for number in (3, 1, 9)] == [0, 0.75, -1]
    assert meter.confusion(1).counts[0].tolist() == [3, 1, 0, 0]


def test_void_alone_and_no_images():
    meter = SegmentationMeter(CLASSES)
    assert set(meter.compute().as_dict().values()) == {-1}
    meter.update([0], torch.zeros(1, 2, 2).long(), torch.full((1, 2, 2), 255))
    assert set(meter.compute().as_dict().values()) == {-1}


def test_tv_tensors_and_mixed_devices(device):
    truth = tv_tensors.Mask(torch.tensor([[0, 1], [2, 255]], dtype=torch.uint8))
    meter = SegmentationMeter(CLASSES)
    meter.update([0], [torch.tensor([[0, 1], [2, 2]], device=device)], [truth])
    assert meter.compute().miou == 1


@pytest.mark.parametrize("value", [-1, 3, 254])
@pytest.mark.parametrize("side", ["truth", "predicted"])
def test_values_out_of_range_are_refused(value, side):
    maps = {"predicted": torch.zeros(1, 2, 2).long(), "truth": torch.zeros(1, 2, 2).long()}
    maps[side][0, 1, 1] = value
    with pytest.raises(
        ValueError, match=rf"expected `{side}` in 0\.\.2 or 255 \(ignored\), got {value} in image 6"
    ):
        SegmentationMeter(CLASSES).update([6], maps["predicted"], maps["truth"])


def test_scores_instead_of_classes_are_refused():
    with pytest.raises(TypeError, match=r"to have an integer dtype, got torch\.float32; take"):
        SegmentationMeter(CLASSES).update([0], torch.rand(1, 2, 2), torch.zeros(1, 2, 2).long())


def test_maps_of_different_sizes_are_refused():
    with pytest.raises(ValueError, match=r"size of `truth` \(2, 3\), got \(2, 2\) in image 8"):
        SegmentationMeter(CLASSES).update(
            [8], torch.zeros(1, 2, 2).long(), torch.zeros(1, 2, 3).long()
        )


def test_an_update_of_different_lengths_is_refused():
    with pytest.raises(ValueError, match="expected 2 class maps, got 1 predicted and 1 true ones"):
        SegmentationMeter(CLASSES).update(
            [0, 1], torch.zeros(1, 2, 2).long(), torch.zeros(1, 2, 2).long()
        )
