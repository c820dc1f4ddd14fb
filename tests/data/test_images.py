"""read_image and read_image_size, for all formats and orientations."""

import io
import struct

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from cvlib.data.files.images import (
    UnreadableImageError,
    read_image,
    read_image_header,
    read_image_size,
)

RGB = np.random.default_rng(1).integers(0, 256, (30, 40, 3), dtype=np.uint8)
# Smooth, so that lossy formats keep it.
SMOOTH = np.stack(np.meshgrid(np.arange(40) * 5, np.arange(30) * 7), 2).astype(np.uint8)
SMOOTH = np.concatenate([SMOOTH, np.full_like(SMOOTH[..., :1], 90)], 2)


def pixels_of(path, **options):
    return read_image(path, **options).permute(1, 2, 0).numpy()


def encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


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


def write_grey_alpha(path):
    Image.fromarray(RGB[..., :2].copy(), "LA").save(path)
    return np.repeat(RGB[..., :1], 3, 2)


def write_grey_16(path):
    cv2.imwrite(str(path), RGB[..., 0].astype(np.uint16) * 256 + 99)
    return np.repeat(RGB[..., :1], 3, 2)


def write_rgb_16(path):
    cv2.imwrite(str(path), RGB[..., ::-1].astype(np.uint16) * 256 + 99)
    return RGB


def write_1_bit(path):
    bits = Image.fromarray(RGB[..., 0] > 127)
    bits.save(path)
    return np.repeat((RGB[..., :1] > 127) * np.uint8(255), 3, 2)


def write_one_pixel(path):
    Image.fromarray(RGB[:1, :1]).save(path)
    return RGB[:1, :1]


@pytest.mark.parametrize(
    "write",
    [
        write_grey,
        write_palette,
        write_transparent_palette,
        write_alpha,
        write_grey_alpha,
        write_grey_16,
        write_rgb_16,
        write_1_bit,
        write_one_pixel,
    ],
)
def test_every_kind_of_png_becomes_rgb(tmp_path, write):
    expected = write(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert image.dtype == torch.uint8
    assert image.permute(1, 2, 0).is_contiguous()
    assert np.array_equal(image.permute(1, 2, 0).numpy(), expected)
    assert read_image_size(tmp_path / "a.png") == expected.shape[:2]


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"quality": 100, "subsampling": 0}])
def test_jpeg_agrees_with_pillow(tmp_path, mode, options):
    Image.fromarray(SMOOTH).convert(mode).save(tmp_path / "a.jpg", **options)
    expected = np.asarray(Image.open(tmp_path / "a.jpg").convert("RGB"))
    image = read_image(tmp_path / "a.jpg")
    assert image.permute(1, 2, 0).is_contiguous()
    # Two builds of one library may round a colour differently.
    difference = np.abs(image.permute(1, 2, 0).numpy().astype(int) - expected)
    assert difference.max() <= 2
    assert read_image_size(tmp_path / "a.jpg") == (30, 40)


def test_cmyk_jpeg_with_and_without_adobes_marker(tmp_path):
    # Adobe stores ink inverted and marks the file; without the mark 255 is full ink.
    data = encoded(Image.fromarray(SMOOTH).convert("CMYK"), "JPEG", quality=95)
    start = data.index(b"\xff\xeeXX".replace(b"XX", data[data.index(b"\xff\xee") + 2 :][:2]))
    length = int.from_bytes(data[start + 2 : start + 4], "big")
    (tmp_path / "adobe.jpg").write_bytes(data)
    (tmp_path / "plain.jpg").write_bytes(data[:start] + data[start + 2 + length :])
    adobe, plain = pixels_of(tmp_path / "adobe.jpg"), pixels_of(tmp_path / "plain.jpg")
    assert np.abs(adobe.astype(int) - SMOOTH).max() < 12
    ink = Image.open(tmp_path / "plain.jpg")
    assert "adobe" not in ink.info
    inverted = Image.fromarray(255 - np.asarray(ink), "CMYK").convert("RGB")
    assert np.array_equal(plain, np.asarray(inverted))


