"""Models to files and back."""

import pytest
import torch

from cvlib.engine import load, save_checkpoint
from cvlib.models import TinySSD

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
        for one, two in zip(
            model.to(device)(images.to(device)), loaded(images.to(device)), strict=True
        ):
            torch.testing.assert_close(one, two)


def test_names_size_and_mode_come_from_the_file(run):
    loaded = load(run)
    assert loaded.classes == ("cat", "dog")
    assert loaded.image_size == SIZE
    assert not loaded.training


def test_loading_draws_no_random_numbers_that_matter(run):
    torch.manual_seed(1)
    one = load(run).state_dict()
    torch.manual_seed(2)
    for name, value in load(run).state_dict().items():
        assert torch.equal(value, one[name])


def test_weights_of_another_model_are_named(tmp_path, model):
    for weights in ({}, {"fc.weight": torch.zeros(3, 3)}, TinySSD(("a",), SIZE).state_dict()):
        state = {"model": weights, "classes": ["cat", "dog"], "image_size": list(SIZE)}
        save_checkpoint(tmp_path / "a.pt", state)
        with pytest.raises(ValueError, match=r"load: .*a\.pt does not hold the weights"):
            load(tmp_path / "a.pt")


def test_a_missing_run_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected a checkpoint"):
        load(tmp_path)
