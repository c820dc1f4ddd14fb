"""Training: configuration, loop, checkpoints and evaluation."""

from cvlib.engine.checkpoint import load, save
from cvlib.engine.config import TrainConfig, config_for
from cvlib.engine.evaluation import Evaluation, evaluate
from cvlib.engine.loop import TrainingResult, fit
from cvlib.engine.run import Run

__all__ = [
    "Evaluation",
    "Run",
    "TrainConfig",
    "TrainingResult",
    "config_for",
    "evaluate",
    "fit",
    "load",
    "save",
]
