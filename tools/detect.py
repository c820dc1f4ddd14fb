"""Finds objects in pictures, folders, glob patterns and videos with a trained model.

    python tools/detect.py runs/ssd photos/ --out found
    python tools/detect.py runs/ssd/best.pt 'photos/*.jpg' clip.mp4 --score-threshold 0.3

Writes annotated pictures and videos and detections.json into --out.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from tqdm.auto import tqdm

from cvlib.engine import load
from cvlib.engine.checkpoint import save_json
from cvlib.engine.device import choose_device
from cvlib.predict import Frame, find_files, is_video, predict
from cvlib.structures import Detections
from cvlib.visualize import draw


@dataclass(frozen=True)
class Arguments:
    """Finds objects and writes annotated pictures and JSON."""

    model: Annotated[Path, tyro.conf.Positional]
    """Checkpoint or run folder."""
    sources: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Pictures, folders, glob patterns or videos."""
    out: Path = Path("detections")
    """Folder for annotated pictures, videos and detections.json."""
    score_threshold: float = 0.5
    """Least score of an object, 0..1."""
    batch_size: int = 16
    """Pictures in one forward pass."""
    device: str = "auto"
    """"auto": CUDA when there is one, else the CPU."""


class VideoWriter:
    """Writes annotated frames; opened by the first one, which tells the size."""

    def __init__(self, source: Path, target: Path) -> None:
        self._source, self._target = source, target
        self._writer: Any = None

    def write(self, picture: np.ndarray) -> None:
        """Adds a frame: uint8, shape (H, W, 3), RGB."""
        import cv2

        if self._writer is None:
            reader = cv2.VideoCapture(str(self._source))
            rate = reader.get(cv2.CAP_PROP_FPS) or 25.0
            reader.release()
            size = (picture.shape[1], picture.shape[0])
            code = cv2.VideoWriter.fourcc(*"mp4v")
            self._writer = cv2.VideoWriter(str(self._target), code, rate, size)
            if not self._writer.isOpened():
                raise OSError(f"cannot write {self._target}; is the folder writable?")
        self._writer.write(np.ascontiguousarray(picture[..., ::-1]))

    def close(self) -> None:
        """Finishes the file."""
        if self._writer is not None:
            self._writer.release()


class Writer:
    """Annotated pictures and videos in one folder, every source under a name of its own."""

    def __init__(self, out: Path, sources: list[Path]) -> None:
        self._out = out
        # An annotated copy must never take the place of a picture that it was made from.
        self._sources = {path.resolve() for path in sources}
        self._names: dict[Path, Path] = {}
        self._videos: dict[Path, VideoWriter] = {}

    def target(self, source: Path) -> Path:
        """Where the annotated copy of a source goes; equal names get a number."""
        if source not in self._names:
            suffix = ".mp4" if is_video(source) else ".png"
            taken, number = set(self._names.values()), 1
            path = self._out / f"{source.stem}{suffix}"
            while path in taken or path.resolve() in self._sources:
                number += 1
                path = self._out / f"{source.stem}-{number}{suffix}"
            self._names[source] = path
        return self._names[source]

    def write(self, frame: Frame, found: Detections) -> None:
        """Writes one annotated picture or frame."""
        picture = draw(frame.image, found)
        target = self.target(frame.path)
        if frame.number is None:
            picture.save(target)
            return
        if frame.path not in self._videos:
            self._videos[frame.path] = VideoWriter(frame.path, target)
        self._videos[frame.path].write(np.asarray(picture))

    def close(self) -> None:
        """Finishes all videos."""
        for video in self._videos.values():
            video.close()


@contextmanager
def writer_to(out: Path, sources: list[Path]) -> Iterator[Writer]:
    """A writer whose videos are finished whatever happens."""
    out.mkdir(parents=True, exist_ok=True)
    writer = Writer(out, sources)
    try:
        yield writer
    finally:
        writer.close()


def as_json(frame: Frame, found: Detections, target: Path) -> dict[str, Any]:
    """One row of detections.json."""
    row: dict[str, Any] = {"file": str(frame.path), "annotated": str(target)}
    if frame.number is not None:
        row["frame"] = frame.number
    row["objects"] = [
        {"class": name, "score": round(score, 4), "box": [round(v, 2) for v in box]}
        for name, score, box in zip(
            found.names, found.scores.tolist(), found.boxes.tolist(), strict=True
        )
    ]
    return row


def main() -> None:
    """Runs the script."""
    arguments = tyro.cli(Arguments, description=__doc__)
    if not 0 <= arguments.score_threshold <= 1:
        raise ValueError(f"expected --score-threshold in [0, 1], got {arguments.score_threshold}")
    model = load(arguments.model, choose_device(arguments.device))
    files = find_files(arguments.sources)
    rows: list[dict[str, Any]] = []
    damaged: list[dict[str, Any]] = []

    def note_damage(path: Path, error: ValueError) -> None:
        damaged.append({"file": str(path), "error": str(error)})
        print(f"skipped: {error}", file=sys.stderr)

    found_in = predict(
        model,
        files,
        score_threshold=arguments.score_threshold,
        batch_size=arguments.batch_size,
        on_damaged=note_damage,
    )
    with writer_to(arguments.out, files) as writer, tqdm(unit="picture", disable=None) as bar:
        for frame, found in found_in:
            writer.write(frame, found)
            rows.append(as_json(frame, found, writer.target(frame.path)))
            bar.update()
    save_json(arguments.out / "detections.json", rows + damaged)
    objects = sum(len(row["objects"]) for row in rows)
    print(f"{objects} objects in {len(rows)} pictures; see {arguments.out}")
    if damaged:
        sys.exit(f"detect: {len(damaged)} of {len(files)} files are damaged and were skipped")


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"detect: {error}")
