"""The index of a store: twenty bytes for every comparison, memory-mapped, so that forty million take 0.75 GiB at most.

index.npy       one ROW per comparison, source after source
held_out.npy    numbers of the comparisons that are kept out of training, ascending
duplicates.npy  numbers of the records in the shards that repeat an earlier one, ascending: they are no comparisons
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64, Shaped, UInt32

from skyrm_jax.data.record import StoredTree
from skyrm_jax.schedule import Ids

INDEX, HELD_OUT, DUPLICATES = FILES = ("index.npy", "held_out.npy", "duplicates.npy")

# One row, not six columns: a batch reads ten thousand of them at random places. Little-endian whatever the machine.
ROW = np.dtype(
    [("tokens", "<u4"), ("unshared", "<u4"), ("longest", "<u4"), ("weight", "<f4"), ("leaves", "<u2"), ("pairs", "<u2")]
)
NUMBERS = np.dtype("<u4")
MOST = 65_535
"""Leaves, and preferences, that a comparison may have."""


def row(stored: StoredTree) -> tuple[int, int, int, float, int, int]:
    """The ROW of a comparison: tokens of its tree; of its conversations, unshared; of the longest one; loss weight; leaves;
    preferences. Raises ValueError if it has more than MOST of either."""
    tree = stored.tree
    leaves, pairs = len(tree.reward_index), len(stored.preferences)
    if max(leaves, pairs) > MOST:
        raise ValueError(f"{leaves} responses and {pairs} preferences: at most {MOST:,} of each can be stored")
    return len(tree.tokens), tree.conversation_tokens, tree.longest, stored.weight, leaves, pairs


@dataclass(frozen=True)
class Index:
    """What is known of every comparison of a store without reading it.

    Attributes:
        rows: one ROW each; memory-mapped when it was opened.
        held_out: ids of those kept out of training, ascending.
        sizes: comparisons of each source; a source's ids are consecutive.
    """

    rows: Shaped[np.ndarray, "n"]
    held_out: UInt32[np.ndarray, "h"]
    sizes: Sequence[int]

    @classmethod
    def open(cls, rows: Path, held_out: Path, sizes: Sequence[int]) -> "Index":
        """The index in these files; the rows are mapped, not read."""
        # A plain array is faster to index than np.memmap itself.
        return cls(np.load(rows, mmap_mode="r").view(np.ndarray), np.load(held_out), sizes)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, ids: Any) -> Shaped[np.ndarray, "_"]:
        """The rows of `ids`, copied."""
        return self.rows[ids]

    def column(self, name: str) -> Shaped[np.ndarray, "n"]:
        """One field of all rows; a view."""
        return self.rows[name]

    @cached_property
    def first(self) -> Int64[np.ndarray, "sources+1"]:
        """First id of each source, and the number of comparisons."""
        return np.cumsum([0, *self.sizes], dtype=np.int64)

    def source(self, ids: Int64[np.ndarray, "m"]) -> Int64[np.ndarray, "m"]:
        """The number of the source that each comparison comes from."""
        return np.searchsorted(self.first, ids, side="right") - 1

    def training(self, source: int | None = None) -> Ids:
        """The comparisons to train on: all, or those of one source."""
        start, stop = (0, len(self)) if source is None else (int(self.first[source]), int(self.first[source + 1]))
        return Ids(start, stop, self.held_out)

    @property
    def is_held_out(self) -> Bool[np.ndarray, "n"]:
        """For every comparison, whether it is held out; one byte each, so not for forty million."""
        mask = np.zeros(len(self), bool)
        mask[self.held_out] = True
        return mask


def visible_pairs(rows: Shaped[np.ndarray, "m"]) -> Int64[np.ndarray, "m"]:
    """How many (query, key) pairs the tree mask leaves: what attention costs.

    With a prefix of P tokens, a leaf of L more sees P L + L (L + 1) / 2 keys. Exact for up to two leaves; of the others
    only the longest is known, and they are taken to be equally long.
    """
    tokens, unshared, longest = (rows[name].astype(np.int64) for name in ("tokens", "unshared", "longest"))
    leaves = np.maximum(rows["leaves"].astype(np.int64), 1)
    shared = np.where(leaves > 1, (unshared - tokens) // np.maximum(leaves - 1, 1), 0)
    shared = np.clip(shared, 0, longest)
    long = longest - shared
    others = np.maximum(tokens - shared - long, 0)
    each = others // np.maximum(leaves - 1, 1)

    def seen(length: Any) -> Any:
        return shared * length + length * (length + 1) // 2

    return shared * (shared + 1) // 2 + seen(long) + (leaves - 1) * seen(each)


def totals(rows: Iterable[Shaped[np.ndarray, "_"]]) -> dict[str, int]:
    """Sums and maxima over all rows, given part by part: store.json keeps them, so that opening reads no row."""
    sums = dict.fromkeys(("tokens", "unshared", "leaves", "pairs"), 0)
    most = dict.fromkeys(("tokens", "longest", "leaves", "pairs"), 0)
    for part in rows:
        sums = {name: value + int(part[name].sum(dtype=np.int64)) for name, value in sums.items()}
        most = {name: max(value, int(part[name].max(initial=0))) for name, value in most.items()}
    return sums | {f"most_{name}": value for name, value in most.items()}


def save(
    folder: Path,
    rows: Iterable[Shaped[np.ndarray, "_"]],
    count: int,
    held_out: Int64[np.ndarray, "h"],
    duplicates: Int64[np.ndarray, "d"],
) -> None:
    """Writes the three files; `rows` come part by part and are `count` in all."""
    out = np.lib.format.open_memmap(folder / INDEX, mode="w+", dtype=ROW, shape=(count,))
    at = 0
    for part in rows:
        out[at : at + len(part)] = part
        at += len(part)
    if at != count:
        raise ValueError(f"{at} rows, not {count}")
    out.flush()
    del out
    np.save(folder / HELD_OUT, held_out.astype(NUMBERS))
    np.save(folder / DUPLICATES, duplicates.astype(NUMBERS))
