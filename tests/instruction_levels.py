"""Results of one script on every instruction set, and without kernels."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ENVIRONMENTS = {
    "default": {},
    "baseline": {"CVLIB_CPU_LEVEL": "baseline"},
    "avx2": {"CVLIB_CPU_LEVEL": "avx2"},
    "reference": {"CVLIB_DISABLE_EXTENSION": "1"},
}
every_other = pytest.mark.parametrize("name", [one for one in ENVIRONMENTS if one != "default"])


def run_on_every_level(script: str, folder: Path) -> dict[str, dict[str, np.ndarray]]:
    """Runs a script that saves its results with ``np.savez(sys.argv[1], ...)``.

    The level is chosen once per process, so each run has a process; they run together.
    """
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("CVLIB_")}
    # Scripts may import oracles.
    paths = [str(Path(__file__).parent), *sys.path]
    inherited["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    processes = {
        name: subprocess.Popen(
            [sys.executable, "-W", "error", "-c", script, str(folder / f"{name}.npz")],
            env=inherited | variables,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name, variables in ENVIRONMENTS.items()
    }
    errors = {name: process.communicate()[1] for name, process in processes.items()}
    failed = {name: errors[name] for name, process in processes.items() if process.returncode}
    assert not failed, failed
    return {name: dict(np.load(folder / f"{name}.npz")) for name in processes}


def assert_agree(
    digests: dict[str, dict[str, np.ndarray]], name: str, what: str, tolerance: float
) -> None:
    """Compares the results whose second word is ``what`` with those of the default level.

    Bits are equal on every instruction set, as docs/conventions.md promises; on the reference those
    may be close whose first word is ``close``.
    """
    keys = [key for key in digests["default"] if key.split()[1] == what]
    assert keys and digests[name].keys() == digests["default"].keys()
    for key in keys:
        actual, expected = digests[name][key], digests["default"][key]
        assert actual.dtype == expected.dtype, key
        if key.startswith("close") and name == "reference":
            most = 1e-10 if "float64" in key else tolerance
            np.testing.assert_allclose(actual, expected, rtol=most, atol=most, err_msg=key)
        else:
            np.testing.assert_array_equal(actual, expected, err_msg=key)
