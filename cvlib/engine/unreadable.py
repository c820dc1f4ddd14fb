"""Images that cannot be read: told once, left out, counted, and too many of them stop the run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.utils.data import Dataset

from cvlib._files import save_json
from cvlib.engine.batches import UNREADABLE, BadImage
from cvlib.engine.evaluation import Evaluation, evaluate
from cvlib.engine.run import Run
from cvlib.models import Model

_SHOWN = 20


def note_bad_images(run: Run, found: list[BadImage]) -> None:
    """Reports unreadable training images that are new, and writes ``bad_images.json``.

    Args:
        run: Its ``progress.bad`` gets them.
        found: Indices and reasons.

    Raises:
        ValueError: More than ``max_bad_share`` of the set; the message lists them.
    """
    known = {index for index, _ in run.progress.bad}
    new = list({bad[0]: bad for bad in found if bad[0] not in known}.values())
    if not new:
        return
    run.progress.bad += new
    for index, reason in new:
        run.log(f"left out: training image {index} cannot be read: {reason}")
    bad = run.progress.bad
    if run.is_first:
        save_json(
            run.out / "bad_images.json",
            [{"index": index, "reason": reason} for index, reason in bad],
        )
    allowed = allow_bad(run.plan.size, run.config.max_bad_share)
    if len(bad) > allowed:
        lines = [f"  image {index}: {reason}" for index, reason in bad[:_SHOWN]]
        if len(bad) > _SHOWN:
            lines.append(f"  ... and {len(bad) - _SHOWN} more")
        raise ValueError(
            f"fit: expected at most {allowed} unreadable training images (max_bad_share "
            f"{run.config.max_bad_share} of {run.plan.size}), got {len(bad)}; repair or remove "
            f"them, or raise --max-bad-share; bad_images.json has all:\n" + "\n".join(lines)
        )


def allow_bad(size: int, share: float) -> int:
    """How many of ``size`` images may be unreadable: a share, but at least one unless it is 0.

    Example:
        >>> allow_bad(1000, 0.01), allow_bad(10, 0.01), allow_bad(10, 0.0)
        (10, 1, 0)
    """
    return max(1, int(size * share)) if share else 0


class Kept(Dataset[Any]):
    """A data set without some of its images; everything else is as there.

    Args:
        dataset: Has classes and task.
        kept: Indices of the images that stay.
    """

    def __init__(self, dataset: Any, kept: list[int]) -> None:
        self.dataset, self.kept = dataset, kept

    def __len__(self) -> int:
        return len(self.kept)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[self.kept[index]]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "dataset":  # before there is anything to ask
            raise AttributeError(name)
        return getattr(self.dataset, name)


def evaluate_readable(
    model: Model, dataset: Dataset[Any], share: float, log: Callable[[str], None], **options: Any
) -> tuple[Evaluation, Dataset[Any]]:
    """Evaluates; when an image turns out to be unreadable, once more without it.

    Args:
        model: As for `evaluate`.
        dataset: As for `evaluate`.
        share: Of the images that may be unreadable; see `allow_bad`.
        log: Called with each of them.
        options: For `evaluate`.

    Returns:
        The figures, and the part of the set that they are of.

    Raises:
        ValueError: Too many are unreadable; the message lists them.
    """
    try:
        return evaluate(model, dataset, **options), dataset
    except (*UNREADABLE, RuntimeError) as error:
        # RuntimeError: another process may have met such an image.
        if not isinstance(error, UNREADABLE) and not str(error).startswith("evaluate: process"):
            raise
        readable = leave_out_unreadable(dataset, share, log)
        if readable is None:
            raise
        return evaluate(model, readable, **options), readable


def leave_out_unreadable(dataset: Any, share: float, log: Callable[[str], None]) -> Kept | None:
    """Reads a whole set, and leaves out what cannot be read.

    Args:
        dataset: Raises one of ``UNREADABLE`` for an image that it cannot read.
        share: Of the images that may be unreadable; see `allow_bad`.
        log: Called with each of them.

    Returns:
        The readable images, or ``None`` when all are.

    Raises:
        ValueError: Too many are unreadable; the message lists them.
    """
    bad: list[BadImage] = []
    for index in range(len(dataset)):
        try:
            dataset[index]
        except UNREADABLE as error:
            bad.append((index, str(error)))
    if not bad:
        return None
    if len(bad) > min(allow_bad(len(dataset), share), len(dataset) - 1):
        lines = [f"  image {index}: {reason}" for index, reason in bad[:_SHOWN]]
        raise ValueError(
            f"expected readable validation images, got {len(bad)} of {len(dataset)} that "
            "are not; repair or remove them:\n" + "\n".join(lines)
        )
    for index, reason in bad:
        log(f"left out: validation image {index} cannot be read: {reason}")
    gone = {index for index, _ in bad}
    return Kept(dataset, [index for index in range(len(dataset)) if index not in gone])
