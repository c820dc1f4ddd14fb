"""The report as one page for the browser, with nothing outside of it."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cvlib._files import write_text
from cvlib.data.check.statistics import Histogram
from cvlib.data.labels.findings import Finding

if TYPE_CHECKING:
    from cvlib.data.check.report import Report
import io
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

from cvlib._files import write_atomically
from cvlib.data.files.images import read_image, read_image_header

# Vermilion, orange and blue of Okabe and Ito: told apart by colour-blind people.
COLOURS = {"error": "#D55E00", "warning": "#E69F00", "info": "#0072B2"}
TILE = 220
# Pixels around a tile's image, where boxes that leave it can be seen.
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
    """Those that can be seen, of different images where there are enough.

    Args:
        findings: Of one code.
        count: At most so many.
    """
    shown = [finding for finding in findings if finding.image]
    different = list({finding.image: finding for finding in reversed(shown)}.values())[::-1]
    others = [finding for finding in shown if finding not in different]
    few = (different + others)[: 2 * count]
    return sorted(few, key=lambda finding: not _can_be_seen(finding.image))[:count]


def _can_be_seen(path: str) -> bool:
    try:
        read_image_header(path)
    except (OSError, ValueError):
        return False
    return True


def draw_example(finding: Finding) -> Image.Image:
    """Draws the image of a finding with its box, ``TILE`` pixels wide and high.

    A box is drawn where the labels have it, also beyond the image; an inverted one with its
    corners exchanged. An image that cannot be read gives a grey tile that says so.
    """
    tile = Image.new("RGB", (TILE, TILE), _GREY)
    inner = TILE - 2 * _MARGIN
    image = _read(finding.image)
    if image is None:
        _write(tile, (_MARGIN, TILE // 2 - _FONT), "no image to show")
        return tile
    scale = min(inner / image.width, inner / image.height)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    left, top = (TILE - size[0]) // 2, (TILE - size[1]) // 2
    tile.paste(image.resize(size, Image.Resampling.BILINEAR), (left, top))
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


def _write(image: Image.Image, at: tuple[int, int], text: str, colour: str = "#FFFFFF") -> None:
    ImageDraw.Draw(image).text(at, text, fill=colour, font=ImageFont.load_default(size=_FONT))


def to_jpeg(image: Image.Image) -> bytes:
    """The content of a JPEG file."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
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
        name = Path(finding.image).name
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


_BAR_WIDTH, _BAR_HEIGHT = 12, 90
# Places told in words beside the examples.
_TOLD = 50
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
{% for code, severity, count in codes %}
<tr><td style="color: {{ colours[severity] }}">{{ severity }}</td>
<td><a href="#{{ code }}">{{ code }}</a></td><td class="number">{{ count }}</td></tr>
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
{% for part in parts %}
<h2 id="{{ part.code }}" style="border-color: {{ colours[part.severity] }}">{{ part.code }}
<small>{{ part.severity }}, {{ part.count }} times</small></h2>
{% if part.fix %}<p class="fix">What to do: {{ part.fix }}</p>{% endif %}
{% for example in part.examples %}
<figure><img src="data:image/jpeg;base64,{{ example.image }}" width="220" height="220"
alt="{{ example.name }}"><figcaption>{{ example.name }} {{ example.row }}<br>{{ example.message }}
</figcaption></figure>
{% endfor %}
<details{% if not part.examples %} open{% endif %}><summary>{{ part.told | length }} places
{%- if part.more %} of {{ part.told | length + part.more }}{% endif %}</summary>
<ul>{% for line in part.told %}<li>{{ line }}</li>{% endfor %}</ul></details>
{% endfor %}
</body>
</html>
"""


def save_page(report: Report, path: Path) -> Path:
    """Writes the page.

    Args:
        report: What was found.
        path: Of the page.

    Returns:
        The path.

    Raises:
        ImportError: jinja2 is not installed.
    """
    try:
        from jinja2 import Environment
    except ImportError as error:
        raise ImportError("save_html: expected jinja2; install it: pip install jinja2") from error
    # Names of files and classes come from strangers: all of them are escaped.
    template = Environment(autoescape=True).from_string(_TEMPLATE)
    counts = report.counts()
    codes = [(code, report.of_code(code)[0].severity, count) for code, count in counts.items()]
    text = template.render(
        source=report.source,
        verdict=report.verdict,
        codes=codes,
        colours=COLOURS,
        facts=_facts(report.summary),
        charts=[_chart(one) for one in report.histograms if one.counts],
        height=_BAR_HEIGHT,
        bar_width=_BAR_WIDTH,
        parts=[_part(report.of_code(code), count) for code, count in counts.items()],
    )
    # Names that are not UTF-8 hold lone surrogates, which no page can.
    write_text(path, text.encode("utf-8", "replace").decode())
    return path


def _facts(summary: dict[str, Any]) -> list[tuple[str, str]]:
    return [(name.replace("_", " "), _in_words(value)) for name, value in summary.items()]


def _in_words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_in_words(one)}" for key, one in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _chart(histogram: Histogram) -> dict[str, Any]:
    most = max(1, *histogram.counts)
    bars = []
    for index, (label, count) in enumerate(zip(histogram.labels, histogram.counts, strict=True)):
        # A single object among thousands must not vanish.
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


def _part(findings: list[Finding], count: int) -> dict[str, Any]:
    told = [str(finding) for finding in findings[:_TOLD]]
    return {
        "code": findings[0].code,
        "severity": findings[0].severity,
        "count": count,
        "fix": findings[0].fix,
        "examples": [_example(finding) for finding in choose_examples(findings)],
        "told": told,
        "more": len(findings) - len(told),
    }


def _example(finding: Finding) -> dict[str, str]:
    return {
        "image": base64.b64encode(to_jpeg(draw_example(finding))).decode("ascii"),
        "name": Path(finding.image).name,
        "row": finding.row,
        "message": finding.message,
    }
