"""The tokenised store: trees in ArrayRecord shards, one small index of them, and what they were made from.

    trees-00000-of-00002.array_record ...   one record per comparison, see `encode`
    index.npz                               the arrays of `Index`
    store.json                              sizes and checksums of the other files, options, counts
    quarantine.jsonl                        the records that could not be used, if any

The same input gives the same bytes. A store appears under its name only when it is complete.
"""

import hashlib
import json
import os
import shutil
import struct
import threading
import zlib
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from jaxtyping import Bool, Float64, Int32, UInt16

from skyrm_jax.chat import Tree
from skyrm_jax.comparison import Preference
from skyrm_jax.errors import UserError

FORMAT = 1
# One record per group: any tree is read alone. Level 1 writes twice as fast as the default 3, no larger.
WRITE = "group_size:1,zstd:1"
READ = "readahead_buffer_size:0,max_parallelism:0"
SHARD_BYTES = 256 << 20
"""A shard is closed once its records, before compression, hold this much."""

QUARANTINE = "quarantine.jsonl"


@dataclass(frozen=True)
class StoredTree:
    """What the store keeps of a comparison."""

    tree: Tree
    preferences: tuple[Preference, ...]
    id: str = ""
    category: str = ""

    @property
    def weight(self) -> float:
        """The comparison's share of a batch's divisor: the mean weight of its preferences, 0 without any."""
        return sum(p.weight for p in self.preferences) / len(self.preferences) if self.preferences else 0.0


@dataclass(frozen=True)
class Index:
    """One entry for every comparison of a store, in order.

    Attributes:
        tokens: of its tree.
        leaves, pairs: rewards and preferences it has.
        weight: mean weight of its preferences.
        heldout: whether it is kept out of training.
        source: number of its file in the store's `sources`.
        conversation_tokens: sum of the lengths of its conversations.
        longest: tokens of its longest conversation.
    """

    tokens: Int32[np.ndarray, "n"]
    leaves: Int32[np.ndarray, "n"]
    pairs: Int32[np.ndarray, "n"]
    weight: Float64[np.ndarray, "n"]
    heldout: Bool[np.ndarray, "n"]
    source: UInt16[np.ndarray, "n"]
    conversation_tokens: Int32[np.ndarray, "n"]
    longest: Int32[np.ndarray, "n"]

    def __len__(self) -> int:
        return len(self.tokens)


class _Header(NamedTuple):
    magic: bytes
    version: int
    tokens: int
    runs: int
    leaves: int
    responses: int
    preferences: int
    conversation_tokens: int
    truncated: int
    id: int
    category: int


_HEADER = struct.Struct("<4s10I")
_MAGIC = b"SKYT"
# Little-endian whatever the machine, so that the bytes are the same everywhere.
_I4, _F8 = np.dtype("<i4"), np.dtype("<f8")


def encode(stored: StoredTree) -> bytes:
    """The bytes of a record: header, tokens, runs, reward_index, leaf, preferences, id, category.

    A run is a stretch of tokens with one `end` and consecutive positions: (length, end, first position).
    """
    tree, preferences = stored.tree, stored.preferences
    new = (np.diff(tree.end) != 0) | (np.diff(tree.positions) != 1)
    starts = np.r_[0, np.flatnonzero(new) + 1]
    runs = np.stack([np.diff(np.r_[starts, len(tree.tokens)]), tree.end[starts], tree.positions[starts]], axis=1)
    id, category = stored.id.encode(), stored.category.encode()
    header = _Header(
        _MAGIC,
        FORMAT,
        len(tree.tokens),
        len(runs),
        len(tree.reward_index),
        len(tree.leaf),
        len(preferences),
        tree.conversation_tokens,
        tree.truncated,
        len(id),
        len(category),
    )
    integers = [tree.tokens, runs.ravel(), tree.reward_index, tree.leaf]
    pairs = np.array([(p.winner, p.loser) for p in preferences], _I4).ravel()
    numbers = np.array([(p.p, p.margin, p.weight) for p in preferences], _F8).ravel()
    body = [np.asarray(a, _I4).tobytes() for a in [*integers, pairs]]
    return b"".join([_HEADER.pack(*header), *body, numbers.tobytes(), id, category])


