"""The package with its kernels, without them, with broken ones, and with kernels switched off."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import cvlib

# Imports and computes; prints warnings, loaded binaries and results as JSON.
PROBE = textwrap.dedent(
    """
    import json, warnings

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        import torch
        before = len(caught)
        import cvlib
        import cvlib.ops.nms
        boxes = torch.tensor([[0.0, 0, 2, 2], [0, 0, 2, 1.8], [3, 3, 4, 4]])
        scores = torch.tensor([0.9, 0.8, 0.7])
        anchors = torch.tensor([[0.0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1]])
        target = cvlib.multibox_target(anchors, torch.tensor([[[2.0, 0.5, 0.5, 1, 1]]]))
        probs = torch.tensor([[[0.2, 0.1], [0.8, 0.9]]])
        results = {
            "nms": cvlib.nms(boxes, scores, 0.5).tolist(),
            "iou": cvlib.box_iou(boxes[:1], boxes).tolist(),
            "match": cvlib.match_anchors(boxes, boxes[1:]).tolist(),
            "target": [x.tolist() for x in target],
            "detection": cvlib.multibox_detection(probs, torch.zeros(1, 8), anchors).tolist(),
        }
        try:
            cvlib.nms(-boxes, scores, 0.5)
        except ValueError as error:
            results["error"] = str(error)
        try:
            x = boxes.clone().requires_grad_()
            cvlib.box_iou(x, boxes[:1] / 2).sum().backward()
            gradient = [[round(v, 5) for v in row] for row in x.grad.tolist()]
        except RuntimeError as error:
            gradient = str(error)
    print(json.dumps({
        "file": cvlib.__file__,
        "warnings": [[w.category.__name__, str(w.message)] for w in caught[before:]],
        "info": cvlib.build_info(),
        "results": results,
        "gradient": gradient,
    }))
    """
)
WITHOUT_KERNELS = ["no kernels", "broken kernels", "switched off"]


def copy_package(folder: Path) -> Path:
    ignored = shutil.ignore_patterns("*.so", "*.pyd", "__pycache__")
    shutil.copytree(Path(cvlib.__file__).parent, folder / "cvlib", ignore=ignored)
    return folder


@pytest.fixture(scope="module")
def probes(tmp_path_factory):
    """Output of PROBE in each kind of installation. The processes run in parallel to save time."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("CVLIB_")}
    bare, broken = (copy_package(tmp_path_factory.mktemp(name)) for name in ("bare", "broken"))
    name = cvlib.build_info()["loaded"].get("_C", "_C.abi3.so")
    (broken / "cvlib" / name).write_bytes(b"not a library" * 99)
    variables = {
        "installed": {},
        "no kernels": {"PYTHONPATH": str(bare)},
        "broken kernels": {"PYTHONPATH": str(broken)},
        "switched off": {"CVLIB_DISABLE_EXTENSION": "1"},
    }
    processes = {
        name: subprocess.Popen(
            [sys.executable, "-c", PROBE],
            env=environment | changes,
            cwd=bare.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name, changes in variables.items()
    }
    outputs = {name: process.communicate() for name, process in processes.items()}
    failed = {name: outputs[name][1] for name, process in processes.items() if process.returncode}
    assert not failed, failed
    for name, folder in variables.items():
        report = json.loads(outputs[name][0].splitlines()[-1])
        assert Path(report["file"]).is_relative_to(folder.get("PYTHONPATH", "/"))
    return {
        name: {**json.loads(stdout.splitlines()[-1]), "stderr": stderr}
        for name, (stdout, stderr) in outputs.items()
    }


def test_installed_package_loads_its_kernels_in_silence(probes):
    assert probes["installed"]["warnings"] == [] and not probes["installed"]["stderr"]
    assert "_C" in probes["installed"]["info"]["loaded"]


@pytest.mark.parametrize("name", WITHOUT_KERNELS)
def test_results_are_the_same_without_kernels(probes, name):
    assert probes[name]["results"] == probes["installed"]["results"]
    assert "_C" not in probes[name]["info"]["loaded"]


@pytest.mark.parametrize("name", WITHOUT_KERNELS)
def test_gradient_is_the_same_without_kernels(probes, name):
    assert probes[name]["gradient"] == probes["installed"]["gradient"]


@pytest.mark.parametrize("name", ["no kernels", "broken kernels"])
def test_missing_kernels_warn_once_with_advice(probes, name):
    assert len(probes[name]["warnings"]) == 1, probes[name]["warnings"]
    category, message = probes[name]["warnings"][0]
    assert category in ("RuntimeWarning", "UserWarning", "ImportWarning")
    assert "cvlib" in message and "_C" in message
    assert "pip install" in message or "make " in message


def test_broken_kernels_are_reported_in_the_words_of_the_loader(probes):
    words = ("invalid ELF header", "file too short", "not a mach-o file")  # glibc, macOS
    report = probes["broken kernels"]
    for text in (report["warnings"][0][1], report["info"]["not_loaded"]["_C"]):
        assert any(word in text for word in words), text


def test_switching_kernels_off_is_silent(probes):
    assert probes["switched off"]["warnings"] == [] and not probes["switched off"]["stderr"]


def test_build_info_has_versions_and_binaries():
    info = cvlib.build_info()
    assert info["cvlib"] == cvlib.__version__
    assert {"torch", "loaded", "not_loaded"} <= info.keys()


def test_other_distribution_of_the_same_name_is_reported(tmp_path):
    # As pip installs it for the project that owns the name on the package index.
    metadata = tmp_path / "cvlib-0.2.7.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: cvlib\nVersion: 0.2.7\n")
    code = "import warnings; warnings.simplefilter('error'); import cvlib"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert "the distribution cvlib 0.2.7, another project, is installed next to" in done.stderr
    assert "pip uninstall cvlib" in done.stderr
