"""Write datasets as YOLO folders."""

from __future__ import annotations

import shutil
import warnings
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import yaml
from tqdm.auto import tqdm

from cvlib._files import write_text
from cvlib.data.datasets.detection import DetectionDataset
from cvlib.data.files.folders import SPLITS, describe_folder


def write_yolo(
    dataset: DetectionDataset | Mapping[str, DetectionDataset], folder: str | Path
) -> Path:
    """Write images and labels as YOLO folders.

    Args:
        dataset: A dataset, written as ``train``, or datasets keyed by ``"train"``, ``"val"`` and
            ``"test"``.
        folder: A new or empty folder.

    Returns:
        Path of ``data.yaml``, which is written last.

    Raises:
        FileExistsError: ``folder`` is not empty.
        ValueError: There are other splits, or the classes differ.
        UnreadableImageError: The size of an image is unknown and cannot be read.

    Warns:
        UserWarning: Crowds are left out, and masks if any is not a single polygon.

    Note:
        Images are copied unchanged. Boxes and polygons are clipped to their image.
    """
    datasets = dataset if isinstance(dataset, Mapping) else {"train": dataset}
    folder = Path(folder).expanduser()
    _check(datasets, folder)
    for split, data in datasets.items():
        _write_split(data, split, folder)
    classes = next(iter(datasets.values())).classes
    content = {split: f"images/{split}" for split in SPLITS if split in datasets}
    text = yaml.safe_dump(
        {**content, "names": dict(enumerate(classes))}, sort_keys=False, allow_unicode=True
    )
    write_text(folder / "data.yaml", text)
    return folder / "data.yaml"


def _check(datasets: Mapping[str, DetectionDataset], folder: Path) -> None:
    if not datasets or not set(datasets) <= set(SPLITS):
        raise ValueError(
            f"write_yolo: expected splits among {', '.join(SPLITS)}, got "
            f"{', '.join(datasets) or 'none'}"
        )
    if len({data.classes for data in datasets.values()}) > 1:
        classes = "; ".join(f"{split}: {', '.join(d.classes)}" for split, d in datasets.items())
        raise ValueError(f"write_yolo: expected datasets with the same classes, got {classes}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(
            "write_yolo: expected `folder` to be a new or empty folder, got "
            f"{describe_folder(folder)}; nothing is overwritten"
        )


def _write_split(dataset: DetectionDataset, split: str, folder: Path) -> None:
    images, labels = folder / "images" / split, folder / "labels" / split
    for new_folder in (images, labels):
        new_folder.mkdir(parents=True)
    with_polygons = _are_polygons(dataset)
    _warn(dataset, split, with_polygons)
    names = _file_names(dataset)
    for index in tqdm(range(len(dataset)), f"writing {split}", disable=None, delay=1):
        shutil.copyfile(dataset.table.path(index), images / names[index])
        lines = _label_lines(dataset, index, with_polygons)
        write_text((labels / names[index]).with_suffix(".txt"), "".join(lines))


def _label_lines(dataset: DetectionDataset, index: int, with_polygons: bool) -> list[str]:
    table = dataset.table
    height, width = dataset.image_size(index)
    scale = np.array([width, height], dtype=np.float64)
    objects = table.objects(index)
    lines = []
    for i in range(objects.start, objects.stop):
        if table.iscrowd[i]:
            continue
        if with_polygons and table.masks is not None:
            points = np.array(table.masks[i][0]).reshape(-1, 2)
            values = np.clip(points / scale, 0, 1)
        else:
            first, last = np.clip(table.boxes[i].reshape(2, 2) / scale, 0, 1)
            values = np.stack([(first + last) / 2, last - first])
        numbers = " ".join(f"{value:.8g}" for value in values.ravel())
        lines.append(f"{table.labels[i]} {numbers}\n")
    return lines


def _are_polygons(dataset: DetectionDataset) -> bool:
    masks = dataset.table.masks
    return masks is not None and all(
        isinstance(mask, list) and len(mask) == 1 and len(mask[0]) >= 6
        for mask, crowd in zip(masks, dataset.table.iscrowd, strict=True)
        if not crowd
    )


def _warn(dataset: DetectionDataset, split: str, with_polygons: bool) -> None:
    num_crowds = int(dataset.table.iscrowd.sum())
    omitted = [f"{num_crowds} crowds"] if num_crowds else []
    if dataset.table.masks is not None and not with_polygons:
        omitted.append("masks, which are not one polygon for every object")
    if omitted:
        warnings.warn(
            f"write_yolo: left out of {split} what YOLO cannot store: {' and '.join(omitted)}",
            UserWarning,
            stacklevel=4,
        )


def _file_names(dataset: DetectionDataset) -> list[str]:
    """Return the file names of the images, numbered if two would share a label file."""
    names = [Path(image).name for image in dataset.table.images]
    stems = Counter(Path(name).stem.lower() for name in names)
    if max(stems.values(), default=1) == 1:
        return names
    digits = len(str(len(names)))
    return [f"{number:0{digits}}_{name}" for number, name in enumerate(names)]
