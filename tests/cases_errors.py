"""Good arguments of the operators, and wrong ones with the error that they raise.

A case is (changed arguments, error, begin of the message after "expected"). The begin "`x` to" may
be left out for the first changed argument x.
"""

import cases_iou
import cases_roi
import cases_rotated
import torch

from cvlib import ops

T, V, R = TypeError, ValueError, RuntimeError
nan, inf = float("nan"), float("inf")


def changed(tensor, index, value):
    tensor = tensor.clone()
    tensor[index] = torch.as_tensor(value, dtype=tensor.dtype)
    return tensor


BOXES = torch.tensor([[0.0, 0, 2, 2], [1, 1, 3, 3], [5, 5, 6, 6]])
SCORES, IDS = torch.tensor([0.9, 0.8, 0.7]), torch.tensor([0, 1, 0])
ROTATED = torch.tensor([[0.0, 0, 2, 2, 0], [1, 1, 3, 3, 10], [5, 5, 6, 6, 20]])
ANCHORS = torch.tensor([[0.0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1]])
GTS = torch.tensor([[[0.0, 0, 2, 2], [-1, -1, -1, -1]], [[1, 1, 2, 2], [0, 1, 2, 3]]])
LABELS = torch.tensor(
    [[[0, 0.1, 0.1, 0.5, 0.4], [-1, -1, -1, -1, -1]], [[3, 0.2, 0.1, 0.9, 1]] * 2]
)
PROBS, OFFSETS = torch.full((3, 4, 2), 0.25), torch.zeros(3, 8)
BATCH, BATCH_SCORES = BOXES[None], torch.tensor([[[0.9, 0.1], [0.8, 0.2], [0.7, 0.3]]])
LOGITS, CLASSES = torch.zeros(2, 5, 3), torch.zeros(2, 5, dtype=torch.int64)
BITS, MASKS = torch.ones(2, 3, 4, dtype=torch.bool), torch.rand(2, 3, 4)
MAPS, REGIONS = torch.zeros(2, 3, 8, 8), torch.tensor([[0.0, 0, 0, 4, 4], [1, 1, 1, 3, 3]])
CORNERS = REGIONS[:, 1:]
INPUT, WEIGHT, IMAGES = torch.zeros(1, 4, 3, 3), torch.zeros(4, 2, 16, 16), torch.zeros(1, 2, 3, 4)
RLE = {"size": [2, 2], "counts": "22"}

MATRICES = (ops.box_iou, ops.generalized_box_iou, ops.distance_box_iou, ops.complete_box_iou)
PAIRS = (*MATRICES, ops.max_iou)
PAIRED = (
    ops.paired_box_iou,
    ops.paired_generalized_box_iou,
    ops.paired_distance_box_iou,
    ops.paired_complete_box_iou,
)
BOTH_ROTATED = (ops.box_iou_rotated, ops.paired_box_iou_rotated)
ROTATED_NMS = (ops.nms_rotated, ops.batched_nms_rotated)
GREEDY = (ops.nms, ops.batched_nms, *ROTATED_NMS)
UPRIGHT = (ops.nms, ops.batched_nms, ops.soft_nms, ops.matrix_nms)
GROUPED = (ops.batched_nms, ops.batched_nms_rotated, ops.soft_nms, ops.matrix_nms)
TRANSPOSED = (
    ops.conv_transpose2d,
    ops.conv_transpose2d_by_definition,
    ops.conv_transpose2d_by_matrix,
)
PASTE = (ops.paste_masks, ops.paste_masks_rle)
ROI = (ops.roi_align, ops.roi_pool)

