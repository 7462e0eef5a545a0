"""Batches go into a store of annotations, and answers come out, in the forms that curation and Argilla read.

A batch is a file NAME.jsonl of curation, or records of Argilla (records.json as `argilla.py` writes it, or what Argilla
gives back). With NAME.key.jsonl beside a batch the label that each pair has is known; it stays in the store, and nobody
sees it before they answer. Answers that a file holds already are taken over, each with its annotator.

Source of the forms: `skyrm_jax.curate.humans`, whose readers and writers do the work.
"""

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

from skyrm_jax.annotate import content, events
from skyrm_jax.annotate.schema import GOLD, OPEN
from skyrm_jax.annotate.store import Store
from skyrm_jax.annotate.values import AnswerRow
from skyrm_jax.curate.humans.argilla import answers_of, flat_record, item_in, same_texts
from skyrm_jax.curate.humans.batch import FIRST, SECOND, UNDECIDABLE, Item, each_origin, paths, placed, read_item
from skyrm_jax.curate.humans.verified import FIELDS, Answer, parse_answer, read_answers
from skyrm_jax.errors import RecordError, UserError
from skyrm_jax.report.files import whole

_CHOICES = {FIRST: "left better", SECOND: "right better", UNDECIDABLE: "cannot decide"}
"""What is noted for an answer from elsewhere: candidate 1 counts as the left one, and how much better is not known."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What an import has brought.

    Attributes:
        items: in the file; `new` of them were not in the store, and `gold` of them are gold checks.
        answers: that the file held and the store did not.
    """

    items: int
    new: int
    gold: int
    answers: int


def import_batch(
    store: Store, path: Path, gold: Path | None = None, known: bool = False, overlap: int | None = None
) -> Taken:
    """Puts the items of a file at the end of the queue, in their order; all of them or, after an error, none.

    Items that are there already stay as they are, so that importing again changes nothing.

    Args:
        store: where to.
        path: a batch (.jsonl) or records of Argilla (.json).
        gold: a file of answers that are known to be right; the items that it answers become gold checks. It may
            answer other batches as well.
        known: the answers in the file itself are known to be right, and their items gold checks.
        overlap: answers that each item wants; None: as the store's options have it.

    Raises:
        UserError: a file is missing, a line is no item, an item is there with other content, or an answer contradicts
            one that is there; it names file and line.
    """
    verdicts = {} if gold is None else _verdicts(read_answers([gold]))
    keys = _Keys(path)
    items = new = checks = answers = 0
    batches: dict[str, int] = {}
    with store.writing() as db:
        for place, item, said in _lines(path):
            known_verdict = _verdicts(said).get((item.batch, item.item)) if known else None
            known_verdict = verdicts.pop((item.batch, item.item), known_verdict)
            if item.batch not in batches:
                batches[item.batch] = _batch(db, item.batch)
            number, is_new = _put(
                db, place, item, batches[item.batch], known_verdict, keys.machine(place, item), overlap
            )
            items, new, checks = items + 1, new + is_new, checks + (known_verdict is not None)
            if not known:
                answers += sum(_take(store, db, number, item, answer) for answer in said)
        if not items:
            raise UserError(f"{path}: there is no item in it")
        for batch, name in verdicts:
            if batch in batches:
                raise UserError(
                    f"{gold}: answers item {name} of batch {batch}, which is not in {path}; remove that line"
                )
        db.execute("DELETE FROM tally WHERE state IN (?, ?)", (OPEN, GOLD))
        db.execute(
            "INSERT INTO tally SELECT state, count(*) FROM items WHERE state IN (?, ?) GROUP BY state", (OPEN, GOLD)
        )
        data = {"batch": ", ".join(batches), "file": path.name, "items": items, "new": new, "gold": checks}
        events.append(db, store.now(), "", "imported", data=data)
    return Taken(items, new, checks, answers)


