"""The report as one page for the browser, with nothing outside of it."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cvlib._files import write_text
from cvlib.data.check._examples import COLOURS, choose_examples, draw_example, to_jpeg
from cvlib.data.check._statistics import Histogram
from cvlib.data.findings import Finding

if TYPE_CHECKING:
    from cvlib.data.check.report import Report

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
        "name": Path(finding.picture).name,
        "row": finding.row,
        "message": finding.message,
    }
