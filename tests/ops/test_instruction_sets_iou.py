"""The IoU family for every instruction set and its reference: decisions equal, the rest close."""

import textwrap

import pytest
from instruction_levels import assert_agree, every_other, run_on_every_level

# The whole family on the same data: grids with ties, boxes without area, random boxes.
DIGEST = textwrap.dedent(
    """
    import sys
    import numpy as np, torch
    import cvlib
    from cvlib.ops import max_iou

    torch.set_num_threads(1)
    rng, results = np.random.default_rng(0), {}
    ops = torch.ops.cvlib

    def boxes(n, kind):
        if kind == "grid":
            corner = rng.integers(0, 9, (n, 2))
            rows = np.concatenate([corner, corner + rng.integers(0, 6, (n, 2))], -1) / 8
        else:
            corner = rng.uniform(0, 60, (n, 2))
            rows = np.concatenate([corner, corner + rng.uniform(0.2, 30, (n, 2))], -1)
        return torch.from_numpy(rows)

    for sort in ("grid", "random"):
        for n in (1, 3, 8, 17, 161):
            for dtype in (torch.float32, torch.float64, torch.bfloat16):
                key = f"{sort} {n} {str(dtype)[6:]}"
                a, b = boxes(n, sort).to(dtype), boxes(n + 1, sort).to(dtype)
                values, indices = max_iou(a, b)
                results["decided max " + key] = values
                results["decided argmax " + key] = indices
                real = torch.float64 if dtype == torch.float64 else torch.float32
                weight = torch.from_numpy(rng.normal(size=(n, n + 1))).to(real)
                for kind in range(4):
                    how = "decided" if kind == 0 else "close"
                    results[f"{how} all-pairs {kind} {key}"] = ops.box_iou(a, b, kind)
                    results[f"{how} pairs {kind} {key}"] = ops.paired_iou(a, b[1:], kind)
                    if dtype == torch.bfloat16:
                        continue
                    for name, grad in zip("ab", ops.box_iou_backward(weight, a, b, kind)):
                        # Sums of n terms of either sign.
                        results[f"close gradient-of-all-pairs {kind} {name} {key}"] = grad / n
                    grads = ops.paired_iou_backward(weight[:, 0].clone(), a, b[1:], kind)
                    for name, grad in zip("ab", grads):
                        results[f"close gradient-of-pairs {kind} {name} {key}"] = grad
    np.savez(sys.argv[1], **{key: value.numpy() for key, value in results.items()})
    """
)


@pytest.fixture(scope="module")
def digests(tmp_path_factory):
    return run_on_every_level(DIGEST, tmp_path_factory.mktemp("digests"))


WHAT = ["max", "argmax", "all-pairs", "pairs", "gradient-of-all-pairs", "gradient-of-pairs"]


@pytest.mark.parametrize("what", WHAT)
@every_other
def test_results_do_not_depend_on_the_instruction_set(digests, name, what):
    assert_agree(digests, name, what, 1e-5)
