"""read_voc on valid and invalid XML files."""

import os
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cvlib.data.datasets.detection import DetectionDataset
from cvlib.data.formats.voc import read_voc
from cvlib.data.formats.voc_xml import read_annotation
from cvlib.data.labels.findings import BadLabelsError, errors_of
from cvlib.data.labels.rules import find_bad_labels
from cvlib.data.load import find_splits

RNG = np.random.default_rng(0)


def box_xml(name="cat", box=(1, 1, 10, 20), **fields):
    corners = "".join(
        f"<{side}>{value}</{side}>"
        for side, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    )
    more = "".join(f"<{key}>{value}</{key}>" for key, value in fields.items())
    return f"<object><name>{name}</name>{more}<bndbox>{corners}</bndbox></object>"


def xml(*objects, size=(40, 30), filename="", head=""):
    width, height = size
    return (
        f"{head}<annotation><filename>{filename}</filename><size><width>{width}</width>"
        f"<height>{height}</height><depth>3</depth></size>{''.join(objects)}</annotation>"
    )


def write_set(root, files, splits=None, suffix=".jpg"):
    """A VOC folder with these XML files, each with an image of 40 x 30."""
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / name).mkdir(parents=True, exist_ok=True)
    for stem, text in files.items():
        data = text if isinstance(text, bytes) else text.encode()
        (root / "Annotations" / f"{stem}.xml").write_bytes(data)
        pixels = RNG.integers(0, 256, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "JPEGImages" / f"{stem}{suffix}")
    for split, lines in (splits or {}).items():
        (root / f"ImageSets/Main/{split}.txt").write_text("\n".join(lines) + "\n")
    return root


def codes(table, *severities):
    return [f.code for f in table.findings if f.severity in (severities or ("error", "warning"))]


def only_error(table):
    errors = errors_of(table.findings)
    assert len(errors) == 1, errors
    return errors[0]


def test_a_small_dataset(tmp_path):
    #   VOC: pixels 1..10 of 1..40        here: 0.0 to 10.0 of 0.0..40.0
    files = {"a": xml(box_xml("dog", (1, 1, 10, 30)), box_xml("cat", (31, 5, 40, 9), difficult=1))}
    table = read_voc(write_set(tmp_path, files))
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
    table = read_voc(write_set(tmp_path, {"a": xml(), "b": xml(box_xml())}))
    assert table.num_images == 2
    assert np.diff(table.starts).tolist() == [0, 1]


def test_classes_are_those_of_all_splits(tmp_path):
    files = {"a": xml(box_xml("dog")), "b": xml(box_xml("cat"))}
    root = write_set(tmp_path, files, {"train": ["a"], "val": ["b"]})
    train, val = read_voc(root, "train"), read_voc(root, "val")
    assert train.classes == val.classes == ("cat", "dog")
    assert (train.labels.tolist(), val.labels.tolist()) == ([1], [0])


def test_classes_define_the_order_and_unknown_names_are_errors(tmp_path):
    root = write_set(tmp_path, {"a": xml(box_xml("dog"), box_xml("cow"), box_xml("cat"))})
    table = read_voc(root, classes=["dog", "cat"])
    assert table.labels.tolist() == [0, -1, 1]
    assert only_error(table).message == "expected one of the classes dog, cat, got 'cow'"
    assert [f.code for f in find_bad_labels(table)[0]] == ["unknown-class"]


@pytest.mark.parametrize(("classes", "kind"), [("cat", TypeError), ([], ValueError)])
def test_wrong_classes(tmp_path, classes, kind):
    root = write_set(tmp_path, {"a": xml(box_xml())})
    with pytest.raises(kind, match="read_voc: expected `classes`"):
        read_voc(root, classes=classes)


def test_duplicate_class(tmp_path):
    root = write_set(tmp_path, {"a": xml(box_xml())})
    with pytest.raises(ValueError, match="got 'cat' twice"):
        read_voc(root, classes=["cat", "cat"])


