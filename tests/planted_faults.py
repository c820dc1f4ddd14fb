"""Faults to plant into copies of painted datasets.

A fault changes the files of a clean dataset and names the only finding that must result.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from painted_sets import (
    CLASSES,
    HEIGHT,
    WIDTH,
    CocoSet,
    Folders,
    Lists,
    Masks,
    paint,
    save,
    turn_by_exif,
)
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


def category_without_name(dataset: CocoSet) -> None:
    dataset.thing(5)["category_id"] = 99


def nan(dataset: CocoSet) -> None:
    dataset.one_box(lambda x, y, w, h: [float("nan"), y, w, h])


def infinity(dataset: CocoSet) -> None:
    dataset.one_box(lambda x, y, w, h: [x, y, float("inf"), h])


def negative_width(dataset: CocoSet) -> None:
    dataset.one_box(lambda x, y, w, h: [x + w, y, -w, h])


def no_width(dataset: CocoSet) -> None:
    dataset.one_box(lambda x, y, w, h: [x, y, 0, h])


def beyond_the_right(dataset: CocoSet) -> None:
    dataset.one_box(lambda x, y, w, h: [WIDTH - 3, y, w, h])


def before_the_left(dataset: CocoSet) -> None:
    dataset.one_box(lambda x, y, w, h: [-8, y, w, h])


def one_in_fractions(dataset: CocoSet) -> None:
    dataset.one_box(lambda x, y, w, h: [x / WIDTH, y / HEIGHT, w / WIDTH, h / HEIGHT])


def all_in_fractions(dataset: CocoSet) -> None:
    dataset.every_box(lambda x, y, w, h: [x / WIDTH, y / HEIGHT, w / WIDTH, h / HEIGHT])


def multiplied_twice(dataset: CocoSet) -> None:
    dataset.every_box(lambda x, y, w, h: [x * WIDTH, y * HEIGHT, w * WIDTH, h * HEIGHT])


def corners_for_sides(dataset: CocoSet) -> None:
    dataset.every_box(lambda x, y, w, h: [x, y, x + w, y + h])


def centre_for_corner(dataset: CocoSet) -> None:
    dataset.every_box(lambda x, y, w, h: [x + w / 2, y + h / 2, w, h])


def y_before_x(dataset: CocoSet) -> None:
    dataset.every_box(lambda x, y, w, h: [y, x, h, w])


def per_cent(dataset: CocoSet) -> None:
    for content in (dataset.train, dataset.val):  # percentages must stay below the image size
        for image in content["images"]:
            path = dataset.folder / "images" / ("train" if content is dataset.train else "val")
            scene = Image.open(path / image["file_name"]).resize((2 * WIDTH, 2 * HEIGHT))
            save(path / image["file_name"], np.asarray(scene))
            image["width"], image["height"] = 2 * WIDTH, 2 * HEIGHT
    dataset.every_box(
        lambda x, y, w, h: [x / WIDTH * 100, y / HEIGHT * 100, w / WIDTH * 100, h / HEIGHT * 100]
    )


def thousandths(dataset: CocoSet) -> None:
    dataset.every_box(
        lambda x, y, w, h: [x / WIDTH * 1e3, y / HEIGHT * 1e3, w / WIDTH * 1e3, h / HEIGHT * 1e3]
    )


def labelled_twice(dataset: CocoSet) -> None:
    dataset.add()


def two_classes(dataset: CocoSet) -> None:
    dataset.add(category_id=3 - dataset.thing(5)["category_id"])


def missing_point(dataset: CocoSet) -> None:
    dataset.one_box(lambda x, y, w, h: [x, y, w * 1e6, h])


def whole_images(dataset: CocoSet) -> None:
    dataset.every_box(lambda x, y, w, h: [0, 0, WIDTH, HEIGHT])
    dataset.train["annotations"] = dataset.train["annotations"][::4]


def one_box_for_all(dataset: CocoSet) -> None:
    dataset.every_box(lambda x, y, w, h: [10, 10, 50, 40])
    dataset.train["annotations"] = dataset.train["annotations"][::4]


def nothing_labelled(dataset: CocoSet) -> None:
    dataset.train["annotations"] = []


def image_id_twice(dataset: CocoSet) -> None:
    dataset.train["images"][3]["id"] = dataset.train["images"][2]["id"]
    dataset.train["annotations"] = [
        a for a in dataset.train["annotations"] if a["image_id"] not in (2, 3)
    ]


def image_of_nobody(dataset: CocoSet) -> None:
    dataset.add(image_id=777)


def two_spellings(dataset: CocoSet) -> None:
    for content in (dataset.train, dataset.val):
        content["categories"][1]["name"] = "Apple "


def other_classes_in_val(dataset: CocoSet) -> None:
    dataset.val["categories"] = [{"id": n + 1, "name": CLASSES[1 - n]} for n in range(2)]


def class_missing_in_train(dataset: CocoSet) -> None:
    dataset.train["annotations"] = [
        a for a in dataset.train["annotations"] if a["category_id"] == 1
    ]


COCO_LABELS = [
    Fault("unknown-class", category_without_name),
    Fault("not-a-number", nan),
    Fault("not-a-number", infinity),
    Fault("inverted-box", negative_width),
    Fault("degenerate-box", no_width),
    Fault("box-outside", beyond_the_right),
    Fault("box-outside", before_the_left),
    Fault("normalised-box", one_in_fractions),
    Fault("normalised-box", all_in_fractions),
    Fault("pixels-as-fractions", multiplied_twice),
    Fault("xyxy-as-xywh", corners_for_sides),
    Fault("cxcywh-as-xywh", centre_for_corner),
    Fault("xy-exchanged", y_before_x),
    Fault("percent-box", per_cent),
    Fault("per-mille-box", thousandths),
    Fault("duplicate-box", labelled_twice, "warning"),
    Fault("two-classes-for-one-box", two_classes, "warning"),
    Fault("too-large-box", missing_point),
    Fault("whole-image-boxes", whole_images, "warning"),
    Fault("equal-boxes", one_box_for_all, "warning"),
    Fault("no-objects", nothing_labelled),
    Fault("duplicate-id", image_id_twice, also=("unlabelled-image",)),
    Fault("unknown-image", image_of_nobody),
    Fault("similar-class-names", two_spellings, "warning"),
    Fault("classes-differ", other_classes_in_val),
    Fault("class-only-in-val", class_missing_in_train, "info"),
]


def removed(dataset: CocoSet) -> None:
    dataset.image(3).unlink()


def renamed(dataset: CocoSet) -> None:
    path = dataset.image(3)
    path.rename(path.with_suffix(".JPG"))


def zero_bytes(dataset: CocoSet) -> None:
    dataset.image(3).write_bytes(b"")


def cut_off(dataset: CocoSet) -> None:
    data = dataset.image(3).read_bytes()
    dataset.image(3).write_bytes(data[: len(data) // 2])


def web_page(dataset: CocoSet) -> None:
    dataset.image(3).write_text("<html>404 not found</html>")


def flipped_bit(dataset: CocoSet) -> None:
    path = dataset.image(3)
    png = path.with_suffix(".png")
    save(png, np.asarray(Image.open(path)))
    path.unlink()
    dataset.train["images"][3]["file_name"] = png.name
    data = bytearray(png.read_bytes())
    data[len(data) // 2] ^= 1
    png.write_bytes(data)


def png_called_jpg(dataset: CocoSet) -> None:
    path = dataset.image(3)
    image = Image.open(path).copy()
    image.save(path, "PNG")


def another_size(dataset: CocoSet) -> None:
    path = dataset.image(3)
    save(path, np.asarray(Image.open(path).resize((WIDTH // 2, HEIGHT // 2))))


def sides_exchanged(dataset: CocoSet) -> None:
    image = dataset.train["images"][3]
    image["width"], image["height"] = image["height"], image["width"]
    dataset.without_masks()
    dataset.train["annotations"] = [a for a in dataset.train["annotations"] if a["image_id"] != 3]


def turned_by_exif(dataset: CocoSet) -> None:
    turn_by_exif(dataset.image(3), 6)


def copied(dataset: CocoSet) -> None:
    shutil.copy(dataset.image(3), dataset.image(4))
    drop_objects(dataset, 4)


def saved_again(dataset: CocoSet) -> None:
    save(dataset.image(4), np.asarray(Image.open(dataset.image(3))), quality=75)
    drop_objects(dataset, 4)


def copied_to_val(dataset: CocoSet) -> None:
    shutil.copy(dataset.image(3), dataset.image(4, "val"))


def saved_again_in_val(dataset: CocoSet) -> None:
    save(dataset.image(4, "val"), np.asarray(Image.open(dataset.image(3))), quality=75)


def never_labelled(dataset: CocoSet) -> None:
    save(dataset.folder / "images/train/new.jpg", paint(99)[0])


def drop_objects(dataset: CocoSet, image: int) -> None:
    dataset.train["annotations"] = [
        a for a in dataset.train["annotations"] if a["image_id"] != image
    ]


IMAGES = [
    Fault("missing-image", removed),
    Fault("missing-image", renamed, also=("unlabelled-image",)),
    Fault("unreadable-image", zero_bytes),
    Fault("unreadable-image", cut_off),
    Fault("unreadable-image", web_page),
    Fault("unreadable-image", flipped_bit),
    Fault("wrong-suffix", png_called_jpg, "warning"),
    Fault("size-differs", another_size),
    Fault("size-differs", sides_exchanged),
    Fault("labels-not-turned", turned_by_exif),
    Fault("duplicate-image", copied, "warning"),
    Fault("similar-image", saved_again, "warning"),
    Fault("leaked-image", copied_to_val),
    Fault("similar-leaked-image", saved_again_in_val, "warning"),
    Fault("unlabelled-image", never_labelled, "warning"),
]


def two_corners(dataset: CocoSet) -> None:
    dataset.thing(5)["segmentation"] = [[10, 10, 20, 20]]


def mask_of(
    dataset: CocoSet, at: int = 5, size: tuple[int, int] = (HEIGHT, WIDTH)
) -> dict[str, Any]:
    return masks_to_rle(polygons_to_masks([dataset.thing(at)["segmentation"]], size))[0]


def runs_of_another_size(dataset: CocoSet) -> None:
    dataset.thing(5)["segmentation"] = mask_of(dataset, size=(HEIGHT + 10, WIDTH))


def runs_too_short(dataset: CocoSet) -> None:
    dataset.thing(5)["segmentation"] = {"size": [HEIGHT, WIDTH], "counts": [100, 50]}


def nothing_drawn(dataset: CocoSet) -> None:
    empty = torch.zeros(1, HEIGHT, WIDTH, dtype=torch.bool)
    dataset.thing(5)["segmentation"] = masks_to_rle(empty)[0]


def mask_moved_out(dataset: CocoSet) -> None:
    dataset.thing(5)["segmentation"] = [[v + WIDTH for v in dataset.thing(5)["segmentation"][0]]]


def mask_of_the_next(dataset: CocoSet) -> None:
    dataset.thing(5)["segmentation"] = dataset.thing(6)["segmentation"]


def crowd_of_polygons(dataset: CocoSet) -> None:
    dataset.thing(5)["iscrowd"] = 1


def area_of_the_box(dataset: CocoSet) -> None:
    for annotation in dataset.train["annotations"]:
        annotation["area"] = 3 * annotation["area"]


def one_without_mask(dataset: CocoSet) -> None:
    del dataset.thing(5)["segmentation"]


COCO_MASKS = [
    Fault("bad-mask", two_corners),
    Fault("mask-size", runs_of_another_size),
    Fault("bad-mask", runs_too_short),
    Fault("empty-mask", nothing_drawn),
    Fault("mask-outside", mask_moved_out),
    Fault("mask-and-box-differ", mask_of_the_next, "warning"),
    Fault("crowd-without-rle", crowd_of_polygons, "warning"),
    Fault("area-differs", area_of_the_box, "warning"),
    Fault("missing-mask", one_without_mask, "warning"),
]


def sides_for_corners(dataset: Lists) -> None:
    dataset.boxes = [np.concatenate([b[:, :2], b[:, 2:] - b[:, :2]], axis=1) for b in dataset.boxes]


def centres_and_sides(dataset: Lists) -> None:
    dataset.boxes = [
        np.concatenate([(b[:, :2] + b[:, 2:]) / 2, b[:, 2:] - b[:, :2]], axis=1)
        for b in dataset.boxes
    ]


def counted_from_one(dataset: Lists) -> None:
    dataset.labels = [[label + 1 for label in labels] for labels in dataset.labels]


def label_beyond(dataset: Lists) -> None:
    dataset.labels[2][1] = 2


def label_below(dataset: Lists) -> None:
    dataset.labels[2][1] = -1


def turned_without_claim(dataset: Lists) -> None:
    turn_by_exif(dataset.paths[1], 8)


LISTS = [
    Fault("xywh-as-xyxy", sides_for_corners),
    Fault("cxcywh-as-xyxy", centres_and_sides),
    Fault("one-based-classes", counted_from_one),
    Fault("unknown-class", label_beyond),
    Fault("unknown-class", label_below),
    Fault("labels-not-turned", turned_without_claim),
]


def without_mask(dataset: Masks) -> None:
    dataset.masks[2].unlink()


def smaller_mask(dataset: Masks) -> None:
    Image.open(dataset.masks[2]).resize((WIDTH // 2, HEIGHT // 2), 0).save(dataset.masks[2])


def class_nobody_named(dataset: Masks) -> None:
    mask = np.array(Image.open(dataset.masks[2]))
    mask[:4] = 7
    save(dataset.masks[2], mask)


def coloured_mask(dataset: Masks) -> None:
    Image.open(dataset.masks[2]).convert("RGB").save(dataset.masks[2])


def lossy_mask(dataset: Masks) -> None:
    Image.open(dataset.masks[2]).save(dataset.masks[2], "JPEG")


def void_named_as_class(dataset: Masks) -> None:
    dataset.classes = (*dataset.classes, "void")


def all_void(dataset: Masks) -> None:
    save(dataset.masks[2], np.full((HEIGHT, WIDTH), 255, np.uint8))


def turned_under_mask(dataset: Masks) -> None:
    turn_by_exif(dataset.images[2], 6)


SEGMENTATION = [
    Fault("missing-mask", without_mask),
    Fault("mask-size", smaller_mask),
    Fault("unknown-class", class_nobody_named),
    Fault("unreadable-mask", coloured_mask),
    Fault("unreadable-mask", lossy_mask),
    Fault("void-as-class", void_named_as_class, "warning"),
    Fault("all-void", all_void, "warning"),
    Fault("labels-not-turned", turned_under_mask),
]


def no_images_of_a_class(dataset: Folders) -> None:
    for path in (dataset.folder / "train/plum").iterdir():
        path.unlink()


def one_in_two_classes(dataset: Folders) -> None:
    shutil.copy(dataset.folder / "train/plum/1.jpg", dataset.folder / "train/apple/1.jpg")


def class_that_train_lacks(dataset: Folders) -> None:
    save(dataset.folder / "val/pear/1.jpg", paint(300)[0])


def damaged(dataset: Folders) -> None:
    path = dataset.folder / "val/plum/1.jpg"
    path.write_bytes(path.read_bytes()[:500])


def twice_in_a_class(dataset: Folders) -> None:
    shutil.copy(dataset.folder / "train/plum/1.jpg", dataset.folder / "train/plum/2.jpg")


def leaked(dataset: Folders) -> None:
    shutil.copy(dataset.folder / "train/plum/1.jpg", dataset.folder / "val/plum/2.jpg")


def write_not_found(path: Path, lines: int = 2) -> None:
    """Write the image that a website sends instead of a lost one."""
    page = np.full((HEIGHT, WIDTH, 3), 247, dtype=np.uint8)
    for top in range(HEIGHT // 2, HEIGHT // 2 + 16 * lines, 16):
        page[top : top + 4, WIDTH // 4 : WIDTH // 2] = 66  # in place of letters
    save(path, page)


def not_found(dataset: Folders) -> None:
    write_not_found(dataset.folder / "train/plum/1.jpg")


FOLDERS = [
    Fault("unreadable-labels", no_images_of_a_class),
    Fault("image-in-two-classes", one_in_two_classes),
    Fault("unreadable-labels", class_that_train_lacks),
    Fault("unreadable-image", damaged),
    Fault("placeholder-image", not_found, "warning"),
    Fault("duplicate-image", twice_in_a_class, "warning"),
    Fault("leaked-image", leaked),
]
