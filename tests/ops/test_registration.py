"""Properties of all operators: kernels, gradients, opcheck, compilation, export, autocast, vmap."""

import inspect

import pytest
import torch
import torch.nn.functional as F
from operator_calls import CALLS, OPERATORS, PLAIN, Call, boxes, regions
from oracles import TOLERANCES
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only

import cvlib.ops
from cvlib import _extension
from cvlib.ops import conv_transpose2d, upsample_bilinear

WITHOUT_CUDA = {
    "paste_masks_rle": "run lengths are written on the CPU",
    "conv_transpose2d_backward": "the gradients on CUDA are PyTorch's",
}
# The number of results depends on the data.
DATA_DEPENDENT = {"batched_nms", "batched_nms_rotated", "nms", "nms_rotated", "soft_nms"}
DATA_DEPENDENT |= {"weighted_boxes_fusion"}
HAVE_SECOND_DERIVATIVE = {
    "conv_transpose2d_backward",
    "multiscale_roi_align_backward",
    "paste_mask_values_backward",
    "roi_align_backward",
    "roi_pool_backward",
}
MAPPED = [name for name in CALLS if name.endswith(("box_iou", "iou_rotated")) or name == "max_iou"]
every_call = pytest.mark.parametrize("name", CALLS)
both_dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)


def assert_equal(results, expected):
    torch.testing.assert_close(results, expected, rtol=0, atol=0, equal_nan=True)


def test_every_public_function_is_here():
    functions = {n for n in cvlib.ops.__all__ if inspect.isfunction(getattr(cvlib.ops, n))}
    assert functions == {name.split(":")[0] for name in CALLS} | PLAIN


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_operator_has_its_kernel(operator, device):
    if not _extension.has_kernels(device):
        pytest.skip(f"no kernels for {device} here")
    if device == "cuda" and operator in WITHOUT_CUDA:
        pytest.skip(WITHOUT_CUDA[operator])
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"cvlib::{operator}", device.upper())


@pytest.mark.parametrize("operator", OPERATORS)
def test_every_operator_with_a_floating_result_has_a_gradient_or_refuses_one(operator):
    # opcheck accepts a missing gradient.
    if operator.endswith("_plain"):
        assert operator.removesuffix("_plain") in OPERATORS  # called where no gradient is needed
        return
    schema = getattr(torch.ops.cvlib, operator).default._schema
    integer = {"nms", "nms_rotated", "match_anchors", "multiclass_nms"}
    integer |= {"mask_iou", "paste_masks", "paste_masks_rle"}  # or take no floating input
    has_gradient = torch._C._dispatch_has_kernel_for_dispatch_key(f"cvlib::{operator}", "Autograd")
    assert has_gradient or operator in integer, schema


