"""read_yolo: folders and label files, valid and invalid."""

import os
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from label_files import BOX, NAMES, POLYGON, codes, image, make_yolo, only_error
from PIL import Image

from cvlib.data.datasets.detection import DetectionDataset
from cvlib.data.formats.yolo import read_yolo
from cvlib.data.labels.findings import errors_of
from cvlib.data.labels.rules import find_bad_labels


def test_a_small_dataset(tmp_path):
    #   centre (0.25, 0.5) of 40 x 20 is (10, 10); 0.5 x 0.5 is 20 wide and 10 high
    root = make_yolo(tmp_path, {"a": "1 0.25 0.5 0.5 0.5\n\n0 0.5 0.5 1 1\n", "b": ""})
    table = read_yolo(root, "train")
    assert table.classes == ("cat", "dog")
    assert table.boxes.tolist() == [[0, 5, 20, 15], [0, 0, 40, 20]]
    assert table.labels.tolist() == [1, 0]
    assert table.sizes.tolist() == [[20, 40]] * 2
    assert np.diff(table.starts).tolist() == [2, 0]
    assert table.row(1) == "line 3"
    assert table.label_file(0) == str(tmp_path / "labels/train/a.txt")
    assert list(table.images) == ["images/train/a.jpg", "images/train/b.jpg"]
    assert table.masks is None
    assert table.findings == ()


def test_polygons(tmp_path):
    table = read_yolo(make_yolo(tmp_path, {"a": POLYGON}), "train")
    assert table.boxes.tolist() == [[10, 5, 30, 15]]
    assert table.masks[0] == [[10, 5, 30, 5, 30, 15]]
    assert DetectionDataset(table)[0][1]["masks"].sum() == pytest.approx(100, abs=20)


def test_mixed_lines_are_boxes_with_a_warning(tmp_path):
    table = read_yolo(make_yolo(tmp_path, {"a": f"{BOX}\n{POLYGON}"}), "train")
    assert table.masks is None
    assert table.boxes.tolist() == [[10, 5, 30, 15]] * 2
    assert [(f.severity, f.code) for f in table.findings] == [("warning", "mixed-labels")]
    assert "got 1 boxes among 2 objects" in table.findings[0].message


def test_sizes_are_those_of_the_upright_image(tmp_path):
    root = make_yolo(tmp_path, {"a": BOX})
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    image(root / "images/train/a.jpg", exif=exif)
    table = read_yolo(root, "train")
    assert table.sizes.tolist() == [[40, 20]]
    assert DetectionDataset(table)[0][0].shape == (3, 40, 20)


@pytest.mark.parametrize(
    ("folders", "split"),
    [
        (("images/train", "labels/train"), "train"),
        (("train/images", "train/labels"), "train"),
        (("valid/images", "valid/labels"), "val"),
        (("images", "labels"), None),
    ],
)
def test_folders_without_yaml(tmp_path, folders, split):
    image(tmp_path / folders[0] / "a.jpg")
    (tmp_path / folders[1]).mkdir(parents=True)
    (tmp_path / folders[1] / "a.txt").write_text(BOX)
    with pytest.raises(ValueError, match=r"expected class names in data\.yaml or classes\.txt"):
        read_yolo(tmp_path, split)
    assert read_yolo(tmp_path, split, classes=["cat"]).num_objects == 1
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    assert read_yolo(tmp_path, split).classes == ("cat", "dog")


def test_labels_next_to_images(tmp_path):
    image(tmp_path / "photos/a.jpg")
    (tmp_path / "photos/a.txt").write_text(BOX)
    (tmp_path / "data.yaml").write_text(f"train: photos\n{NAMES}")
    table = read_yolo(tmp_path, "train")
    assert table.num_objects == 1
    assert table.label_file(0) == str(tmp_path / "photos/a.txt")


def test_folders_below_and_hidden_files(tmp_path):
    root = make_yolo(tmp_path, {"day/a": None, ".hidden/b": None, "c": BOX})
    (root / "labels/train/day").mkdir()
    (root / "labels/train/day/a.txt").write_text(BOX)
    (root / "images/train/notes.md").write_text("no image")
    images = ["images/train/c.jpg", "images/train/day/a.jpg"]
    assert list(read_yolo(root, "train").images) == images


def test_link_to_a_folder_above(tmp_path):
    root = make_yolo(tmp_path, {"a": BOX})
    os.symlink(root / "images", root / "images/train/loop")
    table = read_yolo(root, "train")
    assert "link-loop" in codes(table)
    assert table.num_images >= 1


def test_no_images_and_no_labels(tmp_path):
    root = make_yolo(tmp_path, {})
    with pytest.raises(ValueError, match="read_yolo: expected images in"):
        read_yolo(root, "train")
    make_yolo(tmp_path, {"a": None, "b": None})
    with pytest.raises(ValueError, match=r"such as .*labels/train/a\.txt, got none for all of 2"):
        read_yolo(root, "train")


def test_nothing_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected data\.yaml, or images/ and labels/"):
        read_yolo(tmp_path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0.5 0.5 0.5", "got 4 fields"),
        (f"{BOX} 0.93", "got 6 fields (a sixth is the confidence of a prediction)"),
        (f"{POLYGON} 0.1", "got 8 fields"),
        ("cat 0.5 0.5 0.5 0.5", "expected numbers, got 'cat'"),
        ("0.5 0.5 0.5 0.5 0.5", "expected a class index, got '0.5'"),
        ("1e300 0.5 0.5 0.5 0.5", "expected a class index, got '1e300'"),
        ("nan 0.5 0.5 0.5 0.5", "expected a class index, got 'nan'"),
        ("0 nan 0.5 0.5 0.5", "expected finite numbers, got 0 nan"),
        ("0 0.5 inf 0.5 0.5", "expected finite numbers, got 0 0.5 inf"),
        ("0 1.2 0.5 0.1 0.1", "expected fractions of the image from 0 to 1, got 0 1.2"),
        ("0 -0.1 0.5 0.1 0.1", "expected fractions of the image from 0 to 1"),
        ("0 300 200 50 40", "expected fractions of the image from 0 to 1, got 0 300"),
    ],
)
def test_bad_lines(tmp_path, line, message):
    table = read_yolo(make_yolo(tmp_path, {"a": f"{BOX}\n{BOX}\n{line}\n"}), "train")
    error = only_error(table)
    assert message in error.message
    assert (error.row, error.file) == ("line 3", str(tmp_path / "labels/train/a.txt"))
    assert table.num_objects == 2


