"""Real processes under torchrun: equal to one process, counted once, alive after a death."""

import json

import pytest
from short_runs import assert_same_weights
from torchrun import run as launch

SCRIPT = "train_together.py"


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    """Run the script once for each set of arguments; return the run folder and the output."""
    folder, done = tmp_path_factory.mktemp("elastic"), {}

    def start(*arguments, **options):
        key = (arguments, *options.items())
        if key not in done:
            out = folder / f"run-{len(done)}"
            script = f"{__file__.rsplit('/', 1)[0]}/{SCRIPT}"
            done[key] = out, launch(script, out, *arguments, **options)
        return done[key]

    return start


def report_of(out):
    return json.loads((out / "report.json").read_text())


@pytest.mark.parametrize("norm", ["none", pytest.param("frozen", marks=pytest.mark.slow)])
def test_two_processes_take_the_steps_of_one(train, norm):
    # Eleven images: the last step has three, one for a process and two for the other.
    alone, _ = train("--norm", norm, "--batch-size", "4", processes=1)
    shared, _ = train("--norm", norm, "--batch-size", "2", processes=2)
    expected, report = report_of(alone), report_of(shared)
    assert len(expected["losses"]) == len(report["losses"]) > 0
    for a, b in zip(expected["losses"], report["losses"], strict=True):
        assert a == pytest.approx(b, rel=1e-4)
    assert_same_weights(shared / "last.pt", alone / "last.pt", rtol=1e-4, atol=1e-5)
    # Five images for validation: shares of three and two, none evaluated twice.
    assert report["metrics"] == pytest.approx(expected["metrics"], rel=1e-3, abs=1e-4)


def test_a_killed_process_is_started_again_and_nothing_is_lost(train):
    arguments = ("--batch-size", "2", "--norm", "batch")
    undisturbed, _ = train(*arguments, processes=2)
    steps = len(report_of(undisturbed)["losses"])
    saved = ("--save-minutes", "0")  # after every step, so that the middle of an epoch is resumed
    killed, _ = train(*arguments, *saved, "--die-at", str(steps // 2 + 2), processes=2, restarts=1)
    assert killed.with_suffix(".died").exists()
    assert len(report_of(killed)["losses"]) < steps, "the second life went on where the first was"
    assert_same_weights(killed / "last.pt", undisturbed / "last.pt")
    assert report_of(killed)["metrics"] == report_of(undisturbed)["metrics"]
    rows = [json.loads((out / "metrics.json").read_text()) for out in (undisturbed, killed)]
    for row, resumed in zip(*rows, strict=True):
        assert row["loss_class"] == resumed["loss_class"]


@pytest.mark.slow
def test_a_death_before_the_first_checkpoint_starts_from_the_beginning(train):
    arguments = ("--batch-size", "2", "--norm", "batch")
    undisturbed, _ = train(*arguments, processes=2)
    killed, _ = train(*arguments, "--die-at", "1", processes=2, restarts=1)
    assert killed.with_suffix(".died").exists()
    assert len(report_of(killed)["losses"]) == len(report_of(undisturbed)["losses"])
    assert_same_weights(killed / "last.pt", undisturbed / "last.pt")


@pytest.mark.slow
def test_without_restarts_a_death_ends_all(train):
    out, output = train("--batch-size", "2", "--die-at", "2", processes=2, check=False)
    assert not (out / "report.json").exists()
    assert "-9" in output


def test_processes_resume_where_only_the_first_one_has_the_folder(tmp_path):
    script = f"{__file__.rsplit('/', 1)[0]}/{SCRIPT}"
    launch(script, tmp_path / "run", "--own-folders", processes=2)
    again = launch(script, tmp_path / "run", "--own-folders", processes=2, seconds=60)
    assert "Error" not in again
    assert not (tmp_path / "run-1" / "last.pt").exists()
    assert len(report_of(tmp_path / "run")["losses"]) == 0, "the run was over already"
