"""Writing a store: shard by shard, each of them complete or absent, and the whole in its place or not at all."""

import json
import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter
from jaxtyping import Int, Shaped

from skyrm_jax.data import index
from skyrm_jax.data.record import StoredTree, encode
from skyrm_jax.data.store import FORMAT, Store, facts_of
from skyrm_jax.errors import UserError
from skyrm_jax.folders import sync

# One record per group: any tree is read alone. Level 1 writes twice as fast as the default 3, no larger.
WRITE = "group_size:1,zstd:1"


class ShardWriter:
    """Writes the trees of one shard; use it in a `with` block."""

    def __init__(self, path: Path) -> None:
        self._writer = ArrayRecordWriter(str(path), WRITE)
        self._rows: list[tuple[int, int, int, float, int, int]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()

    def add(self, stored: StoredTree) -> None:
        """Appends a comparison."""
        self._rows.append(index.row(stored))
        self._writer.write(encode(stored))

    @property
    def rows(self) -> Shaped[np.ndarray, "n"]:
        """The index of what was added so far."""
        return np.array(self._rows, index.ROW)


def replaced(directory: Path) -> Path:
    """Where the store that is being overwritten waits until the new one is in its place."""
    return directory.with_name(f".{directory.name}.old")


def require_free(directory: Path, overwrite: bool) -> None:
    """Puts a store back that a killed run had moved away. Raises UserError if `directory` holds something else, or a store that may not be overwritten."""
    if not directory.exists() and (replaced(directory) / "store.json").is_file():
        replaced(directory).rename(directory)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        if not (directory / "store.json").is_file():
            raise UserError(f"{directory}: exists and is not a store; choose another place")
        if not overwrite:
            raise UserError(f"{directory}: there is a store already; overwrite it or choose another place")


def finish(
    partial: Path,
    directory: Path,
    shards: Sequence[Mapping[str, Any]],
    rows: Sequence[Shaped[np.ndarray, "_"]],
    sources: Sequence[tuple[str, int]],
    held_out: Int[np.ndarray, "h"],
    duplicates: Int[np.ndarray, "d"],
    meta: Mapping[str, Any],
    keep: Collection[str] = (),
) -> Store:
    """Completes the store in `partial`, moves it to its place and opens it.

    Args:
        shards: `facts_of` files in `partial`, and their records, in order; they get their final names.
        rows: for each shard the index rows of its comparisons, duplicates left out.
        sources: names, and how many comparisons each has, in the order of the shards.
        held_out: ids of comparisons.
        duplicates: numbers of records, counted over all shards.
        meta: recorded in store.json.
        keep: names of other files in `partial` that belong to the store; the rest is removed.
    """
    full = [shard for shard in shards if shard["records"]]
    names = [f"trees-{number:05d}-of-{len(full):05d}.array_record" for number in range(len(full))]
    index.save(partial, rows, sum(map(len, rows)), held_out, duplicates)
    written = np.load(partial / index.INDEX, mmap_mode="r")
    facts = {
        "format": FORMAT,
        "shards": [{**shard, "file": name} for shard, name in zip(full, names, strict=True)],
        "index": [facts_of(partial / file) for file in index.FILES],
        "sources": [
            {"name": name, "comparisons": count, **index.totals([written[at - count : at]])}
            for (name, count), at in zip(sources, accumulate(count for _, count in sources), strict=True)
        ],
        "totals": index.totals(rows) | {"comparisons": len(written), "held_out": len(held_out)},
        **meta,
    }
    for name in (*index.FILES, *keep):
        if (partial / name).exists():
            sync(partial / name)
    write_durably(partial / "store.json", json.dumps(facts, indent=1) + "\n")
    # A kill between here and the end costs shards, so what takes time is done before.
    for shard, name in zip(full, names, strict=True):
        (partial / shard["file"]).rename(partial / name)
    for path in partial.iterdir():
        if path.name not in {"store.json", *index.FILES, *names, *keep}:
            path.unlink()
    sync(partial)
    if directory.exists():
        old = replaced(directory)
        shutil.rmtree(old, ignore_errors=True)
        directory.rename(old)
        partial.rename(directory)
        sync(directory.parent)
        shutil.rmtree(old)
    else:
        partial.rename(directory)
        sync(directory.parent)
    return Store.open(directory, check=False)


def write_durably(path: Path, text: str) -> None:
    """Writes a file that, under its name, is whole or absent, whatever happens."""
    beside = path.with_name(unfinished(path.name))
    with beside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    beside.rename(path)
    sync(path.parent)


def unfinished(name: str) -> str:
    """What a file is called while this process, and no other, writes it; it ends in .tmp."""
    return f"{name}.{os.getpid()}.tmp"


def remove_unfinished(folder: Path) -> None:
    """Removes what killed processes left in a folder that no other process is writing to."""
    for left in folder.glob("*.tmp"):
        left.unlink(missing_ok=True)
