"""masks_to_rle, rle_to_masks, polygons_to_masks: against pycocotools, on real data, on garbage."""

import json
import warnings

import numpy as np
import oracles_masks
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco

from cvlib.ops.rle import masks_to_rle, polygons_to_masks, rle_to_masks


def random_masks(rng, n, height, width, density=0.3):
    return torch.from_numpy(rng.random((n, height, width)) < density)


def blobs(rng, n, height, width):
    """Masks with long runs."""
    noise = torch.from_numpy(rng.normal(size=(n, 1, height, width)))
    return torch.nn.functional.avg_pool2d(noise, 9, 1, 4)[:, 0] > 0.05


SHAPES = [(0, 5, 5), (2, 0, 5), (2, 5, 0), (1, 1, 1), (3, 1, 9), (3, 9, 1), (4, 33, 65)]

# --- matches the oracle


@pytest.mark.parametrize("density", [0.0, 0.02, 0.5, 1.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_text_matches_oracle_and_comes_back(device, shape, density, rng):
    masks = random_masks(rng, *shape, density)
    rles = masks_to_rle(masks.to(device))
    for rle, mask in zip(rles, masks.numpy(), strict=True):
        counts = oracles_masks.rle_counts(mask)
        assert rle == {"size": list(shape[1:]), "counts": oracles_masks.compress(counts)}
    decoded = rle_to_masks(rles, image_size=shape[1:])
    assert decoded.dtype == torch.bool and decoded.is_contiguous()
    assert torch.equal(decoded, masks)
    assert json.loads(json.dumps(rles)) == rles


@pytest.mark.parametrize("shape", SHAPES)
def test_every_form_of_counts(shape, rng):
    masks = random_masks(rng, *shape)
    counts = [oracles_masks.rle_counts(mask) for mask in masks.numpy()]
    text = [oracles_masks.compress(one) for one in counts]
    arrays = [np.array(one, np.uint32) for one in counts]
    size = shape[1:]
    for forms in (counts, [tuple(one) for one in counts], arrays, text, [t.encode() for t in text]):
        rles = [{"size": size, "counts": one} for one in forms]
        assert torch.equal(rle_to_masks(rles, image_size=list(size)), masks)


def test_any_bit_of_a_byte_counts():
    masks = torch.arange(256, dtype=torch.uint8).view(1, 16, 16)
    assert torch.equal(rle_to_masks(masks_to_rle(masks)), masks > 0)


@pytest.mark.parametrize(
    "layout",
    [
        lambda masks: masks.mT.contiguous().mT,
        lambda masks: masks.repeat_interleave(2, 0)[::2],
        lambda masks: masks.repeat_interleave(2, 2)[:, :, ::2],
    ],
)
def test_memory_layout_does_not_matter(layout, rng):
    masks = random_masks(rng, 3, 12, 17)
    assert masks_to_rle(layout(masks)) == masks_to_rle(masks)


def test_expanded_masks(rng):
    masks = random_masks(rng, 1, 12, 17)
    assert masks_to_rle(masks.expand(3, -1, -1)) == masks_to_rle(masks) * 3


# --- matches pycocotools


@pytest.mark.parametrize("make", [random_masks, blobs])
def test_equals_pycocotools(make, rng):
    masks = make(rng, 5, 60, 90)
    expected = coco.encode(np.asfortranarray(masks.permute(1, 2, 0).byte().numpy()))
    actual = masks_to_rle(masks)
    assert [one["counts"].encode() for one in actual] == [one["counts"] for one in expected]
    assert torch.equal(rle_to_masks(expected), masks)


def segmentations(test_data, path):
    content = json.loads((test_data / path).read_text())
    annotations = content["annotations"] if isinstance(content, dict) else content
    sizes = {}
    if isinstance(content, dict):
        sizes = {one["id"]: (one["height"], one["width"]) for one in content["images"]}
    results = [(one["segmentation"], sizes.get(one["image_id"])) for one in annotations[::7]]
    assert len(results) > 10
    return results


def decode(rle):
    with warnings.catch_warnings():  # pycocotools calls a deprecated function of NumPy
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.from_numpy(coco.decode(rle)).bool()


@pytest.mark.parametrize(
    "path",
    [
        "pennfudan-coco/instances_train.json",
        "pennfudan-coco/instances_val.json",
        "coco-eval-pair/instances_val2014_fakesegm100_results.json",
    ],
)
def test_real_run_lengths(test_data, path):
    for rle, _ in segmentations(test_data, path):
        masks = rle_to_masks([rle])
        assert torch.equal(masks[0], decode(rle))
        assert masks_to_rle(masks) == [rle]


@pytest.mark.parametrize(
    "path",
    ["tiny-coco/annotations/instances_train2017.json", "coco-eval-pair/instances_val2014_100.json"],
)
def test_real_polygons_and_crowds(test_data, path):
    kinds = set()
    for segmentation, size in segmentations(test_data, path):
        kinds.add(type(segmentation))
        if isinstance(segmentation, list):
            expected = coco.merge(coco.frPyObjects(segmentation, *size))
            assert torch.equal(polygons_to_masks([segmentation], size)[0], decode(expected))
        else:
            expected = coco.frPyObjects(segmentation, *size)
            assert torch.equal(rle_to_masks([segmentation], image_size=size)[0], decode(expected))
    assert list in kinds


@pytest.mark.parametrize("size", [(9, 13), (40, 30)])
def test_polygons_equal_pycocotools(size, rng):
    height, width = size
    extent = np.array([width, height])
    polygons = [
        [
            (rng.uniform(-0.9, 1.9, (int(rng.integers(3, 8)), 2)) * extent).ravel().tolist()
            for _ in range(int(rng.integers(1, 4)))
        ]
        for _ in range(30)
    ]
    masks = polygons_to_masks(polygons, size)
    for mask, parts in zip(masks, polygons, strict=True):
        assert torch.equal(mask, decode(coco.merge(coco.frPyObjects(parts, height, width))))
    assert masks.any() and not masks.all()


# --- properties


@given(
    counts=st.lists(st.integers(0, 40), min_size=1, max_size=30).filter(lambda one: sum(one) > 0)
)
def test_any_runs_come_back_as_the_same_pixels(counts):
    size = [1, sum(counts)]
    text = oracles_masks.compress(counts)
    expected = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    for form in (counts, text, text.encode()):
        masks = rle_to_masks([{"size": size, "counts": form}])
        assert masks[0, 0].tolist() == expected.tolist()


@given(text=st.binary(max_size=12), height=st.integers(0, 6), width=st.integers(0, 6))
def test_no_bytes_give_anything_but_a_mask_or_a_value_error(text, height, width):
    try:
        masks = rle_to_masks([{"size": [height, width], "counts": text}])
    except ValueError as error:
        assert str(error).startswith("rle_to_masks: expected ")
    else:
        assert masks.shape == (1, height, width)
        assert torch.equal(rle_to_masks(masks_to_rle(masks)), masks)


@given(
    rows=st.lists(
        st.lists(st.floats(-1e9, 1e9) | st.sampled_from([float("nan"), float("inf")]), max_size=9),
        max_size=3,
    )
)
def test_no_polygon_gives_anything_but_a_mask_or_a_value_error(rows):
    try:
        assert polygons_to_masks([rows], (7, 9)).shape == (1, 7, 9)
    except ValueError as error:
        assert str(error).startswith("polygons_to_masks: expected `polygons[0][")


def test_decoding_no_masks_gives_the_expected_size():
    assert rle_to_masks([], image_size=(3, 4)).shape == (0, 3, 4)


# --- worked examples


def test_by_hand():
    # . 1 1      columns from left to right: "..", "11", "1.": runs of 2, 3 and 1
    # . 1 .
    masks = torch.tensor([[[0, 1, 1], [0, 1, 0]]], dtype=torch.bool)
    assert masks_to_rle(masks) == [{"size": [2, 3], "counts": "231"}]
    assert torch.equal(rle_to_masks([{"size": [2, 3], "counts": [2, 3, 1]}]), masks)
    corner = [[1, 0, 3, 0, 3, 1, 2, 1, 2, 2, 1, 2]]
    assert torch.equal(polygons_to_masks([corner], (2, 3)), masks)
    assert not polygons_to_masks([[]], (2, 3)).any()
    halves = [[1, 0, 2, 0, 2, 2, 1, 2], [2, 0, 3, 0, 3, 1, 2, 1]]
    assert torch.equal(polygons_to_masks([halves], (2, 3)), masks)
