"""Random calls, each from a seed of its own, so that one line repeats a failure."""

import os

import numpy as np
import pytest
import torch

# How many times as many calls an ordinary run makes; .ci/run asks for 100,000 altogether.
FACTOR = int(os.environ.get("CVLIB_FUZZ", "1"))
_DTYPES = [torch.float32, torch.float32, torch.float64, torch.float16, torch.bfloat16]
_ROUND_THRESHOLDS = [0.0, 1 / 7, 0.2, 0.3, 1 / 3, 0.4, 0.5, 0.6, 2 / 3, 0.7, 1.0]


def run(fuzzer, *arguments, calls, seed):
    threads = torch.get_num_threads()
    # Calls so small gain nothing by threads, and on a busy machine each would wait for the other;
    # that results do not depend on their number is tested for each operator.
    torch.set_num_threads(1)
    try:
        for call in range(calls):
            try:
                fuzzer(np.random.default_rng([seed, call]), *arguments)
            except Exception as error:
                given = ", ".join(["", *(repr(argument) for argument in arguments)])
                again = f"{fuzzer.__name__}(np.random.default_rng([{seed}, {call}]){given})"
                raise AssertionError(f"{again} repeats this") from error
    finally:
        torch.set_num_threads(threads)


def make_tests(calls):
    """The two tests of a file, some calls of each fuzzer in every run and many where asked for."""
    every_fuzzer = pytest.mark.parametrize("fuzzer", calls, ids=lambda fuzzer: fuzzer.__name__)

    @every_fuzzer
    def test_random_calls(device, fuzzer):
        run(fuzzer, device, calls=FACTOR * calls[fuzzer], seed=0)

    @pytest.mark.slow
    @every_fuzzer
    def test_many_random_calls(device, fuzzer):
        run(fuzzer, device, calls=50 * calls[fuzzer], seed=1)

    return test_random_calls, test_many_random_calls


def random_dtype(rng):
    return _DTYPES[rng.integers(len(_DTYPES))]


def random_threshold(rng):
    return float(rng.choice(_ROUND_THRESHOLDS) if rng.random() < 0.7 else rng.random())


def random_grid_boxes(rng, *shape, smallest=0, factor=1.0):
    corner = rng.integers(-5, 9, (*shape, 2))
    return np.concatenate([corner, corner + rng.integers(smallest, 7, (*shape, 2))], -1) * factor


def random_boxes(rng, *shape):
    if rng.random() < 0.5:
        return random_grid_boxes(rng, *shape, factor=2.0 ** rng.integers(-20, 20))
    corner = rng.normal(size=(*shape, 2)) * 10.0 ** rng.uniform(-1, 1)
    boxes = np.concatenate([corner, corner + 10.0 ** rng.uniform(-2, 1, (*shape, 2))], -1)
    return boxes * 10.0 ** rng.uniform(-18, 15) + rng.choice([0, 0, 0, 1e5, -1e7])


def clear_of_overflow(boxes, dtype):
    """float16 ends at 65504; infinities of one's own making say nothing about boxes."""
    return np.clip(boxes, -6e4, 6e4) if dtype == torch.float16 else boxes
