"""The label doctor finds every planted fault, and nothing in clean datasets."""

from __future__ import annotations

import json
import pickle
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import painted_sets as painted
import planted_faults as planted
import planted_folder_faults as folder_faults
import pytest
import torch
from PIL import Image
from planted_faults import Fault

from cvlib.data import SyntheticBananas, write_shards
from cvlib.data.check import Report, check_dataset
from cvlib.data.datasets.classification import ClassificationDataset
from cvlib.data.datasets.detection import DetectionDataset
from cvlib.data.datasets.segmentation import SegmentationDataset
from cvlib.data.formats.in_memory import read_lists
from cvlib.data.labels.findings import BadLabelsError


def codes(report: Report) -> set[str]:
    """Return the codes of errors and warnings."""
    return {finding.code for finding in report.findings if finding.severity != "info"}


def assert_reported(report: Report, fault: Fault) -> None:
    findings = report.of_code(fault.code)
    assert findings, report
    assert {finding.severity for finding in findings} == {fault.severity}
    assert codes(report) - {fault.code} == set(fault.also), report
    if fault.severity != "info":
        assert all(finding.fix for finding in findings)
        assert all(finding.file or finding.image for finding in findings)


@pytest.fixture(scope="module")
def clean_coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("coco") / "clean"
    painted.CocoSet.make(folder)
    return folder


def planted_copy(clean: Path, folder: Path, fault: Fault) -> Path:
    dataset = painted.CocoSet.copy(clean, folder / "set")
    fault.plant(dataset)
    dataset.save()
    return dataset.folder


def by_name(faults: list[Fault]) -> Any:
    return pytest.mark.parametrize("fault", faults, ids=[fault.name for fault in faults])


def test_there_are_at_least_forty_faults() -> None:
    faults = planted.COCO_LABELS + planted.IMAGES + planted.COCO_MASKS
    faults += folder_faults.LISTS + folder_faults.SEGMENTATION + folder_faults.FOLDERS
    assert len({fault.name for fault in faults}) == len(faults) >= 40


@pytest.mark.parametrize("fast", [False, True])
def test_clean_coco(clean_coco: Path, fast: bool) -> None:
    report = check_dataset(clean_coco, fast=fast)
    assert not codes(report), report
    assert report.summary["images"] == 20
    assert report.summary["objects"] == 80
    report.raise_if_bad()


def test_clean_lists(tmp_path: Path) -> None:
    assert not codes(check_dataset(painted.Lists.make(tmp_path).table()))


def test_clean_segmentation(tmp_path: Path) -> None:
    dataset = painted.Masks.make(tmp_path)
    report = check_dataset(SegmentationDataset(dataset.images, dataset.masks, dataset.classes))
    assert not codes(report), report
    assert report.summary["pixels_per_class"]["apple"] > 0


def test_clean_folders(tmp_path: Path) -> None:
    report = check_dataset(painted.Folders.make(tmp_path).folder)
    assert not codes(report), report
    assert report.summary["images_per_class"] == {"apple": 4, "plum": 4}


@pytest.mark.parametrize("name", ["banana-detection", "camvid-voc", "pennfudan-coco", "tiny-coco"])
def test_real_datasets_are_clean(test_data: Path, name: str) -> None:
    report = check_dataset(test_data / name)
    assert not codes(report), report


def test_one_ant_is_the_placeholder_of_a_website(test_data: Path) -> None:
    report = check_dataset(test_data / "hymenoptera")
    assert codes(report) == {"placeholder-image"}
    assert [Path(finding.image).name for finding in report.warnings] == ["imageNotFound.jpg"]


def test_scans_of_writing_are_not_placeholders(tmp_path: Path) -> None:
    dataset = painted.Folders.make(tmp_path)
    for path in dataset.folder.rglob("*.jpg"):
        folder_faults.write_not_found(path, lines=int(path.stem))
    assert not check_dataset(dataset.folder).of_code("placeholder-image")


