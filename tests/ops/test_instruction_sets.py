"""The kernels of every instruction set agree with each other and with the reference."""

import os
import subprocess
import sys
from pathlib import Path

import instruction_digests
import numpy as np
import pytest
from oracles import TOLERANCES

LEVELS = {
    "default": {},
    "baseline": {"CVLIB_CPU_LEVEL": "baseline"},
    "avx2": {"CVLIB_CPU_LEVEL": "avx2"},
    "reference": {"CVLIB_DISABLE_EXTENSION": "1"},
}
# docs/conventions.md promises equal bits on all instruction sets, except for these families.
CLOSE_ON_ALL_LEVELS = {"conv_transpose", "upsample"}
# Of results marked as close, where they differ from the table of all tests.
TOLERANCE = {str(dtype)[6:]: numbers for dtype, numbers in TOLERANCES.items()}
FAMILY_TOLERANCE = {
    ("conv_transpose", "float32"): {"rtol": 1e-4, "atol": 1e-4},
    ("conv_transpose", "float64"): {"rtol": 1e-12, "atol": 1e-12},
    ("losses", "float32"): {"rtol": 1e-5, "atol": 1e-6},
    ("masks", "float32"): {"rtol": 1e-4, "atol": 1e-4},
}


@pytest.fixture(scope="module")
def digests(tmp_path_factory):
    """Results by level; the level is chosen once per process, so each has a process."""
    folder = tmp_path_factory.mktemp("digests")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("CVLIB_")}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    script = str(Path(instruction_digests.__file__))
    processes = {
        level: subprocess.Popen(
            [sys.executable, "-W", "error", script, str(folder / f"{level}.npz")],
            env=environment | variables,
            stderr=subprocess.PIPE,
            text=True,
        )
        for level, variables in LEVELS.items()
    }
    errors = {level: process.communicate()[1] for level, process in processes.items()}
    failed = {level: errors[level] for level, process in processes.items() if process.returncode}
    assert not failed, failed
    return {level: dict(np.load(folder / f"{level}.npz")) for level in processes}


@pytest.mark.parametrize("family", instruction_digests.FAMILIES)
@pytest.mark.parametrize("level", [level for level in LEVELS if level != "default"])
def test_results_do_not_depend_on_the_instruction_set(digests, level, family):
    assert digests[level].keys() == digests["default"].keys()
    keys = [key for key in digests["default"] if key.split()[0] == family]
    assert keys
    for key in keys:
        actual, expected = digests[level][key], digests["default"][key]
        assert actual.dtype == expected.dtype, key
        may_differ = level == "reference" or family in CLOSE_ON_ALL_LEVELS
        if may_differ and key.split()[1] == "close":
            # Images of 16-bit types were resized in these and converted to float64 afterwards.
            dtype = key.split()[-1] if family == "upsample" else actual.dtype.name
            tolerance = FAMILY_TOLERANCE.get((family, dtype), TOLERANCE[dtype])
            np.testing.assert_allclose(actual, expected, **tolerance, err_msg=key)
        else:
            np.testing.assert_array_equal(actual, expected, err_msg=key)
