"""The file of answers and of the account of every call: what was paid for is never asked again.

SQLite in WAL mode. Nothing counts before it is on the disk: a call is written down before it is begun, an answer before
it is used. What is written at one time by many is one transaction.
"""

import asyncio
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from skyrm_jax.curate.annotators.client import Outcome
from skyrm_jax.errors import UserError

FILE = "calls.sqlite"
VERSION = 1

STARTED, LOST = "started", "lost"
"""Status of a call under way, and of one that was under way when its process was killed: it may have been charged."""

SCHEMA = """
CREATE TABLE calls (
    id INTEGER PRIMARY KEY,
    key TEXT NOT NULL,
    annotator TEXT NOT NULL,
    purpose TEXT NOT NULL,
    started REAL NOT NULL,         -- seconds since 1970
    seconds REAL,                  -- until it ended
    status TEXT NOT NULL,
    input_tokens INTEGER,
    output_tokens INTEGER,
    usd REAL NOT NULL,             -- charged
    unsure_usd REAL NOT NULL,      -- perhaps charged, at most: the call gave no answer
    message TEXT NOT NULL
);
CREATE INDEX under_way ON calls (id) WHERE status = 'started';
CREATE TABLE answers (
    key TEXT PRIMARY KEY,
    call INTEGER NOT NULL,
    text TEXT NOT NULL,
    finish TEXT NOT NULL,
    refusal TEXT NOT NULL
);
CREATE TABLE notes (time REAL NOT NULL, annotator TEXT NOT NULL, message TEXT NOT NULL);
"""


@dataclass(frozen=True, slots=True)
class Stored:
    """An answer that is kept; `call` is its call's number, `status` that call's."""

    call: int
    status: str
    text: str
    finish: str
    refusal: str


@dataclass(frozen=True)
class Tally:
    """The account of one annotator's calls for one purpose, over all runs of the folder.

    Attributes:
        calls: tries, with those that gave no answer.
        cached: requests answered from the file, in this run.
        retries: tries after the first one of the same call.
        statuses: calls by status (see `client.Status`); `invalid`, `truncated` and `refused` are paid answers that
            cannot be used, `lost` are calls under way when a run was killed, `interrupted` when one was stopped.
        input_tokens, output_tokens: as the servers counted them.
        usd: charged.
        unsure_usd: perhaps charged besides, at most, for calls without an answer.
        seconds: mean time of an answer.
        notes: why it was given up, and when.
    """

    annotator: str
    purpose: str
    calls: int = 0
    cached: int = 0
    retries: int = 0
    statuses: dict[str, int] = field(default_factory=dict)
    input_tokens: int = 0
    output_tokens: int = 0
    usd: float = 0.0
    unsure_usd: float = 0.0
    seconds: float = 0.0
    notes: tuple[str, ...] = ()


