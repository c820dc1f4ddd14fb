"""Wrong arguments of the operators on masks, maps and images, and of losses; see cases_errors."""

import numpy as np
import torch
from cases_errors import (
    BITS,
    BOXES,
    CLASSES,
    CORNERS,
    IMAGES,
    INPUT,
    LOGITS,
    MAPS,
    MASKS,
    ORDER,
    PASTE,
    REGIONS,
    RLE,
    ROI,
    TRANSPOSED,
    WEIGHT,
    R,
    T,
    V,
    bad_boxes,
    changed,
    ids,
    inf,
    matches,
    nan,
    numbers,
    shapes,
)

from cvlib import ops

META_CLASSES = torch.zeros(2, dtype=torch.int64, device="meta")
POSITIVE, NOT_NEGATIVE = "positive and finite", "finite and at least 0"
CLASS_RANGE = "`targets` to be in 0..2 (-1: none of the classes), got targets"
LOSS_CASES = [
    (
        (ops.ssd_loss,),
        [
            *shapes("class_logits", "(B, A, K + 1)", LOGITS[0]),
            *shapes("class_logits", "(B, A, K + 1) with K >= 0", LOGITS[..., :0]),
            *matches("offsets", "(2, 5, 4)", "class_logits", torch.zeros(2, 20)),
            *matches("target_offsets", "(2, 5, 4)", "class_logits", torch.zeros(1, 5, 4)),
            *ids("classes", CLASSES, "(2, 5)", "class_logits"),
            ({"negative_ratio": "3"}, T, "be a number, got str"),
            *numbers("negative_ratio", NOT_NEGATIVE, -1, inf, nan),
            ({"classes": changed(CLASSES, (1, 3), 3)}, V,
             "be in 0..2 (0 is background, -1 ignores the anchor), got classes[1, 3] = 3"),
            ({"classes": changed(CLASSES, (1, 3), -2)}, V, "be in 0..2 (0 is background, "
             "-1 ignores the anchor), got classes[1, 3] = -2"),
        ],
    ),
    (
        (ops.sigmoid_focal_loss,),
        [
            *matches("targets", "(2, 3)", "inputs", torch.zeros(3)),
            ({"targets": torch.zeros(2, 3).long()}, V,
             "have the shape inputs.shape[:-1] if they are int64 (classes), with `inputs` "
             "of shape (2, 3), got (2, 3); targets of the inputs' shape are probabilities: conv"),
            ({"targets": META_CLASSES}, V, "be on the device of `inputs` (cpu), got meta"),
            ({"alpha": "0.25"}, T, "be a number, got str"),
            ({"gamma": None}, T, "be a number, got NoneType"),
            *numbers("alpha", "in [0, 1], or -1 for no weights", 1.5, -0.5, nan),
            *numbers("gamma", NOT_NEGATIVE, -1, inf),
            ({"reduction": "max"}, V, "be one of 'none', 'mean', 'sum', got 'max'"),
            ({"reduction": ["sum"]}, V, "be one of 'none', 'mean', 'sum', got ['sum']"),
            ({"targets": torch.tensor([0, 3])}, V, f"{CLASS_RANGE}[1] = 3"),
            ({"targets": torch.tensor([-2, 0])}, V, f"{CLASS_RANGE}[0] = -2"),
        ],
    ),
]  # fmt: skip
BINARY = "be a torch.bool or torch.uint8 tensor, got"
PIXELS = "have at most 2^32 - 1 pixels, got 65536 x 65536"
CROWD = "be a torch.bool tensor, got"
META_CROWD = torch.ones(2, dtype=torch.bool, device="meta")
CELLS = "have at least one cell, got"
MASK_CASES = [
    (
        (ops.masks_to_boxes,),
        [
            ({"masks": [[1]]}, T, "be a torch.Tensor, got list"),
            ({"masks": BITS.cfloat()}, T, "have a real dtype, got torch.complex64; comp"),
            *shapes("masks", "(N, H, W)", BITS[0], BITS[None]),
        ],
    ),
    (
        (ops.mask_iou,),
        [
            ({"masks1": None}, T, "be a torch.Tensor, got NoneType"),
            ({"masks2": 5}, T, "be a torch.Tensor, got int"),
            *shapes("masks1", "(N, H, W)", BITS[0]),
            *shapes("masks2", "(M, H, W)", BITS[0]),
            ({"masks1": BITS.float()}, T, f"{BINARY} torch.float32; for probabilities compare "
             "first, as in masks1 >= 0.5"),
            ({"masks2": BITS.long()}, T, f"{BINARY} torch.int64; for probabilities"),
            *matches("masks2", "(2, 3, 4)", "masks1", BITS[:, :2]),
            ({"masks2": BITS.to("meta")}, V, "be on the device of `masks1` (cpu), got meta"),
            ({"is_crowd": True}, T, f"{CROWD} bool"),
            ({"is_crowd": torch.ones(2)}, T, f"{CROWD} torch.float32"),
            *matches("is_crowd", "(2,)", "masks2", torch.ones(3) > 0),
            ({"is_crowd": META_CROWD}, V, "be on the device of `masks2` (cpu), got meta"),
        ],
    ),
    (
        (ops.masks_to_rle,),
        [
            ({"masks": None}, T, "be a torch.Tensor, got NoneType"),
            ({"masks": MASKS}, T, f"{BINARY} torch.float32; for probabilities compare"),
            *shapes("masks", "(N, H, W)", BITS[0]),
            ({"masks": BITS[:1, :1, :1].expand(1, 1 << 16, 1 << 16)}, V, PIXELS),
        ],
    ),
    (
        (ops.rle_to_masks,),
        [
            ({"rles": []}, V, "hold at least one mask if `image_size` is None, got none"),
            ({"image_size": (3, 4)}, V, "`rles[0]` to have size (3, 4), got (2, 2)"),
            *(
                ({"rles": [RLE, rle]}, error, f"`rles[1]{message}")
                for rle, error, message in (
                    ([[0, 0, 5, 0, 5, 5]], T, '` to be a dict with "size" and "counts", got list'),
                    ({"counts": "22"}, T, '` to be a dict with "size" and "counts", got '
                     "['counts']; for polygons use polygons_to_masks"),
                    ({"size": 4, "counts": "22"}, T,
                     '["size"]` to be two integers (height, width), got 4'),
                    ({"size": [2, 2.0], "counts": "22"}, T, '["size"]` to be two integers'),
                    ({"size": [2, 2, 2], "counts": "22"}, T, '["size"]` to be two integers'),
                    ({"size": [-2, -2], "counts": "22"}, V,
                     '["size"]` to be at least (0, 0), got (-2, -2)'),
                    ({"size": [1 << 16] * 2, "counts": "22"}, V, f"` to {PIXELS}"),
                    ({"size": [2, 3], "counts": "222"}, V, "` to have size (2, 2), got (2, 3)"),
                )
            ),
            *(
                ({"rles": [RLE, {"size": [2, 2], "counts": counts}]}, error,
                 f'`rles[1]["counts"]` to {message}')
                for counts, error, message in (
                    (5, T, "be a str, bytes or a list of integers, got int"),
                    ([2, 2.0], T, "be a str, bytes or a list of integers, got list with 2.0"),
                    ([2, True, 1], T, "be a str, bytes or a list of integers, got list with True"),
                    ([2, "2"], T, "be a str, bytes or a list of integers, got list with '2'"),
                    (np.array([2.5, 1.5]), T, "be a str, bytes or a list of integers, got"),
                    ("", V, "add up to 2 x 2 = 4 pixels, got 0"),
                    ([], V, "add up to 2 x 2 = 4 pixels, got 0"),
                    ([2, 3], V, "add up to 2 x 2 = 4 pixels, got 5"),
                    ([1, 1], V, "add up to 2 x 2 = 4 pixels, got 2"),
                    ([-1, 5], V, "be in 0..2^32 - 1, got -1"),
                    ([1 << 70], V, "be in 0..2^32 - 1, got 11805916"),
                    ("2o", V, "end with a complete number, got text that is cut off"),
                    ("ooo", V, "end with a complete number, got text that is cut off"),
                    ("22\0", V, "be compressed run lengths, got the character '\\x00'"),
                    (b"22\xff", V, "be compressed run lengths, got the character 'ÿ'"),
                    ("2 2", V, "be compressed run lengths, got the character ' '"),
                    ("2é", V, "be ASCII text, got other characters"),
                    ("P" * 9 + "2", V, "be 32-bit numbers, got one of 10 characters"),
                    ("N6", V, "be runs of at least 0, got -2"),
                )
            ),
        ],
    ),
    (
        (ops.polygons_to_masks,),
        [
            ({"polygons": polygons}, error, f"`polygons[{message}")
            for polygons, error, message in (
                ([5], T, "0]` to be a list of polygons, got int"),
                (["abc"], T, "0]` to be a list of polygons, got str"),
                ([{"size": [1]}], T, "0]` to be a list of polygons, got dict"),
                ([[0, 0, 5, 0, 5, 5]], T, "0][0]` to be a list of numbers [x1, y1, x2, y2, ...],"),
                ([["ab"]], T, "0][0]` to be a list of numbers [x1, y1, x2, y2, ...], got str"),
                ([[[0, 0, 5, "x", 5, 5]]], T, "0][0]` to be a list of numbers [x1, y1, x2, y2,"),
                ([[[0, 0, 5, 3]]], V, "0][0]` to have at least 6 coordinates, an even number,"),
                ([[[0, 0, 5, 0, 5, 5, 3]]], V, "0][0]` to have at least 6 coordinates, an even"),
                ([[], [[0, 0, 5, 0, 5, 1e12]]], V, "1][0]` to lie within one image size of the "
                 "image (7, 9), got y = 1e+12; polygons are in pixels"),
                ([[[0, 0, nan, 0, 5, 5]]], V, "0][0]` to lie within one image size of the image"),
                ([[[0, 0, -9.1, 0, 5, 5]]], V, "0][0]` to lie within one image size of the image"),
            )
        ],
    ),
    (
        (ops.rle_to_masks, ops.polygons_to_masks),
        [
            ({"image_size": "ab"}, T, "be two integers (height, width), got 'ab'"),
            ({"image_size": (-1, 4)}, V, "be at least (0, 0), got (-1, 4)"),
        ],
    ),
    (
        PASTE,
        [
            ({"masks": [1]}, T, "be a torch.Tensor, got list"),
            ({"masks": BITS}, T, "have a floating-point dtype, got torch.bool; convert with"),
            ({"boxes": None}, T, "be a torch.Tensor, got NoneType"),
            ({"boxes": BOXES[:2].long()}, T, "have a floating-point dtype, got torch.int64"),
            *shapes("masks", "(N, h, w)", MASKS[0], torch.rand(2, 3, 4, 5)),
            *shapes("boxes", "(N, 4)", BOXES[:2, :3]),
            ({"boxes": BOXES[:1]}, V, "`masks` to have shape (1, 3, 4) to match `boxes`, got (2,"),
            ({"masks": MASKS[:, :0]}, V, f"{CELLS} (2, 0, 4)"),
            ({"boxes": BOXES[:2].to("meta")}, V, "be on the device of `masks` (cpu), got m"),
            *(
                ({"image_size": size}, T,
                 f"be two integers (height, width), got {size}")
                for size in (5, (5, 5.0), (5, True), (3, 5, 5))
            ),
            ({"image_size": (5, -1)}, V, "be at least (0, 0), got (5, -1)"),
            ({"threshold": "a"}, T, "be a number, got str"),
            *numbers("threshold", "in [0, 1]", 1.5, nan),
            *bad_boxes("boxes", BOXES[:2], 1),
            ({"masks": torch.where(torch.arange(24).view(2, 3, 4) == 17, nan, MASKS)}, V,
             "be without NaN, got masks[1, 1, 1] = nan; NaN often comes from a diverged"),
        ],
    ),
    (
        (ops.paste_masks,),
        [({"boxes": changed(BOXES[:2], 1, [3, 0, 2, 2]), "threshold": None}, V,
          f"{ORDER} boxes[1] = (3, 0, 2, 2)")],
    ),
    (
        (ops.paste_masks_rle,),
        [
            ({"threshold": None}, T, "be a number, got NoneType"),
            ({"image_size": (1 << 16, 1 << 16)}, V, PIXELS),
        ],
    ),
]  # fmt: skip
GRADIENT = "not require a gradient, got requires_grad=True; there is none: detach them"
IMAGE_INDEX = "`boxes[:, 0]` to be image indices in [0, 2), got boxes[:, 0][1] ="
FAR = "have coordinates of at most 2**30 pixels of the feature map, got"
PAIR = "be an int or a pair of ints, got"
WITH_GRADIENT = CORNERS.clone().requires_grad_()
ROI_CASES = [
    (
        ROI,
        [
            ({"input": [1]}, T, "be a torch.Tensor, got list"),
            ({"input": MAPS.int()}, T, "have a floating-point dtype, got torch.int32"),
            *shapes("input", "(N, C, H, W)", MAPS[0]),
            ({"boxes": REGIONS.long()}, T, "have a floating-point dtype, got torch.int64"),
            *shapes("boxes", "(K, 5)", CORNERS),
            ({"boxes": REGIONS.double()}, T, "have the dtype of `input` (torch.float32), go"),
            ({"boxes": REGIONS.to("meta")}, V, "be on the device of `input` (cpu), got meta"),
            ({"boxes": 3}, T,
             "be a torch.Tensor of shape (K, 5) or a list of tensors of shape (L, 4), got int"),
            ({"boxes": [CORNERS]}, V, "be a list of N = 2 tensors, one per image of `input`, g"),
            ({"boxes": [CORNERS, REGIONS]}, V, "`boxes[1]` to have shape (L, 4), got (2, 5)"),
            ({"boxes": [CORNERS, 3]}, T, "`boxes[1]` to be a torch.Tensor, got int"),
            ({"boxes": REGIONS.clone().requires_grad_()}, R, GRADIENT),
            ({"boxes": [WITH_GRADIENT, CORNERS]}, R, GRADIENT),
            ({"boxes": changed(REGIONS, (1, 0), 2)}, V, f"{IMAGE_INDEX} 2"),
            ({"boxes": changed(REGIONS, (1, 0), -1)}, V, f"{IMAGE_INDEX} -1"),
            ({"boxes": changed(REGIONS, (1, 0), nan)}, V, f"{IMAGE_INDEX} nan"),
            ({"boxes": changed(REGIONS, (1, 2), nan)}, V,
             "be without NaN, got boxes[1] = (1, nan, 3, 3)"),
            ({"boxes": changed(REGIONS, (1, 3), 0.5)}, V, f"{ORDER} boxes[1] = (1, 1, 0.5, 3)"),
            ({"boxes": changed(REGIONS, (1, 3), inf)}, V, f"{FAR} boxes[1] = (1, 1, inf, 3)"),
            ({"boxes": changed(REGIONS, (1, 2), -2e9)}, V, f"{FAR} boxes[1] = (1, -2e+09, 3, 3)"),
            ({"boxes": [CORNERS, changed(CORNERS, (1, 3), inf)]}, V, f"`boxes[1]` to {FAR}"),
            ({"output_size": 0}, V, "be at least 1, got 0"),
            ({"output_size": (2, -1)}, V, "be at least 1, got (2, -1)"),
            *(({"output_size": s}, T, f"{PAIR} {s}") for s in ((2, 2, 2), 2.5, True)),
            *numbers("spatial_scale", POSITIVE, 0.0, nan, inf),
            ({"spatial_scale": "a"}, T, "be a number, got str"),
            ({"spatial_scale": None}, T, "be a number, got NoneType"),
        ],
    ),
    (
        (ops.multiscale_roi_align,),
        [
            ({"features": MAPS}, T, "be a list of tensors, got Tensor"),
            ({"features": [], "levels": ()}, V, "hold at least one feature map, got none"),
            ({"features": [MAPS, 3]}, T, "`features[1]` to be a torch.Tensor, got int"),
            ({"features": [MAPS, MAPS[0]]}, V, "`features[1]` to have shape (N, C, H, W), got"),
            ({"features": [MAPS, MAPS.double()]}, T, "`features[1]` to have the dtype of"),
            ({"features": [MAPS, MAPS[:1]]}, V,
             "`features[1]` to have the batch size and channels of `features[0]` (2, 3), got (1,"),
            ({"levels": (2,)}, V, "increase from fine to coarse, one per map (2), got [2]"),
            ({"levels": (3, 3)}, V, "increase from fine to coarse, one per map (2), got [3, 3"),
            ({"levels": 2}, T, "be a list of integers, got 2"),
            ({"levels": (2, 3.0)}, T, "be a list of integers, got (2, 3.0)"),
            ({"sampling_ratio": 2.5}, T, "be an int, got float"),
            *numbers("canonical_scale", POSITIVE, 0),
            ({"canonical_scale": "a"}, T, "be a number, got str"),
            ({"canonical_level": 1.5}, T, "be an int, got float"),
        ],
    ),
]  # fmt: skip
SIDES = "have a height and width of at least 1, got"
INTEGERS, FACTORS = "be one or two integers, got", "`scale_factor` to be one or two numbers, got"
NO_PIXELS = "give an output with pixels, got shape"
NO_SIZE = {"size": None}
RESIZE_CASES = [
    (
        (ops.upsample_bilinear,),
        [
            *shapes("input", "(N, C, H, W)", IMAGES[0]),
            ({"input": IMAGES[:, :, :0]}, V, f"{SIDES} (1, 2, 0, 4)"),
            ({"input": IMAGES[..., :0], "size": None, "scale_factor": 2}, V, f"{SIDES} (1, 2, 3,"),
            (NO_SIZE, V, "`size` to be given if `scale_factor` is None, got neither"),
            ({"scale_factor": 2}, V, "be None if `size` is given, got both"),
            ({"size": (2, 0)}, V, "be at least 1, got (2, 0)"),
            ({"size": -1}, V, "be at least 1, got (-1, -1)"),
            ({"size": (1, 2, 3)}, V, f"{INTEGERS} (1, 2, 3)"),
            *(
                ({"size": size}, T, f"{INTEGERS} {size}")
                for size in (2.0, (2, "3"), True)
            ),
            ({"size": torch.tensor(1.5)}, T, f"{INTEGERS} tensor(1.5"),
            (NO_SIZE | {"scale_factor": (1.0,)}, V, f"{FACTORS} (1.0,)"),
            (NO_SIZE | {"scale_factor": "2"}, T, f"{FACTORS} 2"),
            *(
                (NO_SIZE | {"scale_factor": factor}, V,
                 f"`scale_factor` to be positive and finite, got {factor}")
                for factor in (0, (2, -1.5), nan, (inf, 1))
            ),
            (NO_SIZE | {"scale_factor": 0.3}, V,
             "`scale_factor` to give a size of at least 1, got 0.3 for (3, 4), which gives (0, 1)"),
        ],
    ),
    (
        TRANSPOSED,
        [
            *shapes("input", "(N, C, H, W) or (C, H, W)", INPUT[0, 0]),
            *shapes("weight", "(C, O / groups, K, L)", WEIGHT[0]),
            ({"weight": WEIGHT[:3]}, V, "have one row per channel of `input` (4), got shape "
             "(3, 2, 16, 16); a transposed convolution's weight is (in, out / groups, K, L)"),
            *(({"groups": g}, V, f"divide the 4 channels of `input`, got {g}") for g in (3, 0)),
            ({"groups": 1.5}, T, "be an int, got float"),
            ({"bias": 1.0}, T, "be a torch.Tensor, got float"),
            ({"bias": torch.zeros(2).double()}, T, "have the dtype of `input` (torch.float32)"),
            ({"bias": torch.zeros(2), "groups": 2}, V, "have shape (4,) to match `weight`, got "),
            ({"output_padding": (7, 8)}, V,
             "be less than `stride` (8, 8) or `dilation` (1, 1), got (7, 8)"),
            ({"stride": 0}, V, "be one or two integers of at least 1, got 0"),
            ({"padding": (1, -1)}, V, "be one or two integers of at least 0, got (1, -1)"),
            ({"output_padding": -1}, V, "be one or two integers of at least 0, got -"),
            ({"dilation": (1, 1, 1)}, V, "be one or two integers of at least 1, got (1, 1,"),
            ({"padding": 16}, V,
             f"`input` to {NO_PIXELS} (1, 4, 3, 3), with weight (4, 2, 16, 16), "
             "stride (8, 8) and padding (16, 16)"),
            ({"input": INPUT[:, :, :0]}, V, f"{NO_PIXELS} (1, 4, 0, 3)"),
            ({"stride": 2.5}, T, f"{INTEGERS} 2.5"),
            ({"padding": "a"}, T, f"{INTEGERS} 'a'"),
            ({"dilation": (1, None)}, T, f"{INTEGERS} (1, None)"),
        ],
    ),
    (
        (ops.convolution_matrix,),
        [
            *shapes("weight", "(O, C / groups, K, L)", WEIGHT[0]),
            ({"groups": 3}, V, "divide the 4 rows of `weight`, got 3"),
            ({"groups": "a"}, T, "be an int, got str"),
            ({"input_size": (20, 0)}, V, "be one or two integers of at least 1, got (20,"),
            ({"input_size": 20.0}, T, f"{INTEGERS} 20.0"),
            ({"stride": 0}, V, "be one or two integers of at least 1, got 0"),
            ({"input_size": (20, 9), "padding": 3}, V,
             "`weight` to hold a kernel that fits into the padded image, got shape (4, 2, 16, 16), "
             "with input_size (20, 9), padding (3, 3), dilation (1, 1)"),
        ],
    ),
    (
        (ops.bilinear_kernel,),
        [
            case
            for name in ("in_channels", "out_channels", "kernel_size")
            for case in (
                ({name: 0}, V, f"`{name}` to be at least 1, got 0"),
                ({name: 2.5}, T, f"`{name}` to be an int, got float"),
            )
        ],
    ),
]  # fmt: skip
