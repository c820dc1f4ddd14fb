"""DetectionDataset: samples, subsets, workers, cache, and unreadable images."""

import json
import multiprocessing
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import tv_tensors
from torchvision.transforms import v2

from cvlib.data import collate
from cvlib.data.datasets.detection import DetectionDataset
from cvlib.data.files import shared_memory
from cvlib.data.files.images import UnreadableImageError
from cvlib.data.formats.coco import read_coco
from cvlib.data.labels.findings import BadLabelsError

CLASSES = ("cat", "dog", "cow")


def make(root, count=6, seed=0, **options):
    """Create images of 40 x 30 filled with their index, with 0 to 2 objects each."""
    rng = np.random.default_rng(seed)
    images, boxes, labels = [], [], []
    for i in range(count):
        Image.new("RGB", (40, 30), (i % 256, 0, 0)).save(root / f"{i}.png")
        images.append(root / f"{i}.png")
        corners = rng.integers(0, 12, (i % 3, 2))
        boxes.append(np.concatenate([corners, corners + rng.integers(4, 16, (i % 3, 2))], 1))
        labels.append(rng.integers(0, 3, i % 3))
    return DetectionDataset.from_lists(images, boxes, labels, CLASSES, **options)


def with_size(root, size=(30, 40), mask=None, orientation=1, **options):
    """Create an image of 40 x 30, in a COCO file with ``size``."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (40, 30)).save(root / "1.png", exif=exif)
    annotation = {"id": 17, "image_id": 1, "category_id": 1, "bbox": [2, 3, 10, 8]}
    image = {"id": 1, "file_name": "1.png"}
    if size:
        image |= {"height": size[0], "width": size[1]}
    if mask:
        annotation["segmentation"] = mask
    content = {
        "images": [image],
        "annotations": [annotation],
        "categories": [{"id": 1, "name": "cat"}],
    }
    (root / "a.json").write_text(json.dumps(content))
    return DetectionDataset(read_coco(root / "a.json"), **options)


def test_sample(tmp_path):
    dataset = make(tmp_path)
    image, target = dataset[5]
    assert isinstance(image, tv_tensors.Image)
    assert isinstance(target["boxes"], tv_tensors.BoundingBoxes)
    assert target["boxes"].canvas_size == (30, 40)
    assert target["boxes"].dtype == target["area"].dtype == torch.float32
    assert target["labels"].dtype == target["iscrowd"].dtype == torch.int64
    assert image[0, 0, 0] == 5
    assert target["image_id"] == 5
    widths = target["boxes"][:, 2:] - target["boxes"][:, :2]
    assert torch.equal(target["area"], widths.prod(1))
    assert torch.equal(dataset[-1][1]["boxes"], target["boxes"])
    assert (dataset.task, dataset.classes) == ("detection", CLASSES)
    target["labels"].fill_(9)
    target["boxes"].fill_(9)
    assert dataset[5][1]["labels"].tolist() != target["labels"].tolist()
    assert dataset[5][1]["boxes"].tolist() != target["boxes"].tolist()


def test_transform_gets_the_pair(tmp_path):
    plain, flipped = make(tmp_path), make(tmp_path, transform=v2.RandomHorizontalFlip(1.0))
    before, after = plain[2][1]["boxes"], flipped[2][1]["boxes"]
    assert torch.equal(after[:, 0], 40 - before[:, 2])


def test_target_and_image_info_without_decoding(tmp_path):
    dataset = make(tmp_path)
    expected = dataset[2][1]
    (tmp_path / "2.png").write_bytes((tmp_path / "2.png").read_bytes()[:60])
    target = dataset.target(2)
    assert torch.equal(target["boxes"], expected["boxes"])
    assert target["boxes"].canvas_size == (30, 40)
    info = dataset.image_info(-4)
    assert (info["height"], info["width"], info["image_id"]) == (30, 40, 2)
    assert info["path"] == tmp_path / "2.png"
    (tmp_path / "2.png").unlink()
    with pytest.raises(UnreadableImageError, match="at index 2"):
        dataset.target(2)
    assert len(dataset.target(2, (30, 40))["boxes"]) == 2


@pytest.mark.parametrize("index", [6, -7])
def test_index_out_of_range(tmp_path, index):
    dataset = make(tmp_path)
    for read in (dataset.__getitem__, dataset.target, dataset.image_info):
        with pytest.raises(
            IndexError, match=f"DetectionDataset: expected index below 6, got {index}"
        ):
            read(index)


def test_bad_labels_must_be_known(tmp_path):
    with pytest.raises(ValueError, match="`bad_labels` 'raise' or 'drop', got 'skip'"):
        make(tmp_path, bad_labels="skip")


def test_invalid_labels_are_dropped_on_request(tmp_path):
    images = make(tmp_path).table
    arguments = [[images.path(0)], [[[0, 0, 5, 5], [5, 5, 0, 0]]], [[0, 0]], CLASSES]
    with pytest.raises(BadLabelsError, match="box 1"):
        DetectionDataset.from_lists(*arguments)
    with pytest.warns(
        UserWarning, match="dropped invalid labels, 1 finding, the first: .*box 1"
    ) as w:
        dataset = DetectionDataset.from_lists(*arguments, bad_labels="drop")
    assert len(w) == 1
    assert dataset[0][1]["boxes"].tolist() == [[0, 0, 5, 5]]
    assert len(dataset.subset([0])) == 1


def damage(path, kind):
    if kind == "missing":
        path.unlink()
    elif kind == "truncated":
        path.write_bytes(path.read_bytes()[:60])
    elif kind == "empty":
        path.write_bytes(b"")
    else:
        path.write_text("<html>404</html>")


@pytest.mark.parametrize("kind", ["missing", "truncated", "empty", "text"])
@pytest.mark.parametrize("cache", [False, True])
def test_an_unreadable_image_does_not_affect_others(tmp_path, kind, cache):
    dataset = make(tmp_path, cache=cache)
    damage(tmp_path / "3.png", kind)
    with pytest.raises(UnreadableImageError, match=r"a readable image at index 3, got: ") as e:
        dataset[3]
    assert e.value.path == str(tmp_path / "3.png")
    assert dataset[2][0][0, 0, 0] == 2


def test_the_error_reaches_the_loop_from_a_worker(tmp_path):
    dataset = make(tmp_path)
    damage(tmp_path / "3.png", "empty")
    loader = DataLoader(dataset, batch_size=1, num_workers=1, collate_fn=collate)
    with pytest.raises(ValueError, match="a readable image at index 3"):
        list(loader)


def test_another_size_than_in_the_labels(tmp_path):
    dataset = with_size(tmp_path, (60, 80))
    with pytest.raises(
        UnreadableImageError,
        match=r"at index 0 to have the size 80 x 60 as in .*a\.json, got 40 x 30 in .*1\.png",
    ):
        dataset[0]
    assert with_size(tmp_path, None)[0][0].shape == (3, 30, 40)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_labels_in_stored_or_upright_pixels(tmp_path, orientation):
    turned = orientation in (6, 8)
    assert with_size(tmp_path, (40, 30) if turned else (30, 40), None, orientation)[0]
    stored = with_size(tmp_path, (30, 40), None, orientation, upright=False)
    assert stored[0][0].shape == (3, 30, 40)
    if turned:
        with pytest.raises(UnreadableImageError, match="in stored pixels: pass upright=False"):
            with_size(tmp_path, (30, 40), None, orientation)[0]
        with pytest.raises(UnreadableImageError, match="in upright pixels: pass upright=True"):
            with_size(tmp_path, (40, 30), None, orientation, upright=False)[0]


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ({"size": [31, 40], "counts": [1240]}, r"have size \(30, 40\), got \(31, 40\)"),
        ({"size": [30, 40], "counts": [1000]}, "add up to 30 x 40 = 1200 pixels, got 1000"),
        ({"size": [30, 40], "counts": "zzz"}, "compressed run lengths"),
        ([[0, 0, 900, 0, 900, 900]], "within one image size of the image"),
    ],
)
def test_masks_that_cannot_be_decoded(tmp_path, mask, message):
    dataset = with_size(tmp_path, None, mask)
    with pytest.raises(UnreadableImageError, match=r"expected a mask of .* in annotation 17") as e:
        dataset[0]
    assert e.value.path == str(tmp_path / "1.png")
    with pytest.raises(UnreadableImageError, match=message):
        dataset[0]


def test_subset_by_index(tmp_path):
    dataset = make(tmp_path)
    part = dataset.subset([4, -1, 0])
    assert [int(part[i][0][0, 0, 0]) for i in range(3)] == [4, 5, 0]
    assert torch.equal(part[1][1]["boxes"], dataset[5][1]["boxes"])
    assert len(dataset.subset(np.array([1, 2]))) == 2
    assert len(dataset.subset(range(2))) == 2
    with pytest.raises(IndexError, match="expected index below 6, got 6"):
        dataset.subset([6])
    with pytest.raises(TypeError, match=r"got booleans; use numpy\.flatnonzero"):
        dataset.subset(np.ones(6, bool))
    with pytest.raises(TypeError, match="got the string 'cat'"):
        dataset.subset("cat")


def test_subset_by_class(tmp_path):
    dataset = make(tmp_path, 30)
    part = dataset.subset(["cow", "cat"])
    assert part.classes == ("cow", "cat")
    assert part.table.category_ids == (2, 0)
    for i in range(len(part)):
        full, target = dataset.target(int(part.table.image_ids[i])), part.target(i)
        pairs = zip(full["boxes"].tolist(), full["labels"].tolist(), strict=True)
        kept = [(box, CLASSES[label]) for box, label in pairs if CLASSES[label] != "dog"]
        names = [part.classes[label] for label in target["labels"].tolist()]
        assert kept == list(zip(target["boxes"].tolist(), names, strict=True))
        assert kept
    assert part.table.num_objects == (dataset.table.labels != 1).sum()
    with pytest.raises(ValueError, match="expected names among cat, dog, cow, got pig"):
        dataset.subset(["pig"])
    with pytest.raises(ValueError, match="expected each class once, got cat, cat"):
        dataset.subset(["cat", "cat"])


@pytest.mark.parametrize("stratify", [False, True])
@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.8])
def test_split_shares_no_image(tmp_path, fraction, stratify):
    dataset = make(tmp_path, 30)
    first, second = dataset.split(fraction, seed=3, stratify=stratify)
    assert len(first) == round(fraction * 30)
    ids = [*first.table.image_ids, *second.table.image_ids]
    assert sorted(ids) == list(range(30))
    again, _ = dataset.split(fraction, seed=3, stratify=stratify)
    other, _ = dataset.split(fraction, seed=4, stratify=stratify)
    assert np.array_equal(again.table.image_ids, first.table.image_ids)
    assert not np.array_equal(other.table.image_ids, first.table.image_ids)
    assert torch.equal(first.target(0)["boxes"], dataset.target(int(ids[0]))["boxes"])


def test_split_keeps_the_share_of_every_class(tmp_path):
    # 300 images, one class in every tenth alone.
    labels = [[0] * (i % 3) + [1] * (i % 10 == 0) + [2] * (i % 50 == 0) for i in range(300)]
    boxes = [[[0, 0, 5, 5]] * len(classes) for classes in labels]
    names = [tmp_path / f"{i}.png" for i in range(300)]
    dataset = DetectionDataset.from_lists(names, boxes, labels, CLASSES)
    for seed in range(5):
        first, second = dataset.split(1 / 3, seed, stratify=True)
        for part, share in ((first, 1 / 3), (second, 2 / 3)):
            counts = np.bincount(part.table.labels, minlength=3)
            totals = np.bincount(dataset.table.labels, minlength=3)
            assert np.abs(counts - share * totals).max() <= 1, (seed, counts)


@pytest.mark.parametrize("fraction", [0, 1, -0.5, float("nan")])
def test_split_out_of_range(tmp_path, fraction):
    with pytest.raises(ValueError, match="split: expected `fraction` between 0 and 1"):
        make(tmp_path).split(fraction)
    with pytest.raises(ValueError, match="one image in each part, got 0 and 6 of 6"):
        make(tmp_path).split(0.01)


def test_repr(tmp_path):
    dataset = make(tmp_path)
    text = "<DetectionDataset: 6 images, 6 objects of 3 classes (cat, dog, cow)>"
    assert repr(dataset) == text
    assert repr(dataset.subset([2])).startswith("<DetectionDataset: 1 images, 2 objects of")


def test_rename_and_merge_classes(tmp_path):
    dataset = make(tmp_path, 30)
    merged = dataset.rename_classes({"cow": "cat", "dog": "hound"})
    assert merged.classes == ("cat", "hound")
    assert merged.table.labels.tolist() == [k % 2 for k in dataset.table.labels.tolist()]
    assert dataset.classes == CLASSES
    with pytest.raises(ValueError, match=r"rename_classes: expected names among .*, got pig"):
        dataset.rename_classes({"pig": "cat"})


def test_to_coco_has_sizes_and_is_read_again(tmp_path):
    dataset = make(tmp_path)
    dataset.save_coco(tmp_path / "a.json")
    content = json.loads((tmp_path / "a.json").read_text())
    assert content == dataset.to_coco()
    assert {(i["height"], i["width"]) for i in content["images"]} == {(30, 40)}
    assert [a["id"] for a in content["annotations"]] == list(range(1, 7))
    for image in content["images"]:
        image["file_name"] = os.path.basename(image["file_name"])
    (tmp_path / "b.json").write_text(json.dumps(content))
    again = DetectionDataset(read_coco(tmp_path / "b.json"))
    assert again.classes == CLASSES
    for i in range(6):
        target, other = dataset[i][1], again[i][1]
        assert target["boxes"].tolist() == other["boxes"].tolist()
        assert target["labels"].tolist() == other["labels"].tolist()


# A spawned worker takes seconds to import everything; the next test has one.
@pytest.mark.parametrize(
    "method", ["fork", *(pytest.param(m, marks=pytest.mark.slow) for m in ("spawn", "forkserver"))]
)
@pytest.mark.parametrize("cache", [False, True])
def test_workers_give_equal_samples(tmp_path, method, cache):
    dataset = make(tmp_path, 9, cache=cache)
    expected = [dataset[i] for i in range(9)]
    context = multiprocessing.get_context(method)
    loader = DataLoader(
        dataset, None, num_workers=2, multiprocessing_context=context, persistent_workers=True
    )
    for _ in range(2):
        for (image, target), (other, label) in zip(loader, expected, strict=True):
            assert torch.equal(image, other)
            assert torch.equal(target["boxes"], label["boxes"])
            assert target["labels"].tolist() == label["labels"].tolist()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_images_decoded_by_a_worker_are_cached_for_all(tmp_path, method):
    dataset = make(tmp_path, 5, cache=True)
    expected = [dataset.target(i) for i in range(5)]
    context = multiprocessing.get_context(method)
    samples = list(DataLoader(dataset, None, num_workers=1, multiprocessing_context=context))
    for (image, target), other in zip(samples, expected, strict=True):
        assert image[0, 0, 0] == other["image_id"]
        assert torch.equal(target["boxes"], other["boxes"])
    for i in range(5):
        (tmp_path / f"{i}.png").unlink()
    assert [int(dataset[i][0][0, 0, 0]) for i in range(5)] == list(range(5))
    part = dataset.subset([4, 1])
    assert [int(part[i][0][0, 0, 0]) for i in range(2)] == [4, 1]


def test_pickles_are_complete(tmp_path):
    dataset = make(tmp_path, cache=True)
    assert dataset[2][0][0, 0, 0] == 2
    again = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(again[2][1]["boxes"], dataset[2][1]["boxes"])
    assert again.classes == CLASSES
    with pytest.raises(TypeError, match="SharedBlock: expected to be pickled for a worker"):
        pickle.dumps(shared_memory.SharedBlock(5))


MEMORY = """
import multiprocessing, os, sys
import numpy as np
from torch.utils.data import DataLoader
from cvlib.data.datasets.detection import DetectionDataset

