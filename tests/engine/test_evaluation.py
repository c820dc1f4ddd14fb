"""Evaluation: the figures of a model on a set, whatever the batches."""

import pytest
import torch

from cvlib.data import SyntheticBananas
from cvlib.engine import evaluate
from cvlib.engine.evaluation import evaluating
from cvlib.models import TinySSD
from cvlib.models.tiny_ssd import Predictions
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
    """Knows the answers: predicts what the anchors shall learn."""

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
    with pytest.raises(KeyError), evaluating(model.train()):
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
    with pytest.raises(ValueError, match="evaluate: expected at least one picture"):
        evaluate(model, [])


def test_wrong_labels_are_refused(model, bananas):
    image, target = bananas[0]
    wrong = [*bananas[:2], (image, {**target, "labels": target["labels"] + 3})]
    with pytest.raises(ValueError, match=r"evaluate: sample 2 of the set is wrong: .* labels in 0"):
        evaluate(model, wrong)