@pytest.mark.parametrize("below", ["", "VOC2012", "VOCdevkit/VOC2007"])
def test_root_above_the_set(tmp_path, below):
    write_set(tmp_path / below, {"a": xml(box_xml())})
    assert read_voc(tmp_path).num_objects == 1


@pytest.mark.parametrize(
    "folders",
    [("Annotations", "images"), ("annotations", "images"), ("annotations/xmls", "images")],
)
def test_other_folder_names(tmp_path, folders):
    write_set(tmp_path / "x", {"a": xml(box_xml(), filename="a.jpg")})
    for old, new in zip(("Annotations", "JPEGImages"), folders, strict=True):
        (tmp_path / new).parent.mkdir(exist_ok=True)
        os.rename(tmp_path / "x" / old, tmp_path / new)
    table = read_voc(tmp_path)
    assert list(table.images) == ["images/a.jpg"]
    assert table.label_file(0) == str(tmp_path / folders[0] / "a.xml")
    DetectionDataset(table)[0]


def write_side_by_side(folder, files):
    write_set(folder, files)
    for name in ("Annotations", "JPEGImages"):
        for path in (folder / name).iterdir():
            os.rename(path, folder / path.name)
        (folder / name).rmdir()
    (folder / "ImageSets/Main").rmdir()
    (folder / "ImageSets").rmdir()


def test_xml_next_to_images(tmp_path):
    write_side_by_side(tmp_path, {"a": xml(box_xml())})
    table = read_voc(tmp_path)
    assert list(table.images) == ["a.jpg"]
    assert DetectionDataset(table)[0][1]["boxes"].tolist() == [[0, 0, 10, 20]]


def test_xml_next_to_images_in_split_folders(tmp_path):
    write_side_by_side(tmp_path / "train", {"a": xml(box_xml("dog"))})
    write_side_by_side(tmp_path / "valid", {"a": xml(box_xml("cat"))})
    train, valid = read_voc(tmp_path, "train"), read_voc(tmp_path, "valid")
    assert list(train.images) == ["train/a.jpg"]
    assert train.classes == valid.classes == ("cat", "dog")
    assert (train.labels.tolist(), valid.labels.tolist()) == ([1], [0])
    with pytest.raises(FileNotFoundError, match="`split` to be one of train, valid, got 'test'"):
        read_voc(tmp_path, "test")
    assert find_splits(tmp_path) == ["train", "valid"]


def test_several_years_are_not_mixed(tmp_path):
    for year in ("VOC2007", "VOC2012"):
        write_set(tmp_path / "VOCdevkit" / year, {"a": xml(box_xml())})
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
    root = write_set(tmp_path, {})
    with pytest.raises(ValueError, match="expected XML files in"):
        read_voc(root)
    write_set(tmp_path, {"a": xml()})
    with pytest.raises(ValueError, match="expected objects with a name"):
        read_voc(root)
    assert read_voc(root, classes=["cat"]).num_images == 1


@pytest.mark.parametrize(
    ("lows", "from_1"),
    [([1, 1, 5], True), ([0, 0, 5], False), ([0, 1, 1], True), ([1, 0, 0], False), ([5, 6], True)],
)
def test_boxes_at_the_border_decide(tmp_path, lows, from_1):
    root = write_set(tmp_path, {"a": xml(*(box_xml(box=(low, 3, 20, 20)) for low in lows))})
    table = read_voc(root)
    assert table.boxes[:, 0].tolist() == [low - from_1 for low in lows]
    assert codes(table, "info") == ["pixels-from-1" if from_1 else "pixels-from-0"]


def test_the_border_of_other_splits_counts(tmp_path):
    files = {"a": xml(box_xml(box=(0, 0, 9, 9))), "b": xml(box_xml(box=(4, 4, 9, 9)))}
    root = write_set(tmp_path, files, {"train": ["a"], "val": ["b"]})
    assert read_voc(root, "val").boxes.tolist() == [[4, 4, 9, 9]]


