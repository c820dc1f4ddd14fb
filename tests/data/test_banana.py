"""BananaDataset: accepted layouts, and the errors of all others."""

import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import tv_tensors
from torchvision.transforms import v2

from cvlib.data import BananaDataset, collate, load_dataset
from cvlib.data.check import check_dataset, fix_dataset
from cvlib.data.labels.findings import BadLabelsError

HEADER = "img_name,label,xmin,ymin,xmax,ymax"
ROWS = ("3.png,0,2,3,12,13", "1.png,0,0,0,40,30")


def write_set(root, rows=ROWS, images=("1.png", "3.png"), split="train", header=HEADER):
    """Write a dataset of images of width 40 and height 30, and return its root."""
    folder = root / f"bananas_{split}" / "images"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in images:
        pixels = rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    (folder.parent / "label.csv").write_text("\n".join([header, *rows]) + "\n")
    return root


def error_of(root, **kwargs):
    with pytest.raises(ValueError, match="BananaDataset: expected") as caught:
        BananaDataset(root, **kwargs)
    return str(caught.value)


def test_sample_by_hand(tmp_path):
    dataset = BananaDataset(write_set(tmp_path))
    image, target = dataset[0]
    stored = np.asarray(Image.open(tmp_path / "bananas_train/images/3.png"))
    assert len(dataset) == 2
    assert dataset.classes == ("banana",)
    assert isinstance(image, tv_tensors.Image)
    assert image.dtype == torch.uint8
    assert np.array_equal(image.permute(1, 2, 0).numpy(), stored)
    assert isinstance(target["boxes"], tv_tensors.BoundingBoxes)
    assert target["boxes"].canvas_size == (30, 40)
    assert target["boxes"].format == tv_tensors.BoundingBoxFormat.XYXY
    assert target["boxes"].dtype == torch.float32
    assert target["boxes"].tolist() == [[2, 3, 12, 13]]
    assert target["labels"].dtype == target["iscrowd"].dtype == torch.int64
    assert target["labels"].tolist() == target["iscrowd"].tolist() == [0]
    assert target["area"].dtype == torch.float32
    assert target["area"].tolist() == [100]
    assert target["image_id"] == 3
    assert isinstance(target["image_id"], int)


def test_several_boxes_and_classes(tmp_path):
    rows = ["1.png,1,1.5,2,3,4", "3.png,0,0,0,9,9", "1.png,0,5,6,7,8"]
    dataset = BananaDataset(write_set(tmp_path, rows), classes=["banana", "plum"])
    assert dataset.classes == ("banana", "plum")
    assert dataset[0][1]["boxes"].tolist() == [[1.5, 2, 3, 4], [5, 6, 7, 8]]
    assert dataset[0][1]["labels"].tolist() == [1, 0]
    assert dataset[-1][1]["image_id"] == 3


def test_images_without_rows_are_empty_and_warned_about(tmp_path):
    images = ("1.png", "3.png", "10.png", "9.png", "11.png", "12.png")
    root = write_set(tmp_path, images=images)
    with pytest.warns(UserWarning, match=r"for 4 \(9\.png, 10\.png, 11\.png, 12\.png\)") as caught:
        dataset = BananaDataset(root)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert [dataset[i][1]["image_id"] for i in range(6)] == [3, 1, 9, 10, 11, 12]
    _, target = dataset[2]
    assert target["boxes"].shape == (0, 4)
    assert [len(target[key]) for key in ("labels", "area", "iscrowd")] == [0, 0, 0]
    assert isinstance(target["boxes"], tv_tensors.BoundingBoxes)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("7.png", "100.png"), [7, 100]),
        (("1.png", "01.png"), [0, 1]),
        (("a.png", "2.png"), [0, 1]),
        (("1.png", "1.jpg"), [0, 1]),
    ],
)
def test_image_id(tmp_path, names, expected):
    root = write_set(tmp_path, [f"{name},0,1,1,5,5" for name in names], names)
    assert [target["image_id"] for _, target in BananaDataset(root)] == expected


def test_transform_gets_the_pair(tmp_path):
    flip = v2.RandomHorizontalFlip(1.0)
    dataset = BananaDataset(write_set(tmp_path), transform=flip)
    assert dataset[0][1]["boxes"].tolist() == [[28, 3, 38, 13]]


