"""cvlib predict: results of a trained model for images of any kind."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tqdm.auto import tqdm

from cvlib.cli import GOOD, INTERRUPTED, WRONG
from cvlib.cli.errors import UsageError
from cvlib.cli.models import load_model
from cvlib.cli.options import parse
from cvlib.cli.outputs import choose_folder
from cvlib.engine.device import choose_device
from cvlib.predict import Sources, Views, predict
from cvlib.predict.writers.folder import OutputFolder
from cvlib.predict.writers.result_writers import Kind, Writers

DESCRIPTION = """Predict on images, videos and cameras, and write the results.

    cvlib predict runs/bananas photos/
    cvlib predict runs/bananas 'photos/*.jpg' clip.mp4 --save images csv
    cvlib predict runs/bananas aerial.tif --tile 640 --overlap 0.25
    cvlib predict runs/bananas photos/ --save coco --data instances_val.json
    find . -name '*.jpg' | cvlib predict runs/bananas - --save json
    cvlib predict runs/bananas webcam:0 --tta flip
    cvlib predict runs/mine photos/ --model package.module:MyModel

Unreadable files are skipped, listed and counted; the exit code is then 1.
"""


@dataclass(frozen=True)
class Arguments:
    """Options of ``cvlib predict``."""

    checkpoint: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="CHECKPOINT")]
    """Run folder or checkpoint."""
    sources: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE ...")]
    """Images, folders, glob patterns, videos; 0 or webcam:1 for cameras; rtsp://... and other
    addresses that OpenCV can open; - for paths from standard input, one per line."""
    model: str | None = None
    """Class of a model of your own, package.module:Class. Unset: a built-in model."""
    out: Path | None = None
    """Output folder, new or empty. Unset: runs/predict, runs/predict-2, and so on."""
    save: tuple[Kind, ...] = ("images", "json")
    """images: annotated images and videos; coco: COCO results; yolo: one text file per image; csv:
    one row per object; json: one entry per image; masks: class maps as PNG (segmentation)."""
    data: Path | None = None
    """COCO file that supplies the ids of images and categories for --save coco."""
    score_threshold: float = 0.5
    """Minimum score of a detection, in 0..1."""
    tile: int | None = None
    """Side of square tiles in pixels, for small objects in large images."""
    overlap: float = 0.2
    """Share of a tile that overlaps the next one. Objects smaller than the overlap are complete in
    some tile; larger ones are joined."""
    whole: bool = True
    """With --tile: predict on the whole image, too, for objects larger than a tile."""
    tta: tuple[Literal["flip", "scales"], ...] = ()
    """Test-time augmentation: predict on mirrored images (flip) or at several --scales, too, and
    merge the results."""
    scales: tuple[float, ...] = (0.75, 1.0, 1.5)
    """Relative image sizes for --tta scales: below 1 with a margin, above 1 in parts."""
    merge: Literal["auto", "nms", "wbf"] = "auto"
    """Merging of tiles and views: nms keeps the best box, wbf averages boxes (weighted boxes
    fusion), auto uses nms for tiles and wbf for views."""
    batch_size: int = 16
    """Images, or tiles, per forward pass."""
    device: str = "auto"
    """Device: auto (CUDA if available), cpu, cuda or cuda:N."""
    overwrite: bool = False
    """Write into a folder that holds files, and replace results of the same names; never a
    source."""

    def __post_init__(self) -> None:
        if not 0 <= self.score_threshold <= 1:
            raise UsageError(f"expected --score-threshold in [0, 1], got {self.score_threshold}")
        if not self.sources:
            raise UsageError("expected at least one source, got none")
        if not self.save:
            raise UsageError("expected at least one kind for --save, got none")

    def views(self) -> Views | None:
        """Tiles and test-time augmentation; ``None``: each image once, as a whole."""
        if self.tile is None and not self.tta:
            return None
        scales = self.scales if "scales" in self.tta else (1.0,)
        return Views(self.tile, self.overlap, self.whole, "flip" in self.tta, scales, self.merge)


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    options = parse(Arguments, "cvlib predict", DESCRIPTION, split_lists(arguments))
    views = options.views()
    sources = Sources(options.sources)
    model = load_model(options.checkpoint, options.model, choose_device(options.device))
    out = choose_folder("predict") if options.out is None else options.out
    protected = [path for path in (options.data, options.checkpoint) if path is not None]
    folder = OutputFolder(out, sources, overwrite=options.overwrite, protected=protected)
    code = GOOD
    bar = tqdm(total=None if sources.is_endless else len(sources.files), unit="image", disable=None)
    with Writers(folder, options.save, model, options.data) as writers, bar:

        def note_damage(path: Path, error: Exception) -> None:
            writers.note_damage(path, error)
            bar.write(f"skipped: {error}", file=sys.stderr)

        results = predict(
            model,
            sources,
            score_threshold=options.score_threshold,
            batch_size=options.batch_size,
            views=views,
            on_damaged=note_damage,
        )
        try:
            for frame, result in results:
                writers.write(frame, result)
                bar.update()
        except KeyboardInterrupt:  # the usual end of a camera
            code = INTERRUPTED
    _print_counts(writers, out)
    if code == GOOD and (writers.damaged or writers.unknown or not writers.images):
        return WRONG
    return code


def split_lists(arguments: Sequence[str]) -> list[str]:
    """Split comma-separated lists: ``--save coco,csv`` becomes ``--save coco csv``."""
    separated: list[str] = []
    for argument in arguments:
        is_list = separated and separated[-1] in ("--save", "--tta", "--scales")
        separated += argument.split(",") if is_list else [argument]
    return separated


def _print_counts(writers: Writers, out: Path) -> None:
    objects = "" if writers.objects is None else f"{writers.objects} objects in "
    print(f"{objects}{writers.images} images; see {out}")
    if writers.unknown:
        print(
            f"cvlib predict: {writers.unknown} images are not in --data and have no rows in the "
            "COCO results",
            file=sys.stderr,
        )
    if writers.damaged:
        print(
            f"cvlib predict: {writers.damaged} files are damaged or missing and were skipped",
            file=sys.stderr,
        )
