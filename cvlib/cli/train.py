"""cvlib train: from a data set to a trained model."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from torch.utils.data import Dataset

from cvlib._distributed import rank
from cvlib._files import save_json
from cvlib.cli import GOOD, INTERRUPTED
from cvlib.cli._images import draw_predictions
from cvlib.cli._inputs import open_train_val
from cvlib.cli.running import UsageError, choose_folder, parse
from cvlib.data.datasets.detection import BadLabels
from cvlib.data.load import AnyDataset
from cvlib.engine import TrainConfig, config_for, evaluate, fit
from cvlib.engine.checkpoint import load_checkpoint
from cvlib.engine.config import load_config
from cvlib.engine.device import from_first, join_processes
from cvlib.engine.memory import keep_freed_memory
from cvlib.engine.run import Run
from cvlib.engine.run_folder import check_is_run
from cvlib.engine.summary import summary
from cvlib.models import Model, create_model
from cvlib.predict.writers.images import write_png

DESCRIPTION = """Checks a data set, trains a model on it and measures it.

    cvlib train bananas/ --out runs/bananas
    cvlib train flowers/ --model mobilenet_v2 --weights backbone.pth --epochs 5
    cvlib train shop.json --val shop-val.json --image-size 320 320 --batch-size 32
    cvlib train --resume --out runs/bananas
    cvlib train bananas/ --out runs/bananas --resume        goes on, or starts
    cvlib train bananas/ --config runs/bananas/run.yaml --seed 1
    torchrun --nproc-per-node 2 -m cvlib train bananas/ --out runs/two

