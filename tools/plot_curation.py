"""The results of `experiment_curation` as a picture: accuracy by what a model was trained on, and by how much of it.

    python tools/plot_curation.py FILE.json [FILE.json ...] --out PICTURE.png

Points are seeds, bars their mean. A panel for each file, and one for each that has a curve.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from skyrm_jax.report.curation_plots import ARMS
from skyrm_jax.report.style import BLACK, GREY, ORANGE, PURPLE, canvas

CLEAN = ("true labels", PURPLE)
OTHERS = {
    "no-humans": "without people",
    "random": "drawn at random",
    "gold": "gold model alone",
    "best": "best model alone",
    "annotators": "annotators alone",
}
WORLDS = {"synthetic": "synthetic pairs", "alpaca_eval": "alpaca_eval"}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    reports = [json.loads(path.read_text(encoding="utf-8")) for path in args.files]
    panels = [(arms, report) for report in reports]
    panels += [(curves, report) for report in reports if "curve" in report["seeds"][0]]
    with canvas(args.out, len(panels), 5.2 * len(panels), 3.4) as (_, axes):
        for (draw, report), of in zip(panels, axes, strict=True):
            draw(of, report)


def arms(axes: Axes, report: dict[str, Any]) -> None:
    """Accuracy of the models of all arms."""
    styles = {name: style[:2] for name, style in ARMS.items()} | {"clean": CLEAN}
    rows = [
        (words, color, [seed["accuracy"][name] for seed in report["seeds"]]) for name, (words, color) in styles.items()
    ]
    for name in report["seeds"][0]["others"]:
        values = [seed["others"][name]["accuracy"] for seed in report["seeds"] if name in seed["others"]]
        rows.append((f"corrected, {OTHERS[name]}", ORANGE, values))
    least = min(min(values) for *_, values in rows)
    for row, (_, color, values) in enumerate(rows):
        mean = float(np.mean(values))
        axes.barh(row, mean, 0.6, color=color, alpha=0.35)
        axes.plot(values, [row] * len(values), "o", color=color, markersize=5)
        axes.text(max(values) + 0.3, row, f"{mean:.1f}", va="center", color=BLACK)
    axes.set_yticks(range(len(rows)), [words for words, *_ in rows])
    axes.invert_yaxis()
    axes.set_xlim(max(0.0, np.floor(least / 5) * 5 - 5), 100)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("held-out pairs right, %")
    axes.set_title(f"{WORLDS[report['world']]}: trained on")


def curves(axes: Axes, report: dict[str, Any]) -> None:
    """Accuracy against the number of pairs; the dashed line is all of them as they came."""
    seeds = [seed for seed in report["seeds"] if "curve" in seed]
    for name in ("original", "corrected"):
        words, color, marker = ARMS[name]
        points = np.array(
            [
                [(one["pairs"], one["accuracy"]) for one in seed["curve"] if one["set"] == name]
                + [(seed["pairs"][name], seed["accuracy"][name])]
                for seed in seeds
            ]
        ).mean(axis=0)
        axes.plot(points[:, 0], points[:, 1], marker=marker, color=color, label=words)
    raw = float(np.mean([seed["accuracy"]["original"] for seed in seeds]))
    axes.axhline(raw, color=GREY, linestyle="--", linewidth=1)
    axes.set_xscale("log")
    axes.set_xlabel("pairs trained on")
    axes.set_ylabel("held-out pairs right, %")
    axes.legend()
    axes.set_title(f"{WORLDS[report['world']]}: how many pairs")


if __name__ == "__main__":
    main()
