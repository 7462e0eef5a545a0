"""Preference files -> comparisons: jsonl, jsonl.gz, json (a list, or lines) and parquet."""

import difflib
import gzip
import json
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from skyrm_jax.comparison import Comparison
from skyrm_jax.data.quarantine import Quarantine
from skyrm_jax.errors import RecordError, UserError
from skyrm_jax.forms import FORMS, parse

UNDECIDED = "undecided (tie or no label)"
"""Outcome of a training record without a preference: counted and passed over, not bad."""

BOM = b"\xef\xbb\xbf"
"""UTF-8's byte order mark, which some programs write at the beginning of a file."""


@dataclass(frozen=True, slots=True)
class Located:
    """A comparison and where it stands.

    Attributes:
        file: the path as it was given.
        line: number of the line, or of the record in a JSON list or parquet file, from 1.
        raw: the line's bytes, or the record's values.
    """

    comparison: Comparison
    file: str
    line: int
    raw: Any


def read_comparisons(
    paths: Sequence[str | os.PathLike[str]], form: str, training: bool, quarantine: Quarantine
) -> Iterator[Comparison]:
    """The comparisons of the files, in order; see `read_located`."""
    return (located.comparison for located in read_located(paths, form, training, quarantine))


def read_located(
    paths: Sequence[str | os.PathLike[str]], form: str, training: bool, quarantine: Quarantine
) -> Iterator[Located]:
    """The comparisons of the files, in order, with their places.

    A record without names gets its file's as `source`, and file:line as `id`. Bad records go to the
    quarantine; with `training`, so do pairs of identical responses, and undecided records are counted and
    passed over.

    Raises:
        UserError: a file is missing, empty, damaged as a whole or of an unknown kind (all are looked at
            before the first is read); the form is unknown; too many records are bad.
    """
    if form != "auto" and form not in FORMS:
        raise UserError(f"form {form!r} is not known; choose from auto, {', '.join(FORMS)}")
    if not paths:
        raise UserError("there are no sources; give at least one file of comparisons")
    readers = [(str(path), _reader(Path(path))) for path in paths]
    return _read(readers, form, training, quarantine)


Record = tuple[int, Any, Any]
"""Line, raw record, and the parsed value or the RecordError that it gives."""


def _read(
    readers: list[tuple[str, Iterator[Record]]], form: str, training: bool, quarantine: Quarantine
) -> Iterator[Located]:
    for file, records in readers:
        for line, raw, value in records:
            quarantine.read(file)
            try:
                if isinstance(value, RecordError):
                    raise value
                comparison = parse(value, form)
                comparison.check(training)
            except RecordError as error:
                quarantine.add(file, line, error, raw)
                continue
            if training and not comparison.preferences:
                quarantine.count(file, UNDECIDED)
                continue
            name = Path(file).name
            id, source = comparison.id or f"{name}:{line}", comparison.source or name
            yield Located(replace(comparison, id=id, source=source), file, line, raw)
        quarantine.finish(file)
    quarantine.check()


def _reader(path: Path) -> Iterator[Record]:
    """The records of a file. Raises UserError at once if it is missing or not of a known kind."""
    if not path.exists():
        raise UserError(f"{path}: there is no such file{_suggestion(path)}")
    if path.is_dir():
        raise UserError(f"{path}: is a folder; name the files in it")
    for suffix, reader in READERS.items():
        if path.name.endswith(suffix):
            if path.stat().st_size == 0:
                raise UserError(f"{path}: the file is empty; give a file with records or leave it out")
            return reader(path)
    raise UserError(f"{path}: is not of a known kind; give one of {', '.join(READERS)}")


def _suggestion(path: Path) -> str:
    """What to do about a missing file."""
    folder = path.parent
    if not folder.is_dir():
        return f", nor a folder {folder}; check the path, and the root that relative paths start from"
    near = difflib.get_close_matches(path.name, os.listdir(folder), n=3)
    return f"; did you mean {' or '.join(near)}?" if near else f"; look for its name in {folder}"


def _json_lines(path: Path) -> Iterator[Record]:
    """The lines of a file, gzipped or not; blank ones are no records."""
    line = 0
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as lines:
            for line, raw in enumerate(lines, 1):
                if line == 1:
                    raw = raw.removeprefix(BOM)
                raw = raw.rstrip(b"\r\n")
                if raw.strip():
                    yield line, raw, _loads(raw)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path}: is damaged after line {line} ({error}); fetch or write it again") from error


def _loads(raw: bytes) -> Any:
    """The JSON value of a line, or a RecordError."""
    try:
        return json.loads(raw.decode())
    except UnicodeDecodeError as error:
        return RecordError("record", "is not UTF-8", "save the file as UTF-8", f"byte {error.start}")
    except json.JSONDecodeError as error:
        detail = f"{error.msg} at character {error.pos}"
        return RecordError("record", "is not valid JSON", "write one JSON object per line", detail)
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, nesting without end
        return RecordError("record", "cannot be read as JSON", "write one JSON object per line", str(error)[:80])


def _json(path: Path) -> Iterator[Record]:
    """The records of a JSON list; a file of lines that merely has the suffix of one is read as lines."""
    with path.open("rb") as file:
        start = file.read(4096).removeprefix(BOM).lstrip()[:1]
    if start != b"[":
        yield from _json_lines(path)
        return
    try:
        # Bytes that are not UTF-8 become lone surrogates, which condemn only the records that hold them.
        text = path.read_bytes().removeprefix(BOM).decode("utf-8", "surrogateescape")
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is not a valid JSON list ({error}); mend it, or write one record per line") from None
    yield from ((number, value, value) for number, value in enumerate(values, 1))


def _parquet(path: Path) -> Iterator[Record]:
    """The rows of a parquet file; columns that are null are absent."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(1024):
                for value in batch.to_pylist():
                    number += 1
                    yield number, value, value
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        raise UserError(f"{path}: cannot be read as parquet after record {number} ({error}); write it again") from error


READERS: dict[str, Callable[[Path], Iterator[Record]]] = {
    ".jsonl": _json_lines,
    ".jsonl.gz": _json_lines,
    ".json": _json,
    ".parquet": _parquet,
}
"""Readers by suffix."""
