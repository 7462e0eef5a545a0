"""Checkpoints of a run while it trains: written in the background, sealed, and tried again when that fails.

Orbax writes to `checkpoints/STEP`; when every process has written, process 0 seals the folder, which is what makes it a
checkpoint, and only then removes older ones. So the last good checkpoint outlives any failure of the next.
"""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any

import jax
import optax
import orbax.checkpoint as ocp
from etils import epath
from jax.sharding import Mesh

from skyrm_jax import checkpoint, distributed
from skyrm_jax.errors import UserError
from skyrm_jax.models.architecture import Architecture
from skyrm_jax.models.parameters import abstract
from skyrm_jax.seal import SEAL, damage, files_of, seal
from skyrm_jax.train.step import TrainState, moment_shardings

PATIENCE = 15.0
"""Seconds from a failed save to the next try; twice as many after each further failure."""
TRIES = 6
"""After how many failed saves in a row the run's last one is given up."""
OTHERS = 600
"""Seconds that a process waits in a save for the others."""

DAMAGED = ".damaged"


class Saver:
    """Starts checkpoints and sees to them at the end of every step; use it in a `with` block.

    Args:
        out: the run's folder.
        keep: finished checkpoints that are kept.
        say: told, in a line, what the user should know.
    """

    def __init__(self, out: str, keep: int, say: Callable[[str], None], patience: float = PATIENCE) -> None:
        self._out, self._keep, self._say, self._patience = out, keep, say, patience
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._writer = _writer()
        self._running: tuple[int, Future[None]] | None = None
        self._failures = 0
        self._again = 0.0  # when
        self.saved: int | None = None
        """Step of the newest checkpoint that this run finished."""

    def __enter__(self) -> "Saver":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(wait=error is None)

    def save(self, step: int, state: TrainState, architecture: Architecture, meta: dict[str, Any]) -> None:
        """Starts to write the state after `step` steps; returns when the arrays are copied off the devices."""
        self._settle(wait=True)
        if self.saved == step:
            return
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
        self._settle(wait=False)
        if not self._failures or self._running is not None:
            return False
        return bool(distributed.everybodys([time.monotonic() >= self._again])[0, 0])

    def finish(self, save: Callable[[], None]) -> None:
        """Waits for the save under way, and calls `save` again while it fails.

        Raises:
            UserError: it failed too often.
        """
        self._settle(wait=True)
        while self._failures:
            if self._failures >= TRIES:
                last = "none" if self.saved is None else f"that of step {self.saved}"
                raise UserError(
                    f"{self._out}: the last checkpoint could not be written; the newest of this run is {last}. Make "
                    "room or mend the store, then start the same command again"
                )
            time.sleep(max(0.0, self._again - time.monotonic()))
            save()
            self._settle(wait=True)

    def _finish(self, writer: ocp.AsyncCheckpointer, folder: epath.Path, step: int) -> None:
        """In the background: waits until all have written, then makes the folder a checkpoint."""
        writer.wait_until_finished()
        if distributed.is_writer():
            seal(folder)
            remove_leftovers(self._out)  # of failed saves, which may have written on for a while
            for old in checkpoint.finished_steps(self._out)[: -self._keep]:
                if old < step:
                    self._remove(checkpoint.folder_of(self._out, old))

    def _remove(self, folder: epath.Path) -> None:
        try:
            (folder / SEAL).unlink()  # first, so that what is half removed is no checkpoint
            folder.rmtree()
        except OSError as error:
            self._say(f"{folder} could not be removed ({error}); training goes on")

    def _settle(self, wait: bool) -> None:
        """Takes note of how the save under way ended, in all processes alike."""
        if self._running is None:
            return
        step, work = self._running
        error = work.exception() if wait or work.done() else None
        told = distributed.everybodys([work.done(), error is not None])
        if not told[:, 0].all():
            return
        self._running = None
        if not told[:, 1].any():
            self.saved, self._failures = step, 0
            return
        self._failures += 1
        delay = self._patience * 2 ** (self._failures - 1)
        self._again = time.monotonic() + delay
        culprits = ", ".join(str(number) for number in told[:, 1].nonzero()[0])
        reason = str(error).splitlines()[0] if error is not None else f"in process {culprits}"
        self._say(
            f"the checkpoint of step {step} could NOT be written ({reason}); training goes on, the next try is in "
            f"{delay:.0f} s"
        )
        self._writer = _writer()
        if distributed.is_writer():
            remove_leftovers(self._out)


def _writer() -> ocp.AsyncCheckpointer:
    return ocp.AsyncCheckpointer(
        ocp.CompositeCheckpointHandler(), async_options=ocp.options.AsyncOptions(timeout_secs=OTHERS)
    )


def remove_leftovers(out: str) -> None:
    """Removes what unfinished saves left; what cannot be removed stays."""
    folder = checkpoint.folder_of(out)
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if "orbax-checkpoint-tmp" in path.name or (path.name.isdigit() and not checkpoint.is_sealed(path)):
            try:
                path.rmtree()
            except OSError:
                continue


def newest_whole(out: str, say: Callable[[str], None]) -> int | None:
    """Step of the newest undamaged checkpoint of a run, None if there is none; for process 0.

    Damaged ones, newer than it, are put aside under another name, so that their step can be saved again.
    """
    folder = checkpoint.folder_of(out)
    found = folder.iterdir() if folder.is_dir() else ()
    for step in sorted((int(path.name) for path in found if path.name.isdigit()), reverse=True):
        fault = damage(folder / str(step))
        if fault is None:
            return step
        aside = next(
            place for n in range(10**6) if not (place := folder / f"{step}{DAMAGED}{f'-{n}' if n else ''}").exists()
        )
        move(folder / str(step), aside)
        say(f"WARNING: the checkpoint of step {step} is NOT used: {fault}. It was put aside as {aside}")
    return None


def move(folder: epath.Path, to: epath.Path) -> None:
    """Gives a folder another name; a remote one by copying its files, as there are no folders to rename."""
    if "://" not in str(folder):
        folder.rename(to)
        return
    for name in files_of(folder):
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).copy(to / name, overwrite=True)
    folder.rmtree()


def restore_state(
    out: str, step: int, architecture: Architecture, optimizer: optax.GradientTransformation, mesh: Mesh
) -> TrainState:
    """The state after `step` steps, in this run's shardings, whatever mesh wrote it."""
    params = abstract(architecture, mesh)
    moments = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        jax.eval_shape(optimizer.init, params),
        moment_shardings(optimizer, architecture, mesh),
    )
    restored = checkpoint.restore(checkpoint.folder_of(out, step), model=params, optimizer=moments)
    return TrainState(restored["model"], restored["optimizer"])
