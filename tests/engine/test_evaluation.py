"""Evaluation: the figures of a model on a set, whatever the batches."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision import tv_tensors

from cvlib.data import SyntheticBananas
from cvlib.engine import evaluate
from cvlib.engine.hard_examples import draw_worst
from cvlib.geometry.framing import Framing
from cvlib.models import Model, TinySSD
from cvlib.models.base import evaluation_mode
from cvlib.models.tiny_ssd import Predictions
from cvlib.structures import Classification, Detections, Segmentation
from cvlib.targets import assign_targets

SIZE = (64, 64)


@pytest.fixture(scope="module")
def bananas():
    dataset = SyntheticBananas(7, image_size=64)
    return [dataset[i] for i in range(7)]


@pytest.fixture
def model():
    return TinySSD(("banana",), SIZE)


class Oracle(TinySSD):
    """Knows the answers: predicts the targets of the anchors."""

    def __init__(self, samples):
        super().__init__(("banana",), SIZE)
        self.answers = {image.as_subclass(torch.Tensor).sum().item(): t for image, t in samples}

    def forward(self, images):
        raw = super().forward(images)
        logits, offsets = raw.class_logits.clone(), raw.offsets.clone()
        for i, image in enumerate(images):
            target = self.answers[image.sum().item()]
            boxes = target["boxes"].as_subclass(torch.Tensor)[None]
            wanted = assign_targets(raw.anchors, boxes, target["labels"][None], SIZE)
            logits[i] = 30 * torch.nn.functional.one_hot(wanted.classes[0], 2) - 15.0
            offsets[i] = wanted.offsets[0]
        return Predictions(logits, offsets, raw.anchors)


def test_a_model_that_knows_the_answers_scores_one(bananas):
    found = evaluate(Oracle(bananas), bananas)
    assert found.boxes.ap == pytest.approx(1)
    assert found.boxes.ar100 == pytest.approx(1)
    assert found.anchors.positive_recall == 1
    assert found.anchors.class_error == 0
    assert found.anchors.box_mae < 1e-6
    assert found.anchors.class_error_baseline > 0


def test_an_untrained_model_scores_hardly_anything(model, bananas):
    found = evaluate(model, bananas)
    assert found.boxes.ap < 0.2
    assert found.anchors.positive_recall < 0.2


@pytest.mark.parametrize("batch_size", [1, 3, 7])
def test_batches_do_not_matter(model, bananas, batch_size):
    expected = evaluate(model, bananas, batch_size=100).as_dict()
    found = evaluate(model, bananas, batch_size=batch_size).as_dict()
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was(model, bananas, training):
    model.train(training)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    evaluate(model, bananas)
    assert model.training is training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_mode_is_restored_after_an_error(model):
    with pytest.raises(KeyError), evaluation_mode(model.train()):
        assert not model.training
        assert torch.is_inference_mode_enabled()
        raise KeyError
    assert model.training
    assert not torch.is_inference_mode_enabled()


def test_figures_have_names_and_words(model, bananas):
    found = evaluate(model, bananas)
    figures = found.as_dict()
    assert {"ap", "ap50", "ap75", "ar100", "class_error", "box_mae", "positive_recall"} <= set(
        figures
    )
    assert {"class_error_baseline", "box_mae_baseline"} <= set(figures)
    assert "\n" not in str(found)
    assert f"AP50 {figures['ap50']:.3f}" in str(found)


def test_evaluation_on_every_device(model, bananas, device):
    expected = evaluate(model, bananas)
    found = evaluate(model.to(device), bananas)
    assert found.anchors.class_error_baseline == expected.anchors.class_error_baseline
    assert found.anchors.box_mae == pytest.approx(expected.anchors.box_mae, rel=1e-2)


def test_a_set_without_any_object(model, bananas):
    empty = []
    for number, (image, target) in enumerate(bananas):
        nothing = {"boxes": target["boxes"][:0], "labels": target["labels"][:0]}
        empty.append((image, {**nothing, "image_id": number}))
    found = evaluate(model, empty)
    assert found.boxes.ap == -1
    assert found.anchors.class_error_baseline == 0
    assert str(found)


def test_an_empty_set_is_refused(model):
    with pytest.raises(ValueError, match="evaluate: expected `dataset` to hold at least one image"):
        evaluate(model, [])


def test_wrong_labels_are_refused(model, bananas):
    image, target = bananas[0]
    wrong = [*bananas[:2], (image, {**target, "labels": target["labels"] + 3})]
    with pytest.raises(ValueError, match=r"evaluate: .*got in sample 2: .*labels.* in 0"):
        evaluate(model, wrong)


# --- every task, every size ------------------------------------------------------------------


class Painted:
    """Images of their own sizes in which the colour tells the class of every pixel.

    Cats are red, dogs green, and the floor is black.
    """

    classes = ("floor", "cat", "dog")

    def __init__(self, task, sizes=((48, 64), (64, 48), (30, 90), (64, 64), (20, 20))):
        self.task, self.sizes = task, sizes

    def __len__(self):
        return len(self.sizes)

    def __getitem__(self, index):
        height, width = self.sizes[index]
        labels = [1, 2] if index % 2 else [2]
        boxes, image = [], torch.zeros(3, height, width, dtype=torch.uint8)
        for place, label in enumerate(labels):
            x1, x2 = width * (1 + 2 * place) // 5, width * (2 + 2 * place) // 5
            boxes.append([x1, height // 4, x2, 3 * height // 4])
            image[label - 1, height // 4 : 3 * height // 4, x1:x2] = 255
        masks = torch.stack([image[label - 1] > 0 for label in labels])
        target = {"image_id": 10 - index}
        if self.task == "detection":
            target |= {
                "boxes": torch.tensor(boxes).float(),
                "labels": torch.tensor(labels),
                "iscrowd": torch.zeros(len(labels)).long(),
                "masks": tv_tensors.Mask(masks.to(torch.uint8)),
            }
        elif self.task == "segmentation":
            mask = (image[0] > 0) + 2 * (image[1] > 0).to(torch.uint8)
            mask[0, 0] = 255
            target["mask"] = tv_tensors.Mask(mask)
        else:
            target["label"] = torch.tensor(labels[0])
        return tv_tensors.Image(image), target


class Reader(Model):
    """Reads the answers off the painted images, in canvas pixels."""

    def __init__(self, task, framing=(60, 80)):
        super().__init__(Painted.classes, framing)
        self.task = task
        self.weight = nn.Parameter(torch.zeros(1))

    def loss(self, raw, targets):
        raise AssertionError("evaluation computes no loss")

    def forward(self, images):
        assert images.dtype == torch.uint8
        if self.framing.size is not None:
            assert images.shape[1:] == (3, *self.framing.size)
        return (images[:, 0] > 127) + 2 * (images[:, 1] > 127).long()  # (B, H, W)

    def decode(self, raw, sizes=None, *, score_threshold=None):
        if self.task == "segmentation":
            return [Segmentation(labels, self.classes) for labels in raw]
        if self.task == "classification":
            share = torch.stack([(raw == k).flatten(1).sum(1) for k in range(3)], 1) + 0.0
            share[:, 0] = 0
            first = torch.stack([one[one > 0].min() for one in raw])
            scores = share / share.sum(1, keepdim=True) + nn.functional.one_hot(first, 3)
            return [Classification(row, self.classes) for row in scores]
        found = []
        for one in raw:
            labels = [k for k in (1, 2) if (one == k).any()]
            masks = torch.stack([one == k for k in labels])
            edges = [mask.nonzero() for mask in masks]
            boxes = torch.stack(
                [torch.cat([e.amin(0).flip(0), e.amax(0).flip(0) + 1]).float() for e in edges]
            )
            scores = torch.ones(len(labels))
            found.append(Detections(boxes, scores, torch.tensor(labels), self.classes, masks))
        return found


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_boxes_and_masks_are_compared_in_the_pixels_of_each_image(batch_size):
    found = evaluate(Reader("detection"), Painted("detection"), batch_size=batch_size)
    assert found.primary == ("ap", found.boxes.ap)
    # A pixel more or less at each edge is all that resizing there and back may cost.
    assert found.boxes.ap50 == found.masks.ap50 == pytest.approx(1)
    assert found.boxes.ap > 0.85 and found.masks.ap > 0.8
    assert found.anchors is None
    figures = found.as_dict()
    assert figures["mask_ap"] == found.masks.ap and len(figures) == 24
    assert "mask AP" in str(found) and "\n" not in str(found)
    assert "masks" in found.report() and "dog" in found.report()
    for truth, one in zip(found.images.truths, found.images.detections, strict=True):
        assert (one.boxes[:, 2:] <= torch.tensor(truth.size[::-1])).all()
        assert one.bitmaps().shape[1:] == truth.size


def test_the_pixels_of_class_maps_are_compared_in_the_size_of_each_image():
    found = evaluate(Reader("segmentation"), Painted("segmentation"), batch_size=2)
    assert found.primary == ("miou", found.metrics.miou)
    assert found.metrics.miou > 0.85 and found.metrics.pixel_accuracy > 0.95
    pixels = sum(height * width - 1 for height, width in Painted("segmentation").sizes)
    assert found.metrics.confusion.counts.sum() == pixels  # one void pixel in each
    assert str(found).startswith("mIoU ") and "floor" in found.report()
    assert set(found.as_dict()) == {"miou", "pixel_accuracy", "class_accuracy"}


def test_classes_of_images():
    found = evaluate(Reader("classification"), Painted("classification"), batch_size=2)
    assert found.primary == ("accuracy", 1.0)
    assert found.as_dict() == {"accuracy": 1.0, "class_accuracy": 1.0}
    assert str(found) == "accuracy 1.000  class accuracy 1.000"
    assert [line.split()[1] for line in found.report().splitlines()[1:]] == ["0", "2", "3"]


@pytest.mark.parametrize(
    "framing",
    [
        Framing("letterbox", (60, 80)),
        Framing("pad", multiple=32),
        Framing("pad", short_side=40, long_side=100, multiple=16),
        Framing("stretch", (60, 80), antialias=False),
    ],
    ids=lambda framing: f"{framing.mode}-{framing.short_side}",
)
def test_every_framing_is_mapped_back_to_the_image(framing):
    detection = evaluate(Reader("detection", framing), Painted("detection"), batch_size=3)
    assert detection.boxes.ap50 == detection.masks.ap50 == pytest.approx(1)
    assert detection.boxes.ap > 0.8 and detection.masks.ap > 0.8
    segmentation = evaluate(Reader("segmentation", framing), Painted("segmentation"), batch_size=3)
    assert segmentation.metrics.miou > 0.8


@pytest.mark.parametrize("task", ["detection", "segmentation", "classification"])
def test_workers_do_not_matter(task):
    expected = evaluate(Reader(task), Painted(task)).as_dict()
    assert evaluate(Reader(task), Painted(task), batch_size=2, workers=2).as_dict() == expected


def test_images_of_another_size_have_the_same_anchors_figures(bananas):
    double = [
        (
            image.repeat_interleave(2, 1).repeat_interleave(2, 2),
            {**t, "boxes": t["boxes"].as_subclass(torch.Tensor) * 2},
        )
        for image, t in bananas
    ]
    expected = evaluate(Oracle(bananas), bananas)
    model = Oracle(bananas)
    model.framing = Framing("stretch", SIZE, antialias=False)  # exact for doubled pixels
    found = evaluate(model, double)
    assert found.anchors.as_dict() == pytest.approx(expected.anchors.as_dict(), rel=1e-5)


def test_the_random_state_is_left_alone(model, bananas):
    before = torch.get_rng_state()
    evaluate(model, bananas)
    assert torch.equal(torch.get_rng_state(), before)


def test_crowds_are_neither_right_nor_wrong(bananas):
    crowded = [
        (image, {**t, "iscrowd": torch.ones(len(t["labels"])).long()}) for image, t in bananas
    ]
    found = evaluate(Oracle(bananas), crowded)
    assert found.boxes.ap == -1
    assert found.anchors.class_error_baseline == 0  # crowds are not learnt


# --- refusals --------------------------------------------------------------------------------


def test_a_model_without_a_task_is_refused():
    with pytest.raises(TypeError, match=r"a cvlib Model for detection, .*, got Linear"):
        evaluate(nn.Linear(1, 1), Painted("detection"))


def test_a_set_for_another_task_is_refused():
    with pytest.raises(TypeError, match=r"to be for detection, .*, got segmentation"):
        evaluate(Reader("detection"), Painted("segmentation"))
    samples = [Painted("segmentation")[0]]
    with pytest.raises(TypeError, match=r"targets with 'label', got .*'mask'\] in sample 0"):
        evaluate(Reader("classification"), samples)


def test_a_set_of_other_classes_is_refused(bananas):
    with pytest.raises(ValueError, match=r"classes of the model \('a', 'b'\), got \('banana',\)"):
        evaluate(TinySSD(("a", "b"), SIZE), SyntheticBananas(2, image_size=64))


def test_images_of_another_dtype_are_refused(model, bananas):
    image, target = bananas[0]
    with pytest.raises(ValueError, match=r"images to be uint8 \(3, H, W\), got torch.float32"):
        evaluate(model, [(image / 255, target)])


def test_a_batch_size_below_1_is_refused(model, bananas):
    with pytest.raises(ValueError, match="evaluate: expected `batch_size` to be at least 1, got 0"):
        evaluate(model, bananas, batch_size=0)


# --- the worst images ----------------------------------------------------------------------


def test_the_worst_images_of_a_detector(model, bananas):
    image = draw_worst(evaluate(model, bananas), bananas, count=3)
    assert image.mode == "RGB" and image.width > 1400 and image.height > 700
    assert len(image.getcolors(10**6)) > 1000
    with pytest.raises(ValueError, match="expected at least one error, got none"):
        draw_worst(evaluate(Oracle(bananas), bananas), bananas)


def test_the_worst_images_of_a_classifier(monkeypatch):
    wrong = Classification(torch.tensor([0.9, 0.1, 0.0]), Painted.classes)
    monkeypatch.setattr(Reader, "decode", lambda self, raw, sizes: [wrong] * len(raw))
    found = evaluate(Reader("classification"), Painted("classification"))
    assert draw_worst(found, Painted("classification"), count=5).width > 1400


def test_the_worst_images_of_class_maps(monkeypatch):
    painted = Painted("segmentation", ((40, 60),) * 40)
    decode, empty = Reader.decode, Segmentation(torch.zeros(60, 80).long(), Painted.classes)
    monkeypatch.setattr(
        Reader, "decode", lambda self, raw, sizes: [empty, *decode(self, raw, sizes)[1:]]
    )
    found = evaluate(Reader("segmentation"), painted, batch_size=20)
    assert {0, 20} <= set(found.maps) and len(found.maps) == 32, "the worst ones alone are kept"
    sheet = draw_worst(found, painted, count=2)
    colours = sheet.getcolors(10**6)
    assert sheet.mode == "RGB" and sheet.width > 2 * 720 and len(colours) > 10
    monkeypatch.setattr(Painted, "__getitem__", lambda self, index: 1 / 0)
    with pytest.raises(ValueError, match="expected at least one error"):
        draw_worst(found, painted, count=0)


def test_worst_images_without_images_are_refused(model, bananas):
    found = dataclasses.replace(evaluate(model, bananas), images=None)
    with pytest.raises(TypeError, match="an evaluation with its images, got DetectionEvaluation"):
        draw_worst(found, bananas)


def test_the_truth_of_the_worst_images_has_names(model, bananas, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        "cvlib.visualize.drawing.write_label", lambda painter, box, text, *rest: drawn.append(text)
    )
    draw_worst(evaluate(model, bananas), bananas, count=1)
    assert set(drawn) == {"banana"}


# --- several processes -----------------------------------------------------------------------

SCRIPT = """
import json, sys
import torch
import torch.distributed as dist

