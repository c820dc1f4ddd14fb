"""Write labels as COCO json."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from cvlib._files import write_text
from cvlib.data.labels.table import LabelTable


def table_to_coco(table: LabelTable, sizes: np.ndarray | None = None) -> dict[str, Any]:
    """Convert labels to a COCO dictionary, keeping the ids of the label file.

    Args:
        table: The labels; valid, since JSON has no NaN.
        sizes: Height and width of the images, shape (P, 2). Default: those in the table.

    Raises:
        ValueError: Boxes are not finite, or labels are out of range.
    """
    outside = (table.labels < 0) | (table.labels >= len(table.classes))
    if outside.any() or not np.isfinite(table.boxes).all():
        raise ValueError(
            f"write_coco: expected finite boxes with labels in 0..{len(table.classes) - 1}, got "
            f"others in {table.layout} of {table.root}; DetectionDataset(table) lists them"
        )
    sizes = table.sizes if sizes is None else sizes
    has_ids = table.row_word == "annotation" and len(np.unique(table.rows)) == table.num_objects
    numbers = table.rows if has_ids else np.arange(1, table.num_objects + 1)
    images = []
    for i, (number, (height, width)) in enumerate(
        zip(table.image_ids.tolist(), sizes.tolist(), strict=True)
    ):
        image = {"id": number, "file_name": str(table.images[i])}
        images.append(image if height < 0 else {**image, "width": width, "height": height})
    image_ids = table.image_ids[table.image_of_object()]
    return {
        "images": images,
        "annotations": [
            _annotation(table, i, int(numbers[i]), int(image_ids[i]))
            for i in range(table.num_objects)
        ],
        "categories": [
            {"id": number, "name": name}
            for number, name in zip(table.category_ids, table.classes, strict=True)
        ],
    }


def _annotation(table: LabelTable, index: int, number: int, image_id: int) -> dict[str, Any]:
    x1, y1, x2, y2 = table.boxes[index].tolist()
    # Rounded, otherwise 0.1 + 0.2 - 0.1 is written with seventeen digits.
    width, height = round(x2 - x1, 9), round(y2 - y1, 9)
    area = float(table.areas[index])
    annotation = {
        "id": number,
        "image_id": image_id,
        "category_id": table.category_ids[table.labels[index]],
        "bbox": [x1, y1, width, height],
        "area": width * height if math.isnan(area) else area,
        "iscrowd": int(table.iscrowd[index]),
    }
    if table.difficult[index]:
        annotation["difficult"] = 1
    mask = None if table.masks is None else table.masks[index]
    return annotation if mask is None else {**annotation, "segmentation": mask}


def write_coco(path: str | Path, table: LabelTable, sizes: np.ndarray | None = None) -> None:
    """Write labels to a COCO file atomically. See `table_to_coco`."""
    write_text(Path(path), json.dumps(table_to_coco(table, sizes), allow_nan=False) + "\n")
