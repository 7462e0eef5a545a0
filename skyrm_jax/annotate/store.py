"""The store: items, who answers them, and every answer, in one database.

One process serves it; others may bring batches in and take answers out beside it.

Every public method is one transaction, durable when it returns: a process killed at any time has kept whatever it has
acknowledged. Methods may be called from any thread; they take turns.
"""

import hmac
import json
import secrets
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, astuple
from hashlib import sha256
from pathlib import Path
from time import time
from typing import Any, Self

from skyrm_jax.annotate import content, events, handing
from skyrm_jax.annotate.checking import checked, legal_name, words
from skyrm_jax.annotate.given import Given, verdict
from skyrm_jax.annotate.schema import DONE, FLAGGED, GOLD, OPEN, SPLIT, connect
from skyrm_jax.annotate.values import (
    ROLES,
    Annotator,
    AnswerRow,
    Event,
    FlagRow,
    Options,
    Past,
    Progress,
    Recorded,
    Refused,
    Revealed,
    Role,
    Shown,
)
from skyrm_jax.curate.humans.batch import UNDECIDABLE, Item
from skyrm_jax.errors import UserError
from skyrm_jax.folders import locked

PAGE = 1000
"""Rows read at a time where all are, so that nobody waits for the whole."""


class Store:
    """See the module.

    Args:
        folder: of the store; made if it does not exist.
        options: how items are handed out; None: as before, or as `Options` has them in a new store.
        alone: no other process has it alone meanwhile, as one must that hands items out.
        now: the clock, seconds since 1970.

    Raises:
        UserError: another process has the folder alone; it holds something else, or a store of a newer version; it cannot
            be written.
    """

    def __init__(
        self, folder: Path, options: Options | None = None, now: Callable[[], float] = time, alone: bool = True
    ) -> None:
        self.now = now
        self._lock = threading.RLock()
        with ExitStack() as stack:
            if alone:
                stack.enter_context(locked(folder.absolute()))
            self._db = connect(folder)
            stack.callback(self._db.close)
            with self.writing() as db:
                row = db.execute("SELECT * FROM options").fetchone()
                if row is None:
                    row = astuple(Options())
                    db.execute("INSERT INTO options VALUES (?, ?, ?, ?, ?)", row)
                overlap, lease_seconds, gold_share, seed, review = row
                self._options = Options(overlap, lease_seconds, gold_share, seed, bool(review))
            if options is not None:
                self.set_options(options)
            self._stack = stack.pop_all()

    def close(self) -> None:
        """Ends it; another process may serve the folder then."""
        with self._lock:
            self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """The database as it is; other threads wait meanwhile, other processes do not."""
        with self._lock:
            yield self._db

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction that is durable after the block, or has never been if the block raises; or part of the one
        that this thread is in."""
        with self._lock:
            if self._db.in_transaction:
                yield self._db
                return
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    # How, and by whom

    @property
    def options(self) -> Options:
        """How items are handed out."""
        return self._options

    def set_options(self, options: Options) -> None:
        """Hands items out in another way from now on; with another overlap, also those that are there."""
        if options == self._options:
            return
        with self.writing() as db:
            db.execute(
                "UPDATE options SET overlap = ?, lease_seconds = ?, gold_share = ?, seed = ?, review = ?",
                astuple(options),
            )
            if options.overlap != self._options.overlap:
                db.execute(
                    """UPDATE items SET slots = ? WHERE overlap IS NULL AND state = ?
                       AND NOT EXISTS (SELECT 1 FROM leases WHERE item = items.id)""",
                    (options.overlap, OPEN),
                )
                for (item,) in db.execute("SELECT DISTINCT item FROM leases").fetchall():
                    handing.settle(db, item)
        self._options = options

    def add_annotator(self, name: str, role: Role | None = None) -> str:
        """Lets somebody in, or gives them a new token and, if one is named, another role; the token, of which only a hash
        is kept.

        Raises UserError for a name or role that cannot be.
        """
        name = legal_name(name)
        if role not in (None, *ROLES):
            raise UserError(f"role {role!r} is not known; choose from {', '.join(ROLES)}")
        token = secrets.token_urlsafe(32)
        with self.writing() as db:
            self._add(db, name, role)
            db.execute("UPDATE annotators SET token = ? WHERE name = ?", (_hash(token), name))
        return token

    def annotator_by_token(self, token: str) -> Annotator | None:
        """Whose token it is; the time it takes does not tell how much of one is right."""
        hashed, found = _hash(token), None
        with self._lock:
            rows = self._db.execute("SELECT name, role, token FROM annotators WHERE token IS NOT NULL").fetchall()
        for name, role, one in rows:
            if hmac.compare_digest(hashed, one):
                found = Annotator(name, role)
        return found

    def epoch(self, name: str) -> str:
        """Another one after each new token of somebody, so that sessions of the old one end; it does not tell the token."""
        with self._lock:
            row = self._db.execute("SELECT token FROM annotators WHERE name = ?", (name,)).fetchone()
        return "" if row is None or row[0] is None else sha256(b"epoch " + row[0]).hexdigest()[:16]

    def annotator(self, name: str, create: bool = False) -> Annotator:
        """Somebody by name; with `create` they are let in, without a token, if nobody has the name.

        Raises Refused: there is no such annotator, or the name cannot be one.
        """
        try:
            name = legal_name(name)
        except UserError as error:
            raise Refused("invalid", str(error)) from None
        with self.writing() if create else self._lock:
            row = self._db.execute("SELECT name, role FROM annotators WHERE name = ?", (name,)).fetchone()
            if row is None and create:
                self._add(self._db, name, None)
                row = name, "annotator"
        if row is None:
            raise Refused("unknown", f"there is no annotator {name!r}; ask whoever runs this for a token")
        return Annotator(*row)

    def annotators(self) -> list[Annotator]:
        """All of them, by name."""
        with self._lock:
            rows = self._db.execute("SELECT name, role FROM annotators ORDER BY name").fetchall()
        return [Annotator(*row) for row in rows]

    def has_tokens(self) -> bool:
        """Whether anybody has a token."""
        with self._lock:
            return self._db.execute("SELECT 1 FROM annotators WHERE token IS NOT NULL").fetchone() is not None

    def _add(self, db: sqlite3.Connection, name: str, role: Role | None) -> None:
        """Adds somebody, or changes their role; None: an annotator, or whatever they are."""
        row = db.execute("SELECT role FROM annotators WHERE name = ?", (name,)).fetchone()
        if row is not None and role in (None, row[0]):
            return
        role = role or "annotator"
        db.execute(
            "INSERT INTO annotators (name, role) VALUES (?, ?) ON CONFLICT DO UPDATE SET role = excluded.role",
            (name, role),
        )
        if role == "adjudicator":
            handing.miss_all(db, name)
        events.append(db, self.now(), name, "annotator", data={"role": role})

    # Items

    def next(self, who: str) -> Shown | None:
        """The item that somebody is to answer: the one that they hold, or a new one; None if nothing is left for them.

        In review mode an answer whose rationale is due comes first, with `revealed`.
        """
        with self.writing() as db:
            self._require(db, who)
            self._expire(db)
            due = db.execute(
                "SELECT lease FROM answers WHERE who = ? AND in_force AND needs_why AND why = '' ORDER BY id DESC LIMIT 1",
                (who,),
            ).fetchone()
            if due and self._options.review:
                return self._shown(db, due[0])
            held = db.execute(
                "SELECT id FROM leases WHERE who = ? AND state = 'live' ORDER BY seq DESC LIMIT 1", (who,)
            ).fetchone()
            if held:
                self._renew(db, held[0])
                return self._shown(db, held[0])
            found = handing.next_item(db, who, self._options.seed, self._options.gold_share)
            return None if found is None else self._shown(db, self._lease(db, who, *found))

    def show(self, who: str, lease: str) -> Shown:
        """What somebody was shown: an item that they hold (for longer from now on), or what they said of it.

        Raises Refused: there is no such lease, it is somebody else's, or it has ended without an answer.
        """
        with self.writing() as db:
            self._kept_up(db, who, lease)
            return self._shown(db, lease)

    def renew(self, who: str, lease: str) -> None:
        """Somebody is still at an item that they hold; raises Refused as `show` does."""
        with self.writing() as db:
            self._kept_up(db, who, lease)

    def answer(self, who: str, lease: str, given: Given) -> Recorded:
        """Keeps what somebody says of the item that they hold, or held until their time was over, if nobody else has
        taken their place since.

        Raises Refused: there is no such lease ("unknown"), it is somebody else's ("not yours"), it has ended ("stale")
        or was answered ("duplicate"), or what was given makes no sense ("invalid").
        """
        with self._held(who, lease) as (db, row):
            item = content.item(db, row["item"])
            given = checked(given, item, who)
            swapped = bool(row["swapped"])
            said = verdict(given.choice, swapped)
            label = content.label(db, row["item"], who)
            disagrees = label is not None and said not in (label, UNDECIDABLE)
            needs_why = self._options.review and disagrees
            now = self.now()
            data = asdict(given) | {
                "verdict": said,
                "swapped": swapped,
                "seconds": max(0.0, min(given.seconds, now - row["shown"])),
                "needs_why": needs_why,
            }
            answer = events.append(db, now, who, "answered", row["item"], lease, data)
            return Recorded(answer, needs_why, content.revealed(db, lease) if self._options.review else None)

    def explain(self, who: str, lease: str, why: str) -> None:
        """Keeps the rationale of an answer that the machine's label disagrees with.

        Raises Refused: as `answer`; also if no rationale is due.
        """
        with self.writing() as db:
            state = self._owned(db, who, lease)["state"]
            if state != "answered":
                raise (
                    _stale(state) if state in ("expired", "undone") else Refused("invalid", "This is not answered yet.")
                )
            item, needs_why, past = db.execute(
                "SELECT item, needs_why, why FROM answers WHERE lease = ?", (lease,)
            ).fetchone()
            if past:
                raise Refused("duplicate", "The rationale of this answer is already kept; it is not kept twice.")
            if not needs_why:
                raise Refused("invalid", "This answer needs no rationale.")
            events.append(db, self.now(), who, "explained", item, lease, {"why": words("rationale", why)})

    def flag(self, who: str, lease: str, why: str) -> None:
        """Takes the item that somebody holds out of the queue: adjudicators are to look at it.

        Raises Refused: as `answer`.
        """
        with self._held(who, lease) as (db, row):
            data = {"why": words("reason for the flag", why)}
            events.append(db, self.now(), who, "flagged", row["item"], lease, data)

    def last(self, who: str) -> str | None:
        """The lease of what somebody answered or flagged last and has not withdrawn; None if there is nothing."""
        with self._lock:
            row = self._db.execute(content.LATEST, {"who": who, "limit": 1}).fetchone()
        return None if row is None else row[1]

    def undo(self, who: str, lease: str) -> Shown:
        """Withdraws an answer or a flag, which must be the last thing that somebody said; they hold the item again.

        Raises Refused: they have said nothing ("nothing"); or ("stale") this is not what they said last, an adjudicator
        has answered the item since, or it was flagged and others have it now.
        """
        with self.writing() as db:
            self._require(db, who)
            self._expire(db)
            last = db.execute(content.LATEST, {"who": who, "limit": 1}).fetchone()
            if last is None:
                raise Refused("nothing", "There is nothing to undo.")
            number, latest, item, _, why = last
            if lease != latest:
                raise Refused(
                    "stale",
                    "This is not the last thing that you answered or flagged, or you have taken it back already; "
                    "nothing was withdrawn.",
                )
            settled = db.execute(
                """SELECT 1 FROM answers JOIN leases ON leases.id = lease WHERE answers.item = ? AND in_force
                   AND answers.id > ? AND answers.who <> ? AND origin = 'adjudication'""",
                (item, number, who),
            ).fetchone()
            if settled:
                raise Refused("stale", "An adjudicator has answered this item since; it cannot be undone any more.")
            origin = db.execute("SELECT origin FROM leases WHERE id = ?", (lease,)).fetchone()[0]
            events.append(db, self.now(), who, "undone", item, lease, {"answer" if why is None else "flag": number})
            again = self._lease(db, who, item, origin, again=True)
            if why is not None and handing.is_crowded(db, item):  # an answer gives no more back than it took
                raise Refused(
                    "stale", "You have flagged this item, and others have it since; the flag cannot be taken back now."
                )
            return self._shown(db, again)

    # What has come of it

    def progress(self, who: str) -> Progress:
        """How far it has come; raises Refused if there is no such annotator."""
        with self._lock:
            self._require(self._db, who)
            role, answered, held, checked = self._db.execute(
                "SELECT role, answered, held_open, gold_answered FROM annotators WHERE name = ?", (who,)
            ).fetchone()
            tally = dict(self._db.execute("SELECT state, n FROM tally"))
        n_open, split, flagged, done, gold = (tally.get(state, 0) for state in (OPEN, SPLIT, FLAGGED, DONE, GOLD))
        waiting = n_open - held
        unchecked = max(0, gold - checked) if waiting else 0
        if role == "adjudicator":
            waiting += split + flagged
        done += checked
        n_open += unchecked
        total = n_open + split + flagged + done
        return Progress(answered, waiting + unchecked, n_open, done, split, flagged, total)

    def history(self, who: str, limit: int = 20) -> list[Past]:
        """What somebody answered or flagged here and has not withdrawn, the latest first; `limit` of it at most."""
        with self._lock:
            rows = self._db.execute(content.LATEST, {"who": who, "limit": limit}).fetchall()
            past = []
            for _, lease, number, when, flag in rows:
                item = content.item(self._db, number)
                given = content.given(self._db, lease) if flag is None else None
                past.append(Past(lease, item.item, content.title(item), when, given, flag))
        return past

    def events(self, after: int = 0) -> Iterator[Event]:
        """The log in its order, from the event after number `after` on."""
        for seq, when, who, kind, item, lease, data in self._pages(content.EVENTS, after):
            yield Event(seq, when, who, kind, item, lease, json.loads(data))

    def answers(self, batch: str | None = None, first: bool = False) -> Iterator[AnswerRow]:
        """The answers in force, in the order they were given, of one batch or of all.

        `first`: what each said first of each item, whether or not they have withdrawn it.
        """
        for row in self._pages(content.FIRST_ANSWERS if first else content.ANSWERS, 0, batch):
            yield content.answer_row(row)

    def flags(self) -> list[FlagRow]:
        """The flags that were not taken back, in the order they were set."""
        with self._lock:
            rows = self._db.execute(content.FLAGS).fetchall()
        return [FlagRow(*row) for row in rows]

    def batches(self) -> list[str]:
        """Names of the batches, in the order of import."""
        with self._lock:
            return [name for (name,) in self._db.execute("SELECT name FROM batches ORDER BY id")]

    def items(self, batch: str) -> Iterator[Item]:
        """The items of a batch in its order, gold checks left out."""
        for _, text in self._pages(content.ITEMS, 0, batch):
            yield content.parse(text)

    def note_export(self, batch: str, form: str, answers: int) -> None:
        """Puts into the log that answers were given out."""
        with self.writing() as db:
            events.append(db, self.now(), "", "exported", data={"batch": batch, "form": form, "answers": answers})

    def _pages(self, query: str, after: int, batch: str | None = None) -> Iterator[tuple[Any, ...]]:
        """The rows of a query whose first column is ascending; other threads get their turn in between."""
        while True:
            with self._lock:
                rows = self._db.execute(query, {"after": after, "batch": batch, "limit": PAGE}).fetchall()
            yield from rows
            if len(rows) < PAGE:
                return
            after = rows[-1][0]

    # Leases

    @contextmanager
    def _held(self, who: str, lease: str) -> Iterator[tuple[sqlite3.Connection, sqlite3.Row]]:
        """A transaction on a lease of `who` that may still be answered; raises Refused for any other."""
        with self.writing() as db:
            row = self._kept_up(db, who, lease)
            if row["state"] in ("answered", "flagged"):
                raise Refused(
                    "duplicate", f"This was {row['state']} before, and that is kept; nothing was kept a second time."
                )
            yield db, row

    def _kept_up(self, db: sqlite3.Connection, who: str, lease: str) -> sqlite3.Row:
        """A lease of `who`, which lives for longer from now on, or again, unless it is answered or flagged.

        One whose time is over is good for as long as nobody else has taken the place. Raises Refused if it has ended.
        """
        row = self._owned(db, who, lease)
        if row["state"] == "undone" or (
            row["state"] == "expired" and not handing.takes(db, who, row["item"], row["origin"])
        ):
            raise _stale(row["state"])
        if row["state"] in ("live", "expired"):
            self._renew(db, lease)
        return row

    def _owned(self, db: sqlite3.Connection, who: str, lease: str) -> sqlite3.Row:
        cursor = db.cursor()
        cursor.row_factory = sqlite3.Row
        row: sqlite3.Row | None = cursor.execute("SELECT * FROM leases WHERE id = ?", (lease,)).fetchone()
        if row is None:
            raise Refused("unknown", "This item was never shown to anybody; go on with the next one.")
        if row["who"] != who:
            raise Refused("not yours", f"This item was shown to somebody else, not to {who}; log in as yourself.")
        return row

    def _require(self, db: sqlite3.Connection, who: str) -> None:
        if db.execute("SELECT 1 FROM annotators WHERE name = ?", (who,)).fetchone() is None:
            raise Refused("unknown", f"there is no annotator {who!r}; ask whoever runs this for a token")

    def _expire(self, db: sqlite3.Connection) -> None:
        """Ends the leases whose time is over."""
        now = self.now()
        for lease, who, item in db.execute(
            "SELECT id, who, item FROM leases WHERE state = 'live' AND expires <= ? ORDER BY expires", (now,)
        ).fetchall():
            events.append(db, now, who, "expired", item, lease)

    def _renew(self, db: sqlite3.Connection, lease: str) -> None:
        """Gives a lease its full time again, once a quarter of it is over: not every look is an event."""
        now, seconds = self.now(), self._options.lease_seconds
        who, item, expires = db.execute("SELECT who, item, expires FROM leases WHERE id = ?", (lease,)).fetchone()
        if expires < now + 0.75 * seconds:
            events.append(db, now, who, "shown", item, lease, {"expires": now + seconds})

    def _lease(self, db: sqlite3.Connection, who: str, item: int, origin: str, again: bool = False) -> str:
        """A lease; the one that they had of it if its time was over, for they may have its page open."""
        former = db.execute(
            "SELECT id FROM leases WHERE item = ? AND who = ? AND state = 'expired' AND origin = ?", (item, who, origin)
        ).fetchone()
        if former and not again:
            self._renew(db, former[0])
            return str(former[0])
        before = db.execute("SELECT swapped FROM leases WHERE item = ? AND who = ? LIMIT 1", (item, who)).fetchone()
        if before:  # what they said before speaks of left and right
            swapped = bool(before[0])
        else:
            (name,) = db.execute("SELECT name FROM items WHERE id = ?", (item,)).fetchone()
            swapped = handing.chance(self._options.seed, "side", who, name) < 0.5
        lease, now = secrets.token_urlsafe(16), self.now()
        data = {"swapped": swapped, "origin": origin, "expires": now + self._options.lease_seconds, "again": again}
        events.append(db, now, who, "shown", item, lease, data)
        return lease

    def _shown(self, db: sqlite3.Connection, lease: str) -> Shown:
        return content.shown(db, lease, self._options.review)


def _stale(state: str) -> Refused:
    what = "was withdrawn" if state == "undone" else "was with you for too long, and is somebody else's now"
    return Refused("stale", f"This item {what}; nothing was kept. Go on with the next one.")


def _hash(token: str) -> bytes:
    return sha256(token.encode(errors="surrogatepass")).digest()


__all__ = [
    "Annotator",
    "AnswerRow",
    "Event",
    "FlagRow",
    "Options",
    "Past",
    "Progress",
    "Recorded",
    "Refused",
    "Revealed",
    "Shown",
    "Store",
]
