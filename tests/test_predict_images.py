"""Images in memory give the results of the same pixels in a file."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cvlib.models import TinySSD, create_model
from cvlib.predict import Sources, Views, predict

LOW = 0.005


@pytest.fixture(scope="module")
def model():
    """Untrained, but its scores differ from place to place."""
    torch.manual_seed(0)
    return TinySSD(("cat", "dog"), (64, 64))


@pytest.fixture
def pixels(rng):
    """Shape (40, 60, 3)."""
    return rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)


KINDS = {
    "pil": Image.fromarray,
    "array": lambda pixels: pixels,
    "read-only array": lambda pixels: np.frombuffer(pixels.tobytes(), np.uint8).reshape(40, 60, 3),
    "reversed BGR": lambda pixels: np.ascontiguousarray(pixels[..., ::-1])[..., ::-1],
    "tensor": lambda pixels: torch.from_numpy(pixels).permute(2, 0, 1),
}


def assert_same(result, expected):
    assert len(result) == len(expected) > 20
    # The best twenty, to a few units of the last place: batches of another size round otherwise.
    torch.testing.assert_close(result.scores[:20], expected.scores[:20], rtol=1e-4, atol=0)
    torch.testing.assert_close(result.boxes[:20], expected.boxes[:20], rtol=0, atol=1e-3)
    assert torch.equal(result.labels[:20], expected.labels[:20])
    assert result.size == expected.size == (40, 60)


@pytest.mark.parametrize("views", [None, Views(flip=True), Views(tile=32)])
@pytest.mark.parametrize("kind", KINDS)
def test_an_image_in_memory_is_predicted_like_its_file(model, pixels, tmp_path, kind, views):
    Image.fromarray(pixels).save(tmp_path / "a.png")
    options = {"score_threshold": LOW, "views": views}
    ((_, expected),) = predict(model, tmp_path / "a.png", **options)
    ((frame, result),) = predict(model, KINDS[kind](pixels), **options)
    assert frame.path == Path("image-0") and frame.number is None
    assert torch.equal(frame.image, torch.from_numpy(pixels).permute(2, 0, 1))
    assert_same(result, expected)


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_a_list_may_mix_paths_and_images(model, pixels, tmp_path, batch_size):
    for name in ("a.png", "b.png"):
        Image.fromarray(pixels).save(tmp_path / name)
    images = [make(pixels) for make in KINDS.values()]
    a, b = tmp_path / "a.png", str(tmp_path / "b.png")
    source = [images[0], a, b, *images[1:], Sources([a])]
    pairs = list(predict(model, source, score_threshold=LOW, batch_size=batch_size))
    names = [frame.path.name for frame, _ in pairs]
    assert names == ["image-0", "a.png", "b.png", *(f"image-{i}" for i in range(1, 5)), "a.png"]
    expected = model.predict(pixels, score_threshold=LOW)
    for _, result in pairs:
        assert_same(result, expected)


def test_a_generator_is_read_batch_by_batch(model, pixels, tmp_path):
    Image.fromarray(pixels).save(tmp_path / "a.png")
    count = 0

    def endless():
        nonlocal count
        while True:
            count += 1
            yield pixels if count % 2 else tmp_path / "a.png"

    results = predict(model, endless(), batch_size=2)
    assert count == 0
    assert [next(results)[0].path.name for _ in range(2)] == ["image-0", "a.png"]
    assert count == 2


def test_one_image_gives_one_result_and_a_list_gives_a_list(model, pixels):
    expected = model.predict(pixels, score_threshold=LOW)
    for make in KINDS.values():
        assert_same(model.predict(make(pixels), score_threshold=LOW), expected)
        (result,) = model.predict([make(pixels)], score_threshold=LOW)
        assert_same(result, expected)
    results = model.predict(tuple(make(pixels) for make in KINDS.values()), score_threshold=LOW)
    assert isinstance(results, list) and len(results) == len(KINDS)
    for result in results:
        assert_same(result, expected)
    assert model.predict([]) == []


def test_images_of_one_list_may_have_different_sizes(model, pixels):
    results = model.predict([pixels, pixels[:20], pixels[:, :7]], score_threshold=LOW)
    assert [result.size for result in results] == [(40, 60), (20, 60), (40, 7)]


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK"])
def test_pil_images_of_every_mode_become_rgb(model, pixels, mode):
    image = Image.fromarray(pixels).convert(mode)
    ((frame, _),) = predict(model, image)
    expected = torch.from_numpy(np.asarray(image.convert("RGB")).copy()).permute(2, 0, 1)
    assert torch.equal(frame.image, expected)


def test_a_grey_array_is_three_equal_channels(model, pixels):
    ((frame, _),) = predict(model, pixels[..., 0])
    for channel in frame.image:
        assert torch.equal(channel, torch.from_numpy(pixels[..., 0].copy()))


def test_a_classifier_takes_images_in_memory(pixels):
    classifier = create_model("squeezenet1_1", ("ant", "bee"), image_size=(64, 64))
    ((_, result),) = predict(classifier, Image.fromarray(pixels))
    torch.testing.assert_close(
        result.probabilities, classifier.predict(pixels).probabilities, rtol=0, atol=0
    )


def ones(*shape, dtype=np.uint8):
    return np.ones(shape, dtype)


WRONG_IMAGES = {
    "a float array": (ones(4, 6, 3, dtype=np.float32), TypeError, "uint8 .* got float32; .*255"),
    "an int64 array": (ones(4, 6, 3, dtype=np.int64), TypeError, "uint8 .* got int64"),
    "channels first": (ones(3, 40, 60), ValueError, r"\(H, W, 3\), got \(3, 40, 60\); .*last"),
    "two channels": (ones(4, 6, 2), ValueError, r"\(H, W, 3\), got \(4, 6, 2\)"),
    "a batch": (ones(2, 4, 6, 3), ValueError, r"\(H, W, 3\), got \(2, 4, 6, 3\)"),
    "no pixels": (ones(0, 6, 3), ValueError, r"\(H, W, 3\), got \(0, 6, 3\)"),
    "a float tensor": (torch.ones(3, 4, 6), TypeError, r"uint8 .* got torch.float32; .*255"),
    "a tensor with channels last": (
        torch.ones(4, 6, 3, dtype=torch.uint8),
        ValueError,
        r"\(3, H, W\), got \(4, 6, 3\)",
    ),
    "a batch of tensors": (
        torch.ones(1, 3, 4, 6, dtype=torch.uint8),
        ValueError,
        r"\(3, H, W\), got \(1, 3, 4, 6\)",
    ),
}


@pytest.mark.parametrize("name", WRONG_IMAGES)
def test_wrong_images_are_explained(model, name):
    image, error, message = WRONG_IMAGES[name]
    for source in (image, [image]):
        with pytest.raises(error, match=f"predict: expected `image` to be .*{message}"):
            next(predict(model, source))
        with pytest.raises(error, match=f"TinySSD.predict: expected `image` to be .*{message}"):
            model.predict(source)


@pytest.mark.parametrize(
    "source, kind", [({"a.png": 1}, "dict"), (3, "int"), (None, "NoneType"), (b"a.png", "bytes")]
)
def test_sources_of_another_kind_are_explained_at_the_call(model, source, kind):
    with pytest.raises(TypeError, match=f"predict: expected `source` to be a path.*got {kind}"):
        predict(model, source)
    with pytest.raises(TypeError, match="predict: expected `source` to hold paths or images"):
        predict(model, [source])
    with pytest.raises(TypeError, match=f"expected `image` to be a PIL image.*got {kind}"):
        model.predict(source)


def test_a_generator_is_not_an_image_of_model_predict(model, pixels):
    with pytest.raises(TypeError, match=r"expected `image` to be a PIL image.*got generator"):
        model.predict(image for image in [pixels])


@pytest.mark.parametrize("source", [[], ()])
def test_an_empty_list_of_sources_is_an_error(model, source):
    with pytest.raises(ValueError, match="predict: expected `source` to hold at least one"):
        predict(model, source)


def test_a_batch_size_below_one_is_an_error(model, pixels):
    with pytest.raises(ValueError, match="predict: expected `batch_size` to be at least 1, got 0"):
        predict(model, pixels, batch_size=0)
