"""Checkpoints of a run while it trains: written in the background, sealed, and tried again when that fails.

Orbax writes to `checkpoints/STEP`; when every process has written, process 0 seals the folder, which is what makes it a
checkpoint, and only then removes older ones. So the last good checkpoint outlives any failure of the next.
"""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from types import TracebackType
from typing import Any

import optax
import orbax.checkpoint as ocp
from etils import epath
from jax.sharding import Mesh

from skyrm_jax import checkpoint, distributed
from skyrm_jax.errors import UserError
from skyrm_jax.models.architecture import Architecture
from skyrm_jax.models.parameters import abstract
from skyrm_jax.seal import SEAL, damage, is_remote, is_sealed, listed, seal
from skyrm_jax.train.step import TrainState, abstract_moments

PATIENCE = 15.0
"""Seconds from a failed save to the next try; twice as many after each further failure."""
TRIES = 6
"""After how many failed saves in a row the run's last one is given up."""
SLOW = 120.0
"""Seconds that training waits at a checkpoint for the one before, which a store that fails can hold up for long."""
OTHERS = 600
"""Seconds that a process waits in a save for the others."""

DAMAGED = ".damaged"


class Saver:
    """Starts checkpoints and sees to them at the end of every step; use it in a `with` block.

    Args:
        out: the run's folder.
        keep: finished checkpoints that are kept.
        say: told, in a line, what the user should know.
        saved: step of the checkpoint that the run went on from.
    """

    def __init__(self, out: str, keep: int, say: Callable[[str], None], saved: int | None = None) -> None:
        self._out, self._keep, self._say = out, keep, say
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._writers = 0
        self._writer = self._new_writer()
        self._running: tuple[int, Future[None]] | None = None
        self._failures = 0
        self._again = 0.0  # when
        self.saved = saved
        """Step of the newest finished checkpoint."""

    def __enter__(self) -> "Saver":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(wait=error is None)

    def save(self, step: int, state: TrainState, architecture: Architecture, meta: dict[str, Any]) -> None:
        """Starts to write the state after `step` steps; returns when the arrays are copied off the devices.

        While the checkpoint before is still being written, this one is left out.
        """
        self._settle(SLOW)
        if self._running is not None:
            self._say(
                f"the checkpoint of step {step} is left out: that of step {self._running[0]} is still being written; "
                "training goes on"
            )
        if self._running is not None or self.saved == step:
            return
        if self._failures and distributed.is_writer():  # Orbax refuses a folder that is there
            self._thread.submit(remove_leftovers, self._out).result()
        folder = checkpoint.folder_of(self._out, step)
        items = checkpoint.items(architecture, state.params, meta, optimizer=state.moments)
        try:
            self._writer.save(folder, args=items)
            work = self._thread.submit(self._finish, self._writer, folder, step)
        except Exception as error:  # whatever a file system, a store or Orbax has to say
            work = Future()
            work.set_exception(error)
        self._running = step, work

    def wants_another(self) -> bool:
        """Whether a save has failed and it is time to try again; all processes ask at the end of each step."""
        self._settle(0)
        if not self._failures or self._running is not None:
            return False
        return bool(distributed.everybodys([time.monotonic() >= self._again])[0, 0])

    def finish(self, step: int, save: Callable[[], None]) -> None:
        """Waits for the save under way, and calls `save`, of `step`, until that is done.

        Raises:
            UserError: it failed too often.
        """
        self._settle(None)
        while self._failures or self.saved != step:
            if self._failures >= TRIES:
                last = "none" if self.saved is None else f"that of step {self.saved}"
                raise UserError(
                    f"{self._out}: the last checkpoint could not be written; the newest of this run is {last}. Make "
                    "room or mend the store, then start the same command again"
                )
            time.sleep(max(0.0, self._again - time.monotonic()) if self._failures else 0.0)
            save()
            self._settle(None)

    def _finish(self, writer: ocp.AsyncCheckpointer, folder: epath.Path, step: int) -> None:
        """In the background: waits until all have written, then makes the folder a checkpoint."""
        writer.wait_until_finished()
        if distributed.is_writer():
            seal(folder)
            remove_leftovers(self._out)  # of failed saves, which may have written on for a while
            self._remove_older(step)

    def _remove_older(self, step: int) -> None:
        try:
            for old in checkpoint.finished_steps(self._out)[: -self._keep]:
                if old < step:
                    folder = checkpoint.folder_of(self._out, old)
                    (folder / SEAL).unlink()  # first, so that what is half removed is no checkpoint
                    folder.rmtree()
        except Exception as error:  # gcsfs has errors of its own
            self._say(f"old checkpoints of {self._out} could not be removed ({error}); training goes on")

    def _settle(self, seconds: float | None) -> None:
        """Takes note of how the save under way ended, in all processes alike, if it ends within so many seconds."""
        if self._running is None:
            return
        step, work = self._running
        wait([work], seconds)
        done = work.done()
        error = work.exception() if done else None
        told = distributed.everybodys([done, error is not None])
        if not told[:, 0].all():
            return
        self._running = None
        if not told[:, 1].any():
            self.saved, self._failures = step, 0
            return
        self._failures += 1
        delay = PATIENCE * 2 ** (self._failures - 1)
        self._again = time.monotonic() + delay
        culprits = ", ".join(str(number) for number in told[:, 1].nonzero()[0])
        reason = distributed.first_line(error) if error is not None else f"in process {culprits}"
        self._say(
            f"the checkpoint of step {step} could NOT be written ({reason}); training goes on, the next try is in "
            f"{delay:.0f} s"
        )
        self._writer = self._new_writer()
        if distributed.is_writer():
            self._thread.submit(remove_leftovers, self._out)

    def _new_writer(self) -> ocp.AsyncCheckpointer:
        # Its barriers have names of their own: jax counts how often each process comes to a name, so that one which failed
        # before it came would be behind the others when the same step is tried again, and that try would fail too.
        self._writers += 1
        return ocp.AsyncCheckpointer(
            ocp.CompositeCheckpointHandler(),
            async_options=ocp.options.AsyncOptions(timeout_secs=OTHERS),
            multiprocessing_options=ocp.options.MultiprocessingOptions(barrier_sync_key_prefix=str(self._writers)),
        )


