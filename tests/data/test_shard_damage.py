"""Damaged and malicious shards do no harm: errors are reported and never become samples."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from shard_sets import SIZE, assert_equal, png, quiet, write_tar

from cvlib.data import ShardDataset, verify_shards, write_shards
from cvlib.data.files.images import UnreadableImageError
from cvlib.data.shards.archive import pack_sample, read_range


def test_unreadable_images_are_left_out_logged_and_listed(classification, tmp_path):
    Path(classification.images[2]).write_bytes(b"no image")
    lines = []
    write_shards(classification, tmp_path / "s", log=lines.append)
    assert lines[0].startswith("left out: image 2 cannot be read: ClassificationDataset: expected")
    assert lines[1] == "4 images in 1 shard"
    index = json.loads((tmp_path / "s" / "index.json").read_text())
    assert [image["index"] for image in index["left_out"]] == [2]
    assert [ShardDataset(tmp_path / "s")[i][1]["image_id"] for i in range(4)] == [0, 1, 3, 4]


def test_too_many_unreadable_images_stop_the_writing(classification, tmp_path):
    for i in (1, 3):
        Path(classification.images[i]).unlink()
    message = "write_shards: expected at most 1 unreadable images of 5, got 2"
    with pytest.raises(ValueError, match=message):
        write_shards(classification, tmp_path / "s", log=quiet)
    assert not list((tmp_path / "s").iterdir())


def test_a_truncated_shard_keeps_its_complete_samples(classification, tmp_path):
    write_shards(classification, tmp_path / "s", per_shard=3, log=quiet)
    path = tmp_path / "s" / "shard-000000.tar"
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.warns(UserWarning, match="1 damaged shard, the first: .*expected .*bytes, got"):
        shards = ShardDataset(tmp_path / "s")
    assert shards.findings[0].code == "damaged-shard"
    assert_equal(shards[0], classification[0])
    assert_equal(shards[4], classification[4])
    with pytest.raises(UnreadableImageError, match="that should have"):
        shards[2]
    path.unlink()
    with pytest.warns(UserWarning, match="which is missing"):
        shards = ShardDataset(tmp_path / "s")
    with pytest.raises(UnreadableImageError, match="No such file"):
        shards[0]


@pytest.mark.parametrize("place", ["header", "image", "json"])
def test_flipped_bytes_are_found(classification, tmp_path, place):
    write_shards(classification, tmp_path / "s", log=quiet)
    path = tmp_path / "s" / "shard-000000.tar"
    data = bytearray(path.read_bytes())
    start = ShardDataset(tmp_path / "s")._folders[0].offsets[1]
    at = {"header": start + 100, "image": start + 560, "json": data.index(b"{", start)}[place]
    data[at] ^= 0xFF
    path.write_bytes(data)
    shards = ShardDataset(tmp_path / "s")
    with pytest.raises(UnreadableImageError, match="ShardDataset: expected a readable sample in"):
        shards[1]
    assert_equal(shards[2], classification[2])
    assert [finding.code for finding in verify_shards(tmp_path / "s")] == ["damaged-shard"]


def test_untouched_shards_verify(classification, tmp_path):
    write_shards(classification, tmp_path / "s", per_shard=2, log=quiet)
    assert verify_shards(tmp_path / "s") == []
    (tmp_path / "s" / "shard-000001.tar").unlink()
    assert "got no file" in verify_shards(tmp_path / "s")[0].message


def test_paths_links_and_devices_in_archives_are_harmless(tmp_path):
    folder = tmp_path / "s"
    folder.mkdir()
    link, device = tarfile.TarInfo("1.png"), tarfile.TarInfo("2.png")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    device.type = tarfile.CHRTYPE
    write_tar(
        folder / "a.tar",
        ("../../../evil.png", png(7)), ("../../../evil.cls", b"1"),
        ("/absolute.png", png(8)), ("/absolute.cls", b"0"),
        (link, b""), (device, b""),
        ("nosuffix", b"x"), (".hidden", b"x"),
    )  # fmt: skip
    before = sorted(tmp_path.rglob("*"))
    shards = ShardDataset(folder, classes=("x", "y"))
    assert len(shards) == 2
    assert [int(shards[i][0].max()) for i in range(2)] == [7, 8]
    assert sorted(tmp_path.rglob("*")) == before
    assert not (tmp_path.parent / "evil.png").exists()


def test_an_index_cannot_lead_out_of_its_folder(classification, tmp_path):
    write_shards(classification, tmp_path / "s", log=quiet)
    index = tmp_path / "s" / "index.json"
    index.write_text(index.read_text().replace("shard-000000.tar", "../../shard.tar"))
    with pytest.raises(ValueError, match="expected a path inside of"):
        ShardDataset(tmp_path / "s")


def test_a_damaged_archive_without_index_keeps_its_complete_samples(tmp_path):
    (tmp_path / "s").mkdir()
    members = [(f"{i}.{s}", d) for i in range(4) for s, d in (("png", png(i)), ("cls", b"0"))]
    path = tmp_path / "s" / "a.tar"
    write_tar(path, *members)
    data = bytearray(path.read_bytes())
    sample = len(pack_sample("0", [("png", png(0)), ("cls", b"0")]))
    data[2 * sample + 10] ^= 0xFF  # the header of the third
    path.write_bytes(data)
    with pytest.warns(UserWarning, match="expected a complete tar file, got .*after 1 samples"):
        shards = ShardDataset(tmp_path / "s", classes=("x",))
    assert len(shards) == 1
    for cut in (2 * sample + 700, 2 * sample):
        write_tar(path, *members)
        path.write_bytes(path.read_bytes()[:cut])
        with pytest.warns(UserWarning, match="expected a complete tar file"):
            shards = ShardDataset(tmp_path / "s", classes=("x",))
        assert len(shards) in (1, 2)
        assert int(shards[0][0].max()) == 0


BOX = {"boxes": [[1, 1, 5, 5]], "labels": [0]}


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"boxes": [[1, 1, 5, 5]], "labels": [2]}, "expected a label in 0..1"),
        ({"boxes": [[5, 1, 1, 5]], "labels": [0]}, "expected x1 < x2 and y1 < y2"),
        ({"boxes": [[1, 1, 50, 5]], "labels": [0]}, "expected a box inside the image"),
        ({"boxes": [[1, 1, float("nan"), 5]], "labels": [0]}, "expected finite `boxes`"),
        ({"boxes": [[1, 1, 5]], "labels": [0]}, "expected `boxes` to be numbers of shape"),
        ({"boxes": "abcd", "labels": [0]}, "expected `boxes` to be numbers"),
        ({"boxes": {"a": 1}, "labels": [0]}, "expected `boxes` to be numbers"),
        ({"boxes": [[1, 1, 5, 5]], "labels": [0.5]}, "expected `labels` to be numbers"),
        ({"boxes": [[1, 1, 5, 5]], "labels": [0, 1]}, "expected `labels` to be numbers of shape"),
        ({"boxes": [[1, 1, 5, 5]], "labels": [10**30]}, "expected `labels` to be numbers"),
        ({**BOX, "image_id": "a"}, "expected `image_id` to be an integer"),
        ({**BOX, "masks": []}, "expected `masks` to be a list of 1 run-length"),
        (
            {**BOX, "masks": [{"size": [10**6, 10**6], "counts": [10**12]}]},
            "`masks` to be run-length",
        ),
        (
            {**BOX, "masks": [{"size": [24, 32], "counts": "~~"}]},
            "`masks` to be run-length",
        ),
        ([1], "expected labels as a JSON object"),
        (b"{", "expected labels as JSON"),
        (b"[" * 100_000, "expected labels as JSON"),
    ],
)
def test_invalid_labels_are_refused(tmp_path, labels, message):
    (tmp_path / "s").mkdir()
    data = labels if isinstance(labels, bytes) else json.dumps(labels).encode()
    write_tar(
        tmp_path / "s" / "a.tar",
        ("0.png", png()), ("0.json", json.dumps(BOX).encode()), ("1.png", png()), ("1.json", data),
    )  # fmt: skip
    shards = ShardDataset(tmp_path / "s", classes=("x", "y"))
    assert len(shards[0][1]["boxes"]) == 1
    with pytest.raises(UnreadableImageError, match=message):
        shards[1]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("1.cls", b"0")], "expected one image, got members cls"),
        ([("1.png", png()), ("1.jpg", png()), ("1.cls", b"0")], "expected one image"),
        ([("1.png", png()), ("1.cls", b"7")], "expected a label in 0..0, got 7"),
        ([("1.png", png()), ("1.cls", b"-1")], "expected a label in 0..0, got '-1'"),
        ([("1.png", png())], "expected a label in 0..0, got ''"),
        ([("1.png", png()[:60]), ("1.cls", b"0")], "expected a complete PNG"),
        ([("1.png", png()), ("1.png", png()), ("1.cls", b"0")], "is there twice"),
    ],
)
def test_invalid_members_are_refused(tmp_path, members, message):
    (tmp_path / "s").mkdir()
    write_tar(tmp_path / "s" / "a.tar", ("0.png", png()), ("0.cls", b"0"), *members)
    shards = ShardDataset(tmp_path / "s", classes=("x",))
    with pytest.raises(UnreadableImageError, match=message):
        shards[1]


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.full(SIZE, 9, dtype=np.uint8), "expected class indices 0..1 or 255 for void, got 9"),
        (np.zeros((3, 3), dtype=np.uint8), "expected a mask of the image size"),
        (np.zeros((*SIZE, 3), dtype=np.uint8), "expected a mask of class indices"),
        (np.zeros(SIZE, dtype=np.uint16), "numbers of type"),
    ],
)
def test_invalid_masks_are_refused(tmp_path, mask, message):
    (tmp_path / "s").mkdir()
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, "PNG")
    write_tar(tmp_path / "s" / "a.tar", ("0.png", png()), ("0.mask.png", buffer.getvalue()))
    shards = ShardDataset(tmp_path / "s", classes=("x", "y"))
    assert shards.task == "segmentation"
    with pytest.raises(UnreadableImageError, match=message):
        shards[0]


def test_reading_beyond_the_end_is_refused(tmp_path):
    (tmp_path / "a").write_bytes(b"12345")
    assert read_range(tmp_path / "a", 1, 3) == b"234"
    with pytest.raises(EOFError, match="a file of 5 bytes that should have 1,000,000,000,001"):
        read_range(tmp_path / "a", 1, 10**12)
