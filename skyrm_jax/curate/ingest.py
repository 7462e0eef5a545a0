"""Sources of comparisons -> parts: parquet files of pairs, one for each chunk of a source, in the order of the records.

00003-0000000001.parquet    pairs of the chunk of source 3 that begins at line 1, if it has any
00003-0000000001.bad.jsonl  records put aside, if any
00003-0000000001.json       the account of its records; written last: with it the part is finished

A chunk is read and parsed where the engine has a core to spare. Lines of a file that is not compressed can be found from
the middle, so each of its chunks is a task; any other source is one task, chunk after chunk.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from skyrm_jax.comparison import Message
from skyrm_jax.curate.engine import each, write_table
from skyrm_jax.curate.pair import MESSAGES, SCHEMA, TEXTS, Pair, pairs_of
from skyrm_jax.data.files import Source, SourceFile
from skyrm_jax.data.quarantine import EARLY, Quarantine
from skyrm_jax.data.readers import BOM, CHUNK_BYTES, Chunk, chunks
from skyrm_jax.data.sources import IDENTICAL, UNDECIDED, comparisons_of
from skyrm_jax.data.writing import unfinished, write_durably
from skyrm_jax.errors import RecordError, UserError
from skyrm_jax.folders import sync

KEYS = pa.schema([("prompt_key", pa.string()), ("contents", pa.string())])
"""Columns that a pool has beside those of `pair.SCHEMA`."""

POOL = pa.unify_schemas([SCHEMA, KEYS])

PART = pa.unify_schemas([POOL, pa.schema([("position", pa.int64()), ("identical", pa.bool_())])])
"""Columns of a part: `position` orders pairs as sources, lines and preferences do; `identical` marks two equal sides."""

MOST_SOURCES, MOST_LINES, MOST_PAIRS = 1 << 16, 1 << 31, 1 << 16
"""Bounds of what a position is made of, which is a number of 63 bits."""

USED = "used"
"""Outcome of a record that gives a pair."""


def position(source: int, line: int, pair: int) -> int:
    """Where a pair stands among all pairs: number of its source, line, number among the record's pairs."""
    return (source * MOST_LINES + line) * MOST_PAIRS + pair


