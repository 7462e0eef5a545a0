"""The average of the seven benchmarks, which the papers print last."""

import json
from pathlib import Path

import pytest

from skyrm_jax.eval.benchmarks import BENCHMARKS, average


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
