"""Training: configuration, loop, checkpoints, evaluation."""

from cvlib.engine.checkpoint import load_checkpoint, save_checkpoint
from cvlib.engine.config import TrainConfig
from cvlib.engine.evaluation import Evaluation, evaluate
from cvlib.engine.loop import TrainingResult, fit
from cvlib.engine.models import load

__all__ = [
    "Evaluation",
    "TrainConfig",
    "TrainingResult",
    "evaluate",
    "fit",
    "load",
    "load_checkpoint",
    "save_checkpoint",
]