def test_one_based_given(tmp_path):
    root = write_set(tmp_path, {"a": xml(box_xml(box=(1, 1, 9, 9)))})
    assert read_voc(root, one_based=False).boxes.tolist() == [[1, 1, 9, 9]]
    assert read_voc(root, one_based=True).boxes.tolist() == [[0, 0, 9, 9]]
    assert codes(read_voc(root, one_based=True), "info") == []


def test_a_point_is_not_a_box_unless_one_based(tmp_path):
    root = write_set(tmp_path, {"a": xml(box_xml(box=(7, 8, 7, 8)), box_xml(box=(1, 1, 9, 9)))})
    findings, _ = find_bad_labels(read_voc(root))
    assert [(f.code, f.row) for f in findings] == [("degenerate-box", "object 1")]
    assert read_voc(root, one_based=True).boxes[0].tolist() == [6, 7, 7, 8]


def test_split_lists(tmp_path):
    files = {name: xml(box_xml()) for name in ("a", "b", "with blank", "c.d")}
    lists = {"train": ["a", "", "with blank "], "val": ["b.jpg", "c.d\r"]}
    root = write_set(tmp_path, files, lists)
    assert list(read_voc(root, "train").images) == [
        "JPEGImages/a.jpg",
        "JPEGImages/with blank.jpg",
    ]
    assert list(read_voc(root, "val").images) == ["JPEGImages/b.jpg", "JPEGImages/c.d.jpg"]
    assert read_voc(root).num_images == 4


def test_lists_of_one_class(tmp_path):
    files = {name: xml(box_xml()) for name in "abc"}
    lists = {"cat_train": ["a  1", "b -1", "c  0"], "dog_train": ["a -1", "b 1", "c -1"]}
    root = write_set(tmp_path, files, lists)
    assert list(read_voc(root, "cat_train").images) == ["JPEGImages/a.jpg", "JPEGImages/c.jpg"]
    assert read_voc(root, "train").num_images == 3


def test_listed_twice(tmp_path):
    root = write_set(tmp_path, {"a": xml(box_xml())}, {"train": ["a", "a"]})
    table = read_voc(root, "train")
    assert table.num_images == 1
    assert codes(table) == ["listed-twice"]


@pytest.mark.parametrize(
    ("lines", "kind", "message"),
    [
        ([], ValueError, "got an empty list"),
        (["../../secret"], ValueError, "expected a path inside of"),
        (["/etc/passwd"], ValueError, "expected a path inside of"),
    ],
)
def test_bad_lists(tmp_path, lines, kind, message):
    root = write_set(tmp_path, {"a": xml(box_xml())}, {"train": lines})
    with pytest.raises(kind, match=message):
        read_voc(root, "train")


def test_unknown_split(tmp_path):
    root = write_set(tmp_path, {"a": xml(box_xml())}, {"train": ["a"], "val": ["a"]})
    with pytest.raises(FileNotFoundError, match="got 'test' among train, val"):
        read_voc(root, "test")
    with pytest.raises(ValueError, match="expected `split` to be the name of a list"):
        read_voc(root, "../Main/train")


def test_list_in_another_encoding(tmp_path):
    root = write_set(tmp_path, {"a": xml(box_xml())}, {"train": ["a"]})
    (root / "ImageSets/Main/train.txt").write_bytes("ä".encode("latin-1"))
    with pytest.raises(ValueError, match=r"in UTF-8, got byte 0xe4 .*train\.txt"):
        read_voc(root, "train")


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1", "gb2312", "cp1252"]
)
def test_encodings(tmp_path, encoding):
    name = "猫" if encoding in ("utf-8", "utf-8-sig", "utf-16", "gb2312") else "kätzchen"
    declared = "utf-8" if encoding == "utf-8-sig" else encoding
    head = f'<?xml version="1.0" encoding="{declared}"?>'
    files = {"a": xml(box_xml(name), head=head).encode(encoding)}
    assert read_voc(write_set(tmp_path, files)).classes == (name,)


