"""Images, archives and comparisons that the tests of shards share."""

import io
import tarfile

import numpy as np
import torch
from PIL import Image

SIZE = (24, 32)


def quiet(line):
    """Says nothing."""


def paint(path, number, *, mode="RGB", exif=None):
    """An image whose pixels tell its number."""
    pixels = np.full((*SIZE, 3), number, dtype=np.uint8)
    pixels[:, :4] = 255
    options = {"exif": exif} if exif else {}
    Image.fromarray(pixels).convert(mode).save(path, **options)
    return path


def assert_equal(one, other):
    assert torch.equal(one[0], other[0]) and type(one[0]) is type(other[0])
    assert one[1].keys() == other[1].keys()
    for name, value in one[1].items():
        if isinstance(value, torch.Tensor):
            assert value.dtype == other[1][name].dtype and type(value) is type(other[1][name])
            assert torch.equal(value, other[1][name]), name
        else:
            assert value == other[1][name]


def write_tar(path, *members):
    """Members: names with bytes, or whole headers with bytes."""
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def png(number=0):
    buffer = io.BytesIO()
    Image.fromarray(np.full((*SIZE, 3), number, dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()
