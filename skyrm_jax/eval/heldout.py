"""Accuracy on held-out preferences with any number of responses, and the best-of-N curve."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import comb

import numpy as np

from skyrm_jax.comparison import Comparison, Preference
from skyrm_jax.eval.figures import Figure, Result, check_rewards
from skyrm_jax.eval.statistics import bootstrap, estimate, ratio

ACCURACY = "Pair accuracy"
ALL = "All pairs"
UNNAMED = "(no category)"


@dataclass(frozen=True, slots=True)
class Curve:
    """Expected correctness, in percent, of the response that is picked from N random ones, for N = 1 ...
    `n[-1]`.

    Averaged over the same `comparisons` at every N: a comparison with fewer than N responses offers all it
    has, and `offering[N-1]` is the number of comparisons that do have N. `oracle` picks a right response
    whenever there is one, `random` any.
    """

    n: list[int]
    reward: list[float]
    low: list[float]
    high: list[float]
    oracle: list[float]
    random: list[float]
    offering: list[int]
    comparisons: int


def score(comparisons: Sequence[Comparison], rewards: Sequence[np.ndarray]) -> Result:
    """Pair accuracy overall and by category; `rewards[i]` is f32[K_i].

    The unit is one preference. It is correct if the preferred response has strictly the higher reward; ties
    are wrong and counted apart. A soft label p < 0.5 prefers the `loser`, p = 0.5 neither, so it is left out
    and noted. Intervals are by comparison. Raises UserError if rewards are missing or not finite.
    """
    check_rewards(comparisons, rewards)
    correct, ties, total = pair_counts(comparisons, rewards)
    names = [c.category or UNNAMED for c in comparisons]
    categories = sorted(set(names)) if set(names) != {UNNAMED} else []
    members = np.array([[True, *(name == category for category in categories)] for name in names])
    result = Result(sections={ACCURACY: {}})
    undecided = sum(p.p == 0.5 for c in comparisons for p in c.preferences)
    if undecided:
        result.notes.append(f"{undecided} preferences with p = 0.5 prefer neither response and are left out")
    if not total.sum():
        result.notes.append("no comparison has a preference: there is nothing to be right or wrong about")
        return result
    numerator, denominator = members * correct[:, None], members * total[:, None]

    def rule(counts: np.ndarray) -> np.ndarray:
        return 100.0 * ratio(counts, numerator, denominator)

    values = estimate(rule, len(comparisons))
    low, high = bootstrap(rule, len(comparisons))
    for m, name in enumerate([ALL, *categories]):
        if denominator[:, m].sum():
            result.sections[ACCURACY][name] = Figure(
                value=float(values[m]),
                low=float(low[m]),
                high=float(high[m]),
                total=int(denominator[:, m].sum()),
                correct=int(numerator[:, m].sum()),
                ties=int(ties[members[:, m]].sum()),
            )
    result.headline = (ACCURACY, ALL)
    return result


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

    Exact, without sampling: see `picked`. The interval is the bootstrap's, by comparison.
    """
    check_rewards(comparisons, rewards)
    split = [
        (right, np.asarray(r))
        for c, r in zip(comparisons, rewards, strict=True)
        if (right := right_responses(c)) is not None
    ]
    if not split:
        return None
    longest = max(len(right) for right, _ in split)
    ours = np.stack([_extended(picked(reward, right), longest) for right, reward in split])
    oracle = np.stack([_extended(picked(right.astype(np.float64), right), longest) for right, _ in split])
    share = float(np.mean([right.mean() for right, _ in split]))

    def rule(counts: np.ndarray) -> np.ndarray:
        return 100.0 * (counts @ ours) / counts.sum(axis=1, keepdims=True)

    low, high = bootstrap(rule, len(split))
    return Curve(
        n=list(range(1, longest + 1)),
        reward=estimate(rule, len(split)).tolist(),
        low=low.tolist(),
        high=high.tolist(),
        oracle=(100.0 * oracle.mean(axis=0)).tolist(),
        random=[100.0 * share] * longest,
        offering=[sum(len(right) >= n for right, _ in split) for n in range(1, longest + 1)],
        comparisons=len(split),
    )


def picked(rewards: np.ndarray, right: np.ndarray) -> np.ndarray:
    """f64[K]: for N = 1 ... K the chance that the highest reward among N responses, drawn without
    replacement, is right.

    rewards [K], right bool[K]. Of K responses in falling order of reward the r-th (from 1) is the best of a
    random N-subset with probability C(K - r, N - 1) / C(K, N). Responses with equal rewards are picked among
    at random, so each counts as the share of right ones in its tied block.
    """
    _, block = np.unique(-np.asarray(rewards, np.float64), return_inverse=True)
    share = np.bincount(block, weights=right) / np.bincount(block)
    return _chances(len(right)) @ share[np.sort(block)]


@lru_cache(maxsize=64)
def _chances(k: int) -> np.ndarray:
    """f64[N, r]: the chance that the r-th best of k responses is the best of a random N-subset."""
    return np.array([[comb(k - r, n - 1) / comb(k, n) for r in range(1, k + 1)] for n in range(1, k + 1)])


def _extended(curve: np.ndarray, length: int) -> np.ndarray:
    return np.pad(curve, (0, length - len(curve)), mode="edge")
