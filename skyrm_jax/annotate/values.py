"""What goes into the store of annotations and comes out of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from skyrm_jax.annotate.given import Choice, Given
from skyrm_jax.curate.humans.batch import Item
from skyrm_jax.errors import UserError

Role = Literal["annotator", "adjudicator"]
ROLES: tuple[Role, ...] = get_args(Role)

Reason = Literal["unknown", "not yours", "stale", "duplicate", "invalid", "nothing"]

Origin = Literal["queue", "gold", "adjudication", "imported"]
"""Why somebody was given an item: its turn in the queue, a hidden check, a split or a flag; or they answered it elsewhere."""


Waits = Literal["", "flag", "split", "reason"]


class Refused(UserError):
    """Something that the store does not do for this person; `str()` says why, in words for them.

    Attributes:
        reason: "unknown" (no such annotator or lease), "not yours", "stale" (the lease has ended), "duplicate" (it has
            been answered), "invalid" (what was given makes no sense) or "nothing" (there is nothing to undo).
    """

    def __init__(self, reason: Reason, message: str) -> None:
        self.reason = reason
        super().__init__(message)


@dataclass(frozen=True)
class Options:
    """How items are handed out.

    Args:
        overlap: answers that an item wants, if it was not imported with a number of its own.
        lease_seconds: an item that was handed out and not answered for so long goes to somebody else.
        gold_share: of the items that somebody is given, how many are checks whose verdict is known; 0 to below 1.
        seed: of sides and of the places of gold checks.
        review: show the machine's label after the answer, and demand a rationale where the two disagree.
    """

    overlap: int = 1
    lease_seconds: float = 1800.0
    gold_share: float = 0.05
    seed: int = 0
    review: bool = False

    def __post_init__(self) -> None:
        """Raises UserError naming the field."""
        if self.overlap < 1:
            raise UserError(f"overlap must be at least 1, not {self.overlap}")
        if not 1 <= self.lease_seconds < 1e9:
            raise UserError(f"lease_seconds must be at least 1, and finite, not {self.lease_seconds}")
        if not 0 <= self.gold_share < 1:
            raise UserError(f"gold_share must be from 0 to below 1, not {self.gold_share}")


@dataclass(frozen=True, slots=True)
class Annotator:
    """Somebody who answers; `name` is who they are everywhere."""

    name: str
    role: Role


@dataclass(frozen=True, slots=True)
class Revealed:
    """What is shown after the answer, in review mode.

    Attributes:
        machine: the stored label, "left" or "right" as the annotator saw them; None if it is not known.
        opinions: of others: "who", "verdict" ("left", "right" or "undecidable") and "why".
        disagrees: the answer is for the other side, so that a rationale is due.
        why: the rationale; empty while there is none.
    """

    machine: str | None
    opinions: tuple[Mapping[str, str], ...]
    disagrees: bool
    why: str = ""


@dataclass(frozen=True, slots=True)
class Shown:
    """An item in front of somebody.

    Attributes:
        lease: names this showing; answers are given to it.
        item: without opinions.
        swapped: candidate 2 is on the left.
        shown_at, expires: seconds since 1970.
        past: what they answered, or answered before and withdrew.
        answered: it is over: they have answered or flagged it.
        revealed: of an answered item, in review mode; a rationale is due if it `disagrees` and there is no `why`.
    """

    lease: str
    item: Item
    swapped: bool
    shown_at: float
    expires: float
    past: Given | None = None
    answered: bool = False
    revealed: Revealed | None = None

    @property
    def checks(self) -> tuple[Mapping[str, Any], ...]:
        """Pre-verification verdicts: "who", "candidate" (1 or 2), "verdict" ("correct", "incorrect" or "unsure"), "why"."""
        return self.item.checks


@dataclass(frozen=True, slots=True)
class Recorded:
    """An answer is kept.

    Attributes:
        answer: its number.
        needs_why: a rationale is due (`Store.explain`).
        revealed: in review mode.
    """

    answer: int
    needs_why: bool = False
    revealed: Revealed | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """How far it has come, as one annotator sees it.

    Gold checks count as items that only this annotator answers; otherwise the numbers would tell them.

    Attributes:
        answered: by them.
        waiting: for them; an estimate, for others take some of these.
        open, done, split, flagged, total: items.
    """

    answered: int
    waiting: int
    open: int
    done: int
    split: int
    flagged: int
    total: int


@dataclass(frozen=True, slots=True)
class Past:
    """Something that somebody did: an answer (`given`), or a flag (`flag` says why).

    Attributes:
        item: its name; `lease` is the showing.
        title: the beginning of the prompt's last user turn.
        time: seconds since 1970.
    """

    lease: str
    item: str
    title: str
    time: float
    given: Given | None
    flag: str | None


@dataclass(frozen=True, slots=True)
class Event:
    """A line of the log; `item` is its name, empty where there is none, and `data` depends on `kind`."""

    seq: int
    time: float
    who: str
    kind: str
    item: str
    lease: str
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class AnswerRow:
    """An answer in force, with what is known of its item.

    Attributes:
        answer: its number, which is that of its event.
        category: the item's task_category, empty where it has none.
        verdict: one of batch.VERDICTS.
        seconds: of active time; None where an answer from elsewhere does not say.
        time: since 1970, in seconds.
        why: the rationale.
        gold, machine: known verdict of a gold check, and stored label, as VERDICTS; None where not known.
        waits: what is to come before the answer counts: somebody sees to a "flag" of the item, or settles its "split";
            or whoever answered gives the "reason" that is due. Empty: nothing.
    """

    answer: int
    batch: str
    item: str
    category: str
    who: str
    choice: Choice
    verdict: str
    swapped: bool
    attributes: Mapping[str, str]
    tools: str
    links: tuple[str, ...]
    note: str
    seconds: float | None
    time: float
    why: str
    gold: str | None
    machine: str | None
    origin: Origin
    waits: Waits


@dataclass(frozen=True, slots=True)
class FlagRow:
    """A flag that was not taken back; `settled`: an adjudicator has answered the item since."""

    item: str
    batch: str
    category: str
    who: str
    why: str
    time: float
    settled: bool
