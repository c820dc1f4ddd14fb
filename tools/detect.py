"""Detect objects in images, folders, glob patterns and videos with a trained model.

    python tools/detect.py runs/ssd photos/ --out found
    python tools/detect.py runs/ssd/best.pt 'photos/*.jpg' clip.mp4 --score-threshold 0.3

Writes annotated images and videos and predictions.json into --out. ``cvlib predict`` has more
options.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tqdm.auto import tqdm

from cvlib.engine import load
from cvlib.engine.device import choose_device
from cvlib.predict import Sources, predict
from cvlib.predict.writers.folder import OutputFolder
from cvlib.predict.writers.result_writers import Writers


@dataclass(frozen=True)
class Arguments:
    """Detect objects and write annotated images and JSON."""

    model: Annotated[Path, tyro.conf.Positional]
    """Checkpoint or run folder."""
    sources: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Images, folders, glob patterns or videos."""
    out: Path = Path("detections")
    """Folder for annotated images, videos and predictions.json, new or empty."""
    score_threshold: float = 0.5
    """Lowest score of an object, in [0, 1]."""
    batch_size: int = 16
    """Images per forward pass."""
    device: str = "auto"
    """"auto": CUDA if available, otherwise the CPU."""
    overwrite: bool = False
    """Replace the results of an earlier run in --out."""


def main() -> None:
    """Run the script."""
    arguments = tyro.cli(Arguments, description=__doc__)
    if not 0 <= arguments.score_threshold <= 1:
        raise ValueError(f"expected --score-threshold in [0, 1], got {arguments.score_threshold}")
    model = load(arguments.model, choose_device(arguments.device))
    sources = Sources(arguments.sources)
    folder = OutputFolder(arguments.out, sources, overwrite=arguments.overwrite)
    with (
        Writers(folder, ("images", "json"), model) as writers,
        tqdm(unit="image", disable=None) as bar,
    ):

        def note_damage(path: Path, error: Exception) -> None:
            writers.note_damage(path, error)
            print(f"skipped: {error}", file=sys.stderr)

        for frame, detections in predict(
            model,
            sources,
            score_threshold=arguments.score_threshold,
            batch_size=arguments.batch_size,
            on_damaged=note_damage,
        ):
            writers.write(frame, detections)
            bar.update()
    print(f"{writers.objects} objects in {writers.images} images; see {arguments.out}")
    if writers.damaged:
        sys.exit(
            f"detect: {writers.damaged} of {len(sources.files)} files are damaged and were skipped"
        )


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"detect: {error}")
