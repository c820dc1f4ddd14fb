"""Run scripts under ``torchrun`` with time-outs, leaving no process behind."""

import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 120


def run(script, *arguments, processes=2, restarts=0, seconds=SECONDS, check=True):
    """Return the output; one process runs without torchrun."""
    command = [sys.executable]
    if processes > 1 or restarts:
        command += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        command += [f"--max-restarts={restarts}", "--monitor-interval=0.1"]
    command += [str(script), *map(str, arguments)]
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
        "OMP_NUM_THREADS": "1",  # bits are equal for equal numbers of threads
        "CUDA_VISIBLE_DEVICES": "",
    }
    process = subprocess.Popen(
        command,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=seconds)
    finally:
        # Orphans of a dying torchrun are in its session.
        _kill_session(process.pid)
        process.wait()
    if check and process.returncode != 0:
        raise AssertionError(f"{' '.join(command)} ended with {process.returncode}:\n{output}")
    return output


def _kill_session(number):
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if os.getsid(int(entry.name)) == number:
                os.kill(int(entry.name), signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            continue
