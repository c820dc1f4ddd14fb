"""Writing a data set as YOLO folders."""

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
    """Writes images and labels as YOLO reads them.

    Args:
        dataset: One data set, which becomes ``train``, or one for each of ``"train"``, ``"val"``
            and ``"test"``.
        folder: Is made; if it is there, it must be empty.

    Returns:
        The path of ``data.yaml``, which is written last.

    Raises:
        FileExistsError: ``folder`` is not empty.
        ValueError: Other splits, or sets whose classes differ.
        UnreadableImageError: The size of an image is not known and cannot be read.

    Warns:
        UserWarning: What the layout cannot say is left out: crowds, and masks where not every
            object of the set is one polygon.

    Note:
        Images are copied as they are. Boxes and polygons are clipped to their image.
    """
    sets = dataset if isinstance(dataset, Mapping) else {"train": dataset}
    folder = Path(folder).expanduser()
    _check(sets, folder)
    for split, one in sets.items():
        _write_split(one, split, folder)
    classes = next(iter(sets.values())).classes
    content = {split: f"images/{split}" for split in SPLITS if split in sets}
    text = yaml.safe_dump(
        {**content, "names": dict(enumerate(classes))}, sort_keys=False, allow_unicode=True
    )
    write_text(folder / "data.yaml", text)
    return folder / "data.yaml"


def _check(sets: Mapping[str, DetectionDataset], folder: Path) -> None:
    if not sets or not set(sets) <= set(SPLITS):
        raise ValueError(
            f"write_yolo: expected splits among {', '.join(SPLITS)}, got "
            f"{', '.join(sets) or 'none'}"
        )
    if len({one.classes for one in sets.values()}) > 1:
        told = "; ".join(f"{split}: {', '.join(one.classes)}" for split, one in sets.items())
        raise ValueError(f"write_yolo: expected sets with the same classes, got {told}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(
            f"write_yolo: expected a new or empty folder, got {describe_folder(folder)}; nothing "
            "is overwritten"
        )


def _write_split(dataset: DetectionDataset, split: str, folder: Path) -> None:
    images, labels = folder / "images" / split, folder / "labels" / split
    for place in (images, labels):
        place.mkdir(parents=True)
    table = dataset.table
    with_polygons = _are_polygons(dataset)
    _warn(dataset, split, with_polygons)
    names = _file_names(dataset)
    for index in tqdm(range(len(dataset)), f"writing {split}", disable=None, delay=1):
        height, width = dataset.image_size(index)
        scale = np.array([width, height], dtype=np.float64)
        things = table.objects(index)
        lines = []
        for thing in range(things.start, things.stop):
            if table.iscrowd[thing]:
                continue
            if with_polygons and table.masks is not None:
                points = np.array(table.masks[thing][0]).reshape(-1, 2)
                values = np.clip(points / scale, 0, 1)
            else:
                first, last = np.clip(table.boxes[thing].reshape(2, 2) / scale, 0, 1)
                values = np.stack([(first + last) / 2, last - first])
            numbers = " ".join(f"{value:.8g}" for value in values.ravel())
            lines.append(f"{table.labels[thing]} {numbers}\n")
        shutil.copyfile(table.path(index), images / names[index])
        write_text((labels / names[index]).with_suffix(".txt"), "".join(lines))


def _are_polygons(dataset: DetectionDataset) -> bool:
    masks = dataset.table.masks
    return masks is not None and all(
        isinstance(mask, list) and len(mask) == 1 and len(mask[0]) >= 6
        for mask, crowd in zip(masks, dataset.table.iscrowd, strict=True)
        if not crowd
    )


def _warn(dataset: DetectionDataset, split: str, with_polygons: bool) -> None:
    crowds = int(dataset.table.iscrowd.sum())
    lost = [f"{crowds} crowds"] if crowds else []
    if dataset.table.masks is not None and not with_polygons:
        lost.append("masks, which are not one polygon for every object")
    if lost:
        warnings.warn(
            f"write_yolo: left out of {split} what the layout cannot say: {' and '.join(lost)}",
            UserWarning,
            stacklevel=4,
        )


def _file_names(dataset: DetectionDataset) -> list[str]:
    """File names of the images; numbered where labels of two would share a file."""
    names = [Path(image).name for image in dataset.table.images]
    stems = Counter(Path(name).stem.lower() for name in names)
    if max(stems.values(), default=1) == 1:
        return names
    digits = len(str(len(names)))
    return [f"{number:0{digits}}_{name}" for number, name in enumerate(names)]
