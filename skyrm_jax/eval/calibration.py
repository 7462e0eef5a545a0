"""Calibration: does sigmoid(r_chosen - r_rejected) say how often the model is right?"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit

BINS = 10
LARGEST = 1e4
"""Bound of the fitted temperature and, inverted, of its least."""


@dataclass(frozen=True, slots=True)
class Bin:
    """A stretch of the reliability curve.

    Attributes:
        low, high: the confidences that belong to it, in shares.
        pairs: how many there are.
        confidence: their mean confidence.
        right: the share of them that is right; a tie is half right.
    """

    low: float
    high: float
    pairs: int
    confidence: float
    right: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """How far probabilities are from frequencies.

    The model's confidence in a pair is sigmoid(|d|) for the difference d of its rewards, from 0.5 to 1.

    Attributes:
        bins: the reliability curve, without empty bins.
        ece: expected calibration error (Guo et al. 2017): |confidence - right| averaged over bins by their pairs.
        log_loss: mean of -log sigmoid(d), the Bradley-Terry loss.
        temperature: the T by which to divide rewards so that this is least; None where every T but 0 or infinity can be
            bettered (all pairs are right, or no more than half of the weight is).
        fitted_ece, fitted_log_loss: the same with rewards divided by it.
    """

    bins: list[Bin]
    ece: float
    log_loss: float
    temperature: float | None
    fitted_ece: float | None
    fitted_log_loss: float | None


def calibration(differences: np.ndarray) -> Calibration:
    """Calibration over pairs with reward differences f[P], chosen less rejected.

    Raises ValueError if there is no pair.
    """
    d = np.asarray(differences, np.float64)
    if not len(d):
        raise ValueError("no pair to calibrate on")
    temperature = fit_temperature(d)
    bins = reliability(d)
    return Calibration(
        bins,
        error(bins),
        log_loss(d),
        temperature,
        None if temperature is None else error(reliability(d / temperature)),
        None if temperature is None else log_loss(d / temperature),
    )


def reliability(d: np.ndarray) -> list[Bin]:
    """The reliability curve in BINS bins of equal width from 0.5 to 1."""
    confidence, right = expit(np.abs(d)), np.where(d == 0, 0.5, d > 0)
    edges = np.linspace(0.5, 1.0, BINS + 1)
    number = np.clip(np.digitize(confidence, edges) - 1, 0, BINS - 1)
    return [
        Bin(
            float(edges[b]),
            float(edges[b + 1]),
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
    """The T that makes `log_loss(d / T)` least, None if that is at 0 or infinity; the loss is convex in 1 / T."""
    if d.sum() <= 0 or not (d < 0).any():
        return None
    found = minimize_scalar(
        lambda x: log_loss(d * np.exp(x)), bounds=(-np.log(LARGEST), np.log(LARGEST)), method="bounded"
    )
    return float(np.exp(-found.x))
