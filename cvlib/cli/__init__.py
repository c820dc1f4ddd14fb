"""The command ``cvlib``.

One file per subcommand: its options are a dataclass, and its function calls the library and prints.
A subcommand is imported when it is called.
"""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Sequence

GOOD, WRONG, USAGE, INTERRUPTED = 0, 1, 2, 130

COMMANDS = {
    "check": "check the labels and images of a dataset",
    "show": "draw a dataset: images, augmentations, anchors, training targets",
    "train": "train a model on your own data",
    "val": "evaluate a trained model on a dataset",
    "predict": "predict on images, folders, videos and cameras",
    "info": "show the installation, or a summary of a model or dataset",
    "bench": "measure the speed of operators, data loading and models",
}

HELP = f"""usage: cvlib COMMAND [OPTIONS]

Object detection, segmentation and classification on your own data.

{chr(10).join(f"  {name:8} {words}" for name, words in COMMANDS.items())}

From a folder to a model in use:

  cvlib check bananas/                          find wrong labels and damaged images
  cvlib train bananas/ --out runs/bananas       check again, train, evaluate
  cvlib val runs/bananas bananas/               metrics by class, worst images
  cvlib predict runs/bananas photos/ clip.mp4   images, COCO, YOLO, CSV, JSON

cvlib COMMAND --help explains every option. cvlib --version prints the version.

Exit codes: 0 success; 1 wrong input or data, or a check that found errors; 2 wrong usage;
130 interrupted. Errors are printed to standard error.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: Command-line arguments; defaults to those of the process.

    Returns:
        Exit code: 0 for success, 1 for wrong input or data, 2 for wrong usage, 130 if interrupted.

    Example:
        >>> main(["--version"])  # doctest: +ELLIPSIS
        cvlib ...
        0
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return GOOD if arguments else USAGE
    if arguments[0] in ("-V", "--version"):
        from cvlib._version import __version__

        print(f"cvlib {__version__}")
        return GOOD
    name, *rest = arguments
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, 1)
        advice = f"did you mean {near[0]}?" if near else f"commands: {', '.join(COMMANDS)}"
        print(f"cvlib: expected a command, got {name!r}; {advice}", file=sys.stderr)
        return USAGE
    from cvlib.cli.errors import run

    command = importlib.import_module(f"cvlib.cli.{name}")
    return run(f"cvlib {name}", command.main, rest)
