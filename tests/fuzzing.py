"""Random calls, each from a seed of its own, so that one line repeats a failure."""

import os

import numpy as np
import torch

# How many times as many calls an ordinary run makes; .ci/run asks for 100,000 altogether.
FACTOR = int(os.environ.get("CVLIB_FUZZ", "1"))


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
