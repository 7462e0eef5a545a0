"""What the page of an evaluation says of one set: tables, heat maps, best-of-N curves, biases and calibration."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from skyrm_jax.eval.benchmarks import BENCHMARKS
from skyrm_jax.eval.benchmarks.rm_bench import STYLES, cell
from skyrm_jax.eval.paper_tables import BREAKDOWNS
from skyrm_jax.report.eval_plots import curve_plot, reliability_plot
from skyrm_jax.report.eval_runs import Figure, Run, between, number, short, spanning, title_of

LONG = 10
"""Rows above which a table is folded away."""


@dataclass(frozen=True)
class Row:
    """A figure in a table.

    Attributes:
        strip: on the table's scale, in percent of its width, where the interval begins, the value is, the interval ends.
        headline: whether published tables carry it.
    """

    name: str
    value: str
    interval: str
    strip: tuple[float, float, float] | None
    counts: str = ""
    ties: str = ""
    headline: bool = False


@dataclass(frozen=True)
class Block:
    """A titled table."""

    title: str
    rows: list[Row]

    @property
    def folded(self) -> bool:
        """Whether it is shown only when asked for."""
        return len(self.rows) > LONG


@dataclass(frozen=True)
class Pairs:
    """What pairs say beside who won: sentences about calibration, and by property about biases."""

    pairs: int
    ties: int
    plot: Markup | None
    calibration: list[str]
    biases: list[tuple[str, list[str]]]


@dataclass(frozen=True)
class Beside:
    """Parts of a benchmark's figure: ours and the published ones; no `runs` where ours do not compare."""

    figures: tuple[str, ...]
    runs: list[tuple[Run, list[str]]]
    published: dict[str, list[str]]


@dataclass(frozen=True)
class Section:
    """All about one set of the first run.

    Attributes:
        lead: its headline.
        sized: how much was scored.
        matrices: name -> rows, each with its name, of percentages with their intervals; tables leave them out.
        curves: (name, plot, caption).
        others: the runs whose curves are drawn too.
    """

    name: str
    title: str
    lead: Row | None
    sized: str
    partial: list[str]
    notes: list[str]
    blocks: list[Block]
    matrices: dict[str, list[tuple[str, list[tuple[float, str]]]]]
    curves: list[tuple[str, Markup, str]]
    others: list[Run]
    pairs: Pairs | None
    breakdown: Beside | None


def section(name: str, runs: Sequence[Run]) -> Section:
    """The section of a set that the first run has, with what others have for it."""
    mine = runs[0]
    result, of = mine.results[name], mine.facts(name)
    title = title_of(name, runs)
    headline = tuple(result.get("headline") or ("", ""))
    grids = matrices(result)
    drawn = {(of_, cell(i, j)) for of_ in grids for i in range(len(STYLES)) for j in range(len(STYLES))}
    figure = mine.headline(name)
    return Section(
        name=name,
        title=title,
        lead=None if figure is None else row(headline[1], figure, True),
        sized=", ".join(f"{of[what]:,} {what}" for what in ("comparisons", "responses") if of.get(what)),
        partial=mine.partial(name),
        notes=list(result.get("notes") or []),
        blocks=[
            Block(part, rows)
            for part, figures in (result.get("sections") or {}).items()
            if (
                rows := [
                    row(key, one, (part, key) == headline) for key, one in figures.items() if (part, key) not in drawn
                ]
            )
        ],
        matrices=grids,
        curves=curves(name, title, runs),
        others=[run for run in runs[1:] if beside(run, mine, name)],
        pairs=pairs(name, title, result.get("pairs")),
        breakdown=breakdown(name, runs),
    )


def matrices(result: Mapping[str, Any]) -> dict[str, list[tuple[str, list[tuple[float, str]]]]]:
    """Every matrix of a result by rows, with the intervals that the section of its name has."""
    found: dict[str, list[tuple[str, list[tuple[float, str]]]]] = {}
    for of, values in (result.get("matrices") or {}).items():
        figures = (result.get("sections") or {}).get(of) or {}
        intervals = [[between(figures.get(cell(i, j)) or {}) for j in range(len(row))] for i, row in enumerate(values)]
        rows = [list(zip(*both, strict=True)) for both in zip(values, intervals, strict=True)]
        found[of] = list(zip(STYLES, rows, strict=True))
    return found


def row(name: str, figure: Figure, headline: bool = False) -> Row:
    """A figure as a row of a table whose scale is 0 to 100; one that may be below or above has no place on it."""
    on_scale = all(0.0 <= figure[key] <= 100.0 for key in ("low", "value", "high") if figure.get(key) is not None)
    total, correct, ties = figure.get("total"), figure.get("correct"), figure.get("ties")
    right = "" if correct is None else f"{round(correct, 2):,} "
    return Row(
        name,
        number(figure["value"], 2),
        between(figure),
        strip(figure, 0.0, 100.0) if on_scale else None,
        "" if total is None else f"{right}of {total:,}",
        "" if ties is None else f"{ties:,}",
        headline,
    )


def strip(figure: Figure, low: float, high: float) -> tuple[float, float, float] | None:
    """The interval's ends and, between them, the value in percent of the way from low to high, which bound them."""
    if not between(figure):
        return None
    begin, value, end = (
        round(100 * min(max((figure[key] - low) / (high - low), 0.0), 1.0), 1) for key in ("low", "value", "high")
    )
    return begin, value, end


