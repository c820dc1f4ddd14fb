"""Lists, cameras and streams, and models of other tasks than detection."""

import io
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from halves import Halves
from media_files import save_image, save_video
from PIL import Image

from cvlib.models import TinySSD, create_model
from cvlib.predict import Sources, Views, predict
from cvlib.predict.sources import is_stream, read_stream
from cvlib.structures import Classification, Segmentation


@pytest.fixture
def camera(tmp_path, monkeypatch):
    """List of opened sources; camera 3 shows the five frames of a video."""
    path, opened = save_video(tmp_path / "camera.mp4"), []
    real = cv2.VideoCapture

    def open_capture(source):
        opened.append(source)
        return real(str(path) if source in (3, "rtsp://me:secret@host:554/door") else "nothing.mp4")

    monkeypatch.setattr(cv2, "VideoCapture", open_capture)
    return opened


@pytest.mark.parametrize(
    "text, expected",
    [
        ("0", True),
        ("webcam:12", True),
        ("rtsp://host/door", True),
        ("http://host/a.mjpg", True),
        ("webcam:", False),
        ("-1", False),
        ("a.png", False),
        ("C:/a.png", False),
    ],
)
def test_names_of_cameras_and_streams(text, expected):
    assert is_stream(text) is expected


def test_a_file_comes_before_a_camera_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "0").mkdir()
    save_image(tmp_path / "0" / "a.png")
    assert not is_stream("0")
    assert [frame.path for frame in Sources(("0",)).frames()] == [Path("0/a.png")]


def test_a_camera_gives_frames_with_numbers_and_a_name(camera):
    frames = list(read_stream("webcam:3"))
    assert camera == [3]
    assert [frame.number for frame in frames] == [0, 1, 2, 3, 4]
    assert {frame.name for frame in frames} == {f"webcam-3#{i}" for i in range(5)}
    assert frames[0].rate == pytest.approx(10)


def test_an_address_is_opened_as_it_is_and_named_without_its_password(camera):
    frames = list(read_stream("rtsp://me:secret@host:554/door"))
    assert camera == ["rtsp://me:secret@host:554/door"]
    assert frames[0].path == Path("rtsp-host-door")


def test_a_camera_that_is_not_there(camera):
    with pytest.raises(ValueError, match=r"read_stream: expected a camera or stream .*webcam-9"):
        list(read_stream("9"))


def test_live_images_do_not_wait_for_a_batch(camera):
    results = predict(TinySSD(("cat",), (64, 64)), "3", batch_size=100)
    frame, _ = next(results)
    assert frame.number == 0
    assert len(list(results)) == 4


def test_a_list_is_read_as_it_comes(tmp_path):
    """The second line is read only after the first image."""
    save_image(tmp_path / "a.png")

    class Lines:
        count = 0

        def __iter__(self):
            for _ in range(1000):
                self.count += 1
                yield f"{tmp_path / 'a.png'}\r\n"

    lines = Lines()
    frames = Sources(("-",), lines).frames()
    for expected in (1, 2, 3):
        assert next(frames).path == tmp_path / "a.png"
        assert lines.count == expected


def test_listed_names_need_not_be_utf8(tmp_path):
    strange = save_image(tmp_path / "a.png").rename(tmp_path / "caf\udce9.png")
    stdin = io.TextIOWrapper(io.BytesIO(os.fsencode(strange) + b"\n"), encoding="utf-8")
    assert [frame.path for frame in Sources(("-",), stdin).frames()] == [strange]


def test_empty_lines_name_nothing(tmp_path):
    path = save_image(tmp_path / "a b .png")
    sources = Sources(("-",), io.StringIO(f"\n{path}\n\n"))
    assert [frame.path for frame in sources.frames()] == [path]
    assert sources.is_endless and not sources.is_live and sources.files == ()


def test_all_sources_are_known_before_the_first_is_read(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        Sources((save_image(tmp_path / "a.png"), tmp_path / "gone.png"))


def test_results_in_a_folder_that_comes_later_are_no_sources(tmp_path):
    first, second = save_image(tmp_path / "x" / "a.png"), save_image(tmp_path / "y" / "b.png")
    frames = Sources((tmp_path / "x", tmp_path / "y")).frames()
    assert next(frames).path == first
    save_image(tmp_path / "y" / "found" / "a.png")
    assert [frame.path for frame in frames] == [second]


def test_a_file_that_is_given_and_listed_comes_once(tmp_path):
    path, other = save_image(tmp_path / "a.png"), save_image(tmp_path / "b.png")
    sources = Sources((path, "-"), io.StringIO(f"{path}\n{other}\n"))
    assert [frame.path for frame in sources.frames()] == [path, other]


@pytest.mark.parametrize("names, message", [((), "at least one source"), (("-", "-"), '"-" once')])
def test_wrong_sources(names, message):
    with pytest.raises(ValueError, match=f"Sources: expected {message}"):
        Sources(names)


def test_a_listed_file_that_is_gone_is_skipped_and_reported(tmp_path):
    skipped = []
    sources = Sources(
        ("-",), io.StringIO(f"{tmp_path / 'gone.png'}\n{save_image(tmp_path / 'a.png')}\n")
    )
    frames = sources.frames(lambda path, error: skipped.append((path.name, type(error).__name__)))
    assert [frame.path.name for frame in frames] == ["a.png"]
    assert [name for name, _ in skipped] == ["gone.png"]
    with pytest.raises((OSError, ValueError), match=r"gone\.png"):
        list(Sources(("-",), io.StringIO(f"{tmp_path / 'gone.png'}\n")).frames())


@pytest.fixture(scope="module")
def classifier():
    torch.manual_seed(0)
    return create_model("squeezenet1_1", ("ant", "bee", "wasp"), image_size=(64, 64))


def test_a_classifier_gives_probabilities(classifier):
    images = [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for size in ((80, 64), (70, 90))]
    for image, result in zip(images, classifier.predict(images), strict=True):
        assert isinstance(result, Classification)
        assert result.probabilities.sum() == pytest.approx(1, abs=1e-5)
        classifier.eval()
        with torch.no_grad():
            (alone,) = classifier.decode(classifier(classifier.framing.batch([image])[0]))
        torch.testing.assert_close(result.probabilities, alone.probabilities)


def test_a_mirrored_view_of_a_classifier_is_averaged(classifier, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    ((frame, result),) = predict(classifier, tmp_path, views=Views(flip=True))
    plain, mirrored = classifier.predict([frame.image, frame.image.flip(-1)])
    expected = (plain.probabilities + mirrored.probabilities) / 2
    torch.testing.assert_close(result.probabilities, expected)
    assert not torch.allclose(plain.probabilities, mirrored.probabilities)


def test_tiles_and_scales_are_not_for_classifiers(classifier, tmp_path):
    save_image(tmp_path / "a.png")
    with pytest.raises(ValueError, match="expected `views` without tiles and scales"):
        list(predict(classifier, tmp_path, views=Views(tile=32)))


def test_views_are_not_for_segmentation(tmp_path):
    save_image(tmp_path / "a.png")
    with pytest.raises(TypeError, match=r"expected `views` only .* are Segmentation"):
        list(predict(Halves(), tmp_path, views=Views(flip=True)))


def test_class_maps_have_the_size_of_their_image():
    sizes = [(40, 60), (32, 32), (7, 5)]
    images = [torch.zeros(3, *size, dtype=torch.uint8) for size in sizes]
    for size, result in zip(sizes, Halves().predict(images), strict=True):
        assert isinstance(result, Segmentation)
        assert result.size == size
        assert result.labels[-1, 0] == 0
        assert result.labels[-1, -1] == 1
