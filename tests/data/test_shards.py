"""Sets in tar files: what goes in comes out, WebDataset agrees, damage and malice do no harm."""

import gc
import io
import json
import multiprocessing
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from cvlib.data import (
    ClassificationDataset,
    DetectionDataset,
    SegmentationDataset,
    ShardDataset,
    ShardStream,
    SyntheticBananas,
    load_dataset,
    verify_shards,
    write_shards,
)
from cvlib.data._images import UnreadablePictureError
from cvlib.data._shard_files import read_range, tar_members

SIZE = (24, 32)


def quiet(line):
    """Says nothing."""


def paint(path, number, *, mode="RGB", exif=None):
    """A picture whose pixels tell its number."""
    pixels = np.full((*SIZE, 3), number, dtype=np.uint8)
    pixels[:, :4] = 255
    options = {"exif": exif} if exif else {}
    Image.fromarray(pixels).convert(mode).save(path, **options)
    return path


@pytest.fixture
def detection(tmp_path):
    """Seven pictures in several formats, with none to two objects, masks, a crowd and an id gap."""
    suffixes = ["jpg", "png", "webp", "bmp", "gif", "tif", "jpg"]
    paths = [paint(tmp_path / f"p.{i}.{s}", 20 * i) for i, s in enumerate(suffixes)]
    boxes = [[[1.5, 2, 8.25, 9], [0, 0, 32, 24]][: i % 3] for i in range(7)]
    labels = [[1, 0][: i % 3] for i in range(7)]
    masks = [[[[1, 2, 8, 2, 8, 9]], None][: i % 3] for i in range(7)]
    return DetectionDataset.from_lists(paths, boxes, labels, ["cat", "dog"], masks)


@pytest.fixture
def segmentation(tmp_path):
    paths, masks = [], []
    for i in range(5):
        paths.append(paint(tmp_path / f"{i}.png", 20 * i))
        mask = np.full(SIZE, i % 3, dtype=np.uint8)
        mask[0] = 200  # void in the files
        Image.fromarray(mask).save(tmp_path / f"{i}.mask.png")
        masks.append(tmp_path / f"{i}.mask.png")
    return SegmentationDataset(paths, masks, ["a", "b", "c"], void=200)


@pytest.fixture
def classification(tmp_path):
    paths = [paint(tmp_path / f"{i}.png", 20 * i) for i in range(5)]
    return ClassificationDataset(paths, [0, 1, 2, 1, 0], ["x", "y", "z"])


def assert_equal(one, other):
    assert torch.equal(one[0], other[0]) and type(one[0]) is type(other[0])
    assert one[1].keys() == other[1].keys()
    for name, value in one[1].items():
        if isinstance(value, torch.Tensor):
            assert value.dtype == other[1][name].dtype and type(value) is type(other[1][name])
            assert torch.equal(value, other[1][name]), name
        else:
            assert value == other[1][name]


@pytest.mark.parametrize("task", ["detection", "segmentation", "classification"])
def test_samples_come_back_as_they_were(task, request, tmp_path):
    dataset = request.getfixturevalue(task)
    write_shards(dataset, tmp_path / "s", per_shard=3, say=quiet)
    shards = ShardDataset(tmp_path / "s")
    assert (shards.task, shards.classes, len(shards)) == (task, dataset.classes, len(dataset))
    for i in range(len(dataset)):
        assert_equal(shards[i], dataset[i])
    assert_equal(shards[-1], dataset[len(dataset) - 1])


def test_a_shard_holds_so_many_pictures_and_the_bytes_of_their_files(detection, tmp_path):
    write_shards(detection, tmp_path / "s", per_shard=3, say=quiet)
    names = sorted(path.name for path in (tmp_path / "s").iterdir())
    assert names == [
        "index.json", "offsets.npy", "shard-000000.tar", "shard-000001.tar", "shard-000002.tar",
    ]  # fmt: skip
    shards = ShardDataset(tmp_path / "s")
    for i in range(7):
        assert shards.read_picture(i) == detection.table.path(i).read_bytes()
    index = json.loads((tmp_path / "s" / "index.json").read_text())
    assert [shard["pictures"] for shard in index["shards"]] == [3, 3, 1]
    assert index["pictures"] == 7
    assert index["classes"] == ["cat", "dog"]


