"""read_coco and write_coco: against pycocotools, and in the usual layouts."""

import contextlib
import io
import json
import os
import time

import numpy as np
import pytest
import torch
from label_files import entry, image_entry, make_coco
from PIL import Image
from pycocotools.coco import COCO
from torchvision import tv_tensors

from cvlib.data.datasets.detection import DetectionDataset
from cvlib.data.formats.coco import read_coco
from cvlib.data.formats.coco_writer import write_coco
from cvlib.ops.rle import masks_to_rle


def test_a_small_file(tmp_path):
    annotations = [
        entry(11, 5, 3, area=50, iscrowd=1),
        entry(4, 1, 7),
        entry(9, 1, 3, bbox=[0.5, 1.5, 2, 2], difficult=1),
    ]
    table = read_coco(str(make_coco(tmp_path, annotations=annotations)))
    assert table.layout == "COCO json"
    assert table.root == tmp_path
    assert table.classes == ("dog", "cat"), "classes count in the order of their ids"
    assert table.category_ids == (3, 7)
    assert list(table.images) == ["1.png", "5.png"]
    assert table.image_ids.tolist() == [1, 5]
    assert table.sizes.tolist() == [[30, 40], [30, 40]]
    assert table.starts.tolist() == [0, 2, 3]
    assert table.rows.tolist() == [4, 9, 11]
    assert table.labels.tolist() == [1, 0, 0]
    assert table.boxes.tolist() == [[2, 3, 12, 11], [0.5, 1.5, 2.5, 3.5], [2, 3, 12, 11]]
    assert table.iscrowd.tolist() == [False, False, True]
    assert table.difficult.tolist() == [False, True, False]
    assert np.isnan(table.areas[:2]).all()
    assert table.areas[2] == 50
    assert table.masks is None
    assert table.row(1) == "annotation 9"
    assert table.label_file(1) == str(tmp_path / "a.json")
    assert table.findings == ()
    sample = DetectionDataset(table)[0][1]
    assert sample["labels"].tolist() == [1, 0]
    assert sample["area"].tolist() == [80, 4]


# From the decoder of pycocotools.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize(
    "name",
    [
        "tiny-coco/annotations/instances_train2017.json",
        "tiny-coco/annotations/instances_val2017.json",
        "pennfudan-coco/instances_train.json",
        "pennfudan-coco/instances_val.json",
        "coco-eval-pair/instances_val2014_100.json",
    ],
)
def test_real_datasets_as_pycocotools_reads_them(test_data, name):
    with contextlib.redirect_stdout(io.StringIO()):
        oracle = COCO(str(test_data / name))
    has_images = not name.startswith("coco-eval-pair")
    table = read_coco(test_data / name, None if has_images else test_data / "coco-eval-pair")
    assert table.findings == ()
    assert table.num_images == len(oracle.imgs)
    assert sorted(table.rows) == sorted(oracle.anns)
    assert table.category_ids == tuple(sorted(oracle.cats))
    assert list(table.classes) == [oracle.cats[i]["name"] for i in table.category_ids]
    dataset = DetectionDataset(table)
    for i, number in enumerate(table.image_ids.tolist()):
        expected = oracle.loadAnns(oracle.getAnnIds(number))
        target = dataset.target(i)
        assert table.rows[table.objects(i)].tolist() == [a["id"] for a in expected]
        categories = [table.category_ids[k] for k in target["labels"].tolist()]
        assert categories == [a["category_id"] for a in expected]
        corners = np.array([a["bbox"] for a in expected]).reshape(-1, 4)
        corners[:, 2:] += corners[:, :2]
        assert np.allclose(target["boxes"].tolist() or corners, corners, rtol=0, atol=1e-4)
        assert target["iscrowd"].tolist() == [a["iscrowd"] for a in expected]
        assert np.allclose(target["area"].numpy(), [a["area"] for a in expected])
        for mask, annotation in zip(target["masks"].numpy(), expected, strict=True):
            assert np.array_equal(mask, oracle.annToMask(annotation))


def test_folders_of_real_images(test_data):
    for name, folder, count in [
        ("tiny-coco/annotations/instances_train2017.json", "tiny-coco/images/train2017", 32),
        ("pennfudan-coco/instances_val.json", "pennfudan-coco/val", 50),
    ]:
        table = read_coco(test_data / name)
        assert table.root == test_data / folder
        assert sum(table.path(i).is_file() for i in range(count)) == table.num_images == count
    with pytest.raises(FileNotFoundError, match=r"got none of the first 50 in .*coco-eval-pair"):
        read_coco(test_data / "coco-eval-pair/instances_val2014_100.json")


