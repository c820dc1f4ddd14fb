"""nms and batched_nms: registration, threads, scalars."""

import pytest
import torch
from cases_suppression import (
    IDS,
    assert_nms_is_right,
    clusters,
    integer_grid,
    mixed_scales,
    native,
    scores_for,
    tensors,
)

import cvlib

# --- registration -------------------------------------------------------------------------------


def test_opcheck(device, rng):
    boxes, scores = tensors(clusters(rng, 30), rng.random(30), device)
    ids = torch.from_numpy(rng.integers(0, 3, 30)).to(device)
    torch.library.opcheck(torch.ops.cvlib.nms.default, (boxes, scores, None, None, 0.5, 30))
    torch.library.opcheck(torch.ops.cvlib.nms.default, (boxes, scores, ids, ids, 0.5, 2))


def test_compiles_whole_with_dynamic_shapes(device, rng, fresh_compiler):
    def both(boxes, scores, labels):
        best = cvlib.nms(boxes, scores, 0.5, max_output=5)
        return boxes[best], cvlib.batched_nms(boxes, scores, labels, 0.3, image_ids=labels)

    compiled = torch.compile(both, fullgraph=True, dynamic=True, backend="aot_eager")
    for n in (12, 31):
        boxes, scores = tensors(clusters(rng, n), rng.random(n), device)
        labels = torch.from_numpy(rng.integers(0, 3, n)).to(device)
        results = compiled(boxes, scores, labels)
        for result, expected in zip(results, both(boxes, scores, labels), strict=True):
            assert torch.equal(result, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_autocast_computes_in_float32(device, dtype, rng):
    boxes, scores = tensors(integer_grid(rng, 99), scores_for(rng, 99, "tied"), device, dtype)
    with torch.autocast(device, torch.bfloat16):
        assert_nms_is_right(boxes, scores, 1 / 3)


# --- independence of threads --------------------------------------------------------------------


@pytest.mark.parametrize("n", [150, 201, 3000])
def test_number_of_threads_does_not_matter(n, thread_counts, rng):
    boxes, scores = tensors(mixed_scales(rng, n), scores_for(rng, n, "tied"), "cpu")
    ids = [IDS["few"](rng, n) for _ in range(2)]
    results = []
    for count in thread_counts:
        torch.set_num_threads(count)
        plain = cvlib.nms(boxes, scores, 0.2)
        batched = cvlib.batched_nms(boxes, scores, ids[0], 0.2, image_ids=ids[1], max_output=50)
        results.append((plain, batched))
    for plain, batched in results[1:]:
        assert torch.equal(plain, results[0][0]) and torch.equal(batched, results[0][1])


# --- scalars reach the kernel as they are -------------------------------------------------------


def test_every_scalar_of_the_schema_has_its_meaning(device):
    # IoUs with the first box are .2, .4, .6, .8; among the others 1/2, 1/3, 1/4, 2/3, 3/4.
    boxes, scores = tensors([[0, 0, w, 1] for w in (10, 2, 4, 6, 8)], [5, 4, 3, 2, 1], device)
    kept = {t: native(boxes, scores, t).tolist() for t in (0.1, 0.3, 0.5, 0.7, 0.9)}
    assert kept == {
        0.1: [0],
        0.3: [0, 1],
        0.5: [0, 1, 2],
        0.7: [0, 1, 2, 3],
        0.9: [0, 1, 2, 3, 4],
    }
    lengths = [len(native(boxes, scores, 1.0, max_output=limit)) for limit in range(7)]
    assert lengths == [0, 1, 2, 3, 4, 5, 5]
