"""Reports of a check, for a split and for a dataset."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cvlib.data.check.images import ImageFacts
from cvlib.data.check.statistics import Histogram
from cvlib.data.labels.findings import ADVICE_FIX, BadLabelsError, Finding, counted, errors_of

_ORDER = {"error": 0, "warning": 1, "info": 2}
_EXAMPLES = 3


@dataclass(frozen=True)
class Report:
    """All findings of `check_dataset`.

    Attributes:
        source: Layout and path of the dataset.
        findings: Errors first, then warnings, then info; grouped by code.
        summary: Numbers of images, objects and classes, sizes, and further counts; under
            ``"others"`` the summaries of the other splits, keyed by name.
        histograms: Distributions shown by `save_html`.
    """

    source: str
    findings: tuple[Finding, ...]
    summary: dict[str, Any]
    histograms: tuple[Histogram, ...] = field(default=(), repr=False)

    @property
    def errors(self) -> list[Finding]:
        """Findings that would train a model wrongly, or stop the training."""
        return errors_of(self.findings)

    @property
    def warnings(self) -> list[Finding]:
        """Findings that are probably mistakes."""
        return [finding for finding in self.findings if finding.severity == "warning"]

    @property
    def verdict(self) -> str:
        """Number of errors and warnings as text."""
        groups = {"error": self.errors, "warning": self.warnings}
        return ", ".join(
            counted(sum(finding.count for finding in group), word) for word, group in groups.items()
        )

    def counts(self) -> dict[str, int]:
        """Return the number of occurrences of each code, in the order of the findings."""
        counts: Counter[str] = Counter()
        for finding in self.findings:
            counts[finding.code] += finding.count
        return dict(counts)

    def of_code(self, code: str) -> list[Finding]:
        """Return the findings with this code."""
        return [finding for finding in self.findings if finding.code == code]

    def raise_if_bad(self) -> None:
        """Raise `BadLabelsError` listing all errors, if there are any."""
        if self.errors:
            advice = [ADVICE_FIX] if self.summary.get("task") == "detection" else []
            raise BadLabelsError(self.source, self.errors, *advice)

    def __str__(self) -> str:
        lines = [f"{self.source}: {_sizes(self.summary)}"]
        for code, number in self.counts().items():
            group = self.of_code(code)
            times = f" ({number} times)" if number > 1 else ""
            lines.append(f"{group[0].severity}: {code}{times}")
            lines += [f"  {replace(finding, fix='')}" for finding in group[:_EXAMPLES]]
            if len(group) > _EXAMPLES:
                lines.append(f"  ... and {len(group) - _EXAMPLES} more")
            if group[0].fix:
                lines.append(f"  what to do: {group[0].fix}")
        return "\n".join([*lines, self.verdict])

    def to_json(self) -> str:
        """Return source, summary, counts and every finding as JSON text."""
        return json.dumps(
            {
                "source": self.source,
                "summary": self.summary,
                "counts": self.counts(),
                "findings": [finding.as_dict() for finding in self.findings],
            },
            indent=2,
        )

    def save_html(self, path: str | Path) -> Path:
        """Write a self-contained page: counts, histograms, worst examples with their boxes.

        Args:
            path: File to write, in an existing folder; an older file is replaced.

        Returns:
            The path.

        Raises:
            ImportError: jinja2 is not installed.
        """
        from cvlib.data.check.page import save_page

        return save_page(
            Path(path), self.source, self.verdict, self.findings, self.summary, self.histograms
        )

    def save_png(self, path: str | Path) -> Path:
        """Write the worst examples as one image.

        Args:
            path: File to write, in an existing folder; an older file is replaced.

        Returns:
            The path.
        """
        from cvlib.data.check.page import save_sheet

        return save_sheet(Path(path), f"{self.verdict}: {self.source}", self.findings)


def _sizes(summary: dict[str, Any]) -> str:
    splits = [summary, *summary.get("others", {}).values()]
    numbers = [
        " + ".join(f"{split[key]:,}" for split in splits if key in split) + f" {key}"
        for key in ("images", "objects")
        if key in summary
    ]
    classes = len(summary.get("classes", []))
    return ", ".join([*numbers, f"{classes} class{'es' if classes != 1 else ''}"])


@dataclass(frozen=True)
class SplitReport:
    """The check of one split.

    Attributes:
        source: Layout and path.
        paths: Paths of the images.
        facts: Properties of the readable images, keyed by index.
        classes: Class names.
        counts: Objects, images or pixels of each class; empty where they were not counted.
        findings: Findings, in the order of the checks.
        summary: Plain values for the report.
        histograms: Distributions for the page.
        folder: Folder of the images, if every image in it should belong to a split.
        split: Name of the split; empty for a dataset without splits.
    """

    source: str
    paths: Sequence[Path]
    facts: Mapping[int, ImageFacts]
    classes: tuple[str, ...]
    counts: Mapping[str, int]
    findings: list[Finding]
    summary: dict[str, Any]
    histograms: tuple[Histogram, ...] = ()
    folder: Path | None = None
    split: str = ""

    @property
    def name(self) -> str:
        """Source and split: several splits may share a folder."""
        return f"{self.source}, split {self.split}" if self.split else self.source


def sort_findings(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Sort by severity and group by code, otherwise in the given order; drop repetitions."""
    unique = list(dict.fromkeys(findings))  # splits may share a label file
    place: dict[str, int] = {}
    for finding in unique:
        place.setdefault(finding.code, len(place))
    unique.sort(key=lambda finding: (_ORDER[finding.severity], place[finding.code]))
    return tuple(unique)
