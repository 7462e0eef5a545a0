"""Packing: everything placed once, nothing over capacity, sub-trees of one comparison in one micro-batch."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skyrm_jax import packing
from skyrm_jax.chat import Tree, build_tree
from skyrm_jax.comparison import Preference
from skyrm_jax.errors import UserError
from skyrm_jax.packing import MicroBatchPlan, Pieces, RowShape, pack
from skyrm_jax.rows import assemble, leaf_slots
from skyrm_jax.subtree import cut, leaf_paths, subtree


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


def plain(tokens: list[int] | np.ndarray, leaves: int = 2, pairs: int = 1) -> Pieces:
    """Whole trees of these lengths."""
    n, ones = len(tokens), np.ones(len(tokens), np.int64)
    return Pieces(np.arange(n), np.asarray(tokens, np.int64), leaves * ones, pairs * ones, np.asarray(tokens) * 10)


def check(pieces: Pieces, plans: list[MicroBatchPlan]) -> None:
    """Every piece once, nothing over capacity, sub-trees of a comparison in one micro-batch."""
    assert sorted(m for plan in plans for row in plan.rows for m in row) == list(range(len(pieces)))
    where: dict[int, set[int]] = {}
    for number, plan in enumerate(plans):
        assert len(plan.rows) == plan.shape.rows
        for row in plan.rows:
            for name in ("tokens", "leaves", "pairs"):
                assert getattr(pieces, name)[row].sum() <= getattr(plan.shape, name)
            for piece in row:
                where.setdefault(int(pieces.comparison[piece]), set()).add(number)
    assert all(len(batches) == 1 for batches in where.values())


SHAPES = [
    (RowShape(9, 64, 12, 9),),
    (RowShape(9, 64, 12, 9), RowShape(3, 32, 12, 9), RowShape(3, 8, 12, 9)),
    (RowShape(9, 64, 12, 9), RowShape(18, 40, 12, 9)),
    (RowShape(9, 64, 12, 9), RowShape(3, 64, 12, 9)),
]


@given(trees(), st.sampled_from(SHAPES), st.sampled_from([1, 3]))
@settings(max_examples=120, deadline=None)
def test_packed_rows_hold_every_conversation_exactly(
    made: list[Tree], shapes: tuple[RowShape, ...], shards: int
) -> None:
    pieces = Pieces.of(made, [1] * len(made), 64)
    plans = pack(pieces, shapes, shards)
    check(pieces, plans)
    found: dict[tuple[int, int], list[int]] = {}
    for plan in plans:
        shape = plan.shape
        batch = assemble(plan, pieces, {i: (t, ()) for i, t in enumerate(made)}, range(shape.rows), pad_id=0)
        for (comparison, leaf), slot in leaf_slots(plan, pieces).items():
            row, at = divmod(slot, shape.leaves)
            path = ancestors(batch.end[row], int(batch.reward_index[row, at]))
            found[comparison, leaf] = batch.tokens[row, path].tolist()
            assert batch.positions[row, path].tolist() == list(range(len(path)))
        used = sum(int(pieces.tokens[row].sum()) for row in plan.rows)
        pads = batch.end == np.arange(1, shape.tokens + 1)
        assert (batch.tokens != 0).sum() == used and pads[batch.tokens == 0].all()
    expected = {
        (i, leaf): t.tokens[path].tolist() for i, t in enumerate(made) for leaf, path in enumerate(leaf_paths(t))
    }
    assert found == expected


def test_visible_pairs_of_pieces_are_counted() -> None:
    tree = make_tree(np.random.default_rng(0), 30, [20, 25, 3])
    for row_tokens in (100, 60):
        pieces = Pieces.of([tree], [2], row_tokens)
        for piece in range(len(pieces)):
            end = subtree(tree, pieces.leaves_of(piece)).end
            q, k = np.mgrid[: len(end), : len(end)]
            assert pieces.visible[piece] == ((k <= q) & (q < end[k])).sum()
        assert pieces.pairs.tolist() == [2] + [0] * (len(pieces) - 1)


@given(st.lists(st.integers(1, 4096), min_size=1, max_size=300), st.integers(1, 8), st.booleans())
@settings(max_examples=60, deadline=None)
def test_any_lengths_find_room(lengths: list[int], shards: int, tiers: bool) -> None:
    shapes = [RowShape(2 * shards, 4096, 16, 16)]
    if tiers:
        shapes += [RowShape(2 * shards, 1024, 16, 16), RowShape(shards, 512, 16, 16)]
    pieces = plain(lengths)
    check(pieces, pack(pieces, shapes, shards))


def test_little_room_is_left() -> None:
    lengths = np.random.default_rng(0).integers(5, 200, 2000)
    plans = pack(plain(lengths), [RowShape(4, 1024, 400, 400)])
    assert len(plans) * 4 * 1024 <= 1.02 * lengths.sum() + 4 * 1024


def paper_batch(seed: int = 0) -> Pieces:
    """10,240 pairs of conversations of 1,000 tokens on average, log-normal, up to 16,384."""
    rng = np.random.default_rng(seed)
    lengths = np.clip(rng.lognormal(np.log(1000) - 0.9**2 / 2, 0.9, 10_240), 8, 16_384).astype(int)
    return plain(lengths)


def test_shorter_rows_take_what_is_left_over() -> None:
    pieces = paper_batch()
    one, three = (
        pack(pieces, [RowShape(256, n, n // 16, n // 16) for n in tokens], 256)
        for tokens in ([16_384], [16_384, 8192, 2048])
    )
    empty = [1 - pieces.tokens.sum() / sum(plan.shape.slots for plan in plans) for plans in (one, three)]
    assert empty[0] > 0.1 and empty[1] < 0.05


def test_shards_work_equally_long() -> None:
    pieces = paper_batch()
    plans = pack(pieces, [RowShape(32, 16_384, 1024, 1024), RowShape(32, 4096, 256, 256)], 16)
    check(pieces, plans)
    work = pieces.tokens * 25_000 + pieces.visible
    shards = [
        [sum(work[piece] for row in plan.rows[2 * s : 2 * s + 2] for piece in row) for s in range(16)] for plan in plans
    ]
    assert sum(max(of) for of in shards) < 1.05 * sum(np.mean(of) for of in shards)


def test_long_rows_are_used_only_for_what_needs_them() -> None:
    lengths = np.r_[[15_000, 9_000], np.full(400, 700)]
    plans = pack(plain(lengths), [RowShape(1, 16_384, 64, 64), RowShape(4, 4096, 64, 64)])
    assert sum(plan.shape.tokens == 16_384 for plan in plans) == 2


def test_cut_comparisons_share_rows() -> None:
    rng = np.random.default_rng(0)
    made = [make_tree(rng, 10, [80, 20]) for _ in range(10)]
    pieces = Pieces.of(made, [1] * 10, 100)
    plans = pack(pieces, [RowShape(4, 100, 8, 8)])
    # Three comparisons to four rows: three rows of 90, and one with their three pieces of 30.
    assert len(pieces) == 20 and len(plans) == 4
    check(pieces, plans)


def test_capacity_of_leaves_and_pairs_opens_rows() -> None:
    assert len(pack(plain([1] * 10, 2, 3), [RowShape(1, 1000, 4, 100)])) == 5
    assert len(pack(plain([1] * 10, 2, 3), [RowShape(1, 1000, 100, 3)])) == 10


@pytest.mark.parametrize("rows", [8, 256])
@pytest.mark.parametrize("share", [0.2, 0.7, 1.0])
def test_leaves_that_bind_before_tokens_do_not_cost_time(
    rows: int, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    fills = []
    fill = packing._Rows.fill
    monkeypatch.setattr(packing._Rows, "fill", lambda self: fills.append(1) or fill(self))
    short = int(10_240 * share)
    pieces = plain(np.r_[np.full(short, 100), np.full(10_240 - short, 2000)])
    shapes = [RowShape(rows, n, int(0.0016 * n) + 8, int(0.0008 * n) + 8) for n in (16_384, 8192, 2048)]
    check(pieces, pack(pieces, shapes, 8))
    assert len(fills) < 40


def test_two_responses_of_16k_tokens_are_cut_into_two_rows() -> None:
    rng = np.random.default_rng(1)
    tree = make_tree(rng, 300, [16_000, 16_084])
    shape = RowShape(rows=2, tokens=16_384, leaves=8, pairs=8)
    pieces = Pieces.of([tree], [1], shape.tokens)
    assert list(pieces.parts.values()) == [[1], [0]] and pieces.tokens.max() == 16_384
    (plan,) = pack(pieces, [shape])
    batch = assemble(plan, pieces, {0: (tree, (Preference(1, 0),))}, range(2))
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
    pieces = Pieces.of([tree], [31], shape.tokens)
    assert pieces.leaves.tolist() == [8] * 4
    (plan,) = pack(pieces, [shape])
    preferences = tuple(Preference(5, k) for k in range(32) if k != 5)
    batch = assemble(plan, pieces, {0: (tree, preferences)}, range(4))
    assert batch.pair_weight.sum() == pytest.approx(1.0)
    slots = leaf_slots(plan, pieces)
    row = next(r for r in range(4) if batch.pair_weight[r].any())
    assert (batch.winner[row, :31] == slots[0, 5]).all()
    assert batch.loser[row, :31].tolist() == [slots[0, k] for k in range(32) if k != 5]


def test_one_process_assembles_its_own_rows_alike() -> None:
    rng = np.random.default_rng(3)
    made = [make_tree(rng, 5, [7, 9]) for _ in range(12)]
    shape = RowShape(4, 64, 8, 8)
    pieces = Pieces.of(made, [1] * len(made), shape.tokens)
    every = {i: (t, (Preference(0, 1),)) for i, t in enumerate(made)}
    for plan in pack(pieces, [shape]):
        whole = assemble(plan, pieces, every, range(4)).arrays()
        part = assemble(plan, pieces, every, [1, 3]).arrays()
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
        cut(tree, 64)
    with pytest.raises(UserError, match=r"2 sub-trees.* micro-batch of 1 rows"):
        pack(Pieces.of([tree], [1], 100), [RowShape(1, 100, 8, 8)])
    with pytest.raises(UserError, match=r"of 120 tokens, 2 responses and 1 pairs does not fit a row of 100 tokens"):
        pack(plain([120]), [RowShape(1, 100, 8, 8)])
