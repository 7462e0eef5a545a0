"""Goodput over restarts, and the MFU of a step against a count by hand."""

import time
from types import SimpleNamespace

import jax
import pytest

from skyrm_jax.models.architecture import Architecture, Rope
from skyrm_jax.train.account import Account, utilisation

MODEL = Architecture("qwen3", 100, 32, 48, 3, 4, 2, 16, True, 1e-6, Rope("default", 1e4), 512, 0)


def test_goodput_counts_the_time_between_restarts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert abs(Account().began - time.time()) < 60
    account = Account(began=1000.0)
    assert (account.goodput, account.skipped) == (0.0, 0)
    account.productive += 30.0
    account.skipped += 1
    restarted = Account(**account.as_dict())
    restarted.productive += 20.0
    monkeypatch.setattr(time, "time", lambda: 1200.0)
    assert restarted.goodput == 50.0 / 200.0
    assert (restarted.began, restarted.skipped) == (1000.0, 1)
    assert account.productive == 30.0  # what was not saved is not counted


def test_utilisation_is_the_models_flops_over_all_chips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "devices", lambda: [SimpleNamespace(device_kind="TPU v5 lite")])
    monkeypatch.setattr(jax, "device_count", lambda: 8)
    # A layer: q 32 x 64, k and v 32 x 32 each, o 64 x 32, and gate, up and down of 32 x 48.
    weights = 3 * (32 * 64 + 2 * 32 * 32 + 64 * 32 + 3 * 32 * 48)
    forward = 2 * weights * 1000 + 3 * (4 * 4 * 16) * 7000  # q k and p v: two products, 4 heads of 16, a visible pair
    assert utilisation(MODEL, 1000, 7000, 2.0) == pytest.approx(3 * forward / (2.0 * 8 * 197e12), rel=1e-12)


def test_there_is_no_utilisation_of_an_unknown_chip() -> None:
    assert jax.devices()[0].platform == "cpu"
    assert utilisation(MODEL, 1000, 7000, 2.0) is None