def test_class_as_a_float_and_a_rounded_border(tmp_path):
    table = read_yolo(make_yolo(tmp_path, {"a": "1.0 0.5 0.5 1.0000002 1"}), "train")
    assert table.labels.tolist() == [1]
    assert find_bad_labels(table)[0] == []


def test_label_rules_report_classes_out_of_range_and_empty_boxes(tmp_path):
    table = read_yolo(make_yolo(tmp_path, {"a": "2 0.5 0.5 1 1\n0 0.5 0.5 0 1"}), "train")
    findings = find_bad_labels(table)[0]
    rows = {f.code: f.row for f in findings}
    assert rows == {"unknown-class": "line 1", "degenerate-box": "line 2"}


def test_pixels_are_reported_for_the_whole_dataset(tmp_path):
    table = read_yolo(make_yolo(tmp_path, {"a": f"{BOX}\n0 9 9 9 9\n0 8 8 8 8"}), "train")
    first = errors_of(table.findings)[0]
    assert "got larger numbers in 2 of 3 lines: they look like pixels" in first.message
    assert len(errors_of(table.findings)) == 3


def test_many_errors_are_counted(tmp_path):
    lines = [BOX, *["0 0.5"] * 1500]
    errors = errors_of(read_yolo(make_yolo(tmp_path, {"a": "\n".join(lines)}), "train").findings)
    assert len(errors) == 1001
    assert sum(error.count for error in errors) == 1500
    assert errors[-1].code == "bad-object"


def test_missing_label_files_are_counted(tmp_path):
    table = read_yolo(make_yolo(tmp_path, {"a": BOX, "b": None, "c": None}), "train")
    assert table.num_images == 3
    assert [(f.severity, f.code, f.count) for f in table.findings] == [("info", "no-label-file", 2)]


def test_labels_without_an_image(tmp_path):
    root = make_yolo(tmp_path, {"a": BOX, "b": BOX})
    os.remove(root / "images/train/b.jpg")
    (root / "labels/train/classes.txt").write_text("cat\n")
    (root / "labels/train/a.TXT").write_text(BOX)  # on this system another file than a.txt
    table = read_yolo(root, "train")
    assert codes(table) == ["labels-without-image"] * 2
    files = [str(root / "labels/train" / name) for name in ("a.TXT", "b.txt")]
    assert [finding.file for finding in table.findings] == files


def test_two_images_with_one_label_file(tmp_path):
    root = make_yolo(tmp_path, {"a": BOX})
    image(root / "images/train/a.png")
    assert only_error(read_yolo(root, "train")).code == "ambiguous-image"


@pytest.mark.parametrize("data", [b"\xff\xfe0\0", b"0 0.5 \xe4", b"0 0.5\0 0.5"])
def test_label_files_that_are_not_text(tmp_path, data):
    table = read_yolo(make_yolo(tmp_path, {"a": BOX, "b": data}), "train")
    error = only_error(table)
    assert error.code == "unreadable-labels"
    assert "b.txt" in error.message
    assert list(table.images) == ["images/train/a.jpg"]  # unknown objects are not none


@pytest.mark.parametrize("content", [b"", b"\xff\xd8\xff\xe0", b"<html>"])
def test_invalid_images(tmp_path, content):
    root = make_yolo(tmp_path, {"a": BOX, "b": BOX})
    (root / "images/train/b.jpg").write_bytes(content)
    table = read_yolo(root, "train")
    assert only_error(table).code == "unreadable-image"
    assert table.num_images == 1


def test_names_that_are_not_utf8(tmp_path):
    odd = os.fsdecode(b"caf\xe9")
    try:
        root = make_yolo(tmp_path, {odd: "0 1 2", "a": BOX})
    except OSError:
        pytest.skip("the file system has names in UTF-8 only")
    table = read_yolo(root, "train")
    assert table.num_images == 2
    str(errors_of(table.findings)[0]).encode()  # can be printed


@given(st.lists(st.tuples(st.integers(0, 10_000), st.binary(max_size=4)), min_size=1, max_size=5))
def test_damage_of_any_kind_is_an_error_or_a_finding(tmp_path_factory, changes):
    root = make_yolo(tmp_path_factory.mktemp("set"), {"a": f"{BOX}\n{POLYGON}\n"})
    for file in (root / "data.yaml", root / "labels/train/a.txt"):
        data = bytearray(file.read_bytes())
        for place, bytes_ in changes:
            place %= len(data)
            data[place : place + len(bytes_)] = bytes_
        file.write_bytes(data)
    try:
        table = read_yolo(root / "data.yaml", "train", classes=["cat", "dog"])
    except (ValueError, FileNotFoundError) as error:
        assert str(error).startswith("read_yolo: expected")
    else:
        assert table.num_objects + len(errors_of(table.findings)) >= 1


def test_no_warning_for_a_valid_dataset(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        DetectionDataset(read_yolo(make_yolo(tmp_path, {"a": BOX, "b": None}), "train"))
