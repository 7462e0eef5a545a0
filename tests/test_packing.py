"""Packing: everything placed once, nothing over capacity, sub-trees of one comparison in one micro-batch."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skyrm_jax.chat import Tree, build_tree
from skyrm_jax.comparison import Preference
from skyrm_jax.errors import UserError
from skyrm_jax.packing import Piece, RowShape, assemble, cut, leaf_paths, leaf_slots, pack, subtree


def ancestors(end: np.ndarray, token: int) -> np.ndarray:
    index = np.arange(len(end))
    return np.flatnonzero((index <= token) & (token < end))


def make_tree(rng: np.random.Generator, prefix: int, branches: list[int]) -> Tree:
    shared = rng.integers(1, 1000, prefix).tolist()
    # The first token of each branch is its number, so that no two branches share one.
    return build_tree([[*shared, 1000 + i, *rng.integers(1, 1000, n - 1).tolist()] for i, n in enumerate(branches)], 0)


@st.composite
def trees(draw: st.DrawFn) -> list[Tree]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    sizes = draw(
        st.lists(
            st.tuples(st.integers(1, 30), st.lists(st.integers(1, 30), min_size=1, max_size=9)),
            min_size=1,
            max_size=25,
        )
    )
    return [make_tree(rng, prefix, branches) for prefix, branches in sizes]


def pieces_of(trees: list[Tree], shape: RowShape) -> list[Piece]:
    return [piece for number, tree in enumerate(trees) for piece in cut(number, tree, 1, shape.tokens)]


@given(trees())
@settings(max_examples=60, deadline=None)
def test_packed_rows_hold_every_conversation_exactly(made: list[Tree]) -> None:
    shape = RowShape(rows=9, tokens=64, leaves=12, pairs=9)
    pieces = pieces_of(made, shape)
    plans = pack(pieces, shape)
    assert sorted(m for plan in plans for row in plan for m in row) == list(range(len(pieces)))
    where: dict[int, set[int]] = {}
    found: dict[tuple[int, int], list[int]] = {}
    for number, plan in enumerate(plans):
        assert len(plan) == shape.rows
        batch = assemble(plan, pieces, {i: (t, ()) for i, t in enumerate(made)}, shape, range(shape.rows), pad_id=0)
        slots = leaf_slots(plan, pieces, shape)
        for (comparison, leaf), slot in slots.items():
            where.setdefault(comparison, set()).add(number)
            row, at = divmod(slot, shape.leaves)
            path = ancestors(batch.end[row], int(batch.reward_index[row, at]))
            found[comparison, leaf] = batch.tokens[row, path].tolist()
            assert batch.positions[row, path].tolist() == list(range(len(path)))
        used = sum(pieces[m].tokens for row in plan for m in row)
        pads = batch.end == np.arange(1, shape.tokens + 1)
        assert (batch.tokens != 0).sum() == used and pads[batch.tokens == 0].all()
    assert all(len(batches) == 1 for batches in where.values())
    expected = {
        (i, leaf): t.tokens[path].tolist() for i, t in enumerate(made) for leaf, path in enumerate(leaf_paths(t))
    }
    assert found == expected


def test_best_fit_leaves_little_room() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(5, 200, 2000)
    pieces = [Piece(i, int(n), range(2), 1) for i, n in enumerate(lengths)]
    plans = pack(pieces, RowShape(4, 1024, 400, 400))
    assert len(plans) * 4 * 1024 <= 1.02 * lengths.sum() + 4 * 1024


def test_cut_comparisons_share_rows() -> None:
    pieces = [Piece(i, tokens, [leaf], 0) for i in range(10) for leaf, tokens in enumerate((90, 30))]
    plans = pack(pieces, RowShape(4, 100, 8, 8))
    # Three comparisons to four rows: three rows of 90, and one with their three pieces of 30.
    assert len(plans) == 4
    for plan in plans:
        members = [pieces[m].comparison for row in plan for m in row]
        assert all(members.count(c) == 2 for c in members)


def test_capacity_of_leaves_and_pairs_opens_rows() -> None:
    pieces = [Piece(i, 1, range(2), 3) for i in range(10)]
    assert len(pack(pieces, RowShape(1, 1000, 4, 100))) == 5
    assert len(pack(pieces, RowShape(1, 1000, 100, 3))) == 10


def test_two_responses_of_16k_tokens_are_cut_into_two_rows() -> None:
    rng = np.random.default_rng(1)
    tree = make_tree(rng, 300, [16_000, 16_084])
    shape = RowShape(rows=2, tokens=16_384, leaves=8, pairs=8)
    pieces = cut(0, tree, 1, shape.tokens)
    assert [list(p.leaves) for p in pieces] == [[0], [1]] and pieces[1].tokens == 16_384
    (plan,) = pack(pieces, shape)
    batch = assemble(plan, pieces, {0: (tree, (Preference(1, 0),))}, shape, range(2))
    # The pair's rewards meet across rows by flat slot.
    (b, i) = next(zip(*np.nonzero(batch.pair_weight), strict=True))
    winner, loser = divmod(int(batch.winner[b, i]), 8), divmod(int(batch.loser[b, i]), 8)
    assert winner[0] != loser[0]
    for (row, slot), leaf in ((winner, 1), (loser, 0)):
        path = ancestors(batch.end[row], int(batch.reward_index[row, slot]))
        assert batch.tokens[row, path].tolist() == tree.tokens[leaf_paths(tree)[leaf]].tolist()


def test_32_responses_over_four_rows() -> None:
    rng = np.random.default_rng(2)
    tree = make_tree(rng, 1000, [900] * 32)
    shape = RowShape(rows=4, tokens=8_300, leaves=16, pairs=31)
    pieces = cut(0, tree, 31, shape.tokens)
    assert len(pieces) == 4 and [len(p.leaves) for p in pieces] == [8] * 4
    (plan,) = pack(pieces, shape)
    preferences = tuple(Preference(5, k) for k in range(32) if k != 5)
    batch = assemble(plan, pieces, {0: (tree, preferences)}, shape, range(4))
    assert batch.pair_weight.sum() == pytest.approx(1.0)
    slots = leaf_slots(plan, pieces, shape)
    row = next(r for r in range(4) if batch.pair_weight[r].any())
    assert (batch.winner[row, :31] == slots[0, 5]).all()
    assert batch.loser[row, :31].tolist() == [slots[0, k] for k in range(32) if k != 5]


def test_one_process_assembles_its_own_rows_alike() -> None:
    rng = np.random.default_rng(3)
    made = [make_tree(rng, 5, [7, 9]) for _ in range(12)]
    shape = RowShape(4, 64, 8, 8)
    pieces = pieces_of(made, shape)
    every = {i: (t, (Preference(0, 1),)) for i, t in enumerate(made)}
    for plan in pack(pieces, shape):
        whole = assemble(plan, pieces, every, shape, range(4)).arrays()
        part = assemble(plan, pieces, every, shape, [1, 3]).arrays()
        for name in whole:
            np.testing.assert_array_equal(whole[name][[1, 3]], part[name])


def test_subtree_of_all_leaves_is_the_tree() -> None:
    tree = make_tree(np.random.default_rng(4), 6, [3, 4, 5])
    again = subtree(tree, [0, 1, 2])
    for name in ("tokens", "end", "positions", "reward_index"):
        np.testing.assert_array_equal(getattr(again, name), getattr(tree, name))


def test_what_cannot_fit_is_said() -> None:
    tree = make_tree(np.random.default_rng(5), 60, [30, 30])
    with pytest.raises(UserError, match="row_tokens"):
        cut(0, tree, 1, 64)
    with pytest.raises(UserError, match=r"2 sub-trees.* micro-batch of 1 rows"):
        pack(cut(0, tree, 1, 100), RowShape(1, 100, 8, 8))
