"""Which pairs to look at next: the neighbours of verified pairs that the reward model gets wrong, and how many of each.

Source: the paper's section 3.2. k = 8 if p <= 0.5, else ceil(8 (1 - p)), p = sigmoid(r_winner - r_loser) of the verified
pair: the surer the model is of what people say, the fewer of its neighbours are of use.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

MOST = 8
"""Neighbours of a pair that the model gets wrong."""

BLOCK = 1 << 16
"""Rows of the pool on the device at a time."""

QUERIES = 1 << 10
"""Queries looked up at a time: with a block they make a score matrix of 256 MiB."""

FAR = -np.inf
"""The similarity of what may not be found."""


class Rows(Protocol):
    """Vectors as rows: an array, or what reads them from disk when it is sliced."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice, /) -> np.ndarray: ...


def neighbours(p: Float[np.ndarray, "n"], most: int = MOST) -> Int[np.ndarray, "n"]:
    """How many neighbours to fetch of verified pairs on whose label the model is `p` sure."""
    p = np.asarray(p, np.float64)
    # 10 (1 - 0.7) is 3.0000000000000004 in binary: rounded first, so that no neighbour is made of nothing; but one there is
    # for every p below 1.
    fewer = np.maximum(np.ceil(np.round(most * (1 - p), 9)).astype(np.int64), p < 1)
    return np.where(p <= 0.5, most, fewer)


def top_k(
    queries: Float[np.ndarray, "q D"],
    pool: Rows,
    k: int,
    allowed: Bool[np.ndarray, "n"] | None = None,
) -> tuple[Int[np.ndarray, "q k"], Float[np.ndarray, "q k"]]:
    """The exact `k` rows of `pool` most similar to each query, best first, and their similarities (inner products).

    Blocks of the pool, which may be larger than memory, pass over the device once for each `QUERIES` queries.
    Of equally similar rows the first counts as the more similar one. Rows that are not `allowed` are not found; where there
    are fewer than k others, what is left has index -1 and similarity `FAR`.

    Args:
        queries, pool: vectors of length 1, in any float dtype; computed in fp32."""
    found = np.full((len(queries), k), -1, np.int64)
    similarity = np.full((len(queries), k), FAR, np.float32)
    if not len(pool) or not k:
        return found, similarity
    size = min(BLOCK, len(pool))
    step = _program(k)
    for begin in range(0, len(queries), QUERIES):
        some = np.zeros((min(QUERIES, len(queries)), queries.shape[1]), np.float32)
        count = len(queries[begin : begin + QUERIES])
        some[:count] = queries[begin : begin + QUERIES]
        best = jnp.full((len(some), k), FAR, jnp.float32), jnp.full((len(some), k), -1, jnp.int32)
        for first, block, free in _blocks(pool, allowed, size):
            best = step(best, jnp.asarray(some), block, free, first)
        similarity[begin : begin + count], found[begin : begin + count] = (np.asarray(x)[:count] for x in best)
    return found, similarity


def _blocks(
    pool: Rows, allowed: Bool[np.ndarray, "n"] | None, size: int
) -> Iterator[tuple[int, Float[np.ndarray, "size D"], Bool[np.ndarray, "size"]]]:
    """Each block's first row, its vectors, and which may be found; the last is filled with rows that may not."""
    for first in range(0, len(pool), size):
        part = pool[first : first + size]
        block, free = np.zeros((size, pool.shape[1]), np.float32), np.zeros(size, bool)
        block[: len(part)] = part
        free[: len(part)] = True if allowed is None else allowed[first : first + size]
        yield first, block, free


def _program(k: int) -> Callable[..., tuple[Array, Array]]:
    @partial(jax.jit, donate_argnums=0)
    def step(
        best: tuple[Float[Array, "q k"], Int[Array, "q k"]],
        queries: Float[Array, "q D"],
        block: Float[Array, "b D"],
        free: Bool[Array, "b"],
        first: Int[Array, ""],
    ) -> tuple[Float[Array, "q k"], Int[Array, "q k"]]:
        scores = jnp.einsum("qd,bd->qb", queries, block, precision=jax.lax.Precision.HIGHEST)
        scores = jnp.where(free, scores, FAR)
        values, places = jax.lax.top_k(scores, min(k, block.shape[0]))
        places = jnp.where(values > FAR, places.astype(jnp.int32) + first, -1)
        # What was found before stands first: top_k takes the first of equal ones.
        values, places = jnp.concatenate([best[0], values], 1), jnp.concatenate([best[1], places], 1)
        values, order = jax.lax.top_k(values, k)
        return values, jnp.take_along_axis(places, order, 1)

    return step


def select(
    found: Int[np.ndarray, "q k"], counts: Int[np.ndarray, "q"], order: Iterable[int], limit: int | None = None
) -> list[tuple[int, int, int]]:
    """The pool rows to take, none twice: (row, the query that found it, its rank there).

    Queries come in `order`, each with its first `counts` neighbours; a row that several find is the first one's. The
    nearest neighbours of all queries come before the second nearest ones, so that a `limit` leaves something of each.
    """
    order = list(order)
    taken: dict[int, tuple[int, int]] = {}
    for rank in range(found.shape[1]):
        for query in order:
            row = int(found[query, rank])
            if rank < counts[query] and row >= 0 and row not in taken:
                if limit is not None and len(taken) >= limit:
                    return [(row, *by) for row, by in taken.items()]
                taken[row] = query, rank
    return [(row, *by) for row, by in taken.items()]
