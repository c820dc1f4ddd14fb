"""read_voc: folders, splits, coordinates and file names."""

import os
import re

import numpy as np
import pytest
from label_files import PROBLEMS, box_xml, codes, make_voc, only_error, xml

from cvlib.data.datasets.detection import DetectionDataset
from cvlib.data.formats.voc import read_voc
from cvlib.data.labels.findings import errors_of
from cvlib.data.labels.rules import find_bad_labels
from cvlib.data.load import find_splits


def test_a_small_dataset(tmp_path):
    #   VOC: pixels 1..10 of 1..40        here: 0.0 to 10.0 of 0.0..40.0
    files = {"a": xml(box_xml("dog", (1, 1, 10, 30)), box_xml("cat", (31, 5, 40, 9), difficult=1))}
    table = read_voc(make_voc(tmp_path, files))
    assert table.classes == ("cat", "dog")
    assert table.boxes.tolist() == [[0, 0, 10, 30], [30, 4, 40, 9]]
    assert table.labels.tolist() == [1, 0]
    assert table.difficult.tolist() == [False, True]
    assert table.iscrowd.tolist() == [False, False]
    assert table.sizes.tolist() == [[30, 40]]
    assert table.row(1) == "object 2"
    assert table.images[0] == "JPEGImages/a.jpg"
    assert table.label_file(0) == str(tmp_path / "Annotations/a.xml")
    image, target = DetectionDataset(table)[0]
    assert image.shape == (3, 30, 40)
    assert target["boxes"].tolist() == [[0, 0, 10, 30], [30, 4, 40, 9]]


def test_images_without_objects_are_kept(tmp_path):
    table = read_voc(make_voc(tmp_path, {"a": xml(), "b": xml(box_xml())}))
    assert table.num_images == 2
    assert np.diff(table.starts).tolist() == [0, 1]


def test_classes_are_those_of_all_splits(tmp_path):
    files = {"a": xml(box_xml("dog")), "b": xml(box_xml("cat"))}
    root = make_voc(tmp_path, files, {"train": ["a"], "val": ["b"]})
    train, val = read_voc(root, "train"), read_voc(root, "val")
    assert train.classes == val.classes == ("cat", "dog")
    assert (train.labels.tolist(), val.labels.tolist()) == ([1], [0])


def test_classes_define_the_order_and_unknown_names_are_errors(tmp_path):
    root = make_voc(tmp_path, {"a": xml(box_xml("dog"), box_xml("cow"), box_xml("cat"))})
    table = read_voc(root, classes=["dog", "cat"])
    assert table.labels.tolist() == [0, -1, 1]
    assert only_error(table).message == "expected one of the classes dog, cat, got 'cow'"
    assert [f.code for f in find_bad_labels(table)[0]] == ["unknown-class"]


@pytest.mark.parametrize(
    ("classes", "kind", "message"),
    [
        ("cat", TypeError, "read_voc: expected `classes`"),
        ([], ValueError, "read_voc: expected `classes`"),
        (["cat", "cat"], ValueError, "got 'cat' twice"),
    ],
)
def test_wrong_classes(tmp_path, classes, kind, message):
    root = make_voc(tmp_path, {"a": xml(box_xml())})
    with pytest.raises(kind, match=message):
        read_voc(root, classes=classes)


@pytest.mark.parametrize("below", ["", "VOC2012", "VOCdevkit/VOC2007"])
def test_root_above_the_dataset(tmp_path, below):
    make_voc(tmp_path / below, {"a": xml(box_xml())})
    assert read_voc(tmp_path).num_objects == 1


