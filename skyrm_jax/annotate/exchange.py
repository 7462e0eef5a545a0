"""Batches go into a store of annotations, and answers come out, in the forms that curation and Argilla read.

A batch is a file NAME.jsonl of curation, or records of Argilla (records.json as `argilla.py` writes it, or what Argilla
gives back). With NAME.key.jsonl beside a batch the label that each pair has is known; it stays in the store, and nobody
sees it before they answer. Answers that a file holds already are taken over, each with its annotator.

Source of the forms: `skyrm_jax.curate.humans`, whose readers and writers do the work.
"""

import json
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from time import sleep
from typing import Any

from skyrm_jax.annotate import content, events
from skyrm_jax.annotate.checking import legal_name
from skyrm_jax.annotate.schema import GOLD, OPEN
from skyrm_jax.annotate.staging import Line, Staging, staged
from skyrm_jax.annotate.store import Store
from skyrm_jax.annotate.values import AnswerRow, Waits
from skyrm_jax.curate.humans.argilla import answers_of, flat_record, item_in, same_texts
from skyrm_jax.curate.humans.batch import FIRST, SECOND, UNDECIDABLE, Item, each_origin, paths, placed, read_item
from skyrm_jax.curate.humans.verified import FIELDS, Answer, parse_answer, read_answers
from skyrm_jax.errors import RecordError, UserError
from skyrm_jax.report.files import whole

_CHOICES = {FIRST: "left better", SECOND: "right better", UNDECIDABLE: "cannot decide"}
"""What is noted for an answer from elsewhere: candidate 1 counts as the left one, and how much better is not known."""

PAUSE = 0.12
"""Seconds between two parts of an import: other processes that wait for the database look every 0.1 s."""


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


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export has written.

    Attributes:
        path: the file.
        answers: in it.
        left_out: answers that are not, by what they wait for.
    """

    path: Path
    answers: int
    left_out: Mapping[Waits, int]


def import_batch(
    store: Store, path: Path, gold: Path | None = None, known: bool = False, overlap: int | None = None
) -> Taken:
    """Puts the items of a file at the end of the queue: objective ones first, of these the less controversial ones, and
    those that are alike in the order of the file. An error in the file leaves the store as it was.

    They come in part by part, and who answers meanwhile waits for one part at most. An import that was stopped is
    finished by running it again: items that are there already stay as they are, so that importing again changes nothing.

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
    with staged() as lines:
        checks = _read(store, lines, path, gold, known)
        return _bring_in(store, lines, path.name, checks, overlap)


def export_answers(store: Store, batch: str, folder: Path) -> Exported:
    """Writes NAME.answers-annotate.jsonl, which curation reads.

    Answers to gold checks and those that were withdrawn are left out, and those that wait for something (`Waits`), for
    they would be taken for the last word.

    Raises UserError if there is no such batch, or no answer to it that can go out.
    """
    left_out: Counter[Waits] = Counter()
    rows = _answers(store, batch, left_out)
    first = next(rows, None)
    if first is None:
        waiting = f"the {left_out.total()} answers to it still wait for an adjudicator or a reason" if left_out else ""
        raise UserError(f"batch {batch}: {waiting or 'nobody has answered any of it yet'}; export it later")
    path = folder / f"{batch}.answers-annotate.jsonl"
    count = _write(path, (json.dumps(_row(_answer(row)), ensure_ascii=False) for row in chain([first], rows)))
    store.note_export(batch, path.name, count)
    return Exported(path, count, left_out)


def export_argilla(store: Store, batch: str, folder: Path) -> Exported:
    """Writes NAME.argilla.json: all the batch's items but gold checks, and their answers, as Argilla gives them back.

    The same answers are left out as by `export_answers`. Raises UserError if there is no such batch.
    """
    left_out: Counter[Waits] = Counter()
    said: dict[str, list[Answer]] = {}
    for row in _answers(store, batch, left_out):
        said.setdefault(row.item, []).append(_answer(row))
    path = folder / f"{batch}.argilla.json"
    records = (flat_record(rank, item, said.get(item.item, ())) for rank, item in enumerate(store.items(batch), 1))
    lines = (("," if rank else "") + json.dumps(record) for rank, record in enumerate(records))
    _write(path, chain("[", lines, "]"))
    count = sum(map(len, said.values()))
    store.note_export(batch, path.name, count)
    return Exported(path, count, left_out)


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


def _read(store: Store, lines: Staging, path: Path, gold: Path | None, known: bool) -> int:
    """Reads a file, and finds fault with it if there is any; how many gold checks it names. The store stays as it is."""
    verdicts = {} if gold is None else _verdicts(read_answers([gold]))
    keys = _Keys(path)
    batches: set[str] = set()
    checks = 0
    for place, item, said in _lines(path):
        verdict = _verdicts(said).get((item.batch, item.item)) if known else None
        verdict = verdicts.pop((item.batch, item.item), verdict)
        line = Line(place, item, verdict, keys.machine(place, item), () if known else tuple(map(_named, said)))
        if earlier := lines.earlier(item.item):
            _require_same(line, earlier.item, earlier.gold, earlier.machine, f"stands at {earlier.place}")
        for answer in line.answers:
            if (one := lines.first_said(answer)).verdict != answer.verdict:
                raise UserError(
                    f"{one.place} and {answer.place}: {answer.annotator} gives two answers to item {item.item}; "
                    "remove the one that does not count"
                )
        with store.reading() as db:
            number = _find(db, line)
            if number is not None:
                for answer in line.answers:
                    _is_there(db, number, answer)
        lines.add(line)
        batches.add(item.batch)
        checks += verdict is not None
    if not batches:
        raise UserError(f"{path}: there is no item in it")
    for batch, name in verdicts:
        if batch in batches:
            raise UserError(f"{gold}: answers item {name} of batch {batch}, which is not in {path}; remove that line")
    return checks


