"""read_coco and write_coco: against pycocotools, and on invalid files."""

import contextlib
import io
import json
import os
import time

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from torchvision import tv_tensors

from cvlib.data.datasets.detection import DetectionDataset
from cvlib.data.formats.coco import read_coco
from cvlib.data.formats.coco_writer import write_coco
from cvlib.data.labels.findings import BadLabelsError
from cvlib.ops.rle import masks_to_rle

BOX = [2, 3, 10, 8]


def image_entry(number, name=None, **facts):
    return {"id": number, "file_name": name or f"{number}.png", "height": 30, "width": 40} | facts


def entry(number, image=1, category=7, **facts):
    return {"id": number, "image_id": image, "category_id": category, "bbox": BOX} | facts


def write_set(root, images=None, annotations=(), categories=None, **extra):
    """Write a file, and an image of 40 x 30 for each name that stays in the folder."""
    images = [image_entry(1), image_entry(5)] if images is None else images
    content = {
        "images": images,
        "annotations": list(annotations),
        "categories": categories or [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}],
    }
    for image in images:
        name = image.get("file_name") if isinstance(image, dict) else None
        if isinstance(name, str) and name.endswith(".png") and "/" not in name:
            Image.new("RGB", (40, 30)).save(root / name)
    path = root / "a.json"
    path.write_text(json.dumps(content | extra))
    return path


def findings_of(path):
    return read_coco(path).findings


def test_a_small_file(tmp_path):
    annotations = [
        entry(11, 5, 3, area=50, iscrowd=1),
        entry(4, 1, 7),
        entry(9, 1, 3, bbox=[0.5, 1.5, 2, 2], difficult=1),
    ]
    table = read_coco(str(write_set(tmp_path, annotations=annotations)))
    assert table.layout == "COCO json"
    assert table.root == tmp_path
    assert table.classes == ("dog", "cat"), "classes count in the order of their ids"
    assert table.category_ids == (3, 7)
    assert list(table.images) == ["1.png", "5.png"]
    assert table.image_ids.tolist() == [1, 5]
    assert table.sizes.tolist() == [[30, 40], [30, 40]]
    assert table.starts.tolist() == [0, 2, 3]
    assert table.rows.tolist() == [4, 9, 11]
    assert table.labels.tolist() == [1, 0, 0]
    assert table.boxes.tolist() == [[2, 3, 12, 11], [0.5, 1.5, 2.5, 3.5], [2, 3, 12, 11]]
    assert table.iscrowd.tolist() == [False, False, True]
    assert table.difficult.tolist() == [False, True, False]
    assert np.isnan(table.areas[:2]).all()
    assert table.areas[2] == 50
    assert table.masks is None
    assert table.row(1) == "annotation 9"
    assert table.label_file(1) == str(tmp_path / "a.json")
    assert table.findings == ()
    sample = DetectionDataset(table)[0][1]
    assert sample["labels"].tolist() == [1, 0]
    assert sample["area"].tolist() == [80, 4]


def annotations_of(source, image):
    return source.loadAnns(source.getAnnIds(image))


