"""TinySSD: shapes, predictions, losses, decoding and export."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cvlib.box_coding import decode_boxes
from cvlib.losses import LOSSES
from cvlib.models import TinySSD
from cvlib.models.tiny_ssd import PRIOR, SIZES, Predictions
from cvlib.ops import box_iou

SIZE = (64, 64)
CLASSES = ("cat", "dog", "cow")
INSIDE = 1 + 1e-6  # votes are means, which round


def random_images(count=2, size=SIZE):
    return torch.randint(0, 256, (count, 3, *size), dtype=torch.uint8)


@pytest.fixture
def model():
    return TinySSD(CLASSES, SIZE).eval()


def no_objects(count):
    return torch.full((count, 1, 4), -1.0), torch.full((count, 1), -1)


def test_the_books_anchors(device):
    with torch.inference_mode():
        raw = TinySSD(("banana",)).to(device)(random_images(1, (256, 256)).to(device))
    assert raw.anchors.shape == (5444, 4)
    assert raw.class_logits.shape == (1, 5444, 2)
    assert raw.offsets.shape == (1, 5444, 4)
    assert {tensor.device.type for tensor in raw} == {device}
    assert {tensor.dtype for tensor in raw} == {torch.float32}
    # The first cell of the first of maps of 32, 16, 8, 4 and 1 cells has the smallest anchor.
    side = SIZES[0][0]
    expected = torch.tensor([-side, -side, side, side]) / 2 + 0.5 / 32
    torch.testing.assert_close(raw.anchors[0].cpu(), expected)
    side = SIZES[-1][0]
    last = torch.tensor([1 - side, 1 - side, 1 + side, 1 + side]) / 2
    torch.testing.assert_close(raw.anchors[-4].cpu(), last)


@pytest.mark.parametrize("size", [(64, 64), (64, 128), (160, 96), (100, 75), (65, 127)])
@pytest.mark.parametrize("classes", [1, 5])
def test_sizes_and_numbers_of_classes(size, classes):
    model = TinySSD([f"class {k}" for k in range(classes)], size).eval()
    with torch.inference_mode():
        raw = model(random_images(2, size))
    count = len(raw.anchors)
    assert count % 4 == 0
    assert raw.class_logits.shape == (2, count, classes + 1)
    assert raw.offsets.shape == (2, count, 4)
    assert model.num_classes == classes
    centres = (raw.anchors[:, :2] + raw.anchors[:, 2:]) / 2
    assert centres.min() > 0
    assert centres.max() < 1


def test_anchors_are_square_in_pixels_of_images_that_are_not():
    size = (64, 128)
    with torch.inference_mode():
        raw = TinySSD(("a",), size).eval()(random_images(1, size))
    sides = (raw.anchors[:, 2:] - raw.anchors[:, :2]) * torch.tensor([128.0, 64.0])
    ratios = sides[:-4, 0] / sides[:-4, 1]  # the last map is one cell, whatever the image
    expected = torch.tensor([1.0, 1.0, 2.0, 0.5]).repeat(len(ratios) // 4)
    torch.testing.assert_close(ratios, expected)


@pytest.mark.parametrize("classes", [(), [], "banana"])
def test_classes_must_be_a_list_of_names(classes):
    with pytest.raises(ValueError, match="TinySSD: expected `classes` to be a list of names"):
        TinySSD(classes)


def test_images_may_not_be_tiny():
    with pytest.raises(ValueError, match="TinySSD: expected `image_size` to be at least"):
        TinySSD(("a",), (64, 31))


@pytest.mark.parametrize("classes", [1, 4])
def test_nearly_everything_is_background_at_first(classes):
    model = TinySSD([f"class {k}" for k in range(classes)], SIZE).eval()
    with torch.inference_mode():
        probabilities = model(random_images()).class_logits.softmax(-1)
    objects = 1 - probabilities[..., 0]
    assert PRIOR / 2 < objects.mean() < PRIOR * 2


def test_bytes_and_fractions_are_the_same_image(model, device):
    model, images = model.to(device), random_images().to(device)
    with torch.inference_mode():
        torch.testing.assert_close(model(images), model(images.float() / 255))


def test_images_of_a_batch_do_not_see_one_another(model):
    images = random_images(3)
    with torch.inference_mode():
        together = model(images)
        alone = model(images[1:2])
    torch.testing.assert_close(together.class_logits[1:2], alone.class_logits)
    torch.testing.assert_close(together.offsets[1:2], alone.offsets)


def test_memory_format_does_not_matter(model):
    images = random_images()
    with torch.inference_mode():
        expected = model(images)
        images = images.contiguous(memory_format=torch.channels_last)
        raw = model.to(memory_format=torch.channels_last)(images)
    torch.testing.assert_close(raw, expected)


def test_anchor_order_is_that_of_the_heads(model):
    # A head that fires in one cell of the first map must do so at this cell's anchors.
    images = random_images(1)
    with torch.no_grad():
        head = model.class_heads[0]
        head.weight.zero_()
        head.bias.copy_(torch.arange(16.0))
        logits = model(images).class_logits
        cells = len(model.stages[0](model.normalise(images)).flatten(2)[0, 0])
    first = logits[0, : 4 * cells].unflatten(0, (cells, 4))
    torch.testing.assert_close(first, torch.arange(16.0).view(1, 4, 4).expand(cells, -1, -1))


def test_state_dict_round_trip(model):
    torch.manual_seed(5)
    other = TinySSD(CLASSES, SIZE).eval()
    images = random_images()
    with torch.inference_mode():
        assert not torch.equal(model(images).class_logits, other(images).class_logits)
        other.load_state_dict(model.state_dict())
        assert torch.equal(model(images).class_logits, other(images).class_logits)
        assert torch.equal(model(images).offsets, other(images).offsets)


@pytest.mark.cuda
def test_cpu_and_cuda_agree(model, cuda):
    images = random_images()
    with torch.inference_mode():
        expected, raw = model(images), model.to(cuda)(images.to(cuda))
    tolerance = {"rtol": 1e-2, "atol": 1e-2}
    torch.testing.assert_close(raw[:2], expected[:2], check_device=False, **tolerance)
    torch.testing.assert_close(raw.anchors.cpu(), expected.anchors)


@pytest.mark.parametrize("name", LOSSES)
def test_a_batch_without_objects_trains(name):
    model = TinySSD(CLASSES, SIZE, loss=name).train()
    raw = model(random_images())
    losses = model.loss(raw, dict(zip(("boxes", "labels"), no_objects(2), strict=True)))
    sum(losses.values()).backward()
    assert all(value.isfinite() for value in losses.values())
    for head in model.class_heads:
        assert head.weight.grad.isfinite().all()
        assert head.bias.grad.abs().sum() > 0
    for head in model.box_heads:
        assert head.weight.grad is None or not head.weight.grad.any()


@pytest.mark.parametrize("name", LOSSES)
def test_every_parameter_learns(name, device):
    model = TinySSD(CLASSES, SIZE, loss=name).to(device).train()
    raw = model(random_images().to(device))
    boxes = torch.tensor([[[4.0, 4, 24, 24], [0, 0, 60, 60]], [[20, 20, 60, 40], [-1] * 4]])
    targets = {"boxes": boxes.to(device), "labels": torch.tensor([[0, 2], [1, -1]]).to(device)}
    sum(model.loss(raw, targets).values()).backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name


def test_crowds_are_neither_objects_nor_counted(model):
    model.eval()
    raw = model(random_images())
    boxes = torch.tensor([[[4.0, 4, 24, 24], [30, 30, 60, 60]]] * 2)
    labels = torch.tensor([[0, 1]] * 2)
    crowd = model.loss(
        raw, {"boxes": boxes, "labels": labels, "iscrowd": torch.tensor([[0, 1]] * 2)}
    )
    without = model.loss(raw, {"boxes": boxes[:, :1], "labels": labels[:, :1]})
    assert crowd == without


def test_unknown_losses_are_refused():
    with pytest.raises(ValueError, match=r"expected `loss` to be one of .*book.*got 'huber'"):
        TinySSD(CLASSES, SIZE, loss="huber")


def random_predictions(seed, model, batch=2, spread=3.0):
    """Return many confident objects with wild offsets."""
    torch.manual_seed(seed)
    with torch.inference_mode():
        raw = model(random_images(batch, model.image_size))
    return Predictions(
        spread * torch.randn_like(raw.class_logits), spread * torch.randn_like(raw.offsets), raw[2]
    )


@settings(max_examples=15)
@given(
    seed=st.integers(0, 10**6),
    score_threshold=st.sampled_from([0.01, 0.3, 0.9]),
    max_detections=st.sampled_from([0, 1, 7, 100]),
)
def test_decoded_detections_are_sorted_and_inside_the_image(seed, score_threshold, max_detections):
    model = TinySSD(CLASSES, (64, 96)).eval()
    raw = random_predictions(seed, model)
    results = model.decode(raw, score_threshold=score_threshold, max_detections=max_detections)
    assert len(results) == 2
    for detections in results:
        assert detections.classes == CLASSES
        assert len(detections) <= max_detections
        assert (detections.scores >= score_threshold).all()
        assert (detections.scores.diff() <= 0).all()
        boxes = detections.boxes
        assert (boxes >= 0).all()
        assert (boxes <= INSIDE * torch.tensor([96.0, 64, 96, 64])).all()
        assert (boxes[:, 2:] >= boxes[:, :2]).all()


def test_suppression_is_per_class_and_per_image(model):
    raw = random_predictions(0, model)
    # All anchors of both images give the same box, each class with a score of its own.
    target = torch.tensor([0.25, 0.25, 0.75, 0.5]).expand(len(raw.anchors), 4)
    size, place = target[:, 2:] - target[:, :2], target[:, :2] + target[:, 2:]
    sides = raw.anchors[:, 2:] - raw.anchors[:, :2]
    shift = (place - raw.anchors[:, :2] - raw.anchors[:, 2:]) / 2 / sides / 0.1
    offsets = torch.cat([shift, (size / sides).log() / 0.2], dim=-1)
    torch.testing.assert_close(decode_boxes(offsets, raw.anchors), target, rtol=1e-4, atol=1e-4)
    logits = torch.tensor([0.0, 2.0, 1.0, 3.0]).expand_as(raw.class_logits)
    raw = Predictions(logits, offsets.expand_as(raw.offsets), raw.anchors)
    for detections in model.decode(raw):
        assert detections.names == ["cow", "cat", "dog"]
        expected = torch.tensor([16.0, 16, 48, 32]).expand(3, 4)
        torch.testing.assert_close(detections.boxes, expected, rtol=1e-3, atol=1e-2)
        torch.testing.assert_close(detections.scores, logits[0, 0].softmax(0)[[3, 1, 2]])


def test_boxes_of_one_class_do_not_overlap_without_votes(model):
    raw = random_predictions(1, model)
    for detections in model.decode(raw, iou_threshold=0.3, vote_threshold=None):
        assert len(detections) > 20
        for label in range(3):
            # Those that the border has clipped may overlap more than before.
            boxes = detections.boxes[detections.labels == label]
            inside = (boxes > 0).all(1) & (boxes < 64).all(1)
            iou = box_iou(boxes[inside], boxes[inside])
            assert (iou.triu(1) <= 0.3).all()


def test_the_best_of_all_classes_are_kept(model):
    raw = random_predictions(2, model)
    many, few = model.decode(raw, max_detections=100), model.decode(raw, max_detections=5)
    for longer, shorter in zip(many, few, strict=True):
        assert torch.equal(longer.scores[:5], shorter.scores)
        assert torch.equal(longer.labels[:5], shorter.labels)


def test_an_image_without_objects_among_others(model):
    raw = random_predictions(3, model)
    logits = raw.class_logits.clone()
    logits[0] = torch.tensor([20.0, 0, 0, 0])
    nothing, something = model.decode(Predictions(logits, raw.offsets, raw.anchors))
    assert len(nothing) == 0
    assert nothing.boxes.shape == (0, 4)
    assert len(something) > 0


def test_images_are_decoded_one_by_one(model):
    raw = random_predictions(4, model, batch=3)
    together = model.decode(raw)
    for i in range(3):
        row = slice(i, i + 1)
        (alone,) = model.decode(Predictions(raw.class_logits[row], raw.offsets[row], raw.anchors))
        torch.testing.assert_close(together[i].boxes, alone.boxes)
        assert torch.equal(together[i].scores, alone.scores)


@pytest.mark.parametrize("offset", [1e3, -1e3, float("inf"), float("nan")])
def test_a_wild_anchor_does_not_harm_the_others(model, offset):
    raw = random_predictions(6, model, batch=1, spread=0.1)
    wild = raw.offsets.clone()
    wild[0, 5] = offset
    (detections,) = model.decode(Predictions(raw.class_logits, wild, raw.anchors))
    (expected,) = model.decode(raw)
    assert detections.boxes.isfinite().all()
    assert detections.boxes.max() <= INSIDE * 64
    assert abs(len(detections) - len(expected)) < 0.2 * len(expected)


def test_decode_gives_no_gradient(model):
    raw = model(random_images())
    assert raw.offsets.requires_grad
    for detections in model.decode(raw, score_threshold=0.001):
        assert len(detections)
        assert not detections.boxes.requires_grad
        assert not detections.scores.requires_grad


def test_decode_works_on_every_device(model, device):
    raw = random_predictions(5, model)
    moved = Predictions(*(tensor.to(device) for tensor in raw))
    for expected, result in zip(model.decode(raw), model.to(device).decode(moved), strict=True):
        assert result.boxes.device.type == device
        torch.testing.assert_close(result.cpu().scores, expected.scores)
        torch.testing.assert_close(result.cpu().boxes, expected.boxes, rtol=1e-3, atol=1e-2)


def test_export_gives_the_same_predictions(model):
    images = random_images()
    exported = torch.export.export(model, (images,)).module()
    with torch.inference_mode():
        torch.testing.assert_close(tuple(exported(images)), tuple(model(images)))


# Dynamo warns that it traces through the cache of the anchors.
@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")
def test_compiles_without_graph_breaks(model, fresh_compiler):
    images = random_images()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(tuple(compiled(images)), tuple(model(images)))


def test_autocast_predictions_are_float32(model):
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        raw = model(random_images())
    assert {tensor.dtype for tensor in raw} == {torch.float32}
