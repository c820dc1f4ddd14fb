"""Reading text, paths within a folder, listing images. (Writing: tests/engine.)"""

import os

import pytest

from cvlib._files import inside, list_images, read_bytes, read_text


def write(path, data):
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("data", ["Größe\n".encode(), "Größe\n".encode("utf-8-sig")])
def test_utf_8_with_and_without_mark(tmp_path, data):
    assert read_text(write(tmp_path / "a", data), "f") == "Größe\n"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("x\ny é".encode("latin-1"), "expected a list in UTF-8, got byte 0xe9 in line 2 of"),
        ("a".encode("utf-16"), "expected a list in UTF-8, got UTF-16 in"),
        (b"ab\0", "expected a list, got a zero byte at byte 2 of"),
        (b"version https://git-lfs.github.com/spec/v1\n", "got a Git LFS pointer in .*git lfs"),
    ],
)
def test_files_that_are_not_text(tmp_path, data, message):
    with pytest.raises(ValueError, match=f"^f: .*{message}.*"):
        read_text(write(tmp_path / "a", data), "f", "a list")


def test_paths_that_are_not_files(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", ""):
        with pytest.raises(
            FileNotFoundError, match=r"f: expected a file, got .*, which is not a file"
        ):
            read_bytes(tmp_path / name, "f")
    with pytest.raises(FileNotFoundError, match=r"f: expected text, got .*b, which does not exist"):
        read_text(tmp_path / "b", "f")


@pytest.mark.parametrize(
    "name", ["a.png", "a/b.png", "./a.png", "a..b.png", "..a/b.png", "Ä/ü.png"]
)
def test_paths_that_stay(tmp_path, name):
    assert inside(tmp_path, name) == tmp_path / name


@pytest.mark.parametrize(
    "name",
    [
        "..",
        "../a.png",
        "a/../../b.png",
        "a/../b.png",
        "..\\a.png",
        "a\\..\\..\\b.png",
        "/etc/passwd",
        "\\\\server\\share\\a.png",
        "C:\\a.png",
        "c:a.png",
        "a\0.png",
    ],
)
def test_paths_that_climb_out(tmp_path, name):
    with pytest.raises(ValueError, match=r"expected a path inside of .*, got .*; move the file"):
        inside(tmp_path, name)


@pytest.mark.parametrize("name", ["", "  ", None, 5, ["a"], b"a.png", "\ud800.png"])
def test_values_that_are_not_paths(tmp_path, name):
    with pytest.raises(ValueError, match="expected the path of a file, got"):
        inside(tmp_path, name)


def test_backslashes_separate_unless_a_file_has_one(tmp_path):
    assert inside(tmp_path, "a\\b.png") == tmp_path / "a" / "b.png"
    (tmp_path / "a\\b.png").touch()
    assert inside(tmp_path, "a\\b.png") == tmp_path / "a\\b.png"


def test_links_are_followed(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "far/a.png").touch()
    (tmp_path / "set").mkdir()
    (tmp_path / "set/images").symlink_to(tmp_path / "far")
    assert inside(tmp_path / "set", "images/a.png").is_file()


def test_images_of_all_kinds_in_order(tmp_path):
    for name in (
        "b.PNG",
        "a/z.jpeg",
        "a/b/c.webp",
        "x.txt",
        ".hidden.png",
        ".git/a.png",
        "a.png.md",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert list_images(tmp_path) == ["a/b/c.webp", "a/z.jpeg", "b.PNG"]
    assert list_images(tmp_path, (".txt",)) == ["x.txt"]


def test_loops_of_links_end(tmp_path):
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/c.png").touch()
    (tmp_path / "a/b/up").symlink_to(tmp_path)
    (tmp_path / "a/again").symlink_to(tmp_path / "a")
    (tmp_path / "self").symlink_to(tmp_path / "self")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    assert list_images(tmp_path) == ["a/b/c.png"]


def test_links_to_folders_and_images_elsewhere(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "far/a.png").touch()
    (tmp_path / "set").mkdir()
    (tmp_path / "set/images").symlink_to(tmp_path / "far")
    (tmp_path / "set/b.png").symlink_to(tmp_path / "far/a.png")
    assert list_images(tmp_path / "set") == ["b.png", "images/a.png"]


def test_names_that_are_not_utf_8(tmp_path):
    with open(os.fsencode(tmp_path) + b"/\xff.png", "wb") as file:
        file.write(b"x")
    (name,) = list_images(tmp_path)
    assert os.fsencode(name) == b"\xff.png"
    assert inside(tmp_path, name).read_bytes() == b"x"