# From the decoder of pycocotools.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize(
    "name",
    [
        "tiny-coco/annotations/instances_train2017.json",
        "tiny-coco/annotations/instances_val2017.json",
        "pennfudan-coco/instances_train.json",
        "pennfudan-coco/instances_val.json",
        "coco-eval-pair/instances_val2014_100.json",
    ],
)
def test_real_sets_as_pycocotools_reads_them(test_data, name):
    with contextlib.redirect_stdout(io.StringIO()):
        oracle = COCO(str(test_data / name))
    has_images = not name.startswith("coco-eval-pair")
    table = read_coco(test_data / name, None if has_images else test_data / "coco-eval-pair")
    assert table.findings == ()
    assert table.num_images == len(oracle.imgs)
    assert sorted(table.rows) == sorted(oracle.anns)
    assert table.category_ids == tuple(sorted(oracle.cats))
    assert list(table.classes) == [oracle.cats[i]["name"] for i in table.category_ids]
    dataset = DetectionDataset(table)
    for i, number in enumerate(table.image_ids.tolist()):
        expected = annotations_of(oracle, number)
        target = dataset.target(i)
        assert table.rows[table.objects(i)].tolist() == [a["id"] for a in expected]
        categories = [table.category_ids[k] for k in target["labels"].tolist()]
        assert categories == [a["category_id"] for a in expected]
        corners = np.array([a["bbox"] for a in expected]).reshape(-1, 4)
        corners[:, 2:] += corners[:, :2]
        assert np.allclose(target["boxes"].tolist() or corners, corners, rtol=0, atol=1e-4)
        assert target["iscrowd"].tolist() == [a["iscrowd"] for a in expected]
        assert np.allclose(target["area"].numpy(), [a["area"] for a in expected])
        for mask, annotation in zip(target["masks"].numpy(), expected, strict=True):
            assert np.array_equal(mask, oracle.annToMask(annotation))


def test_real_images_are_found(test_data):
    for name, folder, count in [
        ("tiny-coco/annotations/instances_train2017.json", "tiny-coco/images/train2017", 32),
        ("pennfudan-coco/instances_val.json", "pennfudan-coco/val", 50),
    ]:
        table = read_coco(test_data / name)
        assert table.root == test_data / folder
        assert sum(table.path(i).is_file() for i in range(count)) == table.num_images == count
    with pytest.raises(FileNotFoundError, match=r"got none of the first 50 in .*coco-eval-pair"):
        read_coco(test_data / "coco-eval-pair/instances_val2014_100.json")


def test_polygons_and_both_kinds_of_run_lengths(tmp_path):
    square = np.zeros((30, 40), np.uint8)
    square[3:11, 2:12] = 1
    runs = [2 * 30 + 3, *([8, 22] * 9), 8, 30 * 40 - 11 * 30 - 11]
    compressed = masks_to_rle(torch.from_numpy(square)[None])[0]
    assert isinstance(compressed["counts"], str)
    annotations = [
        entry(1, segmentation=[[2, 3, 12, 3, 12, 11, 2, 11]]),
        entry(2, segmentation={"size": [30, 40], "counts": runs}, iscrowd=1),
        entry(3, segmentation=compressed),
    ]
    target = DetectionDataset(read_coco(write_set(tmp_path, annotations=annotations))).target(0)
    assert isinstance(target["masks"], tv_tensors.Mask)
    assert target["masks"].dtype == torch.uint8
    assert np.array_equal(target["masks"].numpy(), np.stack([square] * 3))


def test_a_box_from_the_mask_where_there_is_none(tmp_path):
    runs = {"size": [30, 40], "counts": [2 * 30 + 3, 8, 22, 8, 30 * 40 - 3 * 30 - 11]}
    annotations = [
        entry(1, bbox=None, segmentation=[[2, 3, 12, 3, 12, 11, 2, 11], [20, 1, 22, 1, 22, 2]]),
        entry(2, bbox=[], segmentation=runs),
    ]
    boxes = read_coco(write_set(tmp_path, annotations=annotations)).boxes
    assert boxes.tolist() == [[2, 1, 22, 11], [2, 3, 4, 11]]


