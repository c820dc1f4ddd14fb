"""Training: what a run writes, how it is interrupted, resumed, refused, and that it learns."""

import contextlib
import csv
import dataclasses
import errno
import json
import math
import os
import random
import signal
import time

import pytest
import torch
from children import start_child

from cvlib.data import SyntheticBananas
from cvlib.data.transforms import Resize
from cvlib.engine import TrainConfig, evaluate, fit, load, unreadable
from cvlib.engine.checkpoint import load_checkpoint
from cvlib.engine.device import choose_device
from cvlib.engine.precision import choose_precision
from cvlib.models import TinySSD

SIZE = (64, 64)
CONFIG = TrainConfig(epochs=3, batch_size=4, precision="float32", device="cpu")
TIMES = {"seconds", "images_per_second", "data_wait"}
DEADLINE = 60
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def train():
    dataset = SyntheticBananas(10, image_size=64)  # the last batch of four is not full
    return [dataset[i] for i in range(10)]


@pytest.fixture(scope="module")
def val():
    dataset = SyntheticBananas(4, image_size=64, seed=1)
    return [dataset[i] for i in range(4)]


def new_model(seed=0):
    torch.manual_seed(seed)
    return TinySSD(("banana",), SIZE)


def run(out, train, val, config=CONFIG, *, seed=0, resume=False, log=lambda line: None):
    # A resumed run must not depend on the weights that it starts with.
    return fit(new_model(99 if resume else seed), train, val, config, out, resume=resume, log=log)


class Hooked(list):
    """A dataset that does something when the n-th image is asked for."""

    def __init__(self, samples, at, action):
        super().__init__(samples)
        self.left, self.action = at, action

    def __getitem__(self, index):
        self.left -= 1
        if self.left == 0:
            self.action()
        return super().__getitem__(index)


def weights(path):
    return load_checkpoint(path)["model"]


def same_weights(one, other):
    one, other = weights(one), weights(other)
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def table(out):
    with open(out / "metrics.csv", newline="") as file:
        return [
            {name: value for name, value in row.items() if name not in TIMES}
            for row in csv.DictReader(file)
        ]


def assert_same_run(out, other):
    assert same_weights(out / "last.pt", other / "last.pt"), "weights differ"
    assert same_weights(out / "best.pt", other / "best.pt"), "best weights differ"
    assert table(out) == table(other), "figures differ"
    assert {path.name for path in out.iterdir()} == {path.name for path in other.iterdir()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, train, val, one_thread):
    out = tmp_path_factory.mktemp("undisturbed")
    lines = []
    result = run(out, train, val, log=lines.append)
    return out, result, lines


# --- what a run writes -----------------------------------------------------------------------


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


def test_figures_of_every_epoch(undisturbed):
    out, result, _ = undisturbed
    rows = json.loads((out / "metrics.json").read_text())
    assert rows == result.history
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    for row in rows:
        assert {"loss_class", "loss_box", "ap", "ap50", "ap75", "positive_recall"} <= set(row)
        assert {"class_error", "class_error_baseline", "box_mae", "box_mae_baseline"} <= set(row)
        assert TIMES <= set(row)
        assert all(math.isfinite(value) for value in row.values())
        assert 0 <= row["data_wait"] <= 1
        assert row["images_per_second"] * row["seconds"] == pytest.approx(10)


def test_the_best_epoch_is_kept(undisturbed, val):
    out, result, _ = undisturbed
    best = max(row["ap"] for row in result.history)
    assert result.finished
    assert result.best["ap"] == best
    figures = evaluate(load(out), val).as_dict()
    assert figures["ap"] == best
    assert evaluate(result.model, val).as_dict()["ap"] == best
    state = load_checkpoint(out)
    assert state["classes"] == ["banana"]
    assert state["image_size"] == list(SIZE)
    assert "optimizer" not in state, "what is handed on holds no state of the training"


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
    model = TinySSD(("banana",), SIZE, loss="book")
    result = fit(model, train[:4], val, config, tmp_path, log=lambda line: None)
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


# --- determinism -----------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_run(undisturbed, tmp_path, train, val):
    model = new_model()
    torch.manual_seed(77)  # what others draw does not matter
    fit(model, train, val, CONFIG, tmp_path, log=lambda line: None)
    assert_same_run(tmp_path, undisturbed[0])


def test_workers_do_not_matter(tmp_path, train, val):
    config = dataclasses.replace(CONFIG, epochs=1)
    run(tmp_path / "0", train, val, config)
    run(tmp_path / "1", train, val, dataclasses.replace(config, workers=1))
    assert same_weights(tmp_path / "0" / "last.pt", tmp_path / "1" / "last.pt")


def test_another_seed_gives_another_run(undisturbed, tmp_path, train, val):
    config = dataclasses.replace(CONFIG, epochs=1, seed=1)
    result = run(tmp_path, train, val, config)
    assert result.history[0]["loss_class"] != undisturbed[1].history[0]["loss_class"]
    assert not same_weights(tmp_path / "last.pt", undisturbed[0] / "last.pt")


# --- interrupted and resumed -----------------------------------------------------------------


