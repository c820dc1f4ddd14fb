"""Lists, cameras and streams, and models of other tasks than detection."""

import io
import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from cvlib.models import Model, TinySSD, create_model
from cvlib.predict import Classification, Sources, Views, is_stream, look, predict, read_stream
from cvlib.predict.writers import OutputFolder, Writers
from cvlib.structures import Segmentation


def save(path, size=(60, 40)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (200, 100, 50)).save(path)
    return path


def save_video(path, frames=5, size=(64, 48)):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10, size)
    for number in range(frames):
        writer.write(np.full((size[1], size[0], 3), 30 + 40 * number, np.uint8))
    writer.release()
    return path


class Halves(Model):
    """The left half of every image is class 0, the right half class 1, the first row void."""

    task = "segmentation"
    name = "halves"

    def __init__(self):
        super().__init__(("left", "right"), (32, 32))

    def forward(self, images):
        return images

    def loss(self, raw, targets):
        raise NotImplementedError

    def decode(self, raw):
        maps = torch.zeros(len(raw), 32, 32, dtype=torch.uint8)
        maps[:, :, 16:] = 1
        maps[:, 0] = 255
        return maps


@pytest.fixture
def camera(tmp_path, monkeypatch):
    """Camera 3 gives the five frames of a video; what was opened is on record."""
    path, opened = save_video(tmp_path / "camera.mp4"), []
    real = cv2.VideoCapture

    def open_capture(what):
        opened.append(what)
        return real(str(path) if what in (3, "rtsp://me:secret@host:554/door") else "nothing.mp4")

    monkeypatch.setattr(cv2, "VideoCapture", open_capture)
    return opened


# --- sources ---------------------------------------------------------------------------------


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
def test_what_names_a_camera_or_stream(text, expected):
    assert is_stream(text) is expected


def test_a_file_comes_before_a_camera_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "0").mkdir()
    save(tmp_path / "0" / "a.png")
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
    """The second line is asked for only after the first image has been given."""
    save(tmp_path / "a.png")

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
    strange = save(tmp_path / "a.png").rename(tmp_path / "caf\udce9.png")
    stdin = io.TextIOWrapper(io.BytesIO(os.fsencode(strange) + b"\n"), encoding="utf-8")
    assert [frame.path for frame in Sources(("-",), stdin).frames()] == [strange]


def test_empty_lines_name_nothing(tmp_path):
    path = save(tmp_path / "a b .png")
    sources = Sources(("-",), io.StringIO(f"\n{path}\n\n"))
    assert [frame.path for frame in sources.frames()] == [path]
    assert sources.is_endless and not sources.is_live and sources.files == ()


