"""``data.yaml`` of YOLO data sets: which folders are which split, and what the classes are."""

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
    list_files,
    list_folders,
    name_some,
    shown,
)
from cvlib.data.labels.findings import Finding

# Names of twenty thousand classes take half of it.
_MOST_BYTES = 1 << 20
_DEEPEST = 10
_NOTHING = ("", "~", "null", "Null", "NULL", "None")
_NAME_FILES = ("classes.txt", "labels/classes.txt", "obj.names")
_FOLDERS_OF_SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}


@dataclass
class YoloConfig:
    """What is known of a set before its labels are read.

    Attributes:
        root: Folder that nothing may leave.
        names: Of the classes; ``None``: nowhere to be found.
        splits: Folders of images and lists of images of each split. Without splits: of
            ``""``.
        findings: What a person should know.
    """

    root: Path
    names: list[str] | None
    splits: dict[str, list[Path]]
    findings: list[Finding] = field(default_factory=list)


class _Loader(yaml.BaseLoader):
    """Text, lists and dictionaries: no is the class "no", and 1.10 keeps its zero."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        twice = [key for key in keys if keys.count(key) > 1]
        if twice:
            raise yaml.YAMLError(f"the key {twice[0]!r} twice")
        return super().construct_mapping(node, deep)


def find_config(path: Path) -> Path | None:
    """The YAML file of a data set: ``path`` itself, or the one in the folder that names classes.

    Raises:
        ValueError: Several do.
    """
    if path.is_file():
        return path if path.suffix in (".yaml", ".yml") else None
    if not path.is_dir():
        return None
    names = list_files(path, lambda name: name.endswith((".yaml", ".yml")))
    fitting = [path / name for name in names if _names_classes(path / name)]
    preferred = [file for file in fitting if file.stem in ("data", "dataset")]
    if len(preferred or fitting) > 1:
        raise ValueError(
            f"read_yolo: expected one data.yaml in {shown(path)}, got "
            f"{name_some(file.name for file in fitting)}; pass the file"
        )
    return next(iter(preferred or fitting), None)


def _names_classes(file: Path) -> bool:
    """By its lines, so that a damaged file is still taken for one, and told to be damaged."""
    if file.stat().st_size > _MOST_BYTES:
        return False
    lines = file.read_bytes().splitlines()
    return any(line.startswith((b"names", b"nc:", b"nc ")) for line in lines)


def read_config(path: Path, root: Path | None = None) -> YoloConfig:
    """Reads ``data.yaml``, or looks at the folders where there is none.

    Args:
        path: A YAML file or a folder.
        root: Folder that nothing may leave; by default the one of the YAML file.

    Raises:
        FileNotFoundError: Folders are missing.
        ValueError: The file is damaged or contradicts itself, or paths leave the folder.
    """
    file = find_config(path)
    if file is None:
        return _from_folders(path)
    values = _parse(file)
    for key in ("kpt_shape", "channels"):
        if key in values:
            raise ValueError(f"read_yolo: expected boxes or polygons, got {key} in {shown(file)}")
    config = YoloConfig(root or file.parent, _read_names(values, file), {})
    base = _read_base(values, file, config)
    for split in SPLITS:
        places = values.get(split, "")
        if isinstance(places, str):
            places = [] if places in _NOTHING else [places]
        if not isinstance(places, list) or not all(isinstance(place, str) for place in places):
            raise ValueError(
                f"read_yolo: expected {split} a folder, a list of folders or a .txt file, got "
                f"{type(places).__name__} in {shown(file)}"
            )
        found = [_find_place(place, base, file, split, config) for place in places]
        if found:
            config.splits[split] = found
    if not config.splits:
        raise ValueError(
            f"read_yolo: expected train, val or test in {shown(file)}, got {name_some(values)}"
        )
    return config


def _parse(file: Path) -> dict[str, Any]:
    if file.stat().st_size > _MOST_BYTES:
        raise ValueError(
            f"read_yolo: expected at most {_MOST_BYTES:,} bytes of YAML, got "
            f"{file.stat().st_size:,} in {shown(file)}"
        )
    text = read_text(file, "read_yolo", "YAML")
    try:
        _refuse_bombs(text)
        values = yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(
            f"read_yolo: expected plain YAML in {shown(file)}, got: {error}"
        ) from error
    if not isinstance(values, dict):
        raise ValueError(
            f"read_yolo: expected keys such as train and names in {shown(file)}, got "
            f"{type(values).__name__}"
        )
    return values


def _refuse_bombs(text: str) -> None:
    """Aliases of aliases, and lists in lists in lists, which no data set needs."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.BaseLoader):
        if isinstance(event, yaml.AliasEvent):
            raise yaml.YAMLError(f"the alias *{event.anchor}")
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEEPEST:
            raise yaml.YAMLError(f"lists nested more than {_DEEPEST} deep")