@pytest.mark.parametrize("at", [1, 10])
def test_ctrl_c_saves_and_resume_ends_the_same(undisturbed, tmp_path, train, val, at, capfd):
    lines = []
    interrupted = Hooked(train, at, lambda: signal.raise_signal(signal.SIGINT))
    result = run(tmp_path, interrupted, val, log=lines.append)
    if not result.finished:
        assert "interrupted" in lines[-1] and "resume goes on" in lines[-1]
        assert (tmp_path / "last.pt").exists()
        result = run(tmp_path, train, val, resume=True)
    assert result.finished
    assert "Ctrl-C again stops at once" in capfd.readouterr().err
    assert_same_run(tmp_path, undisturbed[0])


def test_interrupted_at_every_epoch_and_step(undisturbed, tmp_path, train, val):
    resume, count = False, 0
    while True:
        hooked = Hooked(train, 2, lambda: signal.raise_signal(signal.SIGINT))
        result = run(tmp_path, hooked, val, resume=resume)
        resume, count = True, count + 1
        if result.finished:
            break
    assert count == 9
    assert_same_run(tmp_path, undisturbed[0])


def test_the_signal_handler_is_put_back(tmp_path, train, val):
    before = signal.getsignal(signal.SIGINT)
    hooked = Hooked(train, 2, lambda: signal.raise_signal(signal.SIGINT))
    run(tmp_path, hooked, val)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_ctrl_c_stops_at_once(tmp_path, train, val, capfd):
    def twice():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Hooked(train, 2, twice), val)
    assert signal.getsignal(signal.SIGINT) is before
    assert capfd.readouterr().err.count("finishing the step") == 1


CHILD = """
import time, torch
from pathlib import Path
from cvlib import SyntheticBananas, TinySSD, TrainConfig, fit
torch.set_num_threads(1)

class Slow(list):
    seen = 0
    def __getitem__(self, index):
        Slow.seen += 1
        if Slow.seen == ready_at:
            Path(ready).touch()
        time.sleep(0.01)
        return super().__getitem__(index)

train, val = (SyntheticBananas(n, image_size=64, seed=s) for n, s in ((10, 0), (4, 1)))
train, val = Slow(train[i] for i in range(10)), [val[i] for i in range(4)]
torch.manual_seed(0)
model = TinySSD(("banana",), (64, 64))
resume = (Path(out) / "last.pt").exists()
fit(model, train, val, TrainConfig(**config), out, resume=resume, log=lambda line: None)
"""


def start(out, ready_at):
    """Trains in a process of its own; returns when image ``ready_at`` is asked for."""
    return start_child(CHILD, out, DEADLINE, ready_at=ready_at, config=CONFIG.as_dict())


def test_a_process_that_gets_ctrl_c_saves_and_resume_ends_the_same(
    undisturbed, tmp_path, train, val
):
    out = tmp_path / "run"
    process = start(out, ready_at=13)  # in the middle of the second epoch
    os.kill(process.pid, signal.SIGINT)
    process.join(DEADLINE)
    assert process.exitcode == 0, "an interrupted run ends in order"
    assert load_checkpoint(out / "last.pt")["progress"]["step"] in range(4, 7)
    assert run(out, train, val, resume=True).finished
    assert_same_run(out, undisturbed[0])


def test_a_killed_process_can_be_resumed(undisturbed, tmp_path, train, val):
    out = tmp_path / "run"
    chance = random.Random(time.time_ns())
    for ready_at in (1, 11):  # killed at some moment of the first, then of a later epoch
        process = start(out, ready_at)
        time.sleep(chance.uniform(0, 0.4))
        process.kill()
        process.join(DEADLINE)
    for leftover in out.glob(".*.tmp"):  # nobody can tidy up after SIGKILL
        leftover.unlink()
    run(out, train, val, resume=(out / "last.pt").exists())
    assert_same_run(out, undisturbed[0])


class Killed(BaseException):
    """The end of a process, as far as its files are concerned."""


def killed_after(writes, monkeypatch, out, train, val, config):
    """Trains until a number of files have been written, then dies before the next one."""
    replace, left = os.replace, iter(range(writes))

    def replace_or_die(source, target):
        if next(left, None) is None:
            raise Killed
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace_or_die)
        with contextlib.suppress(Killed):
            run(out, train, val, config)


@pytest.mark.parametrize("writes", range(17))
@pytest.mark.parametrize("improves", [True, False])
def test_killed_between_any_two_writes(tmp_path, train, val, monkeypatch, writes, improves):
    config = dataclasses.replace(CONFIG, epochs=2, batch_size=2, recipe="none")
    whole, out = tmp_path / "whole", tmp_path / "out"

    def evaluate_with_given_ap(model, dataset, **options):
        found = evaluate(model, dataset, **options)
        learnt = sum(v.double().sum().item() for v in model.state_dict().values())
        aps.setdefault(learnt, 0.5 + (0.1 if improves else -0.1) * len(aps))
        return dataclasses.replace(found, boxes=dataclasses.replace(found.boxes, ap=aps[learnt]))

    aps = {}
    monkeypatch.setattr(unreadable, "evaluate", evaluate_with_given_ap)
    run(whole, train[:2], val[:1], config)
    killed_after(writes, monkeypatch, out, train[:2], val[:1], config)
    run(out, train[:2], val[:1], config, resume=(out / "last.pt").exists())
    assert_same_run(out, whole)
    figures = json.loads((out / "metrics.json").read_text())
    assert [row["ap"] for row in figures] == list(aps.values())


