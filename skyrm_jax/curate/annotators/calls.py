"""Questions to annotators in, answers out, in the same order; whatever happens, no answer is paid for twice.

An event loop in a thread of its own makes the calls, so that they go on while their results are used.
"""

import asyncio
import re
import signal
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future
from concurrent.futures import wait as wait_for_first
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from skyrm_jax.curate.annotators.annotator import Annotator
from skyrm_jax.curate.annotators.budget import Budget, BudgetSpent, dollars
from skyrm_jax.curate.annotators.client import PASSING, UNSURE, Client, Outcome, misconfigured, require_openai
from skyrm_jax.curate.annotators.gate import Gate, GivenUp, backoff
from skyrm_jax.curate.annotators.ledger import Ledger, Stored, Tally, summary
from skyrm_jax.curate.annotators.request import Answer, Request, call_key
from skyrm_jax.errors import Interrupted, UserError
from skyrm_jax.folders import locked

T = TypeVar("T")

GRACE = 25.0
"""Seconds that calls under way get to end after SIGTERM or an error; who sends SIGTERM often kills after 30."""

_REFUSAL = re.compile(
    r"\b(I('|’)?m sorry|I apologi[sz]e|I (can(no|'|’)?t|cannot|won('|’)?t|must decline|am unable|am not able)|"
    r"I('|’)m (unable|not able))\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class _Failure:
    """A call got no answer; `why` in words."""

    why: str


class _Stopped(Exception):
    """No call is begun any more."""


class Calls:
    """The annotators, and the folder of their answers, open within a `with` block.

    Args:
        folder: gets calls.sqlite.
        annotators: who may be asked.
        budget: USD for all the calls ever made into this folder; None: no limit.
        say: is told, in a line each, what is worth knowing meanwhile. Default: stderr.
    """

    def __init__(
        self,
        folder: Path,
        annotators: Sequence[Annotator],
        budget: float | None = None,
        say: Callable[[str], None] | None = None,
    ) -> None:
        """Raises UserError for annotators that are the same, keys that are missing, a budget that cannot be."""
        self.annotators = {annotator.name: annotator for annotator in annotators}
        _require_different(annotators)
        if budget is not None and not 0 <= budget < float("inf"):
            raise UserError(f"the budget must be a number of USD of at least 0, not {budget}")
        if budget is not None and annotators and not any(a.price_in or a.price_out for a in annotators):
            raise UserError(
                "there is a budget, but no annotator has a price, so that it would never be spent; "
                "give price_in and price_out, or leave the budget away"
            )
        require_openai()
        for annotator in annotators:
            annotator.key()
        self._folder, self._limit = folder, budget
        self._say = say or (lambda line: print(line, file=sys.stderr, flush=True))
        self._cached: Counter[tuple[str, str]] = Counter()
        self._window = max(256, 4 * sum(annotator.concurrency for annotator in annotators))

    def __enter__(self) -> Self:
        """Raises UserError if another process works in the folder, or calls.sqlite cannot be used."""
        with ExitStack() as stack:
            stack.enter_context(locked(self._folder))
            self._ledger = Ledger(self._folder)
            stack.callback(self._ledger.close)
            self._budget = Budget(self._limit, sum(self._ledger.spent()))
            self._known = self._ledger.known()
            self._loop = asyncio.new_event_loop()
            stack.callback(self._loop.close)
            thread = threading.Thread(target=self._loop.run_forever, name="annotators", daemon=True)
            thread.start()
            stack.callback(thread.join)
            stack.callback(self._loop.call_soon_threadsafe, self._loop.stop)
            self._in_loop(self._open())
            stack.callback(lambda: self._in_loop(self._close()))
            # An error in the block may come here before it ends the generator of `ask`.
            stack.callback(self._finish, GRACE)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def ask(
        self,
        requests: Iterable[Request],
        parse: Callable[[str], T | None],
        passes: int,
        annotators: Sequence[str] | None = None,
        total: int | None = None,
    ) -> Iterator[Answer[T]]:
        """The answers, in the order of the requests, of which only a window is read ahead.

        `parse` gives None for an answer that is not valid; it is then asked again, up to `passes` times in all.
        An annotator that cannot be asked costs its own answers only. `annotators` are those whom the requests
        name (default: all), `total` is the number of requests, if known, to say what they may cost.
        To be used by one caller at a time.

        Raises:
            BudgetSpent: the budget does not allow the next call.
            UserError: an annotator is unknown or misconfigured; none of them is left; the disk is full.
            Interrupted: SIGTERM has come, and calls under way have ended.
        """
        self._in_loop(self._begin(self.names(annotators)))
        waiting: deque[Future[Answer[T]]] = deque()
        source, done, grace = iter(requests), 0, GRACE
        with _on_sigterm(lambda: self._loop.call_soon_threadsafe(self._fail, self._interrupted())):
            try:
                while True:
                    while len(waiting) < self._window and (request := next(source, None)) is not None:
                        assert self._asked.issuperset(request.annotators), request.annotators
                        job = self._resolve(request, parse, passes)
                        waiting.append(asyncio.run_coroutine_threadsafe(job, self._loop))
                    if not waiting and not self._failed.done():
                        return
                    answer = self._next(waiting)
                    done += 1
                    yield answer
            except BudgetSpent as spent:
                raise self._with_estimate(spent, None if total is None else total - done) from None
            except KeyboardInterrupt:
                self._say("waiting for calls under way; press Ctrl-C again to drop them")
                grace = max((annotator.timeout for annotator in self.annotators.values()), default=0.0)
                raise
            finally:
                if not self._loop.is_closed():
                    self._finish(grace)

    def names(self, chosen: Sequence[str] | None) -> tuple[str, ...]:
        """The chosen annotators' names, those of all by default. Raises UserError for one that is not there, or none."""
        names = tuple(self.annotators) if chosen is None else tuple(dict.fromkeys(chosen))
        unknown = [name for name in names if name not in self.annotators]
        if unknown or not names:
            raise UserError(
                f"there is no annotator {', '.join(unknown) or 'to ask'}; choose from: "
                f"{', '.join(self.annotators) or 'none (give some under annotators)'}"
            )
        return names

    def summary(self) -> list[Tally]:
        """The account of all calls in the folder, by annotator and purpose."""
        return summary(self._folder, self._cached)

    @property
    def spent(self) -> float:
        """USD, of all runs in the folder, with what calls without an answer may have cost."""
        return self._budget.spent

    @property
    def given_up(self) -> dict[str, str]:
        """Annotators that were given up in the last `ask`, and why."""
        return {name: gate.given_up for name, gate in self._gates.items() if gate.given_up is not None}

    def text(self, call: str) -> str | None:
        """What was answered to a call, by its key (`Answer.call`)."""

        async def look() -> Stored | None:
            return self._ledger.answer(call)

        stored = self._in_loop(look())
        return None if stored is None else stored.text or stored.refusal

    def _finish(self, grace: float) -> None:
        """Has calls under way end; a second Ctrl-C drops them."""
        try:
            self._in_loop(self._end(grace))
        except KeyboardInterrupt:
            self._in_loop(self._end(0.0))
            raise

    def _in_loop(self, job: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(job, self._loop).result()

    def _next(self, waiting: deque[Future[Answer[T]]]) -> Answer[T]:
        """The next answer, or the error that ends it all, whichever comes first."""
        if waiting and not waiting[0].done():
            either: list[Future[Any]] = [waiting[0], self._failed]
            wait_for_first(either, return_when=FIRST_COMPLETED)
        if self._failed.done():
            self._failed.result()
        return waiting.popleft().result()

    def _with_estimate(self, spent: BudgetSpent, left: int | None) -> BudgetSpent:
        """Says about how much the requests that are left would cost, from what calls have cost in this run."""
        if not left or not self._paid_calls:
            return spent
        more = left * self._paid_usd / self._paid_calls
        words = f"; the {left:,} requests that are left need about {dollars(more)}"
        return BudgetSpent(spent.spent, spent.limit, spent.missing, words)

    def _interrupted(self) -> Interrupted:
        return Interrupted(
            f"told to stop; every answer is kept in {self._ledger.path}: run the same command again to go on"
        )

    # What follows runs in the event loop.

    async def _open(self) -> None:
        self._clients = {name: Client(annotator) for name, annotator in self.annotators.items()}
        self._gates = {name: Gate(name, a.concurrency, self._say) for name, a in self.annotators.items()}
        self._under_way: dict[str, asyncio.Task[Stored | _Failure]] = {}
        self._jobs: set[asyncio.Task[Any]] = set()
        self._stopping = asyncio.Event()

    async def _close(self) -> None:
        for client in self._clients.values():
            await client.close()
        await self._loop.shutdown_default_executor()

    async def _begin(self, names: Sequence[str]) -> None:
        for gate in self._gates.values():
            gate.reopen()
        self._stopping.clear()
        self._failed: Future[None] = Future()
        self._asked = set(names)
        self._noted: set[str] = set()
        self._paid_calls, self._paid_usd = 0, 0.0

    async def _end(self, grace: float) -> None:
        """No call is begun any more; those under way get `grace` seconds."""
        self._stop()
        for seconds in (grace, None):
            if self._under_way:
                _, late = await asyncio.wait(self._under_way.values(), timeout=seconds)
                for task in late:
                    task.cancel()
        if self._jobs:
            await asyncio.wait(self._jobs)

    def _stop(self) -> None:
        self._stopping.set()
        for gate in self._gates.values():
            gate.stop()

    def _fail(self, error: BaseException) -> None:
        """`ask` is to raise this, now."""
        if not self._failed.done():
            self._failed.set_exception(error)
        self._stop()

    async def _resolve(self, request: Request, parse: Callable[[str], T | None], passes: int) -> Answer[T]:
        job = asyncio.current_task()
        assert job is not None
        self._jobs.add(job)
        job.add_done_callback(self._jobs.discard)
        try:
            return await self._answer(request, parse, passes)
        except (_Stopped, asyncio.CancelledError):
            raise
        except BaseException as error:
            self._fail(error)
            raise

    async def _answer(self, request: Request, parse: Callable[[str], T | None], passes: int) -> Answer[T]:
        """Asks one annotator after the other until there is a valid answer."""
        error, last, attempts, name = "", "", 0, ""
        for name in request.annotators:
            for attempt in range(passes):
                key = call_key(self.annotators[name], request, attempt)
                found = await self._find(name, request, key)
                if isinstance(found, _Failure):
                    error = found.why
                    await self._require_any_left(name)
                    break
                attempts, last = attempts + 1, key
                value = None if found.refusal else parse(found.text)
                status = "ok" if value is not None else _unusable(found)
                if found.status != status:
                    await self._ledger.mark(found.call, status)
                if value is not None:
                    return Answer(request, value, "", name, attempts, key)
                error = f"{status}: {found.refusal}" if found.refusal else status
                if found.refusal:
                    break
        return Answer(request, None, error, name, attempts, last)

    async def _require_any_left(self, name: str) -> None:
        """Notes if an annotator was given up. Raises UserError if it was the last."""
        given_up = self.given_up
        if name in given_up and name not in self._noted:
            self._noted.add(name)
            await self._ledger.note(name, given_up[name])
        if self._asked <= given_up.keys():
            words = "; ".join(f"{one} ({self.annotators[one].url}): {given_up[one]}" for one in sorted(self._asked))
            raise UserError(f"no annotator is left: {words}; start them, or check base_url, and run again")

    async def _find(self, name: str, request: Request, key: str) -> Stored | _Failure:
        """The answer kept under a key, or that of the call under way for it, or that of a call made for it."""
        stored = self._ledger.answer(key)
        if stored is not None:
            self._cached[name, request.purpose] += 1
            return stored
        task = self._under_way.get(key)
        if task is None:
            task = asyncio.create_task(self._pay(name, request, key))
            self._under_way[key] = task
            task.add_done_callback(lambda _: self._under_way.pop(key, None))
        return await asyncio.shield(task)

    async def _pay(self, name: str, request: Request, key: str) -> Stored | _Failure:
        """Calls until there is an answer, or none is to be had."""
        gate = self._gates[name]
        try:
            while True:
                async with gate:  # left, for a refusal to take it, to come back when the gate is open again
                    found = await self._try(name, request, key)
                if found is not None:
                    return found
        except GivenUp as given_up:
            return _Failure(f"given up: {given_up}")

    async def _try(self, name: str, request: Request, key: str) -> Stored | _Failure | None:
        """The same within the gate; None when there were too many requests.

        While it waits for its next try it keeps its place, so that a broken server does not see all requests.
        """
        annotator, gate = self.annotators[name], self._gates[name]
        most, first = annotator.most(request.messages), time.monotonic()
        for tries in count():
            async with self._budget.hold(most) as hold:
                if self._stopping.is_set():
                    raise _Stopped
                began, hold.cost = time.monotonic(), most
                hold.cost, outcome, stored = await self._call(name, request, key, most)
            if stored is not None:
                gate.answered()
                self._known.add(name)
                return stored
            if outcome.status == "misconfigured" or (outcome.status == "rejected" and name not in self._known):
                error = misconfigured(annotator, outcome)
                self._fail(error)  # before anybody gets this place
                raise error
            if outcome.status == "rate_limited":
                gate.limited(began, outcome.pause, outcome.message)
                return None
            if outcome.status not in PASSING or tries == annotator.retries or gate.given_up is not None:
                break
            await self._pause(backoff(tries))
        if outcome.status == "exhausted":
            gate.give_up(outcome.message)
        elif outcome.status in PASSING or outcome.status == "rejected":
            gate.exhausted(first, outcome.status == "unreachable", outcome.said)
        return _Failure(outcome.said)

    async def _call(self, name: str, request: Request, key: str, most: float) -> tuple[float, Outcome, Stored | None]:
        """One call, from its first line in the ledger to its last: what counts of the budget, and what came of it."""
        annotator = self.annotators[name]
        call = await self._ledger.begin(key, name, request.purpose, most)
        began = time.monotonic()
        try:
            outcome = await self._clients[name].call(request.messages)
        except asyncio.CancelledError:
            outcome = Outcome("interrupted", message="told to stop")
            await self._ledger.end(call, key, outcome, time.monotonic() - began, 0.0, most)
            raise
        usd = unsure = 0.0
        if outcome.input_tokens is not None and outcome.output_tokens is not None:
            usd = annotator.cost(outcome.input_tokens, outcome.output_tokens)
        elif outcome.paid or outcome.status in UNSURE:
            unsure = most
        stored = await self._ledger.end(call, key, outcome, time.monotonic() - began, usd, unsure)
        if stored is not None:
            self._paid_calls += 1
            self._paid_usd += usd + unsure
        return usd + unsure, outcome, stored

    async def _pause(self, seconds: float) -> None:
        """Waits, unless no call is to be begun any more."""
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            return
        raise _Stopped


def _require_different(annotators: Sequence[Annotator]) -> None:
    """Raises UserError if two have one name, or are the same in all that answers depend on: they would share them."""
    for i, one in enumerate(annotators):
        for other in annotators[:i]:
            if one.name == other.name:
                raise UserError(f"annotators: two have the name {one.name}; give each a name of its own")
            if all(getattr(one, name) == getattr(other, name) for name in ("url", "model", "sampling", "extra")):
                raise UserError(
                    f"annotators: {other.name} and {one.name} are the same model with the same settings, and "
                    "would give the same answers; remove one, and raise the number of votes instead"
                )


def _unusable(stored: Stored) -> str:
    """Why an answer that could not be parsed is of no use."""
    if stored.refusal:
        return "refused"
    if stored.finish == "length":
        return "truncated"
    return "refused" if _REFUSAL.search(stored.text[:300]) else "invalid"


class _on_sigterm:
    """Has SIGTERM do this within the block, where Python allows: in the main thread."""

    def __init__(self, action: Callable[[], Any]) -> None:
        self._action = action
        self._before: Any = None

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, lambda number, frame: self._action())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
