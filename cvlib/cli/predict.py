"""cvlib predict: images of any kind to a trained model."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tqdm.auto import tqdm

from cvlib.cli import GOOD, INTERRUPTED, WRONG
from cvlib.cli.running import UsageError, choose_folder, parse
from cvlib.engine import load
from cvlib.engine.device import choose_device
from cvlib.predict import Sources, Views, predict
from cvlib.predict.writers.folder import OutputFolder
from cvlib.predict.writers.result_writers import Kind, Writers

DESCRIPTION = """Shows images, videos and cameras to a trained model and writes what it says.

    cvlib predict runs/bananas photos/
    cvlib predict runs/bananas 'photos/*.jpg' clip.mp4 --save images csv
    cvlib predict runs/bananas aerial.tif --tile 640 --overlap 0.25
    cvlib predict runs/bananas photos/ --save coco --data instances_val.json
    find . -name '*.jpg' | cvlib predict runs/bananas - --save json
    cvlib predict runs/bananas webcam:0 --tta flip

Damaged files are skipped, named and counted; the exit code is then 1.
"""


@dataclass(frozen=True)
class Arguments:
    """Shows images to a model and writes what it says."""

    model: Annotated[Path, tyro.conf.Positional]
    """Run folder or checkpoint."""
    sources: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Images, folders, glob patterns, videos; 0 or webcam:1 for cameras; rtsp://... and other
    addresses that OpenCV opens; - for paths from standard input, one a line."""
    out: Path | None = None
    """Folder for results, new or empty. Unset: runs/predict, runs/predict-2, and so on."""
    save: tuple[Kind, ...] = ("images", "json")
    """images: annotated images and videos; coco: results as COCO json; yolo: a text file for
    each image; csv: a row for each object; json; masks: class maps as PNG, of segmentation."""
    data: Path | None = None
    """COCO file whose ids of images and classes the COCO results shall have."""
    score_threshold: float = 0.5
    """Least score of an object, 0..1."""
    tile: int | None = None
    """Look at big images in square tiles of so many pixels, and whole."""
    overlap: float = 0.2
    """Share of a tile that the next one has, too: objects smaller than that are whole in some
    tile, larger ones are put together."""
    whole: bool = True
    """With --tile: look at the whole image, too, for objects larger than a tile."""
    tta: tuple[Literal["flip", "scales"], ...] = ()
    """Test-time augmentation: see every image also mirrored, also at --scales, and merge."""
    scales: tuple[float, ...] = (0.75, 1.0, 1.5)
    """Sizes at which --tta scales sees an image: below 1 from farther away, above 1 in parts."""
    merge: Literal["auto", "nms", "wbf"] = "auto"
    """How objects are merged that several tiles or views have: the best box, or the average of all
    (weighted boxes fusion); auto: nms for tiles, wbf for views."""
    batch_size: int = 16
    """Images, or tiles, in one forward pass."""
    device: str = "auto"
    """"auto": CUDA when there is one, else the CPU."""
    overwrite: bool = False
    """Write into a folder that has something in it, and replace results of the same names; never a
    source."""

    def __post_init__(self) -> None:
        if not 0 <= self.score_threshold <= 1:
            raise UsageError(f"expected --score-threshold in [0, 1], got {self.score_threshold}")
        if not self.sources:
            raise UsageError("expected at least one source, got none")
        if not self.save:
            raise UsageError("expected at least one kind for --save, got none")

    def views(self) -> Views | None:
        """How each image is seen; once and whole: ``None``."""
        if self.tile is None and not self.tta:
            return None
        scales = self.scales if "scales" in self.tta else (1.0,)
        return Views(self.tile, self.overlap, self.whole, "flip" in self.tta, scales, self.merge)


def main(arguments: Sequence[str]) -> int:
    """Runs the command."""
    options = parse(Arguments, "cvlib predict", DESCRIPTION, separate(arguments))
    return write_predictions(options)


def separate(arguments: Sequence[str]) -> list[str]:
    """Lists may be written with commas: ``--save coco,csv`` as ``--save coco csv``."""
    separated: list[str] = []
    for argument in arguments:
        lists = separated and separated[-1] in ("--save", "--tta", "--scales")
        separated += argument.split(",") if lists else [argument]
    return separated


def write_predictions(options: Arguments) -> int:
    """Looks at all sources; gives the exit code."""
    views = options.views()
    sources = Sources(options.sources)
    model = load(options.model, choose_device(options.device))
    out = choose_folder("predict") if options.out is None else options.out
    protected = [one for one in (options.data, options.model) if one is not None]
    folder = OutputFolder(out, sources, overwrite=options.overwrite, protected=protected)
    code = GOOD
    bar = tqdm(total=None if sources.is_endless else len(sources.files), unit="image", disable=None)
    with Writers(folder, options.save, model, options.data) as writers, bar:

        def note_damage(path: Path, error: Exception) -> None:
            writers.note_damage(path, error)
            bar.write(f"skipped: {error}", file=sys.stderr)

        found = predict(
            model,
            sources,
            score_threshold=options.score_threshold,
            batch_size=options.batch_size,
            views=views,
            on_damaged=note_damage,
        )
        try:
            for frame, result in found:
                writers.write(frame, result)
                bar.update()
        except KeyboardInterrupt:  # the usual end of a camera
            code = INTERRUPTED
    return report(writers, out, code)


def report(writers: Writers, out: Path, code: int) -> int:
    """Says what was found; gives the exit code."""
    what = "" if writers.objects is None else f"{writers.objects} objects in "
    print(f"{what}{writers.images} images; see {out}")
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
    if code == GOOD and (writers.damaged or writers.unknown or not writers.images):
        return WRONG
    return code
