"""A training run for tests: the same script for one process and for several.

Given a step and ``--die-at``, the last process kills itself there, once.
"""

import argparse
import os
import signal
from pathlib import Path

import torch

from cvlib._distributed import rank, world_size
from cvlib._files import save_json
from cvlib.data import SyntheticBananas
from cvlib.engine import TrainConfig, evaluate, fit
from cvlib.models.base import Model
from cvlib.models.tiny_ssd import TinySSD


def without_norm(model: Model) -> Model:
    """Remove batch normalisation, whose statistics cover the images of one process only."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, torch.nn.BatchNorm2d):
                setattr(module, name, torch.nn.Identity())
    return model


def main() -> None:
    """Train, and write weights, losses and metrics."""
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--accumulate", type=int, default=1)
    parser.add_argument("--images", type=int, default=11)
    parser.add_argument("--norm", choices=("none", "frozen", "batch"), default="none")
    parser.add_argument("--die-at", type=int, default=-1)
    parser.add_argument("--save-minutes", type=float, default=10)
    parser.add_argument("--own-folders", action="store_true", help="machines share no disk")
    arguments = parser.parse_args()
    own = arguments.own_folders and os.environ.get("RANK", "0") != "0"
    out = arguments.out.with_name(f"{arguments.out.name}-1") if own else arguments.out

    torch.manual_seed(0)
    model = TinySSD(("banana",), (64, 64))
    if arguments.norm == "none":
        without_norm(model)
    config = TrainConfig(
        epochs=2,
        batch_size=arguments.batch_size,
        accumulate=arguments.accumulate,
        optimizer="sgd",
        learning_rate=0.01,
        freeze_norm=arguments.norm == "frozen",
        precision="float32",
        device="cpu",
        save_minutes=arguments.save_minutes,
    )
    losses: list[dict[str, float]] = []
    marker = arguments.out.with_suffix(".died")

    def watch(event, run):
        if event != "step":
            return
        losses.append({name: float(value) for name, value in run.meter.losses.items()})
        is_last = rank() == world_size() - 1
        if run.progress.step == arguments.die_at and is_last and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    train = SyntheticBananas(arguments.images, image_size=64)
    val = SyntheticBananas(5, image_size=64, seed=1)
    result = fit(model, train, val, config, out, resume="auto", callbacks=[watch])
    metrics = evaluate(result.model, val, batch_size=2).as_dict()
    if rank() == 0:
        save_json(arguments.out / "report.json", {"losses": losses, "metrics": metrics})


if __name__ == "__main__":
    main()