@pytest.mark.parametrize(
    ("facts", "code", "message"),
    [
        (
            {"image_id": 99},
            "unknown-image",
            "`image_id` to be the id of an image .*, got 99",
        ),
        ({"image_id": "1"}, "unknown-image", "got '1'"),
        ({"image_id": None}, "unknown-image", "got None"),
        ({"image_id": True}, "unknown-image", "got True"),
        ({"category_id": 8}, "unknown-class", "one of 2 categories, got 8"),
        ({"category_id": None}, "unknown-class", "got None"),
        ({"category_id": 7.0}, "unknown-class", r"got 7\.0"),
        ({"category_id": [7]}, "unknown-class", r"got \[7\]"),
        ({"bbox": ["2", 3, 4, 5]}, "bad-box", r"four numbers .*, got \['2', 3, 4, 5\]"),
        ({"bbox": [2, 3, 4]}, "bad-box", r"got \[2, 3, 4\]"),
        ({"bbox": {"x": 1}}, "bad-box", "got {'x': 1}"),
        ({"bbox": [10**400, 3, 4, 5]}, "bad-box", "got huge numbers"),
        ({"bbox": None}, "missing-box", "expected a bbox or a segmentation, got neither"),
        ({"iscrowd": 2}, "bad-crowd", "expected `iscrowd` to be 0 or 1, got 2"),
        ({"iscrowd": "1"}, "bad-crowd", "got '1'"),
        (
            {"segmentation": "x"},
            "bad-mask",
            "`segmentation` to be polygons or run lengths",
        ),
        ({"segmentation": [1, 2, 3, 4, 5, 6]}, "bad-mask", r"a list of polygons, got \[1, 2"),
        ({"segmentation": [[1, 2, 3, 4]]}, "bad-mask", r"expected polygons .*, got \[1, 2, 3, 4\]"),
        ({"segmentation": [[1, 2, 3, 4, 5, 6, 7]]}, "bad-mask", "expected polygons"),
        ({"segmentation": [[1, 2, 3, 4, 5, "6"]]}, "bad-mask", "polygons of finite numbers"),
        ({"segmentation": [[1, 2, 3, 4, 5, float("nan")]]}, "bad-mask", "of finite numbers"),
        (
            {"segmentation": {"size": [30], "counts": "a"}},
            "bad-mask",
            r"`size` to be \[height",
        ),
        (
            {"segmentation": {"size": [30, 40]}},
            "bad-mask",
            "`counts` to be a string or a list",
        ),
        ({"segmentation": {"size": [40, 30], "counts": "a"}}, "mask-size", r"\(30, 40\), got \(40"),
    ],
)
def test_invalid_annotations_are_named_and_left_out(tmp_path, facts, code, message):
    path = write_set(tmp_path, annotations=[entry(4), entry(17, **facts), entry(18)])
    table = read_coco(path)
    assert table.rows.tolist() == [4, 18]
    (finding,) = table.findings
    assert (finding.severity, finding.code, finding.row) == ("error", code, "annotation 17")
    assert finding.file == str(path)
    with pytest.raises(BadLabelsError, match=rf"a\.json, annotation 17: .*{message}"):
        DetectionDataset(table)
    with pytest.warns(UserWarning, match=r"dropped invalid labels, 1 finding, .*annotation 17"):
        dataset = DetectionDataset(table, bad_labels="drop")
    assert len(dataset.target(0)["boxes"]) == 2


@pytest.mark.parametrize(
    ("bbox", "code"),
    [
        ([2, 3, float("nan"), 5], "not-a-number"),
        ([2, 3, float("inf"), 5], "not-a-number"),
        ([2, 3, -4, 5], "inverted-box"),
        ([2, 3, 0, 5], "degenerate-box"),
        ([2, 3, 100, 5], "box-outside"),
    ],
)
def test_invalid_boxes_are_found_by_the_label_rules(tmp_path, bbox, code):
    table = read_coco(write_set(tmp_path, annotations=[entry(4), entry(17, bbox=bbox)]))
    assert table.num_objects == 2
    with pytest.raises(BadLabelsError, match="annotation 17") as caught:
        DetectionDataset(table)
    assert [finding.code for finding in caught.value.findings] == [code]


def test_entries_that_are_not_objects(tmp_path):
    table = read_coco(write_set(tmp_path, annotations=[entry(4), None, [1], "x"]))
    assert table.rows.tolist() == [4]
    assert [f.code for f in table.findings] == ["bad-id", *["bad-annotation"] * 3]
    assert [f.row for f in table.findings[1:]] == [f"annotation {k}" for k in (5, 6, 7)]


