"""Boxes of Pascal VOC: one XML file for each image."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from tqdm.auto import tqdm

from cvlib.data.datasets.base import check_classes
from cvlib.data.files.folders import describe_folder, join, list_files, name_some, shown
from cvlib.data.files.images import read_image_size
from cvlib.data.formats.voc_lists import (
    VocHome,
    find_voc_home,
    is_xml,
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
    """Reads boxes in the layout of Pascal VOC.

    VOC counts pixels from 1 and includes both corners: ``xmin = 1, xmax = 10`` are the first ten
    pixels. That becomes x1 = 0 and x2 = 10 (xmin - 1, ymin - 1, xmax, ymax). Some sets in VOC's
    layout count from 0; their numbers are taken as they are.

    Args:
        root: Folder with ``Annotations`` and ``JPEGImages`` (or ``images``), or one that holds it
            as ``VOC2012``; or a folder with XML files beside images, itself or in ``train``,
            ``val`` and ``test``.
        split: Name of a list in ``ImageSets/Main``; also of one for a single class, such as
            ``"dog_train"``, which means the images with a dog; or of a folder. ``None``: all XML
            files.
        classes: Names, in the order of the labels. By default every name that occurs in any
            split, sorted; so all splits have the same labels.
        one_based: Whether pixels are counted from 1. By default the boxes at the border decide,
            those of all splits: most of them at 0, or at 1. Objects whose corners coincide are
            one pixel wide where you say that pixels are counted from 1, and otherwise boxes
            without an area, which they usually are: clicks.

    Returns:
        The labels, with a finding for everything in the files that is not as expected; where that
        is an error, the object or the image is left out. Occlusion, truncation, poses and parts
        are not kept.

    Raises:
        FileNotFoundError: A folder or the list is missing.
        BadLabelsError: No object of any file can be used.
        ValueError: There is no XML file, or none has an object.

    Note:
        Some 3,600 files of 13 objects a second on one core of a server. XML with entities is
        refused, so that no file can fill the memory or read another one.

    References:
        http://host.robots.ox.ac.uk/pascal/VOC/voc2012/htmldoc/devkit_doc.html
    """
    home = _require_home(Path(root).expanduser())
    findings: list[Finding] = []
    images = {
        labels: list_images(home.root / folder, findings) for labels, folder in home.folders.items()
    }
    keys = [
        join(labels, Path(name).stem)
        for labels in home.folders
        for name in list_files(home.root / labels, is_xml)
    ]
    chosen = _choose(home, split, keys, images, findings)
    annotations = _read_all(home.root, keys, chosen, findings)
    names = _choose_classes(home.root, classes, annotations, findings)
    if one_based is None:
        counts_from_1 = _counts_from_1(annotations.values(), findings, home.root)
    else:
        counts_from_1 = one_based
    builder = TableBuilder("Pascal VOC", home.root, names, row_word="object", findings=findings)
    for key in chosen:
        image = _check(builder, home, key, annotations.get(key), images)
        if image is not None:
            _add(builder, annotations[key], image, counts_from_1, one_based is True)
    return builder.build()


def find_voc(path: Path) -> str | None:
    """What was found of a set of boxes, in words."""
    home = find_voc_home(path) if path.is_dir() else None
    if home is None or not home.has_xml():
        return None
    places = [f"{join(labels, '*.xml')}" for labels in home.folders]
    images = next(iter(home.folders.values()))
    return f"{name_some(places)} " + (
        "beside images" if images in home.folders else f"and {images}"
    )


def list_voc_splits(path: Path) -> list[str]:
    """Names of the splits: of lists, or of folders."""
    home = find_voc_home(path)
    if home is None:
        return []
    return list(home.folders) if home.by_folder else list_splits(home.root, "Main")


def _require_home(root: Path) -> VocHome:
    home = find_voc_home(root) if root.is_dir() else None
    if home is None:
        raise FileNotFoundError(
            "read_voc: expected root a folder with Annotations/ and JPEGImages/, or with XML files "
            f"beside images, got {describe_folder(root)}"
        )
    if not home.has_xml():
        places = name_some(home.root / labels for labels in home.folders)
        raise ValueError(f"read_voc: expected XML files in {places}, got none")
    return home


def _choose(
    home: VocHome,
    split: str | None,
    keys: list[str],
    images: dict[str, dict[str, str]],
    findings: list[Finding],
) -> list[str]:
    """Paths of the XML files of a split without their ending, relative to the root."""
    if split is None:
        _tell_unlabelled(home, keys, images, findings)
        return keys
    if home.by_folder:
        if split not in home.folders:
            raise FileNotFoundError(
                f"read_voc: expected split one of {', '.join(home.folders)}, got {split!r}"
            )
        return [key for key in keys if key.rpartition("/")[0] == split]
    (labels,) = home.folders
    known = {key.rpartition("/")[2] for key in keys} | set(images[labels])
    return [join(labels, stem) for stem in read_split(home.root, "Main", split, known, findings)]


def _read_all(
    root: Path, keys: list[str], chosen: list[str], findings: list[Finding]
) -> dict[str, Annotation]:
    """All files: classes and the way of counting must not depend on the split."""
    bar = tqdm(keys, desc="reading XML", unit="file", disable=None, leave=False, delay=1)
    read = {key: read_annotation(root / f"{key}.xml") for key in bar}
    others = read.keys() - chosen
    unread = [read[key].path for key in keys if key in others and not read[key].readable]
    if unread:
        findings.append(
            Finding(
                "warning",
                "unreadable-labels",
                "expected XML files that can be read, also outside of this split, where their "
                f"classes count, got {name_some(path.name for path in unread)}",
                file=shown(unread[0]),
                fix="restore them, or pass classes",
                count=len(unread),
            )
        )
    return read


def _tell_unlabelled(
    home: VocHome, keys: list[str], images: dict[str, dict[str, str]], findings: list[Finding]
) -> None:
    labelled = set(keys)
    without = [
        join(home.folders[labels], name)
        for labels, names in images.items()
        for stem, name in names.items()
        if join(labels, stem) not in labelled
    ]
    if without:
        findings.append(
            Finding(
                "warning",
                "missing-labels",
                f"expected an XML file for every image, got none for {name_some(without)}: these "
                "images are left out",
                image=shown(home.root / without[0]),
                fix="label them; an image without objects needs an XML file without objects",
                count=len(without),
            )
        )


def _choose_classes(
    root: Path,
    classes: Sequence[str] | None,
    annotations: dict[str, Annotation],
    findings: list[Finding],
) -> list[str]:
    counts = Counter(thing.name for one in annotations.values() for thing in one.objects)
    if classes is None:
        if not counts:
            if wrong := errors_of(f for one in annotations.values() for f in one.findings):
                raise BadLabelsError(f"Pascal VOC in {shown(root)}", wrong)
            raise ValueError(
                "read_voc: expected objects with a name, from which classes follow, got none in "
                f"{len(annotations)} XML files; pass classes for a set without objects"
            )
        return sorted(counts)
    names = check_classes("read_voc", classes)
    findings.extend(
        Finding(
            "error",
            "unknown-category",
            f"expected one of the classes {name_some(names)}, got {name!r}",
            fix="correct the name in the XML files, or pass it in classes",
            count=count,
        )
        for name, count in sorted(counts.items())
        if name not in names
    )
    return names


def _counts_from_1(annotations: Iterable[Annotation], findings: list[Finding], root: Path) -> bool:
    lows = Counter(min(thing.corners[:2]) for one in annotations for thing in one.objects)
    zeros, ones = lows[0.0], lows[1.0]
    from_1 = zeros <= ones
    if zeros or ones:
        reason = f"of the boxes at the left or upper border {zeros} begin at 0 and {ones} at 1"
    else:
        reason = "as VOC does; no box begins at 0 or 1, so the boxes themselves do not tell"
    findings.append(
        Finding(
            "info",
            "pixels-from-1" if from_1 else "pixels-from-0",
            f"pixels are counted from {int(from_1)}: {reason}",
            file=shown(root),
            fix=f"read_voc(..., one_based={not from_1}) reads them the other way",
        )
    )
    return from_1


def _check(
    builder: TableBuilder,
    home: VocHome,
    key: str,
    one: Annotation | None,
    images: dict[str, dict[str, str]],
) -> str | None:
    """The image of an XML file, or None, and a finding that says why it is left out."""
    if one is None:
        builder.findings.append(
            Finding(
                "error",
                "missing-labels",
                "expected an XML file for every image of the split, got none",
                file=shown(builder.root / f"{key}.xml"),
                fix="restore it, or take the image out of the list",
            )
        )
        return None
    builder.findings.extend(one.findings)
    if not one.readable:
        return None
    labels, _, stem = key.rpartition("/")
    name = _find_image(one, stem, images[labels], home.folders[labels], builder)
    return None if name is None else join(home.folders[labels], name)


def _add(
    builder: TableBuilder, one: Annotation, image: str, from_1: bool, pixels_are_objects: bool
) -> None:
    size = one.size or _measure(builder.root / image)
    builder.add_image(image, size=size, label_file=one.path)
    for thing in one.objects:
        x1, y1, x2, y2 = thing.corners
        empty = x1 == x2 or y1 == y2
        # Shifted, fractions would look like boxes at the border: the rules shall find them.
        is_pixels = pixels_are_objects if empty else max(thing.corners) > 1
        shift = 1.0 if from_1 and is_pixels else 0.0
        label = builder.classes.index(thing.name) if thing.name in builder.classes else -1
        box = (x1 - shift, y1 - shift, x2, y2)
        builder.add_object(box, label, thing.number, difficult=thing.difficult)


def _find_image(
    one: Annotation, stem: str, images: dict[str, str], folder: str, builder: TableBuilder
) -> str | None:
    """File name of the image that an XML file labels; None where nobody knows."""
    named = re.split(r"[\\/]", one.filename)[-1]
    other = images.get(named) or images.get(Path(named).stem) if named else None
    mine = images.get(stem)
    severity: Severity = "error"
    code, text = "other-filename", f"got {other}, which its filename says"
    if mine is None and other is None:
        code, text = "missing-image", "got no such file"
    elif mine is None:
        severity = "warning"
    elif other is not None and other != mine:
        text = f"got the filename {named}, which is another image of the set"
    elif named and Path(named).stem != stem and named != stem:
        severity, text = "warning", f"got the filename {named}"
    else:
        return mine
    image = mine or other or f"{stem}.jpg"
    builder.findings.append(
        Finding(
            severity,
            code,
            f"expected the image {shown(stem)} of the same name, {shown(text)}",
            file=shown(one.path),
            image=shown(builder.root / folder / image),
            fix="restore the image"
            if code == "missing-image"
            else "rename the XML file, or correct its filename",
        )
    )
    return image if severity == "warning" else None


def _measure(path: Path) -> tuple[int, int] | None:
    """From the image's header, where the XML file does not say it."""
    try:
        return read_image_size(path)
    except (OSError, ValueError):
        return None  # found again, and told, where images are checked
