"""What a run shows and writes of itself: metrics, plots, the run's page. Process 0 alone does."""

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from etils import epath
from rich.console import Console

from skyrm_jax import distributed
from skyrm_jax.config import TrainConfig
from skyrm_jax.data.remote import cache_folder
from skyrm_jax.report.plots import training_plot
from skyrm_jax.report.run_page import PAGE, PLOT, run_page
from skyrm_jax.seal import is_remote
from skyrm_jax.train.metrics import METRICS_FILE, MetricsLog, ProgressDisplay
from skyrm_jax.train.tracker import Tracker

INTERVAL = 60.0
"""Seconds between two drawings of the plots."""


class Logs:
    """Takes a record after every step; use it in a `with` block.

    Args:
        config: of the run.
        start, steps: the steps done already, and those of the whole run.
        began: when the run was first started, in seconds since 1970.
        console: for the progress display.
    """

    def __init__(self, config: TrainConfig, start: int, steps: int, began: float, console: Console) -> None:
        self._config, self._start, self._steps, self._began = config, start, steps, began
        self._console = console
        self._writes = distributed.is_writer()
        self._stack = ExitStack()
        self._published = time.monotonic()
        self._copier = ThreadPoolExecutor(1, "logs")  # a store that does not answer holds no step up
        self._copying: Future[None] | None = None
        self._remote = is_remote(config.run.out)
        self.folder = log_folder(config.run.out)
        """Where the files are written: `run.out`, or a folder of this machine whose files are copied there."""

    def __enter__(self) -> "Logs":
        if self._writes:
            with ExitStack() as opening:  # of which the second may fail
                self._fetch()
                self._metrics = MetricsLog(self.folder, self._start)
                opening.callback(self._metrics.close)
                self._tracker = opening.enter_context(Tracker(self._config, self._start))
                self._progress = opening.enter_context(ProgressDisplay(self._steps, self._start, self._console))
                self._stack = opening.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)
        self._copier.shutdown(wait=error is None)

    def write(self, step: int, record: dict[str, Any], kept: bool) -> None:
        """Shows the record of a finished step and, if it is to be `kept`, writes it."""
        if not self._writes:
            return
        clean = {name: value if value is None or math.isfinite(value) else None for name, value in record.items()}
        if kept:
            self._metrics.write(step, clean)
            self._tracker.write(step, clean)
        self._progress.show(step, record)

    def publish(self, last: bool = False) -> None:
        """Draws the plot and the page anew and, where `run.out` is remote, copies the files there.

        Once a minute at most, but for the `last` time; the records, without which a machine that is new to the run
        would leave a gap in them, are copied every time. A failure is said and no more: the run does not depend on it.
        """
        if not self._writes:
            return
        due = last or time.monotonic() - self._published >= INTERVAL
        if due:
            _try(self._draw_page)
            _try(self._draw_plot)
            self._published = time.monotonic()
        if self._remote and (last or self._copying is None or self._copying.done()):
            files = self._files() if due else [self.folder / METRICS_FILE]
            self._copying = self._copier.submit(_try, partial(self._copy, files))
            if last:
                self._copying.result()

    def _draw_page(self) -> None:
        run_page(self.folder, self._config.as_dict(), self._steps, self._began)

    def _draw_plot(self) -> None:
        metrics = self.folder / METRICS_FILE
        if metrics.stat().st_size:  # before the first record that is kept there is nothing to draw
            training_plot(metrics, self.folder / PLOT)

    def _copy(self, files: Sequence[Path]) -> None:
        for file in files:
            target = epath.Path(self._config.run.out) / str(file.relative_to(self.folder))
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())

    def _files(self) -> list[Path]:
        flat = [self.folder / name for name in (METRICS_FILE, PLOT, PAGE)]
        deep = [p for name in ("tensorboard", "non_finite", "profile") for p in (self.folder / name).rglob("*")]
        return [path for path in [*flat, *deep] if path.is_file()]

    def _fetch(self) -> None:
        """On a machine that is new to a remote run: the records so far."""
        there = epath.Path(self._config.run.out) / METRICS_FILE
        if self._remote and there.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / METRICS_FILE).write_bytes(there.read_bytes())


def _try(work: Callable[[], None]) -> None:
    try:
        work()
    except Exception as error:  # whatever matplotlib, a disk or a store has to say
        distributed.say(f"the run's plots and logs could not be written ({error}); training goes on")


def log_folder(out: str) -> Path:
    """`run.out` itself, or, for gs://bucket/run, runs/bucket/run in the cache folder."""
    return cache_folder() / "runs" / out.split("://", 1)[1] if is_remote(out) else Path(out)
