"""What preparing tells: the account of every record, the figures of the store, and a picture of its lengths.

It stays in the store as report.json and lengths.png.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from jaxtyping import Shaped
from rich import progress as rich_progress
from rich.console import Console
from rich.table import Table

from skyrm_jax.data import index
from skyrm_jax.data.files import Source
from skyrm_jax.data.readers import Chunk
from skyrm_jax.data.store import QUARANTINE, Store
from skyrm_jax.prepare.shard import KEPT, PARTS, READ, TRUNCATED
from skyrm_jax.report.style import BLACK, BLUE, ORANGE, canvas

PICTURE = "lengths.png"
REPORT = "report.json"

DRAWN = {"longest": ("longest conversation", BLUE), "tokens": ("tree: prompt once, then all", ORANGE)}
"""The columns of the index whose lengths are drawn, in words and colour."""


class Progress:
    """How far preparing has come, by bytes of the sources."""

    def __init__(self, shown: rich_progress.Progress, task: rich_progress.TaskID) -> None:
        self._shown, self._task = shown, task
        self._read: dict[str, int] = {}

    def show(self, source: Source, chunk: Chunk, records: int) -> None:
        """After a chunk of a source; `records` so far in all."""
        self._read[source.name] = min(chunk.read, source.nbytes)
        elapsed = self._shown.tasks[0].elapsed or 1
        self._shown.update(
            self._task,
            completed=sum(self._read.values()),
            description=f"tokenising {source.short}",
            records=f"{records:,} records, {records / elapsed:,.0f} a second",
        )


@contextmanager
def progress(console: Console, total: int) -> Iterator[Progress]:
    """A line on the console that says what is read, how much, how fast, and when it will be done."""
    columns = [
        rich_progress.SpinnerColumn(),
        rich_progress.TextColumn("{task.description}"),
        rich_progress.TextColumn("{task.fields[records]}"),
        rich_progress.TaskProgressColumn(),
        rich_progress.TextColumn("ETA"),
        rich_progress.TimeRemainingColumn(),
    ]
    with rich_progress.Progress(*columns, console=console, transient=True) as shown:
        yield Progress(shown, shown.add_task("tokenising", total=total or None, records=""))


def write(
    folder: Path,
    counts: Mapping[str, Mapping[str, int]],
    rows: Sequence[Shaped[np.ndarray, "_"]],
    held_out: int,
    turns: Mapping[int, int],
) -> None:
    """Writes REPORT and PICTURE.

    Args:
        folder: of the store, which may not be complete yet.
        counts: for each file, what became of its records.
        rows: of the index, part by part.
        held_out: how many comparisons are.
        turns: how many comparisons have a longest conversation of so many messages.
    """
    columns = {name: np.concatenate([part[name] for part in rows]) for name in DRAWN}
    lowest = min(int(lengths.min()) for lengths in columns.values())
    highest = max(int(lengths.max()) for lengths in columns.values())
    edges = np.unique(np.geomspace(max(1, lowest), highest + 1, 60).round().astype(int))
    histograms = {name: np.histogram(lengths, edges)[0] for name, lengths in columns.items()}
    told = {
        "counts": counts,
        "store": statistics(index.totals(rows), columns["longest"], held_out, turns),
        "turns": {str(length): turns[length] for length in sorted(turns)},
        "lengths": {"edges": edges.tolist()} | {name: found.tolist() for name, found in histograms.items()},
    }
    (folder / REPORT).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    with canvas(folder / PICTURE, panels=1, width=7, height=4) as (figure, (axes,)):
        for name, (words, colour) in DRAWN.items():
            label = f"{words}, mean {columns[name].mean():,.0f}"
            axes.stairs(histograms[name], edges, color=colour, label=label, linewidth=1.6)
        axes.set_xscale("log")
        axes.set_xlabel("tokens")
        axes.set_ylabel("comparisons")
        axes.set_title(f"Lengths of {len(columns['longest']):,} comparisons", color=BLACK)
        figure.legend(loc="outside lower center", ncols=2)


def statistics(
    totals: Mapping[str, int], longest: Shaped[np.ndarray, "n"], held_out: int, turns: Mapping[int, int]
) -> dict[str, float]:
    """Figures of a store: comparisons, tokens, what sharing the prompts saves, lengths of conversations."""
    return {
        "comparisons": len(longest),
        "held out": held_out,
        "pairs": totals["pairs"],
        "tokens": totals["tokens"],
        "tokens without sharing": totals["unshared"],
        "sharing ratio": totals["unshared"] / totals["tokens"],
        "longest conversation, mean": float(longest.mean()),
        "longest conversation, median": float(np.median(longest)),
        "longest conversation, 95 %": float(np.percentile(longest, 95)),
        "longest conversation, most": totals["most_longest"],
        "messages of the longest conversation, mean": sum(n * count for n, count in turns.items())
        / max(1, sum(turns.values())),
        "messages of the longest conversation, most": max(turns, default=0),
    }


def show(store: Store, console: Console) -> None:
    """The account of the records and the figures of the store."""
    told = json.loads(Path(store.directory, REPORT).read_text(encoding="utf-8"))
    counts: dict[str, dict[str, int]] = told["counts"]
    if len(counts) > 1:
        counts = counts | {"all": dict(sum(map(Counter, counts.values()), Counter()))}
    table = Table("file", "records", "what became of them", title="What became of every record")
    table.columns[1].justify = "right"
    for file, outcomes in counts.items():
        table.add_section()
        parts = {TRUNCATED: f"  of these {TRUNCATED}"} | {part: f"  in these, {part}" for part in PARTS.values()}
        for outcome in sorted(outcomes, key=lambda o: (o != READ, o != KEPT, o not in parts)):
            name = Path(file).name if outcome == READ else ""
            words = parts.get(outcome, outcome)
            table.add_row(name, f"{outcomes[outcome]:,}", words)
    console.print(table)
    figures = Table(title="The store", show_header=False)
    for name, value in told["store"].items():
        figures.add_row(name, f"{value:,}" if isinstance(value, int) else f"{value:,.2f}")
    console.print(figures)
    quarantine = Path(store.directory, QUARANTINE)
    if quarantine.exists():
        console.print(f"records put aside, with reasons: {quarantine}", soft_wrap=True)
    console.print(f"store: {store.directory}", soft_wrap=True)
