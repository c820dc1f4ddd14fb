"""Soft, matrix and multiclass suppression and fusion give equal bits on every instruction set."""

import textwrap

import numpy as np
import pytest
from instruction_levels import every_other, run_on_every_level

DIGEST = textwrap.dedent(
    """
    import sys
    import numpy as np, torch
    from cvlib.ops.fusion import weighted_boxes_fusion
    from cvlib.ops.matrix_nms import matrix_nms
    from cvlib.ops.multiclass_nms import multiclass_nms
    from cvlib.ops.soft_nms import soft_nms

    torch.set_num_threads(1)
    rng, results = np.random.default_rng(0), {}

    def random_boxes(*shape, kind):
        if kind == "grid":
            corner, side = rng.integers(0, 11, (*shape, 2)), rng.integers(0, 6, (*shape, 2))
        else:
            corner, side = rng.uniform(0, 9, (*shape, 2)), rng.uniform(0.1, 4, (*shape, 2))
        return torch.from_numpy(np.concatenate([corner, corner + side], -1) / 16)

    for kind in ("grid", "random"):
        for n in (3, 17, 33, 101):
            for dtype in (torch.float32, torch.float64, torch.float16):
                key = f"{kind} {n} {str(dtype)[6:]}"
                boxes = random_boxes(n, kind=kind).to(dtype)
                scores = torch.from_numpy(rng.integers(1, 50, n) / 64).to(dtype)
                labels, images = torch.from_numpy(rng.integers(-2, 2, (2, n)))
                for method in ("linear", "gaussian"):
                    for limit in (None, 5):
                        keep, decayed = soft_nms(
                            boxes, scores, method=method, max_output=limit, image_ids=images
                        )
                        results[f"soft_nms keep {method} {limit} {key}"] = keep
                        results[f"soft_nms scores {method} {limit} {key}"] = decayed
                    lowered = matrix_nms(boxes, scores, labels, kernel=method)
                    results[f"matrix_nms {method} {key}"] = lowered
                half = n // 2
                lists = [one.split([half, n - half]) for one in (boxes, scores, labels)]
                for confidence in ("avg", "max", "box_and_model_avg", "absent_model_aware_avg"):
                    fused = weighted_boxes_fusion(
                        *lists, weights=[1, 3], iou_threshold=1 / 3, conf_type=confidence
                    )
                    for name, one in zip(("boxes", "scores", "labels"), fused):
                        results[f"fusion {name} {confidence} {key}"] = one
                per_class = random_boxes(2, n, 3, kind=kind).to(dtype)
                scores = torch.from_numpy(rng.integers(0, 65, (2, n, 3)) / 64).to(dtype)
                for given in (per_class, per_class[:, :, 0]):
                    found = multiclass_nms(given, scores, max_candidates=20, max_output=30)
                    for name, one in found._asdict().items():
                        results[f"multiclass_nms {name} {given.dim()} {key}"] = one
    np.savez(sys.argv[1], **{key: value.numpy() for key, value in results.items()})
    """
)


@pytest.fixture(scope="module")
def digests(tmp_path_factory):
    return run_on_every_level(DIGEST, tmp_path_factory.mktemp("digests"))


@pytest.mark.parametrize("what", ["soft_nms", "matrix_nms", "fusion", "multiclass_nms"])
@every_other
def test_results_do_not_depend_on_the_instruction_set(digests, name, what):
    keys = [key for key in digests["default"] if key.split()[0] == what]
    assert keys and digests[name].keys() == digests["default"].keys()
    for key in keys:
        np.testing.assert_array_equal(digests[name][key], digests["default"][key], err_msg=key)
