"""A model of one's own in every command, named by ``--model package.module:Class``."""

import json
import sys

import pytest

from cvlib.cli import main
from cvlib.cli.models import resolve_model
from cvlib.models import Model

MODULE = '''
import torch
import torch.nn.functional as F
from torch import nn

from cvlib.models import Model
from cvlib.structures import Detections


class OneBox(Model):
    """Detects one object per image."""

    task = "detection"
    name = "one_box"
    head = ("box",)

    def __init__(self, classes, image_size=(64, 64), width=8):
        super().__init__(classes, image_size)
        self.options = {"image_size": list(self.image_size), "width": width}
        pool = nn.AdaptiveAvgPool2d(4)
        self.features = nn.Sequential(nn.Conv2d(3, width, 3, 4, 1), nn.ReLU(), pool, nn.Flatten())
        self.box = nn.Linear(16 * width, 4)

    def forward(self, images):
        return self.box(self.features(self.normalise(images))).float().sigmoid()

    def _scale(self, raw):
        height, width = self.image_size
        return raw.new_tensor([width, height, width, height])

    def loss(self, raw, targets):
        boxes = targets["boxes"][:, 0] / self._scale(raw)
        has_object = (targets["labels"][:, :1] >= 0).float()
        return {"box": (F.l1_loss(raw, boxes, reduction="none") * has_object).mean()}

    def decode(self, raw, sizes=None, *, score_threshold=None):
        corners = (raw * self._scale(raw)).reshape(-1, 2, 2)
        boxes = torch.cat([corners.amin(1), corners.amax(1)], 1)
        score, label = torch.ones(1), torch.zeros(1, dtype=torch.int64)
        return [
            Detections(box[None], score.to(box.device), label.to(box.device), self.classes,
                       size=self.image_size)
            for box in boxes
        ]


def build():
    pass


number = 3
'''
NAME = "own_models.boxes:OneBox"
TINY = ["--epochs", "1", "--precision", "float32", "--device", "cpu"]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder with the package own_models."""
    folder = tmp_path_factory.mktemp("project")
    package = folder / "own_models"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "boxes.py").write_text(MODULE)
    (package / "broken.py").write_text("import there_is_no_such_package\n")
    return folder


@pytest.fixture(autouse=True)
def in_project(project, monkeypatch):
    """Commands run in the project's folder; imports are undone after each test."""
    monkeypatch.chdir(project)
    monkeypatch.setattr(sys, "path", list(sys.path))
    forget_imports()
    yield
    forget_imports()


def forget_imports():
    for name in [name for name in sys.modules if name.split(".")[0] == "own_models"]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def run(project, coco):
    """A run folder of one epoch."""
    out = project / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        patch.setattr(sys, "path", list(sys.path))
        options = ["--model", NAME, "--image-size", "32", "48", "--out", str(out)]
        assert main(["train", str(coco), *options, *TINY]) == 0
    return out


def test_train_and_resume(run, coco, capsys):
    assert {"best.pt", "last.pt", "predictions.png"} <= {path.name for path in run.iterdir()}
    assert main(["train", "--resume", "--out", str(run)]) == 1
    error = capsys.readouterr().err
    assert "expected --model package.module:Class" in error and "'one_box'" in error
    assert not any(name.startswith("own_models") for name in sys.modules)
    assert main(["train", "--resume", "--out", str(run), "--model", NAME]) == 0
    assert f"resuming {run}" in capsys.readouterr().out
    command = ["train", str(coco), "--image-size", "32", "48", "--resume", "--out", str(run)]
    assert main([*command, "--model", NAME, *TINY]) == 0
    assert f"resuming {run}" in capsys.readouterr().out


def test_resume_with_another_model_is_refused(run, trained, capsys):
    assert main(["train", "--resume", "--out", str(run), "--model", "tiny_ssd"]) == 1
    assert "expected one_box as in the run to resume, got tiny_ssd" in capsys.readouterr().err
    assert main(["train", "--resume", "--out", str(trained), "--model", "resnet18"]) == 1
    assert "expected tiny_ssd as in the run to resume, got resnet18" in capsys.readouterr().err


def test_a_new_run_has_the_name_of_the_model_and_says_how_to_use_it(coco, project, capsys):
    assert main(["train", str(coco), "--model", NAME, *TINY]) == 0
    assert (project / "runs" / "one_box" / "best.pt").exists()
    assert f"cvlib predict runs/one_box IMAGES --model {NAME}\n" in capsys.readouterr().out


