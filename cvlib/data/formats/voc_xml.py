"""One XML file of Pascal VOC."""

from __future__ import annotations

import codecs
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

import defusedxml
from defusedxml import ElementTree

from cvlib.data.files.folders import shown
from cvlib.data.labels.findings import Finding

_SIDES = ("xmin", "ymin", "xmax", "ymax")
# A thousand objects take a tenth of it.
_MOST_BYTES = 1 << 24
_DECLARED = re.compile(rb"""^\s*<\?xml[^>]*encoding\s*=\s*["']([A-Za-z0-9._-]+)["'][^>]*\?>""")


@dataclass
class VocObject:
    """One object, numbered from 1 as it stands in the file."""

    name: str
    corners: tuple[float, ...]
    number: int
    difficult: bool


@dataclass
class Annotation:
    """What one XML file says."""

    path: Path
    filename: str = ""
    size: tuple[int, int] | None = None
    objects: list[VocObject] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    readable: bool = True


def read_annotation(path: Path) -> Annotation:
    """Reads a file; what is wrong with it becomes its findings."""
    one = Annotation(path)
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
    _tell_lost_boxes(root, things, one)
    return one


def _tell_lost_boxes(root: Element, things: list[Element], one: Annotation) -> None:
    """An object that nobody reads would be taught as background."""
    lost = len(list(root.iter("bndbox"))) - sum(len(list(thing.iter("bndbox"))) for thing in things)
    if lost:
        one.findings.append(
            Finding(
                "error",
                "bad-object",
                f"expected every bndbox in an <object> of <annotation>, got {lost} elsewhere",
                file=shown(one.path),
                fix="name and nest the elements as VOC does",
            )
        )


def _parse(path: Path) -> Element:
    """The root of an XML file, namespaces removed.

    Raises:
        ValueError: It is not the XML of one image.
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


def _read_object(element: Element, number: int, one: Annotation) -> None:
    """Adds an object to the annotation, or an error in its place."""
    try:
        fields = _children(element, ("name", "bndbox"))
        sides = _children(fields.get("bndbox", ()), _SIDES)
        corners = tuple(_number(side, sides.get(side)) for side in _SIDES)
        name = _strip(fields.get("name"))
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
    one.objects.append(VocObject(name, corners, number, mark != "0"))


def _children(element: Iterable[Element], once: tuple[str, ...]) -> dict[str, Element]:
    """Children by their tags, of which some may be there only once."""
    tags = [child.tag for child in element]
    for tag in once:
        if (count := tags.count(tag)) > 1:
            raise ValueError(f"expected one {tag}, got {count}")
    return dict(zip(tags, element, strict=True))


def _number(side: str, element: Element | None) -> float:
    text = _strip(element)
    if not text:
        raise ValueError(f"expected {side} a number, got none")
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"expected {side} a number, got {text[:40]!r}") from None
    return value if math.isfinite(value) else math.nan
