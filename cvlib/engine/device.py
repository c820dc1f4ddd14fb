"""Devices and processes of a run."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import torch
import torch.distributed as dist

from cvlib._distributed import is_distributed, rank

if TYPE_CHECKING:
    from accelerate import Accelerator


T = TypeVar("T")
_NAMES = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}


def join_processes(device: str) -> torch.device:
    """Join the processes started by ``torchrun``, if any, and choose the device of each.

    Args:
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or, for a single process, ``"cuda:N"``.

    Returns:
        The device of this process.

    Raises:
        ValueError: The device does not exist.
    """
    from accelerate.state import AcceleratorState, GradientState, PartialState

    chosen = choose_device(device)
    if chosen.index is not None:
        torch.cuda.set_device(chosen)
    # accelerate keeps the settings of the first run of a process for all that follow.
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    was_joined = dist.is_available() and dist.is_initialized()
    if not was_joined and _is_restarted_here():
        _join_afresh("nccl" if chosen.type == "cuda" else "gloo")
    state = PartialState(cpu=chosen.type == "cpu")
    if is_distributed() and not was_joined:
        atexit.register(_leave)
    return state.device if is_distributed() else chosen


def _is_restarted_here() -> bool:
    """Whether ``torchrun`` has restarted these processes, all of them on this machine."""
    environment = os.environ
    size = environment.get("WORLD_SIZE")  # unset in a process that is alone
    is_one_machine = size is not None and size == environment.get("LOCAL_WORLD_SIZE")
    return is_one_machine and int(environment.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def _join_afresh(backend: str) -> None:
    """Join under a prefix that no earlier attempt of these processes has used.

    ``torchrun`` keeps one store for all attempts, which still holds the addresses of dead
    processes, and a fast process would connect to them. Several machines count their attempts
    separately, so no prefix is common to all, and joining is left to PyTorch.
    """
    store, own_rank, size = next(dist.rendezvous("env://"))
    attempt = dist.PrefixStore(f"attempt {os.environ['TORCHELASTIC_RESTART_COUNT']}", store)
    dist.init_process_group(backend, store=attempt, rank=own_rank, world_size=size)


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def make_accelerator(device: torch.device, precision: str) -> Accelerator:
    """Create the accelerator, which places models and averages and scales gradients.

    Args:
        device: Device as returned by `join_processes`.
        precision: ``"float32"``, ``"bfloat16"`` or ``"float16"``.
    """
    from accelerate import Accelerator

    return Accelerator(cpu=device.type == "cpu", mixed_precision=_NAMES[precision])


def from_first(make: Callable[[], T]) -> T:
    """Call a function in the first process and return its result, or raise its error, in all.

    All machines can then use files that only the first one has, and none waits for a process that
    has failed.
    """
    if not is_distributed():
        return make()
    outcome: list[object] = [None, None]
    if rank() == 0:
        try:
            outcome[0] = make()
        except Exception as error:
            outcome[1] = error
    dist.broadcast_object_list(outcome, src=0)
    if isinstance(outcome[1], Exception):
        raise outcome[1]
    return outcome[0]  # type: ignore[return-value]


def check_device_name(name: str | torch.device) -> None:
    """Raise ValueError unless ``name`` is "auto" or a device that torch knows."""
    try:
        torch.device("cpu" if name == "auto" else name)
    except RuntimeError:
        raise ValueError(
            f"expected `device` to be auto, cpu, cuda or cuda:N, got {name!r}"
        ) from None


def choose_device(name: str | torch.device) -> torch.device:
    """Resolve a device name, and refuse devices that do not exist.

    Args:
        name: ``"auto"`` (CUDA if available, otherwise the CPU), ``"cpu"``, ``"cuda"``,
            ``"cuda:1"``, ...

    Returns:
        The device.

    Raises:
        ValueError: An unknown name, or a device that does not exist.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    check_device_name(name)
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"expected `device` to be a device of this machine, got {name!r}; it has "
            f"{torch.cuda.device_count()} CUDA devices"
        )
    return device
