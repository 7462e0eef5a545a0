"""Bootstrap intervals by comparison: a figure is a function of how often each comparison was drawn."""

from collections.abc import Callable, Sequence

import numpy as np

LEVEL = 0.95
REPLICATES = 2_000

# counts [R, n] (how often replicate r holds comparison i) -> figures [R, M]
Rule = Callable[[np.ndarray], np.ndarray]


Interval = tuple[float, float]


def estimate(rule: Rule, n: int) -> np.ndarray:
    """f64[M]: the figures themselves, every one of the n comparisons counted once."""
    return rule(np.ones((1, n)))[0]


def bootstrap(rule: Rule, n: int, seed: int = 0, replicates: int = REPLICATES) -> tuple[np.ndarray, np.ndarray]:
    """95 % percentile intervals (low f64[M], high f64[M]) of the figures of `rule`, as `drawn` and `interval` say."""
    return interval(drawn(rule, n, seed, replicates))


def drawn(rule: Rule, n: int, seed: int = 0, replicates: int = REPLICATES) -> np.ndarray:
    """f64[replicates, M]: the figures of `rule` in every replicate.

    Comparisons are drawn with replacement (never pairs within one, which depend on each other). The draw
    depends only on n and seed, so all figures of a report share their replicates.
    """
    if n == 0:
        raise ValueError("no comparison to draw from")
    rng = np.random.default_rng(seed)
    chunk = max(1, 4_000_000 // n)  # bounds memory to about 32 MB a block
    blocks = []
    for start in range(0, replicates, chunk):
        rows = min(chunk, replicates - start)
        chosen = rng.integers(0, n, size=(rows, n)) + n * np.arange(rows)[:, None]
        blocks.append(rule(np.bincount(chosen.ravel(), minlength=rows * n).reshape(rows, n).astype(np.float64)))
    return np.concatenate(blocks)


def interval(figures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """95 % percentile intervals (low f64[M], high f64[M]) of replicates f64[R, M].

    A figure undefined in some replicate (a category that was not drawn) uses the others; undefined everywhere, its
    interval is NaN.
    """
    low, high = np.full(figures.shape[1], np.nan), np.full(figures.shape[1], np.nan)
    for m in np.flatnonzero(np.isfinite(figures).any(axis=0)):
        defined = figures[np.isfinite(figures[:, m]), m]
        low[m], high[m] = np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return low, high


def summed(unit: np.ndarray, columns: Sequence[np.ndarray]) -> np.ndarray:
    """f64[units, M]: each column f[P] summed over the members of a unit; i[P] names them from 0 without a gap."""
    return np.stack([np.bincount(unit, column) for column in columns], axis=1)


def ratio(counts: np.ndarray, numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Sum over drawn comparisons of numerator over that of denominator, NaN where nothing was drawn.

    counts [R, n], numerator and denominator [n, M] -> [R, M].
    """
    below = counts @ denominator
    return np.divide(counts @ numerator, below, out=np.full(below.shape, np.nan), where=below > 0)
