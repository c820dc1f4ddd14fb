"""The moving average of weights against its recursion, written out."""

import pytest
import torch

from cvlib.engine.optim import make_average
from cvlib.models import create_model


def test_the_average_follows_its_recursion():
    model = create_model("tiny_ssd", ("banana",), image_size=(64, 64))
    average = make_average(model, 0.5)
    expected = None
    for number in range(6):
        with torch.no_grad():
            for value in model.parameters():
                value.normal_()
            model.stages[0][0][1].running_mean.normal_()
            model.stages[0][0][1].num_batches_tracked.fill_(number)
        average.update_parameters(model)
        now = {name: value.double() for name, value in model.state_dict().items()}
        decay = min(0.5, (number + 1) / (number + 10))
        if expected is None:
            expected = now
        else:
            expected = {k: decay * expected[k] + (1 - decay) * v for k, v in now.items()}
    for name, value in average.module.state_dict().items():
        if name.endswith("num_batches_tracked"):
            assert value == model.state_dict()[name], "counters are copied"
        else:
            torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-6)


def test_the_model_itself_is_left_alone():
    model = create_model("tiny_ssd", ("banana",), image_size=(64, 64))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    average = make_average(model, 0.9)
    average.update_parameters(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert average.module is not model
    assert average.module.classes == ("banana",)
    assert average.module.name == "tiny_ssd"


@pytest.mark.parametrize("number, decay", [(0, 0.1), (5, 0.4), (100000, 0.999)])
def test_the_start_is_soon_forgotten(number, decay):
    model = create_model("tiny_ssd", ("banana",), image_size=(64, 64))
    average = make_average(model, 0.999)
    average.update_parameters(model)
    average.n_averaged.fill_(number)
    old = average.module.mean + 1
    bias = average.module.class_heads[0].bias.clone()
    with torch.no_grad():
        model.class_heads[0].bias += 1
    if number == 0:
        return  # the first update copies
    average.update_parameters(model)
    torch.testing.assert_close(average.module.class_heads[0].bias, bias + 1 - decay)
    assert torch.equal(average.module.mean + 1, old)
