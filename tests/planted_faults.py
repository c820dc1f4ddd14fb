"""Faults to plant into copies of painted sets.

A fault changes the files of a clean set and says which finding must then be there, and no other.
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
    """What is planted, and the code that must be found."""

    code: str
    plant: Callable[[Any], Any]
    severity: str = "error"
    also: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.code}-{self.plant.__name__}"


# --- labels of a COCO set --------------------------------------------------------------------


def category_without_name(one: CocoSet) -> None:
    one.thing(5)["category_id"] = 99


def nan(one: CocoSet) -> None:
    one.one_box(lambda x, y, w, h: [float("nan"), y, w, h])


def infinity(one: CocoSet) -> None:
    one.one_box(lambda x, y, w, h: [x, y, float("inf"), h])


def negative_width(one: CocoSet) -> None:
    one.one_box(lambda x, y, w, h: [x + w, y, -w, h])


def no_width(one: CocoSet) -> None:
    one.one_box(lambda x, y, w, h: [x, y, 0, h])


def beyond_the_right(one: CocoSet) -> None:
    one.one_box(lambda x, y, w, h: [WIDTH - 3, y, w, h])


def before_the_left(one: CocoSet) -> None:
    one.one_box(lambda x, y, w, h: [-8, y, w, h])


def one_in_fractions(one: CocoSet) -> None:
    one.one_box(lambda x, y, w, h: [x / WIDTH, y / HEIGHT, w / WIDTH, h / HEIGHT])


def all_in_fractions(one: CocoSet) -> None:
    one.every_box(lambda x, y, w, h: [x / WIDTH, y / HEIGHT, w / WIDTH, h / HEIGHT])


def multiplied_twice(one: CocoSet) -> None:
    one.every_box(lambda x, y, w, h: [x * WIDTH, y * HEIGHT, w * WIDTH, h * HEIGHT])


def corners_for_sides(one: CocoSet) -> None:
    one.every_box(lambda x, y, w, h: [x, y, x + w, y + h])


def centre_for_corner(one: CocoSet) -> None:
    one.every_box(lambda x, y, w, h: [x + w / 2, y + h / 2, w, h])


def y_before_x(one: CocoSet) -> None:
    one.every_box(lambda x, y, w, h: [y, x, h, w])


def per_cent(one: CocoSet) -> None:
    for content in (one.train, one.val):  # larger images than their 100
        for image in content["images"]:
            path = one.folder / "images" / ("train" if content is one.train else "val")
            scene = Image.open(path / image["file_name"]).resize((2 * WIDTH, 2 * HEIGHT))
            save(path / image["file_name"], np.asarray(scene))
            image["width"], image["height"] = 2 * WIDTH, 2 * HEIGHT
    one.every_box(
        lambda x, y, w, h: [x / WIDTH * 100, y / HEIGHT * 100, w / WIDTH * 100, h / HEIGHT * 100]
    )


def thousandths(one: CocoSet) -> None:
    one.every_box(
        lambda x, y, w, h: [x / WIDTH * 1e3, y / HEIGHT * 1e3, w / WIDTH * 1e3, h / HEIGHT * 1e3]
    )


def labelled_twice(one: CocoSet) -> None:
    one.add()


def two_classes(one: CocoSet) -> None:
    one.add(category_id=3 - one.thing(5)["category_id"])


def missing_point(one: CocoSet) -> None:
    one.one_box(lambda x, y, w, h: [x, y, w * 1e6, h])


def whole_images(one: CocoSet) -> None:
    one.every_box(lambda x, y, w, h: [0, 0, WIDTH, HEIGHT])
    one.train["annotations"] = one.train["annotations"][::4]


def one_box_for_all(one: CocoSet) -> None:
    one.every_box(lambda x, y, w, h: [10, 10, 50, 40])
    one.train["annotations"] = one.train["annotations"][::4]


def nothing_labelled(one: CocoSet) -> None:
    one.train["annotations"] = []


def image_id_twice(one: CocoSet) -> None:
    one.train["images"][3]["id"] = one.train["images"][2]["id"]
    one.train["annotations"] = [a for a in one.train["annotations"] if a["image_id"] not in (2, 3)]


def image_of_nobody(one: CocoSet) -> None:
    one.add(image_id=777)


def two_spellings(one: CocoSet) -> None:
    for content in (one.train, one.val):
        content["categories"][1]["name"] = "Apple "


def other_classes_in_val(one: CocoSet) -> None:
    one.val["categories"] = [{"id": n + 1, "name": CLASSES[1 - n]} for n in range(2)]


def class_missing_in_train(one: CocoSet) -> None:
    one.train["annotations"] = [a for a in one.train["annotations"] if a["category_id"] == 1]


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


# --- images --------------------------------------------------------------------------------


def removed(one: CocoSet) -> None:
    one.image(3).unlink()


def renamed(one: CocoSet) -> None:
    path = one.image(3)
    path.rename(path.with_suffix(".JPG"))


def zero_bytes(one: CocoSet) -> None:
    one.image(3).write_bytes(b"")


def cut_off(one: CocoSet) -> None:
    data = one.image(3).read_bytes()
    one.image(3).write_bytes(data[: len(data) // 2])


def web_page(one: CocoSet) -> None:
    one.image(3).write_text("<html>404 not found</html>")


def flipped_bit(one: CocoSet) -> None:
    path = one.image(3)
    png = path.with_suffix(".png")
    save(png, np.asarray(Image.open(path)))
    path.unlink()
    one.train["images"][3]["file_name"] = png.name
    data = bytearray(png.read_bytes())
    data[len(data) // 2] ^= 1
    png.write_bytes(data)


def png_called_jpg(one: CocoSet) -> None:
    path = one.image(3)
    image = Image.open(path).copy()
    image.save(path, "PNG")


def another_size(one: CocoSet) -> None:
    path = one.image(3)
    save(path, np.asarray(Image.open(path).resize((WIDTH // 2, HEIGHT // 2))))


def sides_exchanged(one: CocoSet) -> None:
    image = one.train["images"][3]
    image["width"], image["height"] = image["height"], image["width"]
    one.without_masks()
    one.train["annotations"] = [a for a in one.train["annotations"] if a["image_id"] != 3]


def turned_by_exif(one: CocoSet) -> None:
    turn_by_exif(one.image(3), 6)


def copied(one: CocoSet) -> None:
    shutil.copy(one.image(3), one.image(4))
    drop_things(one, 4)


def saved_again(one: CocoSet) -> None:
    save(one.image(4), np.asarray(Image.open(one.image(3))), quality=75)
    drop_things(one, 4)


def copied_to_val(one: CocoSet) -> None:
    shutil.copy(one.image(3), one.image(4, "val"))


def saved_again_in_val(one: CocoSet) -> None:
    save(one.image(4, "val"), np.asarray(Image.open(one.image(3))), quality=75)


def never_labelled(one: CocoSet) -> None:
    save(one.folder / "images/train/new.jpg", paint(99)[0])


def drop_things(one: CocoSet, image: int) -> None:
    one.train["annotations"] = [a for a in one.train["annotations"] if a["image_id"] != image]


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


# --- masks of objects ------------------------------------------------------------------------


def two_corners(one: CocoSet) -> None:
    one.thing(5)["segmentation"] = [[10, 10, 20, 20]]


def mask_of(one: CocoSet, at: int = 5, size: tuple[int, int] = (HEIGHT, WIDTH)) -> dict[str, Any]:
    return masks_to_rle(polygons_to_masks([one.thing(at)["segmentation"]], size))[0]


def runs_of_another_size(one: CocoSet) -> None:
    one.thing(5)["segmentation"] = mask_of(one, size=(HEIGHT + 10, WIDTH))


def runs_too_short(one: CocoSet) -> None:
    one.thing(5)["segmentation"] = {"size": [HEIGHT, WIDTH], "counts": [100, 50]}


def nothing_drawn(one: CocoSet) -> None:
    empty = torch.zeros(1, HEIGHT, WIDTH, dtype=torch.bool)
    one.thing(5)["segmentation"] = masks_to_rle(empty)[0]


def mask_moved_out(one: CocoSet) -> None:
    one.thing(5)["segmentation"] = [[v + WIDTH for v in one.thing(5)["segmentation"][0]]]


def mask_of_the_next(one: CocoSet) -> None:
    one.thing(5)["segmentation"] = one.thing(6)["segmentation"]


def crowd_of_polygons(one: CocoSet) -> None:
    one.thing(5)["iscrowd"] = 1


def area_of_the_box(one: CocoSet) -> None:
    for annotation in one.train["annotations"]:
        annotation["area"] = 3 * annotation["area"]


def one_without_mask(one: CocoSet) -> None:
    del one.thing(5)["segmentation"]


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


# --- tables of boxes without sizes, as from CSV ----------------------------------------------


def sides_for_corners(one: Lists) -> None:
    one.boxes = [np.concatenate([b[:, :2], b[:, 2:] - b[:, :2]], axis=1) for b in one.boxes]


def centres_and_sides(one: Lists) -> None:
    one.boxes = [
        np.concatenate([(b[:, :2] + b[:, 2:]) / 2, b[:, 2:] - b[:, :2]], axis=1) for b in one.boxes
    ]


def counted_from_one(one: Lists) -> None:
    one.labels = [[label + 1 for label in labels] for labels in one.labels]


def label_beyond(one: Lists) -> None:
    one.labels[2][1] = 2


def label_below(one: Lists) -> None:
    one.labels[2][1] = -1


def turned_without_claim(one: Lists) -> None:
    turn_by_exif(one.paths[1], 8)


LISTS = [
    Fault("xywh-as-xyxy", sides_for_corners),
    Fault("cxcywh-as-xyxy", centres_and_sides),
    Fault("one-based-classes", counted_from_one),
    Fault("unknown-class", label_beyond),
    Fault("unknown-class", label_below),
    Fault("labels-not-turned", turned_without_claim),
]


# --- segmentation ----------------------------------------------------------------------------


def without_mask(one: Masks) -> None:
    one.masks[2].unlink()


def smaller_mask(one: Masks) -> None:
    Image.open(one.masks[2]).resize((WIDTH // 2, HEIGHT // 2), 0).save(one.masks[2])


def class_nobody_named(one: Masks) -> None:
    mask = np.array(Image.open(one.masks[2]))
    mask[:4] = 7
    save(one.masks[2], mask)


def coloured_mask(one: Masks) -> None:
    Image.open(one.masks[2]).convert("RGB").save(one.masks[2])


def lossy_mask(one: Masks) -> None:
    Image.open(one.masks[2]).save(one.masks[2], "JPEG")


def void_named_as_class(one: Masks) -> None:
    one.classes = (*one.classes, "void")


def all_void(one: Masks) -> None:
    save(one.masks[2], np.full((HEIGHT, WIDTH), 255, np.uint8))


def turned_under_mask(one: Masks) -> None:
    turn_by_exif(one.images[2], 6)


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


# --- classification --------------------------------------------------------------------------


def no_images_of_a_class(one: Folders) -> None:
    for path in (one.folder / "train/plum").iterdir():
        path.unlink()


def one_in_two_classes(one: Folders) -> None:
    shutil.copy(one.folder / "train/plum/1.jpg", one.folder / "train/apple/1.jpg")


def class_that_train_lacks(one: Folders) -> None:
    save(one.folder / "val/pear/1.jpg", paint(300)[0])


def damaged(one: Folders) -> None:
    path = one.folder / "val/plum/1.jpg"
    path.write_bytes(path.read_bytes()[:500])


def twice_in_a_class(one: Folders) -> None:
    shutil.copy(one.folder / "train/plum/1.jpg", one.folder / "train/plum/2.jpg")


def leaked(one: Folders) -> None:
    shutil.copy(one.folder / "train/plum/1.jpg", one.folder / "val/plum/2.jpg")


def write_not_found(path: Path, lines: int = 2) -> None:
    """What a website sends instead of an image that is gone."""
    page = np.full((HEIGHT, WIDTH, 3), 247, dtype=np.uint8)
    for top in range(HEIGHT // 2, HEIGHT // 2 + 16 * lines, 16):
        page[top : top + 4, WIDTH // 4 : WIDTH // 2] = 66  # where the letters would be
    save(path, page)


def not_found(one: Folders) -> None:
    write_not_found(one.folder / "train/plum/1.jpg")


FOLDERS = [
    Fault("unreadable-labels", no_images_of_a_class),
    Fault("image-in-two-classes", one_in_two_classes),
    Fault("unreadable-labels", class_that_train_lacks),
    Fault("unreadable-image", damaged),
    Fault("placeholder-image", not_found, "warning"),
    Fault("duplicate-image", twice_in_a_class, "warning"),
    Fault("leaked-image", leaked),
]
