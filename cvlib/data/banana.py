"""The banana detection set of *Dive into Deep Learning*, or any set in its layout."""

from __future__ import annotations

import operator
import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors

from cvlib.data._banana_labels import Box, read_labels
from cvlib.data._images import PICTURE_SUFFIXES, read_image

_SPLITS = ("train", "val")


class BananaDataset(Dataset[Any]):
    """Pictures of ``bananas_{split}/images`` with the boxes of ``bananas_{split}/label.csv``.

    ``label.csv`` has the columns ``img_name,label,xmin,ymin,xmax,ymax``: corners in pixels, one
    row per object, any number of rows per picture. All of it is checked here, before training:
    each row that cannot be right is an error that names its line. The pictures are decoded when
    asked for.

    The samples come in the order in which the pictures first appear in ``label.csv``, then, by
    name, the pictures without a row, which count as pictures without objects.

    Args:
        root: Folder that holds ``bananas_train`` and ``bananas_val`` (its parent, and either of
            the two, are recognised as well).
        split: ``"train"`` or ``"val"``.
        classes: Class names; label ``i`` in the file is ``classes[i]``.
        transform: Called as ``transform(image, target)``, for instance from
            ``torchvision.transforms.v2``; gives the pair that is returned.
        cache: Keep decoded pictures in memory from their first use on (197 MB for the official
            1000). Each worker of a DataLoader fills its own cache, so use
            ``persistent_workers=True`` with it.

    Attributes:
        classes: The class names.

    Raises:
        FileNotFoundError: ``root`` has no such split, or the split has no ``label.csv``.
        TypeError: ``classes`` is a single string.
        ValueError: ``split`` is unknown, there are no pictures, or ``label.csv`` has mistakes; up
            to 20 are listed.

    Warns:
        UserWarning: some pictures have no row in ``label.csv``.

    Note:
        Checking 1000 pictures takes about 0.1 s. An EXIF orientation is not applied.

    References:
        https://d2l.ai/chapter_computer-vision/object-detection-dataset.html
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        *,
        classes: Sequence[str] = ("banana",),
        transform: Callable[..., Any] | None = None,
        cache: bool = False,
    ) -> None:
        if split not in _SPLITS:
            raise ValueError(f"BananaDataset: expected split 'train' or 'val', got {split!r}")
        if isinstance(classes, str):
            raise TypeError(
                f"BananaDataset: expected classes a sequence of names, got the string "
                f"{classes!r}; write ({classes!r},)"
            )
        folder = _find_split(Path(root).expanduser(), split)
        self._images = folder / "images"
        self.classes = tuple(classes)
        files = _list_pictures(self._images)
        rows = read_labels(folder / "label.csv", self._images, files, len(self.classes))
        unlabelled = sorted(files - rows.keys(), key=_natural_order)
        _warn_about_unlabelled(unlabelled, folder)
        self._names = [*rows, *unlabelled]
        self._boxes, self._labels, self._starts = _pack([*rows.values(), *([] for _ in unlabelled)])
        self._image_ids = _image_ids(self._names)
        self._transform = transform
        self._cache: dict[int, Tensor] | None = {} if cache else None

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self._names)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        """Read a sample.

        Args:
            index: -len to len - 1.

        Returns:
            ``(image, target)``: image uint8 (3, H, W) RGB; target with ``boxes`` float32 (N, 4)
            xyxy pixels, ``labels`` int64 (N,), ``image_id`` int (the number in the file name
            where all names are different numbers, else the index), ``area`` float32 (N,) of the
            boxes, ``iscrowd`` int64 (N,) zeros.

        Raises:
            IndexError: ``index`` is out of range.
            ValueError: the picture is damaged.
        """
        index = operator.index(index)
        if not -len(self) <= index < len(self):
            raise IndexError(f"BananaDataset: expected index below {len(self)}, got {index}")
        index %= len(self)
        image = tv_tensors.Image(self._read(index))
        target = self._target(index, (int(image.shape[1]), int(image.shape[2])))
        return (image, target) if self._transform is None else self._transform(image, target)

    def _read(self, index: int) -> Tensor:
        if self._cache is not None and index in self._cache:
            return _copy(self._cache[index])
        try:
            image = read_image(self._images / self._names[index])
        except (OSError, ValueError) as error:
            raise ValueError(
                f"BananaDataset: expected a readable picture at index {index}, got: {error}"
            ) from error
        if self._cache is None:
            return image
        self._cache[index] = image
        return _copy(image)

    def _target(self, index: int, canvas_size: tuple[int, int]) -> dict[str, Any]:
        objects = slice(self._starts[index], self._starts[index + 1])
        boxes = self._boxes[objects].clone()
        return {
            "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=canvas_size),
            "labels": self._labels[objects].clone(),
            "image_id": self._image_ids[index],
            "area": (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]),
            "iscrowd": torch.zeros(len(boxes), dtype=torch.int64),
        }


def _copy(image: Tensor) -> Tensor:
    """Copy, so that a transform that writes in place cannot change the cache.

    NumPy does it on one thread; torch's pool costs more than it gains at this size.
    """
    return torch.from_numpy(image.numpy().copy())


def _find_split(root: Path, split: str) -> Path:
    """Find ``bananas_{split}`` in ``root``, in one of its folders, or beside it."""
    name = f"bananas_{split}"
    if root.is_file():
        raise FileNotFoundError(
            f"BananaDataset: expected root a folder with {name}/, got the file {root}; unpack it "
            "with cvlib.data.extract_zip"
        )
    if not root.is_dir():
        raise FileNotFoundError(
            f"BananaDataset: expected root a folder with {name}/, got {root}, which does not "
            "exist; cvlib.data.fetch_bananas() downloads the set"
        )
    if (root / name).is_dir():
        return root / name
    if root.resolve().name in {f"bananas_{other}" for other in _SPLITS}:
        sibling = root.resolve().parent / name
        if sibling.is_dir():
            return sibling
    inner = [path / name for path in sorted(root.iterdir()) if (path / name).is_dir()]
    if len(inner) == 1:
        return inner[0]
    found = ", ".join(sorted(path.name for path in root.iterdir())[:10]) or "nothing"
    detail = f" (and {len(inner)} folders that hold {name}/: pass one)" if inner else ""
    raise FileNotFoundError(
        f"BananaDataset: expected root a folder with {name}/, got {root} with {found}{detail}"
    )


def _list_pictures(images: Path) -> set[str]:
    if not images.is_dir():
        found = ", ".join(sorted(path.name for path in images.parent.iterdir())[:10]) or "nothing"
        raise FileNotFoundError(
            f"BananaDataset: expected a folder images/ in {images.parent}, got {found}"
        )
    files = {path.name for path in images.iterdir() if path.suffix.lower() in PICTURE_SUFFIXES}
    if not files:
        raise ValueError(
            f"BananaDataset: expected pictures ({', '.join(PICTURE_SUFFIXES)}) in {images}, got "
            f"none among {sum(1 for _ in images.iterdir())} files"
        )
    return files


def _warn_about_unlabelled(names: list[str], folder: Path) -> None:
    if not names:
        return
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    warnings.warn(
        f"BananaDataset: expected a row in {folder / 'label.csv'} for every picture, got none for "
        f"{len(names)} ({shown}); they count as pictures without objects",
        UserWarning,
        stacklevel=3,
    )


def _pack(objects: list[list[Box]]) -> tuple[Tensor, Tensor, list[int]]:
    """Store all objects in three blocks that workers can share.

    Returns:
        Boxes float32 (T, 4), labels int64 (T,), and where each picture's objects start, with the
        end at last.
    """
    starts = [0]
    for boxes in objects:
        starts.append(starts[-1] + len(boxes))
    every = [box for boxes in objects for box in boxes]
    corners = torch.tensor([box.corners for box in every], dtype=torch.float32).reshape(-1, 4)
    return corners, torch.tensor([box.label for box in every], dtype=torch.int64), starts


def _image_ids(names: list[str]) -> list[int]:
    stems = [Path(name).stem for name in names]
    if all(re.fullmatch(r"[0-9]{1,18}", stem) for stem in stems):
        numbers = [int(stem) for stem in stems]
        if len(set(numbers)) == len(numbers):
            return numbers
    return list(range(len(names)))


def _natural_order(name: str) -> list[tuple[int, int, str]]:
    """Sort key that puts 2.png before 10.png."""
    parts = re.split(r"([0-9]+)", name)
    return [(1, int(part), "") if part.isdecimal() else (0, 0, part) for part in parts]
