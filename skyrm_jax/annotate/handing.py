"""Which item somebody gets next.

The queue is the items in state OPEN with a free slot, in their order: an item has as many slots as answers that it still
wants, less those who have it before them. What one annotator may get is found without passing over all that they had:

- everything in the queue up to their cursor was given to them, so the search begins there;
- an item that comes back (a lease expires, an answer is withdrawn) or goes to adjudicators is noted in `missed` for all
  whom it may concern. Whether they may have it is asked when its turn comes.
"""

import hashlib
import sqlite3
from collections import Counter

from skyrm_jax.annotate.schema import DONE, FLAGGED, GOLD, OPEN, SPLIT
from skyrm_jax.annotate.values import Origin

_HAD = "EXISTS (SELECT 1 FROM leases WHERE item = items.id AND who = :who AND state IN ('live', 'answered', 'flagged'))"

FREE = f"""SELECT id FROM items INDEXED BY items_free
    WHERE state = 0 AND slots > 0 AND id > :cursor AND NOT {_HAD} ORDER BY id LIMIT 1"""
"""The first item of the queue after the cursor that somebody may have."""

MISSED = f"""SELECT item, state, slots, {_HAD} FROM missed JOIN items ON id = item WHERE missed.who = :who
    ORDER BY item LIMIT 1"""
"""The first item that somebody may have missed."""

CHECK = """SELECT id FROM items INDEXED BY items_gold WHERE state = 4 AND id >= :start
    AND NOT EXISTS (SELECT 1 FROM leases WHERE item = items.id AND who = :who) ORDER BY id LIMIT 1"""
"""The first gold check from `start` on that somebody never saw."""


def next_item(db: sqlite3.Connection, who: str, seed: int, gold_share: float) -> tuple[int, Origin] | None:
    """The id of the item that `who` gets next, and why; None if there is none. Nothing is leased yet."""
    role, cursor, turns = db.execute("SELECT role, cursor, turns FROM annotators WHERE name = ?", (who,)).fetchone()
    found = _missed(db, who, role, cursor) or _free(db, who, cursor)
    if found is None:
        return None
    if found[1] == "queue" and chance(seed, "gold", who, str(turns)) < gold_share:
        check = _check(db, who, chance(seed, "which", who, str(turns)))
        if check is not None:
            return check, "gold"
    return found


def settle(db: sqlite3.Connection, item: int) -> int | None:
    """Brings an item's state and slots up to date after what happened to it; the state, if it is a new one."""
    overlap, gold, old, old_slots = db.execute(
        "SELECT coalesce(overlap, (SELECT overlap FROM options)), gold, state, slots FROM items WHERE id = ?", (item,)
    ).fetchone()
    answers = db.execute(
        "SELECT verdict, origin FROM answers JOIN leases ON leases.id = lease WHERE answers.item = ? AND in_force",
        (item,),
    ).fetchall()
    said = Counter(verdict for verdict, _ in answers)
    live = Counter(
        origin for (origin,) in db.execute("SELECT origin FROM leases WHERE item = ? AND state = 'live'", (item,))
    )
    flagged = db.execute(
        "SELECT 1 FROM flags WHERE item = ? AND in_force AND settled_by IS NULL LIMIT 1", (item,)
    ).fetchone()
    discarded = db.execute(
        """SELECT 1 FROM flags JOIN answers ON answers.id = settled_by
           WHERE flags.item = ? AND flags.in_force AND answers.in_force AND choice = 'cannot decide' LIMIT 1""",
        (item,),
    ).fetchone()
    if flagged:
        state = FLAGGED
    elif gold is not None:
        state = GOLD
    elif discarded:
        state = DONE
    else:
        state = _state(said, overlap, any(origin == "adjudication" for _, origin in answers))
    slots = 0
    if state == OPEN:
        slots = overlap - said.total() - live.total()
    elif state == FLAGGED:
        slots = 1 - live["adjudication"]
    elif state == SPLIT:
        slots = 1 - live.total()
    if (state, slots) != (old, old_slots):
        db.execute("UPDATE items SET state = ?, slots = ? WHERE id = ?", (state, slots, item))
    if slots > 0 and (old_slots <= 0 or state != old):
        miss(db, item)
    if state == old:
        return None
    for one, change in ((old, -1), (state, 1)):
        db.execute("INSERT INTO tally VALUES (?, ?) ON CONFLICT DO UPDATE SET n = n + excluded.n", (one, change))
    if OPEN in (state, old):
        db.execute(
            """UPDATE annotators SET held_open = held_open + ?
               WHERE name IN (SELECT who FROM answers WHERE item = ? AND in_force)""",
            (1 if state == OPEN else -1, item),
        )
    return state


