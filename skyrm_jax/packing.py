"""Lengths -> rows. Pure numpy; given the same lengths and shape, always the same rows.

A row holds whole trees up to `tokens`, and at most `leaves` rewards and `pairs` preferences. A tree longer than a row
is cut into sub-trees that repeat the prompt; they go to rows of one micro-batch, where rewards meet again by index.
"""

import bisect
from collections import deque
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
    for piece in pieces:
        if piece.tokens > shape.tokens or len(piece.leaves) > shape.leaves or piece.pairs > shape.pairs:
            raise UserError(
                f"a comparison of {piece.tokens} tokens, {len(piece.leaves)} responses and {piece.pairs} pairs "
                f"does not fit a row of {shape.tokens} tokens, {shape.leaves} leaves, {shape.pairs} pairs"
            )
    parts: dict[int, list[int]] = {}
    for index, piece in enumerate(pieces):
        parts.setdefault(piece.comparison, []).append(index)
    cut_ones = sorted(
        (group for group in parts.values() if len(group) > 1), key=lambda group: -sum(pieces[i].tokens for i in group)
    )
    whole_ones = sorted((group[0] for group in parts.values() if len(group) == 1), key=lambda i: (-pieces[i].tokens, i))

    rows = _Rows(pieces, shape)
    for group in cut_ones:
        rows.place_together(group)
    for index in whole_ones:
        rows.place(index)
    return [rows.members[at : at + shape.rows] for at in range(0, len(rows.members), shape.rows)]


_Used = tuple[int, int, int]
"""Tokens, leaves and pairs in a row."""


class _Rows:
    """The rows of micro-batches being filled; row r belongs to micro-batch r // shape.rows."""

    def __init__(self, pieces: Sequence[Piece], shape: RowShape):
        self.pieces, self.shape = pieces, shape
        self.members: list[list[int]] = []
        self.used: list[_Used] = []
        self.free: list[tuple[int, int]] = []  # (free tokens, row) of the rows in use, sorted
        self.untouched: deque[int] = deque()  # rows with nothing in them

    def place(self, index: int) -> None:
        """The piece to the fullest row that takes it, over all micro-batches; to an empty row if none does."""
        for at in range(bisect.bisect_left(self.free, (self.pieces[index].tokens, -1)), len(self.free)):
            if self._fits(index, self.used[self.free[at][1]]):
                return self._add(index, self.free[at][1])
        if not self.untouched:
            self._open()
        self._add(index, self.untouched[0])

    def place_together(self, group: Sequence[int]) -> None:
        """The sub-trees of a comparison, largest first, to rows of the first micro-batch that takes them all."""
        group = sorted(group, key=lambda i: (-self.pieces[i].tokens, i))
        need = sum(self.pieces[i].tokens for i in group)
        for first in range(0, len(self.members), self.shape.rows):
            of_batch = range(first, first + self.shape.rows)
            if self.shape.rows * self.shape.tokens - sum(self.used[row][0] for row in of_batch) < need:
                continue
            rows = self._try(group, of_batch)
            if rows is not None:
                break
        else:
            rows = self._try(group, self._open())
        if rows is None:
            raise UserError(
                f"one comparison makes {len(group)} sub-trees, which do not fit a micro-batch of {self.shape.rows} rows "
                f"of {self.shape.tokens} tokens; raise data.row_tokens or data.rows"
            )
        for index, row in zip(group, rows, strict=True):
            self._add(index, row)

    def _try(self, group: Sequence[int], rows: range) -> list[int] | None:
        """A row for each piece, best fit, or None; changes nothing."""
        used = {row: self.used[row] for row in rows}
        chosen = []
        for index in group:
            fitting = [row for row in rows if self._fits(index, used[row])]
            if not fitting:
                return None
            row = max(fitting, key=lambda row: (used[row][0], -row))
            used[row] = self._with(index, used[row])
            chosen.append(row)
        return chosen

    def _with(self, index: int, used: _Used) -> _Used:
        piece = self.pieces[index]
        return used[0] + piece.tokens, used[1] + len(piece.leaves), used[2] + piece.pairs

    def _fits(self, index: int, used: _Used) -> bool:
        tokens, leaves, pairs = self._with(index, used)
        return tokens <= self.shape.tokens and leaves <= self.shape.leaves and pairs <= self.shape.pairs

    def _add(self, index: int, row: int) -> None:
        if self.members[row]:
            self.free.remove((self.shape.tokens - self.used[row][0], row))
        else:
            self.untouched.remove(row)
        self.members[row].append(index)
        self.used[row] = self._with(index, self.used[row])
        bisect.insort(self.free, (self.shape.tokens - self.used[row][0], row))

    def _open(self) -> range:
        """A new micro-batch of empty rows."""
        rows = range(len(self.members), len(self.members) + self.shape.rows)
        self.members += [[] for _ in rows]
        self.used += [(0, 0, 0) for _ in rows]
        self.untouched += rows
        return rows


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
