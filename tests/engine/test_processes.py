"""Several processes under plain torchrun take the steps of one with larger batches."""

import json

import pytest
import torch
from short_runs import run
from torchrun import run as launch

from cvlib._distributed import gather_objects, mean_over_ranks
from cvlib.data import SyntheticBananas
from cvlib.engine import TrainConfig
from cvlib.engine.checkpoint import load_checkpoint
from cvlib.engine.device import from_first

SETTINGS = {
    "epochs": 2,
    "optimizer": "sgd",
    "learning_rate": 0.02,
    "freeze_norm": True,  # statistics of batches depend on their size
    "ema": 0.9,
    "precision": "float32",
    "device": "cpu",
}

SCRIPT = """
import json, os, sys, torch
torch.set_num_threads(1)
from cvlib import SyntheticBananas, TinySSD, TrainConfig, fit
from cvlib._distributed import gather_objects, mean_over_ranks, rank
from cvlib.data.files.images import UnreadableImageError
from cvlib.engine.device import from_first

out, settings = sys.argv[1], json.loads(sys.argv[2])
train, val = (SyntheticBananas(n, image_size=64, seed=s) for n, s in ((11, 0), (3, 1)))
train, val = [train[i] for i in range(11)], [val[i] for i in range(3)]
torch.manual_seed(int(os.environ["RANK"]))  # the first process's weights count
model = TinySSD(("banana",), (64, 64))
seen = {"start": 0, "step": 0, "lines": []}

def note(event, run):
    if event in seen:
        seen[event] += 1

result = fit(model, train, val, TrainConfig(**settings), out, callbacks=[note],
             log=seen["lines"].append)
assert all(len(batch) for batch in seen["lines"])
seen["mean"] = float(mean_over_ranks(torch.tensor(rank() * 3)))
seen["least"] = float(mean_over_ranks(torch.tensor(0), least=1))
seen["joined"] = gather_objects([rank()] * rank())

def fail():
    raise FileNotFoundError("only the first process looks")

try:
    from_first(fail)
except FileNotFoundError as error:
    seen["error"] = str(error)
seen["best"] = result.best
seen["weights"] = float(sum(v.double().sum() for v in result.model.state_dict().values()))
with open(f"{out}-{rank()}.json", "w") as file:
    json.dump(seen, file)
"""


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """A run of two processes with batches of two, and of one process with batches of four."""
    folder = tmp_path_factory.mktemp("processes")
    (folder / "script.py").write_text(SCRIPT)
    settings = {**SETTINGS, "batch_size": 2}
    launch(folder / "script.py", folder / "two", json.dumps(settings), seconds=300)
    train, val = (SyntheticBananas(n, image_size=64, seed=s) for n, s in ((11, 0), (3, 1)))
    train, val, lines = [train[i] for i in range(11)], [val[i] for i in range(3)], []
    config = TrainConfig(**SETTINGS, batch_size=4)
    result = run(folder / "one", train, val, config, log=lines.append)
    reports = [json.loads((folder / f"two-{rank}.json").read_text()) for rank in range(2)]
    return folder, result, lines, reports


def test_two_processes_learn_what_one_does_with_twice_the_batch(both):
    folder, _, _, _ = both
    alone, shared = (load_checkpoint(folder / name / "last.pt") for name in ("one", "two"))
    assert alone["progress"]["step"] == shared["progress"]["step"] == 6
    for key in ("model", "average"):
        torch.testing.assert_close(shared[key], alone[key], rtol=1e-4, atol=1e-6)


def test_metrics_are_those_of_all_processes_together(both):
    folder, result, _, reports = both
    rows = json.loads((folder / "two" / "metrics.json").read_text())
    for row, expected in zip(rows, result.history, strict=True):
        assert row["loss_class"] == pytest.approx(expected["loss_class"], rel=1e-4)
        assert row["loss_box"] == pytest.approx(expected["loss_box"], rel=1e-4)
        assert row["images_per_second"] * row["seconds"] == pytest.approx(11)
    assert reports[0]["best"] == reports[1]["best"]
    assert reports[0]["weights"] == reports[1]["weights"]


def test_the_first_process_alone_prints_and_writes(both):
    folder, _, lines, reports = both
    assert len(reports[0]["lines"]) == len(lines) == 2
    assert reports[1]["lines"] == []
    alone, shared = ({p.name for p in (folder / n).iterdir()} for n in ("one", "two"))
    assert alone == shared
    for report in reports:
        assert (report["start"], report["step"]) == (1, 6), "callbacks are called in all"


def test_numbers_and_errors_are_shared(both):
    for report in both[3]:
        assert report["mean"] == 1.5
        assert report["least"] == 0.5
        assert report["joined"] == [[], [1]]
        assert report["error"] == "only the first process looks"


def test_another_number_of_processes_is_refused(both):
    folder, _, _, _ = both
    train = SyntheticBananas(11, image_size=64)
    config = TrainConfig(**SETTINGS, batch_size=2)
    with pytest.raises(ValueError, match=r"expected 2 processes as in .*, got 1; with"):
        run(folder / "two", train, train, config, resume=True)


def test_one_process_needs_no_others():
    assert mean_over_ranks(torch.tensor(3)) == 3
    assert mean_over_ranks(torch.tensor(0), least=1) == 1
    assert from_first(lambda: 5) == 5
    assert gather_objects([1, 2]) == [[1, 2]]
