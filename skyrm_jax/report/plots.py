"""The plots of a run: loss and accuracy over training."""

import json
from itertools import pairwise
from math import log
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from skyrm_jax.errors import UserError
from skyrm_jax.report.style import BLACK, BLUE, GREY, ORANGE, canvas

Series = tuple[np.ndarray, np.ndarray]  # steps i64[n], values f64[n]


def training_plot(metrics: str | Path, path: str | Path, title: str = "") -> None:
    """Draws loss and accuracy over steps from a metrics.jsonl to the image `path`.

    Records hold `step` and any of loss, accuracy, held_out_loss, held_out_accuracy (accuracies in 0 ... 1).
    Where a step occurs again (a resumed run) its last record counts. Raises UserError if the file holds no
    such record.
    """
    metrics = Path(metrics)
    records = read_metrics(metrics)
    loss, accuracy = series(records, "loss"), series(records, "accuracy")
    if not len(loss[0]) and not len(series(records, "held_out_loss")[0]):
        raise UserError(f"{metrics}: no record with `step` and `loss`: give the metrics.jsonl of a training run")
    with canvas(Path(path), panels=2, width=10, height=4) as (figure, (left, right)):
        if title:
            figure.suptitle(title, x=0.01, ha="left", fontsize=11, color=BLACK)
        _panel(left, loss, series(records, "held_out_loss"), "Bradley-Terry loss")
        _guessing(left, log(2))
        _panel(right, _percent(accuracy), _percent(series(records, "held_out_accuracy")), "Pair accuracy, %")
        _guessing(right, 50.0)
        # Below the panels, where no curve runs through it.
        figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=4)


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The records of a metrics.jsonl. A last line cut short by a kill is left out; raises UserError for
    other damage."""
    if not path.is_file():
        raise UserError(f"{path}: no such file: a training run writes its metrics.jsonl there")
    lines = path.read_text(encoding="utf-8").splitlines()
    records = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            records.append(json.loads(line))
        except ValueError:
            if number < len(lines):
                raise UserError(f"{path}, line {number}: not JSON: remove the line") from None
    return records


def series(records: list[dict[str, float]], key: str) -> Series:
    """Steps and finite values of the records that hold `key`, in order of step; a step's last record counts."""
    last = {r["step"]: r[key] for r in records if r.get(key) is not None and "step" in r}
    steps = np.array(sorted(last), np.int64)
    values = np.array([last[s] for s in steps.tolist()], np.float64)
    finite = np.isfinite(values)
    return steps[finite], values[finite]


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """f64[n]: the mean over the `window` (odd) values centred on each, fewer at the ends."""
    kernel = np.ones(window)
    return np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")


def window(count: int) -> int:
    """Over how many of `count` records a plot's bold line is the mean."""
    return count // 15 | 1


def thinned(data: Series, most: int = 600) -> Series:
    """At most `most` points: the least and the greatest of every stretch, so that no spike is lost."""
    steps, values = data
    if len(steps) <= most:
        return data
    edges = np.linspace(0, len(steps), most // 2 + 1).astype(np.int64)
    kept = np.unique([low + pick(values[low:high]) for low, high in pairwise(edges) for pick in (np.argmin, np.argmax)])
    return steps[kept], values[kept]


def trend(axes: Axes, data: Series, color: str, label: str) -> None:
    """A noisy series: faint as it is and bold its moving mean; only as it is where it is short."""
    steps, values = data
    over = window(len(steps))
    if over == 1:
        axes.plot(steps, values, color=color, label=label, marker="o" if len(steps) == 1 else None)
        return
    axes.plot(*thinned(data), color=color, alpha=0.22, linewidth=1)
    axes.plot(*thinned((steps, smooth(values, over))), color=color, label=label)


def _panel(axes: Axes, train: Series, held_out: Series, title: str) -> None:
    over = window(len(train[0]))
    if len(train[0]):
        trend(axes, train, BLUE, f"training, mean of {over} records" if over > 1 else "training")
    if len(held_out[0]):
        axes.plot(*held_out, color=ORANGE, marker="o", markersize=4, label="held out")
    axes.set_title(title)
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _guessing(axes: Axes, value: float) -> None:
    axes.axhline(value, color=GREY, linestyle=":", linewidth=1.5, label="guessing")


def _percent(data: Series) -> Series:
    return data[0], 100.0 * data[1]
