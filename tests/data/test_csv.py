"""read_csv: columns identified by name, rows by line, and invalid files."""

import time

import numpy as np
import pytest
from PIL import Image

from cvlib.data import BananaDataset
from cvlib.data.datasets.detection import DetectionDataset
from cvlib.data.formats.csv import read_csv
from cvlib.data.labels.findings import BadLabelsError

HEADER = "image,label,xmin,ymin,xmax,ymax"


def write_set(root, *lines, header=HEADER, newline="\n"):
    for name in ("1.png", "2.png"):
        Image.new("RGB", (40, 30)).save(root / name)
    path = root / "labels.csv"
    path.write_text(newline.join([header, *lines]) + newline, newline="")
    return path


def error_of(path, **options):
    with pytest.raises(ValueError, match=r"^read_csv: expected") as caught:
        read_csv(path, **options)
    return str(caught.value)


def test_a_small_file(tmp_path):
    path = write_set(tmp_path, "2.png,dog,1,2,3,4", "1.png,cat,5,6,7.5,8", "2.png,cat,0,0,9,9")
    table = read_csv(str(path))
    assert table.layout == "CSV"
    assert table.root == tmp_path
    assert table.classes == ("cat", "dog")
    assert list(table.images) == ["2.png", "1.png"]
    assert table.boxes.tolist() == [[1, 2, 3, 4], [0, 0, 9, 9], [5, 6, 7.5, 8]]
    assert table.labels.tolist() == [1, 0, 0]
    assert table.rows.tolist() == [2, 4, 3]
    assert table.row(0) == "line 2"
    assert table.label_file(0) == str(path)
    assert [f.code for f in table.findings] == ["classes-from-labels"]
    assert DetectionDataset(table)[0][0].shape == (3, 30, 40)


@pytest.mark.parametrize(
    ("header", "line", "size"),
    [
        ("img_name,label,xmin,ymin,xmax,ymax", "1.png,cat,2,3,12,11", -1),
        ("File Name;Class;X1;Y1;X2;Y2", "1.png;cat;2;3;12;11", -1),
        ("filename\tclass\tx\ty\tw\th", "1.png\tcat\t2\t3\t10\t8", -1),
        ("path|category|x|y|width|height", "1.png|cat|2|3|10|8", -1),
        ("picture,label,left,top,right,bottom", "1.png,cat,2,3,12,11", -1),
        ("image,label,left,top,right,bottom", "1.png,cat,2,3,12,11", -1),
        ("image,label,left,top,width,height", "1.png,cat,2,3,10,8", -1),
        ("image,label,xmin,ymin,width,height", "1.png,cat,2,3,10,8", -1),
        ("image,label,cx,cy,w,h", "1.png,cat,7,7,10,8", -1),
        ("image,label,x_center,y_center,width,height", "1.png,cat,7,7,10,8", -1),
        ("filename,width,height,class,xmin,ymin,xmax,ymax", "1.png,40,30,cat,2,3,12,11", 30),
        ("image,label,bbox_x,bbox_y,bbox_w,bbox_h,width,height", "1.png,cat,2,3,10,8,40,30", 30),
        ("ymax,note,image,xmax,label,ymin,xmin", "11,hi,1.png,12,cat,3,2", -1),
    ],
)
def test_usual_columns(tmp_path, header, line, size):
    table = read_csv(write_set(tmp_path, line, header=header))
    assert table.boxes.tolist() == [[2, 3, 12, 11]]
    assert table.classes == ("cat",)
    assert table.sizes[0, 0] == size
    assert ("ignored-columns" in [f.code for f in table.findings]) == ("note" in header)


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_harmless_variants(tmp_path, newline):
    lines = ['"1.png", cat ,2,3,"12",1.1e1', "", " , , , , , ", "./2.png,cat,0,0,1,1"]
    lines.append("2.png,cat,1,1,2,2")
    path = write_set(tmp_path, *lines, newline=newline)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    table = read_csv(path)
    assert table.boxes.tolist() == [[2, 3, 12, 11], [0, 0, 1, 1], [1, 1, 2, 2]]
    assert table.rows.tolist() == [2, 5, 6]
    assert list(table.images) == ["1.png", "2.png"]


