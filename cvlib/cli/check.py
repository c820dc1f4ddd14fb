"""cvlib check: wrong labels and damaged images of a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from cvlib._files import write_text
from cvlib.cli import GOOD, WRONG
from cvlib.cli.models import open_model
from cvlib.cli.options import parse
from cvlib.cli.outputs import prepare_file
from cvlib.data.check import Report, check_dataset

DESCRIPTION = """Check a dataset: labels, images, duplicates, leaks between its splits.

    cvlib check bananas/
    cvlib check train.json --val val.json --html report.html
    cvlib check bananas/ --model tiny_ssd --fast
    cvlib check bananas/ --fix bananas-fixed

Files of the dataset are never changed. The exit code is 1 if there are errors; with --fix, if the
corrected copy has errors.
"""


@dataclass(frozen=True)
class Arguments:
    """Options of ``cvlib check``."""

    data: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    """Folder or label file of the dataset; all splits are checked."""
    val: Path | None = None
    """Another dataset for validation, checked and compared with the first."""
    fast: bool = False
    """Check only labels, file names and headers, without decoding images."""
    model: str | None = None
    """Model whose anchors must match the boxes: a name such as tiny_ssd, package.module:Class, or a
    run folder."""
    fix: Path | None = None
    """New folder for a corrected copy (COCO JSON and links to the images)."""
    html: Path | None = None
    """Output file of an HTML report with statistics and examples."""
    png: Path | None = None
    """Output file of an image with examples."""
    json: Path | None = None
    """Output file of all findings as JSON."""
    overwrite: bool = False
    """Replace existing files of --html, --png and --json."""


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    options = parse(Arguments, "cvlib check", DESCRIPTION, arguments)
    for path in (options.html, options.png, options.json):
        if path is not None:
            prepare_file(path, overwrite=options.overwrite)
    report = check_dataset(
        options.data, val=options.val, model=_open_anchor_model(options.model), fast=options.fast
    )
    print(report)
    _save_report(report, options)
    if options.fix is None:
        return WRONG if report.errors else GOOD
    from cvlib.data.check.fix import fix_dataset

    changes = fix_dataset(options.data, options.fix)
    print(changes)
    print(f"the corrected copy is {options.fix}")
    return WRONG if any(finding.severity == "error" for finding in changes.left) else GOOD


def _save_report(report: Report, options: Arguments) -> None:
    if options.html is not None:
        print(f"see {report.save_html(options.html)}")
    if options.png is not None:
        print(f"see {report.save_png(options.png)}")
    if options.json is not None:
        write_text(options.json, report.to_json() + "\n")


def _open_anchor_model(name: str | None) -> object:
    """Open a model with anchors; their number and shapes do not depend on the classes."""
    if name is None:
        return None
    model = open_model(name)
    if not hasattr(model, "anchors"):
        raise ValueError(f"--model: expected a model with anchors, got {name}")
    return model