class Recorder(TorchDispatchMode):
    """Collects the calls of operators of cvlib, those of the backward pass included."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.namespace == "cvlib":
            self.calls.append((function, args, kwargs or {}))
        return function(*args, **(kwargs or {}))


def record(name, device="cpu"):
    """Calls of operators with and without gradients, one for each set of other arguments."""
    with Recorder() as recorder:
        for needs_gradient in (True, False):
            Call(name, device=device, needs_gradient=needs_gradient).with_gradients()
    calls = {}
    for function, args, kwargs in recorder.calls:
        constants = [x for x in tree_leaves((args, kwargs)) if not isinstance(x, torch.Tensor)]
        calls.setdefault((function, str(constants)), (function, args, kwargs))
    return calls.values()


def test_calls_reach_every_operator():
    reached = {function._schema.name.split("::")[1] for n in CALLS for function, *_ in record(n)}
    # Plain Python writes run lengths, and eager resizing calls the plain variants.
    missing = {"paste_masks_rle", "upsample_bilinear", "upsample_bilinear_backward"}
    assert reached | missing == set(OPERATORS)


# opcheck reads the .grad of its copies.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@every_call
def test_opcheck(device, name):
    for function, args, kwargs in record(name, device):
        operator = function._schema.name.removeprefix("cvlib::")
        if operator in HAVE_SECOND_DERIVATIVE:
            args = (args[0].detach().requires_grad_(), *args[1:])
        elif operator.endswith(("_backward", "_plain")):
            args = tree_map_only(torch.Tensor, torch.Tensor.detach, args)
        torch.library.opcheck(function, args, kwargs)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.parametrize("operator", ["upsample_bilinear", "upsample_bilinear_backward"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_opcheck_of_differentiable_resizing(device, operator, layout):
    images = torch.randn(2, 3, 4, 5, device=device).contiguous(memory_format=layout)
    function = getattr(torch.ops.cvlib, operator).default
    torch.library.opcheck(function, (images.requires_grad_(), 7, 3, 1.8, 0.7, False))


def test_opcheck_of_pasting_run_lengths():
    arguments = torch.rand(3, 7, 5), boxes(3), 23, 31, 0.5
    torch.library.opcheck(torch.ops.cvlib.paste_masks_rle.default, arguments)


@every_call
def test_compiles_with_dynamic_shapes(device, name, fresh_compiler):
    first = Call(name, 1, device, needs_gradient=True)
    # Results, some of which have a length that depends on the data, are used once more.
    compiled = torch.compile(
        lambda *tensors: tuple(result.clone() for result in first(*tensors)),
        fullgraph=True,
        dynamic=True,
        backend="aot_eager",
    )
    for call in (first, Call(name, 2, device, needs_gradient=True)):
        assert_equal(call.with_gradients(compiled), call.with_gradients(first))


def test_compiles_with_inductor(device, fresh_compiler):
    first = Call("box_iou", 1, device, needs_gradient=True)
    compiled = torch.compile(first, fullgraph=True, dynamic=True)
    for call in (first, Call("box_iou", 2, device, needs_gradient=True)):
        assert_equal(call.with_gradients(compiled), call.with_gradients(first))


def test_compiles_with_sizes_that_are_computed(device, fresh_compiler):
    def resize(small, large, boxes):
        size = large.shape[2:]
        return upsample_bilinear(small, size), cvlib.ops.paste_masks(small[0], boxes, tuple(size))

    compiled = torch.compile(resize, fullgraph=True, dynamic=True, backend="aot_eager")
    for shape in ((1, 2, 9, 8), (1, 2, 17, 4)):
        tensors = torch.rand(1, 2, 3, 5), torch.rand(shape), boxes(2)
        tensors = [tensor.to(device) for tensor in tensors]
        assert_equal(compiled(*tensors), resize(*tensors))


@every_call
def test_exports_with_dynamic_shapes(name):
    call = Call(name)
    shapes = tuple(
        {d: torch.export.Dim.AUTO for d in range(tensor.dim())} for tensor in call.tensors
    )
    program = torch.export.export(call, call.tensors, dynamic_shapes={"tensors": shapes})
    assert any("cvlib" in str(node.target) for node in program.graph.nodes)
    for tensors in (call.tensors, Call(name, 2).tensors):
        assert_equal(program.module()(*tensors), call(*tensors))


@pytest.mark.parametrize("name", [n for n in CALLS if n.split(":")[0] not in DATA_DEPENDENT])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64], ids=str)
def test_shape_is_known_without_data(name, dtype):
    call = Call(name, dtype=dtype)
    results = call(*(tensor.to("meta") for tensor in call.tensors))
    for result, expected in zip(results, call(*call.tensors), strict=True):
        assert (result.shape, result.dtype) == (expected.shape, expected.dtype)
        assert result.stride() == expected.stride()


@every_call
def test_inference_mode(device, name):
    call = Call(name, device=device)
    expected = call(*call.tensors)
    with torch.inference_mode():
        assert_equal(call(*call.tensors), expected)


# --- autocast

# As in PyTorch, or in float32.
CHANGED = ("conv_transpose2d", "upsample_bilinear", "sigmoid_focal_loss")


@pytest.mark.parametrize("name", [n for n in CALLS if not n.startswith(CHANGED)])
@both_dtypes
def test_autocast_changes_nothing(device, name, dtype):
    call = Call(name, 1, device, dtype, needs_gradient=True)
    expected = call.with_gradients()
    with torch.autocast(device, torch.bfloat16):
        assert_equal(call.with_gradients(), expected)


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_autocast_does_what_it_does_to_interpolate(device, dtype):
    for needs_gradient in (False, True):
        images = torch.randn(1, 2, 4, 5, device=device, dtype=dtype, requires_grad=needs_gradient)
        with torch.autocast(device, torch.bfloat16):
            resized = upsample_bilinear(images, (7, 8))
            expected = F.interpolate(images, (7, 8), mode="bilinear")
        assert resized.dtype == expected.dtype
        if needs_gradient:
            (grad,) = torch.autograd.grad(resized.sum(), images)
            assert grad.dtype == dtype


def test_autocast_of_conv_transpose2d_is_that_of_pytorch(device):
    tensors = Call("conv_transpose2d: bias", device=device).tensors
    options = (4, 5), (7, 6)
    with torch.autocast(device, torch.bfloat16):
        output = conv_transpose2d(*tensors, *options)
        mixed = conv_transpose2d(tensors[0].bfloat16(), *tensors[1:], *options)
        expected = F.conv_transpose2d(*tensors, *options)
    assert output.dtype == torch.bfloat16
    assert torch.equal(output, expected) and torch.equal(mixed, expected)


@both_dtypes
@pytest.mark.parametrize("function", [cvlib.ops.roi_align, cvlib.ops.roi_pool])
def test_autocast_takes_regions_of_another_dtype(device, function, dtype):
    maps = torch.randn(1, 3, 9, 9, device=device, dtype=dtype, requires_grad=True)
    rois = regions(1, 4).to(device)
    with torch.autocast(device, torch.bfloat16):
        pooled = function(maps, rois, 2)
    assert pooled.dtype == dtype and torch.equal(pooled, function(maps.float(), rois, 2).to(dtype))
    pooled.sum().backward()
    assert maps.grad.dtype == dtype


def test_autocast_takes_maps_of_two_dtypes(device):
    maps = [torch.randn(1, 3, 16 >> i, 16 >> i, device=device) for i in range(2)]
    maps = [maps[0].bfloat16().requires_grad_(), maps[1].requires_grad_()]
    rois = [torch.tensor([[0.0, 0, 10, 10], [0, 0, 60, 60]], device=device)]
    canonical = {"canonical_scale": 30, "canonical_level": 3}
    with torch.autocast(device, torch.bfloat16):
        pooled = cvlib.ops.multiscale_roi_align(maps, rois, 2, (2, 3), **canonical)
    assert pooled.dtype == torch.bfloat16
    pooled.sum().backward()
    assert [one.grad.dtype for one in maps] == [torch.bfloat16, torch.float32]


@pytest.mark.parametrize(
    "name", ["sigmoid_focal_loss", "ssd_loss", "box_iou_rotated", "paired_box_iou_rotated"]
)
def test_autocast_takes_tensors_of_two_dtypes(device, name):
    call = Call(name, device=device)
    tensors = [call.tensors[0].bfloat16(), *call.tensors[1:]]
    if name == "ssd_loss":
        tensors[1] = tensors[1].bfloat16()
    expected = call(*(one.float() if one.is_floating_point() else one for one in tensors))
    with torch.autocast(device, torch.bfloat16):
        assert_equal(call(*tensors), expected)


# --- vmap


@pytest.mark.parametrize("name", MAPPED)
def test_vmap_equals_a_loop(device, name):
    function = Call(name).function
    first, second = zip(*(Call(name, device=device).tensors for _ in range(3)), strict=True)
    stacked = torch.stack(first), torch.stack(second)
    expected = tree_map(lambda *results: torch.stack(results), *map(function, first, second))
    assert_equal(torch.func.vmap(function)(*stacked), expected)
    # One argument shared by all samples.
    shared = torch.func.vmap(function, in_dims=(1, None))(stacked[0].transpose(0, 1), second[1])
    shared = tree_map(lambda result: result[1], shared)
    assert_equal(shared, function(first[1], second[1]))


@pytest.mark.parametrize("name", [name for name in MAPPED if name != "max_iou"])
def test_gradient_reaches_through_vmap(device, name):
    function = Call(name).function
    samples = [Call(name, device=device).tensors for _ in range(3)]
    first, second = (torch.stack(tensors) for tensors in zip(*samples, strict=True))
    first.requires_grad_()
    (grad,) = torch.autograd.grad(torch.func.vmap(function)(first, second).sum(), first)
    looped = torch.stack([function(a, b) for a, b in zip(first, second, strict=True)])
    (expected,) = torch.autograd.grad(looped.sum(), first)
    torch.testing.assert_close(grad, expected)


def test_vmap_of_upsample_bilinear(device):
    def resize(images):
        return upsample_bilinear(images, (7, 9))

    batch = torch.randn(3, 2, 4, 5, 6, device=device, requires_grad=True)
    expected = torch.stack([resize(images) for images in batch])
    mapped = torch.func.vmap(resize)(batch)
    assert torch.equal(mapped, expected)
    last = torch.func.vmap(resize, in_dims=4)(batch.movedim(0, 4))
    assert torch.equal(last, expected)
    grads = [torch.autograd.grad(x.square().sum(), batch)[0] for x in (mapped, expected)]
    assert torch.equal(*grads)
