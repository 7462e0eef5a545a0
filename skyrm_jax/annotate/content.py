"""Rows of the database as values, and back."""

import json
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from skyrm_jax.annotate.given import Given, side, speak_of_sides
from skyrm_jax.annotate.values import AnswerRow, Revealed, Shown
from skyrm_jax.comparison import Message
from skyrm_jax.curate.humans.batch import Item, item_of

TITLE = 80
"""Characters of the title of an item, at most."""

EVENTS = """SELECT seq, events.time, who, kind, coalesce(items.name, ''), lease, data
    FROM events LEFT JOIN items ON items.id = events.item WHERE seq > :after ORDER BY seq LIMIT :limit"""

ANSWERS = """SELECT answers.id, batches.name, items.name, category, answers.who, choice, verdict, swapped, attributes,
        tools, links, note, seconds, time, why, gold, machine, origin,
        CASE items.state WHEN 2 THEN 'flag' WHEN 1 THEN 'split'
            ELSE iif(needs_why AND why = '' AND (SELECT review FROM options), 'reason', '') END
    FROM answers JOIN items ON items.id = answers.item JOIN batches ON batches.id = batch JOIN leases ON leases.id = lease
    WHERE in_force AND answers.id > :after AND (:batch IS NULL OR batches.name = :batch)
    ORDER BY answers.id LIMIT :limit"""

FIRST_ANSWERS = ANSWERS.replace(
    "in_force AND",
    "answers.id = (SELECT min(id) FROM answers AS one WHERE one.item = answers.item AND one.who = answers.who) AND",
)

LATEST = """SELECT * FROM (
        SELECT * FROM (SELECT id, lease, item, time, NULL AS flag FROM answers
                       WHERE who = :who AND in_force AND NOT imported ORDER BY id DESC LIMIT :limit)
        UNION ALL
        SELECT * FROM (SELECT id, lease, item, time, why AS flag FROM flags
                       WHERE who = :who AND in_force ORDER BY id DESC LIMIT :limit)
    ) ORDER BY id DESC LIMIT :limit"""

_LABEL = """CASE WHEN items.gold IS NULL OR (
        SELECT one.machine IS NOT NULL FROM items AS one
        WHERE one.gold IS NULL AND one.id >= (SELECT cursor FROM annotators WHERE name = :who) ORDER BY one.id LIMIT 1
    ) THEN coalesce(items.machine, items.gold) END"""
"""What review mode shows as an item's label: a gold check is not to be told from the ordinary item that came before."""

FLAGS = """SELECT items.name, batches.name, category, who, why, time, settled_by IS NOT NULL
    FROM flags JOIN items ON items.id = item JOIN batches ON batches.id = batch WHERE in_force ORDER BY flags.id"""

ITEMS = """SELECT items.id, content FROM items JOIN texts ON item = items.id
    WHERE batch = (SELECT id FROM batches WHERE name = :batch) AND items.id > :after AND gold IS NULL
    ORDER BY items.id LIMIT :limit"""


def as_json(value: Any) -> str:
    """A value as it is kept; a lone surrogate, which the database does not take, stays the escape that JSON has for it."""
    return json.dumps(value, ensure_ascii=False).encode(errors="backslashreplace").decode()


def text(item: Item) -> str:
    """An item as it is kept; equal items give equal texts."""
    kept: dict[str, Any] = {
        "item": item.item,
        "batch": item.batch,
        "prompt": _turns(item.prompt),
        "candidates": [_turns(candidate) for candidate in item.candidates],
        "attributes": None if item.attributes is None else item.attributes.row(),
    }
    kept |= {name: said for name in ("opinions", "checks") if (said := getattr(item, name))}
    return as_json(kept)


def _turns(messages: Iterable[Message]) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in messages]


def parse(kept: str) -> Item:
    """The item that `text` was given."""
    return item_of(json.loads(kept))


