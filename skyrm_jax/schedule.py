"""Index -> batches: which comparisons are in step s, and in which order.

A batch depends on nothing but (index, seed, step, N): no host, device or worker count, no restart changes it. Batches
are cut from a continuous stream of epoch permutations, so the data state of a run is one integer, the step.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from skyrm_jax.errors import UserError

_ROUNDS = 8


def _mix(x: np.ndarray, key: int) -> np.ndarray:
    """A 64-bit finaliser (splitmix64) of x under a key."""
    z = x + np.uint64((key * 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def shuffled(positions: Int[np.ndarray, "n"], size: int, seed: int, epoch: int) -> Int[np.ndarray, "n"]:
    """The images of `positions` under the permutation of range(size) that (seed, epoch) names.

    A balanced Feistel network over the next even power of two, walked until it falls inside the range (Black and
    Rogaway 2002), so one element costs O(1) time and memory, whatever the size.
    """
    half = max(1, (max(size - 1, 1).bit_length() + 1) // 2)
    mask = np.uint64((1 << half) - 1)
    key = int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0])

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
class Schedule:
    """Batches of N comparisons out of a stream of epoch permutations; only a run's last batch may be short.

    Args:
        ids: the comparisons to train on, as indexes into the store.
        weights: each one's loss weight, parallel to `ids`; a batch's sum is the loss divisor.
        batch: N, comparisons per step.
        epochs: passes over `ids`.
        seed: names the permutations.
    """

    ids: Int[np.ndarray, "n"]
    weights: Float[np.ndarray, "n"]
    batch: int
    epochs: int
    seed: int

    def __post_init__(self) -> None:
        if len(self.ids) == 0:
            raise UserError(
                "there is nothing to train on: the store holds no training comparison. "
                "Check the preparation report, or lower data.held_out."
            )
        if self.batch < 1 or self.epochs < 1:
            raise UserError("optimizer.batch and run.epochs must be at least 1")

    @property
    def total(self) -> int:
        """Comparisons in the whole run."""
        return len(self.ids) * self.epochs

    @property
    def steps(self) -> int:
        """Optimiser steps in the whole run."""
        return -(-self.total // self.batch)

    def positions(self, step: int) -> Int[np.ndarray, "N"]:
        """Positions within `ids` of the comparisons of `step`, in order.

        Raises:
            IndexError: the step is outside the run.
        """
        if not 0 <= step < self.steps:
            raise IndexError(f"step {step} is outside 0..{self.steps - 1}")
        stream = np.arange(step * self.batch, min((step + 1) * self.batch, self.total), dtype=np.int64)
        epochs, offsets = np.divmod(stream, len(self.ids))
        out = np.empty_like(stream)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            out[chosen] = shuffled(offsets[chosen], len(self.ids), self.seed, int(epoch))
        return out

    def ids_of(self, step: int) -> Int[np.ndarray, "N"]:
        """Store indexes of the comparisons of `step`, in order."""
        return self.ids[self.positions(step)]

    def divisor(self, step: int) -> float:
        """Sum of the weights of the batch: what its summed loss is divided by."""
        return float(self.weights[self.positions(step)].sum())
