"""Checkpoints: never half written, never executed, never mistaken for something else."""

import errno
import json
import multiprocessing
import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch

from cvlib._files import save_json, write_atomically, write_text
from cvlib.engine.checkpoint import FORMAT, load_checkpoint, save_checkpoint

STATE = {
    "model": {"weight": torch.arange(6.0).view(2, 3)},
    "classes": ["cat", "dog"],
    "image_size": [64, 64],
}


def fail_with_a_full_disk(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def old(tmp_path):
    """A checkpoint that must survive, alone in its folder."""
    path = tmp_path / "last.pt"
    save_checkpoint(path, STATE)
    return path


def assert_unharmed(path):
    assert names(path.parent) == [path.name], "a temporary file was left behind"
    assert torch.equal(load_checkpoint(path)["model"]["weight"], STATE["model"]["weight"])


def test_round_trip(old):
    state = load_checkpoint(old)
    assert torch.equal(state["model"]["weight"], STATE["model"]["weight"])
    assert state["classes"] == ["cat", "dog"], "class names travel with the weights"
    assert state["format"] == FORMAT
    assert names(old.parent) == ["last.pt"]


def test_a_checkpoint_is_read_without_running_code(old):
    # What torch itself calls safe.
    assert torch.load(old, weights_only=True)["classes"] == ["cat", "dog"]


def test_a_new_checkpoint_replaces_the_old_one(old):
    save_checkpoint(old, {**STATE, "classes": ["cow"]})
    assert load_checkpoint(old)["classes"] == ["cow"]
    assert names(old.parent) == ["last.pt"]


def test_a_run_folder_means_its_best_checkpoint(tmp_path):
    save_checkpoint(tmp_path / "best.pt", STATE)
    save_checkpoint(tmp_path / "last.pt", {**STATE, "classes": ["cow"]})
    assert load_checkpoint(tmp_path)["classes"] == ["cat", "dog"]
    assert load_checkpoint(str(tmp_path / "last.pt"))["classes"] == ["cow"]


def test_tensors_are_put_on_the_device(old, device):
    assert load_checkpoint(old, device)["model"]["weight"].device.type == device


def test_text_and_json(tmp_path):
    write_text(tmp_path / "a.txt", "Größe\n")
    save_json(tmp_path / "a.json", {"a": [1, None]})
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "Größe\n"
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": [1, None]}


@pytest.mark.parametrize("place", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file(old, monkeypatch, place):
    monkeypatch.setattr(os, place, fail_with_a_full_disk)
    with pytest.raises(OSError, match=r"could not write .*last\.pt: .*No space left.*then resume"):
        save_checkpoint(old, {**STATE, "classes": ["cow"]})
    monkeypatch.undo()
    assert_unharmed(old)


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, ValueError])
def test_any_other_end_leaves_the_old_file_and_its_own_error(old, monkeypatch, error):
    def stop(*_):
        raise error("stop")

    monkeypatch.setattr(os, "fsync", stop)
    with pytest.raises(error, match="stop"):
        write_atomically(old, b"half of it")
    monkeypatch.undo()
    assert_unharmed(old)


def test_what_cannot_be_pickled_leaves_the_old_file(old):
    with pytest.raises((AttributeError, pickle.PicklingError, TypeError)):
        save_checkpoint(old, {"model": lambda: None, "classes": []})
    assert_unharmed(old)


LIMITED = """
import resource, sys, torch
from pathlib import Path
from cvlib._files import save_json
from cvlib.engine.checkpoint import save_checkpoint
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
for write, path, value in (
    (save_checkpoint, checkpoint, {"model": {"w": torch.zeros(10_000)}}),
    (save_json, table, list(range(10_000))),
):
    try:
        write(Path(path), value)
    except BaseException as error:
        print(isinstance(error, OSError), file=open(report, "a"))
"""


def test_a_file_that_may_not_grow_leaves_the_old_one(tmp_path):
    # In a process of its own: the limit on the size of files cannot be raised again.
    folder = tmp_path / "run"
    folder.mkdir()
    save_checkpoint(folder / "last.pt", STATE)
    save_json(folder / "metrics.json", "old")
    places = {"checkpoint": str(folder / "last.pt"), "table": str(folder / "metrics.json")}
    report = tmp_path / "report"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["cvlib", "matplotlib.figure", "tyro"])
    process = context.Process(target=exec, args=(LIMITED, {**places, "report": str(report)}))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert report.read_text().split() == ["True", "True"], "both writes must fail with OSError"
    assert json.loads((folder / "metrics.json").read_text()) == "old"
    assert names(folder) == ["last.pt", "metrics.json"]
    assert load_checkpoint(folder / "last.pt")["classes"] == ["cat", "dog"]


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(OSError, match=r"could not write .*missing/last\.pt"):
        save_checkpoint(tmp_path / "missing" / "last.pt", STATE)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_unwritable_folder_is_named(old):
    old.parent.chmod(0o500)
    try:
        with pytest.raises(OSError, match=r"could not write .*last\.pt"):
            save_checkpoint(old, {**STATE, "classes": ["cow"]})
        assert_unharmed(old)
    finally:
        old.parent.chmod(0o700)


@pytest.mark.parametrize("name", ["missing.pt", "."])
def test_a_missing_file_is_named(tmp_path, name):
    with pytest.raises(
        FileNotFoundError,
        match=r"load_checkpoint: .* to be an existing checkpoint",
    ):
        load_checkpoint(tmp_path / name)


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.9, 0.999])
def test_a_truncated_checkpoint_is_named(old, share):
    data = old.read_bytes()
    old.write_bytes(data[: int(share * len(data))])
    with pytest.raises(ValueError, match=r"load_checkpoint: .*last\.pt, which is damaged"):
        load_checkpoint(old)


@pytest.mark.parametrize("content", [b"", b"\0" * 5000, b"PK\x03\x04 no zip", b"hello"])
def test_a_file_of_another_kind_is_named(tmp_path, content):
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(ValueError, match=r"load_checkpoint: .*a\.pt, which is damaged"):
        load_checkpoint(tmp_path / "a.pt")


def test_another_zip_is_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as file:
        file.writestr("readme.txt", "no weights")
    with pytest.raises(ValueError, match="which is damaged or of another kind"):
        load_checkpoint(tmp_path / "a.pt")


class Attack:
    """Would create a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("by_torch", [True, False])
def test_code_in_a_checkpoint_is_not_run(tmp_path, by_torch):
    state = {**STATE, "format": FORMAT, "extra": Attack(tmp_path / "harm")}
    if by_torch:
        torch.save(state, tmp_path / "a.pt")
    else:
        (tmp_path / "a.pt").write_bytes(pickle.dumps(state))
    with pytest.raises(ValueError, match="which is damaged or of another kind"):
        load_checkpoint(tmp_path / "a.pt")
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    "content", [{"state_dict": {}}, {"model": {}}, [1, 2], torch.zeros(3), {"classes": ["a"]}]
)
def test_checkpoints_of_others_are_named(tmp_path, content):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="expected a checkpoint written by cvlib"):
        load_checkpoint(tmp_path / "a.pt")


@pytest.mark.parametrize("version", [None, 0, FORMAT + 1, "1"])
def test_other_formats_are_named(tmp_path, version):
    torch.save({**STATE, "format": version}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=rf"expected format {FORMAT}, got {version}"):
        load_checkpoint(tmp_path / "a.pt")
