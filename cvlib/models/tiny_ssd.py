"""TinySSD, the book's single-shot detector: five feature maps with four anchors per cell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from cvlib.anchors import multibox_prior
from cvlib.box_coding import decode_boxes
from cvlib.boxes import box_area, clip_boxes
from cvlib.losses import LOSSES
from cvlib.models.base import Model
from cvlib.models.postprocess import vote_boxes
from cvlib.ops import multiclass_nms
from cvlib.structures import Detections
from cvlib.targets import AnchorTargets, assign_targets, check_targets

# Anchor sizes on the five feature maps, as fractions of the image.
SIZES = ((0.2, 0.272), (0.37, 0.447), (0.54, 0.619), (0.71, 0.79), (0.88, 0.961))
RATIOS = (1.0, 2.0, 0.5)
ANCHORS_PER_CELL = 4
HALVINGS = 6
# Object probability of the untrained class head: nearly every anchor is background.
PRIOR = 0.01
SCORE_THRESHOLD = 0.01


class Predictions(NamedTuple):
    """Raw output of TinySSD for a batch.

    Attributes:
        class_logits: Shape (B, A, K + 1), float32; background first.
        offsets: Shape (B, A, 4), float32; see `encode_boxes`.
        anchors: Shape (A, 4), float32, (x1, y1, x2, y2) normalised to 0..1.
    """

    class_logits: Tensor
    offsets: Tensor
    anchors: Tensor


def _make_anchors(maps: list[tuple[int, int]], device: torch.device | None = None) -> Tensor:
    levels = zip(maps, SIZES, strict=True)
    return torch.cat([multibox_prior(size, s, RATIOS, device=device) for size, s in levels])


def _halving_block(in_channels: int, out_channels: int) -> nn.Sequential:
    """Two 3x3 convolutions, then half the resolution.

    The last ReLU follows the pooling: maximum and ReLU commute, and it is a quarter of the work.
    """
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
        nn.Conv2d(out_channels, out_channels, 3, padding=1),
        nn.BatchNorm2d(out_channels),
        nn.MaxPool2d(2),
        nn.ReLU(inplace=True),
    )


class TinySSD(Model):
    """A single-shot detector with a million parameters.

    Args:
        classes: Names of the K classes, without background.
        image_size: Height and width that images are stretched to, each at least 64.
        loss: ``"multibox"`` or ``"book"``; see `cvlib.losses`.

    Raises:
        ValueError: No classes, a size below 64, or an unknown loss.

    References:
        Zhang et al., "Dive into Deep Learning", section 14.7; Liu et al., "SSD" (2016).

    Example:
        >>> model = TinySSD(("banana",)).eval()
        >>> raw = model(torch.zeros(1, 3, 256, 256, dtype=torch.uint8))
        >>> raw.class_logits.shape, raw.offsets.shape
        (torch.Size([1, 5444, 2]), torch.Size([1, 5444, 4]))
    """

    task = "detection"
    name = "tiny_ssd"
    head = ("class_heads", "box_heads")
    anchors: Tensor

    def __init__(
        self,
        classes: Sequence[str],
        image_size: Sequence[int] = (256, 256),
        *,
        loss: str = "multibox",
    ) -> None:
        super().__init__(classes, image_size)
        if min(image_size) < 2**HALVINGS:
            raise ValueError(
                f"TinySSD: expected `image_size` to be at least 64 x 64, got {image_size}"
            )
        if loss not in LOSSES:
            raise ValueError(
                f"TinySSD: expected `loss` to be one of {', '.join(LOSSES)}, got {loss!r}"
            )
        self.options = {"image_size": list(self.image_size), "loss": loss}
        self.stages = nn.ModuleList(
            [
                nn.Sequential(
                    _halving_block(3, 16), _halving_block(16, 32), _halving_block(32, 64)
                ),
                _halving_block(64, 128),
                _halving_block(128, 128),
                _halving_block(128, 128),
                nn.AdaptiveMaxPool2d(1),
            ]
        )
        channels = (64, 128, 128, 128, 128)
        outputs = ANCHORS_PER_CELL * (len(self.classes) + 1)
        self.class_heads = nn.ModuleList(nn.Conv2d(c, outputs, 3, padding=1) for c in channels)
        self.box_heads = nn.ModuleList(
            nn.Conv2d(c, ANCHORS_PER_CELL * 4, 3, padding=1) for c in channels
        )
        height, width = self.image_size
        self._maps = [(height >> n, width >> n) for n in range(3, HALVINGS + 1)] + [(1, 1)]
        self.register_buffer("anchors", _make_anchors(self._maps), persistent=False)
        self._initialise()

    def _initialise(self) -> None:
        for name, weight in self.named_parameters():
            if weight.dim() == 4:
                nn.init.kaiming_normal_(weight, mode="fan_out", nonlinearity="relu")
            elif name.endswith("bias"):
                nn.init.zeros_(weight)
        background = torch.tensor(self.num_classes * (1 - PRIOR) / PRIOR).log()
        with torch.no_grad():
            for name, weight in self.named_parameters():
                if "_heads." in name and name.endswith("weight"):
                    weight.normal_(std=0.01)
                elif name.startswith("class_heads.") and name.endswith("bias"):
                    weight.view(ANCHORS_PER_CELL, -1)[:, 0] = background

    def forward(self, images: Tensor) -> Predictions:
        """Predict class logits and offsets of every anchor.

        Args:
            images: Shape (B, 3, H, W), RGB, uint8 or floating point in 0..1.

        Returns:
            Raw predictions.
        """
        features = self.normalise(images)
        logits, offsets, maps = [], [], []
        for stage, class_head, box_head in zip(
            self.stages, self.class_heads, self.box_heads, strict=True
        ):
            features = stage(features)
            maps.append((features.shape[2], features.shape[3]))
            # (B, 4 * (K + 1), h, w) -> (B, h * w * 4 * (K + 1)): anchors of a cell are neighbours.
            logits.append(class_head(features).permute(0, 2, 3, 1).flatten(1))
            offsets.append(box_head(features).permute(0, 2, 3, 1).flatten(1))
        anchors = self.anchors
        if maps != self._maps:
            anchors = _make_anchors(maps, images.device)
        return Predictions(
            torch.cat(logits, dim=1).float().unflatten(1, (-1, self.num_classes + 1)),
            torch.cat(offsets, dim=1).float().unflatten(1, (-1, 4)),
            anchors,
        )

    def assign(
        self, anchors: Tensor, boxes: Tensor, labels: Tensor, image_size: tuple[int, int]
    ) -> AnchorTargets:
        """Match padded ground truth to the anchors, after checking it.

        Args:
            anchors: Shape (A, 4); see `Predictions`.
            boxes: Shape (B, M, 4), float32, (x1, y1, x2, y2) in pixels, padded with -1.
            labels: Shape (B, M), int64, in 0..K-1, padded with -1.
            image_size: Height and width of the images.

        Returns:
            The training targets of every anchor.

        Raises:
            ValueError: See `check_targets`; only tensors on the CPU are checked.
        """
        if boxes.device.type == "cpu":
            check_targets(boxes, labels, self.num_classes, image_size)
        return assign_targets(
            anchors, boxes.to(anchors.device), labels.to(anchors.device), image_size
        )

    def loss(self, raw: Predictions, targets: dict[str, Any]) -> dict[str, Tensor]:
        """Compare predictions with the ground truth.

        Args:
            raw: Output of `forward`.
            targets: ``boxes`` (B, M, 4) in canvas pixels and ``labels`` (B, M), padded with -1;
                objects whose ``iscrowd`` (B, M) is 1 are left out. See `collate`.

        Returns:
            Scalars ``class`` and ``box``; their sum is minimised.

        Raises:
            ValueError: Wrong ground truth; see `assign`.
        """
        labels = targets["labels"]
        if "iscrowd" in targets:  # crowds are not learnt
            labels = labels.masked_fill(targets["iscrowd"] == 1, -1)
        assigned = self.assign(raw.anchors, targets["boxes"], labels, self.image_size)
        return LOSSES[self.options["loss"]](raw.class_logits, raw.offsets, raw.anchors, assigned)

    @torch.no_grad()
    def decode(
        self,
        raw: Predictions,
        sizes: Sequence[tuple[int, int]] | None = None,
        *,
        score_threshold: float | None = None,
        iou_threshold: float = 0.45,
        vote_threshold: float | None = 0.5,
        max_detections: int = 100,
    ) -> list[Detections]:
        """Turn raw predictions into objects: threshold, suppression per class, box voting.

        Args:
            raw: Output of `forward`.
            sizes: Always the canvas, because images are stretched to it.
            score_threshold: Minimum class probability; ``None`` for 0.01.
            iou_threshold: Boxes of one class that overlap more than this are suppressed.
            vote_threshold: Minimum IoU of boxes that vote on the position of a kept one (see
                `vote_boxes`); ``None`` keeps the boxes as they are.
            max_detections: Maximum number of objects per image.

        Returns:
            Detections of each image, in canvas pixels.
        """
        threshold = SCORE_THRESHOLD if score_threshold is None else score_threshold
        scores = raw.class_logits.softmax(dim=-1)[..., 1:]  # (B, A, K)
        height, width = size = self.image_size
        boxes = decode_boxes(raw.offsets, raw.anchors)
        boxes = clip_boxes(boxes * boxes.new_tensor([width, height] * 2), size)
        # Boxes outside of the image have no area; NaN compares false.
        is_visible = box_area(boxes) > 0  # (B, A)
        scores = scores.where(is_visible[..., None] & (scores >= threshold), -1)
        kept = multiclass_nms(
            boxes.where(is_visible[..., None], 0),
            scores,
            score_threshold=threshold,
            iou_threshold=iou_threshold,
            max_output=max_detections,
        )
        detected = kept.boxes
        if vote_threshold is not None:
            detected = self._vote(detected, kept.labels, boxes, scores, vote_threshold)
        return [
            Detections(boxes[:count], scores[:count], labels[:count], self.classes, size=size)
            for boxes, scores, labels, count in zip(
                detected, kept.scores, kept.labels, kept.counts.tolist(), strict=True
            )
        ]

    def _vote(
        self, kept: Tensor, labels: Tensor, boxes: Tensor, scores: Tensor, threshold: float
    ) -> Tensor:
        """Refine kept boxes (B, D, 4) by all candidates; padded rows have label -1."""
        image, row = (labels >= 0).nonzero(as_tuple=True)
        voter_image, anchor, voter_label = (scores >= 0).nonzero(as_tuple=True)
        refined = vote_boxes(
            kept[image, row],
            image * self.num_classes + labels[image, row],
            boxes[voter_image, anchor],
            scores[voter_image, anchor, voter_label],
            voter_image * self.num_classes + voter_label,
            threshold,
        )
        result = kept.clone()
        # The weighted mean may be rounded beyond the border.
        result[image, row] = clip_boxes(refined, self.image_size)
        return result
