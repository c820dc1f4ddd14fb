"""Public names: each exists, is documented, typed and shown in an example."""

import inspect
import re
from pathlib import Path

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


def test_the_most_used_operators_are_at_the_top_as_well():
    used = {
        "batched_nms",
        "box_iou",
        "match_anchors",
        "multibox_detection",
        "multibox_target",
        "nms",
    }
    assert used <= set(cvlib.__all__)
    for name in set(cvlib.ops.__all__) & set(cvlib.__all__):
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


@pytest.mark.parametrize(
    "name", [name for name in cvlib.ops.__all__ if inspect.isfunction(getattr(cvlib.ops, name))]
)
def test_operator_documents_errors_and_determinism(name):
    doc = inspect.getdoc(getattr(cvlib.ops, name))
    assert "Raises:" in doc
    assert name == "batched_nms" or "Deterministic" in doc  # batched_nms refers to nms


def test_schemas_are_those_that_exported_programs_hold():
    # A change here breaks programs that users have exported.
    names = torch._C._dispatch_get_all_op_names()
    schemas = {
        str(getattr(torch.ops.cvlib, name.split("::")[1]).default._schema)
        for name in names
        if name.startswith("cvlib::")
    }
    assert schemas == set((Path(__file__).parent / "schemas.txt").read_text().splitlines())
