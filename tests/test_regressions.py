"""Faults that were found once: each test failed before its fix."""

import dataclasses
import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cvlib import (
    Detections,
    SyntheticBananas,
    TinySSD,
    TrainConfig,
    evaluate,
    fit,
    load,
    predict,
)
from cvlib._files import save_json
from cvlib.data.files.images import read_image
from cvlib.engine.checkpoint import load_checkpoint, save_checkpoint
from cvlib.engine.report import plot_history
from cvlib.metrics import evaluate_boxes
from cvlib.models.tiny_ssd import Predictions
from cvlib.predict.sources import find_files
from cvlib.structures import GroundTruth
from cvlib.targets import check_targets

SIZE = (64, 64)


class Killed(BaseException):
    pass


CONFIG = TrainConfig(epochs=2, batch_size=2, precision="float32", device="cpu", recipe="none")


def bananas(n, seed=0):
    d = SyntheticBananas(n, image_size=64, seed=seed)
    return [d[i] for i in range(n)]


def run(out, resume=False, config=CONFIG, train=None, model=None):
    torch.manual_seed(0)
    return fit(
        model or TinySSD(("banana",), SIZE),
        train or bananas(4),
        bananas(2, 1),
        config,
        out,
        resume=resume,
        log=lambda s: None,
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    run(out)
    return out


@pytest.mark.parametrize("survived", range(10))
def test_killed_between_any_two_writes(whole, tmp_path, monkeypatch, survived):
    replace, count = os.replace, 0

    def kill(a, b):
        nonlocal count
        count += 1
        if count > survived:
            raise Killed
        replace(a, b)

    monkeypatch.setattr(os, "replace", kill)
    try:
        run(tmp_path)
    except Killed:
        pass
    monkeypatch.undo()
    result = run(tmp_path, resume=(tmp_path / "last.pt").exists())
    assert result.finished
    for n in ("last.pt", "best.pt"):
        a, b = load_checkpoint(tmp_path / n)["model"], load_checkpoint(whole / n)["model"]
        assert all(torch.equal(a[k], b[k]) for k in a), n
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 3
    assert {p.name for p in tmp_path.iterdir()} == {p.name for p in whole.iterdir()}


def test_weights_broken_by_the_last_step(tmp_path):
    config = dataclasses.replace(CONFIG, epochs=1, batch_size=4, learning_rate=1e38)
    with pytest.raises(FloatingPointError):
        run(tmp_path, config=config)


def test_resume_with_another_training_set(tmp_path):
    run(tmp_path, config=dataclasses.replace(CONFIG, epochs=1))
    with pytest.raises(ValueError):
        run(tmp_path, config=dataclasses.replace(CONFIG, epochs=1), train=bananas(7), resume=True)


def test_resume_with_another_image_size(tmp_path):
    run(tmp_path, config=dataclasses.replace(CONFIG, epochs=1))
    with pytest.raises(ValueError):
        run(
            tmp_path,
            config=dataclasses.replace(CONFIG, epochs=1),
            model=TinySSD(("banana",), (128, 128)),
            resume=True,
        )


def test_fit_into_a_folder_with_a_run(tmp_path):
    run(tmp_path, config=dataclasses.replace(CONFIG, epochs=1))
    with pytest.raises(FileExistsError):
        run(tmp_path, config=dataclasses.replace(CONFIG, epochs=1))


def test_images_of_another_size_than_the_models():
    found = evaluate(TinySSD(("banana",)), bananas(2))
    assert found.anchors.class_error_baseline > 0


def test_fit_images_of_another_size(tmp_path):
    model, config = TinySSD(("banana",)), dataclasses.replace(CONFIG, epochs=1)
    assert run(tmp_path, model=model, config=config).finished


def test_empty_val_is_noticed_before_training(tmp_path):
    with pytest.raises(ValueError):
        fit(TinySSD(("banana",), SIZE), bananas(4), [], CONFIG, tmp_path, log=print)
    assert not (tmp_path / "config.json").exists()


def test_smallest_image_size():
    with pytest.raises(ValueError, match="at least 64 x 64"):
        TinySSD(("a",), (63, 63))


@pytest.mark.parametrize(
    "c",
    [
        {"precision": "bf16"},
        {"loss": "huber"},
        {"learning_rate": float("inf")},
        {"weight_decay": -1.0},
        {"weight_decay": float("nan")},
        {"batch_size": 2.5},
        {"device": "gpu"},
    ],
)
def test_config_values(c):
    with pytest.raises((ValueError, TypeError)):
        TrainConfig(**c)


def test_mode(tmp_path):
    (tmp_path / "plain").write_text("x")
    save_json(tmp_path / "a.json", 1)
    assert (tmp_path / "a.json").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_limit(tmp_path):
    code = """
import resource, torch
from pathlib import Path
from cvlib.engine.checkpoint import save_checkpoint
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try: save_checkpoint(Path(out), {"model": {"w": torch.zeros(10_000)}, "classes": []})
except OSError: Path(out + ".ok").mkdir()
"""
    c = multiprocessing.get_context("forkserver")
    p = c.Process(target=exec, args=(code, {"out": str(tmp_path / "a")}))
    p.start()
    p.join()
    assert (tmp_path / "a.ok").exists()


def test_load_without_image_size(tmp_path):
    save_checkpoint(tmp_path / "a.pt", {"model": TinySSD(("a",)).state_dict(), "classes": ["a"]})
    with pytest.raises(ValueError):
        load(tmp_path / "a.pt")


def test_load_on_a_missing_device(tmp_path):
    save_checkpoint(
        tmp_path / "a.pt",
        {"model": TinySSD(("a",)).state_dict(), "classes": ["a"], "image_size": [64, 64]},
    )
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with pytest.raises(Exception) as e:
        load(tmp_path / "a.pt", "cuda")
    assert "damaged" not in str(e.value)


def test_16_bit(tmp_path):
    Image.fromarray(np.full((4, 5), 100 * 257, np.uint16)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").unique().tolist() == [100]


def test_float_tiff(tmp_path):
    # 100 may mean a bright grey of 0..255, or far too bright a one of 0..1: nobody can know.
    Image.new("F", (4, 5), 100.0).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match="floating-point numbers of no known range; save 8 or 16"):
        read_image(tmp_path / "a.tif")


def test_glob_with_folder(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "sub").mkdir()
    (tmp_path / "notes.txt").touch()
    assert find_files([str(tmp_path / "*")]) == [tmp_path / "a.png"]


def test_folder_without_images_message(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(FileNotFoundError) as e:
        find_files([tmp_path])
    assert "empty" not in str(e.value)


def test_no_detections_keeps_minus_one():
    gt = GroundTruth(torch.tensor([[0.0, 0, 150, 150]]), torch.tensor([0]), (200, 200))
    m = evaluate_boxes([gt], [Detections.empty(("a",))], ("a",))
    assert m.ap_small == -1 and m.ap_large == 0


def test_normalised_names_image_and_row():
    with pytest.raises(ValueError, match=r"\[1, 0\]"):
        check_targets(
            torch.tensor([[[-1.0] * 4], [[0.1, 0.1, 0.5, 0.5]]]), torch.tensor([[-1], [0]]), 1, SIZE
        )


def test_normalised_among_pixels():
    with pytest.raises(ValueError):
        check_targets(
            torch.tensor([[[0.1, 0.1, 0.5, 0.5], [4, 4, 20, 20]]]), torch.tensor([[0, 0]]), 1, SIZE
        )


def raw(logit, n=None):
    m = TinySSD(("a",), SIZE).eval()
    with torch.no_grad():
        r = m(torch.zeros(1, 3, *SIZE))
    return m, Predictions(
        torch.tensor([0.0, logit]).expand_as(r.class_logits).clone(),
        torch.zeros_like(r.offsets),
        r.anchors,
    )


def test_votes_of_low_scores():
    m, r = raw(-11.0)  # score 1.7e-5
    found = m.decode(r, score_threshold=0.0)[0]
    assert found.boxes[:, 2:].max() > 32


@pytest.mark.parametrize("offset", [1000.0, float("inf")])
def test_one_wild_anchor_does_not_harm_others(offset):
    m, r = raw(0.0)
    r.offsets[0, 5, 2:] = offset
    found = m.decode(r)[0]
    assert torch.isfinite(found.boxes).all()


def test_compile_without_warning():
    m = TinySSD(("a",), SIZE).eval()
    with torch.no_grad():
        torch.compile(m, backend="aot_eager", fullgraph=True)(torch.zeros(1, 3, *SIZE))


def test_zero_losses(tmp_path):
    plot_history(tmp_path / "a.png", [{"epoch": 1.0, "loss_class": 1.0, "loss_box": 0.0}])
    plot_history(tmp_path / "a.png", [{"epoch": 1.0, "loss_class": 0.0, "loss_box": 0.0}])


def test_batch_size_zero(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    with pytest.raises(ValueError):
        list(predict(TinySSD(("a",), SIZE), tmp_path, batch_size=0))


def test_state_of_norm_layers_with_single_image_batch(tmp_path):
    # 5 images, batches of 4: the last has one, and the last map is 1x1: BatchNorm must not refuse
    run(tmp_path, train=bananas(5), config=dataclasses.replace(CONFIG, batch_size=4, epochs=1))


def test_int_indexing():
    d = Detections(torch.rand(2, 4), torch.rand(2), torch.tensor([0, 0]), ("a",))
    try:
        assert len(d[0]) == 1
    except TypeError as e:
        assert "0-d" not in str(e)


TOOLS = Path(__file__).parents[1] / "tools"
# Runs a script in a process that has imported torch already.
CHILD = """
import os, runpy, sys
for number, path in ((1, out), (2, err)):
    os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
os.chdir(folder)
sys.argv = arguments
runpy.run_path(arguments[0], run_name="__main__")
"""


def tool(folder, name, *arguments):
    c = multiprocessing.get_context("forkserver")
    c.set_forkserver_preload(["cvlib", "matplotlib.figure", "tyro"])
    p = c.Process(
        target=exec,
        args=(
            CHILD,
            {
                "out": str(folder / "o"),
                "err": str(folder / "e"),
                "folder": str(folder),
                "arguments": [str(TOOLS / name), *map(str, arguments)],
            },
        ),
    )
    p.start()
    p.join(60)
    return p.exitcode, (folder / "o").read_text(), (folder / "e").read_text()


def bad_exit(r, lines=1):
    assert r[0] not in (0, None), r[2]
    assert "Traceback" not in r[2]
    assert len(r[2].strip().splitlines()) <= lines, r[2]


def data(root, size=256):
    for split, n in (("train", 3), ("val", 1)):
        f = root / f"bananas_{split}"
        (f / "images").mkdir(parents=True)
        rows = ["img_name,label,xmin,ymin,xmax,ymax"]
        for i in range(n):
            Image.fromarray(
                SyntheticBananas(9, image_size=size)[i][0].permute(1, 2, 0).numpy()
            ).save(f / "images" / f"{i}.png")
            rows.append(f"{i}.png,0,5,5,50,50")
        (f / "label.csv").write_text("\n".join(rows) + "\n")
    return root


@pytest.fixture
def model(tmp_path):
    save_checkpoint(
        tmp_path / "m.pt",
        {"model": TinySSD(("a",), SIZE).state_dict(), "classes": ["a"], "image_size": [64, 64]},
    )
    return tmp_path / "m.pt"


def test_tool_damaged_run_one_line(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "last.pt").write_bytes(b"no")
    bad_exit(tool(tmp_path, "train_ssd.py", "--synthetic", "--resume", "--out", "a"))


def test_tool_no_model_one_line(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "m.pt").write_text("x")
    bad_exit(tool(tmp_path, "detect.py", "m.pt", "a.png"))


@pytest.mark.parametrize("a", [["--device", "gpu"], ["--device", "cuda:99"], ["--threads", "-1"]])
def test_tool_train_bad_option(tmp_path, a):
    # The command line puts its own errors into a frame of a few lines.
    done = tool(
        tmp_path, "train_ssd.py", "--data", data(tmp_path / "d"), "--epochs", 1, "--out", "a", *a
    )
    bad_exit(done, lines=6)


def test_tool_detect_bad_device(tmp_path, model):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    r = tool(tmp_path, "detect.py", "m.pt", "a.png", "--device", "gpu")
    bad_exit(r)


def test_tool_detect_no_cuda(tmp_path, model):
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    r = tool(tmp_path, "detect.py", "m.pt", "a.png", "--device", "cuda")
    bad_exit(r)
    assert "damaged" not in r[2]


def test_tool_detect_into_the_source_folder(tmp_path, model):
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (64, 64)).save(tmp_path / "photos" / "a.png")
    b = (tmp_path / "photos" / "a.png").read_bytes()
    tool(tmp_path, "detect.py", "m.pt", "photos", "--out", "photos", "--score-threshold", "0.001")
    assert (tmp_path / "photos" / "a.png").read_bytes() == b


def test_tool_resume_as_its_help_says(tmp_path):
    o = ["--precision", "float32", "--threads", "1"]
    assert (
        tool(
            tmp_path,
            "train_ssd.py",
            "--data",
            data(tmp_path / "d"),
            "--images",
            6,
            "--out",
            "a",
            *o,
        )[0]
        == 0
    )
    r = tool(tmp_path, "train_ssd.py", "--data", tmp_path / "d", "--resume", "--out", "a")
    assert r[0] == 0, r[2]


def test_tool_images_of_another_size(tmp_path):
    o = ["--precision", "float32", "--threads", "1"]
    r = tool(
        tmp_path,
        "train_ssd.py",
        "--data",
        data(tmp_path / "d", 128),
        "--epochs",
        1,
        "--out",
        "a",
        *o,
    )
    assert r[0] == 0, r[2]


def test_tool_detect_keeps_results_before_a_damaged_image(tmp_path, model):
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"x")
    r = tool(tmp_path, "detect.py", "m.pt", "a.png", "b.png", "--out", "f")
    assert (tmp_path / "f" / "predictions.json").exists(), r


def test_what_a_killed_process_left_is_overwritten(tmp_path):
    (tmp_path / ".last.pt.tmp").write_bytes(b"x" * 10)
    run(tmp_path, config=dataclasses.replace(CONFIG, epochs=1))
    assert not list(tmp_path.glob(".*.tmp"))


def test_voted_boxes_stay_inside():
    for seed in range(20):
        torch.manual_seed(seed)
        m = TinySSD(("a", "b", "c"), SIZE).eval()
        with torch.no_grad():
            r = m(torch.zeros(1, 3, *SIZE))
        f = m.decode(
            Predictions(
                torch.randn_like(r.class_logits), 0.3 * torch.randn_like(r.offsets), r.anchors
            )
        )[0]
        assert f.boxes.max() <= 64, f.boxes.max().double()