def test_cache_gives_equal_and_independent_images(tmp_path):
    root = write_set(tmp_path)
    plain, cached = BananaDataset(root), BananaDataset(root, cache=True)
    first, target = cached[0]
    (root / "bananas_train/images/3.png").unlink()
    first.zero_()
    target["boxes"].zero_()
    again, target = cached[0]
    assert torch.any(again != 0)
    assert target["boxes"].tolist() == [[2, 3, 12, 13]]
    with pytest.raises(ValueError, match="index 0"):
        plain[0]


def test_split_val(tmp_path):
    write_set(tmp_path)
    write_set(tmp_path, ["1.png,0,1,1,5,5"], ["1.png"], split="val")
    assert len(BananaDataset(str(tmp_path), "val")) == 1


@pytest.mark.parametrize("bad", [2, -3])
def test_index_out_of_range(tmp_path, bad):
    with pytest.raises(IndexError, match=f"expected index below 2, got {bad}"):
        BananaDataset(write_set(tmp_path))[bad]


@pytest.mark.parametrize(
    "text",
    [
        "\ufeff" + "\r\n".join([HEADER, *ROWS]) + "\r\n",
        "\n".join([HEADER, "", ROWS[0], " ", ",,,,,", ROWS[1]]) + "\n\n",
        "\n".join([HEADER, *ROWS]),
        " img_name , label,xmin,ymin,xmax,ymax\n3.png, 0 ,2.0,3,1.2e1,13\n1.png,0,0,0,40,30",
        "xmax,ymax,img_name,label,xmin,ymin,note\n12,13,3.png,0,2,3,\n40,30,./1.png,0,0,0,x",
    ],
    ids=["bom-crlf", "blank-lines", "no-newline", "spaces", "order-and-extra-column"],
)
def test_harmless_variants(tmp_path, text):
    root = write_set(tmp_path)
    (root / "bananas_train/label.csv").write_text(text, encoding="utf-8", newline="")
    dataset = BananaDataset(root)
    assert [dataset[i][1]["boxes"].tolist()[0] for i in range(2)] == [
        [2, 3, 12, 13],
        [0, 0, 40, 30],
    ]


@pytest.mark.parametrize("inside", ["bananas_train", "bananas_val", ".", ".."])
def test_root_is_recognised(tmp_path, inside):
    root = write_set(tmp_path / "banana-detection")
    write_set(root, split="val")
    assert len(BananaDataset(root / inside, "val")) == 2


def test_unknown_split(tmp_path):
    with pytest.raises(ValueError, match="expected `split` to be 'train' or 'val', got 'test'"):
        BananaDataset(tmp_path, "test")


def test_classes_as_string(tmp_path):
    with pytest.raises(TypeError, match=r"got the string 'banana'; write \('banana',\)"):
        BananaDataset(tmp_path, classes="banana")


def test_root_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere, which does not exist; cvlib.data.fetch"):
        BananaDataset(tmp_path / "nowhere")


def test_root_is_a_file(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=r"got the file .*a\.zip; unpack"):
        BananaDataset(tmp_path / "a.zip")


def test_root_of_something_else(tmp_path):
    (tmp_path / "cats").mkdir()
    (tmp_path / "dogs").mkdir()
    with pytest.raises(FileNotFoundError, match=r"with bananas_train/, got .* with cats, dogs"):
        BananaDataset(tmp_path)


def test_root_empty(tmp_path):
    with pytest.raises(FileNotFoundError, match="with nothing"):
        BananaDataset(tmp_path)


def test_root_ambiguous(tmp_path):
    write_set(tmp_path / "a")
    write_set(tmp_path / "b")
    with pytest.raises(FileNotFoundError, match="2 folders that hold bananas_train/: pass one"):
        BananaDataset(tmp_path)


def test_images_folder_missing(tmp_path):
    (tmp_path / "bananas_train").mkdir()
    (tmp_path / "bananas_train/label.csv").write_text(HEADER)
    with pytest.raises(FileNotFoundError, match=r"a folder images/ in .*, got label\.csv"):
        BananaDataset(tmp_path)


def test_images_folder_empty(tmp_path):
    assert "got none among 0 files" in error_of(write_set(tmp_path, images=()))


