"""write_yolo: round trips, and what it refuses to write."""

import numpy as np
import pytest
from label_files import image

from cvlib.data.datasets.detection import DetectionDataset
from cvlib.data.formats.coco import read_coco
from cvlib.data.formats.in_memory import read_lists
from cvlib.data.formats.voc import read_voc
from cvlib.data.formats.yolo import read_yolo
from cvlib.data.formats.yolo_writer import write_yolo


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


def test_used_folders_and_bad_splits_are_refused(tmp_path):
    image(tmp_path / "a.jpg")
    dataset = DetectionDataset.from_lists([tmp_path / "a.jpg"], [[]], [[]], ["cat"])
    with pytest.raises(FileExistsError, match=r"a new or empty folder, got .* with a\.jpg"):
        write_yolo(dataset, tmp_path)
    other = dataset.rename_classes({"cat": "dog"})
    with pytest.raises(ValueError, match="expected splits among train, val, test, got dev"):
        write_yolo({"dev": dataset}, tmp_path / "yolo")
    with pytest.raises(ValueError, match="the same classes, got train: cat; val: dog"):
        write_yolo({"train": dataset, "val": other}, tmp_path / "yolo")
