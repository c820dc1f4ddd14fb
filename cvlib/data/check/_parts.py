"""What the check of one set gives, for the report and for comparisons with other sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cvlib.data.check._pictures import Facts
from cvlib.data.check._statistics import Histogram
from cvlib.data.findings import Finding
from cvlib.data.label_rules import MOST_OF_A_KIND


@dataclass(frozen=True)
class Checked:
    """One set, looked over.

    Attributes:
        source: In words.
        paths: Of the pictures.
        facts: What is known of them, by index; read whole in the full form.
        classes: Names.
        counts: Objects, pictures or pixels of each class; empty where nobody counted.
        findings: What is wrong with it.
        summary: Plain values for the report.
        histograms: For the page.
        folder: Of the pictures, where every picture in it should be one of a split.
        split: Name of the split; empty: not one of several.
    """

    source: str
    paths: Sequence[Path]
    facts: Mapping[int, Facts]
    classes: tuple[str, ...]
    counts: Mapping[str, int]
    findings: list[Finding]
    summary: dict[str, Any]
    histograms: tuple[Histogram, ...] = field(default=())
    folder: Path | None = None
    split: str = ""

    @property
    def name(self) -> str:
        """The source and the split: several splits may lie in one place."""
        return f"{self.source}, split {self.split}" if self.split else self.source


def cut(findings: list[Finding]) -> list[Finding]:
    """The first thousand of each code, and one that counts the rest."""
    groups: dict[str, list[Finding]] = {}
    for finding in findings:
        groups.setdefault(finding.code, []).append(finding)
    return [finding for group in groups.values() for finding in _cut(group)]


def _cut(findings: list[Finding]) -> list[Finding]:
    rest = len(findings) - MOST_OF_A_KIND
    if rest <= 0:
        return findings
    more = replace(
        findings[0], message=f"{rest} more like these", row="", picture="", box=None, count=rest
    )
    return [*findings[:MOST_OF_A_KIND], more]
