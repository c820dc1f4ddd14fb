"""read_coco on invalid files: annotations, images, categories and JSON."""

import json

import numpy as np
import pytest
from label_files import entry, image_entry, make_coco

from cvlib.data.datasets.detection import DetectionDataset
from cvlib.data.formats.coco import read_coco
from cvlib.data.labels.findings import BadLabelsError


@pytest.mark.parametrize(
    ("fields", "code", "message"),
    [
        ({"image_id": 99}, "unknown-image", "`image_id` to be the id of an image .*, got 99"),
        ({"image_id": "1"}, "unknown-image", "got '1'"),
        ({"image_id": None}, "unknown-image", "got None"),
        ({"image_id": True}, "unknown-image", "got True"),
        ({"category_id": 8}, "unknown-class", "one of 2 categories, got 8"),
        ({"category_id": None}, "unknown-class", "got None"),
        ({"category_id": 7.0}, "unknown-class", r"got 7\.0"),
        ({"category_id": [7]}, "unknown-class", r"got \[7\]"),
        ({"bbox": ["2", 3, 4, 5]}, "bad-box", r"four numbers .*, got \['2', 3, 4, 5\]"),
        ({"bbox": [2, 3, 4]}, "bad-box", r"got \[2, 3, 4\]"),
        ({"bbox": {"x": 1}}, "bad-box", "got {'x': 1}"),
        ({"bbox": [10**400, 3, 4, 5]}, "bad-box", "got huge numbers"),
        ({"bbox": None}, "missing-box", "expected a bbox or a segmentation, got neither"),
        ({"iscrowd": 2}, "bad-crowd", "expected `iscrowd` to be 0 or 1, got 2"),
        ({"iscrowd": "1"}, "bad-crowd", "got '1'"),
        ({"segmentation": "x"}, "bad-mask", "`segmentation` to be polygons or run lengths"),
        ({"segmentation": [1, 2, 3, 4, 5, 6]}, "bad-mask", r"a list of polygons, got \[1, 2"),
        ({"segmentation": [[1, 2, 3, 4]]}, "bad-mask", r"expected polygons .*, got \[1, 2, 3, 4\]"),
        ({"segmentation": [[1, 2, 3, 4, 5, 6, 7]]}, "bad-mask", "expected polygons"),
        ({"segmentation": [[1, 2, 3, 4, 5, "6"]]}, "bad-mask", "polygons of finite numbers"),
        ({"segmentation": [[1, 2, 3, 4, 5, float("nan")]]}, "bad-mask", "of finite numbers"),
        ({"segmentation": {"size": [30], "counts": "a"}}, "bad-mask", r"`size` to be \[height"),
        ({"segmentation": {"size": [30, 40]}}, "bad-mask", "`counts` to be a string or a list"),
        ({"segmentation": {"size": [40, 30], "counts": "a"}}, "mask-size", r"\(30, 40\), got \(40"),
    ],
)
def test_invalid_annotations_are_named_and_left_out(tmp_path, fields, code, message):
    path = make_coco(tmp_path, annotations=[entry(4), entry(17, **fields), entry(18)])
    table = read_coco(path)
    assert table.rows.tolist() == [4, 18]
    (finding,) = table.findings
    assert (finding.severity, finding.code, finding.row) == ("error", code, "annotation 17")
    assert finding.file == str(path)
    with pytest.raises(BadLabelsError, match=rf"a\.json, annotation 17: .*{message}"):
        DetectionDataset(table)
    with pytest.warns(UserWarning, match=r"dropped invalid labels, 1 finding, .*annotation 17"):
        dataset = DetectionDataset(table, bad_labels="drop")
    assert len(dataset.target(0)["boxes"]) == 2


@pytest.mark.parametrize(
    ("bbox", "code"),
    [
        ([2, 3, float("nan"), 5], "not-a-number"),
        ([2, 3, float("inf"), 5], "not-a-number"),
        ([2, 3, -4, 5], "inverted-box"),
        ([2, 3, 0, 5], "degenerate-box"),
        ([2, 3, 100, 5], "box-outside"),
    ],
)
def test_label_rules_report_invalid_boxes(tmp_path, bbox, code):
    table = read_coco(make_coco(tmp_path, annotations=[entry(4), entry(17, bbox=bbox)]))
    assert table.num_objects == 2
    with pytest.raises(BadLabelsError, match="annotation 17") as caught:
        DetectionDataset(table)
    assert [finding.code for finding in caught.value.findings] == [code]


