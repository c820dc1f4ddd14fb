"""Measures every operator against its peer and against the plain-PyTorch reference.

    python tools/bench_ops.py
    python tools/bench_ops.py --only nms --threads 2

Results are compared before anything is timed. The contestants then take turns in one process; a
ratio is the median over the turns of (other's time / cvlib's time), so that a machine that slows
down slows all of them. Beside each time stands how near it comes to the machine's limit: the time
in which a copy moves as many bytes, or a matrix product does as many operations, whichever is
longer, both measured in the same run. Writes a table, JSON and a chart into --out.
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
    bytes_moved: int
    operations: int
    least_ms: float | None
    own_peak_mb: float | None
    peer_peak_mb: float | None


def measure(case: Case, device: str, threads: int, arguments: Arguments) -> Row:
    """Checks that all contestants agree, then lets them take turns."""
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


def limits(device: str, threads: int) -> dict[str, Any]:
    """The yardsticks: copy bandwidth in cache and beyond it, and the rate of a matrix product."""
    return {
        "device": device,
        "threads": threads,
        "copy_1mb_gb_per_s": copy_rate(1 << 20, device) / 1e9,
        "copy_256mb_gb_per_s": copy_rate(1 << 28, device) / 1e9,
        "product_gflop_per_s": product_rate(device) / 1e9,
    }


def describe_limits(found: dict[str, Any]) -> str:
    """One line about the yardsticks."""
    return (
        f"{found['device']}, {found['threads']} threads: a copy moves "
        f"{found['copy_1mb_gb_per_s']:.1f} GB/s (1 MB) and {found['copy_256mb_gb_per_s']:.1f} GB/s "
        f"(256 MB, read and written), a matrix product does "
        f"{found['product_gflop_per_s']:.0f} GFLOP/s"
    )


def _optional(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def as_markdown(rows: list[Row]) -> str:
    """The table."""
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
            f"**{row.ratio:.3g}x** | {row.peer} | {_optional(row.reference_ms, '.3g')} | "
            f"{_optional(share, '.0%')} | {moved} | {operations} | "
            f"{_optional(row.own_peak_mb, '.1f')} | {_optional(row.peer_peak_mb, '.1f')} |"
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
    rows, yardsticks = [], []
    for device, threads in settings:
        torch.set_num_threads(threads)
        yardsticks.append(limits(device, threads))
        print(describe_limits(yardsticks[-1]), flush=True)
        for cases in FAMILIES:
            for case in cases(device):
                if arguments.only not in f"{case.operator} {case.name}":
                    continue
                row = measure(case, device, threads, arguments)
                rows.append(row)
                print(as_markdown([row]).splitlines()[-1], flush=True)
    arguments.out.mkdir(parents=True, exist_ok=True)
    report = {"machine": machine(), "limits": yardsticks, "rows": [asdict(row) for row in rows]}
    (arguments.out / "bench_ops.json").write_text(json.dumps(report, indent=2) + "\n")
    (arguments.out / "bench_ops.md").write_text(as_markdown(rows))
    plot(rows, arguments.out / "bench_ops.png")
    print(f"wrote bench_ops.json, bench_ops.md and bench_ops.png into {arguments.out}")


if __name__ == "__main__":
    main()