def decode(record: bytes) -> StoredTree:
    """What `encode` was given; the arrays are read-only. Raises ValueError for any other bytes."""
    if len(record) < _HEADER.size:
        raise ValueError("too short")
    header = _Header(*_HEADER.unpack_from(record))
    if header.magic != _MAGIC or header.version != FORMAT:
        raise ValueError("not a tree of this version")
    at = _HEADER.size

    def take(count: int, dtype: np.dtype[Any]) -> np.ndarray:
        nonlocal at
        values = np.frombuffer(record, dtype, count, at)
        at += values.nbytes
        return values.astype(dtype.newbyteorder("="), copy=False)

    tokens = take(header.tokens, _I4)
    lengths, ends, positions = take(3 * header.runs, _I4).reshape(-1, 3).T
    reward_index, leaf = take(header.leaves, _I4), take(header.responses, _I4)
    pairs = take(2 * header.preferences, _I4).reshape(-1, 2).tolist()
    numbers = take(3 * header.preferences, _F8).reshape(-1, 3).tolist()
    names = record[at:]
    if len(names) != header.id + header.category or lengths.sum() != header.tokens:
        raise ValueError("lengths do not agree")
    # Within a run the position grows with the index; the offset between the two is the run's.
    offsets = positions - (np.cumsum(lengths) - lengths)
    tree = Tree(
        tokens=tokens,
        end=np.repeat(ends, lengths),
        positions=(np.arange(header.tokens) + np.repeat(offsets, lengths)).astype(np.int32),
        reward_index=reward_index,
        leaf=leaf,
        conversation_tokens=header.conversation_tokens,
        truncated=header.truncated,
    )
    preferences = tuple(Preference(*pair, *rest) for pair, rest in zip(pairs, numbers, strict=True))
    return StoredTree(tree, preferences, names[: header.id].decode(), names[header.id :].decode())


