"""Transposed convolution on every instruction set and its reference: close."""

import textwrap

import numpy as np
import pytest
from instruction_levels import every_other, run_on_every_level

DIGEST = textwrap.dedent(
    """
    import sys
    import numpy as np, torch
    from cvlib.ops.conv_transpose import conv_transpose2d

    torch.set_num_threads(1)
    rng, results = np.random.default_rng(0), {}
    for dtype in (torch.float32, torch.float64):
        for channels in (1, 2, 7, 13):
            for groups in {1, channels}:
                for kernel, stride, width in ((16, 4, 1), (17, 8, 8), (33, 5, 3), (64, 32, 2)):
                    shapes = (2, channels, 2, width), (channels, channels // groups, kernel, kernel)
                    x, w = (torch.from_numpy(rng.normal(size=s)).to(dtype) for s in shapes)
                    x.requires_grad_(), w.requires_grad_()
                    y = conv_transpose2d(x, w, None, stride, kernel // 4, 1, groups)
                    grad = torch.from_numpy(rng.normal(size=y.shape)).to(dtype)
                    for name, one in zip("yxw", (y, *torch.autograd.grad(y, (x, w), grad))):
                        key = f"{name} {channels} {groups} {kernel} {stride} {width} {dtype}"
                        results[key] = one.detach().numpy() / kernel
    np.savez(sys.argv[1], **results)
    """
)


@pytest.fixture(scope="module")
def digests(tmp_path_factory):
    return run_on_every_level(DIGEST, tmp_path_factory.mktemp("digests"))


@every_other
def test_results_are_close_for_every_instruction_set(digests, name):
    assert digests["default"] and digests[name].keys() == digests["default"].keys()
    for key, expected in digests["default"].items():
        tolerance = 1e-4 if "float32" in key else 1e-12
        np.testing.assert_allclose(
            digests[name][key], expected, rtol=tolerance, atol=tolerance, err_msg=key
        )
