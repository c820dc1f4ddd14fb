"""The check of a classification set: pictures in class folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from cvlib.data.check import _picture_rules as rules
from cvlib.data.check._duplicates import find_equal, tell_twice
from cvlib.data.check._parts import Checked, cut
from cvlib.data.check._pictures import Facts, list_missing, scan
from cvlib.data.check._statistics import Histogram, count_classes
from cvlib.data.classification import ClassificationDataset
from cvlib.data.findings import Finding

_IMBALANCE = 20


def check_classification(data: ClassificationDataset, *, fast: bool, progress: bool) -> Checked:
    """Looks over pictures and classes.

    Args:
        data: The set.
        fast: Look only whether the pictures are there.
        progress: Show bars.
    """
    paths = [Path(path) for path in data.pictures]
    missing = list_missing(paths)
    skip = range(len(paths)) if fast else missing
    facts = scan(paths, decode=True, progress=progress, skip=skip)
    findings = [
        *data.findings,
        *rules.tell_missing(paths, missing, [str(path.parent) for path in paths]),
        *rules.tell_unreadable(paths, facts),
        *rules.tell_placeholders(paths, facts),
    ]
    contradictions = _tell_contradictions(data, paths, facts)
    findings += contradictions
    told = {finding.picture for finding in contradictions}
    findings += [one for one in tell_twice(paths, facts) if one.picture not in told]
    counts = count_classes(data.labels, data.classes)
    place = _common_folder(paths)
    findings += _about_classes(counts, place)
    return Checked(
        source=place,
        paths=paths,
        facts=facts,
        classes=data.classes,
        counts=counts,
        findings=findings,
        summary={
            "task": "classification",
            "pictures": len(paths),
            "classes": list(data.classes),
            "pictures_per_class": counts,
        },
        histograms=(Histogram("pictures of a class", tuple(counts), tuple(counts.values())),),
    )


def _common_folder(paths: Sequence[Path]) -> str:
    return str(paths[0].parent.parent) if paths else "no pictures"


def _tell_contradictions(
    data: ClassificationDataset, paths: Sequence[Path], facts: Mapping[int, Facts]
) -> list[Finding]:
    return cut(
        [
            Finding(
                "error",
                "picture-in-two-classes",
                f"expected one class for a picture, got {data.classes[data.labels[second]]!r}, and "
                f"{data.classes[data.labels[first]]!r} for the same file {paths[first]}",
                picture=str(paths[second]),
                fix="remove the wrong one of the two",
            )
            for first, second in find_equal(facts)
            if data.labels[first] != data.labels[second]
        ]
    )


def _about_classes(counts: Mapping[str, int], place: str) -> list[Finding]:
    findings = [
        Finding(
            "error",
            "empty-class",
            f"expected pictures of class {name!r}, got none",
            file=place,
            fix="add pictures or remove the class",
        )
        for name, count in counts.items()
        if not count
    ]
    used = {name: count for name, count in counts.items() if count}
    if used and max(used.values()) >= _IMBALANCE * min(used.values()):
        most, least = max(used, key=used.__getitem__), min(used, key=used.__getitem__)
        findings.append(
            Finding(
                "info",
                "class-imbalance",
                f"{most!r} has {used[most]} pictures and {least!r} has {used[least]}",
                file=place,
            )
        )
    return findings
