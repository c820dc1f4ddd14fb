"""Drawn bananas as files, and a model that has seen them once."""

import json
import shutil

import pytest
import torch
from PIL import Image

from cvlib.cli import main
from cvlib.data import SyntheticBananas

SIDE = 96


def draw(folder, split, count, seed):
    """Images on disk; their boxes as (name, rows of xyxy)."""
    home = folder / "images" / split
    home.mkdir(parents=True)
    drawn = []
    bananas = SyntheticBananas(count, image_size=SIDE, seed=seed)
    for number in range(count):
        image, target = bananas[number]
        name = f"{split}-{number}.png"
        Image.fromarray(image.as_subclass(torch.Tensor).permute(1, 2, 0).numpy()).save(home / name)
        drawn.append((name, target["boxes"].as_subclass(torch.Tensor).tolist()))
    return drawn


def as_coco(drawn):
    """Ids with gaps: images 10, 20, ..., one category 7."""
    images, annotations = [], []
    for place, (name, boxes) in enumerate(drawn, 1):
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
        content = as_coco(draw(folder, split, count, seed))
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="session")
def yolo(tmp_path_factory):
    """A YOLO folder without a validation split."""
    folder = tmp_path_factory.mktemp("bananas-yolo")
    (folder / "labels" / "train").mkdir(parents=True)
    for name, boxes in draw(folder, "train", 6, 3):
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
    """To be damaged."""
    return shutil.copytree(coco, tmp_path / "copy")


TINY = ["--image-size", "64", "64", "--epochs", "1", "--precision", "float32", "--device", "cpu"]
