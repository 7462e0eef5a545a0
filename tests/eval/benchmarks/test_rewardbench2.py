"""RewardBench 2: the official rule's own results for best-of-four rows and for Ties, and rules that are not it."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from published_records import rewardbench2 as record
from published_records import ties, write

from skyrm_jax.comparison import Comparison
from skyrm_jax.errors import UserError
from skyrm_jax.eval.benchmarks import BENCHMARKS, rewardbench2
from skyrm_jax.eval.benchmarks.rewardbench2 import COMPOSITE, MEAN, SIZES, SUBSETS, TIES, best_of, tempered
from skyrm_jax.eval.figures import Result

PARTS = (
    "Accuracy, several correct",
    "Accuracy, one correct",
    "Margin above spread",
    "Lesser margin above spread",
    "Mean tanh(margin/spread - 1)",
)


def load(path: Path) -> list[Comparison]:
    return BENCHMARKS["rewardbench2"].load(path)


def scored(path: Path, rows: Sequence[dict[str, Any]], rewards: Sequence[Sequence[float]]) -> Result:
    comparisons = load(write(path / "x.jsonl", rows))
    return BENCHMARKS["rewardbench2"].score(comparisons, [np.array(one, np.float64) for one in rewards])


def goldens(shared: Path, name: str) -> Any:
    return json.loads((shared / f"data/published/goldens/{name}.json").read_text())


def test_best_of_is_the_official_rule(shared: Path) -> None:
    # The mean is 0.2758. Strictly it would be 0.15; with every tie at the top a win 0.43.
    cases = goldens(shared, "rewardbench2_best_of_n")["cases"]
    assert len(cases) == 100
    assert [best_of(np.array(rewards)) for rewards, _ in cases] == [worth for _, worth in cases]


def test_ties_is_the_official_rule(shared: Path, tmp_path: Path) -> None:
    # Without the tanh term, or with weights that sum to 1, the easy case would be 1, not 1.00955.
    for case in goldens(shared, "rewardbench2_ties")["cases"]:
        rows = [ties(row["id"], row["num_correct"], row["num_incorrect"]) for row in case["rows"]]
        result = scored(tmp_path, rows, [row["scores"] for row in case["rows"]])
        assert result.sections[SUBSETS][TIES].value == pytest.approx(100 * case["overall"], abs=1e-10)
        assert result.sections[SUBSETS][MEAN].value == result.sections[SUBSETS][TIES].value
        assert list(result.sections[COMPOSITE]) == list(PARTS)
        assert [line for line in result.partial if "Ties" in line] == []


def test_a_tie_at_the_top_is_shared_and_counted(tmp_path: Path) -> None:
    # Strictly it would be 20, with a tie as a win 60, with half a point for every tie 45 or, second row too, 50.
    rewards = [[2, 1, 0, 0], [1, 1, 1, 0], [1, 2, 2, 0], [3, 3, 0, 0], [0, 1, 0, 0]]
    figure = scored(tmp_path, [record(i) for i in range(5)], rewards).sections[SUBSETS]["Focus"]
    assert figure.value == pytest.approx(100 * (1 + 1 / 3 + 0 + 1 / 2 + 0) / 5)
    assert (figure.total, figure.ties) == (5, 3)


def test_tie_credit_gives_a_published_figure_that_strict_wins_cannot(tmp_path: Path) -> None:
    # Skywork-Reward-V2-Qwen3-8B has 49.1 in Precise IF, 78.5 of 160 rows: 78 are 48.75, 79 are 49.375.
    rows = [record(i, "Precise IF") for i in range(160)]
    rewards = [[1, 0, 0, 0]] * 78 + [[1, 1, 0, 0]] + [[0, 1, 0, 0]] * 81
    figure = scored(tmp_path, rows, rewards).sections[SUBSETS]["Precise IF"]
    assert (round(figure.value, 1), figure.correct) == (49.1, 78.5)


def test_parts_of_ties_by_hand(tmp_path: Path) -> None:
    rows = [ties("ref:1", 1, 2), ties("tied:1", 2, 1), ties("ref:2", 1, 1), ties("tied:2", 3, 1), ties("ref:3", 1, 1)]
    rewards = [
        [5, 2, 1],  # a = 3, accurate
        [6, 4, 0],  # a = 4, d = 2: above; min(3, 4) = 3: above; tanh(3/2 - 1)
        [1, 1],  # a = 0: not accurate, a tie is no margin
        [9, 5, 7, 3],  # a = 2, d = 4: accurate, not above; min(0, 2) = 0; tanh(0/4 - 1)
        [0, 1],  # a = -1; there is no tied:3, so it counts for its accuracy alone
    ]
    result = scored(tmp_path, rows, rewards)
    found = [result.sections[COMPOSITE][name].value for name in PARTS]
    tempered_mean = (math.tanh(0.5) + math.tanh(-1)) / 2
    assert found == pytest.approx([100, 100 / 3, 50, 50, 100 * tempered_mean], abs=1e-12)
    expected = 30 + 10 + 10 + 10 + tempered_mean
    # It is 59.85; without the last term 60, and with the lone ref:3 as a prompt that is lost 52.9.
    assert result.sections[SUBSETS][TIES].value == pytest.approx(expected, abs=1e-12)
    assert [result.sections[COMPOSITE][name].total for name in PARTS] == [2, 3, 2, 2, 2]


def test_the_least_correct_stands_against_the_best_wrong(tmp_path: Path) -> None:
    # By means, or by the best correct one, this row would be accurate.
    result = scored(tmp_path, [ties("tied:1", 2, 2)], [[9, 1, 2, -9]])
    assert result.sections[COMPOSITE] == {PARTS[0]: result.sections[COMPOSITE][PARTS[0]]}
    assert result.sections[SUBSETS][TIES].value == 0  # without ref rows their accuracy counts as 0


def test_only_one_kind_of_rows_leaves_the_other_parts_at_0(tmp_path: Path) -> None:
    result = scored(tmp_path, [ties("ref:1", 1, 1), ties("tied:2", 2, 1)], [[1, 0], [4, 3, 0]])
    assert result.sections[SUBSETS][TIES].value == 60.0
    assert scored(tmp_path, [ties("ref:1", 1, 1)], [[1, 0]]).sections[SUBSETS][TIES].value == 30.0


def test_a_spread_of_0() -> None:
    assert [tempered(*one) for one in ((0.0, 0.0), (2.0, 0.0), (-2.0, 0.0))] == [0.0, 1.0, -1.0]
    assert tempered(3.0, 2.0) == math.tanh(0.5)
    assert rewardbench2.margin_and_spread(np.array([1.0, 1.0, 1.0, 0.5]), 3) == (0.5, 0.0)
    assert rewardbench2.margin_and_spread(np.array([1.0, 0.0, 2.0]), 1) == (-1.0, 0.0)


def test_the_rows_of_a_prompt_are_drawn_together(tmp_path: Path) -> None:
    # Of each prompt exactly one row is accurate, so 0.3 + 0.3 times accuracy is 30 in every replicate; drawn one by one
    # it would spread by 8 points, and the parts vary still.
    rows, rewards = [], []
    for n in range(20):
        rows += [ties(f"ref:{n}", 1, 1), ties(f"tied:{n}", 2, 1)]
        rewards += [[1, 0], [1, 1, 2]] if n % 2 else [[0, 1], [2, 1, 0]]
    result = scored(tmp_path, rows, rewards)
    whole, part = result.sections[SUBSETS][TIES], result.sections[COMPOSITE][PARTS[1]]
    assert whole.high - whole.low < 1
    assert part.high - part.low > 30


def test_the_mean_is_of_subsets(tmp_path: Path) -> None:
    # Over all rows it would be 80.
    rows = [record(0, "Factuality"), *(record(i, "Math") for i in range(4))]
    result = scored(tmp_path, rows, [[0, 1, 0, 0], *([[1, 0, 0, 0]] * 4)])
    assert result.sections[SUBSETS][MEAN].value == 50.0
    assert result.headline == (SUBSETS, MEAN)
    assert result.partial == [
        "Factuality: 1 of 475 rows",
        "Precise IF: 0 of 160 rows",
        "Math: 4 of 183 rows",
        "Safety: 0 of 450 rows",
        "Focus: 0 of 495 rows",
        "Ties: 0 of 102 rows",
    ]
    curve = result.curves["All but Ties"]
    assert curve.oracle == pytest.approx([25, 50, 75, 100])
    # Math: its right response is always best; Factuality: second, with two others.
    assert curve.reward == pytest.approx([25, 100 * (2 + 1 / 6) / 5, 100 * (3 + 1 / 12) / 5, 80])


def test_all_rows_make_a_headline(tmp_path: Path) -> None:
    rows = [record(i, name) for name, size in SIZES.items() if name != TIES for i in range(size)]
    rows += [row for n in range(51) for row in (ties(f"ref:{n}", 1, 2), ties(f"tied:{n}", 2, 2))]
    assert len(rows) == 1865
    rewards = [
        [9, 9, 0, 0] if row["id"].startswith("tied") else [9, 0, 0, 0][: row["total_completions"]] for row in rows
    ]
    result = scored(tmp_path, rows, rewards)
    assert result.partial == []
    assert result.sections[SUBSETS][TIES].value == 101.0
    assert result.headline_value == pytest.approx((500 + 101) / 6)
    # The parts of Ties about prompts rest on rows that others rest on already.
    assert {name: figure.total for name, figure in result.sections[SUBSETS].items()} == SIZES | {MEAN: 1865}
    assert [result.sections[COMPOSITE][name].total for name in PARTS] == [51] * 5


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (record(1, "Tie"), "subset: is none of RewardBench 2's ('Tie'); use one of Factuality, Precise IF"),
        (record(1, chosen=["a", "b"]), "chosen: holds several responses outside Ties (2)"),
        (record(1, chosen=[]), "chosen: is not a list of one text or more ([])"),
        (record(1, rejected=["a", 1]), "rejected: is not a list of one text or more (['a', 1])"),
        (ties("tie:1", 2, 1), "id: of a row of Ties is neither ref:N nor tied:N (tie:1)"),
        (ties("ref", 1, 1), "id: of a row of Ties is neither ref:N nor tied:N (ref)"),
        (ties("tied:1", 1, 1), "chosen: of a tied row holds one response (tied:1)"),
    ],
)
def test_rows_that_are_not_in_order(tmp_path: Path, row: dict[str, Any], words: str) -> None:
    path = write(tmp_path / "x.jsonl", [record(0), row])
    with pytest.raises(UserError) as error:
        load(path)
    assert f"{path}, line 2: {words}" in str(error.value)


def test_correct_responses_come_first(tmp_path: Path) -> None:
    one, several = load(write(tmp_path / "x.parquet", [record(0), ties("tied:4", 2, 1)]))
    assert [r[0].content for r in one.responses] == ["right", "wrong", "wronger", "wrongest"]
    assert [r[0].content for r in several.responses] == ["right 0", "right 1", "wrong 0"]
    assert {(p.winner, p.loser) for p in several.preferences} == {(0, 2), (1, 2)}
    assert (one.id, several.id) == ("Focus/0", "Ties/tied:4")
