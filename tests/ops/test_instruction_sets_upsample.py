"""upsample_bilinear for every instruction set and its reference: close."""

import textwrap

import numpy as np
import pytest
from cases_upsample import DTYPES
from instruction_levels import every_other, run_on_every_level

DIGEST = textwrap.dedent(
    """
    import sys
    import numpy as np, torch
    from cvlib.ops.upsample import upsample_bilinear
    from cvlib._extension import load_kernels

    rng, results = np.random.default_rng(0), {}
    for channels in (1, 2, 3, 17):
        for shape, size in (((5, 9), (8, 33)), ((9, 70), (5, 35)), ((3, 40), (13, 140))):
            for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
                for layout in (torch.contiguous_format, torch.channels_last):
                    for align_corners in (False, True):
                        images = torch.from_numpy(rng.normal(size=(2, channels, *shape)))
                        images = images.to(dtype).contiguous(memory_format=layout).requires_grad_()
                        resized = upsample_bilinear(images, size, align_corners=align_corners)
                        weight = torch.from_numpy(rng.normal(size=resized.shape)).to(dtype)
                        (grad,) = torch.autograd.grad(resized, images, weight)
                        key = f"{channels} {shape} {str(dtype)[6:]} {layout} {align_corners}"
                        results["image " + key] = resized.detach().double()
                        results["gradient " + key] = grad.double()
    np.savez(sys.argv[1], **{key: value.numpy() for key, value in results.items()})
    """
)


@pytest.fixture(scope="module")
def digests(tmp_path_factory):
    return run_on_every_level(DIGEST, tmp_path_factory.mktemp("digests"))


@every_other
def test_results_do_not_depend_on_the_instruction_set(digests, name, tolerances):
    assert digests[name].keys() == digests["default"].keys()
    for key, expected in digests["default"].items():
        near = tolerances[next(one for one in DTYPES if f"{str(one)[6:]} " in key)]
        np.testing.assert_allclose(digests[name][key], expected, **near, err_msg=key)
