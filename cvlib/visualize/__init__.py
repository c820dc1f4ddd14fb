"""Images of what models see, learn and find."""

from cvlib.visualize.anchors import show_anchors, show_targets
from cvlib.visualize.drawing import (
    PALETTE,
    TRUTH_COLOUR,
    draw_target,
    draw_truth,
    to_pil,
)
from cvlib.visualize.results import draw, draw_comparison
from cvlib.visualize.samples import draw_sample, show_batch, show_transforms
from cvlib.visualize.segmentation import draw_segmentation
from cvlib.visualize.sheets import Tile, make_sheet

__all__ = [
    "PALETTE",
    "TRUTH_COLOUR",
    "Tile",
    "draw",
    "draw_comparison",
    "draw_sample",
    "draw_segmentation",
    "draw_target",
    "draw_truth",
    "make_sheet",
    "show_anchors",
    "show_batch",
    "show_targets",
    "show_transforms",
    "to_pil",
]