def test_namespaces_doctype_and_comments(tmp_path):
    text = xml(box_xml(), "<!-- seen -->", head="<!DOCTYPE annotation><!-- by hand -->")
    text = text.replace("<annotation>", '<annotation xmlns="http://example.org/voc">')
    assert read_voc(write_set(tmp_path, {"a": text})).labels.tolist() == [0]


def test_floats_and_blanks(tmp_path):
    root = write_set(tmp_path, {"a": xml(box_xml(" cat\n", (" 1.5 ", "2.", "1e1", "9")))})
    table = read_voc(root)
    assert table.classes == ("cat",)
    assert table.boxes.tolist() == [[0.5, 1, 10, 9]]


def test_parts_are_not_objects(tmp_path):
    part = "<part><name>head</name><bndbox><xmin>2</xmin></bndbox></part>"
    text = xml(box_xml("person", pose="Left", truncated=1, occluded=1) + "")
    root = write_set(tmp_path, {"a": text.replace("</object>", f"{part}</object>")})
    table = read_voc(root)
    assert table.classes == ("person",)
    assert table.num_objects == 1


BOMB = (
    '<!DOCTYPE lolz [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;">]>'
    "<annotation><filename>&c;</filename></annotation>"
)
EXTERNAL = (
    '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>'
    "<annotation><filename>&x;</filename></annotation>"
)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "gb2312"])
@pytest.mark.parametrize("text", [BOMB, EXTERNAL])
def test_entities_are_refused(tmp_path, text, encoding):
    head = f'<?xml version="1.0" encoding="{encoding}"?>'
    root = write_set(tmp_path, {"a": (head + text).encode(encoding), "b": xml(box_xml())})
    error = only_error(read_voc(root))
    assert "expected XML without entities, got a file that declares some" in error.message
    assert error.file.endswith("a.xml")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "got an empty file"),
        (b" \n", "got an empty file"),
        (xml(box_xml())[:-30], "complete, well-formed XML"),
        (b"\xff\xd8\xff\xe0 a JPEG", "complete, well-formed XML"),
        (b"<annotation>\xe4</annotation>", "complete, well-formed XML"),
        ('<?xml version="1.0" encoding="klingon"?><annotation/>', "unknown encoding: klingon"),
        (b"<html></html>", "expected an <annotation>, got <html>"),
    ],
)
def test_damaged_xml(tmp_path, data, message):
    table = read_voc(write_set(tmp_path, {"a": data, "b": xml(box_xml())}))
    error = only_error(table)
    assert message in error.message
    assert error.code == "unreadable-labels"
    assert table.num_images == 1  # its objects are unknown: it must not count as empty


def test_deep_xml(tmp_path):
    deep = "<annotation>" + "<a>" * 100_000 + "</a>" * 100_000 + "</annotation>"
    table = read_voc(write_set(tmp_path, {"a": deep, "b": xml(box_xml())}))
    assert table.num_objects == 1


def test_huge_xml(tmp_path):
    huge = b"<annotation>" + b" " * (1 << 24) + b"</annotation>"
    table = read_voc(write_set(tmp_path, {"a": huge, "b": xml(box_xml())}))
    assert "expected at most 16,777,216 bytes of XML, got 16,777,241" in only_error(table).message


