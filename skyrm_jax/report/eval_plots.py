"""The drawings of the page of an evaluation. Their text is all our own: names of runs stand in the page beside them."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from skyrm_jax.eval.paper_tables import AVERAGE, COLUMNS, PARAMETERS, V2
from skyrm_jax.report.eval_runs import Figure, Mark
from skyrm_jax.report.page_style import drawn
from skyrm_jax.report.style import BLACK, BLUE, GREY

FAMILIES = (  # of published models: which, their marker, the same as a character, what they are
    (tuple(name for name in V2 if "Qwen3" in name), "o", "○", "Qwen3"),
    (tuple(name for name in V2 if "Llama" in name and not name.endswith("40M")), "s", "□", "Llama"),
    (tuple(name for name in V2 if name.endswith("40M")), "*", "☆", "Llama-3.1-8B-40M"),
)

Curves = Sequence[tuple[Mark, Mapping[str, Any]]]


def size_plot(column: str, points: Sequence[tuple[Mark, float, Figure]], title: str) -> Markup:
    """A figure over parameters: the published models in grey, and (mark, billions, figure) of each run."""
    place = (*COLUMNS, AVERAGE).index(column)

    def plot(axes: Axes) -> None:
        for models, marker, _, _ in FAMILIES:
            values = [V2[name][place] for name in models]
            axes.plot(
                [PARAMETERS[name] for name in models],
                values,
                color=GREY,
                marker=marker,
                markersize=9 if marker == "*" else 5,
                markerfacecolor="none",
                linewidth=1.2,
            )
        for mark, billions, figure in points:
            if figure.get("low") is not None and figure.get("high") is not None:
                axes.plot([billions] * 2, [figure["low"], figure["high"]], color=mark.color, linewidth=2)
            axes.plot([billions], [figure["value"]], color=mark.color, marker=mark.marker, markersize=8)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_locator(LogLocator(base=2, numticks=6))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}B"))
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
        axes.set_xlabel("parameters")
        axes.set_ylabel("%")

    return drawn(plot, f"sizes {column}", f"{title} over parameters", width=2.9, height=2.2)


def curve_plot(curves: Curves, name: str, label: str) -> Markup:
    """Best of N by the highest reward: the first run's curve with its interval, those of others, oracle and random."""
    (first, shown), *others = curves

    def plot(axes: Axes) -> None:
        every = -(-len(shown["n"]) // 12)  # N have a marker, by which alone runs of one colour differ
        axes.plot(shown["n"], shown["oracle"], color=BLACK, linestyle="--", linewidth=1.5, label="oracle")
        axes.fill_between(shown["n"], shown["low"], shown["high"], color=first.color, alpha=0.2, linewidth=0)
        for mark, curve in others:
            axes.plot(
                curve["n"], curve["reward"], color=mark.color, linewidth=1.5, marker=mark.marker, ms=4, markevery=every
            )
        axes.plot(
            shown["n"], shown["reward"], color=first.color, marker="o", ms=4, markevery=every, label="highest reward"
        )
        axes.plot(shown["n"], shown["random"], color=GREY, linestyle=":", linewidth=1.5, label="random")
        axes.set_xlabel("up to N responses to pick from")
        axes.set_ylabel("picked a right one, %")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
        axes.set_ylim(top=102)

    return drawn(plot, name, label)


def reliability_plot(bins: Sequence[Mapping[str, Any]], name: str, label: str) -> Markup:
    """How often the model is right by how sure it is, with 95 % intervals, and how many pairs it is so sure of."""
    total = sum(one["pairs"] for one in bins)

    def plot(axes: Axes) -> None:
        axes.bar(
            [50 * (one["low"] + one["high"]) for one in bins],
            [100 * one["pairs"] / total for one in bins],
            width=[92 * (one["high"] - one["low"]) for one in bins],
            color=GREY,
            alpha=0.3,
            label="share of pairs",
        )
        axes.plot([50, 100], [50, 100], color=BLACK, linestyle=":", linewidth=1.5, label="calibrated")
        for one in bins:
            if one.get("interval"):
                ends = [100 * bound for bound in one["interval"]]
                axes.plot([100 * one["confidence"]] * 2, ends, color=BLUE, linewidth=1.5, alpha=0.5)
        axes.plot(
            [100 * one["confidence"] for one in bins],
            [100 * one["right"] for one in bins],
            color=BLUE,
            marker="o",
            markersize=5,
            label="right",
        )
        axes.set_xlabel("confidence, %")
        axes.set_ylabel("%")
        axes.set_xlim(49, 101)
        axes.set_ylim(0, 102)

    return drawn(plot, name, label)
