"""Learning rates against closed forms and PyTorch's own schedulers."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cvlib.engine import TrainConfig
from cvlib.engine.optim import schedule, set_learning_rate


def rates(total, **settings):
    config = TrainConfig(**settings)
    return [schedule(step, total, config) for step in range(total)]


@given(
    total=st.integers(1, 500),
    warmup=st.floats(0, 0.99),
    name=st.sampled_from(["cosine", "step", "constant", "one-cycle"]),
)
def test_learning_rates_rise_to_their_peak_and_do_not_rise_again(total, warmup, name):
    factors = rates(total, schedule=name, warmup=warmup)
    peak = factors.index(max(factors))
    assert min(factors) >= 0
    assert max(factors) <= 1
    assert factors[: peak + 1] == sorted(factors[: peak + 1])
    assert factors[peak:] == sorted(factors[peak:], reverse=True)
    assert peak <= max(1, math.ceil(warmup * total))
    if name != "one-cycle":
        assert max(factors) == pytest.approx(1)


def test_the_cosine_ends_near_zero():
    factors = rates(1000, warmup=0.1)
    assert factors[999] < 1e-4
    assert factors[99] == 1.0
    assert factors[0] == pytest.approx(0.01)
    assert factors[550] == pytest.approx(0.5)


def test_steps_fall_at_their_milestones():
    factors = rates(100, schedule="step", warmup=0.0, milestones=(0.5, 0.8), step_factor=0.1)
    assert factors[49] == 1.0
    assert factors[50] == factors[79] == pytest.approx(0.1)
    assert factors[80] == factors[99] == pytest.approx(0.01)


def test_constant_is_constant_after_the_warmup():
    assert rates(10, schedule="constant", warmup=0.2) == [0.5] + [1.0] * 9


@pytest.mark.parametrize("total, warmup", [(100, 0.3), (37, 0.1), (1000, 0.25)])
def test_one_cycle_is_pytorchs(total, warmup):
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    # PyTorch counts its peak from 0: it comes one step earlier for the same share.
    rising = round(warmup * total)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=1.0, total_steps=total, pct_start=(rising + 1) / total
    )
    expected = []
    for _ in range(total):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if len(expected) < total:
            theirs.step()
    assert rates(total, schedule="one-cycle", warmup=warmup) == pytest.approx(expected, abs=1e-12)


def test_every_group_gets_its_share_of_its_own_peak():
    weights = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    groups = [{"params": [w], "lr": lr, "peak_lr": lr} for w, lr in zip(weights, (1, 10))]  # noqa: B905
    optimizer = torch.optim.SGD(groups)
    set_learning_rate(optimizer, 0.5)
    set_learning_rate(optimizer, 0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 2.5]
