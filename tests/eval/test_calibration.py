"""Calibration against references by other means: a sum over bins, a grid of temperatures, logits of a known scale."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from scipy.special import expit

from skyrm_jax.eval import calibration as module
from skyrm_jax.eval.calibration import calibration, error, fit_temperature, log_loss, reliability
from skyrm_jax.eval.statistics import bootstrap


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
def test_temperature_is_the_scale_of_the_logits(scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "bootstrap", partial(bootstrap, replicates=10))
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


@pytest.mark.parametrize("unit", [1e-9, 1e-3, 1e5, 1e12])
def test_temperature_is_found_in_any_unit(unit: float) -> None:
    # Rewards may be counts of characters, or probabilities.
    d = drawn(2_000, 3.0)
    assert fit_temperature(unit * d) == pytest.approx(unit * (fit_temperature(d) or 0), rel=1e-4)


def test_a_bound_of_the_search_is_no_temperature() -> None:
    # The best is 1e5.
    assert fit_temperature(np.array([1.0, -1 + 1e-5])) is None


@pytest.mark.parametrize("d", [[1.0, 2.0], [1.0, 0.0], [0.0, 0.0], [-1.0, -2.0], [1.0, -1.0], [1.0, 1.0, -3.0]])
def test_no_temperature_where_every_one_can_be_bettered(d: list[float]) -> None:
    found = calibration(np.array(d))
    assert (found.temperature, found.fitted_ece, found.fitted_log_loss) == (None, None, None)
    assert np.isfinite([found.ece, found.log_loss]).all()


def replicates(n: int, count: int, of: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """[count, M]: what a function says of the comparisons i[n] that each replicate of the bootstrap holds."""
    drawn: list[np.ndarray] = []
    bootstrap(lambda counts: (drawn.extend(counts), counts[:, :1])[1], n, replicates=count)
    return np.array([of(np.repeat(np.arange(n), one.astype(int))) for one in drawn])


def test_intervals_are_those_of_replicates_fitted_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "bootstrap", partial(bootstrap, replicates=60))
    pairs = drawn(160, 3.0).reshape(80, 2)  # of each comparison two, drawn together
    temperature = fit_temperature(pairs.ravel()) or 0

    def figures(of: np.ndarray) -> np.ndarray:
        d = pairs[of].ravel()
        fitted = d / temperature
        last = reliability(d)[-1].right
        return np.array(
            [error(reliability(d)), log_loss(d), error(reliability(fitted)), log_loss(fitted), fit_temperature(d), last]
        )

    low, high = np.quantile(replicates(80, 60, figures), [0.025, 0.975], axis=0)
    found = calibration(pairs.ravel(), np.repeat(np.arange(80), 2) * 7 + 1)
    names = ("ece", "log_loss", "fitted_ece", "fitted_log_loss", "temperature")
    shown = np.array([*(found.intervals[name] for name in names), found.bins[-1].interval])
    np.testing.assert_allclose(shown, np.stack([low, high], axis=1), rtol=1e-3)
    apart = calibration(pairs.ravel())
    assert apart.intervals["log_loss"] != found.intervals["log_loss"]
    assert (apart.ece, apart.temperature) == (found.ece, found.temperature)


def test_the_interval_of_a_mean_is_that_of_its_error() -> None:
    d = drawn(900, 1.0)
    half = 1.96 * np.logaddexp(0, -d).std() / 30
    low, high = calibration(d).intervals["log_loss"]
    assert (low, high) == pytest.approx((log_loss(d) - half, log_loss(d) + half), abs=0.1 * half)


def test_no_interval_where_replicates_have_no_temperature() -> None:
    # A third of them do not hold the only wrong pair.
    found = calibration(np.array([1.0] * 50 + [-1.0]))
    assert found.temperature is not None and "temperature" not in found.intervals
    assert set(found.intervals) == {"ece", "log_loss", "fitted_ece", "fitted_log_loss"}
    assert set(calibration(np.array([1.0, 2.0])).intervals) == {"ece", "log_loss"}


def test_no_pair() -> None:
    with pytest.raises(ValueError, match="no pair to calibrate on"):
        calibration(np.array([]))