def test_blood_cells_have_two_boxes_without_an_area(test_data: Path) -> None:
    report = check_dataset(test_data / "bccd-voc")
    assert codes(report) == {"degenerate-box"}
    places = {(Path(error.file).name, error.row) for error in report.errors}
    assert places == {("BloodImage_00338.xml", "object 13"), ("BloodImage_00343.xml", "object 4")}


@by_name([*planted.COCO_LABELS, *planted.IMAGES, *planted.COCO_MASKS])
def test_coco(clean_coco: Path, tmp_path: Path, fault: Fault) -> None:
    assert_reported(check_dataset(planted_copy(clean_coco, tmp_path, fault)), fault)


@by_name([fault for fault in planted.COCO_LABELS if fault.severity == "error"])
def test_fast_check_finds_errors_in_labels(clean_coco: Path, tmp_path: Path, fault: Fault) -> None:
    report = check_dataset(planted_copy(clean_coco, tmp_path, fault), fast=True)
    assert [finding.code for finding in report.errors][:1] == [fault.code], report
    with pytest.raises(BadLabelsError) as caught:
        report.raise_if_bad()
    assert caught.value.findings[0].code == fault.code


@by_name(folder_faults.LISTS)
def test_lists(tmp_path: Path, fault: Fault) -> None:
    dataset = painted.Lists.make(tmp_path)
    fault.plant(dataset)
    assert_reported(check_dataset(dataset.table()), fault)


@by_name(folder_faults.SEGMENTATION)
def test_segmentation(tmp_path: Path, fault: Fault) -> None:
    dataset = painted.Masks.make(tmp_path)
    fault.plant(dataset)
    assert_reported(
        check_dataset(SegmentationDataset(dataset.images, dataset.masks, dataset.classes)), fault
    )


@by_name(folder_faults.FOLDERS)
def test_folders(tmp_path: Path, fault: Fault) -> None:
    dataset = painted.Folders.make(tmp_path)
    fault.plant(dataset)
    assert_reported(check_dataset(dataset.folder), fault)


def test_a_class_without_images(tmp_path: Path) -> None:
    paths = sorted((painted.Folders.make(tmp_path).folder / "train").rglob("*.jpg"))
    report = check_dataset(ClassificationDataset(paths, [0] * 4 + [1] * 4, ("a", "b", "c")))
    assert codes(report) == {"empty-class"}


def test_a_dataset_object_and_its_validation_set(clean_coco: Path, tmp_path: Path) -> None:
    dataset = painted.CocoSet.copy(clean_coco, tmp_path / "set")
    planted.copied_to_val(dataset)
    train, val = (
        read_lists(
            [dataset.image(i, split) for i in range(4, 8) if split == "val" or i != 4]
            + ([dataset.image(3)] if split == "train" else []),
            [[[10, 10, 60, 50]]] * 4,
            [[0]] * 4,
            painted.CLASSES,
        )
        for split in ("train", "val")
    )
    report = check_dataset(DetectionDataset(train), val=DetectionDataset(val))
    assert codes(report) == {"leaked-image"}
    subset = torch.utils.data.Subset(DetectionDataset(train), [0, 1])
    assert check_dataset(subset).summary["images"] == 2


class Samples(torch.utils.data.Dataset):
    """Synthetic bananas with changes to sample 2."""

    classes = ("banana",)

    def __init__(self, **changes: Any) -> None:
        self.bananas, self.changes = SyntheticBananas(6, image_size=64, seed=3), changes

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> Any:
        image, target = self.bananas[index]
        return (image, {**target, **self.changes}) if index == 2 else (image, target)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({}, None),
        ({"labels": torch.ones(1)}, "bad-sample"),
        ({"boxes": torch.zeros(1, 5)}, "bad-sample"),
        ({"boxes": torch.tensor([[4.0, 4, 2, 2]]), "labels": torch.tensor([0])}, "inverted-box"),
        ({"boxes": torch.tensor([[4.0, 4, 9, 9]]), "labels": torch.tensor([1])}, "unknown-class"),
        ({"boxes": torch.tensor([[4.0, 4, 99, 9]]), "labels": torch.tensor([0])}, "box-outside"),
    ],
)
@pytest.mark.parametrize("fast", [False, True])
def test_samples(changes: dict[str, Any], code: str | None, fast: bool) -> None:
    report = check_dataset(Samples(**changes), fast=fast)
    assert codes(report) == ({code} if code else set()), report
    assert all(finding.row for finding in report.errors)


