"""cvlib train: from a data set to a trained model."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from cvlib._distributed import rank
from cvlib._files import save_json
from cvlib.cli import GOOD, INTERRUPTED
from cvlib.cli._data import open_train_val
from cvlib.cli._pictures import draw_predictions
from cvlib.cli.running import UsageError, choose_folder, parse
from cvlib.data.dataset import BadLabels
from cvlib.data.load import AnyDataset
from cvlib.engine import TrainConfig, config_for, evaluate, fit, load_config
from cvlib.engine.checkpoint import load_checkpoint
from cvlib.engine.memory import keep_freed_memory
from cvlib.engine.processes import from_first, join_processes
from cvlib.engine.state import Run
from cvlib.engine.summary import summary
from cvlib.models import Model, create_model

DESCRIPTION = """Checks a data set, trains a model on it and measures it.

    cvlib train bananas/ --out runs/bananas
    cvlib train flowers/ --model mobilenet_v2 --weights trunk.pth --epochs 5
    cvlib train shop.json --val shop-val.json --image-size 320 320 --batch-size 32
    cvlib train --resume --out runs/bananas
    cvlib train bananas/ --config runs/bananas/run.yaml --seed 1
    torchrun --nproc-per-node 2 -m cvlib train bananas/ --out runs/two

Layouts (COCO, VOC, YOLO, CSV, ImageFolder, masks, bananas) are recognised by looking. Settings left
out are those of the model's own recipe. Ctrl-C saves; --resume goes on from there.
"""
# What is trained where no model is named.
MODELS = {"detection": "tiny_ssd", "classification": "resnet18"}


@dataclass(frozen=True)
class Arguments(TrainConfig):
    """Trains a model on a data set."""

    data: Annotated[Path | None, tyro.conf.Positional] = None
    """Folder or file of the data set; left out with --resume."""
    val: Path | None = None
    """Another data set for validation. Unset: the set's own split for it, or a part of the training
    pictures."""
    val_share: float = 0.2
    """Share of the pictures that are set apart where there is no validation split."""
    model: str | None = None
    """Name of the model. Unset: tiny_ssd for detection, resnet18 for classification."""
    weights: Path | None = None
    """File of weights for the trunk, where the model takes one."""
    image_size: tuple[int, int] | None = None
    """Height and width that pictures are brought to. Unset: the model's own."""
    out: Path | None = None
    """Run folder. Unset: runs/MODEL, runs/MODEL-2, and so on."""
    resume: bool = False
    """Go on with the run in --out where it was interrupted, with its data and settings."""
    config: Path | None = None
    """YAML file of settings, such as run.yaml of another run; the other options override it."""
    bad_labels: BadLabels = "raise"
    """Labels that cannot be right: "raise" refuses to train and lists them, "drop" leaves them out
    and says so."""
    cache: bool = False
    """Keep decoded pictures in memory."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.val_share < 1:
            raise UsageError(f"expected --val-share in (0, 1), got {self.val_share}")
        if self.resume and self.out is None:
            raise UsageError("expected --out with --resume, got none")

    def train_config(self) -> TrainConfig:
        """The settings of the loop alone."""
        return TrainConfig(**{f.name: getattr(self, f.name) for f in fields(TrainConfig)})


@dataclass(frozen=True)
class Source:
    """Where the pictures of a run come from; stands in its folder as data.json."""

    data: str
    val: str | None
    val_share: float
    seed: int
    bad_labels: BadLabels
    cache: bool

    def open(self, say: Callable[[str], None]) -> tuple[AnyDataset, AnyDataset]:
        """The training and the validation set."""
        val = None if self.val is None else Path(self.val)
        options: dict[str, Any] = {"bad_labels": self.bad_labels, "cache": self.cache}
        share, seed = self.val_share, self.seed
        return open_train_val(Path(self.data), val, val_share=share, seed=seed, say=say, **options)


def main(arguments: Sequence[str]) -> int:
    """Runs the command."""
    options = parse(Arguments, "cvlib train", DESCRIPTION, arguments)
    if options.data is None and not options.resume:
        raise UsageError("expected a data set, got none")
    keep_freed_memory()
    join_processes(options.device)
    say = print if rank() == 0 else _silent
    if options.resume or was_restarted(options.out):
        return _resume(options, say)
    return _start(options, arguments, say)


def was_restarted(out: Path | None) -> bool:
    """Whether ``torchrun`` has started this again after a death, and there is something to resume.

    It gives the same command again, without --resume.
    """
    again = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
    return again and out is not None and (out / "last.pt").exists()


def _start(options: Arguments, arguments: Sequence[str], say: Callable[[str], None]) -> int:
    val = None if options.val is None else str(options.val.absolute())
    assert options.data is not None
    source = Source(
        str(options.data.absolute()),
        val,
        options.val_share,
        options.seed,
        options.bad_labels,
        options.cache,
    )
    train, other = source.open(say)
    name = options.model or MODELS.get(train.task)
    if name is None:
        raise ValueError(f"expected a set for {' or '.join(MODELS)}, got one for {train.task}")
    config = _read_settings(name, options.config, arguments)
    torch.manual_seed(config.seed)
    given = {"image_size": options.image_size, "weights": options.weights}
    model = create_model(name, train.classes, **{k: v for k, v in given.items() if v is not None})
    out = from_first(lambda: choose_folder(name) if options.out is None else options.out)
    return _train(model, train, other, config, out, source, say, resume=False)


def _read_settings(model: str, file: Path | None, arguments: Sequence[str]) -> TrainConfig:
    """The model's own recipe, overridden by the file, overridden by the command line."""
    base = Arguments(**config_for(model).as_dict())
    if file is not None:
        base = load_config(file, base)
    return parse(Arguments, "cvlib train", DESCRIPTION, arguments, default=base).train_config()


def _resume(options: Arguments, say: Callable[[str], None]) -> int:
    out = options.out
    assert out is not None
    saved = load_checkpoint(out / "last.pt")
    facts = out / "data.json"
    if not facts.is_file():
        raise FileNotFoundError(f"--resume: expected {facts}, which says what the data are")
    source = Source(**json.loads(facts.read_text()))
    say(f"going on with {out}")
    train, val = source.open(say)
    model = create_model(saved["name"], saved["classes"], **saved["options"])
    config = TrainConfig(**json.loads((out / "config.json").read_text()))
    return _train(model, train, val, config, out, source, say, resume=True)


def _train(
    model: Model,
    train: AnyDataset,
    val: AnyDataset,
    config: TrainConfig,
    out: Path,
    source: Source,
    say: Callable[[str], None],
    *,
    resume: bool,
) -> int:
    say(str(summary(model)))

    def note_source(event: str, run: Run) -> None:
        if event == "start" and run.is_first:
            save_json(out / "data.json", asdict(source))

    result = fit(model, train, val, config, out, resume=resume, say=say, callbacks=[note_source])
    if not result.finished:
        return INTERRUPTED
    say(f"best: {evaluate(result.model, val)}")
    if rank() == 0:
        draw_predictions(result.model, val).save(out / "predictions.png")
    say(
        f"look at {out / 'predictions.png'} and {out / 'curves.png'}; use it with: cvlib predict "
        f"{out} PICTURES"
    )
    return GOOD


def _silent(line: str) -> None:
    """What processes beyond the first say."""
