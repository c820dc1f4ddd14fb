"""The command in other processes: several under torchrun, and one that is interrupted."""

import json
import signal
import subprocess
import sys
import time

import pytest

from cvlib.cli import main

pytestmark = pytest.mark.slow
DEADLINE = 240
TINY = ["--image-size", "64", "64", "--precision", "float32", "--device", "cpu"]


def test_two_processes_train_one_model_with_one_report(tmp_path, coco):
    out = tmp_path / "run"
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    command = ["cvlib", "train", str(coco), *TINY, "--epochs", "2", "--out", str(out)]
    process = subprocess.run(
        [sys.executable, *torchrun, *command], capture_output=True, text=True, timeout=DEADLINE
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout.count("best: AP") == 1
    assert process.stdout.count("epoch 2/2") == 1
    assert {"best.pt", "data.json", "predictions.png"} <= {path.name for path in out.iterdir()}


def test_ctrl_c_saves_and_resume_finishes(tmp_path, coco):
    out = tmp_path / "run"
    command = [sys.executable, "-m", "cvlib", "train", str(coco), *TINY]
    process = subprocess.Popen(
        [*command, "--epochs", "2000", "--patience", "3", "--eval-every", "100", "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + DEADLINE
    while not (out / "last.pt").exists():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=DEADLINE)
    assert process.returncode == 130
    assert "interrupted; --resume continues from" in output
    before = len(json.loads((out / "metrics.json").read_text()))
    assert main(["train", "--resume", "--out", str(out)]) == 0
    assert len(json.loads((out / "metrics.json").read_text())) > before
