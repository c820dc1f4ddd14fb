"""data.yaml of read_yolo: class names, splits and paths, valid and hostile."""

import pytest
from label_files import BOX, NAMES, YAML, codes, image, make_yolo

from cvlib.data.formats.yolo import read_yolo


@pytest.mark.parametrize(
    "names",
    ["names: [no, 1.10]", "names:\n  0: no\n  1: 1.10", "names:\n  1: 1.10\n  0: 'no'"],
)
def test_names_are_text_and_in_order(tmp_path, names):
    root = make_yolo(tmp_path, {"a": BOX}, f"train: images/train\n{names}\n")
    assert read_yolo(root, "train").classes == ("no", "1.10")


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("train: images/train\n", "expected names to be a list or a dictionary"),
        ("train: images/train\nnames:\n", "expected names to be a list or a dictionary"),
        ("train: images/train\nnames: cat\n", "expected names to be a list or a dictionary"),
        ("train: images/train\nnames: [[cat]]\n", "expected names to be a list or a dictionary"),
        ("train: images/train\nnames: {0: cat, 2: dog}\n", "expected names of the classes 0..1 in"),
        ("train: images/train\nnames: {a: cat}\n", "with the numbers 0, 1, ... as keys"),
        ("train: images/train\nnames: [cat, cat]\n", "got 'cat' twice"),
        (f"train: images/train\nnc: 3\n{NAMES}", "nc to be the number of names, 2, got '3'"),
        (f"nc: 2\n{NAMES}", "expected train, val or test in"),
        (f"train: {{a: b}}\n{NAMES}", "expected train to be a folder, a list of folders or a .txt"),
        (f"train: images/photos\n{NAMES}", "images/photos, which does not exist"),
        (f"train: images/train\ntrain: images/val\n{NAMES}", "got: the key 'train' twice"),
        (f"{NAMES}train: [images/train\n", "expected plain YAML in"),
        (f"{NAMES}train: !!python/object/apply:os.system [ls]\n", "expected train to be a folder"),
        (f"{NAMES}train: {'[' * 100_000}\n", "got: lists nested more than 10 deep"),
        (f"train: images/train\nkpt_shape: [17, 3]\n{NAMES}", "got kpt_shape in"),
    ],
)
def test_bad_yaml(tmp_path, yaml, message):
    root = make_yolo(tmp_path, {"a": BOX}, yaml)
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        read_yolo(root / "data.yaml", "train")
    assert message in str(caught.value)


def test_yaml_bomb(tmp_path):
    bomb = "a: &a [x, x]\n" + "".join(
        f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n"
        for old, new in zip("abcdefgh", "bcdefghi", strict=True)
    )
    root = make_yolo(tmp_path, {"a": BOX}, f"{bomb}names: *i\ntrain: images/train\n")
    with pytest.raises(ValueError, match=r"plain YAML in .*data\.yaml, got: the alias \*a"):
        read_yolo(root, "train")


def test_huge_yaml(tmp_path):
    root = make_yolo(tmp_path, {"a": BOX}, f"{YAML}# {'x' * (1 << 20)}\n")
    with pytest.raises(ValueError, match="expected at most 1,048,576 bytes of YAML"):
        read_yolo(root / "data.yaml", "train")


def test_two_yaml_files(tmp_path):
    root = make_yolo(tmp_path, {"a": BOX})
    (root / "dataset.yaml").write_text(YAML)
    with pytest.raises(ValueError, match=r"one data\.yaml .* got data\.yaml, dataset\.yaml"):
        read_yolo(root, "train")
    (root / "dataset.yaml").rename(root / "hyperparameters.yaml")
    assert read_yolo(root, "train").num_objects == 1


def test_split_must_be_one_of_the_file(tmp_path):
    root = make_yolo(tmp_path, {"a": BOX})
    with pytest.raises(ValueError, match=r"`split` to be one of train, val in .*, got None"):
        read_yolo(root)
    with pytest.raises(ValueError, match="got 'test'"):
        read_yolo(root, "test")
    (root / "data.yaml").write_text(f"train: images/train\nval:\ntest: null\n{NAMES}")
    assert read_yolo(root).num_objects == 1