def remove_leftovers(out: str) -> None:
    """Removes what unfinished saves left; what cannot be removed stays."""
    with suppress(Exception):  # gcsfs has errors of its own
        for path in listed(checkpoint.folder_of(out)):
            if "orbax-checkpoint-tmp" in path.name or (path.name.isdigit() and not is_sealed(path)):
                path.rmtree()


def newest_whole(out: str, say: Callable[[str], None]) -> int | None:
    """Step of the newest undamaged checkpoint of a run, None if there is none; for process 0.

    Damaged ones, newer than it, are put aside under another name, so that their step can be saved again.
    """
    folder = checkpoint.folder_of(out)
    for step in sorted((int(path.name) for path in listed(folder) if path.name.isdigit()), reverse=True):
        fault = damage(folder / str(step))
        if fault is None:
            return step
        if is_unfinished(folder / str(step)):
            continue
        aside = next(
            place for n in range(10**6) if not (place := folder / f"{step}{DAMAGED}{f'-{n}' if n else ''}").exists()
        )
        (folder / str(step)).rename(aside)
        say(f"WARNING: the checkpoint of step {step} is NOT used: {fault}. It was put aside as {aside}")
    return None


def is_unfinished(folder: epath.Path) -> bool:
    """Whether a save was broken off in it. In a bucket Orbax writes in place, and this file when all have written."""
    return is_remote(folder) and not is_sealed(folder) and not (folder / "commit_success.txt").exists()


def restore_state(
    out: str, step: int, architecture: Architecture, optimizer: optax.GradientTransformation, mesh: Mesh
) -> TrainState:
    """The state after `step` steps, in this run's shardings, whatever mesh wrote it."""
    restored = checkpoint.restore(
        checkpoint.folder_of(out, step),
        model=abstract(architecture, mesh),
        optimizer=abstract_moments(optimizer, architecture, mesh),
    )
    return TrainState(restored["model"], restored["optimizer"])
