"""Shards that processes and workers share and read sequentially."""

import gzip
import io
from pathlib import Path

import pytest
from shard_sets import assert_equal, quiet
from torch.utils.data import DataLoader

from cvlib.data import ShardStream, SyntheticBananas, write_shards
from cvlib.data.files.images import UnreadableImageError


def test_a_stream_gives_every_sample_once(classification, tmp_path):
    write_shards(classification, tmp_path / "s", per_shard=1, log=quiet)
    shards = list((tmp_path / "s").glob("*.tar"))
    stream = ShardStream(shards, classification.classes, "classification")
    for i, sample in enumerate(stream):
        assert_equal(sample, classification[i])
    for workers in (0, 2):
        loaded = [t["image_id"] for _, t in DataLoader(stream, None, num_workers=workers)]
        assert sorted(loaded) == list(range(5))


def test_a_stream_opens_shards_with_a_function(classification, tmp_path):
    write_shards(classification, tmp_path / "s", log=quiet)
    data = (tmp_path / "s" / "shard-000000.tar").read_bytes()
    stream = ShardStream(
        ["store://a"], ("x", "y", "z"), "classification", open_shard=lambda name: io.BytesIO(data)
    )
    assert len(list(stream)) == 5


def test_a_stream_shuffles_by_epoch(tmp_path):
    write_shards(SyntheticBananas(12, image_size=32), tmp_path / "s", per_shard=3, log=quiet)
    shards = list((tmp_path / "s").glob("*.tar"))
    stream = ShardStream(shards, ("banana",), "detection", buffer=4)
    orders = []
    for epoch in (0, 1, 0):
        stream.set_epoch(epoch)
        orders.append([target["image_id"] for _, target in stream])
        assert sorted(orders[-1]) == list(range(12))
    assert orders[0] == orders[2] != orders[1]


def test_ranks_share_the_shards_of_a_stream(tmp_path, monkeypatch):
    write_shards(SyntheticBananas(5, image_size=32), tmp_path / "s", per_shard=1, log=quiet)
    shards = list((tmp_path / "s").glob("*.tar"))
    stream = ShardStream(shards, ("banana",), "detection")
    monkeypatch.setattr("cvlib.data.shards.stream.world_size", lambda: 2)
    ids = []
    for number in (0, 1):
        monkeypatch.setattr("cvlib.data.shards.stream.rank", lambda number=number: number)
        ids.append([target["image_id"] for _, target in stream])
    assert ids == [[0, 2, 4], [1, 3]]


def test_ranks_share_the_shards_of_a_stream_with_spawned_workers(tmp_path, monkeypatch):
    write_shards(SyntheticBananas(4, image_size=32), tmp_path / "s", per_shard=1, log=quiet)
    stream = ShardStream((tmp_path / "s").glob("*.tar"), ("banana",), "detection")
    monkeypatch.setattr("cvlib.data.shards.stream.world_size", lambda: 2)  # a worker has no group
    for number, expected in ((0, {0, 2}), (1, {1, 3})):
        monkeypatch.setattr("cvlib.data.shards.stream.rank", lambda number=number: number)
        loader = DataLoader(stream, None, num_workers=1, multiprocessing_context="spawn")
        assert {target["image_id"] for _, target in loader} == expected


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_persistent_workers_see_the_next_epoch(tmp_path, method):
    write_shards(SyntheticBananas(12, image_size=32), tmp_path / "s", log=quiet)
    stream = ShardStream((tmp_path / "s").glob("*.tar"), ("banana",), "detection", buffer=4)
    loader = DataLoader(
        stream, None, num_workers=1, multiprocessing_context=method, persistent_workers=True
    )
    for epoch in (0, 1, 0):
        stream.set_epoch(epoch)
        expected = [target["image_id"] for _, target in stream]
        assert [target["image_id"] for _, target in loader] == expected


def test_a_stream_reads_compressed_shards_and_skips_damage(classification, tmp_path):
    write_shards(classification, tmp_path / "s", per_shard=2, log=quiet)
    first = (tmp_path / "s" / "shard-000000.tar").read_bytes()
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(first))
    (tmp_path / "b.tar").write_bytes(first[:1500])
    damaged = []
    stream = ShardStream(
        [tmp_path / "a.tar.gz", tmp_path / "b.tar", tmp_path / "missing.tar"],
        classification.classes,
        "classification",
        on_damaged=lambda place, error: damaged.append((Path(place).name, str(error))),
    )
    assert len(list(stream)) == 2
    assert [name for name, _ in damaged] == ["b.tar", "missing.tar"]
    stream.on_damaged = None
    with pytest.raises(UnreadableImageError, match=r"expected a readable sample in .*b\.tar"):
        list(stream)
