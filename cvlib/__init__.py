"""Object detection and segmentation for PyTorch with exact, fast operators."""

from cvlib._extension import build_info, load_kernels, warn_about_namesake
from cvlib._version import __version__
from cvlib.anchors import multibox_prior
from cvlib.box_coding import decode_boxes, encode_boxes
from cvlib.boxes import box_area, box_convert, clip_boxes
from cvlib.data import (
    BadLabelsError,
    BananaDataset,
    ClassificationDataset,
    DetectionDataset,
    SegmentationDataset,
    SyntheticBananas,
    UnreadableImageError,
    collate,
    load_dataset,
)
from cvlib.data.check import check_dataset, fix_dataset
from cvlib.engine import TrainConfig, config_for, evaluate, fit, load
from cvlib.engine.summary import summary
from cvlib.models import Classifier, TinySSD, create_model, list_models
from cvlib.ops import (
    batched_nms,
    box_iou,
    match_anchors,
    multibox_detection,
    multibox_target,
    nms,
)
from cvlib.predict import predict
from cvlib.structures import Classification, Detections, GroundTruth, Segmentation
from cvlib.visualize import draw, show_anchors, show_batch, show_targets, show_transforms

warn_about_namesake()
load_kernels()

__all__ = [
    "BadLabelsError",
    "BananaDataset",
    "Classification",
    "ClassificationDataset",
    "Classifier",
    "DetectionDataset",
    "Detections",
    "GroundTruth",
    "Segmentation",
    "SegmentationDataset",
    "SyntheticBananas",
    "TinySSD",
    "TrainConfig",
    "UnreadableImageError",
    "__version__",
    "batched_nms",
    "box_area",
    "box_convert",
    "box_iou",
    "build_info",
    "check_dataset",
    "clip_boxes",
    "collate",
    "config_for",
    "create_model",
    "decode_boxes",
    "draw",
    "encode_boxes",
    "evaluate",
    "fit",
    "fix_dataset",
    "list_models",
    "load",
    "load_dataset",
    "match_anchors",
    "multibox_detection",
    "multibox_prior",
    "multibox_target",
    "nms",
    "predict",
    "show_anchors",
    "show_batch",
    "show_targets",
    "show_transforms",
    "summary",
]
