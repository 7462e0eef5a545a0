"""Accuracy on held-out preferences with any number of responses, and the best-of-N curve."""

from collections.abc import Sequence

import numpy as np

from skyrm_jax.comparison import Comparison, Preference
from skyrm_jax.eval import curves
from skyrm_jax.eval.curves import Curve
from skyrm_jax.eval.figures import Result, check_rewards
from skyrm_jax.eval.table import Table

ACCURACY = "Pair accuracy"
ALL = "All pairs"
UNNAMED = "(no category)"
BEST_OF_N = "Best of N"


def score(comparisons: Sequence[Comparison], rewards: Sequence[np.ndarray]) -> Result:
    """Pair accuracy overall and by category, and the best-of-N curve; `rewards[i]` is f32[K_i].

    The unit is one preference. It is correct if the preferred response has strictly the higher reward; ties
    are wrong and counted apart. A soft label p < 0.5 prefers the `loser`, p = 0.5 neither, so it is left out
    and noted. Intervals are by comparison. Raises UserError if rewards are missing or not finite.
    """
    check_rewards(comparisons, rewards)
    undecided = sum(p.p == 0.5 for c in comparisons for p in c.preferences)
    notes = [f"{undecided} preferences with p = 0.5 prefer neither response and are left out"] if undecided else []
    if not any(decided(c.preferences) for c in comparisons):
        notes.append("no comparison has a preference: there is nothing to be right or wrong about")
        return Result(sections={ACCURACY: {}}, notes=notes)
    result = table(comparisons, rewards).result((ACCURACY, ALL))
    result.notes += notes
    curve = best_of_n(comparisons, rewards)
    if curve is not None:
        result.curves[BEST_OF_N] = curve
    return result


def table(comparisons: Sequence[Comparison], rewards: Sequence[np.ndarray]) -> Table:
    """The figures that `score` computes."""
    correct, ties, total = pair_counts(comparisons, rewards)
    names = np.array([c.category or UNNAMED for c in comparisons])
    categories = sorted(set(names.tolist())) if set(names.tolist()) != {UNNAMED} else []
    figures = Table(len(comparisons))
    figures.ratio((ACCURACY, ALL), correct, total, ties)
    for name in categories:
        members = names == name
        shown = f"{name} (category)" if name == ALL else name
        figures.ratio((ACCURACY, shown), members * correct, members * total, members * ties)
    return figures


def pair_counts(
    comparisons: Sequence[Comparison], rewards: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """i64[C] each: the preferences of every comparison that are correct, tied, and decided at all."""
    counts = np.zeros((3, len(comparisons)), np.int64)
    for i, (comparison, reward) in enumerate(zip(comparisons, rewards, strict=True)):
        for winner, loser in decided(comparison.preferences):
            counts[:, i] += (reward[winner] > reward[loser], reward[winner] == reward[loser], 1)
    return counts[0], counts[1], counts[2]


def decided(preferences: Sequence[Preference]) -> list[tuple[int, int]]:
    """(preferred, other) of each preference that has them: p < 0.5 turns it round, 0.5 decides nothing."""
    return [(p.winner, p.loser) if p.p > 0.5 else (p.loser, p.winner) for p in preferences if p.p != 0.5]


def right_responses(comparison: Comparison) -> np.ndarray | None:
    """bool[K], which responses are right, if the preferences split all K into right and wrong; else None.

    They do when every response is preferred to all of one set (the wrong) or belongs to that set.
    """
    pairs = set(decided(comparison.preferences))
    right, wrong = {w for w, _ in pairs}, {w for _, w in pairs}
    if not pairs or right & wrong or len(pairs) != len(right) * len(wrong):
        return None
    if len(right) + len(wrong) != len(comparison.responses):
        return None
    return np.array([k in right for k in range(len(comparison.responses))])


def best_of_n(comparisons: Sequence[Comparison], rewards: Sequence[np.ndarray]) -> Curve | None:
    """The best-of-N curve over the comparisons whose preferences split right from wrong; None if there is
    none.

    Exact, without sampling: see `curves`. The interval is the bootstrap's, by comparison.
    """
    check_rewards(comparisons, rewards)
    split = [
        (right, np.asarray(r))
        for c, r in zip(comparisons, rewards, strict=True)
        if (right := right_responses(c)) is not None
    ]
    return curves.best_of_n([reward for _, reward in split], [right for right, _ in split])