def test_entries_that_are_not_objects(tmp_path):
    table = read_coco(make_coco(tmp_path, annotations=[entry(4), None, [1], "x"]))
    assert table.rows.tolist() == [4]
    assert [f.code for f in table.findings] == ["bad-id", *["bad-annotation"] * 3]
    assert [f.row for f in table.findings[1:]] == [f"annotation {k}" for k in (5, 6, 7)]


def test_annotations_without_an_id_are_numbered_after_the_others(tmp_path):
    annotations = [entry(4), entry(None), entry("9"), entry(1.5)]
    table = read_coco(make_coco(tmp_path, annotations=annotations))
    assert table.rows.tolist() == [4, 5, 6, 7]
    (finding,) = table.findings
    assert (finding.severity, finding.code) == ("warning", "bad-id")
    assert "got 3 without; they are numbered from 5" in finding.message
    with pytest.warns(UserWarning, match="suspicious labels, 1 finding"):
        DetectionDataset(table)


def test_duplicate_annotation_ids(tmp_path):
    table = read_coco(make_coco(tmp_path, annotations=[entry(4), entry(4), entry(5), entry(4)]))
    assert table.num_objects == 4
    (finding,) = table.findings
    assert (finding.severity, finding.code) == ("warning", "duplicate-id")
    assert finding.row == "annotation 4"


def test_odd_areas(tmp_path):
    areas = [float("nan"), "12", -1]
    annotations = [entry(k, area=area) for k, area in enumerate(areas)]
    table = read_coco(make_coco(tmp_path, annotations=annotations))
    assert np.isnan(table.areas).all()
    assert [f.code for f in table.findings] == ["bad-area"] * 3
    assert {f.severity for f in table.findings} == {"warning"}


def test_masks_of_some_objects(tmp_path):
    annotations = [entry(1, segmentation=[[2, 3, 12, 3, 12, 11]]), entry(2)]
    (finding,) = read_coco(make_coco(tmp_path, annotations=annotations)).findings
    assert (finding.severity, finding.code) == ("warning", "missing-mask")
    assert "1 of 2 without" in finding.message


@pytest.mark.parametrize(
    ("second", "code", "row"),
    [
        (image_entry(1, "2.png"), "duplicate-id", "image 1"),
        (image_entry("2"), "bad-image", "image 1"),
        ([], "bad-image", "image 1"),
        (image_entry(2, "../2.png"), "bad-path", "image 2"),
        (image_entry(2, "/etc/passwd"), "bad-path", "image 2"),
        (image_entry(2, "C:\\2.png"), "bad-path", "image 2"),
        (image_entry(2, "a\0.png"), "bad-path", "image 2"),
        (image_entry(2, "\ud800.png"), "bad-path", "image 2"),
        ({"id": 2}, "bad-path", "image 2"),
        ({"id": 2, "file_name": 5}, "bad-path", "image 2"),
    ],
)
def test_invalid_images_are_named_and_left_out(tmp_path, second, code, row):
    name = second.get("file_name") if isinstance(second, dict) else None
    images = [image_entry(1), second]
    try:
        path = make_coco(tmp_path, images=images, annotations=[entry(1), entry(2, 2)])
    except (ValueError, OSError):  # the image cannot be written, either
        path = make_coco(tmp_path, images=[image_entry(1)])
        content = {"images": images, "annotations": [entry(1), entry(2, 2)]}
        path.write_text(json.dumps(content | {"categories": [{"id": 7, "name": "cat"}]}))
    table = read_coco(path)
    assert list(table.images) == ["1.png"], name
    errors = [f for f in table.findings if f.code == code]
    assert [(f.severity, f.row) for f in errors] == [("error", row)]
    assert table.rows.tolist() == [1]


def test_an_image_with_two_ids_is_a_warning(tmp_path):
    table = read_coco(make_coco(tmp_path, images=[image_entry(1), image_entry(2, "./1.png")]))
    (finding,) = table.findings
    assert (finding.severity, finding.code, finding.row) == ("warning", "listed-twice", "image 2")
    assert "got '1.png' as image 1, too" in finding.message


