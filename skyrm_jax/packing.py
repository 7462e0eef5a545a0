"""Lengths -> rows. Pure numpy on integers: given the same lengths and shapes, the same rows on every machine.

A row holds whole trees up to its tokens, leaves and pairs. A batch becomes as many micro-batches, of up to three shapes,
as leave the fewest slots empty; trees are dealt to rows so that rows are equally full, and rows to micro-batches and
shards so that those work equally long. The sub-trees of a tree that is longer than a row share a micro-batch, where
their rewards meet again by index.
"""

import bisect
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Int

from skyrm_jax.chat import Tree
from skyrm_jax.errors import UserError
from skyrm_jax.subtree import cut, subtree


@dataclass(frozen=True)
class RowShape:
    """The fixed shape of a micro-batch: `rows` rows of `tokens` tokens, `leaves` rewards and `pairs` pairs each."""

    rows: int
    tokens: int
    leaves: int
    pairs: int

    @property
    def slots(self) -> int:
        """Tokens that a micro-batch has room for."""
        return self.rows * self.tokens


@dataclass(frozen=True)
class Pieces:
    """Comparisons, and sub-trees of those that are too long for a row, as the packer sees them.

    Attributes:
        comparison: number within the batch of the comparison that a piece is, or is part of; ascending.
        tokens, leaves, pairs: of each piece.
        visible: (query, key) pairs that the tree mask leaves, see `index.visible_pairs`.
        parts: for the pieces that are sub-trees, the leaves of the whole tree that they hold.
    """

    comparison: Int[np.ndarray, "n"]
    tokens: Int[np.ndarray, "n"]
    leaves: Int[np.ndarray, "n"]
    pairs: Int[np.ndarray, "n"]
    visible: Int[np.ndarray, "n"]
    parts: Mapping[int, Sequence[int]] = field(default_factory=dict)

    @classmethod
    def of(cls, trees: Sequence[Tree], pairs: Sequence[int], row_tokens: int) -> "Pieces":
        """The pieces of these trees, cut where they are longer than a row; `pairs` go with a tree's first piece.

        Raises UserError as `cut` does.
        """
        facts = [(len(t.tokens), len(t.reward_index), n, _visible(t)) for t, n in zip(trees, pairs, strict=True)]
        columns = np.array(facts, np.int64).reshape(-1, 4)
        return cls.of_columns(columns, dict(enumerate(trees)), row_tokens)

    @classmethod
    def of_columns(cls, columns: Int[np.ndarray, "n 4"], trees: Mapping[int, Tree], row_tokens: int) -> "Pieces":
        """The same from (tokens, leaves, pairs, visible) of each; only the trees longer than a row are needed."""
        too_long = np.flatnonzero(columns[:, 0] > row_tokens).tolist()
        if not too_long:
            return cls(np.arange(len(columns)), *columns.T)
        # Only the few that are cut are looked at one by one; the others are ten thousand in a batch.
        whole = np.flatnonzero(columns[:, 0] <= row_tokens)
        of: list[int] = []
        facts: list[tuple[int, int, int, int]] = []
        held: list[Sequence[int]] = []
        for number in too_long:
            for first, leaves in enumerate(cut(trees[number], row_tokens)):
                part = subtree(trees[number], leaves)
                of.append(number)
                facts.append((len(part.tokens), len(leaves), 0 if first else int(columns[number, 2]), _visible(part)))
                held.append(leaves)
        comparison = np.concatenate([whole, of])
        order = np.argsort(comparison, kind="stable")
        places = np.argsort(order)[len(whole) :].tolist()
        columns = np.concatenate([columns[whole], facts])[order]
        return cls(comparison[order], *columns.T, dict(zip(places, held, strict=True)))  # type: ignore[call-arg]

    def __len__(self) -> int:
        return len(self.tokens)

    def leaves_of(self, piece: int) -> Sequence[int]:
        """The leaves of the whole tree that a piece holds."""
        return self.parts.get(piece) or range(int(self.leaves[piece]))


