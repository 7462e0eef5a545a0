"""How many calls an annotator gets at once, when it gets none for a while, and when it is given up."""

import asyncio
import random
import time
from collections.abc import Callable
from types import TracebackType

HOPELESS = 4
"""Requests in a row whose every try failed, after which an annotator is given up."""

PATIENCE = 1800.0
"""Seconds for which an annotator may answer nothing but "too many requests" before it is given up."""

LONGEST_PAUSE = 3600.0
"""Seconds that a server may ask to wait; one that asks for more is given up."""

LONGEST_BACKOFF = 60.0
"""Seconds between tries at most, where the server asks for no time."""


class GivenUp(Exception):
    """An annotator is not asked any more; `str()` says why."""


class Gate:
    """The way to one annotator, in the order of asking.

    "Too many requests" closes it for all, and halves what may be under way; every answer widens it again a little.

    Args:
        name: of the annotator.
        concurrency: calls under way at most.
        say: is told of pauses and of giving up.
    """

    def __init__(self, name: str, concurrency: int, say: Callable[[str], None]) -> None:
        self._name, self._most, self._say = name, concurrency, say
        self._limit, self._running = float(concurrency), 0
        self._turn, self._changed = asyncio.Lock(), asyncio.Event()
        self._closed_until = self._last_answer = 0.0
        self.reopen()

    def reopen(self) -> None:
        """Tries an annotator again that was given up."""
        self.given_up: str | None = None
        self._failed = self._rounds = 0
        self._limited_since: float | None = None
        self._stopping = False

    def stop(self) -> None:
        """Lets nobody in until `reopen`."""
        self._stopping = True
        self._changed.set()

    async def __aenter__(self) -> None:
        """Waits for a place. Raises GivenUp."""
        async with self._turn:
            while not self._stopping and self.given_up is None:
                pause = self._closed_until - time.monotonic()
                if pause <= 0 and self._running < int(self._limit):
                    break
                self._changed.clear()
                try:
                    await asyncio.wait_for(self._changed.wait(), pause if pause > 0 else None)
                except TimeoutError:
                    continue
            if self.given_up is not None:
                raise GivenUp(self.given_up)
            self._running += 1

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._running -= 1
        self._changed.set()

    def answered(self) -> None:
        """A call was answered."""
        self._last_answer = time.monotonic()
        self._failed = self._rounds = 0
        self._limited_since = None
        self._limit = min(self._most, self._limit + 1 / self._limit)
        self._changed.set()

    def exhausted(self, began: float, unreachable: bool, why: str) -> None:
        """All tries of a request, the first at the time `began` (monotonic), failed, the last one with these words."""
        self._failed += 1
        if unreachable and self._last_answer < began:
            self.give_up(why)
        elif self._failed >= HOPELESS:
            self.give_up(f"{self._failed} requests in a row failed, the last one with: {why}")

    def limited(self, began: float, pause: float | None, why: str) -> None:
        """A call that began at this time (monotonic) was one too many; the server asks for a pause, or leaves it open."""
        now = time.monotonic()
        if pause is not None and pause > LONGEST_PAUSE:
            self.give_up(f"the server asks for a pause of {pause / 3600:.1f} hours ({why})")
            return
        self._limited_since = began if self._limited_since is None else self._limited_since
        if now - self._limited_since > PATIENCE:
            self.give_up(f"for {(now - self._limited_since) / 60:.0f} minutes it took no request ({why})")
            return
        if began >= self._closed_until:  # the first of those that were under way together
            self._limit = max(1.0, self._limit / 2)
            self._rounds += 1
        until = now + (backoff(self._rounds - 1) if pause is None else pause)
        if until > self._closed_until:
            self._closed_until = until
            self._say(f"{self._name}: {why}; it gets no requests for {until - now:.1f} s")

    def give_up(self, why: str) -> None:
        """Nobody is let in any more."""
        if self.given_up is None:
            self.given_up = why
            self._say(f"{self._name} is given up: {why}; the others go on without it")
            self._changed.set()


def backoff(tries: int) -> float:
    """Seconds to wait after so many further tries: twice as long each time, with chance so that not all come at once."""
    return random.uniform(0.5, 1.0) * min(LONGEST_BACKOFF, 2.0**tries)