def curves(name: str, title: str, runs: Sequence[Run]) -> list[tuple[str, Markup, str]]:
    """(name, plot, caption) of every best-of-N curve of the first run, with those of others on the same comparisons."""
    mine = runs[0]
    found = []
    for of, curve in (mine.results[name].get("curves") or {}).items():
        others = [(run.mark, theirs[of]) for run in runs[1:] if of in (theirs := beside(run, mine, name))]
        caption = f"Over {curve['comparisons']:,} comparisons"
        offering = curve.get("offering") or []
        if offering and offering[-1] < curve["comparisons"]:
            caption += f", {offering[-1]:,} of which have {curve['n'][-1]} responses; one with fewer offers all it has"
        caption += "; the band is the 95 % interval."
        if curve.get("loss") is not None:
            interval = within((curve.get("loss_low"), curve.get("loss_high")), 4)
            caption += f" Mean squared distance to the oracle {curve['loss']:.4f}{interval}."
        said = of if "best" in of.lower() else f"Best of N: {of}"
        plot = curve_plot([(mine.mark, curve), *others], f"curve {name} {of}", f"{title}, {said}")
        found.append((said, plot, caption))
    return found


def beside(run: Run, mine: Run, name: str) -> Mapping[str, Any]:
    """The curves of another run that may stand beside ours."""
    ours = mine.results[name].get("curves") or {}
    theirs = (run.results.get(name) or {}).get("curves") or {}
    if run.scored_other_data(mine, name):
        return {}
    return {of: one for of, one in theirs.items() if of in ours and one["comparisons"] == ours[of]["comparisons"]}


def pairs(name: str, title: str, found: Mapping[str, Any] | None) -> Pairs | None:
    """None where the run has no pairs."""
    if not found:
        return None
    of = found.get("calibration")
    properties = (("length", "length in characters"), ("markdown", "number of markdown elements"))
    return Pairs(
        found["pairs"],
        found["ties"],
        reliability_plot(of["bins"], f"reliability {name}", f"{title}, reliability") if of else None,
        calibration(of) if of else [],
        [bias(label, found[key]) for key, label in properties if found.get(key)],
    )


def bias(label: str, of: Mapping[str, Any]) -> tuple[str, list[str]]:
    """(the property, sentences about how rewards go with it)."""
    said = []
    if of.get("correlation") is None:
        said.append("The rewards, or the responses, do not differ in it: there is no correlation.")
    else:
        said.append(
            f"Correlation of the difference in reward with that in {label}, better response less worse: "
            f"r = {of['correlation']:.2f}{within((of.get('low'), of.get('high')), 2)}."
        )
    intervals = of.get("intervals") or {}
    sides = [(word, of[word]) for word in ("more", "less") if of.get(word)]
    if sides:
        parts = [
            f"{share:.1f} %{within(intervals.get(word))} of the {n:,} pairs whose better response has {word}"
            for word, (share, n) in sides
        ]
        said.append(f"Right on {' and on '.join(parts)}.")
    if of.get("gap") is not None:
        gap = f"{of['gap']:+.1f}{within(intervals.get('gap'))}"
        said.append(f"A gap of {gap} points; without a bias, and with pairs equally hard, it would be 0.")
    return label[0].upper() + label[1:], said


def calibration(of: Mapping[str, Any]) -> list[str]:
    """Sentences about how far probabilities are from frequencies."""
    intervals = of.get("intervals") or {}

    def errors(prefix: str) -> tuple[str, str]:
        points = [100 * bound for bound in intervals.get(f"{prefix}ece") or ()]
        loss = within(intervals.get(f"{prefix}log_loss"), 4)
        return f"{100 * of[f'{prefix}ece']:.1f}{within(points)} points", f"{of[f'{prefix}log_loss']:.4f}{loss}"

    error, loss = errors("")
    said = [
        "Confidence is sigmoid of the difference in reward.",
        f"Expected calibration error {error}, log loss {loss}; guessing has 0.6931.",
    ]
    t = of.get("temperature")
    if t is None:
        return [
            *said,
            "No temperature fits: every pair is right, or no more than half of them by weight are, or nearly so.",
        ]
    sure = "too sure of itself" if t > 1 else "not sure enough of itself"
    if "temperature" not in intervals:
        known, sure = " (too uncertain for an interval)", f"seems {sure}"
    else:
        low, high = intervals["temperature"]
        known, sure = f" ({_short(low)} to {_short(high)})", f"is {sure}"
        if low <= 1 <= high:
            sure = "may be either too sure of itself or not sure enough"
    error, loss = errors("fitted_")
    return [
        *said,
        f"Rewards divided by the temperature {_short(t)}{known} fit these very pairs best, so the model {sure}; "
        f"then the error is {error} and the log loss {loss}.",
        "In brackets: 95 % intervals.",
    ]


def _short(value: float) -> str:
    """Three digits or more."""
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def within(interval: Sequence[float | None] | None, digits: int = 1) -> str:
    """An interval in brackets after a space, empty where it is not known."""
    text = spanning(interval, digits)
    return f" ({text})" if text else ""


def breakdown(name: str, runs: Sequence[Run]) -> Beside | None:
    """None where nothing is published; without runs where the first has but part of the benchmark."""
    of = BREAKDOWNS.get(BENCHMARKS[name].column) if name in BENCHMARKS else None
    if of is None:
        return None
    rows = []
    if runs[0].comparable(name) is not None:
        for run in runs:
            if run.comparable(name) is not None:
                figures = run.results[name]["sections"].get(of.section, {})
                rows.append((run, [number(figures[key]["value"] if key in figures else None) for key in of.figures]))
    return Beside(of.figures, rows, {short(model): [number(v) for v in values] for model, values in of.rows.items()})