def test_label_csv_missing(tmp_path):
    root = write_set(tmp_path)
    (root / "bananas_train/label.csv").rename(root / "bananas_train/labels.csv")
    with pytest.raises(FileNotFoundError, match=r"label\.csv in .*, got only images, labels\.csv"):
        BananaDataset(root)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "got an empty file"),
        ("\n\n", "got an empty file"),
        (HEADER, "got the header alone"),
        ("img_name,label,x1,ymin,xmax,ymax\n", "missing xmin"),
        ("name,label,x,ymin,xmax,ymax\n", "got name, label, x, ymin, xmax, ymax: missing img_name"),
        (HEADER.replace(",", ";"), "the fields must be separated by commas"),
        ("\n".join(ROWS), "the first line must name the columns: img_name,label"),
        (HEADER + ",label\n", "got label twice"),
        (HEADER + '\n"1.png,0,1,1,2,2\n', "cannot be parsed: unexpected end of data"),
    ],
)
def test_unusable_csv(tmp_path, text, message):
    root = write_set(tmp_path)
    (root / "bananas_train/label.csv").write_text(text)
    assert message in error_of(root)


def test_csv_in_another_encoding(tmp_path):
    root = write_set(tmp_path)
    (root / "bananas_train/label.csv").write_text(HEADER, encoding="utf-16")
    assert "expected a CSV file in UTF-8" in error_of(root)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("1.png,0,1,2,3", "expected 6 fields, got 5"),
        ("1.png,0,1,2,3,4,5", "expected 6 fields, got 7"),
        ("1.png,0,a,2,3,4", "expected xmin to be a number, got 'a'"),
        ("1.png,0,1,,3,4", "expected ymin to be a number, got ''"),
        ("1.png,0,1,2,1_0,4", "expected xmax to be a number, got '1_0'"),
        ("1.png,0,1,2,nan,4", "expected xmax to be a finite number, got nan"),
        ("1.png,0,1,2,3,-inf", "expected ymax to be a finite number, got -inf"),
        ("1.png,0,1,2,3,1e999", "expected ymax to be a finite number, got 1e999"),
        ("1.png,0,9,2,3,4", "expected xmin < xmax and ymin < ymax, got (xmin, ymin, xmax, ymax)"),
        ("1.png,0,1,9,3,4", "= (1, 9, 3, 4) in 1.png"),
        ("1.png,0,3,2,3,4", "expected a box with an area"),
        ("1.png,0,1,4,3,4", "expected a box with an area"),
        ("1.png,banana,1,2,3,4", "expected label to be an integer, got 'banana'"),
        ("1.png,0.0,1,2,3,4", "expected label to be an integer, got '0.0'"),
        ("1.png,-1,1,2,3,4", "expected label from 0 to 0 (1 class), got -1"),
        ("1.png,1,1,2,3,4", "got 1; pass classes=... with a name for every label"),
        ("2.png,0,1,2,3,4", "expected an image 2.png in images/, got no such file"),
        ("3.PNG,0,1,2,3,4", "got no such file (there is 3.png)"),
        (",0,1,2,3,4", "expected img_name to be the name of an image, got an empty field"),
        ("../1.png,0,1,2,3,4", "expected img_name to be a path inside images/, got '../1.png'"),
        ("a/../../1.png,0,1,2,3,4", "expected img_name to be a path inside images/"),
        ("..\\1.png,0,1,2,3,4", "expected img_name to be a path inside images/"),
        ("/etc/1.png,0,1,2,3,4", "expected img_name to be a path inside images/"),
        ("C:\\1.png,0,1,2,3,4", "expected img_name to be a path inside images/"),
        ("1.png,0,1,2,41,4", "inside 1.png of width 40 and height 30, got (xmin, ymin"),
        ("1.png,0,1,2,3,30.5", "expected a box inside 1.png"),
        ("1.png,0,-1,2,3,4", "expected a box inside 1.png"),
        ("3.png,0,2,3,12,13", "expected each object once, got line 2 again"),
    ],
)
def test_wrong_row(tmp_path, row, message):
    root = write_set(tmp_path, [*ROWS, "", row])
    text = error_of(root)
    assert message in text
    assert "got 1 problem in " in text
    assert str(root / "bananas_train" / "label.csv") in text
    assert "\n  line 5: " in text


def test_row_with_two_mistakes_reports_both(tmp_path):
    text = error_of(write_set(tmp_path, ["1.png,x,y,2,3,4"]))
    assert "2 problems" in text
    assert text.count("line 2:") == 2


def test_twenty_problems_are_listed(tmp_path):
    text = error_of(write_set(tmp_path, [f"1.png,0,x,2,3,{i}" for i in range(37)]))
    assert "got 37 problems" in text
    assert "; the first 20:" in text
    assert text.count("\n  line ") == 20


