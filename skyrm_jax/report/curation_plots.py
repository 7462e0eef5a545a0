"""The drawings of the page of a curation. Their text is all our own: names of users stand in the page beside them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, FuncFormatter, MaxNLocator, NullFormatter

from skyrm_jax.report.page_style import drawn
from skyrm_jax.report.style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE

ARMS = {
    "original": ("as it came", GREY, "s"),
    "filtered": ("filtered", BLUE, "o"),
    "corrected": ("filtered and corrected", GREEN, "^"),
}
"""The three sets of pairs of a stage: in words, colour, marker."""

VERDICTS = {
    "original": ("label is right", BLUE, 1.0),
    "flipped": ("label is wrong", ORANGE, 1.0),
    "none": ("no preference", GREY, 0.5),
    "unlabelled": ("too few votes", BLACK, 0.8),
}
"""What can be said of a label: in words, colour, opacity."""

DECISIONS = {"kept": ("kept", BLUE), "flipped": ("turned round", ORANGE), "discarded": ("left out", GREY)}
"""What becomes of a pair: in words, colour."""

SEGMENTS = {
    "on": ("goes on", GREEN, 1.0),
    "people": ("by people", PURPLE, 1.0),
    "looked": ("by models", PURPLE, 0.4),
    "kept": ("kept", BLUE, 1.0),
    "flipped": ("turned round", ORANGE, 1.0),
    "out": ("left out", GREY, 0.5),
}
"""What a bar of the funnel is made of: in words, colour, opacity."""

SHARP = 30
"""How many times the least value the greatest is before an axis is logarithmic."""


@dataclass(frozen=True)
class Point:
    """A figure in percent and its interval, if it has one, at the place `x`."""

    x: float
    value: float
    low: float | None = None
    high: float | None = None


def funnel_plot(bars: Mapping[str, Mapping[str, int]]) -> Markup:
    """A bar for each name, of lengths by SEGMENTS."""

    def plot(axes: Axes) -> None:
        longest = max(sum(bar.values()) for bar in bars.values())
        for kind, (label, color, alpha) in SEGMENTS.items():
            having = [(row, bar) for row, bar in enumerate(bars.values()) if kind in bar]
            if not having:
                continue
            rows = [row for row, _ in having]
            begins = [_before(bar, kind) for _, bar in having]
            axes.barh(rows, [bar[kind] for _, bar in having], 0.62, begins, color=color, alpha=alpha, label=label)
        for row, bar in enumerate(bars.values()):
            total = sum(bar.values())
            axes.text(total + 0.015 * longest, row, f"{total:,}", va="center")
        axes.set_yticks(range(len(bars)), list(bars))
        _across(axes, longest)

    return drawn(plot, "funnel", "From records to decisions: how many there are at each step", height=3.0)


def _before(bar: Mapping[str, int], kind: str) -> int:
    """Where a segment of a bar begins: those of kinds named earlier in SEGMENTS come first."""
    order = list(SEGMENTS)
    return sum(n for other, n in bar.items() if order.index(other) < order.index(kind))


def growth_plot(iterations: Sequence[Mapping[str, Any]]) -> Markup:
    """Gold and silver pairs so far, by iteration."""
    numbers = [one["iteration"] for one in iterations]
    sets = {"gold": (PURPLE, "o"), "silver": (BLUE, "s")}

    def plot(axes: Axes) -> None:
        values = [one[f"{name}_so_far"] for name in sets for one in iterations]
        for name, (color, marker) in sets.items():
            sizes = [one[f"{name}_so_far"] for one in iterations]
            axes.plot(numbers, sizes, color=color, marker=marker, markersize=5, label=name)
        if min(values) > 0 and max(values) > SHARP * min(values):
            axes.set_yscale("log")
            axes.yaxis.set_minor_formatter(NullFormatter())
        else:
            axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda n, _: f"{n:,.0f}"))
        axes.set_ylabel("pairs")
        _iterations(axes, numbers)

    return drawn(plot, "growth", "Gold and silver pairs so far by iteration")


def accuracy_plot(points: Sequence[Point], names: Sequence[str]) -> Markup:
    """How many gold pairs the best checkpoint gets right; `names` of the points stand below them."""

    def plot(axes: Axes) -> None:
        _curve(axes, points, BLUE, "o")
        axes.set_ylabel("gold pairs right, %")
        axes.set_xticks([point.x for point in points], list(names))
        axes.set_xlim(points[0].x - 0.5, points[-1].x + 0.5)
        axes.set_xlabel("iteration")

    return drawn(plot, "accuracy", "The best checkpoint's accuracy on gold by iteration")


def verdicts_plot(iterations: Sequence[Mapping[str, Any]]) -> Markup:
    """What annotators say of the pairs of each iteration, in percent of these."""
    numbers = [one["iteration"] for one in iterations]

    def plot(axes: Axes) -> None:
        below = [0.0] * len(numbers)
        for verdict, (label, color, alpha) in VERDICTS.items():
            shares = [100 * one["annotators"].get(verdict, 0) / max(1, one["pairs"]) for one in iterations]
            if any(shares):
                axes.bar(numbers, shares, 0.7, below, color=color, alpha=alpha, label=label)
            below = [a + b for a, b in zip(below, shares, strict=True)]
        axes.set_ylabel("pairs looked at, %")
        axes.set_ylim(0, 100)
        axes.grid(False, axis="x")
        _iterations(axes, numbers)

    return drawn(plot, "verdicts", "What annotators say of the pairs of each iteration")


def decisions_plot(rows: Sequence[tuple[str, str, int]]) -> Markup:
    """A bar for each (decision, by whom, pairs)."""

    def plot(axes: Axes) -> None:
        for decision, (label, color) in DECISIONS.items():
            bars = [(place, pairs) for place, (of, _, pairs) in enumerate(rows) if of == decision]
            if bars:
                axes.barh([p for p, _ in bars], [n for _, n in bars], 0.7, color=color, label=label)
        longest = max(pairs for _, _, pairs in rows)
        for place, (_, _, pairs) in enumerate(rows):
            axes.text(pairs + 0.015 * longest, place, f"{pairs:,}", va="center")
        axes.set_yticks(range(len(rows)), [by for _, by, _ in rows])
        _across(axes, longest)

    return drawn(plot, "decisions", "Decisions by who made them", height=1.2 + 0.24 * len(rows))


def worth_plot(arms: Mapping[str, Sequence[Point]], stages: Sequence[str], name: str, label: str) -> Markup:
    """Scores by stage of each of ARMS, which stand beside each other at a stage."""

    def plot(axes: Axes) -> None:
        for place, points in enumerate(arms.values(), 1):
            aside = 0.1 * (place - (len(arms) + 1) / 2)
            label, color, marker = ARMS[list(arms)[place - 1]]
            beside = [Point(p.x + aside, p.value, p.low, p.high) for p in points]
            _curve(axes, beside, color, marker, label, broken=True)
        axes.set_ylabel("%")
        axes.yaxis.set_major_locator(MaxNLocator(nbins=6))
        axes.set_xticks(range(len(stages)), list(stages))
        axes.set_xlim(-0.5, len(stages) - 0.5)
        axes.set_xlabel("after iteration" if len(stages) > 1 else "")

    return drawn(plot, name, label)


def _curve(
    axes: Axes, points: Sequence[Point], color: str, marker: str, label: str | None = None, broken: bool = False
) -> None:
    """Points with their intervals and a line through them; with `broken` not through a stage that is missing."""
    for point in points:
        if point.low is not None and point.high is not None:
            axes.plot([point.x] * 2, [point.low, point.high], color=color, linewidth=1.2, alpha=0.7)
    starts = [0, *(i for i in range(1, len(points)) if broken and points[i].x - points[i - 1].x > 1.5), len(points)]
    for begin, end in pairwise(starts):
        part = points[begin:end]
        axes.plot(
            [p.x for p in part],
            [p.value for p in part],
            color=color,
            marker=marker,
            markersize=5,
            linewidth=1.5,
            label=None if begin else label,
        )


def _iterations(axes: Axes, numbers: Sequence[int]) -> None:
    axes.set_xlabel("iteration")
    axes.set_xlim(numbers[0] - 0.6, numbers[-1] + 0.6)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True))


def _across(axes: Axes, longest: int) -> None:
    """For bars from left to right with their numbers behind them, the first bar on top."""
    axes.set_xlim(0, longest * (1.03 + 0.025 * len(f"{longest:,}")))
    axes.invert_yaxis()
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
