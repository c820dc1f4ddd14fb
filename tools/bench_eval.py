"""Benchmark COCO evaluation against pycocotools, in one process, on random objects.

    python tools/bench_eval.py                    # 5,000 images, about 330,000 boxes
    python tools/bench_eval.py --kind masks --images 500

Both evaluate the same objects. Only the evaluation is timed: for pycocotools evaluate, accumulate
and summarize, without building its dictionaries; for cvlib everything from the `Detections` of each
image on. All metrics are compared before anything is printed.
"""

from __future__ import annotations

import contextlib
import io
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from numpy.typing import NDArray

from cvlib.metrics import CocoMetrics, evaluate_boxes, evaluate_masks
from cvlib.structures import Detections, GroundTruth

WIDTH, HEIGHT = 640, 480
OBJECTS_PER_IMAGE, BACKGROUND_PER_IMAGE = 7.3, 22
NEAR_PER_OBJECT = 6
CROWD_SHARE = 0.01


@dataclass(frozen=True)
class Arguments:
    """Benchmark COCO evaluation against pycocotools."""

    images: int = 5000
    """Number of images, with 7.3 objects and 66 detections each on average."""
    classes: int = 80
    """Number of classes."""
    kind: Literal["boxes", "masks"] = "boxes"
    """What to evaluate; masks are ellipses within the boxes."""
    turns: int = 5
    """Runs of cvlib; pycocotools runs once."""
    seed: int = 0
    """Seed of the random objects."""
    out: Path = Path("runs/bench")
    """Folder for bench_eval.json."""


def draw_objects(arguments: Arguments) -> tuple[list[GroundTruth], list[Detections]]:
    """Draw objects, detections near them (some of a wrong class) and detections on background."""
    rng = np.random.default_rng(arguments.seed)
    classes = tuple(f"class {k}" for k in range(arguments.classes))
    truths, detections = [], []
    for _ in range(arguments.images):
        count = rng.poisson(OBJECTS_PER_IMAGE)
        boxes, labels = random_boxes(rng, count), rng.integers(0, len(classes), count)
        near = np.repeat(boxes, NEAR_PER_OBJECT, axis=0)
        sides = np.tile(near[:, 2:] - near[:, :2], 2)
        near = near + sides * rng.normal(0, 0.12, near.shape)
        background = random_boxes(rng, rng.poisson(BACKGROUND_PER_IMAGE))
        corners = np.concatenate([near, background]).reshape(-1, 2, 2)
        detected = np.concatenate([corners.min(1), corners.max(1)], 1)
        detected_labels = rng.integers(0, len(classes), len(detected))
        is_right = rng.random(len(near)) < 0.8
        detected_labels[: len(near)][is_right] = np.repeat(labels, NEAR_PER_OBJECT)[is_right]
        masks = ellipses(boxes) if arguments.kind == "masks" else None
        truths.append(
            GroundTruth(
                torch.from_numpy(boxes).float(),
                torch.from_numpy(labels),
                (HEIGHT, WIDTH),
                torch.from_numpy(rng.random(count) < CROWD_SHARE),
                masks=masks,
            )
        )
        detections.append(
            Detections(
                torch.from_numpy(detected).float(),
                torch.from_numpy(rng.random(len(detected))).float(),
                torch.from_numpy(detected_labels),
                classes,
                ellipses(detected) if arguments.kind == "masks" else None,
            )
        )
    return truths, detections