def test_annotations_without_an_id_are_numbered_after_the_others(tmp_path):
    annotations = [entry(4), entry(None), entry("9"), entry(1.5)]
    table = read_coco(write_set(tmp_path, annotations=annotations))
    assert table.rows.tolist() == [4, 5, 6, 7]
    (finding,) = table.findings
    assert (finding.severity, finding.code) == ("warning", "bad-id")
    assert "got 3 without; they are numbered from 5" in finding.message
    with pytest.warns(UserWarning, match="suspicious labels, 1 finding"):
        DetectionDataset(table)


def test_duplicate_annotation_ids(tmp_path):
    table = read_coco(write_set(tmp_path, annotations=[entry(4), entry(4), entry(5), entry(4)]))
    assert table.num_objects == 4
    (finding,) = table.findings
    assert (finding.severity, finding.code) == ("warning", "duplicate-id")
    assert finding.row == "annotation 4"


def test_odd_areas(tmp_path):
    areas = [float("nan"), "12", -1]
    annotations = [entry(k, area=area) for k, area in enumerate(areas)]
    table = read_coco(write_set(tmp_path, annotations=annotations))
    assert np.isnan(table.areas).all()
    assert [f.code for f in table.findings] == ["bad-area"] * 3
    assert {f.severity for f in table.findings} == {"warning"}


def test_masks_of_some_objects(tmp_path):
    annotations = [entry(1, segmentation=[[2, 3, 12, 3, 12, 11]]), entry(2)]
    (finding,) = findings_of(write_set(tmp_path, annotations=annotations))
    assert (finding.severity, finding.code) == ("warning", "missing-mask")
    assert "1 of 2 without" in finding.message


@pytest.mark.parametrize(
    ("second", "code", "row"),
    [
        (image_entry(1, "2.png"), "duplicate-id", "image 1"),
        (image_entry("2"), "bad-image", "image 1"),
        ([], "bad-image", "image 1"),
        (image_entry(2, "../2.png"), "bad-path", "image 2"),
        (image_entry(2, "/etc/passwd"), "bad-path", "image 2"),
        (image_entry(2, "C:\\2.png"), "bad-path", "image 2"),
        (image_entry(2, "a\0.png"), "bad-path", "image 2"),
        (image_entry(2, "\ud800.png"), "bad-path", "image 2"),
        ({"id": 2}, "bad-path", "image 2"),
        ({"id": 2, "file_name": 5}, "bad-path", "image 2"),
    ],
)
def test_invalid_images_are_named_and_left_out(tmp_path, second, code, row):
    name = second.get("file_name") if isinstance(second, dict) else None
    images = [image_entry(1), second]
    try:
        path = write_set(tmp_path, images=images, annotations=[entry(1), entry(2, 2)])
    except (ValueError, OSError):  # the image cannot be written, either
        path = write_set(tmp_path, images=[image_entry(1)])
        content = {"images": images, "annotations": [entry(1), entry(2, 2)]}
        path.write_text(json.dumps(content | {"categories": [{"id": 7, "name": "cat"}]}))
    table = read_coco(path)
    assert list(table.images) == ["1.png"], name
    errors = [f for f in table.findings if f.code == code]
    assert [(f.severity, f.row) for f in errors] == [("error", row)]
    assert table.rows.tolist() == [1]


def test_an_image_with_two_ids_is_a_warning(tmp_path):
    table = read_coco(write_set(tmp_path, images=[image_entry(1), image_entry(2, "./1.png")]))
    (finding,) = table.findings
    assert (finding.severity, finding.code, finding.row) == ("warning", "listed-twice", "image 2")
    assert "got '1.png' as image 1, too" in finding.message


