"""The public surface: every name exists, is documented, typed and shown in an example."""

import inspect
import re

import pytest
import torch

import cvlib
import cvlib.anchors
import cvlib.box_coding
import cvlib.boxes
import cvlib.ops

PUBLIC = {
    f"{module.__name__}.{name}": getattr(module, name, None)
    for module in (cvlib, cvlib.ops)
    for name in module.__all__
}
PUBLIC["cvlib.anchors.multibox_prior"] = cvlib.anchors.multibox_prior
FUNCTIONS = {name: value for name, value in PUBLIC.items() if inspect.isfunction(value)}
CLASSES = {name: value for name, value in PUBLIC.items() if inspect.isclass(value)}


@pytest.mark.parametrize("name", PUBLIC)
def test_name_exists(name):
    assert PUBLIC[name] is not None


@pytest.mark.parametrize("module", [cvlib, cvlib.ops], ids=lambda module: module.__name__)
def test_names_are_listed_once_in_order_and_are_public(module):
    names = module.__all__
    assert len(set(names)) == len(names) and names == sorted(names)
    assert all(not name.startswith("_") or name == "__version__" for name in names)


def test_every_operator_of_the_package_is_exported_at_the_top():
    assert set(cvlib.ops.__all__) <= set(cvlib.__all__)
    for name in cvlib.ops.__all__:
        assert getattr(cvlib, name) is getattr(cvlib.ops, name)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_function_is_documented(name):
    doc, parameters = (
        inspect.getdoc(FUNCTIONS[name]) or "",
        inspect.signature(FUNCTIONS[name]).parameters,
    )
    first, _, rest = doc.partition("\n")
    assert first.endswith(".") and (not rest or rest.startswith("\n"))
    assert "Returns:" in doc or "Yields:" in doc
    if parameters:
        assert "Args:" in doc
        arguments = re.split("Returns:|Yields:", doc.partition("Args:")[2])[0]
        for parameter in parameters:
            assert re.search(rf"^\s+\*{{0,2}}{parameter}:", arguments, re.MULTILINE), parameter


@pytest.mark.parametrize("name", FUNCTIONS)
def test_function_has_an_example_that_runs_as_a_doctest(name):
    assert ">>> " in (inspect.getdoc(FUNCTIONS[name]) or "")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_function_is_typed(name):
    signature = inspect.signature(FUNCTIONS[name])
    assert signature.return_annotation is not inspect.Signature.empty
    for parameter in signature.parameters.values():
        assert parameter.annotation is not inspect.Parameter.empty, parameter.name


@pytest.mark.parametrize("name", CLASSES or [pytest.param("none", marks=pytest.mark.skip("none"))])
def test_class_is_documented(name):
    assert (CLASSES[name].__doc__ or "").strip()


@pytest.mark.parametrize("name", cvlib.ops.__all__)
def test_operator_tells_its_raises_its_cost_and_determinism(name):
    doc = inspect.getdoc(getattr(cvlib.ops, name))
    assert "Raises:" in doc
    assert name == "batched_nms" or "Deterministic" in doc  # batched_nms refers to nms


def test_schemas_are_those_that_exported_programs_hold():
    # A change here breaks programs that users have exported: make it knowingly.
    expected = {
        "nms": "(Tensor boxes, Tensor scores, Tensor? labels, Tensor? image_ids, "
        "float iou_threshold, int max_output) -> Tensor",
        "box_iou": "(Tensor boxes1, Tensor boxes2) -> Tensor",
        "box_iou_backward": "(Tensor grad, Tensor boxes1, Tensor boxes2) -> (Tensor, Tensor)",
        "match_anchors": "(Tensor anchors, Tensor gt_boxes, float iou_threshold) -> Tensor",
        "multibox_target": "(Tensor anchors, Tensor labels, float iou_threshold, "
        "float variance_x, float variance_y, float variance_w, float variance_h) "
        "-> (Tensor, Tensor, Tensor)",
        "multibox_detection": "(Tensor class_probs, Tensor offset_preds, Tensor anchors, "
        "float nms_threshold, float pos_threshold, "
        "float variance_x, float variance_y, float variance_w, float variance_h) -> Tensor",
    }
    for name, schema in expected.items():
        assert str(getattr(torch.ops.cvlib, name).default._schema) == f"cvlib::{name}{schema}"