Layouts (COCO, VOC, YOLO, CSV, ImageFolder, masks, bananas) are recognised by looking. Settings left
out are those of the model's own recipe. Ctrl-C saves; --resume goes on from there.
"""
Resume = bool | Literal["auto"]
# What is trained where no model is named.
MODELS = {"detection": "tiny_ssd", "classification": "resnet18"}


@dataclass(frozen=True)
class Arguments(TrainConfig):
    """Trains a model on a data set."""

    data: Annotated[Path | None, tyro.conf.Positional] = None
    """Folder or file of the data set; may be left out with --resume."""
    val: Path | None = None
    """Another data set for validation. Unset: the set's own split for it, or a part of the training
    images."""
    val_share: float = 0.2
    """Share of the images that are set apart where there is no validation split."""
    model: str | None = None
    """Name of the model. Unset: tiny_ssd for detection, resnet18 for classification."""
    weights: Path | None = None
    """File of weights for the backbone, where the model takes one."""
    image_size: tuple[int, int] | None = None
    """Height and width that images are brought to. Unset: the model's own."""
    out: Path | None = None
    """Run folder. Unset: runs/MODEL, runs/MODEL-2, and so on."""
    resume: bool = False
    """Go on with the run in --out where it was interrupted, with its data and settings. Where a
    data set is named, too, start when there is nothing to go on with: for jobs of a cluster, which
    are started again and again."""
    config: Path | None = None
    """YAML file of settings, such as run.yaml of another run; the other options override it."""
    bad_labels: BadLabels = "raise"
    """Labels that cannot be right: "raise" refuses to train and lists them, "drop" leaves them out
    and says so."""
    cache: bool = False
    """Keep decoded images in memory."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.val_share < 1:
            raise UsageError(f"expected --val-share in (0, 1), got {self.val_share}")
        if self.resume and self.out is None:
            raise UsageError("expected --out with --resume, got none")


@dataclass(frozen=True)
class Source:
    """Where the images of a run come from; stands in its folder as data.json."""

    data: str
    val: str | None = None
    val_share: float = 0.2
    seed: int = 0
    bad_labels: BadLabels = "raise"
    cache: bool = False

    def open(self) -> tuple[AnyDataset, AnyDataset]:
        """The training and the validation set."""
        return open_train_val(
            Path(self.data),
            None if self.val is None else Path(self.val),
            val_share=self.val_share,
            seed=self.seed,
            bad_labels=self.bad_labels,
            cache=self.cache,
            log=log,
        )


def main(arguments: Sequence[str]) -> int:
    """Runs the command."""
    options = parse(Arguments, "cvlib train", DESCRIPTION, arguments)
    if options.data is None and not options.resume:
        raise UsageError("expected a data set, got none")
    keep_freed_memory()
    join_processes(options.device)
    if options.data is None:
        return _resume(options, arguments)
    # torchrun gives the same command again after a death, without --resume.
    is_restarted = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
    resume: Resume = "auto" if options.resume or is_restarted else False
    return _start(options, arguments, resume)


def _start(options: Arguments, arguments: Sequence[str], resume: Resume) -> int:
    assert options.data is not None  # checked by main
    # The seed may stand in the file; the model's own recipe, which is not known yet, has none.
    seed = _read_settings(TrainConfig(), options.config, arguments).seed
    source = Source(
        str(options.data.absolute()),
        None if options.val is None else str(options.val.absolute()),
        options.val_share,
        seed,
        options.bad_labels,
        options.cache,
    )
    train, val = source.open()
    name = options.model or MODELS.get(train.task)
    if name is None:
        raise ValueError(f"expected a set for {' or '.join(MODELS)}, got one for {train.task}")
    config = _read_settings(config_for(name), options.config, arguments)
    torch.manual_seed(config.seed)
    given = {"image_size": options.image_size, "weights": options.weights}
    model = create_model(name, train.classes, **{k: v for k, v in given.items() if v is not None})
    out = from_first(lambda: choose_folder(name) if options.out is None else options.out)
    return train_model(model, train, val, config, out, asdict(source), resume)


def _read_settings(base: TrainConfig, file: Path | None, arguments: Sequence[str]) -> TrainConfig:
    """Settings of a model or a run, overridden by the file, overridden by the command line."""
    default = Arguments(**base.as_dict())
    if file is not None:
        default = load_config(file, default)
    return parse(Arguments, "cvlib train", DESCRIPTION, arguments, default=default).train_config()


def _resume(options: Arguments, arguments: Sequence[str]) -> int:
    out = options.out
    assert out is not None  # checked by Arguments
    saved, source = from_first(lambda: _read_run(out))
    train, val = source.open()
    model = create_model(saved["name"], saved["classes"], **saved["options"])
    config = _read_settings(TrainConfig(**saved["config"]), options.config, arguments)
    return train_model(model, train, val, config, out, asdict(source), resume=True)


def _read_run(out: Path) -> tuple[dict[str, Any], Source]:
    """Model and settings of a run, and where its data are."""
    path, facts = out / "last.pt", out / "data.json"
    saved = load_checkpoint(path)
    check_is_run(saved, path)
    try:
        source = Source(**json.loads(facts.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(
            f"--resume: expected {facts} to say what the data are, got {error}; name the data set, "
            "too"
        ) from error
    return {name: saved[name] for name in ("name", "classes", "options", "config")}, source


def train_model(
    model: Model,
    train: Dataset[Any],
    val: Dataset[Any],
    config: TrainConfig,
    out: Path,
    source: dict[str, Any],
    resume: Resume,
) -> int:
    """Trains a model, measures it and draws what it finds.

    Args:
        model: To train.
        train: Training set.
        val: Validation set.
        config: Settings.
        out: The run folder.
        source: Where the data are; becomes ``data.json`` there.
        resume: As for `fit`.

    Returns:
        The exit code.
    """
    log(str(summary(model)))

    def note_source(event: str, run: Run) -> None:
        if event == "start" and run.is_first:
            save_json(out / "data.json", source)

    result = fit(model, train, val, config, out, resume=resume, callbacks=[note_source])
    if not result.finished:
        return INTERRUPTED
    log(f"best: {evaluate(result.model, val)}")
    if rank() == 0:
        write_png(out / "predictions.png", draw_predictions(result.model, val))
    log(
        f"the model is {out / 'best.pt'}; look at {out / 'predictions.png'} and "
        f"{out / 'curves.png'}; use it with: cvlib predict {out} IMAGES"
    )
    return GOOD


def log(line: str) -> None:
    """Prints, in the first process alone."""
    if rank() == 0:
        print(line)
