"""One record of the tokenised store: a tree, what is preferred in it, and its names, as bytes."""

import struct
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from skyrm_jax.chat import Tree
from skyrm_jax.comparison import Preference

VERSION = 1


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
    new = (tree.end[1:] != tree.end[:-1]) | (tree.positions[1:] - tree.positions[:-1] != 1)
    starts = np.concatenate([[0], np.flatnonzero(new) + 1, [len(tree.tokens)]])
    lengths, starts = np.diff(starts), starts[:-1]
    runs = np.stack([lengths, tree.end[starts], tree.positions[starts]], axis=1)
    id, category = stored.id.encode(), stored.category.encode()
    header = _Header(
        _MAGIC,
        VERSION,
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
    if header.magic != _MAGIC or header.version != VERSION:
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
