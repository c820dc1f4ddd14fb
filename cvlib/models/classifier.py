"""Classifiers: torchvision's networks with a new head for the classes at hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision import models as torchvision_models
from torchvision.models.resnet import Bottleneck, ResNet
from torchvision.transforms.v2 import functional as transforms

from cvlib._distributed import mean_over_ranks
from cvlib.models.base import Model
from cvlib.models.weights import adopt_weights, read_weights

# ImageNet's evaluation: short side to 256, then the middle 224.
CROP_SHARE = 224 / 256
# Branches that torchvision's weights hold and that only its own training from scratch uses.
_AUXILIARY = {"googlenet": ("aux1.", "aux2."), "inception_v3": ("AuxLogits.",)}


def list_architectures() -> list[str]:
    """Names of all classifiers that torchvision builds."""
    return torchvision_models.list_models(module=torchvision_models)


class Classifier(Model):
    """A network of torchvision whose last layer predicts these classes.

    Args:
        classes: Names of the K classes.
        image_size: Height and width of the images that `forward` gets.
        architecture: A name of `list_architectures`, such as ``"resnet18"``.
        weights: Weights of the backbone (``.pth``, ``.pt`` or ``.safetensors``; nothing in it
            is executed). The head may be missing in it or have another size, and then starts anew;
            everything else must fit. float16 is cast.
        stride_in_1x1: Halve the resolution in the first convolution of a bottleneck instead of its
            second: where the original ResNet, Caffe's and Keras's weights have it.
        label_smoothing: Share of the truth that is spread over all classes.

    Raises:
        ValueError: Unknown architecture, no bottlenecks for ``stride_in_1x1``, or weights of
            something else, with the names that are missing, unexpected or of another shape.
        FileNotFoundError: No such file of weights.

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
        super().__init__(classes, image_size)
        if architecture not in list_architectures():
            raise ValueError(
                f"Classifier: expected a name of list_architectures(), got {architecture!r}"
            )
        if not 0 <= label_smoothing < 1:
            raise ValueError(
                f"Classifier: expected label_smoothing in [0, 1), got {label_smoothing}"
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
        """Predicts the classes' logits.

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
            raw: Of `forward`.
            targets: ``label`` int64 (B,); an image of label -1 is left out.

        Returns:
            The scalar ``class``.

        Raises:
            ValueError: A label that is no class; checked for tensors in the host's memory.
        """
        label = targets["label"]
        if label.device.type == "cpu" and bool(((label < -1) | (label >= self.num_classes)).any()):
            raise ValueError(
                f"Classifier.loss: expected labels in 0..{self.num_classes - 1} (-1 is left out), "
                f"got {label.tolist()}"
            )
        total = F.cross_entropy(
            raw, label, ignore_index=-1, reduction="sum", label_smoothing=self.label_smoothing
        )
        return {"class": total / mean_over_ranks((label >= 0).sum(), least=1)}

    @torch.no_grad()
    def decode(self, raw: Tensor) -> Tensor:
        """Turns logits into probabilities.

        Args:
            raw: Of `forward`.

        Returns:
            Shape (B, K), float32; rows add up to 1.
        """
        return raw.float().softmax(dim=1)

    def resize(self, image: Tensor) -> Tensor:
        """Scales the short side and cuts out the middle, as ImageNet's evaluation does.

        Args:
            image: uint8, shape (3, H, W).

        Returns:
            uint8, shape (3, *image_size): the middle, seven eighths of what the image has along
            its tighter side.
        """
        height, width = self.image_size
        scale = max(height / image.shape[1], width / image.shape[2]) / CROP_SHARE
        size = [max(1, round(side * scale)) for side in image.shape[1:]]
        return transforms.center_crop(
            transforms.resize(image, size, antialias=True), [height, width]
        )


def _build(architecture: str, num_classes: int, image_size: tuple[int, int]) -> nn.Module:
    options: dict[str, Any] = {"num_classes": num_classes}
    if architecture in _AUXILIARY:
        # Stated, because torchvision warns of a default that will change.
        options |= {"aux_logits": False, "init_weights": True}
    if architecture.startswith("vit_"):
        if image_size[0] != image_size[1]:
            raise ValueError(
                f"Classifier: expected a square image_size for {architecture}, got {image_size}"
            )
        options["image_size"] = image_size[0]
    return torchvision_models.get_model(architecture, weights=None, **options)


def _last_layer(network: nn.Module) -> str:
    """The name of the layer that gives the logits."""
    layers = [name for name, m in network.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    return layers[-1]


def _move_strides(network: nn.Module) -> None:
    """Exchanges the strides of the first two convolutions of every bottleneck."""
    blocks = [module for module in network.modules() if isinstance(module, Bottleneck)]
    if not isinstance(network, ResNet) or not blocks:
        raise ValueError(
            "Classifier: expected a ResNet with bottlenecks (resnet50 and larger) for "
            f"stride_in_1x1, got {type(network).__name__} without any"
        )
    for block in blocks:
        block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride
