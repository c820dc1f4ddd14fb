"""What is wrong with the pictures of a set, apart from their labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cvlib.data.check._parts import cut
from cvlib.data.check._pictures import Facts
from cvlib.data.findings import Finding
from cvlib.data.table import LabelTable

# Share of one grey, which no photograph without colours in our sets comes near, and share of such
# pictures in a set beyond which they are no accident.
_PLACEHOLDER = 0.9
_MOST_PLACEHOLDERS = 0.1


def tell_missing(
    paths: Sequence[Path], missing: Mapping[int, str], files: Sequence[str]
) -> list[Finding]:
    """An error for each picture that is not there.

    Args:
        paths: Of all pictures.
        missing: Indices with hints, as of `list_missing`.
        files: For each picture the file that names it.
    """
    return cut(
        [
            Finding(
                "error",
                "missing-picture",
                "expected a picture, got no such file" + (f" ({hint})" if hint else ""),
                file=files[index],
                row=paths[index].name,
                picture=str(paths[index]),
                fix="restore it, correct its name, or remove its labels",
            )
            for index, hint in missing.items()
        ]
    )


def tell_unreadable(paths: Sequence[Path], facts: Mapping[int, Facts]) -> list[Finding]:
    """An error for each picture that cannot be read, a warning for each misleading name."""
    findings = []
    for index, known in facts.items():
        path = paths[index]
        if known.problem:
            findings.append(
                Finding(
                    "error",
                    "unreadable-picture",
                    f"expected a whole picture, got {known.problem}",
                    picture=str(path),
                    fix="restore or remove the file",
                )
            )
        elif not known.has_right_suffix(path):
            findings.append(
                Finding(
                    "warning",
                    "wrong-suffix",
                    f"expected a name that says what the file is, got {path.suffix or 'no suffix'} "
                    f"on {known.format} data",
                    picture=str(path),
                    fix="rename it, and its labels; other programs go by the name",
                )
            )
    return cut(findings)


def tell_placeholders(paths: Sequence[Path], facts: Mapping[int, Facts]) -> list[Finding]:
    """A warning for each picture that is nearly all one grey: a website's "image not found".

    Where many are, as among scans of writing, that is how the set looks.
    """
    plain = [index for index, known in facts.items() if known.plain_share >= _PLACEHOLDER]
    if len(plain) > max(1, _MOST_PLACEHOLDERS * len(facts)):
        return []
    return cut(
        [
            Finding(
                "warning",
                "placeholder-picture",
                f"expected something to see, got {facts[index].plain_share:.0%} of one grey and no "
                'colours: is it the "not found" of a website, or an empty frame?',
                picture=str(paths[index]),
                fix="look at it; remove it unless it is what its label says",
            )
            for index in plain
        ]
    )


def tell_sizes(table: LabelTable, facts: Mapping[int, Facts]) -> list[Finding]:
    """Compares the sizes that label files claim with those of the pictures.

    A picture that EXIF turns is labelled as people see it, unless the claim is that of the stored
    picture, or boxes fit only there.
    """
    findings = []
    for index, known in facts.items():
        claim = (int(table.sizes[index, 0]), int(table.sizes[index, 1]))
        if known.problem or claim == known.upright_size:
            continue
        if is_labelled_as_stored(table, index, known):
            findings.append(_turned(table, index, known))
        elif claim[0] >= 0:
            findings.append(_differs(table, index, claim, known))
    turned = [index for index, known in facts.items() if known.orientation != 1]
    told = {finding.picture for finding in findings}
    quiet = [index for index in turned if str(table.path(index)) not in told]
    if quiet:
        findings.append(
            Finding(
                "info",
                "exif-orientation",
                f"{len(quiet)} pictures are turned as their EXIF orientation says; boxes must have "
                "been drawn on the turned pictures",
                picture=str(table.path(quiet[0])),
                count=len(quiet),
            )
        )
    return cut(findings)


def is_labelled_as_stored(table: LabelTable, index: int, known: Facts) -> bool:
    """Whether the labels of a picture that EXIF turns are of the pixels before."""
    height, width = (int(side) for side in table.sizes[index])
    if known.problem or known.orientation < 5 or known.size[0] == known.size[1]:
        return False
    return (height, width) == known.size if height >= 0 else _fits_stored_only(table, index, known)


def _fits_stored_only(table: LabelTable, index: int, known: Facts) -> bool:
    boxes = table.boxes[table.objects(index)]
    (height, width), (turned_height, turned_width) = known.size, known.upright_size
    far = boxes[:, 2:].max(0, initial=0)
    fits = far[0] <= width and far[1] <= height
    return bool(fits and (far[0] > turned_width or far[1] > turned_height))


def _turned(table: LabelTable, index: int, known: Facts) -> Finding:
    height, width = known.size
    return Finding(
        "error",
        "labels-not-turned",
        f"expected labels of the picture as it is seen, {height} wide and {width} high after its "
        f"EXIF orientation {known.orientation}, got labels of the stored {width} x {height}",
        file=table.label_file(index),
        picture=str(table.path(index)),
        fix="turn the stored pixels and remove the orientation's tag, with the labels as they are",
    )


def _differs(table: LabelTable, index: int, claim: tuple[int, int], known: Facts) -> Finding:
    height, width = known.upright_size
    hint = "; width and height are exchanged" if claim == (width, height) else ""
    return Finding(
        "error",
        "size-differs",
        f"expected a picture of width {claim[1]} and height {claim[0]} as the labels say, got "
        f"{width} x {height}{hint}",
        file=table.label_file(index),
        picture=str(table.path(index)),
        fix="find the picture that was labelled, or scale its boxes",
    )


def rule_sizes(table: LabelTable, facts: Mapping[int, Facts]) -> NDArray[np.int64]:
    """Sizes that boxes are judged by, shape (P, 2): those claimed, else those of the pictures.

    A wrong size is told once, not again for each of its boxes.
    """
    sizes = table.sizes.copy()
    for index, known in facts.items():
        if known.problem or sizes[index, 0] >= 0:
            continue
        stored = known.orientation >= 5 and _fits_stored_only(table, index, known)
        sizes[index] = known.size if stored else known.upright_size
    return sizes
