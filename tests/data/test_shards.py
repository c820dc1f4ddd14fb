"""Datasets in tar files: samples survive the round trip, and WebDataset agrees."""

import gc
import json
import multiprocessing
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from shard_sets import assert_equal, paint, png, quiet, write_tar
from torch.utils.data import DataLoader

from cvlib.data import (
    ClassificationDataset,
    DetectionDataset,
    ShardDataset,
    ShardStream,
    SyntheticBananas,
    load_dataset,
    write_shards,
)


@pytest.mark.parametrize("task", ["detection", "segmentation", "classification"])
def test_samples_come_back_as_they_were(task, request, tmp_path):
    dataset = request.getfixturevalue(task)
    write_shards(dataset, tmp_path / "s", per_shard=3, log=quiet)
    shards = ShardDataset(tmp_path / "s")
    assert (shards.task, shards.classes, len(shards)) == (task, dataset.classes, len(dataset))
    for i in range(len(dataset)):
        assert_equal(shards[i], dataset[i])
    assert_equal(shards[-1], dataset[len(dataset) - 1])


def test_shards_have_a_limited_number_of_images_and_the_bytes_of_their_files(detection, tmp_path):
    write_shards(detection, tmp_path / "s", per_shard=3, log=quiet)
    names = sorted(path.name for path in (tmp_path / "s").iterdir())
    assert names == [
        "index.json", "offsets.npy", "shard-000000.tar", "shard-000001.tar", "shard-000002.tar",
    ]  # fmt: skip
    shards = ShardDataset(tmp_path / "s")
    for i in range(7):
        assert shards.read_image(i) == detection.table.path(i).read_bytes()
    index = json.loads((tmp_path / "s" / "index.json").read_text())
    assert [shard["images"] for shard in index["shards"]] == [3, 3, 1]
    assert index["images"] == 7
    assert index["classes"] == ["cat", "dog"]


def test_a_shard_is_closed_when_it_is_large(classification, tmp_path):
    write_shards(classification, tmp_path / "s", max_bytes=1, log=quiet)
    assert len(list((tmp_path / "s").glob("*.tar"))) == 5
    assert_equal(ShardDataset(tmp_path / "s")[4], classification[4])


def test_equal_datasets_give_equal_bytes_and_a_seed_another_order(classification, tmp_path):
    for name, seed in (("a", None), ("b", None), ("c", 3)):
        write_shards(classification, tmp_path / name, seed=seed, log=quiet)
    a, b, c = ((tmp_path / n / "shard-000000.tar").read_bytes() for n in "abc")
    assert a == b != c
    ids = [ShardDataset(tmp_path / "c")[i][1]["image_id"] for i in range(5)]
    assert sorted(ids) == list(range(5)) and ids != list(range(5))


def test_images_without_a_file_become_png(tmp_path):
    bananas = SyntheticBananas(3, image_size=32)
    write_shards(bananas, tmp_path / "s", log=quiet)
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
    write_shards(dataset, tmp_path / "s", log=quiet)
    image, _ = ShardDataset(tmp_path / "s")[0]
    assert tuple(image.shape[1:]) == size
    assert torch.equal(image, dataset[0][0])


def test_real_sets(test_data, tmp_path):
    for name, split in (
        ("pennfudan-coco", "val"), ("camvid-voc", "val"), ("hymenoptera", "val"),
        ("banana-detection", "val"), ("tiny-coco", "val"),
    ):  # fmt: skip
        dataset = load_dataset(test_data / name, split, log=quiet)
        part = dataset.subset(range(3))
        write_shards(part, tmp_path / name / split, per_shard=2, log=quiet)
        shards = load_dataset(tmp_path / name, log=quiet)
        assert shards.classes == dataset.classes
        for i in range(len(part)):
            assert_equal(shards[i], part[i])


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # webdataset closes none
def test_webdataset_reads_what_was_written(detection, segmentation, tmp_path):
    wds = pytest.importorskip("webdataset")
    write_shards(detection, tmp_path / "d", per_shard=10, log=quiet)
    write_shards(segmentation, tmp_path / "s", per_shard=10, log=quiet)
    url = str(tmp_path / "d" / "shard-000000.tar")
    samples = list(wds.WebDataset(url, shardshuffle=False).decode("pilrgb"))
    assert len(samples) == 7
    for i, sample in enumerate(samples):
        decoded = next(v for k, v in sample.items() if isinstance(v, Image.Image))
        image, target = detection[i]
        if i not in (0, 6):  # two decoders may round a JPEG differently
            assert np.array_equal(np.asarray(decoded), image.permute(1, 2, 0).numpy())
        assert sample["json"]["boxes"] == target["boxes"].tolist()
        assert sample["json"]["labels"] == target["labels"].tolist()
        assert sample["json"]["file_name"] == detection.table.path(i).name
    url = str(tmp_path / "s" / "shard-000000.tar")
    for i, sample in enumerate(wds.WebDataset(url, shardshuffle=False).decode("pill")):
        assert np.array_equal(np.asarray(sample["mask.png"]), segmentation[i][1]["mask"].numpy())
    gc.collect()  # here, where the warning about its files is expected


def test_files_of_webdataset_are_read(classification, detection, tmp_path):
    wds = pytest.importorskip("webdataset")
    (tmp_path / "c").mkdir()
    with wds.ShardWriter(str(tmp_path / "c" / "%06d.tar"), maxcount=2, verbose=0) as writer:
        for i in range(5):
            data = Path(classification.images[i]).read_bytes()
            writer.write(
                {"__key__": f"n/{i:04d}", "png": data, "cls": int(classification.labels[i])}
            )
    shards = load_dataset(tmp_path / "c", classes=classification.classes, log=quiet)
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


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_give_equal_samples(classification, tmp_path, method):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"{method} is not available")
    write_shards(classification, tmp_path / "s", per_shard=2, log=quiet)
    loader = DataLoader(
        ShardDataset(tmp_path / "s"), None, num_workers=2, multiprocessing_context=method
    )
    for i, sample in enumerate(loader):
        assert_equal(sample, classification[i])


