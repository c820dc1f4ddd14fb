"""The check of a detection set: its label table and its pictures."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from cvlib.data.check import _picture_rules as rules
from cvlib.data.check._anchors import check_anchors
from cvlib.data.check._duplicates import tell_twice
from cvlib.data.check._instance_masks import check_masks
from cvlib.data.check._parts import Checked
from cvlib.data.check._pictures import list_missing, scan
from cvlib.data.check._statistics import find_oddities, make_histograms, summarise
from cvlib.data.label_rules import find_bad_labels, find_doubtful_labels
from cvlib.data.table import LabelTable


def check_table(
    table: LabelTable, *, model: Any, fast: bool, progress: bool, upright: bool = True
) -> Checked:
    """Looks over labels and pictures.

    Args:
        table: Labels as the files say them.
        model: Whose anchors shall fit, or None.
        fast: Read no more than is needed for the labels: headers where the labels give no sizes.
        progress: Show bars.
        upright: Labels are of the pictures as EXIF turns them; else of stored pixels.
    """
    paths = [table.path(index) for index in range(table.num_pictures)]
    files = [table.label_file(index) for index in range(table.num_pictures)]
    missing = list_missing(paths)
    # Headers are needed only where the labels do not say how large a picture is.
    known = (table.sizes[:, 0] >= 0).nonzero()[0].tolist() if fast else []
    facts = scan(paths, decode=not fast, progress=progress, skip={*missing, *known})
    if not upright:
        facts = {index: replace(one, orientation=1) for index, one in facts.items()}
    sizes = rules.rule_sizes(table, facts)
    sized = replace(table, sizes=sizes)
    label_findings, bad = find_bad_labels(sized)
    findings = [
        *table.findings,
        *rules.tell_missing(paths, missing, files),
        *rules.tell_unreadable(paths, facts),
        *rules.tell_placeholders(paths, facts),
        *rules.tell_sizes(table, facts),
        *label_findings,
    ]
    good = sized.without_objects(bad)
    findings += find_doubtful_labels(good)
    if not fast:
        findings += check_masks(good, sizes, progress=progress)
        findings += tell_twice(paths, facts)
    findings += find_oddities(table)
    if model is not None:
        findings += check_anchors(good, sizes, model)
    summary = summarise(sized)
    return Checked(
        source=f"{table.layout} in {table.root}",
        paths=paths,
        facts=facts,
        classes=table.classes,
        counts=summary["objects_per_class"],
        findings=findings,
        summary=summary,
        histograms=make_histograms(sized),
        folder=table.root if len(table.label_files) == 1 else None,
    )
