"""The loss against its formula in numpy, and the counters."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from skyrm_jax.train.loss import bradley_terry


def batch(winner: list[int], loser: list[int], p: list[float], margin: list[float], weight: list[float]) -> dict:
    return {
        "winner": np.array([winner]),
        "loser": np.array([loser]),
        "p": np.array([p], np.float32),
        "margin": np.array([margin], np.float32),
        "pair_weight": np.array([weight], np.float32),
    }


@given(seed=st.integers(0, 2**31))
@settings(max_examples=20)
def test_formula(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rewards = rng.normal(size=(3, 4)).astype(np.float32) * 5
    winner, loser = rng.integers(0, 12, 7), rng.integers(0, 12, 7)
    p, margin, weight = rng.uniform(size=7), rng.normal(size=7), rng.uniform(size=7)
    total, _ = bradley_terry(rewards, batch(list(winner), list(loser), list(p), list(margin), list(weight)))
    d = rewards.reshape(-1).astype(np.float64)[winner] - rewards.reshape(-1)[loser]
    sigmoid = 1 / (1 + np.exp(-(d - margin)))
    expected = weight * (-p * np.log(sigmoid) - (1 - p) * np.log(1 - sigmoid))
    np.testing.assert_allclose(total, expected.sum(), rtol=1e-4)


def test_counters_are_integers_and_ties_are_apart() -> None:
    rewards = np.array([[2.0, 1.0, 1.0, 3.0]], np.float32)
    # right, wrong, tie, right by a soft label below one half, no preference at one half, unused
    made = batch([0, 1, 1, 1, 0, 0], [1, 0, 2, 0, 1, 1], [1, 1, 1, 0.2, 0.5, 1], [0] * 6, [1, 1, 1, 1, 1, 0])
    _, metrics = bradley_terry(rewards, made)
    assert (int(metrics["pairs"]), int(metrics["correct"]), int(metrics["ties"])) == (4, 2, 1)
    for name in ("pairs", "correct", "ties"):
        assert metrics[name].dtype == np.int32


def test_large_differences_stay_finite() -> None:
    rewards = np.array([[1e4, -1e4]], np.float32)
    total, _ = bradley_terry(rewards, batch([1, 0], [0, 1], [1, 1], [0, 0], [1, 1]))
    assert float(total) == 2e4
