"""Each of these tests failed before the fix of a fault."""

import dataclasses
import multiprocessing
import os

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


def bananas(count, seed=0):
    dataset = SyntheticBananas(count, image_size=64, seed=seed)
    return [dataset[i] for i in range(count)]


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
def finished_run(tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    run(out)
    return out


@pytest.mark.parametrize("survived", range(10))
def test_killed_between_any_two_writes(finished_run, tmp_path, monkeypatch, survived):
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
        a, b = load_checkpoint(tmp_path / n)["model"], load_checkpoint(finished_run / n)["model"]
        assert all(torch.equal(a[k], b[k]) for k in a), n
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 3
    assert {p.name for p in tmp_path.iterdir()} == {p.name for p in finished_run.iterdir()}


def test_weights_that_the_last_step_breaks_are_reported(tmp_path):
    config = dataclasses.replace(CONFIG, epochs=1, batch_size=4, learning_rate=1e38)
    with pytest.raises(FloatingPointError):
        run(tmp_path, config=config)


def test_resuming_with_another_training_set_is_refused(tmp_path):
    run(tmp_path, config=dataclasses.replace(CONFIG, epochs=1))
    with pytest.raises(ValueError):
        run(tmp_path, config=dataclasses.replace(CONFIG, epochs=1), train=bananas(7), resume=True)


def test_resuming_with_another_image_size_is_refused(tmp_path):
    run(tmp_path, config=dataclasses.replace(CONFIG, epochs=1))
    with pytest.raises(ValueError):
        run(
            tmp_path,
            config=dataclasses.replace(CONFIG, epochs=1),
            model=TinySSD(("banana",), (128, 128)),
            resume=True,
        )


def test_a_folder_with_a_run_is_not_overwritten(tmp_path):
    run(tmp_path, config=dataclasses.replace(CONFIG, epochs=1))
    with pytest.raises(FileExistsError):
        run(tmp_path, config=dataclasses.replace(CONFIG, epochs=1))


def test_evaluate_takes_images_of_another_size():
    metrics = evaluate(TinySSD(("banana",)), bananas(2))
    assert metrics.anchors.class_error_baseline > 0


def test_fit_takes_images_of_another_size(tmp_path):
    model, config = TinySSD(("banana",)), dataclasses.replace(CONFIG, epochs=1)
    assert run(tmp_path, model=model, config=config).finished


def test_an_empty_validation_set_is_refused_before_training(tmp_path):
    with pytest.raises(ValueError):
        fit(TinySSD(("banana",), SIZE), bananas(4), [], CONFIG, tmp_path, log=print)
    assert not (tmp_path / "config.json").exists()


def test_too_small_images_are_refused():
    with pytest.raises(ValueError, match="at least 64 x 64"):
        TinySSD(("a",), (63, 63))


@pytest.mark.parametrize(
    "options",
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
def test_wrong_values_of_the_config_are_refused(options):
    with pytest.raises((ValueError, TypeError)):
        TrainConfig(**options)


def test_files_get_the_usual_permissions(tmp_path):
    (tmp_path / "plain").write_text("x")
    save_json(tmp_path / "a.json", 1)
    assert (tmp_path / "a.json").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_full_disk_is_an_os_error(tmp_path):
    code = """
import resource, torch
from pathlib import Path
from cvlib.engine.checkpoint import save_checkpoint
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try: save_checkpoint(Path(out), {"model": {"w": torch.zeros(10_000)}, "classes": []})
except OSError: Path(out + ".ok").mkdir()
"""
    context = multiprocessing.get_context("forkserver")
    process = context.Process(target=exec, args=(code, {"out": str(tmp_path / "a")}))
    process.start()
    process.join()
    assert (tmp_path / "a.ok").exists()


def test_a_checkpoint_without_an_image_size_is_refused(tmp_path):
    save_checkpoint(tmp_path / "a.pt", {"model": TinySSD(("a",)).state_dict(), "classes": ["a"]})
    with pytest.raises(ValueError):
        load(tmp_path / "a.pt")


def test_a_missing_device_is_not_called_damage(tmp_path):
    save_checkpoint(
        tmp_path / "a.pt",
        {"model": TinySSD(("a",)).state_dict(), "classes": ["a"], "image_size": [64, 64]},
    )
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with pytest.raises(Exception) as error:
        load(tmp_path / "a.pt", "cuda")
    assert "damaged" not in str(error.value)


def test_16_bit_images_are_scaled_to_8_bits(tmp_path):
    Image.fromarray(np.full((4, 5), 100 * 257, np.uint16)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").unique().tolist() == [100]


def test_floating_point_images_are_refused(tmp_path):
    # Whether the range is 0..1 or 0..255 is unknown.
    Image.new("F", (4, 5), 100.0).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match="floating-point numbers of no known range; save 8 or 16"):
        read_image(tmp_path / "a.tif")


def test_a_pattern_may_match_folders_and_other_files(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "sub").mkdir()
    (tmp_path / "notes.txt").touch()
    assert find_files([str(tmp_path / "*")]) == [tmp_path / "a.png"]


def test_a_folder_without_images_is_not_called_empty(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(FileNotFoundError) as error:
        find_files([tmp_path])
    assert "empty" not in str(error.value)


def test_sizes_without_objects_have_no_metric():
    ground_truth = GroundTruth(torch.tensor([[0.0, 0, 150, 150]]), torch.tensor([0]), (200, 200))
    metrics = evaluate_boxes([ground_truth], [Detections.empty(("a",))], ("a",))
    assert metrics.ap_small == -1 and metrics.ap_large == 0


def test_normalised_boxes_are_located():
    with pytest.raises(ValueError, match=r"\[1, 0\]"):
        check_targets(
            torch.tensor([[[-1.0] * 4], [[0.1, 0.1, 0.5, 0.5]]]), torch.tensor([[-1], [0]]), 1, SIZE
        )


def test_normalised_boxes_among_pixels_are_refused():
    with pytest.raises(ValueError):
        check_targets(
            torch.tensor([[[0.1, 0.1, 0.5, 0.5], [4, 4, 20, 20]]]), torch.tensor([[0, 0]]), 1, SIZE
        )


def constant_predictions(logit):
    """A model, and predictions with this logit for every anchor and without offsets."""
    model = TinySSD(("a",), SIZE).eval()
    with torch.no_grad():
        predictions = model(torch.zeros(1, 3, *SIZE))
    logits = torch.tensor([0.0, logit]).expand_as(predictions.class_logits).clone()
    return model, Predictions(logits, torch.zeros_like(predictions.offsets), predictions.anchors)


def test_boxes_of_low_scores_are_averaged():
    model, predictions = constant_predictions(-11.0)  # a score of 1.7e-5
    detections = model.decode(predictions, score_threshold=0.0)[0]
    assert detections.boxes[:, 2:].max() > 32


@pytest.mark.parametrize("offset", [1000.0, float("inf")])
def test_one_wild_anchor_does_not_harm_others(offset):
    model, predictions = constant_predictions(0.0)
    predictions.offsets[0, 5, 2:] = offset
    detections = model.decode(predictions)[0]
    assert torch.isfinite(detections.boxes).all()


def test_the_model_compiles_without_a_warning():
    model = TinySSD(("a",), SIZE).eval()
    with torch.no_grad():
        torch.compile(model, backend="aot_eager", fullgraph=True)(torch.zeros(1, 3, *SIZE))


def test_losses_of_zero_are_plotted(tmp_path):
    plot_history(tmp_path / "a.png", [{"epoch": 1.0, "loss_class": 1.0, "loss_box": 0.0}])
    plot_history(tmp_path / "a.png", [{"epoch": 1.0, "loss_class": 0.0, "loss_box": 0.0}])


def test_a_batch_size_of_zero_is_refused(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    with pytest.raises(ValueError):
        list(predict(TinySSD(("a",), SIZE), tmp_path, batch_size=0))


def test_a_last_batch_of_one_image_can_be_trained_on(tmp_path):
    # Its last feature map has one pixel, which BatchNorm refuses in training.
    run(tmp_path, train=bananas(5), config=dataclasses.replace(CONFIG, batch_size=4, epochs=1))


def test_int_indexing():
    d = Detections(torch.rand(2, 4), torch.rand(2), torch.tensor([0, 0]), ("a",))
    try:
        assert len(d[0]) == 1
    except TypeError as e:
        assert "0-d" not in str(e)


def test_temporary_files_of_a_killed_process_are_overwritten(tmp_path):
    (tmp_path / ".last.pt.tmp").write_bytes(b"x" * 10)
    run(tmp_path, config=dataclasses.replace(CONFIG, epochs=1))
    assert not list(tmp_path.glob(".*.tmp"))


def test_averaged_boxes_stay_inside():
    for seed in range(20):
        torch.manual_seed(seed)
        model = TinySSD(("a", "b", "c"), SIZE).eval()
        with torch.no_grad():
            outputs = model(torch.zeros(1, 3, *SIZE))
        logits, offsets = torch.randn_like(outputs.class_logits), torch.randn_like(outputs.offsets)
        detections = model.decode(Predictions(logits, 0.3 * offsets, outputs.anchors))[0]
        assert detections.boxes.max() <= 64
