"""Planned rows -> arrays: what a micro-batch looks like to the device."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Float, Int

from skyrm_jax.chat import Tree
from skyrm_jax.comparison import Preference
from skyrm_jax.packing import MicroBatchPlan, Pieces, RowShape
from skyrm_jax.subtree import subtree


@dataclass(frozen=True)
class MicroBatch:
    """Arrays of one micro-batch, or of one process's rows of it. B rows, T tokens, S leaves, P pairs.

    `winner` and `loser` are flat leaf slots, row * S + slot, over the rows of the *whole* micro-batch. `pair_weight`
    is a pair's weight over the number of pairs of its comparison, zero where no pair is. Pads see themselves only.
    """

    tokens: Int[np.ndarray, "B T"]
    positions: Int[np.ndarray, "B T"]
    end: Int[np.ndarray, "B T"]
    reward_index: Int[np.ndarray, "B S"]
    winner: Int[np.ndarray, "B P"]
    loser: Int[np.ndarray, "B P"]
    p: Float[np.ndarray, "B P"]
    margin: Float[np.ndarray, "B P"]
    pair_weight: Float[np.ndarray, "B P"]

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays by name: the pytree that goes to the device."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def blank(shape: RowShape, rows: int, pad_id: int) -> MicroBatch:
    """`rows` rows of pads."""
    T, S, P = shape.tokens, shape.leaves, shape.pairs
    return MicroBatch(
        tokens=np.full((rows, T), pad_id, np.int32),
        positions=np.zeros((rows, T), np.int32),
        end=np.tile(np.arange(1, T + 1, dtype=np.int32), (rows, 1)),
        reward_index=np.zeros((rows, S), np.int32),
        winner=np.zeros((rows, P), np.int32),
        loser=np.zeros((rows, P), np.int32),
        p=np.ones((rows, P), np.float32),
        margin=np.zeros((rows, P), np.float32),
        pair_weight=np.zeros((rows, P), np.float32),
    )


Slots = dict[tuple[int, int], int]
"""(comparison, leaf of its whole tree) -> flat leaf slot in the micro-batch."""


def leaf_slots(plan: MicroBatchPlan, pieces: Pieces, comparisons: set[int] | None = None) -> Slots:
    """Where the rewards of leaves are found in the flattened [B, S] rewards of the micro-batch: of some comparisons, or all."""
    slots: Slots = {}
    for row, members in enumerate(plan.rows):
        slot = row * plan.shape.leaves
        for piece in members:
            comparison = int(pieces.comparison[piece])
            if comparisons is None or comparison in comparisons:
                for number, leaf in enumerate(pieces.leaves_of(piece)):
                    slots[comparison, leaf] = slot + number
            slot += int(pieces.leaves[piece])
    return slots


def assemble(
    plan: MicroBatchPlan,
    pieces: Pieces,
    trees: Mapping[int, tuple[Tree, Sequence[Preference]]],
    rows: Sequence[int],
    pad_id: int = 0,
) -> MicroBatch:
    """The arrays of `rows` of a planned micro-batch; `trees` holds at least the comparisons in those rows."""
    slots = leaf_slots(plan, pieces, {int(pieces.comparison[piece]) for row in rows for piece in plan.rows[row]})
    batch = blank(plan.shape, len(rows), pad_id)
    for b, row in enumerate(rows):
        token = leaf = pair = 0
        for piece in plan.rows[row]:
            comparison = int(pieces.comparison[piece])
            whole, preferences = trees[comparison]
            tree = subtree(whole, pieces.parts[piece]) if piece in pieces.parts else whole
            span, slot = slice(token, token + len(tree.tokens)), slice(leaf, leaf + len(tree.reward_index))
            batch.tokens[b, span] = tree.tokens
            batch.positions[b, span] = tree.positions
            batch.end[b, span] = tree.end + token
            batch.reward_index[b, slot] = tree.reward_index + token
            for preference in preferences if pieces.pairs[piece] else ():
                batch.winner[b, pair] = slots[comparison, int(whole.leaf[preference.winner])]
                batch.loser[b, pair] = slots[comparison, int(whole.leaf[preference.loser])]
                batch.p[b, pair] = preference.p
                batch.margin[b, pair] = preference.margin
                batch.pair_weight[b, pair] = preference.weight / len(preferences)
                pair += 1
            token, leaf = span.stop, slot.stop
    return batch
