"""Files of records -> chunks of records -> records.

Reading (decompressing, finding line ends) is cheap and done in one process; a chunk is what it hands to others, which do
the dear part: parsing and tokenising. Where a chunk ends depends on the file and the chunk size alone.
"""

import gzip
import io
import json
import pickle
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, BinaryIO

from skyrm_jax.data.files import HubDataset, Source, SourceFile
from skyrm_jax.errors import RecordError, UserError

BOM = b"\xef\xbb\xbf"
"""UTF-8's byte order mark, which some programs write at the beginning of a file."""

CHUNK_BYTES = 8 << 20

Record = tuple[int, Any, Any]
"""Line, raw record, and the parsed value or the RecordError that it gives."""


@dataclass(frozen=True)
class Chunk:
    """Consecutive records of a file.

    Attributes:
        first: number of the first line, or of the first record in a JSON list, parquet file or data set, from 1.
        payload: lines as bytes, an Arrow record batch, or a list of values.
        read: bytes of the file, as stored, read so far; for progress.
    """

    first: int
    payload: Any
    read: int

    @property
    def digest(self) -> int:
        """A checksum of what the chunk holds."""
        return zlib.crc32(self.payload if isinstance(self.payload, bytes) else pickle.dumps(self.payload))

    def records(self) -> Iterator[Record]:
        """The records; blank lines are none."""
        if isinstance(self.payload, bytes):
            for line, raw in _lines(self):
                yield line, raw, _loads(raw)
        else:
            values = self.payload if isinstance(self.payload, list) else _rows(self.payload)
            for number, value in enumerate(values, self.first):
                yield number, None if isinstance(value, RecordError) else value, value


def _rows(batch: Any) -> list[Any]:
    """The rows of an Arrow batch, or RecordErrors."""
    try:
        values: list[Any] = batch.to_pylist()
        return values
    except UnicodeDecodeError as error:
        if len(batch) == 1:
            return [RecordError("record", "is not UTF-8", "write the file again as UTF-8", f"byte {error.start}")]
        return [row for number in range(len(batch)) for row in _rows(batch.slice(number, 1))]


def _lines(chunk: Chunk) -> Iterator[tuple[int, bytes]]:
    for line, raw in enumerate(io.BytesIO(chunk.payload), chunk.first):
        raw = raw.rstrip(b"\r\n")
        if raw.strip():
            yield line, raw


def chunks(source: Source, size: int = CHUNK_BYTES) -> Iterator[Chunk]:
    """The chunks of a source, of about `size` bytes each.

    Raises:
        UserError: the file cannot be opened, or is damaged as a whole.
    """
    if isinstance(source, HubDataset):
        yield from _lumps(source.records(), size)
        return
    try:
        file = source.open()
    except Exception as error:  # each file system raises its own
        raise UserError(
            f"{source.name}: cannot be opened ({type(error).__name__}: {error}); check that you may"
        ) from error
    with file:
        yield from _READERS[source.kind](source, file, size)


def _json_lines(source: SourceFile, file: BinaryIO, size: int) -> Iterator[Chunk]:
    """Whole lines of a file, compressed or not."""
    line, rest = 1, b""
    size = max(size, 1024)  # the mark at the beginning is looked for in one piece
    try:
        lines = _decompressed(source.kind, file)
        block = lines.read(size).removeprefix(BOM)
        while block:
            end = block.rfind(b"\n") + 1
            whole = rest + block[:end] if end else b""
            rest = block[end:] if end else rest + block
            if whole:
                yield Chunk(line, whole, file.tell())
                line += whole.count(b"\n")
            block = lines.read(size)
        if rest:
            yield Chunk(line, rest, file.tell())
    except (EOFError, zlib.error, OSError) as error:
        raise UserError(
            f"{source.name}: is damaged after line {line - 1} ({error}); fetch or write it again"
        ) from error


def _decompressed(kind: str, file: BinaryIO) -> Any:
    if kind.endswith(".gz"):
        return gzip.open(file)
    if kind.endswith(".zst"):
        import pyarrow as pa

        return pa.CompressedInputStream(pa.PythonFile(file, "r"), "zstd")
    return file


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


def _json(source: SourceFile, file: BinaryIO, size: int) -> Iterator[Chunk]:
    """The records of a JSON list; a file of lines that merely has the suffix of one is read as lines."""
    start = file.read(4096).removeprefix(BOM).lstrip()[:1]
    file.seek(0)
    if start != b"[":
        yield from _json_lines(source, file, size)
        return
    try:
        # Bytes that are not UTF-8 become lone surrogates, which condemn only the records that hold them.
        text = file.read().removeprefix(BOM).decode("utf-8", "surrogateescape")
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{source.name}: is not a valid JSON list ({error}); mend it, or write one record per line"
        ) from None
    count = max(1, len(values) * size // max(1, len(text)))
    for first in range(0, len(values), count):
        part = values[first : first + count]
        yield Chunk(first + 1, part, len(text) * (first + len(part)) // len(values))


def _parquet(source: SourceFile, file: BinaryIO, size: int) -> Iterator[Chunk]:
    """The rows of a parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 1
    try:
        with pq.ParquetFile(file) as table:
            total = table.metadata.num_rows
            stored = sum(table.metadata.row_group(i).total_byte_size for i in range(table.metadata.num_row_groups))
            count = max(1, total * size // max(1, stored))
            for batch in table.iter_batches(count):
                yield Chunk(number, batch, source.nbytes * (number + len(batch) - 1) // max(1, total))
                number += len(batch)
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        raise UserError(
            f"{source.name}: cannot be read as parquet after record {number - 1} ({error}); write it again"
        ) from error


def _lumps(records: Iterator[Any], size: int) -> Iterator[Chunk]:
    """Records that come one by one, about 4 KiB each."""
    number = 1
    while part := list(islice(records, max(1, size >> 12))):
        yield Chunk(number, part, 0)
        number += len(part)


_READERS: dict[str, Callable[[SourceFile, BinaryIO, int], Iterator[Chunk]]] = {
    ".jsonl": _json_lines,
    ".jsonl.gz": _json_lines,
    ".jsonl.zst": _json_lines,
    ".json": _json,
    ".parquet": _parquet,
}
"""Readers by kind of file."""
