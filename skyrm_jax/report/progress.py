"""How far a long piece of work is, on a terminal or in a log."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Advance = Callable[[int], None]
"""Told how many things were just finished."""

QUIET = 15.0
"""Seconds between lines where there is no terminal to draw a bar on."""
RECENT = 600.0
"""Seconds whose speed tells how long the rest will take."""


@contextmanager
def progress(console: Console, label: str, total: int, done: int = 0) -> Iterator[Advance]:
    """Shows how far the work is; call what it gives with the number of things just finished.

    `done` of the `total` were finished before.

    A bar on a terminal, elsewhere a line every QUIET seconds; both with the time left, once it is known.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("ETA"))
    said = console.get_time()
    with Progress(
        *columns,
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
        speed_estimate_period=RECENT,
    ) as bar:
        task = bar.add_task(label, total=total, completed=done)

        def advance(finished: int) -> None:
            nonlocal said
            bar.update(task, advance=finished)
            if not console.is_terminal and console.get_time() - said > QUIET:
                said = console.get_time()
                left = bar.tasks[0].time_remaining
                eta = f", ETA {timedelta(seconds=left)}" if left else ""
                console.print(f"{label}: {bar.tasks[0].completed:,.0f} of {total:,}{eta}", markup=False)

        yield advance
