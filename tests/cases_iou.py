"""Boxes, layouts and wrong arguments for the tests of the IoU family."""

import numpy as np
import oracles
import torch
from hypothesis import strategies as st

nan, inf = float("nan"), float("inf")
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
LAYOUTS = {
    "every second row": lambda boxes: boxes.repeat_interleave(2, 0)[::2],
    "column-major": lambda boxes: boxes.t().contiguous().t(),
    "columns of a wider matrix": lambda boxes: torch.cat([boxes, boxes], 1)[:, 4:],
    "reversed memory": lambda boxes: boxes.flip(0).contiguous().flip(0),
    "offset in storage": lambda boxes: torch.cat([boxes[:1], boxes])[1:],
}
grid_boxes = st.lists(
    st.tuples(st.integers(-9, 9), st.integers(-9, 9), st.integers(0, 9), st.integers(0, 9)),
    min_size=1,
    max_size=12,
).map(lambda rows: torch.tensor([[x, y, x + w, y + h] for x, y, w, h in rows]).float())


def boxes_tensor(boxes, device, dtype=torch.float32):
    return torch.as_tensor(np.asarray(boxes, np.float64)).to(dtype).to(device)


def random_boxes(rng, shape, device, dtype=torch.float32, **options):
    shape = (shape,) if isinstance(shape, int) else shape
    rows = oracles.random_boxes(rng, int(np.prod(shape)), **options)
    return boxes_tensor(rows.reshape(*shape, 4), device, dtype)


def assert_near(actual, expected, tolerance):
    actual, expected = (x.detach().cpu().double() for x in (actual, expected))
    torch.testing.assert_close(actual, expected, **tolerance)


def gradients(function, boxes1, boxes2, weight=None):
    a, b = boxes1.detach().requires_grad_(), boxes2.detach().requires_grad_()
    iou = function(a, b)
    return torch.autograd.grad(iou, (a, b), torch.ones_like(iou) if weight is None else weight)


def formula_gradients(formula, boxes1, boxes2, weight=None):
    """Gradients of a differentiable oracle."""
    wide = boxes1.detach().cpu().double(), boxes2.detach().cpu().double()
    return gradients(formula, *wide, None if weight is None else weight.cpu().double())


def check_derivative(function, boxes1, boxes2):
    """Run gradcheck for both arguments together and for each alone."""
    a, b = boxes1.clone().requires_grad_(), boxes2.clone().requires_grad_()
    assert torch.autograd.gradcheck(function, (a, b))
    assert torch.autograd.gradcheck(lambda a: function(a, boxes2), (a,))
    assert torch.autograd.gradcheck(lambda b: function(boxes1, b), (b,))


def assert_gradients(function, boxes1, boxes2, expected, tolerance):
    """Check the gradients of both arguments together and of each alone."""
    a, b = boxes1.clone().requires_grad_(), boxes2.clone().requires_grad_()
    one_sided = (
        torch.autograd.grad(function(a, boxes2).sum(), a)[0],
        torch.autograd.grad(function(boxes1, b).sum(), b)[0],
    )
    for results in (gradients(function, boxes1, boxes2), one_sided):
        for actual, other in zip(results, expected, strict=True):
            assert_near(actual, other, tolerance)


# boxes1, boxes2, error and message.
GOOD = torch.tensor([[0.0, 0, 2, 2], [1, 1, 3, 3]])
