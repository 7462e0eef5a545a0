"""The page of a training run: one HTML file that needs nothing but itself and follows the reader's light or dark."""

import time
from dataclasses import dataclass
from math import log
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from skyrm_jax.report.files import whole
from skyrm_jax.report.page_style import drawn, flat, said_time
from skyrm_jax.report.plots import Series, read_metrics, series, smooth, thinned, trend, window
from skyrm_jax.report.run_page_template import TEMPLATE
from skyrm_jax.report.style import BLUE, GREEN, GREY, ORANGE, PURPLE

PAGE = "run.html"
METRICS, PLOT = "metrics.jsonl", "training.png"
RECENT = 50
"""Records that the tables' means are over."""

Columns = dict[str, Series]


@dataclass(frozen=True)
class Figure:
    """A row of the tables: the newest value of a column.

    Args:
        form: a format, of one value.
        noisy: whether a mean over recent records says more than the newest one.
        note: what a reader could not guess.
    """

    name: str
    column: str
    form: str
    noisy: bool = False
    note: str = ""


@dataclass(frozen=True)
class Line:
    """A column in a plot.

    Args:
        how: a noisy one and its `trend`, a few measurements as `dots`, or as it `is`.
        around: the column that says how wide the band around it is, each way.
    """

    column: str
    label: str
    color: str
    how: str = "trend"
    around: str = ""


@dataclass(frozen=True)
class Panel:
    """A plot over steps.

    Args:
        unit: "%" shows shares as such, from 0 up if they are all below a tenth.
        level: a value to compare with, and its name; drawn where it does not squeeze the curves.
        wide: whether a logarithmic axis is used for values that spread far.
    """

    title: str
    lines: tuple[Line, ...]
    unit: str = ""
    level: tuple[float, str] | None = None
    wide: bool = False
    note: str = ""


TABLES = {
    "Learning": (
        Figure("Loss", "loss", ".4f", noisy=True, note="Bradley-Terry; guessing has 0.6931"),
        Figure("Held-out loss", "held_out_loss", ".4f"),
        Figure("Accuracy", "accuracy", ".1%", noisy=True, note="pairs in the right order; a tie is wrong"),
        Figure("Held-out accuracy", "held_out_accuracy", ".1%"),
        Figure("Held-out pairs", "held_out_pairs", ",.0f"),
        Figure("Held-out ties", "held_out_ties", ",.0f"),
        Figure("Margin", "margin", ".4g", noisy=True, note="reward of the better response less the other's"),
        Figure("Held-out margin", "held_out_margin", ".4g"),
        Figure("Reward, mean", "reward_mean", ".4g", noisy=True),
        Figure("Reward, standard deviation", "reward_std", ".4g", noisy=True),
    ),
    "Optimiser": (
        Figure("Gradient norm", "gradient_norm", ".4g", noisy=True, note="before clipping"),
        Figure("Learning rate", "learning_rate", ".3g"),
        Figure("Comparisons of a step", "comparisons", ",.0f"),
        Figure("Micro-batches of a step", "micro_batches", ",.0f", noisy=True),
        Figure("Row fill", "row_fill", ".1%", noisy=True, note="slots of the rows that hold tokens"),
        Figure("Skipped batches", "skipped", ",.0f", note="their loss or gradient was not finite"),
    ),
    "Speed": (
        Figure("Pairs/s", "pairs_per_second", ",.4g", noisy=True),
        Figure("Tokens/s", "tokens_per_second", ",.0f", noisy=True, note="each prompt counted once"),
        Figure("Tokens/s, unshared", "unshared_tokens_per_second", ",.0f", noisy=True, note="as if none were shared"),
        Figure("MFU", "mfu", ".1%", noisy=True, note="model FLOPs over the chips' peak, where known"),
        Figure("Seconds of a step", "seconds", ",.4g", noisy=True),
        Figure("Data wait", "data_wait_share", ".1%", noisy=True, note="share of a step's time"),
        Figure("Checkpoint seconds", "checkpoint_seconds", ",.2f", noisy=True, note="that training stood still for"),
        Figure("Goodput", "goodput", ".1%", note="productive time over all time since the run began"),
    ),
}