def _visible(tree: Tree) -> int:
    """A token sees itself and all before it in its own conversation."""
    return int(tree.positions.sum(dtype=np.int64)) + len(tree.positions)


@dataclass(frozen=True)
class MicroBatchPlan:
    """For each row of a micro-batch, the numbers of the pieces in it, in order."""

    shape: RowShape
    rows: list[list[int]]


def pack(pieces: Pieces, shapes: Sequence[RowShape], shards: int = 1, token_cost: int = 25_000) -> list[MicroBatchPlan]:
    """Micro-batches for the pieces.

    Args:
        shapes: what a micro-batch may look like; the number of rows of each is a multiple of `shards`.
        shards: among which the rows of a micro-batch are divided, in order.
        token_cost: what a token costs in matmuls, in units of what a visible (query, key) pair costs in attention;
            25,000 is right for the 8B models. It only decides which rows go together.

    Raises:
        UserError: a piece exceeds every shape, or a comparison needs more rows than a micro-batch has.
    """
    if not len(pieces):
        return []
    for counts in _candidates(pieces, shapes):
        rows = _Rows(pieces, [shape for shape, count in zip(shapes, counts, strict=True) for _ in range(count)])
        if rows.fill():
            return rows.micro_batches(shards, token_cost)
    raise AssertionError("unreachable: every piece fits a row of its own")


_TRIES = 12
"""Ways to fill rows that are tried before it stops mattering how many slots stay empty."""


