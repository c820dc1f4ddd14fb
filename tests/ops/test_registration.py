"""What holds for every operator alike: kernels, gradients or refusals, export, vmap."""

import inspect

import pytest
import torch
from torch import nn

import cvlib.ops
from cvlib import _extension

OPERATORS = sorted(
    {
        name.split("::")[1].split(".")[0]
        for name in torch._C._dispatch_get_all_op_names()
        if name.startswith("cvlib::")
    }
)
# Plain Python around other libraries, or around lists: nothing to export.
PLAIN = {
    "bilinear_kernel",
    "conv_transpose2d_by_definition",
    "conv_transpose2d_by_matrix",
    "convolution_matrix",
    "masks_to_rle",
    "paste_masks_rle",
    "polygons_to_masks",
    "rle_to_masks",
    "weighted_boxes_fusion",
}


def boxes(count, *batch):
    corner = torch.rand(*batch, count, 2) * 20
    return torch.cat([corner, corner + torch.rand_like(corner) * 20 + 1], dim=-1)


def rotated(count):
    return torch.cat([boxes(count), torch.rand(count, 1) * 360], dim=1)


def labels(batch, count):
    return torch.cat([torch.randint(3, (batch, count, 1)).float(), boxes(count, batch) / 41], -1)


def regions(images, count):
    return torch.cat([torch.randint(images, (count, 1)).float(), boxes(count)], dim=1)


def masks(count):
    return torch.rand(count, 9, 11) > 0.7


# One call of every public function.
CALLS = {
    "batched_nms": lambda: (boxes(20), torch.rand(20), torch.randint(3, (20,)), 0.5),
    "batched_nms_rotated": lambda: (rotated(20), torch.rand(20), torch.randint(3, (20,)), 0.5),
    "box_iou": lambda: (boxes(5), boxes(7)),
    "box_iou_rotated": lambda: (rotated(5), rotated(7)),
    "complete_box_iou": lambda: (boxes(5), boxes(7)),
    "conv_transpose2d": lambda: (torch.randn(2, 3, 4, 5), torch.randn(3, 6, 16, 16), None, 8),
    "distance_box_iou": lambda: (boxes(5), boxes(7)),
    "generalized_box_iou": lambda: (boxes(5), boxes(7)),
    "mask_iou": lambda: (masks(3), masks(4)),
    "masks_to_boxes": lambda: (masks(3),),
    "match_anchors": lambda: (boxes(9) / 41, boxes(3, 2) / 41),
    "matrix_nms": lambda: (boxes(20), torch.rand(20)),
    "max_iou": lambda: (boxes(5), boxes(7)),
    "multibox_detection": lambda: (
        torch.rand(2, 3, 6).softmax(1),
        torch.randn(2, 24) / 9,
        boxes(6) / 41,
    ),
    "multibox_target": lambda: (boxes(9) / 41, labels(2, 3)),
    "multiclass_nms": lambda: (boxes(20, 2), torch.rand(2, 20, 3)),
    "multiscale_roi_align": lambda: (
        [torch.randn(2, 3, 16, 16), torch.randn(2, 3, 8, 8)],
        regions(2, 4),
        (3, 3),
        [2, 3],
    ),
    "nms": lambda: (boxes(20), torch.rand(20), 0.5),
    "nms_rotated": lambda: (rotated(20), torch.rand(20), 0.5),
    "paired_box_iou": lambda: (boxes(5), boxes(5)),
    "paired_box_iou_rotated": lambda: (rotated(5), rotated(5)),
    "paired_complete_box_iou": lambda: (boxes(5), boxes(5)),
    "paired_distance_box_iou": lambda: (boxes(5), boxes(5)),
    "paired_generalized_box_iou": lambda: (boxes(5), boxes(5)),
    "paste_masks": lambda: (torch.rand(3, 7, 7), boxes(3), (50, 60)),
    "roi_align": lambda: (torch.randn(2, 3, 16, 17), regions(2, 4), (3, 4), 0.5, 2),
    "roi_pool": lambda: (torch.randn(2, 3, 16, 17), regions(2, 4), (3, 4), 0.5),
    "sigmoid_focal_loss": lambda: (torch.randn(4, 5), torch.rand(4, 5)),
    "soft_nms": lambda: (boxes(20), torch.rand(20)),
    "ssd_loss": lambda: (
        torch.randn(2, 9, 4),
        torch.randn(2, 9, 4),
        torch.randint(4, (2, 9)),
        torch.randn(2, 9, 4),
    ),
    "upsample_bilinear": lambda: (torch.randn(2, 3, 4, 5), (9, 7)),
}
MAPPED = [name for name in CALLS if name.endswith("box_iou") or name == "max_iou"]


