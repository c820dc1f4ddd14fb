"""Folders and split lists of Pascal VOC, for boxes and for masks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cvlib._files import inside, read_text
from cvlib.data.files.folders import (
    SPLITS,
    canonical_split,
    describe_folder,
    escape,
    is_image,
    join,
    list_files,
    list_folders,
    name_some,
)
from cvlib.data.labels.findings import Finding

# Folders of XML files and of images: those of VOC, and of datasets in its style.
_FOLDER_PAIRS = (
    ("Annotations", "JPEGImages"),
    ("Annotations", "images"),
    ("annotations", "images"),
    ("annotations/xmls", "images"),
)
# Second column of a list for one class: absent, difficult, present.
_MARKS = ("-1", "0", "1")


@dataclass(frozen=True)
class VocFolders:
    """Folders of a dataset of boxes.

    Attributes:
        root: Folder of the dataset.
        images_of: Folder of images of each folder of XML files, relative to ``root``.
        are_splits: Whether the folders are the splits, instead of lists in ``ImageSets``.
    """

    root: Path
    images_of: dict[str, str]
    are_splits: bool = False

    def has_xml(self) -> bool:
        """Whether there is any XML file."""
        return any(list_files(self.root / folder, _is_xml) for folder in self.images_of)

    def list_stems(self) -> list[str]:
        """Return the paths of the XML files relative to the root, without the suffix."""
        return [
            join(folder, Path(name).stem)
            for folder in self.images_of
            for name in list_files(self.root / folder, _is_xml)
        ]


def _is_xml(name: str) -> bool:
    return name.endswith(".xml")


def find_voc_folders(root: Path) -> VocFolders | None:
    """Find the folders of boxes, preferring those with XML files.

    Raises:
        ValueError: There are several datasets.
    """
    if not root.is_dir():
        return None
    candidates = [
        VocFolders(parent, {labels: images})
        for labels, images in _FOLDER_PAIRS
        if (parent := find_parent(root, (labels, images))) is not None
    ]
    if _has_xml_next_to_images(root):
        candidates.append(VocFolders(root, {"": ""}))
    splits = {
        name: name
        for name in list_folders(root)
        if canonical_split(name) in SPLITS and _has_xml_next_to_images(root / name)
    }
    if splits:
        candidates.append(VocFolders(root, splits, are_splits=True))
    with_xml = [folders for folders in candidates if folders.has_xml()]
    return next(iter(with_xml or candidates), None)


def _has_xml_next_to_images(folder: Path) -> bool:
    files = list_files(folder, _is_xml)
    if not files or not list_files(folder, is_image):
        return False
    with open(folder / files[0], "rb") as file:
        return b"<annotation" in file.read(1000)


def find_parent(root: Path, folders: tuple[str, ...]) -> Path | None:
    """Find the folder that has all of ``folders``: ``root``, ``root/VOC2012`` or similar.

    Raises:
        ValueError: Several folders have them.
    """
    if not root.is_dir():
        return None
    if _has_folders(root, folders):
        return root
    children = [root / name for name in list_folders(root) if name.lower().startswith("voc")]
    years = [child / name for child in children for name in list_folders(child)]
    parents = [path for path in [*children, *years] if _has_folders(path, folders)]
    if len(parents) > 1:
        raise ValueError(
            f"read_voc: expected `root` to contain one dataset, got {escape(root)} with "
            f"{name_some(path.relative_to(root) for path in parents)}; pass one of these folders"
        )
    return parents[0] if parents else None


def _has_folders(folder: Path, names: tuple[str, ...]) -> bool:
    return all((folder / name).is_dir() for name in names)


def require_parent(root: str | Path, function: str, folders: tuple[str, ...]) -> Path:
    """Find the folder that has all of ``folders``. See `find_parent`.

    Raises:
        FileNotFoundError: There is no such folder.
    """
    root = Path(root).expanduser()
    parent = find_parent(root, folders)
    if parent is None:
        wanted = " and ".join(f"{name}/" for name in folders)
        raise FileNotFoundError(
            f"{function}: expected `root` to be a folder with {wanted}, got {describe_folder(root)}"
        )
    return parent


def list_splits(root: Path, kind: str) -> list[str]:
    """List the names of the splits in ``ImageSets/{kind}``, without lists for one class.

    If there are only lists for one class (``dog_train.txt``), list their common suffixes.
    """
    folder = root / "ImageSets" / kind
    if not folder.is_dir():
        return []
    stems = [Path(name).stem for name in list_files(folder, lambda name: name.endswith(".txt"))]
    splits = [stem for stem in stems if not _has_marks(folder / f"{stem}.txt")]
    return splits or sorted({stem.rpartition("_")[2] for stem in stems})


def _has_marks(path: Path) -> bool:
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        first = file.readline(1000).strip()
    return _split_mark(first) is not None


def _split_mark(line: str) -> tuple[str, int] | None:
    """Return the name and the mark in a line of a list for one class."""
    words = line.rsplit(maxsplit=1)
    return (words[0], int(words[1])) if len(words) == 2 and words[1] in _MARKS else None


def read_split(
    root: Path, kind: str, split: str, known: set[str], findings: list[Finding]
) -> list[str]:
    """Read the stems of the images of a split.

    Args:
        root: Folder with ``ImageSets``.
        kind: ``"Main"`` or ``"Segmentation"``.
        split: Name of a list. A list for one class, such as ``"dog_train"``, selects the images
            with the class. Without a list of this name, all of ``*_{split}.txt`` are read.
        known: Stems of all images, to distinguish names with blanks from marks.
        findings: List to append to.

    Raises:
        FileNotFoundError: There is no such list.
        ValueError: The list is empty, or names a path outside ``root``.
    """
    folder = root / "ImageSets" / kind
    path = folder / f"{split}.txt"
    if Path(split).name != split:
        raise ValueError(f"read_voc: expected `split` to be the name of a list, got {split!r}")
    lists = [path] if path.is_file() else sorted(folder.glob(f"*_{split}.txt"))
    if not lists:
        raise FileNotFoundError(
            f"read_voc: expected `split` to be one of the lists in {escape(folder)}, got {split!r} "
            f"among {name_some(list_splits(root, kind)) or 'no list'}"
        )
    # One list for a class selects the images with it; together they name all images.
    min_mark = 0 if path.is_file() else -1
    lines: dict[str, int] = {}
    for file in lists:
        _read_list(file, root, min_mark, known, lines, findings)
    if not lines:
        raise ValueError(f"read_voc: expected images in {escape(lists[0])}, got an empty list")
    return list(lines)


def _read_list(
    path: Path,
    root: Path,
    min_mark: int,
    known: set[str],
    lines: dict[str, int],
    findings: list[Finding],
) -> None:
    """Add the names in a list to ``lines``, with the number of their line."""
    from_other_lists = set(lines)
    text = read_text(path, "read_voc", "a list of names")
    for number, line in enumerate(text.splitlines(), 1):
        name, mark = line.strip(), 1
        if name not in known and (marked := _split_mark(name)):
            name, mark = marked
        if not name or mark < min_mark:
            continue
        if name not in known and is_image(name):
            name = str(Path(name).with_suffix(""))
        try:
            inside(root, name)
        except ValueError as error:
            raise ValueError(f"read_voc: {error}, in {escape(path)}, line {number}") from None
        if name in lines and name not in from_other_lists:
            findings.append(
                Finding(
                    "warning",
                    "listed-twice",
                    f"expected each image once, got {name} in line {lines[name]} already",
                    file=escape(path),
                    row=f"line {number}",
                    fix="remove one of the lines",
                )
            )
        lines.setdefault(name, number)


def list_images(folder: Path, findings: list[Finding]) -> dict[str, str]:
    """Return the file names of the images in a folder, keyed by stem.

    Images that differ only in their suffix are an error, since their labels are ambiguous.
    """
    names: dict[str, str] = {}
    for name in list_files(folder, is_image):
        stem = Path(name).stem
        if stem in names:
            findings.append(
                Finding(
                    "error",
                    "ambiguous-image",
                    f"expected one image named {escape(stem)}, got {escape(names[stem])} as well",
                    image=escape(folder / name),
                    fix="remove or rename one of them",
                )
            )
        names.setdefault(stem, name)
    return names
