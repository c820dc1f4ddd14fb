"""encode_boxes and decode_boxes."""

import math

import numpy as np
import oracles
import pytest
import torch

import cvlib

nan, inf = float("nan"), float("inf")
VARIANCES = [(0.1, 0.1, 0.2, 0.2), (1, 1, 1, 1), (0.05, 0.3, 0.7, 2.0)]
EXACT = [torch.float32, torch.float64]


def pair(rng, n, device="cpu", dtype=torch.float64, scale=1.0):
    boxes, anchors = (
        oracles.random_boxes(rng, n, extent=200).reshape(n, 4) * scale for _ in range(2)
    )
    return tuple(torch.from_numpy(x).to(dtype).to(device) for x in (boxes, anchors))


@pytest.mark.parametrize("dtype", EXACT, ids=str)
@pytest.mark.parametrize("variances", VARIANCES)
@pytest.mark.parametrize("n", [0, 1, 7, 1000])
@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_encode_matches_oracle(device, dtype, variances, n, scale, rng, tolerances):
    boxes, anchors = pair(rng, n, device, dtype, scale)
    offsets = cvlib.encode_boxes(boxes, anchors, variances=variances)
    expected = oracles.encode_boxes(oracles.to_numpy(boxes), oracles.to_numpy(anchors), variances)
    assert offsets.dtype == dtype and offsets.device == boxes.device
    # The rounding error of a centre is divided by a side and a variance.
    tolerance = {"rtol": tolerances[dtype]["rtol"], "atol": 50 * tolerances[dtype]["atol"]}
    torch.testing.assert_close(offsets.cpu().double(), torch.from_numpy(expected), **tolerance)


