"""Files that results are written to."""

import io
import json

import cv2
import numpy as np
import pytest
from halves import Halves
from media_files import save_image, save_video
from PIL import Image

from cvlib.models import TinySSD, create_model
from cvlib.predict import Sources, predict
from cvlib.predict.writers.folder import OutputFolder
from cvlib.predict.writers.result_writers import Writers


def write(model, sources, out, kinds, **options):
    sources = Sources(tuple(sources))
    with Writers(OutputFolder(out, sources, **options), kinds, model) as writers:
        for frame, result in predict(model, sources, score_threshold=0.005):
            writers.write(frame, result)
    return writers


def test_writers_of_class_maps(tmp_path):
    source = save_image(tmp_path / "a.png")
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


def test_writers_of_classes(tmp_path):
    classifier = create_model("squeezenet1_1", ("ant", "bee", "wasp"), image_size=(64, 64))
    source = save_image(tmp_path / "a.png", (300, 200))
    out = tmp_path / "out"
    write(classifier, [source], out, ["images", "csv", "json"])
    (row,) = json.loads((out / "predictions.json").read_text())
    assert row["classes"][0]["class"] in classifier.classes
    assert sum(entry["probability"] for entry in row["classes"]) == pytest.approx(1, abs=1e-3)
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
    assert [image["file_name"] for image in images] == [f"{source}#{i}" for i in range(3)]
    assert not list(out.rglob(".*")), "nothing temporary is left"


def test_results_before_a_failure_are_kept_in_complete_files(tmp_path):
    source = save_video(tmp_path / "clip.mp4", frames=4)
    sources = Sources((source,))
    model = TinySSD(("cat",), (64, 64))
    folder = OutputFolder(tmp_path / "out", sources)
    with (
        pytest.raises(KeyboardInterrupt),
        Writers(folder, ["images", "json", "csv"], model) as writers,
    ):
        for frame, result in predict(model, sources, batch_size=1):
            assert not (tmp_path / "out" / "predictions.json").exists(), "it is not complete yet"
            writers.write(frame, result)
            if frame.number == 1:
                raise KeyboardInterrupt
    assert len(json.loads((tmp_path / "out" / "predictions.json").read_text())) == 2
    reader = cv2.VideoCapture(str(tmp_path / "out" / "clip.mp4"))
    assert reader.get(cv2.CAP_PROP_FRAME_COUNT) == 2
    reader.release()


def test_a_file_name_that_is_not_utf8(tmp_path):
    source = save_image(tmp_path / "a.png")
    strange = source.rename(tmp_path / "caf\udce9.png")
    write(TinySSD(("cat",), (64, 64)), [strange], tmp_path / "out", ["csv", "json", "images"])
    assert json.loads((tmp_path / "out" / "predictions.json").read_text())[0]["file"] == str(
        strange
    )
    assert b"caf\xe9.png" in (tmp_path / "out" / "predictions.csv").read_bytes()


@pytest.mark.parametrize(
    "content, message",
    [
        ("[]", "expected a COCO file with images and categories"),
        ("{", "expected a COCO file with images and categories"),
        ('{"images": [], "categories": [{"id": 1, "name": "dog"}]}', "none for cat; it has dog"),
    ],
)
def test_wrong_coco_files(tmp_path, content, message):
    sources = Sources((save_image(tmp_path / "a.png"),))
    (tmp_path / "data.json").write_text(content)
    model = TinySSD(("cat",), (64, 64))
    with pytest.raises(ValueError, match=message):
        Writers(OutputFolder(tmp_path / "out", sources), ["coco"], model, tmp_path / "data.json")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kinds, message", [(["pdf"], "among"), (["masks"], "for segmentation")])
def test_wrong_kinds(tmp_path, kinds, message):
    sources = Sources((save_image(tmp_path / "a.png"),))
    with pytest.raises(ValueError, match=f"Writers: expected .*{message}"):
        Writers(OutputFolder(tmp_path / "out", sources), kinds, TinySSD(("cat",), (64, 64)))


def test_ids_are_for_coco(tmp_path):
    sources = Sources((save_image(tmp_path / "a.png"),))
    folder = OutputFolder(tmp_path / "out", sources)
    with pytest.raises(ValueError, match="Writers: expected kind 'coco'"):
        Writers(folder, ["csv"], TinySSD(("cat",), (64, 64)), tmp_path / "data.json")


def test_folders_that_are_refused(tmp_path):
    source = save_image(tmp_path / "a.png")
    with pytest.raises(FileExistsError, match="OutputFolder: expected `path` to be a new or empty"):
        OutputFolder(tmp_path, Sources((source,)))
    with pytest.raises(NotADirectoryError, match="expected `path` to be a folder, got the file"):
        OutputFolder(source, Sources((source,)))
    with pytest.raises(ValueError, match=r"OutputFolder: .*list from standard input"):
        OutputFolder(tmp_path, Sources(("-",), io.StringIO()), overwrite=True)
    folder = OutputFolder(tmp_path, Sources((source,)), overwrite=True)
    with pytest.raises(FileExistsError, match="expected another file than the source"):
        folder.file("a.png")
