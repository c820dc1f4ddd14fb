"""Painted datasets of all tasks, and models that predict their targets."""

import torch
from short_runs import SIZE
from torch import nn
from torchvision import tv_tensors

from cvlib.models import Model, TinySSD
from cvlib.models.tiny_ssd import Predictions
from cvlib.structures import Classification, Detections, Segmentation
from cvlib.targets import assign_targets


class Oracle(TinySSD):
    """Predicts the targets of the anchors."""

    def __init__(self, samples):
        super().__init__(("banana",), SIZE)
        self.targets = {image.as_subclass(torch.Tensor).sum().item(): t for image, t in samples}

    def forward(self, images):
        raw = super().forward(images)
        logits, offsets = raw.class_logits.clone(), raw.offsets.clone()
        for i, image in enumerate(images):
            target = self.targets[image.sum().item()]
            boxes = target["boxes"].as_subclass(torch.Tensor)[None]
            targets = assign_targets(raw.anchors, boxes, target["labels"][None], SIZE)
            logits[i] = 30 * torch.nn.functional.one_hot(targets.classes[0], 2) - 15.0
            offsets[i] = targets.offsets[0]
        return Predictions(logits, offsets, raw.anchors)


class Painted:
    """Images of different sizes: cats are red, dogs green, and the floor is black."""

    classes = ("floor", "cat", "dog")

    def __init__(self, task, sizes=((48, 64), (64, 48), (30, 90), (64, 64), (20, 20))):
        self.task, self.sizes = task, sizes

    def __len__(self):
        return len(self.sizes)

    def __getitem__(self, index):
        height, width = self.sizes[index]
        labels = [1, 2] if index % 2 else [2]
        boxes, image = [], torch.zeros(3, height, width, dtype=torch.uint8)
        for place, label in enumerate(labels):
            x1, x2 = width * (1 + 2 * place) // 5, width * (2 + 2 * place) // 5
            boxes.append([x1, height // 4, x2, 3 * height // 4])
            image[label - 1, height // 4 : 3 * height // 4, x1:x2] = 255
        masks = torch.stack([image[label - 1] > 0 for label in labels])
        target = {"image_id": 10 - index}
        if self.task == "detection":
            target |= {
                "boxes": torch.tensor(boxes).float(),
                "labels": torch.tensor(labels),
                "iscrowd": torch.zeros(len(labels)).long(),
                "masks": tv_tensors.Mask(masks.to(torch.uint8)),
            }
        elif self.task == "segmentation":
            mask = (image[0] > 0) + 2 * (image[1] > 0).to(torch.uint8)
            mask[0, 0] = 255
            target["mask"] = tv_tensors.Mask(mask)
        else:
            target["label"] = torch.tensor(labels[0])
        return tv_tensors.Image(image), target


class Reader(Model):
    """Reads the classes off the colours of the painted images, in canvas pixels."""

    def __init__(self, task, framing=(60, 80)):
        super().__init__(Painted.classes, framing)
        self.task = task
        self.weight = nn.Parameter(torch.zeros(1))

    def loss(self, raw, targets):
        raise AssertionError("evaluation computes no loss")

    def forward(self, images):
        assert images.dtype == torch.uint8
        if self.framing.size is not None:
            assert images.shape[1:] == (3, *self.framing.size)
        return (images[:, 0] > 127) + 2 * (images[:, 1] > 127).long()  # (B, H, W)

    def decode(self, raw, sizes=None, *, score_threshold=None):
        if self.task == "segmentation":
            return [Segmentation(labels, self.classes) for labels in raw]
        if self.task == "classification":
            share = torch.stack([(raw == k).flatten(1).sum(1) for k in range(3)], 1) + 0.0
            share[:, 0] = 0
            first = torch.stack([class_map[class_map > 0].min() for class_map in raw])
            scores = share / share.sum(1, keepdim=True) + nn.functional.one_hot(first, 3)
            return [Classification(row, self.classes) for row in scores]
        results = []
        for class_map in raw:
            labels = [k for k in (1, 2) if (class_map == k).any()]
            masks = torch.stack([class_map == k for k in labels])
            edges = [mask.nonzero() for mask in masks]
            boxes = torch.stack(
                [torch.cat([e.amin(0).flip(0), e.amax(0).flip(0) + 1]).float() for e in edges]
            )
            scores = torch.ones(len(labels))
            results.append(Detections(boxes, scores, torch.tensor(labels), self.classes, masks))
        return results
