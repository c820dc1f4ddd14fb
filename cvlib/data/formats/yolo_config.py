"""Configuration of a YOLO dataset, from ``data.yaml`` or its folders: splits and class names."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from cvlib._files import read_text
from cvlib.data.files.folders import (
    SPLITS,
    describe_folder,
    escape,
    list_files,
    list_folders,
    name_some,
)
from cvlib.data.labels.findings import Finding

# The names of twenty thousand classes take half of it.
_MAX_BYTES = 1 << 20
_MAX_DEPTH = 10
_NULL = ("", "~", "null", "Null", "NULL", "None")
_NAME_FILES = ("classes.txt", "labels/classes.txt", "obj.names")
_SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}


@dataclass
class YoloConfig:
    """Splits and class names of a dataset.

    Attributes:
        root: Folder that paths must not leave.
        names: Class names; None if there are none.
        splits: Folders and lists of images of each split; the only key is ``""`` without splits.
        findings: Facts that a user should know.
    """

    root: Path
    names: list[str] | None
    splits: dict[str, list[Path]]
    findings: list[Finding] = field(default_factory=list)


class _Loader(yaml.BaseLoader):
    """Loads scalars as text: ``no`` is the class "no", and ``1.10`` keeps its zero."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        duplicates = [key for key in keys if keys.count(key) > 1]
        if duplicates:
            raise yaml.YAMLError(f"the key {duplicates[0]!r} twice")
        return super().construct_mapping(node, deep)


def find_config(path: Path) -> Path | None:
    """Find the YAML file of a dataset: ``path`` itself, or the file in it that names classes.

    Raises:
        ValueError: Several files name classes.
    """
    if path.is_file():
        return path if path.suffix in (".yaml", ".yml") else None
    if not path.is_dir():
        return None
    names = list_files(path, lambda name: name.endswith((".yaml", ".yml")))
    candidates = [path / name for name in names if _names_classes(path / name)]
    preferred = [file for file in candidates if file.stem in ("data", "dataset")]
    if len(preferred or candidates) > 1:
        raise ValueError(
            f"read_yolo: expected one data.yaml in {escape(path)}, got "
            f"{name_some(file.name for file in candidates)}; pass the file"
        )
    return next(iter(preferred or candidates), None)


def _names_classes(file: Path) -> bool:
    """Match raw lines, so that malformed YAML is still recognised and reported."""
    if file.stat().st_size > _MAX_BYTES:
        return False
    lines = file.read_bytes().splitlines()
    return any(line.startswith((b"names", b"nc:", b"nc ")) for line in lines)


def read_config(path: Path, root: Path | None = None) -> YoloConfig:
    """Read ``data.yaml``, or infer the splits from the folders without one.

    Args:
        path: A YAML file or a folder.
        root: Folder that paths must not leave. Default: the folder of the YAML file.

    Raises:
        FileNotFoundError: Folders do not exist.
        ValueError: The file is malformed or inconsistent, or paths leave the folder.
    """
    file = find_config(path)
    if file is None:
        return _infer_from_folders(path)
    values = _parse(file)
    for key in ("kpt_shape", "channels"):
        if key in values:
            raise ValueError(f"read_yolo: expected boxes or polygons, got {key} in {escape(file)}")
    config = YoloConfig(root or file.parent, _read_names(values, file), {})
    base = _read_base(values, file, config)
    for split in SPLITS:
        names = values.get(split, "")
        if isinstance(names, str):
            names = [] if names in _NULL else [names]
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError(
                f"read_yolo: expected {split} to be a folder, a list of folders or a .txt file, "
                f"got {type(names).__name__} in {escape(file)}"
            )
        if names:
            config.splits[split] = [_resolve(name, base, file, split, config) for name in names]
    if not config.splits:
        raise ValueError(
            f"read_yolo: expected train, val or test in {escape(file)}, got {name_some(values)}"
        )
    return config


def _parse(file: Path) -> dict[str, Any]:
    if file.stat().st_size > _MAX_BYTES:
        raise ValueError(
            f"read_yolo: expected at most {_MAX_BYTES:,} bytes of YAML, got "
            f"{file.stat().st_size:,} in {escape(file)}"
        )
    text = read_text(file, "read_yolo", "YAML")
    try:
        _reject_bombs(text)
        values = yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(
            f"read_yolo: expected plain YAML in {escape(file)}, got: {error}"
        ) from error
    if not isinstance(values, dict):
        raise ValueError(
            f"read_yolo: expected keys such as train and names in {escape(file)}, got "
            f"{type(values).__name__}"
        )
    return values