def item(db: sqlite3.Connection, number: int) -> Item:
    """The item of an id."""
    (kept,) = db.execute("SELECT content FROM texts WHERE item = ?", (number,)).fetchone()
    return parse(kept)


def given(db: sqlite3.Connection, lease: str) -> Given | None:
    """What was answered to a lease, in force or not; None if nothing was."""
    row = db.execute(
        "SELECT choice, attributes, tools, links, note, seconds FROM answers WHERE lease = ?", (lease,)
    ).fetchone()
    if row is None:
        return None
    choice, attributes, tools, links, note, seconds = row
    return Given(choice, json.loads(attributes), tools, tuple(json.loads(links)), note, seconds or 0.0)


def answer_row(row: tuple[Any, ...]) -> AnswerRow:
    """Of a row of ANSWERS."""
    answer, batch, name, category, who, choice, verdict, swapped, attributes, tools, links, *rest = row
    links = tuple(json.loads(links))
    return AnswerRow(
        *(answer, batch, name, category, who, choice, verdict, bool(swapped)),
        *(json.loads(attributes), tools, links, *rest),
    )


def shown(db: sqlite3.Connection, lease: str, review: bool) -> Shown:
    """What somebody sees of a lease; after the answer, in `review`, also what it is to be compared with."""
    who, item_id, swapped, since, expires, state = db.execute(
        "SELECT who, item, swapped, shown, expires, state FROM leases WHERE id = ?", (lease,)
    ).fetchone()
    past = given(db, lease)
    if past is None and state == "live":
        before = db.execute(
            "SELECT lease FROM answers WHERE item = ? AND who = ? ORDER BY id DESC LIMIT 1", (item_id, who)
        ).fetchone()
        past = given(db, before[0]) if before else None
    blind = replace(item(db, item_id), opinions=())
    told = revealed(db, lease) if review else None
    return Shown(lease, blind, bool(swapped), since, expires, past, state != "live", told)


def label(db: sqlite3.Connection, item: int, who: str) -> str | None:
    """The label of an item, as one of VERDICTS, that `who` sees in review mode; None if they see none."""
    found: str | None = db.execute(
        f"SELECT {_LABEL} FROM items WHERE id = :item", {"item": item, "who": who}
    ).fetchone()[0]
    return found


def revealed(db: sqlite3.Connection, lease: str) -> Revealed | None:
    """What review mode tells of an item that was answered; None if it was not."""
    row = db.execute(
        """SELECT answers.item, answers.who, swapped, needs_why, why, coalesce(machine, gold)
           FROM answers JOIN leases ON leases.id = lease JOIN items ON items.id = answers.item
           WHERE lease = ? AND in_force""",
        (lease,),
    ).fetchone()
    if row is None:
        return None
    number, who, swapped, needs_why, why, known = row
    machine = known if needs_why else label(db, number, who)
    opinions = tuple(sided(one, bool(swapped)) for one in item(db, number).opinions)
    return Revealed(None if machine is None else side(machine, bool(swapped)), opinions, bool(needs_why), why)


def title(item: Item) -> str:
    """The beginning of the last user turn of an item's prompt, in one line; cut before a word or a formula, not within."""
    said = next((message.content for message in reversed(item.prompt) if message.role == "user"), "")
    line = " ".join(said[:400].split())  # spaces apart, more than is shown
    if len(line) <= TITLE:
        return line
    kept = line[:TITLE].rsplit(" ", 1)[0]
    if kept.count("$") % 2:
        kept = kept[: kept.rindex("$")].rstrip() or kept
    return f"{kept} …"


def sided(opinion: Mapping[str, Any], swapped: bool) -> dict[str, str]:
    """An opinion in words of left and right."""
    why = speak_of_sides(str(opinion.get("why", "")), swapped)
    return {"who": str(opinion["who"]), "verdict": side(str(opinion["verdict"]), swapped), "why": why}