class StoreWriter:
    """Writes a store beside its place, in `<directory>.partial`, and moves it there in `finish`.

    Use it in a `with` block; after an error the quarantine file, if there is one, is left in the partial
    folder.
    """

    def __init__(
        self, directory: str | os.PathLike[str], overwrite: bool = False, shard_bytes: int = SHARD_BYTES
    ) -> None:
        """Raises UserError if `directory` holds something else, or a store that may not be overwritten."""
        self.directory = Path(directory)
        self.partial = self.directory.with_name(self.directory.name + ".partial")
        self._shard_bytes = shard_bytes
        self._shards: list[int] = []  # records in each
        self._room = 0
        self._writer: ArrayRecordWriter | None = None
        self._columns: dict[str, array[Any]] = {
            name: array(code)
            for name, code in [
                ("tokens", "i"),
                ("leaves", "i"),
                ("pairs", "i"),
                ("weight", "d"),
                ("source", "H"),
                ("conversation_tokens", "i"),
                ("longest", "i"),
            ]
        }
        if self.directory.exists() and (not self.directory.is_dir() or any(self.directory.iterdir())):
            if not (self.directory / "store.json").is_file():
                raise UserError(f"{self.directory}: exists and is not a store; choose another place")
            if not overwrite:
                raise UserError(f"{self.directory}: there is a store already; overwrite it or choose another place")
        if self.partial.exists():
            shutil.rmtree(self.partial)
        self.partial.mkdir(parents=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()
        if error is not None and self.partial.is_dir():
            for file in self.partial.iterdir():
                if file.name != QUARANTINE:
                    file.unlink()
            if not any(self.partial.iterdir()):
                self.partial.rmdir()

    def __len__(self) -> int:
        return len(self._columns["tokens"])

    def add(self, stored: StoredTree, source: int) -> None:
        """Appends one comparison; `source` is the number of its file."""
        record = encode(stored)
        if self._writer is None or self._room <= 0:
            self._close()
            self._writer = ArrayRecordWriter(str(self.partial / f"{len(self._shards)}"), WRITE)
            self._shards.append(0)
            self._room = self._shard_bytes
        self._writer.write(record)
        self._shards[-1] += 1
        self._room -= len(record)
        tree = stored.tree
        entry = {
            "tokens": len(tree.tokens),
            "leaves": len(tree.reward_index),
            "pairs": len(stored.preferences),
            "weight": stored.weight,
            "source": source,
            "conversation_tokens": tree.conversation_tokens,
            "longest": tree.longest,
        }
        for name, value in entry.items():
            self._columns[name].append(value)

    def finish(self, heldout: Bool[np.ndarray, "n"], meta: dict[str, Any]) -> "Store":
        """Completes the store, moves it to its place and opens it. `meta` is recorded in store.json."""
        self._close()
        shards = []
        for number, records in enumerate(self._shards):
            name = f"trees-{number:05d}-of-{len(self._shards):05d}.array_record"
            (self.partial / f"{number}").rename(self.partial / name)
            shards.append(_facts(self.partial / name) | {"records": records})
        columns = {name: np.frombuffer(column, column.typecode) for name, column in self._columns.items()}
        # Uncompressed and without dates, so that the bytes depend on the arrays alone.
        np.savez(self.partial / "index.npz", heldout=np.asarray(heldout, bool), **columns)  # type: ignore[arg-type]
        facts = {"format": FORMAT, "shards": shards, "index": _facts(self.partial / "index.npz")} | meta
        with (self.partial / "store.json").open("w", encoding="utf-8") as file:
            file.write(json.dumps(facts, indent=1) + "\n")
            file.flush()
            os.fsync(file.fileno())
        if self.directory.exists():
            old = self.directory.with_name(self.directory.name + ".old")
            shutil.rmtree(old, ignore_errors=True)
            self.directory.rename(old)
            self.partial.rename(self.directory)
            shutil.rmtree(old)
        else:
            self.partial.rename(self.directory)
        return Store.open(self.directory)

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


class Store:
    """A complete store, open for reading. Make one with `Store.open`. It may be sent to other processes.

    Attributes:
        directory: where it is.
        meta: what store.json says.
        index: see `Index`.
    """

    def __init__(self, directory: Path, meta: dict[str, Any], index: Index) -> None:
        self.directory, self.meta, self.index = directory, meta, index
        self._first = np.cumsum([0] + [shard["records"] for shard in meta["shards"]])
        self._readers: dict[int, ArrayRecordReader] = {}
        self._lock = threading.Lock()

    @classmethod
    def open(cls, directory: str | os.PathLike[str]) -> Self:
        """Opens a store and checks that its files are whole, the shards by size only (`verify` reads them).

        Raises UserError, naming the file, if there is no store, it is of another version or damaged.
        """
        directory = Path(directory)
        try:
            meta = json.loads((directory / "store.json").read_text(encoding="utf-8"))
            version, files = meta["format"], [*meta["shards"], meta["index"]]
        except (FileNotFoundError, NotADirectoryError):
            raise UserError(f"{directory}: holds no store; make one with `skyrm prepare`") from None
        except (ValueError, KeyError, TypeError) as error:
            raise _damaged(directory / "store.json", repr(error)) from error
        if version != FORMAT:
            raise UserError(
                f"{directory}: is a store of format {version}, this program reads {FORMAT}; prepare it again"
            )
        for facts in files:
            path = directory / facts["file"]
            size = path.stat().st_size if path.is_file() else -1
            if size != facts["bytes"]:
                found = "it is missing" if size < 0 else f"it has {size} bytes, not {facts['bytes']}"
                raise _damaged(path, found)
        _check_sum(directory, meta["index"])
        with np.load(directory / meta["index"]["file"]) as arrays:
            index = Index(**{field.name: arrays[field.name] for field in fields(Index)})
        return cls(directory, meta, index)

    def require(self, facts: Mapping[str, Any], whose: str, remedy: str) -> None:
        """Raises UserError unless the store was made with the tokenizer, template and pad token of `facts`."""
        for name in ("tokenizer_hash", "template_hash", "pad_token_id"):
            if self.meta[name] != facts[name]:
                raise UserError(
                    f"{self.directory}: its {name} ({self.meta[name]}) is not the {whose}'s ({facts[name]}): {remedy}"
                )

    def __reduce__(self) -> tuple[Any, ...]:
        return Store.open, (self.directory,)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, i: int) -> StoredTree:
        return self.read([i])[0]

    @property
    def sources(self) -> list[str]:
        """The files it was made from; `index.source` counts in this list."""
        return list(self.meta["sources"])

    @property
    def fingerprint(self) -> str:
        """SHA-256, in hex, of what training reads: equal for equal trees, order and held-out split."""
        return hashlib.sha256(json.dumps([self.meta["shards"], self.meta["index"]]).encode()).hexdigest()

    def read(self, ids: Sequence[int] | np.ndarray) -> list[StoredTree]:
        """The comparisons `ids`, in that order, by one read per shard. May be called from several threads.

        Raises IndexError if one is not there, UserError if a shard is damaged.
        """
        wanted = np.asarray(ids, np.int64)
        if len(wanted) and (wanted.min() < 0 or wanted.max() >= len(self)):
            raise IndexError(f"the store has comparisons 0 to {len(self) - 1}")
        shards = np.searchsorted(self._first, wanted, side="right") - 1
        found: list[StoredTree | None] = [None] * len(wanted)
        for shard in np.unique(shards).tolist():
            at = np.flatnonzero(shards == shard)
            path = self.directory / self.meta["shards"][shard]["file"]
            try:
                records = self._reader(shard, path).read((wanted[at] - self._first[shard]).tolist())
                for position, record in zip(at.tolist(), records, strict=True):
                    found[position] = decode(record)
            except (RuntimeError, ValueError) as error:
                raise _damaged(path, str(error)) from error
        return found  # type: ignore[return-value]

    def verify(self) -> None:
        """Reads every file. Raises UserError naming the first whose checksum is wrong."""
        for facts in [*self.meta["shards"], self.meta["index"]]:
            _check_sum(self.directory, facts)

    def _reader(self, shard: int, path: Path) -> ArrayRecordReader:
        with self._lock:
            if shard not in self._readers:
                self._readers[shard] = ArrayRecordReader(str(path), READ)
            return self._readers[shard]


def _facts(path: Path) -> dict[str, Any]:
    """Name, size and checksum of a file, as store.json keeps them."""
    return {"file": path.name, "bytes": path.stat().st_size, "crc32": _crc32(path)}


def _crc32(path: Path) -> int:
    crc = 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            crc = zlib.crc32(block, crc)
    return crc


def _check_sum(directory: Path, facts: dict[str, Any]) -> None:
    if _crc32(directory / facts["file"]) != facts["crc32"]:
        raise _damaged(directory / facts["file"], "its checksum is wrong")


def _damaged(path: Path, how: str) -> UserError:
    return UserError(f"{path}: is damaged ({how}); prepare the store again, or fetch it again")