def test_polygons_and_both_kinds_of_run_lengths(tmp_path):
    square = np.zeros((30, 40), np.uint8)
    square[3:11, 2:12] = 1
    runs = [2 * 30 + 3, *([8, 22] * 9), 8, 30 * 40 - 11 * 30 - 11]
    compressed = masks_to_rle(torch.from_numpy(square)[None])[0]
    assert isinstance(compressed["counts"], str)
    annotations = [
        entry(1, segmentation=[[2, 3, 12, 3, 12, 11, 2, 11]]),
        entry(2, segmentation={"size": [30, 40], "counts": runs}, iscrowd=1),
        entry(3, segmentation=compressed),
    ]
    target = DetectionDataset(read_coco(make_coco(tmp_path, annotations=annotations))).target(0)
    assert isinstance(target["masks"], tv_tensors.Mask)
    assert target["masks"].dtype == torch.uint8
    assert np.array_equal(target["masks"].numpy(), np.stack([square] * 3))


def test_a_box_from_the_mask_where_there_is_none(tmp_path):
    runs = {"size": [30, 40], "counts": [2 * 30 + 3, 8, 22, 8, 30 * 40 - 3 * 30 - 11]}
    annotations = [
        entry(1, bbox=None, segmentation=[[2, 3, 12, 3, 12, 11, 2, 11], [20, 1, 22, 1, 22, 2]]),
        entry(2, bbox=[], segmentation=runs),
    ]
    boxes = read_coco(make_coco(tmp_path, annotations=annotations)).boxes
    assert boxes.tolist() == [[2, 1, 22, 11], [2, 3, 4, 11]]


def test_byte_order_mark(tmp_path):
    path = make_coco(tmp_path, annotations=[entry(1)])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_coco(path).num_objects == 1


@pytest.mark.parametrize(
    ("file", "folder"),
    [
        ("a.json", "."),
        ("a.json", "images"),
        ("annotations/a.json", "images"),
        ("annotations/instances_train2017.json", "train2017"),
        ("annotations/instances_train2017.json", "images/train2017"),
        ("train/_annotations.coco.json", "train"),
        ("instances_val.json", "val"),
        ("val.json", "val/images"),
    ],
)
def test_usual_layouts(tmp_path, file, folder):
    path, folder = tmp_path / file, tmp_path / folder
    path.parent.mkdir(exist_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    made = make_coco(folder)
    made.rename(path)
    assert os.path.samefile(read_coco(path).root, folder)


def test_two_folders_with_the_images(tmp_path):
    path = make_coco(tmp_path)
    (tmp_path / "images").mkdir()
    make_coco(tmp_path / "images")
    with pytest.raises(ValueError, match=r"expected one folder .*images; pass images_folder="):
        read_coco(path)
    assert read_coco(path, tmp_path / "images").root == tmp_path / "images"


def test_searched_folders_are_listed(tmp_path):
    path = make_coco(tmp_path)
    (tmp_path / "1.png").unlink()
    (tmp_path / "5.png").unlink()
    (tmp_path / "images").mkdir()
    with pytest.raises(FileNotFoundError) as caught:
        read_coco(path)
    assert "such as '1.png', next to it, got none of the first 2 in" in str(caught.value)
    assert str(tmp_path / "images") in str(caught.value)
    with pytest.raises(FileNotFoundError, match="`images_folder` to be an existing folder"):
        read_coco(path, tmp_path / "nowhere")


@pytest.mark.parametrize(
    "name", ["tiny-coco/annotations/instances_train2017.json", "pennfudan-coco/instances_val.json"]
)
def test_round_trip_of_real_datasets(test_data, tmp_path, name):
    table = read_coco(test_data / name)
    write_coco(tmp_path / "b.json", table)
    again = read_coco(tmp_path / "b.json", table.root)
    for key in ("classes", "category_ids", "findings"):
        assert getattr(again, key) == getattr(table, key)
    for key in ("image_ids", "sizes", "starts", "boxes", "labels", "rows", "iscrowd", "areas"):
        assert np.array_equal(getattr(again, key), getattr(table, key)), key
    assert list(again.images) == list(table.images)
    assert list(again.masks) == list(table.masks)
    original = json.loads((test_data / name).read_text())
    written = json.loads((tmp_path / "b.json").read_text())
    boxes = {a["id"]: a["bbox"] for a in original["annotations"]}
    assert all(np.allclose(a["bbox"], boxes[a["id"]], 0, 1e-9) for a in written["annotations"])


def test_values_that_json_cannot_store_are_not_written(tmp_path):
    bbox = [2, 3, float("nan"), 5]
    table = read_coco(make_coco(tmp_path, annotations=[entry(17, bbox=bbox)]))
    with pytest.raises(ValueError, match=r"write_coco: expected finite boxes with labels in 0..1"):
        write_coco(tmp_path / "b.json", table)
    assert not (tmp_path / "b.json").exists()


@pytest.mark.slow
def test_a_million_annotations(tmp_path):
    images = [image_entry(k) for k in range(100_000)]
    annotations = [
        entry(k, k % 100_000, segmentation=[[2, 3, 12, 3, 12, 11]]) for k in range(10**6)
    ]
    path = tmp_path / "a.json"
    categories = [{"id": 7, "name": "cat"}]
    path.write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    Image.new("RGB", (40, 30)).save(tmp_path / "3.png")
    start = time.perf_counter()
    table = read_coco(path)
    assert time.perf_counter() - start < 60
    assert table.num_objects == 10**6
