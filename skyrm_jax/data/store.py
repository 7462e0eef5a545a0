"""The tokenised store: trees in ArrayRecord shards, one small index of them, and what they were made from.

    trees-00000-of-00002.array_record ...   one record per comparison, see `record.encode`
    index.npy, held_out.npy, duplicates.npy see `index`
    store.json                              sizes and checksums of the other files, options, counts
    quarantine.jsonl                        the records that could not be used, if any
    report.json, lengths.png                the account of the records, tokens, turns and lengths

`skyrm prepare` writes it (`writing`); a store appears under its name only when it is complete.
"""

import functools
import hashlib
import json
import os
import resource
import threading
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader

from skyrm_jax.data import remote
from skyrm_jax.data.index import DUPLICATES, HELD_OUT, INDEX, Index
from skyrm_jax.data.record import StoredTree, decode
from skyrm_jax.errors import UserError
from skyrm_jax.schedule import Ids

FORMAT = 2
READ = "readahead_buffer_size:0,max_parallelism:0"
OPEN_SHARDS = min(4096, max(64, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2))
"""Shards kept open at once; each takes a file descriptor and the places of its records."""

QUARANTINE = "quarantine.jsonl"


class Store:
    """A complete store, open for reading. Make one with `Store.open`. It may be sent to other processes.

    Attributes:
        directory: where it is: a local folder, or gs://bucket/folder.
        meta: what store.json says.
        index: see `Index`.
    """

    def __init__(self, directory: str, meta: dict[str, Any], index: Index, duplicates: np.ndarray) -> None:
        self.directory, self.meta, self.index = directory, meta, index
        self._first = np.cumsum([0] + [shard["records"] for shard in meta["shards"]])
        self._records = Ids(0, int(self._first[-1]), duplicates)
        self._reader = functools.lru_cache(OPEN_SHARDS)(self._open_shard)
        self._lock = threading.Lock()

    @classmethod
    def open(cls, directory: str | os.PathLike[str], check: bool = True) -> Self:
        """Opens a store; `check` reads the index once and compares checksums, and the shards' sizes (`faults` reads them).

        Raises UserError, naming the file, if there is no store, it is of another version or damaged.
        """
        place = os.fspath(directory)
        about = remote.join(place, "store.json")
        if not remote.is_remote(place) and not os.path.isfile(about):
            raise UserError(f"{place}: holds no store; make one with `skyrm prepare`")
        text = remote.read_bytes(about)
        try:
            meta = json.loads(text)
            version = meta["format"]
        except (ValueError, KeyError, TypeError) as error:
            raise damaged(about, repr(error)) from error
        if version != FORMAT:
            raise UserError(f"{place}: is a store of format {version}, this program reads {FORMAT}; prepare it again")
        try:
            sizes = [source["comparisons"] for source in meta["sources"]]
            if check:
                remote.check_sizes(
                    place, {facts["file"]: facts["bytes"] for facts in [*meta["shards"], *meta["index"]]}
                )
            files = {
                f["file"]: remote.local_copy(remote.join(place, f["file"]), f["bytes"], f["crc32"])
                for f in meta["index"]
            }
            if check:
                for facts in meta["index"]:
                    _check_sum(files[facts["file"]], facts)
            index = Index.open(files[INDEX], files[HELD_OUT], sizes)
            if sum(sizes) != len(index):
                raise damaged(about, f"its sources hold {sum(sizes)} comparisons, the index {len(index)}")
            return cls(place, meta, index, np.load(files[DUPLICATES]))
        except (KeyError, TypeError) as error:
            raise damaged(about, repr(error)) from error

    def require(self, facts: Mapping[str, Any], whose: str, remedy: str) -> None:
        """Raises UserError unless the store was made with the tokenizer, template and pad token of `facts`."""
        for name in ("tokenizer_hash", "template_hash", "pad_token_id"):
            if self.meta[name] != facts[name]:
                raise UserError(
                    f"{self.directory}: its {name} ({self.meta[name]}) is not the {whose}'s ({facts[name]}): {remedy}"
                )

    def __reduce__(self) -> tuple[Any, ...]:
        return Store.open, (self.directory, False)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, i: int) -> StoredTree:
        return self.read([i])[0]

    @property
    def sources(self) -> list[str]:
        """The files it was made from; `index.source` counts in this list."""
        return [source["name"] for source in self.meta["sources"]]

    @property
    def fingerprint(self) -> str:
        """SHA-256, in hex, of what training reads: equal for equal trees, order and held-out split."""
        return hashlib.sha256(json.dumps([self.meta["shards"], self.meta["index"]]).encode()).hexdigest()

    def read(self, ids: Sequence[int] | np.ndarray) -> list[StoredTree]:
        """The comparisons `ids`, in that order, by one read per shard. May be called from several threads.

        Raises IndexError if one is not there, UserError if a shard is damaged.
        """
        wanted = np.asarray(ids, np.int64)
        if len(wanted) and (np.min(wanted) < 0 or np.max(wanted) >= len(self)):
            raise IndexError(f"the store has comparisons 0 to {len(self) - 1}")
        wanted = self._records[wanted]
        shards = np.searchsorted(self._first, wanted, side="right") - 1
        found: list[StoredTree | None] = [None] * len(wanted)
        for shard in np.unique(shards).tolist():
            at = np.flatnonzero(shards == shard)
            try:
                with self._lock:
                    reader = self._reader(shard)
                records = reader.read((wanted[at] - self._first[shard]).tolist())
                for position, record in zip(at.tolist(), records, strict=True):
                    found[position] = decode(record)
            except (RuntimeError, ValueError) as error:
                with self._lock:  # a reader that found its file missing or cut short stays so
                    self._reader.cache_clear()
                place = remote.join(self.directory, self.meta["shards"][shard]["file"])
                if remote.is_remote(place):
                    raise UserError(
                        f"{place}: cannot be read ({error}); check the network and your credentials, or fetch it again"
                    ) from error
                raise damaged(place, str(error)) from error
        return found  # type: ignore[return-value]

    def faults(self) -> Iterator[str]:
        """Reads every file of a local store; names each that is missing or whose size or checksum is wrong.

        Raises UserError for a remote store.
        """
        if remote.is_remote(self.directory):
            raise UserError(f"{self.directory}: only a local store can be verified; copy it to this machine")
        for facts in [*self.meta["shards"], *self.meta["index"]]:
            try:
                remote.check_sizes(self.directory, {facts["file"]: facts["bytes"]})
                _check_sum(Path(self.directory, facts["file"]), facts)
            except UserError as error:
                yield str(error)

    def _open_shard(self, shard: int) -> ArrayRecordReader:
        return ArrayRecordReader(remote.join(self.directory, self.meta["shards"][shard]["file"]), READ)


def facts_of(path: Path) -> dict[str, Any]:
    """Name, size and checksum of a file, as store.json keeps them."""
    return {"file": path.name, "bytes": path.stat().st_size, "crc32": _crc32(path)}


def _crc32(path: Path) -> int:
    crc = 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            crc = zlib.crc32(block, crc)
    return crc


def _check_sum(path: Path, facts: Mapping[str, Any]) -> None:
    if _crc32(path) != facts["crc32"]:
        raise damaged(str(path), "its checksum is wrong")


def damaged(place: str, how: str) -> UserError:
    """The error of a file that is not what was written."""
    return UserError(f"{place}: is damaged ({how}); prepare the store again, or fetch it again")