def test_damaged_xml_of_another_split(tmp_path):
    root = write_set(tmp_path, {"a": xml(box_xml()), "b": b""}, {"train": ["a"], "val": ["b"]})
    table = read_voc(root, "train")
    assert codes(table) == ["unreadable-labels"]
    assert table.findings[0].severity == "warning"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (box_xml(""), "expected a name, got none"),
        (box_xml(box=("", 1, 2, 3)), "expected xmin to be a number, got none"),
        (box_xml(box=(1, "b", 2, 3)), "expected ymin to be a number, got 'b'"),
        ("<object><name>cat</name></object>", "expected xmin to be a number, got none"),
        (box_xml().replace("ymax>", "y2>"), "expected ymax to be a number, got none"),
        (
            box_xml().replace("</object>", "<name>dog</name></object>"),
            "expected one name, got 2",
        ),
        (box_xml().replace("</bndbox>", "</bndbox><bndbox/>"), "expected one bndbox, got 2"),
        (box_xml().replace("<xmin>", "<xmin>3</xmin><xmin>"), "expected one xmin, got 2"),
    ],
)
def test_bad_objects(tmp_path, text, message):
    table = read_voc(write_set(tmp_path, {"a": xml(box_xml(), text)}))
    error = only_error(table)
    assert (error.message, error.row) == (message, "object 2")
    assert table.num_objects == 1


@pytest.mark.parametrize(
    "text", [box_xml().replace("object>", "Object>"), f"<objects>{box_xml()}</objects>"]
)
def test_boxes_outside_objects(tmp_path, text):
    table = read_voc(write_set(tmp_path, {"a": xml(box_xml(), text)}))
    assert "in an <object> of <annotation>, got 1 elsewhere" in only_error(table).message


def test_no_object_can_be_used(tmp_path):
    root = write_set(tmp_path, {"a": xml(box_xml(box=("1,5", 1, 2, 3)))})
    with pytest.raises(BadLabelsError, match=r"a\.xml, object 1: expected xmin to be a number"):
        read_voc(root)


def test_fractions_are_found_by_the_label_rules(tmp_path):
    boxes = [(0.1, 0.2, 0.5, 0.9), (0.5, 0.3, 1, 1)]
    root = write_set(tmp_path, {"a": xml(*(box_xml(box=box) for box in boxes))})
    for one_based in (None, True):
        findings, _ = find_bad_labels(read_voc(root, one_based=one_based))
        assert [(f.code, f.count) for f in findings] == [("normalised-box", 2)]


def test_not_a_number_is_found_by_the_label_rules(tmp_path):
    table = read_voc(write_set(tmp_path, {"a": xml(box_xml(box=("nan", 1, 2, 3)))}))
    assert [f.code for f in find_bad_labels(table)[0]] == ["not-a-number"]


def test_odd_difficult(tmp_path):
    table = read_voc(write_set(tmp_path, {"a": xml(box_xml(difficult="maybe"))}))
    assert table.difficult.tolist() == [True]
    assert "expected difficult to be 0 or 1, got 'maybe'" in str(table.findings)


@pytest.mark.parametrize("size", [(0, 0), ("", ""), ("forty", 30), ("inf", 30)])
def test_size_from_the_image_where_the_xml_has_none(tmp_path, size):
    table = read_voc(write_set(tmp_path, {"a": xml(box_xml(), size=size)}))
    assert table.sizes.tolist() == [[30, 40]]


@given(st.lists(st.tuples(st.integers(0, 10_000), st.binary(max_size=4)), min_size=1, max_size=5))
def test_damage_of_any_kind_becomes_findings(tmp_path_factory, changes):
    data = bytearray(xml(box_xml(), box_xml("dog", (2, 3, 9, 9)), filename="a.jpg").encode())
    for place, bytes_ in changes:
        place %= len(data)
        data[place : place + len(bytes_)] = bytes_
    path = tmp_path_factory.mktemp("xml") / "a.xml"
    path.write_bytes(data)
    annotation = read_annotation(path)
    assert annotation.is_readable or [f.severity for f in annotation.findings] == ["error"]
    assert all(len(obj.corners) == 4 for obj in annotation.objects)


def test_filename_that_disagrees(tmp_path):
    files = {
        "a": xml(box_xml(), filename="old_name.jpg"),
        "b": xml(box_xml(), filename="b.png"),
    }
    table = read_voc(write_set(tmp_path, files))
    assert list(table.images) == ["JPEGImages/a.jpg", "JPEGImages/b.jpg"]
    assert [(f.severity, f.file[-5:]) for f in table.findings[1:]] == [("warning", "a.xml")]