def random_boxes(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Draw boxes with log-uniform sides, from 8 to 400 pixels wide."""
    sides = np.exp(rng.uniform(np.log(8), np.log([400, 300]), (count, 2)))
    corner = rng.random((count, 2)) * (np.array([WIDTH, HEIGHT]) - sides)
    return np.concatenate([corner, corner + sides], axis=1)


def ellipses(boxes: NDArray[np.float64]) -> list[dict[str, Any]]:
    """Return the run lengths of the ellipses within boxes."""
    from pycocotools import mask

    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    outline = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    center, radius = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
    corners = np.clip(center[:, None] + radius[:, None] * outline, 0, [WIDTH, HEIGHT])
    polygons = [[polygon.ravel().tolist()] for polygon in corners]
    return [mask.merge(mask.frPyObjects(polygon, HEIGHT, WIDTH)) for polygon in polygons]


def to_coco(
    truths: list[GroundTruth], detections: list[Detections], classes: int, kind: str
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the dataset and the results in COCO's format."""
    annotations: list[dict[str, Any]] = []
    for number, truth in enumerate(truths, 1):
        rows = Detections(
            truth.boxes, torch.ones(len(truth)), truth.labels, detections[0].classes, truth.masks
        ).to_coco(number)
        for row, area, crowd in zip(
            rows, truth.areas.double().tolist(), truth.crowds.tolist(), strict=True
        ):
            annotations.append(
                {**row, "id": len(annotations) + 1, "area": area, "iscrowd": int(crowd)}
            )
    if kind == "boxes":
        for row in annotations:
            row["area"] = row["bbox"][2] * row["bbox"][3]
    results = [row for number, image in enumerate(detections, 1) for row in image.to_coco(number)]
    if kind == "masks":
        for row in results:
            del row["bbox"]  # pycocotools would use its area instead of the mask's
    images = [{"id": i, "height": HEIGHT, "width": WIDTH} for i in range(1, len(truths) + 1)]
    categories = [{"id": k, "name": str(k)} for k in range(classes)]
    dataset = {"info": {}, "images": images, "annotations": annotations, "categories": categories}
    return dataset, results


def run_pycocotools(
    dataset: dict[str, Any], results: list[dict[str, Any]], kind: str
) -> tuple[list[float], float]:
    """Return the twelve metrics and the seconds of the evaluation alone."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = dataset
        truth.createIndex()
        evaluator = COCOeval(truth, truth.loadRes(results), {"boxes": "bbox"}.get(kind, "segm"))
        start = time.perf_counter()
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
        return evaluator.stats.tolist(), time.perf_counter() - start


def time_cvlib(
    evaluate: Callable[..., CocoMetrics],
    truths: list[GroundTruth],
    detections: list[Detections],
    turns: int,
) -> tuple[list[float], list[float]]:
    """Return the twelve metrics and the seconds of each run."""
    seconds = []
    for _ in range(turns):
        start = time.perf_counter()
        metrics = evaluate(truths, detections, detections[0].classes)
        seconds.append(time.perf_counter() - start)
    return list(metrics.as_dict().values()), seconds


def main() -> None:
    """Run the benchmark."""
    arguments = tyro.cli(Arguments, description=__doc__)
    truths, detections = draw_objects(arguments)
    objects, boxes = sum(map(len, truths)), sum(map(len, detections))
    evaluate = evaluate_boxes if arguments.kind == "boxes" else evaluate_masks
    own, seconds = time_cvlib(evaluate, truths, detections, arguments.turns)
    files = to_coco(truths, detections, arguments.classes, arguments.kind)
    official, official_seconds = run_pycocotools(*files, arguments.kind)
    difference = max(abs(a - b) for a, b in zip(own, official, strict=True))
    if difference > 1e-9:
        raise SystemExit(f"bench_eval: the metrics differ by {difference:g}: {own} {official}")
    median = statistics.median(seconds)
    print(
        f"{len(truths)} images, {objects} objects, {boxes} detections, {arguments.kind}, AP "
        f"{own[0]:.4f}\ncvlib {median:.3f} s ({min(seconds):.3f} to {max(seconds):.3f}), "
        f"pycocotools {official_seconds:.1f} s: {official_seconds / median:.0f} times as fast\n"
        f"largest difference of a metric: {difference:g}"
    )
    arguments.out.mkdir(parents=True, exist_ok=True)
    report = {
        "images": len(truths),
        "objects": objects,
        "detections": boxes,
        "kind": arguments.kind,
        "seconds": seconds,
        "pycocotools_seconds": official_seconds,
        "ratio": official_seconds / median,
        "largest_difference": difference,
    }
    (arguments.out / "bench_eval.json").write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
