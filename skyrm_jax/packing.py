"""Lengths -> rows. Pure numpy; given the same lengths and shape, always the same rows.

A row holds whole trees up to `tokens`, and at most `leaves` rewards and `pairs` preferences. A tree longer than a row
is cut into sub-trees that repeat the prompt; they go to rows of one micro-batch, where rewards meet again by index.
"""

import bisect
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Bool, Float, Int

from skyrm_jax.chat import Tree
from skyrm_jax.comparison import Preference
from skyrm_jax.errors import UserError


@dataclass(frozen=True)
class RowShape:
    """The fixed shape of a micro-batch: `rows` rows of `tokens` tokens, `leaves` rewards and `pairs` pairs each."""

    rows: int
    tokens: int
    leaves: int
    pairs: int


@dataclass(frozen=True)
class Piece:
    """A comparison, or a sub-tree of one, as the packer sees it. `leaves` are leaf numbers of the whole tree."""

    comparison: int
    tokens: int
    leaves: Sequence[int]
    pairs: int


MicroBatchPlan = list[list[int]]
"""For each row of a micro-batch, the indexes of the pieces in it, in order."""


def leaf_paths(tree: Tree) -> list[Bool[np.ndarray, "n"]]:
    """For each leaf, the tokens that its reward depends on: the ancestors {k: k <= i < end[k]} of its pooled token i."""
    index = np.arange(len(tree.tokens))
    return [(index <= pooled) & (pooled < tree.end) for pooled in tree.reward_index]


def cut(comparison: int, tree: Tree, pairs: int, row_tokens: int) -> list[Piece]:
    """`tree` as pieces that each fit a row: whole if it does, else leaves in order, each piece as full as can be, pairs
    with the first.

    Raises:
        UserError: one conversation alone is longer than a row.
    """
    if len(tree.tokens) <= row_tokens:
        return [Piece(comparison, len(tree.tokens), range(len(tree.reward_index)), pairs)]
    pieces: list[Piece] = []
    used = np.zeros(len(tree.tokens), bool)
    for leaf, path in enumerate(leaf_paths(tree)):
        if path.sum() > row_tokens:
            raise UserError(
                f"a conversation of {path.sum()} tokens does not fit a row of {row_tokens}; "
                "raise data.row_tokens to at least data.max_tokens"
            )
        if pieces and (used | path).sum() <= row_tokens:
            used |= path
            group = [*pieces.pop().leaves, leaf]
        else:
            used = path.copy()
            group = [leaf]
        pieces.append(Piece(comparison, int(used.sum()), group, 0 if pieces else pairs))
    return pieces


def subtree(tree: Tree, leaves: Sequence[int]) -> Tree:
    """The part of `tree` that these leaves need; leaf i of the result is leaf `leaves[i]` of the tree."""
    paths = leaf_paths(tree)
    keep = np.logical_or.reduce([paths[leaf] for leaf in leaves])
    # before[i] = kept tokens left of i: both the new index of a kept token and the new end of a subtree.
    before = np.concatenate([[0], np.cumsum(keep)]).astype(np.int32)
    return Tree(
        tokens=tree.tokens[keep],
        end=before[tree.end[keep]],
        positions=tree.positions[keep],
        reward_index=before[tree.reward_index[np.asarray(leaves)]],
        leaf=np.arange(len(leaves), dtype=np.int32),
        conversation_tokens=int(sum(paths[leaf].sum() for leaf in leaves)),
        truncated=tree.truncated,
    )


