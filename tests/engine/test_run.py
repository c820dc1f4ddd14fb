"""Options of a run: callbacks, averages, accumulation, early stopping, classification."""

import dataclasses
import time

import numpy as np
import pytest
import short_runs
import torch
from PIL import Image
from short_runs import SIZE, assert_same_weights, ignore, run, stop_after_saving, weights

from cvlib.data import SyntheticBananas
from cvlib.data.datasets.classification import ClassificationDataset
from cvlib.engine import evaluate, fit, load, unreadable
from cvlib.engine.checkpoint import load_checkpoint
from cvlib.engine.report import format_time
from cvlib.models import Classifier, TinySSD

CONFIG = dataclasses.replace(short_runs.CONFIG, epochs=2)
pytestmark = pytest.mark.usefixtures("one_thread")


def test_callbacks_hear_of_everything_in_order(tmp_path, train, val):
    heard = []

    def note(event, run):
        heard.append((event, run.progress.step))
        if event == "step":
            assert set(run.meter.losses) == {"class", "box"}
        if event == "evaluated":
            assert "ap" in run.row

    run(tmp_path, train, val, CONFIG, callbacks=[note])
    epochs = [
        [("step", 3 * e + s) for s in (1, 2, 3)]
        + [(event, 3 * e + 3) for event in ("epoch", "evaluated", "saved")]
        for e in (0, 1)
    ]
    assert heard == [("start", 0), *epochs[0], *epochs[1], ("end", 6)]


def test_a_callback_can_end_the_run(tmp_path, train, val):
    lines = []

    def stop(event, run):
        if event == "step" and run.progress.step == 2:
            run.end = "seen enough"

    config = dataclasses.replace(CONFIG, epochs=5, eval_every=5)
    result = run(tmp_path, train, val, config, callbacks=[stop], log=lines.append)
    assert result.finished and len(result.history) == 1
    assert "ap" in result.history[0], "the end is always evaluated"
    assert lines[-1] == "ended early: seen enough"
    again = run(tmp_path, train, val, config, resume=True)
    assert again.finished and again.history == result.history


def test_the_average_is_evaluated_and_published(tmp_path, train, val):
    config = dataclasses.replace(CONFIG, ema=0.9)
    result = run(tmp_path, train, val, config)
    last = load_checkpoint(tmp_path / "last.pt")
    average = {n.removeprefix("module."): v for n, v in last["average"].items()}
    assert not torch.equal(average["class_heads.0.weight"], last["model"]["class_heads.0.weight"])
    best = next(row for row in result.history if row["ap"] == result.best["ap"])
    if best is result.history[-1]:
        assert torch.equal(
            average["class_heads.0.weight"], weights(tmp_path)["class_heads.0.weight"]
        )
    assert evaluate(load(tmp_path), val).as_dict()["ap"] == result.best["ap"]
    # Averaging does not change the trained model.
    run(tmp_path / "plain", train, val, CONFIG)
    assert_same_weights(tmp_path / "last.pt", tmp_path / "plain" / "last.pt")


@pytest.mark.parametrize("batch_size, accumulate", [(2, 4), (1, 8), (3, 3)])
def test_accumulated_batches_are_one_large_batch(tmp_path, train, val, batch_size, accumulate):
    """With a loss that is a mean over images, and without statistics of batches."""
    config = dataclasses.replace(
        CONFIG, optimizer="sgd", learning_rate=0.05, freeze_norm=True, epochs=2
    )
    large = dataclasses.replace(config, batch_size=batch_size * accumulate)
    small = dataclasses.replace(config, batch_size=batch_size, accumulate=accumulate)
    at_once = run(tmp_path / "large", train, val, large, loss="book")
    accumulated = run(tmp_path / "small", train, val, small, loss="book")
    paths = tmp_path / "large/last.pt", tmp_path / "small/last.pt"
    assert_same_weights(*paths, rtol=1e-4, atol=1e-6)
    for a, b in zip(at_once.history, accumulated.history, strict=True):
        assert a["loss_class"] == pytest.approx(b["loss_class"], rel=1e-4)


def test_gradients_are_clipped(tmp_path, train, val):
    norms = {}

    def note(event, run):
        if event == "step":
            gradients = [p.grad.norm() for p in run.model.parameters() if p.grad is not None]
            norms.setdefault(run.out.name, []).append(float(torch.stack(gradients).norm()))

    config = dataclasses.replace(CONFIG, epochs=1, clip_norm=0.5)
    run(tmp_path / "clipped", train, val, config, callbacks=[note])
    run(tmp_path / "plain", train, val, dataclasses.replace(CONFIG, epochs=1), callbacks=[note])
    assert max(norms["plain"]) > 1
    assert max(norms["clipped"]) == pytest.approx(0.5, rel=1e-3)


