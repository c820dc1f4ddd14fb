"""Files of every kind, `Model.predict` and `cvlib.predict`: detections in pixels of the image."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from media_files import COLOUR, save_image, save_video
from PIL import Image
from torchvision.transforms.v2.functional import resize

from cvlib.data.files.images import read_image
from cvlib.models import TinySSD
from cvlib.predict import Frame, Views, predict
from cvlib.predict.sources import find_files, is_image, is_video, read_frames


@pytest.fixture
def model():
    """Untrained, but its scores differ from place to place."""
    return TinySSD(("cat", "dog"), (64, 64))


def test_a_folder_is_searched_with_its_subfolders_in_order(tmp_path):
    names = ["b.png", "a.JPG", "sub/c.webp", "sub/deeper/d.mp4"]
    for name in [*names, "notes.txt", "sub/label.csv"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert find_files([tmp_path]) == sorted(tmp_path / name for name in names)


def test_a_folder_holds_images_of_every_kind_that_data_sets_read(tmp_path):
    names = ["a.avif", "b.jfif", "c.jp2", "d.ppm"]
    for name in [*names, ".hidden.png"]:
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path)
    assert [path.name for path in find_files([tmp_path])] == names


def test_files_come_in_the_order_given_and_once(tmp_path):
    first, second = save_image(tmp_path / "z.png"), save_image(tmp_path / "a.png")
    assert find_files([first, tmp_path, str(second)]) == [first, second]


def test_patterns(tmp_path):
    for name in ("a1.png", "a2.png", "b1.png", "sub/a3.png"):
        save_image(tmp_path / name)
    assert [p.name for p in find_files([str(tmp_path / "a*.png")])] == ["a1.png", "a2.png"]
    assert [p.name for p in find_files([str(tmp_path / "**/*.png")])] == [
        "a1.png",
        "a2.png",
        "b1.png",
        "a3.png",
    ]


def test_a_file_whose_name_looks_like_a_pattern(tmp_path):
    path = save_image(tmp_path / "a[1].png")
    assert find_files([path]) == [path]


@pytest.mark.parametrize("source", ["missing.png", "missing/", "no*.png"])
def test_a_source_that_is_not_there_is_named(tmp_path, source):
    with pytest.raises(FileNotFoundError, match="find_files: expected images") as caught:
        find_files([str(tmp_path / source)])
    assert source.strip("/") in str(caught.value)


def test_a_folder_without_images_is_refused(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(FileNotFoundError, match="find_files: expected images"):
        find_files([tmp_path])


def test_one_missing_source_among_others_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="missing"):
        find_files([save_image(tmp_path / "a.png"), tmp_path / "missing"])


def test_kinds_of_files():
    assert is_image(Path("a.JPEG"))
    assert is_video(Path("b.MP4"))
    assert not is_image(Path("b.mp4"))
    assert not is_video(Path("mp4"))


@pytest.mark.parametrize(
    "name, mode, expected",
    [
        ("a.png", "RGB", COLOUR),
        ("a.bmp", "RGB", COLOUR),
        ("a.tif", "RGB", COLOUR),
        ("a.png", "RGBA", COLOUR),
        ("a.png", "L", (124, 124, 124)),
        ("a.png", "LA", (124, 124, 124)),
        ("a.png", "1", (255, 255, 255)),
        ("a.png", "P", COLOUR),
        ("a.gif", "P", COLOUR),
        ("a.jpg", "RGB", COLOUR),
        ("a.jpg", "CMYK", COLOUR),
        ("a.webp", "RGB", COLOUR),
    ],
)
def test_every_kind_of_image_becomes_rgb(tmp_path, name, mode, expected):
    image = read_image(save_image(tmp_path / name, (6, 4), mode))
    assert image.dtype == torch.uint8
    assert image.shape == (3, 4, 6)
    if mode == "1":
        expected = image[0, 0, 0].expand(3)  # dithered: black or white
    middle = image.float().mean((1, 2)) if mode != "1" else image[:, 0, 0]
    # Palettes hold 216 colours, JPEG and WebP lose a little.
    tolerance = 30 if mode == "P" else 4
    assert (middle.float() - torch.as_tensor(expected).float()).abs().max() <= tolerance


def test_transparent_palette(tmp_path):
    image = Image.new("P", (6, 4))
    image.save(tmp_path / "a.png", transparency=bytes([0, 255] * 128))
    assert read_image(tmp_path / "a.png").shape == (3, 4, 6)


@pytest.mark.parametrize(
    "orientation, corner", [(1, (0, 0)), (3, (3, 5)), (6, (0, 3)), (8, (5, 0))]
)
def test_images_are_turned_upright_as_exif_says(tmp_path, orientation, corner):
    # A camera held sideways writes rows as it sees them and notes how to turn them.
    pixels = np.zeros((4, 6, 3), np.uint8)
    pixels[0, 0] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    image = read_image(tmp_path / "a.png")
    assert image.shape == ((3, 4, 6) if orientation in (1, 3) else (3, 6, 4))
    assert tuple((image[0] == 255).nonzero()[0].tolist()) == corner


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.7])
def test_a_truncated_image_is_named(tmp_path, suffix, share):
    path = tmp_path / f"a{suffix}"
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ValueError, match=rf"read_image: expected .*a{suffix}; restore or remove"):
        read_image(path)


def test_a_text_file_is_no_image(tmp_path):
    (tmp_path / "a.png").write_text("I am an image")
    with pytest.raises(ValueError, match="read_image: expected a complete image"):
        read_image(tmp_path / "a.png")


def test_frames_of_a_video_in_order(tmp_path):
    frames = list(read_frames(save_video(tmp_path / "clip.mp4")))
    assert [frame.number for frame in frames] == [0, 1, 2, 3, 4]
    assert {tuple(frame.image.shape) for frame in frames} == {(3, 48, 64)}
    for number, frame in enumerate(frames):
        assert frame.image.dtype == torch.uint8
        assert abs(frame.image.float().mean() - (30 + 40 * number)) < 8


def test_videos_are_rgb(tmp_path):
    writer = cv2.VideoWriter(str(tmp_path / "a.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 10, (64, 48))
    writer.write(np.full((48, 64, 3), (0, 0, 255), np.uint8))  # red in BGR order
    writer.release()
    (frame,) = read_frames(tmp_path / "a.mp4")
    red, green, blue = frame.image.float().mean((1, 2)).tolist()
    assert red > 200
    assert max(green, blue) < 60


@pytest.mark.parametrize("content", [b"", b"no video at all"])
def test_a_damaged_video_is_named(tmp_path, content):
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(ValueError, match=r"read_frames: expected a video .*a\.mp4, .*damaged"):
        list(read_frames(tmp_path / "a.mp4"))


def test_an_image_is_a_single_frame(tmp_path):
    (frame,) = read_frames(save_image(tmp_path / "a.png"))
    assert frame.number is None
    assert frame.path == tmp_path / "a.png"


def test_boxes_are_scaled_back_to_each_image(model):
    wide = torch.randint(0, 256, (3, 128, 256), dtype=torch.uint8)
    small = resize(wide, [64, 64], antialias=True)
    expected, detections = model.predict([small, wide], score_threshold=0.001)
    assert len(detections) == len(expected) > 10
    torch.testing.assert_close(detections.boxes, expected.boxes * torch.tensor([4.0, 2, 4, 2]))
    assert torch.equal(detections.scores, expected.scores)
    assert torch.equal(detections.labels, expected.labels)
    assert detections.size == (128, 256)


def test_boxes_lie_inside_images_of_any_size(model):
    sizes = [(64, 64), (31, 200), (300, 17), (1, 1), (64, 65)]
    images = [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for size in sizes]
    results = model.predict(images, score_threshold=0.001)
    assert len(results) == len(sizes)
    for (height, width), detections in zip(sizes, results, strict=True):
        assert detections.boxes.min() >= 0
        assert (detections.boxes <= torch.tensor([width, height, width, height]) * 1.0001).all()
        assert detections.classes == ("cat", "dog")


def test_predict_uses_running_statistics_and_restores_the_mode(model):
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images = [torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8) for _ in range(3)]
    together = model.predict(images, score_threshold=0.001)
    alone = [model.predict(image, score_threshold=0.001) for image in images]
    assert model.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), f"{name} has changed"
    for first, second in zip(together, alone, strict=True):
        torch.testing.assert_close(first.scores[:5], second.scores[:5])


def test_the_threshold_bounds_the_scores(model):
    image = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    assert model.predict(image, score_threshold=0.005).scores.min() >= 0.005
    assert len(model.predict(image, score_threshold=1.0)) == 0


def test_predict_on_every_device(model, device):
    image = torch.randint(0, 256, (3, 50, 70), dtype=torch.uint8)
    detections = model.to(device).predict(image, score_threshold=0.001)
    assert detections.boxes.device.type == "cpu"
    assert len(detections) > 0


@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_every_image_and_frame_comes_once_and_in_order(tmp_path, model, batch_size):
    save_image(tmp_path / "a.png", size=(80, 40))
    save_video(tmp_path / "b.mp4", frames=3)
    save_image(tmp_path / "c.png", size=(30, 90))
    results = list(predict(model, tmp_path, score_threshold=0.001, batch_size=batch_size))
    assert all(isinstance(frame, Frame) for frame, _ in results)
    assert [(frame.path.name, frame.number) for frame, _ in results] == [
        ("a.png", None),
        ("b.mp4", 0),
        ("b.mp4", 1),
        ("b.mp4", 2),
        ("c.png", None),
    ]
    assert results[0][1].boxes[:, 2].max() > 64, "in pixels of the image, not of the model"


@pytest.mark.parametrize("as_list", [False, True])
def test_one_source_or_several(tmp_path, model, as_list):
    path = save_image(tmp_path / "a.png")
    assert len(list(predict(model, [path, str(path)] if as_list else str(path)))) == 1


def test_images_before_a_damaged_one_are_not_lost(tmp_path, model):
    save_image(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"")
    results = predict(model, tmp_path, batch_size=1)
    assert next(results)[0].path.name == "a.png"
    with pytest.raises(ValueError, match=r"read_image: expected .*b\.png"):
        next(results)


def test_a_missing_source_is_an_error_at_the_call(model, tmp_path):
    with pytest.raises(FileNotFoundError):
        predict(model, tmp_path / "missing.png")


@pytest.mark.parametrize("views", [None, Views(flip=True)])
def test_a_threshold_in_percent_is_an_error(tmp_path, model, views):
    save_image(tmp_path / "a.png")
    message = r"predict: expected `score_threshold` to be in \[0, 1\], got 1.5"
    with pytest.raises(ValueError, match=message):
        predict(model, tmp_path, score_threshold=1.5, views=views)
