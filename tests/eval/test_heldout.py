"""Held-out accuracy with any number of responses, and which comparisons have a best-of-N curve."""

from typing import Any

import numpy as np
import pytest

from skyrm_jax.comparison import Comparison, Preference
from skyrm_jax.errors import UserError
from skyrm_jax.eval.heldout import ACCURACY, ALL, best_of_n, right_responses, score


def comparison(k: int, preferences: list[Preference] | None = None, **names: Any) -> Comparison:
    return Comparison.of("Which?", [f"answer {i}" for i in range(k)], preferences, **names)


def split(right: list[bool]) -> Comparison:
    pairs = [(w, l) for w in range(len(right)) for l in range(len(right)) if right[w] and not right[l]]  # noqa: E741
    return comparison(len(right), [Preference(w, l) for w, l in pairs])  # noqa: E741


def test_the_curve_is_of_the_comparisons_that_split_right_from_wrong() -> None:
    easy, hard = split([True, False]), split([False, True, False, False])
    curve = best_of_n([easy, comparison(3), hard], [np.array([1.0, 0.0]), np.zeros(3), np.array([3.0, 2.0, 1.0, 0.0])])
    assert curve is not None
    # easy: 1/2, then always right; hard: its right answer is second of four.
    np.testing.assert_allclose(curve.reward, [50 * (1 / 2 + 1 / 4), 50 * (1 + 1 / 3), 50 * (1 + 1 / 4), 50])
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
