"""tools/train_ssd.py, run as a process."""

import csv
import json
import os
import re
import signal
import time

import pytest
from children import Tool
from PIL import Image

from cvlib.data import SyntheticBananas, write_shards
from cvlib.engine import load
from cvlib.engine.checkpoint import load_checkpoint

DEADLINE = 60
FILES = {
    "best.pt",
    "best.safetensors",
    "config.json",
    "curves.png",
    "data.json",
    "last.pt",
    "metrics.csv",
    "metrics.json",
    "metrics.jsonl",
    "predictions.png",
    "run.yaml",
}
FAST = ["--precision", "float32", "--threads", "1", "--device", "cpu", "--batch-size", "3"]

# Few drawn images, since two thousand take minutes.
FEW = """
import importlib.util, os, sys
for number, path in ((1, out), (2, err)):
    os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
os.chdir(folder)
os.environ.update(environment)
sys.argv = arguments
spec = importlib.util.spec_from_file_location("train_ssd", arguments[0])
tool = sys.modules["train_ssd"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)
assert tool.SYNTHETIC_EPOCH > 100 and tool.SYNTHETIC_VAL > 10
tool.SYNTHETIC_EPOCH, tool.SYNTHETIC_VAL = 6, 2
tool.main()
"""


@pytest.fixture
def tool(tmp_path):
    (tmp_path / "home").mkdir()
    # No test may reach the network, not even where there is one.
    nowhere = dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9")
    return Tool(
        "train_ssd.py", tmp_path, {"CVLIB_HOME": str(tmp_path / "home"), **nowhere}, DEADLINE
    )


def write_bananas(root, **options):
    """Write a dataset of drawn images in the layout of the book."""
    for split, count, seed in (("train", 6, 0), ("val", 2, 1)):
        folder = root / f"bananas_{split}"
        (folder / "images").mkdir(parents=True)
        rows = ["img_name,label,xmin,ymin,xmax,ymax"]
        for i, (image, target) in enumerate(SyntheticBananas(count, seed=seed, **options)):
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / "images" / f"{i}.png")
            # An image without a row would be warned about.
            boxes = target["boxes"].int().tolist() or [[1, 1, 50, 50]]
            rows += [f"{i}.png,0,{x1},{y1},{x2},{y2}" for x1, y1, x2, y2 in boxes]
        (folder / "label.csv").write_text("\n".join(rows) + "\n")
    return root


@pytest.fixture(scope="module")
def bananas(tmp_path_factory):
    return write_bananas(tmp_path_factory.mktemp("banana-detection"))


def files(folder):
    return {path.name for path in folder.iterdir()}


# --- runs


def test_a_run_on_real_images_writes_everything(tool, tmp_path, bananas):
    code = tool("--data", bananas, "--epochs", 2, "--out", "runs/a", *FAST)
    assert code == 0, tool.err
    out = tmp_path / "runs" / "a"
    assert files(out) == FILES
    assert json.loads((out / "config.json").read_text())["epochs"] == 2
    with open(out / "metrics.csv", newline="") as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["1.0", "2.0"]
    assert len(json.loads((out / "metrics.json").read_text())) == 2
    assert load(out).classes == ("banana",)
    for name in ("curves.png", "predictions.png"):
        with Image.open(out / name) as image:
            assert min(image.size) > 250
    assert str(bananas) in tool.out, "names the data"
    assert re.search(r"^epoch 1/2 .*AP50", tool.out, re.MULTILINE)
    assert re.search(r"^best: AP ", tool.out, re.MULTILINE)
    assert "predictions.png" in tool.out, "names the images"
    assert files(tmp_path) == {"runs", "home", "stdout", "stderr"}, "no other files"


def test_a_dataset_in_shards_can_be_trained_on(tool, tmp_path):
    for split, count in (("train", 6), ("val", 2)):
        write_shards(SyntheticBananas(count, image_size=64), tmp_path / "shards" / split)
    arguments = ["--data", "shards", "--no-cache", "--epochs", 1, "--out", "a", *FAST]
    assert tool(*arguments) == 0, tool.err
    assert files(tmp_path / "a") == FILES
    assert json.loads((tmp_path / "a" / "data.json").read_text())["data"] == str(
        tmp_path / "shards"
    )


def test_without_a_network_synthetic_bananas_are_used_and_named(tool, tmp_path):
    arguments = ["--download-timeout", 0.5, "--epochs", 1, *FAST]
    assert tool(*arguments, script=FEW) == 0, tool.err
    assert "no real bananas" in tool.out
    assert "training on synthetic bananas" in tool.out
    assert files(tmp_path / "runs" / "ssd") == FILES


def test_synthetic_does_not_ask_the_network(tool, tmp_path):
    arguments = ["--synthetic", "--epochs", 1, "--out", "a", *FAST]
    assert tool(*arguments, script=FEW) == 0, tool.err
    assert "no real bananas" not in tool.out
    assert "training on synthetic bananas" in tool.out
    assert files(tmp_path / "a") == FILES


