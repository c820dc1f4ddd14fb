"""How each layout of files on disk looks, which splits it has, and who reads it."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cvlib.data.files.folders import (
    SPLITS,
    canonical_split,
    is_hidden,
    is_image,
    list_files,
    list_folders,
    name_some,
)
from cvlib.data.formats import folder as image_folder
from cvlib.data.formats import masks, shards, voc, voc_segmentation, yolo
from cvlib.data.formats.voc_lists import find_home, list_splits
from cvlib.data.labels.table import LabelTable

# Path, split, classes, and what data sets that are no table are made with: transform and cache.
Reader = Callable[[Path, str | None, Sequence[str] | None, Mapping[str, Any]], Any]
# Folders of the layouts that are no classes of images.
_NO_CLASSES = {
    "images", "labels", "masks", "annotations", "jpegimages", "imagesets", "segmentationclass",
    "segmentationobject", "pngimages", "pedmasks",
}  # fmt: skip


@dataclass(frozen=True)
class Layout:
    """One layout.

    Attributes:
        format: Its short name.
        title: Its name in a sentence.
        wanted: What it is recognised by, in words.
        find: Gives what was found of it at a path, in words, or None.
        splits: Gives the names of its splits.
        read: Reads a `LabelTable`, or a data set of another task.
    """

    format: str
    title: str
    wanted: str
    find: Callable[[Path], str | None]
    splits: Callable[[Path], list[str]]
    read: Reader


# --- COCO ------------------------------------------------------------------------------------


def _coco_files(path: Path) -> dict[str, Path]:
    """The annotation files by their splits."""
    if path.is_file():
        return {_coco_split(path): path} if path.suffix == ".json" and _is_coco(path) else {}
    if not path.is_dir():
        return {}
    folders = [path, *(path / name for name in list_folders(path))]
    files = [
        folder / name
        for folder in folders
        if folder == path or folder.name == "annotations" or _has_exported_json(folder)
        for name in list_files(folder, lambda name: name.endswith(".json"))
    ]
    # COCO ships captions and key points of the same images beside its instances.
    instances = [file for file in files if file.name.startswith("instances_")]
    return {_coco_split(file): file for file in instances or files if _is_coco(file)}


def _has_exported_json(folder: Path) -> bool:
    return (folder / "_annotations.coco.json").is_file()


def _coco_split(file: Path) -> str:
    if file.name == "_annotations.coco.json":
        return file.parent.name
    return file.stem.removeprefix("instances_")


def _is_coco(file: Path) -> bool:
    """Says whether a file is a dictionary with the keys of COCO, without parsing gigabytes."""
    if file.stat().st_size < 2:
        return False
    with (
        open(file, "rb") as opened,
        mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        begins = content[:64].removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"{"
        return begins and min(content.find(b'"images"'), content.find(b'"annotations"')) >= 0


def _find_coco(path: Path) -> str | None:
    files = _coco_files(path)
    return name_some(_below(path, file) for file in files.values()) if files else None


def _below(path: Path, file: Path) -> str:
    return file.name if path == file else str(file.relative_to(path))


def _read_coco(
    path: Path, split: str | None, classes: Sequence[str] | None, options: Mapping[str, Any]
) -> LabelTable:
    from cvlib.data.formats.coco import read_coco

    files = _coco_files(path)
    table = read_coco(files[split or next(iter(files))])
    return table if classes is None else select_classes(table, classes)


# --- CSV -------------------------------------------------------------------------------------


def _csv_files(path: Path) -> dict[str, Path]:
    if path.is_file():
        return {path.stem: path} if path.suffix == ".csv" else {}
    if not path.is_dir():
        return {}
    return {Path(n).stem: path / n for n in list_files(path, lambda name: name.endswith(".csv"))}


def _find_csv(path: Path) -> str | None:
    files = {} if _banana_splits(path) else _csv_files(path)
    return name_some(_below(path, file) for file in files.values()) if files else None


def _read_csv(
    path: Path, split: str | None, classes: Sequence[str] | None, options: Mapping[str, Any]
) -> LabelTable:
    from cvlib.data.formats.csv import read_csv

    files = _csv_files(path)
    return read_csv(files[split or next(iter(files))], classes=classes)


# --- bananas ---------------------------------------------------------------------------------


def _banana_splits(path: Path) -> list[str]:
    folders = [path, path.parent] if path.name.startswith("bananas_") else [path]
    return [
        s for s in ("train", "val") for f in folders if (f / f"bananas_{s}/label.csv").is_file()
    ]


def _find_banana(path: Path) -> str | None:
    splits = _banana_splits(path)
    return name_some(f"bananas_{split}/label.csv" for split in splits) if splits else None


def _read_banana(
    path: Path, split: str | None, classes: Sequence[str] | None, options: Mapping[str, Any]
) -> LabelTable:
    from cvlib.data.formats.banana import read_bananas

    return read_bananas(path, split or "train", classes or ("banana",))


# --- Pascal VOC ------------------------------------------------------------------------------


def _find_voc_masks(path: Path) -> str | None:
    home = find_home(path, voc_segmentation.FOLDERS)
    return "SegmentationClass and JPEGImages" if home else None


def _voc_mask_splits(path: Path) -> list[str]:
    home = find_home(path, voc_segmentation.FOLDERS)
    return list_splits(home, "Segmentation") if home else []


# --- masks of objects ------------------------------------------------------------------------


def _read_masks(
    path: Path, split: str | None, classes: Sequence[str] | None, options: Mapping[str, Any]
) -> LabelTable:
    """Of Penn-Fudan's folders, or, where you say so, of others: masks could be of classes, too."""
    if masks.find_masks(path) or not (path / "images").is_dir():
        return masks.read_masks(path, classes=classes)
    return masks.read_masks(path, classes=classes, images="images", masks="masks")


