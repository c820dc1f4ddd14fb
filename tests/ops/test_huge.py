"""Results of more than 2^31 elements: an index that is 32 bits wide anywhere fails here."""

import os

import pytest
import torch

import cvlib
from cvlib import ops

pytestmark = pytest.mark.slow

LIMIT = 2**31


def need_gigabytes(count):
    pages = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if pages < count * 1e9:
        pytest.skip(f"needs {count} GB of free memory, {pages / 1e9:.1f} GB are there")


def random_boxes(count):
    corner = torch.rand(count, 2) * 1000
    return torch.cat([corner, corner + torch.rand(count, 2) * 100 + 1], dim=1)


@pytest.mark.parametrize("function", [ops.box_iou, ops.complete_box_iou])
def test_pairwise_matrix(function):
    need_gigabytes(10)
    boxes = random_boxes(46_400)
    matrix = function(boxes, boxes)
    assert matrix.numel() > LIMIT
    for row in (0, 23_000, 46_300, 46_399):
        torch.testing.assert_close(matrix[row], function(boxes[row : row + 1], boxes)[0])
    assert torch.equal(matrix.diagonal(), torch.ones(46_400))


def test_many_pairs():
    need_gigabytes(12)
    boxes = random_boxes(1000).repeat(540_000, 1)
    assert boxes.numel() > LIMIT
    iou = ops.paired_box_iou(boxes, boxes)
    assert iou.shape == (540_000_000,) and bool((iou == 1).all())


def test_max_iou_of_many_boxes():
    need_gigabytes(18)
    boxes = random_boxes(1000).repeat(540_000, 1)
    value, index = cvlib.ops.max_iou(boxes, boxes[:3])
    expected = cvlib.ops.max_iou(boxes[:1000], boxes[:3])
    assert torch.equal(value.view(-1, 1000)[[0, -1]], expected[0].expand(2, -1))
    assert torch.equal(index.view(-1, 1000)[[0, -1]], expected[1].expand(2, -1))
