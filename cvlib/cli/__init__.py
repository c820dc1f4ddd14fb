"""The command ``cvlib``.

One file for each command: its options are a dataclass, and its function calls the library and
prints. A command is imported when it is called.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

GOOD, WRONG, USAGE, INTERRUPTED = 0, 1, 2, 130

COMMANDS = {
    "check": "look a data set over: what is wrong with its labels and images",
    "show": "draw a data set: its images, transforms, anchors, what is matched to what",
    "train": "train a model on your own data",
    "val": "measure a trained model on a data set",
    "predict": "show images, folders, videos, cameras to a trained model",
    "info": "what is installed and accelerated; facts of a model or a data set",
    "bench": "how fast operators, data and models are on this machine",
}

HELP = f"""usage: cvlib COMMAND [OPTIONS]

Object detection, segmentation and classification on your own data.

{chr(10).join(f"  {name:8} {words}" for name, words in COMMANDS.items())}

From a folder to a model that is used:

  cvlib check bananas/                          what is wrong with the labels?
  cvlib train bananas/ --out runs/bananas       checks again, trains, measures
  cvlib val runs/bananas bananas/               figures by class, worst images
  cvlib predict runs/bananas photos/ clip.mp4   images, COCO, YOLO, CSV, JSON

cvlib COMMAND --help explains every option. cvlib --version.

Exit codes: 0 good; 1 wrong input or data, or a check that found errors; 2 wrong usage;
130 interrupted. What is printed about errors goes to standard error.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        arguments: Instead of those of the process.

    Returns:
        The exit code: 0 good, 1 wrong input or data, 2 wrong usage, 130 interrupted.

    Example:
        >>> main(["--version"])  # doctest: +ELLIPSIS
        cvlib ...
        0
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return GOOD if given else USAGE
    if given[0] in ("-V", "--version"):
        from cvlib._version import __version__

        print(f"cvlib {__version__}")
        return GOOD
    name, *rest = given
    if name not in COMMANDS:
        return _refuse(name)
    from cvlib.cli.running import run

    command = importlib.import_module(f"cvlib.cli.{name}")
    return run(f"cvlib {name}", command.main, rest)


def _refuse(name: str) -> int:
    import difflib

    near = difflib.get_close_matches(name, COMMANDS, 1)
    advice = f"did you mean {near[0]}?" if near else f"there are {', '.join(COMMANDS)}"
    print(f"cvlib: expected a command, got {name!r}; {advice}", file=sys.stderr)
    return USAGE
