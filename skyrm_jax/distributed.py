"""Several processes as one run: how they find each other, what they tell each other, and which of them writes.

By hand every process is given JAX_COORDINATOR_ADDRESS (host:port of process 0), JAX_NUM_PROCESSES and JAX_PROCESS_ID.
On TPU VMs, on GKE and under Slurm's `srun` jax finds them by itself. Other settings, in seconds:
SKYRM_START_TIMEOUT (300) to wait for the others, SKYRM_HEARTBEAT_TIMEOUT (100) after which a silent process is given up.
"""

import os
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from glob import glob
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from rich.console import Console

from skyrm_jax.errors import RESTART, Interrupted, UserError, user_message

BY_HAND = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")

ROLL_CALL = 5.0
"""Seconds that a failing process waits for a word of each other one."""


def start() -> None:
    """Joins the other processes of this run, if there are any. Call it before anything asks jax for a device.

    Where they do not come in time, or the coordinator cannot be reached, the process ends with a message and code 1.

    Raises:
        UserError: a setting is missing or wrong.
    """
    given = _settings()
    if given is None or jax.distributed.is_initialized():
        return
    wait, heartbeat = _seconds("SKYRM_START_TIMEOUT", 300), _seconds("SKYRM_HEARTBEAT_TIMEOUT", 100)
    who = f"process {given['process_id']} of {given['num_processes']}" if given else "this process"
    advice = (
        f"see that all of them were started, that the coordinator's port is open, and that {', '.join(BY_HAND)} are right "
        "where you gave them"
    )

    def give_up() -> None:
        print(f"error: {who} did not meet the others within {wait} s; {advice}", file=sys.stderr, flush=True)
        os._exit(1)

    # jax's own time-out aborts the process with a stack trace that says nothing of this.
    timer = threading.Timer(wait, give_up)
    timer.daemon = True
    timer.start()
    try:
        jax.distributed.initialize(**given, initialization_timeout=2 * wait, heartbeat_timeout_seconds=heartbeat)
    except ValueError as error:
        raise UserError(f"{who} did not meet the others ({first_line(error)}); {advice}") from error
    except (RuntimeError, OSError) as error:  # may be over at the next start: not a UserError's code
        print(f"error: {who} did not meet the others ({first_line(error)}); {advice}", file=sys.stderr, flush=True)
        sys.exit(1)
    finally:
        timer.cancel()


def _settings() -> dict[str, Any] | None:
    """Arguments of `jax.distributed.initialize`, empty where it finds them itself; None for a process on its own."""
    present = [name for name in BY_HAND if os.environ.get(name)]
    if present:
        if len(present) < len(BY_HAND):
            missing = ", ".join(name for name in BY_HAND if name not in present)
            raise UserError(f"{' and '.join(present)} given without {missing}; give all three, or none")
        address, count, number = (os.environ[name] for name in BY_HAND)
        if not (count.isdecimal() and number.isdecimal() and int(number) < int(count)):
            raise UserError(
                f"JAX_PROCESS_ID must be a number from 0 to JAX_NUM_PROCESSES - 1; they are {number!r} and {count!r}"
            )
        return {"coordinator_address": address, "num_processes": int(count), "process_id": int(number)}
    # A batch script's own shell has Slurm's variables too; only inside a step that srun started are there others.
    if int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        return {}
    has_tpu = glob("/dev/accel[0-9]*") or glob("/dev/vfio/[0-9]*")
    if has_tpu and "tpu" in os.environ.get("JAX_PLATFORMS", "tpu"):
        return {}
    return None


def _seconds(name: str, default: int) -> int:
    given = os.environ.get(name, str(default))
    if not given.isdecimal() or int(given) < 1:
        raise UserError(f"{name} must be a whole number of seconds, not {given!r}")
    return int(given)


def several() -> bool:
    """Whether this run has other processes."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def is_writer() -> bool:
    """Whether this process writes what all have in common: process 0."""
    return not several() or jax.process_index() == 0


def console(given: Console | None = None) -> Console:
    """Where this process tells what all would tell alike: nowhere, but for process 0."""
    return (given or Console(stderr=True)) if is_writer() else Console(quiet=True)


def wait_for_all(where: str) -> None:
    """Returns when every process has come here."""
    if several():
        multihost_utils.sync_global_devices(where)


def from_writer(number: int) -> int:
    """What the writing process says."""
    return int(multihost_utils.broadcast_one_to_all(np.int64(number))) if several() else number


def all_from_writer(numbers: Sequence[int]) -> list[int]:
    """The numbers that the writing process gives, however many; what the others give is nothing to it."""
    if not several():
        return list(numbers)
    count = from_writer(len(numbers))
    if not count:
        return []
    mine = np.array(numbers if is_writer() else [0] * count, np.int64)
    return [int(one) for one in multihost_utils.broadcast_one_to_all(mine)]


def everybodys(values: list[bool]) -> np.ndarray:
    """bool[processes, n]: what each process says; called by all of them alike."""
    mine = np.array(values)
    return multihost_utils.process_allgather(mine).reshape(-1, len(values)) if several() else mine[None]


def post(key: str, value: str) -> None:
    """Leaves a word for the other processes, over the coordinator: it arrives even while devices wait."""
    client = _client()
    if client is not None:
        client.key_value_set(f"skyrm/{key}", value, allow_overwrite=True)


def posted(key: str, seconds: float) -> str | None:
    """The word that a process left under this key, None if there is none after so many seconds."""
    client = _client()
    try:
        return None if client is None else client.blocking_key_value_get(f"skyrm/{key}", int(1000 * seconds))
    except jax.errors.JaxRuntimeError:
        return None


def roll_call(word: str, seconds: float) -> str:
    """What each process is doing, of those that come to this call within so many seconds; the others are named too."""
    me = jax.process_index()
    post(f"roll/{me}", word)
    words = {n: word if n == me else posted(f"roll/{n}", seconds) for n in range(jax.process_count())}
    return "; ".join(f"process {n} {f'is {word}' if word else 'does not answer'}" for n, word in words.items())


@contextmanager
def failing_together() -> Iterator[None]:
    """Ends this process of several at once when it fails, so that the others do not wait for it; tells why, and for whom.

    A clean end would wait for all of them. On its own a process just raises.
    """
    try:
        yield
    except Interrupted:
        raise
    except BaseException as error:
        if not several():
            raise
        if isinstance(error, jax.errors.JaxRuntimeError):
            # As a rule another process is gone: they meet here, but for that one.
            others = roll_call("stopping because of such an error", ROLL_CALL)
            say(f"error: {first_line(error)}; {others}. To be started again from the last checkpoint")
            code = RESTART
        else:
            message = user_message(error)
            if message is None or os.environ.get("SKYRM_TRACEBACK") == "1":
                traceback.print_exception(error)
            say(f"error: {message or first_line(error)}")
            code = 1 if message is None else 2
        sys.stderr.flush()
        os._exit(code)


def first_line(error: BaseException) -> str:
    """Of what an error says, or its name where it says nothing."""
    return (str(error).splitlines() or [repr(error)])[0]


def _client() -> Any:
    """The coordinator's client. jax has no public name for it; orbax and others take it from here too."""
    from jax._src import distributed

    return distributed.global_state.client


def say(text: str) -> None:
    """A line on stderr that names this process, if there are several."""
    who = f"[process {jax.process_index()} of {jax.process_count()}] " if several() else ""
    print(f"{who}{text}", file=sys.stderr, flush=True)