def takes(db: sqlite3.Connection, who: str, item: int, origin: Origin) -> bool:
    """Whether an item may be given to `who` once more for the reason for which they had it before."""
    state, slots, had = db.execute(
        f"SELECT state, slots, {_HAD} FROM items WHERE id = :item", {"who": who, "item": item}
    ).fetchone()
    if had:
        return False
    if origin == "gold":
        return bool(state == GOLD)
    return slots > 0 and state in ((OPEN,) if origin == "queue" else (SPLIT, FLAGGED))


def is_crowded(db: sqlite3.Connection, item: int) -> bool:
    """Whether more people have an item, or have answered it, than should: its overlap, and one more for adjudication."""
    overlap, gold = db.execute(
        "SELECT coalesce(overlap, (SELECT overlap FROM options)), gold FROM items WHERE id = ?", (item,)
    ).fetchone()
    origins = [
        origin
        for (origin,) in db.execute(
            """SELECT origin FROM leases LEFT JOIN answers ON lease = leases.id
               WHERE leases.item = ? AND (leases.state = 'live' OR in_force)""",
            (item,),
        )
    ]
    return gold is None and len(origins) > overlap + ("adjudication" in origins)


def miss(db: sqlite3.Connection, item: int, who: str | None = None) -> None:
    """Notes an item that is to be had again for those who have gone past it, or of these for `who` alone."""
    db.execute(
        """INSERT OR IGNORE INTO missed SELECT people.name, items.id FROM annotators AS people, items
           WHERE items.id = :item AND slots > 0 AND (:who IS NULL OR people.name = :who)
           AND iif(state = :open, cursor >= items.id, role = 'adjudicator')""",
        {"item": item, "who": who, "open": OPEN},
    )


def miss_all(db: sqlite3.Connection, adjudicator: str) -> None:
    """Notes for somebody who is an adjudicator from now on all that waits for one."""
    db.execute(
        "INSERT OR IGNORE INTO missed SELECT ?, id FROM items INDEXED BY items_adjudicable WHERE state IN (1, 2)",
        (adjudicator,),
    )


def chance(seed: int, *parts: str) -> float:
    """A number from 0 to below 1 that depends on the arguments alone."""
    digest = hashlib.blake2b("\0".join((str(seed), *parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def _state(said: Counter[str], overlap: int, adjudicated: bool) -> int:
    """Of an item that was answered so. A tie is settled by an adjudicator's answer, whatever it says: see
    `verified.verify`."""
    n = said.total()
    if n < overlap:
        return OPEN
    if 2 * max(said.values()) > n or (adjudicated and n > overlap):
        return DONE
    return SPLIT


def _missed(db: sqlite3.Connection, who: str, role: str, cursor: int) -> tuple[int, Origin] | None:
    while row := db.execute(MISSED, {"who": who}).fetchone():
        item, state, slots, had = row
        if slots > 0 and not had:
            # Beyond the cursor the queue is searched in its order.
            if state == OPEN and item <= cursor:
                return item, "queue"
            if state in (SPLIT, FLAGGED) and role == "adjudicator":
                return item, "adjudication"
        db.execute("DELETE FROM missed WHERE who = ? AND item = ?", (who, item))
    return None


def _free(db: sqlite3.Connection, who: str, cursor: int) -> tuple[int, Origin] | None:
    row = db.execute(FREE, {"who": who, "cursor": cursor}).fetchone()
    return None if row is None else (row[0], "queue")


def _check(db: sqlite3.Connection, who: str, where: float) -> int | None:
    """A gold check for `who`, sought from a place on (0 to 1 of their ids) and then from the beginning."""
    first, last = (
        db.execute(f"SELECT id FROM items INDEXED BY items_gold WHERE state = 4 ORDER BY id {order} LIMIT 1").fetchone()
        for order in ("ASC", "DESC")
    )
    if first is None:
        return None
    for start in (first[0] + int(where * (last[0] - first[0] + 1)), first[0]):
        if row := db.execute(CHECK, {"who": who, "start": start}).fetchone():
            return int(row[0])
    return None