def test_every_split_is_checked_and_counted(tmp_path: Path) -> None:
    boxes = "".join(
        f"<object><name>{name}</name><bndbox><xmin>9</xmin><ymin>9</ymin><xmax>60</xmax>"
        "<ymax>50</ymax></bndbox></object>"
        for name in painted.CLASSES
    )
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "ImageSets/Main").mkdir(parents=True)
    for split, seeds in (("train", [1, 2, 3]), ("val", [4, 5]), ("test", [6])):
        (tmp_path / f"ImageSets/Main/{split}.txt").write_text("\n".join(map(str, seeds)))
        for seed in seeds:
            painted.save(tmp_path / f"JPEGImages/{seed}.jpg", painted.paint(seed)[0])
            size = f"<size><width>{painted.WIDTH}</width><height>{painted.HEIGHT}</height></size>"
            label = f"<annotation><filename>{seed}.jpg</filename>{size}{boxes}</annotation>"
            (tmp_path / f"Annotations/{seed}.xml").write_text(label)
    report = check_dataset(tmp_path, fast=True)
    assert "3 + 1 + 2 images" in str(report)
    assert [name.split(", ")[1] for name in report.summary["others"]] == ["split test", "split val"]


def test_a_validation_set_that_holds_the_training_set_leaks(
    clean_coco: Path, tmp_path: Path
) -> None:
    dataset = painted.CocoSet.copy(clean_coco, tmp_path / "set")
    (dataset.folder / "images/val").rename(dataset.folder / "images/other")
    shutil.copytree(dataset.folder / "images/train", dataset.folder / "images/val")
    shutil.copy(
        dataset.folder / "annotations/instances_train.json",
        dataset.folder / "annotations/instances_val.json",
    )
    (tmp_path / "yolo/images").mkdir(parents=True)
    (tmp_path / "yolo/labels").mkdir()
    for seed in range(3):
        painted.save(tmp_path / f"yolo/images/{seed}.jpg", painted.paint(seed)[0])
        (tmp_path / f"yolo/labels/{seed}.txt").write_text("0 .5 .5 .2 .2\n")
    (tmp_path / "yolo/data.yaml").write_text("train: images\nval: images\nnames: [apple]\n")
    for folder, count in ((dataset.folder, 20), (tmp_path / "yolo", 3)):
        assert check_dataset(folder).counts()["leaked-image"] == count


@pytest.mark.parametrize("fast", [False, True])
def test_shards_in_splits(tmp_path: Path, fast: bool) -> None:
    for split in ("train", "val"):
        write_shards(SyntheticBananas(2, image_size=64), tmp_path / split, log=lambda line: None)
    report = check_dataset(tmp_path, fast=fast)
    assert not report.errors and len(report.summary["others"]) == 1


def test_other_objects_and_missing_paths_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="check_dataset: expected `data` to be a path or a dataset"):
        check_dataset(3)
    with pytest.raises(FileNotFoundError):
        check_dataset(tmp_path / "nothing")


def test_boxes_that_no_anchor_matches(clean_coco: Path) -> None:
    grid = torch.arange(0, 1, 0.05)
    centres = torch.cartesian_prod(grid, grid)
    small = torch.cat([centres, centres + 0.02], dim=1)
    model = SimpleNamespace(anchors=small, image_size=(256, 256))
    (finding,) = check_dataset(clean_coco, model=model, fast=True).of_code("no-anchor")[:1]
    assert finding.severity == "warning"
    assert "100.0% of 80 boxes" in finding.message
    content = json.loads((clean_coco / "annotations/instances_train.json").read_text())
    boxes = np.array([annotation["bbox"] for annotation in content["annotations"]])
    boxes[:, 2:] += boxes[:, :2]
    model.anchors = torch.from_numpy(boxes / [256, 192, 256, 192]).float()
    report = check_dataset(painted.CocoSet(clean_coco).folder, model=model, fast=True)
    assert all("instances_val" in finding.file for finding in report.of_code("no-anchor"))