@pytest.mark.parametrize(
    "train",
    ["../../secret", "../secret/images", "/etc", "images/../../secret/images", "..\\secret"],
)
def test_paths_that_climb_out(tmp_path, train):
    image(tmp_path / "secret/images/a.jpg")
    root = make_yolo(tmp_path / "set", {"a": BOX}, f"train: {train}\n{NAMES}")
    with pytest.raises(ValueError, match=r"expected paths inside .*set, got .* in train of"):
        read_yolo(root, "train")


def test_the_root_may_be_widened(tmp_path):
    image(tmp_path / "data/images/a.jpg")
    (tmp_path / "data/labels").mkdir()
    (tmp_path / "data/labels/a.txt").write_text(BOX)
    (tmp_path / "set").mkdir()
    (tmp_path / "set/data.yaml").write_text(f"train: ../data/images\n{NAMES}")
    table = read_yolo(tmp_path / "set/data.yaml", "train", root=tmp_path)
    assert list(table.images) == ["data/images/a.jpg"]


def test_roboflows_paths(tmp_path):
    root = make_yolo(tmp_path / "set", {"a": BOX}, f"train: ../images/train\n{NAMES}")
    assert read_yolo(root, "train").num_objects == 1


def test_path_of_another_machine(tmp_path):
    root = make_yolo(tmp_path, {"a": BOX}, f"path: /content/cats\n{YAML}")
    table = read_yolo(root, "train")
    assert codes(table) == ["other-root"]
    (root / "data.yaml").write_text(f"path: ../cats\ntrain: photos\n{NAMES}")
    with pytest.raises(ValueError, match=r"expected path to be a folder in .*, got '\.\./cats'"):
        read_yolo(root, "train")


def test_path_within(tmp_path):
    make_yolo(tmp_path / "below", {"a": BOX}, None)
    (tmp_path / "data.yaml").write_text(f"path: below\n{YAML}")
    assert read_yolo(tmp_path, "train").num_objects == 1


@pytest.mark.parametrize("place", [".", "set", "../here/set", "set/data.yaml"])
@pytest.mark.parametrize("key", ["", "path: .\n"])
def test_relative_paths(tmp_path, monkeypatch, place, key):
    root = make_yolo(tmp_path / "here/set", {"a": BOX}, yaml=key + YAML)
    (root / "val.txt").write_text("images/train/a.jpg\n")
    (root / "data.yaml").write_text(key + YAML.replace("val: images/val", "val: val.txt"))
    monkeypatch.chdir(root if place == "." else root.parent)
    for split in ("train", "val"):
        assert read_yolo(place, split).num_objects == 1


def test_relative_roots(tmp_path, monkeypatch):
    root = make_yolo(tmp_path / "set", {"a": BOX}, yaml=YAML)
    (root / "yaml").mkdir()
    (root / "data.yaml").rename(root / "yaml/data.yaml")
    (root / "yaml/data.yaml").write_text(YAML.replace("images/", "../images/"))
    monkeypatch.chdir(root / "yaml")
    assert read_yolo("data.yaml", "train", root="..").num_objects == 1


def test_lists_of_folders_and_of_images(tmp_path):
    root = make_yolo(tmp_path, {"a": BOX})
    make_yolo(tmp_path, {"b": BOX}, split="val")
    (root / "data.yaml").write_text(f"train: [images/train, images/val]\nval: val.txt\n{NAMES}")
    (root / "val.txt").write_text(f"./images/val/b.jpg\n\n{root}/images/train/a.jpg\n")
    assert read_yolo(root, "train").num_images == 2
    table = read_yolo(root, "val")
    assert list(table.images) == ["images/val/b.jpg", "images/train/a.jpg"]
    (root / "val.txt").write_text("images/val/b.jpg\n../../secret.jpg\n")
    with pytest.raises(ValueError, match=r"got '.*secret\.jpg' in .*val\.txt, line 2"):
        read_yolo(root, "val")
