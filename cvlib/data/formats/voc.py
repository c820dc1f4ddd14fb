"""Boxes of Pascal VOC: one XML file for each picture."""

from __future__ import annotations

import codecs
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

import defusedxml
from defusedxml import ElementTree
from tqdm.auto import tqdm

from cvlib.data._images import read_image_size
from cvlib.data._picture_set import check_classes
from cvlib.data.findings import Finding
from cvlib.data.formats._folders import list_files, name_some, shown
from cvlib.data.formats._voc_lists import list_pictures, read_split, require_home
from cvlib.data.table import LabelTable, TableBuilder

FOLDERS = ("Annotations", "JPEGImages")
_SIDES = ("xmin", "ymin", "xmax", "ymax")
# A thousand objects take a tenth of it.
_MOST_BYTES = 1 << 24
_DECLARED = re.compile(rb"""^\s*<\?xml[^>]*encoding\s*=\s*["']([A-Za-z0-9._-]+)["'][^>]*\?>""")


@dataclass
class _Object:
    name: str
    corners: tuple[float, ...]
    number: int
    difficult: bool


@dataclass
class _Annotation:
    """What one XML file says."""

    path: Path
    filename: str = ""
    size: tuple[int, int] | None = None
    objects: list[_Object] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    readable: bool = True


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
        root: Folder with ``Annotations`` and ``JPEGImages``, or one that holds it as
            ``VOC2012``.
        split: Name of a list in ``ImageSets/Main``; also of one for a single class, such as
            ``"dog_train"``, which means the pictures with a dog. ``None``: all XML files.
        classes: Names, in the order of the labels. By default every name that occurs in any
            split, sorted; so all splits have the same labels.
        one_based: Whether pixels are counted from 1. By default the boxes at the border decide,
            those of all splits: most of them at 0, or at 1. Objects whose corners coincide are
            one pixel wide where you say that pixels are counted from 1, and otherwise boxes
            without an area, which they usually are: clicks.

    Returns:
        The labels, with a finding for everything in the files that is not as expected. Occlusion,
        truncation, poses and parts are not kept.

    Raises:
        FileNotFoundError: A folder or the list is missing.
        ValueError: There is no XML file, or none has an object.

    Note:
        Some 3,000 files a second. XML with entities is refused, so that no file can fill the
        memory or read another one.

    References:
        http://host.robots.ox.ac.uk/pascal/VOC/voc2012/htmldoc/devkit_doc.html
    """
    home = require_home(root, "read_voc", FOLDERS)
    findings: list[Finding] = []
    pictures = list_pictures(home / "JPEGImages", findings)
    stems = [Path(n).stem for n in list_files(home / "Annotations", lambda n: n.endswith(".xml"))]
    if not stems:
        raise ValueError(f"read_voc: expected XML files in {shown(home / 'Annotations')}, got none")
    chosen = stems
    if split is not None:
        chosen = read_split(home, "Main", split, {*stems, *pictures}, findings)
    annotations = _read_all(home, stems, chosen, findings)
    names = _choose_classes(classes, annotations, findings)
    if one_based is None:
        counts_from_1 = _counts_from_1(annotations.values(), findings, home)
    else:
        counts_from_1 = one_based
    builder = TableBuilder("Pascal VOC", home, names, row_word="object", findings=findings)
    if split is None:
        _tell_unlabelled(pictures, stems, home, findings)
    for stem in chosen:
        _add(builder, stem, annotations.get(stem), pictures, counts_from_1, one_based is True)
    return builder.build()


def _read_all(
    home: Path, stems: list[str], chosen: list[str], findings: list[Finding]
) -> dict[str, _Annotation]:
    """All files: classes and the way of counting must not depend on the split."""
    bar = tqdm(stems, desc="reading XML", unit="file", disable=None, leave=False, delay=1)
    read = {stem: _read_file(home / "Annotations" / f"{stem}.xml") for stem in bar}
    others = read.keys() - chosen
    unread = [read[stem].path for stem in stems if stem in others and not read[stem].readable]
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
    pictures: dict[str, str], stems: list[str], home: Path, findings: list[Finding]
) -> None:
    labelled = set(stems)
    without = [name for stem, name in pictures.items() if stem not in labelled]
    if without:
        findings.append(
            Finding(
                "warning",
                "missing-labels",
                f"expected an XML file for every picture, got none for {name_some(without)}: these "
                "pictures are left out",
                picture=shown(home / "JPEGImages" / without[0]),
                fix="label them; a picture without objects needs an XML file without objects",
                count=len(without),
            )
        )


def _choose_classes(
    classes: Sequence[str] | None,
    annotations: dict[str, _Annotation],
    findings: list[Finding],
) -> list[str]:
    counts = Counter(thing.name for one in annotations.values() for thing in one.objects)
    if classes is None:
        if not counts:
            raise ValueError(
                "read_voc: expected objects with a name, from which classes follow, got none in "
                f"{len(annotations)} XML files; pass classes for a set without objects"
            )
        return sorted(counts)
    names = check_classes("read_voc", classes)
    findings.extend(
        Finding(
            "warning",
            "unknown-category",
            f"expected one of the classes {name_some(names)}, got {name!r}",
            fix="correct the name in the XML files, or pass it in classes",
            count=count,
        )
        for name, count in sorted(counts.items())
        if name not in names
    )
    return names


def _counts_from_1(annotations: Iterable[_Annotation], findings: list[Finding], home: Path) -> bool:
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
            file=shown(home / "Annotations"),
            fix=f"read_voc(..., one_based={not from_1}) reads them the other way",
        )
    )
    return from_1


def _add(
    builder: TableBuilder,
    stem: str,
    one: _Annotation | None,
    pictures: dict[str, str],
    from_1: bool,
    pixels_are_objects: bool,
) -> None:
    """Adds a picture of the split with its objects, or says why not."""
    path = builder.root / "Annotations" / f"{stem}.xml"
    if one is None:
        builder.findings.append(
            Finding(
                "error",
                "missing-labels",
                "expected an XML file for every picture of the split, got none",
                file=shown(path),
                fix="restore it, or take the picture out of the list",
            )
        )
        return
    builder.findings.extend(one.findings)
    if not one.readable:
        return
    picture = _find_picture(one, stem, pictures, builder)
    size = one.size or _measure(builder.root / picture)
    builder.add_picture(picture, size=size, label_file=path)
    for thing in one.objects:
        x1, y1, x2, y2 = thing.corners
        empty = x1 == x2 or y1 == y2
        shift = 1.0 if from_1 and (pixels_are_objects or not empty) else 0.0
        label = builder.classes.index(thing.name) if thing.name in builder.classes else -1
        box = (x1 - shift, y1 - shift, x2, y2)
        builder.add_object(box, label, thing.number, difficult=thing.difficult)


def _find_picture(
    one: _Annotation, stem: str, pictures: dict[str, str], builder: TableBuilder
) -> str:
    """The picture that an XML file labels, relative to the root."""
    named = re.split(r"[\\/]", one.filename)[-1]
    other = pictures.get(named) or pictures.get(Path(named).stem) if named else None
    mine = pictures.get(stem)
    if mine is None and other is None:
        severity, code, text = "error", "missing-picture", "got no such file"
    elif mine is None:
        severity, code, text = "warning", "other-filename", f"got {other}, which its filename says"
    elif other is not None and other != mine:
        severity, code = "error", "other-filename"
        text = f"got the filename {named}, which is another picture of the set"
    elif named and Path(named).stem != stem and named != stem:
        severity, code, text = "warning", "other-filename", f"got the filename {named}"
    else:
        return f"JPEGImages/{mine}"
    picture = mine or other or named or f"{stem}.jpg"
    builder.findings.append(
        Finding(
            severity,  # type: ignore[arg-type]
            code,
            f"expected the picture {shown(stem)} of the same name, {shown(text)}",
            file=shown(one.path),
            picture=shown(builder.root / "JPEGImages" / picture),
            fix="rename the XML file, or correct its filename",
        )
    )
    return f"JPEGImages/{picture}"


def _measure(path: Path) -> tuple[int, int] | None:
    """From the picture's header, where the XML file does not say it."""
    try:
        return read_image_size(path)
    except (OSError, ValueError):
        return None  # found again, and told, where pictures are checked


