"""How pages look and what they share: the frame, light and dark, and matplotlib's drawings in the page's colours."""

import json
import re
import tempfile
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes

from skyrm_jax.report.style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, SETTINGS, canvas

FRAME = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
:root {
  color-scheme: light dark;
  --paper: #ffffff; --card: #f6f7f8; --ink: #222222; --soft: #5c6066; --quiet: #8a8a8a; --grid: #e0e2e4;
  --blue: #0072b2; --orange: #d55e00; --green: #009e73; --purple: #b0568f; --warn: #fdecdc;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #15181b; --card: #1e2226; --ink: #e4e6e8; --soft: #a3a9b0; --quiet: #848b92; --grid: #343a40;
    --blue: #56b4e9; --orange: #f0843c; --green: #2fc79b; --purple: #dd92bd; --warn: #4a2f17;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 1.25rem clamp(0.75rem, 3vw, 2rem) 3rem; max-width: 90rem;
  background: var(--paper); color: var(--ink); font: 1rem/1.45 system-ui, sans-serif;
}
h1 { margin: 0; font-size: 1.5rem; overflow-wrap: anywhere; }
h2 { margin: 2rem 0 0.5rem; font-size: 1.15rem; }
h3 { margin: 0 0 0.25rem; font-size: 1rem; color: var(--ink); }
p { margin: 0.4rem 0; }
a { color: var(--blue); }
small, p.soft { font-size: 0.85rem; }
small, .soft { color: var(--soft); }
.warn { padding: 0.5rem 0.75rem; border-radius: 0.5rem; background: var(--warn); }
progress { width: 100%; max-width: 30rem; height: 0.6rem; accent-color: var(--blue); }
.grid { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); }
.card { margin: 0; padding: 0.75rem; border-radius: 0.5rem; background: var(--card); min-width: 0; }
svg { display: block; width: 100%; height: auto; max-width: 34rem; margin: 0 auto; }
table { width: 100%; border-collapse: collapse; font-size: 0.95rem; }
th, td { padding: 0.3rem 0; border-top: 1px solid var(--grid); text-align: left; vertical-align: top; }
thead th { border: 0; color: var(--soft); font-size: 0.85rem; font-weight: normal; vertical-align: bottom; }
tbody th { font-weight: normal; }
th small, td small { display: block; }
.number { padding-left: 0.75rem; text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
.config th { width: 1%; padding-right: 1rem; white-space: nowrap; color: var(--soft); }
.config pre { margin: 0; font-size: 0.9em; white-space: pre-wrap; word-break: break-all; }
.scroll { overflow-x: auto; }
nav a { margin-right: 0.75rem; white-space: nowrap; }
tr.head th, tr.head .number { font-weight: 600; }
tr.group th { padding-top: 0.8rem; color: var(--soft); font-size: 0.85rem; }
.heat { border-collapse: separate; border-spacing: 2px; width: auto; }
.heat th, .heat td { border: 0; }
.heat thead th { padding: 0 0.3rem; max-width: 6.5rem; text-align: center; }
.heat tbody th { padding-right: 0.6rem; vertical-align: middle; }
details { padding: 0.6rem 0.75rem; border-radius: 0.5rem; background: var(--card); }
summary { cursor: pointer; }
details .card { padding: 0.5rem 0; }
ul { margin: 0.3rem 0; padding-left: 1.25rem; }
thead .number { white-space: normal; }
{% block style %}{% endblock -%}
</style>
</head>
<body>
<header>
{% block header %}{% endblock -%}
</header>
<main>
{%- block main %}{% endblock %}
</main>
</body>
</html>
"""

FACTS = """\
{% macro facts(sections) -%}
<div class="grid config">
{%- for section, rows in sections.items() %}
<section class="card">
<h3>{{ section }}</h3>
<table><tbody>
{%- for key, value in rows %}
<tr><th scope="row">{{ key }}</th><td><pre>{{ value }}</pre></td></tr>
{%- endfor %}
</tbody></table>
</section>
{%- endfor %}
</div>
{%- endmacro %}
"""

PAGES = Environment(
    autoescape=True, undefined=StrictUndefined, loader=DictLoader({"frame.html": FRAME, "facts.html": FACTS})
)
"""What pages' templates are made by: they fill the blocks `style`, `header` and `main` of frame.html."""

COLORS = {BLUE: "blue", ORANGE: "orange", GREEN: "green", PURPLE: "purple", BLACK: "ink", GREY: "quiet"} | {
    SETTINGS["grid.color"]: "grid"
}
"""A plot's colours and the page's names of them, whose values differ in light and dark."""

INLINE: Any = {  # on top of the settings of all plots
    "svg.fonttype": "none",
    "savefig.transparent": True,
    "text.color": BLACK,
    "axes.labelcolor": BLACK,
}


def drawn(plot: Callable[[Axes], None], name: str, label: str, width: float = 4.6, height: float = 2.9) -> Markup:
    """What `plot` draws (size in inches) as an SVG element of the page, with a legend below of what has a label.

    Args:
        name: of the drawing, different from all others of the page, so that ids are, and do not change from one
            writing to the next.
        label: what the drawing is, for those who cannot see it.
    """
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "drawn.svg"
        settings = INLINE | {"svg.hashsalt": name}
        with rc_context(settings), canvas(path, panels=1, width=width, height=height) as (figure, (axes,)):
            plot(axes)
            named = axes.get_legend_handles_labels()
            if named[0]:
                figure.legend(*named, loc="outside lower center", ncols=3)
        return inline(path.read_text(encoding="utf-8"), label)


def inline(svg: str, label: str) -> Markup:
    """matplotlib's SVG file as an element of the page: its text in the page's font, its colours by name."""
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r' id="[a-zA-Z0-9.]+_[0-9]+"', "", svg)  # the same in every panel, and nothing refers to them
    svg = re.sub(r"px [^;\"]*sans-serif[^;\"]*", "px system-ui, sans-serif", svg)
    for color, name in COLORS.items():
        svg = re.sub(color, f"var(--{name})", svg, flags=re.IGNORECASE)
    return Markup(svg.replace("<svg ", Markup('<svg role="img" aria-label="{}" ').format(label), 1))


def flat(config: Mapping[str, Mapping[str, Any]]) -> dict[str, list[tuple[str, str]]]:
    """Section to its keys and their values as text, for the macro `facts`."""
    return {
        section: [(key, json.dumps(value, indent=1, ensure_ascii=False, default=str)) for key, value in part.items()]
        for section, part in config.items()
    }


def said_time(seconds: float | None) -> str:
    """A time for people, in UTC; empty for None."""
    return "" if seconds is None else f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"
