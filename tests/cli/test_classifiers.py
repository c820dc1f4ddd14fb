"""Commands on a dataset for classification."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from cvlib.cli import main
from cvlib.cli.datasets import choose_split, open_train_val
from cvlib.data import load_dataset
from cvlib.engine import load

COLOURS = {"grass": (30, 160, 40), "sky": (60, 120, 230)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six images of grass, six of sky, without splits."""
    home = tmp_path_factory.mktemp("weather")
    for seed, (name, colour) in enumerate(COLOURS.items()):
        (home / name).mkdir()
        for number in range(6):
            noise = np.random.default_rng(10 * seed + number).integers(-20, 20, (48, 64, 3))
            pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(home / name / f"{number}.png")
    return home


@pytest.fixture(scope="module")
def run(tmp_path_factory, folder):
    out = tmp_path_factory.mktemp("runs") / "weather"
    sizes = ["--model", "squeezenet1_1", "--image-size", "64", "64", "--batch-size", "3"]
    options = ["--epochs", "1", "--precision", "float32", "--device", "cpu"]
    assert main(["train", str(folder), *sizes, *options, "--out", str(out)]) == 0
    return out


def test_training_uses_the_defaults_of_the_task(run):
    settings = json.loads((run / "config.json").read_text())
    assert (settings["optimizer"], settings["head_factor"]) == ("adamw", 10.0)
    assert settings["batch_size"] == 3, "options override defaults"
    assert load(run).classes == ("grass", "sky")
    assert (run / "predictions.png").exists()


def test_val_draws_confusions(run, folder, tmp_path, capsys):
    out = tmp_path / "val"
    assert main(["val", str(run), str(folder), "--out", str(out), "--device", "cpu"]) == 0
    assert (out / "confusion.png").exists()
    assert "accuracy" in json.loads((out / "metrics.json").read_text())
    assert "grass" in capsys.readouterr().out


def test_predict_gives_a_row_for_each_image(run, folder, tmp_path):
    out = tmp_path / "out"
    options = ["--save", "csv,images", "--tta", "flip", "--out", str(out), "--device", "cpu"]
    assert main(["predict", str(run), str(folder), *options]) == 0
    with open(out / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12
    assert {row["class"] for row in rows} <= set(COLOURS)
    assert len(list(out.glob("*.png"))) == 12, "equal names in two folders"


def test_every_class_is_in_both_parts(folder):
    dataset = load_dataset(folder, log=lambda line: None)
    first, second = dataset.split(0.67, seed=0)
    assert first.count_labels().tolist() == [4, 4]
    assert second.count_labels().tolist() == [2, 2]
    paths = [str(path) for part in (first, second) for path in part.images]
    assert sorted(paths) == sorted(map(str, dataset.images))
    again, _ = dataset.split(0.67, seed=0)
    other, _ = dataset.split(0.67, seed=1)
    assert list(again.images) == list(first.images) != list(other.images)


def test_a_part_without_images_is_refused(folder):
    with pytest.raises(
        ValueError, match=r"in each part, got 12 and 0 of 12 .*choose another --val-share"
    ):
        open_train_val(
            folder,
            None,
            val_share=0.001,
            seed=0,
            bad_labels="raise",
            cache=False,
            log=lambda line: None,
        )


@pytest.mark.parametrize(
    "splits, wanted, expected",
    [
        ([], "train", None),
        (["all"], "train", "all"),
        (["train2017", "val2017"], "train", "train2017"),
        (["train", "valid"], "val", "valid"),
    ],
)
def test_the_matching_split_is_chosen(splits, wanted, expected, tmp_path):
    assert choose_split(splits, wanted, tmp_path) == expected


@pytest.mark.parametrize("splits", [["a", "b"], ["train2014", "train2017"]])
def test_an_ambiguous_split_must_be_named(splits, tmp_path):
    with pytest.raises(ValueError, match="expected a split train"):
        choose_split(splits, "train", tmp_path)
