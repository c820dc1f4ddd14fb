"""Accuracies of images, compared with torch.topk and by hand."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cvlib.metrics import ClassificationMeter

CLASSES = tuple("abcdefg")


@given(seed=st.integers(0, 10**6), top=st.integers(1, 9))
def test_equals_topk(seed, top):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(20, 7, generator=generator)
    labels = torch.randint(0, 7, (20,), generator=generator)
    meter = ClassificationMeter(CLASSES, top)
    meter.update(range(20), scores, labels)
    metrics = meter.compute()
    best = scores.topk(min(top, 7)).indices
    assert metrics.top_accuracy == pytest.approx(
        (best == labels[:, None]).any(1).double().mean().item()
    )
    right = scores.argmax(1) == labels
    assert metrics.accuracy == pytest.approx(right.double().mean().item())
    each = [right[labels == k].double().mean().item() for k in labels.unique().tolist()]
    assert metrics.class_accuracy == pytest.approx(sum(each) / len(each))
    for k, row in enumerate(metrics.classes):
        predicted = scores.argmax(1) == k
        expected = (labels[predicted] == k).double().mean().item() if predicted.any() else -1
        assert row.precision == pytest.approx(expected)
    assert metrics.confusion.counts.sum() == 20


def test_a_case_by_hand(device):
    meter = ClassificationMeter(("ant", "bee", "cat"), top=2)
    scores = torch.tensor([[0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.1, 0.1, 0.8]], device=device)
    meter.update([5, 6, 7], scores, torch.tensor([0, 1, 0]))
    metrics = meter.compute()
    assert metrics.as_dict() == pytest.approx(
        {"accuracy": 1 / 3, "class_accuracy": 0.25, "top2_accuracy": 1.0}
    )
    assert metrics.confusion.counts.tolist() == [[1, 0, 1], [1, 0, 0], [0, 0, 0]]
    assert meter.worst() == [
        (7, "ant", "cat", pytest.approx(0.8)),
        (6, "bee", "ant", pytest.approx(0.6)),
    ]
    assert metrics.table().splitlines()[3].split() == ["cat", "0", "-", "0.000"]


def test_equal_scores_go_to_the_lowest_class(device):
    meter = ClassificationMeter(CLASSES, top=2)
    labels = torch.arange(7)
    meter.update(range(7), torch.zeros(7, 7, device=device), labels)
    metrics = meter.compute()
    assert metrics.accuracy == 1 / 7 and metrics.top_accuracy == 2 / 7


def test_few_classes_have_no_top_five():
    meter = ClassificationMeter(("ant", "bee"))
    meter.update([0], torch.tensor([[0.1, 0.9]]), torch.tensor([1]))
    assert set(meter.compute().as_dict()) == {"accuracy", "class_accuracy"}


def test_an_image_counts_once():
    scores, labels = torch.randn(9, 7), torch.randint(0, 7, (9,))
    single, parts = ClassificationMeter(CLASSES), [ClassificationMeter(CLASSES) for _ in range(2)]
    single.update(range(9), scores, labels)
    for part, mine in zip(parts, ([0, 2, 4, 6, 8], [1, 3, 5, 7, 0]), strict=True):
        part.update(mine, scores[mine], labels[mine])
        part.update(mine[:1], scores[mine[:1]], labels[mine[:1]])
    merged = parts[1].merge(parts[0])
    assert len(merged) == 9
    assert merged.compute().as_dict() == pytest.approx(single.compute().as_dict())


def test_no_images():
    meter = ClassificationMeter(CLASSES)
    meter.update([], torch.zeros(0, 7), torch.zeros(0).long())
    assert set(meter.compute().as_dict().values()) == {-1} and meter.worst() == []


def test_nan_is_refused():
    with pytest.raises(ValueError, match="expected `probabilities` without NaN, got nan"):
        ClassificationMeter(("a", "b")).update(
            [0], torch.tensor([[float("nan"), 0.0]]), torch.tensor([0])
        )


@pytest.mark.parametrize("label", [-1, 2])
def test_labels_out_of_range_are_refused(label):
    with pytest.raises(ValueError, match=rf"expected `labels` in 0\.\.1, got {label}"):
        ClassificationMeter(("a", "b")).update([0], torch.zeros(1, 2), torch.tensor([label]))


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match=r"`probabilities` \(1, 2\) and `labels` \(1,\), got"):
        ClassificationMeter(("a", "b")).update([0], torch.zeros(1, 3), torch.tensor([0]))


def test_top_below_1_is_refused():
    with pytest.raises(ValueError, match="expected `top` to be at least 1, got 0"):
        ClassificationMeter(("a", "b"), top=0)
