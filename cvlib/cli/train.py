"""cvlib train: from a dataset to a trained and evaluated model."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import Resize

from cvlib._distributed import rank
from cvlib._files import save_json
from cvlib.cli import GOOD, INTERRUPTED
from cvlib.cli.datasets import open_train_val
from cvlib.cli.errors import UsageError
from cvlib.cli.models import resolve_model
from cvlib.cli.options import parse
from cvlib.cli.outputs import choose_folder
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
from cvlib.models import Model, create_model, list_models
from cvlib.predict.writers.images import write_png
from cvlib.visualize.samples import draw_sample
from cvlib.visualize.sheets import Tile, make_sheet

DESCRIPTION = """Check a dataset, train a model on it and evaluate the model.

    cvlib train bananas/ --out runs/bananas
    cvlib train flowers/ --model mobilenet_v2 --weights backbone.pth --epochs 5
    cvlib train shop.json --val shop-val.json --image-size 320 320 --batch-size 32
    cvlib train bananas/ --model package.module:MyModel     a model of your own
    cvlib train --resume --out runs/bananas
    cvlib train bananas/ --out runs/bananas --resume        resumes, or starts
    cvlib train bananas/ --config runs/bananas/run.yaml --seed 1
    torchrun --nproc-per-node 2 -m cvlib train bananas/ --out runs/two

Layouts (COCO, VOC, YOLO, CSV, ImageFolder, masks, bananas) are recognised. Options left out have
the defaults of the model. Ctrl-C saves a checkpoint, and --resume continues from it.
"""
Resume = bool | Literal["auto"]
# Default model by task.
MODELS = {"detection": "tiny_ssd", "classification": "resnet18"}
# Images in predictions.png, their longest side in pixels, and the minimum score of detections.
_DRAWN_IMAGES, _DRAWN_SIDE, _DRAWN_SCORE = 8, 320, 0.5


@dataclass(frozen=True)
class Arguments(TrainConfig):
    """Options of ``cvlib train``: training settings, dataset and model."""

    data: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="[DATA]")] = None
    """Folder or label file of the dataset; optional with --resume."""
    val: Path | None = None
    """Dataset for validation. Unset: the validation split of the dataset, or a share of the
    training images."""
    val_share: float = 0.2
    """Share of the images used for validation if there is no validation split."""
    model: str | None = None
    """Name of the model, or package.module:Class of a model of your own. Unset: tiny_ssd for
    detection, resnet18 for classification."""
    weights: Path | None = None
    """Weight file of the backbone, for models that support it."""
    image_size: tuple[int, int] | None = None
    """Height and width of the model's input. Unset: the default of the model."""
    out: Path | None = None
    """Run folder. Unset: runs/MODEL, runs/MODEL-2, and so on."""
    resume: bool = False
    """Resume the interrupted run in --out, with its dataset and settings. With a dataset, start a
    new run if there is none to resume: for cluster jobs that are restarted."""
    config: Path | None = None
    """YAML file of settings, such as run.yaml of another run; options override it."""
    bad_labels: BadLabels = "raise"
    """Handling of invalid labels: raise lists them and stops, drop ignores them with a warning."""
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
    """Datasets of a run, stored in its folder as data.json."""

    data: str
    val: str | None = None
    val_share: float = 0.2
    seed: int = 0
    bad_labels: BadLabels = "raise"
    cache: bool = False

    def open(self) -> tuple[AnyDataset, AnyDataset]:
        """Open the training and validation datasets."""
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
    """Run the command and return its exit code."""
    options = parse(Arguments, "cvlib train", DESCRIPTION, arguments)
    if options.data is None and not options.resume:
        raise UsageError("expected a dataset, got none")
    keep_freed_memory()
    join_processes(options.device)
    if options.data is None:
        return _resume_run(options, arguments)
    # torchrun repeats the command after a failure, without --resume.
    is_restarted = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
    resume: Resume = "auto" if options.resume or is_restarted else False
    return _open_run(options, arguments, resume)


def _open_run(options: Arguments, arguments: Sequence[str], resume: Resume) -> int:
    assert options.data is not None  # checked by main
    # The file may set the seed; defaults of the model, which is not known yet, do not.
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
        raise ValueError(
            f"expected --model for {train.task}, which has no default model, got none; pass "
            "package.module:Class of a model of your own"
        )
    kind = resolve_model(name)
    config = _read_settings(config_for(kind), options.config, arguments)
    torch.manual_seed(config.seed)
    model_options = {"image_size": options.image_size, "weights": options.weights}
    model_options = {name: value for name, value in model_options.items() if value is not None}
    model = create_model(kind, train.classes, **model_options)
    out = from_first(lambda: choose_folder(model.name) if options.out is None else options.out)
    return train_model(model, train, val, config, out, asdict(source), resume)


