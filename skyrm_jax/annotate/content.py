"""Rows of the database as values, and back."""

import json
import sqlite3
from collections.abc import Mapping
from typing import Any

from skyrm_jax.annotate.given import Given, side, speak_of_sides
from skyrm_jax.annotate.values import AnswerRow
from skyrm_jax.curate.humans.batch import Item, item_of

EVENTS = """SELECT seq, events.time, who, kind, coalesce(items.name, ''), lease, data
    FROM events LEFT JOIN items ON items.id = events.item WHERE seq > :after ORDER BY seq LIMIT :limit"""

ANSWERS = """SELECT answers.id, batches.name, items.name, category, answers.who, choice, verdict, swapped, attributes,
        tools, links, note, seconds, time, why, gold, machine, origin, items.state = 2
    FROM answers JOIN items ON items.id = answers.item JOIN batches ON batches.id = batch JOIN leases ON leases.id = lease
    WHERE in_force AND answers.id > :after AND (:batch IS NULL OR batches.name = :batch)
    ORDER BY answers.id LIMIT :limit"""

FLAGS = """SELECT items.name, batches.name, category, who, why, time, settled_by IS NOT NULL
    FROM flags JOIN items ON items.id = item JOIN batches ON batches.id = batch WHERE in_force ORDER BY flags.id"""

ITEMS = """SELECT items.id, content FROM items JOIN texts ON item = items.id
    WHERE batch = (SELECT id FROM batches WHERE name = :batch) AND items.id > :after AND gold IS NULL
    ORDER BY items.id LIMIT :limit"""


def text(item: Item) -> str:
    """An item as it is kept; equal items give equal texts."""
    row = item.row()
    kept = {name: row[name] for name in ("item", "batch", "prompt", "candidates", "attributes")}
    kept |= {name: row[name] for name in ("opinions", "checks") if name in row}
    return json.dumps(kept, ensure_ascii=False)


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
    answer, batch, name, category, who, choice, verdict, swapped, attributes, tools, links, *rest, flagged = row
    links = tuple(json.loads(links))
    return AnswerRow(
        *(answer, batch, name, category, who, choice, verdict, bool(swapped)),
        *(json.loads(attributes), tools, links, *rest, bool(flagged)),
    )


def title(item: Item) -> str:
    """The beginning of the last user turn of an item's prompt, in one line."""
    said = next((message.content for message in reversed(item.prompt) if message.role == "user"), "")
    return " ".join(said[:400].split())[:80]


def sided(opinion: Mapping[str, Any], swapped: bool) -> dict[str, str]:
    """An opinion in words of left and right."""
    why = speak_of_sides(str(opinion.get("why", "")), swapped)
    return {"who": str(opinion["who"]), "verdict": side(str(opinion["verdict"]), swapped), "why": why}
