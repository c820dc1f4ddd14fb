"""Processes started by tests, and interrupted or killed by some."""

import multiprocessing
import time
from pathlib import Path
from typing import Any

TOOLS = Path(__file__).parents[1] / "tools"
# Imports that would take each child seconds.
PRELOADED = ["cvlib", "matplotlib.figure", "tyro", "accelerate"]
# Like `python tools/<script>`, in a process that has imported torch already.
RUN_TOOL = """
import os, runpy, sys
for number, path in ((1, out), (2, err)):
    os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
os.chdir(folder)
os.environ.update(environment)
sys.argv = arguments
runpy.run_path(arguments[0], run_name="__main__")
"""


def _start(script: str, names: dict[str, Any]) -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    process = context.Process(target=exec, args=(script, names))
    process.start()
    return process


def start_child(script: str, out: Path, deadline: float, **names: object) -> Any:
    """Run a script in a process, and return when it has touched the file ``ready``.

    Args:
        script: Code; finds ``out``, ``ready`` and `names` as global names.
        out: Folder for its output.
        deadline: Seconds until it must be ready.
        names: Values for the script.
    """
    ready = Path(f"{out}-ready")
    ready.unlink(missing_ok=True)
    process = _start(script, {"out": str(out), "ready": str(ready), **names})
    end = time.monotonic() + deadline
    while not ready.exists():
        assert process.is_alive() and time.monotonic() < end, "the child has not begun"
        time.sleep(0.002)
    return process


class Tool:
    """A script of the folder tools, with its exit code and output.

    Args:
        name: File name of the script.
        folder: Its working folder, which also gets its output.
        environment: Environment variables to set.
        deadline: Seconds until it must have ended.
    """

    def __init__(self, name, folder, environment=None, deadline=60):
        self.name, self.folder, self.deadline = name, folder, deadline
        self.environment = {"COLUMNS": "100", **(environment or {})}
        self.out = self.err = ""

    def start(self, *arguments, script=RUN_TOOL):
        names = {
            "out": str(self.folder / "stdout"),
            "err": str(self.folder / "stderr"),
            "folder": str(self.folder),
            "environment": self.environment,
            "arguments": [str(TOOLS / self.name), *map(str, arguments)],
        }
        self.process = _start(script, names)
        return self

    def wait(self):
        self.process.join(self.deadline)
        self.out = (self.folder / "stdout").read_text()
        self.err = (self.folder / "stderr").read_text()
        return self.process.exitcode

    def __call__(self, *arguments, script=RUN_TOOL):
        return self.start(*arguments, script=script).wait()

    def assert_explained(self, code, *words, lines=1):
        """Assert that the tool failed with a short message that contains these words."""
        assert code not in (0, None), self.err
        assert "Traceback" not in self.err
        message = self.err.strip().splitlines()
        assert len(message) <= lines, self.err
        if lines == 1:
            assert message[0].startswith(f"{Path(self.name).stem}: ")
        for word in words:
            assert word in self.err
