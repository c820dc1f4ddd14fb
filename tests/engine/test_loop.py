"""Training: what a run writes, which runs are refused, and that it learns."""

import dataclasses
import json
import math

import pytest
import torch
from short_runs import (
    CONFIG,
    SIZE,
    Hooked,
    assert_same_run,
    assert_same_weights,
    ignore,
    new_model,
    run,
    weights,
)

from cvlib.data import SyntheticBananas
from cvlib.data.transforms import Resize
from cvlib.engine import TrainConfig, evaluate, fit, load
from cvlib.engine.checkpoint import load_checkpoint
from cvlib.engine.device import choose_device
from cvlib.engine.precision import choose_precision
from cvlib.engine.report import TIMES

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_run_folder_holds_everything(undisturbed):
    out, _, lines = undisturbed
    assert sorted(path.name for path in out.iterdir()) == [
        "best.pt",
        "best.safetensors",
        "config.json",
        "curves.png",
        "last.pt",
        "metrics.csv",
        "metrics.json",
        "metrics.jsonl",
        "run.yaml",
    ]
    assert TrainConfig(**json.loads((out / "config.json").read_text())) == CONFIG
    assert len(lines) == 3
    assert all(line.startswith(f"epoch {i}/3") for i, line in enumerate(lines, 1))


def test_metrics_of_every_epoch(undisturbed):
    out, result, _ = undisturbed
    rows = json.loads((out / "metrics.json").read_text())
    assert rows == result.history
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    for row in rows:
        assert {"loss_class", "loss_box", "ap", "ap50", "ap75", "positive_recall"} <= set(row)
        assert {"class_error", "class_error_baseline", "box_mae", "box_mae_baseline"} <= set(row)
        assert {*TIMES} <= set(row)
        assert all(math.isfinite(value) for value in row.values())
        assert 0 <= row["data_wait"] <= 1
        assert row["images_per_second"] * row["seconds"] == pytest.approx(10)


def test_the_best_epoch_is_kept(undisturbed, val):
    out, result, _ = undisturbed
    best = max(row["ap"] for row in result.history)
    assert result.finished
    assert result.best["ap"] == best
    assert evaluate(load(out), val).as_dict()["ap"] == best
    assert evaluate(result.model, val).as_dict()["ap"] == best
    checkpoint = load_checkpoint(out)
    assert checkpoint["classes"] == ["banana"]
    assert checkpoint["image_size"] == list(SIZE)
    assert "optimizer" not in checkpoint, "the published file holds no training state"


def test_evaluation_now_and_then_and_at_the_end(tmp_path, train, val):
    config = dataclasses.replace(CONFIG, eval_every=2)
    result = run(tmp_path, train[:4], val, config)
    assert ["ap" in row for row in result.history] == [False, True, True]


def test_the_folder_is_made(tmp_path, train, val):
    out = tmp_path / "a" / "b"
    run(out, train[:4], val, dataclasses.replace(CONFIG, epochs=1))
    assert (out / "best.pt").exists()


def test_the_books_loss_trains_too(tmp_path, train, val):
    config = dataclasses.replace(CONFIG, epochs=1, recipe="none")
    result = run(tmp_path, train[:4], val, config, loss="book")
    assert result.history[0]["loss_class"] > 0
    assert load(tmp_path).options["loss"] == "book"


def test_bfloat16_trains_too(tmp_path, train, val):
    config = dataclasses.replace(CONFIG, epochs=1, precision="bfloat16")
    result = run(tmp_path, train[:4], val, config)
    assert math.isfinite(result.history[0]["loss_class"])
    assert {v.dtype for v in weights(tmp_path).values() if v.is_floating_point()} == {torch.float32}


@pytest.mark.cuda
def test_cuda_trains_too(tmp_path, train, val, cuda):
    config = dataclasses.replace(CONFIG, epochs=1, device=cuda)
    result = run(tmp_path, train, val, config)
    assert result.model.device.type == cuda
    assert load(tmp_path).device.type == "cpu"


def test_the_same_seed_gives_the_same_run(undisturbed, tmp_path, train, val):
    model = new_model()
    torch.manual_seed(77)  # random numbers drawn elsewhere do not matter
    fit(model, train, val, CONFIG, tmp_path, log=ignore)
    assert_same_run(tmp_path, undisturbed[0])


def test_workers_do_not_matter(tmp_path, train, val):
    config = dataclasses.replace(CONFIG, epochs=1)
    run(tmp_path / "0", train, val, config)
    run(tmp_path / "1", train, val, dataclasses.replace(config, workers=1))
    assert_same_weights(tmp_path / "0" / "last.pt", tmp_path / "1" / "last.pt")


