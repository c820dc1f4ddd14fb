"""The plan of a run: every image once, shares of several processes, accumulated batches."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cvlib.engine import TrainConfig
from cvlib.engine.sampling import SamplingPlan


def indices(plan, epoch=0, first=0):
    return [[list(key.indices) for key in step] for step in plan.steps(epoch, first)]


@given(
    size=st.integers(1, 60),
    batch_size=st.integers(1, 70),
    seed=st.integers(0, 1000),
    epoch=st.integers(0, 1000),
)
def test_every_image_comes_once_in_an_epoch(size, batch_size, seed, epoch):
    plan = SamplingPlan(size, TrainConfig(batch_size=batch_size, seed=seed))
    order = indices(plan, epoch)
    assert sorted(index for (batch,) in order for index in batch) == list(range(size))
    assert all(len(batch) == batch_size for (batch,) in order[:-1])
    assert len(order) == plan.steps_per_epoch == math.ceil(size / batch_size)
    assert order == indices(plan, epoch)


def test_orders_differ_between_epochs_and_seeds():
    orders = [
        tuple(SamplingPlan(50, TrainConfig(batch_size=50, seed=seed)).order(epoch).tolist())
        for seed in range(4)
        for epoch in range(4)
    ]
    assert len(set(orders)) == 16


@given(
    size=st.integers(1, 80),
    batch_size=st.integers(1, 9),
    accumulate=st.integers(1, 4),
    processes=st.integers(1, 5),
    epoch=st.integers(0, 3),
)
def test_processes_share_the_steps_of_one(size, batch_size, accumulate, processes, epoch):
    if size < processes:
        return
    config = TrainConfig(batch_size=batch_size, accumulate=accumulate)
    alone = SamplingPlan(size, TrainConfig(batch_size=batch_size * accumulate * processes))
    plans = [SamplingPlan(size, config, rank, processes) for rank in range(processes)]
    shares = [list(plan.steps(epoch)) for plan in plans]
    keys = indices(alone, epoch)
    left_out = len(keys) - len(shares[0])
    assert left_out in (0, 1)
    if left_out:
        assert len(keys[-1][0]) < processes
    for number, (expected,) in enumerate(keys[: len(shares[0])]):
        steps = [share[number] for share in shares]
        assert len({len(step) for step in steps}) == 1, "all processes talk equally often"
        # Batch by batch, and in each the shares of all processes in order.
        together = [
            index for keys in zip(*steps, strict=True) for key in keys for index in key.indices
        ]
        assert together == list(expected)
        for keys in zip(*steps, strict=True):
            assert all(key.indices for key in keys), "no process is without work"
            assert len({key.weight for key in keys}) == 1
            own = sum(len(key.indices) for key in keys)
            assert keys[0].weight == pytest.approx(own / len(expected))
            assert max(len(key.indices) for key in keys) <= batch_size + 1
        assert sum(key.weight for key in steps[0]) == pytest.approx(1)
        assert {key.step for step in steps for key in step} == {
            epoch * plans[0].steps_per_epoch + number
        }


@given(size=st.integers(2, 40), first=st.integers(0, 10))
def test_an_epoch_can_be_entered_in_its_middle(size, first):
    plan = SamplingPlan(size, TrainConfig(batch_size=3))
    assert indices(plan, 1, first) == indices(plan, 1)[first:]


@given(size=st.integers(2, 40), first=st.integers(0, 30), accumulate=st.integers(1, 3))
def test_a_run_can_be_entered_anywhere(size, first, accumulate):
    plan = SamplingPlan(size, TrainConfig(batch_size=2, accumulate=accumulate, epochs=3))
    keys = [key for epoch in range(3) for step in plan.steps(epoch) for key in step]
    assert list(plan.keys(first)) == [key for key in keys if key.step >= first]
    assert [key.step for key in keys if key.is_last] == list(range(plan.total_steps))


def test_the_order_takes_eight_bytes_per_image():
    """The order is fixed, as a run may be resumed after an update of cvlib."""
    order = SamplingPlan(10, TrainConfig(seed=3)).order(2)
    assert order.element_size() == 8
    assert order.tolist() == [4, 6, 9, 0, 8, 5, 1, 2, 3, 7]


def test_more_processes_than_images_are_refused():
    with pytest.raises(ValueError, match="at least one image for each of 3 processes, got 2"):
        SamplingPlan(2, TrainConfig(), 0, 3)
