"""Real processes under torchrun: equal to one process, counted once, alive after a death."""

import json

import pytest
import torch
from torchrun import run as launch

from cvlib.engine.checkpoint import load_checkpoint

SCRIPT = "train_together.py"


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    """Runs the script once for each set of arguments; gives the run folder and what was printed."""
    folder, done = tmp_path_factory.mktemp("elastic"), {}

    def start(*arguments, **options):
        key = (arguments, *options.items())
        if key not in done:
            out = folder / f"run-{len(done)}"
            script = f"{__file__.rsplit('/', 1)[0]}/{SCRIPT}"
            done[key] = out, launch(script, out, *arguments, **options)
        return done[key]

    return start


def seen(out):
    return json.loads((out / "seen.json").read_text())


def weights(out):
    return load_checkpoint(out / "last.pt")["model"]


@pytest.mark.parametrize("norm", ["none", pytest.param("frozen", marks=pytest.mark.slow)])
def test_two_processes_take_the_steps_of_one(train, norm):
    # Eleven images: the last step has three, one for a process and two for the other.
    one, _ = train("--norm", norm, "--batch-size", "4", processes=1)
    two, _ = train("--norm", norm, "--batch-size", "2", processes=2)
    assert len(seen(one)["losses"]) == len(seen(two)["losses"]) > 0
    for a, b in zip(seen(one)["losses"], seen(two)["losses"], strict=True):
        assert a == pytest.approx(b, rel=1e-4)
    for name, value in weights(one).items():
        torch.testing.assert_close(weights(two)[name], value, rtol=1e-4, atol=1e-5)
    # Five images for validation: shares of three and two, none seen twice.
    assert seen(one)["figures"].keys() == seen(two)["figures"].keys()
    for name, value in seen(one)["figures"].items():
        assert seen(two)["figures"][name] == pytest.approx(value, rel=1e-3, abs=1e-4), name


def test_a_killed_process_is_started_again_and_nothing_is_lost(train):
    arguments = ("--batch-size", "2", "--norm", "batch")
    whole, _ = train(*arguments, processes=2)
    steps = len(seen(whole)["losses"])
    saved = ("--save-minutes", "0")  # after every step, so that the middle of an epoch is resumed
    killed, _ = train(*arguments, *saved, "--die-at", str(steps // 2 + 2), processes=2, restarts=1)
    assert killed.with_suffix(".died").exists()
    assert len(seen(killed)["losses"]) < steps, "the second life went on where the first was"
    first, second = weights(whole), weights(killed)
    assert first.keys() == second.keys()
    assert all(torch.equal(second[name], value) for name, value in first.items())
    assert seen(killed)["figures"] == seen(whole)["figures"]
    rows = [json.loads((out / "metrics.json").read_text()) for out in (whole, killed)]
    for one, other in zip(*rows, strict=True):
        assert one["loss_class"] == other["loss_class"]


@pytest.mark.slow
def test_a_death_before_the_first_checkpoint_starts_from_the_beginning(train):
    arguments = ("--batch-size", "2", "--norm", "batch")
    whole, _ = train(*arguments, processes=2)
    killed, _ = train(*arguments, "--die-at", "1", processes=2, restarts=1)
    assert killed.with_suffix(".died").exists()
    assert len(seen(killed)["losses"]) == len(seen(whole)["losses"])
    assert all(torch.equal(weights(killed)[n], v) for n, v in weights(whole).items())


@pytest.mark.slow
def test_without_restarts_a_death_ends_all(train):
    out, output = train("--batch-size", "2", "--die-at", "2", processes=2, check=False)
    assert not (out / "seen.json").exists()
    assert "-9" in output


def test_processes_resume_where_only_the_first_one_has_the_folder(tmp_path):
    script = f"{__file__.rsplit('/', 1)[0]}/{SCRIPT}"
    launch(script, tmp_path / "run", "--own-folders", processes=2)
    again = launch(script, tmp_path / "run", "--own-folders", processes=2, seconds=60)
    assert "Error" not in again
    assert not (tmp_path / "run-1" / "last.pt").exists()
    assert len(seen(tmp_path / "run")["losses"]) == 0, "the run was over already"
