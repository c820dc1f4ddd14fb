"""read_yolo and write_yolo: folders, data.yaml and label files, valid and invalid."""

import os
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cvlib.data.datasets.detection import DetectionDataset
from cvlib.data.formats.coco import read_coco
from cvlib.data.formats.in_memory import read_lists
from cvlib.data.formats.voc import read_voc
from cvlib.data.formats.yolo import read_yolo
from cvlib.data.formats.yolo_writer import write_yolo
from cvlib.data.labels.findings import errors_of
from cvlib.data.labels.rules import find_bad_labels

NAMES = "names: [cat, dog]\n"
YAML = f"train: images/train\nval: images/val\nnc: 2\n{NAMES}"
BOX = "0 0.5 0.5 0.5 0.5"
POLYGON = "1 0.25 0.25 0.75 0.25 0.75 0.75"


def image(path, width=40, height=20, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height)).save(path, **options)


def write_set(root, labels, yaml=YAML, split="train"):
    """An image of 40 x 20 for each name, with labels unless they are None."""
    root.mkdir(parents=True, exist_ok=True)
    for place in ("train", "val"):
        (root / "images" / place).mkdir(parents=True, exist_ok=True)
        (root / "labels" / place).mkdir(parents=True, exist_ok=True)
    if yaml is not None:
        (root / "data.yaml").write_text(yaml)
    for name, text in labels.items():
        image(root / f"images/{split}/{name}.jpg")
        if text is not None:
            data = text if isinstance(text, bytes) else text.encode()
            (root / f"labels/{split}/{name}.txt").write_bytes(data)
    return root


def only_error(table):
    errors = errors_of(table.findings)
    assert len(errors) == 1, errors
    return errors[0]


def codes(table):
    return [finding.code for finding in table.findings]


def test_a_small_dataset(tmp_path):
    #   centre (0.25, 0.5) of 40 x 20 is (10, 10); 0.5 x 0.5 is 20 wide and 10 high
    root = write_set(tmp_path, {"a": "1 0.25 0.5 0.5 0.5\n\n0 0.5 0.5 1 1\n", "b": ""})
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
    table = read_yolo(write_set(tmp_path, {"a": POLYGON}), "train")
    assert table.boxes.tolist() == [[10, 5, 30, 15]]
    assert table.masks[0] == [[10, 5, 30, 5, 30, 15]]
    assert DetectionDataset(table)[0][1]["masks"].sum() == pytest.approx(100, abs=20)


def test_mixed_lines_are_boxes_with_a_warning(tmp_path):
    table = read_yolo(write_set(tmp_path, {"a": f"{BOX}\n{POLYGON}"}), "train")
    assert table.masks is None
    assert table.boxes.tolist() == [[10, 5, 30, 15]] * 2
    assert [(f.severity, f.code) for f in table.findings] == [("warning", "mixed-labels")]
    assert "got 1 boxes among 2 objects" in table.findings[0].message


def test_sizes_are_those_of_the_upright_image(tmp_path):
    root = write_set(tmp_path, {"a": BOX})
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
    root = write_set(tmp_path, {"day/a": None, ".hidden/b": None, "c": BOX})
    (root / "labels/train/day").mkdir()
    (root / "labels/train/day/a.txt").write_text(BOX)
    (root / "images/train/notes.md").write_text("no image")
    assert list(read_yolo(root, "train").images) == [
        "images/train/c.jpg",
        "images/train/day/a.jpg",
    ]


def test_link_to_a_folder_above(tmp_path):
    root = write_set(tmp_path, {"a": BOX})
    os.symlink(root / "images", root / "images/train/loop")
    table = read_yolo(root, "train")
    assert "link-loop" in codes(table)
    assert table.num_images >= 1