def test_a_shard_is_closed_when_it_is_large(classification, tmp_path):
    write_shards(classification, tmp_path / "s", max_bytes=1, say=quiet)
    assert len(list((tmp_path / "s").glob("*.tar"))) == 5
    assert_equal(ShardDataset(tmp_path / "s")[4], classification[4])


def test_equal_sets_give_equal_bytes_and_a_seed_another_order(classification, tmp_path):
    for name, seed in (("a", None), ("b", None), ("c", 3)):
        write_shards(classification, tmp_path / name, seed=seed, say=quiet)
    a, b, c = ((tmp_path / n / "shard-000000.tar").read_bytes() for n in "abc")
    assert a == b != c
    ids = [ShardDataset(tmp_path / "c")[i][1]["image_id"] for i in range(5)]
    assert sorted(ids) == list(range(5)) and ids != list(range(5))


def test_pictures_without_a_file_become_png(tmp_path):
    bananas = SyntheticBananas(3, image_size=32)
    write_shards(bananas, tmp_path / "s", say=quiet)
    for i in range(3):
        assert_equal(ShardDataset(tmp_path / "s")[i], bananas[i])


@pytest.mark.parametrize("upright", [True, False])
def test_exif_orientation_is_kept(upright, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    paint(tmp_path / "a.jpg", 60, exif=exif)
    size = (32, 24) if upright else (24, 32)
    dataset = ClassificationDataset([tmp_path / "a.jpg"], [0], ["x"])
    if not upright:
        boxes = [[[0, 0, 4, 24]]]
        dataset = DetectionDataset.from_lists(
            [tmp_path / "a.jpg"], boxes, [[0]], ["x"], upright=False
        )
    write_shards(dataset, tmp_path / "s", say=quiet)
    image, _ = ShardDataset(tmp_path / "s")[0]
    assert tuple(image.shape[1:]) == size
    assert torch.equal(image, dataset[0][0])


def test_real_sets(test_data, tmp_path):
    for name, split in (
        ("pennfudan-coco", "val"), ("camvid-voc", "val"), ("hymenoptera", "val"),
        ("banana-detection", "val"), ("tiny-coco", "val"),
    ):  # fmt: skip
        dataset = load_dataset(test_data / name, split, say=quiet)
        part = dataset.subset(range(3))
        write_shards(part, tmp_path / name / split, per_shard=2, say=quiet)
        shards = load_dataset(tmp_path / name, say=quiet)
        assert shards.classes == dataset.classes
        for i in range(len(part)):
            assert_equal(shards[i], part[i])


# --- other programs --------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # webdataset closes none
def test_webdataset_reads_what_was_written(detection, segmentation, tmp_path):
    wds = pytest.importorskip("webdataset")
    write_shards(detection, tmp_path / "d", per_shard=10, say=quiet)
    write_shards(segmentation, tmp_path / "s", per_shard=10, say=quiet)
    url = str(tmp_path / "d" / "shard-000000.tar")
    found = list(wds.WebDataset(url, shardshuffle=False).decode("pilrgb"))
    assert len(found) == 7
    for i, sample in enumerate(found):
        picture = next(v for k, v in sample.items() if isinstance(v, Image.Image))
        image, target = detection[i]
        if i not in (0, 6):  # two decoders may round a JPEG differently
            assert np.array_equal(np.asarray(picture), image.permute(1, 2, 0).numpy())
        assert sample["json"]["boxes"] == target["boxes"].tolist()
        assert sample["json"]["labels"] == target["labels"].tolist()
        assert sample["json"]["file_name"] == detection.table.path(i).name
    url = str(tmp_path / "s" / "shard-000000.tar")
    for i, sample in enumerate(wds.WebDataset(url, shardshuffle=False).decode("pill")):
        assert np.array_equal(np.asarray(sample["mask.png"]), segmentation[i][1]["mask"].numpy())
    gc.collect()  # here, where the warning about its files is expected


def test_what_webdataset_wrote_is_read(classification, detection, tmp_path):
    wds = pytest.importorskip("webdataset")
    (tmp_path / "c").mkdir()
    with wds.ShardWriter(str(tmp_path / "c" / "%06d.tar"), maxcount=2, verbose=0) as writer:
        for i in range(5):
            data = Path(classification.pictures[i]).read_bytes()
            writer.write(
                {"__key__": f"n/{i:04d}", "png": data, "cls": int(classification.labels[i])}
            )
    shards = load_dataset(tmp_path / "c", classes=classification.classes, say=quiet)
    assert len(shards) == 5 and shards.task == "classification"
    for i in range(5):
        assert_equal(shards[i], classification[i])
    (tmp_path / "d").mkdir()
    with wds.TarWriter(str(tmp_path / "d" / "a.tar")) as writer:
        for i in range(7):
            target = detection[i][1]
            data = detection.table.path(i).read_bytes()
            labels = {name: target[name].tolist() for name in ("boxes", "labels")}
            writer.write(
                {"__key__": f"{i}", detection.table.path(i).suffix[1:]: data, "json": labels}
            )
    shards = ShardDataset(tmp_path / "d", classes=("cat", "dog"))
    for i in range(7):
        assert torch.equal(shards[i][1]["boxes"], detection[i][1]["boxes"])
        assert shards[i][1]["image_id"] == i


# --- reading in processes --------------------------------------------------------------------


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_give_the_same_samples(classification, tmp_path, start):
    if start not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {start} here")
    write_shards(classification, tmp_path / "s", per_shard=2, say=quiet)
    loader = DataLoader(
        ShardDataset(tmp_path / "s"), None, num_workers=2, multiprocessing_context=start
    )
    for i, sample in enumerate(loader):
        assert_equal(sample, classification[i])


def test_offsets_are_mapped_and_not_copied_to_workers(tmp_path):
    import pickle

    write_shards(SyntheticBananas(4, image_size=32), tmp_path / "s", say=quiet)
    shards = ShardDataset(tmp_path / "s")
    assert isinstance(shards._folders[0].offsets, np.memmap)
    assert b"memmap" not in pickle.dumps(shards)
    assert_equal(pickle.loads(pickle.dumps(shards))[3], shards[3])


def test_several_folders_and_a_subset(classification, tmp_path):
    write_shards(classification.subset([0, 1]), tmp_path / "a", say=quiet)
    write_shards(classification.subset([2, 3, 4]), tmp_path / "b", per_shard=2, say=quiet)
    shards = ShardDataset([tmp_path / "a", tmp_path / "b"])
    assert [int(shards[i][1]["label"]) for i in range(5)] == [0, 1, 2, 1, 0]
    part = shards.subset([4, 2]).subset([1])
    assert len(part) == 1 and int(part[0][1]["label"]) == 2
    with pytest.raises(IndexError, match="ShardDataset: expected index below 1, got 1"):
        part[1]


def test_bytes_may_come_from_elsewhere(classification, tmp_path):
    write_shards(classification, tmp_path / "s", per_shard=2, say=quiet)
    store = {}
    for path in sorted((tmp_path / "s").glob("*.tar")):
        store[path.name] = path.read_bytes()
        path.unlink()
    asked = []

    def fetch(path, start, length):
        asked.append((Path(path).name, length))
        return store[Path(path).name][start : start + length]

    shards = ShardDataset(tmp_path / "s", fetch=fetch)
    assert_equal(shards[3], classification[3])
    assert [name for name, _ in asked] == ["shard-000001.tar"]
    assert asked[0][1] < len(store["shard-000001.tar"])


def test_a_transform_is_applied(classification, tmp_path):
    write_shards(classification, tmp_path / "s", say=quiet)
    double = ShardDataset(tmp_path / "s", transform=lambda image, target: (image * 2, target))
    assert torch.equal(double[1][0], classification[1][0] * 2)


# --- one after the other ---------------------------------------------------------------------


def test_a_stream_gives_every_sample_once(classification, tmp_path):
    write_shards(classification, tmp_path / "s", per_shard=1, say=quiet)
    shards = list((tmp_path / "s").glob("*.tar"))
    stream = ShardStream(shards, classification.classes, "classification")
    for i, sample in enumerate(stream):
        assert_equal(sample, classification[i])
    for workers in (0, 2):
        loaded = [t["image_id"] for _, t in DataLoader(stream, None, num_workers=workers)]
        assert sorted(loaded) == list(range(5))


def test_a_stream_opens_shards_as_it_is_told(classification, tmp_path):
    write_shards(classification, tmp_path / "s", say=quiet)
    data = (tmp_path / "s" / "shard-000000.tar").read_bytes()
    stream = ShardStream(
        ["store://a"], ("x", "y", "z"), "classification", open_shard=lambda name: io.BytesIO(data)
    )
    assert len(list(stream)) == 5


def test_a_stream_shuffles_by_epoch(tmp_path):
    write_shards(SyntheticBananas(12, image_size=32), tmp_path / "s", per_shard=3, say=quiet)
    shards = list((tmp_path / "s").glob("*.tar"))
    stream = ShardStream(shards, ("banana",), "detection", buffer=4)
    orders = []
    for epoch in (0, 1, 0):
        stream.set_epoch(epoch)
        orders.append([target["image_id"] for _, target in stream])
        assert sorted(orders[-1]) == list(range(12))
    assert orders[0] == orders[2] != orders[1]


def test_ranks_share_the_shards_of_a_stream(tmp_path, monkeypatch):
    write_shards(SyntheticBananas(5, image_size=32), tmp_path / "s", per_shard=1, say=quiet)
    shards = list((tmp_path / "s").glob("*.tar"))
    stream = ShardStream(shards, ("banana",), "detection")
    monkeypatch.setattr("cvlib.data._shard_stream.world_size", lambda: 2)
    seen = []
    for number in (0, 1):
        monkeypatch.setattr("cvlib.data._shard_stream.rank", lambda number=number: number)
        seen.append([target["image_id"] for _, target in stream])
    assert seen == [[0, 2, 4], [1, 3]]


def test_ranks_share_the_shards_of_a_stream_also_where_workers_are_not_forked(
    tmp_path, monkeypatch
):
    write_shards(SyntheticBananas(4, image_size=32), tmp_path / "s", per_shard=1, say=quiet)
    stream = ShardStream((tmp_path / "s").glob("*.tar"), ("banana",), "detection")
    monkeypatch.setattr("cvlib.data._shard_stream.world_size", lambda: 2)  # a worker has no group
    for number, mine in ((0, {0, 2}), (1, {1, 3})):
        monkeypatch.setattr("cvlib.data._shard_stream.rank", lambda number=number: number)
        loader = DataLoader(stream, None, num_workers=1, multiprocessing_context="spawn")
        assert {target["image_id"] for _, target in loader} == mine


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_that_persist_learn_of_the_next_epoch(tmp_path, start):
    write_shards(SyntheticBananas(12, image_size=32), tmp_path / "s", say=quiet)
    stream = ShardStream((tmp_path / "s").glob("*.tar"), ("banana",), "detection", buffer=4)
    loader = DataLoader(
        stream, None, num_workers=1, multiprocessing_context=start, persistent_workers=True
    )
    for epoch in (0, 1, 0):
        stream.set_epoch(epoch)
        expected = [target["image_id"] for _, target in stream]
        assert [target["image_id"] for _, target in loader] == expected


def test_a_stream_reads_compressed_shards_and_skips_damage(classification, tmp_path):
    import gzip

    write_shards(classification, tmp_path / "s", per_shard=2, say=quiet)
    first = (tmp_path / "s" / "shard-000000.tar").read_bytes()
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(first))
    (tmp_path / "b.tar").write_bytes(first[:1500])
    bad = []
    stream = ShardStream(
        [tmp_path / "a.tar.gz", tmp_path / "b.tar", tmp_path / "missing.tar"],
        classification.classes,
        "classification",
        on_damaged=lambda place, error: bad.append((Path(place).name, str(error))),
    )
    assert len(list(stream)) == 2
    assert [name for name, _ in bad] == ["b.tar", "missing.tar"]
    stream.on_damaged = None
    with pytest.raises(UnreadablePictureError, match=r"expected a readable sample in .*b\.tar"):
        list(stream)


