"""What the label doctor says of a data set."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cvlib.data.labels.findings import ADVICE_FIX, BadLabelsError, Finding, counted, errors_of

if TYPE_CHECKING:
    from cvlib.data.check.statistics import Histogram

_ORDER = {"error": 0, "warning": 1, "info": 2}
_EXAMPLES = 3


@dataclass(frozen=True)
class Report:
    """All that was found in a data set.

    Attributes:
        source: What was checked, in words.
        findings: Errors first, then warnings, then facts; of one code together.
        summary: Numbers of images, objects and classes, sizes, and what else was counted; under
            ``"others"`` the same of further splits, by their names.
        histograms: For `save_html`.
    """

    source: str
    findings: tuple[Finding, ...]
    summary: dict[str, Any]
    histograms: tuple[Histogram, ...] = field(default=(), repr=False)

    @property
    def errors(self) -> list[Finding]:
        """What would train a model wrongly, or stop a training."""
        return errors_of(self.findings)

    @property
    def warnings(self) -> list[Finding]:
        """What probably is a mistake."""
        return [finding for finding in self.findings if finding.severity == "warning"]

    @property
    def verdict(self) -> str:
        """How many errors and warnings there are, in words."""
        groups = {"error": self.errors, "warning": self.warnings}
        return ", ".join(
            counted(sum(one.count for one in group), word) for word, group in groups.items()
        )

    def counts(self) -> dict[str, int]:
        """How often each code was found, in the order of the findings."""
        counted: Counter[str] = Counter()
        for finding in self.findings:
            counted[finding.code] += finding.count
        return dict(counted)

    def of_code(self, code: str) -> list[Finding]:
        """The findings of one kind."""
        return [finding for finding in self.findings if finding.code == code]

    def raise_if_bad(self) -> None:
        """Raises `BadLabelsError` with all errors, if there are any."""
        if self.errors:
            advice = [ADVICE_FIX] if self.summary.get("task") == "detection" else []
            raise BadLabelsError(self.source, self.errors, *advice)

    def __str__(self) -> str:
        lines = [f"{self.source}: {_facts(self.summary)}"]
        for code, number in self.counts().items():
            found = self.of_code(code)
            times = f" ({number} times)" if number > 1 else ""
            lines.append(f"{found[0].severity}: {code}{times}")
            lines += [f"  {_without_fix(finding)}" for finding in found[:_EXAMPLES]]
            if len(found) > _EXAMPLES:
                lines.append(f"  ... and {len(found) - _EXAMPLES} more")
            if found[0].fix:
                lines.append(f"  what to do: {found[0].fix}")
        return "\n".join([*lines, self.verdict])

    def to_json(self) -> str:
        """All of it for machines: source, summary, counts and every finding."""
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
        """Writes one self-contained page: counts, histograms, worst examples with their boxes.

        Args:
            path: Of the page; its folder must exist. An older page there is replaced.

        Returns:
            The path.

        Raises:
            ImportError: jinja2 is not installed.
        """
        from cvlib.data.check.page import save_page

        return save_page(self, Path(path))

    def save_png(self, path: str | Path) -> Path:
        """Writes the worst examples as one image.

        Args:
            path: Of the image; its folder must exist. An older image there is replaced.

        Returns:
            The path.
        """
        from cvlib.data.check.page import save_sheet

        return save_sheet(self, Path(path))


def sort_findings(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Errors first; of one code together, in the order in which codes and findings came."""
    every: Sequence[Finding] = list(dict.fromkeys(findings))  # what splits share is told once
    place: dict[str, int] = {}
    for finding in every:
        place.setdefault(finding.code, len(place))
    return tuple(sorted(every, key=lambda one: (_ORDER[one.severity], place[one.code])))


def _without_fix(finding: Finding) -> str:
    text = str(finding)
    return text[: -len(finding.fix) - 2] if finding.fix else text


def _facts(summary: dict[str, Any]) -> str:
    every = [summary, *summary.get("others", {}).values()]
    numbers = [
        " + ".join(f"{one[key]:,}" for one in every if key in one) + f" {key}"
        for key in ("images", "objects")
        if key in summary
    ]
    classes = len(summary.get("classes", []))
    return ", ".join([*numbers, f"{classes} class{'es' if classes != 1 else ''}"])