WITHOUT_CUDA = {
    "paste_masks_rle": "run lengths are written on the CPU",
    "conv_transpose2d_backward": "the gradients on CUDA are PyTorch's",
}


def test_every_public_function_is_here():
    functions = {n for n in cvlib.ops.__all__ if inspect.isfunction(getattr(cvlib.ops, n))}
    assert functions == set(CALLS) | PLAIN


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_operator_has_its_kernel(operator, device):
    if not _extension.has_kernels(device):
        pytest.skip(f"no kernels for {device} here")
    if device == "cuda" and operator in WITHOUT_CUDA:
        pytest.skip(WITHOUT_CUDA[operator])
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"cvlib::{operator}", device.upper())


@pytest.mark.parametrize("operator", OPERATORS)
def test_every_operator_with_a_floating_result_has_a_gradient_or_refuses_one(operator):
    # opcheck accepts a missing gradient, so it is looked at here.
    if operator.endswith("_plain"):
        assert operator.removesuffix("_plain") in OPERATORS  # called where no gradient is asked for
        return
    schema = getattr(torch.ops.cvlib, operator).default._schema
    integer = {"nms", "nms_rotated", "match_anchors", "multiclass_nms"}
    integer |= {"mask_iou", "paste_masks", "paste_masks_rle"}  # or take no floating input
    has_gradient = torch._C._dispatch_has_kernel_for_dispatch_key(f"cvlib::{operator}", "Autograd")
    assert has_gradient or operator in integer, schema


class Call(nn.Module):
    def __init__(self, name, arguments):
        super().__init__()
        self.function = getattr(cvlib.ops, name)
        self.rest = [None if is_tensors(one) else (one,) for one in arguments]

    def forward(self, *tensors):
        left = iter(tensors)
        return self.function(*(next(left) if one is None else one[0] for one in self.rest))


def is_tensors(argument):
    return isinstance(argument, torch.Tensor) or (
        isinstance(argument, list) and isinstance(argument[0], torch.Tensor)
    )


def any_size(argument):
    if isinstance(argument, list):
        return [any_size(one) for one in argument]
    return {d: torch.export.Dim.AUTO for d in range(argument.dim())}


@pytest.mark.parametrize("name", CALLS)
def test_exports_with_dynamic_shapes(name):
    arguments = CALLS[name]()
    tensors = tuple(one for one in arguments if is_tensors(one))
    call = Call(name, arguments)
    shapes = {"tensors": tuple(any_size(one) for one in tensors)}
    program = torch.export.export(call, tensors, dynamic_shapes=shapes)
    assert any("cvlib" in str(node.target) for node in program.graph.nodes)
    for given in (tensors, tuple(one for one in CALLS[name]() if is_tensors(one))):
        torch.testing.assert_close(program.module()(*given), call(*given), rtol=0, atol=0)


@pytest.mark.parametrize("name", MAPPED)
def test_vmap_equals_a_loop(name):
    samples = [CALLS[name]() for _ in range(3)]
    stacked = [torch.stack(parts) for parts in zip(*samples, strict=True)]
    function = getattr(cvlib.ops, name)
    results = torch.func.vmap(function)(*stacked)
    for index, sample in enumerate(samples):
        expected = function(*sample)
        own = (
            results[index]
            if isinstance(results, torch.Tensor)
            else tuple(r[index] for r in results)
        )
        torch.testing.assert_close(own, expected, rtol=0, atol=0)
    # One argument shared by all samples.
    shared = torch.func.vmap(function, in_dims=(0, None))(stacked[0], stacked[1][1])
    expected = function(stacked[0][1], stacked[1][1])
    own = shared[1] if isinstance(shared, torch.Tensor) else tuple(r[1] for r in shared)
    torch.testing.assert_close(own, expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", [name for name in MAPPED if name != "max_iou"])
def test_gradient_reaches_through_vmap(name):
    samples = [CALLS[name]() for _ in range(3)]
    first, second = (torch.stack(parts) for parts in zip(*samples, strict=True))
    first.requires_grad_()
    function = getattr(cvlib.ops, name)
    (together,) = torch.autograd.grad(torch.func.vmap(function)(first, second).sum(), first)
    one_by_one = torch.stack([function(a, b) for a, b in zip(first, second, strict=True)])
    (expected,) = torch.autograd.grad(one_by_one.sum(), first)
    torch.testing.assert_close(together, expected)
