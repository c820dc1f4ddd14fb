"""A call of every public function of cvlib.ops, for the tests that hold for all of them."""

import torch
from torch.utils import _pytree

import cvlib.ops

OPERATORS = sorted(
    {
        name.split("::")[1].split(".")[0]
        for name in torch._C._dispatch_get_all_op_names()
        if name.startswith("cvlib::")
    }
)
# Plain Python around other libraries, or around lists: nothing to compile or export.
PLAIN = {
    "bilinear_kernel",
    "conv_transpose2d_by_definition",
    "conv_transpose2d_by_matrix",
    "convolution_matrix",
    "masks_to_rle",
    "paste_masks_rle",
    "polygons_to_masks",
    "rle_to_masks",
}


def call(*args, **kwargs):
    return args, kwargs


def boxes(count, *batch):
    corner = torch.rand(*batch, count, 2) * 20
    return torch.cat([corner, corner + torch.rand_like(corner) * 20 + 1], dim=-1)


def rotated(count):
    return torch.cat([boxes(count), torch.rand(count, 1) * 360], dim=1)


def labels(batch, count):
    return torch.cat([torch.randint(3, (batch, count, 1)).float(), boxes(count, batch) / 41], -1)


def regions(images, count):
    return torch.cat([torch.randint(images, (count, 1)).float(), boxes(count)], dim=1)


def masks(count, k):
    return torch.rand(count, 9 * k, 11) > 0.7


def ids(k):
    return torch.randint(-1, 2, (20 * k,))


def scored(k):
    return boxes(20 * k), torch.rand(20 * k)


def all_pairs(k):
    return call(boxes(5 * k), boxes(6 * k + 1))


def pairs(k):
    return call(boxes(5 * k), boxes(5 * k))


def features(k):
    return torch.randn(2, 3, 16, 15 + k).contiguous(memory_format=torch.channels_last)


def models(k):
    """Lists of boxes, scores, labels and image ids of two models."""
    sizes = 12 * k, 5 * k
    return (
        [boxes(n) for n in sizes],
        [torch.rand(n) for n in sizes],
        [torch.randint(-1, 2, (n,)) for n in sizes],
        [torch.randint(2, (n,)) for n in sizes],
    )


def ssd(k):
    return (
        torch.randn(2, 9 * k, 4),
        torch.randn(2, 9 * k, 4),
        torch.randint(-1, 4, (2, 9 * k)),
        torch.randn(2, 9 * k, 4),
    )


