"""Evaluation: metrics of a model on a dataset do not depend on batches or processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from painted_tasks import Oracle, Painted, Reader
from short_runs import SIZE
from torch import nn

from cvlib.data import SyntheticBananas
from cvlib.engine import evaluate
from cvlib.geometry.framing import Framing
from cvlib.models import TinySSD
from cvlib.models.base import evaluation_mode


def test_a_model_that_knows_the_answers_has_an_ap_of_1(bananas):
    evaluation = evaluate(Oracle(bananas), bananas)
    assert evaluation.boxes.ap == pytest.approx(1)
    assert evaluation.boxes.ar100 == pytest.approx(1)
    assert evaluation.anchors.positive_recall == 1
    assert evaluation.anchors.class_error == 0
    assert evaluation.anchors.box_mae < 1e-6
    assert evaluation.anchors.class_error_baseline > 0


def test_an_untrained_model_scores_hardly_anything(model, bananas):
    evaluation = evaluate(model, bananas)
    assert evaluation.boxes.ap < 0.2
    assert evaluation.anchors.positive_recall < 0.2


@pytest.mark.parametrize("batch_size", [1, 3, 7])
def test_batches_do_not_matter(model, bananas, batch_size):
    expected = evaluate(model, bananas, batch_size=100).as_dict()
    evaluation = evaluate(model, bananas, batch_size=batch_size).as_dict()
    assert evaluation == pytest.approx(expected, rel=1e-4, abs=1e-6)


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


def test_metrics_have_names_and_words(model, bananas):
    evaluation = evaluate(model, bananas)
    metrics = evaluation.as_dict()
    names = "ap ap50 ap75 ar100 class_error box_mae positive_recall"
    assert {*names.split(), "class_error_baseline", "box_mae_baseline"} <= set(metrics)
    assert "\n" not in str(evaluation)
    assert f"AP50 {metrics['ap50']:.3f}" in str(evaluation)


def test_evaluation_on_every_device(model, bananas, device):
    expected = evaluate(model, bananas)
    evaluation = evaluate(model.to(device), bananas)
    assert evaluation.anchors.class_error_baseline == expected.anchors.class_error_baseline
    assert evaluation.anchors.box_mae == pytest.approx(expected.anchors.box_mae, rel=1e-2)


def test_a_dataset_without_any_object(model, bananas):
    empty = []
    for number, (image, target) in enumerate(bananas):
        nothing = {"boxes": target["boxes"][:0], "labels": target["labels"][:0]}
        empty.append((image, {**nothing, "image_id": number}))
    evaluation = evaluate(model, empty)
    assert evaluation.boxes.ap == -1
    assert evaluation.anchors.class_error_baseline == 0
    assert str(evaluation)


def test_an_empty_dataset_is_refused(model):
    with pytest.raises(ValueError, match="evaluate: expected `dataset` to hold at least one image"):
        evaluate(model, [])


def test_wrong_labels_are_refused(model, bananas):
    image, target = bananas[0]
    wrong = [*bananas[:2], (image, {**target, "labels": target["labels"] + 3})]
    with pytest.raises(ValueError, match=r"evaluate: .*got in sample 2: .*labels.* in 0"):
        evaluate(model, wrong)


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_boxes_and_masks_are_compared_in_the_pixels_of_each_image(batch_size):
    evaluation = evaluate(Reader("detection"), Painted("detection"), batch_size=batch_size)
    assert evaluation.primary == ("ap", evaluation.boxes.ap)
    # A pixel more or less at each edge is all that resizing there and back may cost.
    assert evaluation.boxes.ap50 == evaluation.masks.ap50 == pytest.approx(1)
    assert evaluation.boxes.ap > 0.85 and evaluation.masks.ap > 0.8
    assert evaluation.anchors is None
    metrics = evaluation.as_dict()
    assert metrics["mask_ap"] == evaluation.masks.ap and len(metrics) == 24
    assert "mask AP" in str(evaluation) and "\n" not in str(evaluation)
    assert "masks" in evaluation.report() and "dog" in evaluation.report()
    images = evaluation.images
    for truth, detections in zip(images.truths, images.detections, strict=True):
        assert (detections.boxes[:, 2:] <= torch.tensor(truth.size[::-1])).all()
        assert detections.bitmaps().shape[1:] == truth.size


def test_the_pixels_of_class_maps_are_compared_in_the_size_of_each_image():
    evaluation = evaluate(Reader("segmentation"), Painted("segmentation"), batch_size=2)
    assert evaluation.primary == ("miou", evaluation.metrics.miou)
    assert evaluation.metrics.miou > 0.85 and evaluation.metrics.pixel_accuracy > 0.95
    pixels = sum(height * width - 1 for height, width in Painted("segmentation").sizes)
    assert evaluation.metrics.confusion.counts.sum() == pixels  # one void pixel in each
    assert str(evaluation).startswith("mIoU ") and "floor" in evaluation.report()
    assert set(evaluation.as_dict()) == {"miou", "pixel_accuracy", "class_accuracy"}


def test_classes_of_images():
    evaluation = evaluate(Reader("classification"), Painted("classification"), batch_size=2)
    assert evaluation.primary == ("accuracy", 1.0)
    assert evaluation.as_dict() == {"accuracy": 1.0, "class_accuracy": 1.0}
    assert str(evaluation) == "accuracy 1.000  class accuracy 1.000"
    assert [line.split()[1] for line in evaluation.report().splitlines()[1:]] == ["0", "2", "3"]


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


def test_images_of_another_size_have_the_same_anchors_metrics(bananas):
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
    evaluation = evaluate(model, double)
    assert evaluation.anchors.as_dict() == pytest.approx(expected.anchors.as_dict(), rel=1e-5)


def test_the_random_state_is_left_alone(model, bananas):
    before = torch.get_rng_state()
    evaluate(model, bananas)
    assert torch.equal(torch.get_rng_state(), before)


def test_crowds_are_neither_right_nor_wrong(bananas):
    crowded = [
        (image, {**t, "iscrowd": torch.ones(len(t["labels"])).long()}) for image, t in bananas
    ]
    evaluation = evaluate(Oracle(bananas), crowded)
    assert evaluation.boxes.ap == -1
    assert evaluation.anchors.class_error_baseline == 0  # crowds are not learnt


def test_a_model_without_a_task_is_refused():
    with pytest.raises(TypeError, match=r"a cvlib Model for detection, .*, got Linear"):
        evaluate(nn.Linear(1, 1), Painted("detection"))


def test_a_dataset_for_another_task_is_refused():
    with pytest.raises(TypeError, match=r"to be for detection, .*, got segmentation"):
        evaluate(Reader("detection"), Painted("segmentation"))
    samples = [Painted("segmentation")[0]]
    with pytest.raises(TypeError, match=r"targets with 'label', got .*'mask'\] in sample 0"):
        evaluate(Reader("classification"), samples)


def test_a_dataset_of_other_classes_is_refused(bananas):
    with pytest.raises(ValueError, match=r"classes of the model \('a', 'b'\), got \('banana',\)"):
        evaluate(TinySSD(("a", "b"), SIZE), SyntheticBananas(2, image_size=64))


def test_images_of_another_dtype_are_refused(model, bananas):
    image, target = bananas[0]
    with pytest.raises(ValueError, match=r"images to be uint8 \(3, H, W\), got torch.float32"):
        evaluate(model, [(image / 255, target)])


def test_a_batch_size_below_1_is_refused(model, bananas):
    with pytest.raises(ValueError, match="evaluate: expected `batch_size` to be at least 1, got 0"):
        evaluate(model, bananas, batch_size=0)


SCRIPT = """
import json, sys
import torch
import torch.distributed as dist