def place(position: int) -> tuple[int, int]:
    """(source, line) of a position."""
    return divmod(position // MOST_PAIRS, MOST_LINES)


@dataclass(frozen=True)
class Piece:
    """Where a chunk of lines stands in a file.

    Attributes:
        first: number of its first line.
        offset, nbytes: of its text in the file.
        digest: `Chunk.digest` of it.
    """

    first: int
    offset: int
    nbytes: int
    digest: int


@dataclass(frozen=True)
class Job:
    """A chunk, or all chunks of a source, to make parts of.

    Attributes:
        folder: of the parts.
        source, number: the source, and its number among all.
        form: of its records.
        strict: whether a bad record ends the run.
        piece: the chunk; None for all of the source.
        size: bytes of a chunk.
    """

    folder: Path
    source: Source
    number: int
    form: str
    strict: bool
    piece: Piece | None = None
    size: int = CHUNK_BYTES


@dataclass(frozen=True)
class Part:
    """The account of a finished part.

    Attributes:
        stem: of its files' names.
        digest: of the chunk that it was made of.
        file: label of the source.
        outcomes: records by what became of them, as `Quarantine` counts them.
        bad: bad records.
        undecided: preferences of used records that prefer neither response.
        pairs: rows.
        read: bytes of the source, as stored, read so far.
    """

    stem: str
    digest: int
    file: str
    outcomes: dict[str, int]
    bad: int
    undecided: int
    pairs: int
    read: int

    def path(self, folder: Path) -> Path:
        """The parquet file, which is there if there are `pairs`."""
        return folder / f"{self.stem}.parquet"

    def aside(self, folder: Path) -> Path:
        """The file of records put aside, which is there if it `has_aside`."""
        return folder / f"{self.stem}.bad.jsonl"

    @property
    def has_aside(self) -> bool:
        """Whether a record was put aside."""
        return self.bad + self.outcomes.get(IDENTICAL, 0) > 0

    def quarantine(self, folder: Path) -> Quarantine:
        """What was counted and put aside."""
        made = Quarantine(None)
        made.path = self.aside(folder)  # to be read, not begun anew
        made.counts = {self.file: Counter(self.outcomes)}
        made.records, made.bad = self.outcomes["read"], self.bad
        return made


def ingest(
    sources: Sequence[Source],
    form: str,
    max_bad_share: float,
    folder: Path,
    bad: Path,
    processes: bool,
    progress: Callable[[Part], None] = lambda part: None,
    size: int = CHUNK_BYTES,
) -> tuple[list[Part], Quarantine]:
    """Makes the parts of all sources that are not in `folder` yet; all parts, in order, and the account of all records.

    Args:
        sources: in the order that decides which of equal pairs is the first.
        form: shape of the records, or `auto`.
        max_bad_share: stop when more than this share of the records is bad.
        folder: of the parts.
        bad: file that all records put aside are written to.
        processes: whether it is worth a process for every core.
        progress: called with each part that is finished.
        size: bytes of a chunk.

    Raises:
        UserError: a source cannot be read, has no record that can be used, or too many are bad.
    """
    if len(sources) > MOST_SOURCES:
        raise UserError(f"sources name {len(sources):,} files; join some: {MOST_SOURCES:,} can be told apart")
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [
        Job(folder, source, number, form, max_bad_share == 0, piece, size)
        for number, source in enumerate(sources)
        for piece in pieces(source, size)
    ]
    parts: list[Part] = []
    records = bad_records = 0
    for made in each(make, jobs, processes):
        parts += made
        records += sum(part.outcomes["read"] for part in made)
        bad_records += sum(part.bad for part in made)
        for part in made:
            progress(part)
        if records >= EARLY and bad_records > max_bad_share * records:
            break  # told below, with the records put aside so far
    parts.sort(key=lambda part: part.stem)
    quarantine = Quarantine(bad, max_bad_share)
    for part in parts:
        quarantine.merge(part.quarantine(folder))
    quarantine.check()
    for source in sources:
        quarantine.finish(source.label)
    return parts, quarantine


def pieces(source: Source, size: int) -> Iterator[Piece | None]:
    """The chunks of a file of plain lines; None, once, for any other source."""
    if not isinstance(source, SourceFile) or source.kind != ".jsonl":
        yield None
        return
    with source.open() as file:
        offset = len(BOM) if file.read(len(BOM)) == BOM else 0
    for chunk in chunks(source, size):
        yield Piece(chunk.first, offset, len(chunk.payload), chunk.digest)
        offset += len(chunk.payload)


def make(job: Job) -> list[Part]:
    """Makes the parts of a job that are not finished; all its parts.

    Raises:
        UserError: the source cannot be read or has changed, or a bad record ends the run.
    """
    if job.piece is not None and (part := _finished(job, job.piece.first, job.piece.digest)):
        return [part]
    parts = []
    for chunk in _chunks(job):
        parts.append(_finished(job, chunk.first, chunk.digest) or _make(job, chunk))
    return parts


def _chunks(job: Job) -> Iterator[Chunk]:
    if job.piece is None:
        yield from chunks(job.source, job.size)
        return
    assert isinstance(job.source, SourceFile)
    with job.source.open() as file:
        file.seek(job.piece.offset)
        chunk = Chunk(job.piece.first, file.read(job.piece.nbytes), job.piece.offset + job.piece.nbytes)
    if chunk.digest != job.piece.digest:
        raise UserError(f"{job.source.name}: was changed while it was read; run the command again")
    yield chunk


def _stem(job: Job, first: int) -> str:
    return f"{job.number:05}-{first:010}"


def _finished(job: Job, first: int, digest: int) -> Part | None:
    """The part that a chunk has made, if it is there."""
    stem = _stem(job, first)
    try:
        told = json.loads((job.folder / f"{stem}.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    part = Part(**told)
    files = [part.path(job.folder)] * (part.pairs > 0) + [part.aside(job.folder)] * part.has_aside
    same = (part.digest, part.file) == (digest, job.source.label)
    return part if same and all(path.is_file() for path in files) else None


def _make(job: Job, chunk: Chunk) -> Part:
    stem, label = _stem(job, chunk.first), job.source.label
    final = job.folder / f"{stem}.bad.jsonl"
    aside = job.folder / unfinished(final.name)
    quarantine = Quarantine(aside, 0.0 if job.strict else 1.0)
    pairs: list[Pair] = []
    positions: list[int] = []
    undecided = 0
    for located in comparisons_of(chunk, label, job.source.short, job.form, True, quarantine):
        made = list(pairs_of(located.comparison, label, located.line))
        if located.line >= MOST_LINES:
            raise UserError(f"{job.source.name}: has {MOST_LINES:,} lines or more; split it")
        if len(made) > MOST_PAIRS:
            error = RecordError("preferences", "are too many", f"give at most {MOST_PAIRS:,} pairs", f"{len(made)}")
            quarantine.add(label, located.line, error, located.raw)
            continue
        if not made:
            quarantine.count(label, UNDECIDED)
            continue
        quarantine.count(label, USED)
        undecided += len(located.comparison.preferences) - len(made)
        pairs += made
        positions += [position(job.number, located.line, k) for k in range(len(made))]
    part = Part(
        stem,
        chunk.digest,
        label,
        dict(quarantine.counts.get(label, {"read": 0})),
        quarantine.bad,
        undecided,
        len(pairs),
        chunk.read,
    )
    if pairs:
        write_table(part.path(job.folder), table(pairs, positions))
    if aside.exists():
        sync(aside)
        aside.replace(final)
        sync(job.folder)
    else:
        final.unlink(missing_ok=True)
    write_durably(job.folder / f"{stem}.json", json.dumps(vars(part)))
    return part


def table(pairs: Sequence[Pair], positions: Sequence[int]) -> pa.Table:
    """The rows of a part."""
    columns: dict[str, Any] = {
        name: [getattr(pair, name) for pair in pairs] for name in (*SCHEMA.names, *KEYS.names) if name not in TEXTS
    }
    columns |= {name: _messages([getattr(pair, name) for pair in pairs]) for name in TEXTS}
    columns["position"] = positions
    columns["identical"] = [pair.chosen == pair.rejected for pair in pairs]
    return pa.table([pa.array(columns[name], PART.field(name).type) for name in PART.names], schema=PART)


def _messages(runs: Sequence[Sequence[Message]]) -> pa.ListArray:
    """A column of runs of messages."""
    offsets = np.concatenate([[0], np.cumsum([len(run) for run in runs], dtype=np.int32)]).astype(np.int32)
    flat = [message for run in runs for message in run]
    texts = [pa.array([getattr(message, name) for message in flat], pa.string()) for name in ("role", "content")]
    return pa.ListArray.from_arrays(offsets, pa.StructArray.from_arrays(texts, fields=list(MESSAGES.value_type)))
