"""The published figures: as in the paper's tables, whole, and about the figures that our benchmarks have."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from skyrm_jax.comparison import Comparison
from skyrm_jax.eval.benchmarks import BENCHMARKS, judgebench, rewardbench2, rm_bench, rmb
from skyrm_jax.eval.paper_tables import AVERAGE, BREAKDOWNS, COLUMNS, FIGURES, OTHERS, PARAMETERS, V2, complete


@pytest.fixture
def tables(shared: Path) -> Mapping[str, Any]:
    path = shared / "data" / "published" / "published_tables.json"
    if not path.is_file():
        pytest.skip(f"there is no {path}")
    found: Mapping[str, Any] = json.loads(path.read_text())
    return found


def test_the_full_table_is_that_of_the_paper(tables: Mapping[str, Any]) -> None:
    rows = tables["skywork_v2_table_full"]["rows"]
    assert len(rows) == 40
    assert {name: dict(zip((*COLUMNS, AVERAGE), row, strict=True)) for name, row in FIGURES.items()} == rows


@pytest.mark.parametrize(
    ("column", "table"),
    [
        ("RewardBench v2", "skywork_v2_rewardbench2"),
        ("RMB", "skywork_v2_rmb_bon"),
        ("RM-Bench", "skywork_v2_rmbench"),
        ("JudgeBench", "skywork_v2_judgebench"),
    ],
)
def test_the_breakdowns_are_those_of_the_paper(tables: Mapping[str, Any], column: str, table: str) -> None:
    of, published = BREAKDOWNS[column], tables[table]
    assert {name: list(row) for name, row in of.rows.items()} == {
        name: row[: len(of.figures)] for name, row in published["rows"].items()
    }
    # Ours are called by the paper's names, in its order; of RMB the third is the paper's average.
    for ours, theirs in zip(of.figures, published["columns"], strict=False):
        assert ours == theirs or (column == "RMB" and (theirs == "Avg" or ours.split(",")[0] == theirs.split()[0]))


def test_columns_are_those_of_the_benchmarks() -> None:
    assert tuple(benchmark.column for benchmark in BENCHMARKS.values()) == COLUMNS
    assert set(BREAKDOWNS) <= set(COLUMNS)
    assert list(PARAMETERS) == list(V2)
    assert set(V2).isdisjoint(OTHERS)
    # The name says the size; 40M is that of the data.
    for name, billions in PARAMETERS.items():
        assert f"-{billions:g}B" in name


def test_the_mean_of_the_seven_is_the_average() -> None:
    rows = complete()
    assert len(rows) == 32 and set(V2) < set(rows)
    for name, (*seven, average) in rows.items():
        assert np.mean(seven) == pytest.approx(average, abs=0.1 + 1e-9), name
    assert all(row[-1] is None for name, row in FIGURES.items() if name not in rows)


@pytest.mark.parametrize("column", ["RewardBench v2", "RM-Bench", "JudgeBench"])
def test_the_mean_of_the_parts_is_the_figure(column: str) -> None:
    of = BREAKDOWNS[column]
    assert set(of.rows) == set(V2)
    for name, parts in of.rows.items():
        figure = V2[name][COLUMNS.index(column)]
        if (column, name) == ("JudgeBench", "Skywork-Reward-V2-Qwen3-4B"):
            figure = 69.5  # of the paper's own table of the parts
        assert np.mean(parts) == pytest.approx(figure, abs=0.1), name


def test_best_of_n_of_rmb_is_the_mean_of_its_cells() -> None:
    for *cells, mean in BREAKDOWNS["RMB"].rows.values():
        assert np.mean(cells) == pytest.approx(mean, abs=0.1)


def test_our_results_have_the_parts() -> None:
    """Figures of one comparison of every part, under the section and names that the breakdowns use."""

    def made(category: str, responses: int, id_: str, source: str = "", chosen: Any = 0) -> Comparison:
        texts = [f"{k}" for k in range(responses)]
        return Comparison.of(
            prompt="p", responses=texts, chosen=chosen, id=id_, source=source or "s", category=category
        )

    ties = [made("Ties", 3, "Ties/tied:0", chosen=[0, 1]), made("Ties", 2, "Ties/ref:0")]
    comparisons = {
        "RewardBench v2": [*(made(name, 4, f"{name}/1") for name in rewardbench2.SIZES if name != "Ties"), *ties],
        "RMB": [made(f"{kind}/{goal}/x", 2, f"{kind}/{goal}") for goal, kind in rmb.CELLS],
        "RM-Bench": [made(name, 6, f"{name}/1", chosen=[0, 1, 2]) for name in rm_bench.SIZES],
        "JudgeBench": [made(name, 2, name, judgebench.HEADLINE_SPLIT) for name in judgebench.CATEGORIES],
    }
    by_column = {benchmark.column: benchmark for benchmark in BENCHMARKS.values()}
    for column, of in BREAKDOWNS.items():
        rewards = [np.arange(len(c.responses), 0, -1.0) for c in comparisons[column]]
        result = by_column[column].score(comparisons[column], rewards)
        assert set(of.figures) <= set(result.sections[of.section]), column
