"""Shared by the readers of label files: collecting findings and locating the images."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from cvlib._files import inside
from cvlib.data.files.folders import escape
from cvlib.data.labels.findings import MAX_FINDINGS_PER_CODE, Finding, limit_findings

# Images that are searched for in each candidate folder.
_NUM_SEARCHED = 50
_MAX_REPR = 80


class FindingCollector:
    """Collects findings about label files.

    Only the first thousand findings of each code are stored and the rest are counted, so that a
    file in which every line is invalid does not fill the memory.

    Args:
        path: Label file, or folder of label files.
    """

    def __init__(self, path: Path) -> None:
        self._path = escape(path)
        self._findings: list[Finding] = []
        self._counts: Counter[str] = Counter()

    def error(
        self, code: str, row: str, message: str, fix: str = "", image: str = "", file: str = ""
    ) -> None:
        """Add a finding about an entry that is left out."""
        self._add(Finding("error", code, message, file or self._path, row, image, fix=fix))

    def warning(self, code: str, row: str, message: str, fix: str = "") -> None:
        """Add a finding about a suspicious entry that is kept."""
        self._add(Finding("warning", code, message, self._path, row, fix=fix))

    def info(self, code: str, message: str, fix: str = "") -> None:
        """Add a fact about the file."""
        self._add(Finding("info", code, message, self._path, fix=fix))

    def _add(self, finding: Finding) -> None:
        self._counts[finding.code] += 1
        if self._counts[finding.code] <= MAX_FINDINGS_PER_CODE:
            self._findings.append(finding)

    def findings(self) -> list[Finding]:
        """Return the stored findings, and one that counts the rest of each code."""
        return limit_findings(self._findings, self._counts)


def find_images_folder(
    function: str, label_file: Path, folder: str | Path | None, names: Iterable[object]
) -> Path:
    """Find the folder with the images that a label file names.

    Args:
        function: Function name used as the prefix of error messages.
        label_file: The label file.
        folder: Folder passed by the user, if any.
        names: Image paths in the label file; the first fifty are searched for.

    Raises:
        FileNotFoundError: ``folder`` is not a folder, or no folder near the file has any image.
        ValueError: Two folders have equally many of the images.
    """
    if folder is not None:
        folder = Path(folder).expanduser()
        if not folder.is_dir():
            raise FileNotFoundError(
                f"{function}: expected `images_folder` to be an existing folder, got {folder}"
            )
        return folder
    wanted = list(islice(names, _NUM_SEARCHED))
    if not wanted:
        return label_file.parent
    counts = {
        candidate: sum(_has_image(candidate, name) for name in wanted)
        for candidate in _candidate_folders(label_file)
    }
    highest = max(counts.values(), default=0)
    best = [candidate for candidate, count in counts.items() if count == highest]
    if not highest:
        raise FileNotFoundError(
            f"{function}: expected the images of {label_file}, such as {wanted[0]!r}, next to it, "
            f"got none of the first {len(wanted)} in {', '.join(map(str, counts))}; pass "
            "images_folder="
        )
    if len(best) > 1:
        raise ValueError(
            f"{function}: expected one folder with the images of {label_file}, got "
            f"{', '.join(map(str, best))}; pass images_folder="
        )
    return best[0]


def _candidate_folders(label_file: Path) -> list[Path]:
    """Return the existing folders that usually hold the images, each once despite symlinks."""
    stem = re.sub(r"^_*(instances|annotations|labels)[_.-]?", "", label_file.stem)
    stem = re.sub(r"[_.-]?(annotations|instances|labels)([_.-]coco)?$", "", stem)
    names = ["", "images", "data", "JPEGImages"]
    if stem:
        names += [stem, f"images/{stem}", f"{stem}/images"]
    candidates: dict[Path, Path] = {}
    for parent in (label_file.parent, label_file.parent.parent):
        for name in names:
            candidates.setdefault((parent / name).resolve(), parent / name)
    return [folder for folder in candidates.values() if folder.is_dir()]


def _has_image(folder: Path, name: object) -> bool:
    try:
        return inside(folder, name).is_file()
    except (OSError, ValueError):
        return False


def short_repr(value: object) -> str:
    """Return the repr of a value for a message, truncated to 80 characters."""
    text = repr(value)
    return text if len(text) <= _MAX_REPR else text[: _MAX_REPR - 3] + "..."
