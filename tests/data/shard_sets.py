"""Images, archives and comparisons for the tests of shards."""

import io
import tarfile

import numpy as np
import torch
from PIL import Image

SIZE = (24, 32)


def quiet(line):
    """A log that discards its lines."""


def paint(path, number, *, mode="RGB", exif=None):
    """Save an image filled with a number."""
    pixels = np.full((*SIZE, 3), number, dtype=np.uint8)
    pixels[:, :4] = 255
    options = {"exif": exif} if exif else {}
    Image.fromarray(pixels).convert(mode).save(path, **options)
    return path


def assert_equal(actual, expected):
    (image, target), (expected_image, expected_target) = actual, expected
    assert torch.equal(image, expected_image) and type(image) is type(expected_image)
    assert target.keys() == expected_target.keys()
    for name, value in target.items():
        other = expected_target[name]
        if isinstance(value, torch.Tensor):
            assert value.dtype == other.dtype and type(value) is type(other)
            assert torch.equal(value, other), name
        else:
            assert value == other


def write_tar(path, *members):
    """Write members, pairs of a name or header and bytes, to a tar file."""
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def png(number=0):
    buffer = io.BytesIO()
    Image.fromarray(np.full((*SIZE, 3), number, dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()