# --- ImageFolder -----------------------------------------------------------------------------


def _class_folders(folder: Path) -> list[str]:
    """Folders that could be classes: of images, or empty, beside at least two of images.

    Where one holds nothing but folders, this is no folder of classes.
    """
    names = [name for name in list_folders(folder) if _may_be_class(name)]
    full = [name for name in names if list_files(folder / name, is_image)]
    deeper = any(list_folders(folder / name) for name in set(names) - set(full))
    return [] if deeper or len(full) < 2 else names


def _may_be_class(name: str) -> bool:
    return name.lower() not in _NO_CLASSES and canonical_split(name) not in SPLITS


def _find_folder(path: Path) -> str | None:
    if not path.is_dir():
        return None
    splits = image_folder.list_folder_splits(path)
    with_classes = [name for name in splits if _class_folders(path / name)]
    if with_classes:
        names = _class_folders(path / with_classes[0])
        return f"{'/, '.join(with_classes)}/ with folders {name_some(names)}"
    names = _class_folders(path)
    return f"folders {name_some(names)}" if names and not splits else None


def select_classes(table: LabelTable, classes: Sequence[str]) -> LabelTable:
    """The same table with the classes in another order; they must be the same.

    Raises:
        ValueError: They are not.
    """
    from dataclasses import replace

    import numpy as np

    if sorted(classes) != sorted(table.classes):
        raise ValueError(
            "load_dataset: expected classes the names in the files, "
            f"{name_some(table.classes)}, in any order, got {name_some(classes)}"
        )
    places = np.array([list(classes).index(name) for name in table.classes], dtype=np.int64)
    known = (table.labels >= 0) & (table.labels < len(places))
    labels = np.where(known, places[np.where(known, table.labels, 0)], table.labels)
    ids = [table.category_ids[table.classes.index(name)] for name in classes]
    return replace(table, classes=tuple(classes), labels=labels, category_ids=tuple(ids))


LAYOUTS = (
    Layout(
        "coco",
        "COCO json",
        "instances_*.json, or other annotations in COCO's json, also in annotations/",
        _find_coco,
        lambda path: list(_coco_files(path)),
        _read_coco,
    ),
    Layout(
        "banana",
        "the banana layout",
        "bananas_train/label.csv",
        _find_banana,
        _banana_splits,
        _read_banana,
    ),
    Layout(
        "voc",
        "Pascal VOC boxes",
        "Annotations/*.xml with JPEGImages/, or *.xml beside images, also in train/ and val/",
        voc.find_voc,
        voc.list_voc_splits,
        lambda path, split, classes, options: voc.read_voc(path, split, classes=classes),
    ),
    Layout(
        "voc-segmentation",
        "Pascal VOC masks",
        "SegmentationClass/ with JPEGImages/",
        _find_voc_masks,
        _voc_mask_splits,
        lambda path, split, classes, options: voc_segmentation.read_voc_segmentation(
            path, split, classes=classes, **options
        ),
    ),
    Layout(
        "yolo",
        "YOLO",
        "data.yaml, or images/ with labels/",
        yolo.find_yolo,
        yolo.list_yolo_splits,
        lambda path, split, classes, options: yolo.read_yolo(path, split, classes=classes),
    ),
    Layout(
        "masks",
        "images with masks of objects (Penn-Fudan)",
        'PNGImages/ with PedMasks/; images/ with masks/ only as format="masks"',
        masks.find_masks,
        lambda path: [],
        _read_masks,
    ),
    Layout(
        "csv",
        "CSV",
        "one or more *.csv",
        _find_csv,
        lambda path: list(_csv_files(path)),
        _read_csv,
    ),
    Layout(
        "shards",
        "WebDataset shards",
        "*.tar, with the index.json of write_shards or without",
        shards.find_shards,
        shards.list_shard_splits,
        shards.read_shards,
    ),
    Layout(
        "folder",
        "ImageFolder",
        "a folder of images for each class, also in train/ and val/",
        _find_folder,
        image_folder.list_folder_splits,
        lambda path, split, classes, options: image_folder.read_folder(
            path, split, classes=classes, **options
        ),
    ),
)


def find_layouts(path: Path) -> list[tuple[Layout, str]]:
    """The layouts that files at a path could have, each with what was found of it."""
    found = [(layout, layout.find(path)) for layout in LAYOUTS]
    return [(layout, reason) for layout, reason in found if reason is not None]


def descend(path: Path) -> Path:
    """The only folder in a folder that has nothing else, as archives make it; else the path."""
    names = [p.name for p in path.iterdir() if not is_hidden(p.name)] if path.is_dir() else []
    return path / names[0] if len(names) == 1 and (path / names[0]).is_dir() else path
