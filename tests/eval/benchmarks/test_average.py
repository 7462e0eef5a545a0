"""The average of the seven benchmarks, which the papers print last."""

import json
from pathlib import Path

import numpy as np
import pytest

from skyrm_jax.eval.benchmarks import BENCHMARKS, average, average_interval
from skyrm_jax.eval.figures import Result
from skyrm_jax.eval.table import Table


def test_the_average_is_that_of_the_published_rows(shared: Path) -> None:
    tables = json.loads((shared / "data/published/published_tables.json").read_text())
    rows = tables["skywork_v2_table_full"]["rows"]
    complete = 0
    for model, row in rows.items():
        assert set(row) == {benchmark.column for benchmark in BENCHMARKS.values()} | {"Avg"}
        found = average({name: row[benchmark.column] for name, benchmark in BENCHMARKS.items()})
        if row["Avg"] is None:
            assert found is None, model
        else:
            complete += 1
            assert found == pytest.approx(row["Avg"], abs=0.1001), model
    assert (complete, len(rows)) == (32, 40)


def test_none_unless_all_seven_are_there() -> None:
    seven: dict[str, float | None] = {name: float(number) for number, name in enumerate(BENCHMARKS)}
    assert average(seven) == 3.0
    assert average(seven | {"something else": 100.0}) == 3.0
    for name in BENCHMARKS:
        assert average(seven | {name: None}) is None
        assert average({other: value for other, value in seven.items() if other != name}) is None


def test_0_is_a_value() -> None:
    assert average(dict.fromkeys(BENCHMARKS, 0.0)) == 0.0


def test_its_interval_is_that_of_seven_independent_means() -> None:
    rng = np.random.default_rng(0)

    def result(n: int, share: float) -> Result:
        figures = Table(n)
        figures.accuracy(("all", "all"), np.ones(n, bool), rng.random(n) < share, np.zeros(n))
        return figures.result(("all", "all"))

    sizes = [(400, 0.9), (400, 0.9), (400, 0.6), (900, 0.7), (1600, 0.8), (200, 0.5), (350, 0.65)]
    results = {name: result(*size) for name, size in zip(BENCHMARKS, sizes, strict=True)}
    shares = {name: one.figure(("all", "all")).value for name, one in results.items()}
    variance = sum(p * (100 - p) / n for p, (n, _) in zip(shares.values(), sizes, strict=True)) / 7**2
    middle = average(dict(shares))
    assert middle is not None
    interval = average_interval(results)
    np.testing.assert_allclose(interval, middle + 1.96 * np.sqrt(variance) * np.array([-1, 1]), atol=0.12)
    assert "drawn" not in results["rmb"].to_dict()
    results["rmb"].partial = ["part of it"]
    assert average_interval(results) is None
