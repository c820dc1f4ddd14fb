"""tools/train_classifier.py: from folders of images to a classifier."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from cvlib.engine import load
from cvlib.engine.checkpoint import load_checkpoint

TOOL = Path(__file__).parents[2] / "tools" / "train_classifier.py"
SMALL = ["--model", "squeezenet1_1", "--image-size", "64", "--batch-size", "4", "--epochs", "2"]
SMALL += ["--precision", "float32", "--device", "cpu"]


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("train_classifier", TOOL)
    module = sys.modules["train_classifier"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    # It would affect this process; as a script, the tool has its own.
    module.keep_freed_memory = lambda: True
    return module


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("colours"), np.random.default_rng(0)
    for split, count in (("train", 5), ("val", 2)):
        for channel, name in ((0, "red"), (2, "blue")):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 60, (50, 70, 3), dtype=np.uint8)
                pixels[..., channel] += 180
                Image.fromarray(pixels).save(folder / split / name / f"{i}.png")
    return folder


@pytest.fixture
def run(tool, monkeypatch):
    def start(*arguments):
        monkeypatch.setattr(sys, "argv", [str(TOOL), *map(str, arguments)])
        tool.main()

    return start


def test_a_run_writes_everything_and_can_be_resumed(run, tmp_path, colours, capsys):
    out = tmp_path / "run"
    run("--data", colours, "--out", out, *SMALL)
    text = capsys.readouterr().out
    assert "GFLOPs" in text and "best: accuracy" in text and str(out / "best.pt") in text
    assert load(out).name == "squeezenet1_1"
    assert load(out).classes == ("blue", "red")
    assert load(out).image_size == (64, 64)
    settings = yaml.safe_load((out / "run.yaml").read_text())
    assert settings["head_factor"] == 10, "the recipe for fine-tuning"
    assert settings["epochs"] == 2
    before = (out / "last.pt").read_bytes()
    run("--data", colours, "--out", out, "--resume")
    assert (out / "last.pt").read_bytes() == before
    run("--data", colours, "--out", tmp_path / "again", "--config", out / "run.yaml", *SMALL[:4])
    one, two = (load_checkpoint(folder)["model"] for folder in (out, tmp_path / "again"))
    assert all(torch.equal(value, two[name]) for name, value in one.items())


def test_help_has_the_recipe_as_defaults(run, capsys):
    with pytest.raises(SystemExit) as end:
        run("--help")
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert "--head-factor" in text and "(default: 10.0)" in text


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        (["--model", "resnet"], ValueError, "a name from list_models"),
        (["--weights", "none.pth"], FileNotFoundError, r"none\.pth"),
        (["--stride-in-1x1"], ValueError, "expected a ResNet with bottlenecks"),
        (["--image-size", "0"], ValueError, "expected `image_size`"),
    ],
)
def test_wrong_options_are_explained(run, tmp_path, colours, arguments, error, message):
    with pytest.raises(error, match=message):
        run("--data", colours, "--out", tmp_path / "run", *SMALL, *arguments)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_ants_and_bees_are_distinguished(run, tmp_path, test_data):
    """The recipe on real images, in about two minutes; accuracy was 0.948."""
    weights = test_data / "weights" / "mobilenet_v2_features.pth"
    arguments = ["--data", test_data / "hymenoptera", "--weights", weights]
    run(*arguments, "--out", tmp_path / "run", "--precision", "float32")
    assert load_checkpoint(tmp_path / "run")["metrics"]["accuracy"] >= 0.93