def test_filename_of_another_image_is_an_error(tmp_path):
    files = {"a": xml(box_xml(), filename="b.jpg"), "b": xml(box_xml())}
    table = read_voc(write_set(tmp_path, files))
    message = only_error(table).message
    assert "got the filename b.jpg, which is another image of the dataset" in message
    assert list(table.images) == ["JPEGImages/b.jpg"]


def test_image_referenced_only_by_filename(tmp_path):
    root = write_set(tmp_path, {"a": xml(box_xml(), filename=r"C:\x\photo.jpg")})
    os.rename(root / "JPEGImages/a.jpg", root / "JPEGImages/photo.jpg")
    table = read_voc(root, one_based=True)
    assert list(table.images) == ["JPEGImages/photo.jpg"]
    assert codes(table) == ["missing-labels", "other-filename"]


def test_filename_never_leaves_the_dataset(tmp_path):
    root = write_set(tmp_path / "set", {"a": xml(box_xml(), filename="../../secret.jpg")})
    os.rename(root / "JPEGImages/a.jpg", tmp_path / "secret.jpg")
    table = read_voc(root)
    assert table.num_images == 0
    assert only_error(table).code == "missing-image"


def test_missing_images_and_missing_xml(tmp_path):
    files = {"a": xml(box_xml()), "b": xml(box_xml())}
    root = write_set(tmp_path, files, {"train": ["a", "b", "c"]})
    os.remove(root / "JPEGImages/a.jpg")
    table = read_voc(root, "train")
    assert [f.code for f in errors_of(table.findings)] == ["missing-image", "missing-labels"]
    assert list(table.images) == ["JPEGImages/b.jpg"]
    assert str(root / "JPEGImages/a.jpg") == errors_of(table.findings)[0].image


def test_images_that_differ_in_their_ending(tmp_path):
    root = write_set(tmp_path, {"a": xml(box_xml())})
    write_set(tmp_path, {"a": xml(box_xml())}, suffix=".png")
    assert only_error(read_voc(root)).code == "ambiguous-image"


def test_unlabelled_images_are_a_warning(tmp_path):
    root = write_set(tmp_path, {"a": xml(box_xml()), "b": xml()})
    os.remove(root / "Annotations/b.xml")
    table = read_voc(root)
    assert codes(table) == ["missing-labels"]
    assert "got none for JPEGImages/b.jpg: these images are left out" in str(table.findings)


def test_names_that_are_not_utf8(tmp_path):
    odd = os.fsdecode(b"caf\xe9")
    try:
        root = write_set(tmp_path, {odd: xml(box_xml(box=(5, 5, 5, 5)), filename="x.jpg")})
    except OSError:
        pytest.skip("the file system has names in UTF-8 only")
    table = read_voc(root)
    assert table.path(0).is_file()
    text = "".join(map(str, table.findings))
    assert "caf\\xe9" in text
    text.encode()  # can be printed


def test_blood_cells(test_data):
    table = read_voc(test_data / "bccd-voc")
    assert (table.num_images, table.num_objects) == (364, 4888)
    counts = np.bincount(table.labels)
    assert dict(zip(table.classes, counts.tolist(), strict=True)) == {
        "Platelets": 361,
        "RBC": 4155,
        "WBC": 372,
    }
    assert [f.code for f in table.findings] == ["pixels-from-1"]
    findings, _ = find_bad_labels(table)
    places = [(f.code, re.sub(r".*_(\d+)\.xml", r"\1", f.file), f.row) for f in findings]
    assert places == [
        ("degenerate-box", "00338", "object 13"),
        ("degenerate-box", "00343", "object 4"),
    ]


def test_splits_of_blood_cells(test_data):
    sizes = {s: read_voc(test_data / "bccd-voc", s).num_images for s in ("train", "val", "test")}
    assert sizes == {"train": 205, "val": 87, "test": 72}