@pytest.mark.parametrize(
    "names",
    ["names: [no, 1.10]", "names:\n  0: no\n  1: 1.10", "names:\n  1: 1.10\n  0: 'no'"],
)
def test_names_are_text_and_in_order(tmp_path, names):
    root = write_set(tmp_path, {"a": BOX}, f"train: images/train\n{names}\n")
    assert read_yolo(root, "train").classes == ("no", "1.10")


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("train: images/train\n", "expected names to be a list or a dictionary"),
        ("train: images/train\nnames:\n", "expected names to be a list or a dictionary"),
        ("train: images/train\nnames: cat\n", "expected names to be a list or a dictionary"),
        ("train: images/train\nnames: [[cat]]\n", "expected names to be a list or a dictionary"),
        ("train: images/train\nnames: {0: cat, 2: dog}\n", "expected names of the classes 0..1 in"),
        ("train: images/train\nnames: {a: cat}\n", "with the numbers 0, 1, ... as keys"),
        ("train: images/train\nnames: [cat, cat]\n", "got 'cat' twice"),
        (
            f"train: images/train\nnc: 3\n{NAMES}",
            "nc to be the number of names, 2, got '3'",
        ),
        (f"nc: 2\n{NAMES}", "expected train, val or test in"),
        (f"train: {{a: b}}\n{NAMES}", "expected train to be a folder, a list of folders or a .txt"),
        (f"train: images/photos\n{NAMES}", "images/photos, which does not exist"),
        (f"train: images/train\ntrain: images/val\n{NAMES}", "got: the key 'train' twice"),
        (f"{NAMES}train: [images/train\n", "expected plain YAML in"),
        (f"{NAMES}train: !!python/object/apply:os.system [ls]\n", "expected train to be a folder"),
        (f"{NAMES}train: {'[' * 100_000}\n", "got: lists nested more than 10 deep"),
        (f"train: images/train\nkpt_shape: [17, 3]\n{NAMES}", "got kpt_shape in"),
    ],
)
def test_bad_yaml(tmp_path, yaml, message):
    root = write_set(tmp_path, {"a": BOX}, yaml)
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        read_yolo(root / "data.yaml", "train")
    assert message in str(caught.value)


def test_yaml_bomb(tmp_path):
    bomb = "a: &a [x, x]\n" + "".join(
        f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n"
        for old, new in zip("abcdefgh", "bcdefghi", strict=True)
    )
    root = write_set(tmp_path, {"a": BOX}, f"{bomb}names: *i\ntrain: images/train\n")
    with pytest.raises(ValueError, match=r"plain YAML in .*data\.yaml, got: the alias \*a"):
        read_yolo(root, "train")


def test_huge_yaml(tmp_path):
    root = write_set(tmp_path, {"a": BOX}, f"{YAML}# {'x' * (1 << 20)}\n")
    with pytest.raises(ValueError, match="expected at most 1,048,576 bytes of YAML"):
        read_yolo(root / "data.yaml", "train")


def test_two_yaml_files(tmp_path):
    root = write_set(tmp_path, {"a": BOX})
    (root / "dataset.yaml").write_text(YAML)
    with pytest.raises(ValueError, match=r"one data\.yaml .* got data\.yaml, dataset\.yaml"):
        read_yolo(root, "train")
    (root / "dataset.yaml").rename(root / "hyperparameters.yaml")
    assert read_yolo(root, "train").num_objects == 1


def test_split_must_be_one_of_the_file(tmp_path):
    root = write_set(tmp_path, {"a": BOX})
    with pytest.raises(ValueError, match=r"`split` to be one of train, val in .*, got None"):
        read_yolo(root)
    with pytest.raises(ValueError, match="got 'test'"):
        read_yolo(root, "test")
    (root / "data.yaml").write_text(f"train: images/train\nval:\ntest: null\n{NAMES}")
    assert read_yolo(root).num_objects == 1


@pytest.mark.parametrize(
    "train",
    ["../../secret", "../secret/images", "/etc", "images/../../secret/images", "..\\secret"],
)
def test_paths_that_climb_out(tmp_path, train):
    image(tmp_path / "secret/images/a.jpg")
    root = write_set(tmp_path / "set", {"a": BOX}, f"train: {train}\n{NAMES}")
    with pytest.raises(ValueError, match=r"expected paths inside .*set, got .* in train of"):
        read_yolo(root, "train")


