"""What all commands share: parsing, errors as one line, exit codes."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from cvlib.cli import GOOD, INTERRUPTED, USAGE, WRONG

T = TypeVar("T")
# What users can cause and mend; anything else is a fault of cvlib and shows its traceback.
_EXPECTED = (OSError, ValueError, TypeError, ImportError, FloatingPointError, MemoryError)


class UsageError(Exception):
    """Options that do not go together."""


def run(name: str, command: Callable[[Sequence[str]], int], arguments: Sequence[str]) -> int:
    """Calls a command; what goes wrong becomes a line on standard error and an exit code.

    Args:
        name: For messages.
        command: Gets the arguments and gives an exit code.
        arguments: Without the command's name.
    """
    with warnings.catch_warnings():
        # What cvlib warns of is about the user's data: told every time.
        warnings.filterwarnings("always", category=UserWarning, module=r"cvlib\b")
        warnings.showwarning = _show_warning  # type: ignore[assignment]
        try:
            return command(arguments)
        except KeyboardInterrupt:
            print(f"{name}: interrupted", file=sys.stderr)
            return INTERRUPTED
        except SystemExit as end:  # of the parser
            return end.code if isinstance(end.code, int) else GOOD
        except UsageError as error:
            print(f"{name}: {error}; see {name} --help", file=sys.stderr)
            return USAGE
        except BrokenPipeError:  # the reader of our output, such as head, has enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return WRONG
        except _EXPECTED as error:
            print(f"{name}: {error}", file=sys.stderr)
            return WRONG


def parse(
    kind: type[T],
    name: str,
    description: str,
    arguments: Sequence[str],
    parser: Callable[..., Any] | None = None,
    **options: Any,
) -> T:
    """Reads the options of a command from its arguments.

    Args:
        kind: Dataclass of the options.
        name: Of the command, such as ``"cvlib train"``.
        description: What ``--help`` says first.
        arguments: Without the command's name.
        parser: Instead of ``tyro.cli``, with the arguments of `tyro.cli`.
        options: For the parser.

    Raises:
        UsageError: An option is unknown, missing or wrong.
        SystemExit: ``--help``.
    """
    import tyro

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            call = tyro.cli if parser is None else parser
            parsed: T = call(
                kind, prog=name, description=description, args=list(arguments), **options
            )
    except SystemExit as end:
        if end.code in (0, None):
            raise
        raise UsageError(_one_line(said.getvalue())) from None
    return parsed


def _one_line(box: str) -> str:
    """What the parser says in a box, without the box and what it repeats of the help."""
    lines = [re.sub(r"[│╭╮╰╯]|─{2,}", "", line).strip() for line in box.splitlines()]
    title, *rest = [line for line in lines if line] or ["wrong options"]
    words = []
    for line in rest:
        if line.startswith(("For full helptext", "Argument helptext")):
            break
        words.append(line)
    return re.sub(r"\s+", " ", " ".join(words) or title)


def _show_warning(message: Any, *_: object) -> None:
    print(f"warning: {message}", file=sys.stderr)


def choose_folder(name: str) -> Path:
    """A new run folder in ``runs``: NAME, NAME-2, and so on."""
    number = 1
    while (folder := Path("runs") / (name if number == 1 else f"{name}-{number}")).exists():
        number += 1
    return folder


def new_folder(path: Path, *, overwrite: bool = False) -> Path:
    """Makes a folder for results.

    Raises:
        FileExistsError: It has something in it, and ``overwrite`` is False; or it is that of a
            training run, whose figures would be replaced.
    """
    if any((path / name).exists() for name in ("last.pt", "best.pt")):
        raise FileExistsError(f"expected a folder for results, got the run {path}; choose another")
    if path.is_dir() and any(path.iterdir()) and not overwrite:
        raise FileExistsError(
            f"expected a new or empty folder, got {path}; choose another --out, or allow "
            "--overwrite"
        )
    path.mkdir(parents=True, exist_ok=True)
    return path


def check_new(path: Path, *, overwrite: bool = False) -> Path:
    """Gives a path for a new file, its folder made.

    Raises:
        FileExistsError: There is a file, and ``overwrite`` is False.
    """
    if path.exists() and not overwrite:
        raise FileExistsError(
            f"expected a new file, got {path}, which is there; choose another name, or allow "
            "--overwrite"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
