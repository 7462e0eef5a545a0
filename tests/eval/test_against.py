"""The difference of two models' means of seven; the command's tests have the rest."""

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from skyrm_jax.eval.against import Compared, Earlier
from skyrm_jax.eval.benchmarks import BENCHMARKS
from skyrm_jax.eval.figures import Figure, Result

SPREADS = dict(zip(BENCHMARKS, (0.5, 0.5, 1.0, 2.0, 0.2, 1.5, 3.0), strict=True))


def seven() -> tuple[dict[str, Compared], dict[str, Result]]:
    """Headlines of 60, and differences of 1 to 7 whose replicates spread as SPREADS says, all drawn alike."""
    drawn = np.random.default_rng(0).normal(size=4000)
    compared = {
        name: Compared({}, 10, 10, number + 1 + spread * drawn) for number, (name, spread) in enumerate(SPREADS.items())
    }
    sixty = Figure(60.0, 59.0, 61.0, 10)
    return compared, {name: Result({"all": {"all": sixty}}, ("all", "all")) for name in BENCHMARKS}


def test_benchmarks_are_independent() -> None:
    compared, results = seven()
    found = Earlier(Path(), {"average": 56.0}, cast(Any, None)).mean_less(compared, results)
    assert found is not None and found.value == 4.0
    half = 1.96 * np.sqrt(sum(spread**2 for spread in SPREADS.values())) / 7
    np.testing.assert_allclose([found.low, found.high], [4 - half, 4 + half], atol=0.08)


def test_none_unless_both_have_all_seven_whole() -> None:
    compared, results = seven()
    earlier = Earlier(Path(), {"average": 56.0}, cast(Any, None))
    assert Earlier(Path(), {"average": None}, cast(Any, None)).mean_less(compared, results) is None
    for changed in (replace(compared["rmb"], comparisons=9), replace(compared["rmb"], drawn=None)):
        assert earlier.mean_less({**compared, "rmb": changed}, results) is None
    assert earlier.mean_less({name: one for name, one in compared.items() if name != "rmb"}, results) is None
    results["rmb"].partial = ["part"]
    assert earlier.mean_less(compared, results) is None