def _candidates(pieces: Pieces, shapes: Sequence[RowShape]) -> Iterator[tuple[int, ...]]:
    """How many micro-batches of each shape may do, the fewest empty slots first, at last any number."""
    _check(pieces, shapes)
    least = _least(pieces, shapes)
    main = max(range(len(shapes)), key=lambda n: (shapes[n].slots, -shapes[n].tokens))
    room = np.array([[shape.rows * size for size in (shape.tokens, shape.leaves, shape.pairs)] for shape in shapes])
    needs = np.array([pieces.tokens.sum(), pieces.leaves.sum(), pieces.pairs.sum()])
    spare = max(0, int((-(-(needs - least @ room) // room[main])).max()))
    ranges = [
        range(max(n, n + spare - 2), n + spare + 3 + spare // 4)
        if number == main
        else range(n, n + -(-shapes[main].slots // shapes[number].slots))
        for number, n in enumerate(least.tolist())
    ]
    slots = room[:, 0]
    lengths = np.array([shape.tokens for shape in shapes])
    found = [
        (int(slots @ counts), sum(counts), int((slots * lengths) @ counts), counts)
        for counts in itertools.product(*ranges)
        if (counts @ room >= needs).all()
    ]
    yield from (counts for *_, counts in sorted(found)[:_TRIES])
    counts = np.maximum(least, 1 * (np.arange(len(shapes)) == main))
    counts[main] += spare
    longest = int(np.argmax(lengths))
    while True:
        counts[main] += 1 + counts[main] // 8
        if longest != main:
            counts[longest] += 1 + counts[longest] // 8
        yield tuple(counts.tolist())


def _check(pieces: Pieces, shapes: Sequence[RowShape]) -> None:
    """Raises UserError if a piece fits no row, or the sub-trees of a comparison no micro-batch."""
    fits = np.zeros(len(pieces), bool)
    for shape in shapes:
        fits |= (pieces.tokens <= shape.tokens) & (pieces.leaves <= shape.leaves) & (pieces.pairs <= shape.pairs)
    for piece in np.flatnonzero(~fits)[:1].tolist():
        largest = max(shapes, key=lambda shape: shape.tokens)
        raise UserError(
            f"a comparison of {pieces.tokens[piece]} tokens, {pieces.leaves[piece]} responses and {pieces.pairs[piece]} "
            f"pairs does not fit a row of {largest.tokens} tokens, {largest.leaves} leaves, {largest.pairs} pairs"
        )
    for group in _groups(pieces):
        needs = np.stack([pieces.tokens, pieces.leaves, pieces.pairs], axis=1)[group]
        empty = [np.tile([shape.tokens, shape.leaves, shape.pairs], (shape.rows, 1)) for shape in shapes]
        if all(_tightest(needs, free) is None for free in empty):
            most = max(shapes, key=lambda shape: shape.slots)
            raise UserError(
                f"one comparison makes {len(group)} sub-trees, which do not fit a micro-batch of {most.rows} rows "
                f"of {most.tokens} tokens; raise data.row_tokens or data.rows"
            )


def _least(pieces: Pieces, shapes: Sequence[RowShape]) -> Int[np.ndarray, "shapes"]:
    """A lower bound of the micro-batches of each shape: what the trees that fit no shorter row take."""
    least = np.zeros(len(shapes), np.int64)
    longest, *others = sorted(shapes, key=lambda shape: -shape.tokens)
    shorter = max((shape.tokens for shape in others), default=0)
    long = pieces.tokens[pieces.tokens > shorter]
    rows = max(-(-int(long.sum()) // longest.tokens), int((long > longest.tokens // 2).sum()))
    least[shapes.index(longest)] = -(-rows // longest.rows)
    return least


def _groups(pieces: Pieces) -> list[list[int]]:
    """The sub-trees of each comparison that is cut, largest first; the largest comparison first."""
    of: dict[int, list[int]] = {}
    for piece in pieces.parts:
        of.setdefault(int(pieces.comparison[piece]), []).append(piece)
    groups = [sorted(group, key=lambda piece: (-int(pieces.tokens[piece]), piece)) for group in of.values()]
    return sorted(groups, key=lambda group: (-int(pieces.tokens[group].sum()), group[0]))


def _tightest(needs: Int[np.ndarray, "m 3"], free: Int[np.ndarray, "rows 3"]) -> list[int] | None:
    """For each piece, in order, the fullest row that takes it; None if one finds none."""
    free = free.copy()
    chosen: list[int] = []
    for need in needs:
        fitting = np.flatnonzero((need <= free).all(axis=1))
        if not len(fitting):
            return None
        row = int(fitting[free[fitting, 0].argmin()])
        free[row] -= need
        chosen.append(row)
    return chosen


class _Rows:
    """The rows of some micro-batches being filled."""

    def __init__(self, pieces: Pieces, micro_batches: Sequence[RowShape]):
        self.pieces, self.shapes = pieces, micro_batches
        sizes = [shape.rows for shape in micro_batches]
        self.micro_batch = np.repeat(np.arange(len(sizes)), sizes)
        self.capacity = np.repeat([(s.tokens, s.leaves, s.pairs) for s in micro_batches], sizes, axis=0)
        self.free = self.capacity.copy()
        self.needs = np.stack([pieces.tokens, pieces.leaves, pieces.pairs], axis=1)
        self.members: list[list[int]] = [[] for _ in self.micro_batch]
        self.pinned: set[int] = set()  # micro-batches that hold sub-trees: their rows stay

    def fill(self) -> bool:
        """Puts every piece into a row; False if that fails."""
        order = np.argsort(-self.pieces.tokens, kind="stable")
        groups = _groups(self.pieces)
        if groups:
            if not all([self._together(group) for group in groups]):
                return False
            order = order[~np.isin(order, np.concatenate(groups))]
        # Trees that only few of fit a row must fit each other: the fullest row that takes them. The small ones then
        # level the rows: the emptiest.
        large = int((self.pieces.tokens[order] > self.capacity[:, 0].max() // _LARGE).sum())
        return self._tightly(order[:large].tolist()) and self._evenly(order[large:])

    def _add(self, piece: int, row: int) -> None:
        self.members[row].append(piece)
        self.free[row] -= self.needs[piece]

    def _together(self, group: Sequence[int]) -> bool:
        """The sub-trees of a comparison to rows of the first micro-batch that takes them all."""
        for micro_batch in range(len(self.shapes)):
            rows = np.flatnonzero(self.micro_batch == micro_batch)
            chosen = _tightest(self.needs[group], self.free[rows])
            if chosen is not None:
                for piece, row in zip(group, rows[chosen].tolist(), strict=True):
                    self._add(piece, row)
                self.pinned.add(micro_batch)
                return True
        return False

    def _tightly(self, pieces: Sequence[int]) -> bool:
        """Each piece, largest first, to the fullest row that takes it."""
        rows = sorted((int(tokens), row) for row, tokens in enumerate(self.free[:, 0].tolist()))
        # Plain numbers: ten thousand small lists would set off the garbage collector, and that looks at the whole program.
        tokens_of, leaves_of, pairs_of = (column.tolist() for column in self.needs.T)
        free = self.free.tolist()
        for piece in pieces:
            tokens, leaves, pairs = tokens_of[piece], leaves_of[piece], pairs_of[piece]
            for at in range(bisect.bisect_left(rows, (tokens, -1)), len(rows)):
                row = rows[at][1]
                if leaves <= free[row][1] and pairs <= free[row][2]:
                    break
            else:
                return False
            del rows[at]
            free[row] = [free[row][0] - tokens, free[row][1] - leaves, free[row][2] - pairs]
            self.members[row].append(piece)
            bisect.insort(rows, (free[row][0], row))
        self.free = np.array(free)
        return True

    def _evenly(self, pieces: Int[np.ndarray, "m"]) -> bool:
        """The pieces, largest first, to the emptiest rows, a round at a time: the i-th piece to the i-th emptiest row.

        A row is as empty as it has room for more average pieces, whichever of tokens, leaves and pairs is the scarcest.
        """
        mean = np.maximum(self.needs[pieces].mean(axis=0), 1e-9) if len(pieces) else 1.0
        late: list[int] = []  # those that the emptiest row does not take
        while len(pieces):
            room = (self.free / mean).min(axis=1)
            order = np.argsort(-room, kind="stable")
            # Only rows about as empty as the emptiest, so that after the round they are still the emptier ones.
            most = room[order[0]]
            level = most - max(most / 8, float((self.needs[pieces[0]] / mean).max()))
            count = min(len(pieces), max(1, int((room > level).sum())))
            now, rows = pieces[:count], order[:count]
            fits = (self.needs[now] <= self.free[rows]).all(axis=1)
            stop = count if fits.all() else int(fits.argmin())
            if not stop:
                late.append(int(pieces[0]))
                if len(late) > _LATE:
                    return False
                pieces = pieces[1:]
                continue
            now, rows = now[:stop], rows[:stop]
            self.free[rows] -= self.needs[now]
            for piece, row in zip(now.tolist(), rows.tolist(), strict=True):
                self.members[row].append(piece)
            pieces = pieces[stop:]
        return self._tightly(late)

    def micro_batches(self, shards: int, token_cost: int) -> list[MicroBatchPlan]:
        """The filled rows, those of like cost in one micro-batch, and its shards about equally loaded."""
        of = np.zeros(len(self.members), np.int64)
        for row, members in enumerate(self.members):
            of[row] = (self.pieces.tokens[members] * token_cost + self.pieces.visible[members]).sum()
        for shape in dict.fromkeys(self.shapes):
            free = [n for n, one in enumerate(self.shapes) if one == shape and n not in self.pinned]
            rows = np.flatnonzero(np.isin(self.micro_batch, free))
            self.micro_batch[rows[np.argsort(-of[rows], kind="stable")]] = np.repeat(free, shape.rows)
        plans = []
        for number, shape in enumerate(self.shapes):
            rows = np.flatnonzero(self.micro_batch == number)
            dealt = rows[np.argsort(-of[rows], kind="stable")].reshape(-1, shards)
            dealt[1::2] = dealt[1::2, ::-1]  # forth and back, so that no shard gets the larger of every round
            plans.append(MicroBatchPlan(shape, [self.members[row] for row in dealt.T.ravel().tolist()]))
        return plans


_LARGE = 8
"""Pieces of more than this part of a row are placed one by one."""

_LATE = 64
"""Pieces that may wait for a row that happens to have room for them."""
