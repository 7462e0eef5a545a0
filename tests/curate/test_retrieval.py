"""Exact neighbours in blocks equal those of a sort of everything; the paper's rule for how many."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skyrm_jax.curate import retrieval
from skyrm_jax.curate.retrieval import FAR, neighbours, select, top_k


def test_how_many_neighbours() -> None:
    p = np.array([0.0, 0.3, 0.5, 0.51, 0.6, 0.625, 0.75, 0.874, 0.875, 0.9, 0.999, 1.0])
    assert neighbours(p).tolist() == [8, 8, 8, 4, 4, 3, 2, 2, 1, 1, 1, 0]
    assert neighbours(np.array([0.2, 0.9, 0.8]), most=10).tolist() == [10, 1, 2]


def oracle(
    queries: np.ndarray, pool: np.ndarray, k: int, allowed: np.ndarray
) -> tuple[list[list[int]], list[list[float]]]:
    scores = queries.astype(np.float64) @ pool.astype(np.float64).T
    rows, values = [], []
    for of in scores:
        order = [row for row in np.argsort(-of, kind="stable") if allowed[row]][:k]
        rows.append([int(row) for row in order] + [-1] * (k - len(order)))
        values.append([float(of[row]) for row in order] + [FAR] * (k - len(order)))
    return rows, values


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 40), st.integers(1, 7), st.integers(1, 9), st.sampled_from([4, 7, 64]))
def test_blocks_find_what_a_sort_finds(seed: int, n: int, q: int, k: int, block: int) -> None:
    rng = np.random.default_rng(seed)
    # Few coordinates of few values: products are exact, and many rows are equally similar.
    pool = rng.integers(-1, 2, (n, 3)).astype(np.float32)
    queries = rng.integers(-1, 2, (q, 3)).astype(np.float32)
    allowed = rng.random(n) < 0.8
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retrieval, "BLOCK", block)
        patch.setattr(retrieval, "QUERIES", 4)
        found, similarity = top_k(queries, pool.astype(np.float16), k, allowed)
    rows, values = oracle(queries, pool.astype(np.float16), k, allowed)
    assert found.tolist() == rows
    assert similarity.tolist() == values


def test_an_empty_pool_has_no_neighbours() -> None:
    found, similarity = top_k(np.ones((2, 3), np.float32), np.empty((0, 3), np.float32), 4)
    assert (found == -1).all() and (similarity == FAR).all()


def test_selection_takes_no_row_twice_and_leaves_something_of_each_query() -> None:
    found = np.array([[5, 6, 7], [5, 8, 9], [1, -1, -1]])
    counts = np.array([3, 2, 3])
    assert select(found, counts, [1, 0, 2]) == [(5, 1, 0), (1, 2, 0), (8, 1, 1), (6, 0, 1), (7, 0, 2)]
    assert select(found, counts, [1, 0, 2], limit=3) == [(5, 1, 0), (1, 2, 0), (8, 1, 1)]
    assert select(found, np.zeros(3, int), [0, 1, 2]) == []
