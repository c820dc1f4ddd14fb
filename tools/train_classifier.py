"""Fine-tune a classifier on your own images, in one folder per class.

    python tools/train_classifier.py --data hymenoptera --weights mobilenet_v2_features.pth
    python tools/train_classifier.py --data hymenoptera --model resnet50 --weights resnet50.pth
    python tools/train_classifier.py --data hymenoptera --resume --out runs/classifier

The folder holds train/CLASS/*.jpg and val/CLASS/*.jpg. The recipe is the book's: a low learning
rate for the pretrained backbone and ten times that rate for the new head. This is `cvlib train`
with the defaults of the lesson.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from cvlib.cli.train import Source, train_model
from cvlib.engine import TrainConfig, config_for, parse_command_line
from cvlib.engine.checkpoint import load_checkpoint
from cvlib.engine.device import from_first, join_processes
from cvlib.engine.memory import keep_freed_memory
from cvlib.models import create_model

MODEL = "mobilenet_v2"


@dataclass(frozen=True)
class Arguments(TrainConfig):
    """Fine-tune a classifier and write a run folder with checkpoints, metrics and curves."""

    data: Path = Path("hymenoptera")
    """Folder with train and val, which hold one folder of images per class."""
    cache: bool = True
    """Keep decoded images in memory: decoding costs as much as a step of a small network. With
    --no-cache they are read again in every epoch, for datasets that do not fit."""
    model: str = MODEL
    """Name of a classifier, such as resnet18 or efficientnet_b0."""
    weights: Path | None = None
    """Weight file for the backbone. By default random weights, which need far more images."""
    stride_in_1x1: bool = False
    """Stride in the 1x1 convolutions, for weights of the original ResNet (Caffe, Keras)."""
    image_size: int = 224
    """Height and width of the model's input."""
    config: Path | None = None
    """YAML file of settings, such as run.yaml of another run; the other options override it."""
    out: Path = Path("runs/classifier")
    """Run folder."""
    resume: bool = False
    """Continue the run in --out with the settings in its run.yaml."""


def main() -> int:
    """Run the script and return the exit code."""
    defaults = config_for(MODEL).as_dict()
    arguments = parse_command_line(
        Arguments, description=__doc__ or "", base=lambda: Arguments(**defaults)
    )
    keep_freed_memory()
    join_processes(arguments.device)
    config, name, options = arguments.train_config(), arguments.model, model_options(arguments)
    if arguments.resume:
        saved = from_first(lambda: load_checkpoint(arguments.out / "last.pt"))
        config, name, options = TrainConfig(**saved["config"]), saved["name"], saved["options"]
    source = Source(str(arguments.data.absolute()), seed=config.seed, cache=arguments.cache)
    train, val = source.open()
    torch.manual_seed(config.seed)
    model = create_model(name, train.classes, **options)
    return train_model(model, train, val, config, arguments.out, asdict(source), arguments.resume)


def model_options(arguments: Arguments) -> dict[str, Any]:
    """Return the arguments of ``create_model``."""
    return {
        "image_size": (arguments.image_size, arguments.image_size),
        "weights": arguments.weights,
        "stride_in_1x1": arguments.stride_in_1x1,
    }


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ValueError, TypeError, OSError, FloatingPointError, MemoryError) as error:
        sys.exit(f"train_classifier: {error}")
