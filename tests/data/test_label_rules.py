"""Label rules: violations, faults of whole datasets, doubtful labels, and what passes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cvlib.boxes import box_convert
from cvlib.data.labels.duplicates import NEAR_IOU, find_contradictions, find_duplicates
from cvlib.data.labels.findings import MAX_FINDINGS_PER_CODE, Finding, errors_of, limit_findings
from cvlib.data.labels.rules import (
    DATASET_CODES,
    find_bad_labels,
    find_doubtful_labels,
)
from cvlib.data.labels.table import LabelTable, TableBuilder
from cvlib.ops import box_iou

WIDTH, HEIGHT = 640, 480


def make_table(boxes: np.ndarray, labels: np.ndarray | None = None, per: int = 4) -> LabelTable:
    """A dataset with ``per`` objects in each image of 640 x 480."""
    builder = TableBuilder("test", Path("set"), ["a", "b", "c"])
    for number, box in enumerate(boxes.tolist()):
        if number % per == 0:
            builder.add_image(f"{number // per}.jpg", size=(HEIGHT, WIDTH), label_file="l.csv")
        builder.add_object(box, 0 if labels is None else int(labels[number]), number + 2)
    return builder.build()


def random_boxes(count: int, seed: int, largest: float = 300) -> np.ndarray:
    rng = np.random.default_rng(seed)
    sides = np.exp(rng.uniform(np.log(8), np.log(largest), (count, 2)))
    corners = rng.random((count, 2)) * ([WIDTH, HEIGHT] - sides)
    return np.concatenate([corners, corners + sides], axis=1)


def codes(table: LabelTable) -> list[str]:
    return [finding.code for finding in find_bad_labels(table)[0]]


GOOD = random_boxes(40, 0)


@pytest.mark.parametrize(
    ("box", "code"),
    [
        ((10, 10, float("nan"), 40), "not-a-number"),
        ((10, 10, float("-inf"), 40), "not-a-number"),
        ((0.1, 0.2, 0.3, 0.4), "normalised-box"),
        ((30, 10, 20, 40), "inverted-box"),
        ((30, 40, 60, 10), "inverted-box"),
        ((30, 10, 30, 40), "degenerate-box"),
        ((30, 10, 2e6, 40), "too-large-box"),
        ((600, 10, 642, 40), "box-outside"),
        ((10, 400, 40, 482), "box-outside"),
        ((-2, 10, 40, 50), "box-outside"),
        ((0, 0, 641, 481), None),
        ((-1, -1, 40, 40), None),
        ((0, 0, 1, 1), None),
        ((5, 5, 5.01, 5.01), None),
    ],
)
def test_single_boxes(box: tuple[float, ...], code: str | None) -> None:
    table = make_table(np.concatenate([GOOD, [box]]))
    findings, bad = find_bad_labels(table)
    assert [finding.code for finding in findings] == ([code] if code else [])
    assert np.flatnonzero(bad).tolist() == ([40] if code else [])
    if code:
        assert findings[0].row == "line 42"
        assert findings[0].file == "l.csv"
        assert findings[0].fix
        assert findings[0].severity == "error"


def test_without_sizes_the_border_is_not_known() -> None:
    table = make_table(np.concatenate([GOOD, [(600, 10, 700, 40), (-2, 10, 40, 50)]]))
    unknown = replace(table, sizes=np.full_like(table.sizes, -1))
    assert [finding.row for finding in find_bad_labels(unknown)[0]] == ["line 43"]


@pytest.mark.parametrize("label", [-1, 3, 2**40])
def test_unknown_classes(label: int) -> None:
    labels = np.zeros(40, np.int64)
    labels[7] = label
    (finding,), bad = find_bad_labels(make_table(GOOD, labels))
    assert finding.code == "unknown-class"
    assert "expected a label in 0..2, got box" in finding.message
    assert np.flatnonzero(bad).tolist() == [7]


def test_classes_counted_from_one() -> None:
    labels = np.arange(40) % 3 + 1
    (finding,), bad = find_bad_labels(make_table(GOOD, labels))
    assert finding.code == "one-based-classes"
    assert finding.count == 40 and bad.all()
    assert codes(make_table(GOOD, np.arange(40) % 2 + 1)) == []  # class 0 may be rare
    labels[0] = 0
    assert set(codes(make_table(GOOD, labels))) == {"unknown-class"}


def test_the_factor_of_fractions_is_in_the_advice() -> None:
    fractions = GOOD / [WIDTH, HEIGHT, WIDTH, HEIGHT]
    (finding,), bad = find_bad_labels(make_table(fractions))
    assert finding.code == "normalised-box" and bad.all()
    assert finding.fix.endswith("here 640 and 480")


def as_xywh(boxes: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


def as_cxcywh(boxes: np.ndarray) -> np.ndarray:
    return np.concatenate([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], axis=1)


def read_as_xywh(boxes: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


SCALE = np.array([WIDTH, HEIGHT, WIDTH, HEIGHT])
LAYOUTS = {
    "xywh-as-xyxy": as_xywh,
    "cxcywh-as-xyxy": as_cxcywh,
    "xyxy-as-xywh": read_as_xywh,
    "cxcywh-as-xywh": lambda boxes: read_as_xywh(as_cxcywh(boxes)),
    "xy-exchanged": lambda boxes: boxes[:, [1, 0, 3, 2]],
    "pixels-as-fractions": lambda boxes: boxes * SCALE,
    "normalised-box": lambda boxes: boxes / SCALE,
    "percent-box": lambda boxes: boxes / SCALE * 100,
    "per-mille-box": lambda boxes: boxes / SCALE * 1000,
}


@given(st.integers(0, 10_000), st.integers(60, 400))
def test_boxes_in_order_are_never_doubted(seed: int, largest: int) -> None:
    table = make_table(random_boxes(40, seed, largest))
    assert codes(table) == []
    assert find_doubtful_labels(table) == []


@pytest.mark.parametrize("code", LAYOUTS)
@given(seed=st.integers(0, 10_000))
def test_layouts_are_distinguished(code: str, seed: int) -> None:
    boxes = random_boxes(200, seed)
    (finding,), bad = find_bad_labels(make_table(LAYOUTS[code](boxes)))
    assert finding.code == code in DATASET_CODES
    assert bad.all() and finding.count == 200


def test_layouts_are_those_of_box_convert() -> None:
    import torch

    boxes = torch.from_numpy(GOOD)
    assert np.allclose(as_xywh(GOOD), box_convert(boxes, "xyxy", "xywh"))
    assert np.allclose(as_cxcywh(GOOD), box_convert(boxes, "xyxy", "cxcywh"))


def test_corners_in_the_wrong_order_are_no_other_layout() -> None:
    assert set(codes(make_table(GOOD[:, [2, 3, 0, 1]]))) == {"inverted-box"}


def test_repeated_and_contradicting_objects() -> None:
    boxes = np.concatenate([GOOD[:4], GOOD[:3]])
    table = make_table(boxes, np.array([0, 1, 2, 0, 0, 0, 2]), per=7)
    none = np.zeros(7, dtype=np.bool_)
    assert find_duplicates(table, skip=none).tolist() == [[0, 4], [2, 6]]
    assert find_contradictions(table, skip=none).tolist() == [[1, 5]]
    assert codes(table) == []
    assert [(f.code, f.row, f.severity) for f in find_doubtful_labels(table)] == [
        ("duplicate-box", "line 6", "warning"),
        ("duplicate-box", "line 8", "warning"),
        ("two-classes-for-one-box", "line 7", "warning"),
    ]
    apart = make_table(boxes, np.array([0, 1, 2, 0, 0, 0, 2]), per=4)
    assert codes(apart) == []
    crowds = replace(table, iscrowd=np.arange(7) == 4)
    assert find_duplicates(crowds, skip=none).tolist() == [[2, 6]]


def test_equal_boxes_of_two_masks_are_two_objects() -> None:
    builder = TableBuilder("test", Path("set"), ["a"])
    builder.add_image("a.jpg")
    for mask in ([[1.0, 1, 9, 1, 9, 9]], [[1.0, 1, 1, 9, 9, 9]], [[1.0, 1, 9, 1, 9, 9]]):
        builder.add_object((1, 1, 9, 9), 0, 1, mask=mask)
    table = builder.build()
    assert find_duplicates(table, skip=np.zeros(3, np.bool_)).tolist() == [[0, 2]]


@given(st.integers(0, 10_000))
def test_contradictions_are_all_pairs_of_high_iou(seed: int) -> None:
    import torch

    rng = np.random.default_rng(seed)
    boxes = np.repeat(random_boxes(12, seed), 3, axis=0)
    boxes[:, :2] -= rng.random((36, 2)) * 0.03 * (boxes[:, 2:] - boxes[:, :2])
    labels = rng.integers(0, 3, 36)
    table = make_table(boxes, labels, per=12)
    pairs = find_contradictions(table, skip=np.zeros(36, np.bool_))
    ious = box_iou(torch.from_numpy(boxes), torch.from_numpy(boxes)).numpy()
    expected = [
        (i, j)
        for i in range(36)
        for j in range(i + 1, 36)
        if i // 12 == j // 12 and labels[i] != labels[j] and ious[i, j] >= NEAR_IOU
    ]
    assert sorted(map(tuple, pairs.tolist())) == expected


def test_the_rest_of_a_thousand_is_counted() -> None:
    boxes = random_boxes(MAX_FINDINGS_PER_CODE + 200, 3)
    boxes[:, 2] = boxes[:, 0]
    findings, bad = find_bad_labels(make_table(boxes))
    assert bad.all()
    assert len(findings) == MAX_FINDINGS_PER_CODE + 1
    assert sum(finding.count for finding in findings) == MAX_FINDINGS_PER_CODE + 200
    assert errors_of(findings) == findings


def test_findings_are_limited_for_each_code() -> None:
    findings = [Finding("error", "ab"[i % 2], str(i), row="line 1") for i in range(2400)]
    limited = limit_findings(findings)
    assert limited[:2000] == findings[:2000]
    assert [(f.code, f.message, f.row, f.count) for f in limited[2000:]] == [
        ("a", "200 more like these", "", 200),
        ("b", "200 more like these", "", 200),
    ]
    assert limit_findings(findings[:2000], {"a": 1500})[-1].count == 500
    assert limit_findings(findings[:2000], {"a": 1000}) == findings[:2000]


def test_one_box_for_all_is_doubtful() -> None:
    (finding,) = find_doubtful_labels(make_table(np.tile([[10.0, 10, 50, 50]], (20, 1)), per=1))
    assert (finding.code, finding.severity, finding.count) == ("equal-boxes", "warning", 20)
    image_boxes = np.tile([[0.0, 0, WIDTH, HEIGHT]], (20, 1))
    assert find_doubtful_labels(make_table(image_boxes, per=1))[0].code == "whole-image-boxes"


def test_an_empty_table() -> None:
    builder = TableBuilder("test", Path("set"), ["a"])
    findings, bad = find_bad_labels(builder.build())
    assert findings == [] and len(bad) == 0
    assert find_doubtful_labels(builder.build()) == []
