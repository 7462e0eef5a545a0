"""How the page of a curation looks."""

from skyrm_jax.report.page_style import PAGES

TEXT = """\
{% extends "frame.html" %}
{% from "facts.html" import facts %}

{% block style %}
.grid { align-items: start; }
.grid.wide { grid-template-columns: repeat(auto-fit, minmax(min(100%, 28rem), 1fr)); }
.grid > div > .card + .card { margin-top: 1rem; }
main > .card, main > .grid, main > details { margin-top: 1rem; }
main > .card { width: fit-content; max-width: 100%; }
tr.zero th, tr.zero td { color: var(--soft); }
.interval { display: block; color: var(--soft); font-size: 0.85rem; font-weight: normal; }
.over { text-align: center; padding-left: 0.75rem; border-bottom: 1px solid var(--grid) !important; }
.name { overflow-wrap: anywhere; min-width: 8rem; }
.others { min-width: 9rem; padding-left: 0.75rem; }
.heat td { min-width: 4rem; padding: 0.4rem 0.3rem; border-radius: 0.25rem; text-align: center;
  font-variant-numeric: tabular-nums; font-size: 0.9rem;
  background: color-mix(in srgb, var(--tone, var(--blue)) var(--heat, 0%), transparent); }
.heat small { color: inherit; white-space: nowrap; }
.against { --tone: var(--orange); }
.unsure { --tone: var(--quiet); }
code, li { overflow-wrap: anywhere; }
@media (max-width: 40rem) {
  table { font-size: 0.85rem; }
  .number { padding-left: 0.5rem; }
  .heat td { min-width: 3.4rem; }
}
{% endblock %}

{% macro n(count) -%}{{ "{:,}".format(count) }}{%- endmacro %}

{% macro usd(amount) -%}{{ ("{:,.2f}" if amount >= 1 else "{:,.4f}").format(amount) }}{%- endmacro %}

{% macro later(what, step) -%}
<p class="soft">Not there yet: {{ what }}. The step <code>skyrm curate {{ step }}</code> makes it.</p>
{%- endmacro %}

{% macro rows(lines) -%}
{%- for row in lines %}
<tr class="{{ "head" if row.head else "zero" if not row.count }}"><th scope="row">{{ row.name }}</th>
<td class="number">{{ n(row.count) }}</td><td class="number">{{ row.percent }}</td></tr>
{%- endfor %}
{%- endmacro %}

{% macro share(of, unsure=0) -%}
<td class="number">{% if of is none or not of.total + unsure %}–{% else %}{{ of.value }}
{%- if of.total %} <span class="interval">{{ of.between }}</span>{% endif %}
{#- #} <span class="interval">{{ n(of.count) }} of {{ n(of.total) }}</span>
{%- if unsure %} <span class="interval">{{ n(unsure) }} without</span>{% endif %}{% endif %}</td>
{%- endmacro %}

{% macro published(table, title, columns=2) -%}
<tbody>
<tr class="group"><th colspan="{{ columns + 1 }}">Published: arXiv 2507.01352, {{ title }}</th></tr>
{%- for name, values in table.items() %}
<tr><th scope="row">{{ name }}</th>{% for value in values %}<td class="number">{{ value }}</td>{% endfor %}
{%- if columns > 2 %}<td colspan="{{ columns - 2 }}"></td>{% endif %}</tr>
{%- endfor %}
</tbody>
{%- endmacro %}

{% block header %}
<h1>{{ title }}</h1>
<p>Curation of preference pairs{% for said in lead %} · {{ said }}{% endfor %}</p>
{%- if warnings %}
<div class="warn"><ul>
{%- for short, rest in warnings %}
<li><b>{{ short }}</b>: {{ rest }}</li>
{%- endfor %}
</ul></div>
{%- endif %}
<nav aria-label="parts of the page"><p><a href="#funnel">Funnel</a> <a href="#benchmarks">Benchmarks</a>
<a href="#stage-1">Stage 1</a> <a href="#decisions">Decisions</a> <a href="#agreement">Agreement</a>
<a href="#people">Against people</a> <a href="#calls">Calls and costs</a> <a href="#score">Score by stage</a>
<a href="#config">Configuration</a></p></nav>
{% endblock %}

{% block main %}
<h2 id="funnel">From raw to kept</h2>
{%- if groups %}
<div class="grid">
<div>
<figure class="card"><h3>Funnel</h3>
{{ funnel_plot }}
<small>A record may give several pairs. Stage 1 looks at some of the pool's pairs; stage 2 decides on all of
them.</small></figure>
{%- if preprocess and preprocess.bad %}
<section class="card"><h3>Bad records</h3>
<table><tbody>
{%- for fault, count in preprocess.bad.items() %}
<tr><th scope="row" class="name">{{ fault }}</th><td class="number">{{ n(count) }}</td></tr>
{%- endfor %}
</tbody></table></section>
{%- endif %}
</div>
<section class="card">
<table>
<thead><tr><th></th><th class="number">number</th><th class="number">%</th></tr></thead>
{%- for title, lines in groups %}
<tbody>
<tr class="group"><th colspan="3">{{ title }}</th></tr>
{{ rows(lines) }}
</tbody>
{%- endfor %}
</table>
<p class="soft">Percent of the records, of the pairs, and of the pool.</p>
</section>
</div>
{%- endif %}
{%- if not preprocess %}
{{ later("the pool, and what was left out of it", "preprocess") }}
{%- endif %}
{%- if files %}
<details><summary>{{ files | length }} sources</summary>
<div class="scroll"><table>
<thead><tr><th></th>
{%- for key, said in words.items() %}<th class="number">{{ said }}</th>{% endfor %}</tr></thead>
<tbody>
{%- for file, of in files %}
<tr><th scope="row" class="name">{{ file }}</th>
{%- for key in words %}<td class="number">{{ n(of[key]) }}</td>{% endfor %}</tr>
{%- endfor %}
</tbody></table></div>
</details>
{%- endif %}

<h2 id="benchmarks">Benchmarks and held-out files</h2>
{%- if preprocess %}
<section class="card">
<div class="scroll"><table>
<thead><tr><th></th><th class="number">prompts</th><th class="number">n-grams</th><th class="number">short prompts</th>
<th class="number">pairs that share some</th><th class="number">counted first here</th></tr></thead>
<tbody>
{%- for name, of in preprocess.contamination.items() %}
<tr{% if not of.found %} class="zero"{% endif %}><th scope="row" class="name">{{ name }}</th>
{%- if of.found %}
<td class="number">{{ n(of.prompts) }}</td><td class="number">{{ n(of.ngrams) }}</td>
<td class="number">{{ n(of.short_prompts) }}</td><td class="number">{{ n(of.pairs) }}</td>
<td class="number">{{ n(preprocess.funnel.contaminated_by.get(name, 0)) }}</td>
{%- else %}
<td class="number">not found</td><td></td><td></td><td></td><td></td>
{%- endif %}</tr>
{%- endfor %}
</tbody></table></div>
<p class="soft">A pair whose prompt shares
{%- with options = preprocess.made_of.options %}
{%- if options.overlap == 1 %} an n-gram{% else %} {{ options.overlap }} n-grams{% endif %} of {{ options.ngram }} words
{%- endwith %} with one of these is left out. It may share some with several; the funnel counts it for the first.</p>
</section>
{%- else %}
{{ later("how many prompts are those of benchmarks", "preprocess") }}
{%- endif %}

<h2 id="stage-1">Stage 1, by iteration</h2>
{%- if iterations %}
<div class="grid">
{%- for title, svg, note in stage1_plots %}
<figure class="card"><h3>{{ title }}</h3>
{{ svg }}
<small>{{ note }}</small></figure>
{%- endfor %}
</div>
<section class="card">
<div class="scroll"><table>
<thead><tr><th></th><th></th><th class="over" colspan="4">annotators say</th>
<th class="over" colspan="4">people say</th>
<th class="over" colspan="2">so far</th><th></th></tr>
<tr><th>iteration</th><th class="number">looked at</th>
{%- for said, _, _ in verdicts.values() %}<th class="number">{{ said }}</th>{% endfor %}
<th class="number">verified</th><th class="number">label is right</th><th class="number">label is wrong</th>
<th class="number">undecidable</th><th class="number">gold</th><th class="number">silver</th>
<th class="number">best checkpoint on gold, %</th></tr></thead>
<tbody>
{%- for one in iterations %}
<tr><th scope="row">{{ one.iteration }}</th><td class="number">{{ n(one.pairs) }}</td>
{%- for verdict in verdicts %}<td class="number">{{ n(one.annotators.get(verdict, 0)) }}</td>{% endfor %}
<td class="number">{{ n(one.verified) }}</td>
{%- for verdict in labels %}<td class="number">{{ n(one.people.get(verdict, 0)) }}</td>{% endfor %}
<td class="number">{{ n(one.gold_so_far) }}</td><td class="number">{{ n(one.silver_so_far) }}</td>
{{ share(one.right) }}</tr>
{%- endfor %}
</tbody></table></div>
<p class="soft">Iteration 0 draws its pairs at random and has no reward model.
{%- if not people %} People verify nothing in this curation: humans is null.{% endif %}</p>
</section>
{%- endif %}
{%- if iterations | length < iterations_planned %}
{{ later("%d of %d iterations" | format(iterations_planned - iterations | length, iterations_planned), "stage1") }}
{%- endif %}

<h2 id="decisions">Decisions of stage 2</h2>
{%- if models %}
<p>
{%- if "best" in models %}The best model was trained on {{ n(models.best.trained_on) }} silver pairs
{%- if models.best.pairs %}; its checkpoint gets {{ n(models.best.correct) }} of {{ n(models.best.pairs) }} gold pairs
right{% endif %}.
{%- endif %}
{%- if "gold" in models %} The gold model was trained on {{ n(models.gold.trained_on) }} pairs that people decided.
{%- endif %}</p>
{%- endif %}
{%- if decisions %}
<div class="grid">
<figure class="card"><h3>By who made them</h3>
{{ decisions_plot }}
<small>Who agrees with the label that was decided on; of what is left out, why no label stands.</small></figure>
<section class="card"><h3>In numbers</h3>
<table>
<thead><tr><th>by</th><th class="number">pairs</th><th class="number">%</th></tr></thead>
{%- for _, _, lines in decisions %}
<tbody>{{ rows(lines) }}</tbody>
{%- endfor %}
</table></section>
</div>
{%- else %}
{{ later("what becomes of the pairs, and why", "stage2") }}
{%- endif %}

<h2 id="agreement">Agreement</h2>
{%- if matrices %}
<section class="card"><h3>Where both prefer a response, percent of pairs on which it is the same</h3>
<div class="scroll"><table class="heat">
<thead><tr><th></th>{% for one, _ in agreements %}<th>{{ names[one] }}</th>{% endfor %}</tr></thead>
<tbody>
{%- for one, cells in agreements %}
<tr><th scope="row">{{ names[one] }}</th>
{%- for of in cells %}
{%- if of is none or not of.total %}<td class="soft">–</td>
{%- else %}<td style="--heat: {{ "%.0f" | format(0.6 * of.percent) }}%">{{ of.value }}
{#- #} <small>of {{ n(of.total) }}</small></td>
{%- endif %}{% endfor %}</tr>
{%- endfor %}
</tbody></table></div>
</section>
{%- if people %}
<p class="soft">Pairs that people have decided train the gold model and choose the best model's checkpoint, so agreement
of these with people is no test of them.</p>
{%- endif %}
<div class="grid">
{%- for of in matrices %}
<section class="card"><h3>{{ names[of.one] | capitalize }} (rows) and {{ names[of.other] }}</h3>
<div class="scroll"><table class="heat">
<thead><tr><th></th>{% for verdict in of.verdicts %}<th>{{ labels[verdict] }}</th>{% endfor %}</tr></thead>
<tbody>
{%- for verdict, cells in of.rows %}
<tr><th scope="row">{{ labels[verdict] }}</th>
{%- for count, part, kind in cells %}<td class="{{ kind }}" style="--heat: {{ "%.0f" | format(7 * part ** 0.5) }}%">
{{- n(count) }} <small>{{ "%.1f" | format(part) }} %</small></td>{% endfor %}</tr>
{%- endfor %}
</tbody></table></div>
<small>{{ n(of.pairs) }} pairs. Both prefer a response of {{ n(of.preferring) }}
{%- if of.preferring %} of them, the same one of {{ n(of.same) }}
({{ "%.1f" | format(100 * of.same / of.preferring) }} %){% endif %}.</small>
</section>
{%- endfor %}
</div>
<p class="soft">Pairs that both judged, by what each says of the label. Blue: both say the same. Orange: they contradict
each other. Grey: one has no preference, or is not sure enough.</p>
{%- elif decisions %}
<p class="soft">No two have judged the same pair.</p>
{%- else %}
{{ later("who agrees with whom", "stage2") }}
{%- endif %}

<h2 id="people">Against people</h2>
{%- if annotators or filters %}
<div class="grid wide">
{%- if annotators %}
<section class="card"><h3>Annotators who say what people say, percent</h3>
<div class="scroll"><table>
<thead><tr><th></th>{% for kind in annotators.kinds %}<th class="number">{{ kind }}</th>{% endfor %}</tr></thead>
<tbody>
{%- for name, together, cells in annotators.rows %}
<tr{% if together %} class="head"{% endif %}><th scope="row" class="name">{{ name }}</th>
{%- for of, unsure in cells %}{{ share(of, unsure) }}{% endfor %}</tr>
{%- endfor %}
</tbody>
{{ published(table_14, "table 14: agreement with verified labels", annotators.kinds | length) }}
</table></div>
<p class="soft">On verified pairs, of those on which the annotator has a preference (the others are counted as without),
with 95 % intervals. Objective or subjective by the pair's attributes.</p>
</section>
{%- endif %}
{%- if filters %}
<section class="card"><h3>People who say what a filter says, percent</h3>
<div class="scroll"><table>
<thead><tr><th></th><th class="number">label kept</th><th class="number">label turned round</th></tr></thead>
<tbody>
{%- for who, keep, flip in filters %}
<tr><th scope="row">{{ who }}</th>{{ share(keep) }}{{ share(flip) }}</tr>
{%- endfor %}
</tbody>
{{ published(table_19, "table 19: agreement of people with filters") }}
</table></div>
<p class="soft">On verified pairs, of those on which the filter has a preference, with 95 % intervals. The best model is
that of the iteration that found the pair: it was neither trained on it nor chosen by it. The gold model is trained on
all verified pairs, so it has no such figure.</p>
</section>
{%- endif %}
</div>
<p class="soft">Published figures are of other pairs, models and people. Here people verify objective, little disputed
pairs first, and of these the ones that a reward model gets wrong.</p>
{%- elif not people %}
<p class="soft">People verify nothing in this curation: humans is null in the configuration.</p>
{%- else %}
{{ later("pairs that people and models have judged", "stage1") }}
{%- endif %}

<h2 id="calls">Calls and costs</h2>
{%- if calls %}
<section class="card">
<div class="scroll"><table>
<thead><tr><th>annotator</th><th>purpose</th><th class="number">calls</th><th class="number">ok</th>
<th class="others">others</th><th class="number">retries</th><th class="number">lost in flight</th>
<th class="number">tokens in</th><th class="number">tokens out</th>
<th class="number">seconds, mean</th><th class="number">USD</th></tr></thead>
<tbody>
{%- for one in calls %}
<tr><th scope="row" class="name">{{ one.annotator }}</th><td>{{ one.purpose }}</td>
<td class="number">{{ n(one.calls) }}</td><td class="number">{{ n(one.ok) }}</td>
<td class="others">{{ one.others | join(", ") or "–" }}</td>
<td class="number">{{ n(one.retries) }}</td><td class="number">{{ n(one.lost) }}</td>
<td class="number">{{ n(one.input_tokens) }}</td><td class="number">{{ n(one.output_tokens) }}</td>
<td class="number">{{ "%.2f" | format(one.seconds) }}</td><td class="number">{{ usd(one.usd) }}</td></tr>
{%- endfor %}
<tr class="head"><th scope="row">all</th><td></td><td class="number">{{ n(calls | sum("calls")) }}</td>
<td class="number">{{ n(calls | sum("ok")) }}</td><td></td><td class="number">{{ n(calls | sum("retries")) }}</td>
<td class="number">{{ n(calls | sum("lost")) }}</td><td class="number">{{ n(calls | sum("input_tokens")) }}</td>
<td class="number">{{ n(calls | sum("output_tokens")) }}</td><td></td><td class="number">{{ usd(spent) }}</td></tr>
</tbody></table></div>
<p class="soft">{% if budget is not none %}The budget is USD {{ "{:,.2f}".format(budget) }}. {% endif -%}
{% if unsure %}Besides, USD {{ usd(unsure) }} at most may have been charged for calls without an answer. {% endif -%}
Lost in flight are calls that were
under way when a run was killed; retries are tries after the first of the same call.</p>
</section>
{%- for one in notes %}
<section class="card"><h3>{{ one.annotator }}</h3>
<ul>
{%- for line in one.notes %}
<li>{{ line }}</li>
{%- endfor %}
</ul></section>
{%- endfor %}
{%- elif not asked %}
<p class="soft">There are no annotators in the configuration.</p>
{%- else %}
{{ later("calls to annotators", "stage1") }}
{%- endif %}

<h2 id="score">Score by stage</h2>
{%- if measured %}
<p class="soft">Reward models trained on the pairs that each stage has looked at: as they came, those whose labels stand
(filtered), and these with the others turned round (corrected). Bars are 95 % intervals.</p>
<div class="grid">
{%- for name, svg in panels %}
<figure class="card"><h3>{{ name }}</h3>
{{ svg }}</figure>
{%- endfor %}
</div>
<details{% if measured.rows | length < 3 %} open{% endif %}><summary>In numbers</summary>
<div class="scroll"><table>
<thead><tr><th></th><th class="number">pairs</th>
{%- for name in measured.sets %}<th class="number">{{ name }}</th>{% endfor %}</tr></thead>
{%- for stage, arms in measured.rows.items() %}
<tbody>
<tr class="group"><th colspan="{{ measured.sets | length + 2 }}">{{ stage }}</th></tr>
{%- for arm, count, cells in arms %}
<tr><th scope="row">{{ arm }}</th><td class="number">{{ n(count) }}</td>
{%- for value, interval in cells %}<td class="number">{{ value }}
{%- if interval %} <span class="interval">{{ interval }}</span>{% endif %}</td>{% endfor %}</tr>
{%- endfor %}
</tbody>
{%- endfor %}
</table></div></details>
<section class="card"><h3>For comparison: the paper's figure 7</h3>
<div class="grid">
<figure class="card">{{ figure_7_plot }}</figure>
<div class="scroll"><table>
<thead><tr><th>stage</th>
{%- for said, _, _ in arms.values() %}<th class="number">{{ said }}</th>{% endfor %}</tr></thead>
<tbody>
{%- for stage in figure_7_stages %}{% set place = loop.index0 %}
<tr><th scope="row">{{ stage if loop.first or loop.last else "iteration " ~ stage }}</th>
{%- for arm in arms %}<td class="number">{{ figure_7[arm][place] }}</td>{% endfor %}</tr>
{%- endfor %}
</tbody></table></div>
</div>
<p class="soft">arXiv 2507.01352, first version: mean of six benchmarks, 16 million pairs, read off the drawing. Other
data, models and benchmarks than above: compare the shapes, not the heights.</p>
</section>
{%- else %}
{{ later("reward models trained on the pairs of each stage, and their figures", "measure") }}
{%- if measure is none %}
<p class="soft">It needs <code>measure.held_out</code> or <code>measure.benchmarks</code> in the configuration.</p>
{%- endif %}
{%- endif %}

<h2 id="config">Configuration</h2>
{%- if config %}
<details><summary>All options</summary>
{{ facts(config) }}
</details>
{%- else %}
<p class="soft">None was told.</p>
{%- endif %}
{%- endblock %}
"""

TEMPLATE = PAGES.from_string(TEXT)