# --- damage and malice -----------------------------------------------------------------------


def test_unreadable_pictures_are_left_out_told_and_listed(classification, tmp_path):
    Path(classification.pictures[2]).write_bytes(b"no picture")
    said = []
    write_shards(classification, tmp_path / "s", say=said.append)
    assert said[0].startswith("left out: picture 2 cannot be read: ClassificationDataset: expected")
    assert said[1] == "4 pictures in 1 shards"
    index = json.loads((tmp_path / "s" / "index.json").read_text())
    assert [one["index"] for one in index["left_out"]] == [2]
    assert [ShardDataset(tmp_path / "s")[i][1]["image_id"] for i in range(4)] == [0, 1, 3, 4]


def test_too_many_unreadable_pictures_stop_the_writing(classification, tmp_path):
    for i in (1, 3):
        Path(classification.pictures[i]).unlink()
    message = "write_shards: expected at most 1 unreadable pictures of 5, got 2"
    with pytest.raises(ValueError, match=message):
        write_shards(classification, tmp_path / "s", say=quiet)
    assert not list((tmp_path / "s").iterdir())


def test_a_truncated_shard_loses_only_what_is_gone(classification, tmp_path):
    write_shards(classification, tmp_path / "s", per_shard=3, say=quiet)
    path = tmp_path / "s" / "shard-000000.tar"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.warns(UserWarning, match="1 damaged shards, the first: .*expected .*bytes, got"):
        shards = ShardDataset(tmp_path / "s")
    assert shards.findings[0].code == "damaged-shard"
    assert_equal(shards[0], classification[0])
    assert_equal(shards[4], classification[4])
    with pytest.raises(UnreadablePictureError, match="that should have"):
        shards[2]
    path.unlink()
    with pytest.warns(UserWarning, match="which is missing"):
        shards = ShardDataset(tmp_path / "s")
    with pytest.raises(UnreadablePictureError, match="No such file"):
        shards[0]