@pytest.mark.parametrize(
    "folders",
    [("Annotations", "images"), ("annotations", "images"), ("annotations/xmls", "images")],
)
def test_other_folder_names(tmp_path, folders):
    make_voc(tmp_path / "x", {"a": xml(box_xml(), filename="a.jpg")})
    for old, new in zip(("Annotations", "JPEGImages"), folders, strict=True):
        (tmp_path / new).parent.mkdir(exist_ok=True)
        os.rename(tmp_path / "x" / old, tmp_path / new)
    table = read_voc(tmp_path)
    assert list(table.images) == ["images/a.jpg"]
    assert table.label_file(0) == str(tmp_path / folders[0] / "a.xml")
    DetectionDataset(table)[0]


def make_side_by_side(folder, files):
    make_voc(folder, files)
    for name in ("Annotations", "JPEGImages"):
        for path in (folder / name).iterdir():
            os.rename(path, folder / path.name)
        (folder / name).rmdir()
    (folder / "ImageSets/Main").rmdir()
    (folder / "ImageSets").rmdir()


def test_xml_next_to_images(tmp_path):
    make_side_by_side(tmp_path, {"a": xml(box_xml())})
    table = read_voc(tmp_path)
    assert list(table.images) == ["a.jpg"]
    assert DetectionDataset(table)[0][1]["boxes"].tolist() == [[0, 0, 10, 20]]


def test_xml_next_to_images_in_split_folders(tmp_path):
    make_side_by_side(tmp_path / "train", {"a": xml(box_xml("dog"))})
    make_side_by_side(tmp_path / "valid", {"a": xml(box_xml("cat"))})
    train, valid = read_voc(tmp_path, "train"), read_voc(tmp_path, "valid")
    assert list(train.images) == ["train/a.jpg"]
    assert train.classes == valid.classes == ("cat", "dog")
    assert (train.labels.tolist(), valid.labels.tolist()) == ([1], [0])
    with pytest.raises(FileNotFoundError, match="`split` to be one of train, valid, got 'test'"):
        read_voc(tmp_path, "test")
    assert find_splits(tmp_path) == ["train", "valid"]


def test_several_years_are_not_mixed(tmp_path):
    for year in ("VOC2007", "VOC2012"):
        make_voc(tmp_path / "VOCdevkit" / year, {"a": xml(box_xml())})
    with pytest.raises(ValueError, match=r"one dataset, got .*VOC2007.*VOC2012; pass one of these"):
        read_voc(tmp_path)


def test_missing_folders(tmp_path):
    (tmp_path / "photos").mkdir()
    with pytest.raises(
        FileNotFoundError, match=r"with Annotations/ and JPEGImages/, .*, got .*photos"
    ):
        read_voc(tmp_path)
    with pytest.raises(FileNotFoundError, match="which does not exist"):
        read_voc(tmp_path / "nothing")


def test_no_xml_and_no_objects(tmp_path):
    root = make_voc(tmp_path, {})
    with pytest.raises(ValueError, match="expected XML files in"):
        read_voc(root)
    make_voc(tmp_path, {"a": xml()})
    with pytest.raises(ValueError, match="expected objects with a name"):
        read_voc(root)
    assert read_voc(root, classes=["cat"]).num_images == 1


@pytest.mark.parametrize(
    ("lows", "from_1"),
    [([1, 1, 5], True), ([0, 0, 5], False), ([0, 1, 1], True), ([1, 0, 0], False), ([5, 6], True)],
)
def test_boxes_at_the_border_decide(tmp_path, lows, from_1):
    root = make_voc(tmp_path, {"a": xml(*(box_xml(box=(low, 3, 20, 20)) for low in lows))})
    table = read_voc(root)
    assert table.boxes[:, 0].tolist() == [low - from_1 for low in lows]
    assert codes(table, ("info",)) == ["pixels-from-1" if from_1 else "pixels-from-0"]


def test_the_border_of_other_splits_counts(tmp_path):
    files = {"a": xml(box_xml(box=(0, 0, 9, 9))), "b": xml(box_xml(box=(4, 4, 9, 9)))}
    root = make_voc(tmp_path, files, {"train": ["a"], "val": ["b"]})
    assert read_voc(root, "val").boxes.tolist() == [[4, 4, 9, 9]]