@pytest.fixture
def bad_report(clean_coco: Path, tmp_path: Path) -> Report:
    dataset = painted.CocoSet.copy(clean_coco, tmp_path / "set")
    planted.beyond_the_right(dataset)
    evil = "<script>alert(1)</script>.jpg".replace("/", "_")
    dataset.image(7).rename(dataset.image(7).with_name(evil))
    dataset.train["images"][7]["file_name"] = evil
    next(a for a in dataset.train["annotations"] if a["image_id"] == 7)["bbox"][0] = -50
    planted.zero_bytes(dataset)
    dataset.save()
    return check_dataset(dataset.folder)


def test_report_as_text(bad_report: Report) -> None:
    text = str(bad_report)
    assert "error: box-outside (2 times)" in text
    assert "annotation 6" in text
    assert "what to do: clip the box" in text
    assert text.endswith("3 errors, 0 warnings")


def test_report_as_json(bad_report: Report) -> None:
    content = json.loads(bad_report.to_json())
    assert content["counts"]["box-outside"] == 2
    assert content["findings"][0]["severity"] == "error"
    assert content["summary"]["classes"] == ["apple", "plum"]


def test_page_holds_images_and_no_script(bad_report: Report, tmp_path: Path) -> None:
    text = bad_report.save_html(tmp_path / "page.html").read_text()
    assert "<script>" not in text
    assert "&lt;script&gt;" in text
    assert text.count("data:image/jpeg;base64,") == 3
    assert "http://" not in text and "https://" not in text


def test_page_without_jinja2(bad_report: Report, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(ImportError, match="save_html: expected jinja2; install it: pip install"):
        bad_report.save_html(tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_sheet(bad_report: Report, tmp_path: Path) -> None:
    path = bad_report.save_png(tmp_path / "sheet.png")
    with Image.open(path) as sheet:
        pixels = np.asarray(sheet.convert("RGB"))
    # The colour of errors, around boxes and in headings.
    assert (pixels == (0xD5, 0x5E, 0x00)).all(-1).sum() > 500


def test_a_thousand_findings_of_a_code_are_listed(tmp_path: Path) -> None:
    count = 1500
    paths = [tmp_path / f"{index}.jpg" for index in range(count)]
    table = read_lists(paths, [[[10, 10, 60, 50]]] * count, [[0]] * count, ["a"])
    report = check_dataset(table, fast=True)
    assert report.counts()["missing-image"] == count
    assert len(report.of_code("missing-image")) == 1001


@pytest.mark.parametrize("name", ["0.jpg", "1.jpg"])
def test_images_that_look_alike_but_differ(tmp_path: Path, name: str) -> None:
    dataset = painted.Lists.make(tmp_path)
    shutil.copy(tmp_path / "5.jpg", tmp_path / name)
    (finding,) = check_dataset(dataset.table()).of_code("duplicate-image")
    assert Path(finding.image).name == "5.jpg" and finding.message.endswith(f"/{name}")


def test_one_finding_is_counted_once(tmp_path: Path) -> None:
    dataset = painted.Lists.make(tmp_path)
    dataset.boxes[0][0, 2] = dataset.boxes[0][0, 0]
    report = check_dataset(dataset.table(), fast=True)
    assert str(report).endswith("\n1 error, 0 warnings")
    with pytest.raises(BadLabelsError) as caught:
        report.raise_if_bad()
    assert "cvlib check DATA --fix NEW" in str(caught.value)
    with pytest.raises(BadLabelsError, match=r"bad_labels=.drop., or --bad-labels") as caught:
        DetectionDataset(dataset.table())
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    with pytest.warns(UserWarning, match="dropped invalid labels, 1 finding, the first"):
        DetectionDataset(dataset.table(), bad_labels="drop")
    dataset.boxes = [box / 300 for box in dataset.boxes]
    with pytest.raises(BadLabelsError) as caught:
        DetectionDataset(dataset.table())
    assert "drop" not in str(caught.value) and "--fix NEW" in str(caught.value)
