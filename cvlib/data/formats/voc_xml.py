"""XML annotations of Pascal VOC, one file per image."""

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

from cvlib.data.files.folders import escape
from cvlib.data.labels.findings import Finding

_SIDES = ("xmin", "ymin", "xmax", "ymax")
# A thousand objects take a tenth of it.
_MAX_BYTES = 1 << 24
_DECLARATION = re.compile(rb"""^\s*<\?xml[^>]*encoding\s*=\s*["']([A-Za-z0-9._-]+)["'][^>]*\?>""")
_EXPAT_ENCODINGS = ("utf-8", "utf-16", "iso8859-1", "ascii")


@dataclass
class VocObject:
    """An object, numbered from 1 in the order of the file."""

    name: str
    corners: tuple[float, ...]
    number: int
    difficult: bool


@dataclass
class Annotation:
    """Contents of an XML file, with the findings about it."""

    path: Path
    filename: str = ""
    size: tuple[int, int] | None = None
    objects: list[VocObject] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    is_readable: bool = True


def read_annotation(path: Path) -> Annotation:
    """Read an XML file, turning its errors into findings."""
    annotation = Annotation(path)
    try:
        root = _parse(path)
    except (OSError, ValueError) as error:
        annotation.is_readable = False
        annotation.findings.append(
            Finding("error", "unreadable-labels", str(error), escape(path), fix="restore the file")
        )
        return annotation
    annotation.filename = _text(root.find("filename"))
    annotation.size = _read_size(root)
    objects = [child for child in root if child.tag == "object"]
    for number, element in enumerate(objects, 1):
        _read_object(element, number, annotation)
    # An unread object would be learned as background.
    num_boxes = sum(len(list(element.iter("bndbox"))) for element in objects)
    num_outside = len(list(root.iter("bndbox"))) - num_boxes
    if num_outside:
        annotation.findings.append(
            Finding(
                "error",
                "bad-object",
                "expected every bndbox in an <object> of <annotation>, got "
                f"{num_outside} elsewhere",
                file=escape(path),
                fix="name and nest the elements as VOC does",
            )
        )
    return annotation


def _parse(path: Path) -> Element:
    """Return the root element, without namespaces.

    Raises:
        ValueError: The file is not an annotation in XML.
    """
    size = path.stat().st_size
    if size > _MAX_BYTES:
        raise ValueError(f"expected at most {_MAX_BYTES:,} bytes of XML, got {size:,}")
    data = path.read_bytes()
    if not data.strip():
        raise ValueError("expected XML, got an empty file")
    try:
        root = _parse_bytes(data)
    except defusedxml.DefusedXmlException as error:
        raise ValueError(
            "expected XML without entities, got a file that declares some: it could fill the "
            f"memory or read other files ({type(error).__name__})"
        ) from error
    except (ParseError, RecursionError, LookupError, UnicodeError, ValueError) as error:
        raise ValueError(f"expected complete, well-formed XML, got: {error}") from error
    for element in root.iter():
        if isinstance(element.tag, str):
            element.tag = element.tag.rpartition("}")[2]
    if root.tag != "annotation":
        raise ValueError(f"expected an <annotation>, got <{root.tag}>")
    return root


def _parse_bytes(data: bytes) -> Element:
    declaration = _DECLARATION.match(data)
    encoding = codecs.lookup(declaration[1].decode("ascii")).name if declaration else "utf-8"
    if encoding in _EXPAT_ENCODINGS:
        return ElementTree.fromstring(data, forbid_external=True)
    # Python decodes other encodings; then expat must not read the declaration.
    text = data[declaration.end() :].decode(encoding) if declaration else data.decode(encoding)
    return ElementTree.fromstring(text, forbid_external=True)


def _text(element: Element | None) -> str:
    return "" if element is None else (element.text or "").strip()


def _read_size(root: Element) -> tuple[int, int] | None:
    """Return (height, width), or None; some tools write 0 for unknown sizes."""
    try:
        height, width = (
            int(float(_text(root.find(f"size/{side}")) or 0)) for side in ("height", "width")
        )
    except (ValueError, OverflowError):
        return None
    return (height, width) if height > 0 and width > 0 else None


def _read_object(element: Element, number: int, annotation: Annotation) -> None:
    """Add an object to the annotation, or a finding if it is invalid."""
    file, row = escape(annotation.path), f"object {number}"
    try:
        children = _children(element, ("name", "bndbox"))
        sides = _children(children.get("bndbox", ()), _SIDES)
        corners = tuple(_parse_side(side, sides.get(side)) for side in _SIDES)
        name = _text(children.get("name"))
        if not name:
            raise ValueError("expected a name, got none")
    except ValueError as error:
        fix = "label the object again, or remove it"
        annotation.findings.append(
            Finding("error", "bad-object", str(error), file=file, row=row, fix=fix)
        )
        return
    difficult = _text(children.get("difficult")) or "0"
    if difficult not in ("0", "1"):
        message = f"expected difficult to be 0 or 1, got {difficult!r}, which is read as 1"
        annotation.findings.append(Finding("warning", "bad-object", message, file=file, row=row))
    annotation.objects.append(VocObject(name, corners, number, difficult != "0"))


def _children(element: Iterable[Element], unique: tuple[str, ...]) -> dict[str, Element]:
    """Return the children keyed by tag, raising ValueError for duplicates of unique tags."""
    tags = [child.tag for child in element]
    for tag in unique:
        if (count := tags.count(tag)) > 1:
            raise ValueError(f"expected one {tag}, got {count}")
    return dict(zip(tags, element, strict=True))


def _parse_side(side: str, element: Element | None) -> float:
    text = _text(element)
    if not text:
        raise ValueError(f"expected {side} to be a number, got none")
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"expected {side} to be a number, got {text[:40]!r}") from None
    return value if math.isfinite(value) else math.nan
