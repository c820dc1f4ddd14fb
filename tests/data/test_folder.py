"""ClassificationDataset and the ImageFolder layout."""

import os
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from cvlib.data.datasets.classification import ClassificationDataset
from cvlib.data.files.images import UnreadableImageError
from cvlib.data.formats.folder import read_folder


def image(path, colour=(10, 20, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (5, 4), colour).save(path)


def write_set(root, names):
    for name in names:
        image(root / name)
    return root


ANTS_AND_BEES = [f"{split}/{kind}/{i}.png" for split in ("train", "val") for kind in ("ant", "bee")
                 for i in (1, 2, 10)]  # fmt: skip


def test_a_small_dataset(tmp_path):
    root = write_set(tmp_path, ["bee/2.png", "bee/10.png", "ant/x.png"])
    dataset = read_folder(root)
    assert dataset.classes == ("ant", "bee")
    assert dataset.labels.tolist() == [0, 1, 1]
    assert [os.path.basename(path) for path in dataset.images] == ["x.png", "2.png", "10.png"]
    image, target = dataset[2]
    assert image.shape == (3, 4, 5)
    assert (target["label"].dtype, target["label"].shape) == (torch.int64, ())
    assert (int(target["label"]), target["image_id"]) == (1, 2)
    assert dataset.count_labels().tolist() == [1, 2]
    assert dataset.image_size(0) == (4, 5)


def test_splits(tmp_path):
    root = write_set(tmp_path, ANTS_AND_BEES)
    train, val = read_folder(root, "train"), read_folder(root, "val")
    assert len(train) == len(val) == 6
    assert train.classes == val.classes


def test_classes_are_torchvisions(tmp_path):
    names = ["10/a.png", "9/a.png", "Zoo/a.png", "ape/a.png"]
    root = write_set(tmp_path, names)
    theirs = ImageFolder(str(root))
    ours = read_folder(root)
    assert list(ours.classes) == theirs.classes
    assert ours.labels.tolist() == theirs.targets


def test_classes_define_the_order(tmp_path):
    root = write_set(tmp_path, ["ant/a.png", "bee/a.png"])
    dataset = read_folder(root, classes=["bee", "ant"])
    assert [os.path.basename(os.path.dirname(path)) for path in dataset.images] == ["bee", "ant"]
    with pytest.raises(ValueError, match=r"got bee only in .* and wasp only in classes"):
        read_folder(root, classes=["ant", "wasp"])


def test_nested_folders_belong_to_the_class(tmp_path):
    root = write_set(tmp_path, ["ant/red/a.png", "ant/b.png", "bee/c.png"])
    assert read_folder(root).labels.tolist() == [0, 0, 1]


def test_hidden_folders_are_not_classes(tmp_path):
    names = [".ipynb_checkpoints/a.png", "__MACOSX/a.png", "ant/a.png", "ant/.b.png", "bee/a.png"]
    (write_set(tmp_path, names) / "ant/Thumbs.db").write_text("x")
    (tmp_path / ".DS_Store").write_text("x")
    dataset = read_folder(tmp_path)
    assert dataset.classes == ("ant", "bee")
    assert len(dataset) == 2


def test_other_files_are_a_warning(tmp_path):
    root = write_set(tmp_path, ["ant/a.png", "bee/a.png", "loose.png"])
    (root / "ant/notes.txt").write_text("x")
    with pytest.warns(UserWarning, match="suspicious files, 2 findings"):
        dataset = read_folder(root)
    assert [f.code for f in dataset.findings] == ["not-an-image", "image-without-class"]
    assert len(dataset) == 2


def test_empty_classes(tmp_path):
    root = write_set(tmp_path, ["ant/a.png", "bee/a.png"])
    (root / "wasp").mkdir()
    with pytest.raises(ValueError, match=r"images of every class in .*, got none of wasp; add"):
        read_folder(root)


def test_classes_that_differ_between_splits(tmp_path):
    root = write_set(tmp_path, [*ANTS_AND_BEES, "val/wasp/1.png"])
    for split in ("train", "val"):
        with pytest.raises(ValueError, match=r"the same classes in .*wasp only in"):
            read_folder(root, split)


def test_missing_folders(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"one folder for each class, got .* is empty"):
        read_folder(tmp_path)
    with pytest.raises(FileNotFoundError, match="train, which does not exist"):
        read_folder(tmp_path, "train")


def test_links(tmp_path):
    root = write_set(tmp_path / "set", ["ant/a.png"])
    image(tmp_path / "elsewhere/b.png")
    os.symlink(tmp_path / "elsewhere", root / "bee")
    assert read_folder(root).labels.tolist() == [0, 1]
    os.symlink(root, root / "ant/loop")
    with pytest.warns(UserWarning, match="a link to a parent folder, not followed"):
        dataset = read_folder(root)
    assert os.path.join("ant", "a.png") in dataset.images[0]


def test_broken_links(tmp_path):
    root = write_set(tmp_path, ["ant/a.png", "bee/a.png"])
    os.symlink(root / "gone.png", root / "ant/b.png")
    with pytest.raises(ValueError, match=r"got 1 broken links: ant/b\.png in"):
        read_folder(root)


def test_link_to_itself(tmp_path):
    root = write_set(tmp_path, ["ant/a.png", "bee/a.png"])
    os.symlink(root / "ant/self", root / "ant/self")
    with pytest.warns(UserWarning, match="expected images, got self, left out"):
        assert len(read_folder(root)) == 2


def test_names_that_are_not_utf8(tmp_path):
    odd = os.fsdecode(b"caf\xe9")
    try:
        root = write_set(tmp_path, [f"{odd}/{odd}.png", "bee/a.png"])
    except OSError:
        pytest.skip("the file system has names in UTF-8 only")
    dataset = read_folder(root)
    assert dataset[0 if dataset.classes[0] == odd else 1][0].shape == (3, 4, 5)
    assert pickle.loads(pickle.dumps(dataset)).classes == dataset.classes


@pytest.mark.parametrize("content", [b"", b"<html>", b"\x89PNG\r\n\x1a\n cut"])
def test_damaged_images_are_named(tmp_path, content):
    root = write_set(tmp_path, ["ant/a.png", "bee/a.png"])
    (root / "bee/a.png").write_bytes(content)
    dataset = read_folder(root)
    assert dataset[0][0].shape == (3, 4, 5)
    with pytest.raises(UnreadableImageError, match=r"at index 1, got: .*bee/a\.png"):
        dataset[1]


@pytest.mark.parametrize(
    ("labels", "kind", "message"),
    [
        ([0], ValueError, r"`labels` of shape \(2,\), one per image, got \(1,\)"),
        ([0, 2], ValueError, r"`labels` in 0\.\.1, got 2 for b\.jpg and 0 more outside"),
        ([-1, 0], ValueError, r"`labels` in 0\.\.1, got -1 for a\.jpg"),
        ([0.0, 1.0], TypeError, "expected `labels` to be integers, got float64"),
        (["a", "b"], TypeError, "expected `labels` to be integers"),
    ],
)
def test_wrong_labels(labels, kind, message):
    with pytest.raises(kind, match=message):
        ClassificationDataset(["a.jpg", "b.jpg"], labels, ["ant", "bee"])


def test_index_out_of_range(tmp_path):
    dataset = ClassificationDataset(["a.jpg"], [0], ["ant"])
    with pytest.raises(IndexError, match="ClassificationDataset: expected index below 1, got 1"):
        dataset[1]


def test_transform(tmp_path):
    root = write_set(tmp_path, ["ant/a.png", "bee/a.png"])
    dataset = read_folder(root, transform=v2.Resize((2, 2)))
    assert dataset[0][0].shape == (3, 2, 2)


def test_subset_shares_the_cache(tmp_path):
    root = write_set(tmp_path, ["ant/a.png", "bee/a.png", "bee/b.png"])
    dataset = read_folder(root, cache=True)
    part = dataset.subset(np.array([2, 0]))
    assert part.labels.tolist() == [1, 0]
    assert part[0][1]["image_id"] == 0
    part[0][0].fill_(0)
    (root / "bee/b.png").unlink()
    assert dataset[2][0][:, 0, 0].tolist() == [10, 20, 30]


def test_a_split_keeps_the_share_of_every_class():
    labels = [0] * 60 + [1] * 30 + [2] * 10
    names = [f"{i}.jpg" for i in range(100)]
    dataset = ClassificationDataset(names, labels, ["ant", "bee", "wasp"])
    first, second = dataset.split(0.8, seed=1)
    assert first.count_labels().tolist() == [48, 24, 8]
    assert second.count_labels().tolist() == [12, 6, 2]
    assert sorted([*first.images, *second.images]) == sorted(names)
    again, other = (dataset.split(0.8, seed=seed)[0] for seed in (1, 2))
    assert list(again.images) == list(first.images) != list(other.images)
    drawn, _ = dataset.split(0.8, seed=1, stratify=False)
    assert drawn.count_labels().tolist() != [48, 24, 8]
    assert repr(second) == "<ClassificationDataset: 20 images of 3 classes (ant, bee, wasp)>"
    with pytest.raises(TypeError, match=r"got booleans; use numpy\.flatnonzero"):
        dataset.subset([True, False])


@pytest.mark.parametrize("start", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers(tmp_path, start):
    dataset = read_folder(write_set(tmp_path, ["ant/a.png", "bee/a.png"]))
    loader = DataLoader(dataset, batch_size=None, num_workers=1, multiprocessing_context=start)
    assert [int(target["label"]) for _, target in loader] == [0, 1]


def test_ants_and_bees(test_data):
    train, val = (read_folder(test_data / "hymenoptera", split) for split in ("train", "val"))
    assert (len(train), len(val)) == (245, 153)
    assert train.classes == val.classes == ("ants", "bees")
    assert train.count_labels().tolist() == [124, 121]
    assert val.count_labels().tolist() == [70, 83]
    assert min(train[0][0].shape[1:]) == 256