def test_all_sources_are_known_before_the_first_is_read(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        Sources((save(tmp_path / "a.png"), tmp_path / "gone.png"))


def test_results_in_a_folder_that_comes_later_are_no_sources(tmp_path):
    first, second = save(tmp_path / "x" / "a.png"), save(tmp_path / "y" / "b.png")
    frames = Sources((tmp_path / "x", tmp_path / "y")).frames()
    assert next(frames).path == first
    save(tmp_path / "y" / "found" / "a.png")
    assert [frame.path for frame in frames] == [second]


def test_a_file_that_is_given_and_listed_comes_once(tmp_path):
    path, other = save(tmp_path / "a.png"), save(tmp_path / "b.png")
    sources = Sources((path, "-"), io.StringIO(f"{path}\n{other}\n"))
    assert [frame.path for frame in sources.frames()] == [path, other]


@pytest.mark.parametrize("given, words", [((), "at least one source"), (("-", "-"), '"-" once')])
def test_wrong_sources(given, words):
    with pytest.raises(ValueError, match=f"Sources: expected {words}"):
        Sources(given)


def test_a_listed_file_that_is_gone_is_skipped_and_told(tmp_path):
    told = []
    sources = Sources(("-",), io.StringIO(f"{tmp_path / 'gone.png'}\n{save(tmp_path / 'a.png')}\n"))
    frames = sources.frames(lambda path, error: told.append((path.name, type(error).__name__)))
    assert [frame.path.name for frame in frames] == ["a.png"]
    assert [name for name, _ in told] == ["gone.png"]
    with pytest.raises((OSError, ValueError), match=r"gone\.png"):
        list(Sources(("-",), io.StringIO(f"{tmp_path / 'gone.png'}\n")).frames())


# --- models of other tasks -------------------------------------------------------------------


@pytest.fixture(scope="module")
def classifier():
    torch.manual_seed(0)
    return create_model("squeezenet1_1", ("ant", "bee", "wasp"), image_size=(64, 64))


def test_a_classifier_gives_probabilities(classifier):
    images = [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for size in ((80, 64), (70, 90))]
    for image, found in zip(images, look(classifier, images), strict=True):
        assert isinstance(found, Classification)
        assert found.probabilities.sum() == pytest.approx(1, abs=1e-5)
        classifier.eval()
        with torch.no_grad():
            alone = classifier.decode(classifier(classifier.resize(image)[None]))[0]
        torch.testing.assert_close(found.probabilities, alone)


def test_a_mirrored_view_of_a_classifier_is_averaged(classifier, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    ((frame, found),) = predict(classifier, tmp_path, views=Views(flip=True))
    one, other = look(classifier, [frame.image, frame.image.flip(-1)])
    expected = (one.probabilities + other.probabilities) / 2
    torch.testing.assert_close(found.probabilities, expected)
    assert not torch.allclose(one.probabilities, other.probabilities)


def test_tiles_and_scales_are_not_for_classifiers(classifier, tmp_path):
    save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="expected a detector for tiles and scales"):
        list(predict(classifier, tmp_path, views=Views(tile=32)))


def test_views_are_not_for_segmentation(tmp_path):
    save(tmp_path / "a.png")
    with pytest.raises(TypeError, match="expected a model for detection or classification"):
        list(predict(Halves(), tmp_path, views=Views(flip=True)))


def test_class_maps_have_the_size_of_their_image():
    sizes = [(40, 60), (32, 32), (7, 5)]
    images = [torch.zeros(3, *size, dtype=torch.uint8) for size in sizes]
    for size, found in zip(sizes, look(Halves(), images), strict=True):
        assert isinstance(found, Segmentation)
        assert found.size == size
        assert found.labels[-1, 0] == 0
        assert found.labels[-1, -1] == 1


# --- writers ---------------------------------------------------------------------------------


def write(model, sources, out, kinds, **options):
    sources = Sources(tuple(sources))
    with Writers(OutputFolder(out, sources, **options), kinds, model) as writers:
        for frame, found in predict(model, sources, score_threshold=0.005):
            writers.write(frame, found)
    return writers


def test_writers_of_class_maps(tmp_path):
    source = save(tmp_path / "a.png")
    out = tmp_path / "out"
    write(Halves(), [source], out, ["images", "masks", "csv", "json"])
    with Image.open(out / "masks" / "a.png") as mask:
        assert mask.mode == "P"
        labels = np.asarray(mask)
    assert labels.shape == (40, 60)
    assert set(np.unique(labels)) == {0, 1, 255}
    assert (labels[5:, :28] == 0).all() and (labels[5:, 32:] == 1).all()
    with Image.open(out / "a.png") as image:
        drawn = np.asarray(image)
    assert (drawn[0] == (200, 100, 50)).all(), "void keeps its pixels"
    assert (drawn[20, 5] != drawn[20, 55]).any()
    (row,) = json.loads((out / "predictions.json").read_text())
    assert set(row["shares"]) == {"left", "right"}
    lines = (out / "predictions.csv").read_text().splitlines()
    assert lines[0] == "file,frame,class,share"
    assert len(lines) == 3


def test_writers_of_classes(tmp_path, classifier):
    source = save(tmp_path / "a.png", (300, 200))
    out = tmp_path / "out"
    write(classifier, [source], out, ["images", "csv", "json"])
    (row,) = json.loads((out / "predictions.json").read_text())
    assert row["classes"][0]["class"] in classifier.classes
    assert sum(one["probability"] for one in row["classes"]) == pytest.approx(1, abs=1e-3)
    header, line = (out / "predictions.csv").read_text().splitlines()
    assert header == "file,frame,class,probability"
    assert line.split(",")[2] == row["classes"][0]["class"]


def test_frames_of_a_video_in_every_file(tmp_path):
    source = save_video(tmp_path / "clip.mp4", frames=3)
    out = tmp_path / "out"
    model = TinySSD(("cat",), (64, 64))
    write(model, [source], out, ["images", "yolo", "csv", "json", "coco"])
    assert sorted(p.name for p in (out / "labels").iterdir()) == [
        f"clip-{i:06}.txt" for i in range(3)
    ]
    reader = cv2.VideoCapture(str(out / "clip.mp4"))
    assert reader.get(cv2.CAP_PROP_FRAME_COUNT) == 3
    assert reader.get(cv2.CAP_PROP_FPS) == pytest.approx(10)
    reader.release()
    images = json.loads((out / "predictions-coco-images.json").read_text())["images"]
    assert [one["file_name"] for one in images] == [f"{source}#{i}" for i in range(3)]
    assert not list(out.rglob(".*")), "nothing temporary is left"


def test_what_was_found_before_a_failure_is_kept_and_whole(tmp_path):
    source = save_video(tmp_path / "clip.mp4", frames=4)
    sources = Sources((source,))
    model = TinySSD(("cat",), (64, 64))
    folder = OutputFolder(tmp_path / "out", sources)
    with (
        pytest.raises(KeyboardInterrupt),
        Writers(folder, ["images", "json", "csv"], model) as writers,
    ):
        for frame, found in predict(model, sources, batch_size=1):
            assert not (tmp_path / "out" / "predictions.json").exists(), "not before it is whole"
            writers.write(frame, found)
            if frame.number == 1:
                raise KeyboardInterrupt
    assert len(json.loads((tmp_path / "out" / "predictions.json").read_text())) == 2
    reader = cv2.VideoCapture(str(tmp_path / "out" / "clip.mp4"))
    assert reader.get(cv2.CAP_PROP_FRAME_COUNT) == 2
    reader.release()


def test_a_name_that_is_no_utf8(tmp_path):
    source = save(tmp_path / "a.png")
    strange = source.rename(tmp_path / "caf\udce9.png")
    write(TinySSD(("cat",), (64, 64)), [strange], tmp_path / "out", ["csv", "json", "images"])
    assert json.loads((tmp_path / "out" / "predictions.json").read_text())[0]["file"] == str(
        strange
    )
    assert b"caf\xe9.png" in (tmp_path / "out" / "predictions.csv").read_bytes()


@pytest.mark.parametrize(
    "content, words",
    [
        ("[]", "expected a COCO file with images and categories"),
        ("{", "expected a COCO file with images and categories"),
        ('{"images": [], "categories": [{"id": 1, "name": "dog"}]}', "none for cat; it has dog"),
    ],
)
def test_wrong_coco_files(tmp_path, content, words):
    sources = Sources((save(tmp_path / "a.png"),))
    (tmp_path / "data.json").write_text(content)
    model = TinySSD(("cat",), (64, 64))
    with pytest.raises(ValueError, match=words):
        Writers(OutputFolder(tmp_path / "out", sources), ["coco"], model, tmp_path / "data.json")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kinds, words", [(["pdf"], "among"), (["masks"], "for segmentation")])
def test_wrong_kinds(tmp_path, kinds, words):
    sources = Sources((save(tmp_path / "a.png"),))
    with pytest.raises(ValueError, match=f"Writers: expected .*{words}"):
        Writers(OutputFolder(tmp_path / "out", sources), kinds, TinySSD(("cat",), (64, 64)))


def test_ids_are_for_coco(tmp_path):
    sources = Sources((save(tmp_path / "a.png"),))
    folder = OutputFolder(tmp_path / "out", sources)
    with pytest.raises(ValueError, match="Writers: expected kind 'coco'"):
        Writers(folder, ["csv"], TinySSD(("cat",), (64, 64)), tmp_path / "data.json")


def test_folders_that_are_refused(tmp_path):
    source = save(tmp_path / "a.png")
    with pytest.raises(FileExistsError, match="OutputFolder: expected a new or empty folder"):
        OutputFolder(tmp_path, Sources((source,)))
    with pytest.raises(NotADirectoryError, match="OutputFolder: expected a folder, got the file"):
        OutputFolder(source, Sources((source,)))
    with pytest.raises(ValueError, match=r"OutputFolder: .*list from standard input"):
        OutputFolder(tmp_path, Sources(("-",), io.StringIO()), overwrite=True)
    folder = OutputFolder(tmp_path, Sources((source,)), overwrite=True)
    with pytest.raises(FileExistsError, match="expected another file than the source"):
        folder.file("a.png")
