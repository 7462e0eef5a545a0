"""The page of an evaluation: one HTML file with its figures beside published ones and those of earlier evaluations."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from skyrm_jax.eval.benchmarks import BENCHMARKS
from skyrm_jax.eval.benchmarks.rm_bench import STYLES
from skyrm_jax.eval.paper_tables import AVERAGE, COLUMNS, OTHERS, V2, complete
from skyrm_jax.eval.rewards import HELD_OUT
from skyrm_jax.report.eval_differences import differences
from skyrm_jax.report.eval_page_template import TEMPLATE
from skyrm_jax.report.eval_plots import FAMILIES, size_plot
from skyrm_jax.report.eval_runs import Run, between, number, runs_of, sets_of, short, spanning, title_of
from skyrm_jax.report.eval_section import section
from skyrm_jax.report.files import whole
from skyrm_jax.report.page_style import flat

OF_COLUMN = {benchmark.column: name for name, benchmark in BENCHMARKS.items()}


@dataclass(frozen=True)
class Cell:
    """A figure in the overview.

    Attributes:
        tags: what forbids comparing it, such as "partial".
    """

    value: str
    interval: str = ""
    tags: tuple[str, ...] = ()


def eval_page(path: Path, runs: Sequence[Mapping[str, Any]]) -> None:
    """Writes the page of `runs[0]`, an evaluation as in its results.json; further ones are compared with it.

    Raises ValueError if there is no run.
    """
    if not runs:
        raise ValueError("no evaluation to make a page of")
    known = runs_of(runs)
    mine = known[0]
    sets = sets_of(known)
    benchmarks = any(name in BENCHMARKS for name in sets)
    overview = [(run, cells(run, known, sets)) for run in known]
    text = TEMPLATE.render(
        title=mine.name,
        mine=mine,
        runs=known,
        warnings=warnings(mine),
        columns=[*(COLUMNS if benchmarks else ()), *(["Held out"] if HELD_OUT in sets else [])],
        average=AVERAGE if benchmarks else None,
        overview=overview,
        tags={tag for _, row in overview for cell in row for tag in cell.tags},
        v2={short(name): [number(v) for v in row] for name, row in V2.items()} if benchmarks else {},
        others={name: [number(v) for v in row] for name, row in OTHERS.items()} if benchmarks else {},
        blank=HELD_OUT in sets,
        sizes=sizes(known) if benchmarks else [],
        families=FAMILIES,
        styles=STYLES,
        correlations=correlations(known) if benchmarks else None,
        sections=[section(name, known) for name in sets if name in mine.results],
        differences=differences(mine),
        manifests=[(run, facts(run)) for run in known],
    )
    with whole(path) as temporary:
        # A path in the command need not be UTF-8.
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def warnings(run: Run) -> list[tuple[str, str]]:
    """What a reader must know before any figure: (in short, the rest)."""
    found = []
    names = [(name, title_of(name, [run])) for name in sets_of([run])]
    partial = [title for name, title in names if run.partial(name)]
    if partial:
        rest = (
            "part of the data is missing, so these figures do not compare with published ones; each section says what"
        )
        found.append((f"Partial: {', '.join(partial)}", rest))
    absent = [title_of(name) for name in run.data.get("absent") or []]
    if absent:
        found.append((f"Not evaluated: {', '.join(absent)}", "asked for, but its data was not there"))
    for name, title in names:
        of = run.facts(name)
        counts = of.get("counts") or {}
        total = f" of {of['comparisons']:,}" if of.get("comparisons") else ""
        if counts.get("truncated"):
            most = run.rewards.get("max_tokens")
            rest = f"comparisons were longer than {f'{most:,}' if most else 'the most'} tokens and lost the beginning of their prompt"
            found.append((f"{title}: {counts['truncated']:,}{total} truncated", rest))
        if counts.get("dropped"):
            found.append((f"{title}: {counts['dropped']:,} dropped", "comparisons that no figure counts"))
        if of.get("bad_records"):
            found.append((f"{title}: {of['bad_records']:,} bad records", "set aside in the quarantine, not counted"))
    tied = [f"{title}: {ties:,} of {units:,}" for name, title in names for ties, units in [_ties(run, name)] if ties]
    if tied:
        rule = f"; {run.manifest['ties']}" if run.manifest.get("ties") else ""
        found.append(("Exactly equal rewards", f"{', '.join(tied)}{rule}"))
    return found


def _ties(run: Run, name: str) -> tuple[int, int]:
    """Exact ties of a set and of how many pairs; where pairs are not described, of the headline's units."""
    pairs = run.results[name].get("pairs")
    if pairs:
        return pairs["ties"], pairs["pairs"]
    figure = run.headline(name) or {}
    return figure.get("ties") or 0, figure.get("total") or 0


