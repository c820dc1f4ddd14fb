"""Models, each one class with `forward`, `loss` and `decode`."""

from cvlib.geometry.framing import Framing
from cvlib.models.base import Model
from cvlib.models.classifier import Classifier
from cvlib.models.create import create_model, list_models
from cvlib.models.tiny_ssd import TinySSD

__all__ = ["Classifier", "Framing", "Model", "TinySSD", "create_model", "list_models"]
