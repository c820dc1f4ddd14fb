"""read_voc on XML files in any encoding, damaged and hostile."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from label_files import PROBLEMS, box_xml, codes, make_voc, only_error, xml

from cvlib.data.formats.voc import read_voc
from cvlib.data.formats.voc_xml import read_annotation
from cvlib.data.labels.findings import BadLabelsError
from cvlib.data.labels.rules import find_bad_labels

BOMB = (
    '<!DOCTYPE lolz [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;">]>'
    "<annotation><filename>&c;</filename></annotation>"
)
EXTERNAL = (
    '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>'
    "<annotation><filename>&x;</filename></annotation>"
)


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1", "gb2312", "cp1252"]
)
def test_encodings(tmp_path, encoding):
    name = "猫" if encoding in ("utf-8", "utf-8-sig", "utf-16", "gb2312") else "kätzchen"
    declared = "utf-8" if encoding == "utf-8-sig" else encoding
    head = f'<?xml version="1.0" encoding="{declared}"?>'
    files = {"a": xml(box_xml(name), head=head).encode(encoding)}
    assert read_voc(make_voc(tmp_path, files)).classes == (name,)


def test_namespaces_doctype_and_comments(tmp_path):
    text = xml(box_xml(), "<!-- seen -->", head="<!DOCTYPE annotation><!-- by hand -->")
    text = text.replace("<annotation>", '<annotation xmlns="http://example.org/voc">')
    assert read_voc(make_voc(tmp_path, {"a": text})).labels.tolist() == [0]


def test_floats_and_blanks(tmp_path):
    root = make_voc(tmp_path, {"a": xml(box_xml(" cat\n", (" 1.5 ", "2.", "1e1", "9")))})
    table = read_voc(root)
    assert table.classes == ("cat",)
    assert table.boxes.tolist() == [[0.5, 1, 10, 9]]


def test_parts_are_not_objects(tmp_path):
    part = "<part><name>head</name><bndbox><xmin>2</xmin></bndbox></part>"
    text = xml(box_xml("person", pose="Left", truncated=1, occluded=1) + "")
    root = make_voc(tmp_path, {"a": text.replace("</object>", f"{part}</object>")})
    table = read_voc(root)
    assert table.classes == ("person",)
    assert table.num_objects == 1


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "gb2312"])
@pytest.mark.parametrize("text", [BOMB, EXTERNAL])
def test_entities_are_refused(tmp_path, text, encoding):
    head = f'<?xml version="1.0" encoding="{encoding}"?>'
    root = make_voc(tmp_path, {"a": (head + text).encode(encoding), "b": xml(box_xml())})
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
    table = read_voc(make_voc(tmp_path, {"a": data, "b": xml(box_xml())}))
    error = only_error(table)
    assert message in error.message
    assert error.code == "unreadable-labels"
    assert table.num_images == 1  # its objects are unknown: it must not count as empty


def test_deep_xml(tmp_path):
    deep = "<annotation>" + "<a>" * 100_000 + "</a>" * 100_000 + "</annotation>"
    table = read_voc(make_voc(tmp_path, {"a": deep, "b": xml(box_xml())}))
    assert table.num_objects == 1


def test_huge_xml(tmp_path):
    huge = b"<annotation>" + b" " * (1 << 24) + b"</annotation>"
    table = read_voc(make_voc(tmp_path, {"a": huge, "b": xml(box_xml())}))
    assert "expected at most 16,777,216 bytes of XML, got 16,777,241" in only_error(table).message


def test_damaged_xml_of_another_split(tmp_path):
    root = make_voc(tmp_path, {"a": xml(box_xml()), "b": b""}, {"train": ["a"], "val": ["b"]})
    table = read_voc(root, "train")
    assert codes(table, PROBLEMS) == ["unreadable-labels"]
    assert table.findings[0].severity == "warning"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (box_xml(""), "expected a name, got none"),
        (box_xml(box=("", 1, 2, 3)), "expected xmin to be a number, got none"),
        (box_xml(box=(1, "b", 2, 3)), "expected ymin to be a number, got 'b'"),
        ("<object><name>cat</name></object>", "expected xmin to be a number, got none"),
        (box_xml().replace("ymax>", "y2>"), "expected ymax to be a number, got none"),
        (box_xml().replace("</object>", "<name>dog</name></object>"), "expected one name, got 2"),
        (box_xml().replace("</bndbox>", "</bndbox><bndbox/>"), "expected one bndbox, got 2"),
        (box_xml().replace("<xmin>", "<xmin>3</xmin><xmin>"), "expected one xmin, got 2"),
    ],
)
def test_bad_objects(tmp_path, text, message):
    table = read_voc(make_voc(tmp_path, {"a": xml(box_xml(), text)}))
    error = only_error(table)
    assert (error.message, error.row) == (message, "object 2")
    assert table.num_objects == 1


@pytest.mark.parametrize(
    "text", [box_xml().replace("object>", "Object>"), f"<objects>{box_xml()}</objects>"]
)
def test_boxes_outside_objects(tmp_path, text):
    table = read_voc(make_voc(tmp_path, {"a": xml(box_xml(), text)}))
    assert "in an <object> of <annotation>, got 1 elsewhere" in only_error(table).message


def test_no_object_can_be_used(tmp_path):
    root = make_voc(tmp_path, {"a": xml(box_xml(box=("1,5", 1, 2, 3)))})
    with pytest.raises(BadLabelsError, match=r"a\.xml, object 1: expected xmin to be a number"):
        read_voc(root)


def test_odd_difficult(tmp_path):
    table = read_voc(make_voc(tmp_path, {"a": xml(box_xml(difficult="maybe"))}))
    assert table.difficult.tolist() == [True]
    assert "expected difficult to be 0 or 1, got 'maybe'" in str(table.findings)


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


def test_names_that_are_not_utf8(tmp_path):
    odd = os.fsdecode(b"caf\xe9")
    try:
        root = make_voc(tmp_path, {odd: xml(box_xml(box=(5, 5, 5, 5)), filename="x.jpg")})
    except OSError:
        pytest.skip("the file system has names in UTF-8 only")
    table = read_voc(root)
    assert table.path(0).is_file()
    text = "".join(map(str, table.findings))
    assert "caf\\xe9" in text
    text.encode()  # can be printed


def test_label_rules_report_not_a_number(tmp_path):
    table = read_voc(make_voc(tmp_path, {"a": xml(box_xml(box=("nan", 1, 2, 3)))}))
    assert [f.code for f in find_bad_labels(table)[0]] == ["not-a-number"]
