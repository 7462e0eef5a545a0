"""Where a run's figures go: JSON lines, TensorBoard, and the progress display."""

import json
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text
from tensorboardX import SummaryWriter

from skyrm_jax.report.files import whole

METRICS_FILE = "metrics.jsonl"


class MetricsLog:
    """Appends records to `metrics.jsonl` and TensorBoard; a resumed run continues both without a seam.

    Args:
        directory: the run's folder.
        start: the step resumed from: records of it and later ones, from before the interruption, are dropped.
    """

    def __init__(self, directory: Path, start: int):
        self._path = directory / METRICS_FILE
        kept = [line for line in _lines(self._path) if json.loads(line)["step"] <= start]
        with whole(self._path) as temporary:
            temporary.write_text("".join(line + "\n" for line in kept))
        self._file = self._path.open("a")
        self._board = SummaryWriter(str(directory / "tensorboard"), purge_step=start + 1)

    def write(self, step: int, record: dict[str, Any]) -> None:
        """One record; `step` counts finished steps, and None is a figure that there is none of."""
        self._file.write(json.dumps({"step": step, **record}) + "\n")
        self._file.flush()
        for name, value in record.items():
            if value is not None:
                self._board.add_scalar(name, value, step)

    def close(self) -> None:
        self._file.close()
        self._board.close()


def _lines(path: Path) -> list[str]:
    """The whole lines of a file; a kill may have cut the last one short."""
    if not path.exists():
        return []
    text = path.read_text()
    return text[: text.rfind("\n") + 1].splitlines()


class _Elapsed(ProgressColumn):
    """Values that the loop puts into the task's fields."""

    def render(self, task: Task) -> Text:
        return Text(task.fields.get("figures", ""), style="cyan")


class ProgressDisplay:
    """A live bar on a terminal; elsewhere a plain line every `interval` seconds.

    Args:
        total: steps of the run.
        start: the step it starts from.
    """

    def __init__(self, total: int, start: int, console: Console, interval: float = 15.0):
        self._console, self._interval, self._total, self._start = console, interval, total, start
        self._live = console.is_terminal
        self._began = self._said = time.monotonic()
        self._progress = Progress(
            TextColumn("step {task.completed}/{task.total}"),
            BarColumn(bar_width=20),
            _Elapsed(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            console=console,
            disable=not self._live,
        )
        self._task = self._progress.add_task("train", total=total, completed=start)

    def __enter__(self) -> "ProgressDisplay":
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def show(self, step: int, record: dict[str, Any]) -> None:
        """The figures of the newest finished step."""
        figures = (
            f"loss {record['loss']:.4f}  accuracy {record['accuracy']:.3f}  "
            f"{record['pairs_per_second']:.1f} pairs/s  {record['tokens_per_second']:,.0f} tokens/s"
        )
        self._progress.update(self._task, completed=step, figures=figures)
        now = time.monotonic()
        if not self._live and (now - self._said >= self._interval or step == self._total or step == self._start + 1):
            self._said = now
            remaining = (now - self._began) / max(1, step - self._start) * (self._total - step)
            eta = f"{int(remaining) // 60}:{int(remaining) % 60:02d}"
            self._console.print(f"step {step}/{self._total}  {figures}  ETA {eta}", highlight=False, soft_wrap=True)