def test_the_root_may_be_widened(tmp_path):
    image(tmp_path / "data/images/a.jpg")
    (tmp_path / "data/labels").mkdir()
    (tmp_path / "data/labels/a.txt").write_text(BOX)
    (tmp_path / "set").mkdir()
    (tmp_path / "set/data.yaml").write_text(f"train: ../data/images\n{NAMES}")
    table = read_yolo(tmp_path / "set/data.yaml", "train", root=tmp_path)
    assert list(table.images) == ["data/images/a.jpg"]


def test_roboflows_paths(tmp_path):
    root = write_set(tmp_path / "set", {"a": BOX}, f"train: ../images/train\n{NAMES}")
    assert read_yolo(root, "train").num_objects == 1


def test_path_of_another_machine(tmp_path):
    root = write_set(tmp_path, {"a": BOX}, f"path: /content/cats\n{YAML}")
    table = read_yolo(root, "train")
    assert codes(table) == ["other-root"]
    (root / "data.yaml").write_text(f"path: ../cats\ntrain: photos\n{NAMES}")
    with pytest.raises(ValueError, match=r"expected path to be a folder in .*, got '\.\./cats'"):
        read_yolo(root, "train")


def test_path_within(tmp_path):
    write_set(tmp_path / "below", {"a": BOX}, None)
    (tmp_path / "data.yaml").write_text(f"path: below\n{YAML}")
    assert read_yolo(tmp_path, "train").num_objects == 1


@pytest.mark.parametrize("place", [".", "set", "../here/set", "set/data.yaml"])
@pytest.mark.parametrize("key", ["", "path: .\n"])
def test_relative_paths(tmp_path, monkeypatch, place, key):
    root = write_set(tmp_path / "here/set", {"a": BOX}, yaml=key + YAML)
    (root / "val.txt").write_text("images/train/a.jpg\n")
    (root / "data.yaml").write_text(key + YAML.replace("val: images/val", "val: val.txt"))
    monkeypatch.chdir(root if place == "." else root.parent)
    for split in ("train", "val"):
        assert read_yolo(place, split).num_objects == 1


def test_relative_roots(tmp_path, monkeypatch):
    root = write_set(tmp_path / "set", {"a": BOX}, yaml=YAML)
    (root / "yaml").mkdir()
    (root / "data.yaml").rename(root / "yaml/data.yaml")
    (root / "yaml/data.yaml").write_text(YAML.replace("images/", "../images/"))
    monkeypatch.chdir(root / "yaml")
    assert read_yolo("data.yaml", "train", root="..").num_objects == 1


def test_lists_of_folders_and_of_images(tmp_path):
    root = write_set(tmp_path, {"a": BOX})
    write_set(tmp_path, {"b": BOX}, split="val")
    (root / "data.yaml").write_text(f"train: [images/train, images/val]\nval: val.txt\n{NAMES}")
    (root / "val.txt").write_text(f"./images/val/b.jpg\n\n{root}/images/train/a.jpg\n")
    assert read_yolo(root, "train").num_images == 2
    table = read_yolo(root, "val")
    assert list(table.images) == ["images/val/b.jpg", "images/train/a.jpg"]
    (root / "val.txt").write_text("images/val/b.jpg\n../../secret.jpg\n")
    with pytest.raises(ValueError, match=r"got '.*secret\.jpg' in .*val\.txt, line 2"):
        read_yolo(root, "val")


def test_no_images_and_no_labels(tmp_path):
    root = write_set(tmp_path, {})
    with pytest.raises(ValueError, match="read_yolo: expected images in"):
        read_yolo(root, "train")
    write_set(tmp_path, {"a": None, "b": None})
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
    table = read_yolo(write_set(tmp_path, {"a": f"{BOX}\n{BOX}\n{line}\n"}), "train")
    error = only_error(table)
    assert message in error.message
    assert (error.row, error.file) == ("line 3", str(tmp_path / "labels/train/a.txt"))
    assert table.num_objects == 2


