"""load_dataset: recognised layouts, logged lines and error messages."""

import json
import os

import numpy as np
import pytest
from PIL import Image

import cvlib.data.layouts as layouts
from cvlib.data import ClassificationDataset, DetectionDataset, SegmentationDataset
from cvlib.data.labels.findings import BadLabelsError
from cvlib.data.load import find_splits, load_dataset

COCO = {
    "images": [{"id": 1, "file_name": "a.jpg", "width": 8, "height": 6}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 3, "bbox": [1, 1, 4, 4], "area": 16}],
    "categories": [{"id": 3, "name": "cat"}, {"id": 5, "name": "dog"}],
}
XML = (
    "<annotation><size><width>8</width><height>6</height></size><object><name>cat</name><bndbox>"
    "<xmin>1</xmin><ymin>1</ymin><xmax>4</xmax><ymax>4</ymax></bndbox></object></annotation>"
)


def image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6)).save(path)


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def write_coco(root):
    image(root / "train2017/a.jpg")
    image(root / "val2017/a.jpg")
    for split in ("train2017", "val2017"):
        write(root / f"annotations/instances_{split}.json", json.dumps(COCO))
        write(root / f"annotations/captions_{split}.json", json.dumps(COCO))


def write_flat_coco(root):
    image(root / "a.jpg")
    write(root / "labels.json", json.dumps(COCO))


def write_roboflow_coco(root):
    for split in ("train", "valid"):
        image(root / split / "a.jpg")
        write(root / split / "_annotations.coco.json", json.dumps(COCO))


def write_csv(root):
    image(root / "images/a.jpg")
    write(root / "train.csv", "image,class,xmin,ymin,xmax,ymax\na.jpg,cat,1,1,4,4\n")
    write(root / "val.csv", "image,class,xmin,ymin,xmax,ymax\na.jpg,cat,1,1,4,4\n")


def write_bananas(root):
    for split in ("train", "val"):
        image(root / f"bananas_{split}/images/a.jpg")
        text = "img_name,label,xmin,ymin,xmax,ymax\na.jpg,0,1,1,4,4\n"
        write(root / f"bananas_{split}/label.csv", text)


def write_voc(root):
    for name in "ab":
        image(root / f"JPEGImages/{name}.jpg")
        write(root / f"Annotations/{name}.xml", XML)
    write(root / "ImageSets/Main/train.txt", "a\n")
    write(root / "ImageSets/Main/val.txt", "b\n")


def write_voc_masks(root):
    image(root / "JPEGImages/a.jpg")
    (root / "SegmentationClass").mkdir()
    Image.fromarray(np.ones((6, 8), np.uint8)).save(root / "SegmentationClass/a.png")
    write(root / "ImageSets/Segmentation/train.txt", "a\n")


def write_yolo(root):
    for split in ("train", "val"):
        image(root / f"images/{split}/a.jpg")
        write(root / f"labels/{split}/a.txt", "0 0.5 0.5 0.5 0.5\n")
    write(root / "data.yaml", "train: images/train\nval: images/val\nnames: [cat]\n")


def write_yolo_without_yaml(root):
    write_yolo(root)
    os.remove(root / "data.yaml")
    write(root / "classes.txt", "cat\n")


def write_folders(root):
    for split in ("train", "val"):
        for kind in ("ant", "bee"):
            image(root / split / kind / "a.jpg")


def write_folders_without_splits(root):
    for kind in ("ant", "bee"):
        image(root / kind / "a.jpg")


def write_masks(root):
    image(root / "PNGImages/a.png")
    (root / "PedMasks").mkdir()
    Image.fromarray(np.ones((6, 8), np.uint8)).save(root / "PedMasks/a_mask.png")


CASES = {
    "coco": (write_coco, ["train2017", "val2017"], DetectionDataset),
    "coco next to its images": (write_flat_coco, ["labels"], DetectionDataset),
    "coco of roboflow": (write_roboflow_coco, ["train", "valid"], DetectionDataset),
    "banana": (write_bananas, ["train", "val"], DetectionDataset),
    "csv": (write_csv, ["train", "val"], DetectionDataset),
    "voc": (write_voc, ["train", "val"], DetectionDataset),
    "voc-segmentation": (write_voc_masks, ["train"], SegmentationDataset),
    "yolo": (write_yolo, ["train", "val"], DetectionDataset),
    "yolo by folders": (write_yolo_without_yaml, ["train", "val"], DetectionDataset),
    "folder": (write_folders, ["train", "val"], ClassificationDataset),
    "folder without splits": (write_folders_without_splits, [], ClassificationDataset),
    "masks": (write_masks, [], DetectionDataset),
}


