"""Best-of-N curves against enumeration of all subsets."""

from itertools import combinations, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skyrm_jax.eval.curves import best_of_n, picked


def enumerated(rewards: list[float], right: list[float], n: int) -> float:
    """The mean over all n-subsets, and over the responses that tie for the best of one."""
    hits = []
    for subset in combinations(range(len(right)), n):
        best = max(rewards[i] for i in subset)
        hits.append(np.mean([right[i] for i in subset if rewards[i] == best]))
    return float(np.mean(hits))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from([0, 0.25, 1])), min_size=1, max_size=7))
def test_curve_is_the_mean_over_all_subsets(items: list[tuple[int, float]]) -> None:
    rewards, right = [float(r) for r, _ in items], [float(c) for _, c in items]
    expected = [enumerated(rewards, right, n) for n in range(1, len(items) + 1)]
    np.testing.assert_allclose(picked(np.array(rewards), np.array(right)), expected, atol=1e-12)


def test_curve_does_not_depend_on_the_order_of_responses() -> None:
    rewards, right = [1.0, 1.0, 0.0, 2.0], [True, False, True, False]
    curves = [
        picked(np.array([rewards[i] for i in p]), np.array([right[i] for i in p])) for p in permutations(range(4))
    ]
    np.testing.assert_allclose(curves, np.broadcast_to(curves[0], (24, 4)), atol=1e-15)


def test_32_responses_stay_exact() -> None:
    right = np.zeros(32, bool)
    right[5] = True
    oracle = picked(right.astype(float), right)
    np.testing.assert_allclose(oracle, np.arange(1, 33) / 32, atol=1e-14)
    np.testing.assert_allclose(picked(np.zeros(32), right), np.full(32, 1 / 32), atol=1e-14)


def test_best_of_n_averages_over_the_same_comparisons_at_every_n() -> None:
    # easy: 1/2, then always right; hard: its right answer is second of four.
    right = [np.array([True, False]), np.array([False, True, False, False])]
    curve = best_of_n([np.array([1.0, 0.0]), np.array([3.0, 2.0, 1.0, 0.0])], right)
    assert curve is not None
    ours = [50 * (e + h) for e, h in zip([0.5, 1, 1, 1], [1 / 4, 2 / 6, 1 / 4, 0], strict=True)]
    best = [50 * (e + h) for e, h in zip([0.5, 1, 1, 1], [1 / 4, 1 / 2, 3 / 4, 1], strict=True)]
    np.testing.assert_allclose(curve.reward, ours)
    np.testing.assert_allclose(curve.oracle, best)
    np.testing.assert_allclose(curve.random, [37.5] * 4)
    assert (curve.n, curve.offering, curve.comparisons) == ([1, 2, 3, 4], [2, 2, 1, 1], 2)
    # Of the mean curves; the mean of each comparison's own would be 0.160.
    assert curve.loss == pytest.approx((1 / 12**2 + 1 / 4**2 + 1 / 2**2) / 4)
    assert best_of_n([], []) is None


def test_grades_count_as_they_are() -> None:
    right = [np.array([0.0, 0.25, 1.0])]
    curve = best_of_n([np.array([0.0, 2.0, 1.0])], right)
    assert curve is not None
    assert curve.reward == pytest.approx([125 / 3, 50, 25])
    assert curve.oracle == pytest.approx([125 / 3, 75, 100])
    assert curve.random == pytest.approx([125 / 3] * 3)


def test_a_model_that_knows_the_answer_is_the_oracle_and_loses_nothing() -> None:
    rng = np.random.default_rng(0)
    right = [rng.random(5) < 0.4 for _ in range(30)]
    curve = best_of_n([one.astype(float) for one in right], right)
    assert curve is not None
    assert (curve.reward, curve.loss) == (pytest.approx(curve.oracle), pytest.approx(0, abs=1e-25))


def test_intervals_are_by_comparison() -> None:
    # 100 comparisons, in half of which both of two responses are right: at every N the share is that of 100 coins.
    right = [np.full(2, k % 2 == 0) for k in range(100)]
    curve = best_of_n([np.array([1.0, 0.0])] * 100, right)
    assert curve is not None
    assert curve.reward == [50, 50]
    for low, high in zip(curve.low, curve.high, strict=True):
        assert (low, high) == pytest.approx((50 - 9.8, 50 + 9.8), abs=1.2)
    assert (curve.loss, curve.loss_low, curve.loss_high) == (0, 0, 0)


def test_the_interval_of_the_loss() -> None:
    # In half of 100 comparisons the wrong one of two has the higher reward: at N = 2 the share lost is that of 100
    # coins, at N = 1 none is.
    rewards = [np.array([1.0, 0.0])[:: 1 if k % 2 else -1] for k in range(100)]
    curve = best_of_n(rewards, [np.array([True, False])] * 100)
    assert curve is not None
    assert curve.loss == pytest.approx(0.5**2 / 2)
    assert (curve.loss_low, curve.loss_high) == pytest.approx((0.402**2 / 2, 0.598**2 / 2), abs=0.008)
