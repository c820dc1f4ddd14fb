"""Instance masks as in Penn-Fudan."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

from cvlib.data.datasets.detection import DetectionDataset
from cvlib.data.formats.coco import read_coco
from cvlib.data.formats.masks import read_masks
from cvlib.data.labels.findings import errors_of
from cvlib.data.labels.rules import find_bad_labels

NUMBERS = np.zeros((20, 30), dtype=np.uint8)
NUMBERS[2:5, 3:10] = 1
NUMBERS[10:20, 20:30] = 3


def write_set(root, masks, folders=("PNGImages", "PedMasks"), suffix="_mask"):
    for folder in folders:
        (root / folder).mkdir(parents=True, exist_ok=True)
    for stem, mask in masks.items():
        Image.new("RGB", (30, 20)).save(root / folders[0] / f"{stem}.png")
        if mask is not None:
            Image.fromarray(mask).save(root / folders[1] / f"{stem}{suffix}.png")
    return root


def only_error(table):
    errors = errors_of(table.findings)
    assert len(errors) == 1, errors
    return errors[0]


def test_a_small_dataset(tmp_path):
    table = read_masks(write_set(tmp_path, {"a": NUMBERS, "b": NUMBERS * 0}))
    assert table.classes == ("person",)
    assert table.boxes.tolist() == [[3, 2, 10, 5], [20, 10, 30, 20]]
    assert table.areas.tolist() == [21, 100]
    assert table.row(1) == "object number 3"
    assert np.diff(table.starts).tolist() == [2, 0]
    assert table.label_file(0).endswith("a_mask.png")
    assert find_bad_labels(table)[0] == []
    masks = DetectionDataset(table)[0][1]["masks"]
    assert np.array_equal(masks.numpy(), [NUMBERS == 1, NUMBERS == 3])


def test_original_from_real_pedestrians(test_data, tmp_path):
    """The layout of Penn-Fudan, built from its COCO version, has the same objects."""
    real = DetectionDataset(read_coco(test_data / "pennfudan-coco/instances_val.json"))
    expected = []
    for folder in ("PNGImages", "PedMasks"):
        (tmp_path / folder).mkdir()
    for index in range(6):
        image, target = real[index]
        numbers = torch.zeros(image.shape[1:], dtype=torch.uint8)
        for number, mask in enumerate(target["masks"], 1):
            numbers[mask.bool()] = number
        expected.append(numbers)
        scene = Image.fromarray(image.permute(1, 2, 0).numpy())
        scene.save(tmp_path / f"PNGImages/FudanPed{index:05d}.png", compress_level=1)
        Image.fromarray(numbers.numpy()).save(tmp_path / f"PedMasks/FudanPed{index:05d}_mask.png")
    table = read_masks(tmp_path)
    assert table.findings == ()
    again = DetectionDataset(table)
    assert len(again) == 6
    for index, numbers in enumerate(expected):
        target = again[index][1]
        assert torch.equal(target["masks"].sum(0) > 0, numbers > 0)
        assert len(target["labels"]) == len(numbers.unique()) - 1
        assert target["area"].sum() == (numbers > 0).sum()
        # Boxes equal those of the masks if the pedestrian is not occluded.
        assert abs(target["boxes"][-1] - real[index][1]["boxes"][-1]).max() <= 1


@pytest.mark.parametrize("kind", ["palette", "sixteen bits"])
def test_kinds_of_masks(tmp_path, kind):
    root = write_set(tmp_path, {"a": NUMBERS})
    if kind == "palette":
        image = Image.fromarray(NUMBERS).convert("P")
        image.frombytes(NUMBERS.tobytes())
        image.putpalette([7] * 768)
    else:
        image = Image.fromarray(NUMBERS.astype(np.uint16) * 300)
    image.save(root / "PedMasks/a_mask.png")
    table = read_masks(root)
    assert table.boxes.tolist() == [[3, 2, 10, 5], [20, 10, 30, 20]]
    assert table.rows.tolist() == ([1, 3] if kind == "palette" else [300, 900])


def test_other_folders_and_equal_names(tmp_path):
    root = write_set(tmp_path, {"a": NUMBERS}, ("images", "masks"), suffix="")
    table = read_masks(root, images="images", masks="masks")
    assert table.classes == ("object",)
    assert table.num_objects == 2
    assert read_masks(root, images="images", masks="masks", classes=["cell"]).classes == ("cell",)


def test_more_than_one_class(tmp_path):
    with pytest.raises(ValueError, match="one class, since instance masks have no classes"):
        read_masks(write_set(tmp_path, {"a": NUMBERS}), classes=["cat", "dog"])


def test_missing_folders(tmp_path):
    with pytest.raises(FileNotFoundError, match="with PNGImages/ and PedMasks/, got"):
        read_masks(tmp_path)
    write_set(tmp_path, {})
    with pytest.raises(ValueError, match="expected images in"):
        read_masks(tmp_path)


def test_missing_masks_and_masks_without_image(tmp_path):
    root = write_set(tmp_path, {"a": NUMBERS, "b": None, "c": NUMBERS})
    os.remove(root / "PNGImages/c.png")
    table = read_masks(root)
    assert "expected a mask for every image" in only_error(table).message
    assert only_error(table).image == str(root / "PNGImages/b.png")
    assert [f.code for f in table.findings] == ["missing-labels", "labels-without-image"]
    assert list(table.images) == ["PNGImages/a.png"]


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (NUMBERS.T.copy(), "expected a mask of the size of its image, (20, 30)"),
        (np.zeros((20, 30, 3), np.uint8), "expected a mask of class indices (palette or grey)"),
        (np.full((20, 30), -1, np.int32), "got 1 numbers from -1 to -1"),
    ],
)
def test_wrong_masks(tmp_path, mask, message):
    root = write_set(tmp_path, {"a": NUMBERS, "b": NUMBERS})
    Image.fromarray(mask).save(root / "PedMasks/b_mask.png", format="TIFF")
    error = only_error(read_masks(root))
    assert message in error.message
    assert error.file == str(root / "PedMasks/b_mask.png")


def test_depth_is_not_a_mask(tmp_path):
    numbers = np.arange(120 * 120, dtype=np.uint16).reshape(120, 120)
    root = write_set(tmp_path, {"a": NUMBERS, "b": numbers})
    Image.new("RGB", (120, 120)).save(root / "PNGImages/b.png")
    assert "at most 10,000 objects" in only_error(read_masks(root)).message


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n", b"<html>"])
@pytest.mark.parametrize("name", ["PedMasks/b_mask.png", "PNGImages/b.png"])
def test_damaged_files(tmp_path, content, name):
    root = write_set(tmp_path, {"a": NUMBERS, "b": NUMBERS})
    (root / name).write_bytes(content)
    table = read_masks(root)
    assert only_error(table).code == "unreadable-labels"
    assert table.num_images == 1
