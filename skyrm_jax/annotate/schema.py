"""The database: its tables, and how it is opened so that what is committed survives any crash."""

import os
import sqlite3
from pathlib import Path

from skyrm_jax.errors import UserError

FILE = "annotations.sqlite"
APPLICATION = 0x536B7941
VERSION = 1

WAIT = 30.0
"""Seconds that a process waits for another one's transaction, such as a part of an import beside the server; then SQLite
says that the database is locked."""

OPEN, SPLIT, FLAGGED, DONE, GOLD = range(5)
"""States of an item: it wants answers; adjudicators are to settle a tie, or to look at a flag; it is done; it is a gold
check, which anybody may get."""

_TABLES = """
CREATE TABLE options (overlap INTEGER, lease_seconds REAL, gold_share REAL, seed INTEGER, review INTEGER);

CREATE TABLE batches (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);

-- In the order of handing out. `slots`: people to whom it could go now. Texts are apart, for these rows change often.
CREATE TABLE items (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    batch INTEGER NOT NULL REFERENCES batches,
    category TEXT NOT NULL,
    overlap INTEGER,
    gold TEXT,
    machine TEXT,
    state INTEGER NOT NULL,
    slots INTEGER NOT NULL
);
CREATE INDEX items_free ON items (id) WHERE state = 0 AND slots > 0;
CREATE INDEX items_adjudicable ON items (id) WHERE state IN (1, 2);
CREATE INDEX items_gold ON items (id) WHERE state = 4;
CREATE INDEX items_batch ON items (batch, id);
CREATE TABLE texts (item INTEGER PRIMARY KEY REFERENCES items, content TEXT NOT NULL);
CREATE TABLE tally (state INTEGER PRIMARY KEY, n INTEGER NOT NULL);

-- `cursor`: all items up to here that they could have had were handed to them, those in `missed` aside.
-- `turns`: items they were given from the queue or as gold checks. `held_open`: items in state OPEN that they answered.
CREATE TABLE annotators (
    name TEXT PRIMARY KEY,
    role TEXT NOT NULL,
    token BLOB,
    cursor INTEGER NOT NULL DEFAULT 0,
    turns INTEGER NOT NULL DEFAULT 0,
    answered INTEGER NOT NULL DEFAULT 0,
    held_open INTEGER NOT NULL DEFAULT 0,
    gold_answered INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE TABLE missed (who TEXT NOT NULL, item INTEGER NOT NULL, PRIMARY KEY (who, item)) WITHOUT ROWID;

-- `seq`: of the event that made it. `state`: live, answered, flagged, undone or expired.
CREATE TABLE leases (
    id TEXT PRIMARY KEY,
    seq INTEGER NOT NULL,
    who TEXT NOT NULL,
    item INTEGER NOT NULL REFERENCES items,
    swapped INTEGER NOT NULL,
    origin TEXT NOT NULL,
    shown REAL NOT NULL,
    expires REAL NOT NULL,
    state TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX leases_item ON leases (item, who, state);
CREATE INDEX leases_live ON leases (who, seq) WHERE state = 'live';
CREATE INDEX leases_due ON leases (expires) WHERE state = 'live';

-- Ids of answers and flags are those of their events.
CREATE TABLE answers (
    id INTEGER PRIMARY KEY,
    lease TEXT NOT NULL UNIQUE REFERENCES leases,
    who TEXT NOT NULL,
    item INTEGER NOT NULL REFERENCES items,
    choice TEXT NOT NULL,
    verdict TEXT NOT NULL,
    attributes TEXT NOT NULL,
    tools TEXT NOT NULL,
    links TEXT NOT NULL,
    note TEXT NOT NULL,
    seconds REAL,
    time REAL NOT NULL,
    imported INTEGER NOT NULL,
    needs_why INTEGER NOT NULL,
    why TEXT NOT NULL,
    in_force INTEGER NOT NULL
);
CREATE UNIQUE INDEX answers_item ON answers (item, who) WHERE in_force;
CREATE INDEX answers_own ON answers (who, id) WHERE in_force AND NOT imported;
CREATE INDEX answers_past ON answers (item, who, id);
CREATE INDEX answers_owing ON answers (who, id) WHERE in_force AND needs_why AND why = '';
CREATE TABLE flags (
    id INTEGER PRIMARY KEY,
    lease TEXT NOT NULL UNIQUE REFERENCES leases,
    who TEXT NOT NULL,
    item INTEGER NOT NULL REFERENCES items,
    why TEXT NOT NULL,
    time REAL NOT NULL,
    settled_by INTEGER,
    in_force INTEGER NOT NULL
);
CREATE INDEX flags_item ON flags (item) WHERE in_force;
CREATE INDEX flags_own ON flags (who, id) WHERE in_force;

CREATE TABLE events (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    time REAL NOT NULL,
    who TEXT NOT NULL,
    kind TEXT NOT NULL,
    item INTEGER,
    lease TEXT NOT NULL,
    data TEXT NOT NULL
);
CREATE TRIGGER events_stay BEFORE UPDATE ON events BEGIN SELECT raise(ABORT, 'events are never changed'); END;
CREATE TRIGGER events_last BEFORE DELETE ON events BEGIN SELECT raise(ABORT, 'events are never removed'); END;
"""


def connect(folder: Path) -> sqlite3.Connection:
    """The database of a folder, made if the folder is empty or not there; transactions are the caller's.

    Raises:
        UserError: the folder holds something else, or a store of a newer version, or its file is damaged.
    """
    path = folder / FILE
    if not path.exists() and folder.exists() and (not folder.is_dir() or set(os.listdir(folder)) - {"secret"}):
        raise UserError(f"{folder}: is no store of annotations; give an empty folder, or one that does not exist")
    folder.mkdir(parents=True, exist_ok=True)
    db = sqlite3.connect(path, WAIT, isolation_level=None, check_same_thread=False)
    try:
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA foreign_keys = ON")
        db.execute("PRAGMA cache_size = -65536")  # KiB
        db.execute("PRAGMA journal_mode = WAL")
        _require_ours(db, path)
    except sqlite3.Error as error:
        db.close()
        raise UserError(f"{path}: is no store of annotations, or damaged ({error}); put back a good copy") from None
    except UserError:
        db.close()
        raise
    return db


def _require_ours(db: sqlite3.Connection, path: Path) -> None:
    """Makes the tables of a new database; raises UserError if it is another program's or a newer one."""
    (application,), (version,) = (
        db.execute(f"PRAGMA {name}").fetchone() for name in ("application_id", "user_version")
    )
    if application == 0 and not db.execute("SELECT 1 FROM sqlite_master").fetchone():
        db.executescript(
            f"BEGIN IMMEDIATE; PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {VERSION}; {_TABLES} COMMIT;"
        )
    elif application != APPLICATION:
        raise UserError(f"{path}: is another program's database; give another folder")
    elif version > VERSION:
        raise UserError(
            f"{path}: is of version {version}, and this program knows versions up to {VERSION}; use a newer skyrm-jax"
        )
