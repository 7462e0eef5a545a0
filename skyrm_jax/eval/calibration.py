"""Calibration: does sigmoid(r_chosen - r_rejected) say how often the model is right?"""

from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit

from skyrm_jax.eval.statistics import Interval, bootstrap, ratio, summed

BINS = 10
EDGES = np.linspace(0.5, 1.0, BINS + 1)
LARGEST = 1e4
"""Bound of the fitted temperature, in mean sizes of a difference, and, inverted, of its least."""
GRID = np.exp(np.linspace(-1.5, 1.5, 61))
"""Multiples of the fitted temperature among which that of a replicate of the bootstrap is looked for."""


@dataclass(frozen=True, slots=True)
class Bin:
    """A stretch of the reliability curve.

    Attributes:
        low, high: the confidences that belong to it, in shares.
        pairs: how many there are.
        confidence: their mean confidence.
        right: the share of them that is right; a tie is half right.
        interval: of `right`.
    """

    low: float
    high: float
    pairs: int
    confidence: float
    right: float
    interval: Interval | None = None


@dataclass(frozen=True, slots=True)
class Calibration:
    """How far probabilities are from frequencies.

    The model's confidence in a pair is sigmoid(|d|) for the difference d of its rewards, from 0.5 to 1.

    Attributes:
        bins: the reliability curve, without empty bins.
        ece: expected calibration error (Guo et al. 2017): |confidence - right| averaged over bins by their pairs.
        log_loss: mean of -log sigmoid(d), the Bradley-Terry loss.
        temperature: the T by which to divide rewards so that this is least; None where every T can be bettered up to
            the bounds of the search (all pairs are right, or no more than half of the weight is, or nearly).
        fitted_ece, fitted_log_loss: the same with rewards divided by it.
        intervals: of the figures by name, 95 %, by comparison; those of `fitted_` ones take the temperature as given.
            Of few pairs the calibration error comes out too large, and more so in the replicates, so its interval lies
            high. The temperature has none where one replicate of forty or more has its own beyond GRID.
    """

    bins: list[Bin]
    ece: float
    log_loss: float
    temperature: float | None
    fitted_ece: float | None
    fitted_log_loss: float | None
    intervals: dict[str, Interval]


def calibration(differences: np.ndarray, comparison: np.ndarray | None = None) -> Calibration:
    """Calibration over pairs with reward differences f[P], chosen less rejected.

    `comparison` i[P] says which pairs are drawn together for the intervals; None: each by itself. Raises ValueError if
    there is no pair.
    """
    d = np.asarray(differences, np.float64)
    if not len(d):
        raise ValueError("no pair to calibrate on")
    temperature = fit_temperature(d)
    right, intervals = _intervals(d, temperature, np.arange(len(d)) if comparison is None else comparison)
    bins = reliability(d)
    return Calibration(
        [replace(one, interval=interval) for one, interval in zip(bins, right, strict=True)],
        error(bins),
        log_loss(d),
        temperature,
        None if temperature is None else error(reliability(d / temperature)),
        None if temperature is None else log_loss(d / temperature),
        intervals,
    )


def reliability(d: np.ndarray) -> list[Bin]:
    """The reliability curve in BINS bins of equal width from 0.5 to 1."""
    confidence, right, number = _placed(d)
    return [
        Bin(
            float(EDGES[b]),
            float(EDGES[b + 1]),
            int(mine.sum()),
            float(confidence[mine].mean()),
            float(right[mine].mean()),
        )
        for b in range(BINS)
        if (mine := number == b).any()
    ]


def error(bins: list[Bin]) -> float:
    """The expected calibration error of a reliability curve."""
    total = sum(one.pairs for one in bins)
    return sum(one.pairs * abs(one.confidence - one.right) for one in bins) / total


def log_loss(d: np.ndarray) -> float:
    """Mean of -log sigmoid(d)."""
    return float(np.logaddexp(0.0, -d).mean())


def fit_temperature(d: np.ndarray) -> float | None:
    """The T that makes `log_loss(d / T)` least, None if that is at a bound; the loss is convex in 1 / T."""
    if d.sum() <= 0 or not (d < 0).any():
        return None
    size, bound = np.abs(d).mean(), np.log(LARGEST)  # rewards in any unit, such as characters
    found = minimize_scalar(lambda x: log_loss(d / size * np.exp(x)), bounds=(-bound, bound), method="bounded")
    return float(size * np.exp(-found.x)) if abs(found.x) < bound - 0.01 else None


def _placed(d: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of every pair: its confidence f[P], whether it is right f[P], its bin i[P]."""
    confidence = expit(np.abs(d))
    number = np.clip(np.digitize(confidence, EDGES) - 1, 0, BINS - 1)
    return confidence, np.where(d == 0, 0.5, d > 0), number


def _intervals(
    d: np.ndarray, temperature: float | None, comparison: np.ndarray
) -> tuple[list[Interval], dict[str, Interval]]:
    """The intervals of `right` of all bins that are not empty, and of the figures by name."""
    _, unit = np.unique(comparison, return_inverse=True)
    size = summed(unit, [np.ones_like(d)])
    _, right, number = _placed(d)
    used = [number == b for b in np.unique(number)]
    members, hits = summed(unit, used), summed(unit, [mine * right for mine in used])
    scaled = {"": _terms(d, unit)}
    if temperature is not None:
        scaled["fitted_"] = _terms(d / temperature, unit)
        losses = summed(unit, [np.logaddexp(0.0, -d / (temperature * times)) for times in GRID])

    def rule(counts: np.ndarray) -> np.ndarray:
        columns = [ratio(counts, hits, members)]
        for terms in scaled.values():
            means = counts @ terms / (counts @ size)
            columns += [np.abs(means[:, :BINS]).sum(axis=1, keepdims=True), means[:, BINS:]]
        if temperature is not None:
            found = temperature * _least(counts @ losses)[:, None]
            columns += [found, np.isfinite(found)]
        return np.hstack(columns)

    low, high = (bound.tolist() for bound in bootstrap(rule, len(size)))
    bounds = list(zip(low, high, strict=True))
    names = [f"{prefix}{name}" for prefix in scaled for name in ("ece", "log_loss")]
    if temperature is not None and low[-1] == 1:  # nearly all replicates have one
        names.append("temperature")
    return bounds[: len(used)], dict(zip(names, bounds[len(used) :], strict=False))


def _terms(d: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """f64[units, BINS + 1]: sums of confidence less right by bin, and of the log loss."""
    confidence, right, number = _placed(d)
    gaps = [(number == b) * (confidence - right) for b in range(BINS)]
    return summed(unit, [*gaps, np.logaddexp(0.0, -d)])


def _least(losses: np.ndarray) -> np.ndarray:
    """f64[R]: where losses f[R, GRID] are least, by the parabola through the three least; NaN at an end of GRID."""
    last = len(GRID) - 1
    at = losses.argmin(axis=1)
    around = np.clip(at, 1, last - 1)[:, None] + np.array([-1, 0, 1])
    before, least, after = np.take_along_axis(losses, around, axis=1).T
    inside = (at > 0) & (at < last)
    bend = np.where(inside, before - 2 * least + after, 1.0)
    place = GRID[at] * (GRID[1] / GRID[0]) ** ((before - after) / (2 * bend))
    return np.where(inside, place, np.nan)
