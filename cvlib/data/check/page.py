"""Findings shown with their images: a self-contained HTML page, and a sheet as one image."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from cvlib._files import write_atomically, write_text
from cvlib.data.check.statistics import Histogram
from cvlib.data.files.images import read_image, read_image_header
from cvlib.data.labels.findings import Finding

# Vermilion, orange and blue of Okabe and Ito, which colour-blind people can distinguish.
_COLOURS = {"error": "#D55E00", "warning": "#E69F00", "info": "#0072B2"}
_COLOURS_ON_DARK = {**_COLOURS, "info": "#56B4E9"}
_GREY = "#404040"
_BACKGROUND = "#202020"
_FONT = 13
_EXAMPLES = 5
_TILE = 220
# Around the image of a tile, to show boxes that leave it.
_MARGIN = 20
# Layout of the sheet, in tiles and pixels.
_COLUMNS = 5
_GAP = 8
_CAPTION = 38
_HEADING = 26
# Bars of the histograms of the page.
_BAR_WIDTH, _BAR_HEIGHT = 12, 90
# Findings of a code that the page lists as text.
_MOST_LINES = 50
_TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
      content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>Check of {{ source }}</title>
<style>
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem;
       padding: 0 1rem; color: #1a1a1a; background: #fff; overflow-wrap: anywhere; }
h2 { border-left: .5rem solid; padding-left: .6rem; margin: 2.2rem 0 .4rem; }
h2 small { font-weight: normal; color: #666; }
table { border-collapse: collapse; }
td, th { text-align: left; padding: .15rem .9rem .15rem 0; vertical-align: top; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
figure { display: inline-block; width: 220px; margin: .4rem .6rem .4rem 0; vertical-align: top; }
figcaption { font-size: 12px; color: #444; }
img { display: block; border-radius: 4px; }
.chart { display: inline-block; margin: .4rem 1.6rem .8rem 0; font-size: 12px; color: #444; }
.fix { background: #f2f2f2; padding: .3rem .6rem; border-radius: 4px; }
rect { fill: #0072B2; }
</style>
</head>
<body>
<h1>Check of {{ source }}</h1>
<p><strong>{{ verdict }}.</strong></p>
<table>
{% for group in groups %}
<tr><td style="color: {{ colours[group.severity] }}">{{ group.severity }}</td>
<td><a href="#{{ group.code }}">{{ group.code }}</a></td>
<td class="number">{{ group.count }}</td></tr>
{% endfor %}
</table>
<h2 style="border-color: #999">Numbers</h2>
<table>
{% for name, value in facts %}
<tr><th>{{ name }}</th><td>{{ value }}</td></tr>
{% endfor %}
</table>
{% for chart in charts %}
<div class="chart">{{ chart.title }}<br>
<svg width="{{ chart.width }}" height="{{ height }}" role="img">
{% for bar in chart.bars %}
<rect x="{{ bar.x }}" y="{{ bar.y }}" width="{{ bar_width - 2 }}" height="{{ bar.height }}">
<title>{{ bar.label }}: {{ bar.count }}</title></rect>
{% endfor %}
</svg><br>{{ chart.first }}{% if chart.last != chart.first %} &hellip; {{ chart.last }}{% endif %}
</div>
{% endfor %}
{% for group in groups %}
<h2 id="{{ group.code }}" style="border-color: {{ colours[group.severity] }}">{{ group.code }}
<small>{{ group.severity }}, {{ group.count }} times</small></h2>
{% if group.fix %}<p class="fix">What to do: {{ group.fix }}</p>{% endif %}
{% for example in group.examples %}
<figure><img src="data:image/jpeg;base64,{{ example.image }}" width="220" height="220"
alt="{{ example.name }}"><figcaption>{{ example.name }} {{ example.row }}<br>{{ example.message }}
</figcaption></figure>
{% endfor %}
<details{% if not group.examples %} open{% endif %}><summary>{{ group.lines | length }} places
{%- if group.total > group.lines | length %} of {{ group.total }}{% endif %}</summary>
<ul>{% for line in group.lines %}<li>{{ line }}</li>{% endfor %}</ul></details>
{% endfor %}
</body>
</html>
"""


