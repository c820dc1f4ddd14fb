"""Images, layouts, sizes and the oracle for the tests of upsample_bilinear."""

import torch
import torch.nn.functional as F

nan, inf = float("nan"), float("inf")
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
OPERATORS = torch.ops.cvlib
LAYOUTS = {
    "contiguous": lambda images: images.contiguous(),
    "channels-last": lambda images: images.contiguous(memory_format=torch.channels_last),
    "crop": lambda images: F.pad(images, (2, 1, 1, 3))[:, :, 1:-3, 2:-1],
    "channels-last crop": lambda images: F.pad(images, (2, 1, 1, 3)).contiguous(
        memory_format=torch.channels_last
    )[:, :, 1:-3, 2:-1],
    "every second channel": lambda images: images.repeat_interleave(2, 1)[:, ::2],
    "every second pixel": lambda images: images.repeat_interleave(2, 3)[..., ::2],
    "transposed": lambda images: images.mT.contiguous().mT,
    "images innermost": lambda images: images.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2),
    "offset in storage": lambda images: torch.cat([images[:1], images])[1:],
}


def random_images(rng, shape, device, dtype=torch.float32):
    return torch.from_numpy(rng.normal(size=shape)).to(device, dtype)
