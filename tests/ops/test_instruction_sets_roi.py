"""Regions for every instruction set, to the bit, and their reference, closely."""

import textwrap

import numpy as np
import pytest
from instruction_levels import every_other, run_on_every_level

DIGEST = textwrap.dedent(
    """
    import json, sys
    import numpy as np, torch
    import oracles_roi
    from cvlib.ops.multiscale_roi import multiscale_roi_align
    from cvlib.ops.roi import roi_align
    from cvlib.ops.roi_pool import roi_pool

    rng, results = np.random.default_rng(0), {}
    for channels in (5, 37):
        for dtype in (torch.float32, torch.float64):
            maps = torch.from_numpy(rng.normal(size=(2, channels, 13, 37))).to(dtype)
            rows = oracles_roi.random_regions(rng, 6, 2, np.array([37, 13]))
            regions = torch.from_numpy(rows).to(dtype)
            coarse = maps[:, :, ::2, ::2].contiguous()
            calls = {
                "align": lambda x: roi_align(x, regions, 7, 1.0, 2),
                "adaptive": lambda x: roi_align(x, regions, (3, 17)),
                "pool": lambda x: roi_pool(x, regions, 5),
                "multiscale": lambda x: multiscale_roi_align(
                    [x, coarse], regions, 3, (0, 1), canonical_scale=20, canonical_level=1
                ),
            }
            for layout in (torch.contiguous_format, torch.channels_last):
                x = maps.contiguous(memory_format=layout).requires_grad_()
                for name, call in calls.items():
                    pooled = call(x)
                    weight = torch.from_numpy(rng.normal(size=pooled.shape)).to(dtype)
                    (grad,) = torch.autograd.grad(pooled, x, weight)
                    key = f"{name} {channels} {dtype} {layout}"
                    results[key] = pooled.detach().numpy()
                    results[key + " gradient"] = grad.contiguous().numpy()
    np.savez(sys.argv[1], **results)
    """
)


@pytest.fixture(scope="module")
def digests(tmp_path_factory):
    return run_on_every_level(DIGEST, tmp_path_factory.mktemp("digests"))


@every_other
def test_results_do_not_depend_on_the_instruction_set(digests, name):
    assert digests[name].keys() == digests["default"].keys()
    for key, expected in digests["default"].items():
        if name == "reference" and "pool" not in key:
            np.testing.assert_allclose(digests[name][key], expected, rtol=1e-5, atol=1e-5)
        elif name == "reference":
            np.testing.assert_allclose(digests[name][key], expected, rtol=1e-6, atol=1e-6)
        else:
            np.testing.assert_array_equal(digests[name][key], expected, err_msg=key)