# By name, and where a name has several calls, what is special about this one. k = 2 gives larger
# tensors of equal rank.
CALLS = {
    "batched_nms": lambda k: call(*scored(k), ids(k), 0.5),
    "batched_nms: limited": lambda k: call(*scored(k), ids(k), 0.3, image_ids=ids(k), max_output=2),
    "batched_nms_rotated": lambda k: call(rotated(20 * k), torch.rand(20 * k), ids(k), 0.5),
    "batched_nms_rotated: limited": lambda k: call(
        rotated(20 * k), torch.rand(20 * k), ids(k), 0.3, image_ids=ids(k), max_output=2
    ),
    "box_iou": all_pairs,
    "box_iou_rotated": lambda k: call(rotated(5 * k), rotated(6 * k + 1)),
    "complete_box_iou": all_pairs,
    "conv_transpose2d": lambda k: call(
        torch.randn(2, 3, 3 + k, 5), torch.randn(3, 6, 16, 16), None, 8
    ),
    "conv_transpose2d: bias": lambda k: call(
        torch.randn(2, 4, 5, 2 + k), torch.randn(4, 3, 16, 16), torch.randn(3), (4, 5), (7, 6)
    ),
    "distance_box_iou": all_pairs,
    "generalized_box_iou": all_pairs,
    "mask_iou": lambda k: call(masks(3, k), masks(4, k)),
    "mask_iou: crowds": lambda k: call(
        masks(3, k), masks(2, k), is_crowd=torch.tensor([True, False])
    ),
    "masks_to_boxes": lambda k: call(masks(3, k)),
    "match_anchors": lambda k: call(boxes(9 * k) / 41, boxes(3 * k, 2) / 41),
    "matrix_nms": lambda k: call(*scored(k)),
    "matrix_nms: groups": lambda k: call(*scored(k), ids(k), image_ids=ids(k), kernel="linear"),
    "max_iou": all_pairs,
    "max_iou: empty": lambda k: call(boxes(3 * k), torch.empty(0, 4)),
    "multibox_detection": lambda k: call(
        torch.rand(2, 3, 6 * k).softmax(1), torch.randn(2, 24 * k) / 9, boxes(6 * k) / 41
    ),
    "multibox_target": lambda k: call(boxes(9 * k) / 41, labels(2, 3 * k)),
    "multiclass_nms": lambda k: call(boxes(20 * k, 2), torch.rand(2, 20 * k, 3)),
    "multiclass_nms: limited": lambda k: call(
        torch.stack([boxes(9 * k, 2)] * 3, dim=2),
        torch.rand(2, 9 * k, 3),
        max_candidates=5,
        max_output=7,
    ),
    "multiscale_roi_align": lambda k: call(
        [torch.randn(2, 3, 16, 16 * k), torch.randn(2, 3, 8, 8 * k)], regions(2, 4), (3, 3), [2, 3]
    ),
    "nms": lambda k: call(*scored(k), 0.5),
    "nms: limited": lambda k: call(*scored(k), 0.5, max_output=5),
    "nms_rotated": lambda k: call(rotated(20 * k), torch.rand(20 * k), 0.5, max_output=5),
    "paired_box_iou": pairs,
    "paired_box_iou: batch": lambda k: call(boxes(3, 2 * k), boxes(3, 2 * k)),
    "paired_box_iou_rotated": lambda k: call(rotated(5 * k), rotated(5 * k)),
    "paired_complete_box_iou": pairs,
    "paired_distance_box_iou": pairs,
    "paired_generalized_box_iou": pairs,
    "paste_masks": lambda k: call(torch.rand(3, 7, 6 + k), boxes(3), (50, 60)),
    "paste_masks: values": lambda k: call(
        torch.rand(3, 7, 6 + k), boxes(3), (50, 60), threshold=None
    ),
    "roi_align": lambda k: call(torch.randn(2, 3, 16, 15 + k), regions(2, 4 * k), (3, 4), 0.5, 2),
    "roi_align: list": lambda k: call(features(k), [boxes(3), boxes(2 * k)], (3, 2), 0.5),
    "roi_pool": lambda k: call(torch.randn(2, 3, 16, 15 + k), regions(2, 4 * k), (3, 4), 0.5),
    "roi_pool: list": lambda k: call(features(k), [boxes(3), boxes(2 * k)], (3, 2), 0.5),
    "sigmoid_focal_loss": lambda k: call(torch.randn(4 * k, 5), torch.rand(4 * k, 5)),
    "sigmoid_focal_loss: mean": lambda k: call(
        torch.randn(4 * k, 5), torch.rand(4 * k, 5), reduction="mean"
    ),
    "sigmoid_focal_loss: classes": lambda k: call(
        torch.randn(4 * k, 5), torch.randint(-1, 5, (4 * k,)), reduction="sum"
    ),
    "soft_nms": lambda k: call(*scored(k)),
    "soft_nms: groups": lambda k: call(
        *scored(k), method="linear", labels=ids(k), image_ids=ids(k), max_output=5
    ),
    "ssd_loss": lambda k: call(*ssd(k)),
    "upsample_bilinear": lambda k: call(torch.randn(2, 3, 3 + k, 5), (9, 7)),
    "upsample_bilinear: factor": lambda k: call(features(k), scale_factor=1.7),
    "weighted_boxes_fusion": lambda k: call(*models(k)[:3], weights=[1, 2]),
    "weighted_boxes_fusion: images": lambda k: call(*models(k)[:3], image_ids=models(k)[3]),
}
# The tensors of a call that have a gradient, by position; results of all others have none.
GRADIENTS = {name: (0, 1) for name in CALLS if "box_iou" in name}
GRADIENTS |= {
    "conv_transpose2d": (0, 1),
    "conv_transpose2d: bias": (0, 1, 2),
    "matrix_nms": (1,),
    "matrix_nms: groups": (1,),
    "multiscale_roi_align": (0, 1),
    "paste_masks: values": (0,),
    "ssd_loss": (0, 1),
}
GRADIENTS |= {
    name: (0,)
    for name in CALLS
    if name.startswith(("roi_", "sigmoid_focal_loss", "upsample_bilinear"))
}


class Call(torch.nn.Module):
    """Calls a public function with tensors as the only arguments.

    Args:
        name: Key of CALLS.
        k: 1, or 2 for larger tensors.
        device: Where its tensors are.
        dtype: dtype of the floating-point tensors.
        needs_gradient: Whether the tensors of GRADIENTS require a gradient.
    """

    def __init__(self, name, k=1, device="cpu", dtype=torch.float32, *, needs_gradient=False):
        super().__init__()
        self.function = getattr(cvlib.ops, name.split(":")[0])
        leaves, self.spec = _pytree.tree_flatten(CALLS[name](k))
        is_tensor = [isinstance(leaf, torch.Tensor) for leaf in leaves]
        self.constants = [
            None if skip else (leaf,) for skip, leaf in zip(is_tensor, leaves, strict=True)
        ]
        self.tensors = tuple(
            leaf.to(device, dtype if leaf.is_floating_point() else leaf.dtype)
            for leaf, keep in zip(leaves, is_tensor, strict=True)
            if keep
        )
        positions = GRADIENTS.get(name, ()) if needs_gradient else ()
        self.inputs = [self.tensors[i].requires_grad_() for i in positions]

    def forward(self, *tensors):
        remaining = iter(tensors)
        leaves = [next(remaining) if one is None else one[0] for one in self.constants]
        args, kwargs = _pytree.tree_unflatten(leaves, self.spec)
        return tuple(_pytree.tree_leaves(self.function(*args, **kwargs)))

    def with_gradients(self, function=None):
        """Results, and gradients of the sum of their squares."""
        results = (self if function is None else function)(*self.tensors)
        if not self.inputs:
            return results
        total = sum(result.square().sum() for result in results if result.requires_grad)
        return *results, *torch.autograd.grad(total, self.inputs)
