"""Index -> batches: which comparisons are in step s, and in which order.

A batch depends on nothing but (index, seed, step, N): no host, device or worker count, no restart changes it. Batches
are cut from a continuous stream of epoch permutations, so the data state of a run is one integer, the step.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Int

from skyrm_jax.errors import UserError

_ROUNDS = 8


def _mix(x: np.ndarray, key: int) -> np.ndarray:
    """A 64-bit finaliser (splitmix64) of x under a key."""
    z = x + np.uint64((key * 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def shuffled(positions: Int[np.ndarray, "n"], size: int, seed: int, epoch: int, pool: int = 0) -> Int[np.ndarray, "n"]:
    """The images of `positions` under the permutation of range(size) that (seed, epoch, pool) names.

    A balanced Feistel network over the next even power of two, walked until it falls inside the range (Black and
    Rogaway 2002), so one element costs O(1) time and memory, whatever the size.
    """
    half = max(1, (max(size - 1, 1).bit_length() + 1) // 2)
    mask = np.uint64((1 << half) - 1)
    key = int(np.random.SeedSequence([seed, epoch, pool] if pool else [seed, epoch]).generate_state(1, np.uint64)[0])

    def permute(x: np.ndarray) -> np.ndarray:
        left, right = x >> np.uint64(half), x & mask
        for round_ in range(_ROUNDS):
            left, right = right, left ^ (_mix(right, key + round_) & mask)
        return (left << np.uint64(half)) | right

    values = np.asarray(positions).astype(np.uint64)
    with np.errstate(over="ignore"):
        values = permute(values)
        outside = np.flatnonzero(values >= size)
        while outside.size:
            values[outside] = permute(values[outside])
            outside = outside[values[outside] >= size]
    return values.astype(np.int64)


@dataclass(frozen=True)
class Ids:
    """The numbers start..stop-1 without those in `excluded` (ascending), by position; costs the memory of `excluded`."""

    start: int
    stop: int
    excluded: Int[np.ndarray, "e"]

    @cached_property
    def _before(self) -> Int[np.ndarray, "m"]:
        """For each excluded number in the range, how many of the others are smaller: ascending."""
        inside = self.excluded[np.searchsorted(self.excluded, self.start) : np.searchsorted(self.excluded, self.stop)]
        return inside.astype(np.int64) - self.start - np.arange(len(inside))

    def __len__(self) -> int:
        return self.stop - self.start - len(self._before)

    def __getitem__(self, positions: Int[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
        """The numbers at these positions."""
        return self.start + positions + np.searchsorted(self._before, positions, side="right")


@dataclass(frozen=True)
class Pool:
    """Comparisons that are drawn from together, and how many of every CYCLE comparisons come from here."""

    ids: Ids
    share: int


CYCLE = 1 << 13
"""In a mixture, comparisons after which every pool has had exactly its share."""


def mixture(ids: Sequence[Ids], weights: Sequence[float]) -> tuple[Pool, ...]:
    """Pools whose shares of the stream are proportional to `weights`, to within one in CYCLE; weight 0 leaves one out.

    Raises:
        UserError: a weight is negative or not finite, all are 0, or a pool with weight has no comparison.
    """
    if not all(np.isfinite(w) and w >= 0 for w in weights) or not sum(weights):
        raise UserError(f"the weights of a mixture must be positive or 0, not {list(weights)}")
    exact = np.array(weights, float) / sum(weights) * CYCLE
    shares = np.maximum(np.floor(exact), np.array(weights) > 0).astype(int)
    for place in np.argsort(shares - exact, kind="stable")[: max(0, CYCLE - shares.sum())]:
        shares[place] += 1
    shares[np.argmax(shares)] += CYCLE - shares.sum()  # what raising tiny shares to one took
    pools = tuple(Pool(one, share) for one, share in zip(ids, shares.tolist(), strict=True) if share)
    if not all(len(pool.ids) for pool in pools):
        raise UserError(
            "a source of the mixture holds no training comparison; give it weight 0, or lower data.held_out"
        )
    return pools


@dataclass(frozen=True)
class Schedule:
    """Batches of N comparisons out of a stream of epoch permutations; only a run's last batch may be short.

    With several pools the stream takes from each its share of every CYCLE comparisons, in an order that is shuffled
    anew each time; every pool runs through epochs of its own, in each of which all its comparisons come exactly once.

    Args:
        pools: what to train on; one, or a `mixture`.
        batch: N, comparisons per step.
        epochs: the run is as long as this many passes over all pools together.
        seed: names the permutations.
    """

    pools: tuple[Pool, ...]
    batch: int
    epochs: int
    seed: int

    def __post_init__(self) -> None:
        if not sum(len(pool.ids) for pool in self.pools):
            raise UserError(
                "there is nothing to train on: the store holds no training comparison. "
                "Check the preparation report, or lower data.held_out."
            )
        if self.batch < 1 or self.epochs < 1:
            raise UserError("optimizer.batch and run.epochs must be at least 1")

    @classmethod
    def of(cls, ids: Ids, batch: int, epochs: int, seed: int) -> "Schedule":
        """A schedule without mixture."""
        return cls((Pool(ids, CYCLE),), batch, epochs, seed)

    @property
    def total(self) -> int:
        """Comparisons in the whole run."""
        return sum(len(pool.ids) for pool in self.pools) * self.epochs

    @property
    def steps(self) -> int:
        """Optimiser steps in the whole run."""
        return -(-self.total // self.batch)

    def ids_of(self, step: int) -> Int[np.ndarray, "N"]:
        """Store indexes of the comparisons of `step`, in order.

        Raises:
            IndexError: the step is outside the run.
        """
        if not 0 <= step < self.steps:
            raise IndexError(f"step {step} is outside 0..{self.steps - 1}")
        stream = np.arange(step * self.batch, min((step + 1) * self.batch, self.total), dtype=np.int64)
        if len(self.pools) == 1:
            return self._drawn(0, stream)
        pool, number = self._dealt(stream)
        out = np.empty_like(stream)
        for one in np.unique(pool).tolist():
            out[pool == one] = self._drawn(one, number[pool == one])
        return out

    def _dealt(self, stream: Int[np.ndarray, "N"]) -> tuple[Int[np.ndarray, "N"], Int[np.ndarray, "N"]]:
        """For places in the stream of a mixture, the pool and the number of the draw from it, which counts up."""
        shares = np.array([pool.share for pool in self.pools])
        ends = np.cumsum(shares)
        cycles, places = np.divmod(stream, CYCLE)
        pool, number = np.empty_like(stream), np.empty_like(stream)
        for cycle in np.unique(cycles).tolist():
            order = shuffled(np.arange(CYCLE), CYCLE, self.seed, cycle, pool=len(self.pools))
            pools = np.searchsorted(ends, order, side="right")
            draws = np.empty(CYCLE, np.int64)
            for one, share in enumerate(shares.tolist()):
                draws[pools == one] = cycle * share + np.arange(share)
            now = cycles == cycle
            pool[now], number[now] = pools[places[now]], draws[places[now]]
        return pool, number

    def _drawn(self, pool: int, numbers: Int[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
        """What these draws from a pool give: epoch after epoch, each a permutation."""
        ids = self.pools[pool].ids
        epochs, offsets = np.divmod(numbers, len(ids))
        out = np.empty_like(numbers)
        for epoch in np.unique(epochs).tolist():
            chosen = epochs == epoch
            out[chosen] = ids[shuffled(offsets[chosen], len(ids), self.seed, epoch, pool)]
        return out