def test_an_image_without_objects(tmp_path):
    table = read_csv(write_set(tmp_path, "1.png,,,,,", "2.png,cat,1,2,3,4"))
    assert table.starts.tolist() == [0, 0, 1]


def test_integer_labels_keep_their_value(tmp_path):
    lines = ["1.png,7,1,2,3,4", "2.png,3,1,2,3,4"]
    table = read_csv(write_set(tmp_path, *lines))
    assert (table.classes, table.category_ids) == (("3", "7"), (3, 7))
    assert table.labels.tolist() == [1, 0]
    assert [f.code for f in table.findings] == ["numbered-classes"]
    names = [f"class {k}" for k in range(8)]
    table = read_csv(write_set(tmp_path, *lines), classes=names)
    assert table.labels.tolist() == [7, 3]
    assert table.classes == tuple(names)
    assert table.findings == ()


def test_columns_argument(tmp_path):
    header = "file,image,label,class,xmin,ymin,xmax,ymax"
    path = write_set(tmp_path, "x,1.png,5,cat,2,3,12,11", header=header)
    text = error_of(path)
    assert "expected one column for each of image, label" in text
    assert "got file, image, label, class" in text
    assert "pass columns=, such as columns={'image': 'file'}" in text
    table = read_csv(path, columns={"image": "image", "label": "class"})
    assert (list(table.images), table.classes) == (["1.png"], ("cat",))
    assert table.findings[-1].message.endswith("file, label") or "file, label" in str(
        table.findings
    )


def test_columns_of_two_box_formats(tmp_path):
    header = HEADER + ",x,y,w,h"
    path = write_set(tmp_path, "1.png,cat,2,3,12,11,2,3,10,8", header=header)
    assert "expected one column for each of x1, y1, x2, y2, x, y, width, height" in error_of(path)
    for columns in (
        {"x": "x", "y": "y", "width": "w", "height": "h"},
        {"x1": "xmin", "y1": "ymin", "x2": "xmax", "y2": "ymax"},
    ):
        assert read_csv(path, columns=columns).boxes.tolist() == [[2, 3, 12, 11]]


@pytest.mark.parametrize("columns", [{"photo": "image"}, {"image": "photo"}])
def test_columns_that_do_not_exist(tmp_path, columns):
    assert "of `columns` to be among image, " in error_of(write_set(tmp_path), columns=columns)


def test_classes_as_string(tmp_path):
    with pytest.raises(TypeError, match=r"got the string 'cat'; write \('cat',\)"):
        read_csv(tmp_path / "a.csv", classes="cat")


@pytest.mark.parametrize(
    ("row", "code", "message"),
    [
        ("1.png,cat,1,2,3", "bad-row", "expected 6 fields, got 5"),
        ("1.png,cat,1,2,3,4,5", "bad-row", "expected 6 fields, got 7"),
        ("1.png,cat,1,b,3,4", "bad-row", "expected ymin to be a number, got 'b'"),
        ("1.png,cat,1,,3,4", "bad-row", "expected ymin to be a number, got ''"),
        ("1.png,cat,1_0,2,30,4", "bad-row", "expected xmin to be a number, got '1_0'"),
        ("1.png,,1,2,3,4", "bad-row", "expected a label, got an empty field"),
        (",cat,1,2,3,4", "bad-row", "expected the path of an image, got an empty field"),
        ("1.png,cow,1,2,3,4", "unknown-class", "expected a label among cat, dog, got 'cow'"),
        ("../1.png,cat,1,2,3,4", "bad-path", "expected a path inside of"),
        ("/etc/1.png,cat,1,2,3,4", "bad-path", "expected a path inside of"),
    ],
)
def test_invalid_rows_are_named_and_left_out(tmp_path, row, code, message):
    path = write_set(tmp_path, "1.png,cat,1,2,3,4", row, "1.png,dog,1,2,3,4")
    table = read_csv(path, classes=["cat", "dog"])
    assert table.rows.tolist() == [2, 4]
    (finding,) = table.findings
    assert (finding.severity, finding.code, finding.row) == ("error", code, "line 3")
    assert message in finding.message
    with pytest.raises(BadLabelsError, match="line 3"):
        DetectionDataset(table)


