"""Errors of commands: one line on standard error, and an exit code."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Sequence

from cvlib.cli import GOOD, INTERRUPTED, USAGE, WRONG

# Errors that users can cause and fix; others are bugs of cvlib and keep their traceback.
_EXPECTED = (OSError, ValueError, TypeError, ImportError, FloatingPointError, MemoryError)


class UsageError(Exception):
    """Wrong options, or options that contradict each other."""


def run(name: str, command: Callable[[Sequence[str]], int], arguments: Sequence[str]) -> int:
    """Call a command and turn its errors into exit codes.

    Args:
        name: Prefix of messages, such as ``"cvlib train"``.
        command: Function that takes the arguments and returns an exit code.
        arguments: Command-line arguments without the command's name.

    Returns:
        Exit code of the process.
    """
    with warnings.catch_warnings():
        # Warnings of cvlib are about the user's data: show every one.
        warnings.filterwarnings("always", category=UserWarning, module=r"cvlib\b")
        warnings.showwarning = _show_warning  # type: ignore[assignment]
        try:
            return command(arguments)
        except KeyboardInterrupt:
            print(f"{name}: interrupted", file=sys.stderr)
            return INTERRUPTED
        except SystemExit as end:  # raised by the option parser
            return end.code if isinstance(end.code, int) else GOOD
        except UsageError as error:
            print(f"{name}: {error}; see {name} --help", file=sys.stderr)
            return USAGE
        except BrokenPipeError:  # the reader of the output, such as head, has exited
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return WRONG
        except _EXPECTED as error:
            print(f"{name}: {error}", file=sys.stderr)
            return WRONG


def _show_warning(message: object, *_: object) -> None:
    print(f"warning: {message}", file=sys.stderr)
