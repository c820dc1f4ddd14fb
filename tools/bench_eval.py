"""Measures COCO evaluation against pycocotools, in turns in one process, on invented images.

    python tools/bench_eval.py                    # 5,000 images, some 330,000 boxes
    python tools/bench_eval.py --kind masks --images 500

Both sides get the same objects. Only the evaluation is timed: of pycocotools evaluate, accumulate
and summarize, without the making of its dictionaries; of cvlib everything from the `Detections` of
each image on. All figures are compared before anything is printed.
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
# Detections near each true object.
NEAR = 6
CROWD_SHARE = 0.01


@dataclass(frozen=True)
class Arguments:
    """Measures COCO evaluation against pycocotools."""

    images: int = 5000
    """Number of images, with 7.3 objects and 66 detections each in the mean."""
    classes: int = 80
    """Number of classes."""
    kind: Literal["boxes", "masks"] = "boxes"
    """What is compared; masks are ellipses within the boxes."""
    turns: int = 5
    """Turns of cvlib; pycocotools has one."""
    seed: int = 0
    """Of the invented objects."""
    out: Path = Path("runs/bench")
    """Folder for bench_eval.json."""


def invent(arguments: Arguments) -> tuple[list[GroundTruth], list[Detections]]:
    """Draws true objects, detections near them (some of a wrong class), and some on background."""
    rng = np.random.default_rng(arguments.seed)
    classes = tuple(f"class {k}" for k in range(arguments.classes))
    truths, detections = [], []
    for _ in range(arguments.images):
        count = rng.poisson(OBJECTS_PER_IMAGE)
        boxes, labels = random_boxes(rng, count), rng.integers(0, len(classes), count)
        near = np.repeat(boxes, NEAR, axis=0)
        sides = np.tile(near[:, 2:] - near[:, :2], 2)
        near = near + sides * rng.normal(0, 0.12, near.shape)
        found = np.concatenate([near, random_boxes(rng, rng.poisson(BACKGROUND_PER_IMAGE))])
        found = np.concatenate([found.reshape(-1, 2, 2).min(1), found.reshape(-1, 2, 2).max(1)], 1)
        found_labels = rng.integers(0, len(classes), len(found))
        is_right = rng.random(len(near)) < 0.8
        found_labels[: len(near)][is_right] = np.repeat(labels, NEAR)[is_right]
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
                torch.from_numpy(found).float(),
                torch.from_numpy(rng.random(len(found))).float(),
                torch.from_numpy(found_labels),
                classes,
                ellipses(found) if arguments.kind == "masks" else None,
            )
        )
    return truths, detections


def random_boxes(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Boxes from 8 to 400 pixels wide, as often small as large on a logarithmic scale."""
    sides = np.exp(rng.uniform(np.log(8), np.log([400, 300]), (count, 2)))
    corner = rng.random((count, 2)) * (np.array([WIDTH, HEIGHT]) - sides)
    return np.concatenate([corner, corner + sides], axis=1)


def ellipses(boxes: NDArray[np.float64]) -> list[dict[str, Any]]:
    """Run lengths of the ellipses within boxes."""
    from pycocotools import mask

    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    outline = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    center, radius = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
    corners = np.clip(center[:, None] + radius[:, None] * outline, 0, [WIDTH, HEIGHT])
    polygons = [[one.ravel().tolist()] for one in corners]
    return [mask.merge(mask.frPyObjects(one, HEIGHT, WIDTH)) for one in polygons]


def as_files(
    truths: list[GroundTruth], detections: list[Detections], classes: int, kind: str
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The same objects as pycocotools reads them."""
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
    results = [row for number, one in enumerate(detections, 1) for row in one.to_coco(number)]
    if kind == "masks":
        for row in results:
            del row["bbox"]  # or pycocotools takes the box's area for the mask's
    images = [{"id": i, "height": HEIGHT, "width": WIDTH} for i in range(1, len(truths) + 1)]
    categories = [{"id": k, "name": str(k)} for k in range(classes)]
    dataset = {"info": {}, "images": images, "annotations": annotations, "categories": categories}
    return dataset, results


def run_pycocotools(
    dataset: dict[str, Any], results: list[dict[str, Any]], kind: str
) -> tuple[list[float], float]:
    """Gives the twelve figures and the seconds of the evaluation alone."""
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
    """Gives the twelve figures and the seconds of each turn."""
    seconds = []
    for _ in range(turns):
        start = time.perf_counter()
        found = evaluate(truths, detections, detections[0].classes)
        seconds.append(time.perf_counter() - start)
    return list(found.as_dict().values()), seconds


def main() -> None:
    """Runs the script."""
    arguments = tyro.cli(Arguments, description=__doc__)
    truths, detections = invent(arguments)
    objects, boxes = sum(map(len, truths)), sum(map(len, detections))
    evaluate = evaluate_boxes if arguments.kind == "boxes" else evaluate_masks
    own, seconds = time_cvlib(evaluate, truths, detections, arguments.turns)
    files = as_files(truths, detections, arguments.classes, arguments.kind)
    official, official_seconds = run_pycocotools(*files, arguments.kind)
    difference = max(abs(a - b) for a, b in zip(own, official, strict=True))
    if difference > 1e-9:
        raise SystemExit(f"bench_eval: the figures differ by {difference:g}: {own} {official}")
    middle = statistics.median(seconds)
    print(
        f"{len(truths)} images, {objects} objects, {boxes} detections, {arguments.kind}, AP "
        f"{own[0]:.4f}\ncvlib {middle:.3f} s ({min(seconds):.3f} to {max(seconds):.3f}), "
        f"pycocotools {official_seconds:.1f} s: {official_seconds / middle:.0f} times as fast\n"
        f"largest difference of a figure: {difference:g}"
    )
    arguments.out.mkdir(parents=True, exist_ok=True)
    report = {
        "images": len(truths),
        "objects": objects,
        "detections": boxes,
        "kind": arguments.kind,
        "seconds": seconds,
        "pycocotools_seconds": official_seconds,
        "ratio": official_seconds / middle,
        "largest_difference": difference,
    }
    (arguments.out / "bench_eval.json").write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