@pytest.mark.parametrize("case", CASES)
def test_layouts(tmp_path, case):
    write_layout, splits, kind = CASES[case]
    write_layout(tmp_path)
    assert [layout.format for layout, _ in layouts.find_layouts(tmp_path)] == [case.split()[0]]
    assert find_splits(tmp_path) == splits
    for split in splits or [None]:
        lines = []
        dataset = load_dataset(tmp_path, split, log=lines.append)
        assert type(dataset) is kind
        assert len(dataset) >= 1
        dataset[0]
        title = next(layout.title for layout in layouts.LAYOUTS if layout.format == case.split()[0])
        assert lines[0].startswith(f"{tmp_path}: {title} (")
        assert split is None or f"split {split} of" in lines[0]


@pytest.mark.parametrize("case", CASES)
def test_only_subfolder(tmp_path, case):
    write_layout, splits, kind = CASES[case]
    write_layout(tmp_path / "download/set")
    write(tmp_path / "__MACOSX/x", "")
    dataset = load_dataset(tmp_path, splits[0] if splits else None, log=str)
    assert type(dataset) is kind


@pytest.mark.parametrize("case", CASES)
def test_options_reach_the_dataset(tmp_path, case):
    write_layout, splits, _ = CASES[case]
    write_layout(tmp_path)
    options = {"transform": lambda image, target: (image, "transformed"), "cache": True, "log": str}
    dataset = load_dataset(tmp_path, splits[0] if splits else None, **options)
    assert dataset[0][1] == "transformed"
    for path in tmp_path.rglob("*.[jp][pn]g"):
        path.unlink()
    assert dataset[0][1] == "transformed"  # from the cache


@pytest.mark.parametrize(
    ("write_layout", "file", "split"),
    [
        (write_coco, "annotations/instances_val2017.json", None),
        (write_yolo, "data.yaml", "val"),
        (write_csv, "val.csv", None),
    ],
)
def test_a_label_file(tmp_path, write_layout, file, split):
    write_layout(tmp_path)
    assert len(load_dataset(tmp_path / file, split, log=str)) == 1


def test_only_folder_of_bananas(tmp_path):
    write_bananas(tmp_path)
    assert find_splits(tmp_path / "bananas_val") == ["train", "val"]
    assert len(load_dataset(tmp_path / "bananas_val", "val", log=str)) == 1


def test_one_line_and_the_facts_are_logged(tmp_path, capsys):
    write_voc(tmp_path)
    load_dataset(tmp_path, "val")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == (
        f"{tmp_path}: Pascal VOC boxes (Annotations/*.xml and JPEGImages), split val of train, "
        "val: 1 images, 1 objects of 1 class (cat)"
    )
    assert "pixels are counted from 1" in lines[1]
    assert len(lines) == 2


def test_the_only_split_need_not_be_named(tmp_path):
    write_voc_masks(tmp_path)
    lines = []
    load_dataset(tmp_path, log=lines.append)
    assert "split train of train" in lines[0]


def test_several_splits_are_listed(tmp_path):
    write_coco(tmp_path)
    message = (
        r"^load_dataset: expected `split` to be one of train2017, val2017 in .*, got none; "
        r"for example split='train2017'$"
    )
    with pytest.raises(ValueError, match=message):
        load_dataset(tmp_path)


@pytest.mark.parametrize(("split", "name"), [("train", "train2017"), ("val", "val2017")])
def test_years_may_be_left_out(tmp_path, split, name):
    write_coco(tmp_path)
    lines = []
    load_dataset(tmp_path, split, log=lines.append)
    assert f"split {name} of" in lines[0]


def test_valid_is_val(tmp_path):
    write_roboflow_coco(tmp_path)
    lines = []
    load_dataset(tmp_path, "val", log=lines.append)
    assert "split valid of" in lines[0]