def test_val(run, coco, tmp_path):
    out = tmp_path / "val"
    command = ["val", str(run), str(coco), "--model", NAME, "--out", str(out), "--device", "cpu"]
    assert main(command) == 0
    assert 0 <= json.loads((out / "metrics.json").read_text())["ap"] <= 1


def test_predict(run, coco, tmp_path):
    out, images = tmp_path / "out", coco / "images" / "val"
    options = ["--model", NAME, "--out", str(out), "--save", "json,coco", "--device", "cpu"]
    assert main(["predict", str(run), str(images), *options]) == 0
    rows = json.loads((out / "predictions.json").read_text())
    assert [len(row["objects"]) for row in rows] == [1, 1, 1]
    for row in rows:
        x1, y1, x2, y2 = row["objects"][0]["box"]
        assert 0 <= x1 <= x2 <= 96 and 0 <= y1 <= y2 <= 96


def test_info(run, capsys):
    assert main(["info", str(run), "--model", NAME]) == 0
    assert "one_box for detection, 1 classes: banana" in capsys.readouterr().out


@pytest.mark.parametrize("what", ["model", "train"])
@pytest.mark.parametrize("is_trained", [False, True])
def test_bench(run, what, is_trained, capsys):
    path = [str(run)] if is_trained else []
    options = ["--batch-sizes", "2", "--seconds", "0.01", "--device", "cpu"]
    assert main(["bench", what, *path, "--model", NAME, *options]) == 0
    size = "32 x 48" if is_trained else "64 x 64"
    assert f"one_box at {size}" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["val", "predict", "info"])
def test_without_model_the_error_names_the_option(run, coco, command, tmp_path, capsys):
    arguments = {
        "val": [str(coco), "--out", str(tmp_path / "val")],
        "predict": [str(coco), "--out", str(tmp_path / "out")],
        "info": [],
    }
    assert main([command, str(run), *arguments[command]]) == 1
    error = capsys.readouterr().err
    assert "'one_box'" in error and "--model package.module:MyModel" in error
    assert not any(name.startswith("own_models") for name in sys.modules)


def test_a_built_in_checkpoint_needs_no_model(trained, capsys):
    assert main(["info", str(trained), "--model", "tiny_ssd"]) == 1
    assert "got 'tiny_ssd'; leave --model out" in capsys.readouterr().err


def test_a_checkpoint_of_another_model(trained, capsys):
    assert main(["info", str(trained), "--model", NAME]) == 1
    assert "cvlib info: load: expected" in capsys.readouterr().err


def test_models_are_resolved():
    assert resolve_model("resnet18") == "resnet18"
    model = resolve_model(NAME)
    assert issubclass(model, Model) and model.__name__ == "OneBox"


@pytest.mark.parametrize(
    "name, error, message",
    [
        ("own_models.boxes.OneBox", ValueError, "did you mean own_models.boxes:OneBox?"),
        ("tiny_sdd", ValueError, "did you mean tiny_ssd?"),
        ("qqqq", ValueError, "cvlib info lists"),
        (":OneBox", ValueError, "expected package.module:Class, got ':OneBox'"),
        ("own_models.boxes:", ValueError, "expected package.module:Class"),
        ("nowhere.boxes:OneBox", ImportError, "got 'nowhere.boxes'; it is neither in"),
        ("own_models.circles:OneBox", ImportError, "'own_models.circles'; it is neither in"),
        ("own_models.broken:OneBox", ImportError, "No module named 'there_is_no_such_package'"),
        ("own_models.boxes:TwoBoxes", ValueError, "did you mean own_models.boxes:OneBox?"),
        ("own_models:OneBox", ValueError, "got 'OneBox'; it defines no models"),
        ("own_models.boxes:build", TypeError, "subclass of cvlib.models.Model, got function"),
        ("own_models.boxes:Detections", TypeError, "cvlib.models.Model, got Detections"),
        ("own_models.boxes:number", TypeError, "cvlib.models.Model, got int"),
        ("own_models.boxes:Model", TypeError, "cvlib.models.Model, got Model"),
    ],
)
def test_wrong_models_are_explained(name, error, message, coco, tmp_path, capsys):
    with pytest.raises(error) as caught:
        resolve_model(name)
    assert str(caught.value).startswith("--model: expected ")
    assert message in str(caught.value)
    assert main(["train", str(coco), "--model", name, "--out", str(tmp_path / "run")]) == 1
    error_lines = capsys.readouterr().err.splitlines()
    assert len(error_lines) == 1 and message in error_lines[0]