def save_page(
    path: Path,
    source: str,
    verdict: str,
    findings: Sequence[Finding],
    summary: Mapping[str, Any],
    histograms: Sequence[Histogram],
) -> Path:
    """Write the page of a report.

    Args:
        path: File to write.
        source: Layout and path of the dataset.
        verdict: Number of errors and warnings as text.
        findings: Findings, sorted by severity and code.
        summary: Numbers shown as a table.
        histograms: Distributions shown as bars.

    Returns:
        The path.

    Raises:
        ImportError: jinja2 is not installed.
    """
    try:
        from jinja2 import Environment
    except ImportError as error:
        raise ImportError("save_html: expected jinja2; install it: pip install jinja2") from error
    # File and class names are untrusted, so everything is escaped.
    template = Environment(autoescape=True).from_string(_TEMPLATE)
    text = template.render(
        source=source,
        verdict=verdict,
        colours=_COLOURS,
        facts=[(name.replace("_", " "), _to_text(value)) for name, value in summary.items()],
        charts=[_draw_chart(histogram) for histogram in histograms if histogram.counts],
        height=_BAR_HEIGHT,
        bar_width=_BAR_WIDTH,
        groups=[_describe_group(group) for group in _group_by_code(findings)],
    )
    # File names that are not UTF-8 hold lone surrogates, which cannot be written.
    write_text(path, text.encode("utf-8", "replace").decode())
    return path


def _group_by_code(findings: Sequence[Finding]) -> list[list[Finding]]:
    groups: dict[str, list[Finding]] = {}
    for finding in findings:
        groups.setdefault(finding.code, []).append(finding)
    return list(groups.values())


def _to_text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_to_text(entry)}" for key, entry in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _draw_chart(histogram: Histogram) -> dict[str, Any]:
    most = max(1, *histogram.counts)
    bars = []
    for index, (label, count) in enumerate(zip(histogram.labels, histogram.counts, strict=True)):
        # A single object among thousands must stay visible.
        height = max(round(count / most * _BAR_HEIGHT, 1), 1.0 if count else 0.0)
        bars.append(
            {
                "x": index * _BAR_WIDTH,
                "y": _BAR_HEIGHT - height,
                "height": height,
                "label": label,
                "count": count,
            }
        )
    return {
        "title": histogram.title,
        "bars": bars,
        "width": len(bars) * _BAR_WIDTH,
        "first": histogram.labels[0],
        "last": histogram.labels[-1],
    }


def _describe_group(group: list[Finding]) -> dict[str, Any]:
    return {
        "code": group[0].code,
        "severity": group[0].severity,
        "count": sum(finding.count for finding in group),
        "fix": group[0].fix,
        "examples": [_describe_example(finding) for finding in _choose_examples(group)],
        "lines": [str(finding) for finding in group[:_MOST_LINES]],
        "total": len(group),
    }


def _describe_example(finding: Finding) -> dict[str, str]:
    buffer = io.BytesIO()
    _draw_example(finding).save(buffer, "JPEG", quality=85)
    return {
        "image": base64.b64encode(buffer.getvalue()).decode("ascii"),
        "name": Path(finding.image).name,
        "row": finding.row,
        "message": finding.message,
    }