def pack(pieces: Sequence[Piece], shape: RowShape) -> list[MicroBatchPlan]:
    """Rows and micro-batches for the pieces: best fit decreasing, sub-trees of a comparison in one micro-batch.

    Every micro-batch has exactly `shape.rows` rows; the last ones may be empty lists.

    Raises:
        UserError: a piece alone exceeds the shape, or a comparison needs more rows than a micro-batch has.
    """
    parts = Counter(piece.comparison for piece in pieces)
    for piece in pieces:
        if piece.tokens > shape.tokens or len(piece.leaves) > shape.leaves or piece.pairs > shape.pairs:
            raise UserError(
                f"a comparison of {piece.tokens} tokens, {len(piece.leaves)} responses and {piece.pairs} pairs "
                f"does not fit a row of {shape.tokens} tokens, {shape.leaves} leaves, {shape.pairs} pairs"
            )
    if parts and max(parts.values()) > shape.rows:
        raise UserError(
            f"one comparison needs {max(parts.values())} rows of {shape.tokens} tokens, but a micro-batch has "
            f"{shape.rows}; raise data.row_tokens or data.rows"
        )

    rows: list[list[int]] = []
    leaves: list[int] = []
    pairs: list[int] = []
    free: list[tuple[int, int]] = []  # (free tokens, row), sorted

    def best_fit(piece: Piece) -> tuple[int, int]:
        """(free tokens, row) of the fullest row that takes the piece; a new row if none does."""
        # Sub-trees get rows of their own, so that no row ties two cut comparisons together.
        if parts[piece.comparison] == 1:
            for at in range(bisect.bisect_left(free, (piece.tokens, -1)), len(free)):
                row = free[at][1]
                if leaves[row] + len(piece.leaves) <= shape.leaves and pairs[row] + piece.pairs <= shape.pairs:
                    return free.pop(at)
        rows.append([])
        leaves.append(0)
        pairs.append(0)
        return shape.tokens, len(rows) - 1

    order = sorted(range(len(pieces)), key=lambda i: (parts[pieces[i].comparison] == 1, -pieces[i].tokens, i))
    for index in order:
        piece = pieces[index]
        space, row = best_fit(piece)
        rows[row].append(index)
        leaves[row] += len(piece.leaves)
        pairs[row] += piece.pairs
        bisect.insort(free, (space - piece.tokens, row))
    return _micro_batches(rows, [pieces[members[0]].comparison for members in rows], parts, shape.rows)


def _micro_batches(
    rows: list[list[int]], first: list[int], parts: Mapping[int, int], size: int
) -> list[MicroBatchPlan]:
    """Groups rows by `size`: rows of a cut comparison (its piece is a row's first) together, single rows in the gaps."""
    tied: dict[int, list[list[int]]] = {}
    single: list[list[int]] = []
    for members, comparison in zip(rows, first, strict=True):
        if parts[comparison] > 1:
            tied.setdefault(comparison, []).append(members)
        else:
            single.append(members)
    plans: list[MicroBatchPlan] = []
    for group in sorted(tied.values(), key=len, reverse=True):
        for plan in plans:
            if len(plan) + len(group) <= size:
                plan.extend(group)
                break
        else:
            plans.append(list(group))
    at = 0
    for members in single:
        while at < len(plans) and len(plans[at]) == size:
            at += 1
        if at == len(plans):
            plans.append([])
        plans[at].append(members)
    return [plan + [[] for _ in range(size - len(plan))] for plan in plans]


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


def leaf_slots(plan: MicroBatchPlan, pieces: Sequence[Piece], shape: RowShape) -> Slots:
    """Where every leaf's reward is found in the flattened [B, S] rewards of the micro-batch."""
    slots: Slots = {}
    for row, members in enumerate(plan):
        slot = row * shape.leaves
        for piece in (pieces[member] for member in members):
            for leaf in piece.leaves:
                slots[piece.comparison, leaf] = slot
                slot += 1
    return slots


def assemble(
    plan: MicroBatchPlan,
    pieces: Sequence[Piece],
    trees: Mapping[int, tuple[Tree, Sequence[Preference]]],
    shape: RowShape,
    rows: Sequence[int],
    pad_id: int = 0,
) -> MicroBatch:
    """The arrays of `rows` of a planned micro-batch; `trees` holds at least the comparisons in those rows."""
    slots = leaf_slots(plan, pieces, shape)
    batch = blank(shape, len(rows), pad_id)
    for b, row in enumerate(rows):
        token = leaf = pair = 0
        for piece in (pieces[member] for member in plan[row]):
            whole, preferences = trees[piece.comparison]
            tree = whole if piece.tokens == len(whole.tokens) else subtree(whole, piece.leaves)
            span, slot = slice(token, token + len(tree.tokens)), slice(leaf, leaf + len(piece.leaves))
            batch.tokens[b, span] = tree.tokens
            batch.positions[b, span] = tree.positions
            batch.end[b, span] = tree.end + token
            batch.reward_index[b, slot] = tree.reward_index + token
            for preference in preferences if piece.pairs else ():
                batch.winner[b, pair] = slots[piece.comparison, int(whole.leaf[preference.winner])]
                batch.loser[b, pair] = slots[piece.comparison, int(whole.leaf[preference.loser])]
                batch.p[b, pair] = preference.p
                batch.margin[b, pair] = preference.margin
                batch.pair_weight[b, pair] = preference.weight / len(preferences)
                pair += 1
            token, leaf = span.stop, slot.stop
    return batch
