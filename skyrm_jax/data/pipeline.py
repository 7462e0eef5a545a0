"""The Grain pipeline: step number -> this process's packed rows.

An element is one whole step, so the pipeline holds no state worth saving: it is restarted at the step to resume from.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import grain
import numpy as np
from absl import flags
from jaxtyping import Int

from skyrm_jax.data.index import visible_pairs
from skyrm_jax.data.store import Store
from skyrm_jax.packing import MicroBatchPlan, Pieces, RowShape, pack
from skyrm_jax.rows import assemble
from skyrm_jax.schedule import Schedule


@dataclass(frozen=True)
class StepBatch:
    """This process's rows of the micro-batches of a step, and facts of the whole batch.

    Args:
        micro_batches: one dict of arrays (see `rows.MicroBatch`) each.
        divisor: sum of the comparisons' weights.
        tokens: tokens in the rows, pads not counted.
        unshared_tokens: what the same conversations hold without sharing their prompts.
        visible: (query, key) pairs that the trees' masks leave, see `index.visible_pairs`.
        comparisons: how many there are.
        fill: share of row slots that hold tokens.
    """

    micro_batches: list[dict[str, np.ndarray]]
    divisor: float
    tokens: int
    unshared_tokens: int
    visible: int
    comparisons: int
    fill: float


def row_shapes(
    sources: Sequence[Mapping[str, int]], tokens: Sequence[int], rows: Sequence[int]
) -> tuple[RowShape, ...]:
    """Micro-batches of `rows` rows of `tokens` tokens, with room for the leaves and pairs of these sources' comparisons.

    That is for half as many more per token as the source that has the most of them has on average, and then for the most
    that one comparison has; `sources` are those of store.json.
    """

    def capacity(name: str, length: int) -> int:
        density = max(source[name] / max(1, source["tokens"]) for source in sources)
        return 8 * math.ceil((1.5 * density * length + max(source[f"most_{name}"] for source in sources)) / 8)

    return tuple(
        RowShape(count, length, capacity("leaves", length), capacity("pairs", length))
        for count, length in zip(rows, tokens, strict=True)
    )


@dataclass(frozen=True)
class Packer:
    """Comparisons of a store -> packed rows of one process.

    Args:
        store: where the trees are.
        shapes: of micro-batches, over all processes.
        rows: for each shape, which of its rows this process loads.
        shards: among which the rows of a micro-batch are divided.
        pad_id: fills what is left of a row.
        token_cost: see `packing.pack`.
    """

    store: Store
    shapes: tuple[RowShape, ...]
    rows: Mapping[RowShape, Sequence[int]]
    shards: int
    pad_id: int
    token_cost: int

    def plan(self, ids: Int[np.ndarray, "n"]) -> tuple[Pieces, list[MicroBatchPlan]]:
        """Pieces and micro-batches of the comparisons `ids`; the same in every process."""
        rows = self.store.index[ids]
        longest = max(shape.tokens for shape in self.shapes)
        too_long = np.flatnonzero(rows["tokens"] > longest).tolist()
        trees = {n: stored.tree for n, stored in zip(too_long, self.store.read(ids[too_long]), strict=True)}
        columns = [rows[name].astype(np.int64) for name in ("tokens", "leaves", "pairs")]
        pieces = Pieces.of_columns(np.stack([*columns, visible_pairs(rows)], axis=1), trees, longest)
        return pieces, pack(pieces, self.shapes, self.shards, self.token_cost)

    def load(self, ids: Int[np.ndarray, "n"], pieces: Pieces, plan: MicroBatchPlan) -> dict[str, np.ndarray]:
        """The arrays of this process's rows of one planned micro-batch."""
        mine = self.rows[plan.shape]
        needed = sorted({int(pieces.comparison[piece]) for row in mine for piece in plan.rows[row]})
        stored = self.store.read(ids[needed])
        trees = {n: (one.tree, one.preferences) for n, one in zip(needed, stored, strict=True)}
        return assemble(plan, pieces, trees, mine, self.pad_id).arrays()

    def batch(self, ids: Int[np.ndarray, "n"]) -> StepBatch:
        """All micro-batches of the comparisons `ids`."""
        rows = self.store.index[ids]
        pieces, plans = self.plan(ids)
        tokens = int(pieces.tokens.sum())
        return StepBatch(
            micro_batches=[self.load(ids, pieces, plan) for plan in plans],
            divisor=float(rows["weight"].sum(dtype=np.float64)) or 1.0,  # where no pair weighs anything
            tokens=tokens,
            unshared_tokens=int(rows["unshared"].sum(dtype=np.int64)),
            visible=int(visible_pairs(rows).sum()),
            comparisons=len(ids),
            fill=tokens / max(1, sum(plan.shape.slots for plan in plans)),
        )


@dataclass(frozen=True)
class _LoadStep:
    packer: Packer
    schedule: Schedule

    def __call__(self, step: int) -> StepBatch:
        return self.packer.batch(self.schedule.ids_of(step))


def step_dataset(packer: Packer, schedule: Schedule, start: int, stop: int) -> grain.MapDataset[StepBatch]:
    """Steps start..stop-1 of a run; one element each."""
    return grain.MapDataset.range(start, stop).map(_LoadStep(packer, schedule))


def train_batches(
    packer: Packer, schedule: Schedule, start: int, stop: int, prefetch: int = 2, workers: int = 0
) -> Iterator[StepBatch]:
    """The batches of steps start..stop-1, read ahead in threads, or in `workers` processes."""
    options = grain.ReadOptions(num_threads=max(1, prefetch), prefetch_buffer_size=max(1, prefetch))
    iterable = step_dataset(packer, schedule, start, stop).to_iter_dataset(options)
    if workers:
        # Grain asks absl's flags how to start workers, and absl answers only once some main has parsed them.
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()
        iterable = iterable.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
    return iter(iterable)