def save_sheet(path: Path, title: str, findings: Sequence[Finding]) -> Path:
    """Draw the worst examples of each code as one image.

    Args:
        path: PNG file to write.
        title: First line of the image.
        findings: Findings, sorted by severity and code.

    Returns:
        The path.
    """
    tiles = []
    for group in _group_by_code(findings):
        heading = f"{group[0].code} ({sum(finding.count for finding in group)})"
        tiles += [(heading, finding) for finding in _choose_examples(group)]
    lines = -(-len(tiles) // _COLUMNS)
    height = _HEADING + _TILE + _CAPTION
    size = (_COLUMNS * (_TILE + _GAP) + _GAP, lines * height + _HEADING)
    sheet = Image.new("RGB", size, _BACKGROUND)
    _write(sheet, (_GAP, 5), _printable(title))
    for place, (heading, finding) in enumerate(tiles):
        x, y = _GAP + place % _COLUMNS * (_TILE + _GAP), _HEADING + place // _COLUMNS * height
        _write(sheet, (x, y + 6), heading, _COLOURS_ON_DARK[finding.severity])
        sheet.paste(_draw_example(finding), (x, y + _HEADING))
        name = Path(finding.image).name
        row = finding.row if finding.row != name else ""
        _write(sheet, (x, y + _HEADING + _TILE), _printable(name, 30), "#C0C0C0")
        _write(sheet, (x, y + _HEADING + _TILE + 15), _printable(row, 30), "#C0C0C0")
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    write_atomically(path, buffer.getvalue())
    return path


def _printable(text: str, most: int = 150) -> str:
    """Shorten to one line; file names may hold bytes that are not text."""
    return " ".join(text.encode("utf-8", "replace").decode()[:most].split())


def _choose_examples(group: Sequence[Finding]) -> list[Finding]:
    """Choose findings to draw: readable images first, and different ones if possible."""
    with_image = [finding for finding in group if finding.image]
    different: dict[str, Finding] = {}
    repeated = []
    for finding in with_image:
        if different.setdefault(finding.image, finding) is not finding:
            repeated.append(finding)
    candidates = [*different.values(), *repeated][: 2 * _EXAMPLES]
    return sorted(candidates, key=lambda finding: not _is_readable(finding.image))[:_EXAMPLES]


def _is_readable(path: str) -> bool:
    try:
        read_image_header(path)
    except (OSError, ValueError):
        return False
    return True


def _draw_example(finding: Finding) -> Image.Image:
    """Draw the image of a finding with its box, as a square tile.

    The box is drawn as labelled, also beyond the image; corners of an inverted box are exchanged.
    An unreadable image becomes a grey tile with a note.
    """
    tile = Image.new("RGB", (_TILE, _TILE), _GREY)
    inner = _TILE - 2 * _MARGIN
    try:
        pixels = read_image(finding.image)
    except (OSError, ValueError):
        _write(tile, (_MARGIN, _TILE // 2 - _FONT), "no image to show")
        return tile
    image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    scale = min(inner / image.width, inner / image.height)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    left, top = (_TILE - size[0]) // 2, (_TILE - size[1]) // 2
    tile.paste(image.resize(size, Image.Resampling.BILINEAR), (left, top))
    if finding.box is not None:
        _draw_box(tile, finding.box, _COLOURS[finding.severity], scale, (left, top))
    return tile


def _draw_box(
    tile: Image.Image,
    box: tuple[float, float, float, float],
    colour: str,
    scale: float,
    offset: tuple[int, int],
) -> None:
    if not all(abs(value) < 1e9 for value in box):  # also false for NaN
        _write(tile, (4, 2), "the box cannot be drawn")
        return
    corners = [value * scale + offset[i % 2] for i, value in enumerate(box)]
    # A box far outside ends at the border of the tile.
    x1, y1, x2, y2 = (min(max(value, 1), _TILE - 2) for value in corners)
    drawn = (min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))
    painter = ImageDraw.Draw(tile)
    painter.rectangle(drawn, outline="#000000", width=5)
    painter.rectangle(drawn, outline=colour, width=3)
    if drawn[2] - drawn[0] < 8 and drawn[3] - drawn[1] < 8:  # a ring marks a tiny box
        x, y = (drawn[0] + drawn[2]) / 2, (drawn[1] + drawn[3]) / 2
        painter.ellipse((x - 14, y - 14, x + 14, y + 14), outline=colour, width=3)


def _write(image: Image.Image, at: tuple[int, int], text: str, colour: str = "#FFFFFF") -> None:
    ImageDraw.Draw(image).text(at, text, fill=colour, font=ImageFont.load_default(size=_FONT))