def test_new_runs_get_new_folders(tool, tmp_path):
    (tmp_path / "runs" / "ssd").mkdir(parents=True)
    (tmp_path / "runs" / "ssd-2").mkdir()
    assert tool("--synthetic", "--epochs", 1, *FAST, script=FEW) == 0, tool.err
    assert files(tmp_path / "runs" / "ssd-3") == FILES


def test_interrupted_resumed_and_finished(tool, tmp_path, bananas):
    out = tmp_path / "a"
    arguments = ["--data", bananas, "--epochs", 4, "--out", "a", *FAST]
    tool.start(*arguments)
    end = time.monotonic() + DEADLINE
    while not (out / "last.pt").exists() and time.monotonic() < end:
        time.sleep(0.005)
    os.kill(tool.process.pid, signal.SIGINT)
    assert tool.wait() == 130, "exit code of Ctrl-C"
    assert "Traceback" not in tool.err
    assert "resume" in tool.out
    assert load_checkpoint(out / "last.pt")["progress"]["step"] < 8
    assert tool(*arguments, "--resume") == 0, tool.err
    assert files(out) == FILES
    assert len(json.loads((out / "metrics.json").read_text())) == 4


# --- messages


def test_help_explains_every_option(tool):
    assert tool("--help") == 0
    text = re.sub(r"[│╭╮╰╯─]", " ", tool.out)
    options = re.split(r"\n\s+(?=-)", text.partition("options")[2])[1:]
    named = {option.split()[0].rstrip(",") for option in options}
    assert {"--images", "--epochs", "--data", "--synthetic", "--out", "--resume"} <= named
    assert {"--learning-rate", "--batch-size", "--device", "--seed", "--threads"} <= named
    for option in options:
        words = re.sub(r"\(default: .*?\)|-[-\w]+,?|\{.*?\}(\|[A-Z]+)?|[A-Z]{2,}", " ", option)
        assert len(words.split()) >= 3, f"no explanation: {option}"
    assert "tools/train_ssd.py --resume" in text, "shows examples"


def test_a_missing_data_folder(tool):
    tool.assert_explained(tool("--data", "nowhere", "--out", "a"), "nowhere", "does not exist")


def test_an_out_that_holds_a_run(tool, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "last.pt").write_bytes(b"precious")
    code = tool("--synthetic", "--out", "a")
    tool.assert_explained(code, "which holds a run", "--resume", "--out")
    assert (tmp_path / "a" / "last.pt").read_bytes() == b"precious"


@pytest.mark.parametrize("arguments", [["--out", "a"], []])
def test_nothing_to_resume(tool, arguments):
    tool.assert_explained(tool("--synthetic", "--resume", *arguments))


def test_a_damaged_run_to_resume(tool, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "last.pt").write_bytes(b"not a checkpoint")
    assert tool("--synthetic", "--resume", "--out", "a") == 1
    assert "Traceback" not in tool.err
    assert re.match(r"train_ssd: load_checkpoint: .*last\.pt, which is damaged", tool.err)


def test_wrong_labels(tool, tmp_path, bananas):
    folder = tmp_path / "data"
    for split in ("train", "val"):
        (folder / f"bananas_{split}").mkdir(parents=True)
        (folder / f"bananas_{split}" / "images").symlink_to(bananas / f"bananas_{split}" / "images")
        text = (bananas / f"bananas_{split}" / "label.csv").read_text()
        (folder / f"bananas_{split}" / "label.csv").write_text(text.replace(".png,0,", ".png,7,"))
    tool.assert_explained(tool("--data", folder, "--out", "a"), "label.csv", lines=10)


def test_an_out_below_a_file(tool, tmp_path, bananas):
    (tmp_path / "file").touch()
    code = tool("--data", bananas, "--out", "file/a", *FAST)
    tool.assert_explained(code, "Not a directory")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--epochs", "0"],
        ["--epochs", "many"],
        ["--unknown"],
        ["--loss", "huber"],
        ["--device", "gpu"],
        ["--device", "cuda:99"],
        ["--threads", "-1"],
    ],
)
def test_wrong_options_are_explained(tool, arguments):
    # The parser frames its errors in a few lines.
    code = tool("--synthetic", "--out", "a", *arguments)
    assert arguments[0].strip("-") in tool.err + tool.out
    tool.assert_explained(code, lines=14)


def test_images_of_another_size_and_resume_without_options(tool, tmp_path):
    """Resuming needs no options but --out: the others are those of the run."""
    write_bananas(tmp_path / "data", image_size=128)
    assert tool("--data", "data", "--images", 6, "--out", "a", *FAST) == 0, tool.err
    assert tool("--data", "data", "--resume", "--out", "a") == 0, tool.err