def test_normalised_boxes(tmp_path):
    text = error_of(write_set(tmp_path, ["1.png,0,.1,.2,.3,.4", "3.png,0,0,0,1,1"]))
    assert "got values from 0 to 1 in all 2 rows" in text
    assert "multiply xmin and xmax by the width" in text


def test_xywh_boxes(tmp_path):
    rows = [f"1.png,0,{x},12,10,10" for x in range(11, 20)] + ["3.png,0,1,1,5,5"]
    text = error_of(write_set(tmp_path, rows))
    assert "9 of 10 rows have xmax < xmin or ymax < ymin: they look like x, y, width" in text


def test_one_reversed_box_is_not_xywh(tmp_path):
    assert "width, height" not in error_of(write_set(tmp_path, [*ROWS, "1.png,0,9,2,3,4"]))


def test_a_file_that_is_not_an_image_is_reported_at_once(tmp_path):
    root = write_set(tmp_path)
    (root / "bananas_train/images/1.png").write_text("version https://git-lfs.github.com/spec/v1")
    assert "got a Git LFS pointer (run git lfs pull)" in error_of(root)
    (root / "bananas_train/images/1.png").write_bytes(b"")
    assert "got an empty file" in error_of(root)


def test_an_invalid_row_can_be_dropped_and_corrected(tmp_path):
    root = write_set(tmp_path / "set", [*ROWS, "1.png,0,9,2,3,4"])
    with pytest.raises(BadLabelsError, match=r"(?s)line 4: expected x1 <= x2 .*--bad-labels drop"):
        load_dataset(root, "train", log=lambda line: None)
    with pytest.warns(UserWarning, match="line 4"):
        dataset = load_dataset(root, "train", bad_labels="drop", log=lambda line: None)
    strict = BananaDataset(write_set(tmp_path / "right"))
    assert [dataset.target(i, (30, 40))["boxes"].tolist() for i in range(2)] == [
        strict.target(i, (30, 40))["boxes"].tolist() for i in range(2)
    ]
    assert dataset.table.image_ids.tolist() == strict.table.image_ids.tolist() == [3, 1]
    assert [finding.code for finding in check_dataset(root).errors] == ["inverted-box"]
    fix_dataset(root, tmp_path / "fixed")
    assert not check_dataset(tmp_path / "fixed").errors


def test_images_without_rows_are_reported(tmp_path):
    root = write_set(tmp_path, images=("1.png", "3.png", "10.png", "9.png"))
    with pytest.warns(UserWarning, match=r"got none for 2 \(9\.png, 10\.png\)"):
        dataset = load_dataset(root, "train", log=lambda line: None)
    assert [dataset[i][1]["image_id"] for i in range(4)] == [3, 1, 9, 10]
    assert [len(dataset[i][1]["boxes"]) for i in range(4)] == [1, 1, 0, 0]


def test_damaged_image_is_named_with_its_index(tmp_path):
    dataset = BananaDataset(write_set(tmp_path))
    path = tmp_path / "bananas_train/images/1.png"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"at index 1, got: read_image: .*1\.png; restore or"):
        dataset[1]


def test_jpeg_size_and_pixels(tmp_path):
    root = write_set(tmp_path, ["1.jpg,0,1,1,40,30"], ["1.jpg"])
    assert BananaDataset(root)[0][0].shape == (3, 30, 40)
    (root / "bananas_train/label.csv").write_text(HEADER + "\n1.jpg,0,1,1,41,30\n")
    assert "inside 1.jpg of width 40 and height 30" in error_of(root)


@pytest.fixture(scope="module")
def real():
    folder = os.environ.get("CVLIB_TEST_DATA")
    if not folder:
        pytest.skip("CVLIB_TEST_DATA is not set: no real data")
    return Path(folder) / "banana-detection"


def test_real_dataset(real):
    train, val = BananaDataset(real, "train"), BananaDataset(real, "val")
    assert (len(train), len(val)) == (500, 50)
    image, target = train[0]
    assert image.shape == (3, 256, 256)
    assert target["image_id"] == 1
    assert target["boxes"].tolist() == [[68, 175, 118, 223]]


def test_real_dataset_with_a_loader(real):
    loader = DataLoader(BananaDataset(real, "val"), batch_size=25, collate_fn=collate)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sizes = [tuple(images.shape) for images, _ in loader]
    assert sizes == [(25, 3, 256, 256)] * 2