@pytest.mark.parametrize("place", ["header", "picture", "json"])
def test_flipped_bytes_are_found(classification, tmp_path, place):
    write_shards(classification, tmp_path / "s", say=quiet)
    path = tmp_path / "s" / "shard-000000.tar"
    data = bytearray(path.read_bytes())
    start = ShardDataset(tmp_path / "s")._folders[0].offsets[1]
    at = {"header": start + 100, "picture": start + 560, "json": data.index(b"{", start)}[place]
    data[at] ^= 0xFF
    path.write_bytes(data)
    shards = ShardDataset(tmp_path / "s")
    with pytest.raises(UnreadablePictureError, match="ShardDataset: expected a readable sample in"):
        shards[1]
    assert_equal(shards[2], classification[2])
    found = verify_shards(tmp_path / "s")
    assert [one.code for one in found] == ["damaged-shard"]


def test_untouched_shards_verify(classification, tmp_path):
    write_shards(classification, tmp_path / "s", per_shard=2, say=quiet)
    assert verify_shards(tmp_path / "s") == []
    (tmp_path / "s" / "shard-000001.tar").unlink()
    assert "got no file" in verify_shards(tmp_path / "s")[0].message


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
    write_shards(classification, tmp_path / "s", say=quiet)
    index = tmp_path / "s" / "index.json"
    index.write_text(index.read_text().replace("shard-000000.tar", "../../shard.tar"))
    with pytest.raises(ValueError, match="expected a path inside of"):
        ShardDataset(tmp_path / "s")