SCORED = {"boxes": BOXES, "scores": SCORES}
GOOD = {
    **{operator: {"boxes1": BOXES, "boxes2": BOXES} for operator in PAIRS + PAIRED},
    **{operator: {"boxes1": ROTATED, "boxes2": ROTATED} for operator in BOTH_ROTATED},
    **dict.fromkeys((ops.soft_nms, ops.matrix_nms), SCORED),
    ops.nms: SCORED | {"iou_threshold": 0.5},
    ops.batched_nms: SCORED | {"labels": IDS, "iou_threshold": 0.5},
    ops.nms_rotated: {"boxes": ROTATED, "scores": SCORES, "iou_threshold": 0.5},
    ops.batched_nms_rotated: {
        "boxes": ROTATED, "scores": SCORES, "labels": IDS, "iou_threshold": 0.5,
    },
    ops.multiclass_nms: {"boxes": BATCH, "scores": BATCH_SCORES},
    ops.weighted_boxes_fusion: {
        "boxes": [BOXES] * 2, "scores": [SCORES] * 2, "labels": [IDS] * 2,
    },
    ops.match_anchors: {"anchors": BOXES, "gt_boxes": GTS},
    ops.multibox_target: {"anchors": ANCHORS, "labels": LABELS},
    ops.multibox_detection: {"class_probs": PROBS, "offset_preds": OFFSETS, "anchors": ANCHORS},
    ops.ssd_loss: {
        "class_logits": LOGITS, "offsets": torch.zeros(2, 5, 4), "classes": CLASSES,
        "target_offsets": torch.zeros(2, 5, 4),
    },
    ops.sigmoid_focal_loss: {"inputs": torch.zeros(2, 3), "targets": torch.zeros(2, 3)},
    ops.masks_to_boxes: {"masks": BITS},
    ops.mask_iou: {"masks1": BITS, "masks2": BITS},
    ops.masks_to_rle: {"masks": BITS},
    ops.rle_to_masks: {"rles": [RLE]},
    ops.polygons_to_masks: {"polygons": [], "image_size": (7, 9)},
    **{operator: {"masks": MASKS, "boxes": BOXES[:2], "image_size": (5, 5)} for operator in PASTE},
    **{operator: {"input": MAPS, "boxes": REGIONS, "output_size": 2} for operator in ROI},
    ops.multiscale_roi_align: {
        "features": [MAPS, MAPS], "boxes": REGIONS, "output_size": 2, "levels": (2, 3),
    },
    ops.upsample_bilinear: {"input": IMAGES, "size": 2},
    **{operator: {"input": INPUT, "weight": WEIGHT, "stride": 8} for operator in TRANSPOSED},
    ops.convolution_matrix: {"weight": WEIGHT, "input_size": (20, 20)},
    ops.bilinear_kernel: {"in_channels": 1, "out_channels": 1, "kernel_size": 1},
}  # fmt: skip
# Floating-point tensors, which must have the dtype and device of the first.
SHARED = {
    **dict.fromkeys(PAIRS + PAIRED + BOTH_ROTATED, ("boxes1", "boxes2")),
    **dict.fromkeys((*UPRIGHT, *ROTATED_NMS, ops.multiclass_nms), ("boxes", "scores")),
    ops.match_anchors: ("anchors", "gt_boxes"),
    ops.multibox_target: ("anchors", "labels"),
    ops.multibox_detection: ("anchors", "class_probs", "offset_preds"),
    ops.ssd_loss: ("class_logits", "offsets", "target_offsets"),
    ops.sigmoid_focal_loss: ("inputs", "targets"),
    ops.upsample_bilinear: ("input",),
    ops.convolution_matrix: ("weight",),
    **dict.fromkeys(TRANSPOSED, ("input", "weight")),
}


def _two_sets(count):
    def make(rng):
        boxes = cases_iou.random_boxes(rng, count, "cpu")
        return {"boxes1": boxes, "boxes2": boxes}

    return make


def _two_rotated(rng):
    boxes = cases_rotated.random_boxes(rng, 200, "cpu")
    return {"boxes1": boxes, "boxes2": boxes}


def _scored(rng):
    boxes, scores = cases_iou.random_boxes(rng, 1000, "cpu"), torch.from_numpy(rng.random(1000))
    return {"boxes": boxes, "scores": scores.float(), "iou_threshold": 0.5}


def _regions(rng):
    maps = cases_roi.random_maps(rng, (2, 1, 8, 8))
    regions = cases_roi.random_regions(rng, 999, maps)
    return {"input": maps, "boxes": regions, "output_size": 2}


