"""How the page of a training run looks."""

from jinja2 import Environment, StrictUndefined

TEXT = """\
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
</style>
</head>
<body>
<header>
<h1>{{ title }}</h1>
<p>
{%- if step is none %}No step is recorded yet
{%- else %}Step <b>{{ "{:,}".format(step) }}</b>
{%- if most and step >= most %} of {{ "{:,}".format(most) }}: finished
{%- elif most %} of {{ "{:,}".format(most) }}{{ "" if known else " at most" }}
{%- elif epochs %}; the run is for {{ epochs }} epoch{{ "" if epochs == 1 else "s" }}
{%- endif %}
{%- endif %}
{%- if began %} · begun {{ began }}{% endif %} · updated {{ updated }}</p>
{%- if most and step is not none %}
<p><progress max="{{ most }}" value="{{ step }}" aria-label="steps done"></progress></p>
{%- endif %}
{%- if skipped %}
<p class="warn"><b>{{ "{:,}".format(skipped) }} batch{{ "" if skipped == 1 else "es" }} skipped</b>: the loss or the
gradient was not finite; <code>non_finite</code> in the run's folder says which comparisons they hold.</p>
{%- endif %}
<p class="soft">{% for link in links %}<a href="{{ link }}">{{ link }}</a> · {% endfor -%}
written anew at checkpoints, once a minute at most, and at the end; reload to see.</p>
</header>
<main>
{%- if step is none %}
<p>Figures and plots appear here with the first record; <code>run.log_every</code> says how often there is one.</p>
{%- endif %}
{%- if tables %}
<h2>Newest figures</h2>
<div class="grid">
{%- for name, rows in tables.items() %}
<section class="card">
<table>
<thead><tr><th><h3>{{ name }}</h3></th><th class="number">newest</th>
{%- if recent > 1 %}<th class="number">mean of {{ recent }}</th>{% endif %}</tr></thead>
<tbody>
{%- for row in rows %}
<tr><th scope="row">{{ row.name }}{% if row.note %}<small>{{ row.note }}</small>{% endif %}</th>
<td class="number">{{ row.newest }}{% if row.older %}<small>{{ row.older }}</small>{% endif %}</td>
{%- if recent > 1 %}<td class="number soft">{{ row.mean }}</td>{% endif %}</tr>
{%- endfor %}
</tbody>
</table>
</section>
{%- endfor %}
</div>
{%- endif %}
{%- if panels %}
<h2>Over the steps</h2>
{%- if over > 1 %}
<p class="soft">Of {{ "{:,}".format(count) }} records; bold lines are means of {{ "{:,}".format(over) }} of them.
{%- if thinned %} Lines are thinned: of every stretch its least and its greatest value are drawn.{% endif %}</p>
{%- endif %}
<div class="grid">
{%- for title, note, svg in panels %}
<figure class="card"><h3>{{ title }}</h3>
{{ svg }}
{%- if note %}<small>{{ note }}</small>{% endif %}</figure>
{%- endfor %}
</div>
{%- endif %}
{%- if config %}
<h2>Config</h2>
<div class="grid config">
{%- for section, rows in config.items() %}
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
{%- endif %}
</main>
</body>
</html>
"""

TEMPLATE = Environment(autoescape=True, undefined=StrictUndefined).from_string(TEXT)
