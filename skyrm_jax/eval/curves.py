"""Best-of-N curves, exact and without sampling: how good the response of highest reward among N is."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import comb

import numpy as np

from skyrm_jax.eval.statistics import bootstrap, estimate


@dataclass(frozen=True, slots=True)
class Curve:
    """Expected correctness, in percent, of the response that is picked from N random ones, for N = 1 ...
    `n[-1]`.

    Averaged over the same `comparisons` at every N: a comparison with fewer than N responses offers all it
    has, and `offering[N-1]` is the number of comparisons that do have N. `oracle` picks a right response
    whenever there is one, `random` any. `loss` is the mean over N of the squared distance to the oracle, in shares.
    `low` and `high` are the 95 % interval of `reward`, `loss_low` and `loss_high` that of `loss`.
    """

    n: list[int]
    reward: list[float]
    low: list[float]
    high: list[float]
    oracle: list[float]
    random: list[float]
    offering: list[int]
    comparisons: int
    loss: float
    loss_low: float
    loss_high: float


def best_of_n(rewards: Sequence[np.ndarray], right: Sequence[np.ndarray]) -> Curve | None:
    """The curve over comparisons with rewards f[K_i] and the correctness of each response, bool or 0 to 1, [K_i].

    None if there is no comparison. The intervals are the bootstrap's, by comparison.
    """
    if not rewards:
        return None
    longest = max(len(one) for one in right)
    ours = np.stack([_extended(picked(np.asarray(r), one), longest) for r, one in zip(rewards, right, strict=True)])
    oracle = np.stack([_extended(picked(np.asarray(one, np.float64), one), longest) for one in right])
    share = float(np.mean([one.mean() for one in right]))

    def rule(counts: np.ndarray) -> np.ndarray:
        drawn = counts.sum(axis=1, keepdims=True)
        loss = np.mean((counts @ (oracle - ours) / drawn) ** 2, axis=1, keepdims=True)
        return np.hstack([100.0 * (counts @ ours) / drawn, loss])

    (*reward, loss), (low, high) = estimate(rule, len(ours)), bootstrap(rule, len(ours))
    return Curve(
        n=list(range(1, longest + 1)),
        reward=[float(one) for one in reward],
        low=low[:-1].tolist(),
        high=high[:-1].tolist(),
        oracle=(100.0 * oracle.mean(axis=0)).tolist(),
        random=[100.0 * share] * longest,
        offering=[sum(len(one) >= n for one in right) for n in range(1, longest + 1)],
        comparisons=len(ours),
        loss=float(loss),
        loss_low=float(low[-1]),
        loss_high=float(high[-1]),
    )


def picked(rewards: np.ndarray, right: np.ndarray) -> np.ndarray:
    """f64[K]: for N = 1 ... K the expected correctness of the highest reward among N responses, drawn without
    replacement.

    rewards [K], right [K]. Of K responses in falling order of reward the r-th (from 1) is the best of a
    random N-subset with probability C(K - r, N - 1) / C(K, N). Responses with equal rewards are picked among
    at random, so each counts as the mean correctness of its tied block.
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