PANELS = (
    Panel(
        "Loss",
        (Line("loss", "training", BLUE), Line("held_out_loss", "held out", ORANGE, "dots")),
        level=(log(2), "guessing"),
    ),
    Panel(
        "Pair accuracy",
        (Line("accuracy", "training", BLUE), Line("held_out_accuracy", "held out", ORANGE, "dots")),
        unit="%",
        level=(0.5, "guessing"),
    ),
    Panel("Margin", (Line("margin", "training", BLUE), Line("held_out_margin", "held out", ORANGE, "dots"))),
    Panel("Reward", (Line("reward_mean", "mean, ± standard deviation", GREEN, around="reward_std"),)),
    Panel("Gradient norm", (Line("gradient_norm", "before clipping", PURPLE),), wide=True),
    Panel("Learning rate", (Line("learning_rate", "learning rate", BLUE, "is"),)),
    Panel(
        "Tokens/s",
        (
            Line("unshared_tokens_per_second", "as if no prompt were shared", ORANGE),
            Line("tokens_per_second", "computed", BLUE),
        ),
    ),
    Panel(
        "Where the time goes",
        (Line("waiting", "waiting for data", ORANGE, "is"), Line("saving", "checkpoints", PURPLE, "is")),
        unit="%",
        note="Shares of the time in steps and checkpoints, as recorded; the rest is computing.",
    ),
    Panel(
        "Goodput and MFU",
        (Line("goodput", "goodput", GREEN, "is"), Line("mfu", "MFU", BLUE)),
        unit="%",
    ),
)


def run_page(folder: Path, config: dict[str, Any], steps_of_run: int | None = None, began: float | None = None) -> None:
    """Writes `folder`/run.html from the run's metrics.jsonl and its config.

    Args:
        steps_of_run: how many the run has in all; where that is not known, the config may bound it.
        began: when the run was first started, in seconds since 1970.

    Raises UserError for a metrics.jsonl that is damaged elsewhere than in its last line; without one the page says so.
    """
    records = read_metrics(folder / METRICS) if (folder / METRICS).is_file() else []
    records = [record for record in records if "step" in record]
    steps = np.unique([int(record["step"]) for record in records])
    newest = records[-1] if records else {}
    columns = columns_of(records)
    run = config.get("run", {})
    text = TEMPLATE.render(
        title=run.get("out") or str(folder),
        step=int(steps[-1]) if len(steps) else None,
        most=steps_of_run or run.get("steps") or None,
        known=steps_of_run is not None,
        epochs=run.get("epochs"),
        count=len(steps),
        began=said_time(began),
        updated=said_time(time.time()),
        skipped=int(columns["skipped"][1][-1]) if len(columns["skipped"][1]) else 0,
        recent=min(RECENT, len(steps)),
        tables={name: rows for name, figures in TABLES.items() if (rows := table(figures, columns, newest))},
        panels=[(panel.title, panel.note, drawn) for panel in PANELS if (drawn := draw(panel, columns))],
        over=window(len(steps)),
        thinned=len(thinned((steps, steps))[0]) < len(steps),
        config=flat(config),
        links=[name for name in (PLOT, METRICS, "non_finite", "profile", "tensorboard") if (folder / name).exists()],
    )
    with whole(folder / PAGE) as temporary:
        temporary.write_text(text, encoding="utf-8")


