"""Metrics of a run as files."""

import csv
import json

import pytest
from PIL import Image

from cvlib.engine.report import draw_history, plot_history, write_history

MEASURED = {"ap": 0.25, "ap50": 0.5, "ap75": 0.125}


def history(epochs=3, eval_every=2):
    rows = []
    for epoch in range(1, epochs + 1):
        row = {"epoch": float(epoch), "loss_class": 2 / epoch, "loss_box": 1 / epoch}
        rows.append(row | (MEASURED if epoch % eval_every == 0 else {}))
    return rows


def test_table_and_json_hold_all_metrics(tmp_path):
    write_history(tmp_path, history())
    assert json.loads((tmp_path / "metrics.json").read_text()) == history()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == history()
    with open(tmp_path / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["epoch", "loss_class", "loss_box", "ap", "ap50", "ap75"]
    assert rows[0]["ap"] == "", "not measured is not zero"
    assert float(rows[1]["ap"]) == 0.25
    assert float(rows[2]["loss_box"]) == 1 / 3, "to the last digit"


def test_files_are_replaced_and_nothing_else_is_left(tmp_path):
    for epochs in (1, 2):
        write_history(tmp_path, history(epochs))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "metrics.csv",
        "metrics.json",
        "metrics.jsonl",
    ]
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 3


@pytest.mark.parametrize(
    "rows",
    [history(), history(1), history(2, eval_every=9)],
    ids=["three epochs", "one epoch", "no evaluation"],
)
def test_curves_are_drawn(tmp_path, rows):
    plot_history(tmp_path / "curves.png", rows)
    with Image.open(tmp_path / "curves.png") as image:
        assert image.width > 600
        assert image.convert("L").getextrema()[0] < 100


@pytest.mark.parametrize("epochs", [1, 2, 3, 40])
def test_epochs_are_whole_on_the_axis(epochs):
    figure = draw_history(history(epochs, eval_every=1))
    for axis in figure.axes:
        ticks = axis.get_xticks()
        assert len(ticks) and all(tick == round(tick) for tick in ticks)


def test_drawing_leaves_no_global_figure(tmp_path):
    from matplotlib import pyplot

    before = pyplot.get_fignums()
    plot_history(tmp_path / "curves.png", history())
    assert pyplot.get_fignums() == before
