"""Fixtures of all tests: devices, seeds, tolerances, test data."""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

# Before torch is imported: parallel workers have one thread each, and so have their children.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import numpy as np
import pytest
import torch

# Tests are imported by file (importmode=importlib), so helper modules need a path.
sys.path.insert(0, os.path.dirname(__file__))
import oracles

# Reproducible, without a database between runs. The fixtures that hypothesis would warn about only
# restore global state.
hypothesis.settings.register_profile(
    "cvlib",
    derandomize=True,
    max_examples=50,
    deadline=None,
    suppress_health_check=[
        hypothesis.HealthCheck.function_scoped_fixture,
        hypothesis.HealthCheck.too_slow,
    ],
)
hypothesis.settings.load_profile("cvlib")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "slow" in config.option.markexpr:
        return
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.skip(reason="slow; run with -m slow"))


def _require_cuda() -> str:
    if not torch.cuda.is_available():
        if os.environ.get("CVLIB_REQUIRE_CUDA") == "1":
            pytest.fail("CVLIB_REQUIRE_CUDA=1, but torch finds no CUDA device")
        pytest.skip("no CUDA device")
    return "cuda"


# Scope session: hypothesis calls a test many times with one fixture.
@pytest.fixture(scope="session", params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request: pytest.FixtureRequest) -> str:
    return request.param if request.param == "cpu" else _require_cuda()


@pytest.fixture(scope="session")
def cuda() -> str:
    """For tests that compare both devices; mark them with ``pytest.mark.cuda``."""
    return _require_cuda()


@pytest.fixture(autouse=True)
def _seeded_and_restored():
    """Every test starts from the same random state and restores the previous one."""
    python, legacy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - library code and transforms may use the legacy generator
    torch.manual_seed(0)
    yield
    random.setstate(python)
    np.random.set_state(legacy)  # noqa: NPY002
    torch.set_rng_state(cpu)
    if gpus:
        torch.cuda.set_rng_state_all(gpus)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def tolerances() -> dict[torch.dtype, dict[str, float]]:
    return oracles.TOLERANCES


@pytest.fixture
def thread_counts():
    """Numbers of threads to try; the previous number is restored."""
    before = torch.get_num_threads()
    yield (1, 2, 3, 5, 8)
    torch.set_num_threads(before)


@pytest.fixture
def fresh_compiler():
    """Compiled code of one test does not affect the next."""
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Folder of the book's datasets."""
    folder = os.environ.get("CVLIB_TEST_DATA")
    if not folder:
        pytest.skip("CVLIB_TEST_DATA is not set to the folder of the datasets")
    return Path(folder)