sys.path.insert(0, sys.argv[1])
from test_evaluation import Painted, Reader, SIZE
from cvlib.data import SyntheticBananas
from cvlib.engine import evaluate
from cvlib.geometry.framing import Framing
from cvlib.models import Model, TinySSD

rank, folder = int(sys.argv[2]), sys.argv[3]
torch.set_num_threads(1)
figures = {}
for step in range(2):
    if step:  # alone first, then as one of two
        dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2)
    torch.manual_seed(0)
    sets = {"bananas": (TinySSD(("banana",), SIZE), SyntheticBananas(5, image_size=64))}
    for task in ("detection", "segmentation", "classification"):
        sets[task] = Reader(task), Painted(task)
    sets["one"] = Reader("detection"), Painted("detection", ((40, 40),))  # rank 1 has nothing
    figures[step] = {k: evaluate(*both, batch_size=1).as_dict() for k, both in sets.items()}
broken = Painted("detection")
if rank == 1:
    broken.sizes = (*broken.sizes[:3], "broken", broken.sizes[4])
try:
    evaluate(Reader("detection"), broken)
except Exception as error:
    figures["error"] = f"{type(error).__name__}: {error}"
with open(f"{folder}/{rank}.json", "w") as file:
    json.dump(figures, file)
dist.destroy_process_group()
"""


def test_two_processes_see_each_image_once_and_agree(tmp_path):
    """Also where one of them has no image at all, and where one of them fails."""
    script = tmp_path / "evaluate_on_two.py"
    script.write_text(SCRIPT)
    root = Path(__file__).parents[2]
    runs = [
        subprocess.Popen(
            [sys.executable, script, str(Path(__file__).parent), str(rank), str(tmp_path)],
            env=os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for run in runs:
        _, errors = run.communicate(timeout=240)
        assert run.returncode == 0, errors
    results = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    for result in results:
        assert result["1"].keys() == result["0"].keys()
        for name, figures in result["1"].items():
            assert figures == pytest.approx(result["0"][name], rel=1e-6), name
    assert results[0]["1"] == results[1]["1"]
    assert results[0]["error"].startswith("RuntimeError: evaluate: process 1 failed with ")
    assert results[1]["error"].startswith("ValueError: ")
