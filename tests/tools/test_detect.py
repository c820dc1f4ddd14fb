"""tools/detect.py, run as a process."""

import json
import re

import cv2
import numpy as np
import pytest
import torch
from children import Tool
from PIL import Image

from cvlib.engine.checkpoint import save_checkpoint
from cvlib.models import TinySSD

LOW = ["--score-threshold", "0.005", "--device", "cpu"]


@pytest.fixture
def tool(tmp_path):
    return Tool("detect.py", tmp_path)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A run folder with an untrained model: many objects, all unlikely."""
    run = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    net = TinySSD(("cat", "dog"), (64, 64))
    state = {"model": net.state_dict(), "classes": ["cat", "dog"], "image_size": [64, 64]}
    save_checkpoint(run / "best.pt", state)
    return run


def save(path, size=(80, 60), seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    return path


def save_video(path, frames=4, size=(64, 48)):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 12, size)
    for number in range(frames):
        noise = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3))
        writer.write(noise.astype(np.uint8))
    writer.release()
    return path


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def rows(folder):
    return json.loads((folder / "predictions.json").read_text())


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


# --- runs


def test_a_folder_and_a_video(tool, tmp_path, model):
    save(tmp_path / "photos" / "a.png")
    save(tmp_path / "photos" / "sub" / "b.jpg", size=(50, 90), seed=1)
    save_video(tmp_path / "clip.mp4")
    assert tool(model, "photos", "clip.mp4", "--out", "found", *LOW) == 0, tool.err
    out = tmp_path / "found"
    assert names(out) == ["a.png", "b.png", "clip.mp4", "predictions.json"]
    results = rows(out)
    assert [row["file"] for row in results] == ["photos/a.png", "photos/sub/b.jpg"] + [
        "clip.mp4"
    ] * 4
    assert [row.get("frame") for row in results] == [None, None, 0, 1, 2, 3]
    for row, (width, height) in zip(results, [(80, 60), (50, 90)] + [(64, 48)] * 4, strict=True):
        assert len(row["objects"]) > 0
        for one in row["objects"]:
            assert one["class"] in ("cat", "dog")
            assert 0.005 <= one["score"] <= 1
            x1, y1, x2, y2 = one["box"]
            assert 0 <= x1 <= x2 <= width
            assert 0 <= y1 <= y2 <= height
        assert (tmp_path / row["annotated"]).is_file()
    for name, source in (("a.png", "a.png"), ("b.png", "sub/b.jpg")):
        one, other = pixels(out / name), pixels(tmp_path / "photos" / source)
        assert one.shape == other.shape
        assert (one != other).any(), "nothing was drawn"
    reader = cv2.VideoCapture(str(out / "clip.mp4"))
    assert reader.get(cv2.CAP_PROP_FRAME_COUNT) == 4
    assert reader.get(cv2.CAP_PROP_FPS) == pytest.approx(12)
    assert reader.read()[1].shape == (48, 64, 3)
    reader.release()
    objects = sum(len(row["objects"]) for row in results)
    assert f"{objects} objects in 6 images" in tool.out
    assert "found" in tool.out


def test_a_checkpoint_and_a_pattern(tool, tmp_path, model):
    for name in ("a1.png", "a2.png", "b.png"):
        save(tmp_path / name)
    assert tool(model / "best.pt", "a*.png", "--out", "found", *LOW) == 0, tool.err
    assert [row["file"] for row in rows(tmp_path / "found")] == ["a1.png", "a2.png"]


def test_equal_names_do_not_overwrite_one_another(tool, tmp_path, model):
    for seed, name in enumerate(("x/a.png", "x/a.jpg", "y/a.png", "y/a-2.png")):
        save(tmp_path / name, seed=seed)
    assert tool(model, "x", "y", "--out", "found", *LOW) == 0, tool.err
    annotated = [row["annotated"] for row in rows(tmp_path / "found")]
    assert len(set(annotated)) == 4
    assert all((tmp_path / path).is_file() for path in annotated)


def test_a_high_threshold_finds_nothing_and_still_writes(tool, tmp_path, model):
    save(tmp_path / "a.png")
    arguments = ["--out", "found", "--score-threshold", "0.999", "--device", "cpu"]
    assert tool(model, "a.png", *arguments) == 0, tool.err
    assert rows(tmp_path / "found")[0]["objects"] == []
    assert (pixels(tmp_path / "found" / "a.png") == pixels(tmp_path / "a.png")).all()


def test_the_input_is_left_alone(tool, tmp_path, model):
    before = save(tmp_path / "photos" / "a.png").read_bytes()
    assert tool(model, "photos", *LOW) == 0, tool.err
    assert names(tmp_path) == ["detections", "photos", "stderr", "stdout"]
    assert names(tmp_path / "photos") == ["a.png"]
    assert (tmp_path / "photos" / "a.png").read_bytes() == before


# --- messages


def test_help_explains_every_option(tool):
    assert tool("--help") == 0
    text = re.sub(r"[│╭╮╰╯─]", " ", tool.out)
    options = re.split(r"\n\s+(?=-)", text.partition(" options ")[2])[1:]
    named = {option.split()[0].rstrip(",") for option in options}
    assert {"--out", "--score-threshold", "--batch-size", "--device"} <= named
    for option in options:
        words = re.sub(r"\(default: .*?\)|-[-\w]+,?|\{.*?\}(\|[A-Z]+)?|[A-Z]{2,}", " ", option)
        assert len(words.split()) >= 3, f"no explanation: {option}"
    assert "Checkpoint or run folder" in text
    assert "Images, folders, glob patterns or videos" in text


def test_a_missing_model(tool, tmp_path):
    save(tmp_path / "a.png")
    tool.assert_explained(tool("nowhere.pt", "a.png"), "nowhere.pt", "does not exist")


def test_a_file_that_is_not_a_model(tool, tmp_path):
    save(tmp_path / "a.png")
    (tmp_path / "model.pt").write_text("weights")
    assert tool("model.pt", "a.png", *LOW) == 1
    assert "Traceback" not in tool.err
    assert re.match(r"detect: load_checkpoint: .*model\.pt, which is damaged", tool.err)


@pytest.mark.parametrize("source", ["nowhere.png", "nowhere/", "no*.jpg", "empty"])
def test_missing_images(tool, tmp_path, model, source):
    (tmp_path / "empty").mkdir()
    code = tool(model, source, "--out", "found", *LOW)
    tool.assert_explained(code, "expected images", source.strip("/"))
    assert not (tmp_path / "found").exists(), "nothing is written for nothing"


def test_a_damaged_image(tool, tmp_path, model):
    path = save(tmp_path / "a.png")
    path.write_bytes(path.read_bytes()[:200])
    save(tmp_path / "b.png")
    assert tool(model, "a.png", "b.png", *LOW) == 1
    assert "Traceback" not in tool.err
    assert re.search(r"skipped: read_image: expected a complete PNG.*a\.png", tool.err)
    assert "1 of 2 files are damaged" in tool.err.splitlines()[-1]
    rows = json.loads((tmp_path / "detections" / "predictions.json").read_text())
    assert [row["file"] for row in rows] == ["b.png", "a.png"]
    assert "error" in rows[1], "the damage is on record"


def test_a_damaged_video(tool, tmp_path, model):
    (tmp_path / "a.mp4").write_bytes(b"no video")
    code = tool(model, "a.mp4", *LOW)
    assert code == 1
    assert "Traceback" not in tool.err
    # OpenCV and FFmpeg may have printed messages before.
    assert re.search(r"skipped: read_frames: .*a\.mp4, which is damaged", tool.err)


@pytest.mark.parametrize("threshold", ["-0.1", "1.5", "nan"])
def test_a_threshold_that_no_score_can_have(tool, tmp_path, model, threshold):
    save(tmp_path / "a.png")
    code = tool(model, "a.png", "--score-threshold", threshold)
    tool.assert_explained(code, "--score-threshold")


def test_an_out_that_is_a_file(tool, tmp_path, model):
    save(tmp_path / "a.png")
    (tmp_path / "found").touch()
    tool.assert_explained(tool(model, "a.png", "--out", "found", *LOW), "found")


@pytest.mark.parametrize("device", ["gpu", "cuda"])
def test_a_device_that_is_missing(tool, tmp_path, model, device):
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    save(tmp_path / "a.png")
    tool.assert_explained(tool(model, "a.png", "--device", device))
    assert "damaged" not in tool.err


def test_sources_are_not_overwritten(tool, tmp_path, model):
    before = save(tmp_path / "photos" / "a.png").read_bytes()
    tool(model, "photos", "--out", "photos", *LOW)
    assert (tmp_path / "photos" / "a.png").read_bytes() == before