sys.path.insert(0, sys.argv[1])
from painted_tasks import Painted, Reader
from short_runs import SIZE
from cvlib.data import SyntheticBananas
from cvlib.engine import evaluate
from cvlib.models import TinySSD

rank, folder = int(sys.argv[2]), sys.argv[3]
torch.set_num_threads(1)
metrics = {}
for step in range(2):
    if step:  # alone first, then as one of two
        dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2)
    torch.manual_seed(0)
    sets = {"bananas": (TinySSD(("banana",), SIZE), SyntheticBananas(5, image_size=64))}
    for task in ("detection", "segmentation", "classification"):
        sets[task] = Reader(task), Painted(task)
    sets["one image"] = Reader("detection"), Painted("detection", ((40, 40),))  # rank 1 has nothing
    metrics[step] = {k: evaluate(*both, batch_size=1).as_dict() for k, both in sets.items()}
broken = Painted("detection")
if rank == 1:
    broken.sizes = (*broken.sizes[:3], "broken", broken.sizes[4])
try:
    evaluate(Reader("detection"), broken)
except Exception as error:
    metrics["error"] = f"{type(error).__name__}: {error}"
with open(f"{folder}/{rank}.json", "w") as file:
    json.dump(metrics, file)
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
        for name, metrics in result["1"].items():
            assert metrics == pytest.approx(result["0"][name], rel=1e-6), name
    assert results[0]["1"] == results[1]["1"]
    assert results[0]["error"].startswith("RuntimeError: evaluate: process 1 failed with ")
    assert results[1]["error"].startswith("ValueError: ")
