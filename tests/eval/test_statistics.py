"""The bootstrap: its intervals against the known ones, and the rules over drawn comparisons."""

import numpy as np

from skyrm_jax.eval.statistics import bootstrap, estimate, ratio


def share(points: np.ndarray):  # type: ignore[no-untyped-def]
    weights = points[:, None].astype(np.float64)
    return lambda counts: ratio(counts, weights, np.ones_like(weights))


def test_interval_is_that_of_the_binomial() -> None:
    points = np.arange(400) < 280
    low, high = bootstrap(share(points), 400)
    half = 1.96 * np.sqrt(0.7 * 0.3 / 400)
    np.testing.assert_allclose([low[0], high[0]], [0.7 - half, 0.7 + half], atol=0.008)
    assert estimate(share(points), 400)[0] == 0.7


def test_the_seed_decides_and_blocks_do_not_repeat() -> None:
    points = np.random.default_rng(1).random(2500) < 0.6
    first, again, other = (bootstrap(share(points), 2500, seed=s) for s in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    seen: list[np.ndarray] = []
    bootstrap(lambda counts: (seen.append(counts), counts[:, :1])[1], 2500, replicates=3000)
    drawn = np.concatenate(seen)
    assert len(seen) > 1
    assert drawn.shape == (3000, 2500)
    assert (drawn.sum(axis=1) == 2500).all()
    assert len(np.unique(drawn, axis=0)) == 3000


def test_pairs_of_one_comparison_are_drawn_together() -> None:
    # 50 comparisons of 20 pairs each, all right or all wrong: the interval is that of 50, not of 1000.
    right = np.arange(50) % 2 == 0
    pairs = np.full((50, 1), 20.0)
    low, high = bootstrap(lambda counts: ratio(counts, pairs * right[:, None], pairs), 50)
    assert 0.12 < (high - low)[0] / 2 < 0.16


def test_undefined_replicates_are_left_out() -> None:
    member = np.array([[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    low, high = bootstrap(lambda counts: ratio(counts, member, member), 3)
    assert (low[0], high[0]) == (1.0, 1.0)
    assert np.isnan([low[1], high[1]]).all()
