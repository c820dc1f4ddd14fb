"""Masks of class indices: reading files, SegmentationDataset, and the layout of VOC."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import tv_tensors
from torchvision.transforms import v2

from cvlib.data.datasets.segmentation import SegmentationDataset
from cvlib.data.files.images import UnreadableImageError
from cvlib.data.files.mask_images import read_classes, read_numbers, voc_palette
from cvlib.data.formats.voc_segmentation import VOC_CLASSES, read_voc_segmentation
from cvlib.data.labels.findings import BadLabelsError, Finding

NUMBERS = np.array([[0, 1, 2, 255], [2, 2, 1, 0], [0, 0, 255, 1]], dtype=np.uint8)
CLASSES = ("road", "sky", "tree")


def save_palette(path, numbers=NUMBERS, colours=None, **options):
    """Save a palette image with random colours, which must not matter."""
    image = Image.fromarray(np.asarray(numbers, dtype=np.uint8)).convert("P")
    image.frombytes(np.asarray(numbers, dtype=np.uint8).tobytes())
    if colours is None:
        colours = np.random.default_rng(3).integers(0, 256, (256, 3)).tolist()
    image.putpalette([value for colour in colours for value in colour])
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)


def save_colours(path, numbers, colours):
    table = np.array(colours, dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(table[numbers]).save(path)


def save_image(path, size=(4, 3), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (200, 100, 50)).save(path, **options)


def write_set(root, masks, splits=None, classes=CLASSES):
    """Write masks in the layout of VOC, with an image of 4 x 3 each."""
    (root / "ImageSets/Segmentation").mkdir(parents=True, exist_ok=True)
    (root / "SegmentationClass").mkdir(exist_ok=True)
    for stem, numbers in masks.items():
        save_image(root / f"JPEGImages/{stem}.jpg")
        save_palette(root / f"SegmentationClass/{stem}.png", numbers)
    for split, names in (splits or {}).items():
        (root / f"ImageSets/Segmentation/{split}.txt").write_text("\n".join(names))
    if classes:
        (root / "classes.txt").write_text("\n".join(classes))
    return root


def make(tmp_path, **options):
    """Create a dataset of one image with the mask ``m.png``."""
    save_image(tmp_path / "a.jpg")
    return SegmentationDataset([tmp_path / "a.jpg"], [tmp_path / "m.png"], CLASSES, **options)


def test_palette_masks_are_read_as_indices(tmp_path):
    save_palette(tmp_path / "m.png")
    assert np.array_equal(read_classes(tmp_path / "m.png", 3), NUMBERS)
    assert read_classes(tmp_path / "m.png", 3).dtype == np.uint8


@pytest.mark.parametrize("transparency", [0, bytes(range(256))])
def test_transparent_palette_entries_mean_nothing(tmp_path, transparency):
    save_palette(tmp_path / "m.png", transparency=transparency)
    assert np.array_equal(read_classes(tmp_path / "m.png", 3), NUMBERS)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palettes_of_few_bits(tmp_path, bits):
    numbers = NUMBERS % min(2**bits, 3)
    save_palette(tmp_path / "m.png", numbers, bits=bits)
    assert np.array_equal(read_classes(tmp_path / "m.png", 3), numbers)


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("grey.png", NUMBERS),
        ("grey.bmp", NUMBERS),
        ("grey.tif", NUMBERS),
        ("sixteen.png", NUMBERS.astype(np.uint16)),
        ("thirty_two.tif", NUMBERS.astype(np.int32)),
    ],
)
def test_grey_masks(tmp_path, name, array):
    Image.fromarray(array).save(tmp_path / name)
    assert np.array_equal(read_classes(tmp_path / name, 3), NUMBERS)
    assert np.array_equal(read_numbers(tmp_path / name), NUMBERS)


def test_masks_of_one_bit(tmp_path):
    Image.fromarray(NUMBERS == 1).save(tmp_path / "m.png")
    assert np.array_equal(read_classes(tmp_path / "m.png", 2), NUMBERS == 1)


def test_void_of_another_number(tmp_path):
    save_palette(tmp_path / "m.png", [[0, 1, 9, 2]])
    assert read_classes(tmp_path / "m.png", 3, void=9).tolist() == [[0, 1, 255, 2]]
    assert read_classes(tmp_path / "m.png", 10, void=0).tolist() == [[255, 1, 9, 2]]


def test_errors_about_unknown_classes_name_file_value_and_place(tmp_path):
    save_palette(tmp_path / "m.png", [[0, 1, 2], [7, 7, 9]])
    with pytest.raises(UnreadableImageError) as caught:
        read_classes(tmp_path / "m.png", 2)
    text = str(caught.value)
    assert "expected class indices 0..1 or 255 for void, got 2 (1 pixels), 7 (2 pixels), 9" in text
    assert f"first at column 2, row 0, in {tmp_path / 'm.png'}; name every class" in text
    assert caught.value.path == str(tmp_path / "m.png")


def test_large_numbers_do_not_wrap_around(tmp_path):
    Image.fromarray(np.array([[256, 257]], dtype=np.uint16)).save(tmp_path / "m.png")
    with pytest.raises(UnreadableImageError, match=r"got 256 \(1 pixels\), 257"):
        read_classes(tmp_path / "m.png", 3)


def test_vocs_palette():
    # By hand: 1 is one bit of red, 2 of green, 8 the next bit of red, 255 the border.
    colours = voc_palette()
    assert colours[:5] == [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128)]
    assert (colours[8], colours[15], colours[255]) == ((64, 0, 0), (192, 128, 128), (224, 224, 192))
    assert len(set(colours)) == 256


def test_colours_become_numbers(tmp_path):
    colours = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (224, 224, 192)]
    numbers = np.array([[0, 1], [2, 3]])
    save_colours(tmp_path / "m.png", numbers, colours)
    assert read_classes(tmp_path / "m.png", 3, palette=voc_palette(3)).tolist() == [
        [0, 1],
        [2, 255],
    ]
    palette = [(0, 128, 0), (128, 0, 0), (224, 224, 192), (0, 0, 0)]
    assert read_classes(tmp_path / "m.png", 3, palette=palette).tolist() == [[255, 1], [0, 2]]


def test_unknown_colours(tmp_path):
    save_colours(tmp_path / "m.png", np.array([[0, 1, 1]]), [(0, 0, 0), (1, 2, 3)])
    with pytest.raises(UnreadableImageError, match=r"got \(1, 2, 3\) in 2 pixels and 0 more"):
        read_classes(tmp_path / "m.png", 3, palette=voc_palette(3))
    with pytest.raises(UnreadableImageError, match=r"got colours in .*m\.png; pass palette="):
        read_classes(tmp_path / "m.png", 3)
    with pytest.raises(UnreadableImageError, match="got colours in"):
        read_numbers(tmp_path / "m.png")


def test_transparent_pixels(tmp_path):
    pixels = np.zeros((3, 4, 4), dtype=np.uint8)
    Image.fromarray(pixels, "RGBA").save(tmp_path / "m.png")
    with pytest.raises(UnreadableImageError, match="transparent pixels have no class"):
        read_classes(tmp_path / "m.png", 3, palette=voc_palette(3))
    pixels[..., 3] = 255
    Image.fromarray(pixels, "RGBA").save(tmp_path / "m.png")
    assert not read_classes(tmp_path / "m.png", 3, palette=voc_palette(3)).any()


def test_lossy_masks(tmp_path):
    Image.fromarray(NUMBERS).save(tmp_path / "m.png", format="JPEG")
    with pytest.raises(UnreadableImageError, match="JPEG, which blurs class indices at every edge"):
        read_classes(tmp_path / "m.png", 3)


def test_damaged_masks(tmp_path):
    path = tmp_path / "m.png"
    save_palette(path, np.tile(NUMBERS, (50, 50)))
    data = path.read_bytes()
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 1
    for content in (data[: len(data) // 2], bytes(flipped), b"", b"<html>"):
        path.write_bytes(content)
        with pytest.raises(UnreadableImageError, match=r"m\.png"):
            read_classes(path, 3)


def test_bombs(tmp_path, monkeypatch):
    monkeypatch.setenv("CVLIB_MAX_PIXELS", "11")
    save_palette(tmp_path / "m.png")
    with pytest.raises(UnreadableImageError, match="of at most 11 pixels, got 4 x 3"):
        read_classes(tmp_path / "m.png", 3)


def test_sample(tmp_path):
    save_palette(tmp_path / "m.png")
    image, target = make(tmp_path)[0]
    assert isinstance(image, tv_tensors.Image)
    assert (image.dtype, image.shape) == (torch.uint8, (3, 3, 4))
    assert isinstance(target["mask"], tv_tensors.Mask)
    assert target["mask"].dtype == torch.uint8
    assert np.array_equal(target["mask"].numpy(), NUMBERS)
    assert target["image_id"] == 0


def test_transform_gets_both(tmp_path):
    save_palette(tmp_path / "m.png")
    _, target = make(tmp_path, transform=v2.RandomHorizontalFlip(1.0))[-1]
    assert np.array_equal(target["mask"].numpy(), NUMBERS[:, ::-1])


def test_index_out_of_range(tmp_path):
    dataset = make(tmp_path)
    for index in (1, -2):
        with pytest.raises(IndexError, match=f"SegmentationDataset: expected index .* {index}"):
            dataset[index]


def test_sizes_that_differ(tmp_path):
    save_palette(tmp_path / "m.png", NUMBERS.T)
    with pytest.raises(UnreadableImageError, match=r"got \(4, 3\) .*m\.png and \(3, 4\)"):
        make(tmp_path)[0]


def test_mask_drawn_on_the_stored_image(tmp_path):
    save_palette(tmp_path / "m.png")
    dataset = make(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    save_image(tmp_path / "a.jpg", exif=exif)
    with pytest.raises(UnreadableImageError, match="draw the mask as the image is shown"):
        dataset[0]


@pytest.mark.parametrize("missing", ["a.jpg", "m.png"])
def test_missing_files(tmp_path, missing):
    save_palette(tmp_path / "m.png")
    dataset = make(tmp_path)
    os.remove(tmp_path / missing)
    with pytest.raises(UnreadableImageError, match=rf"at index 0, got: .*{missing}") as caught:
        dataset[0]
    assert caught.value.path == str(tmp_path / "a.jpg")


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"masks": []}, ValueError, "expected `masks` for each of 1 images, got 0 masks"),
        ({"classes": "road"}, TypeError, r"a sequence of names, got the string 'road'; write"),
        ({"classes": []}, ValueError, "unique names, at least one, got none"),
        ({"classes": ["a", "a"]}, ValueError, "got 'a' twice"),
        ({"classes": [str(i) for i in range(256)]}, ValueError, "at most 255 `classes`, got 256"),
        ({"palette": [(0, 0, 0)]}, ValueError, "a colour for each of 3 classes, got 1"),
    ],
)
def test_wrong_arguments(changes, kind, message):
    arguments = {"images": ["a.jpg"], "masks": ["a.png"], "classes": CLASSES} | changes
    with pytest.raises(kind, match=message):
        SegmentationDataset(**arguments)


def test_findings_are_errors_or_warnings():
    error, warning = Finding("error", "x", "is wrong"), Finding("warning", "y", "is odd")
    with pytest.raises(BadLabelsError, match="is wrong"):
        SegmentationDataset([], [], CLASSES, findings=[error])
    with pytest.warns(UserWarning, match="suspicious files, 1 finding, the first: is odd"):
        dataset = SegmentationDataset([], [], CLASSES, findings=[warning])
    assert dataset.findings == (warning,)


def test_cache_and_subset(tmp_path):
    masks = {name: NUMBERS for name in "abc"}
    dataset = read_voc_segmentation(write_set(tmp_path, masks), cache=True)
    part = dataset.subset([2, -3])
    before = [part[i][1]["mask"].clone() for i in (0, 1)]
    part[0][1]["mask"].fill_(9)
    part[0][0].fill_(9)
    for path in tmp_path.glob("*/c.*"):
        path.unlink()
    assert torch.equal(part[0][1]["mask"], before[0])
    assert part[0][0].max() > 9
    assert [os.path.basename(path) for path in part.images] == ["c.jpg", "a.jpg"]
    assert torch.equal(dataset[2][1]["mask"], before[0])  # both share a cache
    with pytest.raises(IndexError):
        dataset.subset([3])


def test_split(tmp_path):
    masks = {f"{i}": np.full((3, 4), i % 3 == 0, np.uint8) for i in range(9)}
    dataset = read_voc_segmentation(write_set(tmp_path, masks))
    for stratify in (None, True):
        first, second = dataset.split(1 / 3, seed=2, stratify=stratify)
        assert sorted([*first.images, *second.images]) == sorted(dataset.images)
        stems = [Path(path).stem for path in first.images]
        assert [Path(path).stem for path in first.masks] == stems
    assert [first.count_pixels()[1], second.count_pixels()[1]] == [12, 24]


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers(tmp_path, method):
    masks = {name: NUMBERS for name in "abc"}
    dataset = read_voc_segmentation(write_set(tmp_path, masks), cache=True)
    loader = DataLoader(dataset, batch_size=None, num_workers=1, multiprocessing_context=method)
    read = [target["mask"] for _, target in loader]
    assert all(np.array_equal(mask.numpy(), NUMBERS) for mask in read)
    for path in tmp_path.glob("*/a.*"):
        path.unlink()
    assert np.array_equal(dataset[0][1]["mask"].numpy(), NUMBERS)  # filled by the worker


def test_pickle(tmp_path):
    save_palette(tmp_path / "m.png")
    again = pickle.loads(pickle.dumps(make(tmp_path, cache=True)))
    assert np.array_equal(again[0][1]["mask"].numpy(), NUMBERS)


def test_pixels_are_counted(tmp_path):
    save_palette(tmp_path / "m.png")
    assert make(tmp_path).count_pixels().tolist() == [4, 3, 3, 2]
    assert make(tmp_path).mask_size(0) == (3, 4)
    assert make(tmp_path).image_size(0) == (3, 4)


def test_splits_and_classes(tmp_path):
    masks = {name: NUMBERS for name in "abc"}
    root = write_set(tmp_path, masks, {"train": ["a", "c"], "val": ["b"]})
    train = read_voc_segmentation(root, "train")
    assert train.classes == CLASSES
    assert [os.path.basename(path) for path in train.masks] == ["a.png", "c.png"]
    assert [finding.message for finding in train.findings] == ["3 classes from classes.txt"]
    assert len(read_voc_segmentation(root)) == 3
    assert read_voc_segmentation(root, classes=["x", "y", "z"]).classes == ("x", "y", "z")


def test_vocs_own_classes_and_colours(tmp_path):
    root = write_set(tmp_path, {"a": NUMBERS}, classes=None)
    save_colours(root / "SegmentationClass/a.png", NUMBERS, voc_palette())
    dataset = read_voc_segmentation(root)
    assert dataset.classes == tuple(VOC_CLASSES)
    assert len(VOC_CLASSES) == 21
    assert np.array_equal(dataset.mask(0), NUMBERS)


def test_colours_of_other_classes_are_not_guessed(tmp_path):
    root = write_set(tmp_path, {"a": NUMBERS})
    save_colours(root / "SegmentationClass/a.png", NUMBERS, voc_palette())
    with pytest.raises(UnreadableImageError, match="pass palette="):
        read_voc_segmentation(root)[0]
    dataset = read_voc_segmentation(root, palette=voc_palette(3))
    assert np.array_equal(dataset.mask(0), NUMBERS)


def test_label_map(tmp_path):
    colours = [(0, 0, 0), (9, 8, 7), (50, 60, 70)]
    root = write_set(tmp_path, {"a": NUMBERS}, classes=None)
    save_colours(root / "SegmentationClass/a.png", NUMBERS % 3, colours)
    lines = ["# label:color_rgb:parts:actions", "void:0,0,0::", "road:9,8,7::", "sky:50,60,70::"]
    (root / "labelmap.txt").write_text("\n".join(lines))
    dataset = read_voc_segmentation(root)
    assert dataset.classes == ("void", "road", "sky")
    assert np.array_equal(dataset.mask(0), NUMBERS % 3)
    (root / "labelmap.txt").write_text("road:9,8::\n")
    with pytest.raises(ValueError, match=r"expected lines such as .*, got 'road:9,8::' .* line 1"):
        read_voc_segmentation(root)


def test_missing_masks_and_images(tmp_path):
    root = write_set(tmp_path, {"a": NUMBERS, "b": NUMBERS}, {"train": ["a", "b"]})
    os.remove(root / "SegmentationClass/b.png")
    with pytest.warns(UserWarning, match=r"expected a mask for every image, got none for b\.jpg"):
        assert len(read_voc_segmentation(root)) == 1
    with pytest.raises(ValueError, match=r"a mask in .* for each of 2 names, got none for 1: b"):
        read_voc_segmentation(root, "train")
    os.remove(root / "JPEGImages/a.jpg")
    with pytest.raises(ValueError, match=r"an image in .*, got none for 1: a"):
        read_voc_segmentation(root)


def test_two_masks_of_one_name(tmp_path):
    root = write_set(tmp_path, {"a": NUMBERS})
    save_palette(root / "SegmentationClass/a.bmp")
    with pytest.raises(BadLabelsError, match=r"expected one image named a, got a\.bmp as well"):
        read_voc_segmentation(root)


def test_no_such_folders(tmp_path):
    with pytest.raises(FileNotFoundError, match="with SegmentationClass/ and JPEGImages/"):
        read_voc_segmentation(tmp_path)


def test_street_scenes(test_data):
    train, val = (read_voc_segmentation(test_data / "camvid-voc", s) for s in ("train", "val"))
    assert (len(train), len(val)) == (123, 51)
    assert train.classes == val.classes
    assert (train.classes[0], train.classes[10], len(train.classes)) == ("sky", "bicyclist", 11)
    image, target = val[0]
    assert image.shape == (3, 360, 480)
    assert target["mask"].shape == (360, 480)
    counts = val.count_pixels()
    assert counts.sum() == 51 * 360 * 480
    # Roads, buildings and trees fill streets; void is the last.
    assert counts.argsort()[::-1][:3].tolist() == [3, 1, 5]
    assert counts[-1] == 155_612
