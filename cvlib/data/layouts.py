"""Supported dataset layouts: how each is recognised, divided into splits and read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cvlib.data.files.folders import is_hidden
from cvlib.data.formats import (
    banana,
    coco,
    csv,
    folder,
    masks,
    shards,
    voc,
    voc_segmentation,
    yolo,
)
from cvlib.data.labels.table import LabelTable


@dataclass(frozen=True)
class Layout:
    """Supported layout of a dataset on disk.

    Attributes:
        format: Short name, passed to `load_dataset` as ``format``.
        title: Name for messages.
        expected_files: Files and folders that identify the layout, in words.
        recognise: Function of a path that returns the evidence for the layout, or None.
        list_splits: Function of a path that returns the names of the splits.
        read: Function called as ``read(path, split, classes=..., transform=..., cache=...)``. It
            returns a `LabelTable` for detection, and a dataset for other tasks.
    """

    format: str
    title: str
    expected_files: str
    recognise: Callable[[Path], str | None]
    list_splits: Callable[[Path], list[str]]
    read: Callable[..., Any]


def _labels_only(read: Callable[..., LabelTable]) -> Callable[..., LabelTable]:
    """Adapt a reader of labels, which has no use for a transform and a cache."""
    return lambda path, split, *, classes=None, **_: read(path, split, classes=classes)


LAYOUTS = (
    Layout(
        "coco",
        "COCO json",
        "instances_*.json, or other annotations in COCO's json, also in annotations/",
        coco.recognise_coco,
        coco.list_coco_splits,
        _labels_only(coco.read_coco_split),
    ),
    Layout(
        "banana",
        "the banana layout",
        "bananas_train/label.csv",
        banana.recognise_bananas,
        banana.list_banana_splits,
        _labels_only(banana.read_bananas),
    ),
    Layout(
        "voc",
        "Pascal VOC boxes",
        "Annotations/*.xml with JPEGImages/, or *.xml next to images, also in train/ and val/",
        voc.recognise_voc,
        voc.list_voc_splits,
        _labels_only(voc.read_voc),
    ),
    Layout(
        "voc-segmentation",
        "Pascal VOC masks",
        "SegmentationClass/ with JPEGImages/",
        voc_segmentation.recognise_voc_segmentation,
        voc_segmentation.list_voc_segmentation_splits,
        voc_segmentation.read_voc_segmentation,
    ),
    Layout(
        "yolo",
        "YOLO",
        "data.yaml, or images/ with labels/",
        yolo.recognise_yolo,
        yolo.list_yolo_splits,
        _labels_only(yolo.read_yolo),
    ),
    Layout(
        "masks",
        "images with instance masks (Penn-Fudan)",
        'PNGImages/ with PedMasks/; images/ with masks/ only as format="masks"',
        masks.recognise_masks,
        lambda path: [],
        _labels_only(masks.read_usual_masks),
    ),
    Layout(
        "csv",
        "CSV",
        "one or more *.csv",
        lambda path: None if banana.list_banana_splits(path) else csv.recognise_csv(path),
        csv.list_csv_splits,
        _labels_only(csv.read_csv_split),
    ),
    Layout(
        "shards",
        "WebDataset shards",
        "*.tar, with or without the index.json of write_shards",
        shards.recognise_shards,
        shards.list_shard_splits,
        shards.read_shards,
    ),
    Layout(
        "folder",
        "ImageFolder",
        "a folder of images for each class, also in train/ and val/",
        folder.recognise_folder,
        folder.list_folder_splits,
        folder.read_folder,
    ),
)


def find_layouts(path: Path) -> list[tuple[Layout, str]]:
    """Return the layouts that fit a path, each with the evidence for it."""
    candidates = [(layout, layout.recognise(path)) for layout in LAYOUTS]
    return [(layout, evidence) for layout, evidence in candidates if evidence is not None]


def only_subfolder(path: Path) -> Path | None:
    """Return the subfolder of a folder with nothing else in it, as unpacked archives have."""
    entries = [p for p in path.iterdir() if not is_hidden(p.name)] if path.is_dir() else []
    return entries[0] if len(entries) == 1 and entries[0].is_dir() else None
