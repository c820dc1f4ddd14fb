"""Findings: problems and facts about a dataset, one at a time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

Severity = Literal["error", "warning", "info"]

# One more finding counts the rest of its kind.
MAX_FINDINGS_PER_CODE = 1000
# In the message of an error; the report of the label doctor lists all.
_MAX_IN_MESSAGE = 20


@dataclass(frozen=True)
class Finding:
    """A problem in a dataset, or a fact about it.

    Attributes:
        severity: ``"error"``: training on it would teach something false or stop; ``"warning"``:
            probably a mistake; ``"info"``: a fact.
        code: Kind of finding in hyphenated words, such as ``"inverted-box"``; stable.
        message: What was expected and what is there.
        file: Label file or image that contains the problem.
        row: Position in the file, in words: ``"line 17"``, ``"annotation 4711"``, ``"object 2"``.
        image: Path of the affected image.
        box: Affected box, (x1, y1, x2, y2) in pixels.
        fix: What to do.
        count: Number of occurrences that this finding summarises.
    """

    severity: Severity
    code: str
    message: str
    file: str = ""
    row: str = ""
    image: str = ""
    box: tuple[float, float, float, float] | None = None
    fix: str = ""
    count: int = 1

    def __str__(self) -> str:
        place = ", ".join(part for part in (self.file or self.image, self.row) if part)
        times = f" ({self.count} times)" if self.count > 1 else ""
        advice = f"; {self.fix}" if self.fix else ""
        return f"{place}: {self.message}{times}{advice}" if place else self.message + times + advice

    def as_dict(self) -> dict[str, Any]:
        """Return all attributes as plain values."""
        return asdict(self)


# Last line of the message of BadLabelsError, for Python and for the command line.
ADVICE_FIX = "fix_dataset(data, out_folder), or cvlib check DATA --fix NEW, writes a corrected copy"
ADVICE_DROP = 'bad_labels="drop", or --bad-labels drop, leaves them out'


class BadLabelsError(ValueError):
    """Labels that would train a model wrongly; the message lists the first twenty.

    Args:
        source: Where the labels come from, in words.
        findings: Errors in them.
        advice: Remedies for all of them at once.

    Attributes:
        findings: All errors.
    """

    def __init__(self, source: str, findings: Sequence[Finding], *advice: str) -> None:
        self.findings = tuple(findings)
        self._source, self._advice = source, advice
        lines = [f"  {finding}" for finding in self.findings[:_MAX_IN_MESSAGE]]
        more = len(self.findings) - len(lines)
        if more:
            lines.append(f"  ... and {more} more")
        lines += [f"what to do: {'; '.join(advice)}"] * bool(advice)
        super().__init__(
            f"{source}: expected valid labels, got {counted(len(self.findings), 'error')}:\n"
            + "\n".join(lines)
        )

    def __reduce__(self) -> tuple[Any, ...]:
        # DataLoader workers pickle errors.
        return type(self), (self._source, self.findings, *self._advice)


def counted(number: int, word: str) -> str:
    """Return a number with its noun: ``"1 finding"``, ``"2,000 findings"``."""
    return f"{number:,} {word}{'s' if number != 1 else ''}"


def errors_of(findings: Iterable[Finding]) -> list[Finding]:
    """Return the findings of severity ``"error"``."""
    return [finding for finding in findings if finding.severity == "error"]


def limit_findings(
    findings: Iterable[Finding], totals: Mapping[str, int] | None = None
) -> list[Finding]:
    """Keep the first thousand findings of each code, and add one that counts the rest.

    Args:
        findings: Findings in any order.
        totals: Number of findings of each code, if ``findings`` already lacks some.

    Returns:
        The kept findings in their order, then one for each code with more.
    """
    kept: list[Finding] = []
    groups: dict[str, list[Finding]] = {}
    for finding in findings:
        group = groups.setdefault(finding.code, [])
        group.append(finding)
        if len(group) <= MAX_FINDINGS_PER_CODE:
            kept.append(finding)
    for code, group in groups.items():
        rest = group[MAX_FINDINGS_PER_CODE:]
        missing = (totals or {}).get(code, len(group)) - len(group)
        count = missing + sum(finding.count for finding in rest)
        if len(rest) == 1 and not missing:
            kept += rest
        elif count:
            message = f"{count} more like these"
            kept.append(replace(group[0], message=message, row="", image="", box=None, count=count))
    return kept
