"""Prediction on files, videos, cameras and images in memory, and writers for the results."""

from cvlib.predict.prediction import predict
from cvlib.predict.sources import Frame, Sources
from cvlib.predict.views import Views

__all__ = ["Frame", "Sources", "Views", "predict"]