def test_class_as_a_float_and_a_rounded_border(tmp_path):
    table = read_yolo(write_set(tmp_path, {"a": "1.0 0.5 0.5 1.0000002 1"}), "train")
    assert table.labels.tolist() == [1]
    assert find_bad_labels(table)[0] == []


def test_class_out_of_range_and_empty_boxes_are_found_by_the_label_rules(tmp_path):
    table = read_yolo(write_set(tmp_path, {"a": "2 0.5 0.5 1 1\n0 0.5 0.5 0 1"}), "train")
    findings = find_bad_labels(table)[0]
    assert {f.code: f.row for f in findings} == {
        "unknown-class": "line 1",
        "degenerate-box": "line 2",
    }


def test_pixels_are_reported_for_the_whole_dataset(tmp_path):
    table = read_yolo(write_set(tmp_path, {"a": f"{BOX}\n0 9 9 9 9\n0 8 8 8 8"}), "train")
    first = errors_of(table.findings)[0]
    assert "got larger numbers in 2 of 3 lines: they look like pixels" in first.message
    assert len(errors_of(table.findings)) == 3


def test_many_errors_are_counted(tmp_path):
    lines = [BOX, *["0 0.5"] * 1500]
    errors = errors_of(read_yolo(write_set(tmp_path, {"a": "\n".join(lines)}), "train").findings)
    assert len(errors) == 1001
    assert sum(error.count for error in errors) == 1500
    assert errors[-1].code == "bad-object"


def test_missing_label_files_are_counted(tmp_path):
    table = read_yolo(write_set(tmp_path, {"a": BOX, "b": None, "c": None}), "train")
    assert table.num_images == 3
    assert [(f.severity, f.code, f.count) for f in table.findings] == [("info", "no-label-file", 2)]


def test_labels_without_an_image(tmp_path):
    root = write_set(tmp_path, {"a": BOX, "b": BOX})
    os.remove(root / "images/train/b.jpg")
    (root / "labels/train/classes.txt").write_text("cat\n")
    (root / "labels/train/a.TXT").write_text(BOX)  # on this system another file than a.txt
    table = read_yolo(root, "train")
    assert codes(table) == ["labels-without-image"] * 2
    files = [str(root / "labels/train" / name) for name in ("a.TXT", "b.txt")]
    assert [finding.file for finding in table.findings] == files


def test_two_images_with_one_label_file(tmp_path):
    root = write_set(tmp_path, {"a": BOX})
    image(root / "images/train/a.png")
    assert only_error(read_yolo(root, "train")).code == "ambiguous-image"


@pytest.mark.parametrize("data", [b"\xff\xfe0\0", b"0 0.5 \xe4", b"0 0.5\0 0.5"])
def test_label_files_that_are_not_text(tmp_path, data):
    table = read_yolo(write_set(tmp_path, {"a": BOX, "b": data}), "train")
    error = only_error(table)
    assert error.code == "unreadable-labels"
    assert "b.txt" in error.message
    assert list(table.images) == ["images/train/a.jpg"]  # unknown objects are not none


@pytest.mark.parametrize("content", [b"", b"\xff\xd8\xff\xe0", b"<html>"])
def test_invalid_images(tmp_path, content):
    root = write_set(tmp_path, {"a": BOX, "b": BOX})
    (root / "images/train/b.jpg").write_bytes(content)
    table = read_yolo(root, "train")
    assert only_error(table).code == "unreadable-image"
    assert table.num_images == 1


def test_names_that_are_not_utf8(tmp_path):
    odd = os.fsdecode(b"caf\xe9")
    try:
        root = write_set(tmp_path, {odd: "0 1 2", "a": BOX})
    except OSError:
        pytest.skip("the file system has names in UTF-8 only")
    table = read_yolo(root, "train")
    assert table.num_images == 2
    str(errors_of(table.findings)[0]).encode()  # can be printed


@given(st.lists(st.tuples(st.integers(0, 10_000), st.binary(max_size=4)), min_size=1, max_size=5))
def test_damage_of_any_kind_is_an_error_or_a_finding(tmp_path_factory, changes):
    root = write_set(tmp_path_factory.mktemp("set"), {"a": f"{BOX}\n{POLYGON}\n"})
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


