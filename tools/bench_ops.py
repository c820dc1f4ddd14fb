"""Measures every operator against its peer and against the plain-PyTorch reference.

    python tools/bench_ops.py
    python tools/bench_ops.py --only nms --threads 2

Results are compared before anything is timed. The contestants then take turns in one process; a
ratio is the median over the turns of (other's time / cvlib's time), so that a machine that slows
down slows all of them. Writes a table, JSON and a chart into --out.
"""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torchvision
import tyro
from torch import Tensor

import cvlib
from cvlib import _extension
from cvlib.anchors import multibox_prior
from cvlib.box_coding import VARIANCES, decode_boxes, encode_boxes
from cvlib.models.tiny_ssd import RATIOS, SIZES
from cvlib.ops.iou import _box_iou_reference
from cvlib.ops.matching import _match_anchors_reference
from cvlib.ops.multibox import _multibox_detection_reference, _multibox_target_reference
from cvlib.ops.nms import _nms_reference

Call = Callable[[], Any]

# A measurement lasts at least this long, so that cold caches after the other's turn do not count.
LEAST_SECONDS = 5e-3


@dataclass(frozen=True)
class Arguments:
    """Measures every operator against its peer and the reference."""

    out: Path = Path("runs/bench")
    """Folder for bench_ops.json, bench_ops.md and bench_ops.png."""
    only: str = ""
    """Run the cases whose name contains this."""
    threads: tuple[int, ...] = (1, 2)
    """Thread counts on the CPU."""
    seconds: float = 1.5
    """Time for each contestant of a case; at least three turns are taken."""
    reference: bool = True
    """Measure the plain-PyTorch reference as well."""


@dataclass(frozen=True)
class Case:
    """One measurement: cvlib's call, the peer's and the reference's, and when two results agree."""

    operator: str
    name: str
    peer_name: str
    own: Call
    peer: Call
    reference: Call
    agree: Callable[[Any, Any], bool]


@dataclass(frozen=True)
class Row:
    """What a case gave; times are medians in milliseconds."""

    operator: str
    case: str
    device: str
    threads: int
    peer: str
    own_ms: float
    peer_ms: float
    ratio: float
    reference_ms: float | None
    reference_ratio: float | None


def random_boxes(count: int, generator: torch.Generator, device: str) -> Tensor:
    """Boxes of 16 to 144 pixels anywhere in an 800 x 800 picture."""
    center = torch.rand(count, 2, generator=generator) * 800
    side = 16 + torch.rand(count, 2, generator=generator) * 128
    return torch.cat([center - side / 2, center + side / 2], dim=1).to(device)


def random_scores(count: int, generator: torch.Generator, device: str) -> Tensor:
    """Scores without ties, because torchvision's order of ties depends on the number of boxes."""
    return (torch.randperm(count, generator=generator) / count).to(device)


def clustered_boxes(count: int, generator: torch.Generator, device: str) -> Tensor:
    """Boxes jittered around 500 objects, as a detector gives them before suppression."""
    objects = random_boxes(500, generator, "cpu")[torch.randint(500, (count,), generator=generator)]
    jitter = torch.randn(count, 4, generator=generator) * 0.05
    sides = (objects[:, 2:] - objects[:, :2]).repeat(1, 2)
    moved = objects + jitter * sides
    return torch.cat([moved[:, :2], torch.maximum(moved[:, 2:], moved[:, :2])], dim=1).to(device)


def banana_anchors(device: str) -> Tensor:
    """The 5,444 anchors of TinySSD on 256 x 256 pixels."""
    levels = zip((32, 16, 8, 4, 1), SIZES, strict=True)
    return torch.cat([multibox_prior((n, n), s, RATIOS, device=device) for n, s in levels])


def close(a: Any, b: Any) -> bool:
    """Tensors, or tuples of them, that agree but for rounding; decisions must be equal."""
    try:
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    except AssertionError:
        return False
    return True


def equal(a: Tensor, b: Tensor) -> bool:
    """Equal to the last bit."""
    return torch.equal(a, b)


def assign_in_pytorch(anchors: Tensor, boxes: Tensor, threshold: float) -> Tensor:
    """The book's assignment for one image, as one writes it in PyTorch."""
    iou = torchvision.ops.box_iou(anchors, boxes)
    best, index = iou.max(dim=1)
    matched = torch.where(best >= threshold, index, -1)
    for _ in range(len(boxes)):
        flat = int(iou.argmax())
        anchor, gt = divmod(flat, len(boxes))
        matched[anchor] = gt
        iou[anchor, :] = -1
        iou[:, gt] = -1
    return matched


def assign_batch_in_pytorch(anchors: Tensor, boxes: Tensor) -> Tensor:
    """The book's assignment, a Python loop over the images of the batch."""
    return torch.stack([assign_in_pytorch(anchors, one, 0.5) for one in boxes])


