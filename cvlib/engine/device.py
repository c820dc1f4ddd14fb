"""Which device is meant."""

from __future__ import annotations

import torch


def check_device_name(name: str | torch.device) -> None:
    """Raises ValueError unless ``name`` is "auto" or a device that torch knows."""
    try:
        torch.device("cpu" if name == "auto" else name)
    except RuntimeError:
        raise ValueError(f"expected device auto, cpu, cuda or cuda:N, got {name!r}") from None


def choose_device(name: str | torch.device) -> torch.device:
    """Understands "auto" and refuses devices that are not there.

    Args:
        name: ``"auto"`` (CUDA when there is one, else the CPU), ``"cpu"``, ``"cuda"``,
            ``"cuda:1"``, ...

    Returns:
        The device.

    Raises:
        ValueError: An unknown name, or no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    check_device_name(name)
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"expected a device of this machine, got {name!r}; it has "
            f"{torch.cuda.device_count()} CUDA devices"
        )
    return device
