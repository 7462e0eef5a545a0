"""Ways in which a run ends early: it is told to, or it is stuck."""

import os
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

from jax.experimental import multihost_utils

from skyrm_jax import distributed
from skyrm_jax.errors import RESTART


class StopSignal:
    """Whether SIGTERM has come, in any of the processes; the same answer in all of them at the same step.

    With several processes jax's preemption service listens, and has them agree on a step.
    """

    def __init__(self) -> None:
        self._told = False
        self._before: Any = None

    def __enter__(self) -> "StopSignal":
        if not distributed.several() and threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._told = True

    def reached(self, step: int) -> bool:
        """Whether to stop now that `step` steps are done; to be asked once after every step."""
        return multihost_utils.reached_preemption_sync_point(step) if distributed.several() else self._told


class Watch:
    """Ends a process of several when nothing has moved for long, saying which process keeps the others waiting.

    A process that waits in a collective cannot be told; so a thread of each looks at what it was last said to be doing.
    When that is too long ago it leaves word of it at the coordinator and reads what the others left: one that left
    nothing does not even answer.

    Args:
        seconds: how long one thing may take; 0 watches nothing.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._doing, self._until = "starting", time.monotonic() + seconds
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def __enter__(self) -> "Watch":
        if self._seconds and distributed.several():
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()

    def at(self, doing: str, compiling: bool = False) -> None:
        """What the process does from now on, in words that go after "is"; ten times as long if it compiles for it."""
        self._doing, self._until = doing, time.monotonic() + self._seconds * (10 if compiling else 1)

    def _run(self) -> None:
        pause = min(10.0, self._seconds / 10)
        while not self._over.wait(pause):
            if time.monotonic() > self._until:
                self._give_up(2 * pause)
                return

    def _give_up(self, patience: float) -> None:
        told = distributed.roll_call(self._doing, patience)
        distributed.say(
            f"error: nothing has moved for too long (run.stuck_seconds is {self._seconds:g}): {told}. "
            "Stopping, to be started again from the last checkpoint"
        )
        time.sleep(patience)  # the others read too
        os._exit(RESTART)
