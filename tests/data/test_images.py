"""read_image and read_image_size: every kind of picture, and the damaged ones."""

import zlib

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from cvlib.data._images import read_image, read_image_size

RGB = np.random.default_rng(1).integers(0, 256, (30, 40, 3), dtype=np.uint8)


def write_grey(path):
    grey = Image.fromarray(RGB).convert("L")
    grey.save(path)
    return np.asarray(grey.convert("RGB"))


def write_palette(path, **kwargs):
    palette = Image.fromarray(RGB).quantize(64)
    palette.save(path, **kwargs)
    return np.asarray(palette.convert("RGB"))


def write_transparent_palette(path):
    return write_palette(path, transparency=bytes(range(0, 256, 4)))


def write_alpha(path):
    alpha = np.full_like(RGB[..., :1], 7)
    Image.fromarray(np.concatenate([RGB, alpha], 2)).save(path)
    return RGB


def write_grey_16(path):
    cv2.imwrite(str(path), RGB[..., 0].astype(np.uint16) * 256 + 99)
    return np.repeat(RGB[..., :1], 3, 2)


def write_rgb_16(path):
    cv2.imwrite(str(path), RGB[..., ::-1].astype(np.uint16) * 256 + 99)
    return RGB


@pytest.mark.parametrize(
    "write",
    [
        write_grey,
        write_palette,
        write_transparent_palette,
        write_alpha,
        write_grey_16,
        write_rgb_16,
    ],
)
def test_every_kind_of_png_becomes_rgb(tmp_path, write):
    expected = write(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert image.dtype == torch.uint8
    assert image.is_contiguous()
    assert np.array_equal(image.permute(1, 2, 0).numpy(), expected)
    assert read_image_size(tmp_path / "a.png") == (30, 40)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpeg(tmp_path, mode):
    image = Image.fromarray(RGB).convert(mode)
    image.save(tmp_path / "a.jpg")
    expected = np.asarray(Image.open(tmp_path / "a.jpg").convert("RGB"))
    assert np.array_equal(read_image(tmp_path / "a.jpg").permute(1, 2, 0).numpy(), expected)
    assert read_image_size(tmp_path / "a.jpg") == (30, 40)


def cut_half(data):
    return data[: len(data) // 2]


def cut_end(data):
    return data[:-6]


def cut_pixels(data):
    return data[:40]


def flip_bit(data):
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut_half, "a file that ends after"),
        (cut_end, "a file that ends after"),
        (cut_pixels, "a file that ends after 40 bytes"),
        (flip_bit, "a wrong checksum at byte"),
    ],
)
def test_damaged_png(tmp_path, damage, message):
    path = tmp_path / "a.png"
    Image.fromarray(RGB).save(path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=rf"a whole PNG, got {message}.* in .*a\.png; restore"):
        read_image(path)


def test_damaged_png_with_right_checksums(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(RGB).save(path)
    data = path.read_bytes()
    start = data.index(b"IDAT")
    length = int.from_bytes(data[start - 4 : start], "big")
    chunk = bytearray(data[start : start + 4 + length])
    chunk[length // 2] ^= 0x5A
    checksum = zlib.crc32(chunk).to_bytes(4, "big")
    path.write_bytes(data[:start] + chunk + checksum + data[start + 8 + length :])
    with pytest.raises(ValueError, match=r"got a PNG that cannot be decoded in .*a\.png"):
        read_image(path)


def test_truncated_jpeg(tmp_path):
    path = tmp_path / "a.jpg"
    Image.fromarray(RGB).save(path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match=r"got a JPEG that cannot be decoded in .*a\.jpg"):
        read_image(path)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", "an empty file"),
        (b"GIF89a...", "a GIF"),
        (b"<html>", "a web page or XML"),
        (b"version https://git-lfs.github.com/spec/v1", r"a Git LFS pointer \(run git lfs pull\)"),
        (b"\x89PNG\r\n\x1a\n\0\0", "a PNG"),
        (b"12345678901", "bytes b'12345678'"),
    ],
)
def test_not_a_picture(tmp_path, data, kind):
    path = tmp_path / "a.png"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=f"expected a PNG or JPEG picture, got {kind} in"):
        read_image_size(path)
    with pytest.raises(ValueError, match="read_image: expected"):
        read_image(path)