def _read_settings(base: TrainConfig, file: Path | None, arguments: Sequence[str]) -> TrainConfig:
    """Settings of a model or run, overridden by the file, overridden by the command line."""
    default = Arguments(**base.as_dict())
    if file is not None:
        default = load_config(file, default)
    return parse(Arguments, "cvlib train", DESCRIPTION, arguments, default=default).train_config()


def _resume_run(options: Arguments, arguments: Sequence[str]) -> int:
    out = options.out
    assert out is not None  # checked by Arguments
    saved, source = from_first(lambda: _read_run(out))
    kind = _find_saved_model(saved["name"], options.model)
    train, val = source.open()
    model = create_model(kind, saved["classes"], **saved["options"])
    config = _read_settings(TrainConfig(**saved["config"]), options.config, arguments)
    return train_model(model, train, val, config, out, asdict(source), resume=True)


def _find_saved_model(name: str, option: str | None) -> str | type[Model]:
    """Return the model of a run to resume; a class only by ``--model``, never by the checkpoint."""
    if option is None:
        if name not in list_models():
            raise ValueError(
                f"expected --model package.module:Class for the run to resume, whose model "
                f"{name!r} is not built in, got none"
            )
        return name
    kind = resolve_model(option)
    if isinstance(kind, str) and kind != name:
        raise ValueError(f"--model: expected {name} as in the run to resume, got {kind}")
    return kind


def _read_run(out: Path) -> tuple[dict[str, Any], Source]:
    """Model and settings of a run, and its datasets."""
    path, data_file = out / "last.pt", out / "data.json"
    saved = load_checkpoint(path)
    check_is_run(saved, path)
    try:
        source = Source(**json.loads(data_file.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(
            f"--resume: expected {data_file} to name the dataset of the run, got {error}; pass the "
            "dataset, too"
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
    """Train a model, evaluate it and draw its predictions.

    Args:
        model: Model to train.
        train: Training dataset.
        val: Validation dataset.
        config: Settings.
        out: Run folder.
        source: Description of the datasets, written to ``data.json`` in the run folder.
        resume: See `fit`.

    Returns:
        The exit code.
    """
    log(str(summary(model)))

    def save_source(event: str, run: Run) -> None:
        if event == "start" and run.is_first:
            save_json(out / "data.json", source)

    result = fit(model, train, val, config, out, resume=resume, callbacks=[save_source])
    if not result.finished:
        return INTERRUPTED
    log(f"best: {evaluate(result.model, val)}")
    if rank() == 0:
        write_png(out / "predictions.png", draw_predictions(result.model, val))
    kind = type(model)
    option = "" if model.name in list_models() else f" --model {kind.__module__}:{kind.__name__}"
    log(
        f"the model is {out / 'best.pt'}; see {out / 'predictions.png'} and "
        f"{out / 'curves.png'}; use it with: cvlib predict {out} IMAGES{option}"
    )
    return GOOD


def draw_predictions(model: Model, dataset: Any) -> Image.Image:
    """Draw images of a dataset in pairs, ground truth on the left, prediction on the right."""
    tiles: list[Tile] = []
    for index in range(0, len(dataset), max(1, len(dataset) // _DRAWN_IMAGES)):
        if len(tiles) == 2 * _DRAWN_IMAGES:
            break
        try:
            image, target = dataset[index]
        except (OSError, ValueError):  # already reported by the evaluation
            continue
        size = (image.shape[-2], image.shape[-1])
        result = model.predict(image.as_subclass(Tensor), score_threshold=_DRAWN_SCORE)
        # Shrunk before drawing, so that text stays legible.
        scale = min(1.0, _DRAWN_SIDE / max(size))
        small = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
        image, target = Resize(small)(image, target)
        truth = draw_sample(image, target, dataset.classes)
        drawn = result.resize(small).draw(image)
        tiles += [Tile(truth.image, f"true: {truth.caption}"), Tile(drawn, "predicted")]
    return make_sheet(tiles, f"{model.name}: ground truth and predictions", columns=4)


def log(line: str) -> None:
    """Print a line in the first process only."""
    if rank() == 0:
        print(line)