def _read_names(values: dict[str, Any], file: Path) -> list[str]:
    names, count = values.get("names"), values.get("nc")
    if isinstance(names, dict):
        names = _in_order(names, file)
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        raise ValueError(
            f"read_yolo: expected names a list or a dictionary of class names in {shown(file)}, "
            f"got {type(names).__name__ if names else 'none'}"
        )
    if count is not None and (not isinstance(count, str) or count.strip() != str(len(names))):
        raise ValueError(
            f"read_yolo: expected nc the number of names, {len(names)}, got {count!r:.40} in "
            f"{shown(file)}; correct one of them"
        )
    return [name.strip() for name in names]


def _in_order(names: dict[str, Any], file: Path) -> list[Any]:
    """``{0: cat, 1: dog}`` as a list."""
    if not all(isinstance(key, str) and key.isdecimal() for key in names):
        raise ValueError(
            f"read_yolo: expected names with the numbers 0, 1, ... as keys in {shown(file)}, got "
            f"{name_some(str(key)[:40] for key in names)}"
        )
    numbers = {int(key): name for key, name in names.items()}
    missing = sorted(set(range(len(names))) - set(numbers))
    if missing:
        raise ValueError(
            f"read_yolo: expected names of the classes 0..{len(names) - 1} in {shown(file)}, got "
            f"none of {missing[0]}"
        )
    return [numbers[number] for number in range(len(names))]


def _read_base(values: dict[str, Any], file: Path, config: YoloConfig) -> Path:
    """The folder that ``train`` and ``val`` start from."""
    given = values.get("path", "")
    if not isinstance(given, str) or given in _NOTHING:
        return file.parent
    try:
        base = resolve_inside(config.root, file.parent, given, shown(file))
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
                f"expected path a folder here, got {given!r}; {first} was found beside the file",
                file=shown(file),
                fix="remove path",
            )
        )
        return file.parent
    raise ValueError(
        f"read_yolo: expected path a folder in {shown(config.root)}, got {given!r} in "
        f"{shown(file)}; remove it, or pass root=... with the folder of the data"
    )


def _find_place(place: str, base: Path, file: Path, split: str, config: YoloConfig) -> Path:
    source = f"{split} of {shown(file)}"
    # Roboflow writes ../train/images for the folder train/images beside the file.
    below = base / place.removeprefix("../")
    climbs = place.startswith("../") and not _is_inside(config.root, base / place)
    if climbs and below.exists():
        place = place.removeprefix("../")
    found = resolve_inside(config.root, base, place, source)
    if not found.exists():
        raise FileNotFoundError(
            f"read_yolo: expected {split} a folder or a list, got {shown(found)}, which does not "
            f"exist, in {shown(file)}"
        )
    return found


def resolve_inside(root: Path, base: Path, name: str, source: str) -> Path:
    """The path that a file names from ``base`` on, or absolute, where it is inside of the root.

    Links are not resolved: who unpacked the set has made them; names come from strangers.

    Raises:
        ValueError: The path climbs out of ``root``.
    """
    path = Path(os.path.normpath(base / name.replace("\\", "/")))
    if not _is_inside(root, path) or "\0" in name:
        raise ValueError(
            f"read_yolo: expected paths inside of {shown(root)}, got {name!r} in {source}; move "
            "the data there, or pass root=... with a higher folder"
        )
    return path


def _is_inside(root: Path, path: Path) -> bool:
    base, path = Path(os.path.abspath(root)), Path(os.path.abspath(path))
    return path == base or base in path.parents


def _from_folders(root: Path) -> YoloConfig:
    """``images/train`` with ``labels/train``, ``train/images`` with ``train/labels``, or none."""
    splits: dict[str, list[Path]] = {}
    for split, names in _FOLDERS_OF_SPLITS.items():
        places = [root / "images" / name for name in names] + [root / n / "images" for n in names]
        found = [place for place in places if place.is_dir() and labels_folder(place).is_dir()]
        if found:
            splits[split] = found
    if not splits and (root / "images").is_dir() and (root / "labels").is_dir():
        splits[""] = [root / "images"]
    if not splits:
        raise FileNotFoundError(
            f"read_yolo: expected data.yaml, or images/ and labels/, got {describe_folder(root)}"
        )
    return YoloConfig(root, _listed_names(root), splits)


def _listed_names(root: Path) -> list[str] | None:
    folders = [root, *(root / name for name in list_folders(root))]
    for file in (folder / name for name in _NAME_FILES for folder in folders):
        if file.is_file():
            text = read_text(file, "read_yolo", "a list of classes")
            return [line.strip() for line in text.splitlines() if line.strip()]
    return None


def labels_folder(images: Path) -> Path:
    """YOLO's rule: the last ``images`` in a path becomes ``labels``."""
    parts = list(images.parts)
    places = [i for i, part in enumerate(parts) if part == "images"]
    if places:
        parts[places[-1]] = "labels"
    return Path(*parts)
