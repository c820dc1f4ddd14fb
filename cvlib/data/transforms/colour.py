"""Colour transforms, each of them one matrix for all pixels."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from cvlib.data.transforms.base import check_image, draw_uniform_array, lerp
from cvlib.data.transforms.geometric import check_fraction
from cvlib.geometry.pixels import recolour, to_image, to_rows

Matrix = NDArray[np.float64]

# Weights of red, green and blue in luminance (ITU-R BT.601).
_LUMA = np.array([0.299, 0.587, 0.114])
# From RGB to YIQ (NTSC); a hue shift rotates I and Q.
_TO_YIQ = np.array([_LUMA, [0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]])
_FROM_YIQ = np.linalg.inv(_TO_YIQ)
_CHANNEL_ORDERS = np.array([[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]])


class ColourTransform(v2.Transform, ABC):
    """Base class of random colour transforms, which leave the target unchanged.

    Subclasses draw an affine map of (red, green, blue) in `matrix`. OpenCV applies it to all pixels
    in one pass, rounding and clipping once at the end.
    """

    @abstractmethod
    def matrix(self) -> Matrix | None:
        """Draw weights and offsets of the channels, shape (3, 4), or ``None`` for no change."""

    def forward(self, image: Tensor, target: Mapping[str, Any] | None = None) -> Any:
        """Transform the colours of an image.

        Args:
            image: Image, uint8, shape (3, H, W); not modified.
            target: Any annotations.

        Returns:
            ``(image, target)``, or only the image without a target.

        Raises:
            TypeError: The image is not a uint8 tensor.
            ValueError: The image has another shape.
        """
        check_image(type(self).__name__, image)
        matrix = self.matrix()
        if matrix is not None:
            image = tv_tensors.Image(to_image(recolour(to_rows(image), matrix)))
        return image if target is None else (image, target)


class PhotometricDistortion(ColourTransform):
    """SSD's random changes of brightness, contrast, saturation, hue and channel order.

    Each of the five is applied independently with probability ``p``.

    Args:
        brightness: Largest offset that is added or subtracted, in units of 0..255.
        contrast: Range of the factor of all values.
        saturation: Range of the factor of the distance from grey.
        hue: Largest hue shift in degrees.
        p: Probability of each change, in [0, 1].

    Note:
        Saturation and hue are changed linearly at equal luminance instead of in the HSV cone of the
        original. All five changes combine into one matrix, which takes some 20 microseconds for
        300 x 300 pixels, and values are clipped once, at the end.

    References:
        Liu et al., "SSD: Single Shot MultiBox Detector" (2016), section 2.2; Howard, "Some
        Improvements on Deep Convolutional Neural Network Based Image Classification" (2013).
    """

    def __init__(
        self,
        brightness: float = 32.0,
        contrast: tuple[float, float] = (0.5, 1.5),
        saturation: tuple[float, float] = (0.5, 1.5),
        hue: float = 18.0,
        p: float = 0.5,
    ) -> None:
        super().__init__()
        for name, (low, high) in (("contrast", contrast), ("saturation", saturation)):
            if not 0 <= low <= high:
                raise ValueError(
                    f"PhotometricDistortion: expected `{name}` to be (low, high) with "
                    f"0 <= low <= high, got {(low, high)}"
                )
        self.brightness, self.hue = brightness, hue
        self.contrast, self.saturation = contrast, saturation
        self.p = check_fraction("PhotometricDistortion", "p", p)

    def matrix(self) -> Matrix | None:
        """Draw and combine the five changes."""
        chances, amounts = draw_uniform_array(2, 5)
        happens = chances < self.p
        result = np.eye(3, 4)
        if happens[0]:
            result[:, 3] = self.brightness * (2 * amounts[0] - 1)
        contrast = lerp(*self.contrast, amounts[1]) if happens[1] else 1.0
        mix = np.eye(3)
        if happens[2]:
            mix = _saturation_matrix(lerp(*self.saturation, amounts[2]))
        if happens[3]:
            mix = _hue_matrix(math.radians(self.hue * (2 * amounts[3] - 1))) @ mix
        # Contrast is a scalar, so it commutes with the other matrices.
        result = contrast * mix @ result
        if happens[4]:
            result = result[_CHANNEL_ORDERS[int(amounts[4] * len(_CHANNEL_ORDERS))]]
        return result if happens.any() else None


class ColourJitter(ColourTransform):
    """Small random changes of brightness, contrast and saturation.

    Args:
        strength: Each factor is drawn from [1 - strength, 1 + strength]; in [0, 1].
    """

    def __init__(self, strength: float = 0.2) -> None:
        super().__init__()
        self.strength = check_fraction("ColourJitter", "strength", strength)

    def matrix(self) -> Matrix | None:
        """Draw the three factors."""
        factors = 1 + self.strength * (2 * draw_uniform_array(1, 3)[0] - 1)
        brightness, contrast, saturation = factors.tolist()
        mix = _saturation_matrix(saturation) * brightness * contrast
        offset = np.full((3, 1), (1 - contrast) * 127.5)  # contrast around mid-grey
        return np.hstack([mix, offset])


def _saturation_matrix(factor: float) -> Matrix:
    matrix: Matrix = factor * np.eye(3) + (1 - factor) * _LUMA
    return matrix


def _hue_matrix(angle: float) -> Matrix:
    rotation = np.eye(3)
    rotation[1:, 1:] = [
        [math.cos(angle), -math.sin(angle)],
        [math.sin(angle), math.cos(angle)],
    ]
    matrix: Matrix = _FROM_YIQ @ rotation @ _TO_YIQ
    return matrix
