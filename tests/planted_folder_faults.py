"""Faults to plant into painted lists of boxes, segmentation datasets and folders of classes."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from painted_sets import HEIGHT, WIDTH, Folders, Lists, Masks, paint, save, turn_by_exif
from PIL import Image
from planted_faults import Fault, plants

LISTS: list[Fault] = []
SEGMENTATION: list[Fault] = []
FOLDERS: list[Fault] = []


@plants(LISTS, "xywh-as-xyxy")
def sides_for_corners(dataset: Lists) -> None:
    dataset.boxes = [np.concatenate([b[:, :2], b[:, 2:] - b[:, :2]], axis=1) for b in dataset.boxes]


@plants(LISTS, "cxcywh-as-xyxy")
def centres_and_sides(dataset: Lists) -> None:
    dataset.boxes = [
        np.concatenate([(b[:, :2] + b[:, 2:]) / 2, b[:, 2:] - b[:, :2]], axis=1)
        for b in dataset.boxes
    ]


@plants(LISTS, "one-based-classes")
def counted_from_one(dataset: Lists) -> None:
    dataset.labels = [[label + 1 for label in labels] for labels in dataset.labels]


@plants(LISTS, "unknown-class")
def label_beyond(dataset: Lists) -> None:
    dataset.labels[2][1] = 2


@plants(LISTS, "unknown-class")
def label_below(dataset: Lists) -> None:
    dataset.labels[2][1] = -1


@plants(LISTS, "labels-not-turned")
def turned_without_claim(dataset: Lists) -> None:
    turn_by_exif(dataset.paths[1], 8)


@plants(SEGMENTATION, "missing-mask")
def without_mask(dataset: Masks) -> None:
    dataset.masks[2].unlink()


@plants(SEGMENTATION, "mask-size")
def smaller_mask(dataset: Masks) -> None:
    Image.open(dataset.masks[2]).resize((WIDTH // 2, HEIGHT // 2), 0).save(dataset.masks[2])


@plants(SEGMENTATION, "unknown-class")
def class_nobody_named(dataset: Masks) -> None:
    mask = np.array(Image.open(dataset.masks[2]))
    mask[:4] = 7
    save(dataset.masks[2], mask)


@plants(SEGMENTATION, "unreadable-mask")
def coloured_mask(dataset: Masks) -> None:
    Image.open(dataset.masks[2]).convert("RGB").save(dataset.masks[2])


@plants(SEGMENTATION, "unreadable-mask")
def lossy_mask(dataset: Masks) -> None:
    Image.open(dataset.masks[2]).save(dataset.masks[2], "JPEG")


@plants(SEGMENTATION, "void-as-class", "warning")
def void_named_as_class(dataset: Masks) -> None:
    dataset.classes = (*dataset.classes, "void")


@plants(SEGMENTATION, "all-void", "warning")
def all_void(dataset: Masks) -> None:
    save(dataset.masks[2], np.full((HEIGHT, WIDTH), 255, np.uint8))


@plants(SEGMENTATION, "labels-not-turned")
def turned_under_mask(dataset: Masks) -> None:
    turn_by_exif(dataset.images[2], 6)


@plants(FOLDERS, "unreadable-labels")
def no_images_of_a_class(dataset: Folders) -> None:
    for path in (dataset.folder / "train/plum").iterdir():
        path.unlink()


@plants(FOLDERS, "image-in-two-classes")
def one_in_two_classes(dataset: Folders) -> None:
    shutil.copy(dataset.folder / "train/plum/1.jpg", dataset.folder / "train/apple/1.jpg")


@plants(FOLDERS, "unreadable-labels")
def class_that_train_lacks(dataset: Folders) -> None:
    save(dataset.folder / "val/pear/1.jpg", paint(300)[0])


@plants(FOLDERS, "unreadable-image")
def damaged(dataset: Folders) -> None:
    path = dataset.folder / "val/plum/1.jpg"
    path.write_bytes(path.read_bytes()[:500])


@plants(FOLDERS, "duplicate-image", "warning")
def twice_in_a_class(dataset: Folders) -> None:
    shutil.copy(dataset.folder / "train/plum/1.jpg", dataset.folder / "train/plum/2.jpg")


@plants(FOLDERS, "leaked-image")
def leaked(dataset: Folders) -> None:
    shutil.copy(dataset.folder / "train/plum/1.jpg", dataset.folder / "val/plum/2.jpg")


def write_not_found(path: Path, lines: int = 2) -> None:
    """Write the image that a website sends instead of a lost one."""
    page = np.full((HEIGHT, WIDTH, 3), 247, dtype=np.uint8)
    for top in range(HEIGHT // 2, HEIGHT // 2 + 16 * lines, 16):
        page[top : top + 4, WIDTH // 4 : WIDTH // 2] = 66  # in place of letters
    save(path, page)


@plants(FOLDERS, "placeholder-image", "warning")
def not_found(dataset: Folders) -> None:
    write_not_found(dataset.folder / "train/plum/1.jpg")
