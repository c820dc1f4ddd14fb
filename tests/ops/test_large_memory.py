"""Large results: their memory is reused but never shared, and indices of 64 bits reach them."""

import gc
import os
import subprocess
import sys
import threading

import pytest
import torch
from torch.nn import functional

import cvlib
from cvlib import _extension, ops

pytestmark = pytest.mark.skipif(
    not (_extension.has_kernels() and sys.platform.startswith("linux")), reason="kernels on Linux"
)

SIZE = (1024, 1100)  # 36 MB


def images(value=1.0):
    return torch.full((8, 1, 4, 4), value)


def large(value=1.0):
    return ops.upsample_bilinear(images(value), SIZE)


def is_all(result, value):
    return bool(((result - value).abs() < 1e-4).all())


def test_freed_memory_serves_the_next_result():
    first = large()
    place = first.data_ptr()
    del first
    gc.collect()
    assert large().data_ptr() == place


def test_results_that_are_alive_have_their_own_memory():
    results = [large(value) for value in (1.0, 2.0, 3.0)]
    assert len({one.data_ptr() for one in results}) == 3
    for value, one in zip((1.0, 2.0, 3.0), results, strict=True):
        assert is_all(one, value)


def test_a_view_keeps_the_memory():
    result = large(5.0)
    view = result[3, 0, 7]
    del result
    gc.collect()
    other = large(6.0)
    assert is_all(view, 5) and is_all(other, 6)


def test_much_smaller_results_do_not_take_large_blocks():
    first = ops.upsample_bilinear(images(), (4096, 1100))
    place = first.data_ptr()
    del first
    gc.collect()
    assert large().data_ptr() != place


def test_layout_and_values_are_those_of_small_results():
    random = torch.randn(8, 3, 64, 64)
    for layout in (torch.contiguous_format, torch.channels_last):
        given = random.to(memory_format=layout)
        result = ops.upsample_bilinear(given, (640, 656))
        expected = functional.interpolate(given, (640, 656), mode="bilinear")
        assert result.stride() == expected.stride()
        torch.testing.assert_close(result, expected)


def test_threads_share_the_memory_in_peace():
    wrong = []

    def work(value):
        for _ in range(6):
            if not is_all(large(value), value):
                wrong.append(value)

    threads = [threading.Thread(target=work, args=(float(i),)) for i in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert not wrong


def test_nothing_is_kept_when_the_user_says_so():
    script = (
        "import torch\nfrom cvlib import ops\n"
        "def resident():\n"
        "    return int(open('/proc/self/statm').read().split()[1]) * 4096\n"
        "small = torch.ones(8, 1, 4, 4)\n"
        "ops.upsample_bilinear(small, (8, 8)); before = resident()\n"
        f"ops.upsample_bilinear(small, {SIZE})\n"
        "print(resident() - before)\n"
    )
    grown = {}
    for limit in ("0", "-1", "256"):
        done = subprocess.run(
            [sys.executable, "-c", script],
            env=os.environ | {"CVLIB_KEPT_MEMORY_MB": limit},
            capture_output=True,
            text=True,
            check=True,
        )
        grown[limit] = int(done.stdout)
    assert max(grown["0"], grown["-1"]) < 20e6 < 30e6 < grown["256"]


# --- results of more than 2^31 elements, where an index of 32 bits fails

LIMIT = 2**31


def need_gigabytes(count):
    pages = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if pages < count * 1e9:
        pytest.skip(f"needs {count} GB of free memory, {pages / 1e9:.1f} GB are there")


def random_boxes(count):
    corner = torch.rand(count, 2) * 1000
    return torch.cat([corner, corner + torch.rand(count, 2) * 100 + 1], dim=1)


@pytest.mark.slow
@pytest.mark.parametrize("function", [ops.box_iou, ops.complete_box_iou])
def test_pairwise_matrix(function):
    need_gigabytes(10)
    boxes = random_boxes(46_400)
    matrix = function(boxes, boxes)
    assert matrix.numel() > LIMIT
    for row in (0, 23_000, 46_300, 46_399):
        torch.testing.assert_close(matrix[row], function(boxes[row : row + 1], boxes)[0])
    assert torch.equal(matrix.diagonal(), torch.ones(46_400))


@pytest.mark.slow
def test_many_pairs():
    need_gigabytes(12)
    boxes = random_boxes(1000).repeat(540_000, 1)
    assert boxes.numel() > LIMIT
    iou = ops.paired_box_iou(boxes, boxes)
    assert iou.shape == (540_000_000,) and bool((iou == 1).all())


@pytest.mark.slow
def test_max_iou_of_many_boxes():
    need_gigabytes(18)
    boxes = random_boxes(1000).repeat(540_000, 1)
    value, index = cvlib.ops.max_iou(boxes, boxes[:3])
    expected = cvlib.ops.max_iou(boxes[:1000], boxes[:3])
    assert torch.equal(value.view(-1, 1000)[[0, -1]], expected[0].expand(2, -1))
    assert torch.equal(index.view(-1, 1000)[[0, -1]], expected[1].expand(2, -1))