def _reject_bombs(text: str) -> None:
    """Raise for aliases and deep nesting, which no dataset needs and which can fill the memory."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.BaseLoader):
        if isinstance(event, yaml.AliasEvent):
            raise yaml.YAMLError(f"the alias *{event.anchor}")
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_DEPTH:
            raise yaml.YAMLError(f"lists nested more than {_MAX_DEPTH} deep")


def _read_names(values: dict[str, Any], file: Path) -> list[str]:
    names, count = values.get("names"), values.get("nc")
    if isinstance(names, dict):
        names = _sort_by_index(names, file)
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        raise ValueError(
            f"read_yolo: expected names to be a list or a dictionary of class names in "
            f"{escape(file)}, got {type(names).__name__ if names else 'none'}"
        )
    if count is not None and (not isinstance(count, str) or count.strip() != str(len(names))):
        raise ValueError(
            f"read_yolo: expected nc to be the number of names, {len(names)}, got {count!r:.40} in "
            f"{escape(file)}; correct one of them"
        )
    return [name.strip() for name in names]


def _sort_by_index(names: dict[str, Any], file: Path) -> list[Any]:
    """Return ``{0: cat, 1: dog}`` as a list."""
    if not all(isinstance(key, str) and key.isdecimal() for key in names):
        raise ValueError(
            f"read_yolo: expected names with the numbers 0, 1, ... as keys in {escape(file)}, got "
            f"{name_some(str(key)[:40] for key in names)}"
        )
    by_index = {int(key): name for key, name in names.items()}
    missing = sorted(set(range(len(names))) - set(by_index))
    if missing:
        raise ValueError(
            f"read_yolo: expected names of the classes 0..{len(names) - 1} in {escape(file)}, got "
            f"none of {missing[0]}"
        )
    return [by_index[index] for index in range(len(names))]


def _read_base(values: dict[str, Any], file: Path, config: YoloConfig) -> Path:
    """Return the folder that ``train`` and ``val`` are relative to."""
    path = values.get("path", "")
    if not isinstance(path, str) or path in _NULL:
        return file.parent
    try:
        base = resolve_inside(config.root, file.parent, path, escape(file))
    except ValueError:
        base = None
    if base is not None and base.is_dir():
        return base
    # Written on another machine, or relative to a folder that only its author has.
    first = next((p for s in SPLITS if isinstance(p := values.get(s), str) and p), "")
    if first and not first.startswith(("/", "..")) and (file.parent / first).exists():
        config.findings.append(
            Finding(
                "info",
                "other-root",
                f"expected path to be a folder here, got {path!r}; {first} exists next to the file",
                file=escape(file),
                fix="remove path",
            )
        )
        return file.parent
    raise ValueError(
        f"read_yolo: expected path to be a folder in {escape(config.root)}, got {path!r} in "
        f"{escape(file)}; remove it, or pass root=... with the folder of the data"
    )


def _resolve(name: str, base: Path, file: Path, split: str, config: YoloConfig) -> Path:
    """Return the path of a folder or list of images in ``data.yaml``."""
    # Roboflow writes ../train/images for the folder train/images next to the file.
    inner = name.removeprefix("../")
    if inner != name and not _is_inside(config.root, base / name) and (base / inner).exists():
        name = inner
    path = resolve_inside(config.root, base, name, f"{split} of {escape(file)}")
    if not path.exists():
        raise FileNotFoundError(
            f"read_yolo: expected {split} to be a folder or a list, got {escape(path)}, which does "
            f"not exist, in {escape(file)}"
        )
    return path


def resolve_inside(root: Path, base: Path, name: str, source: str) -> Path:
    """Join ``base`` and a path from a file, which must not leave the root.

    Symlinks are not resolved: names come from others, but links only from who unpacked the dataset.

    Raises:
        ValueError: The path is outside ``root``.
    """
    path = Path(os.path.normpath(base / name.replace("\\", "/")))
    if not _is_inside(root, path) or "\0" in name:
        raise ValueError(
            f"read_yolo: expected paths inside {escape(root)}, got {name!r} in {source}; move "
            "the data there, or pass root=... with a higher folder"
        )
    return path


def _is_inside(root: Path, path: Path) -> bool:
    root, path = Path(os.path.abspath(root)), Path(os.path.abspath(path))
    return path == root or root in path.parents


def _infer_from_folders(root: Path) -> YoloConfig:
    """Find ``images/train`` with ``labels/train``, or ``train/images`` with ``train/labels``."""
    splits: dict[str, list[Path]] = {}
    for split, names in _SPLIT_FOLDERS.items():
        candidates = [root / "images" / name for name in names]
        candidates += [root / name / "images" for name in names]
        folders = [f for f in candidates if f.is_dir() and labels_folder(f).is_dir()]
        if folders:
            splits[split] = folders
    if not splits and (root / "images").is_dir() and (root / "labels").is_dir():
        splits[""] = [root / "images"]
    if not splits:
        raise FileNotFoundError(
            f"read_yolo: expected data.yaml, or images/ and labels/, got {describe_folder(root)}"
        )
    return YoloConfig(root, _read_name_file(root), splits)


def _read_name_file(root: Path) -> list[str] | None:
    folders = [root, *(root / name for name in list_folders(root))]
    for file in (folder / name for name in _NAME_FILES for folder in folders):
        if file.is_file():
            text = read_text(file, "read_yolo", "a list of classes")
            return [line.strip() for line in text.splitlines() if line.strip()]
    return None


def labels_folder(images: Path) -> Path:
    """Replace the last ``images`` in a path by ``labels``, as YOLO does."""
    parts = list(images.parts)
    indices = [i for i, part in enumerate(parts) if part == "images"]
    if indices:
        parts[indices[-1]] = "labels"
    return Path(*parts)
