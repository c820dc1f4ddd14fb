"""Drawings of samples and batches, and of the changes that transforms make."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from cvlib.data.transforms import Resize, TransformedDataset, make_transform
from cvlib.visualize.drawing import as_image, class_name, draw_target
from cvlib.visualize.segmentation import draw_segmentation
from cvlib.visualize.sheets import Tile, enlarge, make_sheet


def draw_sample(image: Tensor, target: Mapping[str, Any], classes: Sequence[str]) -> Tile:
    """Draw a sample of any task, with a caption that summarises its target.

    Args:
        image: Image, uint8, shape (3, H, W).
        target: Target of a sample, or one row of a batch.
        classes: Class names.

    Returns:
        The drawing and its caption.
    """
    image, target = enlarge(image, target)
    if "boxes" in target:
        labels = [label for label in target["labels"].tolist() if label >= 0]
        count = f"{len(labels)} object{'s' * (len(labels) != 1)}" if labels else "no objects"
        return Tile(draw_target(image, target, classes), count)
    if "mask" in target:
        count = f"{len(target['mask'].unique())} classes"
        return Tile(draw_segmentation(image, target["mask"], classes), count)
    return Tile(as_image(image), class_name(classes, int(target["label"])))


def show_batch(
    images: Tensor, targets: Mapping[str, Any], classes: Sequence[str], *, limit: int = 16
) -> Image.Image:
    """Draw the images of a batch with their objects, class maps or labels.

    Args:
        images: Images from `collate`, uint8, shape (B, 3, H, W).
        targets: Targets from `collate`.
        classes: Class names.
        limit: Maximum number of images.

    Returns:
        One image.

    Raises:
        ValueError: ``images`` is not a batch.

    Example:
        >>> from cvlib.data import SyntheticBananas, collate
        >>> bananas = SyntheticBananas(2, image_size=64)
        >>> show_batch(*collate([bananas[0], bananas[1]]), bananas.classes).mode
        'RGB'
    """
    if images.dim() != 4 or not len(images):
        raise ValueError(
            f"show_batch: expected `images` of shape (B, 3, H, W), got {tuple(images.shape)}"
        )
    tiles = []
    for i in range(min(limit, len(images))):
        row = {name: values[i] for name, values in targets.items()}
        if "boxes" in row:
            valid = row["labels"] >= 0
            row |= {n: row[n][valid] for n in ("boxes", "labels", "iscrowd") if n in row}
        tile = draw_sample(images[i], row, classes)
        tiles.append(Tile(tile.image, f"image {int(row['image_id'])}: {tile.caption}"))
    limited = f", first {len(tiles)}" if len(tiles) < len(images) else ""
    size = f"{images.shape[2]} x {images.shape[3]}"
    return make_sheet(tiles, f"batch of {len(images)} images, {size}{limited}")


def show_transforms(
    dataset: Dataset[Any],
    index: int,
    recipe: str | Callable[..., Any],
    *,
    image_size: tuple[int, int] = (256, 256),
    count: int = 7,
    seed: int = 0,
) -> Image.Image:
    """Draw a sample before and after the transforms of a recipe in successive epochs.

    Args:
        dataset: Dataset of ``(image, target)`` samples.
        index: Index of the sample.
        recipe: Name in `RECIPES`, or a transform.
        image_size: Height and width after the recipe in pixels.
        count: Number of epochs.
        seed: Seed of the random numbers.

    Returns:
        One image.

    Raises:
        ValueError: Unknown recipe.

    Example:
        >>> from cvlib.data import SyntheticBananas
        >>> bananas = SyntheticBananas(2, image_size=64)
        >>> show_transforms(bananas, 0, "light", image_size=(64, 64), count=3).mode
        'RGB'
    """
    classes: Sequence[str] = getattr(dataset, "classes", ())
    task = getattr(dataset, "task", "detection")
    name = recipe if isinstance(recipe, str) else repr(recipe)
    if isinstance(recipe, str):
        recipe = make_transform(recipe, task, image_size, train=True)
    image, target = dataset[index]
    size = f"{image.shape[1]} x {image.shape[2]}"
    original = draw_sample(*_shrink_to_fit(image, target, image_size), classes)
    tiles = [Tile(original.image, f"original, {size}: {original.caption}")]
    transformed = TransformedDataset(dataset, recipe, seed)
    for epoch in range(count):
        tile = draw_sample(*transformed[epoch, index], classes)
        tiles.append(Tile(tile.image, f"epoch {epoch + 1}: {tile.caption}"))
    return make_sheet(tiles, f"recipe {name}, {image_size[0]} x {image_size[1]}")


def _shrink_to_fit(
    image: Tensor, target: Mapping[str, Any], size: tuple[int, int]
) -> tuple[Tensor, Mapping[str, Any]]:
    """Shrink a sample to fit into (height, width), keeping its aspect ratio."""
    scale = min(1.0, size[0] / image.shape[1], size[1] / image.shape[2])
    height, width = (max(1, round(side * scale)) for side in image.shape[1:])
    fitted: tuple[Tensor, Mapping[str, Any]] = Resize((height, width))(image, target)
    return fitted
