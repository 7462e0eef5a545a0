"""The page of a curation: one HTML file on what became of the pairs, who says so, what it cost and what it is worth."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from scipy.stats import binomtest

from skyrm_jax.curate.account import REASONS, WORDS
from skyrm_jax.curate.attributes import OBJECTIVITIES
from skyrm_jax.curate.decisions import WHO
from skyrm_jax.eval.benchmarks import BENCHMARKS
from skyrm_jax.eval.rewards import HELD_OUT
from skyrm_jax.report.curation_page_template import TEMPLATE
from skyrm_jax.report.curation_plots import (
    ARMS,
    DECISIONS,
    VERDICTS,
    Point,
    accuracy_plot,
    decisions_plot,
    funnel_plot,
    growth_plot,
    verdicts_plot,
    worth_plot,
)
from skyrm_jax.report.eval_runs import between, number, title_of
from skyrm_jax.report.files import whole
from skyrm_jax.report.page_style import flat

Facts = Mapping[str, Any]
"""What `skyrm_jax.curate.facts.facts` tells."""

NAMES = {"human": "people", "gold": "gold model", "best": "best model", "annotators": "annotators"}
"""Of decisions.WHO."""

FILTERS = {"best": "best model", "annotators": "annotators", "best and annotators": "both, where they agree"}

LABELS = {"original": "right", "flipped": "wrong", "none": "neither"}
"""What is said of a label, in short."""

STAGE2 = "stage 2"

TABLE_14 = {
    "language models alone": (75, 63),
    "with people's curation": (87, 77),
    "and with adaptive retrieval": (93, 84),
    "people without language models": (81, 76),
}
"""Agreement with verified labels in percent, on objective and on subjective pairs (arXiv 2507.01352, table 14)."""

TABLE_19 = {
    "V1 reward model, Llama 8B": (69, 57),
    "V1 reward model, Gemma 27B": (72, 61),
    "both of these": (71, 60),
    "best model of stage 1": (78, 79),
    "gold model": (84, 88),
    "best and gold model": (86, 92),
}
"""How often people agree with keeping and with turning round, in percent (the same, table 19)."""

FIGURE_7 = {
    "original": (69.9, 70.2, 71.8, 71.3, 70.9, 72.5, 72.0, 71.7, 72.1, 70.1),
    "filtered": (71.0, 74.2, 74.6, 74.8, 74.9, 76.8, 76.9, 77.1, 79.0, 84.6),
    "corrected": (73.0, 77.0, 77.4, 78.8, 79.2, 81.7, 82.4, 82.3, 83.0, 87.5),
}
"""Mean of six benchmarks on the seed data, after iterations 1 to 8 and after stage 2 (the same, first version,
figure 7, read off the drawing)."""

FIGURE_7_STAGES = ("seed", *map(str, range(1, 9)), STAGE2)


@dataclass(frozen=True)
class Row:
    """A line of the funnel.

    Attributes:
        share: of the group's whole, in percent; None for the whole itself.
        head: what the step begins or ends with.
    """

    name: str
    count: int
    share: float | None = None
    head: bool = False

    @property
    def percent(self) -> str:
        """The share as text; never 0 for what is there."""
        return "" if self.share is None else "< 0.1" if 0 < self.share < 0.05 else f"{self.share:.1f}"


@dataclass(frozen=True)
class Matrix:
    """What two say of the pairs that both judged.

    Attributes:
        rows: for each verdict of `one` the cells (pairs, percent of all, what kind of agreement) by verdict of `other`.
        same, preferring: pairs on which they prefer the same response; on which both prefer one.
    """

    one: str
    other: str
    verdicts: tuple[str, ...]
    rows: list[tuple[str, list[tuple[int, float, str]]]]
    pairs: int
    same: int
    preferring: int


@dataclass(frozen=True)
class Share:
    """How many of how many, with the percentage and its 95 % interval (Wilson's)."""

    count: int
    total: int

    @property
    def percent(self) -> float | None:
        return 100 * self.count / self.total if self.total else None

    @property
    def interval(self) -> tuple[float, float] | tuple[None, None]:
        if not self.total:
            return None, None
        found = binomtest(self.count, self.total).proportion_ci(method="wilson")
        return 100 * found.low, 100 * found.high

    @property
    def value(self) -> str:
        return number(self.percent)

    @property
    def between(self) -> str:
        low, high = self.interval
        return between({"low": low, "high": high}, 0)


def curation_page(path: Path, facts: Facts) -> None:
    """Writes the page of a curation; what the facts do not tell is left out, with a word on which step makes it."""
    config = facts.get("config", {})
    text = TEMPLATE.render(
        title=config.get("out") or "A curation",
        lead=lead(facts),
        warnings=warnings(facts),
        groups=funnel(facts),
        funnel_plot=_funnel_plot(facts),
        preprocess=facts.get("preprocess"),
        files=files(facts),
        words=WORDS,
        iterations=iterations(facts),
        iterations_planned=1 + config.get("stage1", {}).get("iterations", 0),
        people=config.get("humans", True),
        models=facts.get("models") or {},
        stage1_plots=stage1_plots(facts),
        verdicts=VERDICTS,
        labels=LABELS,
        decisions=decisions(facts),
        decisions_plot=_decisions_plot(facts),
        agreements=agreements(facts),
        matrices=matrices(facts),
        names=NAMES,
        annotators=annotators(facts),
        table_14=TABLE_14,
        filters=filters(facts),
        table_19=TABLE_19,
        asked=config.get("annotators", True),
        calls=calls(facts),
        notes=notes(facts),
        spent=total(facts, "usd"),
        unsure=total(facts, "unsure_usd"),
        budget=config.get("budget"),
        measure=config.get("measure"),
        measured=measured(facts),
        panels=panels(facts),
        arms=ARMS,
        figure_7=FIGURE_7,
        figure_7_stages=FIGURE_7_STAGES,
        figure_7_plot=_figure_7_plot() if facts.get("measured") else None,
        config=sections(facts),
    )
    with whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def lead(facts: Facts) -> list[str]:
    """The whole curation in a few words."""
    said = []
    if "preprocess" in facts:
        of = facts["preprocess"]["funnel"]
        said += [f"{of['records']:,} records", f"{of['pairs']:,} pairs", f"{of['kept']:,} in the pool"]
    if facts.get("iterations"):
        gold = facts["iterations"][-1]["gold_so_far"]
        said.append(f"{gold:,} decided by people")
    if facts.get("decisions"):
        by = outcomes(facts)
        said += [f"{by[name]:,} {words}" for name, (words, _) in DECISIONS.items()]
    if facts.get("calls"):
        said.append(f"USD {total(facts, 'usd'):,.2f}")
    return said


def warnings(facts: Facts) -> list[tuple[str, str]]:
    """What a reader must know before any figure: (in short, the rest)."""
    found = []
    report = facts.get("preprocess")
    if report:
        sets = report["contamination"]
        missing = [title_of(name) for name, of in sets.items() if not of["found"]]
        if missing:
            none = facts.get("config", {}).get("preprocess", {}).get("benchmarks", "") is None
            why = "preprocess.benchmarks is null" if none else "their files were not found"
            found.append((f"Prompts of these may be in the pool: {', '.join(missing)}", why))
        if report["funnel"]["bad"]:
            found.append((f"{report['funnel']['bad']:,} bad records", "set aside in preprocess/bad.jsonl"))
    unlabelled = sum(one["annotators"].get("unlabelled", 0) for one in facts.get("iterations", ()))
    if unlabelled and facts.get("config", {}).get("annotators", True):
        found.append((f"{unlabelled:,} pairs of stage 1 without a verdict of annotators", "too few valid votes"))
    given_up = [one["annotator"] for one in notes(facts)]
    if given_up:
        found.append((f"Given up: {', '.join(given_up)}", "annotators that stopped answering; calls and costs say why"))
    unsure = total(facts, "unsure_usd")
    if unsure >= 0.005:
        found.append((f"Up to USD {unsure:,.2f} perhaps charged besides", "for calls without an answer"))
    return found


def total(facts: Facts, name: str) -> float:
    """Of a column of the account of calls."""
    return sum(one[name] for one in facts.get("calls", ()))


def outcomes(facts: Facts) -> dict[str, int]:
    """Pairs by decision."""
    return {
        decision: sum(one["pairs"] for one in facts["decisions"] if one["decision"] == decision)
        for decision in DECISIONS
    }


def funnel(facts: Facts) -> list[tuple[str, list[Row]]]:
    """(title, rows) of each step from records to decisions that is done."""
    groups = []
    report = facts.get("preprocess")
    if report:
        of = report["funnel"]
        out = ("bad", "undecided", "identical_responses")
        rows = [Row("records", of["records"], head=True), *(_row(of, name, "records") for name in out)]
        groups.append(("Records", [*rows, _row(of, "used", "records", head=True)]))
        rows = [Row("pairs in these", of["pairs"], head=True), *(_row(of, name, "pairs") for name in REASONS)]
        kept = Row("in the pool", of["kept"], _percent(of["kept"], of["pairs"]), head=True)
        groups.append(("Pairs", [*rows, kept]))
    pool = report["funnel"]["kept"] if report else None
    looked = facts.get("iterations")
    if looked:
        pairs, verified = (sum(one[name] for one in looked) for name in ("pairs", "verified"))
        rows = [Row("looked at", pairs, _percent(pairs, pool), head=True)]
        groups.append(("Stage 1", [*rows, Row("verified by people", verified, _percent(verified, pool))]))
    if facts.get("decisions"):
        by = outcomes(facts)
        pairs = sum(by.values())
        rows = [Row(DECISIONS[name][0], n, _percent(n, pairs), head=name != "discarded") for name, n in by.items()]
        groups.append(("Stage 2", rows))
    return groups


def _row(of: Mapping[str, int], name: str, share_of: str, head: bool = False) -> Row:
    return Row(WORDS[name], of[name], _percent(of[name], of[share_of]), head)


def _percent(n: int, of: int | None) -> float | None:
    return 100 * n / of if of else None


def _funnel_plot(facts: Facts) -> Markup | None:
    bars: dict[str, dict[str, int]] = {}
    if "preprocess" in facts:
        of = facts["preprocess"]["funnel"]
        bars["records"] = {"on": of["used"], "out": of["records"] - of["used"]}
        bars["pairs"] = {"on": of["kept"], "out": of["pairs"] - of["kept"]}
    if facts.get("iterations"):
        pairs, verified = (sum(one[name] for one in facts["iterations"]) for name in ("pairs", "verified"))
        bars["stage 1"] = {"people": verified, "looked": pairs - verified}
    if facts.get("decisions"):
        by = outcomes(facts)
        bars["stage 2"] = {"kept": by["kept"], "flipped": by["flipped"], "out": by["discarded"]}
    return funnel_plot(bars) if bars else None


def files(facts: Facts) -> list[tuple[str, Mapping[str, Any]]]:
    """The account of each source, where there are several."""
    found = facts.get("preprocess", {}).get("files", {})
    return list(found.items()) if len(found) > 1 else []


def iterations(facts: Facts) -> list[dict[str, Any]]:
    """Summaries of the iterations, each with `right`, the gold pairs that its best checkpoint gets right."""
    rows = []
    gold = 0
    for one in facts.get("iterations", ()):
        accuracy = one["best_accuracy_on_gold"]
        right = None if accuracy is None else Share(round(accuracy * gold), gold)
        rows.append({**one, "right": right})
        gold = one["gold_so_far"]
    return rows


def stage1_plots(facts: Facts) -> list[tuple[str, Markup, str]]:
    """(title, drawing, caption) of what there is to draw of stage 1."""
    of = iterations(facts)
    if not of:
        return []
    plots = [("Verdicts of annotators", verdicts_plot(of), "On the pairs that each iteration looks at.")]
    note = "Gold: decided by people. Silver: labelled by annotators, for training."
    plots.insert(0, ("Gold and silver so far", growth_plot(of), note))
    shown = [(str(one["iteration"]), one["right"]) for one in of if one["right"] is not None]
    best = (facts.get("models") or {}).get("best")
    if best and best["pairs"]:
        shown.append((STAGE2, Share(best["correct"], best["pairs"])))
    if shown:
        points = [Point(float(x), right.percent or 0.0, *right.interval) for x, (_, right) in enumerate(shown)]
        note = (
            "Of the best checkpoint, on the gold pairs of earlier iterations, which chose it; they grow from one to "
            "the next. Bars are 95 % intervals."
        )
        plots.append(("Accuracy on gold", accuracy_plot(points, [name for name, _ in shown]), note))
    return plots


def decisions(facts: Facts) -> list[tuple[str, str, list[Row]]]:
    """(decision, in words, rows by who made it) of stage 2."""
    rows = facts.get("decisions", ())
    pairs = sum(one["pairs"] for one in rows)
    found = []
    for decision, (words, _) in DECISIONS.items():
        of = [one for one in rows if one["decision"] == decision]
        if of:
            n = sum(one["pairs"] for one in of)
            all_of = Row(words, n, _percent(n, pairs), head=True)
            found.append(
                (decision, words, [all_of, *(Row(o["by"], o["pairs"], _percent(o["pairs"], pairs)) for o in of)])
            )
    return found


def _decisions_plot(facts: Facts) -> Markup | None:
    rows = [(decision, row.name, row.count) for decision, _, rows in decisions(facts) for row in rows[1:]]
    return decisions_plot(rows) if rows else None


def matrices(facts: Facts) -> list[Matrix]:
    """One for each two that have judged the same pairs."""
    return [found for of in facts.get("agreement", ()) if (found := _matrix(of)).pairs]


def _matrix(of: Mapping[str, Any]) -> Matrix:
    sides = ("original", "flipped")
    counts = {(a, b): n for a, row in of["pairs"].items() for b, n in row.items()}
    verdicts = tuple(v for v in VERDICTS if any(v in both for both in counts))
    pairs = sum(counts.values())

    def cell(a: str, b: str) -> tuple[int, float, str]:
        n = counts.get((a, b), 0)
        kind = "same" if a == b else "against" if {a, b} == set(sides) else "unsure"
        return n, 100 * n / pairs, kind

    rows = [(a, [cell(a, b) for b in verdicts]) for a in verdicts]
    same = sum(counts.get((side, side), 0) for side in sides)
    against = sum(counts.get(both, 0) for both in (sides, sides[::-1]))
    return Matrix(of["one"], of["other"], verdicts, rows, pairs, same, same + against)


def agreements(facts: Facts) -> list[tuple[str, list[Share | None]]]:
    """For each two of WHO the pairs on which they prefer the same response, of those on which both prefer one."""
    of = {frozenset((one.one, one.other)): Share(one.same, one.preferring) for one in matrices(facts)}
    return [(one, [of.get(frozenset((one, other))) for other in WHO]) for one in WHO] if of else []


def annotators(facts: Facts) -> dict[str, Any] | None:
    """`kinds` of pairs, and `rows`: (name, whether it is all of them together, what `_agreed` gives for each kind)."""
    found = {one["objectivity"]: one for one in facts.get("annotators", ())}
    if not found:
        return None
    kinds = list(dict.fromkeys((*OBJECTIVITIES, *found)))
    names = sorted({name for one in found.values() for name in one["models"]})
    rows = [
        (name, False, [_agreed(found.get(kind, {}).get("models", {}).get(name, {})) for kind in kinds])
        for name in names
    ]
    together = ("all together", True, [_agreed(found.get(kind, {}).get("merged", {})) for kind in kinds])
    return {"kinds": kinds, "rows": [*rows, together]}


def _agreed(counts: Mapping[str, int]) -> tuple[Share, int]:
    """Of the pairs on which there is a preference, those on which it is people's; on how many there is none."""
    pairs, agree, none = (counts.get(name, 0) for name in ("pairs", "agree", "none"))
    return Share(agree, pairs - none), none


def filters(facts: Facts) -> list[tuple[str, Share, Share]]:
    """(whose word, kept rightly of kept, turned round rightly of turned round)."""
    rows = []
    for one in facts.get("filters", ()):
        keep, flip = (Share(one[side]["right"], one[side]["pairs"]) for side in ("keep", "flip"))
        if keep.total or flip.total:
            rows.append((FILTERS[one["who"]], keep, flip))
    return rows


def calls(facts: Facts) -> list[dict[str, Any]]:
    """The account of each annotator and purpose, with `answers`, `lost`, and the other statuses in words."""
    rows = []
    for one in facts.get("calls", ()):
        others = {name: n for name, n in one["statuses"].items() if name not in ("ok", "lost")}
        said = [f"{name.replace('_', ' ')} {n:,}" for name, n in sorted(others.items(), key=lambda of: (-of[1], of[0]))]
        rows.append({**one, "ok": one["statuses"].get("ok", 0), "lost": one["statuses"].get("lost", 0), "others": said})
    return rows


def notes(facts: Facts) -> list[dict[str, Any]]:
    """What happened to annotators, once each."""
    found = {one["annotator"]: one["notes"] for one in facts.get("calls", ()) if one["notes"]}
    return [{"annotator": name, "notes": list(said)} for name, said in found.items()]


def measured(facts: Facts) -> dict[str, Any] | None:
    """`sets`, the titles of what was measured on, and `rows`: for each stage (arm, pairs, a figure for each set)."""
    found = facts.get("measured")
    if not found:
        return None
    names = _sets(facts)
    rows: dict[str, list[Any]] = {}
    for one in found:
        values: list[Mapping[str, Any] | None] = [one["headlines"].get(name) for name in names]
        if _averages(facts):
            values.append(None if one["average"] is None else {"value": one["average"]})
        cells = [("–", "") if value is None else (number(value["value"]), between(value)) for value in values]
        rows.setdefault(one["stage"], []).append((ARMS[one["arm"]][0], one["pairs"], cells))
    return {"sets": [*map(title_of, names), *(["Average"] if _averages(facts) else [])], "rows": rows}


def panels(facts: Facts) -> list[tuple[str, Markup]]:
    """(title, drawing) of the score by stage on each set."""
    found = facts.get("measured", ())
    stages = list(dict.fromkeys(one["stage"] for one in found))
    places = {stage: place for place, stage in enumerate(_all_stages(stages))}
    ticks = [stage.removeprefix("iteration ") for stage in places]
    drawn = []
    for name in [*([None] if _averages(facts) else []), *_sets(facts)]:
        arms: dict[str, list[Point]] = {arm: [] for arm in ARMS}
        for one in found:
            figure = {"value": one["average"]} if name is None else one["headlines"].get(name)
            if figure is not None and figure["value"] is not None:
                point = Point(places[one["stage"]], figure["value"], figure.get("low"), figure.get("high"))
                arms[one["arm"]].append(point)
        title = "Average of the seven benchmarks" if name is None else title_of(name)
        shown = {arm: points for arm, points in arms.items() if points}
        if shown:
            drawn.append((title, worth_plot(shown, ticks, f"worth {name}", f"{title}: score by stage")))
    return drawn


def _all_stages(stages: Sequence[str]) -> Iterator[str]:
    """The measured stages in order and, between them, iterations that are not measured."""
    numbers = [int(stage.split()[-1]) for stage in stages if stage != STAGE2]
    if numbers:
        yield from (f"iteration {n}" for n in range(min(numbers), max(numbers) + 1))
    if STAGE2 in stages:
        yield STAGE2


def _sets(facts: Facts) -> list[str]:
    """What was measured on: held-out comparisons first, then benchmarks in their order."""
    names = {name for one in facts.get("measured", ()) for name in one["headlines"]}
    return [name for name in (HELD_OUT, *BENCHMARKS) if name in names]


def _averages(facts: Facts) -> bool:
    return any(one["average"] is not None for one in facts.get("measured", ()))


def _figure_7_plot() -> Markup:
    arms = {arm: [Point(float(x), value) for x, value in enumerate(values)] for arm, values in FIGURE_7.items()}
    return worth_plot(arms, FIGURE_7_STAGES, "figure 7", "The paper's figure 7: score by stage")


def sections(facts: Facts) -> dict[str, list[tuple[str, str]]]:
    """All options in sections, and the revisions of data sets from the Hub."""
    config = facts.get("config", {})
    parts: dict[str, Any] = {
        "curation": {k: v for k, v in config.items() if k != "annotators" and not isinstance(v, Mapping)}
    }
    parts |= {name: value for name, value in config.items() if isinstance(value, Mapping)}
    parts |= {f"annotator {one['name']}": one for one in config.get("annotators", ())}
    parts["revisions"] = facts.get("preprocess", {}).get("revisions", {})
    return flat({name: part for name, part in parts.items() if part})


def print_curation(console: Console, facts: Facts) -> None:
    """Prints the funnel, the decisions and the costs of a curation."""
    table = _table("From records to decisions", "", "number", "%")
    for _, rows in funnel(facts):
        table.add_section()
        for row in rows:
            table.add_row(row.name, f"{row.count:,}", row.percent, style=_bold(row))
    if table.rows:
        console.print(table)
    else:
        console.print("Nothing is done yet; `skyrm curate run` begins.", highlight=False)
    if facts.get("decisions"):
        table = _table("Decisions of stage 2", "by", "pairs", "%")
        for _, _, rows in decisions(facts):
            table.add_section()
            for row in rows:
                table.add_row(row.name, f"{row.count:,}", row.percent, style=_bold(row))
        console.print(table)
    if facts.get("calls"):
        table = _table("Calls to annotators", "annotator, purpose", "calls", "ok", "retries", "lost", "USD")
        for one in calls(facts):
            name = escape(f"{one['annotator']}, {one['purpose']}")
            counts = [f"{one[key]:,}" for key in ("calls", "ok", "retries", "lost")]
            table.add_row(name, *counts, f"{one['usd']:,.2f}")
        console.print(table)
    for short_, rest in warnings(facts):
        console.print(f"{short_}: {rest}", markup=False, highlight=False, soft_wrap=True)


def _bold(row: Row) -> str:
    return "bold" if row.head else ""


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    for place, column in enumerate(columns):
        table.add_column(column, justify="right" if place else "left")
    return table
