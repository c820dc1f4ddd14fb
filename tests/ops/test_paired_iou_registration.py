"""The IoU family pair by pair: registration, threads, scalars."""

import pytest
import torch
from cases_iou import gradients, random_boxes
from cases_paired_iou import FUNCTIONS, every_kind

# --- registration -------------------------------------------------------------------------------


# opcheck itself looks at the .grad of its copies.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@every_kind
@pytest.mark.parametrize("shape", [(3,), (2, 3)], ids=str)
def test_opcheck(device, kind, shape, rng):
    a, b = (random_boxes(rng, shape, device).requires_grad_() for _ in range(2))
    torch.library.opcheck(torch.ops.cvlib.paired_iou.default, (a, b, kind))


@every_kind
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_opcheck_of_the_backward(device, kind, dtype, rng):
    a, b = (random_boxes(rng, (2, 3), device, dtype) for _ in range(2))
    arguments = torch.ones(2, 3, device=device), a, b, kind
    torch.library.opcheck(torch.ops.cvlib.paired_iou_backward.default, arguments)


@every_kind
def test_compiles_whole_with_dynamic_shapes(device, kind, rng, fresh_compiler):
    compiled = torch.compile(FUNCTIONS[kind], fullgraph=True, dynamic=True, backend="aot_eager")
    for shape in (5, 12):
        a, b = (random_boxes(rng, shape, device, extent=100) for _ in range(2))
        assert torch.equal(compiled(a, b), FUNCTIONS[kind](a, b))
        ours, eager = gradients(compiled, a, b), gradients(FUNCTIONS[kind], a, b)
        assert all(torch.equal(mine, other) for mine, other in zip(ours, eager, strict=True))


@every_kind
def test_shape_is_known_without_data(kind):
    a = torch.empty(2, 3, 4, device="meta")
    assert FUNCTIONS[kind](a, a).shape == (2, 3)
    assert FUNCTIONS[kind](a[0, 0], a[0, 0]).shape == ()
    assert FUNCTIONS[kind](a.half(), a.half()).dtype == torch.float32
    assert FUNCTIONS[kind](a.double(), a.double()).dtype == torch.float64


@every_kind
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_autocast_computes_in_float32(device, kind, dtype, rng):
    a, b = (random_boxes(rng, 9, device, dtype, extent=100) for _ in range(2))
    expected = FUNCTIONS[kind](a, b), *gradients(FUNCTIONS[kind], a, b)
    with torch.autocast(device, torch.bfloat16):
        results = FUNCTIONS[kind](a, b), *gradients(FUNCTIONS[kind], a, b)
    assert results[0].dtype == torch.float32
    for mine, other in zip(results, expected, strict=True):
        assert mine.dtype == other.dtype and torch.equal(mine, other)


# --- independence of threads --------------------------------------------------------------------


@every_kind
def test_number_of_threads_does_not_matter(thread_counts, kind, rng):
    a, b = (random_boxes(rng, 150001, "cpu", extent=100).requires_grad_() for _ in range(2))
    results = []
    for count in thread_counts:
        torch.set_num_threads(count)
        iou = FUNCTIONS[kind](a, b)
        results.append((iou, *torch.autograd.grad((iou * iou).sum(), (a, b))))
    for other in results[1:]:
        assert all(torch.equal(x, y) for x, y in zip(results[0], other, strict=True))


# --- scalars reach the kernel -------------------------------------------------------------------


def test_kind_reaches_the_kernel(device, rng):
    a, b = (random_boxes(rng, 50, device, extent=100) for _ in range(2))
    values = [torch.ops.cvlib.paired_iou(a, b, kind) for kind in range(4)]
    results = [
        torch.ops.cvlib.paired_iou_backward(torch.ones(50, device=device), a, b, kind)
        for kind in range(4)
    ]
    for kind, function in enumerate(FUNCTIONS):
        assert torch.equal(values[kind], function(a, b))
        assert not torch.allclose(values[kind], values[kind - 1])
        for mine, other in zip(gradients(function, a, b), results[kind], strict=True):
            assert torch.equal(mine, other)
        assert not torch.allclose(results[kind][0], results[kind - 1][0])
