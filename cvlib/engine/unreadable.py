"""Unreadable images: logged once, skipped and counted; too many stop the run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.utils.data import Dataset

from cvlib._files import save_json
from cvlib.engine.batches import UNREADABLE, BadImage
from cvlib.engine.evaluation import Evaluation, evaluate
from cvlib.engine.run import Run
from cvlib.models import Model

_MAX_LISTED = 20


def note_unreadable(run: Run, found: list[BadImage]) -> None:
    """Log new unreadable training images and write ``unreadable_images.json``.

    Args:
        run: The run; its ``progress.bad`` collects the images.
        found: Indices and reasons.

    Raises:
        ValueError: More than ``max_bad_share`` of the dataset; the message lists the images.
    """
    known = {index for index, _ in run.progress.bad}
    new = list({bad[0]: bad for bad in found if bad[0] not in known}.values())
    if not new:
        return
    run.progress.bad += new
    for index, reason in new:
        run.log(f"skipped: training image {index} cannot be read: {reason}")
    bad = run.progress.bad
    if run.is_first:
        save_json(
            run.out / "unreadable_images.json",
            [{"index": index, "reason": reason} for index, reason in bad],
        )
    allowed = max_unreadable(run.plan.size, run.config.max_bad_share)
    if len(bad) > allowed:
        raise ValueError(
            f"fit: expected at most {allowed} unreadable training images (max_bad_share "
            f"{run.config.max_bad_share} of {run.plan.size}), got {len(bad)}; repair or remove "
            f"them, or raise --max-bad-share; unreadable_images.json lists all:\n{_list(bad)}"
        )


def max_unreadable(size: int, share: float) -> int:
    """Maximum number of unreadable images among ``size``: a share, at least one unless it is 0.

    Example:
        >>> max_unreadable(1000, 0.01), max_unreadable(10, 0.01), max_unreadable(10, 0.0)
        (10, 1, 0)
    """
    return max(1, int(size * share)) if share else 0


class ReadableSubset(Dataset[Any]):
    """A dataset without some of its images; all other attributes are those of the dataset.

    Args:
        dataset: The dataset.
        kept: Indices of the remaining images.
    """

    def __init__(self, dataset: Any, kept: list[int]) -> None:
        self.dataset, self.kept = dataset, kept

    def __len__(self) -> int:
        return len(self.kept)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[self.kept[index]]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "dataset":  # not yet initialised
            raise AttributeError(name)
        return getattr(self.dataset, name)


def evaluate_readable(
    model: Model, dataset: Dataset[Any], share: float, log: Callable[[str], None], **options: Any
) -> tuple[Evaluation, Dataset[Any]]:
    """Evaluate a model, and once more without unreadable images if there are any.

    Args:
        model: See `evaluate`.
        dataset: See `evaluate`.
        share: Maximum share of unreadable images; see `max_unreadable`.
        log: Called with a line per unreadable image.
        options: Options of `evaluate`.

    Returns:
        The evaluation, and the readable part of the dataset that it is for.

    Raises:
        ValueError: Too many unreadable images; the message lists them.
    """
    try:
        return evaluate(model, dataset, **options), dataset
    except (*UNREADABLE, RuntimeError) as error:
        # RuntimeError: another process may have met such an image.
        if not isinstance(error, UNREADABLE) and not str(error).startswith("evaluate: process"):
            raise
        readable = drop_unreadable(dataset, share, log)
        if readable is None:
            raise
        return evaluate(model, readable, **options), readable


def drop_unreadable(
    dataset: Any, share: float, log: Callable[[str], None]
) -> ReadableSubset | None:
    """Read a whole dataset and drop the images that cannot be read.

    Args:
        dataset: A dataset that raises one of ``UNREADABLE`` for unreadable images.
        share: Maximum share of unreadable images; see `max_unreadable`.
        log: Called with a line per unreadable image.

    Returns:
        The readable images, or ``None`` if all are readable.

    Raises:
        ValueError: Too many unreadable images; the message lists them.
    """
    bad: list[BadImage] = []
    for index in range(len(dataset)):
        try:
            dataset[index]
        except UNREADABLE as error:
            bad.append((index, str(error)))
    if not bad:
        return None
    if len(bad) > min(max_unreadable(len(dataset), share), len(dataset) - 1):
        raise ValueError(
            f"expected readable validation images, got {len(bad)} of {len(dataset)} that are not; "
            f"repair or remove them:\n{_list(bad)}"
        )
    for index, reason in bad:
        log(f"skipped: validation image {index} cannot be read: {reason}")
    dropped = {index for index, _ in bad}
    return ReadableSubset(dataset, [i for i in range(len(dataset)) if i not in dropped])


def _list(bad: list[BadImage]) -> str:
    lines = [f"  image {index}: {reason}" for index, reason in bad[:_MAX_LISTED]]
    if len(bad) > _MAX_LISTED:
        lines.append(f"  ... and {len(bad) - _MAX_LISTED} more")
    return "\n".join(lines)
