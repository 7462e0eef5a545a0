"""The Grain pipeline: step number -> this process's packed rows.

An element is one whole step, so the pipeline holds no state worth saving: it is restarted at the step to resume from.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import grain
import numpy as np

from skyrm_jax.data.store import Index, Store
from skyrm_jax.packing import MicroBatchPlan, Piece, RowShape, assemble, cut, pack
from skyrm_jax.schedule import Schedule


@dataclass(frozen=True)
class StepBatch:
    """This process's rows of the micro-batches of a step, and facts of the whole batch.

    Args:
        micro_batches: one dict of arrays (see `packing.MicroBatch`) each.
        divisor: sum of the comparisons' weights.
        tokens: tokens in the rows, pads not counted.
        unshared_tokens: what the same conversations hold without sharing their prompts.
        comparisons: how many there are.
        fill: share of row slots that hold tokens.
    """

    micro_batches: list[dict[str, np.ndarray]]
    divisor: float
    tokens: int
    unshared_tokens: int
    comparisons: int
    fill: float


def row_shape(index: Index, ids: np.ndarray, rows: int, tokens: int) -> RowShape:
    """Row capacities for these comparisons: half as many more leaves and pairs per token as they have on average,
    and at least the most that one has."""

    def capacity(counts: np.ndarray) -> int:
        mean = counts[ids].sum() / max(1, index.tokens[ids].sum())
        return 8 * math.ceil(max(1.5 * mean * tokens, counts[ids].max(initial=1)) / 8)

    return RowShape(rows, tokens, capacity(index.leaves), capacity(index.pairs))


@dataclass(frozen=True)
class Packer:
    """Comparisons of a store -> packed rows of one process.

    Args:
        store: where the trees are.
        shape: of a micro-batch, over all processes.
        rows: which of its rows this process loads.
        pad_id: fills what is left of a row.
    """

    store: Store
    shape: RowShape
    rows: Sequence[int]
    pad_id: int

    def plan(self, ids: np.ndarray) -> tuple[list[Piece], list[MicroBatchPlan]]:
        """Pieces and micro-batches of the comparisons `ids`; the same in every process."""
        index = self.store.index
        pieces: list[Piece] = []
        for number, i in enumerate(ids.tolist()):
            tokens, pairs = int(index.tokens[i]), int(index.pairs[i])
            if tokens <= self.shape.tokens:
                pieces.append(Piece(number, tokens, range(int(index.leaves[i])), pairs))
            else:
                pieces.extend(cut(number, self.store.read([i])[0].tree, pairs, self.shape.tokens))
        return pieces, pack(pieces, self.shape)

    def load(self, ids: np.ndarray, pieces: list[Piece], plan: MicroBatchPlan) -> dict[str, np.ndarray]:
        """The arrays of this process's rows of one planned micro-batch."""
        needed = sorted({pieces[member].comparison for row in self.rows for member in plan[row]})
        stored = self.store.read([int(ids[number]) for number in needed])
        trees = {n: (one.tree, one.preferences) for n, one in zip(needed, stored, strict=True)}
        return assemble(plan, pieces, trees, self.shape, self.rows, self.pad_id).arrays()

    def batch(self, ids: np.ndarray) -> StepBatch:
        """All micro-batches of the comparisons `ids`."""
        index = self.store.index
        pieces, plans = self.plan(ids)
        tokens = sum(piece.tokens for piece in pieces)
        return StepBatch(
            micro_batches=[self.load(ids, pieces, plan) for plan in plans],
            divisor=float(index.weight[ids].sum()),
            tokens=tokens,
            unshared_tokens=int(index.conversation_tokens[ids].sum()),
            comparisons=len(ids),
            fill=tokens / max(1, len(plans) * self.shape.rows * self.shape.tokens),
        )


@dataclass(frozen=True)
class _LoadStep:
    packer: Packer
    schedule: Schedule

    def __call__(self, step: int) -> StepBatch:
        return self.packer.batch(self.schedule.ids_of(step))


def train_batches(
    packer: Packer, schedule: Schedule, start: int, stop: int, prefetch: int = 2, workers: int = 0
) -> Iterator[StepBatch]:
    """The batches of steps start..stop-1, read ahead in threads, or in `workers` processes."""
    dataset = grain.MapDataset.range(start, stop).map(_LoadStep(packer, schedule))
    options = grain.ReadOptions(num_threads=max(1, prefetch), prefetch_buffer_size=max(1, prefetch))
    iterable = dataset.to_iter_dataset(options)
    if workers:
        iterable = iterable.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
    return iter(iterable)
