"""Classifiers: torchvision's networks with a new head."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision import models as torchvision_models
from torchvision.models.resnet import Bottleneck, ResNet

from cvlib._distributed import mean_over_ranks
from cvlib.geometry.framing import Framing
from cvlib.models.base import Model
from cvlib.models.weights import adopt_weights, read_weights
from cvlib.structures import Classification

# ImageNet evaluation: resize the short side to 256, then crop the centre 224.
CROP_SHARE = 224 / 256
# Auxiliary branches in torchvision's weights, used only for training from scratch.
_AUXILIARY = {"googlenet": ("aux1.", "aux2."), "inception_v3": ("AuxLogits.",)}


def list_architectures() -> list[str]:
    """Names of all classifiers in torchvision."""
    return torchvision_models.list_models(module=torchvision_models)


class Classifier(Model):
    """A torchvision network whose last layer predicts the given classes.

    Args:
        classes: Names of the K classes.
        image_size: Height and width of the network's input: the centre crop of an image.
        architecture: A name from `list_architectures`, such as ``"resnet18"``.
        weights: File with weights of the backbone (``.pth``, ``.pt`` or ``.safetensors``; no code
            in it is executed). The head may be missing or have another size, and then starts from
            random values; everything else must fit. float16 is cast.
        stride_in_1x1: Whether the first convolution of a bottleneck halves the resolution instead
            of the second, as in the original ResNet and the weights of Caffe and Keras.
        label_smoothing: Share of the target probability that is spread over all classes.

    Raises:
        ValueError: Unknown architecture, ``stride_in_1x1`` without bottlenecks, or weights of
            another network, with the names that are missing, unexpected or of another shape.
        FileNotFoundError: The weight file does not exist.

    Example:
        >>> model = Classifier(("ant", "bee"), architecture="resnet18").eval()
        >>> model(torch.zeros(1, 3, 224, 224, dtype=torch.uint8)).shape
        torch.Size([1, 2])
    """

    task = "classification"

    def __init__(
        self,
        classes: Sequence[str],
        image_size: Sequence[int] = (224, 224),
        *,
        architecture: str = "resnet18",
        weights: str | Path | None = None,
        stride_in_1x1: bool = False,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(classes, _centre_crop(image_size))
        if architecture not in list_architectures():
            raise ValueError(
                "Classifier: expected `architecture` to be a name from list_architectures(), got "
                f"{architecture!r}"
            )
        if not 0 <= label_smoothing < 1:
            raise ValueError(
                f"Classifier: expected `label_smoothing` to be in [0, 1), got {label_smoothing}"
            )
        self.name = architecture
        self.options = {
            "image_size": list(self.image_size),
            "stride_in_1x1": stride_in_1x1,
            "label_smoothing": label_smoothing,
        }
        self.label_smoothing = label_smoothing
        self.network = _build(architecture, self.num_classes, self.image_size)
        layer = _last_layer(self.network)
        self.head = (f"network.{layer}",)
        if stride_in_1x1:
            _move_strides(self.network)
        if weights is not None:
            own = tuple(f"{layer}.{kind}" for kind in ("weight", "bias"))
            state = read_weights(weights)
            left_out = _AUXILIARY.get(architecture, ())
            state = {name: value for name, value in state.items() if not name.startswith(left_out)}
            adopt_weights(self.network, state, weights, may_differ=own)

    def forward(self, images: Tensor) -> Tensor:
        """Predict class logits.

        Args:
            images: Shape (B, 3, H, W), RGB, uint8 or floating point in 0..1.

        Returns:
            Shape (B, K), float32.
        """
        logits: Tensor = self.network(self.normalise(images))
        return logits.float()

    def loss(self, raw: Tensor, targets: dict[str, Any]) -> dict[str, Tensor]:
        """Cross-entropy, averaged over the images.

        Args:
            raw: Output of `forward`.
            targets: ``label`` int64 (B,); images with label -1 are ignored.

        Returns:
            The scalar ``class``.

        Raises:
            ValueError: A label out of range; only tensors on the CPU are checked.
        """
        label = targets["label"]
        if label.device.type == "cpu" and bool(((label < -1) | (label >= self.num_classes)).any()):
            raise ValueError(
                f"Classifier.loss: expected `label` in 0..{self.num_classes - 1} (-1 is ignored), "
                f"got {label.tolist()}"
            )
        total = F.cross_entropy(
            raw, label, ignore_index=-1, reduction="sum", label_smoothing=self.label_smoothing
        )
        return {"class": total / mean_over_ranks((label >= 0).sum(), least=1)}

    @torch.no_grad()
    def decode(
        self,
        raw: Tensor,
        sizes: Sequence[tuple[int, int]] | None = None,
        *,
        score_threshold: float | None = None,
    ) -> list[Classification]:
        """Turn logits into class probabilities.

        Args:
            raw: Output of `forward`.
            sizes: Not used.
            score_threshold: Not used: all classes keep their probability.

        Returns:
            One classification per image.
        """
        return [Classification(row, self.classes) for row in raw.float().softmax(dim=1)]


def _centre_crop(image_size: Sequence[int]) -> Framing:
    if len(image_size) != 2 or min(image_size) < 1:
        raise ValueError(
            f"Classifier: expected `image_size` to be (height, width) in pixels, got {image_size}"
        )
    return Framing("crop", (int(image_size[0]), int(image_size[1])), crop_share=CROP_SHARE)


def _build(architecture: str, num_classes: int, image_size: tuple[int, int]) -> nn.Module:
    options: dict[str, Any] = {"num_classes": num_classes}
    if architecture in _AUXILIARY:
        # Explicit, because torchvision warns that the defaults will change.
        options |= {"aux_logits": False, "init_weights": True}
    if architecture.startswith("vit_"):
        if image_size[0] != image_size[1]:
            raise ValueError(
                f"Classifier: expected `image_size` to be square for {architecture}, got "
                f"{image_size}"
            )
        options["image_size"] = image_size[0]
    return torchvision_models.get_model(architecture, weights=None, **options)


def _last_layer(network: nn.Module) -> str:
    """Name of the layer that outputs the logits."""
    layers = [name for name, m in network.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    return layers[-1]


def _move_strides(network: nn.Module) -> None:
    """Exchange the strides of the first two convolutions of every bottleneck."""
    blocks = [module for module in network.modules() if isinstance(module, Bottleneck)]
    if not isinstance(network, ResNet) or not blocks:
        raise ValueError(
            "Classifier: expected a ResNet with bottlenecks (resnet50 and larger) for "
            f"stride_in_1x1, got {type(network).__name__} without any"
        )
    for block in blocks:
        block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride
