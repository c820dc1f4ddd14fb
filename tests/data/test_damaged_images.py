"""read_image and read_image_size for damaged and oversized images, and files of other kinds."""

import io
import os
import pickle
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from cvlib.data.files import images as image_files
from cvlib.data.files.images import UnreadableImageError, read_image, read_image_size

RGB = np.random.default_rng(1).integers(0, 256, (30, 40, 3), dtype=np.uint8)


def encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


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
        (cut_pixels, "a PNG that cannot be decoded"),
        (flip_bit, "a wrong checksum at byte"),
    ],
)
def test_damaged_png(tmp_path, damage, message):
    path = tmp_path / "a.png"
    Image.fromarray(RGB).save(path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UnreadableImageError, match=rf"got {message}.* in .*a\.png; restore") as e:
        read_image(path)
    assert e.value.path == str(path)


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
    with pytest.raises(UnreadableImageError, match=r"got a PNG that cannot be decoded.*a\.png"):
        read_image(path)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM"])
@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.98])
def test_truncated(tmp_path, kind, share):
    path = tmp_path / "a"
    data = encoded(Image.fromarray(RGB), kind)
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(UnreadableImageError, match=r"read_image: expected .*restore or remove"):
        read_image(path)


def test_truncated_jpeg_with_a_complete_preview():
    # The end marker of the preview in the EXIF block must not be taken for that of the image.
    preview = encoded(Image.fromarray(RGB[:8, :8]), "JPEG")
    data = encoded(Image.fromarray(RGB), "JPEG")
    segment = b"Exif\0\0II*\0" + struct.pack("<IHI", 8, 0, 0) + preview
    marked = data[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + data[2:]
    assert read_image(marked).shape == (3, 30, 40)
    with pytest.raises(UnreadableImageError, match="truncated"):
        read_image(marked[:-300])


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", "an empty file"),
        (b"GIF89a", "a GIF that cannot be decoded"),
        (b"<html>", "a web page or XML"),
        (b"%PDF-1.4", "a PDF"),
        (b"PK\x03\x04", "a zip archive"),
        (b"\0\0\0\x1cftypheic", "an HEIF, AVIF or MP4 file"),
        (b"version https://git-lfs.github.com/spec/v1", r"a Git LFS pointer \(run git lfs pull\)"),
        (b"\x89PNG\r\n\x1a\n\0\0", "a PNG that cannot be decoded"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), r"a PNG .*its header is damaged"),
        (b"\xff\xd8\xff\xd9", "a JPEG .*no header with a size"),
        (b"\xff\xd8\xff\xe0\0\0", "a JPEG .*damaged at byte 2"),
        (b"\xff\xd8\xff\xe0\0\x04abZZ", "a JPEG .*damaged at byte 8"),
        (b"RIFF\0\0\0\0WEBPVP8L", "a RIFF file .*ends too early"),
        (b"RIFF\0\0\0\0WEBPABCD" + bytes(20), "a RIFF file .*header is damaged"),
        (b"12345678901", "bytes b'12345678'"),
    ],
)
def test_not_an_image(tmp_path, data, kind):
    path = tmp_path / "a.png"
    path.write_bytes(data)
    expected = rf"expected a complete image \(JPEG, PNG, WebP, .*\), got {kind}.* in .*a\.png"
    with pytest.raises(UnreadableImageError, match="read_image_size: " + expected):
        read_image_size(path)
    with pytest.raises(UnreadableImageError, match="read_image: " + expected):
        read_image(path)


def test_missing_folder_and_pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(FileNotFoundError, match=r"got .*b\.png, which does not exist"):
        read_image(tmp_path / "b.png")
    for name in ("", "pipe.jpg"):
        with pytest.raises(FileNotFoundError, match="which is not a file"):
            read_image(tmp_path / name)
        with pytest.raises((OSError, UnreadableImageError)):
            read_image_size(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=r"got .*b\.png, which does not exist"):
        read_image_size(tmp_path / "b.png")


def test_names_that_are_not_utf_8(tmp_path):
    path = os.fsencode(tmp_path) + b"/\xff\xe9.png"
    with open(path, "wb") as file:
        file.write(encoded(Image.fromarray(RGB), "PNG"))
    assert read_image(os.fsdecode(path)).shape == (3, 30, 40)
    assert read_image_size(os.fsdecode(path)) == (30, 40)


def test_the_error_travels_between_processes():
    error = UnreadableImageError("no", "a.png")
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.path, type(again)) == ("no", "a.png", UnreadableImageError)


def png_header(width, height):
    def block(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    pixels = zlib.compress(bytes(1000))
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + block(b"IHDR", head) + block(b"IDAT", pixels) + block(b"IEND", b"")
    )


def test_a_bomb_is_refused_by_its_header(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(png_header(100_000, 90_000))
    with pytest.raises(
        UnreadableImageError,
        match=r"at most 536,870,912 pixels, got 100000 x 90000 in .*a\.png; .*"
        r"CVLIB_MAX_PIXELS=9000000000",
    ):
        read_image(path)
    assert read_image_size(path) == (90_000, 100_000)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM"])
def test_the_limit_can_be_set(monkeypatch, kind):
    data = encoded(Image.fromarray(RGB), kind)
    monkeypatch.setenv("CVLIB_MAX_PIXELS", "1199")
    with pytest.raises(UnreadableImageError, match="at most 1,199 pixels, got 40 x 30"):
        read_image(data)
    monkeypatch.setenv("CVLIB_MAX_PIXELS", "1200")
    assert read_image(data).shape == (3, 30, 40)


def test_pillows_own_limit_does_not_count(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert read_image(encoded(Image.fromarray(RGB), "PNG")).shape == (3, 30, 40)
    assert image_files.MAX_PIXELS >= 20_000**2


FUZZ = """
import io, sys, warnings
import numpy as np
from PIL import Image
from cvlib.data.files.images import UnreadableImageError, read_image

warnings.simplefilter("ignore")
rng = np.random.default_rng(int(sys.argv[1]))
image = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
read = refused = 0
kinds = [
    ("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("GIF", {}), ("WEBP", {}),
    ("WEBP", {"lossless": True}), ("BMP", {}), ("TIFF", {"compression": "tiff_lzw"}), ("PPM", {}),
]
for kind, options in kinds:
    file = io.BytesIO()
    image.save(file, kind, **options)
    whole = np.frombuffer(file.getvalue(), np.uint8)
    for _ in range(int(sys.argv[2])):
        data = whole.copy()
        # Half of the flips are in the header, where decoders are weakest.
        reach = len(data) if rng.random() < 0.5 else min(64, len(data))
        places = rng.integers(2, reach, rng.integers(1, 12))
        data[places] = rng.integers(0, 256, len(places))
        if rng.random() < 0.3:
            data = data[: rng.integers(0, len(data))]
        try:
            decoded = read_image(data.tobytes())
            assert decoded.shape[0] == 3 and decoded.permute(1, 2, 0).is_contiguous()
            read += 1
        except UnreadableImageError:
            refused += 1
print(read, refused)
"""


def run_fuzz(seed, rounds):
    # In a subprocess, because a decoder may crash.
    environment = os.environ | {"CVLIB_MAX_PIXELS": "10000000"}
    command = [sys.executable, "-c", FUZZ, str(seed), str(rounds)]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    read, refused = map(int, result.stdout.split())
    assert read > rounds / 4
    assert refused > rounds


def test_random_damage_never_crashes():
    run_fuzz(0, 60)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 9))
def test_random_damage_never_crashes_for_long(seed):
    run_fuzz(seed, 2000)
