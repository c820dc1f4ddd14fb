"""box_iou_rotated and paired_box_iou_rotated: registration, threads."""

import pytest
import torch
from cases_rotated import differentiable_boxes, random_boxes

from cvlib.ops.rotated import box_iou_rotated, paired_box_iou_rotated

# --- registration -------------------------------------------------------------------------------


# opcheck itself looks at the .grad of its copies.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_opcheck(device, rng):
    a, b = (differentiable_boxes(rng, n, device, torch.float32) for n in (3, 4))
    torch.library.opcheck(torch.ops.cvlib.box_iou_rotated.default, (a, b))
    torch.library.opcheck(torch.ops.cvlib.paired_box_iou_rotated.default, (a, b[:3]))


def test_opcheck_of_the_backwards(device, rng):
    a, b = (random_boxes(rng, n, device) for n in (3, 4))
    weight = torch.ones(3, 4, device=device)
    torch.library.opcheck(torch.ops.cvlib.box_iou_rotated_backward.default, (weight, a, b))
    torch.library.opcheck(
        torch.ops.cvlib.paired_box_iou_rotated_backward.default, (weight[:, 0], a, b[:3])
    )


def test_compiles_whole_with_dynamic_shapes(device, rng, fresh_compiler):
    def both(a, b):
        return box_iou_rotated(a, b), paired_box_iou_rotated(a, a.flip(0))

    compiled = torch.compile(both, fullgraph=True, dynamic=True, backend="aot_eager")
    for shape in ((5, 7), (12, 3)):
        a, b = (differentiable_boxes(rng, n, device, torch.float32) for n in shape)
        ours, eager = compiled(a, b), both(a, b)
        assert all(torch.equal(x, y) for x, y in zip(ours, eager, strict=True))
        (own,) = torch.autograd.grad(sum(x.sum() for x in ours), a)
        (expected,) = torch.autograd.grad(sum(x.sum() for x in eager), a)
        assert torch.equal(own, expected)


def test_exports(rng):
    class Module(torch.nn.Module):
        def forward(self, a, b):
            return box_iou_rotated(a, b)

    a, b = (random_boxes(rng, n, "cpu") for n in (5, 6))
    rows = {0: torch.export.Dim("rows")}
    program = torch.export.export(Module(), (a, b), dynamic_shapes=(rows, None))
    assert torch.equal(program.module()(a[:3], b), box_iou_rotated(a[:3], b))


@pytest.mark.parametrize("function", [box_iou_rotated, paired_box_iou_rotated])
def test_vmap_equals_a_loop(device, function, rng):
    a, b = (random_boxes(rng, 12, device, extent=60).view(3, 4, 5) for _ in range(2))
    expected = torch.stack([function(x, y) for x, y in zip(a, b, strict=True)])
    assert torch.equal(torch.func.vmap(function)(a, b), expected)
    shared = torch.func.vmap(function, in_dims=(1, None))(a.transpose(0, 1), b[0])
    assert torch.equal(shared[2], function(a[2], b[0]))
    a.requires_grad_()
    (ours,) = torch.autograd.grad(torch.func.vmap(function)(a, b).sum(), a)
    loop = torch.stack([function(x, y) for x, y in zip(a, b, strict=True)])
    (theirs,) = torch.autograd.grad(loop.sum(), a)
    torch.testing.assert_close(ours, theirs)


def test_shape_is_known_without_data():
    a, b = torch.empty(3, 5, device="meta"), torch.empty(7, 5, device="meta")
    assert box_iou_rotated(a, b).shape == (3, 7)
    assert paired_box_iou_rotated(a, a).shape == (3,)
    assert box_iou_rotated(a.half(), b.half()).dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_autocast_computes_from_the_values_as_given(device, dtype, rng):
    a, b = (random_boxes(rng, 9, device, dtype, extent=100).requires_grad_() for _ in range(2))
    for function in (box_iou_rotated, paired_box_iou_rotated):
        expected = function(a, b)
        with torch.autocast(device, torch.bfloat16):
            iou = function(a, b)
            mixed = function(a, b.float())
        assert iou.dtype == torch.float32 and torch.equal(iou, expected)
        assert torch.equal(mixed, expected)
        iou.sum().backward()


# --- independence of threads --------------------------------------------------------------------


def test_number_of_threads_does_not_matter(thread_counts, rng):
    a, b = (random_boxes(rng, n, "cpu", extent=300).requires_grad_() for n in (1501, 401))
    pairs = torch.arange(15010) % 401
    results = []
    for count in thread_counts:
        torch.set_num_threads(count)
        iou = box_iou_rotated(a, b)
        paired = paired_box_iou_rotated(a.repeat(10, 1), b[pairs])
        grads = [torch.autograd.grad((x * x).sum(), (a, b)) for x in (iou, paired)]
        results.append((iou, paired, *grads[0]))
    for other in results[1:]:
        assert all(torch.equal(x, y) for x, y in zip(results[0], other, strict=True))
