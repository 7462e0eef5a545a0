"""PPE Correctness: pooled conflict pairs, the mean of five, ROC AUC and best-of-K curves."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from published_records import ppe_correctness as record
from published_records import write

from skyrm_jax.comparison import Comparison
from skyrm_jax.errors import UserError
from skyrm_jax.eval import table
from skyrm_jax.eval.benchmarks import BENCHMARKS, ppe_correctness
from skyrm_jax.eval.benchmarks.ppe_correctness import AUC, MEAN, PAIRS, SIZES, Sampled, area
from skyrm_jax.eval.figures import Result
from skyrm_jax.eval.statistics import drawn

FIRST = np.arange(32, 0, -1, dtype=np.float64)
"""Rewards that fall from the first response to the last: all five pairs of a record are right."""


def load(path: Path) -> list[Comparison]:
    return BENCHMARKS["ppe-correctness"].load(path)


def rows(path: Path, benchmark: str, *records: Mapping[str, Any]) -> list[Comparison]:
    return load(write(path / f"PPE-{benchmark}-Best-of-K" / "train.jsonl", records))


def scored(comparisons: Sequence[Comparison], rewards: Sequence[np.ndarray]) -> Result:
    return BENCHMARKS["ppe-correctness"].score(comparisons, rewards)


def test_pairs_are_right_before_wrong_however_they_are_written(tmp_path: Path) -> None:
    (row,) = rows(tmp_path, "GPQA", record(0))
    assert [(p.winner, p.loser) for p in row.preferences] == [(0, 31), (1, 30), (2, 29), (3, 28), (0, 31)]
    assert (row.id, row.source, row.category) == ("GPQA/m/q0", "m", "GPQA")
    assert [response[0].content for response in row.responses] == [f"answer {k}" for k in range(32)]


def test_a_pair_counts_as_often_as_it_is_there_and_a_tie_is_wrong(tmp_path: Path) -> None:
    # Right: (0, 31) twice and (1, 30); tied: (2, 29); wrong: (3, 28). Without the repeated pair it would be 50, with
    # half a point for the tie 70; the best of all 32 is right, so best-of-K says 100.
    rewards = np.zeros(32)
    rewards[[0, 1, 28]] = 3, 2, 1
    figure = scored(rows(tmp_path, "MATH", record(0)), [rewards]).sections[PAIRS]["MATH"]
    assert (figure.value, figure.correct, figure.ties, figure.total) == (60.0, 3, 1, 5)


def test_pairs_are_pooled_in_a_benchmark_and_benchmarks_weigh_the_same(tmp_path: Path) -> None:
    # GPQA: 5 of 5 and 0 of 1 pairs, 83.3, where the mean of rows is 50. MATH: 0 of 5. The mean is 41.7; over all pairs
    # it would be 45.5.
    one = {"sampled_conflict_pairs": [[0, 31]]}
    comparisons = rows(tmp_path, "GPQA", record(0), record(1, **one)) + rows(tmp_path, "MATH", record(0))
    result = scored(comparisons, [FIRST, -FIRST, -FIRST])
    values = {name: figure.value for name, figure in result.sections[PAIRS].items()}
    assert values == pytest.approx({"MATH": 0, "GPQA": 500 / 6, MEAN: 250 / 6})
    assert result.headline == (PAIRS, MEAN)
    assert result.partial == [
        "MMLU-Pro: 0 of 512 rows",
        "MATH: 1 of 512 rows",
        "GPQA: 2 of 512 rows",
        "MBPP-Plus: 0 of 507 rows",
        "IFEval: 0 of 512 rows",
    ]


def test_all_rows_without_all_pairs_are_a_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ppe_correctness, "SIZES", dict.fromkeys(SIZES, 1))
    comparisons = [rows(tmp_path / name, name, record(0))[0] for name in SIZES]
    whole = scored(comparisons, [FIRST] * 5)
    assert whole.partial == [] and whole.headline_value == 100.0
    comparisons[1] = rows(tmp_path / "less", "MATH", record(0, sampled_conflict_pairs=[[0, 31]]))[0]
    comparisons[2] = rows(tmp_path / "none", "GPQA", record(0, sampled_conflict_pairs=[]))[0]
    part = scored(comparisons, [FIRST] * 5)
    assert part.partial == ["MATH: 1 of 5 pairs", "GPQA: 0 of 5 pairs"] and part.headline_value is None


def test_published_pair_accuracies_give_the_published_mean(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # All 2,555 rows; the printed figures are counts of 2,560 pairs (2,535 in MBPP-Plus).
    tables = json.loads((shared / "data/published/published_tables.json").read_text())["qwen25_table15"]
    (row,) = rows(tmp_path, "GPQA", record(0))
    comparisons = [
        replace(row, category=name, id=f"{name}/{k}") for name in tables["order"]["ppe"] for k in range(SIZES[name])
    ]
    better: tuple[list[int], ...] = (
        [],
        [1],
        [1, 2],
        [1, 2, 3],
        [0, 1, 2],
        [0, 1, 2, 3],
    )  # so many pairs right: 0 is in two of them
    by_count = [np.isin(np.arange(32), one).astype(float) for one in better]
    monkeypatch.setattr(ppe_correctness, "best_of_n", lambda *_: None)
    monkeypatch.setattr(table, "drawn", partial(drawn, replicates=10))
    for published in tables["rows"].values():
        rewards = []
        for name, share in zip(tables["order"]["ppe"], published["ppe"], strict=True):
            full, rest = divmod(round(share / 100 * 5 * SIZES[name]), 5)
            rewards += [by_count[5]] * full + [by_count[rest]] + [by_count[0]] * (SIZES[name] - full - 1)
        result = scored(comparisons, rewards)
        figures = result.sections[PAIRS]
        assert [round(figures[name].value, 2) for name in tables["order"]["ppe"]] == published["ppe"]
        assert [figures[name].total for name in SIZES] == [2560, 2560, 2560, 2535, 2560]
        assert result.headline_value == pytest.approx(published["ppe_avg"], abs=0.0101)


def test_area_under_the_curve() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        rewards, right = rng.integers(0, 5, 12).astype(float), rng.random(12) < 0.5
        right[:2] = True, False
        points = [((rewards >= at) & right, (rewards >= at) & ~right) for at in (np.inf, *sorted(set(rewards))[::-1])]
        hits, alarms = ([side[k].sum() for side in points] for k in range(2))
        under = np.trapezoid(hits, alarms) / (right.sum() * (~right).sum())
        assert area(rewards, right) == pytest.approx(under, abs=1e-12)
    assert np.isnan(area(rewards, np.ones(12, bool)))


def test_the_area_is_averaged_over_questions_with_both_kinds(tmp_path: Path) -> None:
    # Within questions 1 and 0. Over all responses together it would be 0.5 or, with one offset per question, anything.
    none = record(2, scores=[1.0] * 32, sampled_conflict_pairs=[])
    comparisons = rows(tmp_path, "IFEval", record(0), record(1), none)
    result = scored(comparisons, [FIRST + 1000, -FIRST, FIRST])
    figure = result.sections[AUC]["IFEval"]
    assert (figure.value, figure.total, figure.correct) == (50.0, 2, None)
    assert result.sections[PAIRS]["IFEval"].total == 10


def test_curves_are_of_the_correctness_of_all_responses(tmp_path: Path) -> None:
    result = scored(rows(tmp_path, "MBPP-Plus", record(0)), [FIRST])
    curve = result.curves["MBPP-Plus"]
    assert curve.n == list(range(1, 33))
    assert (curve.reward[0], curve.reward[16], curve.reward[31]) == pytest.approx((50, 100, 100))
    assert curve.reward == pytest.approx(curve.oracle)
    assert curve.loss == pytest.approx(0)
    assert list(result.curves) == ["MBPP-Plus"]


def test_grades_between_wrong_and_right(tmp_path: Path) -> None:
    scores = [1.0, 0.75, 0.25] + [0.0] * 29
    (row,) = rows(tmp_path, "IFEval", record(0, scores=scores, sampled_conflict_pairs=[[1, 0], [2, 1]]))
    assert isinstance(row, Sampled)
    assert row.grades == tuple(scores)
    assert [(p.winner, p.loser) for p in row.preferences] == [(0, 1), (1, 2)]
    rewards = np.zeros(32)
    rewards[2] = 1
    curve = scored([row], [rewards]).curves["IFEval"]
    assert (curve.reward[31], curve.oracle[31]) == pytest.approx((25, 100))


def test_which_of_the_five_a_file_is_of(tmp_path: Path) -> None:
    for place in ("ppe-mbpp-plus.jsonl", "PPE-GPQA-Best-of-K/mbpp-plus.jsonl", "PPE-MBPP-Plus-Best-of-K/data/x.jsonl"):
        assert load(write(tmp_path / place, [record(0)]))[0].category == "MBPP-Plus"
    with pytest.raises(UserError, match="line 1: record: is in a file whose name, and that of its folder, say none"):
        load(write(tmp_path / "train.jsonl", [record(0)]))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"scores": [True] * 31}, "scores: does not hold 32 values from 0 to 1"),
        ({"scores": [True] * 31 + [None]}, "scores: does not hold 32 values from 0 to 1"),
        ({"scores": [0.5] * 31 + [1.5]}, "scores: does not hold 32 values from 0 to 1"),
        ({"scores": [0.5] * 31 + [float("nan")]}, "scores: does not hold 32 values from 0 to 1"),
        ({"sampled_conflict_pairs": [[0, 31], [1]]}, "sampled_conflict_pairs: holds no pair of responses ([1])"),
        ({"sampled_conflict_pairs": [[0, 32]]}, "sampled_conflict_pairs: holds no pair of responses ([0, 32])"),
        ({"sampled_conflict_pairs": [[-1, 3]]}, "sampled_conflict_pairs: holds no pair of responses ([-1, 3])"),
        ({"sampled_conflict_pairs": [0, 31]}, "sampled_conflict_pairs: holds no pair of responses (0)"),
        ({"sampled_conflict_pairs": [[0, 1]]}, "sampled_conflict_pairs: names two equally good responses ([0, 1])"),
        ({"response_32": None}, "field response_32 of PPE Correctness must be text, not NoneType"),
    ],
)
def test_rows_that_are_not_in_order(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as error:
        rows(tmp_path, "GPQA", record(0), record(1, **changes))
    assert f"train.jsonl, line 2: {words}" in str(error.value)


def test_a_question_stands_once_for_each_model(tmp_path: Path) -> None:
    assert len(rows(tmp_path, "GPQA", record(0), record(0, model_name="n"))) == 2
    with pytest.raises(UserError, match="line 2: id GPQA/m/q0 also stands in"):
        rows(tmp_path, "GPQA", record(0), record(0))
