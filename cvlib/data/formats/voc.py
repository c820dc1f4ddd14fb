"""Pascal VOC boxes: one XML file per image."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm.auto import tqdm

from cvlib.data.datasets.base import check_classes
from cvlib.data.files.folders import describe_folder, escape, join, name_some
from cvlib.data.files.images import read_image_size
from cvlib.data.formats.voc_folders import (
    VocFolders,
    find_voc_folders,
    list_images,
    list_splits,
    read_split,
)
from cvlib.data.formats.voc_xml import Annotation, read_annotation
from cvlib.data.labels.findings import BadLabelsError, Finding, Severity, errors_of
from cvlib.data.labels.table import LabelTable, TableBuilder


def read_voc(
    root: str | Path,
    split: str | None = None,
    *,
    classes: Sequence[str] | None = None,
    one_based: bool | None = None,
) -> LabelTable:
    """Read boxes in the layout of Pascal VOC.

    VOC counts pixels from 1 and includes both corners: ``xmin = 1, xmax = 10`` are the first ten
    pixels, which become x1 = 0 and x2 = 10 (xmin - 1, ymin - 1, xmax, ymax). Coordinates of
    datasets that count from 0 are not shifted.

    Args:
        root: Folder with ``Annotations`` and ``JPEGImages`` (or ``images``), or a parent folder
            that has them in ``VOC2012``; or a folder with XML files next to images, directly or
            in ``train``, ``val`` and ``test``.
        split: Name of a list in ``ImageSets/Main``, including lists of a single class:
            ``"dog_train"`` selects images with a dog; or name of a folder. Default: all XML
            files.
        classes: Class names in label order. Default: the names in all splits, sorted, so that
            labels agree between splits.
        one_based: Whether pixels are counted from 1. By default the boxes at the image border in
            all splits decide: most of them start at 0, or at 1. Objects whose corners coincide
            are one pixel wide if this is True; otherwise they are boxes without an area, since
            most of them are clicks.

    Returns:
        The labels, with a finding for each irregularity in the files. Invalid objects and images
        are left out; occlusion, truncation, poses and parts are not read.

    Raises:
        FileNotFoundError: A folder or the list does not exist.
        BadLabelsError: Every object in the files is invalid.
        ValueError: There are no XML files, or none with an object.

    Note:
        Reads about 3,600 files of 13 objects per second on a server core. XML with entities is
        refused, so that no file can fill the memory or read other files.

    References:
        http://host.robots.ox.ac.uk/pascal/VOC/voc2012/htmldoc/devkit_doc.html
    """
    folders = _require_folders(Path(root).expanduser())
    reader = _Reader(folders, [])
    stems = folders.list_stems()
    chosen = reader.choose(split, stems)
    annotations = reader.read_annotations(stems, chosen)
    names = reader.choose_classes(classes, annotations.values())
    from_1 = one_based
    if from_1 is None:
        from_1 = _counts_from_1(annotations.values(), reader.findings, folders.root)
    builder = TableBuilder(
        "Pascal VOC", folders.root, names, row_word="object", findings=reader.findings
    )
    for stem in chosen:
        image = reader.find_image(stem, annotations.get(stem))
        if image is not None:
            _add_image(builder, annotations[stem], image, from_1, one_based is True)
    return builder.build()


def recognise_voc(path: Path) -> str | None:
    """Return the folders of XML files and images at a path, or None."""
    folders = find_voc_folders(path)
    if folders is None or not folders.has_xml():
        return None
    patterns = name_some(join(labels, "*.xml") for labels in folders.images_of)
    images = next(iter(folders.images_of.values()))
    return f"{patterns} " + ("next to images" if images in folders.images_of else f"and {images}")


def list_voc_splits(path: Path) -> list[str]:
    """List the names of the split lists, or of the split folders."""
    folders = find_voc_folders(path)
    if folders is None:
        return []
    if folders.are_splits:
        return list(folders.images_of)
    return list_splits(folders.root, "Main")


def _require_folders(root: Path) -> VocFolders:
    folders = find_voc_folders(root)
    if folders is None:
        raise FileNotFoundError(
            "read_voc: expected `root` to be a folder with Annotations/ and JPEGImages/, or with "
            f"XML files next to images, got {describe_folder(root)}"
        )
    if not folders.has_xml():
        places = name_some(folders.root / labels for labels in folders.images_of)
        raise ValueError(f"read_voc: expected XML files in {places}, got none")
    return folders


@dataclass
class _Reader:
    """Reads XML files and matches them with images.

    Stems are the paths of XML files relative to the root, without the suffix.
    """

    folders: VocFolders
    findings: list[Finding]
    # File names by stem, of the images that belong to each folder of XML files.
    images: dict[str, dict[str, str]] = field(init=False)

    def __post_init__(self) -> None:
        self.root = self.folders.root
        self.images = {
            labels: list_images(self.root / images, self.findings)
            for labels, images in self.folders.images_of.items()
        }

    def choose(self, split: str | None, stems: list[str]) -> list[str]:
        """Return the stems of a split."""
        if split is None:
            self._warn_of_unlabelled(stems)
            return stems
        if self.folders.are_splits:
            if split not in self.folders.images_of:
                raise FileNotFoundError(
                    f"read_voc: expected `split` to be one of {', '.join(self.folders.images_of)}, "
                    f"got {split!r}"
                )
            return [stem for stem in stems if stem.rpartition("/")[0] == split]
        (labels,) = self.folders.images_of
        known = {stem.rpartition("/")[2] for stem in stems} | set(self.images[labels])
        names = read_split(self.root, "Main", split, known, self.findings)
        return [join(labels, name) for name in names]

    def _warn_of_unlabelled(self, stems: list[str]) -> None:
        labelled = set(stems)
        unlabelled = [
            join(self.folders.images_of[labels], name)
            for labels, names in self.images.items()
            for stem, name in names.items()
            if join(labels, stem) not in labelled
        ]
        if unlabelled:
            self.findings.append(
                Finding(
                    "warning",
                    "missing-labels",
                    f"expected an XML file for every image, got none for {name_some(unlabelled)}: "
                    "these images are left out",
                    image=escape(self.root / unlabelled[0]),
                    fix="label them; an image without objects needs an XML file without objects",
                    count=len(unlabelled),
                )
            )

    def read_annotations(self, stems: list[str], chosen: list[str]) -> dict[str, Annotation]:
        """Read all files, since classes and the origin must not depend on the split."""
        bar = tqdm(stems, desc="reading XML", unit="file", disable=None, leave=False, delay=1)
        annotations = {stem: read_annotation(self.root / f"{stem}.xml") for stem in bar}
        others = annotations.keys() - chosen
        unreadable = [
            annotations[stem].path
            for stem in stems
            if stem in others and not annotations[stem].is_readable
        ]
        if unreadable:
            self.findings.append(
                Finding(
                    "warning",
                    "unreadable-labels",
                    "expected readable XML files, also in other splits, whose classes count, got "
                    f"{name_some(path.name for path in unreadable)}",
                    file=escape(unreadable[0]),
                    fix="restore them, or pass classes",
                    count=len(unreadable),
                )
            )
        return annotations

    def choose_classes(
        self, classes: Sequence[str] | None, annotations: Iterable[Annotation]
    ) -> list[str]:
        """Return the class names, with a finding for each unknown name in the files."""
        annotations = list(annotations)
        counts = Counter(obj.name for annotation in annotations for obj in annotation.objects)
        if classes is None:
            if not counts:
                errors = errors_of(f for annotation in annotations for f in annotation.findings)
                if errors:
                    raise BadLabelsError(f"Pascal VOC in {escape(self.root)}", errors)
                raise ValueError(
                    "read_voc: expected objects with a name, to derive the classes, got none in "
                    f"{len(annotations)} XML files; pass classes for a dataset without objects"
                )
            return sorted(counts)
        names = check_classes("read_voc", classes)
        self.findings.extend(
            Finding(
                "error",
                "unknown-category",
                f"expected one of the classes {name_some(names)}, got {name!r}",
                fix="correct the name in the XML files, or add it to classes",
                count=count,
            )
            for name, count in sorted(counts.items())
            if name not in names
        )
        return names

    def find_image(self, stem: str, annotation: Annotation | None) -> str | None:
        """Return the path of the image of an XML file relative to the root.

        None if the annotation or the image is missing; a finding has the reason.
        """
        if annotation is None:
            self.findings.append(
                Finding(
                    "error",
                    "missing-labels",
                    "expected an XML file for every image of the split, got none",
                    file=escape(self.root / f"{stem}.xml"),
                    fix="restore it, or remove the image from the list",
                )
            )
            return None
        self.findings.extend(annotation.findings)
        if not annotation.is_readable:
            return None
        labels, _, name = stem.rpartition("/")
        image = self._match_image(annotation, name, labels)
        return None if image is None else join(self.folders.images_of[labels], image)

    def _match_image(self, annotation: Annotation, stem: str, labels: str) -> str | None:
        """Return the image with the stem of the XML file, or the image its filename refers to."""
        images = self.images[labels]
        filename = re.split(r"[\\/]", annotation.filename)[-1]
        same_stem = images.get(stem)
        by_filename = images.get(filename) or images.get(Path(filename).stem) if filename else None
        severity: Severity = "error"
        code = "other-filename"
        fix = "rename the XML file, or correct its filename"
        if same_stem is None and by_filename is None:
            code, actual, fix = "missing-image", "no such file", "restore the image"
        elif same_stem is None:
            severity, actual = "warning", f"{by_filename}, according to its filename"
        elif by_filename is not None and by_filename != same_stem:
            actual = f"the filename {filename}, which is another image of the dataset"
        elif filename and Path(filename).stem != stem and filename != stem:
            severity, actual = "warning", f"the filename {filename}"
        else:
            return same_stem
        image = same_stem or by_filename or f"{stem}.jpg"
        self.findings.append(
            Finding(
                severity,
                code,
                f"expected the image {escape(stem)} of the same name, got {escape(actual)}",
                file=escape(annotation.path),
                image=escape(self.root / self.folders.images_of[labels] / image),
                fix=fix,
            )
        )
        return image if severity == "warning" else None


def _counts_from_1(annotations: Iterable[Annotation], findings: list[Finding], root: Path) -> bool:
    lowest = Counter(min(obj.corners[:2]) for a in annotations for obj in a.objects)
    zeros, ones = lowest[0.0], lowest[1.0]
    from_1 = zeros <= ones
    if zeros or ones:
        reason = f"of the boxes at the left or upper border {zeros} begin at 0 and {ones} at 1"
    else:
        reason = "the default of VOC, since no box begins at 0 or 1"
    findings.append(
        Finding(
            "info",
            "pixels-from-1" if from_1 else "pixels-from-0",
            f"pixels are counted from {int(from_1)}: {reason}",
            file=escape(root),
            fix=f"read_voc(..., one_based={not from_1}) reads them the other way",
        )
    )
    return from_1


def _add_image(
    builder: TableBuilder, annotation: Annotation, image: str, from_1: bool, points_are_pixels: bool
) -> None:
    size = annotation.size or _read_size(builder.root / image)
    builder.add_image(image, size=size, label_file=annotation.path)
    for obj in annotation.objects:
        x1, y1, x2, y2 = obj.corners
        is_empty = x1 == x2 or y1 == y2
        # Fractions are not shifted: then the label rules still recognise normalised boxes.
        is_in_pixels = points_are_pixels if is_empty else max(obj.corners) > 1
        shift = 1.0 if from_1 and is_in_pixels else 0.0
        label = builder.classes.index(obj.name) if obj.name in builder.classes else -1
        box = (x1 - shift, y1 - shift, x2, y2)
        builder.add_object(box, label, obj.number, difficult=obj.difficult)


def _read_size(path: Path) -> tuple[int, int] | None:
    try:
        return read_image_size(path)
    except (OSError, ValueError):
        return None  # reported when the images are checked
