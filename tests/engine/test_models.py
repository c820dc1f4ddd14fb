"""Saving and loading models."""

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from cvlib.engine import load
from cvlib.engine.checkpoint import save_checkpoint, save_safetensors
from cvlib.engine.run_folder import describe_model
from cvlib.models import TinySSD, create_model

SIZE = (64, 96)


@pytest.fixture
def model():
    return TinySSD(("cat", "dog"), SIZE).eval()


@pytest.fixture
def run(tmp_path, model):
    state = {"model": model.state_dict(), "classes": ["cat", "dog"], "image_size": list(SIZE)}
    save_checkpoint(tmp_path / "best.pt", state)
    return tmp_path


@pytest.mark.parametrize("source", [".", "best.pt"])
def test_a_loaded_model_predicts_the_same(run, model, source, device):
    loaded = load(run / source, device)
    images = torch.randint(0, 256, (2, 3, *SIZE), dtype=torch.uint8)
    assert loaded.device.type == device
    with torch.inference_mode():
        images = images.to(device)
        torch.testing.assert_close(loaded(images), model.to(device)(images))


def test_names_size_and_mode_come_from_the_file(run):
    loaded = load(run)
    assert loaded.classes == ("cat", "dog")
    assert loaded.image_size == SIZE
    assert not loaded.training


def test_loading_draws_no_random_numbers_that_matter(run):
    torch.manual_seed(1)
    expected = load(run).state_dict()
    torch.manual_seed(2)
    for name, value in load(run).state_dict().items():
        assert torch.equal(value, expected[name])


def test_weights_of_another_model_are_named(tmp_path, model):
    for weights in ({}, {"fc.weight": torch.zeros(3, 3)}, TinySSD(("a",), SIZE).state_dict()):
        state = {"model": weights, "classes": ["cat", "dog"], "image_size": list(SIZE)}
        save_checkpoint(tmp_path / "a.pt", state)
        with pytest.raises(ValueError, match=r"load: expected the weights of .*a\.pt, got others"):
            load(tmp_path / "a.pt")


def test_a_missing_run_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected `path` to be an existing checkpoint"):
        load(tmp_path)


def test_safetensors_hold_the_same_model(tmp_path, model):
    state = {**describe_model(model), "model": model.state_dict(), "metrics": {"ap": 0.5}}
    save_safetensors(tmp_path / "best.safetensors", state)
    loaded = load(tmp_path / "best.safetensors")
    assert loaded.classes == model.classes and loaded.image_size == SIZE
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)
    with safe_open(tmp_path / "best.safetensors", "pt") as file:
        assert sorted(file.keys()) == sorted(model.state_dict())


def test_the_kind_of_model_and_its_options_come_from_the_file(tmp_path):
    model = create_model("resnet18", ("a", "b"), image_size=SIZE, label_smoothing=0.2)
    save_checkpoint(tmp_path / "a.pt", {**describe_model(model), "model": model.state_dict()})
    loaded = load(tmp_path / "a.pt")
    assert loaded.name == "resnet18" and loaded.options == model.options
    assert not loaded.training


def test_a_model_of_another_version_is_named(tmp_path, model):
    state = {**describe_model(model), "model": model.state_dict()}
    changes = {
        r"model from list_models\(\), got 'ssd9000' .* pass its class": {"name": "ssd9000"},
        "to describe a model of this version .*'wings'": {"options": {"wings": 2}},
    }
    for message, change in changes.items():
        save_checkpoint(tmp_path / "a.pt", {**state, **change})
        with pytest.raises(ValueError, match=message):
            load(tmp_path / "a.pt")


def test_safetensors_of_others_are_named(tmp_path):
    save_file({"weight": torch.zeros(3)}, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="expected a checkpoint written by cvlib"):
        load(tmp_path / "a.safetensors")
    (tmp_path / "a.safetensors").write_bytes(b"short")
    with pytest.raises(ValueError, match=r"expected a checkpoint, got .* damaged"):
        load(tmp_path / "a.safetensors")
