"""cvlib: object detection and segmentation for PyTorch with exact, fast operators."""

from cvlib._extension import build_info, load_kernels
from cvlib._namesake import warn_of_namesake
from cvlib._version import __version__
from cvlib.anchors import multibox_prior
from cvlib.box_coding import decode_boxes, encode_boxes
from cvlib.boxes import box_area, box_convert, clip_boxes
from cvlib.data import BananaDataset, SyntheticBananas, collate
from cvlib.engine import TrainConfig, evaluate, fit, load
from cvlib.models import TinySSD
from cvlib.ops import (
    batched_nms,
    box_iou,
    match_anchors,
    multibox_detection,
    multibox_target,
    nms,
)
from cvlib.predict import predict
from cvlib.structures import Detections
from cvlib.visualize import draw

warn_of_namesake()
load_kernels()

__all__ = [
    "BananaDataset",
    "Detections",
    "SyntheticBananas",
    "TinySSD",
    "TrainConfig",
    "__version__",
    "batched_nms",
    "box_area",
    "box_convert",
    "box_iou",
    "build_info",
    "clip_boxes",
    "collate",
    "decode_boxes",
    "draw",
    "encode_boxes",
    "evaluate",
    "fit",
    "load",
    "match_anchors",
    "multibox_detection",
    "multibox_prior",
    "multibox_target",
    "nms",
    "predict",
]
