"""Every command on synthetic bananas."""

import csv
import io
import json
import re

import numpy as np
import pytest
import yaml
from PIL import Image

from cvlib.cli import main
from cvlib.engine import load

TINY = ["--image-size", "64", "64", "--epochs", "1", "--precision", "float32", "--device", "cpu"]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def size(path):
    with Image.open(path) as image:
        image.load()
        return image.size


def test_train_writes_a_complete_run_folder(trained, coco):
    wanted = {"best.pt", "last.pt", "run.yaml", "config.json", "data.json", "metrics.csv"}
    assert wanted | {"curves.png", "predictions.png"} <= set(names(trained))
    assert json.loads((trained / "data.json").read_text())["data"] == str(coco)
    model = load(trained)
    assert (model.name, model.classes, model.image_size) == ("tiny_ssd", ("banana",), (64, 64))
    assert min(size(trained / "predictions.png")) > 96


def test_train_reports_the_share_for_validation(tmp_path, yolo, capsys):
    assert main(["train", str(yolo), "--out", str(tmp_path / "run"), *TINY]) == 0
    message = capsys.readouterr().out
    assert "no validation split: 1 of 6 images are used for validation" in message
    assert "best: AP" in message


def test_the_seed_of_a_file_splits_the_dataset_like_that_of_the_command_line(tmp_path, yolo):
    first, second = tmp_path / "first", tmp_path / "second"
    assert main(["train", str(yolo), "--out", str(first), "--seed", "7", *TINY]) == 0
    config = ["--image-size", "64", "64", "--config", str(first / "run.yaml")]
    assert main(["train", str(yolo), "--out", str(second), *config]) == 0
    assert (second / "data.json").read_text() == (first / "data.json").read_text()


def test_settings_of_a_file_and_of_the_command_line(tmp_path, coco, trained):
    out = tmp_path / "run"
    config = ["--config", str(trained / "run.yaml"), "--seed", "5"]
    assert main(["train", str(coco), "--out", str(out), "--image-size", "64", "64", *config]) == 0
    settings = yaml.safe_load((out / "run.yaml").read_text())
    assert settings == {**yaml.safe_load((trained / "run.yaml").read_text()), "seed": 5}


def test_a_run_is_never_overwritten(coco, trained, capsys):
    before = (trained / "best.pt").read_bytes()
    assert main(["train", str(coco), "--out", str(trained), *TINY]) == 1
    assert "which holds a run" in capsys.readouterr().err
    assert (trained / "best.pt").read_bytes() == before


def test_resume_of_a_finished_run_reports_it(trained, capsys):
    assert main(["train", "--resume", "--out", str(trained)]) == 0
    assert f"resuming {trained}" in capsys.readouterr().out


def test_a_restart_by_torchrun_resumes(coco, trained, monkeypatch, capsys):
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert main(["train", str(coco), "--out", str(trained), *TINY]) == 0
    assert f"resuming {trained}" in capsys.readouterr().out


def test_resume_with_data_starts_or_resumes(tmp_path, coco, capsys):
    out = tmp_path / "run"
    command = ["train", str(coco), "--out", str(out), "--resume", *TINY]
    assert main(command) == 0
    assert "resuming" not in capsys.readouterr().out
    before = (out / "last.pt").read_bytes()
    assert main(command) == 0
    assert f"resuming {out}" in capsys.readouterr().out
    assert (out / "last.pt").read_bytes() == before


@pytest.mark.parametrize("data", [True, False])
def test_settings_of_a_resumed_run_are_not_ignored(trained, coco, data, capsys):
    command = ["train", *([str(coco), *TINY] if data else []), "--resume", "--out", str(trained)]
    assert main([*command, "--epochs", "9"]) == 1
    assert "epochs was 1, is 9; start in another folder" in capsys.readouterr().err
    assert main([*command, "--workers", "0", "--eval-every", "3"]) == 0, "free to change"


@pytest.mark.parametrize("content", [None, "{", '{"folder": "x"}'])
def test_resume_reports_an_unknown_dataset(tmp_path, trained, content, capsys):
    out = tmp_path / "run"
    out.mkdir()
    (out / "last.pt").write_bytes((trained / "last.pt").read_bytes())
    if content is not None:
        (out / "data.json").write_text(content)
    assert main(["train", "--resume", "--out", str(out)]) == 1
    message = capsys.readouterr().err
    assert "data.json to name the dataset" in message and "pass the dataset, too" in message


