"""Writers of results: images, videos, COCO, YOLO, CSV, JSON, class maps."""

from cvlib.predict.writers.folder import OutputFolder
from cvlib.predict.writers.result_writers import KINDS, Kind, Writers

__all__ = ["KINDS", "Kind", "OutputFolder", "Writers"]
