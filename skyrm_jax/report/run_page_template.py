"""How the page of a training run looks."""

from skyrm_jax.report.page_style import PAGES

TEXT = """\
{% extends "frame.html" %}
{% from "facts.html" import facts %}
{% block header -%}
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
{% endblock %}
{% block main %}
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
{{ facts(config) }}
{%- endif %}
{%- endblock %}
"""

TEMPLATE = PAGES.from_string(TEXT)
