"""cvlib check: what is wrong with a data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from cvlib._files import write_text
from cvlib.cli import GOOD, WRONG
from cvlib.cli._inputs import open_model
from cvlib.cli.running import check_new, parse
from cvlib.data.check import Report, check_dataset

DESCRIPTION = """Looks a data set over: labels, images, duplicates, leaks between its splits.

    cvlib check bananas/
    cvlib check train.json --val val.json --html report.html
    cvlib check bananas/ --model tiny_ssd --fast
    cvlib check bananas/ --fix bananas-fixed

Nothing is changed in place. The exit code is 1 when there are errors; with --fix, when the
corrected copy has some.
"""


@dataclass(frozen=True)
class Arguments:
    """Looks a data set over."""

    data: Annotated[Path, tyro.conf.Positional]
    """Folder or file of the data set; all its splits are checked."""
    val: Path | None = None
    """Another data set for validation: checked, and compared with the first."""
    fast: bool = False
    """Labels, names and headers alone: no images are decoded."""
    model: str | None = None
    """Name of a model, or a run folder: can its anchors match the boxes?"""
    fix: Path | None = None
    """New folder for a corrected copy (COCO json and links to the images)."""
    html: Path | None = None
    """File for a page with figures and the worst examples."""
    png: Path | None = None
    """File for an image of the worst examples."""
    json: Path | None = None
    """File for all findings, for programs."""
    overwrite: bool = False
    """Replace the files of --html, --png and --json where they are there."""


def main(arguments: Sequence[str]) -> int:
    """Runs the command."""
    options = parse(Arguments, "cvlib check", DESCRIPTION, arguments)
    for path in (options.html, options.png, options.json):
        if path is not None:
            check_new(path, overwrite=options.overwrite)
    report = check_dataset(
        options.data, val=options.val, model=_model(options.model), fast=options.fast
    )
    print(report)
    _save(report, options)
    if options.fix is None:
        return WRONG if report.errors else GOOD
    from cvlib.data.check.fix import fix_dataset

    changes = fix_dataset(options.data, options.fix)
    print(changes)
    print(f"the corrected copy is {options.fix}")
    return WRONG if any(one.severity == "error" for one in changes.left) else GOOD


def _save(report: Report, options: Arguments) -> None:
    if options.html is not None:
        print(f"see {report.save_html(options.html)}")
    if options.png is not None:
        print(f"see {report.save_png(options.png)}")
    if options.json is not None:
        write_text(options.json, report.to_json() + "\n")


def _model(name: str | None) -> object:
    """A model with anchors: their number and shapes do not depend on the classes."""
    if name is None:
        return None
    model = open_model(name)
    if not hasattr(model, "anchors"):
        raise ValueError(f"expected a model with anchors for --model, got {name}")
    return model
