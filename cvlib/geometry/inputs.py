"""Images in memory, from whatever library, as tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

ImageLike = Tensor | NDArray[Any] | Image.Image


def to_image_tensor(function: str, image: Any) -> Tensor:
    """Convert an image to a tensor.

    Args:
        function: Function name used as the prefix of error messages.
        image: PIL image of any mode (turned upright by its EXIF orientation), uint8 array of shape
            (H, W, 3) or (H, W), or uint8 tensor of shape (3, H, W). Channels are RGB; OpenCV reads
            BGR, which looks the same and predicts worse: pass ``image[..., ::-1]``.

    Returns:
        uint8, shape (3, H, W), RGB, on the CPU for PIL images and arrays.

    Raises:
        TypeError: Another kind of object, or another dtype.
        ValueError: Another shape, or an image without pixels.

    Example:
        >>> to_image_tensor("predict", np.zeros((4, 6, 3), np.uint8)).shape
        torch.Size([3, 4, 6])
    """
    if isinstance(image, Image.Image):
        image = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    if isinstance(image, np.ndarray):
        return _from_array(function, image)
    if not isinstance(image, Tensor):
        raise TypeError(
            f"{function}: expected `image` to be a PIL image, an array (H, W, 3) or a tensor "
            f"(3, H, W), got {type(image).__name__}"
        )
    if image.dtype != torch.uint8:
        raise TypeError(
            f"{function}: expected `image` to be uint8 in 0..255, got {image.dtype}; for values "
            "in 0..1 pass (image * 255).round().to(torch.uint8)"
        )
    if image.dim() != 3 or image.shape[0] != 3 or not image.numel():
        raise ValueError(
            f"{function}: expected `image` to be a tensor of shape (3, H, W), got "
            f"{tuple(image.shape)}"
        )
    return image.as_subclass(Tensor)


def _from_array(function: str, image: NDArray[Any]) -> Tensor:
    if image.dtype != np.uint8:
        raise TypeError(
            f"{function}: expected `image` to be uint8 in 0..255, got {image.dtype}; for values "
            "in 0..1 pass (image * 255).round().astype(numpy.uint8)"
        )
    if image.ndim == 2:
        image = np.repeat(image[..., None], 3, axis=2)
    if image.ndim != 3 or image.shape[2] != 3 or not image.size:
        hint = "; arrays have channels last" if image.ndim == 3 and image.shape[0] == 3 else ""
        raise ValueError(
            f"{function}: expected `image` to be an array of shape (H, W, 3), got "
            f"{image.shape}{hint}"
        )
    # A copy: the array may be read-only, or be viewed backwards (BGR to RGB).
    return torch.from_numpy(image.copy()).permute(2, 0, 1)
