"""Fine-tunes a classifier on your own pictures: one folder for each class.

    python tools/train_classifier.py --data hymenoptera --weights mobilenet_v2_features.pth
    python tools/train_classifier.py --data hymenoptera --model resnet50 --weights resnet50.pth
    python tools/train_classifier.py --data hymenoptera --resume --out runs/classifier

The folder holds train/CLASS/*.jpg and val/CLASS/*.jpg. The recipe is the book's: the trunk has been
trained on other pictures and learns slowly, the new head ten times as fast.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, fields
from pathlib import Path

import torch

from cvlib._distributed import rank
from cvlib.data.load import load_dataset
from cvlib.engine import TrainConfig, config_for, evaluate, fit, parse_command_line
from cvlib.engine.checkpoint import load_checkpoint
from cvlib.engine.memory import keep_freed_memory
from cvlib.engine.processes import join_processes
from cvlib.engine.summary import summary
from cvlib.models import create_model

MODEL = "mobilenet_v2"


@dataclass(frozen=True)
class Arguments(TrainConfig):
    """Fine-tunes a classifier and writes a run folder with checkpoints, figures and curves."""

    data: Path = Path("hymenoptera")
    """Folder with train and val, which hold a folder of pictures for each class."""
    model: str = MODEL
    """Name of a classifier, such as resnet18 or efficientnet_b0."""
    weights: Path | None = None
    """File of weights for the trunk. Unset: random ones, which need far more pictures."""
    stride_in_1x1: bool = False
    """For weights of the original ResNet, as Caffe and Keras have them."""
    image_size: int = 224
    """Height and width of the pictures that the model gets."""
    config: Path | None = None
    """YAML file of settings, such as run.yaml of another run; the other options override it."""
    out: Path = Path("runs/classifier")
    """Run folder."""
    resume: bool = False
    """Go on with the run in --out; with the settings in its run.yaml."""

    def train_config(self) -> TrainConfig:
        """The settings of the run, without those of this script."""
        return TrainConfig(**{f.name: getattr(self, f.name) for f in fields(TrainConfig)})


def _say_nothing(line: str) -> None:
    """In all processes but the first."""


def main() -> None:
    """Runs the script."""
    defaults = config_for(MODEL).as_dict()
    arguments = parse_command_line(
        Arguments, description=__doc__ or "", base=lambda: Arguments(**defaults)
    )
    keep_freed_memory()
    start = time.perf_counter()
    join_processes(arguments.device)
    say = print if rank() == 0 else _say_nothing
    # Kept in memory: decoding costs as much as a small network's step.
    train = load_dataset(arguments.data, "train", cache=True, say=say)
    val = load_dataset(arguments.data, "val", cache=True, say=say)
    config, options = arguments.train_config(), {}
    if arguments.resume:
        saved = load_checkpoint(arguments.out / "last.pt")
        name, options = saved["name"], saved["options"]
        config = TrainConfig(**saved["config"])
    else:
        name = arguments.model
        options = {
            "image_size": (arguments.image_size, arguments.image_size),
            "weights": arguments.weights,
            "stride_in_1x1": arguments.stride_in_1x1,
        }
    torch.manual_seed(config.seed)
    model = create_model(name, train.classes, **options)
    say(str(summary(model)))
    result = fit(model, train, val, config, arguments.out, resume=arguments.resume, say=say)
    if not result.finished:
        sys.exit(130)
    say(f"best: {evaluate(result.model, val)}")
    say(
        f"done in {time.perf_counter() - start:.0f} s; the model is {arguments.out / 'best.pt'}, "
        f"its curves are {arguments.out / 'curves.png'}"
    )


if __name__ == "__main__":
    try:
        main()
    except (ValueError, TypeError, OSError, FloatingPointError, MemoryError) as error:
        sys.exit(f"train_classifier: {error}")
