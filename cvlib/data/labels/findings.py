"""What is wrong with a data set, one thing at a time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Severity = Literal["error", "warning", "info"]
# In a message; the report of the label doctor has all.
_SHOWN = 20


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or that a person should know.

    Attributes:
        severity: ``"error"``: training on it would teach something false or stop; ``"warning"``:
            probably a mistake; ``"info"``: a fact.
        code: The kind of finding in words joined by hyphens, such as ``"inverted-box"``; stable.
        message: What was expected and what is there.
        file: The file that says so: of labels, or the image.
        row: Where in the file, in words: ``"line 17"``, ``"annotation 4711"``, ``"object 2"``.
        image: Path of the image it is about.
        box: (x1, y1, x2, y2) in pixels, where it is about one.
        fix: What to do.
        count: How many times it was found, where equal findings are told as one.
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
        """All of it as plain values."""
        return asdict(self)


# What the message of bad labels says last, in the words of Python and of the command line.
ADVICE_FIX = "fix_dataset(data, out_folder), or cvlib check DATA --fix NEW, writes a corrected copy"
ADVICE_DROP = 'bad_labels="drop", or --bad-labels drop, leaves them out'


class BadLabelsError(ValueError):
    """Labels that would train a model wrongly; the message lists the first twenty.

    Args:
        source: Of the labels, in words.
        findings: What is wrong with them.
        advice: What can be done about all of them.

    Attributes:
        findings: All of them.
    """

    def __init__(self, source: str, findings: Sequence[Finding], *advice: str) -> None:
        self.findings = tuple(findings)
        self._source, self._advice = source, advice
        lines = [f"  {finding}" for finding in self.findings[:_SHOWN]]
        more = len(self.findings) - len(lines)
        if more:
            lines.append(f"  ... and {more} more")
        lines += [f"what to do: {'; '.join(advice)}"] * bool(advice)
        super().__init__(
            f"{source}: expected right labels, got {len(self.findings)} that cannot be right:\n"
            + "\n".join(lines)
        )

    def __reduce__(self) -> tuple[Any, ...]:
        # Workers send errors to each other.
        return type(self), (self._source, self.findings, *self._advice)


def counted(number: int, word: str) -> str:
    """A number and what is counted: ``"1 finding"``, ``"2,000 findings"``."""
    return f"{number:,} {word}{'s' if number != 1 else ''}"


def errors_of(findings: Iterable[Finding]) -> list[Finding]:
    """Those of severity ``"error"``."""
    return [finding for finding in findings if finding.severity == "error"]
