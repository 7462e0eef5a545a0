"""The lines of an import, kept apart while they are read, and given back in the order in which people are to have them.

They lie in a temporary database (on disk; in the folder that TMPDIR names, if it is set), so that the store is not held
up meanwhile, and nothing has come in if a later line is bad.
"""

import pickle
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import product

from skyrm_jax.curate.attributes import CONTROVERSIALITIES, OBJECTIVITIES
from skyrm_jax.curate.humans.batch import Item
from skyrm_jax.curate.humans.verified import Answer

PART_LINES = 5_000
PART_BYTES = 16 << 20
"""Of lines that come into the store at once, at most (one line is always enough): well below a second."""

_RANKS = {values: rank for rank, values in enumerate(product(OBJECTIVITIES, CONTROVERSIALITIES))}
"""Objective before subjective; low controversiality before medium before high. Source: as `humans.queue.priority`."""

_TABLES = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
CREATE TABLE lines (id INTEGER PRIMARY KEY, rank INTEGER NOT NULL, item TEXT NOT NULL, line BLOB NOT NULL);
CREATE INDEX lines_rank ON lines (rank, id);
CREATE INDEX lines_item ON lines (item);
CREATE TABLE said (item TEXT NOT NULL, who TEXT NOT NULL, answer BLOB NOT NULL, PRIMARY KEY (item, who)) WITHOUT ROWID;
BEGIN;
"""


@dataclass(frozen=True, slots=True)
class Line:
    """A line of an import.

    Attributes:
        place: file and line.
        gold, machine: verdict of a gold check, and stored label, as VERDICTS; None: it is none, or not known.
        answers: to be taken over.
    """

    place: str
    item: Item
    gold: str | None
    machine: str | None
    answers: tuple[Answer, ...]


class Staging:
    """The lines of one import."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self.count = 0

    def earlier(self, item: str) -> Line | None:
        """The first line that holds an item."""
        row = self._db.execute("SELECT line FROM lines WHERE item = ? ORDER BY id LIMIT 1", (item,)).fetchone()
        return None if row is None else _line(row[0])

    def first_said(self, answer: Answer) -> Answer:
        """What the same person said of the item when this was asked of them first: an earlier answer, or this one."""
        names = answer.item, answer.annotator
        self._db.execute("INSERT OR IGNORE INTO said VALUES (?, ?, ?)", (*names, pickle.dumps(answer)))
        row = self._db.execute("SELECT answer FROM said WHERE item = ? AND who = ?", names).fetchone()
        first: Answer = pickle.loads(row[0])
        return first

    def add(self, line: Line) -> None:
        """Puts a line after all that are as urgent."""
        attributes = line.item.attributes
        rank = (
            len(_RANKS)
            if attributes is None
            else _RANKS[attributes.preference_objectivity, attributes.controversiality]
        )
        self._db.execute(
            "INSERT INTO lines (rank, item, line) VALUES (?, ?, ?)", (rank, line.item.item, pickle.dumps(line))
        )
        self.count += 1

    def parts(self) -> Iterator[list[Line]]:
        """All lines, the most urgent first, some at a time."""
        part: list[Line] = []
        size = 0
        for (line,) in self._db.execute("SELECT line FROM lines ORDER BY rank, id"):
            if part and (len(part) == PART_LINES or size + len(line) > PART_BYTES):
                yield part
                part, size = [], 0
            part.append(_line(line))
            size += len(line)
        if part:
            yield part


@contextmanager
def staged() -> Iterator[Staging]:
    """An empty place for lines, gone after the block, or when the process is killed."""
    with closing(sqlite3.connect("", isolation_level=None)) as db:
        db.executescript(_TABLES)
        yield Staging(db)


def _line(kept: bytes) -> Line:
    line: Line = pickle.loads(kept)
    return line