def test_resume_without_a_run(tmp_path, capsys):
    assert main(["train", "--resume", "--out", str(tmp_path)]) == 1
    assert "last.pt" in capsys.readouterr().err


def plant_inverted_box(folder):
    path = folder / "annotations" / "instances_train.json"
    content = json.loads(path.read_text())
    x, y, width, height = content["annotations"][0]["bbox"]
    content["annotations"][0]["bbox"] = [x, y, -width, height]
    path.write_text(json.dumps(content))


def test_wrong_labels_are_refused_with_the_list(tmp_path, coco_copy, capsys):
    plant_inverted_box(coco_copy)
    out = tmp_path / "run"
    assert main(["train", str(coco_copy), "--out", str(out), *TINY]) == 1
    message = capsys.readouterr().err
    assert "annotation 1" in message
    assert "Traceback" not in message
    assert not out.exists()


def test_wrong_labels_may_be_dropped_with_a_warning(tmp_path, coco_copy, capsys):
    plant_inverted_box(coco_copy)
    out = str(tmp_path / "run")
    assert main(["train", str(coco_copy), "--out", out, "--bad-labels", "drop", *TINY]) == 0
    assert "annotation 1" in capsys.readouterr().err


def test_missing_images_stop_before_the_first_step(tmp_path, coco_copy, capsys):
    (coco_copy / "images" / "train" / "train-0.png").unlink()
    command = ["train", str(coco_copy), "--out", str(tmp_path / "run"), *TINY]
    assert main(command) == 1
    assert "train-0.png" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert main([*command, "--no-check"]) == 0
    assert "skipped: training image 0 cannot be read" in capsys.readouterr().out


def test_warnings_are_logged_once(tmp_path, coco_copy, capsys):
    path = coco_copy / "annotations" / "instances_train.json"
    content = json.loads(path.read_text())
    for annotation in content["annotations"]:
        annotation["bbox"][2:] = [3, 3]  # no anchor is so small
    path.write_text(json.dumps(content))
    command = ["train", str(coco_copy), *TINY, "--out"]
    assert main([*command, str(tmp_path / "a")]) == 0
    assert capsys.readouterr().out.count("instances_train.json: expected an anchor") == 1
    assert main([*command, str(tmp_path / "b"), "--no-check"]) == 0
    assert "got none for" not in capsys.readouterr().out


def test_other_classes_in_val_are_refused(tmp_path, coco, coco_copy, capsys):
    path = coco_copy / "annotations" / "instances_val.json"
    path.write_text(path.read_text().replace("banana", "plum"))
    assert main(["train", str(coco), "--val", str(coco_copy), "--out", str(tmp_path / "r")]) == 1
    assert "expected --val to have the classes" in capsys.readouterr().err


def test_val_writes_metrics_plots_and_worst_images(tmp_path, trained, coco, capsys):
    out = tmp_path / "val"
    assert main(["val", str(trained), str(coco), "--out", str(out), "--device", "cpu"]) == 0
    assert set(names(out)) >= {"metrics.json", "table.txt", "confusion.png", "errors.png"}
    assert set(names(out)) >= {"precision_recall.png", "worst.png"}
    assert 0 <= json.loads((out / "metrics.json").read_text())["ap"] <= 1
    assert "banana" in (out / "table.txt").read_text()
    assert "banana" in capsys.readouterr().out
    assert main(["val", str(trained), str(coco), "--out", str(out), "--device", "cpu"]) == 1
    assert "expected a new or empty folder" in capsys.readouterr().err


def test_val_never_replaces_the_metrics_of_a_run(trained, coco, capsys):
    before = (trained / "metrics.json").read_bytes()
    arguments = ["val", str(trained), str(coco), "--out", str(trained), "--overwrite"]
    assert main(arguments) == 1
    assert "expected a folder for results, got the run" in capsys.readouterr().err
    assert (trained / "metrics.json").read_bytes() == before


