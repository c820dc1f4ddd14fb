"""Faults to plant into copies of a painted COCO dataset.

A fault changes the files of a clean dataset and names the only finding that must result.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from painted_sets import CLASSES, HEIGHT, WIDTH, CocoSet, paint, save, turn_by_exif
from PIL import Image

from cvlib.ops.rle import masks_to_rle, polygons_to_masks


@dataclass(frozen=True)
class Fault:
    """A change of a clean dataset, and the code of the finding that it must cause."""

    code: str
    plant: Callable[[Any], Any]
    severity: str = "error"
    also: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.code}-{self.plant.__name__}"


def plants(
    faults: list[Fault], code: str, severity: str = "error", also: tuple[str, ...] = ()
) -> Callable[[Callable[[Any], None]], Callable[[Any], None]]:
    """Add the decorated function to ``faults`` as the cause of the finding ``code``."""

    def add(plant: Callable[[Any], None]) -> Callable[[Any], None]:
        faults.append(Fault(code, plant, severity, also))
        return plant

    return add


COCO_LABELS: list[Fault] = []
COCO_MASKS: list[Fault] = []
IMAGES: list[Fault] = []


@plants(COCO_LABELS, "unknown-class")
def category_without_name(dataset: CocoSet) -> None:
    dataset.annotation(5)["category_id"] = 99


@plants(COCO_LABELS, "not-a-number")
def nan(dataset: CocoSet) -> None:
    dataset.change_box(lambda x, y, w, h: [float("nan"), y, w, h])


@plants(COCO_LABELS, "not-a-number")
def infinity(dataset: CocoSet) -> None:
    dataset.change_box(lambda x, y, w, h: [x, y, float("inf"), h])


@plants(COCO_LABELS, "inverted-box")
def negative_width(dataset: CocoSet) -> None:
    dataset.change_box(lambda x, y, w, h: [x + w, y, -w, h])


@plants(COCO_LABELS, "degenerate-box")
def no_width(dataset: CocoSet) -> None:
    dataset.change_box(lambda x, y, w, h: [x, y, 0, h])


@plants(COCO_LABELS, "box-outside")
def beyond_the_right(dataset: CocoSet) -> None:
    dataset.change_box(lambda x, y, w, h: [WIDTH - 3, y, w, h])


@plants(COCO_LABELS, "box-outside")
def before_the_left(dataset: CocoSet) -> None:
    dataset.change_box(lambda x, y, w, h: [-8, y, w, h])


@plants(COCO_LABELS, "normalised-box")
def one_in_fractions(dataset: CocoSet) -> None:
    dataset.change_box(lambda x, y, w, h: [x / WIDTH, y / HEIGHT, w / WIDTH, h / HEIGHT])


@plants(COCO_LABELS, "normalised-box")
def all_in_fractions(dataset: CocoSet) -> None:
    dataset.change_boxes(lambda x, y, w, h: [x / WIDTH, y / HEIGHT, w / WIDTH, h / HEIGHT])


@plants(COCO_LABELS, "pixels-as-fractions")
def multiplied_twice(dataset: CocoSet) -> None:
    dataset.change_boxes(lambda x, y, w, h: [x * WIDTH, y * HEIGHT, w * WIDTH, h * HEIGHT])


@plants(COCO_LABELS, "xyxy-as-xywh")
def corners_for_sides(dataset: CocoSet) -> None:
    dataset.change_boxes(lambda x, y, w, h: [x, y, x + w, y + h])


@plants(COCO_LABELS, "cxcywh-as-xywh")
def centre_for_corner(dataset: CocoSet) -> None:
    dataset.change_boxes(lambda x, y, w, h: [x + w / 2, y + h / 2, w, h])


@plants(COCO_LABELS, "xy-exchanged")
def y_before_x(dataset: CocoSet) -> None:
    dataset.change_boxes(lambda x, y, w, h: [y, x, h, w])


@plants(COCO_LABELS, "percent-box")
def per_cent(dataset: CocoSet) -> None:
    for content in (dataset.train, dataset.val):  # percentages must stay below the image size
        for image in content["images"]:
            path = dataset.folder / "images" / ("train" if content is dataset.train else "val")
            scene = Image.open(path / image["file_name"]).resize((2 * WIDTH, 2 * HEIGHT))
            save(path / image["file_name"], np.asarray(scene))
            image["width"], image["height"] = 2 * WIDTH, 2 * HEIGHT
    dataset.change_boxes(
        lambda x, y, w, h: [x / WIDTH * 100, y / HEIGHT * 100, w / WIDTH * 100, h / HEIGHT * 100]
    )


@plants(COCO_LABELS, "per-mille-box")
def thousandths(dataset: CocoSet) -> None:
    dataset.change_boxes(
        lambda x, y, w, h: [x / WIDTH * 1e3, y / HEIGHT * 1e3, w / WIDTH * 1e3, h / HEIGHT * 1e3]
    )


@plants(COCO_LABELS, "duplicate-box", "warning")
def labelled_twice(dataset: CocoSet) -> None:
    dataset.add()


@plants(COCO_LABELS, "two-classes-for-one-box", "warning")
def two_classes(dataset: CocoSet) -> None:
    dataset.add(category_id=3 - dataset.annotation(5)["category_id"])


@plants(COCO_LABELS, "too-large-box")
def missing_point(dataset: CocoSet) -> None:
    dataset.change_box(lambda x, y, w, h: [x, y, w * 1e6, h])


@plants(COCO_LABELS, "whole-image-boxes", "warning")
def whole_images(dataset: CocoSet) -> None:
    dataset.change_boxes(lambda x, y, w, h: [0, 0, WIDTH, HEIGHT])
    dataset.train["annotations"] = dataset.train["annotations"][::4]


@plants(COCO_LABELS, "equal-boxes", "warning")
def one_box_for_all(dataset: CocoSet) -> None:
    dataset.change_boxes(lambda x, y, w, h: [10, 10, 50, 40])
    dataset.train["annotations"] = dataset.train["annotations"][::4]


@plants(COCO_LABELS, "no-objects")
def nothing_labelled(dataset: CocoSet) -> None:
    dataset.train["annotations"] = []


@plants(COCO_LABELS, "duplicate-id", also=("unlabelled-image",))
def image_id_twice(dataset: CocoSet) -> None:
    dataset.train["images"][3]["id"] = dataset.train["images"][2]["id"]
    drop_objects(dataset, 2)
    drop_objects(dataset, 3)


@plants(COCO_LABELS, "unknown-image")
def image_of_nobody(dataset: CocoSet) -> None:
    dataset.add(image_id=777)


@plants(COCO_LABELS, "similar-class-names", "warning")
def two_spellings(dataset: CocoSet) -> None:
    for content in (dataset.train, dataset.val):
        content["categories"][1]["name"] = "Apple "


@plants(COCO_LABELS, "classes-differ")
def other_classes_in_val(dataset: CocoSet) -> None:
    dataset.val["categories"] = [{"id": n + 1, "name": CLASSES[1 - n]} for n in range(2)]


@plants(COCO_LABELS, "class-only-in-val", "info")
def class_missing_in_train(dataset: CocoSet) -> None:
    dataset.train["annotations"] = [
        a for a in dataset.train["annotations"] if a["category_id"] == 1
    ]


@plants(IMAGES, "missing-image")
def removed(dataset: CocoSet) -> None:
    dataset.image(3).unlink()


@plants(IMAGES, "missing-image", also=("unlabelled-image",))
def renamed(dataset: CocoSet) -> None:
    path = dataset.image(3)
    path.rename(path.with_suffix(".JPG"))


@plants(IMAGES, "unreadable-image")
def zero_bytes(dataset: CocoSet) -> None:
    dataset.image(3).write_bytes(b"")


@plants(IMAGES, "unreadable-image")
def cut_off(dataset: CocoSet) -> None:
    data = dataset.image(3).read_bytes()
    dataset.image(3).write_bytes(data[: len(data) // 2])


@plants(IMAGES, "unreadable-image")
def web_page(dataset: CocoSet) -> None:
    dataset.image(3).write_text("<html>404 not found</html>")


@plants(IMAGES, "unreadable-image")
def flipped_bit(dataset: CocoSet) -> None:
    path = dataset.image(3)
    png = path.with_suffix(".png")
    save(png, np.asarray(Image.open(path)))
    path.unlink()
    dataset.train["images"][3]["file_name"] = png.name
    data = bytearray(png.read_bytes())
    data[len(data) // 2] ^= 1
    png.write_bytes(data)


@plants(IMAGES, "wrong-suffix", "warning")
def png_called_jpg(dataset: CocoSet) -> None:
    path = dataset.image(3)
    image = Image.open(path).copy()
    image.save(path, "PNG")


@plants(IMAGES, "size-differs")
def another_size(dataset: CocoSet) -> None:
    path = dataset.image(3)
    save(path, np.asarray(Image.open(path).resize((WIDTH // 2, HEIGHT // 2))))


@plants(IMAGES, "size-differs")
def sides_exchanged(dataset: CocoSet) -> None:
    image = dataset.train["images"][3]
    image["width"], image["height"] = image["height"], image["width"]
    dataset.without_masks()
    drop_objects(dataset, 3)


@plants(IMAGES, "labels-not-turned")
def turned_by_exif(dataset: CocoSet) -> None:
    turn_by_exif(dataset.image(3), 6)


def drop_objects(dataset: CocoSet, image: int) -> None:
    dataset.train["annotations"] = [
        a for a in dataset.train["annotations"] if a["image_id"] != image
    ]


@plants(IMAGES, "duplicate-image", "warning")
def copied(dataset: CocoSet) -> None:
    shutil.copy(dataset.image(3), dataset.image(4))
    drop_objects(dataset, 4)


@plants(IMAGES, "similar-image", "warning")
def saved_again(dataset: CocoSet) -> None:
    save(dataset.image(4), np.asarray(Image.open(dataset.image(3))), quality=75)
    drop_objects(dataset, 4)


@plants(IMAGES, "leaked-image")
def copied_to_val(dataset: CocoSet) -> None:
    shutil.copy(dataset.image(3), dataset.image(4, "val"))


@plants(IMAGES, "similar-leaked-image", "warning")
def saved_again_in_val(dataset: CocoSet) -> None:
    save(dataset.image(4, "val"), np.asarray(Image.open(dataset.image(3))), quality=75)


@plants(IMAGES, "unlabelled-image", "warning")
def never_labelled(dataset: CocoSet) -> None:
    save(dataset.folder / "images/train/new.jpg", paint(99)[0])


@plants(COCO_MASKS, "bad-mask")
def two_corners(dataset: CocoSet) -> None:
    dataset.annotation(5)["segmentation"] = [[10, 10, 20, 20]]


@plants(COCO_MASKS, "mask-size")
def runs_of_another_size(dataset: CocoSet) -> None:
    outlines = dataset.annotation(5)["segmentation"]
    masks = polygons_to_masks([outlines], (HEIGHT + 10, WIDTH))
    dataset.annotation(5)["segmentation"] = masks_to_rle(masks)[0]


@plants(COCO_MASKS, "bad-mask")
def runs_too_short(dataset: CocoSet) -> None:
    dataset.annotation(5)["segmentation"] = {"size": [HEIGHT, WIDTH], "counts": [100, 50]}


@plants(COCO_MASKS, "empty-mask")
def nothing_drawn(dataset: CocoSet) -> None:
    empty = torch.zeros(1, HEIGHT, WIDTH, dtype=torch.bool)
    dataset.annotation(5)["segmentation"] = masks_to_rle(empty)[0]


@plants(COCO_MASKS, "mask-outside")
def mask_moved_out(dataset: CocoSet) -> None:
    dataset.annotation(5)["segmentation"] = [
        [v + WIDTH for v in dataset.annotation(5)["segmentation"][0]]
    ]


@plants(COCO_MASKS, "mask-and-box-differ", "warning")
def mask_of_the_next(dataset: CocoSet) -> None:
    dataset.annotation(5)["segmentation"] = dataset.annotation(6)["segmentation"]


@plants(COCO_MASKS, "crowd-without-rle", "warning")
def crowd_of_polygons(dataset: CocoSet) -> None:
    dataset.annotation(5)["iscrowd"] = 1


@plants(COCO_MASKS, "area-differs", "warning")
def area_of_the_box(dataset: CocoSet) -> None:
    for annotation in dataset.train["annotations"]:
        annotation["area"] = 3 * annotation["area"]


@plants(COCO_MASKS, "missing-mask", "warning")
def one_without_mask(dataset: CocoSet) -> None:
    del dataset.annotation(5)["segmentation"]
