"""Settings: what they refuse, and how many epochs they mean."""

import dataclasses
import json

import pytest

from cvlib.engine import TrainConfig


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"images": 0}, "`images` to be at least 1, got 0"),
        ({"epochs": 0}, "`epochs` to be at least 1, got 0"),
        ({"batch_size": 0}, "`batch_size` to be at least 1, got 0"),
        ({"eval_every": 0}, "`eval_every` to be at least 1, got 0"),
        ({"workers": -1}, "`workers` to be at least 0, got -1"),
        ({"learning_rate": 0.0}, "`learning_rate` to be > 0, got 0"),
        ({"learning_rate": -1e-3}, "`learning_rate` to be > 0, got -0.001"),
        ({"learning_rate": float("nan")}, "`learning_rate` to be > 0, got nan"),
        ({"warmup": 1.0}, r"`warmup` to be in \[0, 1\), got 1"),
        ({"warmup": -0.1}, r"`warmup` to be in \[0, 1\), got -0.1"),
        ({"warmup": float("nan")}, r"`warmup` to be in \[0, 1\), got nan"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=f"TrainConfig: expected {message}"):
        TrainConfig(**settings)


@pytest.mark.parametrize(
    "images, size, epochs", [(100, 10, 10), (104, 10, 10), (106, 10, 11), (5, 1000, 1), (1, 1, 1)]
)
def test_images_become_the_nearest_number_of_epochs(images, size, epochs):
    assert TrainConfig(images=images).epochs_for(size) == epochs


def test_epochs_count_instead_of_images():
    assert TrainConfig(images=100, epochs=3).epochs_for(10) == 3


def test_settings_cannot_be_altered():
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrainConfig().epochs = 3


def test_settings_survive_json():
    config = TrainConfig(epochs=3, recipe="none", milestones=(0.5, 0.9))
    assert TrainConfig(**json.loads(json.dumps(config.as_dict()))) == config


def test_every_setting_has_a_default():
    assert TrainConfig() == TrainConfig(**TrainConfig().as_dict())
