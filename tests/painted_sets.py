"""Clean painted datasets of all tasks, which tests copy and change."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from cvlib.data.formats.in_memory import read_lists
from cvlib.data.synthetic.scene_painter import paint_background

WIDTH, HEIGHT = 256, 192
CLASSES = ("apple", "plum")


def paint(seed: int, count: int = 4) -> tuple[np.ndarray, list[list[float]], list[int]]:
    """Paint ellipses; return the image (H, W, 3), their outlines and their classes."""
    rng = np.random.default_rng((7, seed))
    image = np.ascontiguousarray(paint_background(rng, WIDTH)[:HEIGHT])
    outlines, labels = [], []
    for place in range(count):  # side by side, so that no two overlap
        radii = rng.uniform(10, 28), rng.uniform(12, 60)
        x = WIDTH / count * (place + 0.5)
        y = rng.uniform(radii[1] + 2, HEIGHT - radii[1] - 2)
        turns = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        points = np.stack([x + radii[0] * np.cos(turns), y + radii[1] * np.sin(turns)], axis=1)
        label = int(rng.integers(2))
        cv2.fillPoly(
            image, [points.round().astype(np.int32)], ((200, 30, 40), (90, 30, 160))[label]
        )
        outlines.append(points.round(2).ravel().tolist())
        labels.append(label)
    return image, outlines, labels


def save(path: Path, image: np.ndarray, quality: int = 92) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, quality=quality)


def box_of(outline: list[float]) -> list[float]:
    xs, ys = outline[::2], outline[1::2]
    return [min(xs), min(ys), max(xs), max(ys)]


def coco_content(folder: Path, split: str, seeds: range) -> dict[str, Any]:
    images, annotations = [], []
    for seed in seeds:
        image, outlines, labels = paint(seed)
        name = f"{seed:03}.jpg"
        save(folder / "images" / split / name, image)
        images.append({"id": seed, "file_name": name, "width": WIDTH, "height": HEIGHT})
        for outline, label in zip(outlines, labels, strict=True):
            x1, y1, x2, y2 = box_of(outline)
            x, y = np.array(outline[::2]), np.array(outline[1::2])
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": seed,
                    "category_id": label + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": abs(float(x @ np.roll(y, 1) - y @ np.roll(x, 1))) / 2,
                    "iscrowd": 0,
                    "segmentation": [outline],
                }
            )
    categories = [{"id": number + 1, "name": name} for number, name in enumerate(CLASSES)]
    return {"images": images, "annotations": annotations, "categories": categories}


def turn_by_exif(path: Path, orientation: int) -> None:
    """Set the EXIF orientation of an image without changing its pixels."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.open(path).copy().save(path, exif=exif)


@dataclass
class CocoSet:
    """A COCO dataset of 20 and 8 images that can be changed and saved."""

    folder: Path
    train: dict[str, Any] = field(default_factory=dict)
    val: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def make(cls, folder: Path) -> CocoSet:
        dataset = cls(
            folder,
            coco_content(folder, "train", range(20)),
            coco_content(folder, "val", range(50, 58)),
        )
        (folder / "annotations").mkdir()
        dataset.save()
        return dataset

    @classmethod
    def copy(cls, clean: Path, folder: Path) -> CocoSet:
        shutil.copytree(clean, folder)
        return cls(
            folder,
            *(
                json.loads((folder / f"annotations/instances_{split}.json").read_text())
                for split in ("train", "val")
            ),
        )

    def save(self) -> None:
        for split, content in (("train", self.train), ("val", self.val)):
            path = self.folder / f"annotations/instances_{split}.json"
            path.write_text(json.dumps(content))

    def image(self, index: int, split: str = "train") -> Path:
        content = self.train if split == "train" else self.val
        return self.folder / "images" / split / content["images"][index]["file_name"]

    def annotation(self, index: int) -> dict[str, Any]:
        return self.train["annotations"][index]

    def without_masks(self) -> CocoSet:
        for content in (self.train, self.val):
            for annotation in content["annotations"]:
                annotation.pop("segmentation", None)
                annotation.pop("area", None)
        return self

    def change_boxes(self, change: Callable[[float, float, float, float], list[float]]) -> None:
        self.without_masks()
        for annotation in self.train["annotations"]:
            annotation["bbox"] = change(*annotation["bbox"])

    def change_box(
        self, change: Callable[[float, float, float, float], list[float]], at: int = 5
    ) -> None:
        self.without_masks()
        self.annotation(at)["bbox"] = change(*self.annotation(at)["bbox"])

    def add(self, **changes: Any) -> None:
        new = {**self.annotation(5), "id": 10_000, **changes}
        self.train["annotations"].append(new)


@dataclass
class Lists:
    """Arguments of `read_lists`."""

    folder: Path
    paths: list[Path]
    boxes: list[np.ndarray]
    labels: list[list[int]]

    @classmethod
    def make(cls, folder: Path) -> Lists:
        dataset = cls(folder, [], [], [])
        for seed in range(12):
            image, outlines, labels = paint(seed)
            dataset.paths.append(folder / f"{seed}.jpg")
            save(dataset.paths[-1], image)
            dataset.boxes.append(np.array([box_of(outline) for outline in outlines]))
            dataset.labels.append(labels)
        return dataset

    def table(self) -> Any:
        return read_lists(self.paths, self.boxes, self.labels, CLASSES)


@dataclass
class Masks:
    """A segmentation dataset."""

    folder: Path
    images: list[Path]
    masks: list[Path]
    classes: tuple[str, ...] = ("background", *CLASSES)

    @classmethod
    def make(cls, folder: Path) -> Masks:
        dataset = cls(folder, [], [])
        for seed in range(6):
            image, outlines, labels = paint(seed)
            mask = np.zeros((HEIGHT, WIDTH), np.uint8)
            for outline, label in zip(outlines, labels, strict=True):
                points = np.array(outline).reshape(-1, 2).round().astype(np.int32)
                cv2.fillPoly(mask, [points], label + 1)
                cv2.polylines(mask, [points], True, 255, 1)
            dataset.images.append(folder / f"images/{seed}.jpg")
            dataset.masks.append(folder / f"masks/{seed}.png")
            save(dataset.images[-1], image)
            save(dataset.masks[-1], mask)
        return dataset


@dataclass
class Folders:
    """A classification dataset in the layout of ImageFolder."""

    folder: Path

    @classmethod
    def make(cls, folder: Path) -> Folders:
        for split, start in (("train", 0), ("val", 100)):
            for number, name in enumerate(CLASSES):
                for seed in range(4):
                    image = paint(start + 10 * number + seed)[0]
                    save(folder / split / name / f"{seed}.jpg", image)
        return cls(folder)