def export_answers(store: Store, batch: str, folder: Path) -> Path:
    """Writes NAME.answers-annotate.jsonl, which curation reads; its path.

    Gold checks, items that are flagged and answers that were withdrawn are left out.

    Raises UserError if there is no such batch, or no answer to it.
    """
    rows = _answers(store, batch)
    first = next(rows, None)
    if first is None:
        raise UserError(f"batch {batch}: nobody has answered any of it yet; export it later")
    path = folder / f"{batch}.answers-annotate.jsonl"
    count = _write(path, (json.dumps(_row(_answer(row)), ensure_ascii=False) for row in chain([first], rows)))
    store.note_export(batch, path.name, count)
    return path


def export_argilla(store: Store, batch: str, folder: Path) -> Path:
    """Writes NAME.argilla.json: all the batch's items but gold checks, and their answers, as Argilla gives them back.

    Raises UserError if there is no such batch.
    """
    said: dict[str, list[Answer]] = {}
    for row in _answers(store, batch):
        said.setdefault(row.item, []).append(_answer(row))
    path = folder / f"{batch}.argilla.json"
    records = (flat_record(rank, item, said.get(item.item, ())) for rank, item in enumerate(store.items(batch), 1))
    lines = (("," if rank else "") + json.dumps(record) for rank, record in enumerate(records))
    _write(path, chain("[", lines, "]"))
    store.note_export(batch, path.name, sum(map(len, said.values())))
    return path


def export_events(store: Store, path: Path) -> int:
    """Writes the log as JSON lines, times as ISO 8601; how many lines."""
    rows = (asdict(event) | {"time": _iso(event.time)} for event in store.events())
    return _write(path, (json.dumps(row, ensure_ascii=False) for row in rows))


# In


def _lines(path: Path) -> Iterator[tuple[str, Item, list[Answer]]]:
    """Where each item of the file stands, the item, and the answers that stand with it."""
    for place, value in placed(path):
        if isinstance(value, Mapping) and "candidates" in value:
            item = read_item(place, value)
            try:
                answer = parse_answer({name: value[name] for name in FIELDS if name in value}, place)
            except RecordError as error:
                raise UserError(f"{place}: {error}") from None
            yield place, item, [] if answer is None else [answer]
        else:
            yield place, item_in(place, value), answers_of(place, value)


def _verdicts(answers: Iterable[Answer]) -> dict[tuple[str, str], str]:
    """The verdict on each item, by batch and name; raises UserError if two differ."""
    found: dict[tuple[str, str], Answer] = {}
    for answer in answers:
        one = found.setdefault((answer.batch, answer.item), answer)
        if one.verdict != answer.verdict:
            raise UserError(
                f"{one.place} and {answer.place}: two verdicts on item {answer.item}, of which one at most is right; "
                "remove the other"
            )
    return {name: answer.verdict for name, answer in found.items()}


class _Keys:
    """The labels of a batch's items, read along with them: both files have the same order."""

    def __init__(self, path: Path) -> None:
        key = paths(path.parent, path.stem)[1]
        self._key = key
        self._origins = each_origin(path.parent, path.stem) if path.suffix == ".jsonl" and key.is_file() else None

    def machine(self, place: str, item: Item) -> str | None:
        """The item's label, as one of VERDICTS; None if there is no key."""
        if self._origins is None:
            return None
        for name, origin in self._origins:
            if name == item.item:
                return origin.shown("original")
        raise UserError(f"{place}: item {item.item} is not in {self._key}, or in another order; write the batch again")


def _batch(db: sqlite3.Connection, name: str) -> int:
    db.execute("INSERT INTO batches (name) VALUES (?) ON CONFLICT DO NOTHING", (name,))
    number: int = db.execute("SELECT id FROM batches WHERE name = ?", (name,)).fetchone()[0]
    return number


