"""Folders and split lists of Pascal VOC, shared by its boxes and its masks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cvlib._files import inside, read_text
from cvlib.data.files.folders import (
    SPLITS,
    canonical_split,
    describe_folder,
    is_image,
    list_files,
    list_folders,
    name_some,
    shown,
)
from cvlib.data.labels.findings import Finding

# Folders of XML files and of images: VOC's own, and those of sets that follow it.
_PAIRS = (
    ("Annotations", "JPEGImages"),
    ("Annotations", "images"),
    ("annotations", "images"),
    ("annotations/xmls", "images"),
)
# In a list for one class: the image lacks it, has it in doubt, has it.
_MARKS = ("-1", "0", "1")


@dataclass(frozen=True)
class VocHome:
    """Where a set of boxes lies.

    Attributes:
        root: Its folder.
        folders: For each folder of XML files, relative to ``root``, that of the images.
        by_folder: Whether these folders are the splits; else lists in ``ImageSets`` are.
    """

    root: Path
    folders: dict[str, str]
    by_folder: bool = False

    def has_xml(self) -> bool:
        """Says whether there is any XML file."""
        return any(list_files(self.root / folder, is_xml) for folder in self.folders)


def is_xml(name: str) -> bool:
    """Says whether a file name ends as annotations do."""
    return name.endswith(".xml")


def find_voc_home(root: Path) -> VocHome | None:
    """Where the boxes of a set lie; that of the first pair of folders where none has XML files.

    Raises:
        ValueError: Several sets lie there.
    """
    homes = [
        VocHome(home, {labels: images})
        for labels, images in _PAIRS
        if (home := find_home(root, (labels, images))) is not None
    ]
    if root.is_dir() and _lie_together(root):
        homes.append(VocHome(root, {"": ""}))
    splits = [name for name in list_folders(root) if canonical_split(name) in SPLITS]
    together = {name: name for name in splits if _lie_together(root / name)}
    if together:
        homes.append(VocHome(root, together, by_folder=True))
    return next((home for home in homes if home.has_xml()), homes[0] if homes else None)


def _lie_together(folder: Path) -> bool:
    """Says whether a folder has XML of images beside images."""
    files = list_files(folder, is_xml)
    if not files or not list_files(folder, is_image):
        return False
    with open(folder / files[0], "rb") as file:
        return b"<annotation" in file.read(1000)


def find_home(root: Path, folders: tuple[str, ...]) -> Path | None:
    """The folder that has all of some folders: ``root``, ``root/VOC2012`` and the like.

    Raises:
        ValueError: Several have them.
    """
    if not root.is_dir():
        return None
    if _has(root, folders):
        return root
    below = [root / name for name in list_folders(root) if name.lower().startswith("voc")]
    years = [year / name for year in below for name in list_folders(year)]
    homes = [path for path in [*below, *years] if _has(path, folders)]
    if len(homes) > 1:
        raise ValueError(
            f"read_voc: expected root with one set, got {shown(root)} with "
            f"{name_some(path.relative_to(root) for path in homes)}; pass one of these folders"
        )
    return homes[0] if homes else None


def _has(folder: Path, names: tuple[str, ...]) -> bool:
    return all((folder / name).is_dir() for name in names)


def list_splits(home: Path, kind: str) -> list[str]:
    """Names of the splits in ``ImageSets/{kind}``; lists for one class are none.

    Where there are only lists for one class (``dog_train.txt``), their common endings.
    """
    folder = home / "ImageSets" / kind
    if not folder.is_dir():
        return []
    stems = [Path(name).stem for name in list_files(folder, lambda name: name.endswith(".txt"))]
    plain = [stem for stem in stems if not _is_marked(folder / f"{stem}.txt")]
    return plain or sorted({stem.rpartition("_")[2] for stem in stems})


def _is_marked(path: Path) -> bool:
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        first = file.readline(1000).strip()
    return _split_mark(first) is not None


def _split_mark(line: str) -> tuple[str, int] | None:
    """Name and mark of a line in a list for one class."""
    words = line.rsplit(maxsplit=1)
    return (words[0], int(words[1])) if len(words) == 2 and words[1] in _MARKS else None


def read_split(
    home: Path, kind: str, split: str, known: set[str], findings: list[Finding]
) -> list[str]:
    """Stems of the images of a split.

    Args:
        home: Folder with ``ImageSets``.
        kind: ``"Main"`` or ``"Segmentation"``.
        split: Name of a list. Of a list for one class, such as ``"dog_train"``: the images that
            have it. Without a list of its own: all of ``*_{split}.txt`` together.
        known: Stems of all images, to tell names with blanks from marks.
        findings: Is added to.

    Raises:
        FileNotFoundError: There is no such list.
        ValueError: It is empty, or names a path outside.
    """
    folder = home / "ImageSets" / kind
    own = folder / f"{split}.txt"
    if Path(split).name != split:
        raise ValueError(f"read_voc: expected split the name of a list, got {split!r}")
    lists = [own] if own.is_file() else sorted(folder.glob(f"*_{split}.txt"))
    if not lists:
        splits = name_some(list_splits(home, kind)) or "no list"
        raise FileNotFoundError(
            f"read_voc: expected split one of the lists in {shown(folder)}, got {split!r} among "
            f"{splits}"
        )
    # Of a class's own list only what has the class; of all of them together every image.
    least = 0 if own.is_file() else -1
    stems: dict[str, int] = {}
    for path in lists:
        _read_list(path, home, least, known, stems, findings)
    if not stems:
        raise ValueError(f"read_voc: expected images in {shown(lists[0])}, got an empty list")
    return list(stems)


def _read_list(
    path: Path,
    home: Path,
    least: int,
    known: set[str],
    stems: dict[str, int],
    findings: list[Finding],
) -> None:
    before = set(stems)
    text = read_text(path, "read_voc", "a list of names")
    for number, line in enumerate(text.splitlines(), 1):
        name, mark = line.strip(), 1
        if name not in known and (marked := _split_mark(name)):
            name, mark = marked
        if not name or mark < least:
            continue
        if name not in known and is_image(name):
            name = str(Path(name).with_suffix(""))
        try:
            inside(home, name)
        except ValueError as error:
            raise ValueError(f"read_voc: {error}, in {shown(path)}, line {number}") from None
        if name in stems and name not in before:
            findings.append(
                Finding(
                    "warning",
                    "listed-twice",
                    f"expected each image once, got {name} in line {stems[name]} already",
                    file=shown(path),
                    row=f"line {number}",
                    fix="remove one of the lines",
                )
            )
        stems.setdefault(name, number)


def list_images(folder: Path, findings: list[Finding]) -> dict[str, str]:
    """File names of the images in a folder by their stems.

    Two images that differ only in their ending are an error: nobody knows which is labelled.
    """
    names: dict[str, str] = {}
    for name in list_files(folder, is_image):
        stem = Path(name).stem
        if stem in names:
            findings.append(
                Finding(
                    "error",
                    "ambiguous-image",
                    f"expected one image named {shown(stem)}, got {shown(names[stem])} as well",
                    image=shown(folder / name),
                    fix="remove or rename one of them",
                )
            )
        names.setdefault(stem, name)
    return names


def require_home(root: str | Path, function: str, folders: tuple[str, ...]) -> Path:
    """As `find_home`, for a folder that must be there.

    Raises:
        FileNotFoundError: It is not.
    """
    root = Path(root).expanduser()
    home = find_home(root, folders)
    if home is None:
        wanted = " and ".join(f"{name}/" for name in folders)
        raise FileNotFoundError(
            f"{function}: expected root a folder with {wanted}, got {describe_folder(root)}"
        )
    return home