def test_odd_sizes(tmp_path):
    sizes = [{"height": "30"}, {"height": -1}, {"height": 30.5}, {"height": float("nan")}]
    images = [image_entry(k, **size) for k, size in enumerate(sizes)]
    table = read_coco(write_set(tmp_path, images=images))
    assert table.sizes.tolist() == [[-1, -1]] * 4
    assert [(f.code, f.severity) for f in table.findings] == [("bad-size", "warning")] * 4
    images = [{"id": 1, "file_name": "1.png"}]
    table = read_coco(write_set(tmp_path, images=images))
    assert table.sizes.tolist() == [[-1, -1]]
    assert table.findings == ()


@pytest.mark.parametrize(
    ("category", "code"),
    [
        ({"id": 7, "name": "cow"}, "duplicate-id"),
        ({"id": 8, "name": "cat"}, "duplicate-class"),
        ({"id": "8", "name": "cow"}, "bad-category"),
        ({"id": 8, "name": ""}, "bad-category"),
        ({"id": 8}, "bad-category"),
        (5, "bad-category"),
    ],
)
def test_invalid_categories(tmp_path, category, code):
    categories = [{"id": 7, "name": "cat"}, category]
    table = read_coco(write_set(tmp_path, annotations=[entry(1)], categories=categories))
    assert table.classes == ("cat",)
    assert [(f.severity, f.code, f.row) for f in table.findings] == [("error", code, "category 1")]


def test_all_problems_are_listed(tmp_path):
    annotations = [entry(k, bbox="x") for k in range(30)]
    with pytest.raises(BadLabelsError, match=r"got 30 errors:\n(.*\n){20}  \.\.\. and 10"):
        DetectionDataset(read_coco(write_set(tmp_path, annotations=annotations)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "got .*, which cannot be parsed: it is empty"),
        (b"{", "cannot be parsed: Expecting property name"),
        (b'{"images": [1' + b"0" * 5000 + b"]}", "cannot be parsed: Exceeds the limit"),
        (b"[" * 200_000, "got lists nested too deeply"),
        (b'{"a":' * 200_000, "got lists nested too deeply"),
        (b"[]", "an object with images, annotations, categories .*, got list; it looks"),
        (b"3", "got int"),
        (b"{}", "'images' in .* to be a list, got no such key; its keys: none"),
        (b'{"images": {}, "info": 1}', "got dict; its keys: images, info"),
        (b'{"images": [], "annotations": [], "categories": []}', "categories in .*, got none"),
        (b'{"images": [], "annotations": [], "categories": [{"id":1,"name":"a"}]}', "images in"),
        (b"\xff\xfe{\0}\0", "got UTF-16 in"),
        (b'{"a": "\xe9"}', "got byte 0xe9 in line 1 of"),
        (b"{}\0", "got a zero byte at byte 2 of"),
        (b"version https://git-lfs.github.com/spec/v1", "got a Git LFS pointer"),
    ],
)
def test_files_that_are_not_coco(tmp_path, content, message):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"^read_coco: expected .*{message}"):
        read_coco(path)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"read_coco: .*a\.json, which does not exist"):
        read_coco(tmp_path / "a.json")
    with pytest.raises(FileNotFoundError, match="which is not a file"):
        read_coco(tmp_path)


def test_byte_order_mark(tmp_path):
    path = write_set(tmp_path, annotations=[entry(1)])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_coco(path).num_objects == 1