@pytest.mark.parametrize(
    ("kind", "options", "tolerance"),
    [
        ("BMP", {}, 0),
        ("GIF", {}, 40),
        ("TIFF", {}, 0),
        ("TIFF", {"compression": "tiff_lzw"}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("WEBP", {"quality": 95}, 25),
        ("PPM", {}, 0),
    ],
)
@pytest.mark.parametrize("suffix", [".jpg", ".png", ""])
def test_content_decides_not_the_suffix(tmp_path, kind, options, tolerance, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(encoded(Image.fromarray(SMOOTH), kind, **options))
    assert np.abs(pixels_of(path).astype(int) - SMOOTH).max() <= tolerance
    assert read_image_size(path) == (30, 40)
    assert read_image_header(path).format == kind
    assert torch.equal(read_image(path.read_bytes()), read_image(path))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_of_several_frames(tmp_path, kind):
    frames = [Image.new("RGB", (9, 7), colour) for colour in ("red", "blue", "green")]
    options = {"lossless": True} if kind == "WEBP" else {}
    frames[0].save(tmp_path / "a", kind, save_all=True, append_images=frames[1:], **options)
    assert pixels_of(tmp_path / "a")[3, 3].tolist() == [255, 0, 0]
    assert read_image_size(tmp_path / "a") == (7, 9)


@pytest.mark.parametrize("bits", ["B", ">B"])
def test_16_bit_tiff(tmp_path, bits):
    values = np.arange(30 * 40, dtype=np.uint16).reshape(30, 40) * 50
    Image.fromarray(values.astype("<u2")).save(tmp_path / "a.tif")
    assert np.array_equal(pixels_of(tmp_path / "a.tif")[..., 1], values >> 8)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.full((4, 5), 0.5, np.float32), "floating-point numbers of no known range"),
        (np.full((4, 5), 70_000, np.int32), "32-bit numbers of no known range"),
    ],
)
def test_pixels_without_a_range_are_refused(tmp_path, values, message):
    Image.fromarray(values).save(tmp_path / "a.tif")
    with pytest.raises(UnreadableImageError, match=message):
        read_image(tmp_path / "a.tif")


def test_bmp_written_from_the_top_down(tmp_path):
    data = bytearray(encoded(Image.fromarray(RGB), "BMP"))
    struct.pack_into("<i", data, 22, -30)
    (tmp_path / "a.bmp").write_bytes(data)
    assert np.array_equal(pixels_of(tmp_path / "a.bmp"), RGB[::-1])
    assert read_image_size(tmp_path / "a.bmp") == (30, 40)


def test_20_000_pixels_wide(tmp_path):
    Image.new("L", (20_000, 3), 77).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").shape == (3, 3, 20_000)
    Image.new("RGB", (3, 20_000), (1, 2, 3)).save(tmp_path / "a.jpg")
    assert read_image(tmp_path / "a.jpg").shape == (3, 20_000, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_all_eight_orientations(tmp_path, kind, orientation):
    # The reference is exif_transpose of Pillow.
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F] = "a camera's name, so that the block has more than one entry"
    options = {"lossless": True} if kind == "WEBP" else {}
    Image.fromarray(SMOOTH).save(tmp_path / "a", kind, exif=exif, **options)
    with Image.open(tmp_path / "a") as stored:
        expected = np.asarray(ImageOps.exif_transpose(stored).convert("RGB"))
    assert np.abs(pixels_of(tmp_path / "a").astype(int) - expected).max() <= 2
    assert read_image_size(tmp_path / "a") == expected.shape[:2]
    if kind != "TIFF":
        assert pixels_of(tmp_path / "a", upright=False).shape == (30, 40, 3)
        assert read_image_size(tmp_path / "a", upright=False) == (30, 40)
        assert read_image_header(tmp_path / "a").orientation == orientation


@pytest.mark.parametrize("order", ["<", ">"])
def test_orientation_in_both_byte_orders(tmp_path, order):
    mark = b"II*\0" if order == "<" else b"MM\0*"
    block = mark + struct.pack(order + "IHHHIHHI", 8, 1, 0x0112, 3, 1, 6, 0, 0)
    segment = b"Exif\0\0" + block
    data = encoded(Image.fromarray(SMOOTH), "JPEG")
    marked = data[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + data[2:]
    assert read_image(marked).shape == (3, 40, 30)


@pytest.mark.parametrize(
    "block",
    [b"", b"II*\0", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff\xff", b"XX*\0" + bytes(20)],
)
def test_damaged_exif_is_ignored(block):
    data = encoded(Image.fromarray(SMOOTH), "JPEG")
    segment = b"Exif\0\0" + block
    marked = data[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + data[2:]
    assert torch.equal(read_image(marked), read_image(data))


def test_a_header_behind_a_long_profile(tmp_path):
    profile = np.random.default_rng(0).bytes(200_000)
    Image.fromarray(SMOOTH).save(tmp_path / "a.jpg", icc_profile=profile)
    assert read_image_size(tmp_path / "a.jpg") == (30, 40)