@pytest.mark.parametrize("box", ["1,2,nan,4", "1,2,inf,4", "1,2,1e999,4", "9,2,3,4", "1,2,1,4"])
def test_invalid_boxes_are_found_by_the_label_rules(tmp_path, box):
    table = read_csv(write_set(tmp_path, "1.png,cat,1,2,3,4", f"1.png,cat,{box}"))
    with pytest.raises(BadLabelsError, match="line 3"):
        DetectionDataset(table)


def test_a_thousand_findings_are_listed_and_the_rest_counted(tmp_path):
    table = read_csv(write_set(tmp_path, *["1.png,cat,x,2,3,4"] * 2500))
    errors = [finding for finding in table.findings if finding.severity == "error"]
    assert len(errors) == 1001
    assert sum(finding.count for finding in errors) == 2500


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected rows in"),
        ("\n , \n", "got an empty file"),
        (HEADER, "got the header alone"),
        ("1.png,cat,1,2,3,4\n", "to name the columns, got numbers in '1.png,cat,1,2,3,4"),
        ("a,b,c\n1,2,3\n", "got a, b, c: missing image, label, a box"),
        ("image,label,xmin,ymin,xmax\n", "missing a box; pass columns="),
        (HEADER + ",label\n", "got label twice"),
        (HEADER + '\n1.png,"cat,1,2,3,4\n', "which cannot be parsed: unexpected end of data"),
        (HEADER + "\n1.png," + "c" * 200_000 + ",1,2,3,4\n", "field larger than field limit"),
        ("\0", "got a zero byte at byte 0"),
    ],
)
def test_unusable_files(tmp_path, text, message):
    path = tmp_path / "a.csv"
    path.write_text(text)
    assert message in error_of(path)


def test_other_encodings_and_missing_files(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(HEADER, encoding="utf-16")
    assert "got UTF-16" in error_of(path)
    path.write_text(HEADER + "\né", encoding="latin-1")
    assert "got byte 0xe9 in line 2" in error_of(path)
    with pytest.raises(FileNotFoundError, match=r"read_csv: expected a CSV file, got .*b\.csv"):
        read_csv(tmp_path / "b.csv")


def test_no_folder_with_the_images(tmp_path):
    path = write_set(tmp_path, "x/7.png,cat,1,2,3,4")
    with pytest.raises(
        FileNotFoundError, match=r"such as 'x/7\.png', next to it, got none of the first 1 in"
    ):
        read_csv(path)


def test_the_banana_dataset_as_its_class_reads_it(test_data):
    root = test_data / "banana-detection" / "bananas_train"
    table = read_csv(root / "label.csv", classes=["banana"])
    bananas = BananaDataset(test_data / "banana-detection").table
    assert table.root == root / "images"
    assert table.findings == ()
    assert list(table.images) == list(bananas.images)
    assert np.array_equal(table.boxes, bananas.boxes)
    assert np.array_equal(table.rows, bananas.rows)
    assert np.array_equal(table.labels, bananas.labels)


@pytest.mark.slow
def test_a_million_lines(tmp_path):
    lines = [f"{k % 9 + 1}.png,cat,1,2,{k % 30 + 2},4" for k in range(10**6)]
    path = write_set(tmp_path, *lines)
    start = time.perf_counter()
    table = read_csv(path)
    assert time.perf_counter() - start < 30
    assert table.num_objects == 10**6


def test_random_damage_gives_findings_or_clear_errors(tmp_path, rng):
    path = write_set(tmp_path, *["1.png,cat,1,2,3,4", "2.png,dog,1,2,3,4"] * 5)
    whole = np.frombuffer(path.read_bytes(), np.uint8)
    outcomes = set()
    for _ in range(500):
        data = whole.copy()
        places = rng.integers(0, len(data), rng.integers(1, 4))
        data[places] = rng.integers(0, 256, len(places))
        path.write_bytes(data[: rng.integers(1, 2 * len(data))].tobytes())
        try:
            DetectionDataset(read_csv(path, tmp_path))
            outcomes.add("read")
        except ValueError as error:
            assert str(error)
            outcomes.add(type(error).__name__)
    assert outcomes == {"read", "BadLabelsError", "ValueError"}