def test_a_damaged_archive_without_index_keeps_its_whole_samples(tmp_path):
    (tmp_path / "s").mkdir()
    members = [(f"{i}.{s}", d) for i in range(4) for s, d in (("png", png(i)), ("cls", b"0"))]
    path = tmp_path / "s" / "a.tar"
    write_tar(path, *members)
    data = bytearray(path.read_bytes())
    sample = len(tar_members("0", [("png", png(0)), ("cls", b"0")]))
    data[2 * sample + 10] ^= 0xFF  # the header of the third
    path.write_bytes(data)
    with pytest.warns(UserWarning, match="expected a whole tar file, got .*after 1 samples"):
        shards = ShardDataset(tmp_path / "s", classes=("x",))
    assert len(shards) == 1
    for cut in (2 * sample + 700, 2 * sample):
        write_tar(path, *members)
        path.write_bytes(path.read_bytes()[:cut])
        with pytest.warns(UserWarning, match="expected a whole tar file"):
            shards = ShardDataset(tmp_path / "s", classes=("x",))
        assert len(shards) in (1, 2)
        assert int(shards[0][0].max()) == 0


BOX = {"boxes": [[1, 1, 5, 5]], "labels": [0]}


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"boxes": [[1, 1, 5, 5]], "labels": [2]}, "expected a label in 0..1"),
        ({"boxes": [[5, 1, 1, 5]], "labels": [0]}, "expected x1 < x2 and y1 < y2"),
        ({"boxes": [[1, 1, 50, 5]], "labels": [0]}, "expected a box inside the picture"),
        ({"boxes": [[1, 1, float("nan"), 5]], "labels": [0]}, "expected finite boxes"),
        ({"boxes": [[1, 1, 5]], "labels": [0]}, "expected boxes to be numbers of shape"),
        ({"boxes": "abcd", "labels": [0]}, "expected boxes to be numbers"),
        ({"boxes": {"a": 1}, "labels": [0]}, "expected boxes to be numbers"),
        ({"boxes": [[1, 1, 5, 5]], "labels": [0.5]}, "expected labels to be numbers"),
        ({"boxes": [[1, 1, 5, 5]], "labels": [0, 1]}, "expected labels to be numbers of shape"),
        ({"boxes": [[1, 1, 5, 5]], "labels": [10**30]}, "expected labels to be numbers"),
        ({**BOX, "image_id": "a"}, "expected image_id to be an integer"),
        ({**BOX, "masks": []}, "expected masks as a list of 1 run lengths"),
        ({**BOX, "masks": [{"size": [10**6, 10**6], "counts": [10**12]}]}, "expected masks as run"),
        ({**BOX, "masks": [{"size": [24, 32], "counts": "~~"}]}, "expected masks as run lengths"),
        ([1], "expected labels as a JSON object"),
        (b"{", "expected labels as JSON"),
        (b"[" * 100_000, "expected labels as JSON"),
    ],
)
def test_wrong_labels_are_never_given(tmp_path, labels, message):
    (tmp_path / "s").mkdir()
    data = labels if isinstance(labels, bytes) else json.dumps(labels).encode()
    write_tar(
        tmp_path / "s" / "a.tar",
        ("0.png", png()), ("0.json", json.dumps(BOX).encode()), ("1.png", png()), ("1.json", data),
    )  # fmt: skip
    shards = ShardDataset(tmp_path / "s", classes=("x", "y"))
    assert len(shards[0][1]["boxes"]) == 1
    with pytest.raises(UnreadablePictureError, match=message):
        shards[1]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("1.cls", b"0")], "expected one picture, got members cls"),
        ([("1.png", png()), ("1.jpg", png()), ("1.cls", b"0")], "expected one picture"),
        ([("1.png", png()), ("1.cls", b"7")], "expected a label in 0..0, got 7"),
        ([("1.png", png()), ("1.cls", b"-1")], "expected a label in 0..0, got '-1'"),
        ([("1.png", png())], "expected a label in 0..0, got ''"),
        ([("1.png", png()[:60]), ("1.cls", b"0")], "expected a whole PNG"),
        ([("1.png", png()), ("1.png", png()), ("1.cls", b"0")], "is there twice"),
    ],
)
def test_odd_members_are_refused(tmp_path, members, message):
    (tmp_path / "s").mkdir()
    write_tar(tmp_path / "s" / "a.tar", ("0.png", png()), ("0.cls", b"0"), *members)
    shards = ShardDataset(tmp_path / "s", classes=("x",))
    with pytest.raises(UnreadablePictureError, match=message):
        shards[1]


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.full(SIZE, 9, dtype=np.uint8), "expected class numbers 0..1 or 255 for void, got 9"),
        (np.zeros((3, 3), dtype=np.uint8), "expected a mask of the size of its picture"),
        (np.zeros((*SIZE, 3), dtype=np.uint8), "expected a mask of numbers"),
        (np.zeros(SIZE, dtype=np.uint16), "numbers of type"),
    ],
)
def test_wrong_masks_are_refused(tmp_path, mask, message):
    (tmp_path / "s").mkdir()
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, "PNG")
    write_tar(tmp_path / "s" / "a.tar", ("0.png", png()), ("0.mask.png", buffer.getvalue()))
    shards = ShardDataset(tmp_path / "s", classes=("x", "y"))
    assert shards.task == "segmentation"
    with pytest.raises(UnreadablePictureError, match=message):
        shards[0]


