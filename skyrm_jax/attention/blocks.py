"""Which blocks of a row's attention hold anything: compacted lists, computed from `end` once per batch.

Tokens are cut into n blocks. Query block i has something to see in key block j when some k in j and q in i have
k <= q < end[k]; that is when j <= i and the longest-lived token of j outlives the first query of i. In a row of
trees few pairs of blocks are like that: responses skip each other, trees skip trees, pads skip everything. A list of
the live ones, instead of a low-to-high range, leaves out the responses that lie between one response and its prompt.
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int


@partial(jax.tree_util.register_dataclass, data_fields=["start", "major", "minor"], meta_fields=[])
@dataclass(frozen=True)
class PairList:
    """Live pairs of blocks, N = n (n + 1) / 2 at most, ordered by their major and then by their minor block.

    Those of major block i are the entries start[:, i] to start[:, i + 1]; start[:, n] is how many there are. Entries
    after the last live pair repeat it, so that a pipeline which fetches blocks by the list fetches nothing for them.
    """

    start: Int[Array, "B n+1"]
    major: Int[Array, "B N"]
    minor: Int[Array, "B N"]


@partial(jax.tree_util.register_dataclass, data_fields=["end", "by_query", "by_key"], meta_fields=[])
@dataclass(frozen=True)
class LiveBlocks:
    """The mask of the blocked backends.

    `by_query` has query blocks as majors, for the forward pass and dq; `by_key` has key blocks as majors, for dk, dv.
    `end` is padded to whole blocks; the tokens added see themselves only.
    """

    end: Int[Array, "B nC"]
    by_query: PairList
    by_key: PairList


def live_pairs(end: Int[Array, "B nC"], block: int) -> Bool[Array, "B n n"]:
    """[b, i, j]: does any query of block i see any key of block j?"""
    B, T = end.shape
    n = T // block
    outlives = end.reshape(B, n, block).max(-1)
    index = jnp.arange(n)
    return (index[None, :, None] >= index[None, None, :]) & (outlives[:, None, :] > index[None, :, None] * block)


def pad_end(end: Int[Array, "B T"], block: int) -> Int[Array, "B nC"]:
    """`end`, lengthened to a whole number of blocks by tokens that see themselves only."""
    B, T = end.shape
    more = jnp.arange(T, -(-T // block) * block, dtype=end.dtype) + 1
    return jnp.concatenate([end, jnp.broadcast_to(more, (B, len(more)))], 1)


def live_blocks(end: Int[Array, "B T"], block: int) -> LiveBlocks:
    """Both lists of live pairs of `block` tokens squared."""
    end = pad_end(end, block)
    live = live_pairs(end, block)
    return LiveBlocks(end, _compact(live), _compact(live.swapaxes(1, 2)))


def _compact(live: Bool[Array, "B n n"]) -> PairList:
    B, n, _ = live.shape
    counts = live.sum(-1, dtype=jnp.int32)
    start = jnp.concatenate([jnp.zeros((B, 1), jnp.int32), jnp.cumsum(counts, -1)], -1)
    # A stable sort puts the live pairs first and keeps their order.
    order = jnp.argsort(~live.reshape(B, n * n), axis=-1, stable=True)[:, : n * (n + 1) // 2]
    last = jnp.minimum(jnp.arange(order.shape[1]), start[:, -1:] - 1)
    order = jnp.take_along_axis(order, last, -1).astype(jnp.int32)
    return PairList(start, order // n, order % n)
