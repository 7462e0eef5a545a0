"""How the page of an evaluation looks."""

from skyrm_jax.report.page_style import PAGES

TEXT = """\
{% extends "frame.html" %}
{% from "facts.html" import facts %}

{% block style %}
section.set { padding-top: 0.5rem; border-top: 1px solid var(--grid); margin-top: 2rem; }
section.set > h2 { margin-top: 0.5rem; }
.packed { columns: 32rem 2; column-gap: 1rem; }
.packed > .card { margin: 0 0 1rem; break-inside: avoid; }
.grid.small { grid-template-columns: repeat(auto-fill, minmax(min(100%, 17rem), 1fr)); }
.grid.tight { grid-template-columns: repeat(auto-fit, minmax(min(100%, 23rem), 1fr)); align-items: start; }
main > .card, main > details, .set > .grid, .set > .packed, .set > details, .set > .warn { margin-top: 1rem; }
.packed + * { margin-top: 1rem; }
.tag { display: inline-block; padding: 0 0.4rem; border-radius: 0.6rem; background: var(--warn); color: var(--ink);
  font-size: 0.75rem; font-weight: normal; white-space: nowrap; }
.interval { color: var(--soft); font-size: 0.85rem; }
td .interval { display: block; }
.partial { font-style: italic; color: var(--soft); }
tr.head small, tr.head .soft, tr.head .interval { font-weight: normal; }
.overview th[scope=row] { min-width: 11rem; overflow-wrap: anywhere; }
.legend { display: flex; flex-wrap: wrap; gap: 0.25rem 1.25rem; }
.clear { font-weight: 600; }
.strip { width: 7rem; padding-left: 1rem; }
td.strip { padding-top: 0.6rem; }
.strip i { display: block; position: relative; height: 0.75rem; min-width: 5rem; border-radius: 0.2rem;
  background: linear-gradient(90deg, transparent calc(50% - 0.5px), var(--quiet) 0, var(--quiet) calc(50% + 0.5px),
  transparent 0) var(--grid); }
.strip i::before, .strip i::after { content: ""; position: absolute; top: 0; bottom: 0; border-radius: 0.15rem; }
.strip i::before { left: var(--from); right: calc(100% - var(--to)); min-width: 2px; background: var(--blue);
  opacity: 0.45; }
.strip i::after { left: calc(var(--at) - 1.5px); width: 3px; background: var(--blue); }
.heat td { min-width: 3.4rem; padding: 0.45rem 0.4rem; border-radius: 0.25rem; text-align: center;
  font-variant-numeric: tabular-nums; white-space: nowrap;
  background: color-mix(in srgb, var(--tone, var(--blue)) var(--heat), transparent); }
.heat td .interval { font-size: 0.75rem; color: inherit; opacity: 0.85; }
main details + details, .set > details + details { margin-top: 0.5rem; }
.missing { columns: 15rem; }
.against > .scroll { max-width: 46rem; }
code { overflow-wrap: anywhere; }
@media (max-width: 40rem) {
  .strip { display: none; }
  .overview th[scope=row] { position: sticky; left: 0; min-width: 7.5rem; max-width: 9rem; background: var(--card); }
  table { font-size: 0.85rem; }
  .counts { white-space: normal; }
  .heat tbody th { position: sticky; left: 0; background: var(--card); }
  .heat td { padding-inline: 0.15rem; }
  .number { padding-left: 0.5rem; }
}
{% endblock %}

{% macro marked(run) -%}
<span aria-hidden="true" style="color: var(--{{ run.mark.name }})">{{ run.mark.glyph }}</span> {{ run.name }}
{%- endmacro %}

{% macro strip(row) -%}
<td class="strip">{% if row.strip %}<i aria-hidden="true" style="--from: {{ row.strip[0] }}%; --at: {{ row.strip[1] }}%;
{#- #} --to: {{ row.strip[2] }}%"></i>{% endif %}</td>
{%- endmacro %}

{% macro figures(rows, partial) -%}
<div class="scroll"><table>
<thead><tr><th></th><th class="number">%</th><th class="number">95 % interval</th><th class="strip">0 to 100</th>
<th class="number">correct</th><th class="number">ties</th></tr></thead>
<tbody>
{%- for row in rows %}
<tr{% if row.headline %} class="head"{% endif %}><th scope="row">{{ row.name }}
{%- if row.headline %}<small>headline figure{{ ", of part of the data" if partial }}</small>{% endif %}</th>
<td class="number{{ " partial" if partial }}">{{ row.value }}</td><td class="number soft">{{ row.interval or "–" }}</td>
{{ strip(row) }}
<td class="number counts">{{ row.counts }}</td><td class="number">{{ row.ties }}</td></tr>
{%- endfor %}
</tbody></table></div>
{%- endmacro %}

{% macro compared(rows) -%}
<div class="scroll"><table>
<thead><tr><th></th><th class="number">points</th><th class="number">95 % interval</th><th class="strip">around 0</th>
<th class="number">this one is</th></tr></thead>
<tbody>
{%- for row in rows %}
<tr{% if row.headline %} class="head"{% endif %}><th scope="row">{{ row.name }}
{%- if row.partial %} <span class="tag">partial</span>{% endif %}</th>
<td class="number">{{ row.value }}</td><td class="number soft">{{ row.interval or "–" }}</td>
{{ strip(row) }}
<td class="number">{% if row.verdict %}<span class="clear">{{ "▲" if row.verdict == "higher" else "▼" }}
{#- #} {{ row.verdict }}</span>{% else %}<span class="soft">not clear</span>{% endif %}</td></tr>
{%- endfor %}
</tbody></table></div>
{%- endmacro %}

{% macro published(rows, blank) -%}
{%- for name, values in rows.items() %}
<tr><th scope="row">{{ name }}</th>
{%- for value in values %}<td class="number">{{ value }}</td>{% endfor %}
{%- if blank %}<td class="number"></td>{% endif %}</tr>
{%- endfor %}
{%- endmacro %}

{% macro headings() -%}
<thead><tr><th></th>
{%- for column in columns if column != "Held out" %}<th class="number">{{ column }}</th>{% endfor %}
{%- if average %}<th class="number">Average</th>{% endif %}
{%- if blank %}<th class="number">Held out</th>{% endif %}</tr></thead>
{%- endmacro %}

{% block header %}
<h1>{{ title }}</h1>
<p>Evaluation of a reward model{% if mine.created() %} · {{ mine.created() }}{% endif %} · {{ mine.scored() }}
{%- if mine.manifest.get("skyrm_jax") %} · skyrm_jax {{ mine.manifest.get("skyrm_jax") }}{% endif %}</p>
{%- if mine.command() %}
<p class="soft"><code>{{ mine.command() }}</code></p>
{%- endif %}
{%- if warnings %}
<div class="warn"><ul>
{%- for short, rest in warnings %}
<li><b>{{ short }}</b>{% if rest %}: {{ rest }}{% endif %}</li>
{%- endfor %}
</ul></div>
{%- endif %}
<nav aria-label="parts of the page"><p><a href="#overview">Overview</a>
{%- if sizes or correlations %} <a href="#between">Across models</a>{% endif %}
{%- for set in sections %} <a href="#set-{{ set.name }}">{{ set.title }}</a>{% endfor %}
{%- if differences %} <a href="#differences">Differences</a>{% endif %} <a href="#manifest">Manifest</a></p></nav>
{% endblock %}

{% block main %}
<h2 id="overview">Overview</h2>
<section class="card">
<div class="scroll"><table class="overview">
{{ headings() }}
<tbody>
{%- for run, cells in overview %}
<tr{% if loop.first %} class="head"{% endif %}><th scope="row">{{ marked(run) }}
<small>{{ "this evaluation" if loop.first else "earlier evaluation" }}{% if run.size() %}, {{ run.size() }}{% endif %}</small></th>
{%- for cell in cells %}<td class="number{{ " partial" if cell.tags }}">{{ cell.value }}
{%- if cell.interval %}<span class="interval">{{ cell.interval }}</span>{% endif %}
{%- for tag in cell.tags %} <span class="tag">{{ tag }}</span>{% endfor %}</td>{% endfor %}</tr>
{%- endfor %}
</tbody>
{%- if v2 %}
<tbody>
<tr class="group"><th colspan="{{ columns | length + 2 }}">Published: Skywork-Reward-V2, arXiv 2507.01352</th></tr>
{{ published(v2, blank) }}
</tbody>
{%- endif %}
</table></div>
<p class="soft">Headline figures in percent, below them their intervals
{%- if mine.manifest.get("intervals") %} ({{ mine.manifest.get("intervals") }}){% endif %}.
{%- if v2 %} The average is the unweighted mean of the seven, and is given only if all seven are whole.{% endif %}
{%- if "partial" in tags %} A figure marked <span class="tag">partial</span> is of part of a benchmark and compares with no
published one.{% endif %}
{%- if "other data" in tags %} One marked <span class="tag">other data</span> is of other comparisons than this
evaluation's, and does not compare with it.{% endif %}</p>
</section>
{%- if others %}
<details><summary>{{ others | length }} more models, as published in the same paper</summary>
<div class="scroll"><table class="overview">
{{ headings() }}
<tbody>{{ published(others, blank) }}</tbody>
</table></div>
</details>
{%- endif %}

{%- if correlations %}
<h2 id="between">Across models</h2>
{%- if sizes %}
<section class="card">
<h3>Accuracy against parameters</h3>
<p class="legend">
{%- for run in runs if run.billions %}<span>{{ marked(run) }}</span>{% endfor %}
{%- for _, _, glyph, what in families %}<span class="soft">{{ glyph }} {{ what }} (published)</span>{% endfor %}</p>
<div class="grid small">
{%- for name, svg in sizes %}
<figure class="card"><h3>{{ name }}</h3>
{{ svg }}</figure>
{%- endfor %}
</div>
<p class="soft">Published: Skywork-Reward-V2, nominal sizes. Bars are 95 % intervals. Drawn are figures of whole benchmarks
only, and evaluations whose model's parameters are known.</p>
</section>
{%- else %}
<p class="soft">Nothing is drawn against parameters: no evaluation here has both a whole benchmark and a known number of
parameters.</p>
{%- endif %}
<section class="card">
<h3>Correlations between benchmarks</h3>
<div class="scroll"><table class="heat">
<thead><tr><th></th>{% for name, _ in correlations.rows %}<th>{{ name }}</th>{% endfor %}</tr></thead>
<tbody>
{%- for name, row in correlations.rows %}
<tr><th scope="row">{{ name }}</th>
{%- for r in row %}<td style="--heat: {{ "%.0f" | format(60 * (r | abs)) }}%
{%- if r < 0 %}; --tone: var(--orange){% endif %}">{{ "%.2f" | format(r) }}</td>{% endfor %}</tr>
{%- endfor %}
</tbody></table></div>
<p class="soft">Pearson's, over the {{ correlations.published }} published models that have all seven figures
{%- if correlations.runs %} and {{ correlations.runs }} evaluation{{ "" if correlations.runs == 1 else "s" }} of this
page{% endif %}: how well a model's figure on one benchmark tells that on another. Trivial rules are left out.</p>
</section>
{%- endif %}

{%- for set in sections %}
<section class="set" id="set-{{ set.name }}">
<h2>{{ set.title }}{% if set.partial %} <span class="tag">partial</span>{% endif %}</h2>
{%- if set.lead %}
<p><b{% if set.partial %} class="partial"{% endif %}>{{ set.lead.value }} %</b> {{ set.lead.name }}
{%- if set.lead.interval %}, 95 % interval {{ set.lead.interval }}{% endif %}
{%- if set.sized %} · {{ set.sized }}{% endif %}</p>
{%- elif set.sized %}
<p>{{ set.sized }}</p>
{%- endif %}
{%- if set.partial %}
<div class="warn"><b>Partial: not comparable with published figures.</b> The parts that are not whole:
<ul class="missing">
{%- for line in set.partial %}
<li>{{ line }}</li>
{%- endfor %}
</ul></div>
{%- endif %}
{%- for note in set.notes %}
<p class="soft">{{ note }}</p>
{%- endfor %}
<div class="packed">
{%- for block in set.blocks if not block.folded %}
<section class="card"><h3>{{ block.title }}</h3>
{{ figures(block.rows, set.partial) }}
</section>
{%- endfor %}
{%- if set.breakdown and set.breakdown.runs %}
<section class="card"><h3>Beside the published parts</h3>
<div class="scroll"><table class="overview">
<thead><tr><th></th>{% for name in set.breakdown.figures %}<th class="number">{{ name }}</th>{% endfor %}</tr></thead>
<tbody>
{%- for run, values in set.breakdown.runs %}
<tr{% if run is sameas mine %} class="head"{% endif %}><th scope="row">{{ marked(run) }}</th>
{%- for value in values %}<td class="number">{{ value }}</td>{% endfor %}</tr>
{%- endfor %}
</tbody>
<tbody>
<tr class="group"><th colspan="{{ set.breakdown.figures | length + 1 }}">Published: Skywork-Reward-V2, arXiv 2507.01352</th></tr>
{{ published(set.breakdown.published, false) }}
</tbody>
</table></div></section>
{%- endif %}
</div>
{%- if set.breakdown and not set.breakdown.runs %}
<p class="soft">Published parts of the figure are not shown beside these: they are of the whole benchmark.</p>
{%- endif %}
{%- for block in set.blocks if block.folded %}
<details><summary>{{ block.title }}: {{ block.rows | length }} figures</summary>
{{ figures(block.rows, set.partial) }}
</details>
{%- endfor %}
{%- if set.matrices %}
<div class="grid tight">
{%- for name, rows in set.matrices.items() %}
<section class="card"><h3>{{ name }}</h3>
<div class="scroll"><table class="heat">
<thead><tr><th></th>{% for style in styles %}<th>{{ style }}</th>{% endfor %}</tr></thead>
<tbody>
{%- for style, row in rows %}
<tr><th scope="row">{{ style }}</th>
{%- for value, interval in row %}<td style="--heat: {{ "%.0f" | format(0.6 * value) }}%">{{ "%.1f" | format(value) }}
{%- if interval %}<span class="interval">{{ interval }}</span>{% endif %}</td>{% endfor %}</tr>
{%- endfor %}
</tbody></table></div></section>
{%- endfor %}
</div>
<p class="soft">Percent of records where the right response in the style of the row has a higher reward than the wrong one in
the style of the column. Above the diagonal the wrong one is the more elaborate (hard), below it the right one (easy).
{%- if set.partial %} Of part of the benchmark.{% endif %}</p>
{%- endif %}
{%- if set.curves %}
{%- if set.others %}
<p class="legend"><span>{{ marked(mine) }}</span>{% for run in set.others %}<span>{{ marked(run) }}</span>{% endfor %}</p>
{%- endif %}
<div class="grid tight">
{%- for name, svg, caption in set.curves %}
<figure class="card"><h3>{{ name }}{% if set.partial %} <span class="tag">partial</span>{% endif %}</h3>
{{ svg }}
<small>{{ caption }}</small></figure>
{%- endfor %}
</div>
{%- endif %}
{%- if set.pairs %}
<div class="grid tight">
{%- if set.pairs.plot %}
<figure class="card"><h3>Reliability</h3>
{{ set.pairs.plot }}
<small>The upright lines are the 95 % intervals of the points.</small></figure>
{%- endif %}
<section class="card"><h3>Over {{ "{:,}".format(set.pairs.pairs) }} pairs
{%- if set.pairs.ties %}, {{ "{:,}".format(set.pairs.ties) }} of them exactly tied{% endif %}
{%- if set.partial %} <span class="tag">partial</span>{% endif %}</h3>
{%- if set.pairs.calibration %}
<p><b>Calibration.</b> {{ set.pairs.calibration | join(" ") }}</p>
{%- endif %}
{%- for what, said in set.pairs.biases %}
<p><b>{{ what }}.</b> {{ said | join(" ") }}</p>
{%- endfor %}
</section>
</div>
{%- endif %}
</section>
{%- endfor %}

{%- if differences %}
<h2 id="differences">Differences from other evaluations</h2>
<p class="soft">This evaluation less the other one, in points, over the comparisons that both could score. Both are drawn
together (paired), which the intervals of the two figures by themselves cannot tell. <span class="clear">▲ higher</span> and
<span class="clear">▼ lower</span> mark intervals that exclude 0.</p>
{%- for one in differences %}
<section class="card against"><h3>{{ title }} less {{ one.other }}</h3>
{%- if one.headlines %}
{{ compared(one.headlines) }}
{%- endif %}
{%- for line in one.parts %}
<p class="soft">{{ line }}.</p>
{%- endfor %}
<p class="soft">{{ one.clear }} of all {{ one.total }} intervals exclude 0; if nothing differed, about
{{ "%.0f" | format(0.05 * one.total) }} would by chance.</p>
{%- for name, tables in one.sets.items() %}
<details><summary>{{ name }}: all figures</summary>
<div class="packed">
{%- for part, rows in tables.items() %}
<section class="card"><h3>{{ part }}</h3>
{{ compared(rows) }}
</section>
{%- endfor %}
</div>
</details>
{%- endfor %}
</section>
{%- endfor %}
{%- endif %}

<h2 id="manifest">Manifest</h2>
<p class="soft">All that could change a number.
{%- if mine.manifest.get("ties") %} Ties: {{ mine.manifest.get("ties") }}.{% endif %}</p>
{%- for run, sections in manifests %}
<details><summary>{{ marked(run) }}</summary>
{%- if sections %}
{{ facts(sections) }}
{%- else %}
<p>None was written.</p>
{%- endif %}
</details>
{%- endfor %}
{%- endblock %}
"""

TEMPLATE = PAGES.from_string(TEXT)
