"""Parsing of command-line options, with errors in one line."""

from __future__ import annotations

import contextlib
import difflib
import io
import re
from collections.abc import Sequence
from typing import Any, TypeVar

from cvlib.cli.errors import UsageError

Options = TypeVar("Options")


def parse(
    kind: type[Options],
    name: str,
    description: str,
    arguments: Sequence[str],
    **settings: Any,
) -> Options:
    """Parse the options of a command.

    Args:
        kind: Dataclass of the options.
        name: Name of the command, such as ``"cvlib train"``.
        description: First paragraphs of ``--help``.
        arguments: Command-line arguments without the command's name.
        settings: Further arguments of ``tyro.cli``.

    Returns:
        The options.

    Raises:
        UsageError: An option is unknown, missing or wrong.
        SystemExit: ``--help``.
    """
    import tyro

    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            options: Options = tyro.cli(
                kind, prog=name, description=description, args=list(arguments), **settings
            )
    except SystemExit as end:
        if end.code in (0, None):
            raise
        raise UsageError(_explain(errors.getvalue())) from None
    return options


def _explain(box: str) -> str:
    """Turn the parser's message, a box of text, into one line with the nearest right name."""
    # Borders are ASCII where the output is not UTF-8.
    lines = [re.sub(r"[│╭╮╰╯]|─{2,}|-{3,}", "", line).strip() for line in box.splitlines()]
    title, *rest = [line for line in lines if line] or ["wrong options"]
    text = re.split(r"For full helptext|Argument helptext", " ".join(rest) or title)[0].strip()
    if match := re.match(r"Unrecognized options: ([^\s,]+)", text):
        near = re.search(r"Perhaps you meant: (--[\w-]+)", text)
        advice = f"; did you mean {near[1]}?" if near else ""
        return f"expected an option of this command, got {match[1]}{advice}"
    if match := re.match(
        r"invalid choice '(.*?)' for argument '(.*?)'\. Expected one of (.*)", text
    ):
        names = re.findall(r"'([^']*)'", match[3])
        close = difflib.get_close_matches(match[1], names, 1)
        advice = f"; did you mean {close[0]}?" if close else ""
        return f"expected {match[2]} to be one of {', '.join(names)}, got {match[1]!r}{advice}"
    for pattern in (
        r"Error parsing (\S+): no type matching (?:\{None\}\|)?(.*?) could .*?\[(.*?)\]",
        r"Error parsing (\S+): .*? (int|float)\b.*?: ('.*')",
    ):
        if match := re.match(pattern, text):
            kind = match[2].strip("{}")
            kind = {"INT": "an integer", "FLOAT": "a number"}.get(kind.upper(), kind)
            return f"expected {match[1]} to be {kind}, got {match[3]}"
    return text
