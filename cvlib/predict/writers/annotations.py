"""Writers of objects: COCO results and YOLO labels."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from cvlib._files import read_text, write_text
from cvlib.boxes import box_convert
from cvlib.predict.sources import Frame
from cvlib.predict.writers.folder import ListFile, OutputFolder
from cvlib.structures import Detections, Result


@dataclass(frozen=True)
class CocoIds:
    """Ids of images and classes in a COCO file.

    Attributes:
        images: Id by file name as in the file.
        categories: Id of each class of the model.
    """

    images: dict[str, int]
    categories: list[int]

    @classmethod
    def read(cls, path: Path, classes: tuple[str, ...]) -> CocoIds:
        """Read the ids.

        Args:
            path: The COCO file.
            classes: Class names of the model; each must be among the categories.

        Raises:
            FileNotFoundError: The file does not exist.
            ValueError: Not a COCO file, or a class that is not among its categories.
        """
        text = read_text(path, "CocoIds.read", "a COCO file")
        try:
            content = json.loads(text)
            images = {row["file_name"]: int(row["id"]) for row in content["images"]}
            categories = {row["name"]: int(row["id"]) for row in content["categories"]}
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"CocoIds.read: expected a COCO file with images and categories, got {path} "
                f"({type(error).__name__}: {error})"
            ) from error
        missing = [name for name in classes if name not in categories]
        if missing:
            raise ValueError(
                f"CocoIds.read: expected the model's classes among the categories of {path}, got "
                f"none for {', '.join(missing)}; it has {', '.join(list(categories)[:20])}"
            )
        return cls(images, [categories[name] for name in classes])

    def find_image(self, path: Path) -> int | None:
        """Return the id of an image, by as many folders of its path as the COCO file names."""
        parts = path.absolute().parts
        names = ("/".join(parts[i:]) for i in range(1, len(parts)))
        return next((self.images[name] for name in names if name in self.images), None)


class CocoWriter:
    """COCO results in one JSON file.

    Without the ids of a COCO file, images are numbered from 1, categories from 0, and a second file
    lists both.

    Args:
        folder: Output folder of ``predictions-coco.json``.
        classes: Class names of the model.
        ids: Ids of a COCO file; images that are not in it get no rows.

    Attributes:
        unknown: Number of images that are not in the COCO file.
    """

    def __init__(self, folder: OutputFolder, classes: tuple[str, ...], ids: CocoIds | None) -> None:
        self._ids = ids
        self._rows = ListFile(folder.file("predictions-coco.json"), "[\n", ",\n", "\n]\n")
        self._images: ListFile | None = None
        self._count = 0
        self.unknown = 0
        if ids is None:
            categories = json.dumps([{"id": i, "name": name} for i, name in enumerate(classes)])
            before = f'{{"categories": {categories},\n"annotations": [],\n"images": [\n'
            images = folder.file("predictions-coco-images.json")
            self._images = ListFile(images, before, ",\n", "\n]}\n")

    def write(self, frame: Frame, result: Result, stem: str) -> None:
        """Add the objects of one image or frame."""
        assert isinstance(result, Detections)  # Writers has checked the task
        image_id = self._image_id(frame)
        if image_id is None:
            self.unknown += 1
            return
        categories = None if self._ids is None else self._ids.categories
        for row in result.to_coco(image_id, categories):
            self._rows.write(json.dumps(row))

    def close(self) -> None:
        """Finish the files."""
        self._rows.close()
        if self._images is not None:
            self._images.close()

    def _image_id(self, frame: Frame) -> int | None:
        if self._images is None:
            assert self._ids is not None
            return self._ids.find_image(frame.path)
        self._count += 1
        height, width = frame.image.shape[1:]
        row = {"id": self._count, "file_name": frame.name, "width": width, "height": height}
        self._images.write(json.dumps(row))
        return self._count


class YoloWriter:
    """YOLO labels: one text file per image, one line per object, and a file of class names.

    Lines are ``class cx cy width height score`` relative to the size of the image. Masks are not
    written; `CocoWriter` writes them.
    """

    def __init__(self, folder: OutputFolder, classes: tuple[str, ...]) -> None:
        self._folder = folder
        write_text(folder.file("classes.txt"), "".join(f"{name}\n" for name in classes))

    def write(self, frame: Frame, result: Result, stem: str) -> None:
        """Write the objects of one image or frame."""
        assert isinstance(result, Detections)  # Writers has checked the task
        height, width = frame.image.shape[1:]
        sides = result.boxes.new_tensor([width, height] * 2)
        boxes = (box_convert(result.boxes, "xyxy", "cxcywh") / sides).tolist()
        lines = [
            f"{label} {' '.join(f'{value:.6f}' for value in box)} {score:.6f}\n"
            for label, box, score in zip(
                result.labels.tolist(), boxes, result.scores.tolist(), strict=True
            )
        ]
        name = stem if frame.number is None else f"{stem}-{frame.number:06}"
        write_text(self._folder.file(f"labels/{name}.txt"), "".join(lines))

    def close(self) -> None:
        """Do nothing: every file is complete."""
