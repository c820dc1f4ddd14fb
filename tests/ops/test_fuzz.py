"""Thousands of small random calls of every operator, native and reference, against the oracles."""

import os

import fuzz_boxes
import fuzz_images
import fuzz_suppression
import numpy as np
import pytest
import torch

# Multiplies the number of calls of an ordinary run; .ci/run makes 100,000 calls altogether.
FACTOR = int(os.environ.get("CVLIB_FUZZ", "1"))
CALLS = {**fuzz_boxes.CALLS, **fuzz_suppression.CALLS, **fuzz_images.CALLS}
every_fuzzer = pytest.mark.parametrize("fuzzer", CALLS, ids=lambda fuzzer: fuzzer.__name__)


def run(fuzzer, device, *, calls, seed):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # calls this small gain nothing from threads
    try:
        for call in range(calls):
            try:
                fuzzer(np.random.default_rng([seed, call]), device)
            except Exception as error:
                line = f"{fuzzer.__name__}(np.random.default_rng([{seed}, {call}]), {device!r})"
                raise AssertionError(f"{line} repeats this failure") from error
    finally:
        torch.set_num_threads(threads)


@every_fuzzer
def test_random_calls(device, fuzzer):
    run(fuzzer, device, calls=FACTOR * CALLS[fuzzer], seed=0)


@pytest.mark.slow
@every_fuzzer
def test_many_random_calls(device, fuzzer):
    run(fuzzer, device, calls=50 * CALLS[fuzzer], seed=1)
