"""The log: everything that happens is an event, and the other tables follow from the events.

`append` is the only writer of leases, answers and flags: it writes the event, then does what it says. So the tables can
be made again from the log (`rebuild`), and nothing is in them of which the log does not say who did it, and when.

    imported     a batch                 data: batch, file, items, new, gold
    annotator    somebody new            data: role
    shown        an item, or for longer, or again after its time was over
                 data: swapped, origin, expires, again (after an undo)
    answered     data: choice, verdict, swapped, attributes, tools, links, note, seconds, needs_why, imported
    explained    the rationale           data: why
    flagged      data: why
    undone       data: answer or flag (its seq)
    expired      a lease
    adjudication an item goes to adjudicators; data: because
    exported     answers                 data: batch, form, answers
"""

import json
import sqlite3
from collections.abc import Callable, Mapping
from typing import Any

from skyrm_jax.annotate import content, handing
from skyrm_jax.annotate.schema import FLAGGED, GOLD, OPEN, SPLIT

Row = Mapping[str, Any]


def append(
    db: sqlite3.Connection,
    time: float,
    who: str,
    kind: str,
    item: int | None = None,
    lease: str = "",
    data: Mapping[str, Any] | None = None,
) -> int:
    """Writes an event and does what it says, in the caller's transaction; its seq."""
    seq = _write(db, time, who, kind, item, lease, data or {})
    state = apply(db, seq, time, who, kind, item, lease, data or {})
    if state in (SPLIT, FLAGGED):
        _write(db, time, who, "adjudication", item, "", {"because": "split" if state == SPLIT else "flagged"})
    return seq


def rebuild(db: sqlite3.Connection) -> None:
    """Makes the tables of leases, answers and flags, and what follows from them, again from the log."""
    for table in ("flags", "answers", "leases", "missed", "tally"):
        db.execute(f"DELETE FROM {table}")
    db.execute("UPDATE annotators SET cursor = 0, turns = 0, answered = 0, held_open = 0, gold_answered = 0")
    db.execute(
        """UPDATE items SET state = iif(gold IS NULL, ?, ?),
           slots = iif(gold IS NULL, coalesce(overlap, (SELECT overlap FROM options)), 0)""",
        (OPEN, GOLD),
    )
    db.execute("INSERT INTO tally SELECT state, count(*) FROM items GROUP BY state")
    for seq, time, who, kind, item, lease, data in db.execute(
        "SELECT seq, time, who, kind, item, lease, data FROM events ORDER BY seq"
    ):
        apply(db, seq, time, who, kind, item, lease, json.loads(data))


def apply(
    db: sqlite3.Connection, seq: int, time: float, who: str, kind: str, item: int | None, lease: str, data: Row
) -> int | None:
    """Does what an event says to the other tables; the item's state, if it has a new one."""
    change = _CHANGES.get(kind)
    if change is None or item is None:
        return None
    change(db, seq, time, who, item, lease, data)
    state = handing.settle(db, item)
    if kind == "expired":
        handing.miss(db, item, who)
    return state


def _write(
    db: sqlite3.Connection, time: float, who: str, kind: str, item: int | None, lease: str, data: Mapping[str, Any]
) -> int:
    cursor = db.execute(
        "INSERT INTO events (time, who, kind, item, lease, data) VALUES (?, ?, ?, ?, ?, ?)",
        (time, who, kind, item, lease, content.as_json(data)),
    )
    assert cursor.lastrowid is not None
    return cursor.lastrowid


def _shown(db: sqlite3.Connection, seq: int, time: float, who: str, item: int, lease: str, data: Row) -> None:
    if db.execute("UPDATE leases SET expires = ?, state = 'live' WHERE id = ?", (data["expires"], lease)).rowcount:
        return
    origin = data["origin"]
    db.execute(
        "INSERT INTO leases VALUES (?, ?, ?, ?, ?, ?, ?, ?, 'live')",
        (lease, seq, who, item, data["swapped"], origin, time, data["expires"]),
    )
    db.execute("DELETE FROM missed WHERE who = ? AND item = ?", (who, item))
    if origin in ("queue", "gold") and not data.get("again"):
        reached = item if origin == "queue" else 0
        db.execute(
            "UPDATE annotators SET turns = turns + 1, cursor = max(cursor, ?) WHERE name = ?",
            (reached, who),
        )


def _answered(db: sqlite3.Connection, seq: int, time: float, who: str, item: int, lease: str, data: Row) -> None:
    links, attributes = (content.as_json(data[name]) for name in ("links", "attributes"))
    db.execute(
        "INSERT INTO answers VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, '', 1)",
        (
            *(seq, lease, who, item, data["choice"], data["verdict"], attributes, data["tools"], links, data["note"]),
            *(data["seconds"], data.get("time", time), data.get("imported", False), data.get("needs_why", False)),
        ),
    )
    _end(db, lease, "answered")
    _count(db, who, item, 1)
    db.execute(
        """UPDATE flags SET settled_by = ? WHERE item = ? AND in_force AND settled_by IS NULL
           AND (SELECT origin FROM leases WHERE id = ?) = 'adjudication'""",
        (seq, item, lease),
    )


def _flagged(db: sqlite3.Connection, seq: int, time: float, who: str, item: int, lease: str, data: Row) -> None:
    db.execute("INSERT INTO flags VALUES (?, ?, ?, ?, ?, ?, NULL, 1)", (seq, lease, who, item, data["why"], time))
    _end(db, lease, "flagged")


def _undone(db: sqlite3.Connection, seq: int, time: float, who: str, item: int, lease: str, data: Row) -> None:
    if "answer" in data:
        db.execute("UPDATE answers SET in_force = 0 WHERE id = ?", (data["answer"],))
        db.execute("UPDATE flags SET settled_by = NULL WHERE item = ? AND settled_by = ?", (item, data["answer"]))
        _count(db, who, item, -1)
    else:
        db.execute("UPDATE flags SET in_force = 0 WHERE id = ?", (data["flag"],))
    _end(db, lease, "undone")


def _explained(db: sqlite3.Connection, seq: int, time: float, who: str, item: int, lease: str, data: Row) -> None:
    db.execute("UPDATE answers SET why = ? WHERE lease = ?", (data["why"], lease))


def _expired(db: sqlite3.Connection, seq: int, time: float, who: str, item: int, lease: str, data: Row) -> None:
    _end(db, lease, "expired")


def _end(db: sqlite3.Connection, lease: str, state: str) -> None:
    db.execute("UPDATE leases SET state = ? WHERE id = ?", (state, lease))


def _count(db: sqlite3.Connection, who: str, item: int, one: int) -> None:
    db.execute(
        """UPDATE annotators SET answered = answered + :one,
               held_open = held_open + :one * (SELECT state = :open FROM items WHERE id = :item),
               gold_answered = gold_answered + :one * (SELECT gold IS NOT NULL FROM items WHERE id = :item)
           WHERE name = :who""",
        {"one": one, "item": item, "who": who, "open": OPEN},
    )


_CHANGES: dict[str, Callable[[sqlite3.Connection, int, float, str, int, str, Row], None]] = {
    "shown": _shown,
    "answered": _answered,
    "flagged": _flagged,
    "undone": _undone,
    "explained": _explained,
    "expired": _expired,
}
"""What the kinds of events do; the others change nothing here."""