def test_ambiguous_split(tmp_path):
    write_coco(tmp_path)
    write(tmp_path / "annotations/instances_val2014.json", json.dumps(COCO))
    with pytest.raises(ValueError, match="got 'val', which matches val2014 and val2017"):
        load_dataset(tmp_path, "val")


@pytest.mark.parametrize(
    ("split", "nearest"), [("trian", "train2017"), ("vall2017", "val2017"), ("test", None)]
)
def test_unknown_split(tmp_path, split, nearest):
    write_coco(tmp_path)
    expected = r"^load_dataset: expected `split` to be one of train2017, val2017 in .*"
    hint = rf"; did you mean '{nearest}'\?" if nearest else ""
    with pytest.raises(ValueError, match=rf"{expected}, got '{split}'{hint}$"):
        load_dataset(tmp_path, split)


def test_a_dataset_without_splits(tmp_path):
    write_masks(tmp_path)
    with pytest.raises(ValueError, match=r"expected no `split`, since .* has none, got 'val'"):
        load_dataset(tmp_path, "val")


def test_two_layouts(tmp_path):
    write_voc(tmp_path)
    write_voc_masks(tmp_path)
    message = (
        r'expected one layout in .*, got 2; pass format="voc" for Pascal VOC boxes \(.*\); '
        r'format="voc-segmentation" for Pascal VOC masks'
    )
    with pytest.raises(ValueError, match=message):
        load_dataset(tmp_path, "train")
    assert load_dataset(tmp_path, "train", format="voc", log=str).task == "detection"
    masks = load_dataset(tmp_path, "train", format="voc-segmentation", log=str)
    assert masks.task == "segmentation"
    assert find_splits(tmp_path, format="voc") == ["train", "val"]


def test_folders_of_masks_need_a_format(tmp_path):
    write_masks(tmp_path)
    os.rename(tmp_path / "PNGImages", tmp_path / "images")
    os.rename(tmp_path / "PedMasks", tmp_path / "masks")
    with pytest.raises(ValueError, match='images/ with masks/ only as format="masks"'):
        load_dataset(tmp_path)
    assert load_dataset(tmp_path, format="masks", log=str).classes == ("object",)


@pytest.mark.parametrize(
    ("format", "nearest"), [("YOLO", "yolo"), ("cocoa", "coco"), ("kitti", None)]
)
def test_unknown_format(format, nearest):
    expected = "^load_dataset: expected `format` to be one of coco, banana, voc, .*, folder"
    hint = rf"; did you mean '{nearest}'\?" if nearest else ""
    with pytest.raises(ValueError, match=rf"{expected}, got '{format}'{hint}$"):
        load_dataset(".", format=format)


@pytest.mark.parametrize("format", [layout.format for layout in layouts.LAYOUTS])
def test_format_that_does_not_fit(tmp_path, format):
    image(tmp_path / "photos/a.jpg")
    with pytest.raises(FileNotFoundError, match=r"^\w+: expected .*, got .*photos"):
        load_dataset(tmp_path, format=format)


def test_unknown_layout(tmp_path):
    image(tmp_path / "photos/a.jpg")
    image(tmp_path / "b.jpg")
    with pytest.raises(ValueError) as caught:
        load_dataset(tmp_path)
    text = str(caught.value)
    for layout in layouts.LAYOUTS:
        assert f"{layout.title}: {layout.expected_files}" in text
    assert f"got {tmp_path} with b.jpg, photos" in text


def test_missing_and_empty_folders(tmp_path):
    message = "^load_dataset: expected `path` to be an existing file or folder, got .*gone, which"
    with pytest.raises(FileNotFoundError, match=message):
        load_dataset(tmp_path / "gone")
    with pytest.raises(ValueError, match="which is empty"):
        load_dataset(tmp_path)


def test_an_archive(tmp_path):
    write(tmp_path / "set.zip", "PK")
    with pytest.raises(ValueError, match=r"got the file .*set\.zip; unpack it first"):
        load_dataset(tmp_path / "set.zip")


def test_results_are_not_labels(tmp_path):
    write_flat_coco(tmp_path)
    write(tmp_path / "results.json", json.dumps(COCO["annotations"]))
    write(tmp_path / "empty.json", "")
    write(tmp_path / "settings.json", '{"images": 3}')
    assert find_splits(tmp_path) == ["labels"]