@pytest.mark.parametrize(
    ("file", "folder"),
    [
        ("a.json", "."),
        ("a.json", "images"),
        ("annotations/a.json", "images"),
        ("annotations/instances_train2017.json", "train2017"),
        ("annotations/instances_train2017.json", "images/train2017"),
        ("train/_annotations.coco.json", "train"),
        ("instances_val.json", "val"),
        ("val.json", "val/images"),
    ],
)
def test_usual_layouts(tmp_path, file, folder):
    path, folder = tmp_path / file, tmp_path / folder
    path.parent.mkdir(exist_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    made = write_set(folder)
    made.rename(path)
    assert os.path.samefile(read_coco(path).root, folder)


def test_two_folders_with_the_images(tmp_path):
    path = write_set(tmp_path)
    (tmp_path / "images").mkdir()
    write_set(tmp_path / "images")
    with pytest.raises(ValueError, match=r"expected one folder .*images; pass images_folder="):
        read_coco(path)
    assert read_coco(path, tmp_path / "images").root == tmp_path / "images"


def test_searched_folders_are_listed(tmp_path):
    path = write_set(tmp_path)
    (tmp_path / "1.png").unlink()
    (tmp_path / "5.png").unlink()
    (tmp_path / "images").mkdir()
    with pytest.raises(FileNotFoundError) as caught:
        read_coco(path)
    assert "such as '1.png', next to it, got none of the first 2 in" in str(caught.value)
    assert str(tmp_path / "images") in str(caught.value)
    with pytest.raises(FileNotFoundError, match="`images_folder` to be an existing folder"):
        read_coco(path, tmp_path / "nowhere")


@pytest.mark.parametrize(
    "name", ["tiny-coco/annotations/instances_train2017.json", "pennfudan-coco/instances_val.json"]
)
def test_round_trip_of_real_sets(test_data, tmp_path, name):
    table = read_coco(test_data / name)
    write_coco(tmp_path / "b.json", table)
    again = read_coco(tmp_path / "b.json", table.root)
    for key in ("classes", "category_ids", "findings"):
        assert getattr(again, key) == getattr(table, key)
    for key in ("image_ids", "sizes", "starts", "boxes", "labels", "rows", "iscrowd", "areas"):
        assert np.array_equal(getattr(again, key), getattr(table, key)), key
    assert list(again.images) == list(table.images)
    assert list(again.masks) == list(table.masks)
    original = json.loads((test_data / name).read_text())
    written = json.loads((tmp_path / "b.json").read_text())
    boxes = {a["id"]: a["bbox"] for a in original["annotations"]}
    assert all(np.allclose(a["bbox"], boxes[a["id"]], 0, 1e-9) for a in written["annotations"])


def test_values_that_json_cannot_store_are_not_written(tmp_path):
    bbox = [2, 3, float("nan"), 5]
    table = read_coco(write_set(tmp_path, annotations=[entry(17, bbox=bbox)]))
    with pytest.raises(ValueError, match=r"write_coco: expected finite boxes with labels in 0..1"):
        write_coco(tmp_path / "b.json", table)
    assert not (tmp_path / "b.json").exists()


@pytest.mark.slow
def test_a_million_annotations(tmp_path):
    images = [image_entry(k) for k in range(100_000)]
    annotations = [
        entry(k, k % 100_000, segmentation=[[2, 3, 12, 3, 12, 11]]) for k in range(10**6)
    ]
    path = tmp_path / "a.json"
    categories = [{"id": 7, "name": "cat"}]
    path.write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    Image.new("RGB", (40, 30)).save(tmp_path / "3.png")
    start = time.perf_counter()
    table = read_coco(path)
    assert time.perf_counter() - start < 60
    assert table.num_objects == 10**6


def test_random_damage_gives_findings_or_clear_errors(tmp_path, rng):
    annotations = [entry(k, segmentation=[[2, 3, 12, 3, 12, 11]], area=3) for k in range(3)]
    path = write_set(tmp_path, annotations=annotations)
    whole = np.frombuffer(path.read_bytes(), np.uint8)
    outcomes = set()
    for _ in range(300):
        data = whole.copy()
        places = rng.integers(0, len(data), rng.integers(1, 4))
        data[places] = rng.integers(32, 127, len(places))
        path.write_bytes(data[: rng.integers(1, 2 * len(data))].tobytes())
        try:
            DetectionDataset(read_coco(path, tmp_path)).target(0)
            outcomes.add("read")
        except (BadLabelsError, ValueError, UserWarning) as error:
            outcomes.add(type(error).__name__)
    assert {"read", "BadLabelsError", "ValueError"} <= outcomes
