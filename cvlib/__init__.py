"""cvlib: object detection and segmentation for PyTorch with exact, fast operators."""

from cvlib._extension import build_info, load_kernels
from cvlib._version import __version__
from cvlib.box_coding import decode_boxes, encode_boxes
from cvlib.boxes import box_area, box_convert, clip_boxes
from cvlib.ops import (
    batched_nms,
    box_iou,
    match_anchors,
    multibox_detection,
    multibox_target,
    nms,
)

load_kernels()

__all__ = [
    "__version__",
    "batched_nms",
    "box_area",
    "box_convert",
    "box_iou",
    "build_info",
    "clip_boxes",
    "decode_boxes",
    "encode_boxes",
    "match_anchors",
    "multibox_detection",
    "multibox_target",
    "nms",
]