# Many boxes or scores, and the arguments and columns that may be NaN.
LARGE = {
    **dict.fromkeys(PAIRS, (_two_sets(4999), ("boxes1", range(4)), ("boxes2", range(4)))),
    **dict.fromkeys(PAIRED, (_two_sets(20000), ("boxes1", (3,)), ("boxes2", (3,)))),
    **dict.fromkeys(BOTH_ROTATED, (_two_rotated, ("boxes1", range(5)), ("boxes2", range(5)))),
    ops.nms: (_scored, ("boxes", range(4)), ("scores", (0,))),
}


FORMAT = '; boxes are (x1, y1, x2, y2), for xywh use box_convert(boxes, "xywh", "xyxy")'
ORDER = "have x1 <= x2 and y1 <= y2, got"


def bad_boxes(name, boxes, *index):
    """NaN and corners out of order in one row."""
    place = f"{name}{list(index)}"
    with_nan, unordered = [1, 1, nan, 3], [30, 40, 20, 60]
    message = f"be without NaN, got {place} = (1, 1, nan, 3){FORMAT}"
    return [
        ({name: changed(boxes, index, with_nan)}, V, message),
        (
            {name: changed(boxes, index, unordered)},
            V,
            f"{ORDER} {place} = (30, 40, 20, 60){FORMAT}",
        ),
    ]


def shapes(name, shape, *wrong):
    return [({name: value}, V, f"have shape {shape}, got {tuple(value.shape)}") for value in wrong]


def matches(name, shape, other, *wrong):
    return shapes(name, f"{shape} to match `{other}`", *wrong)


def numbers(name, requirement, *wrong):
    return [({name: value}, V, f"be {requirement}, got {value}") for value in wrong]


def fraction(name, *wrong):
    return [
        ({name: "half"}, T, "be a number, got str"),
        ({name: None}, T, "be a number, got NoneType"),
        *numbers(name, "in [0, 1]", *wrong),
    ]


def ids(name, ids, shape, other):
    kind = "be a torch.int64 tensor, got"
    return [
        ({name: ids.tolist()}, T, f"{kind} list"),
        *(({name: ids.to(d)}, T, f"{kind} {d}") for d in (torch.int32, torch.float32, torch.bool)),
        *matches(name, shape, other, ids[:-1], ids[None]),
        ({name: ids.to("meta")}, V, f"be on the device of `{other}` (cpu), got meta"),
    ]