def test_steps_call_what_is_compiled(tmp_path, train, val, monkeypatch):
    calls = []

    def compile_by_counting(forward):
        return lambda images: calls.append(len(images)) or forward(images)

    monkeypatch.setattr(torch, "compile", compile_by_counting)
    config = dataclasses.replace(CONFIG, epochs=1, compile=True)
    run(tmp_path / "compiled", train, val, config)
    assert calls == [4, 4, 2], "evaluation is not compiled"
    run(tmp_path / "plain", train, val, dataclasses.replace(config, compile=False))
    assert_same_weights(tmp_path / "plain/last.pt", tmp_path / "compiled/last.pt")


@pytest.mark.slow
def test_a_compiled_model_trains_the_same(tmp_path, train, val, fresh_compiler):
    config = dataclasses.replace(
        CONFIG, epochs=1, optimizer="sgd", learning_rate=0.02, freeze_norm=True
    )
    four = train[:4]
    run(tmp_path / "plain", four, val, config)
    result = run(tmp_path / "compiled", four, val, dataclasses.replace(config, compile=True))
    assert result.finished
    assert_same_weights(
        tmp_path / "plain/last.pt", tmp_path / "compiled/last.pt", rtol=1e-3, atol=1e-4
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="messages of the CPU")
@pytest.mark.parametrize(
    "settings, message",
    [
        ({"precision": "float16"}, "float32 or bfloat16 on the CPU, got float16"),
        ({"sync_norm": True}, "expected a CUDA device for `sync_norm`, got cpu"),
        ({"recipe": "sdd"}, r"expected a recipe for detection \(ssd, light, .*\), got 'sdd'"),
        ({"recipe": "classification"}, "expected a recipe for detection"),
    ],
)
def test_impossible_settings_are_refused(tmp_path, train, val, settings, message):
    with pytest.raises(ValueError, match=f"fit: .*{message}"):
        run(tmp_path, train, val, dataclasses.replace(CONFIG, **settings))


def test_datasets_of_another_task_or_other_classes_are_refused(tmp_path, train, colours):
    fruit = SyntheticBananas(2, image_size=64)
    with pytest.raises(ValueError, match=r"training dataset with the task of the model, detection"):
        run(tmp_path, colours, fruit, CONFIG)
    model = TinySSD(("apple",), SIZE)
    with pytest.raises(ValueError, match=r"validation dataset with the classes .*'apple'"):
        fit(model, train, fruit, CONFIG, tmp_path)


def test_a_run_without_progress_ends_early(tmp_path, train, val, monkeypatch):
    config = dataclasses.replace(CONFIG, epochs=9, patience=2)
    aps = iter([0.1, 0.3, 0.2, 0.3, 0.9])

    def evaluate_as_planned(model, dataset, **options):
        evaluation = evaluate(model, dataset, **options)
        boxes = dataclasses.replace(evaluation.boxes, ap=next(aps))
        return dataclasses.replace(evaluation, boxes=boxes)

    monkeypatch.setattr(unreadable, "evaluate", evaluate_as_planned)
    lines = []
    result = run(tmp_path, train[:4], val, config, log=lines.append)
    assert result.finished and len(result.history) == 4
    assert result.best["ap"] == 0.3 and result.best["epoch"] == 2
    assert lines[-1] == "ended early: ap has not improved on 0.300 in 2 evaluations"


def test_a_run_that_is_started_again_goes_on_by_itself(tmp_path, train, val):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", train, val, CONFIG, resume="auto", callbacks=[stop_after_saving])
    again = run(tmp_path / "cut", train, val, CONFIG, resume="auto")
    undisturbed = run(tmp_path / "undisturbed", train, val, CONFIG)
    assert [row["ap"] for row in again.history] == [row["ap"] for row in undisturbed.history]
    assert_same_weights(tmp_path / "cut/last.pt", tmp_path / "undisturbed/last.pt")


@pytest.mark.cuda
@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_half_precision_trains_on_cuda_and_is_resumed(tmp_path, train, val, cuda, precision):
    config = dataclasses.replace(CONFIG, precision=precision, device=cuda, clip_norm=5.0)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, train, val, config, callbacks=[stop_after_saving])
    checkpoint = load_checkpoint(tmp_path / "last.pt")
    assert (checkpoint["scaler"] is not None) == (precision == "float16")
    result = run(tmp_path, train, val, config, resume=True)
    assert result.finished and len(result.history) == 2
    assert all(value.isfinite().all() for value in weights(tmp_path / "last.pt").values())
    assert result.model.class_heads[0].weight.dtype == torch.float32


def test_checkpoints_are_kept_at_intervals(tmp_path, train, val):
    config = dataclasses.replace(CONFIG, epochs=5, keep_every=2)
    run(tmp_path, train[:4], val, config)
    kept = sorted(tmp_path.glob("epoch-*.pt"))
    assert [path.name for path in kept] == ["epoch-0002.pt", "epoch-0004.pt"]
    assert load(kept[0]).classes == ("banana",)
    assert load_checkpoint(kept[0])["metrics"]["epoch"] == 2