def columns_of(records: list[dict[str, Any]]) -> Columns:
    """The finite values of every figure and plot, by column; empty where there are none."""
    shown = [figure.column for figures in TABLES.values() for figure in figures]
    drawn = [name for panel in PANELS for line in panel.lines for name in (line.column, line.around) if name]
    columns = {name: series(records, name) for name in {*shown, *drawn, "data_wait_seconds"}}
    steps, waited, seconds = together(columns, "data_wait_seconds", "seconds")
    columns["data_wait_share"] = steps, waited / seconds
    # Over a window, time over time: a mean of shares would count a short step as much as a long checkpoint.
    steps, waited, seconds, saved = together(columns, "data_wait_seconds", "seconds", "checkpoint_seconds")
    if len(steps):
        # A record stands for the steps since the one before it.
        stands_for = np.diff(steps, prepend=steps[0] - 1)
        # Widely, and twice: a narrow window shows how many checkpoints happen to fall into it.
        over = len(steps) // 5 | 1
        total, waited, saved = (
            smooth(smooth(part, over), over) for part in (stands_for * seconds + saved, stands_for * waited, saved)
        )
        columns["waiting"], columns["saving"] = (steps, waited / total), (steps, saved / total)
    return columns


def together(columns: Columns, *names: str) -> list[np.ndarray]:
    """The steps that all these columns have, and their values there."""
    steps = columns[names[0]][0]
    for name in names[1:]:
        steps = np.intersect1d(steps, columns[name][0])
    return [steps, *(columns[name][1][np.isin(columns[name][0], steps)] for name in names)]


def table(figures: tuple[Figure, ...], columns: Columns, newest: dict[str, Any]) -> list[dict[str, str]]:
    """Rows of the figures that the run has; one that the newest record has no value for says of which step it is."""
    rows = []
    for figure in figures:
        steps, values = columns[figure.column]
        if not len(values) and figure.column not in newest:
            continue
        shown, older = "–", ""
        if len(values):
            shown = format(values[-1], figure.form)
            older = "" if steps[-1] == newest["step"] else f"step {steps[-1]:,}"
            if older and figure.column in newest:
                shown, older = "–", f"{shown} at {older}"
        mean = format(values[-RECENT:].mean(), figure.form) if figure.noisy and len(values) else ""
        rows.append({"name": figure.name, "note": figure.note, "newest": shown, "older": older, "mean": mean})
    return rows


def draw(panel: Panel, columns: Columns) -> Markup | None:
    """The panel as an SVG element whose colours are the page's; None if the run has nothing for it."""
    if not any(len(columns[line.column][0]) for line in panel.lines):
        return None

    def plot(axes: Axes) -> None:
        for line in panel.lines:
            if len(columns[line.column][0]):
                _plot(axes, line, columns)
        _scale(axes, panel)

    return drawn(plot, panel.title, f"{panel.title} over steps")


def _plot(axes: Axes, line: Line, columns: Columns) -> None:
    data = columns[line.column]
    count = len(data[0])
    if line.around:
        both, middle, around = together(columns, line.column, line.around)
        every, over = max(1, len(both) // 300), window(len(both))
        middle, around = smooth(middle, over), smooth(around, over)
        axes.fill_between(
            both[::every],
            (middle - around)[::every],
            (middle + around)[::every],
            color=line.color,
            alpha=0.18,
            linewidth=0,
        )
    if line.how == "trend":
        trend(axes, data, line.color, line.label)
    else:
        dots = count == 1 or (line.how == "dots" and count <= 50)
        axes.plot(*thinned(data), color=line.color, label=line.label, marker="o" if dots else None, markersize=4)


def _scale(axes: Axes, panel: Panel) -> None:
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
    first, last = axes.dataLim.intervalx
    if first == last:
        axes.set_xticks([first])
    low, high = axes.dataLim.intervaly
    if panel.wide and low > 0 and high > 30 * low:
        axes.set_yscale("log")
        axes.yaxis.set_minor_formatter(NullFormatter())
    if panel.unit and high < 0.1:
        axes.set_ylim(bottom=0)
    if panel.level is not None:
        level, name = panel.level
        below, above = axes.get_ylim()
        if below - (above - below) <= level <= above + (above - below):
            axes.axhline(level, color=GREY, linestyle=":", linewidth=1.5, label=name)
    form = "{:.4g}%" if panel.unit else "{:,.4g}" if high < 1e4 else "{:,.0f}"
    factor = 100 if panel.unit else 1
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: form.format(factor * value)))