def _bring_in(store: Store, lines: Staging, file: str, checks: int, overlap: int | None) -> Taken:
    """Puts lines into the store, some at a time; the event comes with the last of them."""
    new = answers = done = 0
    batches: dict[str, int] = {}
    for part in lines.parts():
        if done:
            sleep(PAUSE)
        with store.writing() as db:
            added: Counter[int] = Counter()
            for line in part:
                if line.item.batch not in batches:
                    batches[line.item.batch] = _batch(db, line.item.batch)
                number = _find(db, line)
                if number is None:
                    state = OPEN if line.gold is None else GOLD
                    number = _add(db, line, batches[line.item.batch], state, overlap)
                    added[state] += 1
                else:
                    db.execute("UPDATE items SET machine = coalesce(machine, ?) WHERE id = ?", (line.machine, number))
                answers += sum(_take(store, db, number, line.item, answer) for answer in line.answers)
            db.executemany(
                "INSERT INTO tally VALUES (?, ?) ON CONFLICT DO UPDATE SET n = n + excluded.n", added.items()
            )
            new, done = new + added.total(), done + len(part)
            if done == lines.count:
                data = {"batch": ", ".join(batches), "file": file, "items": done, "new": new, "gold": checks}
                events.append(db, store.now(), "", "imported", data=data)
    return Taken(done, new, checks, answers)


def _named(answer: Answer) -> Answer:
    """An answer with the name that its annotator has in the store; raises UserError if nobody can have it."""
    try:
        return replace(answer, annotator=legal_name(answer.annotator))
    except UserError as error:
        raise UserError(f"{answer.place}: annotator: {error}") from None


def _batch(db: sqlite3.Connection, name: str) -> int:
    db.execute("INSERT INTO batches (name) VALUES (?) ON CONFLICT DO NOTHING", (name,))
    number: int = db.execute("SELECT id FROM batches WHERE name = ?", (name,)).fetchone()[0]
    return number


def _find(db: sqlite3.Connection, line: Line) -> int | None:
    """The id of a line's item in the store, None if it is new there; raises UserError if it is another one."""
    row = db.execute(
        "SELECT id, content, gold, machine FROM items JOIN texts ON item = id WHERE name = ?", (line.item.item,)
    ).fetchone()
    if row is None:
        return None
    number, text, gold, machine = row
    _require_same(line, content.parse(text), gold, machine, "is in the store")
    return int(number)


def _require_same(line: Line, there: Item, gold: str | None, machine: str | None, where: str) -> None:
    """Raises UserError unless the item of a line is the one of its name that was there before."""
    item = f"{line.place}: item {line.item.item} {where}"
    if line.item != there and not _is_record_of(line.item, there):
        raise UserError(f"{item} with other content; give the changed one another name")
    if line.gold not in (None, gold):
        what = "an ordinary item" if gold is None else f"a gold check with verdict {gold!r}"
        raise UserError(f"{item} as {what}; import it as that")
    if None not in (line.machine, machine) and line.machine != machine:
        raise UserError(f"{item} with another label; put back the key it came with")


def _is_record_of(item: Item, there: Item) -> bool:
    """Whether an item is what Argilla's form leaves of the other."""
    return item.batch == there.batch and item.attributes == there.attributes and same_texts(item, there)


def _add(db: sqlite3.Connection, line: Line, batch: int, state: int, overlap: int | None) -> int:
    """Puts a new item at the end of the queue, or among the gold checks; its id."""
    category = "" if line.item.attributes is None else line.item.attributes.task_category
    added = db.execute(
        """INSERT INTO items (name, batch, category, overlap, gold, machine, state, slots)
           VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, iif(?5 IS NULL, coalesce(?4, (SELECT overlap FROM options)), 0))""",
        (line.item.item, batch, category, overlap, line.gold, line.machine, state),
    )
    assert added.lastrowid is not None
    db.execute("INSERT INTO texts VALUES (?, ?)", (added.lastrowid, content.text(line.item)))
    return added.lastrowid


def _is_there(db: sqlite3.Connection, number: int, answer: Answer) -> bool:
    """Whether an answer is in the store already; raises UserError if another one by the same person is, or may come."""
    who = answer.annotator
    past = db.execute("SELECT verdict FROM answers WHERE item = ? AND who = ? AND in_force", (number, who)).fetchone()
    live = "SELECT 1 FROM leases WHERE item = ? AND who = ? AND state = 'live'"
    if past not in (None, (answer.verdict,)) or (past is None and db.execute(live, (number, who)).fetchone()):
        raise UserError(
            f"{answer.place}: {who} has answered item {answer.item} differently in the store, or is about to"
        )
    return past is not None


def _take(store: Store, db: sqlite3.Connection, number: int, item: Item, answer: Answer) -> bool:
    """Takes over an answer from elsewhere; False if it is there already."""
    if _is_there(db, number, answer):
        return False
    who = store.annotator(answer.annotator, create=True).name
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


def _answers(store: Store, batch: str, left_out: Counter[Waits]) -> Iterator[AnswerRow]:
    """The answers that go out; counts those that do not. Raises UserError if there is no such batch."""
    if batch not in (names := store.batches()):
        raise UserError(f"batch {batch!r} is not in the store; it has {', '.join(names) or 'none'}")
    for row in store.answers(batch):
        if row.gold is not None:
            continue
        if row.waits:
            left_out[row.waits] += 1
        else:
            yield row


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
