"""Value objects: results of models and ground truth."""

from cvlib.structures.classes import Classification, Segmentation
from cvlib.structures.objects import Detections, GroundTruth
from cvlib.structures.results import Result

__all__ = ["Classification", "Detections", "GroundTruth", "Result", "Segmentation"]
