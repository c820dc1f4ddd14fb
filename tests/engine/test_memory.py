"""Advice when memory runs out."""

import dataclasses

import pytest
import torch

from cvlib.engine import TrainConfig
from cvlib.engine.memory import explain_out_of_memory, is_out_of_memory

CONFIG = TrainConfig(batch_size=8, accumulate=2, precision="float32")


def fail(error, config=CONFIG):
    with explain_out_of_memory(config):
        raise error


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
        MemoryError("no more"),
    ],
)
def test_settings_that_need_less_are_named(error):
    with pytest.raises(MemoryError, match="fit: out of memory; try one of: ") as caught:
        fail(error)
    text = str(caught.value)
    assert "--batch-size 4 --accumulate 4" in text
    assert "--precision bfloat16" in text and "--freeze-backbone" in text
    assert str(error)[:10] in text, "the reason stays"


def test_only_what_can_be_lowered_is_advised():
    config = dataclasses.replace(CONFIG, batch_size=1, precision="bfloat16", freeze_backbone=True)
    with pytest.raises(MemoryError) as caught:
        fail(MemoryError(), config)
    assert "--" not in str(caught.value)
    assert "smaller image_size" in str(caught.value)


def test_a_killed_worker_is_explained():
    error = RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")
    with pytest.raises(MemoryError, match=r"worker process was killed.*--workers 2"):
        fail(error, dataclasses.replace(CONFIG, workers=4))


@pytest.mark.parametrize("error", [RuntimeError("shapes do not match"), ValueError("wrong")])
def test_other_errors_stay_what_they_are(error):
    with pytest.raises(type(error), match=str(error)) as caught:
        fail(error)
    assert caught.value is error


def test_messages_of_the_cpu_allocator_are_recognised():
    # More than any machine has.
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
