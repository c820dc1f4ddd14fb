"""The datasets of the project."""

import numpy as np
import pytest
from PIL import Image

from cvlib.cli import main

# Number of real errors.
DATASETS = {
    "banana-detection": 0,
    "pennfudan-coco": 0,
    "camvid-voc": 0,
    "bccd-voc": 2,
    "tiny-coco": 0,
    "hymenoptera": 0,
}


@pytest.mark.parametrize("name", DATASETS)
def test_check_finds_the_real_errors(test_data, name, capsys):
    code = main(["check", str(test_data / name), "--fast"])
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"{DATASETS[name]} errors")
    assert code == (1 if DATASETS[name] else 0)


@pytest.mark.parametrize("what", ["data", "transforms", "anchors", "targets"])
def test_show_draws_pedestrians(test_data, tmp_path, what):
    out = tmp_path / "show.png"
    options = ["--what", what, "--count", "2", "--out", str(out)]
    assert main(["show", str(test_data / "pennfudan-coco"), *options]) == 0
    with Image.open(out) as image:
        pixels = np.asarray(image.convert("RGB"))
    assert pixels.shape[1] > 400
    assert pixels.std() > 30


@pytest.mark.parametrize("name", ["camvid-voc", "hymenoptera"])
def test_show_draws_other_tasks(test_data, tmp_path, name):
    for what in ("data", "transforms"):
        out = tmp_path / f"{what}.png"
        options = ["--what", what, "--count", "2", "--out", str(out)]
        assert main(["show", str(test_data / name), *options]) == 0
        with Image.open(out) as image:
            assert np.asarray(image.convert("RGB")).std() > 20
