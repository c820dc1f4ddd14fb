"""Rotated boxes on every instruction set and on the reference: equal bits."""

import textwrap

import pytest
from instruction_levels import assert_agree, every_other, run_on_every_level

DIGEST = textwrap.dedent(
    """
    import sys
    import numpy as np, torch
    from cvlib.ops.nms_rotated import batched_nms_rotated, nms_rotated
    from cvlib.ops.rotated import box_iou_rotated, paired_box_iou_rotated

    torch.set_num_threads(1)
    rng, results = np.random.default_rng(0), {}
    for n in (3, 17, 70, 130):
        for dtype in (torch.float32, torch.float64, torch.float16):
            key = f"{n} {str(dtype)[6:]}"
            rows = rng.uniform([0, 0, 1, 1, -720], [20, 20, 9, 9, 720], (2, n, 5))
            rows[0, ::3] = rng.integers([0, 0, 0, 0, -5], [9, 9, 9, 9, 5], (len(rows[0, ::3]), 5))
            rows[0, ::3, 4] *= 45
            a, b = torch.from_numpy(rows).to(dtype)
            scores = torch.from_numpy(rng.integers(0, 50, n) / 64).to(dtype)
            ids = torch.from_numpy(rng.integers(-2, 2, (2, n)))
            results["equal iou " + key] = box_iou_rotated(a, b)
            results["equal pairs " + key] = paired_box_iou_rotated(a, b)
            for threshold in (0.05, 0.5):
                keep = nms_rotated(a, scores, threshold)
                results[f"equal nms {threshold} {key}"] = keep
                keep = batched_nms_rotated(
                    a, scores, ids[0], threshold, image_ids=ids[1], max_output=9
                )
                results[f"equal batched {threshold} {key}"] = keep
            if dtype != torch.float16:
                for name, function in (("m", box_iou_rotated), ("p", paired_box_iou_rotated)):
                    x, y = a.clone().requires_grad_(), b.clone().requires_grad_()
                    out = function(x, y)
                    weight = torch.from_numpy(rng.normal(size=out.shape)).to(dtype)
                    for side, grad in zip("xy", torch.autograd.grad(out, (x, y), weight)):
                        results[f"close gradient {name} {side} {key}"] = grad
    np.savez(sys.argv[1], **{key: value.detach().numpy() for key, value in results.items()})
    """
)


@pytest.fixture(scope="module")
def digests(tmp_path_factory):
    return run_on_every_level(DIGEST, tmp_path_factory.mktemp("digests"))


@pytest.mark.parametrize("what", ["iou", "pairs", "nms", "batched", "gradient"])
@every_other
def test_results_do_not_depend_on_the_instruction_set(digests, name, what):
    assert_agree(digests, name, what, 1e-5)
