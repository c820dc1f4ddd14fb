"""Small pictures of the worst examples, with the boxes that are wrong."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

from cvlib._files import write_atomically
from cvlib.data._images import read_image, read_image_header
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
# The sheet.
_COLUMNS = 5
_GAP = 8
_CAPTION = 38
_HEADING = 26
_ON_DARK = {**COLOURS, "info": "#56B4E9"}


def choose_examples(findings: list[Finding], count: int = _EXAMPLES) -> list[Finding]:
    """Those that can be seen, of different pictures where there are enough.

    Args:
        findings: Of one code.
        count: At most so many.
    """
    shown = [finding for finding in findings if finding.picture]
    different = list({finding.picture: finding for finding in reversed(shown)}.values())[::-1]
    others = [finding for finding in shown if finding not in different]
    few = (different + others)[: 2 * count]
    return sorted(few, key=lambda finding: not _can_be_seen(finding.picture))[:count]


def _can_be_seen(path: str) -> bool:
    try:
        read_image_header(path)
    except (OSError, ValueError):
        return False
    return True


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
    """Draws the worst examples of each kind, one after the other in lines of five.

    Args:
        report: What was found.
        path: Of the PNG.

    Returns:
        The path.
    """
    tiles = [
        (f"{code} ({count})", finding)
        for code, count in report.counts().items()
        for finding in choose_examples(report.of_code(code))
    ]
    lines = -(-len(tiles) // _COLUMNS)
    height = _HEADING + TILE + _CAPTION
    sheet = Image.new("RGB", (_COLUMNS * (TILE + _GAP) + _GAP, lines * height + _HEADING), _PAGE)
    _write(sheet, (_GAP, 5), _printable(f"{report.verdict}: {report.source}"))
    for place, (heading, finding) in enumerate(tiles):
        x, y = _GAP + place % _COLUMNS * (TILE + _GAP), _HEADING + place // _COLUMNS * height
        _write(sheet, (x, y + 6), heading, _ON_DARK[finding.severity])
        sheet.paste(draw_example(finding), (x, y + _HEADING))
        name = Path(finding.picture).name
        where = finding.row if finding.row != name else ""
        _write(sheet, (x, y + _HEADING + TILE), _printable(name, 30), "#C0C0C0")
        _write(sheet, (x, y + _HEADING + TILE + 15), _printable(where, 30), "#C0C0C0")
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    write_atomically(path, buffer.getvalue())
    return path


def _printable(text: str, most: int = 150) -> str:
    """One line, shortened; names of files may hold bytes that are no text."""
    return " ".join(text.encode("utf-8", "replace").decode()[:most].split())