def test_val_of_another_split(tmp_path, trained, coco, capsys):
    arguments = ["val", str(trained), str(coco), "--split", "train", "--out", str(tmp_path / "v")]
    assert main([*arguments, "--device", "cpu"]) == 0
    assert "6 images" in capsys.readouterr().out


def test_val_skips_and_reports_unreadable_images(tmp_path, trained, coco_copy, capsys):
    (coco_copy / "images" / "val" / "val-1.png").write_bytes(b"\x89PNG")
    arguments = ["val", str(trained), str(coco_copy), "--device", "cpu", "--out"]
    assert main([*arguments, str(tmp_path / "v"), "--max-bad-share", "0"]) == 1
    assert "val-1.png" in capsys.readouterr().err
    assert main([*arguments, str(tmp_path / "w")]) == 0
    assert "val-1.png" in capsys.readouterr().out


LOW = ["--score-threshold", "0.005", "--device", "cpu"]


@pytest.fixture(scope="module")
def predicted(tmp_path_factory, trained, coco):
    out = tmp_path_factory.mktemp("predicted") / "out"
    arguments = ["predict", str(trained), str(coco / "images" / "val"), "--out", str(out), *LOW]
    data = ["--data", str(coco / "annotations" / "instances_val.json")]
    assert main([*arguments, "--save", "images,coco,yolo,csv,json", *data]) == 0
    return out


