"""Held-out accuracy with any number of responses, and the best-of-N curve against enumeration."""

from itertools import combinations, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skyrm_jax.comparison import Comparison, Preference
from skyrm_jax.errors import UserError
from skyrm_jax.eval.heldout import ACCURACY, ALL, best_of_n, picked, right_responses, score


def comparison(k: int, preferences: list[Preference] | None = None, **names: str) -> Comparison:
    return Comparison.of("Which?", [f"answer {i}" for i in range(k)], preferences, **names)


def split(right: list[bool]) -> Comparison:
    pairs = [(w, l) for w in range(len(right)) for l in range(len(right)) if right[w] and not right[l]]  # noqa: E741
    return comparison(len(right), [Preference(w, l) for w, l in pairs])  # noqa: E741


def enumerated(rewards: list[float], right: list[bool], n: int) -> float:
    """The mean over all n-subsets, and over all orders in which a stable argmax may meet the tied ones."""
    hits = []
    for subset in combinations(range(len(right)), n):
        best = max(rewards[i] for i in subset)
        hits.append(np.mean([right[i] for i in subset if rewards[i] == best]))
    return float(np.mean(hits))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=7))
def test_curve_is_the_mean_over_all_subsets(items: list[tuple[int, bool]]) -> None:
    rewards, right = [float(r) for r, _ in items], [c for _, c in items]
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
    easy, hard = split([True, False]), split([False, True, False, False])
    curve = best_of_n([easy, hard, comparison(3)], [np.array([1.0, 0.0]), np.array([3.0, 2.0, 1.0, 0.0]), np.zeros(3)])
    assert curve is not None
    # easy: 1/2 then always right; hard: its right answer is second of four.
    hard_chances = [1 / 4, 2 / 6, 1 / 4, 0.0]
    expected = [100 * (e + h) / 2 for e, h in zip([0.5, 1, 1, 1], hard_chances, strict=True)]
    np.testing.assert_allclose(curve.reward, expected)
    np.testing.assert_allclose(
        curve.oracle, [100 * (e + h) / 2 for e, h in zip([0.5, 1, 1, 1], [0.25, 0.5, 0.75, 1], strict=True)]
    )
    np.testing.assert_allclose(curve.random, [37.5] * 4)
    assert (curve.n, curve.offering, curve.comparisons) == ([1, 2, 3, 4], [2, 2, 1, 1], 2)
    assert best_of_n([comparison(3)], [np.zeros(3)]) is None


def test_only_a_full_split_has_right_and_wrong() -> None:
    def found(k: int, *pairs: tuple[int, int], p: float = 1.0) -> list[bool] | None:
        right = right_responses(comparison(k, [Preference(w, loser, p) for w, loser in pairs]))
        return None if right is None else right.tolist()

    assert found(3, (1, 0), (1, 2)) == [False, True, False]
    assert found(2, (0, 1), p=0.2) == [False, True]
    assert found(2, (0, 1), p=0.5) is None
    assert found(3, (1, 0)) is None  # response 2 is neither
    assert found(3, (0, 1), (1, 2), (0, 2)) is None  # a ranking
    assert found(4, (0, 1), (2, 3)) is None  # two pairs that do not meet
    assert found(2) is None


def test_accuracy_counts_pairs_strictly_by_category() -> None:
    ranking = comparison(3, [Preference(0, 1), Preference(1, 2), Preference(0, 2)], category="a")
    soft = comparison(2, [Preference(0, 1, p=0.3)], category="b")
    undecided = comparison(2, [Preference(0, 1, p=0.5)], category="b")
    rewards = [np.array([2.0, 1.0, 1.0]), np.array([0.0, 1.0]), np.array([1.0, 0.0])]
    result = score([ranking, soft, undecided], rewards)
    figures = {name: (f.correct, f.ties, f.total) for name, f in result.sections[ACCURACY].items()}
    assert figures == {ALL: (3, 1, 4), "a": (2, 1, 3), "b": (1, 0, 1)}
    assert result.sections[ACCURACY][ALL].value == 75.0
    assert result.notes == ["1 preferences with p = 0.5 prefer neither response and are left out"]


def test_no_preferences_and_bad_rewards() -> None:
    result = score([comparison(2)], [np.zeros(2)])
    assert result.sections == {ACCURACY: {}}
    assert result.headline is None
    assert "nothing to be right or wrong about" in result.notes[0]
    with pytest.raises(UserError, match="not a finite number"):
        score([split([True, False])], [np.array([np.nan, 0.0])])
    with pytest.raises(UserError, match="not a finite number"):
        best_of_n([split([True, False])], [np.array([np.nan, 0.0])])
