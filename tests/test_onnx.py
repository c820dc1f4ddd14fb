"""Operators exported to ONNX and run by onnxruntime give equal results."""

import sys

import pytest
import torch
from torch import nn

import cvlib
from cvlib import ops
from cvlib.onnx import translations

onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
pytest.importorskip("onnxscript", reason="onnxscript is not installed")


class Call(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *inputs):
        return self.function(*inputs)


def export(function, inputs, folder, dynamic=True):
    """Return a function that runs the exported program in onnxruntime."""
    shapes = tuple({d: torch.export.Dim.AUTO for d in range(tensor.dim())} for tensor in inputs)
    program = torch.onnx.export(
        Call(function).eval(),
        inputs,
        dynamo=True,
        custom_translation_table=translations(),
        dynamic_shapes={"inputs": shapes} if dynamic else None,
        verbose=False,
    )
    path = folder / "model.onnx"
    program.save(path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(*tensors):
        names = [node.name for node in session.get_inputs()]
        feed = {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True)}
        return [torch.from_numpy(output) for output in session.run(None, feed)]

    return run


def random_boxes(count):
    corner = torch.rand(count, 2) * 20
    return torch.cat([corner, corner + torch.rand(count, 2) * 20 + 1], dim=1)


# The exporter uses deprecated functions.
pytestmark = pytest.mark.filterwarnings("ignore::Warning")


@pytest.mark.parametrize("max_output", [None, 7])
def test_nms(tmp_path, max_output):
    def function(boxes, scores):
        return cvlib.nms(boxes, scores, 0.4, max_output=max_output)

    run = export(function, (random_boxes(30), torch.rand(30)), tmp_path)
    for count in (30, 55, 1):
        inputs = random_boxes(count), torch.rand(count) - 0.5
        (kept,) = run(*inputs)
        assert torch.equal(kept, function(*inputs))


@pytest.mark.parametrize("max_output", [None, 9])
def test_batched_nms_per_class(tmp_path, max_output):
    def function(boxes, scores, labels):
        return cvlib.batched_nms(boxes, scores, labels, 0.3, max_output=max_output)

    example = random_boxes(30), torch.rand(30), torch.randint(3, (30,))
    run = export(function, example, tmp_path)
    for count in (30, 77):
        # Equal scores: input order decides, across classes as well.
        scores = torch.randint(-4, 5, (count,)).float() / 4
        inputs = random_boxes(count), scores, torch.randint(-2, 3, (count,))
        (kept,) = run(*inputs)
        assert torch.equal(kept, function(*inputs))


def test_batched_nms_per_class_and_image(tmp_path):
    def function(boxes, scores, labels, images):
        return cvlib.batched_nms(boxes, scores, labels, 0.3, image_ids=images)

    def inputs(count):
        ids = torch.randint(3, (count,)), torch.randint(5, 8, (count,))
        return random_boxes(count), torch.rand(count), *ids

    run = export(function, inputs(40), tmp_path)
    example = inputs(60)
    assert torch.equal(run(*example)[0], function(*example))


def test_limit_for_each_image_is_refused(tmp_path):
    def function(boxes, scores, images):
        return cvlib.batched_nms(boxes, scores, None, 0.3, image_ids=images, max_output=3)

    inputs = random_boxes(9), torch.rand(9), torch.zeros(9, dtype=torch.int64)
    with pytest.raises(Exception, match="ONNX"):
        export(function, inputs, tmp_path)


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("sampling_ratio", [-1, 2])
def test_roi_align(tmp_path, aligned, sampling_ratio):
    def function(features, regions):
        return ops.roi_align(features, regions, (5, 7), 0.25, sampling_ratio, aligned)

    def inputs(images, count):
        regions = torch.cat([torch.randint(images, (count, 1)), random_boxes(count) * 2], dim=1)
        return torch.randn(images, 3, 20, 24), regions

    run = export(function, inputs(2, 4), tmp_path)
    example = inputs(3, 9)
    torch.testing.assert_close(run(*example)[0], function(*example), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "arguments",
    [
        {"size": (17, 9)},
        {"size": (5, 30), "align_corners": True},
        {"scale_factor": 2},
        {"scale_factor": (1.7, 0.6)},
        {"scale_factor": 2.5, "align_corners": True},
    ],
    ids=str,
)
def test_upsample_bilinear(tmp_path, arguments):
    def function(images):
        return ops.upsample_bilinear(images, **arguments)

    run = export(function, (torch.randn(2, 3, 8, 11),), tmp_path)
    for shape in ((2, 3, 8, 11), (3, 3, 13, 6)):
        images = torch.randn(shape)
        torch.testing.assert_close(run(images)[0], function(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("weight", "arguments", "has_bias"),
    [
        ((4, 3, 16, 16), {"stride": 8, "padding": 4}, True),
        ((4, 3, 16, 16), {"stride": 8}, False),
        (
            (4, 3, 17, 20),
            {"stride": (5, 9), "padding": (3, 1), "output_padding": (2, 4), "groups": 2},
            True,
        ),
        ((4, 1, 8, 12), {"stride": (4, 6), "padding": (2, 3), "groups": 4}, False),
    ],
    ids=str,
)
def test_conv_transpose2d(tmp_path, weight, arguments, has_bias):
    kernel = torch.randn(weight)
    bias = torch.randn(weight[1] * arguments.get("groups", 1)) if has_bias else None

    def function(images):
        return ops.conv_transpose2d(images, kernel, bias, **arguments)

    run = export(function, (torch.randn(2, 4, 3, 5),), tmp_path)
    for shape in ((2, 4, 3, 5), (1, 4, 6, 2)):
        images = torch.randn(shape)
        torch.testing.assert_close(run(images)[0], function(images), rtol=1e-4, atol=1e-4)


def test_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ModuleNotFoundError, match=r"cvlib-torch\[onnx\]"):
        translations()
