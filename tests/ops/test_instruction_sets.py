"""One binary holds several instruction sets, and the reference stands behind it: all agree."""

import textwrap

import pytest
from instruction_levels import assert_agree, every_other, run_on_every_level

# Computes every operator on the same data; float32 and float64, sizes around those of registers.
DIGEST = textwrap.dedent(
    """
    import sys
    import numpy as np, torch
    import cvlib

    torch.set_num_threads(1)
    rng, results = np.random.default_rng(0), {}

    def boxes(*shape, kind):
        if kind == "grid":
            corner = rng.integers(0, 11, (*shape, 2))
            rows = np.concatenate([corner, corner + rng.integers(1, 6, (*shape, 2))], -1) / 16
        else:
            corner = rng.uniform(0, 0.7, (*shape, 2))
            rows = np.concatenate([corner, corner + rng.uniform(0.02, 0.3, (*shape, 2))], -1)
        return torch.from_numpy(rows)

    for kind in ("grid", "random"):
        for n in (3, 8, 17, 161, 401):
            for dtype in (torch.float32, torch.float64, torch.float16):
                key = f"{kind} {n} {str(dtype)[6:]}"
                a, b = boxes(n, kind=kind).to(dtype), boxes(n + 1, kind=kind).to(dtype)
                scores = torch.from_numpy(rng.integers(0, 50, n) / 64).to(dtype)
                ids = torch.from_numpy(rng.integers(-2, 2, (2, n)))
                results["decided iou " + key] = cvlib.box_iou(a, b)
                if dtype != torch.float16:
                    x, y = a.clone().requires_grad_(), b.clone().requires_grad_()
                    weight = torch.from_numpy(rng.normal(size=(n, n + 1))).to(dtype)
                    try:
                        grads = torch.autograd.grad(cvlib.box_iou(x, y), (x, y), weight)
                    except RuntimeError as error:  # so that the other results can be compared
                        print(error, file=sys.stderr)
                        grads = torch.full((2, 1), float("nan"))
                    # Sums of n terms of either sign.
                    for name, grad in zip("xy", grads):
                        results[f"close gradient {name} {key}"] = grad / n
                for threshold in (0.05, 1 / 3, 0.5, 0.7):
                    keep = cvlib.nms(a, scores, threshold)
                    results[f"decided nms {threshold} {key}"] = keep
                    keep = cvlib.batched_nms(
                        a, scores, ids[0], threshold, image_ids=ids[1], max_output=9
                    )
                    results[f"decided batched {threshold} {key}"] = keep
                gts = boxes(3, 7, kind=kind).to(dtype)
                gts[:, 5:] = -1
                results["decided matches " + key] = cvlib.match_anchors(a, gts, 1 / 3)
                labels = torch.cat([gts[..., :1].sign() * 2, gts], -1)
                labels[:, :5, 0] = 2
                offsets, mask, classes = cvlib.multibox_target(a, labels)
                results["close offsets " + key] = offsets
                results["decided mask " + key] = mask
                results["decided classes " + key] = classes
                # Without changes of size, decoding needs no exp and decides exactly.
                probs = torch.from_numpy(rng.integers(0, 65, (2, 4, n)) / 64).to(dtype)
                offsets = torch.from_numpy(rng.integers(-1, 2, (2, n, 4))).to(dtype)
                offsets[..., 2:] = 0
                rows = cvlib.multibox_detection(
                    probs, offsets.flatten(1), boxes(n, kind="grid").to(dtype),
                    variances=(0.125, 0.25, 0.5, 1.0),
                )
                results["decided detections " + key] = rows
                one = torch.from_numpy(rng.normal(size=(2, n, 4))).to(dtype)
                rows = cvlib.multibox_detection(
                    probs[:, :, :1], one[:, :1].flatten(1), a[:1], pos_threshold=0.3
                )
                results["close detection " + key] = rows
    np.savez(sys.argv[1], **{key: value.numpy() for key, value in results.items()})
    """
)


@pytest.fixture(scope="module")
def digests(tmp_path_factory):
    return run_on_every_level(DIGEST, tmp_path_factory.mktemp("digests"))


WHAT = ["iou", "gradient", "nms", "batched", "matches", "offsets", "mask", "classes"]
WHAT += ["detections", "detection"]


@pytest.mark.parametrize("what", WHAT)
@every_other
def test_results_do_not_depend_on_the_instruction_set(digests, name, what):
    assert_agree(digests, name, what, 1e-5)