class Labels(DetectionDataset):
    def __getitem__(self, index):
        if sys.argv[2] == "labels":
            self.target(index, (30, 40))
        if index % 50:  # reading smaps takes a thousand times as long as the sample
            return 0
        private = [line for line in open("/proc/self/smaps_rollup") if line.startswith("Private_")]
        return sum(int(line.split()[1]) for line in private)

def main():
    method, count = sys.argv[1], 100_000
    boxes = [np.array([[0, 0, 5, 5]])] * count
    names = [f"{i:0200d}.png" for i in range(count)]
    table = DetectionDataset.from_lists(names, boxes, [[0]] * count, ["cat"]).table
    loader = DataLoader(
        Labels(table), None, num_workers=8, shuffle=True,
        multiprocessing_context=multiprocessing.get_context(method),
    )
    print(max(loader))

if __name__ == "__main__":
    main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_memory_of_workers_does_not_grow_with_the_labels(tmp_path, method):
    script = tmp_path / "memory.py"
    script.write_text(MEMORY)
    used = {}
    for reads in ("nothing", "labels"):
        command = [sys.executable, script, method, reads]
        run = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
        used[reads] = int(run.stdout)
    # 100,000 paths of 200 characters alone are 20 MB.
    assert used["labels"] - used["nothing"] < 2_000, used