def test_all_writers_agree(predicted, coco):
    rows = json.loads((predicted / "predictions.json").read_text())
    assert [row["file"] for row in rows] == [
        str(coco / "images" / "val" / f"val-{i}.png") for i in range(3)
    ]
    results = json.loads((predicted / "predictions-coco.json").read_text())
    with open(predicted / "predictions.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert len(table) == len(results) == sum(len(row["objects"]) for row in rows) > 0
    for i, row in enumerate(rows):
        assert size(row["annotated"]) == (96, 96)
        coco_rows = [result for result in results if result["image_id"] == 10 * (i + 1)]
        lines = (predicted / "labels" / f"val-{i}.txt").read_text().splitlines()
        csv_rows = [cells for cells in table if cells["file"] == row["file"]]
        for entry, result, line, cells in zip(
            row["objects"], coco_rows, lines, csv_rows, strict=True
        ):
            x1, y1, x2, y2 = entry["box"]
            assert result["category_id"] == 7
            np.testing.assert_allclose(result["bbox"], [x1, y1, x2 - x1, y2 - y1], atol=0.02)
            label, cx, cy, width, height, score = map(float, line.split())
            assert label == 0
            middle = [(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1]
            np.testing.assert_allclose(np.array([cx, cy, width, height]) * 96, middle, atol=0.02)
            np.testing.assert_allclose([float(cells[k]) for k in ("x1", "y2")], [x1, y2], atol=0.01)
            assert score == pytest.approx(entry["score"], abs=1e-4)
            assert cells["class"] == entry["class"] == "banana"


def test_without_a_coco_file_images_are_numbered_and_named(tmp_path, trained, coco):
    out = tmp_path / "out"
    arguments = [str(trained), str(coco / "images" / "val"), "--save", "coco", "--out", str(out)]
    assert main(["predict", *arguments, *LOW]) == 0
    images = json.loads((out / "predictions-coco-images.json").read_text())
    assert [image["id"] for image in images["images"]] == [1, 2, 3]
    assert images["categories"] == [{"id": 0, "name": "banana"}]
    results = json.loads((out / "predictions-coco.json").read_text())
    assert {result["image_id"] for result in results} == {1, 2, 3}
    assert names(out) == ["predictions-coco-images.json", "predictions-coco.json"]


def test_images_that_the_coco_file_does_not_have(tmp_path, trained, coco, capsys):
    data = ["--data", str(coco / "annotations" / "instances_val.json"), "--save", "coco"]
    arguments = [str(trained), str(coco / "images"), "--out", str(tmp_path / "out"), *data]
    assert main(["predict", *arguments, *LOW]) == 1
    assert "6 images are not in --data" in capsys.readouterr().err


def test_a_list_from_standard_input(tmp_path, trained, coco, monkeypatch):
    paths = [coco / "images" / "val" / f"val-{i}.png" for i in (2, 0)]
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{path}\n" for path in paths)))
    out = tmp_path / "out"
    assert main(["predict", str(trained), "-", "--save", "json", "--out", str(out), *LOW]) == 0
    rows = json.loads((out / "predictions.json").read_text())
    assert [row["file"] for row in rows] == [str(path) for path in paths]


def test_damaged_and_missing_files_are_skipped_named_and_counted(
    tmp_path, trained, coco, capsys, monkeypatch
):
    (tmp_path / "bad.png").write_bytes(b"\x89PNG")
    lines = f"{tmp_path / 'bad.png'}\n{tmp_path / 'gone.png'}\n{coco}/images/val/val-0.png\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    out = tmp_path / "out"
    assert main(["predict", str(trained), "-", "--out", str(out), *LOW]) == 1
    message = capsys.readouterr()
    assert "2 files are damaged or missing and were skipped" in message.err
    assert re.search(r"skipped: .*bad\.png", message.err)
    assert "1 images" in message.out
    rows = json.loads((out / "predictions.json").read_text())
    assert [("error" in row) for row in rows] == [False, True, True]


def test_a_folder_that_holds_files_is_refused(tmp_path, trained, coco, capsys):
    (tmp_path / "mine.png").write_text("precious")
    arguments = ["predict", str(trained), str(coco / "images" / "val"), "--out", str(tmp_path)]
    assert main([*arguments, *LOW]) == 1
    assert "to be a new or empty folder" in capsys.readouterr().err
    assert names(tmp_path) == ["mine.png"]


def test_overwriting_never_takes_a_source(tmp_path, trained, coco):
    source = tmp_path / "val-0.png"
    source.write_bytes((coco / "images" / "val" / "val-0.png").read_bytes())
    before = source.read_bytes()
    arguments = ["predict", str(trained), str(source), "--out", str(tmp_path), "--overwrite"]
    assert main([*arguments, *LOW]) == 0
    assert source.read_bytes() == before
    assert names(tmp_path) == ["predictions.json", "val-0-2.png", "val-0.png"]


def test_tiles_and_views(tmp_path, trained, coco):
    out = tmp_path / "out"
    arguments = ["predict", str(trained), str(coco / "images" / "val"), "--out", str(out)]
    views = ["--tile", "48", "--tta", "flip,scales", "--scales", "0.8", "1"]
    assert main([*arguments, *views, *LOW]) == 0
    assert len(json.loads((out / "predictions.json").read_text())) == 3


def test_a_kind_for_another_task(tmp_path, trained, coco, capsys):
    arguments = [str(trained), str(coco / "images" / "val"), "--save", "masks"]
    assert main(["predict", *arguments, "--out", str(tmp_path / "out"), *LOW]) == 1
    assert "expected `model` to be for segmentation to write 'masks'" in capsys.readouterr().err


def test_check_of_good_labels(coco, capsys):
    assert main(["check", str(coco)]) == 0
    assert "0 errors" in capsys.readouterr().out


def test_check_finds_reports_and_fixes_a_planted_fault(tmp_path, coco_copy, capsys):
    plant_inverted_box(coco_copy)
    files = {name: tmp_path / f"report.{name}" for name in ("html", "json", "png")}
    options = [text for name, path in files.items() for text in (f"--{name}", str(path))]
    assert main(["check", str(coco_copy), *options]) == 1
    assert "annotation 1" in capsys.readouterr().out
    rows = json.loads(files["json"].read_text())["findings"]
    assert any(row["severity"] == "error" and row["row"] == "annotation 1" for row in rows)
    assert files["html"].read_text().startswith("<!")
    size(files["png"])
    fixed = tmp_path / "fixed"
    assert main(["check", str(coco_copy), "--fix", str(fixed)]) == 0
    assert main(["check", str(fixed)]) == 0


def test_check_never_replaces_a_report(tmp_path, coco, capsys):
    (tmp_path / "report.json").write_text("mine")
    assert main(["check", str(coco), "--json", str(tmp_path / "report.json")]) == 1
    assert "expected a new file" in capsys.readouterr().err
    assert (tmp_path / "report.json").read_text() == "mine"


def test_check_against_a_model(coco, trained):
    assert main(["check", str(coco), "--fast", "--model", str(trained)]) == 0


def test_check_against_a_model_without_anchors(coco, capsys):
    assert main(["check", str(coco), "--fast", "--model", "resnet18"]) == 1
    assert "expected a model with anchors" in capsys.readouterr().err


@pytest.mark.parametrize("what", ["data", "transforms", "anchors", "targets"])
def test_show_draws(tmp_path, coco, trained, what):
    out = tmp_path / "show.png"
    options = ["--what", what, "--out", str(out), "--count", "3", "--image-size", "64", "64"]
    assert main(["show", str(coco), *options, "--model", str(trained)]) == 0
    assert size(out)[0] > 150
    with Image.open(out) as image:
        assert len(np.unique(np.asarray(image.convert("L")))) > 50, "nothing is drawn"


def test_show_never_replaces_a_file(tmp_path, coco, capsys):
    (tmp_path / "show.png").write_text("mine")
    assert main(["show", str(coco), "--out", str(tmp_path / "show.png")]) == 1
    assert "expected a new file" in capsys.readouterr().err


def test_info_of_the_installation(capsys):
    assert main(["info"]) == 0
    message = capsys.readouterr().out
    for word in ("torch", "Python", "CPU", "tiny_ssd"):
        assert word in message


def test_info_of_a_model(trained, capsys):
    assert main(["info", str(trained)]) == 0
    message = capsys.readouterr().out
    assert "tiny_ssd for detection, 1 classes: banana" in message
    assert "GFLOPs" in message


def test_info_of_data(coco, capsys):
    assert main(["info", str(coco)]) == 0
    message = capsys.readouterr().out
    assert "images: 6" in message
    assert "0 errors" in message


@pytest.mark.parametrize("what", ["model", "train"])
def test_bench_measures(what, trained, capsys):
    options = ["--batch-sizes", "1", "2", "--seconds", "0.01"]
    assert main(["bench", what, str(trained), *options, "--device", "cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == [
        "batch", "images/s", "median", "ms", "90%", "ms", "99%", "ms", "calls",
    ]  # fmt: skip
    assert [line.split()[0] for line in lines[2:]] == ["1", "2"]
    assert all(float(line.split()[1]) > 0 for line in lines[2:])


@pytest.mark.parametrize("what", ["model", "train"])
def test_bench_measures_classifiers(what, capsys):
    options = ["--model", "squeezenet1_1", "--batch-sizes", "2", "--seconds", "0.01"]
    assert main(["bench", what, *options, "--device", "cpu"]) == 0
    assert "squeezenet1_1 at 224 x 224" in capsys.readouterr().out


def test_anchors_need_a_model_that_has_some(tmp_path, coco, capsys):
    options = ["--what", "anchors", "--model", "resnet18", "--out", str(tmp_path / "show.png")]
    assert main(["show", str(coco), *options]) == 1
    assert "--model: expected a model with anchors, got resnet18" in capsys.readouterr().err


def test_bench_of_operators_needs_a_checkout(tmp_path, monkeypatch, capsys):
    from cvlib.cli import bench

    monkeypatch.setattr(bench, "__file__", str(tmp_path / "cvlib" / "cli" / "bench.py"))
    assert main(["bench", "ops"]) == 1
    assert "expected tools/bench_ops.py next to the package" in capsys.readouterr().err


def test_bench_of_operators_calls_the_tool(tmp_path, monkeypatch):
    from cvlib.cli import bench

    (tmp_path / "tools").mkdir()
    tool = tmp_path / "tools" / "bench_ops.py"
    tool.write_text(
        "import sys, pathlib\npathlib.Path(__file__).with_name('a').write_text("
        "' '.join(sys.argv[1:]))\nsys.exit(7)\n"
    )
    monkeypatch.setattr(bench, "__file__", str(tmp_path / "cvlib" / "cli" / "bench.py"))
    assert main(["bench", "ops", "--only", "nms", "--seconds", "0.5"]) == 7
    assert (tmp_path / "tools" / "a").read_text() == "--seconds 0.5 --only nms"


def test_bench_reads_data(coco, capsys):
    assert main(["bench", "data", str(coco), "--seconds", "0.01"]) == 0
    assert "images/s" in capsys.readouterr().out
