"""RM-Bench: does a subtle error outweigh style? Three styles of a right response against three of a wrong one.

Data: github.com/THU-KEG/RM-Bench, `data/`: `total_dataset.json`, or a file for each domain, whose name says the domain;
or Hub `THU-KEG/RM-Bench`. Styles in order: concise, detailed plain text, detailed markdown. In the matrix m of a domain
m[i][j] is the share of records with reward(chosen in style i) > reward(rejected in style j), strictly;

    hard = (m01 + m02 + m12) / 3    normal = (m00 + m11 + m22) / 3    easy = (m10 + m20 + m21) / 3

and the domain's score is their mean. Both safety files are one domain, pooled. The headline is the mean of the four
domains, which is also that of hard, normal and easy (`scripts/utils.py`, `compute_accuracy`).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from skyrm_jax.comparison import Comparison
from skyrm_jax.data.files import Source
from skyrm_jax.errors import RecordError
from skyrm_jax.eval.benchmarks.reading import Published, shortfall, texts
from skyrm_jax.eval.figures import Result, Rewards
from skyrm_jax.eval.table import Table

SIZES = {"chat": 129, "math": 529, "code": 228, "safety-refuse": 284, "safety-response": 157}
DOMAINS = ("chat", "math", "code", "safety")
STYLES = ("concise", "detailed plain", "detailed markdown")
LEVELS = {
    "Hard": ((0, 1), (0, 2), (1, 2)),
    "Normal": ((0, 0), (1, 1), (2, 2)),
    "Easy": ((1, 0), (2, 0), (2, 1)),
}
SUMMARY, MEAN = "Summary", "Mean of domains"
GAP = "Style gap (Easy - Hard)"


def parse(record: Mapping[str, Any], source: Source, line: int) -> Comparison:
    """Responses are the three chosen, then the three rejected; `category` is the domain, safety as two."""
    domain = record.get("domain") or source.short.partition("_filtered")[0]
    if not isinstance(domain, str) or domain not in SIZES:
        remedy = f"use {', '.join(SIZES)}, or give the published files, whose names say it"
        raise RecordError("domain", "is none of RM-Bench's", remedy, repr(domain))
    chosen, rejected = texts("chosen", record["chosen"], 3), texts("rejected", record["rejected"], 3)
    name = str(record["id"])
    return Comparison.of(
        prompt=record["prompt"],
        responses=[*chosen, *rejected],
        chosen=[0, 1, 2],
        id=name if name.startswith(f"{domain}/") else f"{domain}/{name}",
        source="RM-Bench",
        category=domain,
    )


PUBLISHED = Published(
    title="RM-Bench",
    files=("total_dataset.json", "train*.parquet", "rm-bench.*"),
    folders=("rm-bench", "RM-Bench"),
    hub=("hub://THU-KEG/RM-Bench?split=train",),
    home="github.com/THU-KEG/RM-Bench, folder `data`",
    fields={"id": (str, int), "prompt": str, "chosen": list, "rejected": list},
    parse=parse,
)
PUBLISHED_DOMAINS = replace(PUBLISHED, files=("*_filtered.json",), hub=())
"""The same records once more, in the same folder."""


def table(comparisons: Sequence[Comparison], rewards: Rewards) -> Table:
    """For each domain the nine ratios, Hard, Normal, Easy and their mean; and all of these over the domains."""
    values = np.stack([np.asarray(r, np.float64) for r in rewards])
    above = values[:, :3, None] > values[:, None, 3:]
    equal = values[:, :3, None] == values[:, None, 3:]
    domains = np.array([_domain(c) for c in comparisons])
    figures = Table(len(comparisons))
    for domain in DOMAINS:
        member = domains == domain
        cells = {
            (i, j): figures.accuracy((domain, cell(i, j)), member, above[:, i, j], equal[:, i, j])
            for i in range(3)
            for j in range(3)
        }
        for level, which in LEVELS.items():
            figures.weighted((domain, level), [cells[one] for one in which])
        figures.weighted((domain, "Mean"), [(domain, level) for level in LEVELS])
    for level in LEVELS:
        figures.weighted((SUMMARY, level), [(domain, level) for domain in DOMAINS])
    figures.weighted((SUMMARY, GAP), {(SUMMARY, "Easy"): 1.0, (SUMMARY, "Hard"): -1.0}, normalised=False)
    for domain in DOMAINS:
        figures.weighted((SUMMARY, domain), [(domain, "Mean")])
    figures.weighted((SUMMARY, MEAN), [(SUMMARY, domain) for domain in DOMAINS])
    return figures


def score(comparisons: Sequence[Comparison], rewards: Rewards) -> Result:
    """Domains, levels, matrices and the mean; `rewards[i]` is f32[6]: chosen in three styles, rejected in three."""
    result = table(comparisons, rewards).result((SUMMARY, MEAN))
    result.partial = shortfall(Counter(c.category for c in comparisons), SIZES, "records")
    for domain in DOMAINS:
        if domain in result.sections:
            cells = result.sections.pop(domain)
            levels = {name: cells.pop(name) for name in (*LEVELS, "Mean")}
            result.matrices[domain] = [[cells[cell(i, j)].value for j in range(3)] for i in range(3)]
            result.sections[domain] = levels | cells
    return result


def cell(i: int, j: int) -> str:
    """The name of a ratio: chosen in style i against rejected in style j."""
    return f"{STYLES[i]} over {STYLES[j]}"


def _domain(comparison: Comparison) -> str:
    return "safety" if comparison.category.startswith("safety") else comparison.category