def target_in_pytorch(anchors: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The book's training targets: a Python loop over the images of the batch."""
    offsets, masks, classes = [], [], []
    for rows in labels:
        matched = assign_in_pytorch(anchors, rows[:, 1:], 0.5)
        positive = matched >= 0
        gt = rows[matched.clamp(min=0)]
        mask = positive[:, None].float().repeat(1, 4)
        offsets.append((encode_boxes(gt[:, 1:], anchors) * mask).flatten())
        masks.append(mask.flatten())
        classes.append(torch.where(positive, gt[:, 0].long() + 1, 0))
    return torch.stack(offsets), torch.stack(masks), torch.stack(classes)


def detect_in_pytorch(probabilities: Tensor, offsets: Tensor, anchors: Tensor) -> Tensor:
    """The book's detection: a Python loop over the images, torchvision's suppression."""
    results = []
    for probability, offset in zip(probabilities, offsets.unflatten(1, (-1, 4)), strict=True):
        confidence, label = probability[1:].max(dim=0)
        boxes = decode_boxes(offset, anchors)
        kept = torchvision.ops.nms(boxes, confidence, 0.5)
        is_kept = torch.zeros_like(label, dtype=torch.bool).index_fill_(0, kept, True)
        order = torch.cat([kept, (~is_kept).nonzero()[:, 0]])
        low = confidence < 0.009999999
        found = torch.where(is_kept & ~low, label, -1).float()
        confidence = torch.where(low, 1 - confidence, confidence)
        results.append(torch.cat([found[:, None], confidence[:, None], boxes], dim=1)[order])
    return torch.stack(results)


def iou_cases(device: str) -> Iterator[Case]:
    """Pairwise IoU."""
    generator = torch.Generator().manual_seed(0)
    for n, m in ((1000, 1000), (8732, 50), (100_000, 100)):
        a, b = (random_boxes(count, generator, device) for count in (n, m))
        yield Case(
            "box_iou",
            f"{n} x {m}",
            "torchvision",
            partial(cvlib.box_iou, a, b),
            partial(torchvision.ops.box_iou, a, b),
            partial(_box_iou_reference, a, b),
            equal,
        )


def nms_cases(device: str) -> Iterator[Case]:
    """Suppression of random and of clustered boxes, whole and cut off."""
    generator = torch.Generator().manual_seed(1)
    kinds = [("random", random_boxes, n) for n in (100, 1000, 10_000)]
    kinds.append(("clustered", clustered_boxes, 10_000))
    for kind, make, n in kinds:
        boxes = make(n, generator, device)
        scores = random_scores(n, generator, device)
        yield Case(
            "nms",
            f"{n} {kind}",
            "torchvision",
            partial(cvlib.nms, boxes, scores, 0.5),
            partial(torchvision.ops.nms, boxes, scores, 0.5),
            partial(_nms_reference, boxes, scores, None, None, 0.5, -1),
            equal,
        )
    yield Case(
        "nms",
        "10000 random, best 300",
        "torchvision, sliced",
        partial(cvlib.nms, boxes, scores, 0.5, max_output=300),
        lambda: torchvision.ops.nms(boxes, scores, 0.5)[:300],
        partial(_nms_reference, boxes, scores, None, None, 0.5, 300),
        equal,
    )


def batched_nms_cases(device: str) -> Iterator[Case]:
    """Suppression per class."""
    generator = torch.Generator().manual_seed(2)
    for n in (1000, 10_000):
        boxes = random_boxes(n, generator, device)
        scores = random_scores(n, generator, device)
        labels = torch.randint(80, (n,), generator=generator).to(device)
        # Without offsets of coordinates the boxes of a class are compared with full precision.
        yield Case(
            "batched_nms",
            f"{n}, 80 classes",
            "torchvision",
            partial(cvlib.batched_nms, boxes, scores, labels, 0.5),
            partial(torchvision.ops.batched_nms, boxes, scores, labels, 0.5),
            partial(_nms_reference, boxes, scores, labels, None, 0.5, -1),
            equal,
        )


def multibox_cases(device: str) -> Iterator[Case]:
    """Matching, targets and detections of a batch of 32 images on TinySSD's anchors."""
    generator = torch.Generator().manual_seed(3)
    anchors = banana_anchors(device)
    for count in (1, 20):
        boxes = random_boxes(32 * count, generator, device).clamp(0, 800) / 800
        boxes = boxes.view(32, count, 4)
        classes = torch.randint(5, (32, count, 1), generator=generator).to(device).float()
        labels = torch.cat([classes, boxes], dim=2)
        yield Case(
            "match_anchors",
            f"32 x 5444 x {count}",
            "per-image PyTorch",
            partial(cvlib.match_anchors, anchors, boxes),
            partial(assign_batch_in_pytorch, anchors, boxes),
            partial(_match_anchors_reference, anchors, boxes, 0.5),
            equal,
        )
        yield Case(
            "multibox_target",
            f"32 x 5444 x {count}",
            "per-image PyTorch",
            partial(cvlib.multibox_target, anchors, labels),
            partial(target_in_pytorch, anchors, labels),
            partial(_multibox_target_reference, anchors, labels, 0.5, *VARIANCES),
            close,
        )
    probabilities = (torch.randn(32, 2, 5444, generator=generator) * 3).softmax(dim=1).to(device)
    offsets = (torch.randn(32, 4 * 5444, generator=generator) * 0.3).to(device)
    settings = (0.5, 0.009999999, *VARIANCES)
    yield Case(
        "multibox_detection",
        "32 x 5444",
        "per-image PyTorch",
        partial(cvlib.multibox_detection, probabilities, offsets, anchors),
        partial(detect_in_pytorch, probabilities, offsets, anchors),
        partial(_multibox_detection_reference, probabilities, offsets, anchors, *settings),
        close,
    )


def time_call(call: Call, device: str) -> float:
    """Milliseconds of one call in steady state: repeated until there is enough to measure."""
    repeats = 1
    while True:
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(repeats):
            call()
        if device == "cuda":
            torch.cuda.synchronize()
        elapsed = time.perf_counter() - start
        if elapsed > LEAST_SECONDS:
            return elapsed / repeats * 1e3
        repeats *= 4


def measure(case: Case, device: str, threads: int, arguments: Arguments) -> Row:
    """Checks that all contestants agree, then lets them take turns."""
    calls = {"own": case.own, "peer": case.peer}
    if arguments.reference:
        calls["reference"] = case.reference
    expected = case.own()
    for name, call in calls.items():
        if not case.agree(expected, call()):
            raise RuntimeError(f"{case.operator} {case.name}: cvlib and the {name} disagree")
    longest = max(time_call(call, device) for call in calls.values()) / 1e3
    turns = max(3, min(25, int(arguments.seconds / longest)))
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(turns):
        names = list(calls)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            times[name].append(time_call(calls[name], device))

    def ratio(name: str) -> float:
        return statistics.median(
            other / own for other, own in zip(times[name], times["own"], strict=True)
        )

    has_reference = "reference" in times
    return Row(
        case.operator,
        case.name,
        device,
        threads,
        case.peer_name,
        statistics.median(times["own"]),
        statistics.median(times["peer"]),
        ratio("peer"),
        statistics.median(times["reference"]) if has_reference else None,
        ratio("reference") if has_reference else None,
    )


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    info = {
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "cvlib": cvlib.build_info(),
        "processor": platform.processor() or platform.machine(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
    }
    if torch.cuda.is_available():
        info["gpu"] = torch.cuda.get_device_name()
    return info


def as_markdown(rows: list[Row]) -> str:
    """The table."""
    lines = [
        "| operator | case | device | cvlib, ms | peer, ms | ratio | peer | plain, ms | ratio |",
        "|---|---|---|---:|---:|---:|---|---:|---:|",
    ]
    for row in rows:
        where = f"{row.device}, {row.threads} threads" if row.device == "cpu" else row.device
        reference = ("", "")
        if row.reference_ms is not None and row.reference_ratio is not None:
            reference = (f"{row.reference_ms:.3g}", f"{row.reference_ratio:.3g}x")
        lines.append(
            f"| `{row.operator}` | {row.case} | {where} | {row.own_ms:.3g} | {row.peer_ms:.3g} | "
            f"**{row.ratio:.3g}x** | {row.peer} | {reference[0]} | {reference[1]} |"
        )
    return "\n".join(lines) + "\n"


def plot(rows: list[Row], path: Path) -> None:
    """A bar for each case: how many times as fast as the peer."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 0.34 * len(rows) + 1), layout="constrained")
    axis = figure.subplots()
    names = [f"{r.operator} {r.case} ({r.device}, {r.threads})" for r in rows]
    bars = axis.barh(names, [row.ratio for row in rows], color="#56B4E9")
    axis.bar_label(bars, [f"{row.ratio:.3g}x" for row in rows], padding=3, fontsize=8)
    axis.axvline(1, color="#D55E00", linewidth=1)
    axis.set(xscale="log", xlabel="times as fast as the peer")
    axis.invert_yaxis()
    axis.tick_params(axis="y", labelsize=8)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Runs the script."""
    arguments = tyro.cli(Arguments, description=__doc__)
    settings = [("cpu", threads) for threads in arguments.threads]
    if _extension.has_kernels("cuda") and torch.cuda.is_available():
        settings.append(("cuda", 1))
    rows = []
    for device, threads in settings:
        torch.set_num_threads(threads)
        for cases in (iou_cases, nms_cases, batched_nms_cases, multibox_cases):
            for case in cases(device):
                if arguments.only not in f"{case.operator} {case.name}":
                    continue
                row = measure(case, device, threads, arguments)
                rows.append(row)
                print(as_markdown([row]).splitlines()[-1], flush=True)
    arguments.out.mkdir(parents=True, exist_ok=True)
    report = {"machine": machine(), "rows": [asdict(row) for row in rows]}
    (arguments.out / "bench_ops.json").write_text(json.dumps(report, indent=2) + "\n")
    (arguments.out / "bench_ops.md").write_text(as_markdown(rows))
    plot(rows, arguments.out / "bench_ops.png")
    print(f"wrote bench_ops.json, bench_ops.md and bench_ops.png into {arguments.out}")


if __name__ == "__main__":
    main()
