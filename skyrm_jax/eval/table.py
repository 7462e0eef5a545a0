"""The figures of a benchmark as functions of how often each comparison is drawn.

Every figure is a ratio of sums over comparisons, or a weighted sum of other figures. So one description gives the
figures, their bootstrap intervals, and the interval of the difference between two models on the same comparisons.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from skyrm_jax.eval.figures import Figure, Key, Result
from skyrm_jax.eval.statistics import drawn, estimate, interval, ratio, summed


@dataclass(frozen=True, slots=True)
class _Row:
    """How a figure is made: from a column of points over one of what they are of, or from other figures.

    Attributes:
        column: number of the column; None: from others.
        counted: whether its points are a number that people count.
        parts: the others and their weights.
        normalised: whether by the weights of those that are defined.
        of: the figures whose comparisons it claims.
    """

    column: int | None = None
    counted: bool = False
    parts: Mapping[Key, float] = field(default_factory=dict)
    normalised: bool = False
    of: Sequence[Key] = ()


@dataclass(frozen=True, slots=True)
class Difference:
    """One figure of a model less that of another, in points, with its paired 95 % interval."""

    value: float
    low: float
    high: float


class Table:
    """Figures over `n` comparisons, described one by one; `result` computes them all.

    Args:
        n: number of comparisons.
        unit: i[n], which comparisons are drawn together; None: each by itself.
    """

    def __init__(self, n: int, unit: np.ndarray | None = None) -> None:
        if n == 0:
            raise ValueError("no comparison to compute figures from")
        self._n = n
        names, self._unit = np.unique(np.arange(n) if unit is None else unit, return_inverse=True)
        self._units = len(names)
        self._points: list[np.ndarray] = []
        self._of: list[np.ndarray] = []
        self._ties: list[np.ndarray | None] = []
        self._rows: dict[Key, _Row] = {}

    def __len__(self) -> int:
        """How many comparisons."""
        return self._n

    def ratio(
        self, key: Key, points: np.ndarray, of: np.ndarray, ties: np.ndarray | None = None, counted: bool = True
    ) -> Key:
        """A figure: the sum of `points` f[n] over that of `of` f[n] (both per comparison); returns its key.

        Args:
            ties: how many of a comparison's units are exact ties.
            counted: whether the sum of points is a number that people count, such as that of right pairs.
        """
        self._rows[self._new(key)] = _Row(len(self._points), counted)
        self._points.append(np.asarray(points, np.float64))
        self._of.append(np.asarray(of, np.float64))
        self._ties.append(None if ties is None else np.asarray(ties))
        return key

    def accuracy(self, key: Key, members: np.ndarray, correct: np.ndarray, ties: np.ndarray) -> Key:
        """A figure: the share of the comparisons bool[n] `members` that are `correct`, bool or f[n]."""
        return self.ratio(key, members * correct, members, members & (ties > 0))

    def weighted(
        self,
        key: Key,
        parts: Mapping[Key, float] | Iterable[Key],
        normalised: bool = True,
        of: Sequence[Key] | None = None,
    ) -> Key:
        """A figure: the weighted sum of others, over the weights of those that are defined if `normalised`.

        `parts` without weights have 1 each. Parts that rest on no comparison are left out.

        Args:
            of: the parts whose comparisons and ties add up to its own, where others rest on the same again; None: all.
        """
        weights = dict(parts) if isinstance(parts, Mapping) else dict.fromkeys(parts, 1.0)
        claimed = tuple(weights) if of is None else of
        self._rows[self._new(key)] = _Row(parts=weights, normalised=normalised, of=claimed)
        return key

    def result(self, headline: Key | None = None) -> Result:
        """All figures that rest on a comparison, in the order in which they were described."""
        keys = list(self._rows)
        values = 100.0 * estimate(self._figures, self._units)
        replicates = 100.0 * drawn(self._figures, self._units)
        low, high = interval(replicates)
        result = Result(sections={}, headline=headline)
        for m, key in enumerate(keys):
            if not np.isfinite(values[m]):
                continue
            row = self._rows[key]
            column, basis = row.column, sorted(self._basis(key))
            ties = [one for i in basis if (one := self._ties[i]) is not None]
            result.sections.setdefault(key[0], {})[key[1]] = Figure(
                value=float(values[m]),
                low=float(low[m]),
                high=float(high[m]),
                total=round(sum(float(self._of[i].sum()) for i in basis)),
                correct=None if column is None or not row.counted else _number(float(self._points[column].sum())),
                ties=sum(int(one.sum()) for one in ties) if ties else None,
            )
        if headline is not None and headline[1] not in result.sections.get(headline[0], {}):
            result.headline = None
        elif headline is not None:
            result.drawn = replicates[:, keys.index(headline)]
        return result

    def less(self, other: "Table") -> tuple[dict[str, dict[str, Difference]], dict[Key, np.ndarray]]:
        """Each figure less that of the other table, which describes the same figures of the same comparisons; and these
        differences in every replicate, in points."""
        if list(self._rows) != list(other._rows) or not np.array_equal(self._unit, other._unit):
            raise ValueError("the tables describe different figures")

        def rule(counts: np.ndarray) -> np.ndarray:
            return self._figures(counts) - other._figures(counts)

        values, replicates = 100.0 * estimate(rule, self._units), 100.0 * drawn(rule, self._units)
        differences: dict[str, dict[str, Difference]] = {}
        for (section, name), *numbers in zip(self._rows, values, *interval(replicates), strict=True):
            if np.isfinite(numbers[0]):
                differences.setdefault(section, {})[name] = Difference(*map(float, numbers))
        return differences, dict(zip(self._rows, replicates.T, strict=True))

    def _new(self, key: Key) -> Key:
        if key in self._rows:
            raise ValueError(f"{key} is described twice")
        return key

    def _figures(self, counts: np.ndarray) -> np.ndarray:
        """counts [R, units] -> shares [R, M], NaN where a figure rests on nothing."""
        shares = ratio(counts, summed(self._unit, self._points), summed(self._unit, self._of))
        done: dict[Key, np.ndarray] = {}
        for key, row in self._rows.items():
            if row.column is not None:
                done[key] = shares[:, row.column]
                continue
            values = np.stack([done[part] for part in row.parts], axis=1)
            weights = np.isfinite(values) * np.array(list(row.parts.values()))
            total = (weights * np.where(np.isfinite(values), values, 0.0)).sum(axis=1)
            some = np.isfinite(values).any(axis=1)
            below = weights.sum(axis=1) if row.normalised else np.ones(len(values))
            done[key] = np.divide(total, below, out=np.full(len(values), np.nan), where=some & (below != 0))
        return np.stack(list(done.values()), axis=1)

    def _basis(self, key: Key) -> set[int]:
        """The ratios whose comparisons a figure claims."""
        row = self._rows[key]
        return {row.column} if row.column is not None else set().union(*(self._basis(part) for part in row.of))


def _number(value: float) -> float:
    return int(value) if value == int(value) else value
