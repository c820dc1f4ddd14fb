"""The operators on masks give equal bits on every instruction set and by reference."""

import textwrap

import pytest
from instruction_levels import assert_agree, every_other, run_on_every_level

DIGEST = textwrap.dedent(
    """
    import sys
    import numpy as np, torch
    from cvlib.ops.masks import mask_iou, masks_to_boxes
    import cvlib.ops.paste_rle
    from cvlib.ops.paste import paste_masks

    torch.set_num_threads(1)
    rng, results = np.random.default_rng(0), {}
    for height, width in ((3, 5), (33, 65), (90, 130), (41, 513)):
        for dtype in (torch.float32, torch.float64, torch.float16):
            key = f"{height} {width} {str(dtype)[6:]}"
            corner = rng.uniform(-20, 60, (9, 2))
            boxes = np.concatenate([corner, corner + rng.uniform(0.2, 90, (9, 2))], 1)
            boxes = torch.from_numpy(boxes).float()
            masks = torch.from_numpy(rng.random((9, 7, 6))).to(dtype)
            for threshold in (0.3, 0.5):
                pasted = paste_masks(masks, boxes, (height, width), threshold=threshold)
                results[f"equal pasted {threshold} {key}"] = pasted
                text, ends = torch.ops.cvlib.paste_masks_rle(
                    masks, boxes, height, width, threshold
                )
                results[f"equal text {threshold} {key}"] = text
                results[f"equal ends {threshold} {key}"] = ends
            size = (height, width)
            results["equal values " + key] = paste_masks(masks, boxes, size, threshold=None)
            results["equal boxes " + key] = masks_to_boxes(pasted)
            results["equal iou " + key] = mask_iou(pasted, pasted[:5])
            dense = torch.from_numpy(rng.random((4, height, width)) < 0.6)
            results["equal dense " + key] = mask_iou(dense, pasted)
            grad = torch.from_numpy(rng.normal(size=(9, height, width))).to(dtype)
            backward = torch.ops.cvlib.paste_mask_values_backward(grad, boxes, 7, 6)
            results["close gradient " + key] = backward
    np.savez(sys.argv[1], **{key: value.numpy() for key, value in results.items()})
    """
)


@pytest.fixture(scope="module")
def digests(tmp_path_factory):
    return run_on_every_level(DIGEST, tmp_path_factory.mktemp("digests"))


WHAT = ["pasted", "text", "ends", "values", "boxes", "iou", "dense", "gradient"]


@pytest.mark.parametrize("what", WHAT)
@every_other
def test_results_do_not_depend_on_the_instruction_set(digests, name, what):
    assert_agree(digests, name, what, 1e-4)