def test_another_seed_gives_another_run(undisturbed, tmp_path, train, val):
    config = dataclasses.replace(CONFIG, epochs=1, seed=1)
    result = run(tmp_path, train, val, config)
    assert result.history[0]["loss_class"] != undisturbed[1].history[0]["loss_class"]
    with pytest.raises(AssertionError):
        assert_same_weights(tmp_path / "last.pt", undisturbed[0] / "last.pt")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_poisoned_weight_stops_the_run_and_spares_the_checkpoints(tmp_path, train, val, value):
    model, files = new_model(), {}

    def poison():
        files.update({path.name: path.read_bytes() for path in tmp_path.iterdir()})
        with torch.no_grad():
            model.class_heads[0].bias[1] = value

    with pytest.raises(FloatingPointError, match=r"finite losses, got .* at step \d+; lower"):
        # The first epoch has ten images, and the validation set is another one.
        fit(model, Hooked(train, 12, poison), val, CONFIG, tmp_path, log=ignore)
    assert "last.pt" in files
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files
    assert torch.isfinite(weights(tmp_path / "last.pt")["class_heads.0.bias"]).all()
    assert run(tmp_path, train, val, resume=True).finished


def test_an_absurd_learning_rate_is_noticed(tmp_path, train, val):
    config = dataclasses.replace(CONFIG, learning_rate=1e30)
    with pytest.raises(FloatingPointError, match="lower the learning rate"):
        run(tmp_path, train, val, config)


@pytest.mark.parametrize("recipe", ["light", "none"])
@pytest.mark.parametrize(
    "change, message",
    [
        ({"labels": 3}, r"`labels` to be in 0\.\.0"),
        ({"boxes": (4.0, 4, 400, 20)}, "inside the image"),
        ({"boxes": (40.0, 4, 20, 20)}, "x1 <= x2"),
        ({"boxes": (4.0, float("nan"), 20, 20)}, "without NaN"),
    ],
)
def test_wrong_labels_stop_the_run(tmp_path, train, val, change, message, recipe):
    image = train[0][0]
    target = {"boxes": torch.tensor([[4.0, 4, 20, 20]]), "labels": torch.tensor([0])}
    ((name, value),) = change.items()
    wrong = (image, {**target, name: torch.tensor([value]), "image_id": 0})
    config = dataclasses.replace(CONFIG, recipe=recipe)
    with pytest.raises(ValueError, match=message):
        run(tmp_path, [wrong, *train[1:4]], val, config)


def test_images_of_another_size_are_resized_with_their_boxes(tmp_path, val):
    """Training equals that on a dataset resized in advance."""
    large = [SyntheticBananas(4, image_size=128)[i] for i in range(4)]
    small = [Resize(SIZE)(*sample) for sample in large]
    config = dataclasses.replace(CONFIG, epochs=1, recipe="none")
    run(tmp_path / "large", large, val, config)
    run(tmp_path / "small", small, val, config)
    assert_same_weights(tmp_path / "large" / "last.pt", tmp_path / "small" / "last.pt")


def test_an_empty_training_set_is_refused(tmp_path, val):
    with pytest.raises(ValueError, match="fit: expected at least one training image"):
        run(tmp_path, [], val)


def test_an_out_that_is_a_file_is_an_error(tmp_path, train, val):
    (tmp_path / "file").touch()
    with pytest.raises(OSError):
        run(tmp_path / "file" / "run", train, val)


def two_images():
    dataset = SyntheticBananas(30, image_size=64, seed=2, max_objects=1)
    samples = [dataset[i] for i in range(30)]
    return [sample for sample in samples if len(sample[1]["labels"]) == 1][:2]


def test_two_images_are_learnt_by_heart(tmp_path):
    pair = two_images()
    config = dataclasses.replace(CONFIG, epochs=4, batch_size=2, recipe="none", eval_every=4)
    result = run(tmp_path, 13 * pair, pair, config)  # 52 steps
    assert result.best["ap50"] == pytest.approx(1)
    assert result.history[-1]["loss_class"] < 0.5 * result.history[0]["loss_class"]


def test_images_without_objects_can_be_trained_on(tmp_path, train, val):
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    empty = [(image, {**nothing, "image_id": i}) for i, (image, _) in enumerate(train[:8])]
    result = run(tmp_path, empty, val, dataclasses.replace(CONFIG, epochs=1))
    assert math.isfinite(result.history[0]["loss_class"])
    assert result.history[0]["loss_box"] == 0
    assert all(v.isfinite().all() for v in weights(tmp_path / "last.pt").values())


def test_a_last_batch_of_one_image_trains(tmp_path, train, val):
    # Its last feature map has a single value per channel, which has no variance.
    result = run(tmp_path, train[:5], val, dataclasses.replace(CONFIG, epochs=1))
    assert math.isfinite(result.history[0]["loss_class"])


def test_auto_takes_cuda_when_there_is_one():
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert choose_device("auto").type == expected
    assert choose_device("cpu").type == "cpu"


def test_precision_is_measured_only_when_asked_for(monkeypatch):
    model, lines = new_model(), []
    before = {name: value.clone() for name, value in model.state_dict().items()}
    cpu = torch.device("cpu")
    assert choose_precision(model, CONFIG, cpu, lines.append) == "float32"
    assert lines == []
    auto = dataclasses.replace(CONFIG, precision="auto", batch_size=1)
    assert choose_precision(model, auto, cpu, lines.append) in ("float32", "bfloat16")
    assert len(lines) == 1
    assert lines[0].startswith("precision: ")
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), f"measuring changed {name}"
    assert all(parameter.grad is None for parameter in model.parameters())
