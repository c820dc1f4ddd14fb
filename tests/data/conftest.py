"""Small datasets on disk, one of each task."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
from shard_sets import SIZE, paint

from cvlib.data import ClassificationDataset, DetectionDataset, SegmentationDataset


@pytest.fixture
def detection(tmp_path):
    """Seven images in several formats, with none to two objects, some with masks."""
    suffixes = ["jpg", "png", "webp", "bmp", "gif", "tif", "jpg"]
    paths = [paint(tmp_path / f"p.{i}.{s}", 20 * i) for i, s in enumerate(suffixes)]
    boxes = [[[1.5, 2, 8.25, 9], [0, 0, 32, 24]][: i % 3] for i in range(7)]
    labels = [[1, 0][: i % 3] for i in range(7)]
    masks = [[[[1, 2, 8, 2, 8, 9]], None][: i % 3] for i in range(7)]
    return DetectionDataset.from_lists(paths, boxes, labels, ["cat", "dog"], masks)


@pytest.fixture
def segmentation(tmp_path):
    paths, masks = [], []
    for i in range(5):
        paths.append(paint(tmp_path / f"{i}.png", 20 * i))
        mask = np.full(SIZE, i % 3, dtype=np.uint8)
        mask[0] = 200  # void in the files
        Image.fromarray(mask).save(tmp_path / f"{i}.mask.png")
        masks.append(tmp_path / f"{i}.mask.png")
    return SegmentationDataset(paths, masks, ["a", "b", "c"], void=200)


@pytest.fixture
def classification(tmp_path):
    paths = [paint(tmp_path / f"{i}.png", 20 * i) for i in range(5)]
    return ClassificationDataset(paths, [0, 1, 2, 1, 0], ["x", "y", "z"])