def test_folders_of_folders_are_not_classes(tmp_path):
    for name in ("one", "two"):
        write_voc(tmp_path / name)
    image(tmp_path / "three/a.jpg")
    with pytest.raises(ValueError, match="to have one of these layouts"):
        load_dataset(tmp_path)


def test_split_folders_of_images_are_not_classes(tmp_path):
    image(tmp_path / "train/a.jpg")
    image(tmp_path / "val/a.jpg")
    with pytest.raises(ValueError, match="to have one of these layouts"):
        load_dataset(tmp_path)


def test_symlink_loop(tmp_path):
    os.symlink(tmp_path, tmp_path / "again")
    with pytest.raises(ValueError, match="to have one of these layouts"):
        load_dataset(tmp_path)


def test_classes_in_another_order(tmp_path):
    write_flat_coco(tmp_path)
    dataset = load_dataset(tmp_path, classes=["dog", "cat"], log=str)
    assert dataset.classes == ("dog", "cat")
    assert dataset[0][1]["labels"].tolist() == [1]
    assert dataset.table.category_ids == (5, 3)
    message = "^read_coco: expected `classes` to be the names in the file, cat, dog, in any order"
    with pytest.raises(ValueError, match=message):
        load_dataset(tmp_path, classes=["cat"], log=str)


def test_classes_of_csv(tmp_path):
    write_csv(tmp_path)
    dataset = load_dataset(tmp_path, "val", classes=["dog", "cat"], log=str)
    assert dataset[0][1]["labels"].tolist() == [1]


def test_classes_of_bananas(tmp_path):
    write_bananas(tmp_path)
    assert load_dataset(tmp_path, "val", classes=["fruit"], log=str).classes == ("fruit",)


def test_bad_labels(tmp_path):
    write_voc(tmp_path)
    write(tmp_path / "Annotations/a.xml", XML.replace("<xmax>4", "<xmax>99"))
    with pytest.raises(BadLabelsError, match=r"a\.xml, object 1: expected a box inside"):
        load_dataset(tmp_path, "train", log=str)
    with pytest.warns(UserWarning, match="dropped invalid labels"):
        dataset = load_dataset(tmp_path, "train", bad_labels="drop", log=str)
    assert dataset.table.num_objects == 0


# Name, split, kind, images, objects, classes.
REAL = [
    ("banana-detection", "train", DetectionDataset, 500, 500, 1),
    ("banana-detection", "val", DetectionDataset, 50, 50, 1),
    ("pennfudan-coco", "train", DetectionDataset, 120, 297, 1),
    ("pennfudan-coco", "val", DetectionDataset, 50, 126, 1),
    ("tiny-coco", "train", DetectionDataset, 32, 288, 80),
    ("tiny-coco", "val", DetectionDataset, 6, 136, 80),
    ("bccd-voc", "test", DetectionDataset, 72, 945, 3),
    ("camvid-voc", "train", SegmentationDataset, 123, None, 11),
    ("camvid-voc", "val", SegmentationDataset, 51, None, 11),
    ("hymenoptera", "train", ClassificationDataset, 245, None, 2),
    ("hymenoptera", "val", ClassificationDataset, 153, None, 2),
]


@pytest.mark.parametrize(("name", "split", "kind", "images", "objects", "classes"), REAL)
def test_real_sets(test_data, name, split, kind, images, objects, classes):
    dataset = load_dataset(test_data / name, split, log=str)
    assert type(dataset) is kind
    assert (len(dataset), len(dataset.classes)) == (images, classes)
    assert objects is None or dataset.table.num_objects == objects
    image, target = dataset[len(dataset) - 1]
    assert image.shape[0] == 3
    assert "image_id" in target


def test_invalid_labels_of_the_blood_cells(test_data):
    with pytest.raises(BadLabelsError, match="expected valid labels, got 2 errors") as caught:
        load_dataset(test_data / "bccd-voc", "trainval", log=str)
    assert [finding.code for finding in caught.value.findings] == ["degenerate-box"] * 2
    with pytest.warns(UserWarning, match="2 findings"):
        cells = load_dataset(test_data / "bccd-voc", "trainval", bad_labels="drop", log=str)
    assert (len(cells), cells.table.num_objects) == (292, 3941)


def test_a_folder_of_several_datasets_has_no_layout(test_data):
    with pytest.raises(ValueError, match="to have one of these layouts"):
        load_dataset(test_data)
