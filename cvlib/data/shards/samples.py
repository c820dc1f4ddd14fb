"""Encoding and decoding of samples in shards, with members keyed by suffix as in WebDataset.

A sample ``000017`` for detection has two members of a tar file, ``000017.jpg`` and ``000017.json``;
one for segmentation also has ``000017.mask.png``, and one for classification may have
``000017.cls``, the class index as text.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors

from cvlib._files import IMAGE_SUFFIXES
from cvlib.data.files.image_headers import MemorySource, read_header
from cvlib.data.files.images import UnreadableImageError, read_image
from cvlib.data.files.mask_images import decode_numbers
from cvlib.data.labels.rules import SLACK
from cvlib.geometry.view import VOID
from cvlib.ops.rle import masks_to_rle, rle_to_masks

Members = Mapping[str, bytes]

MASK = "mask.png"
_SUFFIXES = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "BMP": "bmp"} | {
    "TIFF": "tif", "PPM": "ppm", "JPEG2000": "jp2", "AVIF": "avif",
}  # fmt: skip


def encode_image(source: bytes | Tensor) -> tuple[str, bytes]:
    """Return suffix and bytes of an image: those of a file, or a PNG of pixels uint8 (3, H, W)."""
    if isinstance(source, bytes):
        header = read_header(MemorySource(source))
        suffix = _SUFFIXES.get(header.format) if header is not None else None
        if suffix is not None:
            return suffix, source
        source = read_image(source, upright=False)
    return "png", _encode_png(source.as_subclass(Tensor).permute(1, 2, 0).numpy())


def _encode_png(pixels: Any) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "PNG")
    return buffer.getvalue()


def encode_labels(task: str, target: Mapping[str, Any], extra: Mapping[str, Any]) -> Members:
    """Encode a target to members; ``extra`` adds fields to its json."""
    fields: dict[str, Any] = {**extra, "image_id": int(target["image_id"])}
    members: dict[str, bytes] = {}
    if task == "classification":
        fields["label"] = int(target["label"])
    elif task == "segmentation":
        members[MASK] = _encode_png(target["mask"].as_subclass(Tensor).numpy())
    else:
        fields |= {
            name: target[name].as_subclass(Tensor).tolist()
            for name in ("boxes", "labels", "iscrowd", "area")
        }
        if "masks" in target:
            fields["masks"] = masks_to_rle(target["masks"].as_subclass(Tensor).bool())
    return {**members, "json": json.dumps(fields, allow_nan=False).encode()}


def guess_task(members: Members) -> str | None:
    """Return the task of a sample without an index, or None."""
    if MASK in members:
        return "segmentation"
    if "cls" in members:
        return "classification"
    fields = _read_fields(members)
    if "boxes" in fields:
        return "detection"
    return "classification" if "label" in fields else None


def decode_sample(
    members: Members, task: str, num_classes: int, upright: bool, default_id: int
) -> tuple[Any, dict[str, Any]]:
    """Decode a sample.

    Args:
        members: Content keyed by suffix.
        task: ``"detection"``, ``"segmentation"`` or ``"classification"``.
        num_classes: K.
        upright: Apply the EXIF orientation.
        default_id: ``image_id`` if the labels have none.

    Returns:
        ``(image, target)`` as in other datasets of the task.

    Raises:
        ValueError: A member is missing or damaged, or labels are invalid.
    """
    fields = _read_fields(members)
    image = read_image(find_image(members), upright=upright)
    size = int(image.shape[1]), int(image.shape[2])
    image_id = fields.get("image_id", default_id)
    if not isinstance(image_id, int) or isinstance(image_id, bool):
        raise ValueError(f"expected `image_id` to be an integer, got {image_id!r:.40}")
    if task == "detection":
        target = _read_objects(fields, num_classes, size)
    elif task == "segmentation":
        target = {"mask": tv_tensors.Mask(_read_mask(members, num_classes, size))}
    else:
        target = {"label": torch.tensor(_read_label(members, fields, num_classes))}
    return tv_tensors.Image(image), {**target, "image_id": image_id}


def find_image(members: Members) -> bytes:
    """Return the bytes of the image.

    Raises:
        ValueError: There is no image, or more than one.
    """
    names = [
        name
        for name in members
        if f".{name.split('.')[-1].lower()}" in IMAGE_SUFFIXES and name != MASK
    ]
    if len(names) != 1:
        raise ValueError(f"expected one image, got members {', '.join(members) or 'none'}")
    return members[names[0]]


def _read_fields(members: Members) -> dict[str, Any]:
    if "json" not in members:
        return {}
    try:
        fields = json.loads(members["json"])
    except (ValueError, RecursionError) as error:
        raise ValueError(f"expected labels as JSON, got {error}") from error
    if not isinstance(fields, dict):
        raise ValueError(f"expected labels as a JSON object, got {type(fields).__name__}")
    return fields


def _read_label(members: Members, fields: Mapping[str, Any], num_classes: int) -> int:
    label = fields.get("label")
    if label is None:
        text = members.get("cls", b"").decode("ascii", "replace").strip()
        label = int(text) if text.isdecimal() else text
    if not isinstance(label, int) or isinstance(label, bool) or not 0 <= label < num_classes:
        raise ValueError(f"expected a label in 0..{num_classes - 1}, got {label!r:.40}")
    return label


def _read_mask(members: Members, num_classes: int, size: tuple[int, int]) -> Tensor:
    if MASK not in members:
        raise ValueError(f"expected a member {MASK}, got {', '.join(members)}")
    mask = decode_numbers(members[MASK], MASK)
    if mask.shape != size:
        raise ValueError(f"expected a mask of the image size {size}, got {mask.shape}")
    unknown = np.flatnonzero(np.bincount(mask.ravel(), minlength=256))
    unknown = unknown[(unknown >= num_classes) & (unknown != VOID)]
    if len(unknown):
        raise ValueError(
            f"expected class indices 0..{num_classes - 1} or {VOID} for void, got {unknown[0]}"
        )
    return torch.from_numpy(mask)


def _read_objects(
    fields: Mapping[str, Any], num_classes: int, size: tuple[int, int]
) -> dict[str, Any]:
    boxes = _read_array(fields, "boxes", np.float64, (-1, 4)).astype(np.float32)
    count = len(boxes)
    labels = _read_array(fields, "labels", np.int64, (count,))
    crowds = _read_array(fields, "iscrowd", np.int64, (count,), [0] * count)
    sides = boxes[:, 2:] - boxes[:, :2]
    areas = _read_array(fields, "area", np.float64, (count,), sides.prod(1).tolist())
    _check_objects(boxes, labels, num_classes, size)
    target: dict[str, Any] = {
        "boxes": tv_tensors.BoundingBoxes(torch.from_numpy(boxes), format="XYXY", canvas_size=size),
        "labels": torch.from_numpy(labels),
        "area": torch.from_numpy(areas.astype(np.float32)),
        "iscrowd": torch.from_numpy(crowds),
    }
    if "masks" in fields:
        target["masks"] = tv_tensors.Mask(_read_instance_masks(fields["masks"], count, size))
    return target


def _read_array(
    fields: Mapping[str, Any],
    name: str,
    dtype: type[np.generic],
    shape: tuple[int, ...],
    default: Sequence[Any] | None = None,
) -> Any:
    value = fields.get(name, default)
    try:
        array = np.asarray(value if isinstance(value, Sequence) else None)
        if array.size == 0:
            array = array.astype(dtype)
        if array.dtype.kind not in ("iu" if dtype is np.int64 else "iuf"):
            raise ValueError(f"{array.dtype}")
        array = array.astype(dtype).reshape(shape)
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(
            f"expected `{name}` to be numbers of shape {shape}, got {value!r:.60}"
        ) from error
    if not np.isfinite(array).all():
        raise ValueError(f"expected finite `{name}`, got {value!r:.60}")
    return array


def _check_objects(boxes: Any, labels: Any, num_classes: int, size: tuple[int, int]) -> None:
    limits = np.array([size[1], size[0]] * 2) + SLACK
    violations = {
        f"a label in 0..{num_classes - 1}": (labels < 0) | (labels >= num_classes),
        "x1 < x2 and y1 < y2": (boxes[:, 2:] <= boxes[:, :2]).any(1),
        "a box inside the image": (boxes < -SLACK).any(1) | (boxes > limits).any(1),
    }
    for expected, bad in violations.items():
        if bad.any():
            first = int(np.flatnonzero(bad)[0])
            corners = ", ".join(f"{value:g}" for value in boxes[first])
            raise ValueError(
                f"expected {expected}, got object {first} with box ({corners}) and label "
                f"{labels[first]} in an image of {size[1]} x {size[0]}"
            )


def _read_instance_masks(masks: Any, count: int, size: tuple[int, int]) -> Tensor:
    if not isinstance(masks, list) or len(masks) != count:
        raise ValueError(
            f"expected `masks` to be a list of {count} run-length encodings, got {masks!r:.60}"
        )
    try:
        return rle_to_masks(masks, image_size=size).to(torch.uint8)
    except (TypeError, ValueError) as error:
        raise ValueError(f"expected `masks` to be run-length encodings, got: {error}") from error


def sample_error(place: str, error: Exception, function: str) -> UnreadableImageError:
    """Return the error for a single sample; ``function`` is the prefix of its message."""
    return UnreadableImageError(
        f"{function}: expected a readable sample in {place}, got: {error}", place
    )
