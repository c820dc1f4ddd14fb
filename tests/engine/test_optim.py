"""Which parameter learns, by which optimiser, and how fast."""

import copy

import pytest
import torch
from torch import nn

from cvlib.engine import TrainConfig
from cvlib.engine.optim import (
    CombinedOptimizer,
    Muon,
    make_optimizer,
    orthogonalize,
    set_training_mode,
)
from cvlib.models import create_model


@pytest.fixture(scope="module")
def resnet():
    return create_model("resnet18", ("ant", "bee"), image_size=(64, 64))


@pytest.fixture(scope="module")
def ssd():
    return create_model("tiny_ssd", ("ant", "bee"), image_size=(64, 64))


def facts(model, config):
    """Learning rate and decay of every parameter by name."""
    optimizer = make_optimizer(model, config)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(parameter)]: (group["peak_lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_head_learns_ten_times_faster(resnet, optimizer):
    config = TrainConfig(
        optimizer=optimizer, learning_rate=0.01, head_factor=10, weight_decay=0.001
    )
    groups = facts(resnet, config)
    assert groups.keys() == {name for name, _ in resnet.named_parameters()}
    assert groups["network.fc.weight"] == (pytest.approx(0.1), 0.001)
    assert groups["network.fc.bias"] == (pytest.approx(0.1), 0)
    assert groups["network.conv1.weight"] == (0.01, 0.001)
    assert groups["network.bn1.weight"] == (0.01, 0)


def test_muon_takes_the_convolutions_of_the_backbone_and_nothing_else(ssd):
    optimizer = make_optimizer(ssd, TrainConfig())
    assert isinstance(optimizer, CombinedOptimizer)
    muon, adamw = optimizer.parts
    names = {id(parameter): name for name, parameter in ssd.named_parameters()}
    taken = {names[id(p)] for group in muon.param_groups for p in group["params"]}
    assert isinstance(muon, Muon) and isinstance(adamw, torch.optim.AdamW)
    assert taken == {
        name
        for name, parameter in ssd.named_parameters()
        if name.startswith("stages.") and parameter.dim() == 4
    }
    others = {names[id(p)] for group in adamw.param_groups for p in group["params"]}
    assert taken | others == set(names.values())
    assert not taken & others


def test_a_frozen_backbone_gets_neither_gradients_nor_new_statistics():
    model = create_model("mobilenet_v2", ("ant", "bee"), image_size=(64, 64))
    config = TrainConfig(optimizer="sgd", learning_rate=0.1, freeze_backbone=True)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = make_optimizer(model, config)
    set_training_mode(model, config)
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    sum(model.loss(model(images), {"label": torch.tensor([0, 0])}).values()).backward()
    optimizer.step()
    changed = {name for name, value in model.state_dict().items() if (value != before[name]).any()}
    assert changed == {"network.classifier.1.weight", "network.classifier.1.bias"}
    assert not any(m.training for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    assert model.network.classifier[0].training is False, (
        "dropout before the head is the backbone's"
    )


def test_frozen_statistics_stay_while_weights_learn(resnet):
    config = TrainConfig(optimizer="sgd", learning_rate=0.1, freeze_norm=True)
    before = {name: value.clone() for name, value in resnet.state_dict().items()}
    optimizer = make_optimizer(resnet, config)
    set_training_mode(resnet, config)
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    sum(resnet.loss(resnet(images), {"label": torch.tensor([0, 0])}).values()).backward()
    optimizer.step()
    changed = {name for name, value in resnet.state_dict().items() if (value != before[name]).any()}
    assert not any("running" in name or "num_batches" in name for name in changed)
    assert "network.bn1.weight" in changed
    assert resnet.network.layer1.training


def test_a_model_without_anything_to_train_is_refused(ssd):
    for parameter in ssd.parameters():
        parameter.requires_grad_(False)
    try:
        with pytest.raises(ValueError, match="a model with parameters to train, got none"):
            make_optimizer(ssd, TrainConfig())
    finally:
        for parameter in ssd.parameters():
            parameter.requires_grad_(True)


def test_together_steps_and_is_saved_as_one():
    def new():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
        parts = [
            torch.optim.SGD(model[0].parameters(), lr=0.1, momentum=0.9),
            torch.optim.AdamW(model[1].parameters(), lr=0.1),
        ]
        return model, CombinedOptimizer(parts)

    def train(model, optimizer, steps):
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = 0.1 / (step + 1)
            optimizer.zero_grad()
            model(torch.ones(2, 3)).square().sum().backward()
            optimizer.step()

    model, optimizer = new()
    train(model, optimizer, 3)
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    train(model, optimizer, 3)
    other, resumed = new()
    other.load_state_dict(saved[0])
    resumed.load_state_dict(saved[1])
    train(other, resumed, 3)
    for name, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[name])
    with pytest.raises(TypeError, match=r"CombinedOptimizer\.step: expected no closure"):
        resumed.step(lambda: None)


@pytest.mark.parametrize("shape", [(8, 3), (3, 8), (5, 5)])
def test_orthogonalize_brings_singular_values_near_one(shape):
    values = torch.linalg.svdvals(orthogonalize(torch.randn(shape, dtype=torch.float64)))
    assert values.min() > 0.5 and values.max() < 1.5


def test_muon_refuses_a_closure():
    with pytest.raises(TypeError, match=r"Muon\.step: expected no closure"):
        Muon([nn.Parameter(torch.ones(2, 2))], 0.1).step(lambda: None)
