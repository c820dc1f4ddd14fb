"""ImageFolder: one folder of images for each class."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cvlib.data.datasets.base import check_classes
from cvlib.data.datasets.classification import ClassificationDataset
from cvlib.data.files.folders import (
    describe_folder,
    is_image,
    list_files,
    list_folders,
    name_some,
    shown,
    walk_files,
)
from cvlib.data.labels.findings import Finding

SPLIT_NAMES = ("train", "training", "val", "valid", "validation", "test", "testing")


def read_folder(
    root: str | Path,
    split: str | None = None,
    *,
    classes: Sequence[str] | None = None,
    transform: Callable[..., Any] | None = None,
    cache: bool = False,
) -> ClassificationDataset:
    """Reads images that lie in folders named after their classes.

    Args:
        root: Folder with the splits, or with the classes.
        split: Folder in ``root`` that has a folder for each class; ``None``: ``root`` has them.
        classes: Names of the folders, in the order of the labels. By default all of them, sorted.
        transform: See `ClassificationDataset`.
        cache: See `ClassificationDataset`.

    Returns:
        The set, images of folders in folders included; its findings tell of files that were
        left out.

    Raises:
        FileNotFoundError: The folder is missing, or has no folders.
        ValueError: A class without images, classes that differ from those of another split, or
            links that lead to nothing.

    Note:
        Hidden folders are no classes, and neither are ``.ipynb_checkpoints`` and ``__MACOSX``.
    """
    root = Path(root).expanduser()
    folder = root if split is None else root / split
    names = _list_classes(folder)
    if split is not None:
        _compare_splits(root, split, names)
    if classes is not None:
        _compare(folder, names, check_classes("read_folder", classes))
        names = list(classes)
    findings: list[Finding] = []
    found = [_list_class(folder / name, findings) for name in names]
    _check_found(folder, names, found)
    _tell_loose_images(folder, findings)
    return ClassificationDataset(
        [path for paths in found for path in paths],
        [label for label, paths in enumerate(found) for _ in paths],
        names,
        transform=transform,
        cache=cache,
        findings=findings,
    )


def list_folder_splits(root: Path) -> list[str]:
    """Folders of ``root`` that are named as splits are."""
    return [name for name in list_folders(root) if name.lower() in SPLIT_NAMES]


def _list_classes(folder: Path) -> list[str]:
    # By code point, as torchvision's ImageFolder: its checkpoints have this order of classes.
    names = sorted(list_folders(folder)) if folder.is_dir() else []
    if not names:
        raise FileNotFoundError(
            "read_folder: expected a folder with one folder for each class, got "
            f"{describe_folder(folder)}"
        )
    return names


def _compare_splits(root: Path, split: str, names: list[str]) -> None:
    for other in list_folder_splits(root):
        if other != split and (theirs := list_folders(root / other)):
            _compare(root / split, names, theirs, other)


def _compare(folder: Path, names: list[str], others: Sequence[str], where: str = "") -> None:
    """Raises unless both have the same classes: else equal labels would mean different things."""
    if set(names) == set(others):
        return
    mine, theirs = sorted(set(names) - set(others)), sorted(set(others) - set(names))
    told = [f"{name_some(mine)} only in {shown(folder)}"] if mine else []
    told += [f"{name_some(theirs)} only in {where or 'classes'}"] if theirs else []
    raise ValueError(
        f"read_folder: expected the same classes in {shown(folder)} and in {where or 'classes'}, "
        f"got {' and '.join(told)}; rename the folders, or move what is no class elsewhere"
    )


def _list_class(folder: Path, findings: list[Finding]) -> list[Path]:
    files, loops = walk_files(folder, lambda name: True)
    others = [name for name in files if not is_image(name)]
    if others:
        findings.append(
            Finding(
                "warning",
                "not-a-image",
                f"expected images, got {name_some(others)}, left out",
                file=shown(folder / others[0]),
                fix="convert them, or move them elsewhere",
                count=len(others),
            )
        )
    findings.extend(
        Finding(
            "warning",
            "link-loop",
            "expected a folder below, got a link to a folder above, not followed",
            file=shown(folder / link),
            fix="remove the link",
        )
        for link in loops
    )
    return [folder / name for name in files if is_image(name)]


def _check_found(folder: Path, names: list[str], found: list[list[Path]]) -> None:
    empty = [name for name, paths in zip(names, found, strict=True) if not paths]
    if empty:
        raise ValueError(
            f"read_folder: expected images of every class in {shown(folder)}, got none of "
            f"{name_some(empty)}; add some, or remove the folder from all splits"
        )
    broken = [path for paths in found for path in paths if not os.path.exists(path)]
    if broken:
        raise ValueError(
            f"read_folder: expected links to images, got {len(broken)} that lead to nothing: "
            f"{name_some(path.relative_to(folder) for path in broken)} in {shown(folder)}"
        )


def _tell_loose_images(folder: Path, findings: list[Finding]) -> None:
    loose = list_files(folder, is_image)
    if loose:
        findings.append(
            Finding(
                "warning",
                "image-without-class",
                f"expected images in the folders of their classes, got {name_some(loose)} beside "
                "these, left out",
                image=shown(folder / loose[0]),
                fix="move them into the folder of their class",
                count=len(loose),
            )
        )
