"""TinySSD, the single-shot detector of the book: five feature maps, four anchors in every cell."""

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
from cvlib.ops import batched_nms
from cvlib.structures import Detections
from cvlib.targets import AnchorTargets, assign_targets, check_targets

# Sizes of the anchors on the five feature maps, as fractions of the image.
SIZES = ((0.2, 0.272), (0.37, 0.447), (0.54, 0.619), (0.71, 0.79), (0.88, 0.961))
RATIOS = (1.0, 2.0, 0.5)
ANCHORS_PER_CELL = 4
HALVINGS = 6
# Share of objects that an untrained class head predicts: nearly every anchor is background.
PRIOR = 0.01


class Predictions(NamedTuple):
    """Raw output for a batch.

    Attributes:
        class_logits: Shape (B, A, K + 1), float32; background first.
        offsets: Shape (B, A, 4), float32, as of `encode_boxes`.
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
        classes: Names of the K real classes; background is the model's own business.
        image_size: Height and width that images are resized to before `forward`; at least 64.
        loss: ``"multibox"``, our own, or ``"book"``; see `cvlib.losses`.

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
            raise ValueError(f"TinySSD: expected image_size of at least 64 x 64, got {image_size}")
        if loss not in LOSSES:
            raise ValueError(f"TinySSD: expected loss one of {', '.join(LOSSES)}, got {loss!r}")
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
        """Predicts class and offsets of every anchor.

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
            # (B, 4 * (K + 1), h, w) -> (B, h * w * 4, K + 1): the anchors of a cell together.
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
        """Matches padded ground truths in pixels to the anchors, after checking them.

        Args:
            anchors: Shape (A, 4), of `Predictions`.
            boxes: Shape (B, M, 4), float32, (x1, y1, x2, y2) in pixels, padded with -1.
            labels: Shape (B, M), int64, in 0..K-1, padded with -1.
            image_size: Height and width of the images.

        Returns:
            What every anchor shall predict.

        Raises:
            ValueError: See `check_targets`; checked for tensors in the host's memory.
        """
        if boxes.device.type == "cpu":
            check_targets(boxes, labels, self.num_classes, image_size)
        return assign_targets(
            anchors, boxes.to(anchors.device), labels.to(anchors.device), image_size
        )

    def loss(self, raw: Predictions, targets: dict[str, Any]) -> dict[str, Tensor]:
        """Compares predictions with the truth.

        Args:
            raw: Of `forward`.
            targets: ``boxes`` (B, M, 4) in pixels of ``image_size`` and ``labels`` (B, M), padded
                with -1, as of `collate`; where ``iscrowd`` (B, M) is 1 an object is left out.

        Returns:
            Scalars ``class`` and ``box``; their sum is what is minimised.

        Raises:
            ValueError: Wrong ground truths; see `assign`.
        """
        labels = targets["labels"]
        if "iscrowd" in targets:  # a crowd is no object to learn from
            labels = labels.masked_fill(targets["iscrowd"] == 1, -1)
        assigned = self.assign(raw.anchors, targets["boxes"], labels, self.image_size)
        return LOSSES[self.options["loss"]](raw.class_logits, raw.offsets, raw.anchors, assigned)

    @torch.no_grad()
    def decode(
        self,
        raw: Predictions,
        *,
        score_threshold: float = 0.01,
        iou_threshold: float = 0.45,
        vote_threshold: float | None = 0.5,
        max_detections: int = 100,
    ) -> list[Detections]:
        """Turns raw predictions into objects: threshold, suppression per class, the best ones.

        Args:
            raw: Of `forward`.
            score_threshold: Least class probability.
            iou_threshold: Of `batched_nms`.
            vote_threshold: Of `vote_boxes`; ``None`` leaves the kept boxes as they are.
            max_detections: In each image.

        Returns:
            One for each image of the batch, boxes in pixels of ``image_size``.
        """
        probabilities = raw.class_logits.softmax(dim=-1)[..., 1:]  # (B, A, K)
        image, anchor, label = (probabilities >= score_threshold).nonzero(as_tuple=True)
        height, width = self.image_size
        boxes = decode_boxes(raw.offsets[image, anchor], raw.anchors[anchor])
        boxes = clip_boxes(boxes * boxes.new_tensor([width, height] * 2), self.image_size)
        # Boxes outside of the image and NaN have no area.
        visible = box_area(boxes) > 0
        boxes, image, anchor, label = (t[visible] for t in (boxes, image, anchor, label))
        score = probabilities[image, anchor, label]
        kept = batched_nms(
            boxes, score, label, iou_threshold, image_ids=image, max_output=max_detections
        )
        found = boxes[kept]
        if vote_threshold is not None:
            group = image * self.num_classes + label
            for one in group[kept].unique():
                members, own = group == one, group[kept] == one
                found[own] = vote_boxes(found[own], boxes[members], score[members], vote_threshold)
        found = clip_boxes(found, self.image_size)  # the mean may be rounded beyond the border
        score, label, image = score[kept], label[kept], image[kept]
        return [
            Detections(found[image == i], score[image == i], label[image == i], self.classes)
            for i in range(len(probabilities))
        ]