@pytest.mark.parametrize("dtype", EXACT, ids=str)
@pytest.mark.parametrize("variances", VARIANCES)
@pytest.mark.parametrize("shape", [(0,), (1,), (13,), (3, 13), (2, 3, 5), (0, 4), (3, 0)])
def test_decode_matches_oracle(device, dtype, variances, shape, rng, tolerances):
    anchors = torch.from_numpy(
        oracles.random_boxes(rng, shape[-1], size=1, extent=2).reshape(-1, 4)
    )
    anchors = anchors.to(dtype).to(device)
    offsets = torch.from_numpy(rng.normal(size=(*shape, 4))).to(dtype).to(device)
    boxes = cvlib.decode_boxes(offsets, anchors, variances=variances)
    expected = oracles.decode_boxes(oracles.to_numpy(offsets), oracles.to_numpy(anchors), variances)
    assert boxes.shape == offsets.shape and boxes.dtype == dtype
    torch.testing.assert_close(
        boxes.cpu().double(), torch.from_numpy(expected), **tolerances[dtype]
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_types_keep_their_dtype(device, dtype, rng, tolerances):
    boxes, anchors = pair(rng, 20, device, dtype, 1 / 256)
    offsets = cvlib.encode_boxes(boxes, anchors, variances=(1, 1, 1, 1))
    expected = oracles.encode_boxes(
        oracles.to_numpy(boxes), oracles.to_numpy(anchors), (1, 1, 1, 1)
    )
    assert offsets.dtype == dtype
    # Differences of half-precision coordinates, divided by sides of a tenth of them.
    tolerance = {"rtol": 20 * tolerances[dtype]["rtol"], "atol": 20 * tolerances[dtype]["atol"]}
    torch.testing.assert_close(offsets.cpu().double(), torch.from_numpy(expected), **tolerance)
    assert cvlib.decode_boxes(offsets, anchors).dtype == dtype


@pytest.mark.parametrize("variances", VARIANCES)
def test_decode_is_the_inverse_of_encode(device, variances, rng):
    boxes, anchors = pair(rng, 500, device)
    offsets = cvlib.encode_boxes(boxes, anchors, variances=variances)
    torch.testing.assert_close(cvlib.decode_boxes(offsets, anchors, variances=variances), boxes)


def test_a_box_that_is_its_anchor_has_offsets_of_zero(device, rng):
    boxes, _ = pair(rng, 9, device)
    assert not cvlib.encode_boxes(boxes, boxes).any()
    torch.testing.assert_close(cvlib.decode_boxes(torch.zeros_like(boxes), boxes), boxes)


def test_default_variances_are_those_of_the_book(rng):
    boxes, anchors = pair(rng, 9)
    offsets = cvlib.encode_boxes(boxes, anchors)
    same = cvlib.encode_boxes(boxes, anchors, variances=(0.1, 0.1, 0.2, 0.2))
    assert torch.equal(offsets, same)
    decoded = cvlib.decode_boxes(offsets, anchors, variances=(0.1, 0.1, 0.2, 0.2))
    assert torch.equal(cvlib.decode_boxes(offsets, anchors), decoded)


@pytest.mark.parametrize("dtype", EXACT, ids=str)
def test_empty_boxes_have_finite_offsets(device, dtype):
    anchors = torch.tensor([[0, 0, 10, 20]] * 3, dtype=dtype, device=device)
    rows = [[5, 10, 5, 10], [0, 10, 10, 10], [5, 0, 5 + 1e-9, 20]]
    boxes = torch.tensor(rows, dtype=dtype, device=device)
    smallest = math.log(1e-6) / 0.2
    expected = [[0, 0, smallest, smallest], [0, 0, 0, smallest], [0, 0, smallest, 0]]
    offsets = cvlib.encode_boxes(boxes, anchors)
    torch.testing.assert_close(
        offsets, torch.tensor(expected, dtype=dtype, device=device), rtol=1e-5, atol=1e-5
    )


def test_memory_layout_does_not_matter(device, rng):
    boxes, anchors = pair(rng, 12, device)
    expected = cvlib.encode_boxes(boxes[::2], anchors[:1].expand(6, 4))
    columns = boxes[::2].t().contiguous().t()
    same = cvlib.encode_boxes(columns, anchors[:1].repeat(6, 1))
    assert torch.equal(same, expected)


def test_both_are_differentiable_twice(rng):
    boxes, anchors = (x.requires_grad_() for x in pair(rng, 3, scale=0.01))
    assert torch.autograd.gradcheck(cvlib.encode_boxes, (boxes, anchors))
    assert torch.autograd.gradgradcheck(cvlib.encode_boxes, (boxes, anchors))
    offsets = torch.from_numpy(rng.normal(size=(2, 3, 4))).requires_grad_()
    assert torch.autograd.gradcheck(cvlib.decode_boxes, (offsets, anchors))
    assert torch.autograd.gradgradcheck(cvlib.decode_boxes, (offsets, anchors))


def test_gradient_of_an_empty_box_is_finite():
    boxes = torch.tensor([[5.0, 5, 5, 5]], requires_grad=True)
    cvlib.encode_boxes(boxes, torch.tensor([[0.0, 0, 10, 10]])).sum().backward()
    assert boxes.grad.isfinite().all()


def test_compiles_without_graph_breaks_and_with_dynamic_shapes(device, rng, fresh_compiler):
    def there_and_back(boxes, anchors):
        return cvlib.decode_boxes(cvlib.encode_boxes(boxes, anchors), anchors)

    compiled = torch.compile(there_and_back, fullgraph=True, dynamic=True, backend="aot_eager")
    for n in (5, 12):
        boxes, anchors = pair(rng, n, device)
        assert torch.equal(compiled(boxes, anchors), there_and_back(boxes, anchors))


GOOD = torch.tensor([[0.0, 0, 2, 2], [1, 1, 3, 3]])
ERRORS = [
    ([[0, 0, 1, 1]], GOOD, TypeError, r"expected `{first}` to be a torch\.Tensor, got list"),
    (GOOD, np.zeros((2, 4)), TypeError, r"expected `anchors` to be a torch\.Tensor, got ndarray"),
    (
        GOOD.int(),
        GOOD,
        TypeError,
        r"expected `{first}` to have a floating-point dtype, got torch\.int32",
    ),
    (
        GOOD,
        GOOD.double(),
        TypeError,
        r"expected `anchors` to have the dtype of `{first}` .*float64",
    ),
    (GOOD[:, :3], GOOD, ValueError, r"expected `{first}` to have shape .*4\), got \(2, 3\)"),
    (GOOD, GOOD[None], ValueError, r"expected `anchors` to have shape \(N, 4\), got \(1, 2, 4\)"),
    (
        GOOD,
        GOOD[:1],
        ValueError,
        r"expected `anchors` to have one row per row of `{first}` \(2\), got 1",
    ),
    (
        GOOD,
        GOOD.to("meta"),
        ValueError,
        r"expected `anchors` to be on the device of `{first}` .*got meta",
    ),
]


@pytest.mark.parametrize(("first", "anchors", "error", "message"), ERRORS)
@pytest.mark.parametrize(
    ("function", "name"), [("encode_boxes", "boxes"), ("decode_boxes", "offsets")]
)
def test_errors(function, name, first, anchors, error, message):
    with pytest.raises(error, match=f"^{function}: " + message.replace("{first}", name)):
        getattr(cvlib, function)(first, anchors)


@pytest.mark.parametrize("function", ["encode_boxes", "decode_boxes"])
@pytest.mark.parametrize(
    "variances",
    [(0.1,) * 3, (0.1,) * 5, (0, 1, 1, 1), (1, -1, 1, 1), (1, 1, nan, 1), (1, 1, 1, inf)],
)
def test_variance_errors(function, variances):
    with pytest.raises(ValueError, match=f"^{function}: expected `variances` to be four positive"):
        getattr(cvlib, function)(GOOD, GOOD, variances=variances)


def test_by_hand(device, tolerances):
    # A 10 x 20 anchor at (0, 0); a 5 x 40 box whose centre lies 2 to the right and 5 below its own.
    anchors = torch.tensor([[0.0, 0, 10, 20]], device=device)
    boxes = torch.tensor([[4.5, -5, 9.5, 35]], device=device)
    variances = (0.1, 0.25, 0.2, 0.5)
    expected = [[2 / 10 / 0.1, 5 / 20 / 0.25, math.log(0.5) / 0.2, math.log(2) / 0.5]]
    expected = torch.tensor(expected, device=device)
    offsets = cvlib.encode_boxes(boxes, anchors, variances=variances)
    torch.testing.assert_close(offsets, expected, **tolerances[torch.float32])
    decoded = cvlib.decode_boxes(expected, anchors, variances=variances)
    torch.testing.assert_close(decoded, boxes, **tolerances[torch.float32])
