"""Unreadable images are logged, left out and limited."""

import dataclasses
import json

import pytest
import short_runs
from short_runs import run, stop_after_saving

from cvlib.data.files.images import UnreadableImageError
from cvlib.engine import evaluate

CONFIG = dataclasses.replace(short_runs.CONFIG, epochs=2)
pytestmark = pytest.mark.usefixtures("one_thread")
TORN = UnreadableImageError("torn file")


class Damaged(list):
    """A dataset with unreadable images."""

    def __init__(self, samples, bad, error=TORN):
        super().__init__(samples)
        self.bad, self.error = bad, error

    def __getitem__(self, index):
        if index in self.bad:
            raise self.error
        return super().__getitem__(index)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("error", [UnreadableImageError("torn file"), OSError(5, "torn file")])
def test_an_unreadable_image_is_logged_once_left_out_and_counted(
    tmp_path, train, val, workers, error
):
    lines = []
    config = dataclasses.replace(CONFIG, max_bad_share=0.2, workers=workers)
    result = run(tmp_path, Damaged(train, {3, 7}, error), val, config, log=lines.append)
    assert result.finished
    logged = sorted(line for line in lines if "skipped" in line)
    assert len(logged) == 2
    assert logged[0].startswith("skipped: training image 3 cannot be read: ")
    assert "torn file" in logged[0]
    listed = json.loads((tmp_path / "unreadable_images.json").read_text())
    assert sorted(image["index"] for image in listed) == [3, 7]
    for row in result.history:
        assert row["images_per_second"] * row["seconds"] == pytest.approx(8)


def test_too_many_unreadable_images_stop_the_run_with_the_list(tmp_path, train, val):
    config = dataclasses.replace(CONFIG, max_bad_share=0.2)
    with pytest.raises(ValueError) as error:
        run(tmp_path, Damaged(train, {1, 4, 8}), val, config)
    text = str(error.value)
    assert "at most 2 unreadable training images" in text and "got 3" in text
    for index in (1, 4, 8):
        assert f"image {index}: torn file" in text
    assert not (tmp_path / "last.pt").exists()


def test_no_unreadable_image_may_be_tolerated(tmp_path, train, val):
    config = dataclasses.replace(CONFIG, max_bad_share=0.0)
    with pytest.raises(ValueError, match="at most 0 unreadable"):
        run(tmp_path, Damaged(train, {1}), val, config)


def test_a_step_without_a_readable_image_takes_the_next_one(tmp_path, train, val):
    config = dataclasses.replace(CONFIG, batch_size=1, epochs=1, max_bad_share=0.5)
    result = run(tmp_path, Damaged(train[:4], {2}), val, config)
    assert result.finished
    assert result.history[0]["images_per_second"] * result.history[0]["seconds"] == pytest.approx(4)


def test_a_dataset_without_any_readable_image_is_refused(tmp_path, train, val):
    config = dataclasses.replace(CONFIG, max_bad_share=1.0)
    with pytest.raises(ValueError, match=r"expected readable images, got none.*torn file"):
        run(tmp_path, Damaged(train[:4], {0, 1, 2, 3}), val, config)


def test_mistakes_of_code_are_not_taken_for_bad_images(tmp_path, train, val):
    with pytest.raises(KeyError, match="a typing error"):
        run(tmp_path, Damaged(train, {1}, KeyError("a typing error")), val, CONFIG)


def test_unreadable_images_are_remembered_by_a_resumed_run(tmp_path, train, val):
    lines = []
    config = dataclasses.replace(CONFIG, max_bad_share=0.2)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Damaged(train, {3}), val, config, callbacks=[stop_after_saving])
    run(tmp_path, Damaged(train, {3}), val, config, resume=True, log=lines.append)
    assert not any("skipped" in line for line in lines), "logged before the interruption"


def test_an_unreadable_validation_image_is_left_out(tmp_path, train, val):
    lines = []
    damaged = Damaged([*val, *train[:3]], {1})
    result = run(tmp_path, train, damaged, CONFIG, log=lines.append)
    assert result.finished
    logged = [line for line in lines if "skipped" in line]
    assert logged == ["skipped: validation image 1 cannot be read: torn file"]
    readable = [sample for i, sample in enumerate([*val, *train[:3]]) if i != 1]
    assert result.best["ap"] == evaluate(result.model, readable).as_dict()["ap"]


def test_too_many_unreadable_validation_images_stop_the_run(tmp_path, train, val):
    with pytest.raises(ValueError, match="expected readable validation images, got 2 of 2"):
        run(tmp_path, train, Damaged(val[:2], {0, 1}), CONFIG)
