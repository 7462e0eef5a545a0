"""What `eval` and `score` share: a scorer's options, loading it, scoring under a progress display."""

import argparse
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from skyrm_jax.comparison import Comparison
from skyrm_jax.forms import FORMS

if TYPE_CHECKING:
    from skyrm_jax.scorer import Scorer


Advance = Callable[[int], None]
"""Told how many comparisons were just finished."""

QUIET = 15.0
"""Seconds between lines where there is no terminal to draw a bar on."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that say how files are read and how a model scores."""
    parser.add_argument("--form", default="auto", help=f"shape of the records: auto, {', '.join(FORMS)}")
    parser.add_argument(
        "--max-bad-share",
        type=float,
        default=0.05,
        metavar="SHARE",
        help="stop if more of the records are bad (default 0.05)",
    )
    parser.add_argument(
        "--max-tokens",
        type=int,
        default=16_384,
        metavar="N",
        help="longest conversation; longer ones lose the beginning of their prompt (default 16384)",
    )
    parser.add_argument(
        "--dtype",
        choices=("bfloat16", "float32"),
        default="bfloat16",
        help="of matrix operands (default bfloat16)",
    )
    parser.add_argument("--template", help="chat template, a file or a built-in name, instead of the checkpoint's own")


def load_scorer(args: argparse.Namespace, source: str) -> "Scorer":
    """The scorer of `source` with the shared options. Raises UserError as `Scorer.load` does."""
    from skyrm_jax.scorer import Scorer  # imports JAX, which help and wrong input do not need

    return Scorer.load(source, template=args.template, max_tokens=args.max_tokens, dtype=args.dtype)


def origin(scorer: "Scorer") -> dict[str, Any]:
    """What the rewards come from: the scorer's manifest and the versions of the packages under it."""
    from skyrm_jax.checkpoint import versions

    return {**scorer.manifest, "versions": versions()}


def score(
    scorer: "Scorer", comparisons: Sequence[Comparison], console: Console, label: str
) -> tuple[list[np.ndarray], dict[str, int]]:
    """The rewards of the comparisons, and what the scorer counted while it made them."""
    return counted(scorer, len(comparisons), console, label, lambda advance: scorer.score(comparisons, advance))


def counted(
    scorer: "Scorer", total: int, console: Console, label: str, work: Callable[[Advance], list[np.ndarray]]
) -> tuple[list[np.ndarray], dict[str, int]]:
    """The rewards that `work` makes with the scorer under a progress display, and what the scorer counted meanwhile."""
    before = Counter(scorer.counts)
    with progress(console, label, total) as advance:
        rewards = work(advance)
    return rewards, {name: value - before[name] for name, value in scorer.counts.items()}


@contextmanager
def progress(console: Console, label: str, total: int) -> Iterator[Advance]:
    """Shows how far the scoring is; call what it gives with the number of comparisons just finished.

    A bar with ETA on a terminal, elsewhere a line every QUIET seconds.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("ETA"))
    said = time.monotonic()
    with Progress(
        *columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task(label, total=total)

        def advance(finished: int) -> None:
            nonlocal said
            bar.update(task, advance=finished)
            if not console.is_terminal and time.monotonic() - said > QUIET:
                said = time.monotonic()
                console.print(f"{label}: {bar.tasks[0].completed:,.0f} of {total:,}", markup=False)

        yield advance