def test_odd_sizes(tmp_path):
    sizes = [{"height": "30"}, {"height": -1}, {"height": 30.5}, {"height": float("nan")}]
    images = [image_entry(k, **size) for k, size in enumerate(sizes)]
    table = read_coco(make_coco(tmp_path, images=images))
    assert table.sizes.tolist() == [[-1, -1]] * 4
    assert [(f.code, f.severity) for f in table.findings] == [("bad-size", "warning")] * 4
    images = [{"id": 1, "file_name": "1.png"}]
    table = read_coco(make_coco(tmp_path, images=images))
    assert table.sizes.tolist() == [[-1, -1]]
    assert table.findings == ()


@pytest.mark.parametrize(
    ("category", "code"),
    [
        ({"id": 7, "name": "cow"}, "duplicate-id"),
        ({"id": 8, "name": "cat"}, "duplicate-class"),
        ({"id": "8", "name": "cow"}, "bad-category"),
        ({"id": 8, "name": ""}, "bad-category"),
        ({"id": 8}, "bad-category"),
        (5, "bad-category"),
    ],
)
def test_invalid_categories(tmp_path, category, code):
    categories = [{"id": 7, "name": "cat"}, category]
    table = read_coco(make_coco(tmp_path, annotations=[entry(1)], categories=categories))
    assert table.classes == ("cat",)
    assert [(f.severity, f.code, f.row) for f in table.findings] == [("error", code, "category 1")]


def test_all_problems_are_listed(tmp_path):
    annotations = [entry(k, bbox="x") for k in range(30)]
    with pytest.raises(BadLabelsError, match=r"got 30 errors:\n(.*\n){20}  \.\.\. and 10"):
        DetectionDataset(read_coco(make_coco(tmp_path, annotations=annotations)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "got .*, which cannot be parsed: it is empty"),
        (b"{", "cannot be parsed: Expecting property name"),
        (b'{"images": [1' + b"0" * 5000 + b"]}", "cannot be parsed: Exceeds the limit"),
        (b"[" * 200_000, "got lists nested too deeply"),
        (b'{"a":' * 200_000, "got lists nested too deeply"),
        (b"[]", "an object with images, annotations, categories .*, got list; it looks"),
        (b"3", "got int"),
        (b"{}", "'images' in .* to be a list, got no such key; its keys: none"),
        (b'{"images": {}, "info": 1}', "got dict; its keys: images, info"),
        (b'{"images": [], "annotations": [], "categories": []}', "categories in .*, got none"),
        (b'{"images": [], "annotations": [], "categories": [{"id":1,"name":"a"}]}', "images in"),
        (b"\xff\xfe{\0}\0", "got UTF-16 in"),
        (b'{"a": "\xe9"}', "got byte 0xe9 in line 1 of"),
        (b"{}\0", "got a zero byte at byte 2 of"),
        (b"version https://git-lfs.github.com/spec/v1", "got a Git LFS pointer"),
    ],
)
def test_files_that_are_not_coco(tmp_path, content, message):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"^read_coco: expected .*{message}"):
        read_coco(path)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"read_coco: .*a\.json, which does not exist"):
        read_coco(tmp_path / "a.json")
    with pytest.raises(FileNotFoundError, match="which is not a file"):
        read_coco(tmp_path)


def test_random_damage_gives_findings_or_clear_errors(tmp_path, rng):
    annotations = [entry(k, segmentation=[[2, 3, 12, 3, 12, 11]], area=3) for k in range(3)]
    path = make_coco(tmp_path, annotations=annotations)
    intact = np.frombuffer(path.read_bytes(), np.uint8)
    outcomes = set()
    for _ in range(300):
        data = intact.copy()
        places = rng.integers(0, len(data), rng.integers(1, 4))
        data[places] = rng.integers(32, 127, len(places))
        path.write_bytes(data[: rng.integers(1, 2 * len(data))].tobytes())
        try:
            DetectionDataset(read_coco(path, tmp_path)).target(0)
            outcomes.add("read")
        except (BadLabelsError, ValueError, UserWarning) as error:
            outcomes.add(type(error).__name__)
    assert {"read", "BadLabelsError", "ValueError"} <= outcomes