def test_offsets_are_mapped_and_not_copied_to_workers(tmp_path):
    write_shards(SyntheticBananas(4, image_size=32), tmp_path / "s", log=quiet)
    shards = ShardDataset(tmp_path / "s")
    assert isinstance(shards._folders[0].offsets, np.memmap)
    assert b"memmap" not in pickle.dumps(shards)
    assert_equal(pickle.loads(pickle.dumps(shards))[3], shards[3])


def test_split_shares_no_image(classification, tmp_path):
    write_shards(classification, tmp_path / "s", log=quiet)
    dataset = ShardDataset(tmp_path / "s")
    parts = dataset.split(0.6, seed=1)
    names = [[part.name(i) for i in range(len(part))] for part in parts]
    assert len(names[0]) == round(0.6 * len(dataset))
    assert sorted(names[0] + names[1]) == sorted(dataset.name(i) for i in range(len(dataset)))
    assert names[0] != [dataset.name(i) for i in range(len(names[0]))]
    with pytest.raises(ValueError, match="split: expected `fraction` between 0 and 1, got 2"):
        dataset.split(2)


def test_several_folders_and_a_subset(classification, tmp_path):
    write_shards(classification.subset([0, 1]), tmp_path / "a", log=quiet)
    write_shards(classification.subset([2, 3, 4]), tmp_path / "b", per_shard=2, log=quiet)
    shards = ShardDataset([tmp_path / "a", tmp_path / "b"])
    assert [int(shards[i][1]["label"]) for i in range(5)] == [0, 1, 2, 1, 0]
    part = shards.subset([4, 2]).subset([1])
    assert len(part) == 1 and int(part[0][1]["label"]) == 2
    with pytest.raises(IndexError, match="ShardDataset: expected index below 1, got 1"):
        part[1]


def test_bytes_may_come_from_remote_storage(classification, tmp_path):
    write_shards(classification, tmp_path / "s", per_shard=2, log=quiet)
    store = {}
    for path in sorted((tmp_path / "s").glob("*.tar")):
        store[path.name] = path.read_bytes()
        path.unlink()
    requests = []

    def fetch(path, start, length):
        requests.append((Path(path).name, length))
        return store[Path(path).name][start : start + length]

    shards = ShardDataset(tmp_path / "s", fetch=fetch)
    assert_equal(shards[3], classification[3])
    assert [name for name, _ in requests] == ["shard-000001.tar"]
    assert requests[0][1] < len(store["shard-000001.tar"])


def test_a_transform_is_applied(classification, tmp_path):
    write_shards(classification, tmp_path / "s", log=quiet)
    double = ShardDataset(tmp_path / "s", transform=lambda image, target: (image * 2, target))
    assert torch.equal(double[1][0], classification[1][0] * 2)


def test_messages_of_writing(classification, tmp_path):
    with pytest.raises(ValueError, match="write_shards: expected `per_shard` >= 1, got 0"):
        write_shards(classification, tmp_path / "s", per_shard=0)
    with pytest.raises(ValueError, match="write_shards: expected `max_bytes` >= 1, got 0"):
        write_shards(classification, tmp_path / "s", max_bytes=0)
    with pytest.raises(ValueError, match="write_shards: expected at least one image"):
        write_shards(classification.subset([]), tmp_path / "s")
    write_shards(classification, tmp_path / "s", log=quiet)
    with pytest.raises(FileExistsError, match="write_shards: expected `folder` without shards"):
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
    with pytest.raises(ValueError, match="expected `classes`, got none"):
        ShardDataset(tmp_path / "e")
    with pytest.raises(ValueError, match=r"expected samples with json, cls or mask\.png, got png"):
        ShardDataset(tmp_path / "e", classes=("x",))
    write_shards(classification, tmp_path / "c", log=quiet)
    write_shards(detection, tmp_path / "d", log=quiet)
    with pytest.raises(ValueError, match="one task and equal classes, got 2 datasets"):
        ShardDataset([tmp_path / "c", tmp_path / "d"])
    with pytest.raises(ValueError, match=r"expected `classes` .* as in index\.json"):
        ShardDataset(tmp_path / "c", classes=("x",))
    with pytest.raises(ValueError, match="load_dataset: expected `cache` to be False for shards"):
        load_dataset(tmp_path / "c", cache=True, log=quiet)
    (tmp_path / "c" / "offsets.npy").write_bytes((tmp_path / "d" / "offsets.npy").read_bytes())
    with pytest.raises(ValueError, match="expected 6 offsets, got int64"):
        ShardDataset(tmp_path / "c")
    (tmp_path / "c" / "offsets.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(ValueError, match=r"expected offsets in .*offsets\.npy, got"):
        ShardDataset(tmp_path / "c")
    index = tmp_path / "d" / "index.json"
    index.write_text(index.read_text().replace('"version": 1', '"version": 9'))
    with pytest.raises(ValueError, match="expected version 1, got 9"):
        ShardDataset(tmp_path / "d")
    index.write_text('{"format": "cvlib-shards", "version": 1}')
    with pytest.raises(ValueError, match="expected a valid index"):
        ShardDataset(tmp_path / "d")
    with pytest.raises(ValueError, match="expected `shards` and a known `task`, got 0"):
        ShardStream([], ("x",), "detection")
