"""cvlib val: how good a trained model is on a data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from PIL import Image
from torch.utils.data import Dataset

from cvlib._files import save_json, write_text
from cvlib.cli import GOOD
from cvlib.cli._inputs import name_split
from cvlib.cli.running import choose_folder, new_folder, parse
from cvlib.data import load_dataset
from cvlib.data.datasets.detection import BadLabels
from cvlib.data.load import find_splits
from cvlib.engine import Evaluation, load
from cvlib.engine.batches import choose_workers
from cvlib.engine.device import choose_device
from cvlib.engine.evaluation_results import (
    ClassificationEvaluation,
    DetectionEvaluation,
    SegmentationEvaluation,
)
from cvlib.engine.hard_examples import draw_worst
from cvlib.engine.unreadable import evaluate_readable
from cvlib.metrics import (
    DetectionConfusionMeter,
    ErrorMeter,
    PrecisionRecallMeter,
    plot_confusion,
    plot_errors,
    plot_precision_recall,
)
from cvlib.predict.writers.images import write_png

DESCRIPTION = """Measures a trained model on a data set: figures by class, plots, worst images.

    cvlib val runs/bananas bananas/
    cvlib val runs/bananas/last.pt bananas/ --split train --out figures

--out gets metrics.json, table.txt, confusion.png, worst.png, and for detection precision_recall.png
and errors.png.
"""


@dataclass(frozen=True)
class Arguments:
    """Measures a model."""

    model: Annotated[Path, tyro.conf.Positional]
    """Run folder or checkpoint."""
    data: Annotated[Path, tyro.conf.Positional]
    """Folder or file of the data set."""
    split: str = "val"
    """Part of the set; a set that is not divided is taken whole."""
    out: Path | None = None
    """Folder for figures and images, new or empty. Unset: runs/val, runs/val-2, and so on."""
    batch_size: int = 32
    """Images in one forward pass."""
    workers: int | None = None
    """Processes that load images; 0: this one. Unset: half of the cores."""
    worst: int = 8
    """How many of the worst images are drawn."""
    max_bad_share: float = 0.01
    """Share of the images that may be unreadable, but at least one image (none with 0)."""
    bad_labels: BadLabels = "raise"
    """Labels that cannot be right: "raise" refuses and lists them, "drop" leaves them out."""
    device: str = "auto"
    """"auto": CUDA when there is one, else the CPU."""
    overwrite: bool = False
    """Write into a folder that has something in it."""


def main(arguments: Sequence[str]) -> int:
    """Runs the command."""
    options = parse(Arguments, "cvlib val", DESCRIPTION, arguments)
    model = load(options.model, choose_device(options.device))
    split = name_split(find_splits(options.data), options.split, options.data)
    given = load_dataset(options.data, split, bad_labels=options.bad_labels)
    out = choose_folder("val") if options.out is None else options.out
    new_folder(out, overwrite=options.overwrite)
    found, dataset = evaluate_readable(
        model,
        given,
        options.max_bad_share,
        print,
        batch_size=options.batch_size,
        workers=choose_workers(options.workers, given),
    )
    print(found.report())
    print(found)
    save_json(out / "metrics.json", found.as_dict())
    write_text(out / "table.txt", found.report() + "\n")
    for name, image in plot(found, dataset, options.worst).items():
        write_png(out / f"{name}.png", image)
    print(f"see {out}")
    return GOOD


def plot(found: Evaluation, dataset: Dataset, worst: int) -> dict[str, Image.Image]:
    """Draws what an evaluation gives, by name."""
    plots: dict[str, Image.Image] = {}
    if isinstance(found, DetectionEvaluation) and found.images is not None:
        images, classes = found.images, found.images.classes
        matrix = DetectionConfusionMeter(classes).merge(images).compute()
        errors = ErrorMeter(classes).merge(images).compute()
        print(errors.table())
        plots["confusion"] = plot_confusion(matrix)
        plots["errors"] = plot_errors(errors)
        curves = PrecisionRecallMeter(classes).merge(images).compute()
        plots["precision_recall"] = plot_precision_recall(curves)
    elif isinstance(found, ClassificationEvaluation | SegmentationEvaluation):
        if found.metrics.confusion is not None:
            plots["confusion"] = plot_confusion(found.metrics.confusion)
    try:
        plots["worst"] = draw_worst(found, dataset, worst)
    except (TypeError, ValueError) as error:
        print(f"no worst images: {error}")
    return plots