def _put(
    db: sqlite3.Connection,
    place: str,
    item: Item,
    batch: int,
    gold: str | None,
    machine: str | None,
    overlap: int | None,
) -> tuple[int, bool]:
    """The id of an item in the store, and whether it is new there."""
    category = "" if item.attributes is None else item.attributes.task_category
    added = db.execute(
        """INSERT INTO items (name, batch, category, overlap, gold, machine, state, slots)
           VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, iif(?5 IS NULL, coalesce(?4, (SELECT overlap FROM options)), 0))
           ON CONFLICT (name) DO NOTHING""",
        (item.item, batch, category, overlap, gold, machine, OPEN if gold is None else GOLD),
    )
    text = content.text(item)
    if added.rowcount:
        assert added.lastrowid is not None
        db.execute("INSERT INTO texts VALUES (?, ?)", (added.lastrowid, text))
        return added.lastrowid, True
    number, there, its_gold, its_machine = db.execute(
        "SELECT id, content, gold, machine FROM items JOIN texts ON item = id WHERE name = ?", (item.item,)
    ).fetchone()
    if there != text and not _is_record_of(item, content.parse(there)):
        raise UserError(
            f"{place}: item {item.item} is in the store with other content; give the changed one another name"
        )
    if gold not in (None, its_gold):
        what = "an ordinary item" if its_gold is None else f"a gold check with verdict {its_gold!r}"
        raise UserError(f"{place}: item {item.item} is in the store as {what}; import it as that")
    if None not in (machine, its_machine) and machine != its_machine:
        raise UserError(f"{place}: item {item.item} is in the store with another label; put back the key it came with")
    db.execute("UPDATE items SET machine = coalesce(machine, ?) WHERE id = ?", (machine, number))
    return number, False


def _is_record_of(item: Item, there: Item) -> bool:
    """Whether an item is what Argilla's form leaves of the other."""
    return item.batch == there.batch and item.attributes == there.attributes and same_texts(item, there)


def _take(store: Store, db: sqlite3.Connection, number: int, item: Item, answer: Answer) -> bool:
    """Takes over an answer from elsewhere; False if it is there already."""
    who = answer.annotator
    past = db.execute("SELECT verdict FROM answers WHERE item = ? AND who = ? AND in_force", (number, who)).fetchone()
    if past == (answer.verdict,):
        return False
    if (
        past
        or db.execute("SELECT 1 FROM leases WHERE item = ? AND who = ? AND state = 'live'", (number, who)).fetchone()
    ):
        raise UserError(f"{answer.place}: {who} has answered item {item.item} differently in the store, or is about to")
    store.annotator(who, create=True)
    now, lease = store.now(), f"imported {number} {who}"
    shown = {"swapped": False, "origin": "imported", "expires": now}
    events.append(db, now, who, "shown", number, lease, shown)
    own = {} if item.attributes is None else item.attributes.row()
    said = {
        "choice": _CHOICES[answer.verdict],
        "verdict": answer.verdict,
        "swapped": False,
        "attributes": {name: value for name, value in answer.attributes.items() if value != own.get(name)},
        "tools": "",
        "links": [],
        "note": answer.note,
        "seconds": answer.seconds,
        "time": datetime.fromisoformat(answer.time).timestamp() if answer.time else now,
        "imported": True,
    }
    events.append(db, now, who, "answered", number, lease, said)
    return True


# Out


def _answers(store: Store, batch: str) -> Iterator[AnswerRow]:
    """The answers that go out; raises UserError if there is no such batch."""
    if batch not in (names := store.batches()):
        raise UserError(f"batch {batch!r} is not in the store; it has {', '.join(names) or 'none'}")
    return (row for row in store.answers(batch) if row.gold is None and not row.flagged)


def _answer(row: AnswerRow) -> Answer:
    return Answer(
        batch=row.batch,
        item=row.item,
        verdict=row.verdict,
        annotator=row.who,
        attributes=row.attributes,
        seconds=row.seconds,
        note=row.note,
        time=_iso(row.time),
        place="",
    )


def _row(answer: Answer) -> dict[str, Any]:
    return {name: getattr(answer, name) for name in FIELDS}


def _write(path: Path, lines: Iterable[str]) -> int:
    """Writes lines; how many."""
    count = 0
    with whole(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        for line in lines:
            file.write(line + "\n")
            count += 1
    return count


def _iso(time: float) -> str:
    return datetime.fromtimestamp(time, UTC).isoformat()