def test_resuming_a_finished_run_changes_nothing(undisturbed, tmp_path, train, val):
    config = dataclasses.replace(CONFIG, epochs=2)
    first = run(tmp_path, train, val, config)
    files = {path.name: path.read_bytes() for path in tmp_path.glob("*.pt")}
    again = run(tmp_path, train, val, config, resume=True)
    assert again.finished
    assert again.history == first.history
    assert again.best == first.best
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.pt")} == files


def test_nothing_to_resume(tmp_path, train, val):
    with pytest.raises(FileNotFoundError, match=r"last\.pt"):
        run(tmp_path, train, val, resume=True)


@pytest.mark.parametrize(
    "change",
    [{"epochs": 4}, {"batch_size": 5}, {"seed": 1}, {"recipe": "none"}, {"learning_rate": 1e-4}],
)
def test_another_configuration_is_refused(undisturbed, train, val, change):
    before = (undisturbed[0] / "last.pt").read_bytes()
    ((name, value),) = change.items()
    old = getattr(CONFIG, name)
    with pytest.raises(ValueError, match=f"{name} was {old}, is {value}"):
        run(undisturbed[0], train, val, dataclasses.replace(CONFIG, **change), resume=True)
    assert (undisturbed[0] / "last.pt").read_bytes() == before


def test_other_classes_are_refused(undisturbed, train, val):
    torch.manual_seed(0)
    model = TinySSD(("apple",), SIZE)
    with pytest.raises(ValueError, match=r"expected classes \['banana'\].*got \['apple'\]"):
        fit(model, train, val, CONFIG, undisturbed[0], resume=True, log=lambda line: None)


def test_a_damaged_checkpoint_is_named(undisturbed, tmp_path, train, val):
    data = (undisturbed[0] / "last.pt").read_bytes()
    (tmp_path / "last.pt").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"last\.pt, which is damaged"):
        run(tmp_path, train, val, resume=True)


# --- runs that cannot go on ------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_poisoned_weight_stops_the_run_and_spares_the_checkpoints(tmp_path, train, val, value):
    model, files = new_model(), {}

    def poison():
        files.update({path.name: path.read_bytes() for path in tmp_path.iterdir()})
        with torch.no_grad():
            model.class_heads[0].bias[1] = value

    with pytest.raises(FloatingPointError, match=r"finite losses, got .* at step \d+; lower"):
        # The first epoch has ten images, and the validation set is another one.
        fit(model, Hooked(train, 12, poison), val, CONFIG, tmp_path, log=lambda line: None)
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
        ({"labels": 3}, r"labels in 0\.\.0"),
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
    """Which gives the run that their owner would get by resizing them himself."""
    large = [SyntheticBananas(4, image_size=128)[i] for i in range(4)]
    small = [Resize(SIZE)(*sample) for sample in large]
    config = dataclasses.replace(CONFIG, epochs=1, recipe="none")
    run(tmp_path / "large", large, val, config)
    run(tmp_path / "small", small, val, config)
    assert same_weights(tmp_path / "large" / "last.pt", tmp_path / "small" / "last.pt")


def test_an_empty_training_set_is_refused(tmp_path, val):
    with pytest.raises(ValueError, match="fit: expected at least one training image"):
        run(tmp_path, [], val)


def test_a_full_disk_spares_the_checkpoint(undisturbed, tmp_path, train, val, monkeypatch):
    replace, files = os.replace, {}

    def fail_after_the_first_checkpoint(source, target):
        if (tmp_path / "last.pt").exists():
            files.update({p.name: p.read_bytes() for p in tmp_path.iterdir() if p.suffix != ".tmp"})
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail_after_the_first_checkpoint)
        with pytest.raises(OSError, match=r"could not write .*No space left"):
            run(tmp_path, train, val)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files
    assert len(load_checkpoint(tmp_path / "last.pt")["progress"]["history"]) == 1
    run(tmp_path, train, val, resume=True)
    assert_same_run(tmp_path, undisturbed[0])


def test_an_out_that_is_a_file_is_an_error(tmp_path, train, val):
    (tmp_path / "file").touch()
    with pytest.raises(OSError):
        run(tmp_path / "file" / "run", train, val)


# --- learning --------------------------------------------------------------------------------


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


def test_a_last_batch_of_one_image_is_no_obstacle(tmp_path, train, val):
    # Its last map has a single value for every channel, of which there is no variance.
    result = run(tmp_path, train[:5], val, dataclasses.replace(CONFIG, epochs=1))
    assert math.isfinite(result.history[0]["loss_class"])


# --- choices ---------------------------------------------------------------------------------


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
        assert torch.equal(value, before[name]), f"measuring has changed {name}"
    assert all(parameter.grad is None for parameter in model.parameters())
