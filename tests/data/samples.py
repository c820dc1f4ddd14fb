"""Small samples of all tasks, with visible objects."""

import torch
from torchvision import tv_tensors

SIZE = (48, 64)


def detection_sample(count=3, size=SIZE, seed=0, masks=False, image_id=0):
    """Return grey noise with a bright rectangle in each box; areas are those of the boxes."""
    generator = torch.Generator().manual_seed(seed)
    height, width = size
    image = torch.randint(0, 60, (3, height, width), dtype=torch.uint8, generator=generator)
    boxes = torch.zeros(count, 4)
    planes = torch.zeros(count, height, width, dtype=torch.uint8)
    for i in range(count):
        w, h = (int(torch.randint(6, 20, (), generator=generator)) for _ in range(2))
        x = int(torch.randint(0, width - w + 1, (), generator=generator))
        y = int(torch.randint(0, height - h + 1, (), generator=generator))
        boxes[i] = torch.tensor([x, y, x + w, y + h])
        planes[i, y : y + h, x : x + w] = 1
        image[:, y : y + h, x : x + w] = 255
    target = {
        "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=size),
        "labels": torch.arange(count),
        "image_id": image_id,
        "area": (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]),
        "iscrowd": torch.arange(count) % 2,
    }
    if masks:
        target["masks"] = tv_tensors.Mask(planes)
    return tv_tensors.Image(image), target


def segmentation_sample(size=SIZE, seed=0):
    """Return a sample with class 0 left and class 3 right, whose red channel is the class."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.zeros(size, dtype=torch.uint8)
    mask[:, size[1] // 2 :] = 3
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator)
    image[0] = mask
    return tv_tensors.Image(image), {"mask": tv_tensors.Mask(mask), "image_id": 0}


def classification_sample(size=SIZE, seed=0):
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator)
    return tv_tensors.Image(image), {"label": torch.tensor(2), "image_id": 0}


SAMPLES = {
    "detection": detection_sample,
    "segmentation": segmentation_sample,
    "classification": classification_sample,
}


class Listed:
    """A dataset of samples in memory."""

    task = "detection"
    classes = ("a", "b", "c")

    def __init__(self, samples):
        self.samples = samples

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        image, target = self.samples[index]
        return image.clone(), dict(target)
