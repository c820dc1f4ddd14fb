"""Benchmark every operator against its peer and against the plain-PyTorch reference.

    python tools/bench_ops.py
    python tools/bench_ops.py --only nms --threads 2

Results are compared before anything is timed. The contestants then take turns in one process, and
a ratio is the median over the turns of (other's time / cvlib's time), so a machine that slows down
slows all of them. The column "of the limit" relates each time to the fastest possible one: that of
a copy of as many bytes or a matrix product of as many operations, whichever takes longer, measured
in the same run. Writes a table, JSON and a chart into --out.
"""

from __future__ import annotations

import json
import platform
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torchvision
import tyro
from bench_cases import FAMILIES
from bench_cases.case import Case
from bench_limits import copy_rate, least_ms, peak_megabytes, product_rate, time_call

import cvlib
from cvlib import _extension


@dataclass(frozen=True)
class Arguments:
    """Benchmark every operator against its peer and the reference."""

    out: Path = Path("runs/bench")
    """Folder for bench_ops.json, bench_ops.md and bench_ops.png."""
    only: str = ""
    """Run only cases whose name contains this text."""
    threads: tuple[int, ...] = (1, 2)
    """Numbers of CPU threads to measure with."""
    seconds: float = 1.5
    """Seconds per contestant and case; at least three turns are taken."""
    reference: bool = True
    """Also measure the plain-PyTorch reference."""


@dataclass(frozen=True)
class Row:
    """Measurements of one case; times are medians in milliseconds."""

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
    bytes_moved: int
    operations: int
    least_ms: float | None
    own_peak_mb: float | None
    peer_peak_mb: float | None


def measure(case: Case, device: str, threads: int, arguments: Arguments) -> Row:
    """Check that all contestants agree, then time them in turns."""
    calls: dict[str, Callable[[], Any]] = {"own": case.own, "peer": case.peer}
    if arguments.reference and case.reference is not None:
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
        case.bytes_moved,
        case.operations,
        least_ms(case.bytes_moved, case.operations, device),
        peak_megabytes(case.own, device),
        peak_megabytes(case.peer, device),
    )


def describe_machine() -> dict[str, Any]:
    """Versions and hardware that the measurements depend on."""
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


def measure_limits(device: str, threads: int) -> dict[str, Any]:
    """Measure copy bandwidth in and beyond the cache, and the rate of a matrix product."""
    return {
        "device": device,
        "threads": threads,
        "copy_1mb_gb_per_s": copy_rate(1 << 20, device) / 1e9,
        "copy_256mb_gb_per_s": copy_rate(1 << 28, device) / 1e9,
        "product_gflop_per_s": product_rate(device) / 1e9,
    }


def describe_limits(limits: dict[str, Any]) -> str:
    """Format the limits of the machine as one line."""
    return (
        f"{limits['device']}, {limits['threads']} threads: a copy moves "
        f"{limits['copy_1mb_gb_per_s']:.1f} GB/s (1 MB) and "
        f"{limits['copy_256mb_gb_per_s']:.1f} GB/s (256 MB, read and written), a matrix product "
        f"reaches {limits['product_gflop_per_s']:.0f} GFLOP/s"
    )


def _format_optional(value: float | None, spec: str) -> str:
    return "" if value is None else format(value, spec)


def as_markdown(rows: list[Row]) -> str:
    """Format the rows as a Markdown table."""
    lines = [
        "| operator | case | device | cvlib, ms | peer, ms | ratio | peer | plain, ms "
        "| of the limit | MB moved | MFLOP | extra MB | peer's |",
        "|---|---|---|---:|---:|---:|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        where = f"{row.device}, {row.threads} threads" if row.device == "cpu" else row.device
        share = None if row.least_ms is None else row.least_ms / row.own_ms
        moved = f"{row.bytes_moved / 1e6:.3g}" if row.bytes_moved else ""
        operations = f"{row.operations / 1e6:.3g}" if row.operations else ""
        lines.append(
            f"| `{row.operator}` | {row.case} | {where} | {row.own_ms:.3g} | {row.peer_ms:.3g} | "
            f"**{row.ratio:.3g}x** | {row.peer} | {_format_optional(row.reference_ms, '.3g')} | "
            f"{_format_optional(share, '.0%')} | {moved} | {operations} | "
            f"{_format_optional(row.own_peak_mb, '.1f')} | "
            f"{_format_optional(row.peer_peak_mb, '.1f')} |"
        )
    return "\n".join(lines) + "\n"


def plot(rows: list[Row], path: Path) -> None:
    """Draw the speed-up of each case over its peer as a bar chart."""
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
    """Run the benchmark."""
    arguments = tyro.cli(Arguments, description=__doc__)
    settings = [("cpu", threads) for threads in arguments.threads]
    if _extension.has_kernels("cuda") and torch.cuda.is_available():
        settings.append(("cuda", 1))
    rows, limits = [], []
    for device, threads in settings:
        torch.set_num_threads(threads)
        limits.append(measure_limits(device, threads))
        print(describe_limits(limits[-1]), flush=True)
        for cases in FAMILIES:
            for case in cases(device):
                if arguments.only not in f"{case.operator} {case.name}":
                    continue
                row = measure(case, device, threads, arguments)
                rows.append(row)
                print(as_markdown([row]).splitlines()[-1], flush=True)
    arguments.out.mkdir(parents=True, exist_ok=True)
    report = {
        "machine": describe_machine(),
        "limits": limits,
        "rows": [asdict(row) for row in rows],
    }
    (arguments.out / "bench_ops.json").write_text(json.dumps(report, indent=2) + "\n")
    (arguments.out / "bench_ops.md").write_text(as_markdown(rows))
    plot(rows, arguments.out / "bench_ops.png")
    print(f"wrote bench_ops.json, bench_ops.md and bench_ops.png into {arguments.out}")


if __name__ == "__main__":
    main()
