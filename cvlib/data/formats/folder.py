"""ImageFolder layout: a folder of images for each class."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cvlib.data.datasets.base import check_classes
from cvlib.data.datasets.classification import ClassificationDataset
from cvlib.data.files.folders import (
    SPLITS,
    canonical_split,
    describe_folder,
    escape,
    is_image,
    list_files,
    list_folders,
    name_some,
    walk_files,
)
from cvlib.data.labels.findings import Finding

_SPLIT_NAMES = ("train", "training", "val", "valid", "validation", "test", "testing")
# Folders of other layouts, which are not classes.
_OTHER_LAYOUTS = {
    "images", "labels", "masks", "annotations", "jpegimages", "imagesets", "segmentationclass",
    "segmentationobject", "pngimages", "pedmasks",
}  # fmt: skip


def read_folder(
    root: str | Path,
    split: str | None = None,
    *,
    classes: Sequence[str] | None = None,
    transform: Callable[..., Any] | None = None,
    cache: bool = False,
) -> ClassificationDataset:
    """Read images from folders named after their classes.

    Args:
        root: Folder of the splits, or of the classes.
        split: Subfolder of ``root`` with the class folders. Default: ``root`` has them.
        classes: Names of the class folders in label order. Default: all, sorted.
        transform: See `ClassificationDataset`.
        cache: See `ClassificationDataset`.

    Returns:
        The dataset, including images in nested folders; its findings list skipped files.

    Raises:
        FileNotFoundError: The folder does not exist or has no subfolders.
        ValueError: A class has no images, the classes of the splits differ, or symlinks are
            broken.

    Note:
        Hidden folders, ``.ipynb_checkpoints`` and ``__MACOSX`` are not classes.
    """
    root = Path(root).expanduser()
    folder = root if split is None else root / split
    names = _list_classes(folder)
    if split is not None:
        for other in list_folder_splits(root):
            if other != split and (other_names := list_folders(root / other)):
                _check_same_classes(folder, names, other, other_names)
    if classes is not None:
        _check_same_classes(folder, names, "classes", check_classes("read_folder", classes))
        names = list(classes)
    findings: list[Finding] = []
    images = [_list_images(folder / name, findings) for name in names]
    _check_images(folder, names, images)
    _warn_of_loose_images(folder, findings)
    return ClassificationDataset(
        [path for paths in images for path in paths],
        [label for label, paths in enumerate(images) for _ in paths],
        names,
        transform=transform,
        cache=cache,
        findings=findings,
    )


def recognise_folder(path: Path) -> str | None:
    """Return the class folders at a path, or None."""
    if not path.is_dir():
        return None
    splits = list_folder_splits(path)
    with_classes = [name for name in splits if _find_classes(path / name)]
    if with_classes:
        names = _find_classes(path / with_classes[0])
        return f"{'/, '.join(with_classes)}/ with folders {name_some(names)}"
    names = _find_classes(path)
    return f"folders {name_some(names)}" if names and not splits else None


def list_folder_splits(root: Path) -> list[str]:
    """List the subfolders with the name of a split."""
    folders = list_folders(root) if root.is_dir() else []
    return [name for name in folders if name.lower() in _SPLIT_NAMES]


def _find_classes(folder: Path) -> list[str]:
    """Return the subfolders that may be classes.

    At least two have images, and those without have no subfolders.
    """
    names = [
        name
        for name in list_folders(folder)
        if name.lower() not in _OTHER_LAYOUTS and canonical_split(name) not in SPLITS
    ]
    with_images = [name for name in names if list_files(folder / name, is_image)]
    is_nested = any(list_folders(folder / name) for name in set(names) - set(with_images))
    return [] if is_nested or len(with_images) < 2 else names


def _list_classes(folder: Path) -> list[str]:
    # By code point like torchvision's ImageFolder, so that its checkpoints fit.
    names = sorted(list_folders(folder)) if folder.is_dir() else []
    if not names:
        raise FileNotFoundError(
            "read_folder: expected a folder with one folder for each class, got "
            f"{describe_folder(folder)}"
        )
    return names


def _check_same_classes(
    folder: Path, names: Sequence[str], other: str, other_names: Sequence[str]
) -> None:
    """Raise if the classes differ, since equal labels would have different meanings."""
    if set(names) == set(other_names):
        return
    differences = [
        f"{name_some(sorted(only))} only in {place}"
        for only, place in (
            (set(names) - set(other_names), escape(folder)),
            (set(other_names) - set(names), other),
        )
        if only
    ]
    raise ValueError(
        f"read_folder: expected the same classes in {escape(folder)} and in {other}, got "
        f"{' and '.join(differences)}; rename the folders, or move those that are not classes"
    )


def _list_images(folder: Path, findings: list[Finding]) -> list[Path]:
    files, loops = walk_files(folder, lambda name: True)
    others = [name for name in files if not is_image(name)]
    if others:
        findings.append(
            Finding(
                "warning",
                "not-an-image",
                f"expected images, got {name_some(others)}, left out",
                file=escape(folder / others[0]),
                fix="convert them, or move them elsewhere",
                count=len(others),
            )
        )
    findings.extend(
        Finding(
            "warning",
            "link-loop",
            "expected a subfolder, got a link to a parent folder, not followed",
            file=escape(folder / link),
            fix="remove the link",
        )
        for link in loops
    )
    return [folder / name for name in files if is_image(name)]


def _check_images(folder: Path, names: list[str], images: list[list[Path]]) -> None:
    empty = [name for name, paths in zip(names, images, strict=True) if not paths]
    if empty:
        raise ValueError(
            f"read_folder: expected images of every class in {escape(folder)}, got none of "
            f"{name_some(empty)}; add some, or remove the folder from all splits"
        )
    broken = [path for paths in images for path in paths if not os.path.exists(path)]
    if broken:
        raise ValueError(
            f"read_folder: expected links to images, got {len(broken)} broken links: "
            f"{name_some(path.relative_to(folder) for path in broken)} in {escape(folder)}"
        )


def _warn_of_loose_images(folder: Path, findings: list[Finding]) -> None:
    loose = list_files(folder, is_image)
    if loose:
        findings.append(
            Finding(
                "warning",
                "image-without-class",
                f"expected images in the folders of their classes, got {name_some(loose)} next to "
                "these folders, left out",
                image=escape(folder / loose[0]),
                fix="move them into the folder of their class",
                count=len(loose),
            )
        )
