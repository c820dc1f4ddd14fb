"""Synthetic bananas as files, and a model trained on them for one epoch."""

import json
import shutil

import pytest
import torch
from PIL import Image

from cvlib.cli import main
from cvlib.data import SyntheticBananas

SIDE = 96


def write_images(folder, split, count, seed):
    """Write images; return their names and boxes (xyxy)."""
    images = folder / "images" / split
    images.mkdir(parents=True)
    rows = []
    bananas = SyntheticBananas(count, image_size=SIDE, seed=seed)
    for number in range(count):
        image, target = bananas[number]
        name = f"{split}-{number}.png"
        pixels = image.as_subclass(torch.Tensor).permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(images / name)
        rows.append((name, target["boxes"].as_subclass(torch.Tensor).tolist()))
    return rows


def as_coco(rows):
    """Ids with gaps: images 10, 20, ..., one category 7."""
    images, annotations = [], []
    for place, (name, boxes) in enumerate(rows, 1):
        images.append({"id": 10 * place, "file_name": name, "width": SIDE, "height": SIDE})
        for x1, y1, x2, y2 in boxes:
            box = [x1, y1, x2 - x1, y2 - y1]
            number = len(annotations) + 1
            annotations.append(
                {
                    "id": number,
                    "image_id": 10 * place,
                    "category_id": 7,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
            )
    categories = [{"id": 7, "name": "banana"}]
    return {"images": images, "annotations": annotations, "categories": categories}


@pytest.fixture(scope="session")
def coco(tmp_path_factory):
    """annotations/instances_{train,val}.json and images/{train,val}."""
    folder = tmp_path_factory.mktemp("bananas-coco")
    (folder / "annotations").mkdir()
    for split, count, seed in (("train", 6, 1), ("val", 3, 2)):
        content = as_coco(write_images(folder, split, count, seed))
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="session")
def yolo(tmp_path_factory):
    """A YOLO folder without a validation split."""
    folder = tmp_path_factory.mktemp("bananas-yolo")
    (folder / "labels" / "train").mkdir(parents=True)
    for name, boxes in write_images(folder, "train", 6, 3):
        lines = [
            f"0 {(x1 + x2) / 2 / SIDE} {(y1 + y2) / 2 / SIDE} {(x2 - x1) / SIDE} "
            f"{(y2 - y1) / SIDE}\n"
            for x1, y1, x2, y2 in boxes
        ]
        (folder / "labels" / "train" / name).with_suffix(".txt").write_text("".join(lines))
    (folder / "data.yaml").write_text("path: .\ntrain: images/train\nnames:\n  0: banana\n")
    return folder


@pytest.fixture(scope="session")
def trained(tmp_path_factory, coco):
    """A run folder of one epoch."""
    out = tmp_path_factory.mktemp("runs") / "bananas"
    assert main(["train", str(coco), "--out", str(out), *TINY]) == 0
    return out


@pytest.fixture
def coco_copy(tmp_path, coco):
    """A copy to damage."""
    return shutil.copytree(coco, tmp_path / "copy")


TINY = ["--image-size", "64", "64", "--epochs", "1", "--precision", "float32", "--device", "cpu"]