def test_cache_gives_independent_images(tmp_path):
    dataset = make(tmp_path, cache=True)
    dataset[2][0].zero_()
    (tmp_path / "2.png").unlink()
    image = dataset[2][0]
    assert image[0, 0, 0] == 2
    image.zero_()
    assert dataset[2][0][0, 0, 0] == 2


def test_cache_that_does_not_fit(tmp_path, monkeypatch):
    monkeypatch.setattr(shared_memory, "available_memory", lambda: 20_000)
    with pytest.raises(
        MemoryError, match=r"room for a cache of 0\.0 GB, got .*; leave cache=False"
    ):
        make(tmp_path, cache=True)
    assert make(tmp_path, 4, cache=True)[3]


def test_available_memory_is_plausible(monkeypatch, tmp_path):
    assert 1e7 < shared_memory.available_memory() < 1e14
    (tmp_path / "max").write_text("1000\n")
    (tmp_path / "now").write_text("400\n")
    files = ((str(tmp_path / "max"), str(tmp_path / "now")), ("/nowhere", "/nowhere"))
    monkeypatch.setattr(shared_memory, "_CGROUP_FILES", files)
    assert shared_memory.available_memory() == 600


def test_real_datasets(test_data):
    for name in (
        "tiny-coco/annotations/instances_val2017.json",
        "pennfudan-coco/instances_val.json",
    ):
        dataset = DetectionDataset(read_coco(test_data / name))
        for i in range(len(dataset)):
            image, target = dataset[i]
            height, width = image.shape[1:]
            assert target["masks"].shape == (len(target["boxes"]), height, width)
            for box, mask in zip(target["boxes"].tolist(), target["masks"].numpy(), strict=True):
                ys, xs = np.nonzero(mask)
                assert len(xs) and box[0] - 2 <= xs.min() and xs.max() <= box[2] + 2
                assert box[1] - 2 <= ys.min() and ys.max() <= box[3] + 2