def cells(run: Run, runs: Sequence[Run], sets: Sequence[str]) -> list[Cell]:
    """A run's row of the overview: the benchmarks and their average, if any is shown, and held-out comparisons."""
    row = []
    if any(name in BENCHMARKS for name in sets):
        row = [_cell(run, runs[0], name) for name in BENCHMARKS]
        row.append(Cell(number(run.average), spanning(run.average_interval)))
    if HELD_OUT in sets:
        row.append(_cell(run, runs[0], HELD_OUT))
    return row


def _cell(run: Run, first: Run, name: str) -> Cell:
    tags = ["partial"] if run.partial(name) else []
    if (tags or name == HELD_OUT) and run.scored_other_data(first, name):
        tags.append("other data")
    figure = run.headline(name)
    if figure is None:
        return Cell("–", "", tuple(tags))
    return Cell(number(figure["value"]), between(figure), tuple(tags))


def sizes(runs: Sequence[Run]) -> list[tuple[str, Markup]]:
    """(title, plot) of every figure, and their average, that a run of known parameters has as a whole."""
    panels = []
    for column in (AVERAGE, *COLUMNS):
        points = []
        for run in runs:
            low, high = run.average_interval or (None, None)
            mean = {"value": run.average, "low": low, "high": high}
            figure = mean if column == AVERAGE else run.headline(OF_COLUMN[column])
            shown = run.average if column == AVERAGE else run.comparable(OF_COLUMN[column])
            if run.billions is not None and figure is not None and shown is not None:
                points.append((run.mark, run.billions, figure))
        if points:
            title = "Average of the seven" if column == AVERAGE else column
            panels.append((title, size_plot(column, points, title)))
    return panels


@dataclass(frozen=True)
class Correlations:
    """Pearson's correlation of every two benchmarks over `published` models and `runs` evaluations."""

    published: int
    runs: int
    rows: list[tuple[str, list[float]]]


def correlations(runs: Sequence[Run]) -> Correlations:
    """Over the published models that have all figures, and the runs that have; a trivial rule, far below all models, would
    make everything correlate."""
    published = [row[: len(COLUMNS)] for row in complete().values()]
    ours = []
    for run in runs:
        values = [run.comparable(name) for name in BENCHMARKS]
        if None not in values and not run.rewards.get("baseline"):
            ours.append(tuple(value for value in values if value is not None))
    r = np.corrcoef(np.array([*published, *ours]).T)
    return Correlations(len(published), len(ours), list(zip(COLUMNS, r.tolist(), strict=True)))


def facts(run: Run) -> dict[str, list[tuple[str, str]]]:
    """The whole manifest in sections."""
    nested = {key: value for key, value in run.manifest.items() if isinstance(value, Mapping)}
    sections: dict[str, Mapping[str, Any]] = {
        "evaluation": {key: value for key, value in run.manifest.items() if key not in nested}
    }
    for key, value in nested.items():
        if key == "sets":
            sections |= {f"set {name}": described for name, described in value.items()}
        else:
            sections[key] = value
    return flat({name: part for name, part in sections.items() if part})
