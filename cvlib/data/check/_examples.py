"""Small pictures of the worst examples, with the boxes that are wrong."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

from cvlib._files import write_atomically
from cvlib.data._images import read_image
from cvlib.data.findings import Finding

if TYPE_CHECKING:
    from cvlib.data.check.report import Report

# Vermilion, orange and blue of Okabe and Ito: told apart by colour-blind people.
COLOURS = {"error": "#D55E00", "warning": "#E69F00", "info": "#0072B2"}
TILE = 220
# Pixels around a tile's picture, where boxes that leave it can be seen.
_MARGIN = 20
_GREY = "#404040"
_PAGE = "#202020"
_FONT = 13
_EXAMPLES = 5
_CAPTION = 34
_HEADING = 26


def choose_examples(findings: list[Finding], count: int = _EXAMPLES) -> list[Finding]:
    """The first of the largest boxes: what can be seen tells most.

    Args:
        findings: Of one code.
        count: At most so many, of different pictures where there are enough.
    """
    shown = [finding for finding in findings if finding.picture]
    different = list({finding.picture: finding for finding in reversed(shown)}.values())[::-1]
    others = [finding for finding in shown if finding not in different]
    return (different + others)[:count]


def draw_example(finding: Finding) -> Image.Image:
    """Draws the picture of a finding with its box, ``TILE`` pixels wide and high.

    A box is drawn where the labels have it, also beyond the picture; an inverted one with its
    corners exchanged. A picture that cannot be read gives a grey tile that says so.
    """
    tile = Image.new("RGB", (TILE, TILE), _GREY)
    inner = TILE - 2 * _MARGIN
    picture = _read(finding.picture)
    if picture is None:
        _write(tile, (_MARGIN, TILE // 2 - _FONT), "no picture to show")
        return tile
    scale = min(inner / picture.width, inner / picture.height)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    left, top = (TILE - size[0]) // 2, (TILE - size[1]) // 2
    tile.paste(picture.resize(size, Image.Resampling.BILINEAR), (left, top))
    if finding.box is not None:
        _draw_box(tile, finding, scale, (left, top))
    return tile


def _read(path: str) -> Image.Image | None:
    try:
        pixels = read_image(path)
    except (OSError, ValueError):
        return None
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())


def _draw_box(tile: Image.Image, finding: Finding, scale: float, at: tuple[int, int]) -> None:
    assert finding.box is not None
    if not all(abs(value) < 1e9 for value in finding.box):  # NaN, too
        _write(tile, (4, 2), "the box has no place")
        return
    corners = [value * scale + at[i % 2] for i, value in enumerate(finding.box)]
    limits = (1, TILE - 2)
    # A far box ends at the tile's edge, where one sees that it goes on.
    x1, y1, x2, y2 = (min(max(value, limits[0]), limits[1]) for value in corners)
    box = (min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))
    painter = ImageDraw.Draw(tile)
    painter.rectangle(box, outline="#000000", width=5)
    painter.rectangle(box, outline=COLOURS[finding.severity], width=3)
    if box[2] - box[0] < 8 and box[3] - box[1] < 8:  # a ring around what is too small to be seen
        x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        painter.ellipse(
            (x - 14, y - 14, x + 14, y + 14), outline=COLOURS[finding.severity], width=3
        )


def _write(picture: Image.Image, at: tuple[int, int], text: str, colour: str = "#FFFFFF") -> None:
    ImageDraw.Draw(picture).text(at, text, fill=colour, font=ImageFont.load_default(size=_FONT))


def to_jpeg(picture: Image.Image) -> bytes:
    """The content of a JPEG file."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def save_sheet(report: Report, path: Path) -> Path:
    """Draws the worst examples of each kind in rows, under their codes.

    Args:
        report: What was found.
        path: Of the PNG.

    Returns:
        The path.
    """
    rows = list(_rows(report))
    width = _EXAMPLES * TILE
    height = len(rows) * (_HEADING + TILE + _CAPTION) + _HEADING
    sheet = Image.new("RGB", (width, height), _PAGE)
    errors, warnings = (sum(f.count for f in some) for some in (report.errors, report.warnings))
    _write(sheet, (6, 5), f"{report.source}: {errors} errors, {warnings} warnings"[:150])
    y = _HEADING
    for heading, severity, examples in rows:
        _write(sheet, (6, y + 5), heading, COLOURS[severity] if severity != "info" else "#56B4E9")
        for column, finding in enumerate(examples):
            sheet.paste(draw_example(finding), (column * TILE, y + _HEADING))
            caption = f"{Path(finding.picture).name}\n{finding.row}"
            _write(sheet, (column * TILE + 6, y + _HEADING + TILE), _printable(caption), "#C0C0C0")
        y += _HEADING + TILE + _CAPTION
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    write_atomically(path, buffer.getvalue())
    return path


def _rows(report: Report) -> Iterator[tuple[str, str, list[Finding]]]:
    for code, count in report.counts().items():
        found = report.of_code(code)
        examples = choose_examples(found)
        if examples:
            yield f"{found[0].severity}: {code} ({count})", found[0].severity, examples


def _printable(text: str) -> str:
    """Names of files may hold bytes that are no text."""
    return "\n".join(line.encode("utf-8", "replace").decode()[:32] for line in text.split("\n"))
