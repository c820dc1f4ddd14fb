"""COCO average precision of boxes.

``pycocotools`` is the definition; ``hotcoco`` gives the same digits a hundred times faster and is
used when it is installed. `_coco_statistics` is the one seam between them and us.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from cvlib.boxes import box_convert
from cvlib.structures import Detections


@dataclass(frozen=True)
class BoxMetrics:
    """COCO's figures for boxes, in [0, 1]; -1 where there is no ground truth of that kind.

    Attributes:
        ap: Average precision over IoU .50, .55, ... .95, the figure that COCO ranks by.
        ap50: At IoU .50.
        ap75: At IoU .75.
        ap_small: Over objects below 32 x 32 pixels.
        ap_medium: Between 32 x 32 and 96 x 96.
        ap_large: Above 96 x 96.
        ar1: Average recall with one detection for each picture.
        ar10: With ten.
        ar100: With a hundred.
        ar_small: Average recall of small objects, and so on.
        ar_medium: See above.
        ar_large: See above.
    """

    ap: float
    ap50: float
    ap75: float
    ap_small: float
    ap_medium: float
    ap_large: float
    ar1: float
    ar10: float
    ar100: float
    ar_small: float
    ar_medium: float
    ar_large: float

    def as_dict(self) -> dict[str, float]:
        """The figures by name."""
        return asdict(self)


@dataclass(frozen=True)
class GroundTruth:
    """The true objects of one picture.

    Attributes:
        boxes: Shape (N, 4), (x1, y1, x2, y2) in pixels.
        labels: Shape (N,), int64, in 0..K-1.
        size: Height and width of the picture in pixels.
    """

    boxes: Tensor
    labels: Tensor
    size: tuple[int, int]


def evaluate_boxes(
    ground_truths: Sequence[GroundTruth],
    detections: Sequence[Detections],
    classes: Sequence[str],
    *,
    backend: str | None = None,
) -> BoxMetrics:
    """Computes COCO's box metrics.

    Args:
        ground_truths: One for each picture.
        detections: One for each picture, in the same order.
        classes: Names of the K classes.
        backend: ``"hotcoco"`` or ``"pycocotools"``; ``None``: hotcoco when it is installed.

    Returns:
        The twelve figures.

    Raises:
        ValueError: Lists of different lengths or an unknown backend.
        ImportError: A backend that is not installed.

    References:
        Lin et al., "Microsoft COCO" (2014); https://cocodataset.org/#detection-eval.
    """
    if len(ground_truths) != len(detections):
        raise ValueError(
            f"evaluate_boxes: expected detections for {len(ground_truths)} pictures, "
            f"got {len(detections)}"
        )
    dataset = {
        "info": {},
        "images": [
            {"id": i, "height": gt.size[0], "width": gt.size[1], "file_name": str(i)}
            for i, gt in enumerate(ground_truths, start=1)
        ],
        "categories": [{"id": k, "name": name} for k, name in enumerate(classes, start=1)],
        "annotations": _annotations(ground_truths),
    }
    ids = list(range(1, len(classes) + 1))
    results = [row for i, found in enumerate(detections, 1) for row in found.to_coco(i, ids)]
    return BoxMetrics(*_coco_statistics(dataset, results, _choose_backend(backend)))


def _annotations(ground_truths: Sequence[GroundTruth]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for image_id, gt in enumerate(ground_truths, start=1):
        boxes = box_convert(gt.boxes.float(), "xyxy", "xywh").double().tolist()
        for box, label in zip(boxes, gt.labels.tolist(), strict=True):
            rows.append(
                {
                    "id": len(rows) + 1,
                    "image_id": image_id,
                    "category_id": label + 1,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
            )
    return rows


def _choose_backend(backend: str | None) -> str:
    if backend not in (None, "hotcoco", "pycocotools"):
        raise ValueError(
            f"evaluate_boxes: expected backend hotcoco, pycocotools or None, got {backend!r}"
        )
    if backend is None:
        return "hotcoco" if importlib.util.find_spec("hotcoco") else "pycocotools"
    return backend


def _coco_statistics(
    dataset: dict[str, Any], results: list[dict[str, Any]], backend: str
) -> list[float]:
    """The twelve COCO figures, in COCO's order; both packages have the official interface."""
    with contextlib.redirect_stdout(io.StringIO()):
        # Where one side is empty, pycocotools alone defines the figures.
        if backend == "hotcoco" and results and dataset["annotations"]:
            module = importlib.import_module("hotcoco")
            truth, evaluation = module.COCO(dataset), module.COCOeval
            found = truth.loadRes(results)
        else:
            coco = importlib.import_module("pycocotools.coco").COCO
            evaluation = importlib.import_module("pycocotools.cocoeval").COCOeval
            truth = coco()
            truth.dataset = dataset
            truth.createIndex()
            found = truth.loadRes(results) if results else coco()
        evaluator = evaluation(truth, found, "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return [float(value) for value in evaluator.stats]