def test_round_trip_of_boxes(test_data, tmp_path):
    table = read_voc(test_data / "bccd-voc", "val")
    with pytest.warns(UserWarning, match="dropped invalid labels"):
        cells = DetectionDataset(table, bad_labels="drop")
    path = write_yolo({"val": cells}, tmp_path / "yolo")
    assert path == tmp_path / "yolo/data.yaml"
    again = read_yolo(path)
    assert again.classes == cells.classes
    assert again.findings == ()
    assert np.array_equal(again.labels, cells.table.labels)
    assert np.array_equal(again.starts, cells.table.starts)
    np.testing.assert_allclose(again.boxes, cells.table.boxes, atol=1e-4)
    assert again.path(0).read_bytes() == cells.table.path(0).read_bytes()


def test_round_trip_of_polygons(tmp_path):
    image(tmp_path / "a.jpg")
    polygon = [[4.0, 2.0, 36.0, 2.0, 20.0, 18.0]]
    table = read_lists([tmp_path / "a.jpg"], [[[4, 2, 36, 18]]], [[1]], ["no", "1"], [[polygon]])
    path = write_yolo(DetectionDataset(table), tmp_path / "yolo")
    again = read_yolo(path)
    assert again.classes == ("no", "1")
    np.testing.assert_allclose(again.masks[0], polygon, atol=1e-5)


def test_warning_of_masks_that_yolo_cannot_store(test_data, tmp_path):
    pedestrians = DetectionDataset(read_coco(test_data / "pennfudan-coco/instances_val.json"))
    with pytest.warns(UserWarning, match="cannot store: masks, which are not one polygon"):
        path = write_yolo(pedestrians.subset([0, 1]), tmp_path / "yolo")
    assert read_yolo(path).masks is None


def test_images_of_one_name(tmp_path):
    for folder in ("x", "y"):
        image(tmp_path / folder / "a.jpg")
    paths = [tmp_path / "x/a.jpg", tmp_path / "y/a.jpg"]
    both = DetectionDataset.from_lists(paths, [[[0, 0, 9, 9]], []], [[0], []], ["cat"])
    table = read_yolo(write_yolo(both, tmp_path / "yolo"))
    assert list(table.images) == ["images/train/0_a.jpg", "images/train/1_a.jpg"]
    assert np.diff(table.starts).tolist() == [1, 0]


def test_boxes_on_the_border_stay_readable(tmp_path):
    image(tmp_path / "a.jpg")
    dataset = DetectionDataset.from_lists(
        [tmp_path / "a.jpg"], [[[-0.9, 0, 40.9, 20.5]]], [[0]], ["cat"]
    )
    table = read_yolo(write_yolo(dataset, tmp_path / "yolo"))
    assert table.findings == ()
    np.testing.assert_allclose(table.boxes, [[0, 0, 40, 20]], atol=1e-6)


def test_nothing_is_overwritten(tmp_path):
    image(tmp_path / "a.jpg")
    dataset = DetectionDataset.from_lists([tmp_path / "a.jpg"], [[]], [[]], ["cat"])
    with pytest.raises(FileExistsError, match=r"a new or empty folder, got .* with a\.jpg"):
        write_yolo(dataset, tmp_path)


def test_bad_splits_to_write(tmp_path):
    image(tmp_path / "a.jpg")
    dataset = DetectionDataset.from_lists([tmp_path / "a.jpg"], [[]], [[]], ["cat"])
    other = dataset.rename_classes({"cat": "dog"})
    with pytest.raises(ValueError, match="expected splits among train, val, test, got dev"):
        write_yolo({"dev": dataset}, tmp_path / "yolo")
    with pytest.raises(ValueError, match="the same classes, got train: cat; val: dog"):
        write_yolo({"train": dataset, "val": other}, tmp_path / "yolo")


def test_no_warning_for_a_valid_dataset(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        DetectionDataset(read_yolo(write_set(tmp_path, {"a": BOX, "b": None}), "train"))
