"""Changes of colour, each of them one matrix for all pixels."""

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

from cvlib.data.transforms.base import check_image, draw_rows
from cvlib.data.transforms.geometric import check_share
from cvlib.geometry.pixels import recolour, to_image, to_rows

Matrix = NDArray[np.float64]

# Weights of red, green and blue in luminance (ITU-R BT.601).
_LUMA = np.array([0.299, 0.587, 0.114])
# Red, green, blue to luminance and two differences of colour (NTSC); hue turns the latter two.
_TO_YIQ = np.array([_LUMA, [0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]])
_FROM_YIQ = np.linalg.inv(_TO_YIQ)


class ColourChange(v2.Transform, ABC):
    """A random change of the colours of an image; the target is passed through.

    A subclass draws in `matrix` an affine map of (red, green, blue), which OpenCV applies to all
    pixels in one pass with rounding and clipping at the end.
    """

    @abstractmethod
    def matrix(self) -> Matrix | None:
        """Shape (3, 4): weights of red, green and blue and what is added; ``None``: no change."""

    def forward(self, image: Tensor, target: Mapping[str, Any] | None = None) -> Any:
        """Recolours an image.

        Args:
            image: uint8, shape (3, H, W); left as it is.
            target: Anything.

        Returns:
            ``(image, target)``; the image alone where no target was given.

        Raises:
            TypeError: The image is not a uint8 tensor.
            ValueError: The image has another shape.
        """
        check_image(type(self).__name__, image)
        matrix = self.matrix()
        if matrix is not None:
            image = tv_tensors.Image(to_image(recolour(to_rows(image), matrix)))
        return image if target is None else (image, target)


class PhotometricDistortion(ColourChange):
    """SSD's distortion of colours: brightness, contrast, saturation, hue, order of channels.

    Each of the five happens with probability p.

    Args:
        brightness: At most this is added or taken away, of 255.
        contrast: Least and largest factor of all values.
        saturation: Least and largest factor of the distance from grey.
        hue: Largest angle, in degrees, by which colours turn around grey.
        p: How often, in [0, 1].

    Note:
        Saturation and hue are changed linearly, at equal luminance, not in the HSV cone of the
        original; so all five together are one matrix, some 20 microseconds for 300 x 300 pixels,
        and values are clipped once, at the end.

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
                    f"PhotometricDistortion: expected {name} with 0 <= least <= largest, got "
                    f"{(low, high)}"
                )
        self.brightness, self.hue = brightness, hue
        self.contrast, self.saturation = contrast, saturation
        self.p = check_share("PhotometricDistortion", p)

    def matrix(self) -> Matrix | None:
        """Draws the five changes."""
        chances, amounts = draw_rows(2, 5)
        happens = chances < self.p
        result = np.eye(3, 4)
        if happens[0]:
            result[:, 3] = self.brightness * (2 * amounts[0] - 1)
        contrast = _stretch(self.contrast, amounts[1]) if happens[1] else 1.0
        mix = np.eye(3)
        if happens[2]:
            saturation = _stretch(self.saturation, amounts[2])
            mix = saturation * mix + (1 - saturation) * _LUMA
        if happens[3]:
            mix = _turn_hue(math.radians(self.hue * (2 * amounts[3] - 1))) @ mix
        # A factor of all values commutes with the other matrices.
        result = contrast * mix @ result
        if happens[4]:
            result = result[_ORDERS[int(amounts[4] * len(_ORDERS))]]
        return result if happens.any() else None


_ORDERS = np.array([[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]])


def _stretch(limits: tuple[float, float], amount: float) -> float:
    return limits[0] + (limits[1] - limits[0]) * amount


def _turn_hue(angle: float) -> Matrix:
    turn = np.eye(3)
    turn[1:, 1:] = [
        [math.cos(angle), -math.sin(angle)],
        [math.sin(angle), math.cos(angle)],
    ]
    result: Matrix = _FROM_YIQ @ turn @ _TO_YIQ
    return result


class ColourJitter(ColourChange):
    """Small random changes of brightness, contrast and saturation.

    Args:
        strength: Each factor is drawn from [1 - strength, 1 + strength]; in [0, 1].
    """

    def __init__(self, strength: float = 0.2) -> None:
        super().__init__()
        self.strength = check_share("ColourJitter", strength, "strength")

    def matrix(self) -> Matrix | None:
        """Draws the three factors."""
        brightness, contrast, saturation = 1 + self.strength * (2 * draw_rows(1, 3)[0] - 1)
        mix = saturation * np.eye(3) + (1 - saturation) * _LUMA
        offset = np.full((3, 1), (1 - contrast) * 127.5)  # contrast is changed around mid-grey
        return np.hstack([mix * brightness * contrast, offset])
