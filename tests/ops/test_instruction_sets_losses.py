"""The losses on lower instruction sets, where all bits are equal, and without the extension."""

import textwrap

import numpy as np
import pytest
from instruction_levels import run_on_every_level

# Sizes around those of registers, of lanes, and of the pieces of threads.
DIGEST = textwrap.dedent(
    """
    import sys
    import numpy as np, torch
    import cvlib
    from cvlib.ops.focal import sigmoid_focal_loss
    from cvlib.ops.multibox_loss import ssd_loss

    torch.set_num_threads(1)
    rng, results = np.random.default_rng(0), {}

    def normal(*shape, dtype, scale=1.0):
        return torch.as_tensor(rng.normal(size=shape) * scale).to(dtype)

    for dtype in (torch.float32, torch.float64):
        for n in (1, 7, 33, 700, 6001):
            x = normal(n, 3, dtype=dtype, scale=9).requires_grad_()
            soft = torch.from_numpy(rng.random((n, 3))).to(dtype)
            classes = torch.from_numpy(rng.integers(-1, 3, n))
            for kind, t in (("soft", soft), ("classes", classes)):
                for gamma in (0, 2, 1.5):
                    for reduction in ("none", "mean", "sum"):
                        loss = sigmoid_focal_loss(x, t, 0.3, gamma, reduction)
                        weight = normal(*loss.shape, dtype=dtype)
                        key = f"{str(dtype)[6:]} {n} {kind} {gamma} {reduction}"
                        results["focal loss " + key] = loss.detach()
                        results["focal grad " + key] = torch.autograd.grad(loss, x, weight)[0]
        for columns in (1, 2, 15, 16, 17, 31, 32, 81, 5000):
            shape = (2, 3 if columns == 5000 else 101)
            logits = normal(*shape, columns, dtype=dtype, scale=3).requires_grad_()
            offsets, wanted = (normal(*shape, 4, dtype=dtype).requires_grad_() for _ in range(2))
            classes = rng.integers(0, columns, shape) * (rng.random(shape) < 0.1)
            classes = torch.from_numpy(classes)
            results[f"ssd saved {str(dtype)[6:]} {columns}"] = torch.ops.cvlib.ssd_loss(
                logits, offsets, classes, wanted, 3.0
            )[3].detach()
            losses = ssd_loss(logits, offsets, classes, wanted)
            grads = torch.autograd.grad(sum(losses), (logits, offsets, wanted))
            for i, value in enumerate((*losses, *grads)):
                results[f"ssd {i} {str(dtype)[6:]} {columns}"] = value.detach()
    np.savez(sys.argv[1], **{key: value.numpy() for key, value in results.items()})
    """
)


@pytest.fixture(scope="module")
def digests(tmp_path_factory):
    return run_on_every_level(DIGEST, tmp_path_factory.mktemp("digests"))


@pytest.mark.parametrize("level", ["baseline", "avx2"])
def test_instruction_sets_give_equal_bits(digests, level):
    assert digests[level].keys() == digests["default"].keys()
    for key, expected in digests["default"].items():
        np.testing.assert_array_equal(digests[level][key], expected, err_msg=key)


def test_the_reference_agrees(digests):
    assert digests["reference"].keys() == digests["default"].keys()
    for key, expected in digests["default"].items():
        actual = digests["reference"][key]
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6, err_msg=key)