def test_one_based_given(tmp_path):
    root = make_voc(tmp_path, {"a": xml(box_xml(box=(1, 1, 9, 9)))})
    assert read_voc(root, one_based=False).boxes.tolist() == [[1, 1, 9, 9]]
    assert read_voc(root, one_based=True).boxes.tolist() == [[0, 0, 9, 9]]
    assert codes(read_voc(root, one_based=True), ("info",)) == []


def test_a_point_is_not_a_box_unless_one_based(tmp_path):
    root = make_voc(tmp_path, {"a": xml(box_xml(box=(7, 8, 7, 8)), box_xml(box=(1, 1, 9, 9)))})
    findings, _ = find_bad_labels(read_voc(root))
    assert [(f.code, f.row) for f in findings] == [("degenerate-box", "object 1")]
    assert read_voc(root, one_based=True).boxes[0].tolist() == [6, 7, 7, 8]


def test_split_lists(tmp_path):
    files = {name: xml(box_xml()) for name in ("a", "b", "with blank", "c.d")}
    lists = {"train": ["a", "", "with blank "], "val": ["b.jpg", "c.d\r"]}
    root = make_voc(tmp_path, files, lists)
    train = ["JPEGImages/a.jpg", "JPEGImages/with blank.jpg"]
    assert list(read_voc(root, "train").images) == train
    assert list(read_voc(root, "val").images) == ["JPEGImages/b.jpg", "JPEGImages/c.d.jpg"]
    assert read_voc(root).num_images == 4


def test_lists_of_one_class(tmp_path):
    files = {name: xml(box_xml()) for name in "abc"}
    lists = {"cat_train": ["a  1", "b -1", "c  0"], "dog_train": ["a -1", "b 1", "c -1"]}
    root = make_voc(tmp_path, files, lists)
    assert list(read_voc(root, "cat_train").images) == ["JPEGImages/a.jpg", "JPEGImages/c.jpg"]
    assert read_voc(root, "train").num_images == 3


def test_listed_twice(tmp_path):
    root = make_voc(tmp_path, {"a": xml(box_xml())}, {"train": ["a", "a"]})
    table = read_voc(root, "train")
    assert table.num_images == 1
    assert codes(table, PROBLEMS) == ["listed-twice"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\n", "got an empty list"),
        (b"../../secret\n", "expected a path inside of"),
        (b"/etc/passwd\n", "expected a path inside of"),
        ("ä".encode("latin-1"), r"in UTF-8, got byte 0xe4 .*train\.txt"),
    ],
)
def test_bad_lists(tmp_path, data, message):
    root = make_voc(tmp_path, {"a": xml(box_xml())})
    (root / "ImageSets/Main/train.txt").write_bytes(data)
    with pytest.raises(ValueError, match=message):
        read_voc(root, "train")


def test_unknown_split(tmp_path):
    root = make_voc(tmp_path, {"a": xml(box_xml())}, {"train": ["a"], "val": ["a"]})
    with pytest.raises(FileNotFoundError, match="got 'test' among train, val"):
        read_voc(root, "test")
    with pytest.raises(ValueError, match="expected `split` to be the name of a list"):
        read_voc(root, "../Main/train")


def test_label_rules_report_fractions(tmp_path):
    boxes = [(0.1, 0.2, 0.5, 0.9), (0.5, 0.3, 1, 1)]
    root = make_voc(tmp_path, {"a": xml(*(box_xml(box=box) for box in boxes))})
    for one_based in (None, True):
        findings, _ = find_bad_labels(read_voc(root, one_based=one_based))
        assert [(f.code, f.count) for f in findings] == [("normalised-box", 2)]


@pytest.mark.parametrize("size", [(0, 0), ("", ""), ("forty", 30), ("inf", 30)])
def test_size_from_the_image_where_the_xml_has_none(tmp_path, size):
    table = read_voc(make_voc(tmp_path, {"a": xml(box_xml(), size=size)}))
    assert table.sizes.tolist() == [[30, 40]]


