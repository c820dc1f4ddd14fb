"""Training: configuration, loop, checkpoints, evaluation."""

from cvlib.engine.checkpoint import load, load_checkpoint, save_checkpoint
from cvlib.engine.config import TrainConfig, config_for, load_config, parse_command_line
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
    "load_checkpoint",
    "load_config",
    "parse_command_line",
    "save_checkpoint",
]
