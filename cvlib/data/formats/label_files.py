"""What the readers of label files share: findings by the row, and where the images are."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from cvlib._files import inside
from cvlib.data.files.folders import shown
from cvlib.data.labels.findings import Finding
from cvlib.data.labels.rules import MOST_OF_A_KIND

# So many images are looked for in each folder that might hold them.
_LOOKED_FOR = 50


class Notes:
    """Findings about label files.

    Of a kind the first thousand are kept, and the others counted: a file whose every line is wrong
    would fill the memory with messages.

    Args:
        path: Of the file, or of the folder of files.
    """

    def __init__(self, path: Path) -> None:
        self._path = shown(path)
        self._findings: list[Finding] = []
        self._counts: Counter[str] = Counter()
        self._first: dict[str, Finding] = {}

    def error(
        self, code: str, row: str, message: str, fix: str = "", image: str = "", file: str = ""
    ) -> None:
        """Something that is left out."""
        self._add(Finding("error", code, message, file or self._path, row, image, fix=fix))

    def warning(self, code: str, row: str, message: str, fix: str = "") -> None:
        """Something odd that is kept."""
        self._add(Finding("warning", code, message, self._path, row, fix=fix))

    def info(self, code: str, message: str, fix: str = "") -> None:
        """A fact about the file."""
        self._add(Finding("info", code, message, self._path, fix=fix))

    def _add(self, finding: Finding) -> None:
        self._first.setdefault(finding.code, finding)
        self._counts[finding.code] += 1
        if self._counts[finding.code] <= MOST_OF_A_KIND:
            self._findings.append(finding)

    def findings(self) -> list[Finding]:
        """Those that were kept, and one for each kind that has more."""
        rest = {code: count - MOST_OF_A_KIND for code, count in self._counts.items()}
        return self._findings + [
            Finding(
                self._first[code].severity,
                code,
                f"{count} more like these",
                self._path,
                fix=self._first[code].fix,
                count=count,
            )
            for code, count in rest.items()
            if count > 0
        ]


def find_images_folder(
    function: str, label_file: Path, given: str | Path | None, names: Iterable[object]
) -> Path:
    """Finds the folder that holds the images which a label file names, by looking.

    Args:
        function: Whom errors speak for.
        label_file: That names them.
        given: The folder, where the user says so.
        names: What the file names; the first fifty are looked for.

    Raises:
        FileNotFoundError: ``given`` is no folder, or no folder beside the file holds any.
        ValueError: Two folders hold as many.
    """
    if given is not None:
        folder = Path(given).expanduser()
        if not folder.is_dir():
            raise FileNotFoundError(
                f"{function}: expected images_folder an existing folder, got {folder}"
            )
        return folder
    wanted = [name for name, _ in zip(names, range(_LOOKED_FOR), strict=False)]
    if not wanted:
        return label_file.parent
    tried = [folder for folder in _candidates(label_file) if folder.is_dir()]
    held = {folder: sum(_holds(folder, name) for name in wanted) for folder in tried}
    best = max(held.values(), default=0)
    winners = [folder for folder in tried if held[folder] == best]
    if not best:
        raise FileNotFoundError(
            f"{function}: expected the images of {label_file} beside it, such as {wanted[0]!r}, "
            f"got none of the first {len(wanted)} in {', '.join(map(str, tried))}; pass "
            "images_folder="
        )
    if len(winners) > 1:
        raise ValueError(
            f"{function}: expected one folder with the images of {label_file}, got "
            f"{', '.join(map(str, winners))}; pass images_folder="
        )
    return winners[0]


def _candidates(label_file: Path) -> list[Path]:
    """Folders that usually hold the images, each once, whatever links lead there."""
    stem = re.sub(r"^_*(instances|annotations|labels)[_.-]?", "", label_file.stem)
    stem = re.sub(r"[_.-]?(annotations|instances|labels)([_.-]coco)?$", "", stem)
    names = ["", "images", "data", "JPEGImages"]
    if stem:
        names += [stem, f"images/{stem}", f"{stem}/images"]
    found: dict[Path, Path] = {}
    for base in (label_file.parent, label_file.parent.parent):
        for name in names:
            found.setdefault((base / name).resolve(), base / name)
    return list(found.values())


def _holds(folder: Path, name: object) -> bool:
    try:
        return inside(folder, name).is_file()
    except (OSError, ValueError):
        return False


def show(value: object) -> str:
    """A value in a message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