def test_filename_that_disagrees(tmp_path):
    files = {n: xml(box_xml(), filename=f) for n, f in (("a", "old_name.jpg"), ("b", "b.png"))}
    table = read_voc(make_voc(tmp_path, files))
    assert list(table.images) == ["JPEGImages/a.jpg", "JPEGImages/b.jpg"]
    assert [(f.severity, f.file[-5:]) for f in table.findings[1:]] == [("warning", "a.xml")]


def test_filename_of_another_image_is_an_error(tmp_path):
    files = {"a": xml(box_xml(), filename="b.jpg"), "b": xml(box_xml())}
    table = read_voc(make_voc(tmp_path, files))
    message = only_error(table).message
    assert "got the filename b.jpg, which is another image of the dataset" in message
    assert list(table.images) == ["JPEGImages/b.jpg"]


def test_image_referenced_only_by_filename(tmp_path):
    root = make_voc(tmp_path, {"a": xml(box_xml(), filename=r"C:\x\photo.jpg")})
    os.rename(root / "JPEGImages/a.jpg", root / "JPEGImages/photo.jpg")
    table = read_voc(root, one_based=True)
    assert list(table.images) == ["JPEGImages/photo.jpg"]
    assert codes(table, PROBLEMS) == ["missing-labels", "other-filename"]


def test_filename_never_leaves_the_dataset(tmp_path):
    root = make_voc(tmp_path / "set", {"a": xml(box_xml(), filename="../../secret.jpg")})
    os.rename(root / "JPEGImages/a.jpg", tmp_path / "secret.jpg")
    table = read_voc(root)
    assert table.num_images == 0
    assert only_error(table).code == "missing-image"


def test_missing_images_and_missing_xml(tmp_path):
    files = {"a": xml(box_xml()), "b": xml(box_xml())}
    root = make_voc(tmp_path, files, {"train": ["a", "b", "c"]})
    os.remove(root / "JPEGImages/a.jpg")
    table = read_voc(root, "train")
    assert [f.code for f in errors_of(table.findings)] == ["missing-image", "missing-labels"]
    assert list(table.images) == ["JPEGImages/b.jpg"]
    assert str(root / "JPEGImages/a.jpg") == errors_of(table.findings)[0].image


def test_images_that_differ_in_their_ending(tmp_path):
    root = make_voc(tmp_path, {"a": xml(box_xml())})
    make_voc(tmp_path, {"a": xml(box_xml())}, suffix=".png")
    assert only_error(read_voc(root)).code == "ambiguous-image"


def test_unlabelled_images_are_a_warning(tmp_path):
    root = make_voc(tmp_path, {"a": xml(box_xml()), "b": xml()})
    os.remove(root / "Annotations/b.xml")
    table = read_voc(root)
    assert codes(table, PROBLEMS) == ["missing-labels"]
    assert "got none for JPEGImages/b.jpg: these images are left out" in str(table.findings)


def test_blood_cells(test_data):
    table = read_voc(test_data / "bccd-voc")
    assert (table.num_images, table.num_objects) == (364, 4888)
    assert table.classes == ("Platelets", "RBC", "WBC")
    assert np.bincount(table.labels).tolist() == [361, 4155, 372]
    assert [f.code for f in table.findings] == ["pixels-from-1"]
    findings, _ = find_bad_labels(table)
    places = [(f.code, re.sub(r".*_(\d+)\.xml", r"\1", f.file), f.row) for f in findings]
    assert places == [
        ("degenerate-box", "00338", "object 13"),
        ("degenerate-box", "00343", "object 4"),
    ]
    sizes = {s: read_voc(test_data / "bccd-voc", s).num_images for s in ("train", "val", "test")}
    assert sizes == {"train": 205, "val": 87, "test": 72}
