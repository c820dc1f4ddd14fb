"""Models: each a class with one static forward, and loss and decode beside it."""

from cvlib.models.tiny_ssd import Predictions, TinySSD

__all__ = ["Predictions", "TinySSD"]