# --- messages --------------------------------------------------------------------------------


def test_messages_of_writing(classification, tmp_path):
    with pytest.raises(ValueError, match="write_shards: expected per_shard >= 1, got 0"):
        write_shards(classification, tmp_path / "s", per_shard=0)
    with pytest.raises(ValueError, match="write_shards: expected max_bytes >= 1, got 0"):
        write_shards(classification, tmp_path / "s", max_bytes=0)
    with pytest.raises(ValueError, match="write_shards: expected at least one picture"):
        write_shards(classification.subset([]), tmp_path / "s")
    write_shards(classification, tmp_path / "s", say=quiet)
    with pytest.raises(FileExistsError, match="write_shards: expected a folder without shards"):
        write_shards(classification, tmp_path / "s")
    classification.task = "captions"
    with pytest.raises(ValueError, match="write_shards: expected a known task, got 'captions'"):
        write_shards(classification, tmp_path / "t")


def test_messages_of_opening(classification, detection, tmp_path):
    (tmp_path / "e").mkdir()
    with pytest.raises(FileNotFoundError, match=r"expected a folder with index.json or \*.tar"):
        ShardDataset(tmp_path / "e")
    (tmp_path / "e" / "a.tar").write_bytes(b"")
    with pytest.raises(ValueError, match="expected samples in"):
        ShardDataset(tmp_path / "e", classes=("x",))
    write_tar(tmp_path / "e" / "a.tar", ("0.png", png()))
    with pytest.raises(ValueError, match="expected classes, got none"):
        ShardDataset(tmp_path / "e")
    with pytest.raises(ValueError, match=r"expected samples with json, cls or mask\.png, got png"):
        ShardDataset(tmp_path / "e", classes=("x",))
    write_shards(classification, tmp_path / "c", say=quiet)
    write_shards(detection, tmp_path / "d", say=quiet)
    with pytest.raises(ValueError, match="expected folders of one set, got 2 sets"):
        ShardDataset([tmp_path / "c", tmp_path / "d"])
    with pytest.raises(ValueError, match=r"expected classes .* as in index\.json"):
        ShardDataset(tmp_path / "c", classes=("x",))
    with pytest.raises(ValueError, match="load_dataset: expected cache=False for shards"):
        load_dataset(tmp_path / "c", cache=True, say=quiet)
    (tmp_path / "c" / "offsets.npy").write_bytes((tmp_path / "d" / "offsets.npy").read_bytes())
    with pytest.raises(ValueError, match="expected 6 offsets, got int64"):
        ShardDataset(tmp_path / "c")
    (tmp_path / "c" / "offsets.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(ValueError, match=r"expected .*offsets\.npy as it was written"):
        ShardDataset(tmp_path / "c")
    index = tmp_path / "d" / "index.json"
    index.write_text(index.read_text().replace('"version": 1', '"version": 9'))
    with pytest.raises(ValueError, match="expected version 1, got 9"):
        ShardDataset(tmp_path / "d")
    index.write_text('{"format": "cvlib-shards", "version": 1}')
    with pytest.raises(ValueError, match="expected a whole index"):
        ShardDataset(tmp_path / "d")
    with pytest.raises(ValueError, match="ShardStream: expected shards and a known task, got 0"):
        ShardStream([], ("x",), "detection")


def test_a_claim_of_more_bytes_than_there_are_is_refused(tmp_path):
    (tmp_path / "a").write_bytes(b"12345")
    assert read_range(tmp_path / "a", 1, 3) == b"234"
    with pytest.raises(EOFError, match="a file of 5 bytes that should have 1,000,000,000,001"):
        read_range(tmp_path / "a", 1, 10**12)