class Ledger:
    """The file, open for one process; reading and writing in one event loop."""

    def __init__(self, folder: Path) -> None:
        """Calls that a killed process left under way become LOST.

        Raises UserError if the file is not one of these, or cannot be written.
        """
        self.path = folder / FILE
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._writer = sqlite3.connect(self.path, check_same_thread=False, isolation_level=None)
            self._reader = sqlite3.connect(self.path, check_same_thread=False, isolation_level=None)
            for connection in (self._writer, self._reader):
                connection.execute("PRAGMA busy_timeout = 60000")  # somebody may be looking at the report
            require_version(self._writer, self.path, make=True)
            self._writer.execute("PRAGMA journal_mode = WAL")
            self._writer.execute("PRAGMA synchronous = FULL")
            self._writer.execute(f"UPDATE calls SET status = '{LOST}' WHERE status = '{STARTED}'")
        except (OSError, sqlite3.Error) as error:
            raise UserError(f"{self.path} cannot be used ({error}); move it away, or mend the disk") from None
        self._waiting: list[tuple[Callable[[], Any], asyncio.Future[Any]]] = []
        self._flushing: asyncio.Task[None] | None = None

    def close(self) -> None:
        """Closes the file."""
        self._reader.close()
        self._writer.close()

    def spent(self) -> tuple[float, float]:
        """USD charged, and perhaps charged besides, ever."""
        charged, unsure = self._reader.execute("SELECT total(usd), total(unsure_usd) FROM calls").fetchone()
        return charged, unsure

    def known(self) -> set[str]:
        """Names of annotators that ever gave an answer."""
        answered = "SELECT DISTINCT annotator FROM calls WHERE status IN ('ok', 'invalid', 'truncated')"
        return {name for (name,) in self._reader.execute(answered)}

    def answer(self, key: str) -> Stored | None:
        """The answer kept under a key."""
        found = self._reader.execute(
            "SELECT call, status, text, finish, refusal FROM answers JOIN calls ON calls.id = call "
            "WHERE answers.key = ?",
            (key,),
        ).fetchone()
        return None if found is None else Stored(*found)

    async def begin(self, key: str, annotator: str, purpose: str, most: float) -> int:
        """Writes down that a call begins, which can cost `most`; its number."""
        row = (key, annotator, purpose, time.time(), STARTED, most)

        def write() -> int:
            cursor = self._writer.execute(
                "INSERT INTO calls (key, annotator, purpose, started, status, usd, unsure_usd, message) "
                "VALUES (?, ?, ?, ?, ?, 0, ?, '')",
                row,
            )
            assert cursor.lastrowid is not None
            return cursor.lastrowid

        return int(await self._write(write))

    async def end(
        self, call: int, key: str, outcome: Outcome, seconds: float, usd: float, unsure_usd: float
    ) -> Stored | None:
        """Writes down what came of a call; the answer, if it gave one."""
        row = (outcome.status, seconds, outcome.input_tokens, outcome.output_tokens)
        stored = Stored(call, outcome.status, outcome.text, outcome.finish, outcome.refusal) if outcome.paid else None

        def write() -> None:
            self._writer.execute(
                "UPDATE calls SET status = ?, seconds = ?, input_tokens = ?, output_tokens = ?, usd = ?, "
                "unsure_usd = ?, message = ? WHERE id = ?",
                (*row, usd, unsure_usd, outcome.message, call),
            )
            if stored is not None:
                self._writer.execute(
                    "INSERT INTO answers (key, call, text, finish, refusal) VALUES (?, ?, ?, ?, ?)",
                    (key, call, stored.text, stored.finish, stored.refusal),
                )

        await self._write(write)
        return stored

    async def mark(self, call: int, status: str) -> None:
        """Says of a call with an answer whether that is of use."""
        await self._write(lambda: self._writer.execute("UPDATE calls SET status = ? WHERE id = ?", (status, call)))

    async def note(self, annotator: str, message: str) -> None:
        """Writes down what happened to an annotator."""
        row = (time.time(), annotator, message)
        await self._write(lambda: self._writer.execute("INSERT INTO notes VALUES (?, ?, ?)", row))

    async def _write(self, operation: Callable[[], Any]) -> Any:
        """Runs `operation` in a transaction with others that wait; its result, once that is on the disk."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((operation, future))
        if self._flushing is None or self._flushing.done():
            self._flushing = asyncio.create_task(self._flush())
        return await future

    async def _flush(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            try:
                results = await asyncio.to_thread(self._commit, [operation for operation, _ in batch])
            except Exception as error:
                failed: Exception = error
                if isinstance(error, sqlite3.Error):
                    failed = UserError(f"{self.path} cannot be written ({error}); make room on the disk, and run again")
                for _, future in batch:
                    if not future.done():
                        future.set_exception(failed)
                continue
            for (_, future), result in zip(batch, results, strict=True):
                if not future.done():
                    future.set_result(result)

    def _commit(self, operations: Iterable[Callable[[], Any]]) -> list[Any]:
        self._writer.execute("BEGIN IMMEDIATE")
        try:
            results = [operation() for operation in operations]
            self._writer.execute("COMMIT")
        except BaseException:
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
            raise
        return results


def require_version(connection: sqlite3.Connection, path: Path, make: bool) -> None:
    """Raises UserError unless the file is of this version; with `make` an empty one becomes so."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if version == VERSION and tables:
        return
    if version or tables or not make:
        raise UserError(f"{path} holds no calls of this version; choose another folder")
    connection.executescript(f"BEGIN; {SCHEMA} PRAGMA user_version = {VERSION}; COMMIT;")


def summary(folder: Path, cached: Mapping[tuple[str, str], int] | None = None) -> list[Tally]:
    """The account of a folder's calls by annotator and purpose, in order of their names; none if there is no file.

    `cached` are the requests of this run that were answered from the file. May be read while calls are made.
    """
    cached = cached or {}
    path = folder / FILE
    if not path.exists():
        return []
    groups: dict[tuple[str, str], dict[str, Any]] = {}
    statuses: dict[tuple[str, str], Counter[str]] = {}
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
        require_version(connection, path, make=False)
        connection.execute("BEGIN")  # one moment for all that follows
        for name, purpose, *values in connection.execute(
            "SELECT annotator, purpose, count(*), count(*) - count(DISTINCT key), total(input_tokens), "
            "total(output_tokens), total(usd), total(unsure_usd), "
            "coalesce(avg(seconds) FILTER (WHERE status IN ('ok', 'invalid', 'truncated')), 0) "
            "FROM calls GROUP BY annotator, purpose"
        ):
            names = ("calls", "retries", "input_tokens", "output_tokens", "usd", "unsure_usd", "seconds")
            groups[name, purpose] = dict(zip(names, values, strict=True))
        for name, purpose, status, count in connection.execute(
            "SELECT annotator, purpose, status, count(*) FROM calls GROUP BY annotator, purpose, status ORDER BY status"
        ):
            statuses.setdefault((name, purpose), Counter())[status] = count
        notes: dict[str, list[str]] = {}
        for at, name, message in connection.execute("SELECT time, annotator, message FROM notes ORDER BY time"):
            when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))
            notes.setdefault(name, []).append(f"{when}: {message}")
    tallies = []
    for name, purpose in sorted(groups.keys() | {key for key, count in cached.items() if count}):
        values = groups.get((name, purpose), {})
        for count in ("input_tokens", "output_tokens"):
            values[count] = int(values.get(count, 0))
        tallies.append(
            Tally(
                name,
                purpose,
                cached=cached.get((name, purpose), 0),
                statuses=dict(statuses.get((name, purpose), {})),
                notes=tuple(notes.get(name, ())),
                **values,
            )
        )
    return tallies
