"""What preparing tells: the account of every record, the figures of the store, and a picture of its lengths."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from rich import progress as rich_progress
from rich.console import Console
from rich.table import Table

from skyrm_jax.data.files import Source
from skyrm_jax.data.readers import Chunk
from skyrm_jax.data.store import QUARANTINE, Store
from skyrm_jax.prepare.shard import KEPT, READ, TRUNCATED
from skyrm_jax.report.style import BLACK, BLUE, ORANGE, canvas

PICTURE = "lengths.png"


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


def lengths_plot(rows: Sequence[np.ndarray], path: Path) -> None:
    """A histogram of the longest conversation of each comparison, and of the trees, to the image `path`."""
    longest, tokens = (np.concatenate([part[name] for part in rows]) for name in ("longest", "tokens"))
    edges = np.geomspace(max(1, int(min(longest.min(), tokens.min()))), int(max(longest.max(), tokens.max())) + 1, 60)
    with canvas(path, panels=1, width=7, height=4) as (figure, (axes,)):
        for values, colour, name in (
            (longest, BLUE, "longest conversation"),
            (tokens, ORANGE, "tree: prompt once, then all"),
        ):
            counts, _ = np.histogram(values, edges)
            axes.stairs(counts, edges, color=colour, label=f"{name}, mean {values.mean():,.0f}", linewidth=1.6)
        axes.set_xscale("log")
        axes.set_xlabel("tokens")
        axes.set_ylabel("comparisons")
        axes.set_title(f"Lengths of {len(longest):,} comparisons", color=BLACK)
        figure.legend(loc="outside lower center", ncols=2)


def statistics(store: Store) -> dict[str, float]:
    """Figures of a store: comparisons, tokens, what sharing the prompts saves, lengths of conversations."""
    totals, index = store.meta["totals"], store.index
    longest = index.column("longest")
    turns = {int(length): count for length, count in store.meta["turns"].items()}
    return {
        "comparisons": len(index),
        "held out": len(index.held_out),
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
    counts: dict[str, dict[str, int]] = store.meta["counts"]
    if len(counts) > 1:
        counts = counts | {"all": dict(sum(map(Counter, counts.values()), Counter()))}
    table = Table("file", "records", "what became of them", title="What became of every record")
    table.columns[1].justify = "right"
    for file, outcomes in counts.items():
        table.add_section()
        for outcome in sorted(outcomes, key=lambda o: (o != READ, o != KEPT, o != TRUNCATED)):
            name = Path(file).name if outcome == READ else ""
            words = f"  of these {outcome}" if outcome == TRUNCATED else outcome
            table.add_row(name, f"{outcomes[outcome]:,}", words)
    console.print(table)
    figures = Table(title="The store", show_header=False)
    for name, value in statistics(store).items():
        figures.add_row(name, f"{value:,}" if isinstance(value, int) else f"{value:,.2f}")
    console.print(figures)
    quarantine = Path(store.directory, QUARANTINE)
    if quarantine.exists():
        console.print(f"records put aside, with reasons: {quarantine}", soft_wrap=True)
    console.print(f"store: {store.directory}", soft_wrap=True)
