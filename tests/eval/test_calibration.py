"""Calibration against references by other means: a sum over bins, a grid of temperatures, logits of a known scale."""

import numpy as np
import pytest
from scipy.special import expit

from skyrm_jax.eval.calibration import calibration, error, fit_temperature, log_loss, reliability


def drawn(n: int, scale: float, seed: int = 0) -> np.ndarray:
    """Differences of rewards that are `scale` times the true logits: d > 0 with probability sigmoid(|d| / scale)."""
    rng = np.random.default_rng(seed)
    size = np.abs(rng.normal(0, 1.5, n))
    right = rng.random(n) < expit(size)
    return scale * np.where(right, size, -size)


@pytest.mark.parametrize("scale", [0.3, 3.0])  # too little confidence, and too much
def test_ece_is_the_sum_over_bins(scale: float) -> None:
    d = np.append(drawn(500, scale), [0.0, 0.0, 50.0])
    confidence = 1 / (1 + np.exp(-np.abs(d)))
    right = (d > 0) + 0.5 * (d == 0)
    total, sizes = 0.0, []
    for low in np.arange(10) / 20 + 0.5:
        mine = (confidence >= low) & ((confidence < low + 0.05) | (low > 0.94))
        total += abs(sum(confidence[mine]) - sum(right[mine])) / len(d)
        sizes.append(int(mine.sum()))
    bins = reliability(d)
    assert [one.pairs for one in bins] == [size for size in sizes if size]
    assert error(bins) == pytest.approx(total, abs=1e-12)
    assert calibration(d).ece == error(bins)
    assert all(one.low <= one.confidence <= one.high for one in bins)


def test_bins_by_hand() -> None:
    d = np.log([1.5, 1.5, 4.0, 4.0, 4.0]) * [1, -1, 1, 1, -1]  # confidences 0.6, 0.6 and 0.8 three times
    first, second = reliability(np.append(d, [1e3, 0.0]))[1:3]
    assert (first.pairs, first.confidence, first.right) == (2, pytest.approx(0.6), 0.5)
    assert (second.pairs, second.confidence, second.right) == (3, pytest.approx(0.8), pytest.approx(2 / 3))
    tie, *_, last = reliability(np.append(d, [1e3, 0.0]))
    assert (tie.low, tie.pairs, tie.confidence, tie.right) == (0.5, 1, 0.5, 0.5)
    assert (last.high, last.pairs, last.confidence, last.right) == (1.0, 1, 1.0, 1.0)
    assert error(reliability(d)) == pytest.approx(2 / 5 * 0.1 + 3 / 5 * (0.8 - 2 / 3))


def test_log_loss_is_the_bradley_terry_loss_and_stays_finite() -> None:
    d = drawn(100, 2.0)
    assert log_loss(d) == pytest.approx(-np.log(expit(d)).mean(), abs=1e-12)
    assert log_loss(np.array([-1e4, 1e4])) == pytest.approx(5e3)


@pytest.mark.parametrize("scale", [0.05, 0.5, 1.0, 4.0, 50.0])
def test_temperature_is_the_scale_of_the_logits(scale: float) -> None:
    d = drawn(20_000, scale)
    found = calibration(d)
    assert found.temperature is not None and found.fitted_ece is not None and found.fitted_log_loss is not None
    assert found.temperature == pytest.approx(scale, rel=0.05)
    assert found.fitted_ece < 0.02
    assert found.fitted_log_loss == pytest.approx(log_loss(d / found.temperature))
    assert found.fitted_log_loss <= found.log_loss
    # Twice the rewards, twice the temperature, and the same after it.
    assert calibration(2 * d).temperature == pytest.approx(2 * found.temperature, rel=1e-4)
    assert calibration(2 * d).fitted_log_loss == pytest.approx(found.fitted_log_loss, abs=1e-9)


def test_temperature_is_the_best_of_a_grid() -> None:
    d = np.array([3.0, 1.0, -0.5, 2.0, -4.0, 0.0, 6.0])
    grid = np.exp(np.linspace(-3, 5, 80_001))
    losses = np.logaddexp(0, -d / grid[:, None]).mean(axis=1)
    assert fit_temperature(d) == pytest.approx(grid[losses.argmin()], rel=3e-4)
    assert log_loss(d / (fit_temperature(d) or 1)) <= losses.min() + 1e-12


@pytest.mark.parametrize("d", [[1.0, 2.0], [1.0, 0.0], [0.0, 0.0], [-1.0, -2.0], [1.0, -1.0], [1.0, 1.0, -3.0]])
def test_no_temperature_where_every_one_can_be_bettered(d: list[float]) -> None:
    found = calibration(np.array(d))
    assert (found.temperature, found.fitted_ece, found.fitted_log_loss) == (None, None, None)
    assert np.isfinite([found.ece, found.log_loss]).all()


def test_no_pair() -> None:
    with pytest.raises(ValueError, match="no pair to calibrate on"):
        calibration(np.array([]))
