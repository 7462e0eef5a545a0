"""Batches of a few items, a clock that goes as it is told, and answers in few words."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from skyrm_jax.annotate.exchange import import_batch
from skyrm_jax.annotate.given import Given
from skyrm_jax.annotate.store import Options, Shown, Store
from skyrm_jax.comparison import Message
from skyrm_jax.curate.attributes import Attributes
from skyrm_jax.curate.humans.batch import read_items, write_batch
from skyrm_jax.curate.humans.queue import Opinion, Waiting
from skyrm_jax.curate.pair import Pair

ATTRIBUTES = Attributes("Math", "Objective", "Low", "correctness", "Check the result.")


class Clock:
    """Seconds since 1970, as far as the store knows."""

    def __init__(self) -> None:
        self.time = 1_000_000.0

    def __call__(self) -> float:
        return self.time


def waiting(count: int, attributes: Attributes | None = ATTRIBUTES, mark: str = "") -> list[Waiting]:
    """Pairs in the order of their numbers; every second one has its better response as the rejected one."""
    pairs = [
        Pair.of(
            (Message("user", f"question {mark}{n}"),),
            (Message("assistant", f"good {n}"),),
            (Message("assistant", f"bad {n}"),),
        )
        for n in range(count)
    ]
    opinion = Opinion("judge", "original", "Candidate 1 is right, candidate 2 is not.")
    return [Waiting(p.flipped() if n % 2 else p, attributes, 0.3, (opinion,)) for n, p in enumerate(pairs)]


def write(folder: Path, name: str = "b", count: int = 6, **options: Any) -> Path:
    """A batch of curation and its key; the path of the batch."""
    return write_batch(folder, name, waiting(count, mark=f"{name} "), 0, **options)


def answers_file(path: Path, batch: Path, verdicts: Sequence[str | None], who: str = "expert") -> Path:
    """Answers to the items of a batch in its order, None for none."""
    rows = [
        {"batch": item.batch, "item": item.item, "verdict": verdict, "annotator": who}
        for item, verdict in zip(read_items(batch), verdicts, strict=False)
        if verdict is not None
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def made(folder: Path, clock: Clock, count: int = 6, people: Sequence[str] = ("ann", "bob"), **options: Any) -> Store:
    """A store with one batch `b`, which a crash of the machine would hurt: only the tests of kills need more."""
    store = hasty(Store(folder / "store", Options(**{"gold_share": 0.0, **options}), clock))
    import_batch(store, write(folder, count=count))
    for who in people:
        store.annotator(who, create=True)
    return store


def hasty(store: Store) -> Store:
    """The store, no longer waiting for the disk, which takes most of its time."""
    store._db.execute("PRAGMA synchronous = OFF")
    return store


def number(shown: Shown) -> int:
    """Which of the pairs it is."""
    return int(shown.item.prompt[0].content.split()[-1])


def take(store: Store, who: str) -> Shown:
    """The next item, of which there must be one."""
    shown = store.next(who)
    assert shown is not None
    return shown


def for_candidate(shown: Shown, candidate: int, **given: Any) -> Given:
    """An answer for candidate 1 or 2; 0: undecidable."""
    if candidate == 0:
        return Given("cannot decide", **given)
    return Given("left better" if (candidate == 1) != shown.swapped else "right better", **given)


def undo(store: Store, who: str) -> Shown:
    """Takes back the last thing that somebody said."""
    return store.undo(who, store.last(who) or "")


def say(store: Store, who: str, candidate: int, **given: Any) -> Shown:
    """Takes the next item and answers it."""
    shown = take(store, who)
    store.answer(who, shown.lease, for_candidate(shown, candidate, **given))
    return shown
