"""A profile of some steps, for TensorBoard or xprof."""

from pathlib import Path
from types import TracebackType

import jax


class Profile:
    """Traces the steps from `first` to `last` of a run, both counted from 1; use it in a `with` block.

    Args:
        steps: (first, last), or None for no profile.
        folder: where `jax.profiler` writes it, every process its own file.
    """

    def __init__(self, steps: list[int] | None, folder: Path) -> None:
        self._first, self._last = steps or (0, 0)
        self._folder, self._tracing = folder, False

    def __enter__(self) -> "Profile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def before(self, step: int) -> None:
        """To be called as `step` begins."""
        if self._first and step == self._first:
            jax.profiler.start_trace(str(self._folder))
            self._tracing = True

    def after(self, step: int) -> None:
        """To be called when `step` is computed."""
        if step == self._last:
            self._stop()

    def _stop(self) -> None:
        if self._tracing:
            self._tracing = False
            jax.profiler.stop_trace()
