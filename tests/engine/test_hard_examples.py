"""Images with the largest errors of an evaluation, drawn on a sheet."""

import dataclasses

import pytest
import torch
from painted_tasks import Oracle, Painted, Reader

from cvlib.engine import evaluate
from cvlib.engine.hard_examples import draw_worst
from cvlib.structures import Classification, Segmentation


def test_the_worst_images_of_a_detector(model, bananas):
    sheet = draw_worst(evaluate(model, bananas), bananas, count=3)
    assert sheet.mode == "RGB" and sheet.width > 1400 and sheet.height > 700
    assert len(sheet.getcolors(10**6)) > 1000
    with pytest.raises(ValueError, match="expected at least one error to draw, got none"):
        draw_worst(evaluate(Oracle(bananas), bananas), bananas)


def test_the_worst_images_of_a_classifier(monkeypatch):
    wrong = Classification(torch.tensor([0.9, 0.1, 0.0]), Painted.classes)
    monkeypatch.setattr(Reader, "decode", lambda self, raw, sizes: [wrong] * len(raw))
    evaluation = evaluate(Reader("classification"), Painted("classification"))
    assert draw_worst(evaluation, Painted("classification"), count=5).width > 1400


def test_the_worst_images_of_class_maps(monkeypatch):
    painted = Painted("segmentation", ((40, 60),) * 40)
    decode, empty = Reader.decode, Segmentation(torch.zeros(60, 80).long(), Painted.classes)
    monkeypatch.setattr(
        Reader, "decode", lambda self, raw, sizes: [empty, *decode(self, raw, sizes)[1:]]
    )
    evaluation = evaluate(Reader("segmentation"), painted, batch_size=20)
    assert {0, 20} <= set(evaluation.maps)
    assert len(evaluation.maps) == 32, "only the worst maps are kept"
    sheet = draw_worst(evaluation, painted, count=2)
    colours = sheet.getcolors(10**6)
    assert sheet.mode == "RGB" and sheet.width > 2 * 720 and len(colours) > 10
    monkeypatch.setattr(Painted, "__getitem__", lambda self, index: 1 / 0)
    with pytest.raises(ValueError, match="expected at least one error"):
        draw_worst(evaluation, painted, count=0)


def test_worst_images_without_images_are_refused(model, bananas):
    evaluation = dataclasses.replace(evaluate(model, bananas), images=None)
    with pytest.raises(TypeError, match="`evaluation` to have images, got DetectionEvaluation"):
        draw_worst(evaluation, bananas)


def test_the_truth_of_the_worst_images_has_names(model, bananas, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        "cvlib.visualize.drawing.write_label", lambda painter, box, text, *rest: drawn.append(text)
    )
    draw_worst(evaluate(model, bananas), bananas, count=1)
    assert set(drawn) == {"banana"}
