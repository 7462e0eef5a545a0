"""What the page of agreement shows: figures of `agreement.measure`, and drawings of them."""

import re
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes

from skyrm_jax.annotate.agreement import Agreement, Alpha, Kappa, Person, Share, measure
from skyrm_jax.annotate.store import Store
from skyrm_jax.report.page_style import drawn
from skyrm_jax.report.style import BLUE, GREEN, GREY, ORANGE, PURPLE

MOST_DRAWN = 24
"""People, or pairs of them, in a drawing; tables have all."""

_DRAWING = threading.Lock()
"""matplotlib's settings are those of the whole process."""


@dataclass(frozen=True, slots=True)
class Plot:
    """A drawing of the first `shown` of `total` rows."""

    svg: Markup
    shown: int
    total: int


def agreement_json(store: Store) -> dict[str, Any]:
    """All figures, as plain values for JSON."""
    return asdict(_measured(store))


def agreement_page(store: Store) -> dict[str, Any]:
    """What the template needs."""
    found = _measured(store)
    overall = [person for person in found.people if not person.category]
    categories = [person for person in found.people if person.category]
    return {
        "overall": next((alpha for alpha in found.alphas if not alpha.category), None),
        "alphas": [alpha for alpha in found.alphas if alpha.category],
        "people": overall,
        "by_category": {one.who: [p for p in categories if p.who == one.who] for one in overall},
        "kappas": [kappa for kappa in found.kappas if not kappa.category],
        "plots": _plots(found, overall),
        "review": store.options.review,
    }


def without_styles(svg: Markup) -> Markup:
    """The drawing with attributes for its style declarations, which the policy of the pages forbids."""
    bare = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)
    return Markup(re.sub(r' style="([^"]*)"', lambda match: _attributes(match[1]), bare))


def _measured(store: Store) -> Agreement:
    # Who is shown the label after the answer may give it anew, and would agree with it then.
    return measure(store.answers(first=store.options.review), store.flags())


def _attributes(style: str) -> str:
    made = []
    for declaration in filter(str.strip, style.split(";")):
        name, _, value = (part.strip() for part in declaration.partition(":"))
        if name == "font":  # its family is the page's
            name, value = "font-size", value.split()[0]
        made.append(f' {name}="{value}"')
    return "".join(made)


def _plots(found: Agreement, people: Sequence[Person]) -> dict[str, Plot]:
    """The drawings that there are figures for."""
    alphas = [alpha for alpha in found.alphas if alpha.nominal is not None or alpha.ordinal is not None]
    kappas = [kappa for kappa in found.kappas if not kappa.category and kappa.kappa is not None]
    gold = [(one.who, one.gold) for one in people if one.gold.n]
    sides = [(one.who, one.left) for one in people if one.left.n]
    pace = [(one.who, one.median_seconds) for one in people if one.median_seconds is not None]
    made: dict[str, Plot] = {}

    def add(name: str, plot: Callable[[Sequence[Any]], Markup], rows: Sequence[object]) -> None:
        if rows:
            made[name] = Plot(without_styles(plot(rows[:MOST_DRAWN])), min(len(rows), MOST_DRAWN), len(rows))

    with _DRAWING:
        add("alpha", _alpha_plot, alphas)
        add("kappa", _kappa_plot, kappas)
        add("gold", lambda rows: _share_plot(rows, GREEN, "gold", "right on gold checks, %", None), gold)
        add("side", lambda rows: _share_plot(rows, PURPLE, "side", "for the left among sided answers, %", 50), sides)
        add("pace", _pace_plot, pace)
    return made


def _alpha_plot(alphas: Sequence[Alpha]) -> Markup:
    def plot(axes: Axes) -> None:
        for name, color, marker in (("nominal", BLUE, "o"), ("ordinal", ORANGE, "s")):
            points = [(value, row) for row, a in enumerate(alphas) if (value := getattr(a, name)) is not None]
            if points:
                axes.plot(*zip(*points, strict=True), marker, color=color, markersize=6, label=name)
        axes.axvline(0.8, color=GREY, linewidth=1, linestyle=":")
        axes.set_xlim(min(0.0, *(a.nominal or 0.0 for a in alphas), *(a.ordinal or 0.0 for a in alphas)) - 0.08, 1.05)
        axes.set_xlabel("alpha")
        _rows(axes, [alpha.category or "all" for alpha in alphas])

    return drawn(plot, "alpha", "Krippendorff's alpha by category", height=_height(alphas) + 0.3)


def _kappa_plot(kappas: Sequence[Kappa]) -> Markup:
    def plot(axes: Axes) -> None:
        values = [kappa.kappa or 0.0 for kappa in kappas]
        axes.barh(range(len(kappas)), values, 0.6, color=BLUE)
        axes.set_xlim(min(-0.05, *values, 0), 1)
        axes.set_xlabel("kappa")
        _rows(axes, [f"{_short(kappa.one)} and {_short(kappa.other)}" for kappa in kappas])

    return drawn(plot, "kappa", "Cohen's kappa of pairs of annotators", height=_height(kappas))


def _share_plot(shares: Sequence[tuple[str, Share]], color: str, name: str, label: str, line: float | None) -> Markup:
    def plot(axes: Axes) -> None:
        for row, (_, share) in enumerate(shares):
            value, low, high = (100 * (x or 0.0) for x in (share.value, share.low, share.high))
            axes.plot([low, high], [row, row], color=color, linewidth=2, alpha=0.5)
            axes.plot([value], [row], "o", color=color, markersize=6)
        if line is not None:
            axes.axvline(line, color=GREY, linewidth=1, linestyle=":")
        axes.set_xlim(-2, 102)
        axes.set_xlabel(label)
        _rows(axes, [_short(who) for who, _ in shares])

    return drawn(plot, name, f"{label} of each annotator, with 95 % intervals", height=_height(shares))


def _pace_plot(pace: Sequence[tuple[str, float]]) -> Markup:
    def plot(axes: Axes) -> None:
        axes.barh(range(len(pace)), [seconds for _, seconds in pace], 0.6, color=ORANGE)
        axes.set_xlabel("median seconds of a pair")
        _rows(axes, [_short(who) for who, _ in pace])

    return drawn(plot, "pace", "Median time that each annotator spends on a pair", height=_height(pace))


def _rows(axes: Axes, names: Iterable[str]) -> None:
    labels = list(names)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.grid(False, axis="y")


def _height(rows: Sequence[object]) -> float:
    return 0.9 + 0.26 * len(rows)


def _short(name: str) -> str:
    """A name in a drawing, in which matplotlib takes dollar signs for formulas."""
    return (name if len(name) <= 18 else f"{name[:17]}…").replace("$", r"\$")