def _read_file(path: Path) -> _Annotation:
    one = _Annotation(path)
    try:
        root = _parse(path)
    except (OSError, ValueError) as error:
        one.readable = False
        one.findings.append(
            Finding("error", "unreadable-labels", str(error), shown(path), fix="restore the file")
        )
        return one
    one.filename = _strip(root.find("filename"))
    one.size = _read_size(root)
    things = [child for child in root if child.tag == "object"]
    for number, thing in enumerate(things, 1):
        _read_object(thing, number, one)
    return one


def _parse(path: Path) -> Element:
    """The root of an XML file, namespaces removed.

    Raises:
        ValueError: It is not the XML of one picture.
    """
    size = path.stat().st_size
    if size > _MOST_BYTES:
        raise ValueError(f"expected at most {_MOST_BYTES:,} bytes of XML, got {size:,}")
    data = path.read_bytes()
    if not data.strip():
        raise ValueError("expected XML, got an empty file")
    try:
        root = _from_bytes(data)
    except defusedxml.DefusedXmlException as error:
        raise ValueError(
            "expected XML without entities, got a file that declares some: it could fill the "
            f"memory or read other files ({type(error).__name__})"
        ) from error
    except (ParseError, RecursionError, LookupError, UnicodeError, ValueError) as error:
        raise ValueError(f"expected whole, well-formed XML, got: {error}") from error
    for element in root.iter():
        if isinstance(element.tag, str):
            element.tag = element.tag.rpartition("}")[2]
    if root.tag != "annotation":
        raise ValueError(f"expected an <annotation>, got <{root.tag}>")
    return root


