"""Corrected copies: mistakes are corrected, left out or left alone, and reported."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import painted_sets as painted
import planted_faults as planted
import pytest
import torch
from painted_sets import CocoSet
from PIL import Image
from planted_faults import Fault

from cvlib.data import SyntheticBananas
from cvlib.data.check import check_dataset, fix_dataset
from cvlib.data.check.fix import turn_boxes
from cvlib.data.files.images import read_image


@pytest.fixture(scope="module")
def clean_coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("coco") / "clean"
    CocoSet.make(folder)
    return folder


def boxes_of(folder: Path, split: str = "train") -> np.ndarray:
    content = json.loads((folder / f"annotations/instances_{split}.json").read_text())
    return np.array([annotation["bbox"] for annotation in content["annotations"]])


ERRORS = [
    fault
    for fault in (*planted.COCO_LABELS, *planted.IMAGES, *planted.COCO_MASKS)
    if fault.severity == "error" and fault.code not in ("no-objects", "classes-differ")
]


@pytest.mark.parametrize("fault", ERRORS, ids=[fault.name for fault in ERRORS])
def test_the_copy_has_no_errors(clean_coco: Path, tmp_path: Path, fault: Fault) -> None:
    dataset = CocoSet.copy(clean_coco, tmp_path / "set")
    fault.plant(dataset)
    dataset.save()
    before = {path: path.read_bytes() for path in dataset.folder.rglob("*") if path.is_file()}
    changes = fix_dataset(dataset.folder, tmp_path / "fixed")
    report = check_dataset(tmp_path / "fixed")
    assert not report.errors, report
    assert before == {
        path: path.read_bytes() for path in dataset.folder.rglob("*") if path.is_file()
    }
    assert fault.code in {change.code for change in changes.made}
    assert report.summary["images"] >= 18


MISREAD = [
    planted.all_in_fractions,
    planted.multiplied_twice,
    planted.corners_for_sides,
    planted.centre_for_corner,
    planted.y_before_x,
    planted.thousandths,
]


@pytest.mark.parametrize("plant", MISREAD)
def test_boxes_in_another_layout_come_back(clean_coco: Path, tmp_path: Path, plant) -> None:
    dataset = CocoSet.copy(clean_coco, tmp_path / "set")
    plant(dataset)
    dataset.save()
    changes = fix_dataset(dataset.folder, tmp_path / "fixed")
    assert np.allclose(boxes_of(tmp_path / "fixed"), boxes_of(clean_coco), atol=1e-3)
    assert len(changes.made) == 1


def test_single_boxes(clean_coco: Path, tmp_path: Path) -> None:
    dataset = CocoSet.copy(clean_coco, tmp_path / "set").without_masks()
    x, y, w, h = dataset.annotation(5)["bbox"]
    planted.negative_width(dataset)
    dataset.annotation(9)["bbox"] = [painted.WIDTH - 20, 10, 22.5, 40]
    dataset.annotation(14)["bbox"] = [painted.WIDTH - 3, 10, 22, 40]
    dataset.annotation(20)["bbox"][2] = 0
    dataset.add(**dataset.annotation(30))
    dataset.save()
    changes = fix_dataset(dataset.folder, tmp_path / "fixed", images="copy")
    fixed = boxes_of(tmp_path / "fixed")
    assert len(fixed) == 78
    assert np.allclose(fixed[5], [x, y, w, h])
    assert np.allclose(fixed[9], [painted.WIDTH - 20, 10, 20, 40])
    assert [(change.action, change.row) for change in changes.made] == [
        ("exchanged corners", "annotation 6"),
        ("clipped a box", "annotation 10"),
        ("left an object out", "annotation 21"),
        ("left an object out", "annotation 15"),
        ("left an object out", "annotation 31"),
    ]
    assert "left an object out" in str(changes)
    written = json.loads((tmp_path / "fixed/changes.json").read_text())
    assert len(written["made"]) == 5
    assert not any(path.is_symlink() for path in (tmp_path / "fixed").rglob("*"))


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_labels_of_stored_pixels_are_turned(
    clean_coco: Path, tmp_path: Path, orientation: int
) -> None:
    stored = np.zeros((20, 30, 3), np.uint8)
    stored[4:9, 11:19] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(tmp_path / "a.png", exif=exif)
    (x1, y1, x2, y2), *_ = turn_boxes(np.array([[11.0, 4, 19, 9]]), (20, 30), orientation)
    upright = read_image(tmp_path / "a.png", upright=True)
    expected = torch.zeros_like(upright)
    expected[:, int(y1) : int(y2), int(x1) : int(x2)] = 255
    assert torch.equal(upright, expected)
    dataset = CocoSet.copy(clean_coco, tmp_path / "set").without_masks()
    planted.turned_by_exif(dataset)
    dataset.save()
    changes = fix_dataset(dataset.folder, tmp_path / "fixed")
    assert [change.code for change in changes.made] == ["labels-not-turned"]
    assert not check_dataset(tmp_path / "fixed").errors


def test_names_and_images(clean_coco: Path, tmp_path: Path) -> None:
    dataset = CocoSet.copy(clean_coco, tmp_path / "set")
    planted.png_called_jpg(dataset)
    planted.copied_to_val(dataset)
    dataset.save()
    changes = fix_dataset(dataset.folder, tmp_path / "fixed")
    renamed, leaked = changes.made
    assert (renamed.action, renamed.after) == ("renamed", "003.png")
    assert (leaked.action, Path(leaked.image).name) == ("left an image out", "054.jpg")
    report = check_dataset(tmp_path / "fixed")
    assert not report.errors and not report.warnings
    assert (tmp_path / "fixed/images/train/000.jpg").is_symlink()


def test_findings_beyond_the_limit_are_fixed(clean_coco: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("cvlib.data.labels.findings.MAX_FINDINGS_PER_CODE", 2)
    dataset = CocoSet.copy(clean_coco, tmp_path / "set")
    for index in range(5):
        dataset.image(index).unlink()
    for index in range(40, 46):
        dataset.annotation(index)["segmentation"] = [
            [v + painted.WIDTH for v in dataset.annotation(index)["segmentation"][0]]
        ]
    dataset.save()
    assert len(check_dataset(dataset.folder).of_code("missing-image")) == 3
    changes = fix_dataset(dataset.folder, tmp_path / "fixed")
    assert [change.code for change in changes.made] == ["missing-image"] * 5 + ["mask-outside"] * 6
    assert not check_dataset(tmp_path / "fixed").errors


def test_nothing_is_overwritten(clean_coco: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FileExistsError, match="expected `out_folder` to be new or empty"):
        fix_dataset(clean_coco, tmp_path)
    assert (tmp_path / "file").read_text() == "mine"


def test_wrong_arguments_are_refused(clean_coco: Path, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="expected `data` to be a detection dataset with files"):
        fix_dataset(SyntheticBananas(2), tmp_path / "a")
    with pytest.raises(ValueError, match="expected `images` to be 'link' or 'copy', got 'move'"):
        fix_dataset(clean_coco, tmp_path / "a", images="move")
