"""cvlib val: metrics of a trained model on a dataset."""

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
from cvlib.cli.datasets import choose_split
from cvlib.cli.models import load_model
from cvlib.cli.options import parse
from cvlib.cli.outputs import choose_folder, make_folder
from cvlib.data import load_dataset
from cvlib.data.datasets.detection import BadLabels
from cvlib.data.load import find_splits
from cvlib.engine import Evaluation
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

DESCRIPTION = """Evaluate a trained model on a dataset: metrics by class, plots, worst images.

    cvlib val runs/bananas bananas/
    cvlib val runs/bananas/last.pt bananas/ --split train --out metrics
    cvlib val runs/mine bananas/ --model package.module:MyModel

Writes metrics.json, table.txt, confusion.png and worst.png, and for detection precision_recall.png
and errors.png.
"""


@dataclass(frozen=True)
class Arguments:
    """Options of ``cvlib val``."""

    checkpoint: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="CHECKPOINT")]
    """Run folder or checkpoint."""
    data: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    """Folder or label file of the dataset."""
    model: str | None = None
    """Class of a model of your own, package.module:Class. Unset: a built-in model."""
    split: str = "val"
    """Split to evaluate; ignored for datasets without splits."""
    out: Path | None = None
    """Output folder, new or empty. Unset: runs/val, runs/val-2, and so on."""
    batch_size: int = 32
    """Images per forward pass."""
    workers: int | None = None
    """Number of processes that load images; 0 loads in this one. Unset: half of the cores."""
    worst: int = 8
    """Number of worst images to draw."""
    max_bad_share: float = 0.01
    """Maximum share of unreadable images; one is always allowed, unless 0."""
    bad_labels: BadLabels = "raise"
    """Handling of invalid labels: raise lists them and stops, drop ignores them."""
    device: str = "auto"
    """Device: auto (CUDA if available), cpu, cuda or cuda:N."""
    overwrite: bool = False
    """Write into a folder that holds files."""


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    options = parse(Arguments, "cvlib val", DESCRIPTION, arguments)
    model = load_model(options.checkpoint, options.model, choose_device(options.device))
    split = choose_split(find_splits(options.data), options.split, options.data)
    complete = load_dataset(options.data, split, bad_labels=options.bad_labels)
    out = choose_folder("val") if options.out is None else options.out
    make_folder(out, overwrite=options.overwrite)
    evaluation, dataset = evaluate_readable(
        model,
        complete,
        options.max_bad_share,
        print,
        batch_size=options.batch_size,
        workers=choose_workers(options.workers, complete),
    )
    print(evaluation.report())
    print(evaluation)
    save_json(out / "metrics.json", evaluation.as_dict())
    write_text(out / "table.txt", evaluation.report() + "\n")
    for name, image in draw_plots(evaluation, dataset, options.worst).items():
        write_png(out / f"{name}.png", image)
    print(f"see {out}")
    return GOOD


def draw_plots(evaluation: Evaluation, dataset: Dataset, worst: int) -> dict[str, Image.Image]:
    """Draw the plots and worst images of an evaluation, by file name."""
    plots: dict[str, Image.Image] = {}
    if isinstance(evaluation, DetectionEvaluation) and evaluation.images is not None:
        images, classes = evaluation.images, evaluation.images.classes
        matrix = DetectionConfusionMeter(classes).merge(images).compute()
        errors = ErrorMeter(classes).merge(images).compute()
        print(errors.table())
        plots["confusion"] = plot_confusion(matrix)
        plots["errors"] = plot_errors(errors)
        curves = PrecisionRecallMeter(classes).merge(images).compute()
        plots["precision_recall"] = plot_precision_recall(curves)
    elif isinstance(evaluation, ClassificationEvaluation | SegmentationEvaluation):
        if evaluation.metrics.confusion is not None:
            plots["confusion"] = plot_confusion(evaluation.metrics.confusion)
    try:
        plots["worst"] = draw_worst(evaluation, dataset, worst)
    except (TypeError, ValueError) as error:
        print(f"no worst images: {error}")
    return plots