def test_last_is_saved_within_an_epoch(tmp_path, train, val):
    steps = []

    def note(event, run):
        if event == "saved":
            steps.append(load_checkpoint(run.out / "last.pt")["progress"]["step"])

    run(tmp_path, train, val, dataclasses.replace(CONFIG, save_minutes=0), callbacks=[note])
    assert steps == [1, 2, 3, 4, 5, 6]


def test_safetensors_hold_the_best_model(tmp_path, train, val):
    run(tmp_path, train, val, CONFIG)
    images = torch.stack([image for image, _ in val])
    best, converted = load(tmp_path), load(tmp_path / "best.safetensors")
    assert torch.equal(best(images).class_logits, converted(images).class_logits)


def test_tensorboard_gets_the_metrics(tmp_path, train, val):
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", exc_type=ImportError
    )
    result = run(tmp_path, train, val, dataclasses.replace(CONFIG, tensorboard=True))
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    losses = [event.value for event in events.Scalars("training/loss_class")]
    assert losses == pytest.approx([row["loss_class"] for row in result.history])
    assert [event.step for event in events.Scalars("validation/ap")] == [1, 2]


def test_the_end_is_projected(tmp_path, train, val):
    ends = []

    def note(event, run):
        if event == "step":
            left = run.plan.total_steps - run.progress.step
            expected = run.elapsed / run.progress.step * left
            ends.append(run.finishing_time(now=0.0) - expected)

    lines = []
    run(tmp_path, train, val, CONFIG, callbacks=[note], log=lines.append)
    assert max(map(abs, ends)) < 1
    assert "  ends " in lines[0] and "  ends " not in lines[1]


def test_times_are_logged_as_a_clock_does():
    noon = time.mktime((2030, 1, 2, 12, 0, 0, 0, 0, -1))
    assert format_time(noon + 300, now=noon) == "12:05"
    assert format_time(noon + 86400, now=noon) == "Thu 3 Jan 12:00"


def test_resuming_with_other_options_of_the_model_is_refused(tmp_path, train, val):
    run(tmp_path, train, val, CONFIG)
    with pytest.raises(ValueError, match=r"expected options .*multibox.* got .*book"):
        run(tmp_path, train, val, CONFIG, loss="book", resume=True)


def test_weights_alone_cannot_be_resumed(tmp_path, train, val):
    run(tmp_path, train, val, CONFIG)
    (tmp_path / "last.pt").write_bytes((tmp_path / "best.pt").read_bytes())
    with pytest.raises(ValueError, match=r"expected a run to resume, got .* only weights"):
        run(tmp_path, train, val, CONFIG, resume=True)


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    """Red and blue images of several sizes."""
    folder, rng = tmp_path_factory.mktemp("colours"), np.random.default_rng(0)
    paths, labels = [], []
    for i in range(12):
        pixels = rng.integers(0, 60, (40 + 5 * i, 70, 3), dtype=np.uint8)
        pixels[..., 2 * (i % 2)] += 180
        Image.fromarray(pixels).save(folder / f"{i}.png")
        paths.append(folder / f"{i}.png")
        labels.append(i % 2)
    return ClassificationDataset(paths, labels, ("red", "blue"))


def test_a_classifier_learns_from_images_of_any_size(tmp_path, colours):
    torch.manual_seed(0)
    model = Classifier(colours.classes, SIZE, architecture="resnet18")
    config = dataclasses.replace(
        CONFIG, epochs=6, optimizer="adamw", learning_rate=0.01, freeze_backbone=True
    )
    result = fit(model, colours, colours, config, tmp_path, log=ignore)
    assert result.best["accuracy"] == 1.0
    assert load(tmp_path).name == "resnet18"


def test_dropout_is_reproduced_in_a_resumed_run(tmp_path, colours):
    config = dataclasses.replace(CONFIG, optimizer="sgd")

    def train(out, **options):
        torch.manual_seed(0)
        model = Classifier(colours.classes, SIZE, architecture="squeezenet1_1")
        fit(model, colours, colours, config, tmp_path / out, log=ignore, **options)

    train("undisturbed")
    with pytest.raises(KeyboardInterrupt):
        train("cut", callbacks=[stop_after_saving])
    torch.rand(17)
    train("cut", resume=True)
    assert_same_weights(tmp_path / "undisturbed/last.pt", tmp_path / "cut/last.pt")


def test_the_global_generator_is_left_as_it_was(tmp_path, train, val):
    torch.manual_seed(5)
    expected = torch.rand(3)
    model = TinySSD(("banana",), SIZE)
    torch.manual_seed(5)
    fit(model, train[:4], val, CONFIG, tmp_path, log=ignore)
    assert torch.equal(torch.rand(3), expected)