def _from_bytes(data: bytes) -> Element:
    declared = _DECLARED.match(data)
    encoding = codecs.lookup(declared[1].decode("ascii")).name if declared else "utf-8"
    if encoding in ("utf-8", "utf-16", "iso8859-1", "ascii"):
        return ElementTree.fromstring(data, forbid_external=True)
    # expat knows few encodings; Python knows the others. It must not see the declaration again.
    text = data[declared.end() :].decode(encoding) if declared else data.decode(encoding)
    return ElementTree.fromstring(text, forbid_external=True)


def _strip(element: Element | None) -> str:
    return "" if element is None else (element.text or "").strip()


def _read_size(root: Element) -> tuple[int, int] | None:
    """(height, width); tools write 0 where they do not know."""
    try:
        height, width = (
            int(float(_strip(root.find(f"size/{s}")) or 0)) for s in ("height", "width")
        )
    except (ValueError, OverflowError):
        return None
    return (height, width) if height > 0 and width > 0 else None


def _read_object(element: Element, number: int, one: _Annotation) -> None:
    """Adds an object to the annotation, or an error in its place."""
    fields = {child.tag: child for child in element}
    corners_of = {child.tag: child.text for child in fields.get("bndbox", ())}
    name = _strip(fields.get("name"))
    try:
        corners = tuple(_number(side, corners_of.get(side)) for side in _SIDES)
        if not name:
            raise ValueError("expected a name, got none")
    except ValueError as error:
        one.findings.append(
            Finding(
                "error",
                "bad-object",
                str(error),
                file=shown(one.path),
                row=f"object {number}",
                fix="label the object again, or remove it",
            )
        )
        return
    mark = _strip(fields.get("difficult")) or "0"
    if mark not in ("0", "1"):
        one.findings.append(
            Finding(
                "warning",
                "bad-object",
                f"expected difficult 0 or 1, got {mark!r}, which is taken for 1",
                file=shown(one.path),
                row=f"object {number}",
            )
        )
    one.objects.append(_Object(name, corners, number, mark != "0"))


def _number(side: str, text: str | None) -> float:
    if not text or not text.strip():
        raise ValueError(f"expected {side} a number, got none")
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"expected {side} a number, got {text[:40]!r}") from None
    return value if math.isfinite(value) else math.nan