LIMIT = [
    ({"max_output": -1}, V, "be at least 0 or None, got -1"),
    ({"max_output": 1.5}, T, "be an int or None, got float"),
]
NAN_SCORES = ({"scores": SCORES * nan}, V, "be without NaN, got scores[0] = nan; NaN oft")
VARIANCES = numbers(
    "variances", "four positive numbers", (0.1,) * 3, (0.1,) * 5, (0.1, 0.1, 0.2, 0),
    (0.1, -0.1, 0.2, 0.2), (nan, 0.1, 0.2, 0.2), (0.1, 0.1, inf, 0.2),
)  # fmt: skip
IOU_CASES = [
    ((*PAIRS, *PAIRED), [*bad_boxes("boxes1", BOXES, 1), *bad_boxes("boxes2", BOXES, 2)]),
    (
        PAIRS,
        [
            *shapes("boxes1", "(N, 4)", BOXES[0], BOXES[None], torch.zeros(0)),
            *shapes("boxes2", "(M, 4)", BOXES[:, :3], BOXES[None]),
        ],
    ),
    (
        PAIRED,
        [
            *shapes("boxes1", "(..., 4)", BOXES[:, :3], torch.zeros(()), torch.zeros(0)),
            *matches("boxes2", "(3, 4)", "boxes1", *(BOXES[i] for i in (slice(1), 0, None))),
            *matches("boxes2", "(3, 4)", "boxes1", BOXES[:0], BOXES.reshape(1, 3, 4)),
            (
                {"boxes1": changed(BOXES[None], (0, 1), [0, 3, 1, 1]), "boxes2": BOXES[None]},
                V,
                f"{ORDER} boxes1[0, 1] = (0, 3, 1, 1)",
            ),
            (
                {"boxes1": BOXES[0], "boxes2": torch.tensor([0.0, nan, 1, 1])},
                V,
                "`boxes2` to be without NaN, got boxes2 = (0, nan, 1, 1)",
            ),
        ],
    ),
    *(((f,), [({"boxes2": BOXES[:2]}, V, f"have shape (3, 4) to match `boxes1`, got "
              f"(2, 4); for all pairs use {g.__name__}")])
      for f, g in zip(PAIRED, MATRICES, strict=True)),
    (
        BOTH_ROTATED,
        [
            ({name: changed(ROTATED, (1, column), value)}, V, message)
            for name in ("boxes1", "boxes2")
            for column, value, message in (
                (0, nan, f"be without NaN, got {name}[1] = (nan, 1, 3, 3, 10)"),
                (4, nan, f"be without NaN, got {name}[1] = (1, 1, 3, 3, nan)"),
                (2, -1, f"have w >= 0 and h >= 0, got {name}[1] = (1, 1, -1, 3, 10)"),
                (3, -1, f"have w >= 0 and h >= 0, got {name}[1] = (1, 1, 3, -1, 10); rotated boxes "
                        "are (cx, cy, w, h, angle), the angle in degrees"),
                (4, inf, f"have angles from -1e+09 to 1e+09 degrees, got {name}[1] = (1, 1, 3"),
                (4, -2e9, f"have angles from -1e+09 to 1e+09 degrees, got {name}[1] = "),
            )
        ],
    ),
    (
        (ops.box_iou_rotated,),
        [
            *shapes("boxes1", "(N, 5)", ROTATED[0], ROTATED[None], ROTATED[:, :4]),
            *shapes("boxes2", "(M, 5)", ROTATED[0], ROTATED[None], ROTATED[:, :4]),
        ],
    ),
    (
        (ops.paired_box_iou_rotated,),
        [
            *shapes("boxes1", "(..., 5)", ROTATED[:, :4]),
            *shapes("boxes2", "(..., 5)", ROTATED[:, :4]),
            *matches("boxes2", "(3, 5)", "boxes1", ROTATED[:2]),
        ],
    ),
]  # fmt: skip
SUPPRESSION_CASES = [
    (
        (*UPRIGHT, *ROTATED_NMS),
        [*matches("scores", "(3,)", "boxes", SCORES[:2], SCORES[:, None]), NAN_SCORES],
    ),
    (
        UPRIGHT,
        [
            *bad_boxes("boxes", BOXES, 1),
            *shapes("boxes", "(N, 4)", BOXES[:, :3], BOXES[0], BOXES[None]),
        ],
    ),
    (
        ROTATED_NMS,
        [
            *shapes("boxes", "(N, 5)", ROTATED[:, :4], ROTATED[0]),
            ({"boxes": changed(ROTATED, (1, 3), nan)}, V,
             "be without NaN, got boxes[1] = (1, 1, 3, nan, 10)"),
            ({"boxes": changed(ROTATED, (1, 3), -4)}, V,
             "have w >= 0 and h >= 0, got boxes[1] = (1, 1, 3, -4, 10)"),
            ({"boxes": changed(ROTATED, (1, 4), 1e12)}, V,
             "have angles from -1e+09 to 1e+09 degrees, got boxes[1]"),
        ],
    ),
    (GREEDY, [*fraction("iou_threshold", -0.1, 1.5, nan, inf), *LIMIT]),
    (GROUPED, [*ids("labels", IDS, "(3,)", "boxes"), *ids("image_ids", IDS, "(3,)", "boxes")]),
    (
        (ops.soft_nms,),
        [
            ({"method": "cubic"}, V, "be one of 'linear', 'gaussian', got 'cubic'"),
            *fraction("iou_threshold", 1.5),
            *numbers("sigma", "in [1e-06, 1e+06]", 0.0, nan),
            ({"sigma": "much"}, T, "be a number, got str"),
            *numbers("score_threshold", "finite and at least 0", -0.1, inf),
            *LIMIT,
        ],
    ),
    (
        (ops.matrix_nms,),
        [
            ({"kernel": "box"}, V, "be one of 'linear', 'gaussian', got 'box'"),
            *numbers("sigma", "in [0, 1e+06]", -1),
            ({"sigma": None}, T, "be a number, got NoneType"),
        ],
    ),
    (
        (ops.multiclass_nms,),
        [
            *shapes("scores", "(B, N, K)", BATCH_SCORES[0]),
            *matches("boxes", "(1, 3, 4) or (1, 3, 2, 4)", "scores", BATCH[0], BATCH[:, :2]),
            *matches("boxes", "(1, 3, 4) or (1, 3, 2, 4)", "scores", BATCH[:, :, None]),
            *numbers("score_threshold", "finite", nan),
            ({"score_threshold": "low"}, T, "be a number, got str"),
            *fraction("iou_threshold", -0.1),
            ({"max_candidates": -1}, V, "be at least 0 or None, got -1"),
            ({"max_candidates": 0.5}, T, "be an int or None, got float"),
            ({"max_output": -2}, V, "be at least 0, got -2"),
            ({"max_output": None}, T, "be an int, got NoneType"),
            *bad_boxes("boxes", BATCH, 0, 1),
            ({"scores": changed(BATCH_SCORES, (0, 2, 1), nan)}, V,
             "be without NaN, got scores[0, 2, 1] = nan"),
        ],
    ),
    (
        (ops.weighted_boxes_fusion,),
        [
            ({"boxes": BOXES}, T, "be a list with one tensor per model, got Tensor"),
            ({"scores": None}, T, "be a list with one tensor per model, got NoneType"),
            ({"labels": "ab"}, T, "be a list with one tensor per model, got str"),
            ({"image_ids": 3}, T, "be a list with one tensor per model, got int"),
            ({"boxes": []}, V, "hold 1 to 64 models, got 0"),
            ({"boxes": [BOXES] * 65}, V, "hold 1 to 64 models, got 65"),
            ({"scores": [SCORES]}, V, "hold 2 models to match `boxes`, got 1"),
            ({"labels": [IDS] * 3}, V, "hold 2 models to match `boxes`, got 3"),
            ({"image_ids": [IDS]}, V, "hold 2 models to match `boxes`, got 1"),
            ({"boxes": [BOXES, [1]]}, T, "`boxes[1]` to be a torch.Tensor, got list"),
            ({"boxes": [BOXES, BOXES[0]]}, V, "`boxes[1]` to have shape (N, 4), got (4,)"),
            ({"boxes": [BOXES, BOXES.double()]}, T, "`boxes[1]` to have the dtype of `boxes[0]`"),
            ({"boxes": [BOXES, BOXES.to("meta")]}, V, "`boxes[1]` to be on the device of"),
            ({"scores": [SCORES, IDS]}, T, "`scores[1]` to have a floating-point dtype, got"),
            ({"scores": [SCORES, SCORES[:1]]}, V, "`scores[1]` to have shape (3,) to match"),
            ({"scores": [SCORES, SCORES[None]]}, V, "`scores[1]` to have shape (3,) to match"),
            ({"scores": [SCORES, SCORES.half()]}, T, "`scores[1]` to have the dtype of `boxes[0]`"),
            ({"scores": [SCORES, SCORES * nan]}, V, "`scores[1]` to be without NaN, got"),
            ({"labels": [IDS.int(), IDS]}, T, "`labels[0]` to be a torch.int64 tensor, got"),
            ({"labels": [IDS, IDS[:1]]}, V, "`labels[1]` to have shape (3,) to match `boxes[1]`,"),
            ({"image_ids": [IDS, IDS > 0]}, T, "`image_ids[1]` to be a torch.int64 tensor, got"),
            ({"weights": [1]}, V, "be 2 positive numbers, one per model, got [1.0]"),
            ({"weights": [1, 0]}, V, "be 2 positive numbers, one per model, got [1.0, 0"),
            ({"weights": [1, nan]}, V, "be 2 positive numbers, one per model, got [1.0,"),
            ({"weights": 2.5}, T, "be a list with one number per model, got float"),
            ({"weights": "ab"}, T, "be a list with one number per model, got str"),
            *fraction("iou_threshold", 1.5),
            *numbers("score_threshold", "finite and at least 0", -0.1),
            ({"conf_type": "mean"}, V, "be one of 'avg', 'max', 'box_and_model_avg', "
             "'absent_model_aware_avg', got 'mean'"),
            ({"boxes": [BOXES, BOXES * nan]}, V, "`boxes[1]` to be without NaN, got boxes[1][0]"),
            ({"boxes": [BOXES.flip(1), BOXES]}, V, f"`boxes[0]` to {ORDER} boxes[0][0] = (2, 2,"),
        ],
    ),
]  # fmt: skip
WITH_ANCHORS = "(B, K + 1, A) with K >= 1 and A = 2 as in `anchors`"
UNITS = "`labels[..., 1:]` to be in the units of `anchors`, which look "
ANCHOR_CASES = [
    (
        (ops.match_anchors,),
        [
            *shapes("anchors", "(A, 4)", BOXES[None], BOXES[:, :2]),
            *shapes("gt_boxes", "(B, M, 4)", GTS[None], GTS[0, 0], GTS[..., :3]),
            *fraction("iou_threshold", -1e-9, 1.01, nan),
            *bad_boxes("anchors", BOXES, 1),
            *bad_boxes("gt_boxes", GTS, 1, 1),
            *bad_boxes("gt_boxes", GTS[0], 1),
        ],
    ),
    (
        (ops.multibox_target,),
        [
            *shapes("anchors", "(A, 4)", ANCHORS[:, :2], ANCHORS.expand(2, 2, 4)),
            *shapes("labels", "(B, M, 5)", LABELS[0], LABELS[..., 1:]),
            *fraction("iou_threshold", -0.5, 50, nan),
            *bad_boxes("anchors", ANCHORS, 1),
            ({"labels": changed(LABELS, (1, 0, 2), nan)}, V,
             "`labels[..., 1:]` to be without NaN, got labels[..., 1:][1, 0] = (0.2, nan, 0.9, 1)"),
            ({"labels": changed(LABELS, (0, 0), [2, 0.5, 0.1, 0.4, 0.2])}, V,
             f"`labels[..., 1:]` to {ORDER} labels[..., 1:][0, 0] = (0.5, 0.1, 0.4, 0.2)"),
            ({"labels": changed(LABELS, (1, 1, 0), nan)}, V,
             "`labels[..., 0]` to hold integers 0..K-1 (-1 for padding), got labels[..., 0][1, 1]"),
            ({"labels": changed(LABELS, (slice(None), 0), [0, 30, 40, 200, 250])}, V,
             f"{UNITS}normalised to 0..1 (largest coordinate 1), got pixels (largest 250); div"),
            ({"anchors": ANCHORS * 300}, V,
             f"{UNITS}like pixels (largest coordinate 300), got boxes normalised to "
             "0..1 (largest 1); multiply x by"),
        ],
    ),
    ((ops.multibox_target, ops.multibox_detection), VARIANCES),
    (
        (ops.multibox_detection,),
        [
            *shapes("anchors", "(A, 4)", ANCHORS[0], ANCHORS.expand(3, 2, 4)),
            *shapes("class_probs", "(B, K + 1, A)", PROBS[0]),
            *shapes("class_probs", WITH_ANCHORS, PROBS[:, :1], PROBS[..., :1]),
            *matches("offset_preds", "(3, 8)", "class_probs", OFFSETS[:2], OFFSETS[:, :4]),
            *matches("offset_preds", "(3, 8)", "class_probs", OFFSETS.view(3, 2, 4)),
            *fraction("nms_threshold", 1.1, nan),
            *fraction("pos_threshold", -0.1, nan),
        ],
    ),
]  # fmt: skip
