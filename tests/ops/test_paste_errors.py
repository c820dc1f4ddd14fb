"""paste_masks: errors."""

import pytest
import torch
from cases_paste import nan

from cvlib.ops.paste import _paste_mask_values_reference, _paste_masks_reference, paste_masks

MASKS = torch.rand(2, 3, 4)
BOXES = torch.tensor([[0.0, 0, 2, 2], [1, 1, 3, 3]])


@pytest.mark.parametrize(
    ("masks", "boxes", "size", "threshold", "error", "message"),
    [
        ([1], BOXES, (5, 5), 0.5, TypeError, r"expected masks to be a torch\.Tensor, got list"),
        (
            MASKS > 0.5,
            BOXES,
            (5, 5),
            0.5,
            TypeError,
            r"expected masks of a floating-point dtype, got torch\.bool; convert with masks\.float",
        ),
        (MASKS, None, (5, 5), 0.5, TypeError, r"expected boxes to be a torch\.Tensor, got None"),
        (MASKS, BOXES.long(), (5, 5), 0.5, TypeError, r"expected boxes of a floating-point dtype"),
        (
            MASKS[0],
            BOXES,
            (5, 5),
            0.5,
            ValueError,
            r"expected masks of shape \(N, h, w\), got \(3, 4\)",
        ),
        (
            torch.rand(2, 3, 4, 5),
            BOXES,
            (5, 5),
            0.5,
            ValueError,
            r"expected masks of shape \(N, h, w\), got \(2, 3, 4, 5\)",
        ),
        (
            MASKS,
            BOXES[:, :3],
            (5, 5),
            0.5,
            ValueError,
            r"expected boxes of shape \(N, 4\), got \(2, 3\)",
        ),
        (
            MASKS,
            BOXES[:1],
            (5, 5),
            0.5,
            ValueError,
            r"expected masks of shape \(N, h, w\) with N = 1 as in boxes, got \(2, 3, 4\)",
        ),
        (
            MASKS[:, :0],
            BOXES,
            (5, 5),
            0.5,
            ValueError,
            r"expected masks of at least one cell, got \(2, 0, 4\)",
        ),
        (
            MASKS,
            BOXES.to("meta"),
            (5, 5),
            0.5,
            ValueError,
            r"expected boxes on the device of masks \(cpu\), got meta",
        ),
        (
            MASKS,
            BOXES,
            5,
            0.5,
            TypeError,
            r"expected image_size to be two integers \(height, width\), got 5",
        ),
        (MASKS, BOXES, (5, 5.0), 0.5, TypeError, r"expected image_size to be two integers .*5\.0"),
        (MASKS, BOXES, (5, True), 0.5, TypeError, r"expected image_size to be two integers"),
        (MASKS, BOXES, (3, 5, 5), 0.5, TypeError, r"expected image_size to be two integers"),
        (
            MASKS,
            BOXES,
            (5, -1),
            0.5,
            ValueError,
            r"expected image_size of at least \(0, 0\), got \(5, -1\)",
        ),
        (MASKS, BOXES, (5, 5), "a", TypeError, r"expected threshold to be a number, got str"),
        (MASKS, BOXES, (5, 5), 1.5, ValueError, r"expected threshold in \[0, 1\], got 1\.5"),
        (MASKS, BOXES, (5, 5), nan, ValueError, r"expected threshold in \[0, 1\], got nan"),
        (
            MASKS,
            torch.tensor([[0.0, 0, 2, 2], [0, nan, 2, 2]]),
            (5, 5),
            0.5,
            ValueError,
            r"expected boxes without NaN, got boxes\[1\] = \(0, nan, 2, 2\)",
        ),
        (
            MASKS,
            torch.tensor([[0.0, 0, 2, 2], [3, 0, 2, 2]]),
            (5, 5),
            None,
            ValueError,
            r"expected boxes with x1 <= x2 and y1 <= y2, got boxes\[1\] = \(3, 0, 2, 2\)",
        ),
        (
            torch.where(torch.arange(24).view(2, 3, 4) == 17, nan, MASKS),
            BOXES,
            (5, 5),
            0.5,
            ValueError,
            r"expected masks without NaN, got masks\[1, 1, 1\] = nan; a diverged model",
        ),
    ],
)
def test_errors(masks, boxes, size, threshold, error, message):
    with pytest.raises(error, match="^paste_masks: " + message):
        paste_masks(masks, boxes, size, threshold=threshold)


@pytest.mark.parametrize("reference", [_paste_masks_reference, None])
def test_reference_finds_bad_values_too(reference):
    call = reference or (lambda *rest: _paste_mask_values_reference(*rest[:4]))
    for masks, boxes in ((MASKS * nan, BOXES), (MASKS, BOXES * nan), (MASKS, -BOXES)):
        with pytest.raises(RuntimeError, match="cvlib: bad values"):
            call(masks, boxes, 5, 5, 0.5)


@pytest.mark.parametrize("position", [0, 1, 15, 16, 31, 783, 784 * 3 + 500])
def test_one_nan_among_many_cells_is_found(position):
    masks = torch.rand(4, 28, 28)
    masks.view(-1)[position] = nan
    with pytest.raises(ValueError, match=r"without NaN, got masks\["):
        paste_masks(masks, BOXES.repeat(2, 1), (5, 5))
